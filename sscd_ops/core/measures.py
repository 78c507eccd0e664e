"""Measures: the ways of calling two images copies. A batch is decided by a list of them, in order.

There are two kinds of rows, descriptors and hashes; another measure of either kind is one more
entry in the list (``steps.parts.Work.measures``). Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.perceptual import ROLE, WIDTH

DESCRIPTORS = "descriptors"
"""The descriptors' role."""
HASHES = {ROLE: WIDTH}
"""What a descriptor file and a segment may hold beside descriptors: role -> bytes of a row."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure, as a batch is decided by it.

    Attributes:
        reason: why an image goes. The first measure of the list that calls it a copy says so.
        role: names its rows in descriptor files, segments and queries: ``DESCRIPTORS`` or one of
            ``HASHES``.
        threshold: two images at or above it are copies.
        floor: pairs at or above it are stored; at most ``threshold``.
    """

    reason: str
    role: str
    threshold: float
    floor: float

    @property
    def by_hash(self) -> bool:
        """Whether rows are hashes (``core.perceptual``); else descriptors (``core.canonical``)."""
        return self.role in HASHES

    def blank(self, count: int, dimensions: int) -> NDArray[Any]:
        """So many rows of zeros: of hashes, such as match nothing."""
        if self.by_hash:
            return np.zeros((count, HASHES[self.role]), np.uint8)
        return np.zeros((count, dimensions), np.float16)


def near(threshold: float, floor: float) -> Measure:
    """Canonical similarity of descriptors, in [-1, 1]."""
    return Measure("near", DESCRIPTORS, threshold, floor)


def perceptual(threshold: float, floor: float) -> Measure:
    """Similarity of PDQ hashes, in [0, 1]."""
    return Measure("perceptual", ROLE, threshold, floor)
