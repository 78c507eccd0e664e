"""Segments and their kept masks: which rows of the index count in which generation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy.engine import Connection

from sscd_ops.catalog.naming import file_json, files_json
from sscd_ops.catalog.sql import (
    file_of,
    files_of,
    need_file,
    rows,
    run,
    tuples,
    value,
)
from sscd_ops.model import Segment, SegmentPart, StoredFile

_LIVE = (
    "FROM sscd_ops.segments s JOIN sscd_ops.segment_masks m USING (segment_id)"
    " JOIN sscd_ops.decisions x USING (decision_id) WHERE s.dataset_id = :d AND s.role = :r"
    " AND m.generation_from <= :g AND (m.generation_to IS NULL OR m.generation_to > :g)"
)
SegmentRole = Literal["images", "withdrawn"]
"""What a segment holds: images that were decided, or pictures of the withdrawn set, which is no
history: nights ask it apart (``catalog.withdrawn_set``)."""


def live_segments(
    conn: Connection, dataset_id: int, generation: int, role: SegmentRole = "images"
) -> list[Segment]:
    """The segments of a generation in turn order, each with its kept mask then."""
    found = rows(
        conn,
        f"SELECT s.*, m.mask {_LIVE} ORDER BY x.turn, s.segment_id",
        d=dataset_id,
        g=generation,
        r=role,
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
            f"SELECT coalesce(sum(m.kept), 0) {_LIVE}",
            d=dataset_id,
            g=generation,
            r="images",
        )
    )


def add_segment(
    conn: Connection,
    dataset_id: int,
    decision_id: int,
    *,
    row_count: int,
    dimensions: int,
    fingerprint: str,
    files: Mapping[str, StoredFile],
    role: SegmentRole = "images",
) -> int:
    """Name the files of a segment that holds one decision's images, or pictures."""
    return int(
        value(
            conn,
            "WITH made AS (INSERT INTO sscd_ops.segments (dataset_id, role, decision_id, rows,"
            " dimensions, fingerprint, files)"
            " VALUES (:d, :role, :x, :r, :n, :f, CAST(:files AS jsonb))"
            " RETURNING *) INSERT INTO sscd_ops.segment_parts (segment_id, first_row, rows,"
            " decision_id) SELECT segment_id, 0, rows, decision_id FROM made RETURNING segment_id",
            d=dataset_id,
            role=role,
            x=decision_id,
            r=row_count,
            n=dimensions,
            f=fingerprint,
            files=files_json(conn, files),
        )
    )


def add_merged(
    conn: Connection, merged: Sequence[int], generation: int, files: Mapping[str, StoredFile]
) -> int:
    """Name the files of a segment that holds the rows of others, one after another.

    From a generation on it stands in their place: their masks end there. It has no mask yet.

    Args:
        conn: an open transaction, with the dataset's lock.
        merged: the others, in turn order.
        generation: the new one.
        files: of the merged segment, by role.
    """
    segment_id = int(
        value(
            conn,
            "INSERT INTO sscd_ops.segments (dataset_id, decision_id, rows, dimensions,"
            " fingerprint, files) SELECT f.dataset_id, f.decision_id,"
            " (SELECT CAST(sum(s.rows) AS bigint) FROM sscd_ops.segments s"
            " WHERE s.segment_id = ANY(:m)), f.dimensions, f.fingerprint, CAST(:files AS jsonb)"
            " FROM sscd_ops.segments f WHERE f.segment_id = :first RETURNING segment_id",
            m=list(merged),
            first=merged[0],
            files=files_json(conn, files),
        )
    )
    run(
        conn,
        "INSERT INTO sscd_ops.segment_parts (segment_id, first_row, rows, decision_id)"
        " SELECT :s, CAST(sum(p.rows) OVER (ORDER BY m.i, p.first_row) AS bigint) - p.rows, p.rows,"
        " p.decision_id FROM unnest(CAST(:m AS bigint[])) WITH ORDINALITY AS m(segment_id, i)"
        " JOIN sscd_ops.segment_parts p USING (segment_id)",
        s=segment_id,
        m=list(merged),
    )
    run(
        conn,
        "UPDATE sscd_ops.segment_masks SET generation_to = :g"
        " WHERE segment_id = ANY(:m) AND generation_to IS NULL",
        g=generation,
        m=list(merged),
    )
    return segment_id


