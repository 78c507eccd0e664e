"""One sample's picture, for people to look at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq

from sscd_ops.catalog import lookups, shards
from sscd_ops.catalog.sql import files_of
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
        shard = shards.read_shard(conn, found["shard_id"])
    work = load_work(parts, found["batch_id"])
    if shard is None:
        raise DataError(f"the source shard of sample {sample_id} is not registered any longer")
    try:
        place = _place(parts, work, shard, found["position"])
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


def _place(parts: Parts, work: Work, shard: SourceShard, position: int) -> dict[str, Any] | None:
    """Where the image of a sample lies in its source shard; None of a sample without one."""
    manifest = read_manifest(
        manifest_of(parts, work, shard),
        columns=["position", "image_member", "image_offset", "image_bytes", "image_sha256"],
    )
    rows: list[dict[str, Any]] = manifest.to_pylist()
    return next((r for r in rows if r["position"] == position and r["image_member"]), None)


def _published(parts: Parts, sample_id: str) -> bytes | None:
    """The image as published: by its offset in the tar, which the parquet beside it knows."""
    with parts.catalog.begin() as conn:
        found = lookups.published_place(conn, UUID(sample_id))
    if found is None:
        return None
    files = files_of(found["files"])
    table = pq.read_table(
        parts.store.local(files["parquet"]),
        columns=["offset", "bytes"],
        filters=[("sample_id", "=", sample_id)],
    )
    place = table.to_pylist()[0]
    with parts.store.local(files["tar"]).open("rb") as tar:
        tar.seek(place["offset"])
        return tar.read(place["bytes"])


def _fetch(parts: Parts, options: DatasetOptions, shard: Any, place: Mapping[str, Any]) -> bytes:
    source = parts.source(options.source(shard.source), options.limits)
    member = MemberRef(
        place["image_member"], place["image_offset"], place["image_bytes"], place["image_sha256"]
    )
    for data in source.fetch(shard.found, [member]):
        if hashlib.sha256(data).digest() != member.sha256:
            raise SourceChanged(f"{shard.uri}: member {member.name!r} is another one than was read")
        return data
    raise SourceChanged(f"{shard.uri} no longer has member {member.name!r}")
