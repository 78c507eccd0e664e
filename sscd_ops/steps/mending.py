"""What steps wrote for each other, made anew where it was lost or damaged; or no longer named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sscd_ops.catalog import batches, named_files, searches, shards
from sscd_ops.catalog.checks import RESTORE
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.named_files import StepFile
from sscd_ops.core.descriptor_file import DescriptorFile, write_descriptors
from sscd_ops.core.measures import HASHES
from sscd_ops.core.segment_file import open_segment
from sscd_ops.errors import FileMismatch
from sscd_ops.model import Segment, SegmentPart, SourceShard
from sscd_ops.steps import survey
from sscd_ops.steps.damage import (
    OF_DESCRIPTORS,
    both_damaged,
    damage,
    damaged_roles,
    noting,
)
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Work, load_work


def mend_steps(
    parts: Parts,
    dataset: Dataset,
    live: Mapping[int, tuple[Segment, SegmentPart]],
    left: list[str],
) -> list[str]:
    """Mend manifests, work lists, descriptor and candidate files of all batches; what was done.

    Descriptor files of a segment that is lost too are left: they are made anew with it.

    Args:
        parts: the real parts.
        dataset: whose.
        live: batch -> the segment that holds its rows, and which.
        left: told what could not be mended.
    """
    with parts.catalog.begin() as conn:
        named = named_files.step_files(conn, dataset.dataset_id)
    lost = [found for found in named if damage(parts, found.file) is not None]
    with_segment = {
        batch_id
        for batch_id, (segment, _) in live.items()
        if OF_DESCRIPTORS.intersection(damaged_roles(parts, segment.files))
    }
    done = []
    for found in lost:
        if found.role == "descriptors" and found.decided and found.batch_id in with_segment:
            continue
        with noting(left):
            done.append(f"batch {found.batch_id}: {_mend(parts, found, live)}")
    return done


def _mend(parts: Parts, found: StepFile, live: Mapping[int, tuple[Segment, SegmentPart]]) -> str:
    if found.role == "matches":
        with parts.catalog.begin() as conn:
            searches.forget_search(conn, found.attempt_id, found.file)
        return f"forgot {found.file.name}, what needs it searches again"
    if found.role == "work list":
        survey.run(parts, found.batch_id)
        return f"wrote the work list of batch {found.batch_id} anew"
    if found.role == "descriptors" and not found.decided:
        with parts.catalog.begin() as conn:
            batches.lock_batch(conn, found.batch_id)  # a decision of it takes it too
            forgotten = shards.forget_file(conn, found.shard_id, found.role, found.file)
        if not forgotten:
            return f"{found.file.name} is of a batch that went on just now: run this again"
        return f"forgot {found.file.name}, embed writes it anew when its night is run again"
    work = load_work(parts, found.batch_id)
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, found.attempt_id)
    if found.role == "manifest":
        (shard,) = (shard for shard in registered if shard.shard_id == found.shard_id)
        manifest_of(parts, work, shard)
    else:
        _descriptors_from_segment(parts, work, registered, found, live.get(found.batch_id))
    return f"wrote the {found.role} of source shard {found.shard_id} anew"


def _descriptors_from_segment(
    parts: Parts,
    work: Work,
    registered: Sequence[SourceShard],
    found: StepFile,
    place: tuple[Segment, SegmentPart] | None,
) -> None:
    """Write a decided batch's descriptor file anew, without what the decision took from it.

    That is the reasons of undecodable pictures and which ones are plain: they are in the catalog by
    now. Its rows of a segment are its descriptor files one after another.
    """
    with parts.catalog.begin() as conn:
        counts = shards.shard_counts(conn, found.attempt_id)
    ends = np.cumsum([counts[shard.shard_id].embedded for shard in registered])
    (at,) = (i for i, shard in enumerate(registered) if shard.shard_id == found.shard_id)
    rows = slice(int(ends[at - 1]) if at else 0, int(ends[at]))
    dimensions = work.attempt.fingerprint.dimensions
    content = DescriptorFile(np.empty((0, 32), np.uint8), np.empty((0, dimensions), np.float16), {})
    if place is not None:
        segment, part = place
        if part.rows != ends[-1]:
            raise FileMismatch(
                f"segment {segment.segment_id} has {part.rows} rows of batch {found.batch_id},"
                f" which embedded {ends[-1]}; the catalog was"
                f" changed by hand: {RESTORE}"
            )
        rows = slice(part.first_row + rows.start, part.first_row + rows.stop)
        try:
            opened = open_segment(parts.store, segment, HASHES)
        except FileMismatch as error:
            raise FileMismatch(
                f"{both_damaged(segment, found.batch_id)} ({str(error).partition(';')[0]})"
            ) from error
        content = DescriptorFile(
            opened.ids[rows],
            opened.descriptors[rows],
            {},
            {role: hashes[rows] for role, hashes in opened.codes.items()},
        )
    file = parts.store.put(
        f"{work.folder}/descriptors",
        ".parquet",
        lambda stream: write_descriptors(
            stream,
            content,
            fingerprint=work.attempt.fingerprint.digest,
            runtime={"made_from": "the segment"},
        ),
    )
    with parts.catalog.begin() as conn:
        shards.replace_descriptors(conn, found.shard_id, found.file, file)
