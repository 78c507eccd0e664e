"""One sample's picture, for people to look at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq

from sscd_ops.catalog import batches, lookups, shards
from sscd_ops.catalog.sql import files_of
from sscd_ops.core.manifest import read_manifest
from sscd_ops.errors import DataError, SourceChanged, StoreUnavailable
from sscd_ops.model import MemberRef
from sscd_ops.options import DatasetOptions, dataset_from_json
from sscd_ops.steps.parts import Parts


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
        batch = batches.read_batch(conn, found["batch_id"])
        options = dataset_from_json(batches.read_attempt(conn, batch).config)
        shard = shards.read_shard(conn, found["shard_id"])
    if shard is None or shard.manifest is None:
        raise DataError(f"the source shard of sample {sample_id} is not registered any longer")
    manifest = read_manifest(
        parts.store.local(shard.manifest),
        columns=["position", "image_member", "image_offset", "image_bytes", "image_sha256"],
    )
    rows = [r for r in manifest.to_pylist() if r["position"] == found["position"]]
    if not rows or rows[0]["image_member"] is None:
        raise DataError(f"sample {sample_id} has no image")
    try:
        return _fetch(parts, options, shard, rows[0])
    except (DataError, StoreUnavailable) as error:
        published = _published(parts, sample_id)
        if published is None:
            raise DataError(
                f"{error}; sample {sample_id} was not published, so its picture is nowhere else"
            ) from error
        return published


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
