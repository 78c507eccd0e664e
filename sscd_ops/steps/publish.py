"""publish: write the planned output shards. A pure function of decisions in force; no lock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, pairwise
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from sscd_ops.catalog import decisions, events, output_shards, placements, published, shards
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.shard_plan import published_extensions
from sscd_ops.errors import PUT_BACK, BatchNotRunnable, FileMismatch, SourceChanged
from sscd_ops.model import MemberRef, SourceShard, StoredFile
from sscd_ops.options import PUBLISHED_COLUMNS
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work, restore
from sscd_ops.steps.publish_plan import numbers_of
from sscd_ops.steps.reports import StepReport
from sscd_ops.steps.shard_files import PutFile, Write, describe, put_file


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
        planned = output_shards.planned_shards(conn, decision_id)
        registered = {s.shard_id: s for s in shards.shards_of(conn, work.attempt.attempt_id)}
    numbers = numbers_of(group, len(planned), work.options.airflow.max_tasks)
    todo = [planned[n] for n in numbers if not planned[n].files]
    total = {"shards": len(numbers), "written": len(todo), "samples": 0, "bytes": 0}
    parts.progress.start(f"publish {work.batch.dataset}", len(todo))
    for shard in todo:
        with parts.catalog.begin() as conn:
            placed = placements.samples_of_output(conn, shard.output_id)
        try:
            files = _write_shard(parts, work, shard, placed, registered)
        except (SourceChanged, FileMismatch) as error:
            _unpublishable(parts, work, str(error))
            raise
        with parts.catalog.begin() as conn:
            output_shards.register_output(conn, shard.output_id, files)
        total["samples"] += len(placed)
        total["bytes"] += files["tar"].bytes
        parts.progress.advance()
    parts.progress.done()
    return StepReport("publish", batch_id, total, watch.seconds, answered=not todo)


def _unpublishable(parts: Parts, work: Work, message: str) -> None:
    with parts.catalog.begin() as conn:
        if published.mark_unpublishable(conn, work.batch.batch_id, message):
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

    placed: PlacedSample
    key: str
    members: list[MemberRef]
    image: int
    """Which member is the image."""
    names: tuple[str, ...]
    """Published extension of each member; then those made here (``txt``, ``json``)."""


def _write_shard(
    parts: Parts,
    work: Work,
    shard: OutputShard,
    placed: Sequence[PlacedSample],
    registered: Mapping[int, SourceShard],
    put: PutFile | None = None,
) -> dict[str, StoredFile]:
    """Write one planned shard: tar, parquet and stats.

    Names follow from the plan's digest. Whatever changes the bytes written here must raise
    ``core.shard_plan.WRITER_VERSION``, or a retry under a new release meets its own older files.
    """
    put = put or partial(put_file, parts, registered=partial(_registered, parts, shard))
    samples = list(_samples(parts, work, placed, registered))
    offsets: list[int] = []
    sizes: list[int] = []

    def write_tar(stream: BinaryIO) -> None:
        sink = parts.tar_sink(stream)
        offsets.clear()
        sizes.clear()
        for sample, contents in _contents(parts, work, samples, registered):
            for index, (extension, data) in enumerate(zip(sample.names, contents, strict=True)):
                at = sink.add(f"{sample.key}.{extension}", data)
                if index == sample.image:
                    offsets.append(at)
                    sizes.append(len(data))
        sink.close()

    tar = put("tar", shard.name, write_tar)
    return {"tar": tar, **describe(put, shard, tar, _table(work, samples, offsets, sizes))}


def _registered(parts: Parts, shard: OutputShard) -> Mapping[str, StoredFile]:
    with parts.catalog.begin() as conn:
        return output_shards.files_of_output(conn, shard.output_id)


def write_again(parts: Parts, work: Work, shard: OutputShard) -> None:
    """Write the files of an output shard anew, with the bytes they had when they were registered.

    Raises:
        SourceChanged: a member is gone from its source, or differs.
        FileMismatch: the bytes cannot be had again: another release wrote them, or their month was
            detached.
    """
    with parts.catalog.begin() as conn:
        registered = {s.shard_id: s for s in shards.shards_of(conn, work.attempt.attempt_id)}
        placed = placements.samples_of_output(conn, shard.output_id)
    if len(placed) != shard.samples:
        raise FileMismatch(
            f"{shard.name}: the month of its samples was detached, so that it cannot be written"
            " anew: restore it from a backup"
        )

    def put(role: str, name: str, write: Write) -> StoredFile:
        restore(parts, shard.files[role], write)
        return shard.files[role]

    _write_shard(parts, work, shard, placed, registered, put)


def _samples(
    parts: Parts, work: Work, placed: Sequence[PlacedSample], registered: Mapping[int, SourceShard]
) -> Iterator[_Sample]:
    """The shard's samples with their members, from the manifests."""
    for shard_id, group in groupby(placed, key=lambda sample: sample.shard_id):
        here = list(group)
        table = read_manifest(
            manifest_of(parts, work, registered[shard_id]),
            columns=["position", "members", "image_member"],
        )
        wanted = pa.array([sample.position for sample in here], pa.int32())
        # positions are 0, 1, 2 ... in row order, save for a shard fault at the end
        table = table.take(pc.index_in(wanted, table.column("position").combine_chunks()))
        images = table.column("image_member").to_pylist()
        for sample, image, members in zip(here, images, _members(table), strict=True):
            refs = [ref for ref, _ in members]
            at = next(at for at, ref in enumerate(refs) if ref.name == image)
            names = _names(tuple([extension for _, extension in members]))
            yield _Sample(sample, sample.sample_id.hex, refs, at, names)


