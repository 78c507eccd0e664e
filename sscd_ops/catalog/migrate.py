"""Bringing a database to this release's version of the schema (``catalog.versions``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.versions import (
    HEAD,
    VERSION_TABLE,
    alembic_config,
    current_revision,
    revisions,
)
from sscd_ops.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

UPGRADE_LOCK = 0x5CD05CD0
AUDITOR = "sscd_ops_auditor"
"""The role that may read the public views and nothing else."""
_VIEWS = Path(__file__).parent / "views"
_WAIT_SECONDS = 600.0


def upgrade(url: str) -> None:
    """Bring a database to this release's version, in one transaction; nothing where it is there.

    The auditor's role is made where it lacks, as far as this user may. Two upgrades at once are
    fine: the second waits and finds nothing to do.

    Raises:
        ConfigError: the URL is none of Postgres, the server or its user cannot hold a catalog, the
            database has a version this release does not know, or something else of a name that a
            catalog needs.
        CatalogUnavailable: the server is away, or an upgrade elsewhere takes over ten minutes.
    """
    catalog = Catalog(url)
    try:
        catalog.check_server()
        with catalog.begin(lock_timeout=_WAIT_SECONDS, idle_timeout=0) as conn:
            conn.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": UPGRADE_LOCK})
            current = current_revision(conn)
            # `revisions` and `command` import Alembic: 0.3 s that a current catalog saves
            if current not in (None, HEAD) and current not in revisions():
                raise ConfigError(
                    f"the catalog has schema version {current}, which this release ({HEAD}) does"
                    " not know: install the release that wrote it, or a newer one"
                )
            if current is None:
                _check_free(conn, repr(catalog))
            if current != HEAD:
                from alembic import command

                config = alembic_config()
                config.attributes["connection"] = conn
                command.upgrade(config, "head")
            elif not auditor_is_well(conn):
                conn.exec_driver_sql((_VIEWS / "grants_v1.sql").read_text(encoding="utf-8"))
    finally:
        catalog.dispose()


def _check_free(conn: Connection, name: str) -> None:
    """Refuse a database that has something else where the catalog would be made."""
    found = conn.execute(
        text(
            "SELECT DISTINCT n.nspname FROM pg_namespace n LEFT JOIN pg_class c"
            " ON c.relnamespace = n.oid AND c.relkind <> 'i' AND c.relname <> :version"
            " WHERE n.nspname = 'curation' OR (n.nspname = 'sscd_ops' AND c.oid IS NOT NULL)"
            " ORDER BY 1"
        ),
        {"version": VERSION_TABLE},
    )
    taken = [str(schema) for schema in found.scalars()]
    if taken:
        moved = "; ".join(f"ALTER SCHEMA {schema} RENAME TO old_{schema}" for schema in taken)
        raise ConfigError(
            f"{name} has no catalog, but something else in schema {' and '.join(taken)}, which the"
            f" catalog needs for itself: name another database in catalog.url, or move it: {moved}."
            " If a catalog was there before: restore the last backup"
        )


def auditor_is_well(conn: Connection) -> bool:
    """Whether the role for people is there and may read every public view.

    A dump carries no roles: a catalog that was restored on another server has lost it.
    """
    lacking = conn.execute(
        text(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " LEFT JOIN pg_roles r ON r.rolname = :role WHERE n.nspname = 'curation'"
            " AND c.relkind = 'v' AND (r.oid IS NULL OR NOT has_schema_privilege(r.oid, n.oid,"
            " 'USAGE') OR NOT has_table_privilege(r.oid, c.oid, 'SELECT'))"
        ),
        {"role": AUDITOR},
    )
    return int(lacking.scalar_one()) == 0


def status(url: str) -> tuple[str | None, str]:
    """(version the database has, version this release needs); None: no catalog there yet.

    Raises:
        ConfigError: the server or its user cannot hold a catalog.
        CatalogUnavailable: the server is away.
    """
    catalog = Catalog(url)
    try:
        catalog.check_server()
        with catalog.read() as conn:
            return current_revision(conn), HEAD
    finally:
        catalog.dispose()
