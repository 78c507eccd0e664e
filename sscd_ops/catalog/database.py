"""The catalog's connections: transactions with timeouts, and what a lost server looks like.

SQL is written by hand and values are always bound. Nothing commits by itself: ``begin`` commits
when its block ends and rolls back when it raises, ``read`` never writes, and ``direct`` is for
session locks alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from sscd_ops.catalog.migrate import HEAD, current_revision, revisions
from sscd_ops.errors import CatalogUnavailable, ConfigError

_SHOWN = ("host", "port", "sslmode")
"""Of a URL's query; anything else may be a secret."""
LOCK_SECONDS = 60.0
IDLE_SECONDS = 60.0
_OLDEST = 140000

# What a connection attempt says when trying again cannot help. psycopg2 gives no code for these.
_MISCONFIGURED = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "invalid dsn",
)
# SQLSTATE classes and codes of what may work when tried again: connection lost, server shutting
# down or full, disk errors, a lock not granted, a deadlock, an idle transaction ended, a standby.
_PASSING = ("08", "40", "53", "57", "58", "55006", "55P03", "25P03", "25006")


class Catalog:
    """A Postgres database with the catalog's schema. Threads may share one; processes may not.

    Args:
        url: SQLAlchemy URL, ``postgresql+psycopg2://...`` (or ``postgresql://...``).
        lock_timeout: seconds a statement waits for a lock.
        idle_timeout: seconds the server lets a transaction stand idle before it ends the session,
            so that a host that died while it held a dataset's lock does not hold it for long.
        application_name: shown in ``pg_stat_activity``.

    Raises:
        ConfigError: the URL is not one of Postgres.
    """

    def __init__(
        self,
        url: str,
        *,
        lock_timeout: float = LOCK_SECONDS,
        idle_timeout: float = IDLE_SECONDS,
        application_name: str = "sscd-ops",
    ) -> None:
        self._url = checked_url(url)
        self._settings = {
            "TimeZone": "UTC",
            "lock_timeout": _milliseconds(lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(idle_timeout),
            # The server's side of keepalive: it lets go of a dead client's locks after a minute.
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
            # Compiling a plan over dozens of partitions costs more than the queries here.
            "jit": "off",
        }
        # every statement is written for this isolation, whatever the server's default is
        self.engine = self._make_engine(
            application_name, pool_pre_ping=True, isolation_level="READ COMMITTED"
        )
        self._sessions = self._make_engine(
            f"{application_name} session", poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )

    def _make_engine(self, application_name: str, **options: Any) -> Engine:
        engine = create_engine(
            self._url,
            connect_args={
                "application_name": application_name,
                "connect_timeout": 15,
                "keepalives": 1,
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "tcp_user_timeout": 60_000,
            },
            **options,
        )

        # SET rather than libpq's `options`: connection poolers refuse those.
        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            before = connection.autocommit
            connection.autocommit = True
            with connection.cursor() as cursor:
                for name, value in self._settings.items():
                    cursor.execute(f"SET {name} = %s", (value,))
            connection.autocommit = before

        return engine

    def __repr__(self) -> str:
        # a password may stand in the query too
        query = {name: self._url.query[name] for name in _SHOWN if name in self._url.query}
        return f"Catalog({self._url.set(query=query).render_as_string(hide_password=True)!r})"

    @property
    def url(self) -> str:
        """The SQLAlchemy URL with the password: never print it."""
        return str(self._url.render_as_string(hide_password=False))

    @contextmanager
    def begin(
        self, *, lock_timeout: float | None = None, idle_timeout: float | None = None
    ) -> Iterator[Connection]:
        """One READ COMMITTED transaction: committed at the end, rolled back by any exception.

        Args:
            lock_timeout: seconds, for this transaction alone; 0 waits for ever.
            idle_timeout: likewise.

        Raises:
            CatalogUnavailable: the server is away, ended the session, or a lock was not granted.
            ConfigError: the server refuses the user, password or database.
        """
        with self._mapped(), self.engine.begin() as conn:
            for name, value in (
                ("lock_timeout", lock_timeout),
                ("idle_in_transaction_session_timeout", idle_timeout),
            ):
                if value is not None:
                    conn.execute(text(f"SET LOCAL {name} = {_milliseconds(value)}"))
            yield conn

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction in which every statement sees the same moment.

        Raises:
            CatalogUnavailable: as ``begin``.
            ConfigError: as ``begin``.
        """
        with self._mapped(), self.engine.connect() as conn:
            conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with conn.begin():
                yield conn

    @contextmanager
    def direct(self, *, lock_timeout: float = 0.0) -> Iterator[Connection]:
        """A connection of its own, outside the pool, for session advisory locks; autocommit.

        Closing it lets its locks go. Idle it may stay for as long as a step takes.

        Args:
            lock_timeout: seconds a lock is waited for; 0: for ever.

        Raises:
            CatalogUnavailable: as ``begin``.
            ConfigError: as ``begin``.
        """
        with self._mapped(), self._sessions.connect() as conn:
            conn.execute(text(f"SET lock_timeout = {_milliseconds(lock_timeout)}"))
            yield conn

    def check_schema(self) -> None:
        """See that this database holds the catalog at the version of this release.

        Raises:
            ConfigError: another version, none, or a server that is too old; says what to do.
            CatalogUnavailable: the server is away.
        """
        with self.read() as conn:
            server = int(conn.execute(text("SHOW server_version_num")).scalar_one())
            current = current_revision(conn)
        if server < _OLDEST:
            raise ConfigError(
                f"{self!r}: Postgres {server // 10000} is too old: the catalog needs"
                f" {_OLDEST // 10000} or newer: upgrade the server or name another"
            )
        if current == HEAD:
            return
        if current is None:
            raise ConfigError(f"{self!r} has no catalog yet: run `sscd-ops db upgrade`")
        if current in revisions():
            raise ConfigError(
                f"{self!r} has schema version {current}, this release needs {HEAD}:"
                " run `sscd-ops db upgrade`"
            )
        raise ConfigError(
            f"{self!r} has schema version {current}, which this release ({HEAD}) does not know:"
            " install the release that wrote it, or a newer one"
        )

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if error.connection_invalidated or _is_passing(error.orig):
                raise self._translated(error.orig) from error
            raise
        except psycopg2.Error as error:  # from COPY, which goes past SQLAlchemy
            if _is_passing(error):
                raise self._translated(error) from error
            raise
        except PoolTimeout as error:
            raise CatalogUnavailable(f"{self!r}: no free connection in the pool") from error

    def _translated(self, error: BaseException | None) -> Exception:
        said = " ".join(str(error).split()) or type(error).__name__
        if getattr(error, "pgcode", None) is None and any(text in said for text in _MISCONFIGURED):
            return ConfigError(f"{self!r} refuses the connection: {said}. Check catalog.url")
        if getattr(error, "pgcode", None) is None:
            said += ". Is the server up, and catalog.url (or SSCD_OPS_DATABASE_URL) right?"
        return CatalogUnavailable(f"{self!r}: {said}")


def checked_url(url: str) -> Any:
    """The parsed URL of a Postgres database.

    Raises:
        ConfigError: it is none; the URL itself is not shown, as it may hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigError(
            "catalog.url (or SSCD_OPS_DATABASE_URL) is not the URL of a Postgres database: expected"
            " postgresql+psycopg2://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    return parsed.set(drivername="postgresql+psycopg2")


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _is_passing(error: BaseException | None) -> bool:
    code: str | None = getattr(error, "pgcode", None)
    if code is None:
        # an option that libpq does not know comes as the error of a program
        return isinstance(
            error, (psycopg2.OperationalError, psycopg2.InterfaceError)
        ) or "invalid dsn" in str(error)
    return code.startswith(_PASSING)
