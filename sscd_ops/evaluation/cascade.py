"""Two measures in one pass: a pair is a copy if either says so.

What a cascade gains is asked at equal precision: of all pairs of thresholds under which the union
of both answers still is so precise, the one with the greatest recall, beside the best of either
alone. Thresholds are chosen on the pictures they are reported on, for both as for each alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.evaluation.metrics import PRECISIONS, Scored, operating_point, precision_recall

_MOST = 1000
"""False pairs of one measure that are looked at, at most: bounds the table of threshold pairs."""


@dataclass(frozen=True)
class CascadePoint:
    """The best pair of thresholds at a precision.

    Attributes:
        wanted: precision.
        recall: of the union; None where no pair of thresholds reaches the precision.
        precision: of the union there.
        first_threshold, second_threshold: a pair at or above either is a copy.
        first_alone, second_alone: recall of each measure alone at that precision; None: never.
    """

    wanted: float
    recall: float | None
    precision: float | None
    first_threshold: float | None
    second_threshold: float | None
    first_alone: float | None
    second_alone: float | None


@dataclass(frozen=True)
class Cascade:
    """Two models together: at fixed precisions, and at their own thresholds."""

    first: str
    second: str
    points: list[CascadePoint]
    recall: float
    precision: float | None
    """At the two models' own thresholds."""


def combine(
    names: tuple[str, str], scored: tuple[Scored, Scored], thresholds: tuple[float, float]
) -> Cascade:
    """Measure two rankings of one task together.

    Args:
        names: the models'.
        scored: their predictions, in the same task's rows.
        thresholds: the models' own.
    """
    first, second, positive = joined(*scored)
    truths = len(scored[0].truth)
    called = (first >= thresholds[0]) | (second >= thresholds[1])
    hits = int((called & positive).sum())
    return Cascade(
        *names,
        [_point(first, second, positive, truths, wanted) for wanted in PRECISIONS],
        hits / truths if truths else 0.0,
        hits / int(called.sum()) if called.any() else None,
    )


def joined(
    one: Scored, other: Scored
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Every pair that either predicts: both scores (-inf where one does not), and its truth."""
    width = int(max(one.reference.max(initial=0), other.reference.max(initial=0))) + 1
    keys = [item.query * width + item.reference for item in (one, other)]
    pairs = np.union1d(*keys)
    scores = []
    positive = np.zeros(len(pairs), bool)
    for item, key in zip((one, other), keys, strict=True):
        at = np.searchsorted(pairs, key)
        score = np.full(len(pairs), -np.inf)
        score[at] = item.score
        positive[at] |= item.positive
        scores.append(score)
    return scores[0], scores[1], positive


def _point(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    positive: NDArray[np.bool_],
    truths: int,
    wanted: float,
) -> CascadePoint:
    # so many false pairs can there be at most where the precision holds
    most = min(_MOST, int(truths * (1 - wanted) / wanted) + 1)
    steps = [_steps(score, positive, most) for score in (first, second)]
    levels = [_levels(score, cuts) for score, cuts in zip((first, second), steps, strict=True)]
    size = (len(steps[0]), len(steps[1]))
    hits = _either(levels[0][positive], levels[1][positive], size)
    misses = _either(levels[0][~positive], levels[1][~positive], size)
    shown = hits + misses
    precision = np.divide(hits, shown, out=np.zeros(size), where=shown > 0)
    allowed = np.where(precision >= wanted, hits, -1)
    best = np.unravel_index(int(allowed.argmax()), size)
    alone = [
        operating_point(precision_recall(score[known], positive[known], truths), wanted)
        for score in (first, second)
        for known in [np.isfinite(score)]
    ]
    reached = bool(allowed[best] >= 0) and truths > 0
    return CascadePoint(
        wanted,
        float(hits[best]) / truths if reached else None,
        float(precision[best]) if reached else None,
        _finite(steps[0][best[0]]) if reached else None,
        _finite(steps[1][best[1]]) if reached else None,
        alone[0].recall if alone[0] else None,
        alone[1].recall if alone[1] else None,
    )


def _finite(value: float) -> float | None:
    """A threshold; None where the measure calls nothing at all."""
    return float(value) if np.isfinite(value) else None


def _steps(
    score: NDArray[np.float64], positive: NDArray[np.bool_], most: int
) -> NDArray[np.float64]:
    """Thresholds worth trying, descending: nothing, then the lowest true score above each false."""
    false = -np.sort(-score[~positive & np.isfinite(score)])[: most + 1]
    true = np.sort(score[positive & np.isfinite(score)])
    at = np.searchsorted(true, false, "right")
    least = true[np.minimum(at, len(true) - 1)] if len(true) else np.empty(0)
    tried = least[at < len(true)] if len(true) else least
    lowest = true[:1] if len(false) <= most else np.empty(0)
    return -np.unique(-np.r_[np.inf, tried, lowest])


def _levels(score: NDArray[np.float64], cuts: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first threshold (of descending ones) that each score reaches; their number for none."""
    return np.searchsorted(-cuts, -score, "left").astype(np.int64)


def _either(
    first: NDArray[np.int64], second: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.int64]:
    """Cell (i, j): pairs that reach the first measure's step i or the second's step j."""
    table = np.zeros((size[0] + 1, size[1] + 1), np.int64)
    np.add.at(table, (first, second), 1)
    # pairs that reach neither: levels beyond both
    beyond = table[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    return len(first) - beyond[1:, 1:]
