"""Quarantined samples of a night, which a supplement to it reads again."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.sql import tuples, value
from sscd_ops.model import Fault, Interval, Quarantined

STANDS = (
    "NOT EXISTS (SELECT FROM sscd_ops.read_again_now r WHERE r.of_decision = s.decision_id"
    " AND r.shard_id = s.shard_id AND r.position = s.position)"
)
"""Of a row ``s`` of ``samples`` or ``detached_samples``: what it says was not read again since."""
_IN_FORCE = (
    " AND {0}.turn <= :t AND ({0}.turn_to IS NULL OR {0}.turn_to > :t)"
    " AND EXISTS (SELECT FROM sscd_ops.decisions e WHERE e.decision_id = {0}.decision_id"
    " AND e.turn = {0}.turn)"
)
_QUARANTINED = (
    "WITH nights AS MATERIALIZED (SELECT x.decision_id, x.month, x.turn"
    " FROM sscd_ops.batches b JOIN sscd_ops.decisions x ON x.batch_id = b.batch_id"
    " WHERE b.dataset_id = :d AND b.interval_start = :start AND b.interval_end = :end"
    " AND NOT b.dry_run AND x.turn <= :t),"
    " said AS (SELECT s.decision_id, s.shard_id, s.position, s.sample_id, s.key,"
    " own.turn IS NOT NULL AS has_own,"
    " CASE WHEN own.turn IS NOT NULL THEN own.verdict WHEN img.turn IS NOT NULL THEN img.verdict"
    " ELSE s.verdict END AS verdict,"
    " CASE WHEN own.turn IS NOT NULL THEN own.reason WHEN img.turn IS NOT NULL THEN img.reason"
    " ELSE s.reason END AS code"
    " FROM nights x JOIN sscd_ops.samples s ON s.decision_id = x.decision_id AND s.month = x.month"
    " LEFT JOIN sscd_ops.changes own ON own.dataset_id = :d AND own.sample_id = s.sample_id"
    f" AND own.verdict <> 'follows'{_IN_FORCE.format('own')}"
    " LEFT JOIN sscd_ops.changes img ON img.dataset_id = :d AND img.image_sha256 = s.image_sha256"
    f" AND img.turn > x.turn AND s.own_fault IS NULL{_IN_FORCE.format('img')}"
    " WHERE NOT EXISTS (SELECT FROM sscd_ops.read_again_now r WHERE r.of_decision = s.decision_id"
    " AND r.shard_id = s.shard_id AND r.position = s.position AND r.turn <= :t))"
    " SELECT s.decision_id, s.shard_id, s.position, uuid_send(s.sample_id), s.key, h.source,"
    " h.relative_uri, s.code, s.has_own FROM said s JOIN sscd_ops.source_shards h USING (shard_id)"
    " WHERE s.verdict = 'quarantined' AND s.code <> :never"
    " ORDER BY s.decision_id, s.shard_id, s.position"
)


def quarantined(
    conn: Connection, dataset_id: int, interval: Interval, turn: int
) -> list[Quarantined]:
    """What the batches of an interval quarantined, or later turns of what they read, as of a turn.

    Of months that are attached. Without what only a person keeps again (``near_withdrawn``).
    """
    found = tuples(
        conn,
        _QUARANTINED,
        d=dataset_id,
        start=interval.start,
        end=interval.end,
        t=turn,
        never=str(Fault.NEAR_WITHDRAWN),
    )
    return [
        Quarantined(decision_id, shard_id, position, number and bytes(number), *others)
        for decision_id, shard_id, position, number, *others in found
    ]


def has_detached(conn: Connection, dataset_id: int, interval: Interval) -> bool:
    """Whether samples of an interval's batches have their rows in months that were detached."""
    found = value(
        conn,
        "SELECT EXISTS (SELECT FROM sscd_ops.batches b JOIN sscd_ops.decisions x"
        " ON x.decision_id = b.decision_id WHERE b.dataset_id = :d AND b.interval_start = :start"
        " AND b.interval_end = :end AND NOT b.dry_run AND x.month <> ALL(CAST(:m AS date[]))"
        " AND CAST(x.counts ->> 'read' AS bigint) > 0)",
        d=dataset_id,
        start=interval.start,
        end=interval.end,
        m=months(conn),
    )
    return bool(found)


def now_called(conn: Connection, sample_id: UUID) -> UUID | None:
    """What a sample without a row is since it was read again, with another image or caption."""
    renamed = (
        "SELECT again_id FROM sscd_ops.read_again_now WHERE sample_id = :s AND again_id <> :s"
        " ORDER BY turn DESC LIMIT 1"
    )
    return cast("UUID | None", value(conn, renamed, s=sample_id))


def called_before(conn: Connection, samples: Collection[UUID]) -> set[UUID]:
    """What some samples were before they were read again, with another image or caption."""
    found = tuples(
        conn,
        "WITH RECURSIVE earlier AS (SELECT sample_id FROM sscd_ops.read_again_now"
        " WHERE again_id = ANY(:s) AND sample_id <> again_id UNION"
        " SELECT r.sample_id FROM earlier e JOIN sscd_ops.read_again_now r"
        " ON r.again_id = e.sample_id AND r.sample_id <> r.again_id) SELECT sample_id FROM earlier",
        s=list(samples),
    )
    return {sample_id for (sample_id,) in found}
