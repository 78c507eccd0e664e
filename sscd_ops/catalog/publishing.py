"""Output shards, where they are placed, and snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.sql import file_json, files_json, files_of, row, rows, run, value
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
    """The output shards that a decision planned, by number, with their files where written.

    Not those that replaced one of them later.
    """
    return rows(
        conn,
        "SELECT o.* FROM sscd_ops.output_shards o JOIN sscd_ops.decisions d USING (decision_id)"
        " WHERE o.decision_id = :x AND o.turn = d.turn ORDER BY o.number",
        x=decision_id,
    )


def samples_of_output(conn: Connection, output_id: int) -> list[Mapping[str, Any]]:
    """The samples of one output shard in published order: that of their slots."""
    # slots and month as values: joined with its placements, a shard might cost the whole month
    return [
        sample
        for place in placed(conn, output_id)
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


def placed(conn: Connection, output_id: int) -> list[Mapping[str, Any]]:
    """Which slots an output shard holds, in its order, and the month of their decision's rows."""
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
    " JOIN LATERAL (SELECT min(p.slot_from) AS slot FROM sscd_ops.placements p"
    " WHERE p.output_id = o.output_id) f ON true"
    " WHERE x.dataset_id = :d AND x.turn IS NOT NULL"
)
_IN_ORDER = " ORDER BY x.turn, f.slot, o.output_id"
"""In turn order, whatever order batches commit in; a shard stands where the one it replaces did."""


def written_shards(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """The shards of all snapshots and those that wait for their commit, by turn and slot."""
    return rows(conn, f"{_SHARD} AND o.files IS NOT NULL{_IN_ORDER}", d=dataset_id)


def live_shards(
    conn: Connection, dataset_id: int, snapshot: int, adding: int | None = None
) -> list[Mapping[str, Any]]:
    """The shards of a snapshot, by turn and slot; with those a decision adds, where asked."""
    return rows(
        conn,
        f"{_SHARD} AND EXISTS (SELECT FROM sscd_ops.placements p WHERE p.output_id = o.output_id"
        " AND (p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s)"
        f" OR p.snapshot_from IS NULL AND o.decision_id = :x)){_IN_ORDER}",
        d=dataset_id,
        s=snapshot,
        x=adding,
    )


_LOST = (
    "WITH changed AS ("
    " SELECT c.* FROM sscd_ops.changes c JOIN sscd_ops.decisions x"
    " ON x.decision_id = c.decision_id AND x.turn = c.turn"
    " WHERE c.dataset_id = :d AND c.turn <= :t),"
    " given AS ("
    " SELECT i.decision_id, i.slot FROM sscd_ops.images i"
    " JOIN sscd_ops.decisions x ON x.decision_id = i.decision_id AND x.turn IS NOT NULL"
    " WHERE i.dataset_id = :d AND i.slot IS NOT NULL AND i.sha256 IN"
    " (SELECT c.image_sha256 FROM changed c WHERE c.image_sha256 IS NOT NULL)"
    " UNION SELECT c.slot_decision, c.slot FROM changed c WHERE c.slot IS NOT NULL),"
    " lost AS ("
    " SELECT decision_id, slot FROM given EXCEPT"
    " SELECT c.slot_decision, c.slot FROM changed c WHERE c.slot IS NOT NULL"
    " AND c.verdict = 'kept' AND (c.turn_to IS NULL OR c.turn_to > :t))"
)
"""Slots that lost their sample until a turn, as ``lost (decision_id, slot)``.

From ``changes`` and ``images`` alone: a slot is lost where another verdict, or another carrier,
followed on the one that gave the slot.
"""


def lost_slots(conn: Connection, dataset_id: int, turn: int) -> list[Mapping[str, Any]]:
    """What is kept no longer as of a turn: ``decision_id``, ``slot``."""
    return rows(conn, f"{_LOST} SELECT * FROM lost ORDER BY 1, 2", d=dataset_id, t=turn)


def lost_slots_in(
    conn: Connection, dataset_id: int, snapshot: int, adding: int, turn: int
) -> list[Mapping[str, Any]]:
    """What a shard holds that is kept no longer as of a turn: ``output_id``, and its slots.

    Of the shards of a snapshot, and of those a decision adds.
    """
    return rows(
        conn,
        f"{_LOST} SELECT p.output_id, l.decision_id, l.slot FROM lost l"
        " JOIN sscd_ops.placements p ON p.decision_id = l.decision_id"
        " AND p.slot_from <= l.slot AND p.slot_to > l.slot"
        " JOIN sscd_ops.output_shards o ON o.output_id = p.output_id"
        " WHERE p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s)"
        " OR p.snapshot_from IS NULL AND o.decision_id = :x"
        " ORDER BY 1, 2, 3",
        d=dataset_id,
        t=turn,
        s=snapshot,
        x=adding,
    )


def replace_shard(
    conn: Connection,
    output_id: int,
    snapshot: int,
    *,
    shard: Mapping[str, Any] | None,
    slots: Iterable[tuple[int, int, int]],
) -> None:
    """From a snapshot on, another shard holds what one held.

    One that was in no snapshot yet never is in any: its range is empty.

    Args:
        conn: an open transaction, with the dataset's lock.
        output_id: the shard that is replaced.
        snapshot: the snapshot, registered.
        shard: the columns of the other one; None where nothing is left of it.
        slots: decision, first slot and end of what that one holds.
    """
    run(
        conn,
        "UPDATE sscd_ops.placements SET snapshot_to = :s WHERE output_id = :o"
        " AND snapshot_to IS NULL",
        s=snapshot,
        o=output_id,
    )
    if shard is None:
        return
    new = value(
        conn,
        "INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name, turn,"
        " files) VALUES (:x, :n, :p, :f, :k, :name, :t, CAST(:files AS jsonb))"
        " RETURNING output_id",
        x=shard["decision_id"],
        n=shard["number"],
        p=shard["plan"],
        f=shard["form"],
        k=shard["samples"],
        name=shard["name"],
        t=shard["turn"],
        files=files_json(files_of(shard["files"])),
    )
    for decision_id, start, end in slots:
        run(
            conn,
            "INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to,"
            " snapshot_from) VALUES (:o, :x, :a, :b, :s)",
            o=new,
            x=decision_id,
            a=start,
            b=end,
            s=snapshot,
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


def mark_followed(conn: Connection, dataset_id: int, snapshot: int, turn: int) -> None:
    """Published are, with a snapshot as of a turn, the decisions before it that only take away."""
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
    places = placed(conn, output_id)
    if any(place["month"] not in there for place in places):
        return None
    return {
        str(sample["sample_id"])
        for place in places
        for sample in rows(
            conn,
            "SELECT sample_id FROM sscd_ops.samples WHERE month = :month"
            " AND decision_id = :decision_id AND slot >= :slot_from AND slot < :slot_to",
            **place,
        )
    }


def count_kept(conn: Connection, dataset_id: int, decisions: Sequence[int], turn: int) -> int:
    """How many samples of these decisions are in the slot they were given as of a turn.

    Of a month that was detached, as they were counted.
    """
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
    lost = value(
        conn,
        f"{_LOST} SELECT count(*) FROM lost WHERE decision_id = ANY(:x)",
        d=dataset_id,
        t=turn,
        x=list(decisions),
    )
    return int(counted) + int(found) - int(lost)
