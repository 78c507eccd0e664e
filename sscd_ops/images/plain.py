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

Nearly every picture has far more, and is told by a band of the grid (``_has_enough``). A decoder's
caches hold nothing of this module when it is called, and each function of numpy or Pillow that is
not in use anyway costs as much as some hundred steps of Python.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GRID = 64
"""Cells down and across: means of boxes of pixels."""
LEVELS = 8
"""A cell stands out by more than this, in any channel: grain and JPEG stay below."""
LEAST_CELLS = 16
"""Of 4,096: a picture of fewer is plain."""
BAND = (26, 38)
"""Columns of the grid that are looked at first."""
ROUNDED = 2
"""Levels that a cell of the band may differ by from the grid's: Pillow rounds after each of two
passes, and which comes first depends on the sizes."""
_SURFACE = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
"""Degrees down and across of the polynomials that a shade is made of."""


def is_plain(image: Image.Image) -> bool:
    """Whether a picture has nothing in it to compare.

    Args:
        image: in RGB, as a preset makes it.
    """
    return not _has_enough(image) and cells_of(image) < LEAST_CELLS


def cells_of(image: Image.Image) -> int:
    """How many cells of the grid stand out from a smooth shade, 0 to 4,096.

    Sums are of whole numbers, the rest is one operation a cell: equal on any machine.
    """
    small = image.resize((GRID, GRID), Image.Resampling.BOX)
    # each channel in one piece: what follows takes a third of the time
    channels = np.asarray(small).reshape(-1, 3).T.astype(np.float64, order="C")
    surfaces, squares = _surfaces()
    # whole numbers far below 2**53: exact, in whatever order they are added
    along = (channels @ surfaces.T) / squares
    for number, surface in enumerate(surfaces):
        channels -= along[:, number, None] * surface
    return int((np.abs(channels).max(axis=0) > LEVELS).sum())


def band_of(image: Image.Image) -> Image.Image:
    """Some columns of the grid, without the others: 12 x 64 cells, to ``ROUNDED`` levels."""
    left, right = (image.width * at / GRID for at in BAND)
    box = (left, 0, right, image.height)
    return image.resize((BAND[1] - BAND[0], GRID), Image.Resampling.BOX, box)


def _has_enough(image: Image.Image) -> bool:
    """Whether the band proves that enough cells stand out; if not, nothing is known.

    Down a column a smooth shade has no third difference, whatever shade it is. Where four cells, a
    quarter of the height apart, have a larger one than cells within LEVELS of a shade can have, one
    of the four stands out. No cell is in two fours. Whole numbers: equal on any machine.
    """
    cells = band_of(image).tobytes()
    most = (1 + 3 + 3 + 1) * (LEVELS + ROUNDED)
    for channel in (1, 0, 2):  # mostly the first is enough
        values = cells[channel::3]
        quarter = len(values) // 4
        quarters = [values[k * quarter : (k + 1) * quarter] for k in range(4)]
        found = 0
        for a, b, c, d in zip(*quarters, strict=True):
            found += abs(d - a - 3 * (c - b)) > most
            if found == LEAST_CELLS:
                return True
    return False


@lru_cache(maxsize=1)
def _surfaces() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthogonal polynomials of whole numbers on the grid, (6, cells), and their squares' sums."""
    at = 2.0 * np.arange(GRID) - (GRID - 1)
    powers = (np.ones_like(at), at, 3 * at**2 - (GRID**2 - 1))
    made = np.stack([np.outer(powers[down], powers[across]).ravel() for down, across in _SURFACE])
    return made, (made**2).sum(axis=1)
