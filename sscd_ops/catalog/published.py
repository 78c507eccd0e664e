"""What is published, and what cannot be: marks of decisions and of their batches."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import run
from sscd_ops.masking import without_nul
from sscd_ops.model import BatchState


def mark_published(conn: Connection, decision_id: int, snapshot: int | None) -> None:
    """Published is a decision, and its batch; ``snapshot`` is the one that follows it, if any."""
    run(
        conn,
        "UPDATE sscd_ops.decisions SET published_at = now(), snapshot = :s WHERE decision_id = :x",
        s=snapshot,
        x=decision_id,
    )
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :s, finished_at = now(), message = ''"
        " WHERE decision_id = :x",
        s=BatchState.PUBLISHED,
        x=decision_id,
    )


def mark_followed(conn: Connection, dataset_id: int, snapshot: int | None, turn: int) -> None:
    """Published are, with a snapshot as of a turn, the decisions before it that only take away.

    ``snapshot``: None where the newest one holds nothing of what they take away.
    """
    run(
        conn,
        "UPDATE sscd_ops.decisions d SET published_at = now(), snapshot = :s"
        " WHERE d.dataset_id = :d AND d.turn <= :t AND d.batch_id IS NULL"
        " AND d.published_at IS NULL AND NOT EXISTS (SELECT FROM sscd_ops.changes c"
        " WHERE c.decision_id = d.decision_id AND c.slot IS NOT NULL)"
        " AND NOT EXISTS (SELECT FROM sscd_ops.output_shards o"
        " WHERE o.decision_id = d.decision_id)",
        s=snapshot,
        d=dataset_id,
        t=turn,
    )


def mark_unpublishable(conn: Connection, batch_id: int, message: str) -> bool:
    """Its source changed or vanished: every run names the batch until it is published.

    Answers whether the batch was decided until now, neither published nor marked before.
    """
    changed = run(
        conn,
        "UPDATE sscd_ops.batches SET state = :s, message = :m"
        " WHERE batch_id = :b AND state = :decided",
        s=BatchState.UNPUBLISHABLE,
        decided=BatchState.DECIDED,
        b=batch_id,
        m=without_nul(message),
    )
    return changed == 1


def mark_publishable(conn: Connection, batch_id: int) -> None:
    """What could not be published of it is planned no longer."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :s, message = ''"
        " WHERE batch_id = :b AND state = :unpublishable",
        s=BatchState.DECIDED,
        unpublishable=BatchState.UNPUBLISHABLE,
        b=batch_id,
    )


def mark_announced(conn: Connection, decision_id: int) -> None:
    """The asset event of a decision's snapshot is out."""
    run(
        conn,
        "UPDATE sscd_ops.decisions SET announced = true WHERE decision_id = :x",
        x=decision_id,
    )