def parts_of(conn: Connection, segment_id: int) -> list[SegmentPart]:
    """Whose images a segment holds, in the order of its rows."""
    found = tuples(
        conn,
        "SELECT p.decision_id, x.batch_id, p.first_row, p.rows FROM sscd_ops.segment_parts p"
        " JOIN sscd_ops.decisions x USING (decision_id) WHERE p.segment_id = :s"
        " ORDER BY p.first_row",
        s=segment_id,
    )
    return [SegmentPart(*part) for part in found]


def places_of(
    conn: Connection, segment_ids: Sequence[int], decision_ids: Sequence[int]
) -> dict[int, tuple[int, int]]:
    """Decision -> (segment, first row): where its images lie in some live segments."""
    found = tuples(
        conn,
        "SELECT decision_id, segment_id, first_row FROM sscd_ops.segment_parts"
        " WHERE decision_id = ANY(:x) AND segment_id = ANY(:s)",
        x=list(decision_ids),
        s=list(segment_ids),
    )
    return {decision: (segment, first) for decision, segment, first in found}


def digests_of(conn: Connection, segment_ids: Collection[int], role: str) -> dict[int, str]:
    """Segment -> sha256 of its file of a role, for those of some that there are."""
    found = tuples(
        conn,
        "SELECT segment_id, files -> :r ->> 'sha256' FROM sscd_ops.segments"
        " WHERE segment_id = ANY(:s)",
        s=list(segment_ids),
        r=role,
    )
    return dict(found)


def add_mask(
    conn: Connection, segment_id: int, generation: int, mask: StoredFile, kept: int
) -> None:
    """Give a segment this kept mask from a generation on; the one it had ends there."""
    run(
        conn,
        "UPDATE sscd_ops.segment_masks SET generation_to = :g"
        " WHERE segment_id = :s AND generation_to IS NULL",
        s=segment_id,
        g=generation,
    )
    run(
        conn,
        "INSERT INTO sscd_ops.segment_masks (segment_id, generation_from, mask, kept)"
        " VALUES (:s, :g, CAST(:m AS jsonb), :k)",
        s=segment_id,
        g=generation,
        m=file_json(conn, mask),
        k=kept,
    )


def earlier_masks(conn: Connection, segment_id: int) -> dict[str, StoredFile]:
    """Every mask the segment has or had, by its sha256."""
    found = rows(
        conn, "SELECT mask FROM sscd_ops.segment_masks WHERE segment_id = :s", s=segment_id
    )
    files = [need_file(r["mask"]) for r in found]
    return {file.sha256: file for file in files}


def replace_segment_files(
    conn: Connection, segment_id: int, files: Mapping[str, StoredFile]
) -> None:
    """Name other files for a segment: after `index rebuild`, with equal descriptors."""
    run(
        conn,
        "UPDATE sscd_ops.segments SET files = CAST(:f AS jsonb) WHERE segment_id = :s",
        f=files_json(conn, files),
        s=segment_id,
    )


def add_segment_files(conn: Connection, segment_id: int, files: Mapping[str, StoredFile]) -> None:
    """Name further files of a segment; those of others stay."""
    run(
        conn,
        "UPDATE sscd_ops.segments SET files = files || CAST(:f AS jsonb) WHERE segment_id = :s",
        f=files_json(conn, files),
        s=segment_id,
    )


def all_segments(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """The live segments in turn order as `index info` prints them.

    ``night`` and ``turn`` are of the first of its ``nights``. Of role ``withdrawn``: an order's.
    """
    return rows(
        conn,
        "SELECT s.segment_id AS segment, s.role, p.nights, coalesce(b.night, '') AS night, x.turn,"
        " s.rows, m.kept, s.dimensions, f.files, f.bytes"
        " FROM sscd_ops.segments s JOIN sscd_ops.decisions x USING (decision_id)"
        " JOIN sscd_ops.segment_masks m ON m.segment_id = s.segment_id AND m.generation_to IS NULL"
        " JOIN LATERAL (SELECT count(*) AS nights FROM sscd_ops.segment_parts p"
        " WHERE p.segment_id = s.segment_id) p ON true"
        " JOIN LATERAL (SELECT string_agg(key, ' ' ORDER BY key COLLATE \"C\") AS files,"
        " CAST(sum(CAST(value ->> 'bytes' AS bigint)) AS bigint) AS bytes"
        " FROM jsonb_each(s.files)) f ON true"
        " LEFT JOIN sscd_ops.batches b ON b.batch_id = x.batch_id"
        " WHERE s.dataset_id = :d ORDER BY x.turn, s.segment_id",
        d=dataset_id,
    )
