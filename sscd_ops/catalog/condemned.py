"""Files that `vacuum` is to remove: the rows by which it and those who name files keep apart.

See ``catalog.naming`` for the other side, and docs/decisions/0020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from sscd_ops.catalog.locks import VACUUM_LOCK
from sscd_ops.catalog.sql import run, tuples

REMEMBERED = "7 days"
"""For so long it is known that a file was removed: whoever wrote it before and only now comes to
name it is refused."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """A condemned file. ``is_ripe``: condemned at least a grace ago, or being deleted already."""

    name: str
    bytes: int
    condemned_at: datetime
    is_ripe: bool


def condemn(conn: Connection, dataset_id: int, sizes: Mapping[str, int]) -> None:
    """Condemn files, of names and sizes in bytes, that are not condemned yet."""
    run(
        conn,
        "INSERT INTO sscd_ops.condemned AS c (name, dataset_id, bytes)"
        " SELECT f.name, :d, f.bytes FROM unnest(CAST(:n AS text[]), CAST(:z AS bigint[]))"
        " AS f(name, bytes) ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes,"
        " condemned_at = now(), deleting = false, removed_at = NULL WHERE c.removed_at IS NOT NULL",
        d=dataset_id,
        n=list(sizes),
        z=list(sizes.values()),
    )


def condemned(conn: Connection, dataset_id: int, grace: float) -> dict[str, Condemned]:
    """The condemned files of a dataset that were not removed, by name; ``grace``: seconds."""
    found = tuples(
        conn,
        "SELECT name, bytes, condemned_at, deleting OR"
        " condemned_at <= clock_timestamp() - make_interval(secs => :g)"
        " FROM sscd_ops.condemned WHERE dataset_id = :d AND removed_at IS NULL ORDER BY name",
        d=dataset_id,
        g=grace,
    )
    return {row[0]: Condemned(*row) for row in found}


def wait_for_namers(conn: Connection) -> None:
    """Wait until all transactions ended that name files and began to before this.

    Those that begin later see what was condemned before, and end it.
    """
    run(conn, "SELECT pg_advisory_xact_lock(:k, 0)", k=VACUUM_LOCK)


def acquit(conn: Connection, names: Sequence[str]) -> None:
    """These are condemned no longer: named by now, written anew, or gone by themselves."""
    run(
        conn,
        "DELETE FROM sscd_ops.condemned WHERE name = ANY(CAST(:n AS text[]))"
        " AND removed_at IS NULL",
        n=list(names),
    )


def mark_deleting(conn: Connection, sentenced: Sequence[Condemned]) -> None:
    """Let these be removed, save those that were ended, or condemned anew, since they were read."""
    run(
        conn,
        "UPDATE sscd_ops.condemned c SET deleting = true FROM unnest(CAST(:n AS text[]),"
        " CAST(:t AS timestamptz[])) AS f(name, at) WHERE c.name = f.name"
        " AND c.condemned_at = f.at AND c.removed_at IS NULL",
        n=[each.name for each in sentenced],
        t=[each.condemned_at for each in sentenced],
    )


def lock_deleting(conn: Connection, dataset_id: int, limit: int) -> dict[str, int]:
    """Some files that may be removed, name -> bytes: nobody comes to name them in the meantime.

    Not those that another vacuum, or somebody who names one, has locked.
    """
    found = tuples(
        conn,
        "SELECT name, bytes FROM sscd_ops.condemned WHERE dataset_id = :d AND deleting"
        " AND removed_at IS NULL ORDER BY name LIMIT :k FOR UPDATE SKIP LOCKED",
        d=dataset_id,
        k=limit,
    )
    return dict(tuple(row) for row in found)


def mark_removed(conn: Connection, names: Sequence[str]) -> None:
    """These files are gone."""
    run(
        conn,
        "UPDATE sscd_ops.condemned SET removed_at = now() WHERE name = ANY(CAST(:n AS text[]))",
        n=list(names),
    )


def forget_removed(conn: Connection, dataset_id: int) -> None:
    """Forget what was removed long ago."""
    run(
        conn,
        "DELETE FROM sscd_ops.condemned WHERE dataset_id = :d"
        f" AND removed_at < now() - interval '{REMEMBERED}'",
        d=dataset_id,
    )
