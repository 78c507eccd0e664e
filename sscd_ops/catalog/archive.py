"""The archive: tars of what nights removed (``publish.undo = "archive"``), which no snapshot lists.

Which samples one holds follows from the decision's own rows: all that it removed in a range of
places, less those that were taken out again. So it has no rows of samples of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.naming import files_json
from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.placements import PLACED, PlacedSample
from sscd_ops.catalog.sql import files_of, rows, run, tuples, value
from sscd_ops.model import ARCHIVE, StoredFile


class Place(NamedTuple):
    """Where a sample was read: its source shard, and its position in that."""

    shard_id: int
    position: int


@dataclass(frozen=True, slots=True)
class PlannedArchive:
    """A tar of the archive as it is planned.

    ``name``: relative to the root. ``first``, ``last``: places, in the order (source shard,
    position); all that its decision removed between them, both included, is in it.
    """

    number: int
    plan: str
    name: str
    samples: int
    first: Place
    last: Place


@dataclass(frozen=True, slots=True)
class ArchivedShard(PlannedArchive):
    """A registered one.

    ``without``: samples of its places that are not in it. ``files``: by role (``tar``, ``parquet``,
    ``stats``), none until written, and once it was let go.
    """

    archive_id: int
    decision_id: int
    without: frozenset[UUID]
    files: Mapping[str, StoredFile]
    is_let_go: bool

    @property
    def form(self) -> str:
        """What its stats say: members of all forms are in it."""
        return ARCHIVE

    @property
    def is_unwritten(self) -> bool:
        """Whether publish is to write it."""
        return not (self.files or self.is_let_go) and self.samples > 0


_SELECT = "SELECT a.* FROM sscd_ops.archived_shards a"
_HAS_PLACE = (
    "(a.first_shard, a.first_position) <= (s.shard_id, s.position)"
    " AND (a.last_shard, a.last_position) >= (s.shard_id, s.position)"
)
"""A condition on archived shards ``a`` and samples ``s`` of one decision."""


def _shards(conn: Connection, sql: str, **parameters: Any) -> list[ArchivedShard]:
    return [
        ArchivedShard(
            number=r["number"],
            plan=r["plan"],
            name=r["name"],
            samples=r["samples"],
            first=Place(r["first_shard"], r["first_position"]),
            last=Place(r["last_shard"], r["last_position"]),
            archive_id=r["archive_id"],
            decision_id=r["decision_id"],
            without=frozenset(r["without"]),
            files=files_of(r["files"]),
            is_let_go=r["let_go_at"] is not None,
        )
        for r in rows(conn, sql, **parameters)
    ]


# ---------------------------------------------------------------- planned, written, taken from


def add_plan(conn: Connection, decision_id: int, planned: Sequence[PlannedArchive]) -> None:
    """Register the archive that a decision plans."""
    for shard in planned:
        run(
            conn,
            "INSERT INTO sscd_ops.archived_shards (decision_id, number, plan, name, samples,"
            " first_shard, first_position, last_shard, last_position)"
            " VALUES (:x, :number, :plan, :name, :samples, :a, :b, :c, :d)",
            x=decision_id,
            a=shard.first.shard_id,
            b=shard.first.position,
            c=shard.last.shard_id,
            d=shard.last.position,
            **{name: asdict(shard)[name] for name in ("number", "plan", "name", "samples")},
        )


def of_decision(conn: Connection, decision_id: int) -> list[ArchivedShard]:
    """The archive of a decision, by number."""
    return _shards(conn, f"{_SELECT} WHERE a.decision_id = :x ORDER BY a.number", x=decision_id)


def read(conn: Connection, archive_id: int) -> ArchivedShard:
    """One archived shard as it is now."""
    (found,) = _shards(conn, f"{_SELECT} WHERE a.archive_id = :a", a=archive_id)
    return found


def written(conn: Connection, dataset_id: int) -> list[ArchivedShard]:
    """The written archived shards of a dataset, by turn and number."""
    return _shards(
        conn,
        f"{_SELECT} JOIN sscd_ops.decisions x USING (decision_id) WHERE x.dataset_id = :d"
        " AND x.turn IS NOT NULL AND a.files IS NOT NULL ORDER BY x.turn, a.number",
        d=dataset_id,
    )


def register(conn: Connection, shard: ArchivedShard, files: Mapping[str, StoredFile]) -> bool:
    """Name the files of an archived shard; the first registration wins (equal bytes anyway).

    Answers False where it was planned anew or let go meanwhile.
    """
    run(
        conn,
        "UPDATE sscd_ops.archived_shards SET files = CAST(:f AS jsonb)"
        " WHERE archive_id = :a AND files IS NULL AND name = :n AND let_go_at IS NULL",
        f=files_json(conn, files),
        a=shard.archive_id,
        n=shard.name,
    )
    return bool(
        value(
            conn,
            "SELECT name = :n AND files IS NOT NULL FROM sscd_ops.archived_shards"
            " WHERE archive_id = :a",
            a=shard.archive_id,
            n=shard.name,
        )
    )


def replace(
    conn: Connection, before: ArchivedShard, after: ArchivedShard, files: Mapping[str, StoredFile]
) -> bool:
    """Have an archived shard hold fewer samples, under another name.

    Args:
        conn: an open transaction.
        before: as it was read.
        after: its plan, name, samples and ``without`` from now on.
        files: of that; none where it is to be written yet, or where nothing is left.

    Answers False, and changes nothing, where it is another one by now.
    """
    changed = run(
        conn,
        "UPDATE sscd_ops.archived_shards SET plan = :p, name = :n, samples = :s,"
        " without = CAST(:w AS uuid[]), files = CAST(:f AS jsonb)"
        " WHERE archive_id = :a AND name = :before AND (files IS NOT NULL) = :written",
        p=after.plan,
        n=after.name,
        s=after.samples,
        w=sorted(map(str, after.without)),
        f=files_json(conn, files) if files else None,
        a=before.archive_id,
        before=before.name,
        written=bool(before.files),
    )
    return changed == 1


def let_go(conn: Connection, archive_id: int) -> None:
    """Have nobody read an archived shard any more: `vacuum` removes its files."""
    run(
        conn,
        "UPDATE sscd_ops.archived_shards SET files = NULL, let_go_at = now()"
        " WHERE archive_id = :a AND let_go_at IS NULL",
        a=archive_id,
    )


def older_than(conn: Connection, dataset_id: int, seconds: float) -> list[ArchivedShard]:
    """The written archived shards of decisions that are so old, by turn and number."""
    return _shards(
        conn,
        f"{_SELECT} JOIN sscd_ops.decisions x USING (decision_id) WHERE x.dataset_id = :d"
        " AND x.decided_at < now() - make_interval(secs => :s) AND a.files IS NOT NULL"
        " ORDER BY x.turn, a.number",
        d=dataset_id,
        s=seconds,
    )


# ---------------------------------------------------------------- what is in it


def samples_of(conn: Connection, shard: ArchivedShard) -> list[PlacedSample] | None:
    """The samples of an archived shard, in its order; None where their month was detached."""
    month = value(
        conn, "SELECT month FROM sscd_ops.decisions WHERE decision_id = :x", x=shard.decision_id
    )
    if month not in months(conn):
        return None
    found = tuples(
        conn,
        f"SELECT {PLACED} FROM sscd_ops.samples s"
        " JOIN sscd_ops.source_shards sh USING (shard_id)"
        " WHERE s.month = :m AND s.decision_id = :x AND (s.shard_id, s.position) >= (:a, :b)"
        " AND (s.shard_id, s.position) <= (:c, :d) AND s.verdict = 'removed'"
        " AND s.reason IN ('exact', 'near', 'perceptual')"
        " AND s.sample_id <> ALL(CAST(:w AS uuid[])) ORDER BY s.shard_id, s.position",
        m=month,
        x=shard.decision_id,
        a=shard.first.shard_id,
        b=shard.first.position,
        c=shard.last.shard_id,
        d=shard.last.position,
        w=sorted(map(str, shard.without)),
    )
    return [PlacedSample(bytes(digest), *others) for digest, *others in found]


def holding(conn: Connection, place: Place) -> ArchivedShard | None:
    """The written archived shard that holds the sample of a place, if its night removed it."""
    found = _shards(
        conn,
        f"{_SELECT} JOIN (SELECT CAST(:s AS bigint) AS shard_id, CAST(:p AS int) AS position) s"
        f" ON {_HAS_PLACE} WHERE a.files IS NOT NULL AND a.decision_id ="
        " (SELECT b.decision_id FROM sscd_ops.source_shards sh"
        " JOIN sscd_ops.attempts t USING (attempt_id)"
        " JOIN sscd_ops.batches b ON b.batch_id = t.batch_id WHERE sh.shard_id = :s)",
        s=place.shard_id,
        p=place.position,
    )
    return found[0] if found else None


def files_holding(
    conn: Connection, sample_ids: Collection[UUID]
) -> dict[int, tuple[ArchivedShard, set[UUID]]]:
    """Number of an archived shard -> it, and which of some samples it may hold.

    Those that are planned and not written yet too. Of a month that was detached also samples that
    were not removed: ``steps.archiving.take_out`` reads which of them are there.
    """
    found = tuples(
        conn,
        "SELECT a.archive_id, s.sample_id FROM ("
        " SELECT sample_id, decision_id, shard_id, position FROM sscd_ops.samples"
        " WHERE sample_id = ANY(CAST(:i AS uuid[])) AND verdict = 'removed'"
        " UNION ALL SELECT sample_id, decision_id, shard_id, position"
        " FROM sscd_ops.detached_samples WHERE sample_id = ANY(CAST(:i AS uuid[]))) s"
        " JOIN sscd_ops.archived_shards a ON a.decision_id = s.decision_id"
        f" AND {_HAS_PLACE} JOIN sscd_ops.decisions x ON x.decision_id = a.decision_id"
        " WHERE x.turn IS NOT NULL AND a.let_go_at IS NULL AND s.sample_id <> ALL(a.without)",
        i=[str(each) for each in sample_ids],
    )
    held: dict[int, set[UUID]] = {}
    for archive_id, sample_id in found:
        held.setdefault(archive_id, set()).add(sample_id)
    return {number: (read(conn, number), ids) for number, ids in sorted(held.items())}
