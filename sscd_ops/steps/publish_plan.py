"""The publish plan of a decision: made with it, so that publish is a function of what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sscd_ops.catalog.output_shards import PlannedShard
from sscd_ops.core.decide import Samples
from sscd_ops.core.descriptor_file import fixed_bytes
from sscd_ops.core.shard_plan import form_of, plan_digest, plan_shards
from sscd_ops.steps.parts import Work

_SEPARATOR = "\x1f"
_HEADER = 512


@dataclass(frozen=True)
class PublishPlan:
    """``slot``: int32 (n,), number of each sample row in published order, -1 where not kept."""

    digest: str
    shards: list[PlannedShard]
    slot: NDArray[np.int32]


def plan_publish(work: Work, samples: Samples, kept: NDArray[np.bool_]) -> PublishPlan:
    """Cut the kept samples into shards and name them.

    Args:
        work: the batch; its label and publish settings.
        samples: the batch's samples, in (source shard, position) order.
        kept: bool (n,).
    """
    slot = np.full(len(samples), -1, np.int32)
    rows = np.flatnonzero(kept)
    if not len(rows):
        return PublishPlan("", [], slot)
    members = samples.table.column("members").combine_chunks()
    ends = members.offsets.to_numpy()[1:].astype(np.int64) - members.offsets[0].as_py()
    flat = members.flatten()
    spread = pa.ListArray.from_arrays(members.offsets, members.values.field("extension"))
    joined = pc.binary_join(spread, _SEPARATOR).take(pa.array(rows)).dictionary_encode()
    forms = [form_of(text.split(_SEPARATOR)) for text in joined.dictionary.to_pylist()]
    distinct = sorted(set(forms))
    codes = np.array([distinct.index(form) for form in forms])[joined.indices.to_numpy()]
    sizes = np.concatenate([[0], np.cumsum(flat.field("size").to_numpy() + _HEADER)])
    starts = np.concatenate([[0], ends[:-1]])
    settings = work.options.publish
    shards = plan_shards(
        rows,
        codes,
        distinct,
        (sizes[ends] - sizes[starts])[rows],
        max_samples=settings.max_samples,
        max_bytes=settings.max_bytes,
    )
    digest = plan_digest(
        (settings.max_samples, settings.max_bytes),
        work.meta_columns,
        shards,
        fixed_bytes(samples.table.column("sample_id"), 16),
        fixed_bytes(pa.chunked_array([flat.field("sha256")]), 32),
        ends,
    )
    folder = f"{work.folder}/shards/{work.label}-{digest}"
    named = []
    start = 0
    for shard in shards:
        count = len(shard.rows)
        slot[shard.rows] = np.arange(start, start + count)
        name = f"{folder}/{shard.number:05d}.tar"
        named.append(PlannedShard(shard.number, shard.form, count, name, start))
        start += count
    return PublishPlan(digest, named, slot)


def groups_of(shard_count: int, max_tasks: int) -> list[int]:
    """The publish groups of so many output shards."""
    return list(range(min(shard_count, max_tasks)))


def numbers_of(group: int, shard_count: int, max_tasks: int) -> range:
    """The output shards of a publish group."""
    groups = min(shard_count, max_tasks)
    return range(-(-group * shard_count // groups), -(-(group + 1) * shard_count // groups))
