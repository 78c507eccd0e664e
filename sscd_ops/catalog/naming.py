"""How a row comes to name a file: the one way, which keeps `vacuum` from removing the file.

Every statement that writes a stored file into a jsonb column takes it from here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

from sqlalchemy.engine import Connection

from sscd_ops.catalog.locks import VACUUM_LOCK
from sscd_ops.catalog.sql import tuples
from sscd_ops.errors import FileRemoved
from sscd_ops.model import StoredFile

HAS_FILE = "sscd_ops_has_file"
"""The connection's option that says whether a file is there: a function of its name."""


def file_json(conn: Connection, file: StoredFile) -> str:
    """A file that a row is to name, as the jsonb columns hold it.

    Raises:
        FileRemoved: as ``name_files``.
    """
    name_files(conn, [file])
    return plain_json(file)


def files_json(conn: Connection, files: Mapping[str, StoredFile]) -> str:
    """Role -> file that a row is to name, as the jsonb columns hold it.

    Raises:
        FileRemoved: as ``name_files``.
    """
    name_files(conn, files.values())
    return json.dumps({role: asdict(file) for role, file in sorted(files.items())})


def plain_json(file: StoredFile) -> str:
    """As ``file_json``, of a file that ``name_files`` was told of."""
    return json.dumps(asdict(file))


def name_files(conn: Connection, files: Iterable[StoredFile]) -> None:
    """Say that rows of this transaction name these files: who condemned one may not remove it.

    Whoever removes a file has its row of ``condemned`` locked, which is waited for here; what is
    still there then stays. All are looked at: a fail-over may forget which one was being removed.

    The shared lock is what ``catalog.condemned.wait_for_namers`` waits for. Both in one round trip,
    but two statements: the second has to see what was committed before the lock was granted.

    Raises:
        FileRemoved: `vacuum` removed one of them before this (retried: who wrote it writes anew).
    """
    names = sorted({file.name for file in files if file.name})
    if not names:
        return
    ended = tuples(
        conn,
        "SELECT pg_advisory_xact_lock_shared(:k, 0); DELETE FROM sscd_ops.condemned"
        " WHERE name = ANY(CAST(:n AS text[])) RETURNING name",
        k=VACUUM_LOCK,
        n=names,
    )
    has_file: Callable[[str], bool] | None = conn.get_execution_options().get(HAS_FILE)
    for (name,) in ended:
        if has_file is None or not has_file(name):
            raise FileRemoved(
                f"{name} was removed by `sscd-ops vacuum` before its row was written: it was older"
                " than the grace, and nobody named it. Run the night or command again, which"
                " writes it anew (in Airflow the task is tried again); if this comes back, give"
                " vacuum a longer --grace"
            )
