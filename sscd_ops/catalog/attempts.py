"""Attempts at a batch: what plan froze, and which one its tasks may write for."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.engine import Connection

from sscd_ops.catalog import shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.fingerprints import detail_json, fingerprint_of
from sscd_ops.catalog.sql import row, run, value
from sscd_ops.errors import BatchNotRunnable, StaleAttempt
from sscd_ops.model import Batch, BatchState, Fingerprint
from sscd_ops.options import FingerprintOptions


@dataclass(frozen=True, slots=True)
class Attempt:
    """What plan froze. ``config`` is the JSON text of the dataset's options."""

    attempt_id: int
    config: str
    config_sha256: str
    fingerprint: Fingerprint
    search: str
    threshold: float
    pinned_turn: int
    released: bool


def insert_attempt(
    conn: Connection,
    batch: Batch,
    *,
    config: str,
    config_sha256: str,
    fingerprint: Fingerprint,
    model: FingerprintOptions,
    search: str,
    threshold: float,
    dataset: Dataset,
    skipped_shards: int,
    label: str,
    night: str,
) -> int:
    """Open the batch's next attempt, pinned to the dataset's last turn and generation."""
    if not batch.dry_run:
        run(
            conn,
            "INSERT INTO sscd_ops.configs (dataset_id, config_sha256, config)"
            " VALUES (:d, :s, CAST(:c AS jsonb)) ON CONFLICT DO NOTHING",
            d=dataset.dataset_id,
            s=config_sha256,
            c=config,
        )
    attempt_id = int(
        value(
            conn,
            "INSERT INTO sscd_ops.attempts (batch_id, config_sha256, config, fingerprint,"
            " fingerprint_detail, search, threshold, pinned_turn, pinned_generation,"
            " skipped_shards) VALUES (:b, :s, CAST(:c AS jsonb), :f, CAST(:fd AS jsonb), :search,"
            " :t, :turn, :g, :skipped) RETURNING attempt_id",
            b=batch.batch_id,
            s=config_sha256,
            c=config,
            f=fingerprint.digest,
            fd=detail_json(fingerprint, model),
            search=search,
            t=threshold,
            turn=dataset.next_turn - 1,
            g=dataset.generation,
            skipped=skipped_shards,
        )
    )
    run(
        conn,
        "UPDATE sscd_ops.batches SET attempt_id = :a, state = :s, ready = true,"
        " waiting_set = NULL, waiting_since = NULL, message = '', label = :l, night = :n"
        " WHERE batch_id = :b",
        a=attempt_id,
        s=BatchState.PLANNED,
        l=label,
        n=night,
        b=batch.batch_id,
    )
    return attempt_id


def read_attempt(conn: Connection, batch: Batch) -> Attempt:
    """The batch's current attempt.

    Raises:
        BatchNotRunnable: the batch has none yet (it still waits for its data).
    """
    raw = row(
        conn,
        "SELECT *, config::text AS config_text FROM sscd_ops.attempts WHERE attempt_id = :a",
        a=batch.attempt_id,
    )
    if raw is None:
        raise BatchNotRunnable(f"batch {batch.batch_id} was not planned yet: run plan first")
    return Attempt(
        raw["attempt_id"],
        raw["config_text"],
        raw["config_sha256"],
        fingerprint_of(raw["fingerprint_detail"]),
        raw["search"],
        raw["threshold"],
        raw["pinned_turn"],
        raw["released_at"] is not None,
    )


def require_attempt(conn: Connection, batch_id: int, attempt_id: int) -> None:
    """Refuse a write that belongs to an attempt the batch has left; lock the batch's row.

    The lock is the one that a change of its state takes, so that two tasks which write at the same
    moment go one after the other: neither do they deadlock, nor do they overlook each other.

    Raises:
        StaleAttempt: the batch has a newer attempt, or was abandoned.
    """
    raw = row(
        conn,
        "SELECT attempt_id, state FROM sscd_ops.batches WHERE batch_id = :b FOR NO KEY UPDATE",
        b=batch_id,
    )
    if raw is None or raw["attempt_id"] != attempt_id or raw["state"] == BatchState.ABANDONED:
        raise StaleAttempt(
            f"batch {batch_id} was abandoned or planned anew while this task worked for its"
            f" attempt {attempt_id}; nothing was written. Clear the run from its first task, or"
            " run its night again"
        )


def release(conn: Connection, batch: Batch) -> None:
    """Let the current attempt pass the guard, whatever its figures are then."""
    run(
        conn,
        "UPDATE sscd_ops.attempts SET released_at = now() WHERE attempt_id = :a",
        a=batch.attempt_id,
    )
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :to, message = 'released; run it again'"
        " WHERE batch_id = :b AND state = :held",
        to=BatchState.MATCHED,
        b=batch.batch_id,
        held=BatchState.HELD,
    )


def abandon(conn: Connection, batch: Batch) -> None:
    """End the current attempt and give its source shards back."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :s, finished_at = now() WHERE batch_id = :b",
        s=BatchState.ABANDONED,
        b=batch.batch_id,
    )
    shards.give_back(conn, batch.batch_id)
