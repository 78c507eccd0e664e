"""Attempts at a batch: what plan and survey froze, and which one its tasks may write for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import batches, searches, shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.fingerprints import detail_json, fingerprint_of
from sscd_ops.catalog.naming import file_json
from sscd_ops.catalog.sql import file_of, row, run, value
from sscd_ops.errors import BatchNotRunnable, StaleAttempt
from sscd_ops.model import Batch, BatchState, Fingerprint, StoredFile
from sscd_ops.options import DatasetOptions, to_json


@dataclass(frozen=True, slots=True)
class Survey:
    """What survey froze, once all manifests were there.

    ``search``: the backend for history; ``search_within``: for the night against itself.
    ``match_tasks``: how many tasks match is split over. ``work_list``: ``core.work_list``.
    """

    search: str
    search_within: str
    match_tasks: int
    work_list: StoredFile


@dataclass(frozen=True, slots=True)
class Attempt:
    """What plan froze. ``config`` is the JSON text of the dataset's options.

    ``survey`` is None until survey has run, and again when source shards are added.
    """

    attempt_id: int
    config: str
    config_sha256: str
    fingerprint: Fingerprint
    threshold: float
    pinned_turn: int
    pinned_generation: int
    released: bool
    read_again: tuple[str, ...] | None = None
    """Codes of the quarantined samples that it reads again, all where there are none; else None."""
    survey: Survey | None = None


_INSERT_CONFIG = """
    INSERT INTO sscd_ops.configs (dataset_id, config_sha256, config)
    VALUES (:d, :s, CAST(:c AS jsonb)) ON CONFLICT DO NOTHING
"""
_INSERT = """
    INSERT INTO sscd_ops.attempts (batch_id, config_sha256, config, fingerprint,
        fingerprint_detail, threshold, pinned_turn, pinned_generation, skipped_shards,
        read_again)
    VALUES (:batch, :sha256, CAST(:config AS jsonb), :fingerprint, CAST(:detail AS jsonb),
        :threshold, :turn, :generation, :skipped, :again) RETURNING attempt_id
"""
_BEGIN = """
    UPDATE sscd_ops.batches SET attempt_id = :a, state = :s, ready = true, waiting_set = NULL,
        waiting_since = NULL, message = '', label = :l, night = :n WHERE batch_id = :b
