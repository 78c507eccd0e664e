"""One sample's picture, for people to look at."""

from __future__ import annotations

import hashlib
from uuid import UUID

import pyarrow.parquet as pq

from sscd_ops.catalog import lookups, shards
from sscd_ops.core.manifest import read_manifest
from sscd_ops.errors import DataError, FileMismatch, SourceChanged, StoreUnavailable
from sscd_ops.model import MemberRef, SourceShard
from sscd_ops.options import DatasetOptions
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Work, load_work


def sample_image(parts: Parts, sample_id: str) -> bytes:
    """A sample's image bytes, read from its source, or from its published shard where that is gone.

    Raises:
        DataError: there is no such sample, it has no image, or its source is gone and it was not
            published.
    """
    with parts.catalog.begin() as conn:
        found = lookups.sample_place(conn, UUID(sample_id))
        if found is None:
            raise DataError(f"there is no sample {sample_id}")
        shard = shards.read_shard(conn, found.shard_id)
    work = load_work(parts, found.batch_id)
    if shard is None:
        raise DataError(f"the source shard of sample {sample_id} is not registered any longer")
    try:
        place = _place(parts, work, shard, found.position)
        if place is not None:
            return _fetch(parts, work.options, shard, place)
    except (DataError, FileMismatch, StoreUnavailable) as error:
        published = _published(parts, sample_id)
        if published is None:
            raise DataError(
                f"{error}; sample {sample_id} was not published, so its picture is nowhere else"
            ) from error
        return published
    raise DataError(f"sample {sample_id} has no image")


def _place(parts: Parts, work: Work, shard: SourceShard, position: int) -> MemberRef | None:
    """Where the image of a sample lies in its source shard; None of a sample without one."""
    manifest = read_manifest(
        manifest_of(parts, work, shard),
        columns=["position", "image_member", "image_offset", "image_bytes", "image_sha256"],
    )
    for row in manifest.to_pylist():
        if row["position"] == position and row["image_member"]:
            place = row["image_offset"], row["image_bytes"], row["image_sha256"]
            return MemberRef(row["image_member"], *place)
    return None


def _published(parts: Parts, sample_id: str) -> bytes | None:
    """The image as published: by its offset in the tar, which the parquet beside it knows."""
    with parts.catalog.begin() as conn:
        files = lookups.published_place(conn, UUID(sample_id))
    if files is None:
        return None
    table = pq.read_table(
        parts.store.local(files["parquet"]),
        columns=["offset", "bytes"],
        filters=[("sample_id", "=", sample_id)],
    )
    offset, size = (table.column(name)[0].as_py() for name in ("offset", "bytes"))
    with parts.store.local(files["tar"]).open("rb") as tar:
        tar.seek(offset)
        return tar.read(size)


def _fetch(parts: Parts, options: DatasetOptions, shard: SourceShard, member: MemberRef) -> bytes:
    source = parts.source(options.source(shard.source), options.limits)
    for data in source.fetch(shard.found, [member]):
        if hashlib.sha256(data).digest() != member.sha256:
            raise SourceChanged(f"{shard.uri}: member {member.name!r} is another one than was read")
        return data
    raise SourceChanged(f"{shard.uri} no longer has member {member.name!r}")
