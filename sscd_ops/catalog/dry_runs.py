"""Dry runs: batches that own nothing and decide nothing, and how they are forgotten."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from sscd_ops.catalog import batches, searches
from sscd_ops.catalog.sql import run
from sscd_ops.model import Batch, BatchState


def dry_runs(conn: Connection, dataset_id: int) -> list[Batch]:
    """All dry runs of a dataset that were not dropped yet."""
    return batches.select(conn, "b.dataset_id = :d AND dry_run", d=dataset_id)


def drop_dry_run(conn: Connection, batch_id: int) -> None:
    """Forget a dry run: its rows go; its files stay, and no row names them."""
    empty_dry_run(conn, batch_id)
    run(conn, "DELETE FROM sscd_ops.batches WHERE batch_id = :b AND dry_run", b=batch_id)


def empty_dry_run(conn: Connection, batch_id: int) -> None:
    """Forget all of a dry run but its number, so that its last task may be tried again."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :s, attempt_id = NULL WHERE batch_id = :b AND dry_run",
        s=BatchState.ABANDONED,
        b=batch_id,
    )
    searches.drop_searches(conn, batch_id)
    for statement in (
        "DELETE FROM sscd_ops.source_shards WHERE attempt_id IN"
        " (SELECT attempt_id FROM sscd_ops.attempts WHERE batch_id = :b)",
        "DELETE FROM sscd_ops.attempts WHERE batch_id = :b",
        "DELETE FROM sscd_ops.events WHERE batch_id = :b",
    ):
        run(conn, statement, b=batch_id)


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
