"""Files of earlier nights that nobody has read: plan names them, a supplement reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sscd_ops.catalog import batches, shards
from sscd_ops.core.schedule import date_of, intervals_before
from sscd_ops.model import Batch, FoundShard
from sscd_ops.options import DatasetOptions
from sscd_ops.ports import Source
from sscd_ops.steps.parts import Parts


@dataclass(frozen=True)
class LateShard:
    """A source shard of an earlier interval that no batch has read."""

    uri: str
    date: str
    """What ``--date`` takes for its night."""
    supplement: bool
    """Whether that night is decided, so that only a supplement reads the file."""


def find_late(
    parts: Parts,
    batch: Batch,
    options: DatasetOptions,
    sources: Sequence[Source],
    found: Sequence[FoundShard],
) -> list[LateShard]:
    """Source shards of the last ``late_days`` intervals that no batch has read or is to read.

    Args:
        parts: the joined parts.
        batch: the night that is planned.
        options: the dataset's.
        sources: its sources.
        found: what the night itself reads.
    """
    with parts.catalog.begin() as conn:
        if not batches.has_decided(conn, batch.dataset_id):
            return []  # of a dataset that begins, everything earlier would be late
    cron = (options.schedule, options.timezone)
    dated = {s.name for s in options.sources if any("{" in url for url in s.urls)}
    seen = {shard.uri for shard in found}
    answer: list[LateShard] = []
    for night in intervals_before(*cron, batch.interval, options.late_days):
        there = [
            shard
            for source in sources
            if source.name in dated
            for shard in source.find(night, options.timezone)
            if shard.uri not in seen
        ]
        seen.update(shard.uri for shard in there)
        with parts.catalog.begin() as conn:
            owned = shards.owners(conn, batch.dataset_id, there)
            earlier = batches.batches_of_interval(conn, batch.dataset_id, night)
        begun = any(other.state.is_decided for other in earlier)
        answer += [
            LateShard(shard.uri, date_of(*cron, night), begun)
            for shard in there
            if shard not in owned
        ]
    return answer
