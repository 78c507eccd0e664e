"""Shards written again without what is kept no longer: from the shard itself, not its sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from sscd_ops.catalog import output_shards, placements
from sscd_ops.catalog.archive import ArchivedShard
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import Slot, Span
from sscd_ops.core.identities import turn_label
from sscd_ops.core.shard_plan import WRITER_VERSION, shard_name
from sscd_ops.model import StoredFile
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.shard_files import NamedShard, describe, listed_rows, put_file, with_offsets


@dataclass(frozen=True)
class Replaced:
    """Shards that another one takes the place of.

    ``output_ids``: these, in published order. ``shard``: the other one, written and not registered,
    None where nothing is left; ``slots``: decision, first slot and end of what it holds, in its
    order.
    """

    output_ids: Sequence[int]
    shard: OutputShard | None
    slots: list[Span]


def without_slots(
    parts: Parts,
    dataset: str,
    turn: int,
    affected: Sequence[OutputShard],
    lost: Mapping[int, set[Slot]],
) -> list[Replaced]:
    """Write shards again that hold slots which lost their sample, without these.

    Args:
        parts: the real parts.
        dataset: its name.
        turn: as of which they are lost.
        affected: in published order, all written.
        lost: output shard -> its slots that lost their sample.

    Raises:
        FileMismatch: a shard is lost or damaged, or holds another number of samples.
    """
    slots = {shard.output_id: slots_of(parts, shard.output_id) for shard in affected}
    digest = hashlib.sha256(repr(WRITER_VERSION).encode())
    for shard in affected:
        own = slots[shard.output_id]
        gone = [place for place, slot in enumerate(own) if slot in lost[shard.output_id]]
        digest.update(f"{shard.files['tar'].sha256} {gone}\n".encode())
    plan = digest.hexdigest()[:8]
    answer: list[Replaced] = []
    for shard in affected:
        own, gone_slots = slots[shard.output_id], lost[shard.output_id]
        left = [place for place, slot in enumerate(own) if slot not in gone_slots]
        written = None
        if left:
            number = sum(each.shard is not None for each in answer)
            name = shard_name(dataset, turn_label(turn), plan, number)
            # several merged ones of a decision may bear one number
            other = replace(
                shard, plan=plan, number=number, name=name, turn=turn, samples=len(left)
            )
            if own[left[0]][0] != shard.decision_id:
                with parts.catalog.begin() as conn:
                    other = output_shards.of_decision(conn, other, own[left[0]][0])
            written = replace(other, files=write_places(parts, shard, other, left, len(own)))
        spans = list(spans_of([own[place] for place in left]))
        answer.append(Replaced([shard.output_id], written, spans))
    return answer


def slots_of(parts: Parts, output_id: int) -> list[Slot]:
    """The slots of a shard's samples, in its order."""
    with parts.catalog.begin() as conn:
        placed = placements.placed(conn, output_id)
    return [(place.decision_id, slot) for place in placed for slot in range(place.start, place.end)]


def spans_of(slots: Sequence[Slot]) -> Iterator[Span]:
    """Runs of slots, as decision, first and end."""
    start = 0
    for at in range(1, len(slots) + 1):
        decision_id, first = slots[start]
        if at == len(slots) or slots[at] != (decision_id, first + at - start):
            yield decision_id, first, first + at - start
            start = at


def write_places(
    parts: Parts,
    shard: OutputShard | ArchivedShard,
    other: NamedShard,
    left: Sequence[int],
    count: int,
) -> dict[str, StoredFile]:
    """Copy the samples at some places of a shard, which holds ``count``, into another one.

    Raises:
        FileMismatch: the shard is lost or damaged, or holds another number of samples.
    """
    table = listed_rows(shard, parts.store.local(shard.files["parquet"]), count)
    path = parts.store.local(shard.files["tar"])
    table = table.take(pa.array(left, pa.int64()))
    wanted = set(table.column("key").to_pylist())
    runs: list[tuple[int, int]] = []
    put = partial(put_file, parts)

    def write_tar(stream: BinaryIO) -> None:
        sink = parts.tar_sink(stream)
        runs[:] = sink.copy(path, lambda name: name.partition(".")[0] in wanted)
        sink.close()

    tar = put("tar", other.name, write_tar)
    there, here = np.array(runs, np.int64).T
    offsets = table.column("offset").to_numpy()
    offsets = offsets + (here - there)[np.searchsorted(there, offsets, "right") - 1]
    table = with_offsets(table, pa.array(offsets, pa.int64()))
    return {"tar": tar, **describe(put, other, tar, table)}
