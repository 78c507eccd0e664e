"""Shards written again without what is kept no longer: from the shard itself, not its sources."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.catalog import publishing
from sscd_ops.catalog.sql import files_json, files_of
from sscd_ops.core.identities import turn_label
from sscd_ops.core.shard_plan import WRITER_VERSION
from sscd_ops.errors import FileMismatch
from sscd_ops.model import StoredFile
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.publish import Write, describe, put_over

Slot = tuple[int, int]
"""Decision and number."""


@dataclass(frozen=True)
class Replaced:
    """A shard that another one takes the place of.

    ``shard``: the other one as ``publishing.live_shards`` answers it, None where nothing is left;
    ``slots``: decision, first slot and end of what it holds.
    """

    output_id: int
    shard: Mapping[str, Any] | None
    slots: list[tuple[int, int, int]]


def without_slots(
    parts: Parts,
    dataset: str,
    turn: int,
    shards: Sequence[Mapping[str, Any]],
    unlisted: Sequence[Mapping[str, Any]],
) -> list[Replaced]:
    """Write those shards again that hold a slot which lost its sample, without it.

    Args:
        parts: the real parts.
        dataset: its name.
        turn: as of which they are lost.
        shards: as ``publishing.live_shards`` answers them, all written.
        unlisted: as ``publishing.lost_slots_in`` answers it.

    Raises:
        FileMismatch: a shard is lost or damaged, or holds another number of samples.
    """
    lost: dict[int, set[Slot]] = {}
    for row in unlisted:
        lost.setdefault(row["output_id"], set()).add((row["decision_id"], row["slot"]))
    affected = [shard for shard in shards if shard["output_id"] in lost]
    slots = {shard["output_id"]: _slots_of(parts, shard["output_id"]) for shard in affected}
    digest = hashlib.sha256(repr(WRITER_VERSION).encode())
    for shard in affected:
        own = slots[shard["output_id"]]
        gone = [place for place, slot in enumerate(own) if slot in lost[shard["output_id"]]]
        digest.update(f"{files_of(shard['files'])['tar'].sha256} {gone}\n".encode())
    plan = digest.hexdigest()[:8]
    folder = f"{dataset}/shards/{turn_label(turn)}-{plan}"
    answer: list[Replaced] = []
    for shard in affected:
        own, gone_slots = slots[shard["output_id"]], lost[shard["output_id"]]
        left = [place for place, slot in enumerate(own) if slot not in gone_slots]
        written = None
        if left:
            number = sum(each.shard is not None for each in answer)
            name = f"{folder}/{number:05d}.tar"
            other = {**shard, "plan": plan, "name": name, "turn": turn, "samples": len(left)}
            files = _write(parts, shard, other, left, len(own))
            written = {**other, "files": json.loads(files_json(files))}
        spans = list(_spans([own[place] for place in left]))
        answer.append(Replaced(shard["output_id"], written, spans))
    return answer


def _slots_of(parts: Parts, output_id: int) -> list[Slot]:
    """The slots of a shard's samples, in its order."""
    with parts.catalog.begin() as conn:
        placed = publishing.placed(conn, output_id)
    return [
        (place["decision_id"], slot)
        for place in placed
        for slot in range(place["slot_from"], place["slot_to"])
    ]


def _spans(slots: Sequence[Slot]) -> Iterator[tuple[int, int, int]]:
    """Runs of slots, as decision, first and end."""
    start = 0
    for at in range(1, len(slots) + 1):
        decision_id, first = slots[start]
        if at == len(slots) or slots[at] != (decision_id, first + at - start):
            yield decision_id, first, first + at - start
            start = at


def _write(
    parts: Parts,
    shard: Mapping[str, Any],
    other: Mapping[str, Any],
    left: Sequence[int],
    count: int,
) -> dict[str, StoredFile]:
    """Copy the samples at some places of a shard, which holds ``count``, into another one."""
    files = files_of(shard["files"])
    table = pq.read_table(parts.store.local(files["parquet"]))
    if len(table) != count:
        raise FileMismatch(
            f"{shard['name']}: its parquet lists {len(table)} samples, the catalog {count}: run"
            " `sscd-ops snapshot verify`"
        )
    path = parts.store.local(files["tar"])
    table = table.take(pa.array(left, pa.int64()))
    wanted = set(table.column("key").to_pylist())
    moved: dict[int, int] = {}

    def put(role: str, name: str, write: Write) -> StoredFile:
        try:
            return parts.store.put_named(name, write)
        except FileMismatch:
            # another commit of the same turn may name that by now, under another release
            return put_over(parts, role, name, write)

    def write_tar(stream: BinaryIO) -> None:
        sink = parts.tar_sink(stream)
        moved.clear()
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.name.partition(".")[0] in wanted:
                    data = tar.extractfile(member)
                    moved[member.offset_data] = sink.add(member.name, data.read() if data else b"")
        sink.close()

    tar = put("tar", other["name"], write_tar)
    at = table.column_names.index("offset")
    offsets = pa.array([moved[offset] for offset in table.column(at).to_pylist()], pa.int64())
    table = table.set_column(at, "offset", offsets)
    return {"tar": tar, **describe(put, other, tar, table)}
