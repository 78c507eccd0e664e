"""ingest: read source shards once and write a manifest of each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from sscd_ops.catalog import batches, shards
from sscd_ops.core.interpret import Interpreter
from sscd_ops.core.manifest import ManifestBuilder
from sscd_ops.model import Fault, RawSample, ShardEnd, SourceShard
from sscd_ops.ports import InspectImage, Source
from sscd_ops.steps.parts import (
    Parts,
    StepReport,
    Stopwatch,
    Work,
    groups_asked,
    load_work,
    with_abandon,
)

log = logging.getLogger(__name__)


@with_abandon
def run(parts: Parts, batch_id: int, group: int | Sequence[int]) -> StepReport:
    """Write the manifests of a group's (or several groups') source shards that have none yet.

    Bytes are not copied: publish takes them from the source. What is wrong with a sample or a
    shard becomes a row of the manifest.

    Raises:
        SourceChanged: a source shard vanished or changed since plan listed it.
        StaleAttempt: the batch was abandoned meanwhile.
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, work.attempt.attempt_id)
    asked = groups_asked(group)
    todo = [s for s in registered if s.group in asked]
    missing = [shard for shard in todo if shard.manifest is None]
    if work.batch.state.is_decided or not missing:
        return StepReport("ingest", batch_id, {"shards": len(todo)}, watch.seconds, answered=True)
    total = {
        "shards": 0, "faulty_shards": 0, "samples": 0, "quarantined": 0, "not_delivered": 0,
        "ignored": 0,
    }  # fmt: skip
    inspect = parts.inspector(work.options.limits)
    parts.progress.start(f"ingest {work.batch.dataset}", len(missing))
    for shard in missing:
        counts = _ingest(parts, work, shard, inspect)
        total["shards"] += 1
        for name in counts.keys() & total.keys():
            total[name] += counts[name]
        parts.progress.advance()
    parts.progress.done()
    return StepReport("ingest", batch_id, total, watch.seconds)


def _ingest(parts: Parts, work: Work, shard: SourceShard, inspect: InspectImage) -> dict[str, int]:
    options = work.options
    source_options = options.source(shard.source)
    source = parts.source(source_options, options.limits)
    interpreter = Interpreter(
        options.name, source_options, options.limits, shard.relative_uri, inspect
    )
    counts = {
        "samples": 0, "quarantined": 0, "not_delivered": 0, "ignored": 0, "faulty_shards": 0
    }  # fmt: skip
    ignored: dict[str, int] = {}

    def write(stream: BinaryIO) -> None:
        with ManifestBuilder(stream) as builder:
            for item in _read(source, shard, options.limits.max_shard_bytes):
                if isinstance(item, RawSample):
                    row = interpreter.row(item)
                    builder.add(row)
                    counts["samples"] += 1
                    counts["quarantined"] += row.code is not None
                else:
                    _end(builder, shard, item, counts, ignored)

    file = parts.store.put(f"{work.folder}/manifests", ".parquet", write)
    with parts.catalog.begin() as conn:
        batches.require_attempt(conn, work.batch.batch_id, work.attempt.attempt_id)
        shards.register_file(
            conn, shard.shard_id, "manifest", file, {**counts, "ignored_entries": ignored}
        )
        if shards.all_registered(conn, work.attempt.attempt_id, "manifest"):
            batches.advance_state(conn, work.batch.batch_id, ("planned",), "ingested")
    if ignored:
        log.info("entries left out uri=%s kinds=%s", shard.uri, ignored)
    return counts


def _read(source: Source, shard: SourceShard, limit: int) -> Iterator[RawSample | ShardEnd]:
    if shard.size <= limit:
        return source.read(shard.found)
    message = (
        f"{shard.size} bytes, at most {limit} (limits.max_shard_bytes): deliver it in smaller files"
    )
    return iter([ShardEnd((Fault.SHARD_TOO_LARGE, message))])


def _end(
    builder: ManifestBuilder,
    shard: SourceShard,
    end: ShardEnd,
    counts: dict[str, int],
    ignored: dict[str, int],
) -> None:
    counts["not_delivered"] = end.not_delivered
    counts["ignored"] = sum(end.ignored.values())
    ignored.update(end.ignored)
    if end.fault is not None:
        code, message = end.fault
        counts["faulty_shards"] = 1
        log.warning("source shard is faulty uri=%s code=%s message=%s", shard.uri, code, message)
        builder.add_shard_fault(code, message)
