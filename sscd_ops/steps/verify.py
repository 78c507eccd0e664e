"""Are the promises kept, and do catalog and files agree: rows, what is published, the index.

Each finding says which promise is broken, by what, and the command that mends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from sscd_ops.catalog import (
    archive,
    batches,
    checks,
    datasets,
    decisions,
    named_files,
    output_shards,
    placements,
    segments,
    snapshots,
)
from sscd_ops.catalog.archive import ArchivedShard
from sscd_ops.catalog.checks import RESTORE
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.output_shards import ListedShard, OutputShard
from sscd_ops.catalog.snapshots import Snapshot
from sscd_ops.core import segment_file
from sscd_ops.errors import IS_MISSING, CatalogBehind, SscdOpsError
from sscd_ops.model import BatchState, Finding, Segment, StoredFile
from sscd_ops.steps.copies import find_copies
from sscd_ops.steps.damage import (
    BOTH_DAMAGED,
    OF_DESCRIPTORS,
    both_damaged,
    damage,
    damaged_roles,
    kept_rows,
    nights_of,
    rows_of_pictures,
)
from sscd_ops.steps.orders import receipts
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.snapshots import (
    check_pointer,
    latest_name,
    made_from_catalog,
    read_latest,
    snapshot_named,
    stale_card,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_PUBLISHED, _FILES = "I7", "I8"


def verify_catalog(
    parts: Parts, name: str, *, copies: bool = False, only_rows: bool = False
) -> list[Finding]:
    """Whether the promises are kept, of a dataset: I1, I2, I4, I7 and I8, and I3 where asked.

    Args:
        parts: the real parts.
        name: the dataset's.
        copies: whether any two kept images are copies, which compares all with all.
        only_rows: do not read the files below the root.
    """
    with parts.catalog.begin() as conn:
        dataset_id = datasets.need(conn, name).dataset_id
        behind = _pointer(parts, conn, name)
    with parts.catalog.read() as conn:
        found = [*behind, *checks.check_rows(conn, dataset_id)]
    found += receipts.verify(parts, name)
    if not only_rows:
        files = verify_snapshot(parts, name, of_rows=False) + verify_index(parts, name)
        found += _as_one(parts, name, files)
    if copies:
        found += find_copies(parts, name)
    return list(dict.fromkeys(found))


def unpublished(parts: Parts, name: str) -> list[str]:
    """What no snapshot has for want of a source, each with what to do: no promise is broken yet."""
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        stuck = batches.batches_in_state(conn, dataset.dataset_id, BatchState.UNPUBLISHABLE)
        pending = decisions.pending_others(conn, dataset.dataset_id, dataset.turn)
    said = [
        f"batch {batch.batch_id} ({batch.name}) is unpublishable, and in no snapshot:"
        f" `sscd-ops batch show {batch.batch_id}` says what is gone and what to do"
        for batch in stuck
    ]
    return said + [
        f"turn {decision.turn} ({decision.kind}) is in no snapshot yet: the next one publishes it;"
        " if its source is gone, the night's log says which, and `sscd-ops batch repair` of its"
        " night decides what becomes of it"
        for decision in pending
    ]


# ---------------------------------------------------------------- snapshots


def verify_snapshot(
    parts: Parts, name: str, snapshot: int | None = None, *, of_rows: bool = True
) -> list[Finding]:
    """Read the files of a readable snapshot, or of all, and compare them with the catalog.

    Checks the snapshot's file, each shard's tar, parquet and stats by sha256, that each parquet
    lists the samples that the catalog keeps in its shard, each once, and that what is kept is
    placed once (``of_rows``). Of a month that was detached the catalog has the number
    alone: there a parquet must list that many, none twice. Of all snapshots also the older ones'
    files, shards that wait for their commit, ``latest.json``, and the archive of what was removed.
    """
    with parts.catalog.begin() as conn:
        behind = _pointer(parts, conn, name)
        dataset_id = datasets.need(conn, name).dataset_id
        made = snapshots.readable_snapshots(conn, dataset_id)
        chosen = [each for each in made if snapshot in (None, each.number)]
        if snapshot is not None and not chosen:
            if any(each.number == snapshot for each in snapshots.all_snapshots(conn, dataset_id)):
                return []  # expired: nothing of it has to be there
            what = f"there is no snapshot {snapshot} of {name}"
            return [Finding(_PUBLISHED, what, RESTORE)]
        newest = chosen[-1] if chosen else None
        listed: list[ListedShard] = []
        if newest is not None:
            listed = output_shards.listed_shards(conn, dataset_id, newest.number)
        written = (
            output_shards.live_shards(conn, dataset_id, snapshot)
            if snapshot
            else output_shards.written_shards(conn, dataset_id)
        )
    found = [p for each in chosen[:-1] for p in _check(parts, each.file, _PUBLISHED)]
    if newest is not None:
        damaged = _check(parts, newest.file, _PUBLISHED)
        if not damaged:
            damaged = _compare_document(parts, name, newest, listed)
            if newest is made[-1] and not behind:
                damaged += _compare_pointer(parts, name, newest)
        found += damaged
    found += behind
    parts.progress.start(f"verify snapshots of {name}", len(written))
    for shard in written:
        lost = [p for file in shard.files.values() for p in _check(parts, file, _PUBLISHED)]
        found += lost or _compare_samples(parts, shard)
        parts.progress.advance()
    parts.progress.done()
    if snapshot is None:
        found += _verify_archive(parts, name, dataset_id)
    if of_rows:
        with parts.catalog.read() as conn:
            found += checks.check_rows(conn, dataset_id, snapshot, only=("I4", "I7"))
    return found


def _verify_archive(parts: Parts, name: str, dataset_id: int) -> list[Finding]:
    """What is wrong with the archive of what nights removed."""
    with parts.catalog.begin() as conn:
        shards = archive.written(conn, dataset_id)
    found: list[Finding] = []
    parts.progress.start(f"verify archive of {name}", len(shards))
    for shard in shards:
        lost = [p for file in shard.files.values() for p in _check(parts, file, _FILES)]
        found += lost or _compare_archived(parts, shard)
        parts.progress.advance()
    parts.progress.done()
    return found


def _compare_archived(parts: Parts, shard: ArchivedShard) -> list[Finding]:
    parquet = parts.store.local(shard.files["parquet"])
    listed = pq.read_table(parquet, columns=["sample_id"]).column("sample_id").to_pylist()
    with parts.catalog.begin() as conn:
        samples = archive.samples_of(conn, shard)
    if samples is None:
        same = len(listed) == shard.samples
    else:
        same = listed == [str(sample.sample_id) for sample in samples]
    if same:
        return []
    what = f"{shard.name} lists other samples than its night removed, by the catalog"
    return [Finding(_FILES, what, RESTORE)]


def _pointer(parts: Parts, conn: Connection, name: str) -> list[Finding]:
    """Where ``latest.json`` is ahead of the catalog: what happened, and both ways on."""
    try:
        check_pointer(parts, conn, name)
    except CatalogBehind as error:
        return [_told(_FILES, str(error))]
    return []


def _told(promise: str, message: str) -> Finding:
    """A message that names fault and remedy, as errors do, as a finding."""
    what, between, remedy = message.partition("; ")
    if not between:
        what, _, remedy = message.rpartition(": ")
    return Finding(promise, what, remedy)


def _compare_samples(parts: Parts, shard: OutputShard) -> list[Finding]:
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
    # its bytes are those that the catalog names: rows were changed, or were so from the beginning
    return [Finding("I4", problem, RESTORE) for problem in problems]


def _check(parts: Parts, file: StoredFile, promise: str) -> list[Finding]:
    """What is wrong with a file below the root and with its copy in the cache."""
    found = damage(parts, file)
    if found is not None:
        return [_told(promise, found)]
    if parts.store.drop_damaged_copy(file):
        return [
            Finding(
                promise,
                f"the copy of {file.name} in storage.cache was damaged",
                "it is removed now, and fetched again when it is needed",
            )
        ]
    return []


def _compare_document(
    parts: Parts, name: str, snapshot: Snapshot, listed: list[ListedShard]
) -> list[Finding]:
    body = parts.store.local(snapshot.file).read_bytes()
    if body == made_from_catalog(name, snapshot, listed):
        return []
    return [
        Finding(
            _PUBLISHED,
            f"snapshot {snapshot.number} lists other shards than the catalog: that was changed by"
            " hand, or another release wrote the snapshot",
            f"if not another release, {RESTORE}",
        )
    ]


def _compare_pointer(parts: Parts, name: str, newest: Snapshot) -> list[Finding]:
    wanted = parts.store.local(newest.file).read_bytes()
    stale = [latest_name(name)] if read_latest(parts, name) != wanted else []
    return [
        Finding(
            _PUBLISHED,
            f"{parts.store.url(each)} is not that of snapshot {newest.number}, the newest",
            f"`sscd-ops snapshot verify --dataset {name} --repair` writes it anew",
        )
        for each in (*stale, *stale_card(parts, name, wanted))
    ]


def _as_one(parts: Parts, name: str, found: Sequence[Finding]) -> list[Finding]:
    """What is found of files; of a root that was restored from an older copy, in one finding."""
    with parts.catalog.begin() as conn:
        made = snapshots.all_snapshots(conn, datasets.need(conn, name).dataset_id)
    missing = [each for each in found if each.what.endswith(f" {IS_MISSING}")]
    named = snapshot_named(read_latest(parts, name), made[-1] if made else None)
    lost = [
        each
        for each in made
        if f"{parts.store.url(each.file.name)} {IS_MISSING}" in {each.what for each in missing}
    ]
    if not lost or not 0 < named < lost[0].number:
        return list(found)
    first, last = lost[0], lost[-1]
    since = f"snapshot {first.number}" + (f" to {last.number}" if last is not first else "")
    return [
        Finding(
            _FILES,
            f"the root is older than the catalog, as where an older copy of it was put back:"
            f" latest.json names snapshot {named}, and {len(missing)} files of {since} (up to turn"
            f" {last.turn}) are missing, such as {missing[0].what.removesuffix(f' {IS_MISSING}')}",
            f"copy newer files there, or make them anew: `sscd-ops index rebuild --dataset {name}`,"
            f" then `sscd-ops snapshot verify --dataset {name} --repair`; where they say that a"
            " source is gone: go back to a dump of the copy's age (`sscd-ops db restore FILE"
            " --replace`) and run the nights since again",
        ),
        *(each for each in found if not each.what.endswith((f" {IS_MISSING}", f" {BOTH_DAMAGED}"))),
    ]


# ---------------------------------------------------------------- index


def verify_index(parts: Parts, name: str) -> list[Finding]:
    """Compare every live segment and mask with the catalog.

    Manifests, descriptor files and candidate files, which steps wrote for each other and segments
    are rebuilt from, are looked at too, of every batch.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
        withdrawn = segments.live_segments(
            conn, dataset.dataset_id, dataset.generation, "withdrawn"
        )
        named = named_files.step_files(conn, dataset.dataset_id)
    problems: list[Finding] = []
    hopeless: list[Finding] = []
    parts.progress.start(f"verify index of {name}", len(live) + len(named))
    lost: dict[int, list[Finding]] = {}
    for found in named:
        said = _check(parts, found.file, _FILES)
        if said and found.role == "descriptors" and damage(parts, found.file) is not None:
            lost.setdefault(found.batch_id, []).extend(said)
        else:
            problems += said
        parts.progress.advance()
    for segment in live:
        nights = nights_of(parts, segment)
        said = [p for file in segment.files.values() for p in _check(parts, file, _FILES)]
        both = [part.batch_id for _, part in nights if part.batch_id in lost]
        if both and OF_DESCRIPTORS.intersection(damaged_roles(parts, segment.files)):
            # what is said of each holds where the other is sound
            said += [p for batch_id in both for p in lost.pop(batch_id)]
            remedy = f"`sscd-ops index rebuild --dataset {name}` embeds what is there again"
            said = [replace(p, remedy=remedy) for p in said]
            hopeless += [_told(_FILES, both_damaged(segment, batch_id)) for batch_id in both]
        if segment.mask is not None:
            said += _check(parts, segment.mask, _FILES)
        problems += said or _compare_segment(parts, segment, dataset)
        problems += [p for work, _ in nights for p in _hashes_lacking(segment, work)]
        parts.progress.advance()
    for segment in withdrawn:
        files = [*segment.files.values(), segment_file.mask_of(segment)]
        said = [p for file in files for p in _check(parts, file, _FILES)]
        problems += said or _compare_pictures(parts, segment, dataset)
    parts.progress.done()
    problems += [p for said in lost.values() for p in said]
    return problems + hopeless


