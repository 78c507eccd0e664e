"""Decisions: the rows of a try at deciding a batch, and the few rows that put one in force."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.batches import Dataset
from sscd_ops.catalog.sql import file_json, file_of, files_json, files_of, rows, run, value
from sscd_ops.errors import InvariantError
from sscd_ops.model import Batch, Counts, Segment, StoredFile

_AT_ONCE = 10_000
"""So many digests travel as one bound array."""


@dataclass(frozen=True, slots=True)
class PastBatch:
    """The counts of an earlier decision, for the guard."""

    counts: Counts
    sources: dict[str, Counts]


def counts_of(raw: Mapping[str, Any]) -> Counts:
    """Counts from their jsonb form."""
    return Counts(**{k: v for k, v in raw.items() if k in Counts.__dataclass_fields__})


def live_segments(conn: Connection, dataset_id: int, generation: int) -> list[Segment]:
    """The segments of a generation in turn order, each with its kept mask then."""
    found = rows(
        conn,
        "SELECT s.*, m.mask FROM sscd_ops.segments s"
        " JOIN sscd_ops.segment_masks m USING (segment_id)"
        " JOIN sscd_ops.batches b USING (batch_id)"
        " WHERE s.dataset_id = :d AND m.generation_from <= :g"
        " AND (m.generation_to IS NULL OR m.generation_to > :g) ORDER BY b.turn, s.segment_id",
        d=dataset_id,
        g=generation,
    )
    return [
        Segment(
            r["segment_id"],
            ordinal,
            r["rows"],
            r["dimensions"],
            r["fingerprint"],
            files_of(r["files"]),
            file_of(r["mask"]),
        )
        for ordinal, r in enumerate(found)
    ]


def history_rows(conn: Connection, dataset_id: int, generation: int) -> int:
    """Kept rows in a generation: what `auto` chooses the backend by."""
    return int(
        value(
            conn,
            "SELECT coalesce(sum(m.kept), 0) FROM sscd_ops.segments s"
            " JOIN sscd_ops.segment_masks m USING (segment_id) WHERE s.dataset_id = :d"
            " AND m.generation_from <= :g AND (m.generation_to IS NULL OR m.generation_to > :g)",
            d=dataset_id,
            g=generation,
        )
    )


def open_decision(conn: Connection, batch: Batch, month: date) -> int:
    """Open a try at deciding the batch; its rows lie in the partition of ``month``."""
    return int(
        value(
            conn,
            "INSERT INTO sscd_ops.decisions (batch_id, attempt_id, month)"
            " VALUES (:b, :a, :m) RETURNING decision_id",
            b=batch.batch_id,
            a=batch.attempt_id,
            m=month,
        )
    )


def give_up(conn: Connection, batch: Batch) -> None:
    """Mark every decision of this batch that is not in force as lost: it never comes into force.

    The caller holds the dataset's lock and commits before the rows are deleted, so that a process
    thought dead finds out under the lock that its rows are gone, or going.
    """
    run(
        conn,
        "UPDATE sscd_ops.decisions d SET lost = true FROM sscd_ops.batches b"
        " WHERE d.batch_id = :b AND b.batch_id = :b"
        " AND d.decision_id IS DISTINCT FROM b.decision_id",
        b=batch.batch_id,
    )


def has_others(conn: Connection, batch_id: int) -> bool:
    """Whether the batch has decisions that are not in force: of tries that died, or are at work."""
    found = value(
        conn,
        "SELECT EXISTS (SELECT FROM sscd_ops.decisions d JOIN sscd_ops.batches b USING (batch_id)"
        " WHERE b.batch_id = :b AND d.decision_id IS DISTINCT FROM b.decision_id)",
        b=batch_id,
    )
    return bool(found)


def is_lost(conn: Connection, decision_id: int) -> bool:
    """Whether a decision was given up by another process. The caller holds the dataset's lock."""
    stands = "SELECT 1 FROM sscd_ops.decisions WHERE decision_id = :x AND NOT lost"
    return value(conn, stands, x=decision_id) is None


