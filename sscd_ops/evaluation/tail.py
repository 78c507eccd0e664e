"""False matches at sizes nobody can measure: a tail fitted to the similarities of strangers.

What is measured is how often two different pictures are at or above a similarity, among some
10^4 to 10^9 pairs. What is asked is how many strangers a new picture meets in a history of 10^8.
The step from one to the other is an **extrapolation**: peaks over a high similarity u are taken to
be a generalised Pareto tail (Pickands 1975), fitted by probability-weighted moments (Hosking and
Wallis, Technometrics 29, 1987), and

    false matches a picture = history x P(similarity > u) x P(excess > threshold - u).

The tail is not let end (shape >= 0): a fitted end below the threshold would promise that no
stranger ever matches. The interval is a bootstrap over pictures, because one odd picture brings
many pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.canonical import widen

PEAKS = 1000
"""Pairs above u that the fit aims at; a thousandth of all pairs at most, ..."""
_FEW_PEAKS = 200
"""... but not fewer than these."""
_LEAST_PEAKS = 50
_MOST_SHARE = 0.05
"""Of all pairs that may be peaks: beyond it they are not a tail, but what most pairs look like."""
_ROWS, _COLUMNS = 512, 2048
"""Of a tile of similarities."""
SIZES = (10**4, 10**5, 10**6, 10**7, 10**8, 10**9)


@dataclass(frozen=True)
class Peaks:
    """The most similar pairs of different pictures.

    Attributes:
        first, second: int64 (k,), the pictures of each pair, rows of the references.
        similarity: float64 (k,), in float32 arithmetic.
        pairs: how many pairs were looked at.
        pictures: how many pictures they came from.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float64]
    pairs: int
    pictures: int


