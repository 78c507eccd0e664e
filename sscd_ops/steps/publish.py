"""publish: write the planned output shards. A pure function of committed decisions; no lock."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscd_ops.catalog import decisions, events, publishing, shards
from sscd_ops.catalog.sql import files_of
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.shard_plan import published_extensions
from sscd_ops.errors import PUT_BACK, BatchNotRunnable, FileMismatch, SourceChanged
from sscd_ops.model import MemberRef, SourceShard, StoredFile
from sscd_ops.options import PUBLISHED_COLUMNS
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work, restore, write_bytes
from sscd_ops.steps.publish_plan import numbers_of
from sscd_ops.steps.reports import StepReport

log = logging.getLogger(__name__)


def run(parts: Parts, batch_id: int, group: int) -> StepReport:
    """Write the output shards of a group that are not registered yet.

    Every member is checked against its manifest digest.

    Raises:
        SourceChanged: a member is gone or differs; the batch becomes ``unpublishable`` until the
            original is back.
        FileMismatch: a manifest is lost and cannot be made anew; the batch likewise.
        BatchNotRunnable: the batch is not decided.
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    if not work.batch.state.is_decided:
        raise BatchNotRunnable(f"batch {batch_id} is {work.batch.state}: publish follows resolve")
    with parts.catalog.begin() as conn:
        decision_id = decisions.of_batch(conn, batch_id).decision_id
        planned = publishing.output_shards(conn, decision_id)
        registered = {s.shard_id: s for s in shards.shards_of(conn, work.attempt.attempt_id)}
    numbers = numbers_of(group, len(planned), work.options.airflow.max_tasks)
    todo = [planned[n] for n in numbers if planned[n]["files"] is None]
    total = {"shards": len(numbers), "written": len(todo), "samples": 0, "bytes": 0}
    parts.progress.start(f"publish {work.batch.dataset}", len(todo))
    for shard in todo:
        with parts.catalog.begin() as conn:
            rows = publishing.samples_of_output(conn, shard["output_id"])
        try:
            files = _write_shard(parts, work, shard, rows, registered)
        except (SourceChanged, FileMismatch) as error:
            _unpublishable(parts, work, str(error))
            raise
        with parts.catalog.begin() as conn:
            publishing.register_output(conn, shard["output_id"], files)
        total["samples"] += len(rows)
        total["bytes"] += files["tar"].bytes
        parts.progress.advance()
    parts.progress.done()
    return StepReport("publish", batch_id, total, watch.seconds, answered=not todo)


def _unpublishable(parts: Parts, work: Work, message: str) -> None:
    with parts.catalog.begin() as conn:
        if publishing.mark_unpublishable(conn, work.batch.batch_id, message):
            events.add_event(
                conn,
                work.batch.dataset_id,
                "unpublishable",
                actor=str(work.batch.runner),
                why=message,
                turn=work.batch.turn,
                batch_id=work.batch.batch_id,
            )


# ---------------------------------------------------------------- one shard


@dataclass(frozen=True, slots=True)
class _Sample:
    """A kept sample as it is published."""

    row: Mapping[str, Any]
    members: list[dict[str, Any]]
    image_member: str
    names: tuple[str, ...]
    """Published extension of each member; then those made here (``txt``, ``json``)."""

    @property
    def key(self) -> str:
        return str(self.row["sample_id"].hex)


Write = Callable[[BinaryIO], None]
PutFile = Callable[[str, str, Write], StoredFile]
"""Writes a file of an output shard: its role, its name, what writes its bytes."""


def _write_shard(
    parts: Parts,
    work: Work,
    shard: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    registered: Mapping[int, SourceShard],
    put: PutFile | None = None,
) -> dict[str, StoredFile]:
    """Write one planned shard: tar, parquet and stats.

    Names follow from the plan's digest. Whatever changes the bytes written here must raise
    ``core.shard_plan.WRITER_VERSION``, or a retry under a new release meets its own older files.
    """
    put = put or partial(_put, parts, shard)
    samples = list(_samples(parts, work, rows, registered))
    offsets: list[int] = []
    sizes: list[int] = []

    def write_tar(stream: BinaryIO) -> None:
        sink = parts.tar_sink(stream)
        offsets.clear()
        sizes.clear()
        for sample, contents in _contents(parts, work, samples, registered):
            for index, (extension, data) in enumerate(zip(sample.names, contents, strict=True)):
                at = sink.add(f"{sample.key}.{extension}", data)
                if index < len(sample.members) and (
                    sample.members[index]["name"] == sample.image_member
                ):
                    offsets.append(at)
                    sizes.append(len(data))
        sink.close()

    tar = put("tar", shard["name"], write_tar)
    return {"tar": tar, **describe(put, shard, tar, _table(work, samples, offsets, sizes))}


