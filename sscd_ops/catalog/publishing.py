"""Output shards, where they are placed, and snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.sql import file_json, files_json, row, rows, run, value
from sscd_ops.model import StoredFile


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """An output shard of a decision: as many slots in a row as it has samples.

    ``name``: of the tar, relative to the root. ``slot``: the first one.
    """

    number: int
    form: str
    samples: int
    name: str
    slot: int


def add_plan(
    conn: Connection, decision_id: int, turn: int, plan: str, planned: Iterable[PlannedShard]
) -> None:
    """Register the output shards that a decision plans, which are in no snapshot yet."""
    for shard in planned:
        output_id = value(
            conn,
            "INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name,"
            " turn) VALUES (:x, :n, :p, :f, :s, :name, :t) RETURNING output_id",
            x=decision_id,
            n=shard.number,
            p=plan,
            f=shard.form,
            s=shard.samples,
            name=shard.name,
            t=turn,
        )
        run(
            conn,
            "INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to)"
            " VALUES (:o, :x, :s, :s + :k)",
            o=output_id,
            x=decision_id,
            s=shard.slot,
            k=shard.samples,
        )


def output_shards(conn: Connection, decision_id: int) -> list[Mapping[str, Any]]:
    """The planned output shards of a decision by number, with their files where written."""
    return rows(
        conn,
        "SELECT * FROM sscd_ops.output_shards WHERE decision_id = :x ORDER BY number",
        x=decision_id,
    )


def samples_of_output(conn: Connection, output_id: int) -> list[Mapping[str, Any]]:
    """The samples of one output shard in published order: that of their slots."""
    # slots and month as values: joined with its placements, a shard might cost the whole month
    return [
        sample
        for place in _places(conn, output_id)
        for sample in rows(
            conn,
            "SELECT s.sample_id, s.shard_id, s.position, s.key, s.image_sha256, s.width, s.height,"
            " s.caption, s.meta, sh.source, sh.relative_uri, sh.ordinal FROM sscd_ops.samples s"
            " JOIN sscd_ops.source_shards sh USING (shard_id) WHERE s.month = :month"
            " AND s.decision_id = :decision_id AND s.slot >= :slot_from AND s.slot < :slot_to"
            " ORDER BY s.slot",
            **place,
        )
    ]


def _places(conn: Connection, output_id: int) -> list[Mapping[str, Any]]:
    """What an output shard holds: slots of a decision, whose rows lie in a month; in order."""
    return rows(
        conn,
        "SELECT p.decision_id, p.slot_from, p.slot_to, d.month FROM sscd_ops.placements p"
        " JOIN sscd_ops.decisions d USING (decision_id) WHERE p.output_id = :o"
        " ORDER BY d.turn, p.slot_from",
        o=output_id,
    )


def register_output(conn: Connection, output_id: int, files: Mapping[str, StoredFile]) -> None:
    """Name the files of an output shard; the first registration wins (equal bytes anyway)."""
    run(
        conn,
        "UPDATE sscd_ops.output_shards SET files = CAST(:f AS jsonb)"
        " WHERE output_id = :o AND files IS NULL",
        f=files_json(files),
        o=output_id,
    )


def files_of_output(conn: Connection, output_id: int) -> Any:
    """The registered files of an output shard; None where it was not written."""
    return value(conn, "SELECT files FROM sscd_ops.output_shards WHERE output_id = :o", o=output_id)


_SHARD = (
    "SELECT o.*, x.batch_id, x.turn AS decided_turn, b.label, b.supplement"
    " FROM sscd_ops.output_shards o JOIN sscd_ops.decisions x USING (decision_id)"
    " LEFT JOIN sscd_ops.batches b ON b.batch_id = x.batch_id"
    " WHERE x.dataset_id = :d AND x.turn IS NOT NULL"
)
_IN_ORDER = " ORDER BY x.turn, o.number"
"""In turn order, whatever order batches commit in."""


def written_shards(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """The shards of all snapshots and those that wait for their commit, by turn and number."""
    return rows(conn, f"{_SHARD} AND o.files IS NOT NULL{_IN_ORDER}", d=dataset_id)


def live_shards(
    conn: Connection, dataset_id: int, snapshot: int, adding: int | None = None
) -> list[Mapping[str, Any]]:
    """The shards of a snapshot, by turn and number; with those a decision adds, where asked."""
    return rows(
        conn,
        f"{_SHARD} AND EXISTS (SELECT FROM sscd_ops.placements p WHERE p.output_id = o.output_id"
        " AND (p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s)"
        f" OR p.snapshot_from IS NULL AND o.decision_id = :x)){_IN_ORDER}",
        d=dataset_id,
        s=snapshot,
        x=adding,
    )


def unlisted_slots(
    conn: Connection, dataset_id: int, snapshot: int, adding: int
) -> list[Mapping[str, Any]]:
    """What a shard holds that is kept no longer: ``output_id``, ``decision_id``, ``slot``.

    Of the shards of a snapshot, and of those a decision adds. From ``changes`` and ``images``
    alone: a slot lost its sample where another verdict, or another carrier, followed on the one
    that gave the slot.
    """
    return rows(
        conn,
        "WITH moved AS ("
        " SELECT DISTINCT c.dataset_id, c.image_sha256 FROM sscd_ops.changes_now c"
        " WHERE c.dataset_id = :d AND c.image_sha256 IS NOT NULL),"
        " given AS ("
        " SELECT i.dataset_id, i.sha256, i.decision_id, i.slot FROM moved m"
        " JOIN sscd_ops.images i ON i.dataset_id = m.dataset_id AND i.sha256 = m.image_sha256"
        " JOIN sscd_ops.decisions x ON x.decision_id = i.decision_id AND x.turn IS NOT NULL"
        " WHERE i.slot IS NOT NULL"
        " UNION SELECT c.dataset_id, c.image_sha256, c.slot_decision, c.slot"
        " FROM sscd_ops.changes c JOIN sscd_ops.decisions x ON x.decision_id = c.decision_id"
        " AND x.turn = c.turn WHERE c.dataset_id = :d AND c.slot IS NOT NULL"
        " AND c.image_sha256 IS NOT NULL)"
        " SELECT p.output_id, g.decision_id, g.slot FROM given g"
        " JOIN sscd_ops.images_now n ON n.dataset_id = g.dataset_id AND n.sha256 = g.sha256"
        " JOIN sscd_ops.placements p ON p.decision_id = g.decision_id"
        " AND p.slot_from <= g.slot AND p.slot_to > g.slot"
        " JOIN sscd_ops.output_shards o ON o.output_id = p.output_id"
        " WHERE (n.verdict <> 'kept' OR (n.slot_decision, n.slot) <> (g.decision_id, g.slot))"
        " AND (p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s)"
        " OR p.snapshot_from IS NULL AND o.decision_id = :x)"
        " ORDER BY 1, 2, 3",
        d=dataset_id,
        s=snapshot,
        x=adding,
    )


def add_snapshot(
    conn: Connection,
    dataset_id: int,
    decision_id: int,
    *,
    snapshot: int,
    parent: int,
    samples: int,
    shards: int,
    size: int,
    file: StoredFile,
    turn: int,
) -> None:
    """Make the decision's shards part of a new snapshot. The caller holds the lock."""
    run(
        conn,
        "INSERT INTO sscd_ops.snapshots (dataset_id, snapshot, parent, decision_id, turn, samples,"
        " shards, bytes, file) VALUES (:d, :s, :p, :x, :t, :n, :k, :z, CAST(:f AS jsonb))",
        d=dataset_id,
        s=snapshot,
        p=parent,
        x=decision_id,
        t=turn,
        n=samples,
        k=shards,
        z=size,
        f=file_json(file),
    )
    run(
        conn,
        "UPDATE sscd_ops.placements p SET snapshot_from = :s FROM sscd_ops.output_shards o"
        " WHERE o.output_id = p.output_id AND o.decision_id = :x AND p.snapshot_from IS NULL",
        s=snapshot,
        x=decision_id,
    )


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
        "UPDATE sscd_ops.batches SET state = 'published', finished_at = now(), message = ''"
        " WHERE decision_id = :x",
        x=decision_id,
    )


