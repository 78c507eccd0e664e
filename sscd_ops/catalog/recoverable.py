"""Whether the bytes of what nights removed can be had: what was last seen of source shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from sscd_ops.catalog import shards
from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.placements import PLACED, PlacedSample
from sscd_ops.catalog.sql import row, rows, run, tuples
from sscd_ops.model import SourceShard


@dataclass(frozen=True, slots=True)
class Recoverable:
    """Of how many samples that nights removed the bytes are where, as last seen.

    ``archive``, ``source``, ``gone``: numbers of samples; what is in both counts as ``archive``.
    ``since``: of what is not in the archive, when the longest unseen source shard was looked at.
    """

    archive: int
    source: int
    gone: int
    since: datetime | None

    @property
    def total(self) -> int:
        """All that nights removed."""
        return self.archive + self.source + self.gone


def count_removed(conn: Connection, decision_id: int) -> None:
    """Note at each source shard of a night how many samples of it the night removed."""
    run(
        conn,
        "WITH counted AS (SELECT s.shard_id, count(*) AS n FROM sscd_ops.decisions x"
        " JOIN sscd_ops.samples s ON s.month = x.month AND s.decision_id = x.decision_id"
        " WHERE x.decision_id = :x AND s.verdict = 'removed' GROUP BY s.shard_id),"
        " mine AS (SELECT sh.shard_id FROM sscd_ops.source_shards sh JOIN counted USING (shard_id)"
        " ORDER BY sh.shard_id FOR UPDATE OF sh)"
        " UPDATE sscd_ops.source_shards sh SET removed = counted.n FROM counted JOIN mine"
        " USING (shard_id) WHERE sh.shard_id = counted.shard_id"
        " AND sh.removed IS DISTINCT FROM counted.n",
        x=decision_id,
    )


def longest_unseen(
    conn: Connection, dataset_id: int, most: int, without: Sequence[str]
) -> list[tuple[int, SourceShard]]:
    """Source shards of which samples were removed, each with its batch, the longest unseen first.

    Args:
        conn: an open transaction.
        dataset_id: whose.
        most: so many at most.
        without: sources to pass over.
    """
    found = tuples(
        conn,
        "SELECT s.shard_id FROM sscd_ops.source_shards s"
        " JOIN sscd_ops.attempts a USING (attempt_id) JOIN sscd_ops.batches b"
        " ON b.batch_id = a.batch_id WHERE s.removed > 0 AND b.dataset_id = :d"
        " AND s.source <> ALL(CAST(:w AS text[])) ORDER BY s.seen_at, s.shard_id LIMIT :n",
        d=dataset_id,
        w=list(without),
        n=most,
    )
    numbers = [number for (number,) in found]
    by_number = shards.of_numbers(conn, numbers)
    return [by_number[number] for number in numbers]


def one_removed(conn: Connection, shard_id: int) -> PlacedSample | None:
    """The first sample of a source shard that its night removed; None where it was detached."""
    decided = row(
        conn,
        "SELECT x.decision_id, x.month FROM sscd_ops.source_shards s"
        " JOIN sscd_ops.attempts a USING (attempt_id) JOIN sscd_ops.batches b"
        " ON b.batch_id = a.batch_id JOIN sscd_ops.decisions x ON x.decision_id = b.decision_id"
        " WHERE s.shard_id = :s",
        s=shard_id,
    )
    if decided is None or decided["month"] not in months(conn):
        return None
    found = list(
        tuples(
            conn,
            f"SELECT {PLACED} FROM sscd_ops.samples s"
            " JOIN sscd_ops.source_shards sh USING (shard_id) WHERE s.month = :m"
            " AND s.decision_id = :x AND s.shard_id = :s AND s.verdict = 'removed'"
            " ORDER BY s.position LIMIT 1",
            m=decided["month"],
            x=decided["decision_id"],
            s=shard_id,
        )
    )
    return PlacedSample(bytes(found[0][0]), *found[0][1:]) if found else None


def note_seen(conn: Connection, *, there: Sequence[int], gone: Sequence[int]) -> None:
    """Note which source shards were there when somebody looked, and which were not.

    One that another transaction notes meanwhile is left to that.
    """
    run(
        conn,
        "WITH mine AS (SELECT shard_id FROM sscd_ops.source_shards"
        " WHERE shard_id = ANY(CAST(:t AS bigint[]) || CAST(:g AS bigint[]))"
        " ORDER BY shard_id FOR UPDATE SKIP LOCKED)"
        " UPDATE sscd_ops.source_shards s SET seen_at = now(), gone_at ="
        " CASE WHEN s.shard_id = ANY(CAST(:g AS bigint[])) THEN coalesce(s.gone_at, now()) END"
        " FROM mine WHERE s.shard_id = mine.shard_id",
        t=list(there),
        g=list(gone),
    )


def recoverable(conn: Connection, dataset_id: int) -> Recoverable:
    """What can be had of all that the nights of a dataset removed: a sum over source shards.

    As nights removed it, whatever was decided since. What was taken out of an archive counts as
    gone.
    """
    (found,) = rows(
        conn,
        "WITH nights AS (SELECT b.decision_id, b.attempt_id, (SELECT sum(a.samples)"
        "  FROM sscd_ops.archived_shards a WHERE a.decision_id = b.decision_id"
        "  AND a.files IS NOT NULL) AS archived FROM sscd_ops.batches b"
        "  WHERE b.dataset_id = :d AND b.decision_id IS NOT NULL),"
        " each AS (SELECT n.decision_id, coalesce(n.archived, 0) AS archived,"
        "  coalesce(sum(s.removed) FILTER (WHERE s.gone_at IS NULL), 0) AS there,"
        "  coalesce(sum(s.removed) FILTER (WHERE s.gone_at IS NOT NULL), 0) AS gone,"
        "  min(s.seen_at) FILTER (WHERE n.archived IS NULL) AS since"
        "  FROM nights n JOIN sscd_ops.source_shards s USING (attempt_id) WHERE s.removed > 0"
        "  GROUP BY n.decision_id, n.archived)"
        " SELECT coalesce(sum(archived), 0) AS archive,"
        " coalesce(sum(there) FILTER (WHERE archived = 0), 0) AS source,"
        " coalesce(sum(CASE WHEN archived = 0 THEN gone ELSE there + gone - archived END), 0)"
        " AS gone, min(since) AS since FROM each",
        d=dataset_id,
    )
    return Recoverable(
        int(found["archive"]), int(found["source"]), int(found["gone"]), found["since"]
    )