def describe(
    put: PutFile, shard: Mapping[str, Any], tar: StoredFile, table: pa.Table
) -> dict[str, StoredFile]:
    """Write what stands beside an output shard's tar: its parquet, which is given, and stats."""
    stem = shard["name"].removesuffix(".tar")
    parquet = put(
        "parquet",
        f"{stem}.parquet",
        lambda stream: pq.write_table(table, stream, compression="zstd"),
    )
    stats = (
        json.dumps(
            {
                "count": len(table),
                "successes": len(table),
                "form": shard["form"],
                "bytes": tar.bytes,
                "sha256": tar.sha256,
            },
            indent=1,
            sort_keys=True,
        )
        + "\n"
    ).encode()
    stats_file = put("stats", f"{stem}_stats.json", lambda stream: write_bytes(stream, stats))
    return {"parquet": parquet, "stats": stats_file}


def _put(parts: Parts, shard: Mapping[str, Any], role: str, name: str, write: Write) -> StoredFile:
    """Write a file that no row names yet, over what a killed try or a bad disk left there."""
    try:
        return parts.store.put_named(name, write)
    except FileMismatch:
        with parts.catalog.begin() as conn:
            files = publishing.files_of_output(conn, shard["output_id"])
        if files:  # another process registered it just now: its bytes count, not ours
            return files_of(files)[role]
        return put_over(parts, role, name, write)


def put_over(parts: Parts, role: str, name: str, write: Write) -> StoredFile:
    """Write over other bytes of this name, save a parquet of the same rows: that one is taken."""
    earlier = _earlier_parquet(parts, name, write) if role == "parquet" else None
    if earlier is not None:
        return earlier
    log.warning("wrote over a file that no row names role=%s name=%s", role, name)
    return parts.store.put_named(name, write, over=True)


def _earlier_parquet(parts: Parts, name: str, write: Write) -> StoredFile | None:
    """The parquet that a try under another release of pyarrow left, if it has the same rows.

    Its bytes depend on the release, its name does not; equal rows are what is promised.
    """
    there = parts.store.read_small(name)
    wanted = io.BytesIO()
    write(wanted)
    if there is None or not _equal_rows(there, wanted.getvalue()):
        return None
    log.info("took the parquet of an earlier release name=%s", name)
    return StoredFile(name, hashlib.sha256(there).hexdigest(), len(there))


def _equal_rows(there: bytes, wanted: bytes) -> bool:
    try:
        found = pq.read_table(pa.BufferReader(there))
    except (pa.ArrowException, OSError):
        return False
    return bool(found.equals(pq.read_table(pa.BufferReader(wanted))))


def write_again(parts: Parts, work: Work, shard: Mapping[str, Any]) -> None:
    """Write the files of an output shard anew, with the bytes they had when they were registered.

    Raises:
        SourceChanged: a member is gone from its source, or differs.
        FileMismatch: the bytes cannot be had again: another release wrote them, or their month was
            detached.
    """
    named = files_of(shard["files"])
    with parts.catalog.begin() as conn:
        registered = {s.shard_id: s for s in shards.shards_of(conn, work.attempt.attempt_id)}
        rows = publishing.samples_of_output(conn, shard["output_id"])
    if len(rows) != shard["samples"]:
        raise FileMismatch(
            f"{shard['name']}: the month of its samples was detached, so that it cannot be written"
            " anew: restore it from a backup"
        )

    def put(role: str, name: str, write: Write) -> StoredFile:
        restore(parts, named[role], write)
        return named[role]

    _write_shard(parts, work, shard, rows, registered, put)


