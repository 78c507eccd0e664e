"""Segments and their kept masks: which rows of the index count in which generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import (
    file_json,
    file_of,
    files_json,
    files_of,
    need_file,
    rows,
    run,
    value,
)
from sscd_ops.model import Segment, StoredFile

_LIVE = (
    "FROM sscd_ops.segments s JOIN sscd_ops.segment_masks m USING (segment_id)"
    " JOIN sscd_ops.decisions x USING (decision_id) WHERE s.dataset_id = :d"
    " AND m.generation_from <= :g AND (m.generation_to IS NULL OR m.generation_to > :g)"
)


def live_segments(conn: Connection, dataset_id: int, generation: int) -> list[Segment]:
    """The segments of a generation in turn order, each with its kept mask then."""
    found = rows(
        conn,
        f"SELECT s.*, m.mask {_LIVE} ORDER BY x.turn, s.segment_id",
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
            r["decision_id"],
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
) -> int:
    """Name a segment's files."""
    return int(
        value(
            conn,
            "INSERT INTO sscd_ops.segments (dataset_id, decision_id, rows, dimensions,"
            " fingerprint, files) VALUES (:d, :x, :r, :n, :f, CAST(:files AS jsonb))"
            " RETURNING segment_id",
            d=dataset_id,
            x=decision_id,
            r=row_count,
            n=dimensions,
            f=fingerprint,
            files=files_json(files),
        )
    )


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
        m=file_json(mask),
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


def all_segments(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """Every segment in turn order as `index info` prints it; ``kept`` is by its newest mask."""
    return rows(
        conn,
        "SELECT s.segment_id AS segment, x.batch_id, coalesce(b.night, '') AS night, x.turn,"
        " s.rows, m.kept, s.dimensions, f.files, f.bytes"
        " FROM sscd_ops.segments s JOIN sscd_ops.decisions x USING (decision_id)"
        " JOIN LATERAL (SELECT string_agg(key, ' ' ORDER BY key COLLATE \"C\") AS files,"
        " CAST(sum(CAST(value ->> 'bytes' AS bigint)) AS bigint) AS bytes"
        " FROM jsonb_each(s.files)) f ON true"
        " LEFT JOIN sscd_ops.batches b ON b.batch_id = x.batch_id"
        " LEFT JOIN sscd_ops.segment_masks m ON m.segment_id = s.segment_id"
        " AND m.generation_to IS NULL WHERE s.dataset_id = :d ORDER BY x.turn, s.segment_id",
        d=dataset_id,
    )


def night_of_segment(conn: Connection, segment_id: int) -> tuple[int, int]:
    """The batch and the decision that a segment is of."""
    found = rows(
        conn,
        "SELECT x.batch_id, x.decision_id FROM sscd_ops.segments s"
        " JOIN sscd_ops.decisions x USING (decision_id) WHERE s.segment_id = :s",
        s=segment_id,
    )[0]
    return found["batch_id"], found["decision_id"]
