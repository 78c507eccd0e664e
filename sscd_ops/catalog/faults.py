"""What Postgres and its client say, as our errors: what kind of fault it is, and what to do.

A statement's error has a code (SQLSTATE; Postgres' manual has them under "Error Codes"), and the
most specific entry of ``_CODES`` counts. A refused connection has none in psycopg2: ``_TEXTS`` go
by what it says. What is in neither is a fault of this code or of the catalog's contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sscd_ops.errors import CatalogUnavailable, ConfigError, InvariantError, SscdOpsError

CONNECTIONS = 3
"""Connections that one command or task has open at once, at most (docs/operations.md)."""

_FULL = (
    "It has no connection left: a command or task of sscd-ops needs up to"
    f" {CONNECTIONS} at once. Run fewer at once, or raise the CONNECTION LIMIT of the role or"
    " database, the pooler's size, or the server's max_connections"
)
STANDBY = (
    "It only reads: a standby, or a primary that was demoted. Name the primary in catalog.url; with"
    " several hosts add target_session_attrs=read-write"
)
_NOT_OURS = (
    "The role in catalog.url may not do this: connect as the role that ran `sscd-ops db upgrade`,"
    " or let this one act as it: GRANT owner TO role; ALTER ROLE role SET role = owner (for a first"
    " upgrade: GRANT CREATE ON DATABASE database TO role)"
)
_DAMAGED = (
    "The database's files are damaged: start no more nights, and restore the last backup"
    " (docs/operations.md)"
)
_OTHER_SCHEMA = (
    "The catalog's tables are not those this release made: were they changed by hand? See `sscd-ops"
    " db status`, and restore the last backup if that finds the version right"
)
_OFFER = "The server cannot do what the catalog needs: it must be Postgres 14 or newer"

_CODES: dict[str, tuple[type[SscdOpsError], str]] = {
    "08": (CatalogUnavailable, "Is the server up, and catalog.url right?"),
    "0A": (ConfigError, _OFFER),
    "25006": (CatalogUnavailable, STANDBY),
    "25P03": (CatalogUnavailable, "The server ended a transaction that stood idle: try again"),
    "25P04": (CatalogUnavailable, "The server ended a transaction that took too long: try again"),
    "28": (ConfigError, "Check user and password in catalog.url, and the server's pg_hba.conf"),
    "3D": (ConfigError, "Check the database in catalog.url, or create it"),
    "3F": (InvariantError, _OTHER_SCHEMA),
    "40": (CatalogUnavailable, "Others were quicker: try again"),
    "42501": (ConfigError, _NOT_OURS),
    "42703": (InvariantError, _OTHER_SCHEMA),
    "42883": (InvariantError, _OTHER_SCHEMA),
    "42P01": (InvariantError, _OTHER_SCHEMA),
    "42P10": (InvariantError, _OTHER_SCHEMA),
    "53": (CatalogUnavailable, "The server has run out of something: see its log"),
    "53100": (CatalogUnavailable, "The server's disk is full: make room, then try again"),
    "53200": (CatalogUnavailable, "The server is out of memory: see its log, then try again"),
    "53300": (CatalogUnavailable, _FULL),
    "53400": (ConfigError, "Raise this limit of the server (such as temp_file_limit)"),
    "54": (ConfigError, "This is beyond a limit of the server: see its log"),
    "55006": (CatalogUnavailable, "It is in use: try again"),
    "55P03": (CatalogUnavailable, "Another session holds the lock: try again"),
    "57": (CatalogUnavailable, "Somebody stopped the server or this session: try again"),
    "57014": (CatalogUnavailable, "Somebody, or a timeout, cancelled the statement: try again"),
    "57P03": (CatalogUnavailable, "It starts, stops or recovers: try again"),
    "57P04": (ConfigError, "The database was dropped: check catalog.url, or restore the backup"),
    "58": (CatalogUnavailable, "The server's disk or system failed: see its log"),
    "58P01": (InvariantError, _DAMAGED),
    "F0": (ConfigError, "Mend the server's configuration files"),
    "XX001": (InvariantError, _DAMAGED),
    "XX002": (InvariantError, _DAMAGED),
}
_BROKEN = (InvariantError, "This is a fault of sscd-ops or of the catalog's contents: report it")

_CHECK_URL = "Check catalog.url (or SSCD_OPS_DATABASE_URL, or the Airflow connection)"
_TEXTS: tuple[tuple[str, type[SscdOpsError], str], ...] = (
    ("too many clients already", CatalogUnavailable, _FULL),
    ("remaining connection slots", CatalogUnavailable, _FULL),
    ("too many connections for", CatalogUnavailable, _FULL),
    ("no more connections allowed", CatalogUnavailable, _FULL),
    ("password authentication failed", ConfigError, _CHECK_URL),
    ("no password supplied", ConfigError, _CHECK_URL),
    ("no pg_hba.conf entry", ConfigError, f"{_CHECK_URL}, and the server's pg_hba.conf"),
    ("authentication failed", ConfigError, f"{_CHECK_URL}, and the server's pg_hba.conf"),
    ("is not permitted to log in", ConfigError, "ALTER ROLE role LOGIN, or name another"),
    ("permission denied for database", ConfigError, "GRANT CONNECT ON DATABASE database TO role"),
    ("not currently accepting connections", ConfigError, "ALTER DATABASE ... ALLOW_CONNECTIONS"),
    (
        "unsupported startup parameter",
        ConfigError,
        "The pooler refuses it: take `options` out of catalog.url and unset PGOPTIONS",
    ),
    ("received invalid response", ConfigError, f"What listens there is no Postgres. {_CHECK_URL}"),
    ("expected authentication request", ConfigError, f"Is that a Postgres? {_CHECK_URL}"),
    ("server does not support SSL", ConfigError, "Switch it on there, or change sslmode"),
    ("certificate", ConfigError, "Check sslmode, sslrootcert, sslcert and sslkey"),
    ("private key", ConfigError, "Check sslcert and sslkey: the key's mode must be 0600"),
    ("session is not read-only", CatalogUnavailable, "target_session_attrs finds no such server"),
    ("session is read-only", CatalogUnavailable, STANDBY),
    ("hot standby mode", CatalogUnavailable, STANDBY),
    ("database system is", CatalogUnavailable, "It starts, stops or recovers: try again"),
    ("invalid ", ConfigError, _CHECK_URL),
    ("no such database", ConfigError, f"{_CHECK_URL}, and the pooler's list of databases"),
    ("No such file or directory", CatalogUnavailable, f"Does it run there? {_CHECK_URL}"),
    ("does not exist", ConfigError, _CHECK_URL),
)
"""Of two that fit the first counts."""


@contextmanager
def mapped(name: str, max_connections: int = 0) -> Iterator[None]:
    """Whatever the database does not do inside, as one of our errors.

    Args:
        name: what the catalog is called in messages, without its password.
        max_connections: the server's setting; 0: not known yet.

    Raises:
        CatalogUnavailable: it may work when tried again.
        ConfigError: the server, its roles or the URL must be changed first.
        InvariantError: the catalog is damaged, or this code is wrong.
    """
    try:
        yield
    except DBAPIError as error:
        lost = error.connection_invalidated
        raise _translated(name, error.orig, max_connections, lost=lost) from error
    except psycopg2.Error as error:  # from COPY, which goes past SQLAlchemy
        raise _translated(name, error, max_connections) from error
    except PoolTimeout as error:
        raise CatalogUnavailable(f"{name}: no free connection in the pool") from error


def _translated(
    name: str, error: BaseException | None, max_connections: int, *, lost: bool = False
) -> SscdOpsError:
    said = " ".join(str(error).split()) or type(error).__name__
    code = getattr(error, "pgcode", None)
    kind, remedy = _kind_of_code(code) if code else _kind_of_text(said, error, lost=lost)
    if lost and not issubclass(kind, (CatalogUnavailable, ConfigError)):
        kind, remedy = CatalogUnavailable, "The connection is lost: try again"
    if remedy == _FULL:
        remedy += f", which is {max_connections}" if max_connections else " (SHOW max_connections)"
    return kind(f"{name}: {said.rstrip('.')}{f' (SQLSTATE {code})' if code else ''}. {remedy}")


def _kind_of_code(code: str) -> tuple[type[SscdOpsError], str]:
    return _CODES.get(code) or _CODES.get(code[:2]) or _BROKEN


def _kind_of_text(
    said: str, error: BaseException | None, *, lost: bool
) -> tuple[type[SscdOpsError], str]:
    if not lost:
        for text, kind, remedy in _TEXTS:
            if text in said:
                return kind, remedy
    if lost or isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)):
        return CatalogUnavailable, f"Is the server up? {_CHECK_URL}"
    return _BROKEN