def _samples(
    parts: Parts,
    work: Work,
    rows: Sequence[Mapping[str, Any]],
    registered: Mapping[int, SourceShard],
) -> Iterator[_Sample]:
    """The shard's samples with their members, from the manifests."""
    start = 0
    while start < len(rows):
        shard_id = rows[start]["shard_id"]
        stop = start
        while stop < len(rows) and rows[stop]["shard_id"] == shard_id:
            stop += 1
        here = rows[start:stop]
        table = read_manifest(
            manifest_of(parts, work, registered[shard_id]),
            columns=["position", "members", "image_member"],
        )
        wanted = pa.array([row["position"] for row in here], pa.int32())
        # positions are 0, 1, 2 ... in row order, save for a shard fault at the end
        table = table.take(pc.index_in(wanted, table.column("position").combine_chunks()))
        for row, found in zip(here, table.to_pylist(), strict=True):
            extensions = [member["extension"] for member in found["members"]]
            yield _Sample(
                row, found["members"], found["image_member"], published_extensions(extensions)
            )
        start = stop


def _contents(
    parts: Parts,
    work: Work,
    samples: Sequence[_Sample],
    registered: Mapping[int, SourceShard],
) -> Iterator[tuple[_Sample, list[bytes]]]:
    """Each sample with its members' bytes as in the source, and what is made here."""
    options = work.options
    start = 0
    while start < len(samples):
        shard = registered[samples[start].row["shard_id"]]
        stop = start
        while stop < len(samples) and samples[stop].row["shard_id"] == shard.shard_id:
            stop += 1
        here = samples[start:stop]
        refs = [
            MemberRef(m["name"], m["offset"], m["size"], m["sha256"])
            for sample in here
            for m in sample.members
        ]
        source = parts.source(options.source(shard.source), options.limits)
        fetched = _checked(shard, refs, source.fetch(shard.found, refs))
        for sample in here:
            contents = [next(fetched) for _ in sample.members]
            contents += [
                _made(work, sample, extension) for extension in sample.names[len(contents) :]
            ]
            yield sample, contents
        start = stop


def _checked(
    shard: SourceShard, refs: Sequence[MemberRef], fetched: Iterator[bytes]
) -> Iterator[bytes]:
    for ref, data in zip(refs, fetched, strict=True):
        if hashlib.sha256(data).digest() != ref.sha256:
            raise SourceChanged(
                f"{shard.uri}: member {ref.name!r} is no longer what was decided on"
                f" (sha256 differs): {PUT_BACK}"
            )
        yield data


def _made(work: Work, sample: _Sample, extension: str) -> bytes:
    """A member the source does not have: the caption, or where the sample comes from."""
    row = sample.row
    if extension == "txt":
        return (row["caption"] or "").encode()
    return json.dumps(
        {
            "caption": row["caption"],
            "dataset": work.batch.dataset,
            "key": row["key"],
            "source": row["source"],
            "source_shard": row["relative_uri"],
        },
        sort_keys=True,
        ensure_ascii=False,
    ).encode()


def _table(
    work: Work, samples: Sequence[_Sample], offsets: Sequence[int], sizes: Sequence[int]
) -> pa.Table:
    """The parquet beside a tar."""
    rows = [sample.row for sample in samples]
    columns: dict[str, pa.Array] = {
        "key": pa.array([sample.key for sample in samples], pa.string()),
        "sample_id": pa.array([str(row["sample_id"]) for row in rows], pa.string()),
        "source": pa.array([row["source"] for row in rows], pa.string()),
        "source_shard": pa.array([row["relative_uri"] for row in rows], pa.string()),
        "source_key": pa.array([row["key"] for row in rows], pa.string()),
        "sha256": pa.array([bytes(row["image_sha256"]).hex() for row in rows], pa.string()),
        "width": pa.array([row["width"] for row in rows], pa.int32()),
        "height": pa.array([row["height"] for row in rows], pa.int32()),
        "caption": pa.array([row["caption"] for row in rows], pa.string()),
        "bytes": pa.array(sizes, pa.int64()),
        "offset": pa.array(offsets, pa.int64()),
    }
    metas = [row["meta"] or {} for row in rows]
    published = {name: columns[name] for name in PUBLISHED_COLUMNS}
    for name in work.meta_columns:  # none of them is a published column: config refuses that
        published[name] = _meta_column([meta.get(name) for meta in metas])
    return pa.table(published)


def _meta_column(values: Sequence[Any]) -> pa.Array:
    """A column of JSON values as text, so that every shard has the same schema.

    A string stands as it is, anything else as JSON.
    """
    texts = [
        v if v is None or isinstance(v, str) else json.dumps(v, sort_keys=True, ensure_ascii=False)
        for v in values
    ]
    return pa.array(texts, pa.string())
