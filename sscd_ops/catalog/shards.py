"""Source shards of an attempt: who owns them, and the files written for each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.engine import Connection

from sscd_ops.catalog.naming import file_json
from sscd_ops.catalog.sql import file_of, row, rows, run, value
from sscd_ops.model import FoundShard, SourceShard, StoredFile

Role = Literal["manifest", "descriptors"]
"""A column with a file that a step writes for each source shard."""


def owners(conn: Connection, dataset_id: int, found: Sequence[FoundShard]) -> dict[FoundShard, int]:
    """Which batch owns each of these, for those that one owns."""
    if not found:
        return {}
    answer = rows(
        conn,
        "SELECT f.i, o.batch_id FROM sscd_ops.shard_owners o JOIN unnest(CAST(:s AS text[]),"
        " CAST(:u AS text[]), CAST(:v AS text[])) WITH ORDINALITY AS f(s, u, v, i)"
        " ON o.source = f.s AND o.relative_uri = f.u AND o.version = f.v WHERE o.dataset_id = :d",
        d=dataset_id,
        s=[shard.source for shard in found],
        u=[shard.relative_uri for shard in found],
        v=[shard.version for shard in found],
    )
    return {found[r["i"] - 1]: r["batch_id"] for r in answer}


def has_read(conn: Connection, dataset_id: int, source: str) -> bool:
    """Whether some batch of the dataset owns a file of this source."""
    read = "SELECT EXISTS (SELECT FROM sscd_ops.shard_owners WHERE dataset_id = :d AND source = :s)"
    return bool(value(conn, read, d=dataset_id, s=source))


def claim(
    conn: Connection,
    dataset_id: int,
    batch_id: int,
    attempt_id: int,
    shards: Sequence[FoundShard],
) -> None:
    """Make the batch the owner of these versions. The caller holds the dataset's lock."""
    # one statement: a round trip for each of many thousand files would hold the lock for minutes
    run(
        conn,
        "INSERT INTO sscd_ops.shard_owners (dataset_id, source, relative_uri, version,"
        " batch_id, attempt_id) SELECT :d, f.s, f.u, f.v, :b, :a"
        " FROM unnest(CAST(:s AS text[]), CAST(:u AS text[]), CAST(:v AS text[])) AS f(s, u, v)"
        " ON CONFLICT (dataset_id, source, relative_uri, version)"
        " DO UPDATE SET batch_id = :b, attempt_id = :a",
        d=dataset_id,
        s=[shard.source for shard in shards],
        u=[shard.relative_uri for shard in shards],
        v=[shard.version for shard in shards],
        b=batch_id,
        a=attempt_id,
    )


def give_back(conn: Connection, batch_id: int) -> None:
    """Let go of every source shard the batch owns: its attempt ends or is replaced."""
    run(conn, "DELETE FROM sscd_ops.shard_owners WHERE batch_id = :b", b=batch_id)


def add_shards(
    conn: Connection, attempt_id: int, placed: Sequence[tuple[FoundShard, int, int]]
) -> None:
    """Register (shard, group, ordinal) rows of an attempt."""
    run(
        conn,
        "INSERT INTO sscd_ops.source_shards (attempt_id, source, relative_uri, uri, version,"
        " size, group_no, ordinal) SELECT :a, f.* FROM unnest(CAST(:s AS text[]),"
        " CAST(:r AS text[]), CAST(:u AS text[]), CAST(:v AS text[]), CAST(:z AS bigint[]),"
        " CAST(:g AS int[]), CAST(:o AS int[])) AS f(s, r, u, v, z, g, o) ORDER BY f.o",
        a=attempt_id,
        s=[shard.source for shard, _, _ in placed],
        r=[shard.relative_uri for shard, _, _ in placed],
        u=[shard.uri for shard, _, _ in placed],
        v=[shard.version for shard, _, _ in placed],
        z=[shard.size for shard, _, _ in placed],
        g=[group for _, group, _ in placed],
        o=[ordinal for _, _, ordinal in placed],
    )


def shards_of(conn: Connection, attempt_id: int, group: int | None = None) -> list[SourceShard]:
    """The attempt's source shards in order, or those of one group."""
    found = rows(
        conn,
        "SELECT * FROM sscd_ops.source_shards WHERE attempt_id = :a"
        " AND (CAST(:g AS int) IS NULL OR group_no = :g) ORDER BY ordinal",
        a=attempt_id,
        g=group,
    )
    return [_shard(r) for r in found]


def of_numbers(conn: Connection, shard_ids: Sequence[int]) -> dict[int, tuple[int, SourceShard]]:
    """Some source shards, by number, each with the batch whose attempt it is of."""
    found = rows(
        conn,
        "SELECT a.batch_id, s.* FROM sscd_ops.source_shards s JOIN sscd_ops.attempts a"
        " USING (attempt_id) WHERE s.shard_id = ANY(:s)",
        s=list(shard_ids),
    )
    return {r["shard_id"]: (r["batch_id"], _shard(r)) for r in found}


