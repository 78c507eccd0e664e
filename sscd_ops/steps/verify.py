"""Looking after what was written: do catalog and files agree, and rebuilding the index."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sscd_ops.catalog import attempts, batches, datasets, lookups, publishing, segments, shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.sql import files_of, need_file
from sscd_ops.core import segment_file
from sscd_ops.core.measures import DESCRIPTORS, HASHES
from sscd_ops.errors import FileMismatch, SscdOpsError
from sscd_ops.model import Segment, SourceShard, StoredFile
from sscd_ops.steps.mending import Left, both_damaged, damage, mend_steps
from sscd_ops.steps.parts import Parts, Work, frozen_options
from sscd_ops.steps.queries import codes_of, load_queries, open_backend
from sscd_ops.steps.snapshots import made_from_catalog

log = logging.getLogger(__name__)


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
        rows = publishing.snapshots(conn, dataset.dataset_id)
        chosen = [row for row in rows if snapshot in (None, row["snapshot"])]
        if snapshot is not None and not chosen:
            return [f"there is no snapshot {snapshot} of {name}"]
        newest = chosen[-1] if chosen else None
        live = []
        if newest is not None:
            live = publishing.live_shards(conn, dataset.dataset_id, newest["snapshot"])
        written = live if snapshot else publishing.written_shards(conn, dataset.dataset_id)
    problems = [p for row in chosen[:-1] for p in _check(parts, need_file(row["file"]))]
    if newest is not None:
        found = _check(parts, need_file(newest["file"]))
        if not found:
            found = _compare_document(parts, name, newest, live)
            found += _compare_pointer(parts, name, newest) if newest is rows[-1] else []
        problems += found
    parts.progress.start(f"verify snapshots of {name}", len(written))
    for shard in written:
        damaged = [p for file in files_of(shard["files"]).values() for p in _check(parts, file)]
        problems += damaged or _compare_samples(parts, shard)
        parts.progress.advance()
    parts.progress.done()
    turn = 0 if newest is None else newest["turn"]
    deciding = sorted({shard["decision_id"] for shard in live})
    with parts.catalog.begin() as conn:
        kept = publishing.count_kept(conn, dataset.dataset_id, deciding, turn)
    listed = sum(shard["samples"] for shard in live)
    if kept != listed:
        problems.append(f"the catalog keeps {kept} samples, the snapshot lists {listed}")
    return problems


def _compare_samples(parts: Parts, shard: Mapping[str, Any]) -> list[str]:
    """Whether a shard's parquet lists what the catalog keeps in the shard, each sample once."""
    parquet = parts.store.local(files_of(shard["files"])["parquet"])
    table = pq.read_table(parquet, columns=["sample_id"])
    listed = Counter(table.column("sample_id").to_pylist())
    with parts.catalog.begin() as conn:
        kept = publishing.ids_of_output(conn, shard["output_id"])
    if kept is None:
        kept = set(listed)
    faults = {
        "listed more than once": [name for name, times in listed.items() if times > 1],
        "kept in it and not listed": kept - listed.keys(),
        "listed and not kept in it": listed.keys() - kept,
    }
    problems = [
        f"{shard['name']}: {len(names)} sample(s) {fault}, such as {min(names)}"
        for fault, names in faults.items()
        if names
    ]
    if listed.total() != shard["samples"]:
        problems.append(
            f"{shard['name']}: lists {listed.total()} samples, the catalog {shard['samples']}"
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
    parts: Parts, name: str, row: Mapping[str, Any], live: list[Mapping[str, Any]]
) -> list[str]:
    body = parts.store.local(need_file(row["file"])).read_bytes()
    if body == made_from_catalog(name, row, live):
        return []
    return [
        f"snapshot {row['snapshot']} lists other shards than the catalog: that was changed by hand,"
        " or another release wrote the snapshot; if neither, restore both from one backup"
    ]


