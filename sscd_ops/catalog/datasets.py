"""A dataset's row: its lock, and the numbers that a turn moves.

``advance`` is called by ``steps.turns`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.fingerprints import fingerprint_of, model_of
from sscd_ops.catalog.sql import row, rows, run, tuples, value
from sscd_ops.errors import InvariantError, UsageError
from sscd_ops.model import Fingerprint
from sscd_ops.options import FingerprintOptions


@dataclass(frozen=True, slots=True)
class Dataset:
    """The dataset's row: its lock, next turn, generation, snapshot and fingerprint.

    ``decided_at``, ``indexed_at`` and ``published_at`` are of the newest turn, generation and
    snapshot. A fail-over may forget the last commits; others then take the same numbers, never the
    same moments.
    """

    dataset_id: int
    name: str
    next_turn: int
    generation: int
    snapshot: int
    fingerprint: Fingerprint | None
    model: FingerprintOptions | None
    """How the model of ``fingerprint`` was configured."""
    roots: dict[str, str]
    decided_at: datetime | None
    indexed_at: datetime | None
    published_at: datetime | None

    @property
    def turn(self) -> int:
        """The newest turn, 0 where nothing was decided yet."""
        return self.next_turn - 1


def _dataset(raw: Any) -> Dataset:
    has_model = raw["fingerprint"] is not None
    return Dataset(
        raw["dataset_id"],
        raw["name"],
        raw["next_turn"],
        raw["generation"],
        raw["snapshot"],
        fingerprint_of(raw) if has_model else None,
        model_of(raw) if has_model else None,
        raw["roots"],
        raw["decided_at"],
        raw["indexed_at"],
        raw["published_at"],
    )


_OF_NAME = "FROM sscd_ops.datasets WHERE kind = 'dataset' AND name = :n"
_ROW = (
    "SELECT d.*, x.decided_at, g.created_at AS indexed_at, s.created_at AS published_at"
    " FROM sscd_ops.datasets d"
    " LEFT JOIN sscd_ops.decisions x ON x.dataset_id = d.dataset_id AND x.turn = d.next_turn - 1"
    " LEFT JOIN sscd_ops.generations g ON g.dataset_id = d.dataset_id"
    " AND g.generation = d.generation"
    " LEFT JOIN sscd_ops.snapshots s ON s.dataset_id = d.dataset_id AND s.snapshot = d.snapshot"
)


def ensure(conn: Connection, name: str) -> int:
    """The dataset's number, registering it on first sight."""
    found = value(conn, f"SELECT dataset_id {_OF_NAME}", n=name)
    if found is None:
        # only now: an insert takes a number even where it then does nothing, and they are few
        run(
            conn,
            "INSERT INTO sscd_ops.datasets (name) VALUES (:n) ON CONFLICT (kind, name) DO NOTHING",
            n=name,
        )
        found = value(conn, f"SELECT dataset_id {_OF_NAME}", n=name)
    return int(found)


def read(conn: Connection, name: str) -> Dataset | None:
    """The dataset's row without its lock, or None."""
    raw = row(conn, f"{_ROW} WHERE d.kind = 'dataset' AND d.name = :n", n=name)
    return None if raw is None else _dataset(raw)


def all_names(conn: Connection) -> list[str]:
    """The names of all datasets, in alphabetical order."""
    found = "SELECT name FROM sscd_ops.datasets WHERE kind = 'dataset' ORDER BY name"
    return [name for (name,) in tuples(conn, found)]


def need(conn: Connection, name: str) -> Dataset:
    """The dataset's row without its lock.

    Raises:
        UsageError: there is none of this name.
    """
    dataset = read(conn, name)
    if dataset is None:
        raise UsageError(
            f"dataset {name!r} has no batch yet: `sscd-ops batch list` shows those that have"
        )
    return dataset


def of_number(conn: Connection, dataset_id: int) -> Dataset:
    """The dataset's row without its lock, by its number."""
    raw = row(conn, f"{_ROW} WHERE d.dataset_id = :d", d=dataset_id)
    if raw is None:
        raise InvariantError(f"dataset {dataset_id} is not in the catalog")
    return _dataset(raw)


def lock(conn: Connection, dataset_id: int) -> Dataset:
    """Take the dataset's lock until the transaction ends, and read its row."""
    run(
        conn,
        "SELECT 1 FROM sscd_ops.datasets WHERE dataset_id = :d FOR NO KEY UPDATE",
        d=dataset_id,
    )
    # a statement that waited for the lock sees all other rows as they were before
    return of_number(conn, dataset_id)


def turns(conn: Connection, origins: Sequence[int]) -> dict[int, int]:
    """The newest turn of each of these banks."""
    return {
        r["dataset_id"]: r["next_turn"] - 1
        for r in rows(
            conn,
            "SELECT dataset_id, next_turn FROM sscd_ops.datasets WHERE dataset_id = ANY(:o)",
            o=list(origins),
        )
    }


def lock_with(
    conn: Connection, dataset_id: int, origins: Sequence[int]
) -> tuple[Dataset, dict[int, int]]:
    """As ``lock``, and keep these banks as they are: the dataset, and each bank's newest turn.

    In the order of their numbers, so that two who lock several cannot wait for each other.
    """
    before = [number for number in sorted(origins) if number < dataset_id]
    after = [number for number in sorted(origins) if number > dataset_id]
    bank = "SELECT next_turn - 1 FROM sscd_ops.datasets WHERE dataset_id = :d FOR SHARE"
    seen = {number: int(value(conn, bank, d=number)) for number in before}
    own = lock(conn, dataset_id)
    seen |= {number: int(value(conn, bank, d=number)) for number in after}
    return own, seen


def set_roots(conn: Connection, dataset_id: int, roots: dict[str, str]) -> None:
    """Store what the identities of each source are relative to."""
    run(
        conn,
        "UPDATE sscd_ops.datasets SET roots = CAST(:r AS jsonb) WHERE dataset_id = :d",
        r=json.dumps(roots),
        d=dataset_id,
    )


def advance(
    conn: Connection, dataset_id: int, *, next_turn: int, generation: int, snapshot: int
) -> None:
    """Move the dataset's numbers; a new generation is listed. The caller holds the lock."""
    run(
        conn,
        "INSERT INTO sscd_ops.generations (dataset_id, generation, turn)"
        " SELECT :d, :g, :t FROM sscd_ops.datasets WHERE dataset_id = :d AND generation < :g",
        d=dataset_id,
        g=generation,
        t=next_turn - 1,
    )
    run(
        conn,
        "UPDATE sscd_ops.datasets SET next_turn = :t, generation = :g, snapshot = :s"
        " WHERE dataset_id = :d",
        d=dataset_id,
        t=next_turn,
        g=generation,
        s=snapshot,
    )


def set_fingerprint(conn: Connection, dataset_id: int, attempt_id: int) -> None:
    """Give the dataset the attempt's fingerprint, unless it has one. The caller holds the lock."""
    run(
        conn,
        "UPDATE sscd_ops.datasets d SET fingerprint = a.fingerprint,"
        " fingerprint_detail = a.fingerprint_detail FROM sscd_ops.attempts a"
        " WHERE d.dataset_id = :d AND d.fingerprint IS NULL AND a.attempt_id = :a",
        d=dataset_id,
        a=attempt_id,
    )
