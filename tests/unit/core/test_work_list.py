import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.exact import first_places, group_images
from sscd_ops.core.work_list import read_work_list, write_work_list


def written(lists: list[list[int]]) -> bytes:
    stream = io.BytesIO()
    write_work_list(stream, range(len(lists)), [np.array(each, np.int32) for each in lists])
    return stream.getvalue()


@given(
    st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5).map(sorted), max_size=200),
    st.sets(st.integers(0, 250), max_size=20),
)
def test_a_shard_is_answered_with_its_own_list(lists: list[list[int]], asked: set[int]) -> None:
    found = read_work_list(io.BytesIO(written(lists)), asked)

    assert {ordinal: list(positions) for ordinal, positions in found.items()} == {
        ordinal: lists[ordinal] for ordinal in asked if ordinal < len(lists)
    }


def test_equal_lists_give_equal_bytes() -> None:
    assert written([[0, 3], [], [7]]) == written([[0, 3], [], [7]])


@given(st.lists(st.integers(0, 6), max_size=40), st.sampled_from([0, 8, 31]))
def test_the_first_place_of_each_digest_is_found(values: list[int], byte: int) -> None:
    """Whichever byte tells digests apart: the other ones are equal."""
    digests = np.full((len(values), 32), 7, np.uint8)
    digests[:, byte] = values

    found = first_places(digests)

    expected = np.zeros(len(values), bool)
    everything = np.arange(len(values))
    expected[group_images(digests, np.ones(len(values), bool), everything).first] = True
    assert found.tolist() == expected.tolist()


def test_first_places_are_found_across_blocks(monkeypatch) -> None:
    monkeypatch.setattr("sscd_ops.core.exact._AT_ONCE", 2)
    digests = np.repeat(np.arange(4, dtype=np.uint8), 3)[:, None] * np.ones(32, np.uint8)

    assert np.flatnonzero(first_places(digests)).tolist() == [0, 3, 6, 9]
