"""Small shards become few; a sample is copied a few times, and asking again does nothing."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.shard_merges import Extent, Limits, plan_merges

LIMITS = Limits(max_samples=1_000, max_bytes=100_000, below=50_000)

extents = st.builds(Extent, st.integers(1, 700), st.integers(1, 70_000))


def merged(shards: list[Extent], merges: list[list[int]]) -> list[Extent]:
    """The shards that come out, each where the first of what it was made of stood."""
    into = {run[0]: run for run in merges}
    taken = {place for run in merges for place in run[1:]}
    return [
        Extent(
            sum(shards[i].samples for i in into.get(at, [at])),
            sum(shards[i].bytes for i in into.get(at, [at])),
        )
        for at in range(len(shards))
        if at not in taken
    ]


def test_equal_small_shards_become_few_of_equal_size() -> None:
    shards = [Extent(30, 1_000)] * 100

    merges = plan_merges(shards, LIMITS)

    assert [len(run) for run in merges] == [25, 25, 25, 25]
    assert sorted(place for run in merges for place in run) == list(range(100))


def test_large_ones_stay_and_what_is_between_them_is_put_together() -> None:
    shards = [Extent(30, 10), Extent(600, 10), Extent(30, 10), Extent(3, 50_000), Extent(30, 10)]

    assert plan_merges(shards, LIMITS) == [[0, 2, 4]]


def test_a_shard_is_not_copied_to_add_less_than_it_holds() -> None:
    assert plan_merges([Extent(300, 3_000), Extent(30, 300), Extent(30, 300)], LIMITS) == [[1, 2]]
    assert plan_merges([Extent(30, 299), Extent(30, 300)], LIMITS) == []
    assert plan_merges([], LIMITS) == []


@given(st.lists(extents, max_size=30), st.sampled_from([LIMITS.below, 10_000, 10**9]))
def test_merges_hold_the_limits_and_nothing_is_merged_again(
    shards: list[Extent], below: int
) -> None:
    limits = LIMITS._replace(below=below)

    merges = plan_merges(shards, limits)

    places = [place for run in merges for place in run]
    assert len(places) == len(set(places))
    assert merges == sorted(sorted(run) for run in merges)
    for run in merges:
        assert len(run) > 1
        assert all(limits.is_small(shards[place]) for place in run)
        assert sum(shards[place].samples for place in run) <= limits.max_samples
        total = sum(shards[place].bytes for place in run)
        assert 2 * max(shards[place].bytes for place in run) <= total <= limits.max_bytes
    assert plan_merges(merged(shards, merges), limits) == []


@given(st.lists(st.integers(20, 40), min_size=1, max_size=120), st.sampled_from([1, 7, 30]))
def test_nights_and_compactions_leave_few_shards_for_few_copies(
    nights: list[int], every: int
) -> None:
    shards: list[Extent] = []
    copied = 0
    for number, samples in enumerate(nights, 1):
        shards.append(Extent(samples, samples * 60))
        if number % every == 0:
            merges = plan_merges(shards, LIMITS)
            copied += sum(shards[place].bytes for run in merges for place in run)
            shards = merged(shards, merges)
    total = sum(nights)

    assert sum(shard.samples for shard in shards) == total
    # full ones, halves of what may yet grow, and the nights since
    halvings = math.log2(LIMITS.max_samples / 2 / 20) + 1
    assert len(shards) <= 2 * total / LIMITS.max_samples + 2 * halvings + every
    assert copied <= total * 60 * halvings
