"""The hook: a connection and the config file -> the joined parts."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

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

    Which catalog: the connection's host, where the connection exists; else SSCD_OPS_DATABASE_URL;
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
            ConfigError: no config file is named, or it is wrong.
        """
        from sscd_ops.wiring import Wiring

        conn = self._connection()
        settings, database_url = self.settings(conn), _database_url(conn)
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

        extra = conn.extra_dejson if conn is not None else {}
        path = self.config or extra.get("config") or os.environ.get("SSCD_OPS_CONFIG", "")
        if not path:
            raise ConfigError(
                "no config file is named: give the operator `config`, the connection"
                f" {self.conn_id!r} the extra `config`, or set SSCD_OPS_CONFIG"
            )
        return load_settings(path, tolerant=True)

    def test_connection(self) -> tuple[bool, str]:
        """Look at the database, its schema version, and whether the storage root can be written."""
        said = []
        try:
            with self.wiring() as parts:
                said.append(f"database answers, schema version {_schema_version(parts)}")
                said.append(parts.check_storage())
        except (SscdOpsError, OSError) as error:
            return False, "; ".join([*said, f"{type(error).__name__}: {error}"])
        return True, "; ".join(said)

    def _connection(self) -> Connection | None:
        try:
            return self.get_connection(self.conn_id)
        except AirflowNotFoundException:
            if self.conn_id == DEFAULT_CONN_ID:
                return None
            raise


def _database_url(conn: Connection | None) -> str | None:
    """A connection as a SQLAlchemy URL; None where it has no host (it may just name the config)."""
    if conn is None or not conn.host:
        return None
    from sqlalchemy.engine import URL

    sslmode = conn.extra_dejson.get("sslmode")
    url = URL.create(
        "postgresql+psycopg2",
        username=conn.login or None,
        password=conn.password or None,
        host=conn.host,
        port=conn.port,
        database=conn.schema or "catalog",
        query={"sslmode": sslmode} if sslmode else {},
    )
    return url.render_as_string(hide_password=False)


def _mask(*urls: str | None) -> None:
    """Have Airflow take the secrets of database URLs out of its logs, whoever writes them there."""
    from airflow.sdk.log import mask_secret

    for secret in {secret for url in urls if url for secret in secrets_in(url)}:
        mask_secret(secret)


def _schema_version(parts: Wiring) -> str:
    from sscd_ops.catalog.migrate import status

    parts.catalog.check_schema()
    return str(status(parts.database_url)[0])
