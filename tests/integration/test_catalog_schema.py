"""Versions of the schema, the public views and who may read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from sscd_ops.catalog import migrate, versions
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.migrate import status, upgrade
from sscd_ops.errors import ConfigError
from tests.databases import superuser

COLUMNS = {
    "runs": "dataset, batch_id, interval_start, interval_end, supplement, turn, state, read, kept,"
    " removed_exact, removed_near, quarantined, withdrawn, known, not_delivered, source_shards,"
    " skipped_shards, shards, published_bytes, started_at, finished_at, seconds, fingerprint,"
    " search, threshold, config_sha256, message",
    "run_sources": "dataset, batch_id, source, turn, read, kept, removed_exact, removed_near,"
    " quarantined, withdrawn",
    "samples": "dataset, batch_id, sample_id, source, source_shard, key, image_sha256, width,"
    " height, format, bytes, caption, meta, verdict, reason, witness_sample_id, similarity,"
    " threshold, turn, decided_at",
    "shards": "dataset, shard, form, snapshot_from, snapshot_to, samples, bytes, sha256, batch_id",
    "snapshots": "dataset, snapshot, created_at, samples, shards, bytes, parent, turn, batch_id",
    "snapshot_tags": "dataset, snapshot, name, keep_until, actor, why, at",
    "snapshot_users": "dataset, snapshot, run, actor, at",
    "orders": "dataset, order_id, verb, scope, of_order, state, turn, turn_to, named, changed",
    "order_subjects": "dataset, order_id, kind, value, digest, is_rule",
    "receipts": "dataset, receipt_id, number, kind, order_id, at, sha256, body, is_erased",
    "events": "event_id, at, dataset, turn, kind, actor, why, sample_id, batch_id, details",
    "configs": "config_sha256, dataset, turn, at, config",
    "decisions": "dataset, turn, decision_id, kind, batch_id, actor, why, decided_at, generation,"
    " config_sha256, changes",
    "verdicts": "dataset, sample_id, turn, kind, verdict, reason, witness_sample_id, similarity,"
    " threshold, decision_id, batch_id, decided_at",
}
COLUMNS["removed"] = COLUMNS["samples"] + (
    ", witness_source, witness_source_shard, witness_key, witness_caption, witness_batch_id,"
    " witness_dataset, witness_shard, recoverable, source_seen_at"
)
COLUMNS["kept"] = COLUMNS["samples"] + ", shard, shard_key"
COLUMNS["quarantined"] = COLUMNS["samples"] + ", message"


def columns(catalog: Catalog, view: str) -> list[tuple[str, str | None]]:
    with catalog.read() as conn:
        return [
            tuple(row)
            for row in conn.execute(
                text(
                    "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute"
                    " WHERE attrelid = CAST(:v AS regclass) AND attnum > 0 ORDER BY attnum"
                ),
                {"v": f"curation.{view}"},
            )
        ]


def test_an_empty_database_gets_the_catalog_and_a_second_upgrade_changes_nothing(
    empty_url: str,
) -> None:
    assert migrate.status(empty_url) == (None, versions.HEAD)

    migrate.upgrade(empty_url)
    migrate.upgrade(empty_url)

    assert migrate.status(empty_url) == (versions.HEAD, versions.HEAD)


def test_the_written_out_head_is_the_newest_migration() -> None:
    assert versions.revisions()[0] == versions.HEAD


def test_two_upgrades_at_once_both_end_well(empty_url: str) -> None:
    program = f"from sscd_ops.catalog.migrate import upgrade; upgrade({empty_url!r})"
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]

    assert [process.wait(60) for process in running] == [0, 0]
    assert migrate.status(empty_url) == (versions.HEAD, versions.HEAD)


@pytest.mark.parametrize(
    "there",
    [
        ["CREATE SCHEMA curation"],
        ["CREATE SCHEMA curation", "CREATE TABLE curation.runs (mlflow int)"],
        ["CREATE SCHEMA sscd_ops", "CREATE TABLE sscd_ops.batches (somebody int)"],
        ["CREATE SCHEMA sscd_ops", "CREATE VIEW sscd_ops.v AS SELECT 1", "CREATE SCHEMA curation"],
    ],
)
def test_what_somebody_else_keeps_under_a_catalog_s_name_is_told_and_the_remedy_works(
    empty_url: str, there: list[str]
) -> None:
    superuser(empty_url, *there)
    with pytest.raises(ConfigError, match="something else in schema") as caught:
        upgrade(empty_url)

    moved = str(caught.value).partition("move it: ")[2].partition(".")[0]
    superuser(empty_url, *moved.split("; "))
    upgrade(empty_url)

    assert status(empty_url) == (versions.HEAD, versions.HEAD)


def test_a_catalog_that_lost_its_version_is_not_made_anew_over_its_tables(
    catalog: Catalog,
) -> None:
    superuser(catalog.url, "DELETE FROM sscd_ops.schema_version")

    with pytest.raises(ConfigError, match=r"curation and sscd_ops.*restore the last backup"):
        upgrade(catalog.url)


def test_an_upgrade_that_fails_leaves_nothing_behind(
    empty_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "migrations"
    (broken / "versions").mkdir(parents=True)
    here = Path(migrate.__file__).parent / "migrations"
    (broken / "env.py").write_text((here / "env.py").read_text())
    (broken / "script.py.mako").write_text("")
    (broken / "versions" / "0001_fails.py").write_text(
        "from alembic import op\nrevision, down_revision = '0001', None\n"
        "def upgrade():\n    op.execute('CREATE TABLE sscd_ops.half (x int); SELECT 1 / 0')\n"
    )
    monkeypatch.setattr(versions, "_LOCATION", broken)

    with pytest.raises(Exception, match="division by zero"):
        migrate.upgrade(empty_url)

    assert migrate.status(empty_url)[0] is None
    catalog = Catalog(empty_url)
    with catalog.read() as conn:
        assert conn.execute(text("SELECT to_regnamespace('sscd_ops')")).scalar() is None
    catalog.dispose()


def test_a_database_without_a_catalog_is_refused_with_the_remedy(empty_url: str) -> None:
    catalog = Catalog(empty_url)

    with pytest.raises(ConfigError, match="sscd-ops db upgrade"):
        catalog.check_schema()

    catalog.dispose()


def test_a_catalog_of_a_newer_release_is_refused_by_both(catalog: Catalog) -> None:
    catalog.check_schema()
    with catalog.begin() as conn:
        conn.execute(text("UPDATE sscd_ops.schema_version SET version_num = '9999'"))

    with pytest.raises(ConfigError, match=r"9999.*does not know.*release"):
        catalog.check_schema()
    with pytest.raises(ConfigError, match=r"9999.*does not know.*release"):
        migrate.upgrade(catalog.url)


@pytest.mark.parametrize("view", sorted(COLUMNS))
def test_a_view_begins_with_the_documented_columns_and_all_are_commented(
    catalog: Catalog, view: str
) -> None:
    documented = COLUMNS[view].split(", ")

    found = columns(catalog, view)

    assert [name for name, _ in found][: len(documented)] == documented
    assert [name for name, comment in found if not comment] == []


def test_there_are_no_other_views_and_each_is_commented(catalog: Catalog) -> None:
    with catalog.read() as conn:
        found = conn.execute(
            text(
                "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class"
                " WHERE relnamespace = to_regnamespace('curation')"
            )
        ).all()

    assert sorted(name for name, _ in found) == sorted(COLUMNS)
    assert [name for name, comment in found if not comment] == []


def test_every_view_is_made_by_its_own_versioned_file() -> None:
    folder = Path(migrate.__file__).parent / "views"

    names = {path.stem.rpartition("_v")[0] for path in folder.glob("*.sql")}

    assert names - {"grants", "private"} == set(COLUMNS)


def test_the_auditor_reads_every_view_and_nothing_else(catalog: Catalog) -> None:
    def as_auditor(sql: str) -> None:
        with catalog.begin() as conn:
            conn.execute(text("SET LOCAL ROLE sscd_ops_auditor"))
            conn.execute(text(sql))

    for view in COLUMNS:
        as_auditor(f"SELECT * FROM curation.{view}")

    with catalog.read() as conn:
        tables = conn.execute(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('sscd_ops')"
                " AND relkind IN ('r', 'p', 'v')"
            )
        ).scalars()
        private = [f"sscd_ops.{name}" for name in tables]
    assert len(private) > 20
    for refused in [f"SELECT * FROM {name}" for name in private] + [
        "CREATE TABLE public.mine (x int)",
        "CREATE VIEW curation.mine AS SELECT 1",
    ]:
        with pytest.raises(ConfigError, match="permission denied"):
            as_auditor(refused)


def test_a_user_who_may_not_create_roles_can_still_upgrade(empty_url: str) -> None:
    owner = Catalog(empty_url)
    with owner.begin() as conn:
        conn.execute(text("CREATE ROLE plain LOGIN PASSWORD 'plain'"))
        name = conn.execute(text("SELECT current_database()")).scalar_one()
        conn.execute(text(f"GRANT CREATE ON DATABASE {name} TO plain"))
    url = owner.engine.url.set(username="plain", password="plain")

    try:
        migrate.upgrade(url.render_as_string(hide_password=False))

        assert migrate.status(empty_url)[0] == versions.HEAD
    finally:
        with owner.begin() as conn:
            conn.execute(text("DROP OWNED BY plain; DROP ROLE plain"))
        owner.dispose()
