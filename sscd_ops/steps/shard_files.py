"""The files of an output shard, whether from source shards or from the shard it replaces."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.catalog.archive import ArchivedShard
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.errors import FileMismatch
from sscd_ops.model import StoredFile
from sscd_ops.steps.parts import Parts, write_bytes

log = logging.getLogger(__name__)

Write = Callable[[BinaryIO], None]
PutFile = Callable[[str, str, Write], StoredFile]
"""Writes a file of an output shard: its role, its name, what writes its bytes."""


class NamedShard(Protocol):
    """A shard that is written: one that snapshots list, or one of the archive."""

    @property
    def name(self) -> str:
        """Of its tar, relative to the root."""

    @property
    def form(self) -> str:
        """What its stats say."""


def describe(
    put: PutFile, shard: NamedShard, tar: StoredFile, table: pa.Table
) -> dict[str, StoredFile]:
    """Write what stands beside a shard's tar: its parquet, which is given, and stats."""
    stem = shard.name.removesuffix(".tar")
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
                "form": shard.form,
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


def listed_rows(
    shard: OutputShard | ArchivedShard, parquet: Path | pa.BufferReader, count: int | None = None
) -> pa.Table:
    """The rows of a written shard's parquet.

    Args:
        shard: the shard.
        parquet: that one's content.
        count: how many samples it is to list; default: those of the shard.

    Raises:
        FileMismatch: it lists another number of samples.
    """
    table = pq.read_table(parquet)
    count = shard.samples if count is None else count
    if len(table) != count:
        raise FileMismatch(
            f"{shard.name}: its parquet lists {len(table)} samples, the catalog {count}: run"
            " `sscd-ops snapshot verify`"
        )
    return table


def with_offsets(table: pa.Table, offsets: pa.Array) -> pa.Table:
    """Rows of a parquet whose images lie elsewhere in their tar by now."""
    return table.set_column(table.column_names.index("offset"), "offset", offsets)


def put_file(
    parts: Parts,
    role: str,
    name: str,
    write: Write,
    registered: Callable[[], Mapping[str, StoredFile]] = dict,
) -> StoredFile:
    """Write a file that no row names yet, over what a killed try or a bad disk left there.

    Save over a parquet of the same rows, which is taken. ``registered`` answers the files that
    another process registered meanwhile, if any: its bytes count, not ours.

    Raises:
        FileMismatch: ``write`` read a file that is lost or damaged; nothing is written over.
    """
    unread: list[FileMismatch] = []

    def filled(stream: BinaryIO) -> None:
        try:
            write(stream)
        except FileMismatch as error:
            unread.append(error)
            raise

    try:
        return parts.store.put_named(name, filled)
    except FileMismatch:
        if unread:
            raise
        files = registered()
    if files:
        return files[role]
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
