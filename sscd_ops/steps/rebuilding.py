"""The index and what is published, written anew where it was lost or damaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sscd_ops.catalog import archive, datasets, output_shards, segments, shards, snapshots
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core import segment_file
from sscd_ops.core.descriptor_file import bytes_rows
from sscd_ops.core.measures import HASHES
from sscd_ops.core.stored_rows import joined
from sscd_ops.errors import FileMismatch
from sscd_ops.model import Segment, SourceShard, StoredFile
from sscd_ops.steps.archiving import write_archived_again
from sscd_ops.steps.damage import (
    OF_DESCRIPTORS,
    both_damaged,
    damage,
    damaged_roles,
    kept_rows,
    newest_night,
    nights_of,
    noting,
    rows_of_pictures,
)
from sscd_ops.steps.embed import embed_again
from sscd_ops.steps.mending import mend_steps
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import load_queries, open_backend
from sscd_ops.steps.shard_writing import write_again
from sscd_ops.steps.snapshots import (
    check_root,
    read_latest,
    read_snapshot_file,
    set_back_latest,
)
from sscd_ops.steps.withdrawn_set import known_pictures, store_pictures

# ---------------------------------------------------------------- index


def rebuild_index(parts: Parts, name: str) -> list[str]:
    """Write missing or damaged segments and masks anew; what was done.

    A segment is built from the descriptor files of its batches, which embed wrote, and these from
    it; both, where both are lost, from the pictures, if that gives what was decided with; a mask
    from the verdicts in the catalog; a manifest from its source shard. Segments and masks come out
    with the sha256 they had, save for search codes of another release, which are registered anew.
    Then segments get the codes of the backend that the last batch searched with, where they were
    written under another one: as a history grows, `auto` moves on. Candidate files that were lost
    are forgotten.

    Raises:
        FileMismatch: what a file follows from is lost too. All else was mended.
        StoreRefused: the root is not mounted.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        check_root(parts, conn, dataset)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
        withdrawn = segments.live_segments(
            conn, dataset.dataset_id, dataset.generation, "withdrawn"
        )
    left: list[str] = []
    place = {part.batch_id: (s, part) for s in live for _, part in nights_of(parts, s)}
    done = mend_steps(parts, dataset, place, left)
    for segment in live:
        with noting(left):
            if damaged := damaged_roles(parts, segment.files):
                done += _rebuild_segment(parts, name, segment)
                done.append(f"segment {segment.segment_id}: wrote {', '.join(damaged)} anew")
            if segment.mask is not None and damage(parts, segment.mask) is not None:
                _rebuild_mask(parts, dataset, segment)
                done.append(f"segment {segment.segment_id}: wrote its mask anew")
    for segment in withdrawn:
        files = {**segment.files, "mask": segment_file.mask_of(segment)}
        with noting(left):
            if damaged := damaged_roles(parts, files):
                _rebuild_pictures(parts, dataset, segment, live, damaged)
                done.append(f"segment {segment.segment_id}: wrote {', '.join(damaged)} anew")
    if left:
        raise FileMismatch("; ".join(left[:10]))
    return done + _add_codes(parts, name)


def _add_codes(parts: Parts, name: str) -> list[str]:
    """Give every segment the codes of the last batch's backend; what was done."""
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
    if not live:
        return []
    backend = open_backend(parts, newest_night(parts, live))
    done = []
    for segment in live:
        lacking = sorted(set(backend.roles()) - segment.files.keys())
        if lacking:
            written = segment_file.rebuild_codes(
                parts.store, f"{name}/index/segments", segment, backend
            )
            with parts.catalog.begin() as conn:
                segments.add_segment_files(conn, segment.segment_id, written)
            done.append(f"segment {segment.segment_id}: added {', '.join(lacking)}")
    return done


def _rebuild_segment(parts: Parts, name: str, segment: Segment) -> list[str]:
    """Write a segment anew; which descriptor files were, of its pictures, since they were lost."""
    nights = [work for work, _ in nights_of(parts, segment)]
    described = [_Described.of(parts, work) for work in nights]
    loaded = [load_queries(parts, each.work, each.registered) for each in described]
    # those of a segment that was decided without hashes stay out: later nights would be compared
    # otherwise
    hashed = [role for role in HASHES.keys() & segment.files if all(role in q.rows for q in loaded)]
    descriptors = joined([queries.descriptors for queries in loaded])
    files = segment_file.write_segment(
        parts.store,
        f"{name}/index/segments",
        descriptors,
        np.concatenate([queries.ids for queries in loaded]),
        segment_file.coded(open_backend(parts, nights[-1]), descriptors)
        | {role: joined([queries.rows[role] for queries in loaded]) for role in hashed},
    )
    again = [(each.work, *pair) for each in described for pair in each.again]
    for role in segment.files.keys() & OF_DESCRIPTORS:
        if role in files and files[role].sha256 == segment.files[role].sha256:
            continue
        if again:
            both = both_damaged(segment, again[0][0].batch.batch_id)
            raise FileMismatch(f"{both}; on this device its pictures give other {role}")
        named = ", ".join(str(work.batch.batch_id) for work in nights)
        raise FileMismatch(
            f"segment {segment.segment_id}: the descriptor files of batch {named} give other"
            f" {role} than were decided with: restore {segment.files[role].name} from a backup"
        )
    with parts.catalog.begin() as conn:
        segments.replace_segment_files(conn, segment.segment_id, files)
        for _, shard, file in again:
            if shard.descriptors is not None:
                shards.replace_descriptors(conn, shard.shard_id, shard.descriptors, file)
    return [
        f"batch {work.batch.batch_id}: embedded source shard {shard.shard_id} again"
        for work, shard, _ in again
    ]


