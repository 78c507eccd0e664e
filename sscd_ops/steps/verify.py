"""Do catalog and files agree: of what is published, and of the index."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq

from sscd_ops.catalog import datasets, output_shards, placements, segments, shards, snapshots
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.output_shards import ListedShard, OutputShard
from sscd_ops.catalog.snapshots import Snapshot
from sscd_ops.core import segment_file
from sscd_ops.errors import SscdOpsError
from sscd_ops.model import Segment, StoredFile
from sscd_ops.steps.damage import (
    OF_DESCRIPTORS,
    both_damaged,
    damage,
    damaged_roles,
    kept_rows,
    nights_of,
)
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.snapshots import made_from_catalog

# ---------------------------------------------------------------- snapshots


def verify_snapshot(parts: Parts, name: str, snapshot: int | None = None) -> list[str]:
    """Read the files of one snapshot, or of all, and compare them with the catalog; the problems.

    Checks the snapshot's file, each shard's tar, parquet and stats by sha256, that each parquet
    lists the samples that the catalog keeps in its shard, each once, and that the shards are of
    as many samples as their batches keep. Of a month that was detached the catalog has the number
    alone: there a parquet must list that many, none twice. Of all snapshots also the older ones'
    files, shards that wait for their commit, and ``latest.json``.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        made = snapshots.all_snapshots(conn, dataset.dataset_id)
        chosen = [each for each in made if snapshot in (None, each.number)]
        if snapshot is not None and not chosen:
            return [f"there is no snapshot {snapshot} of {name}"]
        newest = chosen[-1] if chosen else None
        listed: list[ListedShard] = []
        if newest is not None:
            listed = output_shards.listed_shards(conn, dataset.dataset_id, newest.number)
        written = (
            output_shards.live_shards(conn, dataset.dataset_id, snapshot)
            if snapshot
            else output_shards.written_shards(conn, dataset.dataset_id)
        )
    problems = [p for each in chosen[:-1] for p in _check(parts, each.file)]
    if newest is not None:
        found = _check(parts, newest.file)
        if not found:
            found = _compare_document(parts, name, newest, listed)
            found += _compare_pointer(parts, name, newest) if newest is made[-1] else []
        problems += found
    parts.progress.start(f"verify snapshots of {name}", len(written))
    for shard in written:
        damaged = [p for file in shard.files.values() for p in _check(parts, file)]
        problems += damaged or _compare_samples(parts, shard)
        parts.progress.advance()
    parts.progress.done()
    turn = 0 if newest is None else newest.turn
    number = 0 if newest is None else newest.number
    with parts.catalog.begin() as conn:
        deciding = placements.decisions_in(conn, dataset.dataset_id, number)
        kept = placements.count_kept(conn, dataset.dataset_id, deciding, turn)
    samples = sum(shard.samples for shard in listed)
    if kept != samples:
        problems.append(f"the catalog keeps {kept} samples, the snapshot lists {samples}")
    return problems


def _compare_samples(parts: Parts, shard: OutputShard) -> list[str]:
    """Whether a shard's parquet lists what the catalog keeps in the shard, each sample once."""
    parquet = parts.store.local(shard.files["parquet"])
    table = pq.read_table(parquet, columns=["sample_id"])
    listed = Counter(table.column("sample_id").to_pylist())
    with parts.catalog.begin() as conn:
        kept = placements.ids_of_output(conn, shard.output_id)
    if kept is None:
        kept = set(listed)
    faults = {
        "listed more than once": [name for name, times in listed.items() if times > 1],
        "kept in it and not listed": kept - listed.keys(),
        "listed and not kept in it": listed.keys() - kept,
    }
    problems = [
        f"{shard.name}: {len(names)} sample(s) {fault}, such as {min(names)}"
        for fault, names in faults.items()
        if names
    ]
    if listed.total() != shard.samples:
        problems.append(
            f"{shard.name}: lists {listed.total()} samples, the catalog {shard.samples}"
        )
    return problems


def _check(parts: Parts, file: StoredFile) -> list[str]:
    """What is wrong with a file below the root and with its copy in the cache."""
    found = damage(parts, file)
    if found is not None:
        return [found]
    if parts.store.drop_damaged_copy(file):
        return [
            f"the copy of {file.name} in storage.cache was damaged: it is removed now, and fetched"
            " again when it is needed"
        ]
    return []


