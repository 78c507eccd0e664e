"""Monthly partitions of ``samples`` and ``matches``: making one, and taking one out.

A month is made beside its parent and then attached, which lets readers and writers of the parent
go on (``CREATE TABLE ... PARTITION OF`` would lock them out). A detached month loses audit detail,
never what decides: verdicts of images stay in ``images`` and ``changes``, what decides about its
samples goes to ``detached_samples``.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from sscd_ops.errors import UsageError
from sscd_ops.model import BatchState

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from sscd_ops.catalog.database import Catalog

MONTHLY = ("samples", "matches")
PARTITION_LOCK = 0x5CD2
# A decision worked out before midnight may write its rows some time after it.
_REST = timedelta(days=2)


def ensure_month(catalog: Catalog, month: date, table: str) -> None:
    """Make the partition that holds a month's rows, in a short transaction of its own.

    Args:
        catalog: the database.
        month: any day of the month.
        table: ``samples`` or ``matches``.
    """
    parent, name, first, after = _names(table, month)
    with catalog.begin() as conn:
        if _exists(conn, name):
            return
        conn.execute(
            text("SELECT pg_advisory_xact_lock(:k, hashtext(:n))"),
            {"k": PARTITION_LOCK, "n": name},
        )
        if _exists(conn, name):
            return
        conn.exec_driver_sql(f"CREATE TABLE {name} (LIKE {parent} INCLUDING ALL)")
        conn.exec_driver_sql(
            f"ALTER TABLE {parent} ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{first.isoformat()}') TO ('{after.isoformat()}')"
        )


def months(conn: Connection, table: str = "samples") -> list[date]:
    """The months that have an attached partition, oldest first."""
    parent, *_ = _names(table, date(2000, 1, 1))
    names = conn.execute(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = CAST(:p AS regclass) AND NOT i.inhdetachpending"
        ),
        {"p": parent},
    ).scalars()
    return sorted(date(int(name[-7:-3]), int(name[-2:]), 1) for name in names)


def detach_month(catalog: Catalog, month: date) -> list[str]:
    """Take a month's samples and matches out of the catalog; their tables stay, apart.

    What decides about its samples goes to ``detached_samples``: they stay known. Readers and
    writers of other months go on meanwhile. A call that was cut short is finished by the next.

    Args:
        catalog: the database.
        month: any day of the month.

    Returns:
        The tables that were detached: to be dumped, and dropped by hand.

    Raises:
        UsageError: the month is not over for two days yet, or has batches that are undecided or
            unpublished, or samples that a later decision is to publish yet: they need its rows.
    """
    first = month.replace(day=1)
    if datetime.now(UTC).date() < _after(first) + _REST:
        raise UsageError(f"{first:%Y-%m} cannot be detached before {_after(first) + _REST}")
    with catalog.begin() as conn:
        _check_done(conn, first)
        if _exists(conn, _names("samples", first)[1]):
            conn.execute(_KEEP, {"m": first})
    detached = []
    with catalog.direct(lock_timeout=60.0) as conn:
        for table in MONTHLY:
            parent, name, *_ = _names(table, first)
            # a detach that was killed keeps every other one of the table from beginning
            for pending in _pending(conn, parent):
                conn.exec_driver_sql(f"ALTER TABLE {parent} DETACH PARTITION {pending} FINALIZE")
                if pending == name:
                    detached.append(name)
            if _is_attached(conn, name):
                # Waits for those who read the parent, without keeping new ones out.
                conn.exec_driver_sql(f"ALTER TABLE {parent} DETACH PARTITION {name} CONCURRENTLY")
                detached.append(name)
    return detached


_KEEP = text(
    "INSERT INTO sscd_ops.detached_samples (sample_id, decision_id, shard_id, position,"
    " image_sha256, own_fault, rank, slot, url_sha256, host,"
    " ruled)"
    " SELECT s.sample_id, s.decision_id, s.shard_id, s.position, s.image_sha256, s.own_fault,"
    " s.rank, s.slot, s.url_sha256, s.host,"
    " CASE WHEN s.own_fault AND s.verdict = 'withdrawn' THEN true END FROM sscd_ops.samples s"
    " JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id AND d.turn IS NOT NULL"
    " WHERE s.month = :m AND s.sample_id IS NOT NULL ON CONFLICT DO NOTHING"
)


def _check_done(conn: Connection, first: date) -> None:
    waiting = conn.execute(
        text(
            "SELECT DISTINCT batch_id, state FROM sscd_ops.decisions d JOIN sscd_ops.batches b"
            " USING (batch_id) WHERE d.month = :m AND NOT b.dry_run"
            " AND b.state <> ALL(:ended) ORDER BY batch_id"
        ),
        {"m": first, "ended": [BatchState.PUBLISHED, BatchState.ABANDONED]},
    ).all()
    if waiting:
        named = ", ".join(f"{batch_id} ({state})" for batch_id, state in waiting[:5])
        raise UsageError(
            f"{first:%Y-%m} cannot be detached: batches {named} still need its rows: publish or"
            " abandon them first"
        )
    pending = conn.execute(_TO_PUBLISH, {"m": first}).all()
    if pending:
        named = ", ".join(f"turn {turn} ({kind})" for turn, kind in pending[:5])
        raise UsageError(
            f"{first:%Y-%m} cannot be detached: {named} still publishes samples of it: `sscd-ops"
            " batch repair` of its night, or the next night, once their sources can be read"
        )


_TO_PUBLISH = text(
    "SELECT DISTINCT x.turn, x.kind FROM sscd_ops.decisions x JOIN sscd_ops.changes c"
    " ON c.decision_id = x.decision_id AND c.slot_decision = x.decision_id"
    " JOIN sscd_ops.decisions d ON d.decision_id = c.carrier_decision AND d.month = :m"
    " JOIN sscd_ops.placements p ON p.decision_id = x.decision_id AND p.slot_from <= c.slot"
    " AND p.slot_to > c.slot AND p.snapshot_from IS NULL AND p.snapshot_to IS NULL"
    " WHERE x.batch_id IS NULL AND x.turn IS NOT NULL AND x.published_at IS NULL ORDER BY x.turn"
)
"""What is kept by decisions without a batch, of samples of a month, and published by none yet."""


def _exists(conn: Connection, name: str) -> bool:
    # Not to_regclass: that may answer from a cache that is older than the advisory lock.
    schema, _, table = name.partition(".")
    found = conn.execute(
        text("SELECT 1 FROM pg_tables WHERE schemaname = :s AND tablename = :t"),
        {"s": schema, "t": table},
    )
    return found.first() is not None


def _pending(conn: Connection, parent: str) -> list[str]:
    """Partitions whose detach was begun and must be finished."""
    found = conn.execute(
        text(
            "SELECT n.nspname || '.' || c.relname FROM pg_inherits i"
            " JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE i.inhparent = to_regclass(:p) AND i.inhdetachpending"
        ),
        {"p": parent},
    )
    return [str(name) for name in found.scalars()]


def _is_attached(conn: Connection, name: str) -> bool:
    found = conn.execute(
        text("SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass(:n)"), {"n": name}
    )
    return found.scalar() is not None


def _after(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


def _names(table: str, month: date) -> tuple[str, str, date, date]:
    if table not in MONTHLY:
        raise ValueError(f"{table!r} has no monthly partitions")
    first = month.replace(day=1)
    return f"sscd_ops.{table}", f"sscd_ops.{table}_{first:%Y_%m}", first, _after(first)
