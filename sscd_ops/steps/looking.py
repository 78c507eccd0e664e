"""Are the sources of what was removed still there: a few are looked at each night, in turn.

What is found is a note at the source shard, which `curation.removed.recoverable` tells of. A name,
a size and a time (or etag) are asked, not bytes; only where these are others one sample is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from sscd_ops.catalog import recoverable
from sscd_ops.catalog.recoverable import Recoverable
from sscd_ops.errors import FileMismatch, SourceChanged, SscdOpsError
from sscd_ops.model import SourceShard
from sscd_ops.ports import Source
from sscd_ops.steps.parts import Parts, Work, load_work
from sscd_ops.steps.shard_writing import fetch, with_members

log = logging.getLogger(__name__)

A_NIGHT = 300
"""Source shards that a commit looks at,"""
A_WEEK = 5_000
"""and `maintain`."""
_THREADS = 16


def look(parts: Parts, dataset_id: int, most: int) -> int:
    """Look at the source shards that nobody looked at for the longest; how many.

    A source whose storage does not answer is passed over.
    """
    silent: set[str] = set()
    looked = 0
    works: dict[int, Work] = {}
    while looked < most:
        with parts.catalog.begin() as conn:
            found = recoverable.longest_unseen(conn, dataset_id, most - looked, sorted(silent))
        for batch_id, _ in found:
            if batch_id not in works:
                works[batch_id] = load_work(parts, batch_id)
        asked = [(works[batch_id], shard) for batch_id, shard in found]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="look") as pool:
            versions = list(pool.map(lambda each: _version(parts, *each), asked))
        seen = [
            (shard, _is_there(parts, work, shard, version))
            for (work, shard), version in zip(asked, versions, strict=True)
        ]
        note(parts, ((shard.shard_id, there) for shard, there in seen if there is not None))
        unanswered = {shard.source for shard, there in seen if there is None}
        looked += sum(there is not None for _, there in seen)
        if not unanswered:
            break
        silent |= unanswered
    for name in sorted(silent):
        log.warning("source %s did not answer: what was seen of it before stands", name)
    return looked


def note(parts: Parts, seen: Iterable[tuple[int, bool]]) -> None:
    """Note of source shards, by number, whether they were there just now."""
    answers = dict(seen)
    if answers:
        with parts.catalog.begin() as conn:
            recoverable.note_seen(
                conn,
                there=[number for number, is_there in answers.items() if is_there],
                gone=[number for number, is_there in answers.items() if not is_there],
            )


def tell(parts: Parts, dataset_id: int) -> Recoverable:
    """What can be had of all that the nights of a dataset removed, as last seen."""
    with parts.catalog.begin() as conn:
        return recoverable.recoverable(conn, dataset_id)


def said(found: Recoverable) -> str:
    """The same for people."""
    if not found.total:
        return "nothing was removed"
    shares = [
        f"{count / found.total:.1%} {where}"
        for count, where in (
            (found.archive, "from the archive"),
            (found.source, "from their source"),
            (found.gone, "gone"),
        )
        if count or where == "gone"
    ]
    since = "" if found.since is None else f" (all sources looked at since {found.since:%F %H:%M})"
    return f"of {found.total} removed samples {', '.join(shares)}{since}"


def _version(parts: Parts, work: Work, shard: SourceShard) -> str | SscdOpsError | None:
    """The version of a source shard now, None where it is gone; why its storage does not say."""
    try:
        return _source(parts, work, shard).version(shard.found)
    except SscdOpsError as error:
        return error


def _source(parts: Parts, work: Work, shard: SourceShard) -> Source:
    return parts.source(work.options.source(shard.source), work.options.limits)


def _is_there(
    parts: Parts, work: Work, shard: SourceShard, version: str | SscdOpsError | None
) -> bool | None:
    """Whether a source shard is there; None where its storage does not say."""
    try:
        if isinstance(version, SscdOpsError):
            raise version
        if version is None or version == shard.version:
            return version is not None
        return _has_bytes(parts, work, shard)
    except SscdOpsError as error:
        log.warning("cannot look at %s: %s", shard.uri, error)
        return None


def _has_bytes(parts: Parts, work: Work, shard: SourceShard) -> bool:
    """Whether a shard of another version has one sample as it was: it may have been copied."""
    with parts.catalog.begin() as conn:
        sample = recoverable.one_removed(conn, shard.shard_id)
    if sample is None:
        return False
    try:
        (whole,) = with_members(parts, [sample], {shard.shard_id: (work, shard)})
        return any(True for _ in fetch(_source(parts, work, shard), shard, [whole]))
    except (SourceChanged, FileMismatch):
        return False
