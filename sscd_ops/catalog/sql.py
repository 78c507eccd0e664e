"""Five words for running SQL with bound parameters, and stored files read from jsonb columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from sscd_ops.model import StoredFile


def rows(conn: Connection, sql: str, **parameters: Any) -> list[Mapping[str, Any]]:
    """All rows of a statement, as mappings."""
    return [dict(found) for found in conn.execute(text(sql), parameters).mappings()]


def tuples(conn: Connection, sql: str, **parameters: Any) -> Iterator[Any]:
    """The rows of a statement, each with its columns in order: what dataclasses are made from.

    One by one: 100,000 rows with JSON in them, all at once, keep the garbage collector busy.
    """
    return iter(conn.execute(text(sql), parameters))


def row(conn: Connection, sql: str, **parameters: Any) -> Mapping[str, Any] | None:
    """The first row of a statement, or None."""
    found = conn.execute(text(sql), parameters).mappings().first()
    return None if found is None else dict(found)


def value(conn: Connection, sql: str, **parameters: Any) -> Any:
    """The first column of the first row, or None."""
    return conn.execute(text(sql), parameters).scalar()


def run(conn: Connection, sql: str, **parameters: Any) -> int:
    """Run a statement that answers no rows; how many rows it touched."""
    return conn.execute(text(sql), parameters).rowcount


def file_of(raw: Any) -> StoredFile | None:
    """The stored file in a jsonb value, or None."""
    return None if raw is None else need_file(raw)


def need_file(raw: Any) -> StoredFile:
    """The stored file in a jsonb value that is never null."""
    return StoredFile(raw["name"], raw["sha256"], int(raw["bytes"]))


def files_of(raw: Any) -> dict[str, StoredFile]:
    """Role -> stored file, from a jsonb value."""
    return {role: need_file(item) for role, item in (raw or {}).items()}