def find_peaks(
    descriptors: NDArray[np.float16],
    most: int = PEAKS,
    *,
    queries: int = 4096,
    seed: int = 0,
    apart: NDArray[np.int64] | None = None,
) -> Peaks:
    """The most similar pairs among pictures that are no copies of each other.

    Every pair of a chance sample of at most ``queries`` pictures with all pictures is looked at.

    Args:
        descriptors: float16 (n, d).
        most: pairs wanted.
        queries: pictures whose pairs are looked at, at most.
        seed: of the sample.
        apart: int64 (n,): pictures of one number are known to be copies; their pairs don't count.
    """
    count = len(descriptors)
    chosen = np.arange(count)
    if count > queries:
        chosen = np.sort(np.random.default_rng(seed).choice(count, queries, replace=False))
    taken = np.zeros(count, bool)
    taken[chosen] = True
    floor = -np.inf
    kept: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    pairs = 0
    # tiles, so that memory does not grow with the references
    for first_column in range(0, count, _COLUMNS):
        columns = np.arange(first_column, min(count, first_column + _COLUMNS))
        others = widen(descriptors[columns]).T
        for start in range(0, len(chosen), _ROWS):
            rows = chosen[start : start + _ROWS]
            similarity = widen(descriptors[rows]) @ others
            # each pair once: with a later picture of the sample, or with any picture outside it
            once = ~taken[columns][None, :] | (rows[:, None] < columns[None, :])
            if apart is not None:
                once &= apart[rows][:, None] != apart[columns][None, :]
            pairs += int(once.sum())
            one, other = np.nonzero(once & (similarity > floor))
            if len(one) == 0:
                continue
            kept.append((rows[one], columns[other], similarity[one, other].astype(np.float64)))
            kept = [_best(kept, most)]
            if len(kept[0][2]) == most:
                floor = float(kept[0][2].min())
    first, second, found = kept[0] if kept else (np.empty(0, int), np.empty(0, int), np.empty(0))
    few = max(_FEW_PEAKS, min(most, pairs // 1000))
    return Peaks(first[:few], second[:few], found[:few], pairs, count)


def _best(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    first, second, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.argsort(-value, kind="stable")[:most]
    return first[order], second[order], value[order]


@dataclass(frozen=True)
class Tail:
    """A fitted tail: ``P(similarity >= t) = share * (1 + shape (t - start) / scale)^(-1/shape)``.

    Attributes:
        start: similarity u above which pairs count as peaks.
        share: of all pairs that are peaks.
        shape: at least 0; 0 is an exponential tail.
        scale: of the excess.
    """

    start: float
    share: float
    shape: float
    scale: float

    def above(self, threshold: float) -> float:
        """Share of pairs at or above a threshold that is not below ``start``."""
        excess = max(0.0, threshold - self.start) / self.scale
        if self.shape < 1e-9:
            return float(self.share * np.exp(-excess))
        return float(self.share * (1 + self.shape * excess) ** (-1 / self.shape))


def fit(similarity: NDArray[np.float64], weights: NDArray[np.float64], pairs: float) -> Tail | None:
    """Fit the tail by probability-weighted moments; None where there is too little to fit.

    Args:
        similarity: float64 (k,), the peaks, descending.
        weights: float64 (k,), how often each counts.
        pairs: how many pairs they are the peaks of.
    """
    start = float(similarity[-1]) if len(similarity) else 0.0
    above = similarity > start
    weight = weights[above]
    total = float(weight.sum())
    if total < _LEAST_PEAKS:
        return None
    excess = similarity[above] - start
    # descending, so the weight seen before a value estimates its exceedance (their a_1; their k is
    # minus our shape)
    exceed = (np.cumsum(weight) - 0.5 * weight) / total
    mean = float((weight * excess).sum() / total)
    second = float((weight * excess * exceed).sum() / total)
    gap = mean - 2 * second
    if mean <= 0 or gap <= 0:
        return None
    shape, scale = 2 - mean / gap, 2 * mean * second / gap
    if shape < 0 or scale <= 0:  # it would end: an exponential tail of the same mean instead
        shape, scale = 0.0, mean
    return Tail(start, total / pairs, shape, scale)


@dataclass(frozen=True)
class FalseMatches:
    """Expected strangers at or above a threshold, by size of history.

    Attributes:
        threshold: the similarity asked for.
        observed: pairs seen at or above it.
        pairs: pairs looked at.
        pictures: pictures they came from.
        peaks: the most similar of the pairs, which a tail is fitted to.
        tail: what was fitted; None: too few pairs to fit anything.
        by_size: (history, expected false matches a new picture, lower, upper), 95%; without draws
            there is no lower and upper.
        measured: the threshold lies among what was seen (below u): counted, not fitted.
    """

    threshold: float
    observed: int
    pairs: int
    pictures: int
    peaks: int
    tail: Tail | None
    by_size: list[tuple[int, float, float | None, float | None]]
    measured: bool

    @property
    def too_few(self) -> bool:
        """Whether the peaks are so many of the pairs that they are no tail."""
        return self.peaks > _MOST_SHARE * self.pairs

    @property
    def pictures_needed(self) -> int:
        """Of how many pictures the fewest peaks are a tail, roughly."""
        return math.ceil(math.sqrt(2 * _FEW_PEAKS / _MOST_SHARE))


def false_matches(
    peaks: Peaks, threshold: float, *, replicates: int = 200, seed: int = 0
) -> FalseMatches:
    """Extrapolate false matches a picture to large histories.

    Below the lowest peak nothing can be said from the peaks; the caller asks at thresholds above.
    """
    count = len(peaks.similarity)
    answer = FalseMatches(
        threshold,
        int((peaks.similarity >= threshold).sum()),
        peaks.pairs,
        peaks.pictures,
        count,
        tail=None,
        by_size=[],
        measured=count > 0 and threshold <= float(peaks.similarity[-1]),
    )
    if answer.too_few:
        return answer
    tail = fit(peaks.similarity, np.ones(count), peaks.pairs)
    if tail is None or answer.measured:
        return dataclasses.replace(answer, tail=tail)
    rng = np.random.default_rng(seed)
    shares = []
    for _ in range(replicates):
        drawn = np.bincount(
            rng.integers(0, peaks.pictures, peaks.pictures), minlength=peaks.pictures
        ).astype(float)
        # a pair is drawn as often as both its pictures are
        again = fit(peaks.similarity, drawn[peaks.first] * drawn[peaks.second], peaks.pairs)
        if again is not None:
            shares.append(again.above(threshold))
    low, high = np.quantile(shares, (0.025, 0.975)).tolist() if shares else (None, None)
    middle = tail.above(threshold)
    rows = [(size, size * middle, low and size * low, high and size * high) for size in SIZES]
    return dataclasses.replace(answer, tail=tail, by_size=rows)
