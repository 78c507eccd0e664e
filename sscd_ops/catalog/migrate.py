"""The schema's version: what a database has, what this release needs, and the way there.

Migrations are Alembic revisions in ``migrations/versions``; each runs files of SQL that never
change once released. The version is kept in ``sscd_ops.schema_version``, so that the catalog can
share a database with another Alembic project.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from sscd_ops.errors import CatalogUnavailable, ConfigError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection

HEAD = "0001"
"""The version this release needs. Written out, so that a task need not import Alembic to check."""

VERSION_TABLE = "schema_version"
UPGRADE_LOCK = 0x5CD05CD0
_LOCATION = Path(__file__).parent / "migrations"
_WAIT_SECONDS = 600


def upgrade(url: str) -> None:
    """Bring a database to this release's version, in one transaction; nothing where it is there.

    Two upgrades at once are fine: the second waits and finds nothing to do.

    Raises:
        ConfigError: the URL is none of Postgres, or the database has a version this release does
            not know.
        CatalogUnavailable: the server is away or refuses the user, or an upgrade elsewhere takes
            over ten minutes.
    """
    from sscd_ops.catalog.database import checked_url

    engine = create_engine(checked_url(url), poolclass=NullPool)
    try:
        with engine.begin() as conn:
            conn.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_SECONDS}s'"))
            conn.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": UPGRADE_LOCK})
            current = current_revision(conn)
            if current == HEAD:
                return
            if current is not None and current not in revisions():
                raise ConfigError(
                    f"the catalog has schema version {current}, which this release ({HEAD}) does"
                    " not know: install the release that wrote it, or a newer one"
                )
            from alembic import command  # 0.3 s, which commands on a current catalog save

            config = _config()
            config.attributes["connection"] = conn
            command.upgrade(config, "head")
    except DBAPIError as error:
        if isinstance(error.orig, psycopg2.OperationalError):
            said = " ".join(str(error.orig).split())
            raise CatalogUnavailable(f"the catalog could not be upgraded: {said}") from error
        raise
    finally:
        engine.dispose()


def status(url: str) -> tuple[str | None, str]:
    """(version the database has, version this release needs); None: no catalog there yet."""
    from sscd_ops.catalog.database import Catalog

    catalog = Catalog(url)
    try:
        with catalog.read() as conn:
            return current_revision(conn), HEAD
    finally:
        catalog.dispose()


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

    script = ScriptDirectory.from_config(_config())
    return tuple(revision.revision for revision in script.walk_revisions())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # A percent sign in an installation path would be taken for interpolation.
    config.set_main_option("script_location", str(_LOCATION).replace("%", "%%"))
    return config
