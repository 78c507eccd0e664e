"""The least similarity of a copy, by model. Standard library alone: the DAGs' pages show it."""

from __future__ import annotations

from sscd_ops.options import ModelName

DEFAULT_MODEL: ModelName = "sscd_small"
"""The model of a new dataset that names none."""
_SSCD = 0.75
"""The reference README: cosine above it is a copy with about 90% precision on DISC21."""

THRESHOLDS = {
    # chosen on half of 300 pictures, reported on the other half: benchmarks/dct_threshold.py
    "dct": 0.50,
    # 99.7% precision or more on validation pictures, less among charts: docs/models/sscd_small.md
    "sscd_small": 0.75,
    # a guess, for weights trained by the user, until `sscd-ops evaluate` has measured theirs
    "sscd_resnet18": 0.75,
    "sscd_disc_mixup": _SSCD,
    "sscd_disc_advanced": _SSCD,
    "sscd_disc_blur": _SSCD,
    "sscd_disc_large": _SSCD,
    "sscd_imagenet_mixup": _SSCD,
    "sscd_imagenet_advanced": _SSCD,
    "sscd_imagenet_blur": _SSCD,
}
"""Measured or published (docs/descriptors.md)."""

PERCEPTUAL = frozenset({"sscd_small"})
"""Models that ``duplicates.perceptual = "auto"`` gives a perceptual hash for a second measure."""