def delete_lost(conn: Connection, batch: Batch) -> None:
    """Delete the rows of this batch's decisions that were given up."""
    lost = rows(
        conn,
        "SELECT decision_id, month FROM sscd_ops.decisions WHERE batch_id = :b AND lost",
        b=batch.batch_id,
    )
    for decision in lost:
        key = {"x": decision["decision_id"], "m": decision["month"]}
        run(conn, "DELETE FROM sscd_ops.images WHERE decision_id = :x", x=key["x"])
        for table in ("samples", "matches"):
            run(conn, f"DELETE FROM sscd_ops.{table} WHERE month = :m AND decision_id = :x", **key)
        for table in ("batch_sources", "output_shards", "decisions"):
            run(conn, f"DELETE FROM sscd_ops.{table} WHERE decision_id = :x", x=key["x"])


def add_sources(conn: Connection, decision_id: int, by_source: Mapping[str, Counts]) -> None:
    """One row of counts for each source of the batch."""
    for source, counts in sorted(by_source.items()):
        run(
            conn,
            "INSERT INTO sscd_ops.batch_sources (decision_id, source, counts)"
            " VALUES (:x, :s, CAST(:c AS jsonb))",
            x=decision_id,
            s=source,
            c=json.dumps(counts.plain()),
        )


def recent_decisions(conn: Connection, dataset_id: int, turn: int, limit: int) -> list[PastBatch]:
    """The batches of the highest turns below ``turn``, newest first."""
    found = rows(
        conn,
        "SELECT counts, decision_id FROM sscd_ops.batches"
        " WHERE dataset_id = :d AND turn < :t ORDER BY turn DESC LIMIT :n",
        d=dataset_id,
        t=turn,
        n=limit,
    )
    by_source: dict[int, dict[str, Counts]] = {}
    for r in rows(
        conn,
        "SELECT * FROM sscd_ops.batch_sources WHERE decision_id = ANY(:x)",
        x=[r["decision_id"] for r in found],
    ):
        by_source.setdefault(r["decision_id"], {})[r["source"]] = counts_of(r["counts"])
    return [PastBatch(counts_of(r["counts"]), by_source.get(r["decision_id"], {})) for r in found]


def add_segment(
    conn: Connection,
    batch: Batch,
    *,
    row_count: int,
    dimensions: int,
    fingerprint: str,
    files: Mapping[str, StoredFile],
) -> int:
    """Name a segment's files."""
    return int(
        value(
            conn,
            "INSERT INTO sscd_ops.segments (dataset_id, batch_id, attempt_id, rows, dimensions,"
            " fingerprint, files) VALUES (:d, :b, :a, :r, :n, :f, CAST(:x AS jsonb))"
            " RETURNING segment_id",
            d=batch.dataset_id,
            b=batch.batch_id,
            a=batch.attempt_id,
            r=row_count,
            n=dimensions,
            f=fingerprint,
            x=files_json(files),
        )
    )


def add_mask(
    conn: Connection, segment_id: int, generation: int, mask: StoredFile, kept: int
) -> None:
    """Make a segment part of a generation and the later ones, with this kept mask."""
    run(
        conn,
        "INSERT INTO sscd_ops.segment_masks (segment_id, generation_from, mask, kept)"
        " VALUES (:s, :g, CAST(:m AS jsonb), :k)",
        s=segment_id,
        g=generation,
        m=file_json(mask),
        k=kept,
    )


def replace_segment_files(
    conn: Connection, segment_id: int, files: Mapping[str, StoredFile]
) -> None:
    """Name other files for a segment: after `index rebuild`, with equal descriptors."""
    run(
        conn,
        "UPDATE sscd_ops.segments SET files = CAST(:f AS jsonb) WHERE segment_id = :s",
        f=files_json(files),
        s=segment_id,
    )


def add_segment_files(conn: Connection, segment_id: int, files: Mapping[str, StoredFile]) -> None:
    """Name further files of a segment; those of others stay."""
    run(
        conn,
        "UPDATE sscd_ops.segments SET files = files || CAST(:f AS jsonb) WHERE segment_id = :s",
        f=files_json(files),
        s=segment_id,
    )


