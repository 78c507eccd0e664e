"""The waiting set: which batches a batch lets decide first."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.engine import Connection

from sscd_ops.catalog import batches
from sscd_ops.catalog.sql import run, value
from sscd_ops.model import UNDER_WAY, Batch


def set_ready(conn: Connection, batch_id: int, ready: bool) -> None:
    """Say whether the batch's data is there: later ones do not wait for one that waits itself."""
    update = "UPDATE sscd_ops.batches SET ready = :r WHERE batch_id = :b AND ready <> :r"
    run(conn, update, r=ready, b=batch_id)


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
    begun = "SELECT waiting_since FROM sscd_ops.batches WHERE batch_id = :b"
    waiting = batches.select(
        conn,
        "b.attempt_id = ANY(SELECT unnest(waiting_set) FROM sscd_ops.batches WHERE batch_id = :b)"
        f" AND b.dataset_id = :d AND state = ANY(:under_way) {batches.IN_ORDER}",
        b=batch.batch_id,
        d=batch.dataset_id,
        under_way=list(UNDER_WAY),
    )
    return waiting, value(conn, begun, b=batch.batch_id)
