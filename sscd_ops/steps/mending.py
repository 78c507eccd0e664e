"""Files that were lost or damaged, made anew from what they follow from; or no longer named."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from sscd_ops.catalog import batches, datasets, publishing, shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.shards import NamedFile
from sscd_ops.catalog.sql import files_of, need_file
from sscd_ops.core.descriptor_file import DescriptorFile, write_descriptors
from sscd_ops.core.measures import HASHES
from sscd_ops.core.segment_file import open_segment
from sscd_ops.errors import PUT_BACK, FileMismatch, SourceChanged
from sscd_ops.model import Segment, SourceShard, StoredFile
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Work, load_work
from sscd_ops.steps.publish import write_again
from sscd_ops.steps.snapshots import read_snapshot_file, repair_latest

log = logging.getLogger(__name__)


def damage(parts: Parts, file: StoredFile) -> str | None:
    """What is wrong with a named file, and its remedy; None where it is as the catalog says."""
    try:
        parts.store.verify(file)
    except FileMismatch as error:
        return str(error)
    return None


class Left:
    """What could not be mended, in words."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __enter__(self) -> Left:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        """Note what a piece of work refused, so that the next one is tried all the same."""
        if isinstance(error, SourceChanged):
            reason = str(error).removesuffix(f": {PUT_BACK}")
            self.said.append(
                f"{reason}: put the original back and run this command again, or restore what is"
                " lost from a backup"
            )
            return True
        if isinstance(error, FileMismatch):
            self.said.append(str(error))
            return True
        return False


# ---------------------------------------------------------------- what steps wrote for each other


def mend_steps(
    parts: Parts, dataset: Dataset, live: Mapping[int, Segment], left: Left
) -> list[str]:
    """Mend the manifests, descriptor and candidate files of all batches; what was done.

    Args:
        parts: the real parts.
        dataset: whose.
        live: batch -> its segment.
        left: told what could not be mended.
    """
    with parts.catalog.begin() as conn:
        named = shards.named_files(conn, dataset.dataset_id)
    lost = [found for found in named if damage(parts, found.file) is not None]
    done = []
    for found in lost:
        with left:
            done.append(f"batch {found.batch_id}: {_mend(parts, found, live)}")
    return done


def _mend(parts: Parts, found: NamedFile, live: Mapping[int, Segment]) -> str:
    if found.role == "matches":
        with parts.catalog.begin() as conn:
            shards.forget_search(conn, found.attempt_id, found.file)
        return f"forgot {found.file.name}, what needs it searches again"
    if not found.current or (found.role == "descriptors" and not found.decided):
        with parts.catalog.begin() as conn:
            batches.lock_batch(conn, found.batch_id)  # a decision of it takes it too
            forgotten = shards.forget_file(conn, found.shard_id, found.role, found.file)
        if not forgotten:
            return f"{found.file.name} is of a batch that went on just now: run this again"
        if found.current:
            return f"forgot {found.file.name}, embed writes it anew when its night is run again"
        return f"forgot {found.file.name}, of an attempt that was given up"
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
    found: NamedFile,
    segment: Segment | None,
) -> None:
    """Write a decided batch's descriptor file anew, without what the decision took from it.

    That is the reasons of undecodable pictures and which ones are plain: they are in the catalog by
    now. A segment is its batch's descriptor files one after another.
    """
    with parts.catalog.begin() as conn:
        counts = shards.shard_counts(conn, found.attempt_id)
    ends = np.cumsum([counts[shard.shard_id].embedded for shard in registered])
    (at,) = (i for i, shard in enumerate(registered) if shard.shard_id == found.shard_id)
    rows = slice(int(ends[at - 1]) if at else 0, int(ends[at]))
    dimensions = work.attempt.fingerprint.dimensions
    content = DescriptorFile(np.empty((0, 32), np.uint8), np.empty((0, dimensions), np.float16), {})
    if segment is not None:
        if segment.rows != ends[-1]:
            raise FileMismatch(
                f"segment {segment.segment_id} has {segment.rows} rows, batch {found.batch_id}"
                f" embedded {ends[-1]}: the catalog was changed by hand, restore it from a backup"
            )
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


def both_damaged(segment: Segment, batch_id: int) -> str:
    """Says that of what follows from each other neither is sound."""
    return (
        f"segment {segment.segment_id} and descriptor files of its batch {batch_id} are both"
        " damaged: restore one of them from a backup, the other follows from it"
    )


# ---------------------------------------------------------------- what is published


def rebuild_snapshots(parts: Parts, name: str) -> tuple[list[str], list[str]]:
    """Write lost and damaged snapshot files and shards anew; what was done, and what is left.

    A snapshot's file follows from the catalog, a shard's files from decisions and source shards.
    Each comes out with the sha256 it had, or is left as it is.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        snapshots = publishing.snapshots(conn, dataset.dataset_id)
        written = publishing.written_shards(conn, dataset.dataset_id)
    done: list[str] = []
    left = Left()
    parts.progress.start(f"rebuild snapshots of {name}", len(snapshots) + len(written))
    for row in snapshots:
        if damage(parts, need_file(row["file"])) is not None:
            with left, parts.catalog.begin() as conn:
                read_snapshot_file(parts, conn, name, row)
                done.append(f"snapshot {row['snapshot']}: wrote its file anew")
        parts.progress.advance()
    for shard in written:
        files = files_of(shard["files"])
        lost = sorted(role for role, file in files.items() if damage(parts, file) is not None)
        if lost:
            with left:
                write_again(parts, load_work(parts, shard["batch_id"]), shard)
                done.append(f"{shard['name']}: wrote {', '.join(lost)} anew")
        parts.progress.advance()
    parts.progress.done()
    with left:
        repair_latest(parts, name)
    return done, left.said