def put_in_force(
    conn: Connection,
    batch: Batch,
    dataset: Dataset,
    decision_id: int,
    *,
    counts: Counts,
    plan: str,
    fingerprint: str,
    fingerprint_detail: Mapping[str, Any],
    generation: int,
) -> None:
    """Give the batch its turn. The caller holds the lock and has checked turn and generation.

    Raises:
        InvariantError: the batch has a decision in force, or another attempt.
    """
    turn = dataset.next_turn
    changed = run(
        conn,
        "UPDATE sscd_ops.batches SET state = 'decided', turn = :t, last_change = :t,"
        " decision_id = :x, month = (SELECT month FROM sscd_ops.decisions WHERE decision_id = :x),"
        " counts = CAST(:c AS jsonb), plan = :p, decided_at = now(),"
        " message = '' WHERE batch_id = :b AND decision_id IS NULL AND attempt_id = :a",
        t=turn,
        x=decision_id,
        c=json.dumps(counts.plain()),
        p=plan,
        b=batch.batch_id,
        a=batch.attempt_id,
    )
    if changed != 1:
        raise InvariantError(
            f"batch {batch.batch_id} was decided or planned anew while it was being decided;"
            " nothing was written: run its night again"
        )
    run(
        conn,
        "UPDATE sscd_ops.datasets SET next_turn = :t + 1, generation = :g,"
        " fingerprint = coalesce(fingerprint, :f),"
        " fingerprint_detail = coalesce(fingerprint_detail, CAST(:fd AS jsonb))"
        " WHERE dataset_id = :d",
        t=turn,
        g=generation,
        f=fingerprint,
        fd=json.dumps(dict(fingerprint_detail)),
        d=batch.dataset_id,
    )
    if generation != dataset.generation:
        run(
            conn,
            "INSERT INTO sscd_ops.generations (dataset_id, generation, turn) VALUES (:d, :g, :t)",
            d=batch.dataset_id,
            g=generation,
            t=turn,
        )
    run(
        conn,
        "UPDATE sscd_ops.configs c SET turn = :t FROM sscd_ops.attempts a"
        " WHERE a.attempt_id = :a AND c.dataset_id = :d AND c.config_sha256 = a.config_sha256"
        " AND c.turn IS NULL",
        t=turn,
        a=batch.attempt_id,
        d=batch.dataset_id,
    )


def hold(conn: Connection, batch: Batch, message: str) -> None:
    """Store that the guard holds the batch, and why."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = 'held', message = :m WHERE batch_id = :b"
        " AND decision_id IS NULL",
        m=message,
        b=batch.batch_id,
    )


def batch_row(conn: Connection, batch_id: int) -> Mapping[str, Any]:
    """Every column of a batch's row."""
    return rows(conn, "SELECT * FROM sscd_ops.batches WHERE batch_id = :b", b=batch_id)[0]


def batch_sources(conn: Connection, decision_id: int) -> dict[str, Counts]:
    """The counts of a decision by source."""
    return {
        r["source"]: counts_of(r["counts"])
        for r in rows(
            conn, "SELECT * FROM sscd_ops.batch_sources WHERE decision_id = :x", x=decision_id
        )
    }


def all_segments(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """Every segment with its newest mask, for `index info`."""
    return rows(
        conn,
        "SELECT s.*, b.turn, b.night, m.mask, m.kept, m.generation_from, m.generation_to"
        " FROM sscd_ops.segments s JOIN sscd_ops.batches b USING (batch_id)"
        " LEFT JOIN sscd_ops.segment_masks m ON m.segment_id = s.segment_id"
        " AND m.generation_to IS NULL WHERE s.dataset_id = :d ORDER BY b.turn, s.segment_id",
        d=dataset_id,
    )


def decision_of_segment(conn: Connection, segment_id: int) -> tuple[int, int]:
    """The batch of a segment and its decision in force."""
    found = rows(
        conn,
        "SELECT b.batch_id, b.decision_id FROM sscd_ops.segments s"
        " JOIN sscd_ops.batches b USING (batch_id) WHERE s.segment_id = :s",
        s=segment_id,
    )[0]
    return found["batch_id"], found["decision_id"]


def kept_segment_rows(
    conn: Connection, dataset_id: int, decision_id: int, digests: Sequence[bytes]
) -> list[int]:
    """The segment rows of a decision's kept images.

    From ``images`` alone, which outlives the months of ``samples``: the segment's own list of
    image digests says which to look up.
    """
    found: list[int] = []
    for start in range(0, len(digests), _AT_ONCE):
        found += (
            r["segment_row"]
            for r in rows(
                conn,
                "SELECT i.segment_row FROM unnest(CAST(:shas AS bytea[])) AS q(sha256)"
                " JOIN sscd_ops.images i ON i.dataset_id = :d AND i.sha256 = q.sha256"
                " AND i.decision_id = :x WHERE i.verdict = 'kept'",
                shas=list(digests[start : start + _AT_ONCE]),
                d=dataset_id,
                x=decision_id,
            )
        )
    return found
