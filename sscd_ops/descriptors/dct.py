"""A training-free baseline: signs and square roots of low DCT frequencies. numpy alone.

It finds re-encoded, resized and lightly overlaid copies, and misses crops, rotations and mirror
images (docs/descriptors.md has the numbers). It is there because it needs no weights; SSCD is what
a training set deserves. Any change here that changes numbers needs another number in the name of
its architecture (``models.MODELS``), which is part of the fingerprint.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRID = 64
"""Side of the pixel grid it takes."""
_LUMA, _CHROMA = 24, 10
"""Frequencies u + v below these count."""
_TILT = 0.5
"""Weight (1 + u + v) ** _TILT before the root: pictures have less energy at higher frequencies."""
_LEAST_CONTRAST = 1.0
"""Root mean square, in grey levels, below which a picture counts as blank: no descriptor."""


def _basis(count: int) -> NDArray[np.float64]:
    """The first ``count`` rows of the orthonormal DCT-II matrix of size GRID."""
    at = np.arange(GRID) + 0.5
    rows = np.cos(np.pi * np.outer(np.arange(count), at) / GRID) * np.sqrt(2 / GRID)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows)


def _mask(count: int) -> NDArray[np.bool_]:
    frequency = np.add.outer(np.arange(count), np.arange(count))
    mask = frequency < count
    mask[0, 0] = False
    return mask


def _weight(count: int) -> NDArray[np.float64]:
    return (1.0 + np.add.outer(np.arange(count), np.arange(count))) ** _TILT


_BASIS = {count: _basis(count) for count in (_LUMA, _CHROMA)}
_PARTS = ((_LUMA, 1), (_CHROMA, 2))
DIMENSIONS = int(sum(times * _mask(count).sum() for count, times in _PARTS))


_MASKS = {count: _mask(count) for count in (_LUMA, _CHROMA)}
_WEIGHTS = np.concatenate([_weight(count)[_MASKS[count]] for count in (_LUMA, _CHROMA, _CHROMA)])


def describe(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Descriptors of some grids.

    Each picture's arithmetic is its own (stacked matrix products run one by one), so its numbers
    don't depend on the others.

    Args:
        pixels: uint8 (n, GRID, GRID, 3), RGB.

    Returns:
        float32 (n, DIMENSIONS), L2-normalised; a blank picture's row is zero.
    """
    red, green, blue = (pixels[..., channel].astype(np.float64) for channel in range(3))
    # JPEG's own luminance and colour differences (JFIF 1.02)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    parts = (
        _low(luma, _LUMA),
        _low((blue - luma) * 0.564, _CHROMA),
        _low((red - luma) * 0.713, _CHROMA),
    )
    coefficients = np.concatenate(parts, axis=1)
    contrast = np.sqrt((coefficients**2).sum(axis=1)) / GRID
    vectors = np.sign(coefficients) * np.sqrt(np.abs(coefficients) * _WEIGHTS)
    norms = np.sqrt((vectors**2).sum(axis=1))
    blank = contrast < _LEAST_CONTRAST
    norms[blank] = 1.0
    vectors[blank] = 0.0
    found: NDArray[np.float32] = (vectors / norms[:, None]).astype(np.float32)
    return found


def _low(planes: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Low frequencies of (n, GRID, GRID) planes, float64 (n, k)."""
    basis = _BASIS[count]
    return np.asarray((basis @ planes @ basis.T)[:, _MASKS[count]])