def _shard(r: Mapping[str, Any]) -> SourceShard:
    return SourceShard(
        r["shard_id"],
        r["source"],
        r["uri"],
        r["relative_uri"],
        r["size"],
        r["version"],
        r["group_no"],
        r["ordinal"],
        file_of(r["manifest"]),
        file_of(r["descriptors"]),
    )


@dataclass(frozen=True, slots=True)
class ShardCounts:
    """What later steps ask of ingest's and embed's counts of a source shard."""

    not_delivered: int
    embedded: int


def shard_counts(conn: Connection, attempt_id: int) -> dict[int, ShardCounts]:
    """Shard number -> what ingest and embed counted there."""
    counted = "SELECT shard_id, counts FROM sscd_ops.source_shards WHERE attempt_id = :a"
    return {
        r["shard_id"]: ShardCounts(
            r["counts"].get("not_delivered", 0), r["counts"].get("embedded", 0)
        )
        for r in rows(conn, counted, a=attempt_id)
    }


def faulty_shards(conn: Connection, attempt_id: int) -> int:
    """How many source shards of an attempt have a fault of their own: truncated, empty ..."""
    return int(
        value(
            conn,
            "SELECT coalesce(sum(CAST(counts ->> 'faulty_shards' AS int)), 0)"
            " FROM sscd_ops.source_shards WHERE attempt_id = :a",
            a=attempt_id,
        )
    )


def register_file(
    conn: Connection, shard_id: int, role: Role, file: StoredFile, counts: Mapping[str, Any]
) -> None:
    """Name the file that holds a shard's manifest or descriptors; the first registration wins."""
    run(
        conn,
        f"UPDATE sscd_ops.source_shards SET {role} = CAST(:f AS jsonb),"
        f" counts = counts || CAST(:c AS jsonb) WHERE shard_id = :s AND {role} IS NULL",
        f=file_json(conn, file),
        c=json.dumps(dict(counts)),
        s=shard_id,
    )


def forget_file(conn: Connection, shard_id: int, role: Role, file: StoredFile) -> bool:
    """Name a shard's lost manifest or descriptors no longer; whether they were named until now.

    Of an attempt that is not decided, whose files are written anew.
    """
    return (
        run(
            conn,
            f"UPDATE sscd_ops.source_shards s SET {role} = NULL WHERE shard_id = :s"
            f" AND {role} ->> 'sha256' = :x AND NOT EXISTS (SELECT FROM sscd_ops.batches b"
            " WHERE b.attempt_id = s.attempt_id AND b.decision_id IS NOT NULL)",
            s=shard_id,
            x=file.sha256,
        )
        == 1
    )


def replace_descriptors(
    conn: Connection, shard_id: int, lost: StoredFile, file: StoredFile
) -> None:
    """Name the descriptor file that was written anew for a lost one."""
    run(
        conn,
        "UPDATE sscd_ops.source_shards SET descriptors = CAST(:f AS jsonb) WHERE shard_id = :s"
        " AND descriptors ->> 'sha256' = :x",
        f=file_json(conn, file),
        s=shard_id,
        x=lost.sha256,
    )


def all_registered(conn: Connection, attempt_id: int, role: Role) -> bool:
    """Whether every shard of the attempt has this file."""
    left = f"SELECT 1 FROM sscd_ops.source_shards WHERE attempt_id = :a AND {role} IS NULL LIMIT 1"
    return value(conn, left, a=attempt_id) is None


def lost_shards(conn: Connection, dataset_id: int, batch_id: int, attempt_id: int) -> int:
    """How many shards of the attempt another batch owns by now; one that reads again owns none."""
    return int(
        value(
            conn,
            "SELECT count(*) FROM sscd_ops.source_shards s WHERE s.attempt_id = :a AND NOT EXISTS"
            " (SELECT 1 FROM sscd_ops.shard_owners o WHERE o.dataset_id = :d"
            " AND o.source = s.source AND o.relative_uri = s.relative_uri"
            " AND o.version = s.version AND o.batch_id = :b)"
            " AND (SELECT a.read_again FROM sscd_ops.attempts a WHERE a.attempt_id = :a) IS NULL",
            a=attempt_id,
            d=dataset_id,
            b=batch_id,
        )
    )


def read_shard(conn: Connection, shard_id: int) -> SourceShard | None:
    """One source shard by number, or None."""
    raw = row(conn, "SELECT attempt_id FROM sscd_ops.source_shards WHERE shard_id = :s", s=shard_id)
    if raw is None:
        return None
    return next(s for s in shards_of(conn, raw["attempt_id"]) if s.shard_id == shard_id)


def files_digest(conn: Connection, attempt_id: int) -> str:
    """What names the list of an attempt's files: it changes when one is appended or written."""
    return str(
        value(
            conn,
            "SELECT coalesce(string_agg(concat_ws(':', shard_id, manifest ->> 'sha256',"
            " descriptors ->> 'sha256'), ',' ORDER BY ordinal), '')"
            " FROM sscd_ops.source_shards WHERE attempt_id = :a",
            a=attempt_id,
        )
    )
