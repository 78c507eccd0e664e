"""Which small shards become one, so that a sample is copied a few times at most. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from sscd_ops.core.shard_plan import cut


class Extent(NamedTuple):
    """How large a shard is."""

    samples: int
    bytes: int


class Limits(NamedTuple):
    """What a merged shard holds at most, and which shards are small.

    ``below``: bytes; a small shard has fewer, and fewer samples than half of ``max_samples``.
    """

    max_samples: int
    max_bytes: int
    below: int

    def is_small(self, shard: Extent) -> bool:
        """Whether a shard is merged with others."""
        return shard.bytes < self.below and 2 * shard.samples < self.max_samples


def plan_merges(shards: Sequence[Extent], limits: Limits) -> list[list[int]]:
    """Put small shards together into as few as the limits allow, of equal size.

    Only where the largest one of a merge is at most half of it: each time a sample is copied its
    shard is at least twice as large as before, however often this is asked, and shards that wait
    for that halve in size, so there are few. What was merged is merged no further until then: asked
    again of the shards that come out, it answers nothing.

    Args:
        shards: of one kind, in published order.
        limits: of the merged ones.

    Returns:
        Places in ``shards`` of what becomes one: ascending, two or more each, in the order of the
        first.
    """
    runs = [[place] for place in range(len(shards))]

    def extent(run: Sequence[int]) -> Extent:
        return Extent(sum(shards[i].samples for i in run), sum(shards[i].bytes for i in run))

    while True:
        small = [run for run in runs if limits.is_small(extent(run))]
        extents = [extent(run) for run in small]
        joined = [
            sorted(place for at in group for place in small[at])
            for group in _groups(extents, limits)
        ]
        if not joined:
            return sorted(run for run in runs if len(run) > 1)
        taken = {place for run in joined for place in run}
        # with larger ones between them, what was apart may stand side by side now
        runs = sorted([*joined, *(run for run in runs if run[0] not in taken)])


def _groups(small: Sequence[Extent], limits: Limits) -> Iterator[list[int]]:
    """Places of small shards that become one, of all of them in a row."""
    cuts = cut(
        np.array([shard.samples for shard in small], np.int64),
        np.array([shard.bytes for shard in small], np.int64),
        max_samples=limits.max_samples,
        max_bytes=limits.max_bytes,
    )
    for start, end in pairwise(cuts):
        group = sorted(range(start, end), key=lambda place: small[place].bytes)
        total = sum(small[place].bytes for place in group)
        while len(group) > 1 and 2 * small[group[-1]].bytes > total:
            total -= small[group.pop()].bytes
        if len(group) > 1:
            yield group
