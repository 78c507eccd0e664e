"""Source shards in groups of about equal bytes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def balanced_groups(sizes: Sequence[int], groups: int) -> list[int]:
    """The group of each file: ascending, from 0, none empty.

    No group has more than the mean and one file.

    Args:
        sizes: bytes of each file, in order.
        groups: how many there are to be, 1 to ``len(sizes)``; 0 where there is no file.
    """
    # a file of no bytes is work too
    ends = np.cumsum([max(1, size) for size in sizes])
    starts = [0]
    for number in range(1, groups):
        # the file that reaches this share of all bytes is the last one before
        reached = int(np.searchsorted(ends, number * int(ends[-1]) / groups)) + 1
        left = len(sizes) - (groups - number)
        starts.append(min(max(reached, starts[-1] + 1), left))
    return np.repeat(np.arange(groups), np.diff([*starts, len(sizes)])).tolist() if groups else []
