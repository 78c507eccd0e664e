"""Kept samples are cut into the fewest shards that the limits allow, of equal size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.shard_plan import cut, plan_shards


def lengths(
    sizes: list[int], max_samples: int, max_bytes: int, counts: list[int] | None = None
) -> list[int]:
    """Items of each run."""
    cuts = cut(
        np.array(counts if counts is not None else [1] * len(sizes), np.int64),
        np.array(sizes, np.int64),
        max_samples=max_samples,
        max_bytes=max_bytes,
    )
    assert cuts[0] == 0
    assert cuts[-1] == len(sizes)
    return [end - start for start, end in pairwise(cuts)]


def fewest(sizes: list[int], counts: list[int], max_samples: int, max_bytes: int) -> int:
    """Runs, where each is filled as far as it goes."""
    runs = samples = size = 0
    for each, count in zip(sizes, counts, strict=True):
        if not runs or samples + count > max_samples or size + each > max_bytes:
            runs += 1
            samples = size = 0
        samples += count
        size += each
    return runs


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (0, []),
        (1, [1]),
        (10_000, [10_000]),
        (10_100, [5_050, 5_050]),
        (20_000, [10_000, 10_000]),
        (20_002, [6_667, 6_668, 6_667]),
    ],
)
def test_by_samples(samples: int, expected: list[int]) -> None:
    assert lengths([60_000] * samples, 10_000, 10**9) == expected


def test_by_bytes() -> None:
    # 10.1 MB are two shards of 10 MB at most, which equal samples share equally
    assert lengths([1_000] * 10_100, 10**6, 10**7) == [5_050, 5_050]
    # and others by their bytes, not by their number
    assert lengths([1_000] * 6_000 + [3_000] * 3_000, 10**6, 10**7) == [6_000 + 500, 2_500]


def test_a_sample_beyond_the_limit_is_alone() -> None:
    assert lengths([5, 5, 500, 5, 5], 10, 100) == [2, 1, 2]


def test_the_other_limit_moves_a_cut() -> None:
    # equal numbers would be 7, 7, 7; but the two large ones do not fit into one shard
    assert lengths([60, 60] + [1] * 19, 10, 100) == [1, 10, 10]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 40)), max_size=40),
    st.integers(1, 12),
    st.integers(1, 60),
)
def test_runs_hold_their_limits_and_are_as_few_as_can_be(
    items: list[tuple[int, int]], max_samples: int, max_bytes: int
) -> None:
    counts, sizes = [item[0] for item in items], [item[1] for item in items]

    runs = lengths(sizes, max_samples, max_bytes, counts)

    assert len(runs) == fewest(sizes, counts, max_samples, max_bytes)
    at = 0
    for length in runs:
        assert length >= 1
        if length > 1:
            assert sum(counts[at : at + length]) <= max_samples
            assert sum(sizes[at : at + length]) <= max_bytes
        at += length


@given(st.integers(1, 3_000), st.integers(1, 400))
def test_of_equal_samples_no_two_shards_differ_by_more_than_one(
    samples: int, max_samples: int
) -> None:
    runs = lengths([7] * samples, max_samples, 10**9)

    assert max(runs) - min(runs) <= 1


@given(st.lists(st.integers(1, 100), min_size=1, max_size=200), st.integers(400, 2_000))
def test_shards_differ_by_two_of_their_samples_where_the_limits_leave_room(
    sizes: list[int], max_bytes: int
) -> None:
    runs = lengths(sizes, 10**6, max_bytes)

    ends = np.cumsum([0, *runs])
    held = [sum(sizes[start:end]) for start, end in pairwise(ends.tolist())]
    share = sum(sizes) / len(runs)
    if share + max(sizes) <= max_bytes:
        assert max(held) - min(held) <= 2 * max(sizes)
    assert min(held) > 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=40))
def test_every_row_is_in_one_shard_of_its_form_in_the_order_given(
    samples: list[tuple[int, int]],
) -> None:
    forms = ["png+txt", "jpg+txt", "jpg+json"]
    rows = np.arange(len(samples), dtype=np.int64) * 3
    codes = np.array([code for code, _ in samples], np.int64)

    shards = plan_shards(
        rows,
        codes,
        forms,
        np.array([size for _, size in samples], np.int64),
        max_samples=4,
        max_bytes=90,
    )

    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert [shard.form for shard in shards] == sorted(shard.form for shard in shards)
    for code, form in enumerate(forms):
        mine = [row for shard in shards if shard.form == form for row in shard.rows.tolist()]
        assert mine == rows[codes == code].tolist()


def test_many_shards_are_cut_in_a_moment() -> None:
    assert lengths([10] * 300_000, 3, 10**9) == [3] * 100_000
