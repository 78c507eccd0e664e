"""A batch's sources as they are now: what is gone or changed, and what was never there."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sscd_ops.catalog import shards
from sscd_ops.errors import PUT_BACK, SourceChanged
from sscd_ops.options import SourceOptions
from sscd_ops.steps.parts import Parts, Work

_AT_ONCE = 16
"""Looks at remote storage at the same time."""
_NAMED = 3
"""Files that a message names."""


def require_sources(parts: Parts, work: Work) -> None:
    """Refuse to decide about files that are gone or have become others since plan listed them.

    What is decided about them could not be published, and copies elsewhere would be removed for
    them. One look at each, so it is cheap; a file that goes a moment later makes the batch
    `unpublishable`, as ever.

    Raises:
        SourceChanged: names the files and what to do.
        StoreUnavailable: storage did not answer.
    """
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, work.attempt.attempt_id)
    sources = {s.name: parts.source(s, work.options.limits) for s in work.options.sources}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda shard: sources[shard.source].version(shard.found), registered)
        seen = list(zip(registered, found, strict=True))
    wrong = [
        f"{shard.uri} is gone" if version is None else f"{shard.uri} has changed"
        for shard, version in seen
        if version != shard.version
    ]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise SourceChanged(
            f"nothing is decided: of the {len(registered)} source shards of batch"
            f" {work.batch.batch_id} ({work.batch.name}) {', '.join(wrong[:_NAMED])}{more} since"
            f" plan listed them: {PUT_BACK}"
        )


@dataclass(frozen=True)
class Absent:
    """URLs of a source that name nothing in a night."""

    source: str
    urls: list[str]


def nothing_at(parts: Parts, work: Work, sources: Sequence[SourceOptions]) -> list[Absent]:
    """Which URLs of these sources name no source shard in the batch's night."""
    options = work.options
    looked = [
        Absent(s.name, parts.nothing_at(s, options.limits, work.batch.interval, options.timezone))
        for s in sources
    ]
    return [absent for absent in looked if absent.urls]