def _compare_pointer(parts: Parts, name: str, newest: Mapping[str, Any]) -> list[str]:
    pointer = f"{name}/snapshots/latest.json"
    wanted = parts.store.local(need_file(newest["file"])).read_bytes()
    if parts.store.read_small(pointer) == wanted:
        return []
    return [
        f"{parts.store.url(pointer)} is not snapshot {newest['snapshot']}, the newest:"
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
        work, decision_id = _work_of(parts, segment)
        batch_id = work.batch.batch_id
        said = [p for file in segment.files.values() for p in _check(parts, file)]
        if batch_id in lost and _damaged(parts, segment, _OF_DESCRIPTORS):
            # what is said of each holds where the other is sound
            said = [p.partition("; ")[0] for p in (*lost.pop(batch_id), *said)]
            hopeless.append(both_damaged(segment, batch_id))
        if segment.mask is not None:
            said += _check(parts, segment.mask)
        problems += said or _compare_segment(parts, segment, dataset, work, decision_id)
        for role in {by.role for by in work.measures if by.by_hash} - segment.files.keys():
            problems.append(
                f"segment {segment.segment_id} has no perceptual hashes ({role}), and batch"
                f" {batch_id} was to be decided by them: a worker of another release"
                " decided it. What it kept is compared by descriptor alone, and a rebuild leaves it"
                " so"
            )
        parts.progress.advance()
    parts.progress.done()
    problems += [p for said in lost.values() for p in said]
    return problems + hopeless


_OF_DESCRIPTORS = frozenset({DESCRIPTORS, "ids", *HASHES})
"""The roles of a segment that its batch's descriptor files follow from, and it from them."""


def _damaged(parts: Parts, segment: Segment, roles: Collection[str]) -> list[str]:
    """Which of these files of a segment are lost or damaged."""
    files = {role: file for role, file in segment.files.items() if role in roles}
    return sorted(role for role, file in files.items() if damage(parts, file) is not None)


def _shards_of(parts: Parts, work: Work) -> list[SourceShard]:
    with parts.catalog.begin() as conn:
        return shards.shards_of(conn, work.attempt.attempt_id)


def _compare_segment(
    parts: Parts, segment: Segment, dataset: Dataset, work: Work, decision_id: int
) -> list[str]:
    """Whether a segment's rows and kept mask are what the catalog says of its batch."""
    by_hand = "the catalog was changed by hand, restore it from a backup"
    try:
        ids = segment_file.open_segment(parts.store, segment).ids
        if segment.mask is not None:
            mask = segment_file.read_mask(parts.store, segment.mask, segment.rows)
            kept = _kept(parts, dataset, decision_id, ids)
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


def index_info(parts: Parts, name: str) -> list[dict[str, Any]]:
    """One row for each segment: batch, rows, kept rows, files and bytes."""
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        found = segments.all_segments(conn, dataset.dataset_id)
    answer = []
    for r in found:
        files = files_of(r["files"])
        answer.append(
            {
                "segment": r["segment_id"],
                "batch_id": r["batch_id"],
                "night": r["night"],
                "turn": r["turn"],
                "rows": r["rows"],
                "kept": r["kept"],
                "dimensions": r["dimensions"],
                "files": " ".join(sorted(files)),
                "bytes": sum(file.bytes for file in files.values()),
            }
        )
    return answer


def rebuild_index(parts: Parts, name: str) -> list[str]:
    """Write missing or damaged segments and masks anew; what was done.

    A segment is built from the descriptor files of its batch, which embed wrote, and these from
    it; a mask from the verdicts in the catalog; a manifest from its source shard. Segments and
    masks come out with the sha256 they had, save for search codes of another release, which are
    registered anew. Then segments get the codes of the backend that the last batch searched with,
    where they were written under another one: as a history grows, `auto` moves on. Candidate files
    that were lost are forgotten.

    Raises:
        FileMismatch: what a file follows from is lost too. All else was mended.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
    left = Left()
    done = mend_steps(parts, dataset, {_work_of(parts, s)[0].batch.batch_id: s for s in live}, left)
    for segment in live:
        with left:
            damaged = _damaged(parts, segment, segment.files)
            if damaged:
                _rebuild_segment(parts, name, segment)
                done.append(f"segment {segment.segment_id}: wrote {', '.join(damaged)} anew")
            if segment.mask is not None and damage(parts, segment.mask) is not None:
                _rebuild_mask(parts, dataset, segment)
                done.append(f"segment {segment.segment_id}: wrote its mask anew")
    if left.said:
        raise FileMismatch("; ".join(left.said[:10]))
    return done + _add_codes(parts, name)


def _add_codes(parts: Parts, name: str) -> list[str]:
    """Give every segment the codes of the last batch's backend; what was done."""
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
    if not live:
        return []
    work, _ = _work_of(parts, live[-1])
    backend = open_backend(parts, work)
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


def _work_of(parts: Parts, segment: Segment) -> tuple[Work, int]:
    with parts.catalog.begin() as conn:
        batch_id, decision_id = segments.night_of_segment(conn, segment.segment_id)
        batch = batches.read_batch(conn, batch_id)
        attempt = attempts.read_attempt(conn, batch)
    return Work(batch, attempt, frozen_options(batch, attempt)), decision_id


def _rebuild_segment(parts: Parts, name: str, segment: Segment) -> None:
    work, _ = _work_of(parts, segment)
    registered = _shards_of(parts, work)
    lost = [
        found
        for shard in registered
        if shard.descriptors is not None and (found := damage(parts, shard.descriptors)) is not None
    ]
    if lost:
        raise FileMismatch(
            f"{both_damaged(segment, work.batch.batch_id)} ({lost[0].partition(';')[0]})"
        )
    queries = load_queries(parts, work, registered)
    codes = codes_of(open_backend(parts, work), queries)
    for role in HASHES.keys() - segment.files.keys():
        codes.pop(role, None)  # it was decided without: later nights would be compared otherwise
    files = segment_file.write_segment(
        parts.store, f"{name}/index/segments", queries.descriptors, queries.ids, codes
    )
    for role in segment.files.keys() & _OF_DESCRIPTORS:
        if role not in files or files[role].sha256 != segment.files[role].sha256:
            raise FileMismatch(
                f"segment {segment.segment_id}: the descriptor files of batch"
                f" {work.batch.batch_id} give other {role} than were decided with: restore"
                f" {segment.files[role].name} from a backup"
            )
    with parts.catalog.begin() as conn:
        segments.replace_segment_files(conn, segment.segment_id, files)


def _rebuild_mask(parts: Parts, dataset: Dataset, segment: Segment) -> None:
    _, decision_id = _work_of(parts, segment)
    ids = segment_file.read_ids(parts.store, segment)
    kept = _kept(parts, dataset, decision_id, ids)
    file = segment_file.write_mask(parts.store, f"{dataset.name}/index/masks", kept)
    if segment.mask is not None and file.sha256 != segment.mask.sha256:
        raise FileMismatch(
            f"segment {segment.segment_id}: the catalog's verdicts give another mask than the"
            f" generation names; restore {segment.mask.name} from a backup"
        )


def _kept(
    parts: Parts, dataset: Dataset, decision_id: int, ids: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Which rows of a segment hold a kept image, by the catalog's verdicts as of the row's turn.

    Of later turns masks are others than those that were listed with that row.
    """
    with parts.catalog.begin() as conn:
        known = lookups.known_images(conn, dataset.dataset_id, ids, dataset.turn)
    kept = np.zeros(len(ids), bool)
    mine = (known.verdict == "kept") & (known.decision_id == decision_id)
    kept[known.segment_row[mine]] = True
    return kept
