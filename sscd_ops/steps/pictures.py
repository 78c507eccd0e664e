"""One sample's picture, for people to look at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sscd_ops.catalog import batches, lookups, shards
from sscd_ops.core.manifest import read_manifest
from sscd_ops.errors import DataError, SourceChanged
from sscd_ops.model import MemberRef
from sscd_ops.options import DatasetOptions, dataset_from_json
from sscd_ops.steps.parts import Parts


def sample_image(parts: Parts, sample_id: str) -> bytes:
    """A sample's image bytes, read from its source.

    Raises:
        DataError: there is no such sample, it has no image, or its source is gone.
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
    return _fetch(parts, options, shard, rows[0])


def _fetch(parts: Parts, options: DatasetOptions, shard: Any, place: Mapping[str, Any]) -> bytes:
    source = parts.source(options.source(shard.source), options.limits)
    member = MemberRef(
        place["image_member"], place["image_offset"], place["image_bytes"], place["image_sha256"]
    )
    for data in source.fetch(shard.found, [member]):
        if hashlib.sha256(data).digest() != member.sha256:
            raise SourceChanged(f"{shard.uri}: member {member.name!r} is another one than was read")
        return data
    raise SourceChanged(f"{shard.uri} no longer has member {member.name!r}: put the original back")
