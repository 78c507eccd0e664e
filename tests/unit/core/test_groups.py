from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.groups import balanced_groups


@given(
    st.lists(st.one_of(st.integers(0, 10), st.integers(0, 10**13)), min_size=1, max_size=60),
    st.data(),
)
def test_groups_are_in_order_never_empty_and_at_most_a_file_above_the_mean(
    sizes: list[int], data: st.DataObject
) -> None:
    groups = data.draw(st.integers(1, len(sizes)))

    found = balanced_groups(sizes, groups)

    assert found[0] == 0
    assert found[-1] == groups - 1
    assert {after - before for before, after in pairwise(found)} <= {0, 1}
    weights = [max(1, size) for size in sizes]  # a file of no bytes is work too
    mean, largest = sum(weights) / groups, max(weights)
    for number in range(groups):
        mine = [size for size, group in zip(weights, found, strict=True) if group == number]
        assert len(mine) == 1 or sum(mine) <= (mean + largest) * (1 + 1e-12)


def test_equal_files_are_counted() -> None:
    assert balanced_groups([5] * 7, 3) == [0, 0, 0, 1, 1, 2, 2]


def test_a_large_file_stands_alone_and_small_ones_together() -> None:
    assert balanced_groups([100, 1, 1, 1, 1, 96], 3) == [0, 1, 1, 1, 1, 2]


def test_of_no_file_there_is_no_group() -> None:
    assert balanced_groups([], 0) == []
