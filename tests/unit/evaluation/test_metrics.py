"""Metrics against slow definitions, and against numbers of the public ISC 2021 scorer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.errors import UsageError
from sscd_ops.evaluation.metrics import (
    Scored,
    accuracy_at_1,
    bootstrap,
    micro_ap,
    operating_point,
    precision_recall,
    summarise,
    thinned,
    trapezoid_ap,
    true_ranks,
    wilson,
)
from tests.soak import examples
from tests.unit.evaluation.predictions import CASES, make

# uAP, recall and threshold at precision .9, recall at rank 1: what facebookresearch/isc2021's
# isc/metrics.py answers for CASES (run beside ours; 600 more chance cases agreed to the last bit)
ISC = [
    (0.42090826602670955, 0.07, 3.946195862453169, 0.53),
    (0.3486131280606426, 0.05154639175257732, 3.8, 0.4948453608247423),
    (0.2902170086787294, None, None, 0.43434343434343436),
    (0.7745024593768048, 0.75, 2.295714068926629, 0.7950819672131147),
    (0.7642400638963801, 0.7058823529411765, 2.5, 0.7757352941176471),
    (0.055320317644385705, None, None, 0.043478260869565216),
]


@pytest.mark.parametrize(("case", "expected"), list(zip(CASES, ISC, strict=True)))
def test_the_public_scorers_numbers(
    case: tuple[int, int, int, int, int, float],
    expected: tuple[float, float | None, float | None, float],
) -> None:
    query, reference, score, truth = make(*case)

    found = summarise(
        Scored(query, reference, score, truth, np.arange(query.max() + 1)), replicates=0
    )

    point = found.points["0.9"]
    assert found.micro_ap == pytest.approx(expected[0], abs=1e-12)
    assert (point.recall if point else None) == expected[1]
    assert (point.threshold if point else None) == expected[2]
    assert found.accuracy_at_1 == pytest.approx(expected[3], abs=1e-12)
    assert found.recall_at_p90 == (expected[1] or 0.0)


scored_lists = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(-1, 1), st.booleans()),
    max_size=40,
)


def slow_curve(items: list[tuple[float, bool]], truths: int) -> list[tuple[float, float, float]]:
    """(recall, precision, score) at each rank, by counting again at each rank."""
    ranked = sorted(items, key=lambda item: (-item[0], item[1]))
    answer = []
    for k in range(1, len(ranked) + 1):
        hits = sum(good for _, good in ranked[:k])
        answer.append((hits / truths, hits / k, ranked[k - 1][0]))
    return answer


@given(scored_lists, st.integers(0, 5))
@settings(max_examples=examples(200))
def test_micro_ap_and_points_are_their_definitions(
    items: list[tuple[float, bool]], unfound: int
) -> None:
    truths = sum(good for _, good in items) + unfound or 1
    score = np.array([s for s, _ in items], float)
    positive = np.array([good for _, good in items], bool)

    curve = precision_recall(score, positive, truths)

    slow = slow_curve(items, truths)
    assert list(zip(curve.recall, curve.precision, curve.score, strict=True)) == slow
    ranked = sorted(items, key=lambda item: (-item[0], item[1]))
    of_hits = [slow[k][1] for k in range(len(slow)) if ranked[k][1]]
    assert micro_ap(curve) == pytest.approx(sum(of_hits) / truths)
    for wanted in (0.3, 0.9):
        point = operating_point(curve, wanted)
        good = [item for item in slow if item[1] >= wanted]
        if not good:
            assert point is None
        else:
            first = max(good, key=lambda item: item[0])
            assert point is not None
            assert (point.recall, point.precision, point.threshold) == first


@given(scored_lists)
@settings(max_examples=examples(100))
def test_a_weight_of_two_counts_as_the_prediction_twice(items: list[tuple[float, bool]]) -> None:
    """Held where scores differ: ties among weighted rows are ranked as one row each."""
    items = list({score: (score, good) for score, good in items}.values())
    score = np.array([s for s, _ in items], float)
    positive = np.array([good for _, good in items], bool)
    twice = precision_recall(score, positive, 2.0, np.full(len(items), 2.0))
    once = precision_recall(score, positive, 1.0)

    assert np.allclose(twice.precision, once.precision)
    assert np.allclose(twice.recall, once.recall)


@given(st.integers(0, 10**6))
@settings(max_examples=examples(60))
def test_ranks_are_counted_against_ties(seed: int) -> None:
    query, reference, score, truth = make(seed, 12, 9, 4, 2, 1.0)

    ranks = true_ranks(query, reference, score, truth)

    for (q, r), rank in zip(truth, ranks, strict=True):
        mine = [
            (s, other) for one, other, s in zip(query, reference, score, strict=True) if one == q
        ]
        own = [s for s, other in mine if other == r]
        slow = sum(s >= own[0] for s, _ in mine) - 1 if own else np.iinfo(np.int64).max
        assert rank == slow


def test_nothing_predicted_is_nothing_found() -> None:
    empty = np.empty(0, np.int64)
    scored = Scored(empty, empty, np.empty(0), np.array([[0, 0]]), np.array([0]))

    found = summarise(scored, replicates=5)

    assert (found.micro_ap, found.recall_at_p90, found.accuracy_at_1) == (0.0, 0.0, 0.0)
    assert found.points == {"0.9": None, "0.99": None, "0.999": None}
    assert found.curve == []


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="NaN"):
        precision_recall(np.array([0.1, np.nan]), np.array([True, False]), 1)


@pytest.mark.parametrize(
    ("ranks", "truths", "expected"),
    [
        ([0], 1, 1.0),
        ([0, 1], 2, 1.0),
        ([1], 1, (0 / 1 + 1 / 2) / 2),
        ([0, 3], 2, (1 + (1 / 3 + 2 / 4) / 2) / 2),
        ([], 3, 0.0),
        ([0], 2, 0.5),
    ],
)
def test_the_trapezoid_rule_by_hand(ranks: list[int], truths: int, expected: float) -> None:
    assert trapezoid_ap(np.array(ranks, np.int64), truths) == pytest.approx(expected)


def test_intervals_hold_the_value_and_narrow_with_more_pictures() -> None:
    widths = []
    for queries in (100, 1600):
        query, reference, score, truth = make(3, queries, 400, 4, 0, 3.0)
        found = summarise(Scored(query, reference, score, truth, np.arange(queries)), seed=1)
        assert found.micro_ap_interval is not None
        low, high = found.micro_ap_interval
        assert low < found.micro_ap < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5  # the root of 16, nearly


def test_the_bootstrap_draws_pictures_not_copies() -> None:
    """Ten copies of each picture that stand or fall together say no more than one of each."""
    good = np.random.default_rng(0).random(60) < 0.5
    once = bootstrap(lambda drawn: accuracy_at_1((~good).astype(np.int64), drawn), 60)
    many = np.repeat(good, 10)
    of = np.repeat(np.arange(60), 10)
    again = bootstrap(lambda drawn: accuracy_at_1((~many).astype(np.int64), drawn[of]), 60)

    assert again == pytest.approx(once)


@pytest.mark.parametrize(("share", "width"), [(0.0, 0.09), (1.0, 0.09), (0.99, 0.1)])
def test_a_share_near_an_end_is_as_uncertain_as_its_pictures(share: float, width: float) -> None:
    found = bootstrap(lambda drawn: share, 60, telling=40)

    assert found == wilson(share * 40, 40)
    assert found[0] <= share <= found[1]
    assert found[1] - found[0] == pytest.approx(width, abs=0.02)


def test_what_is_no_share_has_the_interval_of_its_draws() -> None:
    assert bootstrap(lambda drawn: 0.0, 60) == (0.0, 0.0)


def test_all_found_has_an_interval_of_the_pictures_that_were_looked_for() -> None:
    truth = np.stack([np.arange(40), np.arange(40)], axis=1)
    picture = np.arange(60)  # twenty of them have no copy
    scored = Scored(truth[:, 0], truth[:, 1], np.linspace(0.5, 1, 40), truth, picture)

    found = summarise(scored)

    for interval in (
        found.micro_ap_interval,
        found.recall_at_p90_interval,
        found.accuracy_at_1_interval,
    ):
        assert interval == wilson(40, 40)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # the score interval worked out by hand: at 0 its upper end is z^2 / (n + z^2)
    [(0, 10, 0.0, 3.8415 / 13.8415), (10, 10, 10 / 13.8415, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_at_the_ends(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_a_thinned_curve_keeps_its_ends() -> None:
    query, reference, score, truth = make(5, 300, 100, 8, 0, 2.0)
    scored = Scored(query, reference, score, truth, np.arange(300))
    curve = precision_recall(score, scored.positive, len(truth))

    points = thinned(curve, 50)

    assert len(points) <= 50
    assert points[-1][0] == curve.recall[-1]
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(points))
