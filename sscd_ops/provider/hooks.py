"""The hook: a connection and the config file -> the joined parts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from sscd_ops.errors import ConfigError, SscdOpsError
from sscd_ops.masking import secrets_in
from sscd_ops.provider.info import CONNECTION_TYPE, DEFAULT_CONN_ID

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from sscd_ops.model import Runner
    from sscd_ops.options import Settings
    from sscd_ops.ports import Progress
    from sscd_ops.wiring import Wiring


class SscdOpsHook(BaseHook):
    """Catalog, storage and settings of a worker.

    Which catalog: the connection's, where it exists and has a host; else SSCD_OPS_DATABASE_URL;
    else the config file's ``catalog.url``. Which config file: ``config``, else the connection's
    ``config``, else SSCD_OPS_CONFIG.

    Args:
        conn_id: a connection of type ``sscd_ops``. The default one may be missing.
        config: path of the TOML file.
    """

    conn_name_attr = "conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONNECTION_TYPE
    hook_name = "SSCD curation"

    def __init__(self, conn_id: str = DEFAULT_CONN_ID, config: str = "") -> None:
        super().__init__()
        self.conn_id = conn_id
        self.config = config

    def get_conn(self) -> Wiring:
        """The joined parts, to be used as a context manager."""
        return self.wiring()

    def wiring(
        self,
        *,
        progress: Progress | None = None,
        ask_airflow: Callable[[Runner], bool | None] | None = None,
    ) -> Wiring:
        """The joined parts, to be used as a context manager.

        Raises:
            ConfigError: no config file is named, or it is wrong; the connection has something that
                would not be used.
        """
        from sscd_ops.wiring import Wiring

        conn = self._connection()
        settings, database_url = self.settings(conn), _database_url(conn, self.conn_id)
        _mask(database_url, os.environ.get("SSCD_OPS_DATABASE_URL"), settings.catalog.url)
        return Wiring(
            settings,
            database_url=database_url,
            allow_embedded=False,
            progress=progress,
            ask_airflow=ask_airflow,
        )

    def settings(self, conn: Connection | None = None) -> Settings:
        """The config file's settings; a faulty dataset is no reason to refuse the others."""
        from sscd_ops.config import load_settings

        extra = _extras(conn, f"Airflow connection {self.conn_id!r}") if conn is not None else {}
        path = self.config or extra.get("config") or os.environ.get("SSCD_OPS_CONFIG", "")
        if not path:
            raise ConfigError(
                "no config file is named: give the operator `config`, the connection"
                f" {self.conn_id!r} the extra `config`, or set SSCD_OPS_CONFIG"
            )
        return load_settings(path, tolerant=True)

    def test_connection(self) -> tuple[bool, str]:
        """Look at the database, its schema version, and whether the storage root can be written."""
        from sscd_ops.catalog.health import findings

        said: list[str] = []
        wrong: list[str] = []
        try:
            with self.wiring() as parts:
                said.append(f"database answers, schema version {_schema_version(parts)}")
                with parts.catalog.read() as database:
                    wrong = [what for _, what, good in findings(database) if not good]
                said += wrong
                said.append(parts.check_storage())
        except (SscdOpsError, OSError) as error:
            return False, "; ".join([*said, f"{type(error).__name__}: {error}"])
        return not wrong, "; ".join(said)

    def _connection(self) -> Connection | None:
        try:
            return self.get_connection(self.conn_id)
        except AirflowNotFoundException:
            if self.conn_id == DEFAULT_CONN_ID:
                return None
            raise


def _database_url(conn: Connection | None, conn_id: str) -> str | None:
    """A connection as a SQLAlchemy URL; None where it names no database (but maybe the config).

    Raises:
        ConfigError: something in it would be left unused, and so another database might be.
    """
    if conn is None:
        return None
    what = f"Airflow connection {conn_id!r}"
    if conn.conn_type not in (None, "", CONNECTION_TYPE, *_OF_POSTGRES):
        raise ConfigError(
            f"{what} is of type {conn.conn_type!r}: make it one of type {CONNECTION_TYPE!r}"
            " (or 'postgres')"
        )
    parameters = _parameters(conn, what)
    if not conn.host:
        fields = ("login", "password", "schema", "port")
        unused = [name for name in fields if getattr(conn, name)] + sorted(parameters)
        if unused:
            raise ConfigError(
                f"{what} has {', '.join(unused)}, but no host, so it names no database: give it"
                " the host (or the folder of a socket), or take these out to use"
                " SSCD_OPS_DATABASE_URL or catalog.url"
            )
        return None
    from sscd_ops.catalog.urls import checked_url, url_of

    try:
        url = url_of(
            user=conn.login or "",
            password=conn.password or "",
            host=conn.host,
            port=_port(conn.port),
            database=conn.schema or "catalog",
            parameters=parameters,
        )
    except ValueError as error:
        raise ConfigError(f"{what}: its host or port is wrong: {error}") from None
    checked_url(url, what)
    return url


def _port(port: Any) -> int | None:
    """A connection's port, which may be text where it came from JSON."""
    if port in (None, ""):
        return None
    if not str(port).isascii() or not str(port).isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{port!r} is no port")
    return int(port)


def _extras(conn: Connection, what: str) -> dict[str, Any]:
    """The connection's extra; Airflow takes one that cannot be read for an empty one.

    Raises:
        ConfigError: it is not a JSON object.
    """
    found: Any = None
    with suppress(ValueError):
        found = json.loads(conn.extra or "{}")
    if not isinstance(found, dict):  # not shown: it may hold a password
        raise ConfigError(
            f"{what}: its extra is not a JSON object, so nothing in it would be used: write it as"
            ' {"sslmode": "require"}'
        )
    return conn.extra_dejson


def _parameters(conn: Connection, what: str) -> dict[str, str]:
    """The extras as libpq's parameters; empty ones, which Airflow's form leaves, do not count."""
    from sscd_ops.catalog.urls import PARAMETERS

    found: dict[str, str] = {}
    for name, value in _extras(conn, what).items():
        if name == "config" or value is None or value == "":
            continue
        if name in _FIELDS:
            raise ConfigError(f"{what}: its extra {name!r} belongs into the field {_FIELDS[name]}")
        if name not in PARAMETERS or not isinstance(value, str | int):
            raise ConfigError(
                f"{what} has the extra {name!r} = {value!r}, which is not used: it may have"
                f" 'config', and parameters of a connection to Postgres:"
                f" {', '.join(sorted(PARAMETERS - set(_FIELDS)))}"
            )
        found[name] = str(int(value) if isinstance(value, bool) else value)
    return found


_OF_POSTGRES = ("postgres", "postgresql")
_FIELDS = {
    "host": "host",
    "port": "port",
    "user": "login",
    "password": "password",
    "dbname": "schema",
    "service": "host (a service file is not read)",
}
"""What the extras of a connection are not for, and where it belongs."""


def _mask(*urls: str | None) -> None:
    """Have Airflow take the secrets of database URLs out of its logs, whoever writes them there."""
    from airflow.sdk.log import mask_secret

    for secret in {secret for url in urls if url for secret in secrets_in(url)}:
        mask_secret(secret)


def _schema_version(parts: Wiring) -> str:
    from sscd_ops.catalog.migrate import status

    parts.catalog.check_schema()
    return str(status(parts.database_url)[0])
