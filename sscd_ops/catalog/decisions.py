"""Decisions: what takes a turn. Their rows before, and the few that put one in force.

``put_in_force`` is called by ``steps.turns`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, cast

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import row, rows, run, tuples, value
from sscd_ops.errors import InvariantError
from sscd_ops.masking import without_nul
from sscd_ops.model import Batch, BatchState, Counts, DecisionKind


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision in force. ``counts``: a night's. ``snapshot``: the one that first followed it."""

    decision_id: int
    dataset_id: int
    kind: DecisionKind
    turn: int
    batch_id: int | None
    counts: Counts
    is_published: bool
    snapshot: int | None
    announced: bool


@dataclass(frozen=True, slots=True)
class PastNight:
    """The counts of an earlier night, for the guard."""

    counts: Counts
    sources: dict[str, Counts]


def counts_of(raw: Mapping[str, Any]) -> Counts:
    """Counts from their jsonb form."""
    return Counts(**{k: v for k, v in raw.items() if k in Counts.__dataclass_fields__})


# ---------------------------------------------------------------- tries


def open_night(conn: Connection, batch: Batch, month: date) -> int:
    """Open a try at deciding the batch; its rows lie in the partition of ``month``."""
    return int(
        value(
            conn,
            "INSERT INTO sscd_ops.decisions (dataset_id, kind, batch_id, attempt_id, month)"
            " VALUES (:d, 'night', :b, :a, :m) RETURNING decision_id",
            d=batch.dataset_id,
            b=batch.batch_id,
            a=batch.attempt_id,
            m=month,
        )
    )


def open_other(
    conn: Connection, dataset_id: int, kind: DecisionKind, month: date, client_key: str
) -> int:
    """Open a try at a decision without a batch, that a command finds again by its key."""
    return int(
        value(
            conn,
            "INSERT INTO sscd_ops.decisions (dataset_id, kind, month, client_key)"
            " VALUES (:d, :k, :m, :c) RETURNING decision_id",
            d=dataset_id,
            k=str(kind),
            m=month,
            c=client_key,
        )
    )


def give_up(conn: Connection, batch: Batch) -> None:
    """Mark the batch's tries that are not in force as lost: they never come into force.

    Those of its attempt and of earlier ones: who still works for an attempt that was abandoned
    takes nothing from the next.

    The caller holds the dataset's lock and commits before the rows are deleted, so that a process
    thought dead finds out under the lock that its rows are gone, or going. Those marked before are
    left alone: who deletes their rows, which may take minutes, has them locked.
    """
    run(
        conn,
        "UPDATE sscd_ops.decisions SET lost = true WHERE batch_id = :b AND attempt_id <= :a"
        " AND turn IS NULL AND NOT lost",
        b=batch.batch_id,
        a=batch.attempt_id,
    )


def give_up_others(conn: Connection, dataset_id: int, client_key: str) -> None:
    """As ``give_up``, for the tries of a command."""
    run(
        conn,
        "UPDATE sscd_ops.decisions SET lost = true WHERE dataset_id = :d AND client_key = :c"
        " AND batch_id IS NULL AND turn IS NULL AND NOT lost",
        d=dataset_id,
        c=client_key,
    )


def give_up_keys(conn: Connection, dataset_id: int, beginning: str) -> None:
    """As ``give_up``, for the tries of commands under keys that begin so."""
    run(
        conn,
        "UPDATE sscd_ops.decisions SET lost = true WHERE dataset_id = :d"
        " AND starts_with(client_key, :c) AND batch_id IS NULL AND turn IS NULL AND NOT lost",
        d=dataset_id,
        c=beginning,
    )


def has_tries(conn: Connection, batch_id: int) -> bool:
    """Whether the batch has tries that are not in force: of processes that died, or are at work."""
    found = value(
        conn,
        "SELECT EXISTS (SELECT FROM sscd_ops.decisions WHERE batch_id = :b AND turn IS NULL)",
        b=batch_id,
    )
    return bool(found)