def _compare_document(
    parts: Parts, name: str, snapshot: Snapshot, listed: list[ListedShard]
) -> list[str]:
    body = parts.store.local(snapshot.file).read_bytes()
    if body == made_from_catalog(name, snapshot, listed):
        return []
    return [
        f"snapshot {snapshot.number} lists other shards than the catalog: that was changed by hand,"
        " or another release wrote the snapshot; if neither, restore both from one backup"
    ]


def _compare_pointer(parts: Parts, name: str, newest: Snapshot) -> list[str]:
    pointer = f"{name}/snapshots/latest.json"
    wanted = parts.store.local(newest.file).read_bytes()
    if parts.store.read_small(pointer) == wanted:
        return []
    return [
        f"{parts.store.url(pointer)} is not snapshot {newest.number}, the newest:"
        f" `sscd-ops snapshot verify --dataset {name} --repair` writes it anew"
    ]


# ---------------------------------------------------------------- index


def verify_index(parts: Parts, name: str) -> list[str]:
    """Compare every live segment and mask with the catalog; the problems found.

    Manifests, descriptor files and candidate files, which steps wrote for each other and segments
    are rebuilt from, are looked at too, of every batch.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
        named = shards.named_files(conn, dataset.dataset_id)
    problems: list[str] = []
    hopeless: list[str] = []
    parts.progress.start(f"verify index of {name}", len(live) + len(named))
    lost: dict[int, list[str]] = {}
    for found in named:
        said = _check(parts, found.file)
        if said and found.role == "descriptors" and damage(parts, found.file) is not None:
            lost.setdefault(found.batch_id, []).extend(said)
        else:
            problems += said
        parts.progress.advance()
    for segment in live:
        nights = nights_of(parts, segment)
        said = [p for file in segment.files.values() for p in _check(parts, file)]
        both = [part.batch_id for _, part in nights if part.batch_id in lost]
        if both and OF_DESCRIPTORS.intersection(damaged_roles(parts, segment.files)):
            # what is said of each holds where the other is sound
            said += [p for batch_id in both for p in lost.pop(batch_id)]
            said = [p.partition("; ")[0] for p in said]
            hopeless += [both_damaged(segment, batch_id) for batch_id in both]
        if segment.mask is not None:
            said += _check(parts, segment.mask)
        problems += said or _compare_segment(parts, segment, dataset)
        problems += [p for work, _ in nights for p in _hashes_lacking(segment, work)]
        parts.progress.advance()
    parts.progress.done()
    problems += [p for said in lost.values() for p in said]
    return problems + hopeless


def _hashes_lacking(segment: Segment, work: Work) -> list[str]:
    return [
        f"segment {segment.segment_id} has no perceptual hashes ({role}), and batch"
        f" {work.batch.batch_id} was to be decided by them: a worker of another release"
        " decided it. What it kept is compared by descriptor alone, and a rebuild leaves it so"
        for role in {by.role for by in work.measures if by.by_hash} - segment.files.keys()
    ]


def _compare_segment(parts: Parts, segment: Segment, dataset: Dataset) -> list[str]:
    """Whether a segment's rows and kept mask are what the catalog says of its nights."""
    by_hand = "the catalog was changed by hand, restore it from a backup"
    try:
        ids = segment_file.open_segment(parts.store, segment).ids
        if segment.mask is not None:
            mask = segment_file.read_mask(parts.store, segment.mask, segment.rows)
            kept = kept_rows(parts, dataset, segment, ids)
            if (mask != kept).any():
                return [
                    f"segment {segment.segment_id}: its mask keeps {int(mask.sum())} images, the"
                    f" catalog {int(kept.sum())}, {int((mask & kept).sum())} of them the same:"
                    f" {by_hand}"
                ]
    except SscdOpsError as error:
        return [str(error)]
    own = dataset.fingerprint and dataset.fingerprint.digest
    if segment.fingerprint != own:
        return [
            f"segment {segment.segment_id} has fingerprint {segment.fingerprint}, the dataset"
            f" {own}: {by_hand}"
        ]
    return []
