"""A database of its own for a test, and roles on it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from sscd_ops.catalog.embedded import ensure_running


def fresh_database(home: Path, template: str) -> Iterator[str]:
    server = ensure_running(home, ("postgres",))["postgres"]
    name = f"test_{uuid.uuid4().hex[:12]}"
    engine = create_engine(server, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        with engine.connect() as conn:
            conn.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def superuser(url: str, *statements: str) -> None:
    """Run statements as the server's superuser, each on its own."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement)


@contextmanager
def role_of(url: str, *rights: str, attributes: str = "LOGIN") -> Iterator[str]:
    """A role with some rights on a database, ``{role}`` on ``{database}``; the URL of it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    database = make_url(url).database
    superuser(url, f"CREATE ROLE {name} {attributes} PASSWORD 'own'")
    superuser(url, *(right.format(role=name, database=database) for right in rights))
    try:
        yield shown_url(make_url(url).set(username=name, password="own"))
    finally:
        superuser(url, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def shown_url(url: URL) -> str:
    """A URL as text, with its password."""
    return str(url.render_as_string(hide_password=False))
