"""Perceptual hashes as the second measure: what a stored one is, and what decides. Pure numpy.

A hash is a row of 33 bytes: PDQ's 256 bits, and its quality, 0 to 100. The similarity of two is
``1 - Hamming distance / 256``, a multiple of 1/256 and so exact in float64: thresholds that are
distances decide the same on every machine. A hash of too low a quality (below 50) matches nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROLE = "pdq-1"
"""The hashes' name in a segment and in a descriptor file: goes up with any change of numbers, so
that hashes of different making are never compared."""
BITS = 256
CODE = BITS // 8
WIDTH = CODE + 1
"""Bytes of a row: the hash, then the quality."""
LEAST_QUALITY = 50
"""Below it a picture has too little in it to be told from others (ThreatExchange's advice)."""
FAR = 2 * BITS
"""The distance of what may not match: beyond any other."""
NOTHING = bytes(WIDTH)
"""The row of a picture that cannot be hashed: quality 0."""


def similarity_at(distance: int) -> float:
    """The similarity of two hashes so many bits apart."""
    return 1.0 - distance / BITS


def distance_of(similarity: float) -> int:
    """How many bits apart two hashes of at least this similarity are at most."""
    return math.floor((1.0 - similarity) * BITS)


def are_fit(hashes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows (n, 33) may match at all: bool (n,)."""
    fit: NDArray[np.bool_] = hashes[:, CODE] >= LEAST_QUALITY
    return fit


def codes_of(hashes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bits of rows (n, 33) alone: uint8 (n, 32), contiguous."""
    return np.ascontiguousarray(hashes[:, :CODE])


def hash_distances(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Hamming distances of two blocks of rows, uint16 (n, m); ``FAR`` where either is not fit."""
    shape = (len(left), len(right))
    ours, theirs = (codes_of(rows).view(np.uint64) for rows in (left, right))
    distance = np.zeros(shape, np.uint16)
    # a word at a time, in buffers made once: fresh ones cost more than the arithmetic
    differ, count = np.empty(shape, np.uint64), np.empty(shape, np.uint8)
    for word in range(CODE // 8):
        np.bitwise_xor(ours[:, word, None], theirs[None, :, word], out=differ)
        np.bitwise_count(differ, out=count)
        distance += count
    distance[~are_fit(left)] = FAR
    distance[:, ~are_fit(right)] = FAR
    return distance


def hash_similarities(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Similarities of two blocks of rows, float64 (n, m); -inf where either is not fit."""
    distance = hash_distances(left, right)
    return np.where(distance == FAR, -np.inf, 1.0 - distance / BITS)
