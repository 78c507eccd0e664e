"""Looking after what was written: do catalog and files agree, and rebuilding the index."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sqlalchemy.engine import Connection

from sscd_ops.catalog import batches, decisions, publishing, shards
from sscd_ops.catalog.batches import Dataset
from sscd_ops.catalog.sql import files_of, need_file
from sscd_ops.core.perceptual import ROLE
from sscd_ops.errors import FileMismatch, SscdOpsError, UsageError
from sscd_ops.model import Segment, SourceShard, StoredFile
from sscd_ops.options import dataset_from_json
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import codes_of, load_queries, open_backend
from sscd_ops.steps.snapshots import document

log = logging.getLogger(__name__)


def _dataset(conn: Connection, name: str) -> Dataset:
    dataset = batches.read_dataset(conn, name)
    if dataset is None:
        raise UsageError(f"dataset {name!r} has no batch yet")
    return dataset


# ---------------------------------------------------------------- snapshots


def verify_snapshot(parts: Parts, name: str, snapshot: int | None = None) -> list[str]:
    """Read every file of a snapshot and compare it with the catalog; the problems found.

    Checks the snapshot's file, each shard's tar, parquet and stats by sha256, that each parquet
    lists the samples that the catalog keeps in its shard, each once, and that the shards are of
    as many samples as their batches keep. Of a month that was detached the catalog has the number
    alone: there a parquet must list that many, none twice.
    """
    with parts.catalog.begin() as conn:
        dataset = _dataset(conn, name)
        row = publishing.read_snapshot(conn, dataset.dataset_id, snapshot)
        if row is None:
            return [] if snapshot is None else [f"there is no snapshot {snapshot} of {name}"]
        live = publishing.live_shards(conn, dataset.dataset_id, row["snapshot"])
    problems = _check(parts, need_file(row["file"]))
    if not problems:
        problems += _compare_document(parts, name, row, live)
    parts.progress.start(f"verify snapshot {row['snapshot']}", len(live))
    for shard in live:
        damaged = [p for file in files_of(shard["files"]).values() for p in _check(parts, file)]
        problems += damaged or _compare_samples(parts, shard)
        parts.progress.advance()
    parts.progress.done()
    with parts.catalog.begin() as conn:
        kept = publishing.count_kept(conn, sorted({shard["decision_id"] for shard in live}))
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
        kept = publishing.ids_of_output(conn, shard["decision_id"], shard["number"])
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
    try:
        parts.store.verify(file)
    except FileMismatch as error:
        return [str(error)]
    return []


def _compare_document(
    parts: Parts, name: str, row: Mapping[str, Any], live: list[Mapping[str, Any]]
) -> list[str]:
    body = parts.store.local(need_file(row["file"])).read_bytes()
    found = json.loads(body)
    wanted = document(
        name,
        row["snapshot"],
        parent=row["parent"],
        batch=found["batch"],
        fingerprint=found["fingerprint"],
        shards=live,
    )
    return (
        []
        if body == wanted
        else [f"snapshot {row['snapshot']} lists other shards than the catalog"]
    )


# ---------------------------------------------------------------- index


def verify_index(parts: Parts, name: str) -> list[str]:
    """Compare every live segment and mask with the catalog; the problems found.

    The descriptor files that segments are rebuilt from are looked at too.
    """
    with parts.catalog.begin() as conn:
        dataset = _dataset(conn, name)
        live = decisions.live_segments(conn, dataset.dataset_id, dataset.generation)
    problems: list[str] = []
    lost: list[str] = []
    unhashed: list[str] = []
    parts.progress.start(f"verify index of {name}", len(live))
    for segment in live:
        found = [p for file in segment.files.values() for p in _check(parts, file)]
        if segment.mask is not None:
            found += _check(parts, segment.mask)
        if not found:
            found = _open(parts, segment, dataset)
        problems += found
        work, _ = _work_of(parts, segment)
        if work.perceptual and ROLE not in segment.files:
            unhashed.append(
                f"segment {segment.segment_id} has no perceptual hashes ({ROLE}), and batch"
                f" {work.batch.batch_id} was to be decided by them: a worker of another release"
                " decided it. What it kept is compared by descriptor alone, and a rebuild leaves it"
                " so"
            )
        lost += _check_descriptors(parts, _shards_of(parts, work))
        parts.progress.advance()
    parts.progress.done()
    if problems and not lost:
        problems.append(f"`sscd-ops index rebuild --dataset {name}` writes what is missing anew")
    if lost:
        lost.append("restore these descriptor files: without them a lost segment cannot be rebuilt")
    return problems + lost + unhashed


def _shards_of(parts: Parts, work: Work) -> list[SourceShard]:
    with parts.catalog.begin() as conn:
        return shards.shards_of(conn, work.attempt.attempt_id)


def _check_descriptors(parts: Parts, registered: Sequence[SourceShard]) -> list[str]:
    """What is wrong with the descriptor files that embed wrote."""
    files = [shard.descriptors for shard in registered if shard.descriptors is not None]
    return [problem for file in files for problem in _check(parts, file)]


def _open(parts: Parts, segment: Segment, dataset: Dataset) -> list[str]:
    try:
        parts.segments.open(segment)
        if segment.mask is not None:
            parts.segments.read_mask(segment.mask, segment.rows)
    except SscdOpsError as error:
        return [str(error)]
    if segment.fingerprint != dataset.fingerprint:
        return [
            f"segment {segment.segment_id} has fingerprint {segment.fingerprint}, the dataset"
            f" {dataset.fingerprint}: the catalog was changed by hand, restore it from a backup"
        ]
    return []


def index_info(parts: Parts, name: str) -> list[dict[str, Any]]:
    """One row for each segment: batch, rows, kept rows, files and bytes."""
    with parts.catalog.begin() as conn:
        dataset = _dataset(conn, name)
        found = decisions.all_segments(conn, dataset.dataset_id)
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

    A segment is built from the descriptor files of its batch, which embed wrote; a mask from the
    verdicts in the catalog. Both come out with the sha256 they had, save for search codes of
    another release, which are registered anew. Then segments get the codes of the backend that the
    last batch searched with, where they were written under another one: as a history grows, `auto`
    moves on.

    Raises:
        FileMismatch: a descriptor file is gone too; names the batch that must be embedded again.
    """
    with parts.catalog.begin() as conn:
        dataset = _dataset(conn, name)
        live = decisions.live_segments(conn, dataset.dataset_id, dataset.generation)
    done: list[str] = []
    for segment in live:
        damaged = [role for role, file in segment.files.items() if _check(parts, file)]
        if damaged:
            _rebuild_segment(parts, name, segment)
            done.append(f"segment {segment.segment_id}: wrote {', '.join(sorted(damaged))} anew")
        if segment.mask is not None and _check(parts, segment.mask):
            _rebuild_mask(parts, name, segment)
            done.append(f"segment {segment.segment_id}: wrote its mask anew")
    return done + _add_codes(parts, name)


