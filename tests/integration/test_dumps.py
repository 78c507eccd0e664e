"""A dump of the catalog; what is told and done where catalog and files are of two ages."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from sscd_ops.catalog import embedded
from sscd_ops.catalog.dumps import DUMP_FLAGS, RESTORE_FLAGS, _Programs, dump, restore
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.errors import CatalogBehind, CatalogUnavailable, UsageError
from sscd_ops.steps import commit, publish, resolve
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.steps.working import Worked
from tests.integration.remedies import commands_in, run_command
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_promises


@pytest.fixture
def first(world: World) -> World:
    """A dataset after its first night, with files for two more."""
    for start, day in zip((0, 9, 18), DAYS, strict=False):
        world.put(day, "a.tar", clouds(range(start, start + 9)))
    world.night(DAYS[0])
    return world


def dumped(world: World) -> Path:
    file = world.base / "catalog.dump"
    dump(world.url, file)
    return file


def found(world: World) -> list[str]:
    with world.parts() as parts:
        return [str(each) for each in verify_catalog(parts, DATASET)]


# ---------------------------------------------------------------- there and back


def test_a_restored_catalog_is_the_one_that_was_dumped(first: World, empty_url: str) -> None:
    file = dumped(first)
    before = first.views(set())
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match=r"has rows.*db restore .* --replace"):
        restore(first.url, file)

    restore(empty_url, file)
    upgrade(empty_url)
    first.url = empty_url

    assert first.views(set()) == before
    first.night(DAYS[1])
    assert_promises(first, read=18)
    # what a forgotten row had is no number of another one
    shards = first.ask("SELECT shard_id FROM sscd_ops.source_shards ORDER BY 1")
    assert shards[1]["shard_id"] > 1_000_000


def test_what_the_docs_say_to_do_by_hand_is_the_same(first: World, empty_url: str) -> None:
    """The two commands of the docs, letter by letter, for a database of their own."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    before = first.views(set())
    for program, url in (("pg_dump", first.url), ("pg_restore", empty_url)):
        (line,) = [line for line in page.splitlines() if line.startswith(f"{program} --")]
        programs = _Programs.of(url)
        words = [
            word.replace("DATABASE", programs.database).replace(
                "catalog.dump", str(first.base / "catalog.dump")
            )
            for word in line.split()
        ]
        flags = DUMP_FLAGS if program == "pg_dump" else RESTORE_FLAGS
        assert set(flags) <= set(words)
        programs.run(program, *words[1:])
    first.url = empty_url
    run_command(first, "db upgrade")

    assert first.views(set()) == before
    first.night(DAYS[1])
    assert_promises(first, read=18)


def test_a_file_that_cannot_be_restored_leaves_the_catalog_as_it_is(first: World) -> None:
    file = dumped(first)
    before = first.views(set())
    data = file.read_bytes()
    other = first.base / "other.dump"

    other.write_bytes(b"nothing of this kind")
    with pytest.raises(UsageError, match=r"is no dump: pg_restore: (?!pg_restore)"):
        restore(first.url, other, replace=True)
    with pytest.raises(UsageError, match="No such file"):
        restore(first.url, first.base / "absent.dump", replace=True)
    other.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises((CatalogUnavailable, UsageError), match=r"is as it was|is no dump"):
        restore(first.url, other, replace=True)

    assert first.views(set()) == before


