"""ingest: read source shards once and write a manifest of each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, forgotten, shards
from sscd_ops.core.interpret import Interpreter
from sscd_ops.core.manifest import ManifestBuilder, erase
from sscd_ops.errors import (
    BatchNotRunnable,
    CommitConflict,
    FileMismatch,
    InvariantError,
    SourceChanged,
)
from sscd_ops.model import Fault, FoundShard, RawSample, ShardEnd, SourceShard, StoredFile
from sscd_ops.ports import InspectImage
from sscd_ops.steps.parts import (
    Parts,
    Stopwatch,
    Work,
    groups_asked,
    load_work,
    restore,
    with_abandon,
)
from sscd_ops.steps.reports import StepReport

log = logging.getLogger(__name__)


@with_abandon
def run(parts: Parts, batch_id: int, group: int | Sequence[int]) -> StepReport:
    """Write the manifests of a group's (or several groups') source shards that have none yet.

    Bytes are not copied: publish takes them from the source. What is wrong with a sample or a
    shard becomes a row of the manifest. A manifest that was lost or damaged since is made anew.

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
    if not work.batch.state.is_decided:
        for shard in todo:
            if shard.manifest is not None:
                manifest_of(parts, work, shard)
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


def manifest_of(parts: Parts, work: Work, shard: SourceShard) -> Path:
    """A shard's manifest as a local file; made anew from the source where it is lost or damaged.

    Raises:
        BatchNotRunnable: ingest has not written it yet.
        SourceChanged: it cannot be made anew: the source is not what was read.
        FileMismatch: what is made anew is another manifest, or it cannot be written.
    """
    if shard.manifest is None:
        raise BatchNotRunnable(
            f"source shard {shard.uri} of batch {work.batch.batch_id} has no manifest yet: this"
            " step starts when all ingest is done"
        )
    try:
        return parts.store.local(shard.manifest)
    except FileMismatch as damage:
        with parts.catalog.begin() as conn:
            now = shards.read_shard(conn, shard.shard_id)
        if now is not None and now.manifest not in (None, shard.manifest):
            return manifest_of(
                parts, work, replace(shard, manifest=now.manifest)
            )  # text was erased
        _make_anew(parts, work, shard, shard.manifest, damage)
    return parts.store.local(shard.manifest)


def manifest_as_read(parts: Parts, work: Work, shard: SourceShard) -> Path:
    """As ``manifest_of``, of a manifest that has text of samples which is to be erased."""
    if shard.manifest is None:
        raise InvariantError(f"source shard {shard.uri} has no manifest")
    try:
        return parts.store.local(shard.manifest)
    except FileMismatch as damage:
        _make_anew(parts, work, shard, shard.manifest, damage, as_read=True)
    return parts.store.local(shard.manifest)


def _make_anew(
    parts: Parts,
    work: Work,
    shard: SourceShard,
    manifest: StoredFile,
    damage: FileMismatch,
    *,
    as_read: bool = False,
) -> None:
    log.warning("making a manifest anew uri=%s damage=%s", shard.uri, damage)
    batch_id, undecided = work.batch.batch_id, not work.batch.state.is_decided
    or_else = f", or sscd-ops batch abandon {batch_id} --why '...' and run its night again"
    # the sha256 says whether it is what was read
    found = shard.found.any_version
    writing = _Writing(parts, work, shard, found, parts.inspector(work.options.limits))
    if as_read:
        writing.erased = frozenset()
    try:
        restore(parts, manifest, writing.write, or_else if undecided else "")
    except SourceChanged as changed:
        raise SourceChanged(
            f"the manifest {manifest.name} is lost or damaged, and cannot be made anew: {changed}"
        ) from damage


class _Writing:
    """Reads a source shard and writes its manifest; counts what it saw.

    Attributes:
        erased: samples whose text is left out.
    """

    def __init__(
        self, parts: Parts, work: Work, shard: SourceShard, found: FoundShard, inspect: InspectImage
    ) -> None:
        options = work.options
        source_options = options.source(shard.source)
        self._source = parts.source(source_options, options.limits)
        self._interpreter = Interpreter(
            options.name, source_options, options.limits, shard.relative_uri, inspect
        )
        self._found = found
        self._limit = options.limits.max_shard_bytes
        self.counts = {
            "samples": 0, "urls": 0, "quarantined": 0, "not_delivered": 0, "ignored": 0,
            "faulty_shards": 0,
        }  # fmt: skip
        self.ignored: dict[str, int] = {}
        with parts.catalog.begin() as conn:
            self.erased = erased_of(conn, work, shard)

    def write(self, stream: BinaryIO) -> None:
        with ManifestBuilder(stream) as builder:
            for item in self._read():
                if isinstance(item, RawSample):
                    row = self._interpreter.row(item)
                    if row.sample_id in self.erased:
                        erase(row)
                    builder.add(row)
                    self.counts["samples"] += 1
                    self.counts["urls"] += row.host is not None
                    self.counts["quarantined"] += row.code is not None
                else:
                    self._end(builder, item)

    def _read(self) -> Iterator[RawSample | ShardEnd]:
        size = self._found.size
        if size <= self._limit:
            return self._source.read(self._found)
        message = (
            f"{size} bytes, at most {self._limit} (limits.max_shard_bytes): deliver it in smaller"
            " files"
        )
        return iter([ShardEnd((Fault.SHARD_TOO_LARGE, message))])

    def _end(self, builder: ManifestBuilder, end: ShardEnd) -> None:
        self.counts["not_delivered"] = end.not_delivered
        self.counts["ignored"] = sum(end.ignored.values())
        self.ignored = dict(end.ignored)
        if end.fault is not None:
            code, message = end.fault
            self.counts["faulty_shards"] = 1
            uri = self._found.uri
            log.warning("source shard is faulty uri=%s code=%s message=%s", uri, code, message)
            builder.add_shard_fault(code, message)


def erased_of(conn: Connection, work: Work, shard: SourceShard) -> frozenset[bytes]:
    """The samples of a source shard whose text was erased, as the bytes of their ids."""
    dataset_id = work.batch.dataset_id
    return forgotten.erased_of_file(conn, dataset_id, shard.source, shard.relative_uri)


def _ingest(parts: Parts, work: Work, shard: SourceShard, inspect: InspectImage) -> dict[str, int]:
    writing = _Writing(parts, work, shard, shard.found, inspect)
    file = parts.store.put(f"{work.folder}/manifests", ".parquet", writing.write)
    counts, ignored = writing.counts, writing.ignored
    with parts.catalog.begin() as conn:
        said = {**counts, "ignored_entries": ignored}
        attempts.register_file(conn, work.batch, shard.shard_id, "manifest", file, said)
        # asked once the file is named: who erases waits for those who name files
        if erased_of(conn, work, shard) != writing.erased:
            raise CommitConflict(f"text of {shard.uri} was erased meanwhile: read it again")
    if ignored:
        log.info("entries left out uri=%s kinds=%s", shard.uri, ignored)
    return counts