def moment(conn: Connection, decision_id: int) -> datetime:
    """When a try was opened, or when all its rows were written: tells it from others.

    A fail-over may forget it, and give its number to another one.
    """
    opened = "SELECT started_at FROM sscd_ops.decisions WHERE decision_id = :x"
    return cast(datetime, value(conn, opened, x=decision_id))


def is_lost(conn: Connection, decision_id: int, moment: datetime) -> bool:
    """Whether a try was given up by another process, or forgotten, wholly or in part.

    The caller holds the dataset's lock.
    """
    return not _stands(conn, decision_id, moment)


def keep_try(conn: Connection, decision_id: int, moment: datetime) -> bool:
    """Whether a try stands; if so it is not deleted until the transaction ends.

    Asked by whoever writes rows of it, so that none come after those that ``delete_lost`` deletes.
    Marking it as lost does not wait for that.
    """
    return _stands(conn, decision_id, moment, " FOR KEY SHARE")


def _stands(conn: Connection, decision_id: int, moment: datetime, lock: str = "") -> bool:
    stands = "SELECT NOT lost AND started_at = :t FROM sscd_ops.decisions WHERE decision_id = :x"
    return value(conn, stands + lock, x=decision_id, t=moment) is True


def mark_written(conn: Connection, decision_id: int, moment: datetime) -> datetime | None:
    """Say that all rows of a try are written, and when; None where it was given up.

    In a transaction of its own after all of theirs: a server that forgot one of them forgot this
    one too, and the try is not what ``is_lost`` is asked about.
    """
    written = (
        "UPDATE sscd_ops.decisions SET started_at = clock_timestamp() WHERE decision_id = :x"
        " AND started_at = :t AND NOT lost AND turn IS NULL RETURNING started_at"
    )
    return cast("datetime | None", value(conn, written, x=decision_id, t=moment))


def delete_lost(conn: Connection, dataset_id: int) -> None:
    """Delete the rows of this dataset's tries that were given up.

    Those of a try whose process still writes some, or which another deletes, are left to the next.
    """
    lost = rows(
        conn,
        "SELECT decision_id, month FROM sscd_ops.decisions WHERE dataset_id = :d AND lost"
        " FOR UPDATE SKIP LOCKED",
        d=dataset_id,
    )
    for decision in lost:
        key = {"x": decision["decision_id"], "m": decision["month"]}
        run(conn, "DELETE FROM sscd_ops.images WHERE decision_id = :x", x=key["x"])
        for table in ("samples", "matches"):
            run(conn, f"DELETE FROM sscd_ops.{table} WHERE month = :m AND decision_id = :x", **key)
        run(
            conn,
            "DELETE FROM sscd_ops.placements WHERE output_id IN"
            " (SELECT output_id FROM sscd_ops.output_shards WHERE decision_id = :x)",
            x=key["x"],
        )
        few = (
            *("read_again", "described_later", "changes", "withdrawn_images", "archived_shards"),
            *("decision_sources", "output_shards", "decisions"),
        )
        for table in few:
            run(conn, f"DELETE FROM sscd_ops.{table} WHERE decision_id = :x", x=key["x"])


def add_sources(conn: Connection, decision_id: int, by_source: Mapping[str, Counts]) -> None:
    """One row of counts for each source of the batch."""
    for source, counts in sorted(by_source.items()):
        run(
            conn,
            "INSERT INTO sscd_ops.decision_sources (decision_id, source, counts)"
            " VALUES (:x, :s, CAST(:c AS jsonb))",
            x=decision_id,
            s=source,
            c=json.dumps(counts.plain()),
        )


# ---------------------------------------------------------------- in force


