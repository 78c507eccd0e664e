"""Shards merged into one: from their own files, byte for byte what their samples' sources give."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.core.identities import turn_label
from sscd_ops.core.shard_plan import WRITER_VERSION
from sscd_ops.errors import FileMismatch
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.shard_files import describe, put_file


def merged_shard(dataset: str, shards: Sequence[OutputShard]) -> OutputShard:
    """The shard that some become, not written yet.

    It names the decision of the first. Its name says what is in it, and the newest turn that one
    of them bears: equal shards merge under an equal name, whenever that is.

    Args:
        dataset: its name.
        shards: of one form and with the same columns, in published order, all written.
    """
    digest = hashlib.sha256(repr((WRITER_VERSION, "merged")).encode())
    for shard in shards:
        digest.update(f"{shard.files['tar'].sha256}\n".encode())
    plan = digest.hexdigest()[:8]
    turn = max(shard.turn for shard in shards)
    return replace(
        shards[0],
        files={},
        plan=plan,
        number=0,
        name=f"{dataset}/shards/{turn_label(turn)}-{plan}/00000.tar",
        turn=turn,
        samples=sum(shard.samples for shard in shards),
    )


def write_merged(
    parts: Parts, shards: Sequence[OutputShard], merged: OutputShard
) -> OutputShard | None:
    """Write the shard that some become: tar bodies copied whole, parquet rows with their offsets.

    Args:
        parts: the real parts.
        shards: as in ``merged_shard``.
        merged: its answer.

    Returns:
        None where their parquets have different columns: releases that differ wrote them.

    Raises:
        FileMismatch: a shard is lost or damaged, or its parquet lists another number of samples.
    """
    tables = [_table(parts, shard) for shard in shards]
    if any(table.schema != tables[0].schema for table in tables):
        return None
    moved: list[int] = []
    put = partial(put_file, parts)

    def write_tar(stream: BinaryIO) -> None:
        sink = parts.tar_sink(stream)
        moved.clear()
        for shard, table in zip(shards, tables, strict=True):
            last = pc.max(table.column("offset")).as_py()
            moved.append(sink.append(parts.store.pieces(shard.files["tar"]), last))
        sink.close()

    tar = put("tar", merged.name, write_tar)
    table = pa.concat_tables(
        [
            table.set_column(
                table.column_names.index("offset"), "offset", pc.add(table.column("offset"), by)
            )
            for table, by in zip(tables, moved, strict=True)
        ]
    )
    # in one piece, as the table of all samples is made: in several, parquet may have other bytes
    described = describe(put, merged, tar, table.combine_chunks())
    return replace(merged, files={"tar": tar, **described})


def _table(parts: Parts, shard: OutputShard) -> pa.Table:
    data = b"".join(parts.store.pieces(shard.files["parquet"]))
    table = pq.read_table(pa.BufferReader(data))
    if len(table) != shard.samples:
        raise FileMismatch(
            f"{shard.name}: its parquet lists {len(table)} samples, the catalog {shard.samples}:"
            " run `sscd-ops snapshot verify`"
        )
    return table
