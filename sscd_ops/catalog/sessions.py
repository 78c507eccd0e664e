"""How every connection to the catalog is made, and the settings that it gets.

What a role, a database, the server's file or the environment (PGOPTIONS, PGCLIENTENCODING ...) say
of a session must not change what a night answers. So each connection is set, where it begins, to
the values that this code was written and tested for. They are set by a statement: a pooler refuses
libpq's ``options``, and the statement comes last, so it counts.

``standard_conforming_strings`` is left alone: psycopg2 looks at it when it connects and quotes by
what it found, so setting it afterwards is what would ruin values. No statement here has a backslash
in a literal.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import psycopg2
from sqlalchemy import create_engine, event
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import ArgumentError

from sscd_ops.catalog.urls import CONFIGURED, shown
from sscd_ops.errors import ConfigError

ENCODING = "UTF8"

SETTINGS: Mapping[str, str] = {
    # what text means, and how values are written as text and read from it
    "client_encoding": ENCODING,
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "transform_null_equals": "off",
    # which tables and rows are meant: all names are qualified; hidden rows are an error
    "search_path": "pg_catalog, pg_temp",
    "row_security": "off",
    "session_replication_role": "origin",
    "restrict_nonsystem_relation_kind": "",
    # damaged pages are an error, not rows that are missing
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
    "exit_on_error": "off",
    # transactions
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # how long things may take is said where they are done
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    # The server's side of keepalive: it lets go of a dead client's locks after a minute.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    # Compiling a plan over dozens of partitions costs more than the queries here.
    "jit": "off",
}
"""Of every session, where its server has the setting: numbers in the setting's unit."""

# What would end or mislead the statements that set the rest, and since which server it is there.
_FIRST = {
    "transaction_timeout": 170000,
    "idle_session_timeout": 140000,
    "statement_timeout": 0,
    "search_path": 0,
}
_BEGINNINGS = 20
"""Tries at these: a short timeout of the role's holds for the statements that set it, and where it
runs out as they end, Postgres cuts off the one after them."""
# A commit that is answered must last; that it lasts on more servers than one is theirs to say.
_SYNCHRONOUS = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') = 'off'"
)
_DIFFERENT = (
    " FROM unnest(%s::text[], %s::text[]) w(name, value)"
    " JOIN pg_catalog.pg_settings s ON s.name = w.name AND s.setting IS DISTINCT FROM w.value"
)
# Setting what is set already would need the right to set it, which some are a superuser's.
_SET = f"SELECT set_config(s.name, w.value, false){_DIFFERENT}"
_OURS = " AND s.context = 'user'"


def open_engine(
    url: URL, *, application_name: str, settings: Mapping[str, str] | None = None, **options: Any
) -> Engine:
    """An engine all of whose connections have ``SETTINGS``.

    Args:
        url: from ``checked_url``; what it says of the connection goes before what is said here.
        application_name: shown in ``pg_stat_activity``.
        settings: further ones, as ``SETTINGS``.
        options: SQLAlchemy's.

    Raises:
        ConfigError: the URL's hosts and ports do not fit; on connecting: the database's encoding
            is not UTF8, a pooler between pools by transaction, or a setting may not be set.
    """
    begin = _Beginning(url, application_name, {**SETTINGS, **(settings or {})})
    try:
        engine = create_engine(
            url, connect_args=begin.arguments, use_native_hstore=False, **options
        )
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"{CONFIGURED}: {error}") from None
    # before SQLAlchemy's own first queries: a timeout of the role's would end those
    event.listen(engine.pool, "connect", begin, insert=True)
    return engine


class _Beginning:
    """What happens to a new connection, before anything else does."""

    def __init__(self, url: URL, application_name: str, settings: Mapping[str, str]) -> None:
        self._url = url
        self._settings = list(settings), list(settings.values())
        self._is_pooler_known = False
        arguments: dict[str, Any] = {
            "application_name": application_name,
            "connect_timeout": 15,
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
        }
        self.arguments = {
            **{name: value for name, value in arguments.items() if name not in url.query},
            "client_encoding": ENCODING,
        }

    def __call__(self, connection: Any, _record: object) -> None:
        self._check_encoding(connection)
        connection.set_client_encoding(ENCODING)
        before = connection.autocommit
        connection.autocommit = True
        with connection.cursor() as cursor:
            known = (name for name, since in _FIRST.items() if connection.server_version >= since)
            first = "; ".join(f"SET {name} = {SETTINGS[name]}" for name in known)
            for tries in range(1, _BEGINNINGS + 1):
                try:
                    cursor.execute(first)
                    cursor.execute(_SYNCHRONOUS)
                    break
                except psycopg2.errors.QueryCanceled:
                    if tries == _BEGINNINGS:
                        raise
            if not self._is_pooler_known:
                self._check_pooler(connection)
            cursor.execute(_SET + _OURS, self._settings)
            self._set_superuser_s(cursor)
        connection.autocommit = before

    def _set_superuser_s(self, cursor: Any) -> None:
        try:
            cursor.execute(_SET, self._settings)
        except psycopg2.errors.InsufficientPrivilege:
            cursor.execute(f"SELECT s.name || ' = ' || s.setting{_DIFFERENT}", self._settings)
            found = ", ".join(sorted(name for (name,) in cursor.fetchall()))
            raise ConfigError(
                f"{shown(self._url)}: the server, the database or the role sets {found}, which"
                " changes what is read, and this role may not set it back: RESET it there (ALTER"
                " ROLE role RESET name; ALTER DATABASE database RESET name; ALTER SYSTEM RESET"
                " name)"
            ) from None

    def _check_encoding(self, connection: Any) -> None:
        found = connection.info.parameter_status("server_encoding")
        if found != ENCODING:
            raise ConfigError(
                f"{shown(self._url)}: the database stores text as {found}, and captions need"
                f" {ENCODING}. Make another and name it in catalog.url: CREATE DATABASE name"
                f" ENCODING '{ENCODING}' LOCALE 'C' TEMPLATE template0"
            )

    def _check_pooler(self, connection: Any) -> None:
        """A pooler greets with a process number of its own; then see how it pools."""
        if connection.info.backend_pid != _ask(connection, "SELECT pg_backend_pid()")[0]:
            dialect = PGDialect_psycopg2()  # type: ignore[no-untyped-call]
            _, parameters = dialect.create_connect_args(self._url)  # type: ignore[no-untyped-call]
            other = psycopg2.connect(**{**parameters, **self.arguments})
            other.autocommit = True
            try:
                shared = is_shared(connection, other)
            finally:
                other.close()
            if shared:
                raise ConfigError(
                    f"{shown(self._url)}: a pooler is between that pools by transaction, so session"
                    " locks and settings go to whoever comes next: let it pool by session for this"
                    " database (pgbouncer: pool_mode = session), or name the server itself"
                )
        self._is_pooler_known = True


def is_shared(one: Any, other: Any) -> bool:
    """Whether two of psycopg2's connections, both in autocommit, are given one session in turn."""
    for this, that in ((one, other), (other, one)):
        mark = secrets.token_hex(8)
        (pid,) = _ask(this, _MARK, mark)
        if _ask(that, _SEEN) in ((mark, pid), ("", pid)) or _ask(this, _SEEN) != (mark, pid):
            return True
    return False


_MARK = "SELECT pg_backend_pid() FROM set_config('sscd_ops.session', %s, false)"
_SEEN = "SELECT coalesce(current_setting('sscd_ops.session', true), ''), pg_backend_pid()"


def _ask(connection: Any, sql: str, *parameters: str) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return tuple(cursor.fetchone())
