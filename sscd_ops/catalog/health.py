"""What a catalog's server, role and contents lack, for ``doctor`` and Airflow's connection test."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.engine import Connection

from sscd_ops.catalog.faults import CONNECTIONS
from sscd_ops.catalog.migrate import AUDITOR, auditor_is_well
from sscd_ops.catalog.sql import rows

Finding = tuple[str, str, bool]
"""What, what was found and what to do about it, whether it is as it should be."""


def findings(conn: Connection) -> Iterator[Finding]:
    """What there is to say of a catalog whose schema is this release's."""
    yield _connections(conn)
    if auditor_is_well(conn):
        yield "auditor", f"role {AUDITOR} reads the public views", True
    else:
        yield (
            "auditor",
            f"role {AUDITOR} is missing, or may not read all public views (a dump carries no"
            " roles): run `sscd-ops db upgrade` as the tables' owner; where that may not create"
            f" roles, first, as a superuser: CREATE ROLE {AUDITOR} NOLOGIN",
            False,
        )


def _connections(conn: Connection) -> Finding:
    """How many are left of each limit: the server's, the database's, the role's."""
    (found,) = rows(
        conn,
        "WITH client AS (SELECT * FROM pg_stat_activity WHERE backend_type = 'client backend')"
        " SELECT"
        " current_setting('max_connections')::int AS most, (SELECT count(*) FROM client) AS used,"
        " CASE WHEN r.rolsuper THEN 0 ELSE"
        "  (SELECT sum(setting::int) FROM pg_settings WHERE name IN"
        "   ('superuser_reserved_connections', 'reserved_connections')) END AS reserved,"
        " d.datconnlimit AS of_database,"
        " (SELECT count(*) FROM client WHERE datname = d.datname) AS used_database,"
        " r.rolconnlimit AS of_role,"
        " (SELECT count(*) FROM client WHERE usename = r.rolname) AS used_role"
        " FROM pg_database d, pg_roles r"
        " WHERE d.datname = current_database() AND r.rolname = session_user",
    )
    used = found["used"]
    left = found["most"] - found["reserved"] - used
    said = [f"{used} of max_connections = {found['most']} in use"]
    for what in ("database", "role"):
        limit, taken = found[f"of_{what}"], found[f"used_{what}"]
        if limit >= 0 and not (what == "role" and found["reserved"] == 0):
            left = min(left, limit - taken)
            said.append(f"{taken} of the {what}'s CONNECTION LIMIT {limit}")
    # the one that asks is one of those needed
    if left + 1 >= CONNECTIONS:
        return "connections", ", ".join(said), True
    return (
        "connections",
        f"{', '.join(said)}: a command or task needs up to {CONNECTIONS} at once: raise the limit"
        " (ALTER SYSTEM SET max_connections and restart; ALTER DATABASE or ALTER ROLE ..."
        " CONNECTION LIMIT), or run fewer at once",
        False,
    )