def put_in_force(
    conn: Connection,
    decision_id: int,
    *,
    turn: int,
    generation: int,
    config_sha256: str,
    actor: str,
    why: str,
    counts: Mapping[str, Any],
    origins: Mapping[int, int],
) -> None:
    """Give a decision its turn. The caller holds the lock and has checked what it rests on."""
    changed = run(
        conn,
        "UPDATE sscd_ops.decisions SET turn = :t, generation = :g, config_sha256 = :f, actor = :a,"
        " why = :w, decided_at = now(), counts = CAST(:c AS jsonb), origins = CAST(:o AS jsonb)"
        " WHERE decision_id = :x AND turn IS NULL AND NOT lost",
        x=decision_id,
        t=turn,
        g=generation,
        f=config_sha256,
        a=actor,
        w=without_nul(why),
        c=json.dumps(dict(counts)),
        o=json.dumps({str(number): seen for number, seen in sorted(origins.items())}),
    )
    if changed != 1:
        raise InvariantError(f"decision {decision_id} was put in force or given up meanwhile")
    # What this decision changes again holds until now. Its subjects as an array: joined, a table
    # without fresh statistics is read as a whole, and all wait for it.
    for subject in ("image_sha256", "sample_id"):
        run(
            conn,
            "UPDATE sscd_ops.changes o SET turn_to = :t WHERE o.dataset_id ="
            " (SELECT d.dataset_id FROM sscd_ops.decisions d WHERE d.decision_id = :x)"
            f" AND o.{subject} = ANY(ARRAY(SELECT n.{subject} FROM sscd_ops.changes n"
            f" WHERE n.decision_id = :x AND n.{subject} IS NOT NULL))"
            " AND o.decision_id <> :x AND o.turn_to IS NULL"
            " AND (SELECT d.turn = o.turn FROM sscd_ops.decisions d"
            " WHERE d.decision_id = o.decision_id)",
            x=decision_id,
            t=turn,
        )
    run(
        conn,
        "UPDATE sscd_ops.configs c SET turn = :t FROM sscd_ops.decisions d"
        " WHERE d.decision_id = :x AND c.dataset_id = d.dataset_id AND c.config_sha256 = :f"
        " AND c.turn IS NULL",
        t=turn,
        x=decision_id,
        f=config_sha256,
    )


def decide_batch(conn: Connection, batch: Batch, decision_id: int) -> None:
    """Name the decision that the batch's verdicts are.

    Raises:
        InvariantError: the batch has a decision in force, or another attempt.
    """
    changed = run(
        conn,
        "UPDATE sscd_ops.batches SET state = :s, decision_id = :x, message = ''"
        " WHERE batch_id = :b AND decision_id IS NULL AND attempt_id = :a",
        s=BatchState.DECIDED,
        x=decision_id,
        b=batch.batch_id,
        a=batch.attempt_id,
    )
    if changed != 1:
        raise InvariantError(
            f"batch {batch.batch_id} was decided or planned anew while it was being decided;"
            " nothing was written: run its night again"
        )


