"""Interval arithmetic over slots, against sets of slots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.slot_spans import MovedSpan, common, without
from sscd_ops.model import SlotSpan as Span


@st.composite
def spans(draw: st.DrawFn, output: int) -> list[Span]:
    """Spans that share no slot, some of them side by side, of three decisions, in any order."""
    found = []
    for decision in range(3):
        ends = draw(st.lists(st.integers(0, 20), unique=True).map(sorted))
        for start, end in pairwise(ends):
            if draw(st.booleans()):
                output += 1
                found.append(Span(decision, start, end, output))
    return draw(st.permutations(found))


def slots(found: Sequence[Span | MovedSpan]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Each slot with its shards."""
    answer: dict[tuple[int, int], tuple[int, ...]] = {}
    for span in found:
        assert span.start < span.end
        for number in range(span.start, span.end):
            assert (span.decision_id, number) not in answer
            answer[span.decision_id, number] = tuple(span[3:])
    return answer


@given(spans(0), spans(100))
def test_slots_of_both_and_of_one_alone_are_those_of_sets(
    before: list[Span], after: list[Span]
) -> None:
    was, now = slots(before), slots(after)

    both = list(common(before, after))

    assert slots(both) == {slot: was[slot] + now[slot] for slot in was.keys() & now.keys()}
    assert slots(list(without(before, both))) == {s: was[s] for s in was.keys() - now.keys()}
    assert slots(list(without(after, both))) == {s: now[s] for s in now.keys() - was.keys()}


def test_spans_stay_whole_where_nothing_divides_them() -> None:
    before, after = [Span(1, 0, 1_000_000, 7)], [Span(1, 0, 400_000, 8), Span(2, 0, 5, 9)]

    both = list(common(before, after))

    assert both == [MovedSpan(1, 0, 400_000, 7, 8)]
    assert list(without(before, both)) == [Span(1, 400_000, 1_000_000, 7)]
    assert list(without(after, both)) == [Span(2, 0, 5, 9)]
