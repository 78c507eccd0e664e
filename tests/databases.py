"""A database of its own for a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, text
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
