"""The models there are: architecture, default preprocessing, minibatch and threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sscd_ops.descriptors import dct
from sscd_ops.descriptors.thresholds import THRESHOLDS
from sscd_ops.errors import ConfigError

_BUNDLED = Path(__file__).parent / "weights"
"""Weights that come with the package."""
_BASE = "https://dl.fbaipublicfiles.com/sscd-copy-detection/"


@dataclass(frozen=True)
class Model:
    """A model by its configured name.

    ``weights``: where they are published or bundled, or empty. ``threshold``: least
    similarity of a copy, measured or published (docs/descriptors.md).
    """

    name: str
    architecture: str
    dimensions: int
    preprocessing: str
    minibatch: int
    threshold: float
    weights: str = ""


def _sscd(name: str, *, architecture: str = "resnet50", dimensions: int = 512) -> Model:
    form = "torchvision" if architecture == "resnet50" else "classy"
    return Model(
        name,
        architecture,
        dimensions,
        "skew-320-v2",
        32,
        THRESHOLDS[name],
        f"{_BASE}{name}.{form}.pt",
    )


MODELS = {
    model.name: model
    for model in (
        Model("dct", f"dct-{dct.VERSION}", dct.DIMENSIONS, "grid-64-draft-v2", 256, dct.THRESHOLD),
        Model(
            "sscd_small",
            "small",
            256,
            "skew-160-v2",
            32,
            THRESHOLDS["sscd_small"],
            str(_BUNDLED / "sscd_small.safetensors"),
        ),
        # for weights trained by the user: `sscd-ops train --trunk resnet18 --dimensions 512`
        Model("sscd_resnet18", "resnet18", 512, "skew-288-v2", 32, THRESHOLDS["sscd_resnet18"]),
        _sscd("sscd_disc_mixup"),
        _sscd("sscd_disc_advanced"),
        _sscd("sscd_disc_blur"),
        _sscd("sscd_disc_large", architecture="resnext101", dimensions=1024),
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
