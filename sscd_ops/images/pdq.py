"""PDQ, Meta's perceptual hash, from its published description. numpy and Pillow alone.

Luminance is blurred by two passes of a box filter a 128th of the side wide (a tent), sampled on a
64 x 64 grid, and transformed to 16 x 16 low frequencies of the DCT; each bit says whether one of
these is above their median. The quality counts the gradients of the grid: a plain picture has few,
and its bits are noise. Written after the description (facebook/ThreatExchange, pdq, "hashing.pdf");
docs/decisions/0008-pdq-of-our-own.md says why, and how near the results are.

Blur and sampling are linear, and rows and columns apart, so both are one small matrix for each
side: two products instead of eight passes over the picture.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sscd_ops.core.perceptual import NOTHING

GRID = 64
_BITS = 16
"""Frequencies a side."""
_WINDOWS = 128
"""The box filter is a side divided by this wide, rounded up."""
_LEAST_SIDE = 5
"""Smaller pictures are not hashed."""
_FIT = 512
"""Larger pictures are shrunk to fit this first, as ThreatExchange's Python hasher does: a hash
depends on it (10 bits in the mean between 640 and 512 pixels)."""


def hash_image(image: Image.Image) -> bytes:
    """A picture's row (``core.perceptual``): 32 bytes of hash, one of quality.

    Args:
        image: in RGB, upright.
    """
    if min(image.size) < _LEAST_SIDE:
        return NOTHING
    factor = max(image.size) // (2 * _FIT)
    if factor > 1:  # by whole factors first: quick, and a large picture is never there in floats
        image = image.reduce(factor)
    grey = image.convert("F")
    grey.thumbnail((_FIT, _FIT))
    code, quality = hash_luminance(np.asarray(grey))
    return code + bytes([quality])


def hash_luminance(luminance: NDArray[np.float32]) -> tuple[bytes, int]:
    """PDQ of a grey picture.

    Args:
        luminance: float32 (height, width), 0 to 255; at least 5 pixels a side.

    Returns:
        The hash, 32 bytes (as hexadecimal it is PDQ's usual form), and the quality, 0 to 100.
    """
    height, width = luminance.shape
    grid = (_sampling(height) @ luminance @ _sampling(width).T).astype(np.float64)
    transformed = (_DCT @ grid @ _DCT.T).ravel()
    median = np.partition(transformed, len(transformed) // 2 - 1)[len(transformed) // 2 - 1]
    # the last frequency's bit comes first in the usual form
    code = np.packbits((transformed > median)[::-1]).tobytes()
    return code, _quality(grid)


def _quality(grid: NDArray[np.float64]) -> int:
    """How much there is to see: 0 (plain) to 100."""
    total = 0
    for axis in (0, 1):
        steps = np.diff(grid, axis=axis) * 100.0 / 255.0
        total += int(np.abs(np.trunc(steps)).sum())
    return min(100, total // 90)


def _dct() -> NDArray[np.float64]:
    """Rows 1 to 16 of the orthonormal DCT of 64 points: the mean is left out."""
    frequency = np.arange(1, _BITS + 1)[:, None]
    at = np.arange(GRID)[None, :]
    return np.asarray(np.sqrt(2 / GRID) * np.cos(np.pi / (2 * GRID) * frequency * (2 * at + 1)))


_DCT = _dct()


@lru_cache(maxsize=128)
def _sampling(side: int) -> NDArray[np.float32]:
    """Two passes of the box filter along a side, and of the result 64 samples: (64, side)."""
    window = -(-side // _WINDOWS)
    after = (window + 2) // 2
    box = np.zeros((side, side))
    for row in range(side):
        # the mean of what lies inside: the window is cut off at the borders
        start, stop = max(0, row + after - window), min(side, row + after)
        box[row, start:stop] = 1.0 / (stop - start)
    sampled = ((np.arange(GRID) + 0.5) * side / GRID).astype(np.int64)
    return np.asarray(box[sampled] @ box, np.float32)
