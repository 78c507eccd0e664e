"""Whether a picture has anything in it to compare.

The descriptor of an empty sheet says nothing: white and light grey are alike for a network, and so
are any two skies that darken upwards. Compared, they would be taken for copies of each other, and a
removal is for ever. So plain pictures are told by their pixels, before any model sees them.

Measured on the pixels that the model gets, on one grid for all sizes: what a scaled picture no
longer has cannot be compared by its descriptor, and a preset that decodes small need not decode
twice. From the grid a smooth shade is taken (a quadratic surface in each channel: light that falls
off, a gradient, an even sky); counted are the cells that stand out from it. Pages with nothing but
a number have 7 such cells at most, all other sheets fewer, fog, small moons and stars 24 or more:
docs/descriptors.md has the table, and `benchmarks/plain.py` measures again.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 64
LEVELS = 8
"""A cell stands out by more than this, in any channel: grain and JPEG stay below."""
LEAST_CELLS = 16
"""Of 4,096: a picture of fewer is plain."""
_SURFACE = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
"""Degrees down and across of the polynomials that a shade is made of."""


def is_plain(pixels: NDArray[np.uint8]) -> bool:
    """Whether a picture has nothing in it to compare.

    Args:
        pixels: uint8 (h, w, 3), RGB, as a preset makes them.
    """
    return cells_of(pixels) < LEAST_CELLS


def cells_of(pixels: NDArray[np.uint8]) -> int:
    """How many cells of the grid stand out from a smooth shade, 0 to 4,096.

    Sums are of whole numbers, the rest is one operation a cell: equal on any machine.
    """
    if pixels.shape[:2] != (GRID, GRID):
        small = Image.fromarray(pixels).resize((GRID, GRID), Image.Resampling.BOX)
        pixels = np.asarray(small)
    channels = pixels.reshape(-1, 3).T.astype(np.float64)
    surfaces, squares = _surfaces()
    # whole numbers far below 2**53: exact, in whatever order they are added
    along = (channels @ surfaces.T) / squares
    for number, surface in enumerate(surfaces):
        channels -= along[:, number, None] * surface
    return int((np.abs(channels).max(axis=0) > LEVELS).sum())


@lru_cache(maxsize=1)
def _surfaces() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthogonal polynomials of whole numbers on the grid, (6, cells), and their squares' sums."""
    at = 2.0 * np.arange(GRID) - (GRID - 1)
    powers = (np.ones_like(at), at, 3 * at**2 - (GRID**2 - 1))
    made = np.stack([np.outer(powers[down], powers[across]).ravel() for down, across in _SURFACE])
    return made, (made**2).sum(axis=1)
