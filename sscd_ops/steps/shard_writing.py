"""Output shards written from the sources of their samples, whatever nights read these.

A shard is a function of its placements: which samples, in which order. Members come from the source
shards (where these are gone, from the archive) and are checked against the manifests; so a shard
that was lost, rewritten or merged comes out with the bytes it had.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import groupby, pairwise
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from sscd_ops.catalog import decisions, output_shards, placements, shards
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.shard_plan import published_extensions
from sscd_ops.errors import PUT_BACK, FileMismatch, SourceChanged
from sscd_ops.model import MemberRef, SourceShard, StoredFile
from sscd_ops.options import PUBLISHED_COLUMNS, dataset_from_json
from sscd_ops.ports import Source
from sscd_ops.steps.archive_reading import ArchiveReader, WholeSample
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Work, load_work, restore
from sscd_ops.steps.shard_files import NamedShard, PutFile, Write, describe, put_file

ReadShard = tuple[Work, SourceShard]
"""A source shard, and the night that read it."""


class SourceShards:
    """The source shards that samples come from, each with its night; read once.

    Args:
        parts: the real parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._found: dict[int, ReadShard] = {}
        self._works: dict[int, Work] = {}

    def of(self, placed: Sequence[PlacedSample]) -> Mapping[int, ReadShard]:
        """Those of some samples, by number, and of others that were read before."""
        missing = {sample.shard_id for sample in placed} - self._found.keys()
        if missing:
            with self._parts.catalog.begin() as conn:
                found = shards.of_numbers(conn, sorted(missing))
            for number, (batch_id, shard) in found.items():
                if batch_id not in self._works:
                    self._works[batch_id] = load_work(self._parts, batch_id)
                self._found[number] = self._works[batch_id], shard
        return self._found


def write_shard(
    parts: Parts, shard: OutputShard, sources: SourceShards, put: PutFile | None = None
) -> dict[str, StoredFile]:
    """Write an output shard: tar, parquet and stats.

    Names follow from the plan's digest. Whatever changes the bytes written here must raise
    ``core.shard_plan.WRITER_VERSION``, or a retry under a new release meets its own older files.

    Args:
        parts: the real parts.
        shard: the shard, with its placements in the catalog.
        sources: what was read of source shards before.
        put: writes a file; default: under its name below the root.

    Raises:
        SourceChanged: a member is gone from its source, or differs, and the archive has none.
        FileMismatch: a manifest is lost and cannot be made anew; the month of a sample was
            detached.
    """
    placed, columns = samples_of(parts, shard)
    put = put or partial(put_file, parts, registered=partial(_registered, parts, shard))
    return write_samples(parts, shard, placed, columns, sources.of(placed), put)


def samples_of(parts: Parts, shard: OutputShard) -> tuple[list[PlacedSample], list[str]]:
    """The samples of an output shard in published order, and its parquet's metadata columns.

    Raises:
        FileMismatch: the month of a sample was detached.
    """
    with parts.catalog.begin() as conn:
        placed = placements.samples_of_output(conn, shard.output_id)
        (config,) = decisions.configs_of(conn, [shard.decision_id]).values()
    columns = dataset_from_json(config).meta_columns
    if len(placed) != shard.samples:
        raise FileMismatch(
            f"{shard.name}: the month of its samples was detached, so that it cannot be written"
            " anew: restore it from a backup"
        )
    return placed, columns


def write_samples(
    parts: Parts,
    shard: NamedShard,
    placed: Sequence[PlacedSample],
    meta_columns: Sequence[str],
    sources: Mapping[int, ReadShard],
    put: PutFile,
) -> dict[str, StoredFile]:
    """As ``write_shard``, of samples that are given.

    Args:
        parts: the real parts.
        shard: its name and form.
        placed: the samples, in published order.
        meta_columns: metadata columns of its parquet.
        sources: source shard by number.
        put: writes a file.
    """
    samples = list(with_members(parts, placed, sources))
    offsets: list[int] = []
    sizes: list[int] = []

    def write_tar(stream: BinaryIO) -> None:
        sink = parts.tar_sink(stream)
        offsets.clear()
        sizes.clear()
        for sample, contents in _contents(parts, samples, sources):
            for index, (extension, data) in enumerate(zip(sample.names, contents, strict=True)):
                at = sink.add(f"{sample.key}.{extension}", data)
                if index == sample.image:
                    offsets.append(at)
                    sizes.append(len(data))
        sink.close()

    tar = put("tar", shard.name, write_tar)
    return {"tar": tar, **describe(put, shard, tar, _table(meta_columns, samples, offsets, sizes))}


