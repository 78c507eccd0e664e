"""Events: who did what to a dataset and why, as `curation.events` shows it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import run, value
from sscd_ops.masking import without_nul


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
    insert = (
        "INSERT INTO sscd_ops.events (dataset_id, turn, kind, actor, why, batch_id, details)"
        " VALUES (:d, :t, :k, :a, :w, :b, CAST(:x AS jsonb))"
    )
    said = {"w": without_nul(why), "x": json.dumps(details or {}, default=str)}
    run(conn, insert, d=dataset_id, t=turn, k=kind, a=actor, b=batch_id, **said)


def compacted_after(conn: Connection, dataset_id: int, snapshot: int) -> int | None:
    """The newest snapshot behind one that a compaction made, if there is any."""
    found: int | None = value(
        conn,
        "SELECT max(CAST(details ->> 'snapshot' AS int)) FROM sscd_ops.events"
        " WHERE dataset_id = :d AND kind = 'compacted'"
        " AND CAST(details ->> 'snapshot' AS int) > :s",
        d=dataset_id,
        s=snapshot,
    )
    return found


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
