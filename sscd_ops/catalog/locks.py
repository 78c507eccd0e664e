"""Session advisory locks: who works on a batch, for as long as its process and session live.

The session may end before the process does: by a fail-over, a pooler's or firewall's timeout,
``pg_terminate_backend``. Then the server has let the locks go and nobody here was told; so whoever
holds locks for long asks ``keep`` before it goes on.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sscd_ops.errors import CatalogUnavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from sscd_ops.catalog.database import Catalog

log = logging.getLogger(__name__)

CLI_LOCK = 0x5CD0
"""First key of the lock that a command holds on the batch it runs."""
RESOLVE_LOCK = 0x5CD1
"""First key of the lock that lets one process at a time decide a batch."""
LINE = 0x5CD3
"""First key of the lock on a dataset that one takes who lost too often; the others wait for it."""
VACUUM_LOCK = 0x5CD4
"""First key of the lock that transactions share which come to name files; the second is 0."""


def may_pass(conn: Connection, dataset_id: int) -> bool:
    """Whether nobody has the dataset's ``LINE``; then nobody gets it in this transaction."""
    found = conn.execute(
        text("SELECT pg_try_advisory_xact_lock_shared(:k, CAST(:n AS int))"),
        {"k": LINE, "n": dataset_id},
    )
    return bool(found.scalar())


class LockSession:
    """One connection for locks, made at the first lock, and made anew where it was lost.

    Not for several threads.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._open = ExitStack()
        self._conn: Connection | None = None
        self._backend: dict[str, Any] = {}
        """Process number and start of the server's side, also of a connection that was lost."""
        self._held: list[tuple[int, int, float | None]] = []
        """Both keys of each lock, and how long it was waited for."""

    @property
    def count(self) -> int:
        """How many locks were taken."""
        return len(self._held)

    def take(self, key: int, number: int, wait: float | None = None) -> bool:
        """Take a lock.

        Args:
            key: the first key: which kind of lock.
            number: the second key: whose.
            wait: seconds to wait for it; None: not at all.

        Returns:
            False where another session has it, and it was not waited for.

        Raises:
            CatalogUnavailable: it was not granted in time, or the server is away.
        """
        with self._catalog.mapped():
            if not self._lock(key, number, wait):
                return False
        self._held.append((key, number, wait))
        return True

    def release(self, count: int) -> None:
        """Let all locks go but the first ``count`` that were taken."""
        gone, self._held = self._held[count:], self._held[:count]
        if not self._held:
            self._close()  # and they are gone
            return
        try:
            with self._catalog.mapped():
                for key, number, _ in gone:
                    self._ask("SELECT pg_advisory_unlock(:k, CAST(:n AS int))", k=key, n=number)
        except CatalogUnavailable:
            log.debug("the lock session was lost before its locks were let go")

    def keep(self) -> bool:
        """See that every lock is still held, and take those again that were lost.

        Returns:
            False where another session has one of them by now.

        Raises:
            CatalogUnavailable: as ``take``.
        """
        if self._has_all():
            return True
        log.warning("the session that held this command's locks was ended: taking them again")
        lost = self._backend
        self._close()
        with self._catalog.mapped():
            # behind a broken path the server's side may live on, and keep them, for a minute
            self._ask(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE pid = :pid AND backend_start = :backend_start",
                **lost,
            )
            return all(self._lock(*lock) for lock in self._held)

    def _lock(self, key: int, number: int, wait: float | None) -> bool:
        if wait is None:
            taken = "SELECT pg_try_advisory_lock(:k, CAST(:n AS int))"
            return bool(self._ask(taken, k=key, n=number))
        self._ask("SELECT set_config('lock_timeout', :t, false)", t=str(round(wait * 1000)))
        self._ask("SELECT pg_advisory_lock(:k, CAST(:n AS int))", k=key, n=number)
        return True

    def _has_all(self) -> bool:
        if not self._held:
            return True
        if self._conn is None:
            return False
        try:
            with self._catalog.mapped():
                found = self._ask(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                    " AND pid = pg_backend_pid()"
                )
        except CatalogUnavailable:
            return False
        return int(found) == len({lock[:2] for lock in self._held})

    def _ask(self, sql: str, **parameters: Any) -> Any:
        if self._conn is None:
            self._conn = self._open.enter_context(self._catalog.direct())
            whose = text(
                "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            )
            self._backend = dict(self._conn.execute(whose).mappings().one())
        try:
            return self._conn.execute(text(sql), parameters).scalar()
        except DBAPIError as error:
            if error.connection_invalidated:
                self._close()  # nothing more can be asked of it; the next question makes another
            raise

    def _close(self) -> None:
        self._conn = None
        self._open.close()
