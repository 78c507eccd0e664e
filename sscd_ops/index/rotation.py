"""Pseudo-random rotations that are the same, to the last bit, on every machine and for ever.

``x -> x D1 H D2 H D3 H / m^1.5`` with ``H`` the Walsh-Hadamard matrix of order ``m`` (the next
power of two; ``x`` is padded with zeros) and ``D1, D2, D3`` random signs. Three rounds are the
usual stand-in for a uniformly random rotation (Andoni et al., Practical and Optimal LSH for Angular
Distance, NeurIPS 2015, section 5). A QR factorisation would differ between LAPACK builds, and
stored codes must fit queries made years later elsewhere.

Before the division the matrix is of integers, its columns are exactly orthogonal and of length
``m^1.5``, and the signs come from SHA-256. Its product with float16 vectors is exact in float64, in
any order of summation: terms are multiples of 2^-24 and partial sums at most ``|x| m^1.5``, which
is below 2^29 up to m = 2^18.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rotation(digest: str, label: str, dimensions: int) -> NDArray[np.float64]:
    """The first ``dimensions`` rows of a rotation times ``length(dimensions)``.

    Args:
        digest: the fingerprint's digest.
        label: tells rotations of one fingerprint apart.
        dimensions: of the vectors that are rotated.

    Returns:
        float64 (dimensions, m) of integers, m a power of two.
    """
    order = padded(dimensions)
    hadamard = _hadamard(order)
    stream = _signs(f"{digest}/{label}", 3 * order).reshape(3, order)
    # entries stay below order^2: exact in float64
    product = (stream[0][:dimensions, None] * hadamard[:dimensions]) * stream[1]
    result: NDArray[np.float64] = ((product @ hadamard) * stream[2]) @ hadamard
    return result


def length(dimensions: int) -> float:
    """The length of each row and column of an unscaled, unpadded rotation."""
    return math.sqrt(padded(dimensions) ** 3)


def padded(dimensions: int) -> int:
    """The least power of two that is not below ``dimensions``."""
    return 1 << max(0, dimensions - 1).bit_length()


def _hadamard(order: int) -> NDArray[np.float64]:
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _signs(seed: str, count: int) -> NDArray[np.float64]:
    """``count`` signs from the bits of SHA-256 over the seed and a counter."""
    blocks = [
        hashlib.sha256(f"sscd-ops rotation/{seed}/{number}".encode()).digest()
        for number in range((count + 255) // 256)
    ]
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), np.uint8), count=count)
    signs: NDArray[np.float64] = 1.0 - 2.0 * bits.astype(np.float64)
    return signs
