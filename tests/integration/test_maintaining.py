"""``maintain``: lists, then compacts, expires, removes and verifies; a failure removes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sscd_ops.cli.context import user
from sscd_ops.cli.main import main
from sscd_ops.steps import maintaining
from sscd_ops.testing import picture
from tests.docs.printed import CONFIG
from tests.integration.world import (
    DATASET,
    World,
    assert_catalog_and_files_agree,
    assert_one_verdict_each,
    pair,
    plain,
)

DAYS = tuple(f"2026-11-{day:02d}" for day in range(1, 4))
DONE = ["compacted", "expired", "vacuumed"]
RETENTION = "[datasets.web.retention]\nsnapshots = 1\ngrace = 0\n"


@pytest.fixture
def kept(world: World) -> World:
    """Three small nights, of which the newest snapshot alone shall stay."""
    world.change(retention={"snapshots": 1, "grace": 0.0})
    for number, day in enumerate(DAYS):
        world.put(
            day, "a.tar", [pair(f"n{number}-{i}", picture(10 * number + i)) for i in range(2)]
        )
        world.night(day)
    (world.base / "curation.toml").write_text(
        CONFIG.replace('"root"', f'"{world.base}/root"').replace('"in/', f'"{world.incoming}/')
        + RETENTION
    )
    return world


def maintain(world: World, *options: str) -> Result:
    """The command, as it is typed."""
    return command(world, "maintain", "--dataset", DATASET, *options)


def command(world: World, *words: str) -> Result:
    config = str(world.base / "curation.toml")
    env = {"SSCD_OPS_CONFIG": config, "SSCD_OPS_DATABASE_URL": world.url}
    return CliRunner().invoke(main, words, env=env)


def everything(world: World) -> dict[str, Any]:
    """Every row of the catalog, and every file below the root."""
    root = world.base / "root"
    tables = world.ask("SELECT tablename AS t FROM pg_tables WHERE schemaname = 'sscd_ops'")
    rows = {
        table["t"]: sorted(
            str({name: plain(value) for name, value in row.items()})
            for row in world.ask(f"SELECT * FROM sscd_ops.{table['t']}")
        )
        for table in tables
    }
    files = {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {**rows, "files": files}


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(kept: World) -> None:
    before = everything(kept)

    said = maintain(kept, "--dry-run")

    assert said.exit_code == 0, said.output
    assert "compact: 3 segments of the index into 1" in said.output
    assert "compact: 3 shards into 1" in said.output
    assert "expire: 2 snapshots (retention.snapshots = 1): 1 ... 2" in said.output
    assert everything(kept) == before


def test_merging_segments_and_vacuum_say_what_they_would_do(kept: World) -> None:
    there = everything(kept)
    compact = ["index", "compact", "--dataset", DATASET]

    said = command(kept, *compact, "--dry-run")

    assert (said.exit_code, everything(kept)) == (0, there)
    assert said.output == "3 segments (1 ... 3) into one\n1 to write; nothing was done\n"
    assert command(kept, *compact).exit_code == 0
    assert command(kept, *compact, "--dry-run").output == "nothing to merge\n"
    assert command(kept, "vacuum", "--grace", "72h").output == (
        "web: 0 files (0 bytes) condemned, 0 files (0 bytes) removed\n"
    )


def test_it_keeps_what_it_should_and_a_second_time_nothing_is_left_to_do(kept: World) -> None:
    before = kept.ask("SELECT shard_key FROM curation.kept ORDER BY 1")

    said = maintain(kept)

    assert said.exit_code == 0, said.output
    assert "compact: 3 shards into 1\ncompact: snapshot 4 was made" in said.output
    assert "expire: 3 snapshots (retention.snapshots = 1): 1 ... 3" in said.output
    assert "verify: rows and files are as promised" in said.output
    events = kept.ask("SELECT kind, actor FROM curation.events WHERE kind = ANY(:k)", k=DONE)
    assert {(row["kind"], row["actor"]) for row in events} == {(kind, user()) for kind in DONE}
    assert kept.ask("SELECT shard_key FROM curation.kept ORDER BY 1") == before
    after = everything(kept)
    again = maintain(kept)
    assert again.exit_code == 0, again.output
    assert everything(kept) == after
    assert_one_verdict_each(kept, 6)
    assert_catalog_and_files_agree(kept)
    tars = sorted(kept.base.glob("root/web/shards/*/*.tar"))
    assert len(tars) == 1, "that of snapshot 4"


def test_where_compaction_fails_nothing_is_removed_and_what_is_wrong_is_said(kept: World) -> None:
    shard = next((kept.base / "root" / DATASET / "shards").glob("2026-11-03*")) / "00000.tar"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + b"x")

    said = maintain(kept)

    assert said.exit_code == 1
    assert "compact: 3 segments of the index into 1\ncompact: FAILED" in said.output
    assert "findings: 1\n" in said.output
    for task in maintaining.REMOVING:
        assert (
            f"{task}: FAILED: not begun, because compact failed: nothing is removed" in said.output
        )
    assert f"verify: {shard}" in said.output
    assert not kept.ask("SELECT 1 FROM curation.snapshots WHERE expired_at IS NOT NULL")
    shard.write_bytes(sound)
    assert maintain(kept).exit_code == 0


def test_a_dataset_that_the_configuration_lacks_is_told_before_anything_else(kept: World) -> None:
    for options in ([], ["--dry-run"]):
        said = maintain(kept, *options, "--dataset", "webb")

        assert said.exit_code == 2
        assert "it has: web" in said.output
        assert "would be done" not in said.output


def test_a_root_that_is_not_mounted_is_told_and_nothing_is_done(
    kept: World, tmp_path: Path
) -> None:
    root = kept.base / "root"
    root.rename(tmp_path / "away")
    root.mkdir()

    said = maintain(kept)

    assert said.exit_code == 1
    assert "is the disk of storage.root mounted" in said.output
    assert list(root.iterdir()) == []
