"""How comparing a night is cut into cells, which tasks share.

The night's queries go in blocks. A cell is a block against a group of segments of history, or
against a block of the night itself. Which cells there are follows from the rows that are compared,
never from the number of tasks. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from itertools import accumulate

_STEP = 4096
_LEAST = 4 * _STEP
"""A block's rows at least, where there are so many: below that, what is made of a block for a
search (its codes, its float32 copy) costs more than comparing it."""
_BLOCKS = 32
"""Blocks of a night, as long as they stay within the bounds: 528 cells within it, a few for each of
many tasks."""
_MOST = 32 * _STEP
"""A block's rows at most: a task holds two, of 3.5 KB a row at 512 dimensions."""
_GROUP = 65_536
"""Rows of small segments that are searched as one: 64 MB at 512 dimensions."""


def blocks(count: int) -> list[range]:
    """The blocks of so many queries: equal ones, but for the last."""
    size = min(_MOST, max(_LEAST, -(-count // (_BLOCKS * _STEP)) * _STEP))
    return [range(at, min(at + size, count)) for at in range(0, count, size)]


def groups(rows: Sequence[int], kinds: Sequence[Hashable]) -> list[range]:
    """Which segments are searched as one: runs of neighbours, as long as they are small.

    Args:
        rows: of each segment, in turn order.
        kinds: what must be the same of those in a group.
    """
    answer: list[range] = []
    held = 0
    for at, (size, kind) in enumerate(zip(rows, kinds, strict=True)):
        if answer and held + size <= _GROUP and kind == kinds[at - 1]:
            answer[-1] = range(answer[-1].start, at + 1)
            held += size
        else:
            answer.append(range(at, at + 1))
            held = size
    return answer


def share(costs: Sequence[int], part: int, tasks: int) -> range:
    """The cells of one part, as many parts as tasks: neighbours, of about equal cost together.

    Every cell is in exactly one part; neighbours have a block in common, which is loaded once.
    """
    ends = list(accumulate(costs))
    if not ends:
        return range(0)
    middles = [end - cost / 2 for end, cost in zip(ends, costs, strict=True)]
    first = bisect_left(middles, ends[-1] * part / tasks)
    # the last part takes what is left, so that cells without cost are in one too
    end = len(costs) if part == tasks - 1 else bisect_left(middles, ends[-1] * (part + 1) / tasks)
    return range(first, end)
