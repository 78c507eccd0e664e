"""Batches: the rows of a dataset's nights, and the state of each."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.runners import runner_json, runner_of
from sscd_ops.catalog.sql import rows, run, value
from sscd_ops.errors import UsageError
from sscd_ops.masking import without_nul
from sscd_ops.model import UNDER_WAY, Batch, BatchState, Interval, Runner

IN_ORDER = "ORDER BY interval_start, interval_end, supplement"


def select(conn: Connection, where: str, **parameters: Any) -> list[Batch]:
    """The batches that a condition on ``b``, their table, holds for; it may order them."""
    found = rows(
        conn,
        "SELECT b.*, d.name AS dataset, x.turn FROM sscd_ops.batches b"
        " JOIN sscd_ops.datasets d USING (dataset_id)"
        f" LEFT JOIN sscd_ops.decisions x ON x.decision_id = b.decision_id WHERE {where}",
        **parameters,
    )
    return [
        Batch(
            raw["batch_id"],
            raw["dataset_id"],
            raw["dataset"],
            Interval(raw["interval_start"], raw["interval_end"]),
            raw["supplement"],
            BatchState(raw["state"]),
            raw["attempt_id"] or 0,
            raw["turn"],
            runner_of(raw["runner"]),
            raw["dry_run"],
            raw["message"],
            raw["night"],
        )
        for raw in found
    ]


def read_batch(conn: Connection, batch_id: int) -> Batch:
    """One batch.

    Raises:
        UsageError: there is none of this number.
    """
    found = select(conn, "b.batch_id = :b", b=batch_id)
    if not found:
        raise UsageError(f"there is no batch {batch_id}: `sscd-ops batch list` shows all")
    return found[0]


def lock_batch(conn: Connection, batch_id: int) -> Batch:
    """One batch, whose row nobody else changes until the transaction ends."""
    run(conn, "SELECT 1 FROM sscd_ops.batches WHERE batch_id = :b FOR NO KEY UPDATE", b=batch_id)
    return read_batch(conn, batch_id)


def batches_of_interval(conn: Connection, dataset_id: int, interval: Interval) -> list[Batch]:
    """The interval's batches by supplement number, dry runs left out."""
    where = "b.dataset_id = :d AND interval_start = :s AND interval_end = :e AND NOT dry_run"
    night = {"s": interval.start, "e": interval.end}
    return select(conn, f"{where} ORDER BY supplement", d=dataset_id, **night)


def batches_in_state(conn: Connection, dataset_id: int, *states: BatchState) -> list[Batch]:
    """The dataset's batches in any of these states, in the order of their intervals."""
    where = f"b.dataset_id = :d AND state = ANY(:s) AND NOT dry_run {IN_ORDER}"
    return select(conn, where, d=dataset_id, s=list(states))


def has_decided(conn: Connection, dataset_id: int) -> bool:
    """Whether some night of the dataset is decided."""
    decided = (
        "SELECT EXISTS (SELECT FROM sscd_ops.batches WHERE dataset_id = :d"
        " AND decision_id IS NOT NULL AND NOT dry_run)"
    )
    return bool(value(conn, decided, d=dataset_id))


def insert_batch(
    conn: Connection,
    dataset_id: int,
    interval: Interval,
    supplement: int,
    *,
    label: str,
    night: str,
    dry_run: bool,
    runner: Runner,
) -> int:
    """Register a batch without an attempt; it still waits for its data."""
    insert = (
        "INSERT INTO sscd_ops.batches (dataset_id, interval_start, interval_end, supplement,"
        " dry_run, state, runner, label, night) VALUES (:d, :s, :e, :n, :dry, :state,"
        " CAST(:r AS jsonb), :label, :night) RETURNING batch_id"
    )
    when = {"s": interval.start, "e": interval.end, "n": supplement}
    stands = {"dry": dry_run, "state": BatchState.PLANNED, "r": runner_json(runner)}
    return int(value(conn, insert, d=dataset_id, **when, **stands, label=label, night=night))


def is_there(conn: Connection, batch_id: int) -> bool:
    """Whether there is a batch of this number: a needless one is forgotten."""
    return bool(
        value(conn, "SELECT EXISTS (SELECT FROM sscd_ops.batches WHERE batch_id = :b)", b=batch_id)
    )


def advance_state(conn: Connection, batch_id: int, state: BatchState) -> None:
    """Move a batch under way forward to a state; no change where it is there, further or left."""
    _move(conn, batch_id, UNDER_WAY[: UNDER_WAY.index(state)], state)


def set_back(conn: Connection, batch_id: int) -> None:
    """Let a batch under way begin its steps again, as source shards were added to it."""
    _move(conn, batch_id, UNDER_WAY, BatchState.PLANNED)


def _move(conn: Connection, batch_id: int, before: tuple[BatchState, ...], to: BatchState) -> None:
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :to WHERE batch_id = :b AND state = ANY(:before)",
        to=to,
        b=batch_id,
        before=list(before),
    )


def set_message(conn: Connection, batch_id: int, message: str) -> None:
    """Store the sentence that `runs` shows."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET message = :m WHERE batch_id = :b",
        m=without_nul(message)[:2000],
        b=batch_id,
    )