def test_no_password_stands_on_a_command_line(
    first: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = make_url(first.url).password
    lines: list[list[str]] = []
    real = subprocess.Popen.__init__

    def started(self: Any, arguments: list[str], **named: Any) -> None:
        lines.append(arguments)
        real(self, arguments, **named)

    monkeypatch.setattr(subprocess.Popen, "__init__", started)
    restore(first.url, dumped(first), replace=True)

    assert len(lines) >= 4
    assert password
    assert not [word for line in lines for word in line if password in word]


def test_the_embedded_server_is_dumped_and_restored(
    first: World, postgres_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its own, reached without a URL."""
    home = Path(tempfile.mkdtemp(prefix="sscd-ops-dump-"))
    home.chmod(0o755)
    monkeypatch.setenv("SSCD_OPS_HOME", str(home))
    monkeypatch.delenv("SSCD_OPS_DATABASE_URL", raising=False)
    url, first.url = first.url, ""
    try:
        file = first.base / "catalog.dump"
        dump(url, file)
        run_command(first, "db restore FILE", file)
        first.url = embedded.ensure_running(home / "postgres")["catalog"]
        assert_promises(first, read=9)
        first.url = ""
        said = run_command(first, "db dump FILE", first.base / "again.dump")
        assert "again.dump" in said.stderr
        run_command(first, "db restore FILE --replace", first.base / "again.dump")
        assert "has rows" in run_command(first, "db restore FILE", file, code=2).stderr
    finally:
        embedded.stop(home / "postgres")
        shutil.rmtree(home)
        first.url = url


@pytest.mark.parametrize("moment", ["written", "decided", "committing"])
def test_a_dump_while_a_night_runs_is_of_one_moment(
    first: World, other_world: World, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try with its rows, a decision without a snapshot, a snapshot's file without a row."""
    dumps: list[Path] = []
    room: Any
    room, step = {
        "written": (resolve.Night, "guard"),
        "decided": (publish, "write_shard"),
        "committing": (commit.NextSnapshot, "put"),
    }[moment]
    real = getattr(room, step)

    def dumping(*given: Any, **named: Any) -> Any:
        if not dumps:
            dumps.append(dumped(first))
        return real(*given, **named)

    monkeypatch.setattr(room, step, dumping)
    first.night(DAYS[1])
    published = first.published()

    (file,) = dumps
    run_command(first, "db restore FILE --replace", file)
    with pytest.raises(CatalogBehind, match="names snapshot 2 and the catalog has 1"):
        first.night(DAYS[1])
    run_command(first, f"snapshot verify --dataset {DATASET} --repair")
    first.night(DAYS[1])

    assert first.published() == published
    assert found(first) == []
    assert_promises(first, read=18)


# ---------------------------------------------------------------- the catalog is older


def test_nights_that_a_restored_catalog_forgot_are_told_and_run_again(first: World) -> None:
    file = dumped(first)
    first.night(DAYS[1])
    first.night(DAYS[2])
    newer = first.base / "newer.dump"
    dump(first.url, newer)
    published = first.published()
    snapshots = {
        path.name: path.read_bytes()
        for path in (first.base / "root" / DATASET / "snapshots").iterdir()
    }

    told = run_command(first, "db restore FILE --replace", file)
    assert commands_in(told.stderr) == ["catalog verify --dataset NAME"]
    (said,) = found(first)
    assert "names snapshot 3 and the catalog has 1 as the newest" in said
    assert said.partition("; ")[0] in run_command(first, "doctor", code=1).stdout
    with pytest.raises(CatalogBehind) as refused:
        first.night(DAYS[1])
    assert str(refused.value) == said
    assert run_command(first, f"index rebuild --dataset {DATASET}", code=1)
    one, other = commands_in(said)
    # a newer dump
    run_command(first, one, newer)
    assert found(first) == []
    # or the catalog as it is
    run_command(first, "db restore FILE --replace", file)
    done = run_command(first, other)
    assert "latest.json named snapshot 3, which the catalog does not have" in done.stderr
    assert found(first) == []
    (event,) = first.ask("SELECT details FROM curation.events WHERE kind = 'set_back'")
    assert event["details"] == {"from": 3, "to": 1}
    run_command(first, other)
    assert len(first.ask("SELECT 1 FROM curation.events WHERE kind = 'set_back'")) == 1

    first.night(DAYS[1])
    first.night(DAYS[2])

    assert first.published() == published
    folder = first.base / "root" / DATASET / "snapshots"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == snapshots
    assert found(first) == []
    assert_promises(first, read=27)


def test_a_catalog_that_has_no_snapshot_yet_is_told_of_the_root_s(world: World) -> None:
    run_command(world, "db upgrade")
    file = dumped(world)
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    restore(world.url, file, replace=True)

    with pytest.raises(CatalogBehind, match="the catalog has none") as refused:
        world.night(DAYS[0])
    _, command = commands_in(str(refused.value))
    run_command(world, command)
    world.night(DAYS[0])

    assert_promises(world, read=3)


def test_a_night_at_work_while_a_dump_is_restored_mistakes_no_number(
    first: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It decides for a turn that is forgotten by then, and that another night has now."""
    file = dumped(first)
    first.night(DAYS[1])
    (first.base / "root" / DATASET / "snapshots" / "latest.json").rename(first.base / "kept")
    real = Worked.rows
    restored: list[bool] = []

    def rows(self: Worked, decision_id: int) -> Any:
        yield from real(self, decision_id)
        if not restored:
            restored.append(True)
            run_command(first, "db restore FILE --replace", file)
            run_command(first, f"snapshot verify --dataset {DATASET} --repair")
            monkeypatch.setattr(Worked, "rows", real)
            first.night(DAYS[1])

    monkeypatch.setattr(Worked, "rows", rows)
    (first.base / "kept").rename(first.base / "root" / DATASET / "snapshots" / "latest.json")
    with pytest.raises(Exception, match=r"no batch|none was written|runs batch|was not"):
        first.night(DAYS[2])
    first.night(DAYS[2])

    assert restored
    assert found(first) == []
    assert_promises(first, read=27)


# ---------------------------------------------------------------- the root is older


@pytest.mark.parametrize("sources", ["there", "gone"])
def test_a_root_that_is_older_than_the_catalog_is_told_as_one(first: World, sources: str) -> None:
    file = dumped(first)
    root, copy = first.base / "root", first.base / "copy"
    shutil.copytree(root, copy)
    first.night(DAYS[1])
    first.night(DAYS[2])
    published = first.published()
    shutil.rmtree(root)
    copy.rename(root)
    assert "older than the catalog" in run_command(first, "doctor", code=1).stdout

    (said,) = found(first)
    assert "the root is older than the catalog" in said
    assert "files of snapshot 2 to 3 (up to turn 3) are missing" in said
    rebuild, repair, back = commands_in(said)
    if sources == "gone":
        aside = first.base / "aside"
        first.incoming.rename(aside)
        assert "put the original back" in run_command(first, rebuild, code=1).output
        run_command(first, repair, code=1)
        aside.rename(first.incoming)
        run_command(first, back, file)
        assert "names snapshot" in " ".join(found(first)) or found(first) == []
        run_command(first, f"snapshot verify --dataset {DATASET} --repair")
        first.night(DAYS[1])
        first.night(DAYS[2])
    else:
        run_command(first, rebuild)
        run_command(first, repair)

    assert found(first) == []
    assert first.published() == published
    assert_promises(first, read=27)
