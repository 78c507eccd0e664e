"""Create the private tables, the image partitions, the public views and the auditor role."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_HERE = Path(__file__).parent
_VIEWS = _HERE.parent.parent / "views"
# For ever: rows are not moved between hash partitions.
_IMAGE_PARTITIONS = 16

# A view's file is never edited once released: a change is a new file and a new migration.
_VIEW_FILES: tuple[str, ...] = (
    "private_v1",
    "configs_v1",
    "events_v1",
    "runs_v1",
    "run_sources_v1",
    "samples_v1",
    "removed_v1",
    "kept_v1",
    "quarantined_v1",
    "shards_v1",
    "snapshots_v1",
    "snapshot_tags_v1",
    "orders_v1",
    "order_subjects_v1",
    "receipts_v1",
    "snapshot_users_v1",
    "decisions_v1",
    "verdicts_v1",
    "grants_v1",
)


def upgrade() -> None:
    """Make everything. There is no way back: that would be dropping the schemas by hand."""
    _run(_HERE / "0001_tables.sql")
    for part in range(_IMAGE_PARTITIONS):
        op.get_bind().exec_driver_sql(
            f"CREATE TABLE sscd_ops.images_{part:02d} PARTITION OF sscd_ops.images"
            f" FOR VALUES WITH (MODULUS {_IMAGE_PARTITIONS}, REMAINDER {part})"
        )
    for name in _VIEW_FILES:
        _run(_VIEWS / f"{name}.sql")


def _run(path: Path) -> None:
    # No parameters: exec_driver_sql then leaves % and : alone.
    op.get_bind().exec_driver_sql(path.read_text(encoding="utf-8"))
