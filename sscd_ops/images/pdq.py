"""PDQ, Meta's perceptual hash, from its published description. numpy and Pillow alone.

Luminance is blurred by two passes of a box filter a 128th of the side wide (a tent), sampled on a
64 x 64 grid, and transformed to 16 x 16 low frequencies of the DCT; each bit says whether one of
these is above their median. The quality counts the gradients of the grid: an even picture has few,
and its bits are noise. Written after the description (facebook/ThreatExchange, pdq, "hashing.pdf");
docs/decisions/0008-pdq-of-our-own.md says why, and how near the results are.

Shrinking, blur and sampling are linear, and rows and columns apart, so all three are one small
matrix for each side: two products instead of ten passes over the picture.
"""

from __future__ import annotations

import math
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
    code, quality = hash_luminance(np.asarray(image.convert("F")), shrunk(*image.size))
    return code + bytes([quality])


def shrunk(width: int, height: int) -> tuple[int, int]:
    """The size of a picture shrunk to fit 512 x 512, as Pillow chooses it: nearest in aspect."""
    if max(width, height) <= _FIT:
        return width, height
    aspect = width / height
    if width < height:
        lower = max(1, math.floor(_FIT * aspect))
        return min((lower, lower + 1), key=lambda n: abs(aspect - n / _FIT)), _FIT
    lower = max(1, math.floor(_FIT / aspect))
    return _FIT, min((lower, lower + 1), key=lambda n: abs(aspect - _FIT / n))


def hash_luminance(
    luminance: NDArray[np.float32], size: tuple[int, int] | None = None
) -> tuple[bytes, int]:
    """PDQ of a grey picture.

    Args:
        luminance: float32 (height, width), 0 to 255; at least 5 pixels a side.
        size: (width, height) to shrink it to first; none: as it is.

    Returns:
        The hash, 32 bytes (as hexadecimal it is PDQ's usual form), and the quality, 0 to 100.
    """
    height, width = luminance.shape
    to_width, to_height = size or (width, height)
    rows, columns = _sampling(height, to_height), _sampling(width, to_width)
    grid = (rows @ luminance @ columns.T).astype(np.float64)
    transformed = (_DCT @ grid @ _DCT.T).ravel()
    median = np.partition(transformed, len(transformed) // 2 - 1)[len(transformed) // 2 - 1]
    # the last frequency's bit comes first in the usual form
    code = np.packbits((transformed > median)[::-1]).tobytes()
    return code, _quality(grid)


def _quality(grid: NDArray[np.float64]) -> int:
    """How much there is to see: 0 (nothing) to 100."""
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


@lru_cache(maxsize=64)
def _sampling(side: int, to: int) -> NDArray[np.float32]:
    """A side shrunk to another, two passes of the box filter along it, 64 samples: (64, side)."""
    sample, at, weight = _samples(to)
    out = np.zeros((GRID, side))
    if side == to:
        out[sample, at] = weight
        return out.astype(np.float32)
    first, weights = _bicubic(side, to)
    pixel = np.clip(first[at, None] + np.arange(weights.shape[1]), 0, side - 1)
    np.add.at(out, (sample[:, None], pixel), weight[:, None] * weights[at])
    return out.astype(np.float32)


@lru_cache(maxsize=512)
def _samples(side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Two passes of the box filter along a side, and of the result 64 samples.

    Returns:
        Sample, pixel and weight of all that is not 0, each (k,).
    """
    window = -(-side // _WINDOWS)
    after = (window + 2) // 2
    pixels = np.arange(side)

    def passed(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        # the mean of what lies inside: the window is cut off at the borders
        inside = (pixels >= rows[:, None] + after - window) & (pixels < rows[:, None] + after)
        return np.asarray(inside / inside.sum(axis=1, keepdims=True))

    sampled = ((np.arange(GRID) + 0.5) * side / GRID).astype(np.int64)
    reached = np.unique(np.clip(sampled[:, None] + np.arange(after - window, after), 0, side - 1))
    twice = passed(sampled)[:, reached] @ passed(reached)
    sample, at = np.nonzero(twice)
    return sample, at, twice[sample, at]


def _bicubic(side: int, to: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pillow's antialiased bicubic filter (a = -1/2, Keys 1981), from a side to a smaller one.

    Returns:
        For each pixel of the answer the first pixel it is made of (to,), which may lie before the
        side's, and weights (to, taps), 0 for what lies outside.
    """
    scale = side / to
    centre = (np.arange(to) + 0.5) * scale
    first = np.floor(centre - 2 * scale + 0.5).astype(np.int64)
    last = np.floor(centre + 2 * scale + 0.5).astype(np.int64)
    at = first[:, None] + np.arange(int((last - first).max()))
    x = np.abs((at - centre[:, None] + 0.5) / scale)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights[(at < 0) | (at >= side) | (at >= last[:, None])] = 0
    return first, weights / weights.sum(axis=1, keepdims=True)
