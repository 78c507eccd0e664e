"""How long ``sketch``'s codes are and how far it looks, derived from the threshold; no FAISS."""

from __future__ import annotations

from dataclasses import dataclass
from math import acos, lgamma, log, log1p, pi

import numpy as np

from sscd_ops.errors import ConfigError

SKETCH_LEAST_THRESHOLD = 0.5
MISS_RATE = 1e-5
STRANGERS = 1e-3
"""Share of unrelated pairs (similarity 0) that may become candidates."""
LENGTHS = (256, 512)


@dataclass(frozen=True)
class Radius:
    """A code length and the largest Hamming distance that is looked at."""

    bits: int
    radius: int


def radius_for(threshold: float) -> Radius:
    """Code length and radius for a threshold: 256 bits at .75, 512 at .6.

    Raises:
        ConfigError: below .5 codes of these lengths cannot tell copies from strangers.
    """
    if threshold >= SKETCH_LEAST_THRESHOLD:
        differ = acos(min(threshold, 1.0)) / pi
        for bits in LENGTHS:
            radius = _smallest_radius(bits, differ)
            if _at_most(bits, 0.5, radius) <= STRANGERS:
                return Radius(bits, radius)
    raise refused_by_sketch(threshold)


def refused_by_sketch(threshold: float) -> ConfigError:
    """Why ``sketch`` cannot serve a threshold."""
    return ConfigError(
        f"duplicates.search: sketch cannot tell copies from strangers at a threshold of"
        f" {threshold:g}; use exact, or a threshold of {SKETCH_LEAST_THRESHOLD:g} or more"
    )


def miss_rate(bits: int, similarity: float, radius: int) -> float:
    """Derived probability that a pair of this similarity differs in more than ``radius`` bits."""
    differ = acos(similarity) / pi
    return sum(_probability(bits, differ, k) for k in range(radius + 1, bits + 1))


def _smallest_radius(bits: int, differ: float) -> int:
    """The least r with P(Binomial(bits, differ) > r) < MISS_RATE."""
    missed = 0.0
    for radius in range(bits, 0, -1):
        missed += _probability(bits, differ, radius)
        if missed >= MISS_RATE:
            return radius
    return 0


def _at_most(bits: int, differ: float, radius: int) -> float:
    return sum(_probability(bits, differ, k) for k in range(radius + 1))


def _probability(bits: int, differ: float, k: int) -> float:
    if differ <= 0.0:
        return 1.0 if k == 0 else 0.0
    choose = lgamma(bits + 1) - lgamma(k + 1) - lgamma(bits - k + 1)
    return float(np.exp(choose + k * log(differ) + (bits - k) * log1p(-differ)))
