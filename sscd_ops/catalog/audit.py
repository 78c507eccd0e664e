"""What people ask the public views. Every value is bound; view and column names are ours.

Rows stay mappings here: commands print them, and nothing else reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import row, rows

AUDITS: dict[str, tuple[str, ...]] = {
    "runs": (
        "dataset", "batch_id", "night", "supplement", "state", "read", "quarantined",
        "removed_exact", "removed_near", "removed_perceptual", "kept", "known", "shards",
        "snapshot", "message",
    ),
    "removed": (
        "dataset", "batch_id", "source_shard", "key", "reason", "similarity",
        "witness_source_shard", "witness_key", "witness_shard", "sample_id",
    ),
    "kept": (
        "dataset", "batch_id", "source_shard", "key", "width", "height", "caption", "shard",
        "sample_id",
    ),
    "quarantined": (
        "dataset", "batch_id", "source_shard", "key", "reason", "message", "sample_id",
    ),
    "events": (
        "event_id", "at", "dataset", "turn", "kind", "actor", "why", "batch_id", "details",
    ),
}  # fmt: skip
"""View -> the columns that a table on a terminal shows of it."""

Day = tuple[datetime, datetime]
"""The half-open span in which a night's interval starts."""


def audit(
    conn: Connection,
    what: str,
    *,
    dataset: str | None = None,
    day: Day | None = None,
    limit: int = 100,
) -> list[Mapping[str, Any]]:
    """Rows of a public view with all their columns, the newest nights first.

    Samples are asked for night by night, so that a limit answers soon however long the history is.

    Args:
        conn: an open transaction.
        what: a key of ``AUDITS``.
        dataset: only this one.
        day: only batches whose interval starts then, and the events of those batches.
        limit: rows at most.

    Raises:
        KeyError: there is no such audit.
    """
    if what not in AUDITS:
        raise KeyError(what)
    if what == "runs":
        return _runs(conn, "*", dataset, day, limit)
    if what == "events":
        return _events(conn, dataset, day, limit)
    found: list[Mapping[str, Any]] = []
    for run in _runs(conn, "batch_id, turn", dataset, day, None):
        if run["turn"] is not None and len(found) < limit:
            found += rows(
                conn,
                f"SELECT * FROM curation.{what} WHERE batch_id = :b"
                " ORDER BY source, source_shard, key, sample_id LIMIT :n",
                b=run["batch_id"],
                n=limit - len(found),
            )
    return found


def _runs(
    conn: Connection, columns: str, dataset: str | None, day: Day | None, limit: int | None
) -> list[Mapping[str, Any]]:
    start, end = day or (None, None)
    return rows(
        conn,
        f"SELECT {columns} FROM curation.runs"
        " WHERE (CAST(:d AS text) IS NULL OR dataset = :d)"
        " AND (CAST(:s AS timestamptz) IS NULL OR interval_start >= :s AND interval_start < :e)"
        " ORDER BY interval_start DESC, supplement DESC, batch_id DESC LIMIT :n",
        d=dataset,
        s=start,
        e=end,
        n=limit,
    )


def _events(
    conn: Connection, dataset: str | None, day: Day | None, limit: int
) -> list[Mapping[str, Any]]:
    night = ""
    start, end = day or (None, None)
    if day is not None:
        night = (
            " AND batch_id IN (SELECT batch_id FROM curation.runs"
            " WHERE interval_start >= :s AND interval_start < :e)"
        )
    return rows(
        conn,
        "SELECT * FROM curation.events WHERE (CAST(:d AS text) IS NULL OR dataset = :d)"
        f"{night} ORDER BY event_id DESC LIMIT :n",
        d=dataset,
        s=start,
        e=end,
        n=limit,
    )


def samples_at(
    conn: Connection, source_shard: str, key: str, dataset: str | None = None
) -> list[UUID]:
    """The sample ids of a key in a source shard, newest first."""
    found = rows(
        conn,
        "SELECT sample_id FROM curation.samples WHERE source_shard = :u AND key = :k"
        " AND (CAST(:d AS text) IS NULL OR dataset = :d) ORDER BY turn DESC, batch_id DESC",
        u=source_shard,
        k=key,
        d=dataset,
    )
    return [item["sample_id"] for item in found]


_EXPLAINED = {
    "removed": "witness_source, witness_source_shard, witness_key, witness_caption,"
    " witness_batch_id, witness_dataset, witness_shard, recoverable",
    "kept": "shard, shard_key",
    "quarantined": "message",
}
"""What the view of a verdict says beside ``samples``."""


def explain(conn: Connection, sample_id: UUID) -> Mapping[str, Any] | None:
    """Everything about one sample, its run and its witness."""
    sample = row(
        conn,
        "SELECT s.*, u.night, u.interval_start, u.interval_end, u.threshold AS run_threshold,"
        " u.perceptual_distance, u.fingerprint, u.search"
        " FROM curation.samples s JOIN curation.runs u ON u.batch_id = s.batch_id"
        " WHERE s.sample_id = :s",
        s=sample_id,
    )
    if sample is None:
        return None
    columns = [name for names in _EXPLAINED.values() for name in names.split(", ")]
    # a view at a time: planning one takes longer than reading a sample from it
    verdict, more = sample["verdict"], None
    if verdict in _EXPLAINED:
        more = row(
            conn,
            f"SELECT {_EXPLAINED[verdict]} FROM curation.{verdict} WHERE sample_id = :s"
            " AND dataset = :d",
            s=sample_id,
            d=sample["dataset"],
        )
    return {**dict.fromkeys(columns), **sample, **(more or {})}


