"""What history says about images and samples, many at a time or one."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from sys import intern
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.engine import Connection

from sscd_ops.catalog.output_shards import is_listed
from sscd_ops.catalog.sql import files_of, rows, run, tuples, value
from sscd_ops.model import KnownImages, StoredFile

_FEW = 2000
"""Up to so many digests travel as a bound array; more go by COPY into a temporary table."""
_AT_ONCE = 10_000
"""Rows that are Python objects at once, on their way into columns."""


def _first_or(column: str) -> str:
    return f"CASE WHEN c.turn IS NULL THEN im.{column} ELSE c.{column} END"


# What the image's own decision said, and the change in force at the turn, if any: one row an image;
# in the order of ``KnownImages``.
_KNOWN = (
    ", ".join(map(_first_or, ("verdict", "reason", "message")))
    + ", uuid_send(coalesce(c.carrier_id, im.sample_id)),"
    f" coalesce(c.carrier_decision, im.decision_id), {_first_or('witness_sha256')},"
    f" {_first_or('witness_sha256')} IS NOT NULL,"
    " CASE WHEN c.turn IS NULL THEN uuid_send(im.witness_id) END,"
    " CASE WHEN c.turn IS NULL THEN im.witness_decision END,"
    f" {_first_or('similarity')}, {_first_or('threshold')},"
    " coalesce(later.decision_id, im.decision_id), coalesce(later.segment_row, im.segment_row),"
    " coalesce(c.turn, b.turn)"
)
_IMAGES = (
    " JOIN sscd_ops.images im ON im.dataset_id = :d AND im.sha256 = q.sha256"
    " JOIN sscd_ops.decisions b ON b.decision_id = im.decision_id AND b.turn <= :t"
    " LEFT JOIN (sscd_ops.changes c JOIN sscd_ops.decisions e"
    " ON e.decision_id = c.decision_id AND e.turn = c.turn)"
    " ON c.dataset_id = :d AND c.image_sha256 = q.sha256 AND c.turn <= :t"
    " AND (c.turn_to IS NULL OR c.turn_to > :t)"
    " LEFT JOIN (sscd_ops.described_later later JOIN sscd_ops.decisions l"
    " ON l.decision_id = later.decision_id AND l.turn <= :t)"
    " ON later.dataset_id = :d AND later.sha256 = q.sha256"
)


def known_images(
    conn: Connection, dataset_id: int, digests: NDArray[np.uint8], turn: int
) -> KnownImages:
    """Verdicts on images that are in force at a turn: of later ones nothing is seen.

    Args:
        conn: an open transaction (a temporary table lives until its end).
        dataset_id: whose images.
        digests: uint8 (n, 32), distinct sha256 digests.
        turn: the turn.
    """
    asked: dict[str, Any] = {"d": dataset_id, "t": turn}
    if len(digests) <= _FEW:
        source = "unnest(CAST(:shas AS bytea[])) WITH ORDINALITY AS q(sha256, i)"
        asked["shas"] = [digest.tobytes() for digest in digests]
    else:
        source = f"{_copy_digests(conn, digests)} q"
        # ten million answers are taken over one by one for a minute; no lock waits for that
        run(conn, "SET LOCAL idle_in_transaction_session_timeout = '1h'")
    found = conn.execute(text(f"SELECT q.i - 1, {_KNOWN} FROM {source}{_IMAGES}"), asked)
    columns = (zip(*some, strict=True) for some in found.partitions(_AT_ONCE))
    pieces = [[as_array(()) for as_array in _ARRAYS]]
    pieces += ([f(values) for f, values in zip(_ARRAYS, some, strict=True)] for some in columns)
    return KnownImages(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _words(values: Sequence[str | None]) -> NDArray[np.object_]:
    """Few distinct texts: each is held once."""
    return np.array([value and intern(value) for value in values], object)


def _numbers(values: Sequence[int | None]) -> NDArray[np.int64]:
    return np.array([-1 if value is None else value for value in values], np.int64)


def _fixed(values: Sequence[bytes | None], width: int) -> NDArray[np.uint8]:
    joined = b"".join(bytes(width) if value is None else value for value in values)
    return np.frombuffer(joined, np.uint8).reshape(-1, width)


_TEXTS, _FLAGS, _FLOATS = (partial(np.array, dtype=kind) for kind in (object, bool, np.float64))
_IDS, _DIGESTS = (partial(_fixed, width=width) for width in (16, 32))
_ARRAYS: Sequence[Callable[[Sequence[Any]], NDArray[Any]]] = (
    *(_numbers, _words, _words, _TEXTS, _IDS, _numbers, _DIGESTS, _FLAGS, _IDS, _numbers),
    *(_FLOATS, _FLOATS, _numbers, _numbers, _numbers),
)
"""How each column of ``KnownImages`` is made."""


def _copy_digests(conn: Connection, digests: NDArray[np.uint8]) -> str:
    name = "pg_temp.looked_up"
    run(conn, f"DROP TABLE IF EXISTS {name}")  # of an earlier look-up in this transaction
    run(conn, f"CREATE TABLE {name} (i bigint, sha256 bytea) ON COMMIT DROP")
    cursor = conn.connection.cursor()
    for start in range(0, len(digests), _AT_ONCE):
        numbered = enumerate(digests[start : start + _AT_ONCE], start + 1)
        lines = "".join(f"{i}\t\\\\x{row.tobytes().hex()}\n" for i, row in numbered)
        cursor.copy_expert(f"COPY {name} FROM STDIN", io.StringIO(lines))
    run(conn, f"ANALYZE {name}")
    return name


def known_samples(
    conn: Connection, dataset_id: int, places: Sequence[tuple[str, str]], turn: int
) -> set[bytes]:
    """sample_ids (16 bytes each) with a verdict that were read from one of these source shards.

    Args:
        conn: an open transaction.
        dataset_id: whose samples.
        places: (source, relative URI) pairs.
        turn: verdicts of later turns are not seen.
    """
    if not places:
        return set()
    read = rows(
        conn,
        "SELECT d.decision_id, d.month, array_agg(s.shard_id) AS shards"
        " FROM unnest(CAST(:s AS text[]), CAST(:u AS text[])) AS f(s, u)"
        " JOIN sscd_ops.source_shards s ON s.source = f.s AND s.relative_uri = f.u"
        " JOIN sscd_ops.decisions d ON d.attempt_id = s.attempt_id"
        " WHERE d.dataset_id = :d AND d.turn <= :t GROUP BY 1, 2",
        s=[source for source, _ in places],
        u=[uri for _, uri in places],
        d=dataset_id,
        t=turn,
    )
    known: set[bytes] = set()
    for decision in read:
        found = rows(
            conn,
            "SELECT uuid_send(sample_id) AS id FROM sscd_ops.samples WHERE month = :m"
            " AND decision_id = :d AND shard_id = ANY(:s) AND sample_id IS NOT NULL UNION ALL"
            " SELECT uuid_send(sample_id) FROM sscd_ops.detached_samples WHERE decision_id = :d"
            " AND shard_id = ANY(:s)",
            m=decision["month"],
            d=decision["decision_id"],
            s=decision["shards"],
        )
        known.update(bytes(r["id"]) for r in found)
    return known


def published_place(conn: Connection, sample_id: UUID) -> Mapping[str, StoredFile] | None:
    """The files, by role, of a published shard that holds a sample, the newest one; or None.

    One that a readable snapshot lists, where there is any.
    """
    found = value(
        conn,
        "SELECT o.files FROM sscd_ops.samples_now s"
        " JOIN sscd_ops.placements p ON p.decision_id = s.slot_decision"
        " AND p.slot_from <= s.slot AND p.slot_to > s.slot"
        " JOIN sscd_ops.output_shards o ON o.output_id = p.output_id"
        " WHERE s.sample_id = :s AND s.verdict = 'kept' AND p.snapshot_from IS NOT NULL"
        " AND (p.snapshot_to IS NULL OR p.snapshot_to > p.snapshot_from)"
        f" ORDER BY {is_listed('s.dataset_id')} DESC, p.snapshot_from DESC LIMIT 1",
        s=sample_id,
    )
    return None if found is None else files_of(found)


@dataclass(frozen=True, slots=True)
class SamplePlace:
    """Where a sample was read, and by which batch."""

    shard_id: int
    position: int
    batch_id: int


def sample_place(conn: Connection, sample_id: UUID) -> SamplePlace | None:
    """The place of a sample with a verdict, or None."""
    found = tuples(
        conn,
        "SELECT s.shard_id, s.position, d.batch_id FROM sscd_ops.samples s"
        " JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id AND d.turn IS NOT NULL"
        " WHERE s.sample_id = :s ORDER BY d.turn DESC",  # where it was read last
        s=sample_id,
    )
    return next((SamplePlace(*place) for place in found), None)
