"""Two measures together against trying every pair of thresholds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.held_out_card import beside_second
from sscd_ops.evaluation.cascade import combine
from sscd_ops.evaluation.metrics import PRECISIONS, Scored
from sscd_ops.evaluation.tables import cascade_rows
from tests.soak import examples
from tests.unit.evaluation.predictions import make


def scored(seed: int, skill: float, levels: int) -> Scored:
    query, reference, score, _ = make(seed, 12, 6, 3, levels, skill)
    truth = make(7, 12, 6, 3, 0, 0.0)[3]
    return Scored(query, reference, score, truth, np.arange(12))


def slow(one: Scored, other: Scored, wanted: float) -> float | None:
    """The greatest recall over all pairs of thresholds, by trying them all."""
    true = {(int(q), int(r)) for q, r in one.truth}
    of = [
        {(int(q), int(r)): float(s) for q, r, s in zip(x.query, x.reference, x.score, strict=True)}
        for x in (one, other)
    ]
    best = None
    for a, b in itertools.product(*([np.inf, *sorted(set(x.values()))] for x in of)):
        called = {p for p, s in of[0].items() if s >= a} | {p for p, s in of[1].items() if s >= b}
        hits = len(called & true)
        if called and hits / len(called) >= wanted:
            best = max(best or 0.0, hits / len(one.truth))
    return best


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([0, 1, 4]))
@settings(max_examples=examples(60))
def test_no_pair_of_thresholds_finds_more(seed: int, again: int, levels: int) -> None:
    one, other = scored(seed, 1.5, levels), scored(again, 2.5, levels)

    found = combine(("a", "b"), (one, other), (0.5, 0.5))

    for point, wanted in zip(found.points, PRECISIONS, strict=True):
        assert point.recall == slow(one, other, wanted)
        alone = [value for value in (point.first_alone, point.second_alone) if value is not None]
        if point.recall is None:
            assert not alone
        else:
            assert point.recall >= max(alone, default=0.0)
            assert point.precision is not None
            assert point.precision >= wanted


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from([0, 1, 4]))
@settings(max_examples=examples(60))
def test_beside_a_fixed_second_threshold_no_threshold_of_the_first_finds_more(
    seed: int, again: int, levels: int
) -> None:
    one, other = scored(seed, 1.5, levels), scored(again, 2.5, levels)
    true = {(int(q), int(r)) for q, r in one.truth}
    firsts, seconds = (
        {(int(q), int(r)): float(s) for q, r, s in zip(x.query, x.reference, x.score, strict=True)}
        for x in (one, other)
    )
    fixed = float(np.median(other.score))
    there = {pair for pair, score in seconds.items() if score >= fixed}

    def union(threshold: float) -> set[tuple[int, int]]:
        return there | {pair for pair, score in firsts.items() if score >= threshold}

    for wanted in (0.9, 0.5, 0.2):
        found = beside_second((one, other), fixed, wanted)
        fine = [
            called
            for called in map(union, firsts.values())
            if called > there and len(called & true) >= wanted * len(called)
        ]
        if found is None:
            assert not fine
        else:
            assert len(union(found) & true) >= wanted * len(union(found))
            assert len(union(found)) == max(map(len, fine))


def test_measures_that_err_on_different_pictures_gain_by_each_other() -> None:
    truth = np.array([(q, q) for q in range(8)])
    query = np.arange(8)
    half = np.where(query < 4, 0.9, 0.1)
    one = Scored(query, query, half, truth, query)
    other = Scored(query, query, 1 - half, truth, query)
    wrong = Scored(
        np.r_[query, query], np.r_[query, (query + 1) % 8], np.r_[1 - half, half * 0 + 0.5],
        truth, query,
    )  # fmt: skip

    found = combine(("a", "b"), (one, wrong), (0.5, 0.6))

    assert found.points[0].recall == 1.0
    assert (found.points[0].first_alone, found.points[0].second_alone) == (1.0, 0.5)
    assert found.recall == 1.0
    assert found.precision == 1.0
    assert combine(("a", "b"), (one, other), (0.5, 0.5)).recall == 1.0


def test_the_table_of_three_measures_has_what_each_finds_alone_side_by_side() -> None:
    measures = {name: scored(seed, 2.0, 0) for seed, name in enumerate("abc")}
    found = [
        combine((one, other), (measures[one], measures[other]), (0.5, 0.5))
        for one, other in itertools.combinations(measures, 2)
    ]

    names = [list(row) for row in cascade_rows(found)]

    alone = ["a alone", "b alone", "c alone"]
    assert names == [["measures", "precision", "recall", *alone, "thresholds"]] * len(names)


def test_nothing_true_is_nothing_found() -> None:
    empty = Scored(*(np.empty(0, np.int64),) * 2, np.empty(0), np.array([[0, 0]]), np.zeros(1, int))
    found = combine(("a", "b"), (empty, empty), (0.5, 0.5))
    assert found.recall == pytest.approx(0.0)
    assert [point.recall for point in found.points] == [None, None, None]
