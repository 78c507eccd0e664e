"""How comparing is cut: every pair of rows is in one cell, and every cell in one share."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.cells import blocks, groups, share


@given(st.integers(0, 40_000_000))
def test_blocks_hold_every_query_once(count: int) -> None:
    found = blocks(count)

    assert len(found) <= max(32, -(-count // 131_072))
    assert all(len(block) <= 131_072 for block in found)
    assert [block.start for block in found[1:]] == [block.stop for block in found[:-1]]
    assert sum(len(block) for block in found) == count
    if found:
        assert found[0].start == 0
        assert all(len(block) == len(found[0]) >= 16_384 for block in found[:-1])


@given(st.lists(st.tuples(st.integers(0, 100_000), st.sampled_from("ab")), max_size=50))
def test_groups_are_neighbours_of_one_kind_and_small_unless_alone(
    segments: list[tuple[int, str]],
) -> None:
    rows, kinds = [size for size, _ in segments], [kind for _, kind in segments]

    found = groups(rows, kinds)

    assert [at for run in found for at in run] == list(range(len(rows)))
    for run in found:
        assert len({kinds[at] for at in run}) == 1
        assert len(run) == 1 or sum(rows[at] for at in run) <= 65_536
    for left, right in pairwise(found):  # no two could be one
        size = sum(rows[at] for at in left) + rows[right.start]
        assert kinds[left.start] != kinds[right.start] or size > 65_536


@given(st.lists(st.integers(0, 10**12), max_size=60), st.integers(1, 70))
def test_every_cell_is_in_one_share_and_none_is_far_above_the_mean(
    costs: list[int], parts: int
) -> None:
    shares = [share(costs, part, parts) for part in range(parts)]

    assert [at for mine in shares for at in mine] == list(range(len(costs)))
    for mine in shares:
        assert sum(costs[at] for at in mine) <= sum(costs) / parts + max(costs, default=0)
