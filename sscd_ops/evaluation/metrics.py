"""Ranking metrics of copy detection. Pure numpy.

Predictions are (query, reference, score) triples, higher scores more alike; the truth is a list of
pairs. All predictions are ranked together (*micro*), so that one threshold must serve every query.
Ties are counted at their worst, negatives first, as the scorer of the Image Similarity Challenge
2021 does (Douze et al., "The 2021 Image Similarity Dataset and Challenge", arXiv 2106.09672,
section 5.3): nobody gains by giving all predictions one score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.errors import UsageError

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A ranking, best score first, ties with negatives first.

    Attributes:
        precision: float64 (n,), share of the first k predictions that are true.
        recall: float64 (n,), share of all true pairs among the first k.
        score: float64 (n,), descending.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class OperatingPoint:
    """The greatest recall at a precision, and the score from which on pairs count as copies."""

    precision: float
    recall: float
    threshold: float


def ranking(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Row numbers by score, descending; of equal scores the negatives first.

    Raises:
        UsageError: a score is not a number.
    """
    if np.isnan(score).any():
        raise UsageError("a score is NaN: it cannot be ranked")
    return np.lexsort((positive, -score)).astype(np.int64)


def precision_recall(
    score: NDArray[np.float64],
    positive: NDArray[np.bool_],
    truths: float,
    weights: Weights | None = None,
) -> Curve:
    """Precision and recall at every rank.

    Args:
        score: float64 (n,).
        positive: bool (n,), whether the prediction is a true pair.
        truths: how many true pairs there are, found or not (their weight, with weights).
        weights: float64 (n,), how often each prediction counts; None: once.
    """
    order = ranking(score, positive)
    weight = np.ones(len(order)) if weights is None else weights[order]
    hits = np.cumsum(weight * positive[order])
    shown = np.cumsum(weight)
    precision = np.divide(hits, shown, out=np.zeros(len(order)), where=shown > 0)
    recall = hits / truths if truths else np.zeros(len(order))
    return Curve(precision, recall, score[order])


def micro_ap(curve: Curve) -> float:
    """Micro average precision, uAP: the sum of (recall step) x (precision there), not interpolated.

    A true pair that no prediction names costs its whole share.
    """
    return float((np.diff(curve.recall, prepend=0.0) * curve.precision).sum())


def operating_point(curve: Curve, precision: float) -> OperatingPoint | None:
    """The first rank with the greatest recall among those of at least a precision, if there is one.

    Recall at precision 90 (R@P90) is its recall for .9.
    """
    good = np.flatnonzero(curve.precision >= precision)
    if not len(good):
        return None
    at = good[np.argmax(curve.recall[good])]
    return OperatingPoint(
        float(curve.precision[at]), float(curve.recall[at]), float(curve.score[at])
    )


def thinned(curve: Curve, points: int = 200) -> list[tuple[float, float, float]]:
    """A curve to draw: (recall, precision, score) at evenly spaced recalls, at most ``points``."""
    if not len(curve):
        return []
    wanted = np.linspace(0.0, curve.recall[-1], points)
    at = np.unique(np.minimum(np.searchsorted(curve.recall, wanted), len(curve) - 1))
    return [(float(curve.recall[i]), float(curve.precision[i]), float(curve.score[i])) for i in at]


def true_ranks(
    query: NDArray[np.int64],
    reference: NDArray[np.int64],
    score: NDArray[np.float64],
    truth: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Each true pair's rank among its query's predictions, from 0; ties count against it.

    Args:
        query: int64 (n,).
        reference: int64 (n,).
        score: float64 (n,).
        truth: int64 (g, 2), (query, reference) of each true pair.

    Returns:
        int64 (g,), a very large number where the pair is not predicted.
    """
    answer = np.full(len(truth), np.iinfo(np.int64).max, np.int64)
    order = np.argsort(query, kind="stable")
    start = np.searchsorted(query[order], truth[:, 0], "left")
    stop = np.searchsorted(query[order], truth[:, 0], "right")
    for row, (first, last) in enumerate(zip(start, stop, strict=True)):
        mine = order[first:last]
        hit = np.flatnonzero(reference[mine] == truth[row, 1])
        if len(hit):
            answer[row] = int((score[mine] >= score[mine[hit[0]]]).sum()) - 1
    return answer


def accuracy_at_1(ranks: NDArray[np.int64], weights: Weights | None = None) -> float:
    """Share of true pairs that are their query's first prediction, alone in its score."""
    if not len(ranks):
        return 0.0
    weight = np.ones(len(ranks)) if weights is None else weights
    total = weight.sum()
    return float((weight * (ranks == 0)).sum() / total) if total else 0.0


def trapezoid_ap(ranks: NDArray[np.int64], truths: int) -> float:
    """Average precision by the trapezoid rule, as the Copydays and INRIA Holidays scorers do.

    Each true result closes a step of width ``1 / truths`` whose height is the mean of the precision
    just before it and at it (Jegou et al., "Hamming embedding and weak geometric consistency",
    ECCV 2008, evaluation package; SSCD's copydays evaluation).

    Args:
        ranks: int64, ranks of the true results from 0, ascending.
        truths: how many true results there are.
    """
    if not truths:
        return 0.0
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    at = (found + 1) / (ranks + 1)
    return float(((before + at) / 2).sum() / truths)


ConfidenceInterval = tuple[float, float]
"""Lower and upper end, 95%."""


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], float],
    pictures: int,
    *,
    replicates: int = 200,
    seed: int = 0,
    telling: int | None = None,
) -> ConfidenceInterval:
    """A 95% percentile interval by resampling pictures (Efron 1979).

    Copies of one picture are found or missed together, so pictures are drawn, not copies. Near 0
    and 1 draws say too little of pictures that are not there, and at them nothing. So a share that
    is less than one picture's worth away from either gets Wilson's interval, of pictures that are
    each found or missed whole.

    Args:
        statistic: of float64 (pictures,), how often each picture was drawn.
        pictures: how many there are.
        replicates: draws.
        seed: of the draws.
        telling: how many of them have copies to be found, where the statistic is a share of what
            was to be found; None: it is none, and gets the draws' interval alone.
    """
    if not pictures:
        return (0.0, 1.0)
    if telling is not None:
        share = statistic(np.ones(pictures))
        if telling * min(share, 1 - share) < 1:
            return wilson(telling * min(1.0, max(0.0, share)), telling)
    rng = np.random.default_rng(seed)
    values = [
        statistic(
            np.bincount(rng.integers(0, pictures, pictures), minlength=pictures).astype(float)
        )
        for _ in range(replicates)
    ]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def wilson(successes: float, trials: int) -> ConfidenceInterval:
    """A 95% interval of a share, sensible at 0 and 1 too (Wilson 1927)."""
    if not trials:
        return (0.0, 1.0)
    z = 1.959964
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return max(0.0, float(low)), min(1.0, float(high))


