"""Alembic's environment: runs inside the transaction and under the lock of ``migrate.upgrade``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from sscd_ops.catalog.revisions import VERSION_TABLE

connection = context.config.attributes["connection"]
connection.execute(text("CREATE SCHEMA IF NOT EXISTS sscd_ops"))
context.configure(
    connection=connection, version_table=VERSION_TABLE, version_table_schema="sscd_ops"
)
context.run_migrations()
