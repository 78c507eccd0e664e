"""publish: write the planned output shards. A pure function of committed decisions; no lock."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscd_ops.catalog import batches, decisions, publishing, shards
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.shard_plan import published_extensions
from sscd_ops.errors import PUT_BACK, BatchNotRunnable, FileMismatch, SourceChanged
from sscd_ops.model import MemberRef, SourceShard, StoredFile
from sscd_ops.options import PUBLISHED_COLUMNS
from sscd_ops.steps.parts import Parts, StepReport, Stopwatch, Work, load_work
from sscd_ops.steps.resolve import numbers_of

log = logging.getLogger(__name__)


def run(parts: Parts, batch_id: int, group: int) -> StepReport:
    """Write the output shards of a group that are not registered yet.

    Every member is checked against its manifest digest.

    Raises:
        SourceChanged: a member is gone or differs; the batch becomes ``unpublishable`` until the
            original is back.
        BatchNotRunnable: the batch is not decided.
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    if not work.batch.state.is_decided:
        raise BatchNotRunnable(f"batch {batch_id} is {work.batch.state}: publish follows resolve")
    with parts.catalog.begin() as conn:
        decision_id = decisions.batch_row(conn, batch_id)["decision_id"]
        planned = publishing.output_shards(conn, decision_id)
        registered = {s.shard_id: s for s in shards.shards_of(conn, work.attempt.attempt_id)}
    numbers = numbers_of(group, len(planned), work.options.airflow.max_tasks)
    todo = [planned[n] for n in numbers if planned[n]["files"] is None]
    total = {"shards": len(numbers), "written": len(todo), "samples": 0, "bytes": 0}
    parts.progress.start(f"publish {work.batch.dataset}", len(todo))
    for shard in todo:
        with parts.catalog.begin() as conn:
            rows = publishing.samples_of_output(conn, decision_id, shard["number"])
        try:
            files = _write_shard(parts, work, shard, rows, registered)
        except SourceChanged as error:
            _unpublishable(parts, work, str(error))
            raise
        with parts.catalog.begin() as conn:
            publishing.register_output(conn, decision_id, shard["number"], files)
        total["samples"] += len(rows)
        total["bytes"] += files["tar"].bytes
        parts.progress.advance()
    parts.progress.done()
    return StepReport("publish", batch_id, total, watch.seconds, answered=not todo)


def _unpublishable(parts: Parts, work: Work, message: str) -> None:
    with parts.catalog.begin() as conn:
        if publishing.mark_unpublishable(conn, work.batch.batch_id, message):
            batches.add_event(
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


def _write_shard(
    parts: Parts,
    work: Work,
    shard: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    registered: Mapping[int, SourceShard],
) -> dict[str, StoredFile]:
    """Write one planned shard: tar, parquet and stats.

    Names follow from the plan's digest. Whatever changes the bytes written here must raise
    ``core.shard_plan.WRITER_VERSION``, or a retry under a new release meets its own older files.
    """
    samples = list(_samples(parts, rows, registered))
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

    tar = parts.store.put_named(shard["name"], write_tar)
    stem = shard["name"].removesuffix(".tar")
    table = _table(work, samples, offsets, sizes)
    parquet = _put_table(parts, f"{stem}.parquet", table)
    stats = (
        json.dumps(
            {
                "count": len(samples),
                "successes": len(samples),
                "form": shard["form"],
                "bytes": tar.bytes,
                "sha256": tar.sha256,
            },
            indent=1,
            sort_keys=True,
        )
        + "\n"
    ).encode()
    stats_file = parts.store.put_named(f"{stem}_stats.json", lambda stream: _put(stream, stats))
    return {"tar": tar, "parquet": parquet, "stats": stats_file}


def _put_table(parts: Parts, name: str, table: pa.Table) -> StoredFile:
    """Write the parquet, or take the one that a try under another release of pyarrow left.

    Its bytes depend on the release, its name does not; equal rows are what is promised.
    """
    try:
        return parts.store.put_named(
            name, lambda stream: pq.write_table(table, stream, compression="zstd")
        )
    except FileMismatch:
        there = parts.store.read_small(name)
        if there is None or not _holds(there, table):
            raise
        log.info("took the parquet of an earlier release name=%s", name)
        return StoredFile(name, hashlib.sha256(there).hexdigest(), len(there))


def _holds(data: bytes, table: pa.Table) -> bool:
    try:
        return bool(pq.read_table(pa.BufferReader(data)).equals(table))
    except (pa.ArrowException, OSError):
        return False


def _put(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)


def _samples(
    parts: Parts, rows: Sequence[Mapping[str, Any]], registered: Mapping[int, SourceShard]
) -> Iterator[_Sample]:
    """The shard's samples with their members, from the manifests."""
    start = 0
    while start < len(rows):
        shard_id = rows[start]["shard_id"]
        stop = start
        while stop < len(rows) and rows[stop]["shard_id"] == shard_id:
            stop += 1
        here = rows[start:stop]
        manifest = registered[shard_id].manifest
        if manifest is None:
            raise BatchNotRunnable(f"source shard {shard_id} has no manifest")
        table = read_manifest(
            parts.store.local(manifest), columns=["position", "members", "image_member"]
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