@dataclass(frozen=True)
class _Described:
    """A night of a damaged segment. ``again``: source shards whose descriptor file was lost too.

    ``registered``: all its source shards, those with the file that was made of the pictures.
    """

    work: Work
    registered: Sequence[SourceShard]
    again: Sequence[tuple[SourceShard, StoredFile]]

    @staticmethod
    def of(parts: Parts, work: Work) -> _Described:
        with parts.catalog.begin() as conn:
            registered = shards.shards_of(conn, work.attempt.attempt_id)
        again = {
            shard: embed_again(parts, work, shard)
            for shard in registered
            if shard.descriptors is not None and damage(parts, shard.descriptors) is not None
        }
        now = [
            replace(shard, descriptors=again[shard]) if shard in again else shard
            for shard in registered
        ]
        return _Described(work, now, list(again.items()))


def _rebuild_mask(parts: Parts, dataset: Dataset, segment: Segment) -> None:
    ids = segment_file.read_ids(parts.store, segment)
    kept = kept_rows(parts, dataset, segment, ids)
    file = segment_file.write_mask(parts.store, f"{dataset.name}/index/masks", kept)
    if segment.mask is not None and file.sha256 != segment.mask.sha256:
        raise FileMismatch(
            f"segment {segment.segment_id}: the catalog's verdicts give another mask than the"
            f" generation names; restore {segment.mask.name} from a backup"
        )


def _rebuild_pictures(
    parts: Parts,
    dataset: Dataset,
    segment: Segment,
    live: Sequence[Segment],
    damaged: Sequence[str],
) -> None:
    """Write files of a segment of the withdrawn set anew, from those of images that were read.

    Raises:
        FileMismatch: one needs a picture that was given as a file.
    """
    said = rows_of_pictures(parts, dataset, segment)
    ids = np.zeros((segment.rows, 32), np.uint8)
    ids[list(said)] = bytes_rows(said.values(), 32)
    pictures = known_pictures(parts, dataset, ids, live, segment.dimensions)
    files = dict(store_pictures(parts, dataset.name, pictures).files)
    mask = np.zeros(segment.rows, bool)
    mask[list(said)] = True
    files["mask"] = segment_file.write_mask(parts.store, f"{dataset.name}/index/masks", mask)
    named = {**segment.files, "mask": segment_file.mask_of(segment)}
    for role in damaged:
        if role not in files or files[role].sha256 != named[role].sha256:
            raise FileMismatch(
                f"segment {segment.segment_id}: of the withdrawn pictures in it some are no images"
                f" that a night described: restore {named[role].name} from a backup"
            )


# ---------------------------------------------------------------- what is published


def rebuild_snapshots(parts: Parts, name: str) -> tuple[list[str], list[str]]:
    """Write lost and damaged snapshot files and shards anew; what was done, and what is left.

    A snapshot's file follows from the catalog, a shard's files from decisions and source shards,
    those of the archive likewise. Each comes out with the sha256 it had, or is left as it is. What
    only expired snapshots name is left alone.
    """
    with parts.catalog.begin() as conn:
        if datasets.read(conn, name) is None and read_latest(parts, name) is not None:
            datasets.ensure(conn, name)  # a dump from before its first night was restored
        dataset = datasets.need(conn, name)
        made = snapshots.readable_snapshots(conn, dataset.dataset_id)
        written = output_shards.written_shards(conn, dataset.dataset_id)
        archived = archive.written(conn, dataset.dataset_id)
    done: list[str] = []
    left: list[str] = []
    parts.progress.start(f"rebuild snapshots of {name}", len(made) + len(written) + len(archived))
    for snapshot in made:
        if damage(parts, snapshot.file) is not None:
            with noting(left), parts.catalog.begin() as conn:
                read_snapshot_file(parts, conn, name, snapshot)
                done.append(f"snapshot {snapshot.number}: wrote its file anew")
        parts.progress.advance()
    for shard in written:
        if lost := damaged_roles(parts, shard.files):
            with noting(left):
                write_again(parts, shard)
                done.append(f"{shard.name}: wrote {', '.join(lost)} anew")
        parts.progress.advance()
    for each in archived:
        if lost := damaged_roles(parts, each.files):
            with noting(left):
                write_archived_again(parts, each)
                done.append(f"{each.name}: wrote {', '.join(lost)} anew")
        parts.progress.advance()
    parts.progress.done()
    with noting(left):
        set_back = set_back_latest(parts, name)
        done += [] if set_back is None else [set_back]
    return done, left