_names = lru_cache(maxsize=1024)(published_extensions)


def _members(table: pa.Table) -> Iterator[list[tuple[MemberRef, str]]]:
    """Each row's members with their extensions; by columns, in a third of the time."""
    lists = table.column("members").combine_chunks()
    columns = [
        lists.values.field(name).to_pylist()
        for name in ("name", "offset", "size", "sha256", "extension")
    ]
    flat = [(MemberRef(*where), extension) for *where, extension in zip(*columns, strict=True)]
    for start, end in pairwise(lists.offsets.to_pylist()):
        yield flat[start:end]


def _contents(
    parts: Parts, work: Work, samples: Sequence[_Sample], registered: Mapping[int, SourceShard]
) -> Iterator[tuple[_Sample, list[bytes]]]:
    """Each sample with its members' bytes as in the source, and what is made here."""
    options = work.options
    for shard_id, group in groupby(samples, key=lambda sample: sample.placed.shard_id):
        shard, here = registered[shard_id], list(group)
        refs = [member for sample in here for member in sample.members]
        source = parts.source(options.source(shard.source), options.limits)
        fetched = _checked(shard, refs, source.fetch(shard.found, refs))
        for sample in here:
            contents = [next(fetched) for _ in sample.members]
            contents += [
                _made(work, sample.placed, extension) for extension in sample.names[len(contents) :]
            ]
            yield sample, contents


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


def _made(work: Work, sample: PlacedSample, extension: str) -> bytes:
    """A member the source does not have: the caption, or where the sample comes from."""
    if extension == "txt":
        return (sample.caption or "").encode()
    return json.dumps(
        {
            "caption": sample.caption,
            "dataset": work.batch.dataset,
            "key": sample.key,
            "source": sample.source,
            "source_shard": sample.relative_uri,
        },
        sort_keys=True,
        ensure_ascii=False,
    ).encode()


def _table(
    work: Work, samples: Sequence[_Sample], offsets: Sequence[int], sizes: Sequence[int]
) -> pa.Table:
    """The parquet beside a tar."""
    placed = [sample.placed for sample in samples]
    columns: dict[str, pa.Array] = {
        "key": pa.array([sample.key for sample in samples], pa.string()),
        "sample_id": pa.array([str(each.sample_id) for each in placed], pa.string()),
        "source": pa.array([each.source for each in placed], pa.string()),
        "source_shard": pa.array([each.relative_uri for each in placed], pa.string()),
        "source_key": pa.array([each.key for each in placed], pa.string()),
        "sha256": pa.array([each.image_sha256.hex() for each in placed], pa.string()),
        "width": pa.array([each.width for each in placed], pa.int32()),
        "height": pa.array([each.height for each in placed], pa.int32()),
        "caption": pa.array([each.caption for each in placed], pa.string()),
        "bytes": pa.array(sizes, pa.int64()),
        "offset": pa.array(offsets, pa.int64()),
    }
    metas = [each.meta or {} for each in placed]
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
