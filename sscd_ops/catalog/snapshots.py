"""Snapshots of a dataset: their rows. What people say of them is in ``snapshot_tags``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.naming import file_json
from sscd_ops.catalog.output_shards import ListedShard
from sscd_ops.catalog.sql import need_file, run, tuples
from sscd_ops.errors import UsageError
from sscd_ops.model import StoredFile


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot's row, and what its file says of the decision that made it.

    ``file``: lists its shards. ``parent``: the number before, 0 for none. ``turn``: the newest one
    that it follows. ``samples``, ``shards``, ``bytes`` (of its tars): of the whole snapshot.
    ``decided_turn``, ``label``, ``supplement``: of what made it; ``label`` is None where no night
    did. ``fingerprint``: its name, not its digest. ``expired_at``: None while it may be read.
    """

    file: StoredFile
    dataset_id: int
    number: int
    parent: int
    turn: int
    samples: int
    shards: int
    bytes: int
    decided_turn: int
    label: str | None
    supplement: int | None
    fingerprint: str
    created_at: datetime
    expired_at: datetime | None


class Label(NamedTuple):
    """What a decision is called in published names; ``label`` is None of no night's."""

    decided_turn: int
    label: str | None
    supplement: int | None


def label_of(conn: Connection, decision_id: int) -> Label:
    """What a decision in force is called."""
    (found,) = tuples(
        conn,
        "SELECT x.turn AS decided_turn, b.label, b.supplement FROM sscd_ops.decisions x"
        " LEFT JOIN sscd_ops.batches b ON b.batch_id = x.batch_id WHERE x.decision_id = :x",
        x=decision_id,
    )
    return Label(*found)


_SNAPSHOT = (
    "SELECT s.file, s.dataset_id, s.snapshot AS number, s.parent, s.turn, s.samples, s.shards,"
    " s.bytes, x.turn AS decided_turn, b.label, b.supplement,"
    " d.fingerprint_detail ->> 'name' AS fingerprint, s.created_at, s.expired_at"
    " FROM sscd_ops.snapshots s JOIN sscd_ops.decisions x USING (decision_id)"
    " JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id"
    " LEFT JOIN sscd_ops.batches b ON b.batch_id = x.batch_id WHERE s.dataset_id = :d"
)
"""The fields of ``Snapshot``, in order."""


def _snapshots(conn: Connection, sql: str, **parameters: Any) -> list[Snapshot]:
    return [Snapshot(need_file(file), *others) for file, *others in tuples(conn, sql, **parameters)]


def read_snapshot(
    conn: Connection, dataset_id: int, snapshot: int | None = None
) -> Snapshot | None:
    """A snapshot, the newest one where no number is given; None where there is none."""
    found = _snapshots(
        conn,
        f"{_SNAPSHOT} AND (CAST(:s AS int) IS NULL OR s.snapshot = :s)"
        " ORDER BY s.snapshot DESC LIMIT 1",
        d=dataset_id,
        s=snapshot,
    )
    return found[0] if found else None


def need_snapshot(conn: Connection, dataset: Dataset, number: int) -> Snapshot:
    """A snapshot, expired or not.

    Raises:
        UsageError: there is none of this number.
    """
    found = _snapshots(conn, f"{_SNAPSHOT} AND s.snapshot = :s", d=dataset.dataset_id, s=number)
    if not found:
        raise UsageError(
            f"there is no snapshot {number} of {dataset.name!r}: `sscd-ops snapshot list` shows all"
        )
    return found[0]


def all_snapshots(conn: Connection, dataset_id: int) -> list[Snapshot]:
    """All snapshots by number, those that were expired too."""
    return _snapshots(conn, f"{_SNAPSHOT} ORDER BY s.snapshot", d=dataset_id)


def readable_snapshots(conn: Connection, dataset_id: int) -> list[Snapshot]:
    """The snapshots that were not expired, by number."""
    return _snapshots(
        conn, f"{_SNAPSHOT} AND s.expired_at IS NULL ORDER BY s.snapshot", d=dataset_id
    )


def mark_expired(conn: Connection, dataset_id: int, numbers: Sequence[int]) -> None:
    """Say that nobody reads these snapshots any more. The caller holds the lock."""
    run(
        conn,
        "UPDATE sscd_ops.snapshots SET expired_at = now()"
        " WHERE dataset_id = :d AND snapshot = ANY(:s) AND expired_at IS NULL",
        d=dataset_id,
        s=list(numbers),
    )


def add_snapshot(
    conn: Connection,
    dataset_id: int,
    decision_id: int,
    *,
    snapshot: int,
    shards: Sequence[ListedShard],
    file: StoredFile,
    turn: int,
    adding: Sequence[int],
) -> None:
    """Register the next snapshot, of these shards, and place in it what some decisions add.

    The caller holds the lock.
    """
    run(
        conn,
        "INSERT INTO sscd_ops.snapshots (dataset_id, snapshot, parent, decision_id, turn, samples,"
        " shards, bytes, file) VALUES (:d, :s, :p, :x, :t, :n, :k, :z, CAST(:f AS jsonb))",
        d=dataset_id,
        s=snapshot,
        p=snapshot - 1,
        x=decision_id,
        t=turn,
        n=sum(shard.samples for shard in shards),
        k=len(shards),
        z=sum(shard.bytes or 0 for shard in shards),
        f=file_json(conn, file),
    )
    run(
        conn,
        "UPDATE sscd_ops.placements p SET snapshot_from = :s FROM sscd_ops.output_shards o"
        " WHERE o.output_id = p.output_id AND o.decision_id = ANY(:x) AND p.snapshot_from IS NULL",
        s=snapshot,
        x=list(adding),
    )
