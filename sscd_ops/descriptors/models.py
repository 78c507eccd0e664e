"""The models there are. Standard library alone: the DAGs' pages show some of it.

One entry is a model, with its name in ``options.ModelName``; docs/descriptors.md lists them.
"""

from __future__ import annotations

from pathlib import Path

from sscd_ops.errors import ConfigError
from sscd_ops.options import Model, ModelName

DEFAULT_MODEL: ModelName = "sscd_small"
"""The model of a new dataset that names none."""
_BUNDLED = Path(__file__).parent / "weights"
"""Weights that come with the package."""
_BASE = "https://dl.fbaipublicfiles.com/sscd-copy-detection/"


def _sscd(name: ModelName, architecture: str = "resnet50", dimensions: int = 512) -> Model:
    """A published one; its README: cosine above 0.75 is a copy, 90% precision on DISC21."""
    form = "torchvision" if architecture == "resnet50" else "classy"
    weights = f"{_BASE}{name}.{form}.pt"
    return Model(name, architecture, dimensions, "skew-320-v2", 32, 0.75, weights)


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        # chosen on half of 300 pictures, reported on the other half: benchmarks/dct_threshold.py
        Model("dct", "dct-1", 407, "grid-64-draft-v2", 256, threshold=0.50),
        Model(
            "sscd_small",
            "small",
            256,
            "skew-160-v2",
            32,
            # 99.7% precision or more on pictures, less among charts: docs/models/sscd_small.md
            threshold=0.75,
            weights=str(_BUNDLED / "sscd_small.safetensors"),
            perceptual=True,
            is_light=True,
        ),
        # for weights trained by the user: `sscd-ops train --trunk resnet18 --dimensions 512`; the
        # threshold is a guess, until `sscd-ops evaluate` has measured theirs
        Model("sscd_resnet18", "resnet18", 512, "skew-288-v2", 32, threshold=0.75),
        _sscd("sscd_disc_mixup"),
        _sscd("sscd_disc_advanced"),
        _sscd("sscd_disc_blur"),
        _sscd("sscd_disc_large", "resnext101", 1024),
        _sscd("sscd_imagenet_mixup"),
        _sscd("sscd_imagenet_advanced"),
        _sscd("sscd_imagenet_blur"),
    )
}


def find_model(name: str) -> Model:
    """The model of a configured name.

    Raises:
        ConfigError: there is none.
    """
    if name not in MODELS:
        raise ConfigError(f"fingerprint.model {name!r} is none of: {', '.join(sorted(MODELS))}")
    return MODELS[name]
