"""The catalog's connections: transactions with timeouts, and what a lost server looks like.

SQL is written by hand and values are always bound. Nothing commits by itself: ``begin`` commits
when its block ends and rolls back when it raises, ``read`` never writes, and ``locks`` holds what
outlives a transaction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from sscd_ops.catalog import faults
from sscd_ops.catalog.locks import LockSession
from sscd_ops.catalog.naming import HAS_FILE
from sscd_ops.catalog.sessions import open_engine
from sscd_ops.catalog.urls import checked_url, shown
from sscd_ops.catalog.versions import HEAD, current_revision, revisions
from sscd_ops.errors import CatalogUnavailable, ConfigError

LOCK_SECONDS = 60.0
IDLE_SECONDS = 60.0
_OLDEST = 140000


class Catalog:
    """A Postgres database with the catalog's schema. Threads may share one; processes may not.

    Args:
        url: SQLAlchemy URL, ``postgresql+psycopg2://...`` (or ``postgresql://...``).
        lock_timeout: seconds a statement waits for a lock.
        idle_timeout: seconds the server lets a transaction stand idle before it ends the session,
            so that a host that died while it held a dataset's lock does not hold it for long.
        application_name: shown in ``pg_stat_activity``.
        has_file: whether there is a file of a name below the storage root: asked where a row comes
            to name one that `vacuum` may have removed. None: it counts as removed.

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
        has_file: Callable[[str], bool] | None = None,
    ) -> None:
        self._url = checked_url(url)
        self._max_connections = 0
        self._local = threading.local()
        settings = {
            "lock_timeout": _milliseconds(lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(idle_timeout),
        }
        # Every statement is written for this isolation, whatever the server's default is. One
        # connection stays open; more are for a transaction within another, and close behind it.
        self.engine = open_engine(
            self._url,
            application_name=application_name,
            settings=settings,
            pool_pre_ping=True,
            pool_size=1,
            max_overflow=8,
            isolation_level="READ COMMITTED",
            execution_options={HAS_FILE: has_file},
        )
        self._sessions = open_engine(
            self._url,
            application_name=f"{application_name} session",
            settings=settings,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
        )

    def __repr__(self) -> str:
        return f"Catalog({shown(self._url)!r})"

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
        with self.mapped(), self.engine.begin() as conn:
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
        with self.mapped(), self.engine.connect() as conn:
            conn.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with conn.begin():
                yield conn

    @contextmanager
    def direct(self, *, lock_timeout: float = 0.0) -> Iterator[Connection]:
        """A connection of its own, outside the pool, for what needs a session; autocommit.

        Idle it may stay for as long as a step takes.

        Args:
            lock_timeout: seconds a lock is waited for; 0: for ever.

        Raises:
            CatalogUnavailable: as ``begin``.
            ConfigError: as ``begin``.
        """
        with self.mapped(), self._sessions.connect() as conn:
            conn.execute(text(f"SET lock_timeout = {_milliseconds(lock_timeout)}"))
            yield conn

    @contextmanager
    def locks(self) -> Iterator[LockSession]:
        """The session for advisory locks; those taken inside are let go at the end.

        Inside another ``locks`` of the thread it is the same one: a command needs one connection
        for all its locks.
        """
        outer: LockSession | None = getattr(self._local, "locks", None)
        session = outer or LockSession(self)
        before = session.count
        self._local.locks = session
        try:
            yield session
        finally:
            self._local.locks = outer
            session.release(before)

    def check_server(self) -> None:
        """See that this server can hold a catalog.

        Raises:
            ConfigError: it is too old, or cannot be connected to as ``open_engine`` needs.
            CatalogUnavailable: the server is away, or a standby, which may become the primary.
        """
        with self.read() as conn:
            version, self._max_connections, standby = conn.execute(
                text(
                    "SELECT current_setting('server_version_num')::int,"
                    " current_setting('max_connections')::int, pg_is_in_recovery()"
                )
            ).one()
        if version < _OLDEST:
            raise ConfigError(
                f"{self!r}: Postgres {version // 10000} is too old: the catalog needs"
                f" {_OLDEST // 10000} or newer: upgrade the server or name another"
            )
        if standby:
            raise CatalogUnavailable(f"{self!r}: {faults.STANDBY}")

    def check_schema(self) -> None:
        """See that this database holds the catalog at the version of this release, and ours to use.

        Raises:
            ConfigError: another version, none, another role's, or a server or pooler that cannot
                hold it; says what to do.
            CatalogUnavailable: the server is away.
        """
        self.check_server()
        with self.read() as conn:
            owners = conn.execute(_FOREIGN_OWNERS).scalars().all()
            if owners:
                role = conn.execute(text("SELECT current_user")).scalar()
                raise ConfigError(
                    f"{self!r}: the catalog's tables belong to {', '.join(owners)}, and role"
                    f" {role} may not act as that: connect as {owners[0]}, or, as a superuser:"
                    f' GRANT "{owners[0]}" TO "{role}"; ALTER ROLE "{role}" SET role ='
                    f' "{owners[0]}"'
                )
            current = current_revision(conn)
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

    def mapped(self) -> AbstractContextManager[None]:
        """Errors of the database inside, as ours (``faults.mapped``)."""
        return faults.mapped(repr(self), self._max_connections)


# Asked of the system tables, which everybody may read.
_FOREIGN_OWNERS = text(
    "SELECT DISTINCT pg_get_userbyid(owner) FROM ("
    " SELECT oid, nspowner FROM pg_namespace UNION ALL"
    " SELECT relnamespace, relowner FROM pg_class WHERE relkind IN ('r', 'p')) o(schema, owner)"
    " JOIN pg_namespace n ON n.oid = o.schema"
    " WHERE n.nspname = 'sscd_ops' AND NOT pg_has_role(owner, 'USAGE') ORDER BY 1"
)


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