def _add_codes(parts: Parts, name: str) -> list[str]:
    """Give every segment the codes of the last batch's backend; what was done."""
    with parts.catalog.begin() as conn:
        dataset = _dataset(conn, name)
        live = decisions.live_segments(conn, dataset.dataset_id, dataset.generation)
    if not live:
        return []
    work, _ = _work_of(parts, live[-1])
    backend = open_backend(parts, work)
    done = []
    for segment in live:
        lacking = sorted(set(backend.roles()) - segment.files.keys())
        if lacking:
            written = parts.segments.rebuild_codes(f"{name}/index/segments", segment, backend)
            with parts.catalog.begin() as conn:
                decisions.add_segment_files(conn, segment.segment_id, written)
            done.append(f"segment {segment.segment_id}: added {', '.join(lacking)}")
    return done


def _work_of(parts: Parts, segment: Segment) -> tuple[Work, int]:
    with parts.catalog.begin() as conn:
        batch_id, decision_id = decisions.decision_of_segment(conn, segment.segment_id)
        batch = batches.read_batch(conn, batch_id)
        attempt = batches.read_attempt(conn, batch)
    return Work(batch, attempt, dataset_from_json(attempt.config)), decision_id


def _rebuild_segment(parts: Parts, name: str, segment: Segment) -> None:
    work, _ = _work_of(parts, segment)
    registered = _shards_of(parts, work)
    lost = _check_descriptors(parts, registered)
    if lost:
        raise FileMismatch(
            f"segment {segment.segment_id} is rebuilt from the descriptor files of batch"
            f" {work.batch.batch_id}, and they are damaged too: restore them ({lost[0]})"
        )
    queries = load_queries(parts, work, registered)
    codes = codes_of(open_backend(parts, work), queries)
    if ROLE not in segment.files:
        codes.pop(ROLE, None)  # it was decided without: later nights would be compared otherwise
    files = parts.segments.write(f"{name}/index/segments", queries.descriptors, queries.ids, codes)
    for role in segment.files.keys() & {"descriptors", "ids", ROLE}:
        if role not in files or files[role].sha256 != segment.files[role].sha256:
            raise FileMismatch(
                f"segment {segment.segment_id}: the descriptor files of batch"
                f" {work.batch.batch_id} give other {role} than were decided with"
            )
    with parts.catalog.begin() as conn:
        decisions.replace_segment_files(conn, segment.segment_id, files)


def _rebuild_mask(parts: Parts, name: str, segment: Segment) -> None:
    work, decision_id = _work_of(parts, segment)
    # its codes may have been written anew under other names just now
    own = {role: segment.files[role] for role in ("descriptors", "ids")}
    ids = parts.segments.open(replace(segment, files=own)).ids
    kept = np.zeros(segment.rows, bool)
    with parts.catalog.begin() as conn:
        digests = [row.tobytes() for row in ids]
        dataset_id = work.batch.dataset_id
        kept[decisions.kept_segment_rows(conn, dataset_id, decision_id, digests)] = True
    file = parts.segments.write_mask(f"{name}/index/masks", kept)
    if segment.mask is not None and file.sha256 != segment.mask.sha256:
        raise FileMismatch(
            f"segment {segment.segment_id}: the catalog's verdicts give another mask than the"
            " generation names"
        )