@dataclass(frozen=True)
class Scored:
    """Predictions with their truth, ready for any metric.

    Attributes:
        query: int64 (n,); reference: int64 (n,); score: float64 (n,).
        truth: int64 (g, 2), true (query, reference) pairs.
        picture: int64 (q,), which picture each query shows, for the bootstrap.
    """

    query: NDArray[np.int64]
    reference: NDArray[np.int64]
    score: NDArray[np.float64]
    truth: NDArray[np.int64]
    picture: NDArray[np.int64]

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Bool (n,): whether each prediction is a true pair."""
        width = int(max(self.reference.max(initial=0), self.truth[:, 1].max(initial=0))) + 1
        return np.isin(
            self.query * width + self.reference, self.truth[:, 0] * width + self.truth[:, 1]
        )


@dataclass(frozen=True)
class Summary:
    """The metrics of one ranking, with 95% intervals over pictures where they were asked for."""

    micro_ap: float
    micro_ap_interval: ConfidenceInterval | None
    recall_at_p90: float
    recall_at_p90_interval: ConfidenceInterval | None
    accuracy_at_1: float
    accuracy_at_1_interval: ConfidenceInterval | None
    points: dict[str, OperatingPoint | None]
    """Precision (``0.9``) -> where it is reached; None where it never is."""
    curve: list[tuple[float, float, float]]


PRECISIONS = (0.9, 0.99, 0.999)


def summarise(
    scored: Scored,
    *,
    replicates: int = 200,
    seed: int = 0,
    precisions: Sequence[float] = PRECISIONS,
) -> Summary:
    """uAP, R@P90, accuracy@1 and the thresholds of some precisions.

    Args:
        scored: the predictions.
        replicates: bootstrap draws; 0 for no intervals.
        seed: of the draws.
        precisions: at which operating points are looked for.
    """
    positive = scored.positive
    ranks = true_ranks(scored.query, scored.reference, scored.score, scored.truth)
    curve = precision_recall(scored.score, positive, len(scored.truth))
    point = operating_point(curve, 0.9)
    intervals: list[ConfidenceInterval | None] = [None, None, None]
    if replicates:
        intervals = list(_intervals(scored, ranks, replicates, seed))
    return Summary(
        micro_ap(curve),
        intervals[0],
        point.recall if point else 0.0,
        intervals[1],
        accuracy_at_1(ranks),
        intervals[2],
        {f"{p:g}": operating_point(curve, p) for p in precisions},
        thinned(curve),
    )


def weighted_curve(scored: Scored) -> Callable[[Weights], Curve]:
    """The curve under any weights of the pictures, for ``bootstrap``; the ranking is sorted once.

    Equal scores are not told apart: a weighted curve has a point inside a run of them.
    """
    positive = scored.positive
    order = ranking(scored.score, positive)
    score, hit = scored.score[order], positive[order]
    of_prediction = scored.picture[scored.query[order]]
    of_truth = scored.picture[scored.truth[:, 0]]

    def curve(drawn: Weights) -> Curve:
        weight = drawn[of_prediction]
        hits, shown = np.cumsum(weight * hit), np.cumsum(weight)
        total = drawn[of_truth].sum()
        precision = np.divide(hits, shown, out=np.zeros(len(hits)), where=shown > 0)
        return Curve(precision, hits / total if total else np.zeros(len(hits)), score)

    return curve


def _intervals(
    scored: Scored,
    ranks: NDArray[np.int64],
    replicates: int,
    seed: int,
) -> list[ConfidenceInterval]:
    """Intervals of uAP, R@P90 and accuracy@1."""
    curve = weighted_curve(scored)
    of_truth = scored.picture[scored.truth[:, 0]]

    def recall(drawn: Weights) -> float:
        point = operating_point(curve(drawn), 0.9)
        return point.recall if point else 0.0

    pictures = int(scored.picture.max(initial=-1)) + 1
    statistics: list[Callable[[Weights], float]] = [
        lambda drawn: micro_ap(curve(drawn)),
        recall,
        lambda drawn: accuracy_at_1(ranks, drawn[of_truth]),
    ]
    telling = len(np.unique(of_truth))
    return [
        bootstrap(s, pictures, replicates=replicates, seed=seed, telling=telling)
        for s in statistics
    ]
