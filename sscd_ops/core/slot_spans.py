"""Interval arithmetic over slots: what one list of shards holds that another does not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sscd_ops.model import SlotSpan


class MovedSpan(NamedTuple):
    """Slots in a row that one output shard held and another one holds."""

    decision_id: int
    start: int
    end: int
    output_id: int
    other_id: int


def common(before: Sequence[SlotSpan], after: Sequence[SlotSpan]) -> Iterator[MovedSpan]:
    """The slots of both, by decision and number, as long as their shards stay the same.

    Args:
        before: in any order; no slot twice.
        after: likewise.
    """
    left, right = sorted(before), sorted(after)
    i = j = 0
    while i < len(left) and j < len(right):
        one, other = left[i], right[j]
        if one.decision_id == other.decision_id:
            start, end = max(one.start, other.start), min(one.end, other.end)
            if start < end:
                yield MovedSpan(one.decision_id, start, end, one.output_id, other.output_id)
        if (one.decision_id, one.end) <= (other.decision_id, other.end):
            i += 1
        else:
            j += 1


def without(spans: Sequence[SlotSpan], holes: Sequence[MovedSpan]) -> Iterator[SlotSpan]:
    """What is left of some spans, by decision and number.

    Args:
        spans: in any order; no slot twice.
        holes: slots of them that are left out, as ``common`` yields them.
    """
    at = 0
    for span in sorted(spans):
        start = span.start
        while at < len(holes) and holes[at][:2] < (span.decision_id, span.end):
            hole = holes[at]
            if hole.start > start:
                yield span._replace(start=start, end=hole.start)
            start = hole.end
            at += 1
        if start < span.end:
            yield span._replace(start=start)
