"""Batches: the rows of a dataset's nights, and the state of each."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

<<<<<<< HEAD
from sscd_ops.catalog.runners import runner_json, runner_of
from sscd_ops.catalog.sql import rows, run, value
from sscd_ops.errors import UsageError
from sscd_ops.model import UNDER_WAY, Batch, BatchState, Interval, Runner
=======
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.sql import row, rows, run, value
from sscd_ops.errors import BatchNotRunnable, StaleAttempt, UsageError
from sscd_ops.masking import without_nul
from sscd_ops.model import Batch, BatchState, Interval, Runner

CLI_LOCK = 0x5CD0
"""First key of the advisory lock that a command holds on the batch it runs."""
RESOLVE_LOCK = 0x5CD1
"""First key of the advisory lock that lets one process at a time decide a batch."""

UNDER_WAY = ("planned", "ingested", "embedded", "matched")

_BATCH = """
    SELECT b.*, d.name AS dataset, x.turn FROM sscd_ops.batches b
    JOIN sscd_ops.datasets d USING (dataset_id)
    LEFT JOIN sscd_ops.decisions x ON x.decision_id = b.decision_id
"""
>>>>>>> h1


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
    return select(
        conn,
        "b.dataset_id = :d AND interval_start = :s AND interval_end = :e AND NOT dry_run"
        " ORDER BY supplement",
        d=dataset_id,
        s=interval.start,
        e=interval.end,
    )


def batches_in_state(conn: Connection, dataset_id: int, *states: BatchState) -> list[Batch]:
    """The dataset's batches in any of these states, in the order of their intervals."""
    return select(
        conn,
        "b.dataset_id = :d AND state = ANY(:s) AND NOT dry_run"
        " ORDER BY interval_start, interval_end, supplement",
        d=dataset_id,
        s=list(states),
    )


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
    return int(
        value(
            conn,
            "INSERT INTO sscd_ops.batches (dataset_id, interval_start, interval_end, supplement,"
            " dry_run, state, runner, label, night) VALUES (:d, :s, :e, :n, :dry, :state,"
            " CAST(:r AS jsonb), :label, :night) RETURNING batch_id",
            d=dataset_id,
            s=interval.start,
            e=interval.end,
            n=supplement,
            dry=dry_run,
            state=BatchState.PLANNED,
            r=runner_json(runner),
            label=label,
            night=night,
        )
    )


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
<<<<<<< HEAD
=======


# ---------------------------------------------------------------- who is alive


def cli_is_alive(conn: Connection, batch_id: int) -> bool:
    """Whether some session holds the batch's advisory lock, looked up without taking it."""
    return (
        value(
            conn,
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = :k"
            " AND objid = :b AND objsubid = 2 AND granted AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())",
            k=CLI_LOCK,
            b=batch_id,
        )
        is not None
    )


# ---------------------------------------------------------------- the waiting set


def waiting_set(conn: Connection, batch: Batch) -> tuple[list[Batch], datetime]:
    """Fix the batch's waiting set on first call; who of it is still to decide, and since when.

    The set holds the attempts of batches of earlier intervals that are under way, undecided and
    past the wait for their data at this moment. Later starts are never added, so nobody starves:
    not even that of a member which was abandoned and is planned again.
    """
    run(
        conn,
        "UPDATE sscd_ops.batches b SET waiting_since = now(), waiting_set = coalesce(("
        " SELECT array_agg(o.attempt_id ORDER BY o.interval_start, o.interval_end, o.supplement)"
        " FROM sscd_ops.batches o WHERE o.dataset_id = b.dataset_id AND NOT o.dry_run AND o.ready"
        " AND o.state = ANY(:under_way) AND (o.interval_start, o.interval_end, o.supplement)"
        " < (b.interval_start, b.interval_end, b.supplement)), '{}')"
        " WHERE batch_id = :b AND waiting_set IS NULL",
        b=batch.batch_id,
        under_way=list(UNDER_WAY),
    )
    since = value(
        conn, "SELECT waiting_since FROM sscd_ops.batches WHERE batch_id = :b", b=batch.batch_id
    )
    found = rows(
        conn,
        _BATCH + "WHERE b.attempt_id = ANY(SELECT unnest(waiting_set) FROM sscd_ops.batches"
        " WHERE batch_id = :b) AND b.dataset_id = :d AND state = ANY(:under_way)"
        " ORDER BY interval_start, interval_end, supplement",
        b=batch.batch_id,
        d=batch.dataset_id,
        under_way=list(UNDER_WAY),
    )
    return [_batch(raw) for raw in found], since