def nearest_matches(
    conn: Connection, sample_id: UUID, limit: int, *, by_hash: bool = False
) -> list[Mapping[str, Any]]:
    """The stored matches of a sample's image: kept images at or above the floor, nearest first.

    Those by descriptor (``distance`` is null), or those by perceptual hash.
    """
    return rows(
        conn,
        "SELECT m.similarity, m.distance, w.sample_id, w.source_shard, w.key, w.caption, w.verdict"
        " FROM curation.samples s"
        " JOIN sscd_ops.batches b ON b.batch_id = s.batch_id"
        " JOIN sscd_ops.decisions d ON d.decision_id = b.decision_id"
        " JOIN sscd_ops.matches m ON m.month = d.month AND m.decision_id = d.decision_id"
        " AND m.image_sha256 = s.image_sha256"
        " JOIN curation.samples w ON w.image_sha256 = m.earlier_sha256 AND w.verdict = 'kept'"
        " AND w.dataset = s.dataset"
        " WHERE s.sample_id = :s AND (m.distance IS NOT NULL) = :h"
        " ORDER BY m.similarity DESC LIMIT :n",
        s=sample_id,
        h=by_hash,
        n=limit,
    )


def nearest_kept_pairs(conn: Connection, dataset: str, limit: int) -> list[Mapping[str, Any]]:
    """The pairs of images most similar by descriptor that were both kept."""
    return rows(
        conn,
        "SELECT m.similarity, s.sample_id, w.sample_id AS other_id, s.key, w.key AS other_key"
        " FROM sscd_ops.matches m"
        " JOIN sscd_ops.decisions b ON b.decision_id = m.decision_id AND b.turn IS NOT NULL"
        " JOIN sscd_ops.datasets d ON d.dataset_id = b.dataset_id"
        " JOIN curation.samples s ON s.image_sha256 = m.image_sha256 AND s.verdict = 'kept'"
        " AND s.dataset = d.name"
        " JOIN curation.samples w ON w.image_sha256 = m.earlier_sha256 AND w.verdict = 'kept'"
        " AND w.dataset = d.name"
        " WHERE d.name = :d AND m.distance IS NULL"
        " ORDER BY m.similarity DESC, s.sample_id LIMIT :n",
        d=dataset,
        n=limit,
    )


def batch_list(conn: Connection, dataset: str | None, limit: int) -> list[Mapping[str, Any]]:
    """The newest batches."""
    return rows(
        conn,
        "SELECT batch_id, dataset, night, supplement, state, turn, kept, snapshot, runner,"
        " run_id, message FROM curation.runs WHERE (CAST(:d AS text) IS NULL OR dataset = :d)"
        " ORDER BY batch_id DESC LIMIT :n",
        d=dataset,
        n=limit,
    )


def batch_show(conn: Connection, batch_id: int) -> Mapping[str, Any] | None:
    """Everything `runs` says about a batch."""
    return row(conn, "SELECT * FROM curation.runs WHERE batch_id = :b", b=batch_id)


def batch_ignored(conn: Connection, batch_id: int) -> Mapping[str, int]:
    """What ingest left out as no sample: kind of entry (``link``, ``device`` ...) -> how many."""
    found = rows(
        conn,
        "SELECT e.key AS kind, sum(CAST(e.value AS bigint)) AS entries"
        " FROM sscd_ops.batches b JOIN sscd_ops.source_shards s USING (attempt_id)"
        " CROSS JOIN jsonb_each_text(s.counts -> 'ignored_entries') e"
        " WHERE b.batch_id = :b GROUP BY 1 ORDER BY 1",
        b=batch_id,
    )
    return {item["kind"]: int(item["entries"]) for item in found}


def batch_sources(conn: Connection, batch_id: int) -> list[Mapping[str, Any]]:
    """The batch's counts by source."""
    return rows(
        conn, "SELECT * FROM curation.run_sources WHERE batch_id = :b ORDER BY source", b=batch_id
    )


def snapshots(conn: Connection, dataset: str | None, limit: int) -> list[Mapping[str, Any]]:
    """The newest snapshots."""
    return rows(
        conn,
        "SELECT * FROM curation.snapshots WHERE (CAST(:d AS text) IS NULL OR dataset = :d)"
        " ORDER BY dataset, snapshot DESC LIMIT :n",
        d=dataset,
        n=limit,
    )


def snapshot(conn: Connection, dataset: str, number: int | None) -> Mapping[str, Any] | None:
    """One snapshot of a dataset; the newest where no number is given."""
    return row(
        conn,
        "SELECT * FROM curation.snapshots WHERE dataset = :d"
        " AND (CAST(:s AS numeric) IS NULL OR snapshot = :s) ORDER BY snapshot DESC LIMIT 1",
        d=dataset,
        s=number,
    )


def snapshot_shards(conn: Connection, dataset: str, snapshot: int) -> list[Mapping[str, Any]]:
    """The shards of a snapshot."""
    return rows(
        conn,
        "SELECT shard, form, samples, bytes, sha256, batch_id FROM curation.shards"
        " WHERE dataset = :d AND snapshot_from <= :s AND (snapshot_to IS NULL OR snapshot_to > :s)"
        " ORDER BY shard",
        d=dataset,
        s=snapshot,
    )