def _registered(parts: Parts, shard: OutputShard) -> Mapping[str, StoredFile]:
    with parts.catalog.begin() as conn:
        return output_shards.files_of_output(conn, shard.output_id)


def write_again(parts: Parts, shard: OutputShard) -> None:
    """Write the files of an output shard anew, with the bytes they had when they were registered.

    Raises:
        SourceChanged: a member is gone from its source, or differs.
        FileMismatch: the bytes cannot be had again: another release wrote them, or their month was
            detached.
    """

    def put(role: str, name: str, write: Write) -> StoredFile:
        restore(parts, shard.files[role], write)
        return shard.files[role]

    write_shard(parts, shard, SourceShards(parts), put)


def with_members(
    parts: Parts, placed: Sequence[PlacedSample], sources: Mapping[int, ReadShard]
) -> Iterator[WholeSample]:
    """The shard's samples with their members, from the manifests."""
    for shard_id, group in groupby(placed, key=lambda sample: sample.shard_id):
        here = list(group)
        table = read_manifest(
            manifest_of(parts, *sources[shard_id]),
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
            yield WholeSample(sample, sample.sample_id.hex, refs, at, names)


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
    parts: Parts, samples: Sequence[WholeSample], sources: Mapping[int, ReadShard]
) -> Iterator[tuple[WholeSample, list[bytes]]]:
    """Each sample with its members' bytes as in the source, and what is made here."""
    archive = ArchiveReader(parts)
    for shard_id, group in groupby(samples, key=lambda sample: sample.placed.shard_id):
        (work, shard), here = sources[shard_id], list(group)
        source = parts.source(work.options.source(shard.source), work.options.limits)
        for sample, found in zip(here, read_samples(source, shard, here, archive), strict=True):
            if not isinstance(found, list):
                raise found
            contents = found
            made = sample.names[len(contents) :]
            yield sample, contents + [_made(work, sample.placed, extension) for extension in made]


def read_samples(
    source: Source, shard: SourceShard, samples: Sequence[WholeSample], archive: ArchiveReader
) -> Iterator[list[bytes] | SourceChanged]:
    """The members of samples of one source shard, in its order, each as it was decided on.

    Those that are gone from their source, or others there, come from the archive. What is in
    neither is answered with what is wrong; reading goes on behind it.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    at, is_there = 0, True
    while at < len(samples):
        why = None
        if is_there:
            try:
                for contents in fetch(source, shard, samples[at:]):
                    yield contents
                    at += 1
                return
            except SourceChanged as error:
                why = error
                is_there = source.version(shard.found) is not None
        gone = why or SourceChanged(f"{shard.uri} is gone: {PUT_BACK}")
        yield archive.members(samples[at]) or gone
        at += 1


def fetch(
    source: Source, shard: SourceShard, samples: Sequence[WholeSample]
) -> Iterator[list[bytes]]:
    """As ``read_samples``, of the source alone.

    Raises:
        SourceChanged: the next sample's members are gone or others.
    """
    refs = [member for sample in samples for member in sample.members]
    fetched = _checked(shard, refs, source.fetch(shard.found, refs))
    for sample in samples:
        yield [next(fetched) for _ in sample.members]


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
    meta_columns: Sequence[str],
    samples: Sequence[WholeSample],
    offsets: Sequence[int],
    sizes: Sequence[int],
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
    for name in meta_columns:  # none of them is a published column: config refuses that
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