def _hashes_lacking(segment: Segment, work: Work) -> list[Finding]:
    return [
        Finding(
            _FILES,
            f"segment {segment.segment_id} has no perceptual hashes ({role}), and batch"
            f" {work.batch.batch_id} was to be decided by them: a worker of another release"
            " decided it. What it kept is compared by descriptor alone, and a rebuild leaves it so",
            f"if it had them once, {RESTORE}",
        )
        for role in {by.role for by in work.measures if by.by_hash} - segment.files.keys()
    ]


def _compare_segment(parts: Parts, segment: Segment, dataset: Dataset) -> list[Finding]:
    """Whether a segment's rows and kept mask are what the catalog says of its nights."""
    try:
        ids = segment_file.open_segment(parts.store, segment).ids
        if segment.mask is not None:
            mask = segment_file.read_mask(parts.store, segment.mask, segment.rows)
            kept = kept_rows(parts, dataset, segment, ids)
            if (mask != kept).any():
                return [
                    Finding(
                        _FILES,
                        f"segment {segment.segment_id}: its mask keeps {int(mask.sum())} images,"
                        f" the catalog {int(kept.sum())}, {int((mask & kept).sum())} of them the"
                        " same",
                        RESTORE,
                    )
                ]
    except SscdOpsError as error:
        return [_told(_FILES, str(error))]
    return _compare_fingerprint(segment, dataset)


def _compare_pictures(parts: Parts, segment: Segment, dataset: Dataset) -> list[Finding]:
    """Whether a segment's rows are the pictures that the catalog says are in the withdrawn set."""
    try:
        ids = segment_file.open_segment(parts.store, segment).ids
        mask = segment_file.read_kept(parts.store, segment)
    except SscdOpsError as error:
        return [_told(_FILES, str(error))]
    said = rows_of_pictures(parts, dataset, segment)
    if {row: ids[row].tobytes() for row in np.flatnonzero(mask).tolist()} != said:
        what = f"segment {segment.segment_id}: it holds other withdrawn pictures than the catalog"
        return [Finding(_FILES, what, RESTORE)]
    return _compare_fingerprint(segment, dataset)


def _compare_fingerprint(segment: Segment, dataset: Dataset) -> list[Finding]:
    own = dataset.fingerprint and dataset.fingerprint.digest
    if segment.fingerprint != own:
        return [
            Finding(
                _FILES,
                f"segment {segment.segment_id} has fingerprint {segment.fingerprint}, the dataset"
                f" {own}",
                RESTORE,
            )
        ]
    return []
