"""Make the private tables."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

IMAGE_PARTITIONS = 16
"""For ever: rows are not moved between hash partitions."""


def upgrade() -> None:
    """Run 0001_tables.sql and make the hash partitions of ``images``."""
    connection = op.get_bind()
    connection.exec_driver_sql(Path(__file__).with_name("0001_tables.sql").read_text())
    for number in range(IMAGE_PARTITIONS):
        connection.exec_driver_sql(
            f"CREATE TABLE sscd_ops.images_{number:02} PARTITION OF sscd_ops.images"
            f" FOR VALUES WITH (MODULUS {IMAGE_PARTITIONS}, REMAINDER {number})"
        )