def mark_unpublishable(conn: Connection, batch_id: int, message: str) -> bool:
    """Its source changed or vanished: every run names the batch until it is published.

    Answers whether the batch was decided until now, neither published nor marked before.
    """
    changed = run(
        conn,
        "UPDATE sscd_ops.batches SET state = 'unpublishable', message = :m"
        " WHERE batch_id = :b AND state = 'decided'",
        b=batch_id,
        m=message.replace("\x00", " "),
    )
    return changed == 1


def mark_announced(conn: Connection, batch_id: int) -> None:
    """The asset event of the batch's snapshot is out."""
    run(conn, "UPDATE sscd_ops.decisions SET announced = true WHERE batch_id = :b", b=batch_id)


_SNAPSHOT = (
    "SELECT s.*, x.batch_id, x.turn AS decided_turn, b.label, b.supplement,"
    " d.fingerprint_detail ->> 'name' AS fingerprint"
    " FROM sscd_ops.snapshots s JOIN sscd_ops.decisions x USING (decision_id)"
    " JOIN sscd_ops.datasets d ON d.dataset_id = s.dataset_id"
    " LEFT JOIN sscd_ops.batches b ON b.batch_id = x.batch_id WHERE s.dataset_id = :d"
)
"""A snapshot's row, and what its file says of the decision that made it."""


