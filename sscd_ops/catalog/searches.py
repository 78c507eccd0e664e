"""Searches: what a batch's queries were compared with, and where the answers are.

They are needed until the batch is published or abandoned; then they are deleted
(``drop_searches``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.engine import Connection

from sscd_ops.catalog.naming import name_files, plain_json
from sscd_ops.catalog.sql import need_file, run, tuples
from sscd_ops.model import StoredFile


@dataclass(frozen=True, slots=True)
class Searched:
    """A block of the batch's queries compared with history, or with a block of its own.

    ``block``: numbers of queries. ``segments``, ``masks``: of history, in turn order, and the
    sha256 of the mask that each was searched under. ``own``: numbers of the batch's own queries;
    None where of history. ``listed``: how many were asked for a query. ``file``, ``number``: the
    answer.
    """

    block: range
    segments: tuple[int, ...]
    masks: tuple[str, ...]
    own: range | None
    listed: int
    file: StoredFile
    number: int


def register_searches(
    conn: Connection, attempt_id: int, queries: str, made: Iterable[Searched]
) -> None:
    """Record what the queries of a digest were compared with."""
    statement = text(
        "INSERT INTO sscd_ops.searches (attempt_id, queries, first_query, end_query, segments,"
        " masks, first_row, end_row, listed, file, number) VALUES (:a, :q, :from, :to,"
        " CAST(:segments AS bigint[]), CAST(:masks AS text[]), :first, :end, :l,"
        " CAST(:f AS jsonb), :n)"
    )
    made = list(made)
    name_files(conn, [each.file for each in made])
    for each in made:
        conn.execute(
            statement,
            {
                "a": attempt_id,
                "q": queries,
                "from": each.block.start,
                "to": each.block.stop,
                "segments": list(each.segments),
                "masks": list(each.masks),
                "first": None if each.own is None else each.own.start,
                "end": None if each.own is None else each.own.stop,
                "l": each.listed,
                "f": plain_json(each.file),
                "n": each.number,
            },
        )


def searched(conn: Connection, attempt_id: int, queries: str) -> list[Searched]:
    """What the queries of a digest were compared with, the newest first."""
    return [
        Searched(
            range(first, end),
            tuple(segments),
            tuple(masks),
            None if first_row is None else range(first_row, end_row),
            listed,
            need_file(file),
            number,
        )
        for first, end, segments, masks, first_row, end_row, listed, file, number in tuples(
            conn,
            "SELECT first_query, end_query, segments, masks, first_row, end_row, listed, file,"
            " number FROM sscd_ops.searches WHERE attempt_id = :a AND queries = :q"
            " ORDER BY search_id DESC",
            a=attempt_id,
            q=queries,
        )
    ]


def forget_search(conn: Connection, attempt_id: int, file: StoredFile) -> None:
    """Name a lost candidate file no longer: whoever needs it searches again."""
    delete = "DELETE FROM sscd_ops.searches WHERE attempt_id = :a AND file ->> 'sha256' = :x"
    run(conn, delete, a=attempt_id, x=file.sha256)


def drop_searches(conn: Connection, batch_id: int) -> None:
    """Forget all searches of a batch: nobody asks for them any more. `vacuum` takes the files."""
    run(
        conn,
        "DELETE FROM sscd_ops.searches WHERE attempt_id IN"
        " (SELECT attempt_id FROM sscd_ops.attempts WHERE batch_id = :b)",
        b=batch_id,
    )