"""


def insert_attempt(
    conn: Connection,
    dataset: Dataset,
    batch: Batch,
    options: DatasetOptions,
    fingerprint: Fingerprint,
    *,
    skipped_shards: int,
    read_again: Sequence[str] | None,
    label: str,
    night: str,
) -> int:
    """Open the batch's next attempt, pinned to the dataset's last turn and generation.

    ``options`` leave nothing to a default any more: threshold, model, preset.
    """
    config = to_json(options)
    config_sha256 = hashlib.sha256(config.encode()).hexdigest()
    if not batch.dry_run:
        run(conn, _INSERT_CONFIG, d=dataset.dataset_id, s=config_sha256, c=config)
    attempt = {
        "batch": batch.batch_id,
        "sha256": config_sha256,
        "config": config,
        "fingerprint": fingerprint.digest,
        "detail": detail_json(fingerprint, options.fingerprint),
        "threshold": options.duplicates.threshold,
        "turn": dataset.turn,
        "generation": dataset.generation,
        "skipped": skipped_shards,
        "again": None if read_again is None else list(read_again),
    }
    attempt_id = int(value(conn, _INSERT, **attempt))
    state = BatchState.PLANNED
    run(conn, _BEGIN, a=attempt_id, s=state, l=label, n=night, b=batch.batch_id)
    return attempt_id


def read_attempt(conn: Connection, batch: Batch) -> Attempt:
    """The batch's current attempt.

    Raises:
        BatchNotRunnable: the batch has none yet (it still waits for its data).
    """
    current = "SELECT *, config::text AS config_text FROM sscd_ops.attempts WHERE attempt_id = :a"
    raw = row(conn, current, a=batch.attempt_id)
    if raw is None:
        raise BatchNotRunnable(f"batch {batch.batch_id} was not planned yet: run plan first")
    return Attempt(
        raw["attempt_id"],
        raw["config_text"],
        raw["config_sha256"],
        fingerprint_of(raw),
        raw["threshold"],
        raw["pinned_turn"],
        raw["pinned_generation"],
        raw["released_at"] is not None,
        None if raw["read_again"] is None else tuple(raw["read_again"]),
        _survey_of(raw),
    )


def _survey_of(raw: Mapping[str, Any]) -> Survey | None:
    work_list = file_of(raw["work_list"])
    if work_list is None:
        return None
    return Survey(raw["search"], raw["search_within"], raw["match_tasks"], work_list)


def register_survey(conn: Connection, attempt_id: int, made: Survey) -> None:
    """Store what survey made; backends that were frozen before stay."""
    run(
        conn,
        "UPDATE sscd_ops.attempts SET search = coalesce(search, :s),"
        " search_within = coalesce(search_within, :w), match_tasks = :n,"
        " work_list = CAST(:f AS jsonb) WHERE attempt_id = :a",
        s=made.search,
        w=made.search_within,
        n=made.match_tasks,
        f=file_json(conn, made.work_list),
        a=attempt_id,
    )


def replace_work_list(
    conn: Connection, attempt_id: int, lost: StoredFile, file: StoredFile
) -> None:
    """Name the work list that was made anew for a lost one."""
    run(
        conn,
        "UPDATE sscd_ops.attempts SET work_list = CAST(:f AS jsonb) WHERE attempt_id = :a"
        " AND work_list ->> 'sha256' = :x",
        f=file_json(conn, file),
        a=attempt_id,
        x=lost.sha256,
    )


def forget_work_list(conn: Connection, attempt_id: int) -> None:
    """Let survey run again: source shards were added to the attempt."""
    run(conn, "UPDATE sscd_ops.attempts SET work_list = NULL WHERE attempt_id = :a", a=attempt_id)


def require_attempt(conn: Connection, batch_id: int, attempt_id: int) -> None:
    """Refuse a write that belongs to an attempt the batch has left; lock the batch's row.

    The lock is the one that a change of its state takes, so that two tasks which write at the same
    moment go one after the other: neither do they deadlock, nor do they overlook each other.

    Raises:
        StaleAttempt: the batch has a newer attempt, or was abandoned.
    """
    lock = "SELECT attempt_id, state FROM sscd_ops.batches WHERE batch_id = :b FOR NO KEY UPDATE"
    raw = row(conn, lock, b=batch_id)
    if raw is None or raw["attempt_id"] != attempt_id or raw["state"] == BatchState.ABANDONED:
        raise StaleAttempt(
            f"batch {batch_id} was abandoned or planned anew while this task worked for its"
            f" attempt {attempt_id}; nothing was written. Clear the run from its first task, or"
            " run its night again"
        )


_AFTER: dict[shards.Role, BatchState] = {
    "manifest": BatchState.INGESTED,
    "descriptors": BatchState.EMBEDDED,
}


def register_file(
    conn: Connection,
    batch: Batch,
    shard_id: int,
    role: shards.Role,
    file: StoredFile,
    counts: Mapping[str, Any],
) -> None:
    """Name a file of a shard of the batch's attempt; with the last one the batch goes on.

    Raises:
        StaleAttempt: as ``require_attempt``.
    """
    require_attempt(conn, batch.batch_id, batch.attempt_id)
    shards.register_file(conn, shard_id, role, file, counts)
    if shards.all_registered(conn, batch.attempt_id, role):
        batches.advance_state(conn, batch.batch_id, _AFTER[role])


def release(conn: Connection, batch: Batch) -> None:
    """Let the current attempt pass the guard, whatever its figures are then."""
    mark = "UPDATE sscd_ops.attempts SET released_at = now() WHERE attempt_id = :a"
    run(conn, mark, a=batch.attempt_id)
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :to, message = 'released; run it again'"
        " WHERE batch_id = :b AND state = :held",
        to=BatchState.MATCHED,
        b=batch.batch_id,
        held=BatchState.HELD,
    )


def abandon(conn: Connection, batch: Batch) -> None:
    """End the current attempt, give its source shards back, and forget what was searched for it."""
    end = "UPDATE sscd_ops.batches SET state = :s, finished_at = now() WHERE batch_id = :b"
    run(conn, end, s=BatchState.ABANDONED, b=batch.batch_id)
    shards.give_back(conn, batch.batch_id)
    searches.drop_searches(conn, batch.batch_id)