def hold(conn: Connection, batch: Batch, message: str) -> None:
    """Store that the guard holds the batch, and why."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = :s, message = :m WHERE batch_id = :b"
        " AND decision_id IS NULL",
        s=BatchState.HELD,
        m=message,
        b=batch.batch_id,
    )


_DECISION = "SELECT * FROM sscd_ops.decisions WHERE turn IS NOT NULL"


def _decision(raw: Mapping[str, Any]) -> Decision:
    return Decision(
        raw["decision_id"],
        raw["dataset_id"],
        DecisionKind(raw["kind"]),
        raw["turn"],
        raw["batch_id"],
        counts_of(raw["counts"]),
        raw["published_at"] is not None,
        raw["snapshot"],
        raw["announced"],
    )


def of_batch(conn: Connection, batch_id: int) -> Decision:
    """The decision of a decided batch.

    Raises:
        InvariantError: it is not decided.
    """
    raw = row(conn, f"{_DECISION} AND batch_id = :b", b=batch_id)
    if raw is None:
        raise InvariantError(f"batch {batch_id} has no decision in force")
    return _decision(raw)


def of_key(conn: Connection, dataset_id: int, client_key: str) -> Decision | None:
    """What a command decided under its key; None where it did not yet."""
    raw = row(
        conn, f"{_DECISION} AND dataset_id = :d AND client_key = :c", d=dataset_id, c=client_key
    )
    return None if raw is None else _decision(raw)


def of_turn(conn: Connection, dataset_id: int, turn: int) -> Decision:
    """The decision of a turn that was taken.

    Raises:
        InvariantError: there is none.
    """
    raw = row(conn, f"{_DECISION} AND dataset_id = :d AND turn = :t", d=dataset_id, t=turn)
    if raw is None:
        raise InvariantError(f"dataset {dataset_id} has no decision of turn {turn}")
    return _decision(raw)


def pending_others(conn: Connection, dataset_id: int, turn: int) -> list[Decision]:
    """Decisions without a batch, until a turn, that planned shards and are not published yet."""
    found = rows(
        conn,
        f"{_DECISION} AND dataset_id = :d AND turn <= :t AND batch_id IS NULL"
        " AND published_at IS NULL AND EXISTS (SELECT FROM sscd_ops.output_shards o"
        " WHERE o.decision_id = decisions.decision_id AND NOT o.replaces) ORDER BY turn",
        d=dataset_id,
        t=turn,
    )
    return [_decision(raw) for raw in found]


def configs_of(conn: Connection, decision_ids: Sequence[int]) -> dict[int, str]:
    """The configurations of some decisions in force, as JSON."""
    found = tuples(
        conn,
        "SELECT x.decision_id, CAST(c.config AS text) FROM sscd_ops.decisions x"
        " JOIN sscd_ops.configs c USING (dataset_id, config_sha256)"
        " WHERE x.decision_id = ANY(:x)",
        x=list(decision_ids),
    )
    return dict(found)


def of_keys(conn: Connection, dataset_id: int, beginning: str) -> list[Decision]:
    """What commands decided under keys that begin so, by turn."""
    found = rows(
        conn,
        f"{_DECISION} AND dataset_id = :d AND starts_with(client_key, :c) ORDER BY turn",
        d=dataset_id,
        c=beginning,
    )
    return [_decision(raw) for raw in found]


def newest_night(conn: Connection, dataset_id: int) -> int:
    """The batch that was decided last.

    Raises:
        InvariantError: none was.
    """
    newest = (
        "SELECT batch_id FROM sscd_ops.decisions WHERE dataset_id = :d AND kind = 'night'"
        " AND turn IS NOT NULL ORDER BY turn DESC LIMIT 1"
    )
    batch_id = value(conn, newest, d=dataset_id)
    if batch_id is None:
        raise InvariantError(f"dataset {dataset_id} has no decided night")
    return int(batch_id)


def recent_nights(conn: Connection, dataset_id: int, turn: int, limit: int) -> list[PastNight]:
    """The nights of the highest turns below ``turn``, newest first.

    Those that read quarantined samples again say nothing about what is usual.
    """
    found = rows(
        conn,
        "SELECT counts, decision_id FROM sscd_ops.decisions"
        " WHERE dataset_id = :d AND turn < :t AND kind = 'night' AND NOT EXISTS"
        " (SELECT FROM sscd_ops.attempts a WHERE a.attempt_id = decisions.attempt_id"
        " AND a.read_again IS NOT NULL) ORDER BY turn DESC LIMIT :n",
        d=dataset_id,
        t=turn,
        n=limit,
    )
    by_source: dict[int, dict[str, Counts]] = {}
    for r in rows(
        conn,
        "SELECT * FROM sscd_ops.decision_sources WHERE decision_id = ANY(:x)",
        x=[r["decision_id"] for r in found],
    ):
        by_source.setdefault(r["decision_id"], {})[r["source"]] = counts_of(r["counts"])
    return [PastNight(counts_of(r["counts"]), by_source.get(r["decision_id"], {})) for r in found]


def sources_of(conn: Connection, decision_id: int) -> dict[str, Counts]:
    """The counts of a decision by source."""
    return {
        r["source"]: counts_of(r["counts"])
        for r in rows(
            conn, "SELECT * FROM sscd_ops.decision_sources WHERE decision_id = :x", x=decision_id
        )
    }
