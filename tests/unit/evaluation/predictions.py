"""Predictions made by chance, also full of ties, as fixtures of the metrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Case = tuple[int, int, int, int, int, float]
"""Seed, queries, references, predictions a query, levels of score (0: no ties), skill."""

CASES: list[Case] = [
    (1, 200, 300, 10, 0, 2.0),
    (2, 200, 300, 10, 5, 2.0),
    (3, 200, 300, 10, 1, 2.0),
    (4, 500, 80, 5, 0, 3.5),
    (5, 500, 80, 5, 20, 3.5),
    (6, 40, 40, 8, 3, 0.0),
]


def make(
    seed: int, queries: int, references: int, each: int, levels: int, skill: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """(query, reference, score, truth): half of the queries have a true reference, some unfound."""
    rng = np.random.default_rng(seed)
    each = min(each, references)
    truth = np.array(
        [(q, rng.integers(references)) for q in range(queries) if rng.random() < 0.5] or [(0, 0)]
    )
    true = {int(q): int(r) for q, r in truth}
    query, reference, score = [], [], []
    for q in range(queries):
        shown = set(rng.choice(references, each, replace=False).tolist())
        if q in true and rng.random() < 0.8:
            shown.add(true[q])
        for r in sorted(shown):
            query.append(q)
            reference.append(r)
            score.append(rng.normal() + skill * (true.get(q) == r))
    scores = np.array(score)
    if levels:
        scores = np.round(scores * levels) / levels
    return np.array(query), np.array(reference), scores, truth
