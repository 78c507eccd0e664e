"""The publish plan of a decision: made with it, so that publish is a function of what it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sscd_ops.catalog.archive import Place, PlannedArchive
from sscd_ops.catalog.output_shards import PlannedShard
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.core.decide import Samples
from sscd_ops.core.descriptor_file import bytes_rows, fixed_bytes
from sscd_ops.core.identities import turn_label
from sscd_ops.core.shard_plan import form_of, plan_digest, plan_shards, shard_name
from sscd_ops.core.stored_rows import StoredRows
from sscd_ops.model import ARCHIVE
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.shard_writing import SourceShards, with_members

_SEPARATOR = "\x1f"
_HEADER = 512


@dataclass(frozen=True)
class PublishPlan:
    """``slot``: int32 (n,), number of each sample row in published order, -1 where not kept."""

    digest: str
    shards: list[PlannedShard]
    slot: NDArray[np.int32]


def plan_publish(
    work: Work, samples: Samples, kept: NDArray[np.bool_], manifests: Iterable[pa.Table]
) -> PublishPlan:
    """Cut the kept samples into shards and name them.

    Args:
        work: the batch; its label and publish settings.
        samples: the batch's samples, in (source shard, position) order.
        kept: bool (n,).
        manifests: the members of all samples in that order, block by block.
    """
    slot = np.full(len(samples), -1, np.int32)
    rows = np.flatnonzero(kept)
    if not len(rows):
        return PublishPlan("", [], slot)
    members = _members(kept, manifests)
    distinct = sorted(set(members.forms))
    numbers = np.array([distinct.index(form) for form in members.forms])
    settings = work.options.publish
    shards = plan_shards(
        rows,
        numbers[members.form],
        distinct,
        members.sizes,
        max_samples=settings.max_samples,
        max_bytes=settings.max_bytes,
    )
    counts = np.zeros(len(samples), np.int64)
    counts[rows] = members.counts
    digest = plan_digest(
        (settings.max_samples, settings.max_bytes),
        work.meta_columns,
        shards,
        samples.ids,
        members.digests,
        np.cumsum(counts),
    )
    named = []
    start = 0
    for shard in shards:
        count = len(shard.rows)
        slot[shard.rows] = np.arange(start, start + count)
        name = shard_name(work.folder, work.label, digest, shard.number)
        named.append(PlannedShard(shard.number, shard.form, count, name, start))
        start += count
    return PublishPlan(digest, named, slot)


def plan_archive(
    work: Work,
    samples: Samples,
    shard_ids: NDArray[np.int64],
    removed: NDArray[np.bool_],
    manifests: Iterable[pa.Table],
) -> list[PlannedArchive]:
    """As ``plan_publish``, of what the archive is to hold: none where the batch keeps none.

    Args:
        work: the batch.
        samples: the batch's samples.
        shard_ids: int64, numbers of the batch's source shards.
        removed: bool (n,).
        manifests: the members of all samples, block by block.
    """
    rows = np.flatnonzero(removed)
    settings = work.options.publish
    if settings.undo != "archive" or not len(rows):
        return []
    members = _members(removed, manifests)
    # as it is read again: by the numbers of source shards
    order = np.argsort(shard_ids[samples.shard[rows]], kind="stable")
    shards = plan_shards(
        rows[order],
        np.zeros(len(rows), np.int64),
        [ARCHIVE],
        members.sizes[order],
        max_samples=settings.max_samples,
        max_bytes=settings.max_bytes,
    )
    counts = np.zeros(len(samples), np.int64)
    counts[rows] = members.counts
    digest = plan_digest(
        (ARCHIVE, settings.max_samples, settings.max_bytes),
        work.meta_columns,
        shards,
        samples.ids,
        members.digests,
        np.cumsum(counts),
    )

    def place(row: int) -> Place:
        return Place(int(shard_ids[samples.shard[row]]), int(samples.position[row]))

    return [
        PlannedArchive(
            shard.number,
            digest,
            shard_name(work.folder, work.label, digest, shard.number, ARCHIVE),
            len(shard.rows),
            place(shard.rows[0]),
            place(shard.rows[-1]),
        )
        for shard in shards
    ]


@dataclass(frozen=True)
class CarriedPlan:
    """``slots``: sample -> its number in the decision that gives it a slot."""

    digest: str
    shards: list[PlannedShard]
    slots: dict[UUID, int]


def plan_carried(
    parts: Parts, work: Work, turn: int, placed: Iterable[PlacedSample], sources: SourceShards
) -> CarriedPlan:
    """As ``plan_publish``, of samples of any nights that a decision without a batch keeps.

    Args:
        parts: the real parts.
        work: whose publish settings and columns.
        turn: of the decision: names the shards.
        placed: the samples.
        sources: their source shards.
    """
    everything = sorted(placed, key=lambda sample: (sample.shard_id, sample.position))
    if not everything:
        return CarriedPlan("", [], {})
    samples = list(with_members(parts, everything, sources.of(everything)))
    forms = [form_of(sample.names) for sample in samples]
    distinct = sorted(set(forms))
    sizes = [sum(ref.size + _HEADER for ref in sample.members) for sample in samples]
    settings = work.options.publish
    shards = plan_shards(
        np.arange(len(samples)),
        np.array([distinct.index(form) for form in forms]),
        distinct,
        np.array(sizes, np.int64),
        max_samples=settings.max_samples,
        max_bytes=settings.max_bytes,
    )
    digest = plan_digest(
        (settings.max_samples, settings.max_bytes),
        work.meta_columns,
        shards,
        bytes_rows([sample.placed.sample_id.bytes for sample in samples], 16),
        bytes_rows([ref.sha256 for sample in samples for ref in sample.members], 32),
        np.cumsum([len(sample.members) for sample in samples]),
    )
    answer = CarriedPlan(digest, [], {})
    for shard in shards:
        start = len(answer.slots)
        name = shard_name(work.folder, turn_label(turn), digest, shard.number)
        answer.shards.append(PlannedShard(shard.number, shard.form, len(shard.rows), name, start))
        for row in shard.rows.tolist():
            answer.slots[samples[row].placed.sample_id] = len(answer.slots)
    return answer


@dataclass(frozen=True)
class _Members:
    """The members of the kept samples.

    ``forms``: forms as they are met. ``form``: int64 (k,), which of them each sample has.
    ``sizes``, ``counts``: int64 (k,), bytes in a tar and number of each sample's members.
    ``digests``: uint8 (m, 32), their sha256, sample by sample.
    """

    forms: list[str]
    form: NDArray[np.int64]
    sizes: NDArray[np.int64]
    counts: NDArray[np.int64]
    digests: StoredRows


def _members(kept: NDArray[np.bool_], manifests: Iterable[pa.Table]) -> _Members:
    known: dict[str, int] = {}
    forms: list[NDArray[np.int64]] = []
    sizes: list[NDArray[np.int64]] = []
    counts: list[NDArray[np.int64]] = []
    digests: list[NDArray[np.uint8]] = []
    start = 0
    for table in manifests:
        mine = table.filter(pa.array(kept[start : start + len(table)]))
        start += len(table)
        if not len(mine):
            continue
        members = mine.column("members").combine_chunks()
        flat = members.flatten()
        ends = members.offsets.to_numpy().astype(np.int64) - members.offsets[0].as_py()
        spread = pa.ListArray.from_arrays(members.offsets, members.values.field("extension"))
        joined = pc.binary_join(spread, _SEPARATOR).dictionary_encode()
        numbers = [known.setdefault(text, len(known)) for text in joined.dictionary.to_pylist()]
        forms.append(np.array(numbers, np.int64)[joined.indices.to_numpy()])
        total = np.concatenate([[0], np.cumsum(flat.field("size").to_numpy() + _HEADER)])
        sizes.append(np.diff(total[ends]))
        counts.append(np.diff(ends))
        digests.append(fixed_bytes(pa.chunked_array([flat.field("sha256")]), 32))
    return _Members(
        [form_of(text.split(_SEPARATOR)) for text in known],
        np.concatenate(forms),
        np.concatenate(sizes),
        np.concatenate(counts),
        StoredRows(digests, np.empty((0, 32), np.uint8)),
    )


def groups_of(shard_count: int, max_tasks: int) -> list[int]:
    """The publish groups of so many output shards."""
    return list(range(min(shard_count, max_tasks)))


def numbers_of(group: int, shard_count: int, max_tasks: int) -> range:
    """The output shards of a publish group."""
    groups = min(shard_count, max_tasks)
    return range(-(-group * shard_count // groups), -(-(group + 1) * shard_count // groups))
