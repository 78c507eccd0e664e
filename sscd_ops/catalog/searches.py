"""Searches: which queries were compared with a segment under a mask, and what was found."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import file_json, need_file, rows, run
from sscd_ops.model import StoredFile


def register_search(
    conn: Connection,
    attempt_id: int,
    segment_id: int,
    mask_sha256: str,
    queries: str,
    file: StoredFile,
) -> None:
    """Record that the batch's queries were compared with a segment under a mask."""
    run(
        conn,
        "INSERT INTO sscd_ops.searches (attempt_id, segment_id, mask_sha256, queries, file)"
        " VALUES (:a, :s, :m, :q, CAST(:f AS jsonb)) ON CONFLICT DO NOTHING",
        a=attempt_id,
        s=segment_id,
        m=mask_sha256,
        q=queries,
        f=file_json(file),
    )


def searched(conn: Connection, attempt_id: int, queries: str) -> dict[tuple[int, str], StoredFile]:
    """(segment, mask sha256) -> candidate file, for these queries of the attempt."""
    return {
        (r["segment_id"], r["mask_sha256"]): need_file(r["file"])
        for r in rows(
            conn,
            "SELECT * FROM sscd_ops.searches WHERE attempt_id = :a AND queries = :q",
            a=attempt_id,
            q=queries,
        )
    }


def forget_search(conn: Connection, attempt_id: int, file: StoredFile) -> None:
    """Name a lost candidate file no longer: whoever needs it searches again."""
    delete = "DELETE FROM sscd_ops.searches WHERE attempt_id = :a AND file ->> 'sha256' = :x"
    run(conn, delete, a=attempt_id, x=file.sha256)
