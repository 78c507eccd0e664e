"""The schema's version: what a database has and what this release needs.

Migrations are Alembic revisions in ``migrations/versions``; each runs files of SQL that never
change once released. The version is kept in ``sscd_ops.schema_version``, so that the catalog can
share a database with another Alembic project.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection

HEAD = "0001"
"""The version this release needs. Written out, so that a task need not import Alembic to check."""
VERSION_TABLE = "schema_version"
_LOCATION = Path(__file__).parent / "migrations"


def current_revision(conn: Connection) -> str | None:
    """The version a database has; None where there is no catalog."""
    if conn.execute(text(f"SELECT to_regclass('sscd_ops.{VERSION_TABLE}')")).scalar() is None:
        return None
    found = conn.execute(text(f"SELECT version_num FROM sscd_ops.{VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


@cache
def revisions() -> tuple[str, ...]:
    """The versions this release knows, newest first."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(alembic_config())
    return tuple(revision.revision for revision in script.walk_revisions())


def alembic_config() -> Config:
    """What Alembic needs to find the migrations."""
    from alembic.config import Config

    config = Config()
    # A percent sign in an installation path would be taken for interpolation.
    config.set_main_option("script_location", str(_LOCATION).replace("%", "%%"))
    return config
