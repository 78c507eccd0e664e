"""What people say of snapshots: tags, which keep them, and what was trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import run, tuples
from sscd_ops.masking import without_nul


@dataclass(frozen=True, slots=True)
class Tag:
    """A name of one snapshot of a dataset.

    ``keep_until``: the last day (UTC) that it keeps the snapshot, None for ever. ``keeps``: it
    does so today.
    """

    snapshot: int
    name: str
    keep_until: date | None
    actor: str
    why: str
    at: datetime
    keeps: bool

    def __str__(self) -> str:
        return self.name if self.keep_until is None else f"{self.name} (until {self.keep_until})"


@dataclass(frozen=True, slots=True)
class User:
    """What was trained on a snapshot, and who said so."""

    run: str
    actor: str
    at: datetime


_TODAY = "(now() AT TIME ZONE 'UTC')::date"


def tags_of(conn: Connection, dataset_id: int) -> list[Tag]:
    """The tags of a dataset's snapshots, by snapshot and name."""
    found = tuples(
        conn,
        "SELECT snapshot, name, keep_until, actor, why, at,"
        f" coalesce(keep_until >= {_TODAY}, true) AS keeps FROM sscd_ops.snapshot_tags"
        " WHERE dataset_id = :d ORDER BY snapshot, name",
        d=dataset_id,
    )
    return [Tag(*row) for row in found]


def put_tag(
    conn: Connection,
    dataset_id: int,
    snapshot: int,
    name: str,
    *,
    keep_until: date | None,
    actor: str,
    why: str,
) -> None:
    """Give a snapshot a tag, or the tag it has another last day. The caller holds the lock."""
    run(
        conn,
        "INSERT INTO sscd_ops.snapshot_tags (dataset_id, name, snapshot, keep_until, actor, why)"
        " VALUES (:d, :n, :s, :k, :a, :w) ON CONFLICT (dataset_id, name) DO UPDATE SET"
        " keep_until = excluded.keep_until, actor = excluded.actor, why = excluded.why, at = now()",
        d=dataset_id,
        n=name,
        s=snapshot,
        k=keep_until,
        a=actor,
        w=without_nul(why),
    )


def drop_tag(conn: Connection, dataset_id: int, name: str) -> None:
    """Take a tag away. The caller holds the lock."""
    run(
        conn,
        "DELETE FROM sscd_ops.snapshot_tags WHERE dataset_id = :d AND name = :n",
        d=dataset_id,
        n=name,
    )


def users_of(conn: Connection, dataset_id: int, snapshot: int) -> list[User]:
    """What was trained on a snapshot, the first one first."""
    found = tuples(
        conn,
        "SELECT run, actor, at FROM sscd_ops.snapshot_users"
        " WHERE dataset_id = :d AND snapshot = :s ORDER BY at, run",
        d=dataset_id,
        s=snapshot,
    )
    return [User(*row) for row in found]


def add_user(conn: Connection, dataset_id: int, snapshot: int, run_name: str, actor: str) -> bool:
    """Say that something was trained on a snapshot; whether that is new."""
    added = run(
        conn,
        "INSERT INTO sscd_ops.snapshot_users (dataset_id, snapshot, run, actor)"
        " VALUES (:d, :s, :r, :a) ON CONFLICT DO NOTHING",
        d=dataset_id,
        s=snapshot,
        r=without_nul(run_name),
        a=actor,
    )
    return added == 1