# ---------------------------------------------------------------- events


def is_told(conn: Connection, batch_id: int, kind: str) -> bool:
    """Whether the batch has an event of this kind since it came to its turn."""
    found = value(
        conn,
        "SELECT EXISTS (SELECT FROM sscd_ops.events e JOIN sscd_ops.batches b USING (batch_id)"
        " WHERE b.batch_id = :b AND e.kind = :k AND e.at >= b.waiting_since)",
        b=batch_id,
        k=kind,
    )
    return bool(found)


def add_event(
    conn: Connection,
    dataset_id: int,
    kind: str,
    *,
    actor: str,
    why: str = "",
    turn: int | None = None,
    batch_id: int | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Append one event."""
    run(
        conn,
        "INSERT INTO sscd_ops.events (dataset_id, turn, kind, actor, why, batch_id, details)"
        " VALUES (:d, :t, :k, :a, :w, :b, CAST(:x AS jsonb))",
        d=dataset_id,
        t=turn,
        k=kind,
        a=actor,
        w=without_nul(why),
        b=batch_id,
        x=json.dumps(details or {}, default=str),
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
        "UPDATE sscd_ops.batches SET state = 'matched', message = 'released; run it again'"
        " WHERE batch_id = :b AND state = 'held'",
        b=batch.batch_id,
    )


def abandon(conn: Connection, batch: Batch) -> None:
    """End the current attempt and give its source shards back."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = 'abandoned', finished_at = now() WHERE batch_id = :b",
        b=batch.batch_id,
    )
    give_back_shards(conn, batch.batch_id)


def give_back_shards(conn: Connection, batch_id: int) -> None:
    """Let go of every source shard the batch owns: its attempt ends or is replaced."""
    run(conn, "DELETE FROM sscd_ops.shard_owners WHERE batch_id = :b", b=batch_id)


def forget_empty(conn: Connection, batch_id: int) -> None:
    """Forget a batch that was registered just now and has nothing to read."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET attempt_id = NULL, dry_run = true WHERE batch_id = :b",
        b=batch_id,
    )
    # what somebody did to it (an abandoned supplement, planned again) stays on record
    run(conn, "UPDATE sscd_ops.events SET batch_id = NULL WHERE batch_id = :b", b=batch_id)
    drop_dry_run(conn, batch_id)


def drop_dry_run(conn: Connection, batch_id: int) -> None:
    """Forget a dry run: its rows go; its files stay, and no row names them."""
    empty_dry_run(conn, batch_id)
    run(conn, "DELETE FROM sscd_ops.batches WHERE batch_id = :b AND dry_run", b=batch_id)


def empty_dry_run(conn: Connection, batch_id: int) -> None:
    """Forget all of a dry run but its number, so that its last task may be tried again."""
    for statement in (
        "UPDATE sscd_ops.batches SET state = 'abandoned', attempt_id = NULL"
        " WHERE batch_id = :b AND dry_run",
        "DELETE FROM sscd_ops.searches WHERE attempt_id IN"
        " (SELECT attempt_id FROM sscd_ops.attempts WHERE batch_id = :b)",
        "DELETE FROM sscd_ops.source_shards WHERE attempt_id IN"
        " (SELECT attempt_id FROM sscd_ops.attempts WHERE batch_id = :b)",
        "DELETE FROM sscd_ops.attempts WHERE batch_id = :b",
        "DELETE FROM sscd_ops.events WHERE batch_id = :b",
    ):
        run(conn, statement, b=batch_id)
>>>>>>> h1
