"""Answers that follow a changed mask are those of a search under it."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from sscd_ops.core.masks import follow_mask
from sscd_ops.model import Matches

FLOOR = 0.5


class Segment:
    """Similarities (q, m), few of them distinct; counts what is asked of it."""

    def __init__(self, similarity: NDArray[np.float64], limit: int) -> None:
        self.similarity = similarity
        self.limit = limit
        self.asked: list[tuple[list[int], list[int]]] = []

    def __call__(self, rows: NDArray[np.int64], kept: NDArray[np.bool_]) -> Matches:
        self.asked.append((rows.tolist(), np.flatnonzero(kept).tolist()))
        found = []
        for number, row in enumerate(rows):
            values = self.similarity[row]
            passed = [m for m in range(len(kept)) if kept[m] and values[m] >= FLOOR]
            passed.sort(key=lambda m: (-values[m], m))
            found += [(number, m, values[m]) for m in passed[: self.limit]]
        return Matches(
            np.array([q for q, _, _ in found], np.int64),
            np.array([m for _, m, _ in found], np.int64),
            np.array([s for _, _, s in found], np.float64),
        )


def listed(found: Matches) -> list[tuple[int, int, float]]:
    columns = (found.query, found.reference, found.similarity)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@st.composite
def changed(draw: st.DrawFn) -> tuple[Segment, NDArray[np.bool_], NDArray[np.bool_]]:
    queries, rows = draw(st.integers(0, 4)), draw(st.integers(0, 9))
    levels = st.sampled_from([0.25, 0.5, 0.625, 0.75, 1.0])
    similarity = draw(arrays(np.float64, (queries, rows), elements=levels))
    mask = arrays(np.bool_, rows)
    return Segment(similarity, draw(st.integers(1, 5))), draw(mask), draw(mask)


@example((Segment(np.empty((0, 0)), 3), np.empty(0, bool), np.empty(0, bool)))
@example((Segment(np.ones((2, 3)), 2), np.ones(3, bool), np.zeros(3, bool)))
@example((Segment(np.ones((2, 3)), 2), np.zeros(3, bool), np.ones(3, bool)))
@given(changed())
def test_it_is_a_search_under_the_new_mask(
    given: tuple[Segment, NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    segment, old, new = given
    count = len(segment.similarity)
    everything = np.arange(count)
    before = segment(everything, old)

    after = follow_mask(before, count, old, new, segment.limit, segment)

    assert listed(after) == listed(segment(everything, new))


@given(changed())
def test_nothing_is_asked_twice(
    given: tuple[Segment, NDArray[np.bool_], NDArray[np.bool_]],
) -> None:
    """What was kept before is searched only for a query whose full list lost an entry."""
    segment, old, new = given
    count = len(segment.similarity)
    before = segment(np.arange(count), old)
    full = np.bincount(before.query, minlength=count) == segment.limit
    lost = {int(q) for q in before.query[~new[before.reference]] if full[q]}
    segment.asked.clear()

    follow_mask(before, count, old, new, segment.limit, segment)

    for rows, kept in segment.asked:
        assert rows
        assert kept
        if set(kept) <= set(np.flatnonzero(new & ~old).tolist()):
            assert len(segment.asked) <= 2
        else:
            assert set(rows) <= lost
    asked = [row for rows, _ in segment.asked for row in rows]
    assert len(asked) == len(set(asked))
