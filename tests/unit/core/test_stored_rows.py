"""Stored rows answer as the array would that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.segment_file import set_aside
from sscd_ops.core.stored_rows import StoredRows, in_memory, joined


@given(st.lists(st.integers(0, 5), max_size=6), st.data())
def test_any_indexing_is_that_of_the_array(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(2 * sum(sizes), dtype=np.float16).reshape(-1, 2)
    ends = np.cumsum(sizes, dtype=np.int64)
    pieces = [whole[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    numbers = st.lists(st.integers(0, len(whole) - 1), max_size=9) if len(whole) else st.just([])
    order = np.array(data.draw(numbers), np.int64)
    stored, rows = StoredRows(pieces, whole[:0]), whole
    for _ in range(2):
        bounds = st.integers(-len(rows) - 1, len(rows) + 1)
        part = slice(data.draw(bounds), data.draw(bounds), data.draw(st.sampled_from([None, 1, 3])))
        picked = np.array(data.draw(st.permutations(range(len(rows)))), np.int64)

        for told in (
            stored,
            set_aside(stored),
            in_memory(rows),
            joined([stored, in_memory(rows[:0])]),
        ):
            assert (told.shape, told.dtype, len(told)) == (rows.shape, rows.dtype, len(rows))
            np.testing.assert_array_equal(told[part], rows[part])
            np.testing.assert_array_equal(told[picked], rows[picked])
        # and of some of them in another order, and followed by some more
        stored, rows = joined([stored.at(order), stored]), np.concatenate([rows[order], rows])


def test_a_piece_is_asked_once_and_only_where_it_holds_a_row_that_is_wanted() -> None:
    class Piece:
        def __init__(self, name: str) -> None:
            self.name = name

        def __len__(self) -> int:
            return 3

        def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
            asked.append(self.name)
            return np.zeros((3, 1))[key]

    asked: list[str] = []
    rows = StoredRows([Piece("a"), Piece("b"), Piece("c")], np.zeros((0, 1)))

    rows[2:4]
    rows[np.array([8, 0, 7, 1])]
    rows[3:3]

    assert asked == ["a", "b", "a", "c"]


def test_it_is_not_read_row_by_row_by_mistake() -> None:
    rows = in_memory(np.zeros((3, 1)))

    with pytest.raises(TypeError):
        list(rows)  # type: ignore[call-overload]