def read_snapshot(
    conn: Connection, dataset_id: int, snapshot: int | None = None
) -> Mapping[str, Any] | None:
    """A snapshot's row, the newest one where no number is given; and what its file says.

    Beside the row's own columns ``label``, ``supplement``, ``decided_turn`` of what made it, and
    ``fingerprint``, the model's name.
    """
    return row(
        conn,
        f"{_SNAPSHOT} AND (CAST(:s AS int) IS NULL OR s.snapshot = :s)"
        " ORDER BY s.snapshot DESC LIMIT 1",
        d=dataset_id,
        s=snapshot,
    )


def snapshots(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """All snapshots by number, as ``read_snapshot`` answers them."""
    return rows(conn, f"{_SNAPSHOT} ORDER BY s.snapshot", d=dataset_id)


def ids_of_output(conn: Connection, output_id: int) -> set[str] | None:
    """The ids of the samples of one output shard; None where their month was detached."""
    there = months(conn)
    placed = _places(conn, output_id)
    if any(place["month"] not in there for place in placed):
        return None
    return {
        str(sample["sample_id"])
        for place in placed
        for sample in rows(
            conn,
            "SELECT sample_id FROM sscd_ops.samples WHERE month = :month"
            " AND decision_id = :decision_id AND slot >= :slot_from AND slot < :slot_to",
            **place,
        )
    }


def count_kept(conn: Connection, decisions: Sequence[int]) -> int:
    """How many samples these decisions keep; of a month that was detached, as it was counted."""
    there = months(conn)
    counted = value(
        conn,
        "SELECT coalesce(sum(CAST(d.counts ->> 'kept' AS bigint)), 0) FROM sscd_ops.decisions d"
        " WHERE d.decision_id = ANY(:x) AND NOT d.month = ANY(CAST(:there AS date[]))",
        x=list(decisions),
        there=there,
    )
    found = value(
        conn,
        "SELECT count(*) FROM sscd_ops.decisions d JOIN sscd_ops.samples s"
        " ON s.month = d.month AND s.decision_id = d.decision_id"
        " WHERE d.decision_id = ANY(:x) AND s.verdict = 'kept'",
        x=list(decisions),
    )
    return int(counted) + int(found)
