"""``snapshot reproduce``: a snapshot follows from decisions and sources."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import fsspec
import pytest

from sscd_ops.errors import StoreRefused, UsageError
from sscd_ops.steps.compacting_shards import compact
from sscd_ops.steps.reproduce import reproduce
from sscd_ops.steps.snapshot_diff import diff_samples
from sscd_ops.steps.snapshot_tags import expire
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.testing import picture, plant
from sscd_ops.wiring import Wiring
from tests.databases import fresh_database
from tests.integration.orders import lead_by
from tests.integration.test_nights import DAYS, clouds
from tests.integration.test_repair import mend, unpublishable
from tests.integration.test_snapshot_diff import in_tars
from tests.integration.test_snapshots_kept import ANN, as_command, three_nights
from tests.integration.world import DATASET, World, pair


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """Three snapshots; the third one has a shard of the first night without two samples."""
    three_nights(module_world)
    return module_world


@pytest.fixture
def made(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    """A root, sources and database of its own."""
    shutil.copytree(begun.base / "root", tmp_path / "root")
    for url in fresh_database(postgres_home, begun.url.rpartition("/")[2]):
        world = World(tmp_path, url, incoming=begun.incoming)
        world.options = begun.options
        yield world


@pytest.fixture
def parts(made: World) -> Iterator[Wiring]:
    with made.parts() as opened:
        yield opened


def files_of(root: Path) -> dict[str, str]:
    """Name -> sha256 of all files below a root's published folders."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("shards", "snapshots")
        for path in (root / DATASET / folder).rglob("*")
        if path.is_file() and path.name != "latest.json"
    }


def test_all_snapshots_come_out_with_the_bytes_they_had_whether_expired_or_gone(
    made: World, parts: Wiring, tmp_path: Path
) -> None:
    root, again = Path(made.storage.root), tmp_path / "again"
    before = files_of(root)
    expire(parts, DATASET, (1, 2), **ANN)
    for path in (root / DATASET / "shards").rglob("*"):
        if path.is_file():
            path.unlink()

    for _ in range(2):
        for number, count in ((1, 4), (2, 8), (3, 10)):
            done = reproduce(parts, DATASET, number, str(again))
            assert done.is_equal
            assert (done.shards, done.samples) == (number, count)
            assert Path(done.url).is_file()
        assert files_of(again) == before


def test_what_is_withdrawn_by_now_is_left_out_where_asked(
    made: World, parts: Wiring, tmp_path: Path
) -> None:
    before = files_of(Path(made.storage.root))
    keys = {row["key"]: row["sample_id"].hex for row in made.ask("SELECT * FROM curation.samples")}

    done = reproduce(parts, DATASET, 2, str(tmp_path / "again"), less_withdrawn=True)
    same = reproduce(parts, DATASET, 3, str(tmp_path / "same"), less_withdrawn=True)

    assert done.is_equal
    assert (list(done.less.values()), done.samples) == ([2], 6)
    (affected,) = done.less
    with tarfile.open(tmp_path / "again" / affected) as tar:
        held = {name.partition(".")[0] for name in tar.getnames()}
    assert held == {keys["c0000"], keys["c0003"]}
    document = json.loads(Path(done.url).read_text())
    assert [shard["nsamples"] for shard in document["shardlist"]] == [2, 4]
    written = files_of(tmp_path / "again")
    other = {name for name in written if name.startswith(f"{DATASET}/shards")} - {
        affected.removesuffix(".tar") + end for end in (".tar", ".parquet", "_stats.json")
    }
    assert len(other) == 3
    assert all(written[name] == before[name] for name in other)
    assert (same.less, same.is_equal) == ({}, True)


def test_what_cannot_be_had_again_is_named_and_the_remedy_works(
    begun: World, made: World, parts: Wiring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = (made.incoming / "2026-11-02").glob("*.tar")
    aside = source.rename(tmp_path / "aside.tar")
    try:
        done = reproduce(parts, DATASET, 2, str(tmp_path / "again"))
        assert not done.is_equal
        assert (done.url, done.shards, len(done.left)) == ("", 1, 1)
        assert str(source) in done.left[0]
        assert "put the original back and run this command again" in done.left[0]
        line = f"snapshot reproduce 2 --dataset web --root {tmp_path}/again"
        with pytest.raises(SystemExit) as ended:
            as_command(made, line)
        assert ended.value.code == 1
        assert str(source) in capsys.readouterr().out
    finally:
        aside.rename(source)

    as_command(made, line)

    assert "every file has the sha256 that it had" in capsys.readouterr().err


def test_what_is_said_of_an_expired_snapshot_s_urls_writes_it_again(
    made: World, parts: Wiring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expire(parts, DATASET, (1,), **ANN)
    with pytest.raises(SystemExit):
        as_command(made, "snapshot urls --dataset web --snapshot 1")
    (remedy,) = re.findall("`sscd-ops (.*?)`", capsys.readouterr().err)

    as_command(made, remedy.replace("DIR", f"{tmp_path}/again"))

    assert "4 samples in 1 shards" in capsys.readouterr().err


def test_other_bytes_than_the_catalog_says_are_a_difference(
    made: World, parts: Wiring, tmp_path: Path
) -> None:
    with parts.catalog.begin() as conn:
        conn.exec_driver_sql(
            "UPDATE sscd_ops.output_shards"
            " SET files = jsonb_set(files, '{parquet,sha256}', '\"0\"')"
            " WHERE output_id = (SELECT min(output_id) FROM sscd_ops.output_shards)"
        )

    done = reproduce(parts, DATASET, 1, str(tmp_path / "again"))

    assert (done.left, len(done.differs)) == ([], 1)
    assert ".parquet has sha256" in done.differs[0]


def test_the_storage_root_is_no_place_to_write_to(
    made: World, parts: Wiring, tmp_path: Path
) -> None:
    root = Path(made.storage.root)
    (tmp_path / "link").symlink_to(root)
    for place in (root, root / "again", tmp_path / "link", f"file://{root}/", root / ".." / "root"):
        with pytest.raises(UsageError, match="is the storage root, or in it"):
            reproduce(parts, DATASET, 1, str(place))
    with pytest.raises(UsageError, match="no snapshot 4"):
        reproduce(parts, DATASET, 4, str(tmp_path / "again"))

    root.rename(tmp_path / "unmounted")
    with pytest.raises(StoreRefused, match=r"is the disk of storage\.root mounted"):
        reproduce(parts, DATASET, 1, str(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_a_snapshot_is_written_again_in_an_object_store(
    made: World, parts: Wiring, tmp_path: Path
) -> None:
    done = reproduce(parts, DATASET, 1, f"memory://{tmp_path.name}/again/")

    assert done.is_equal
    with fsspec.open(done.url, "rb") as stream:
        written = json.loads(stream.read())
    assert [shard["nsamples"] for shard in written["shardlist"]] == [4]


def test_what_was_repaired_compacted_and_vacuumed_is_compared_and_written_again(
    world: World, tmp_path: Path
) -> None:
    """A night that lost a source file, one shard of many, a withdrawal; all but the newest go."""
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    copy = pair("copy", plant(picture(50), "jpeg_40"))
    world.put(DAYS[1], "a.tar", [*clouds(range(10, 13)), copy])
    lost = world.put(DAYS[1], "b.tar", [pair("better", picture(50, quality=95)), *clouds([60])])
    world.put(DAYS[2], "a.tar", clouds(range(20, 23)))
    world.night(DAYS[0])
    mend(world, unpublishable(world, DAYS[1], lost))
    with world.parts() as parts:
        compact(parts, DATASET)
        lead_by(parts, {"c0001": "withdrawn", "c0010": "free"})
    world.night(DAYS[2])
    root = Path(world.storage.root)
    before = files_of(root)
    *older, _ = numbers = [
        row["snapshot"] for row in world.ask("SELECT snapshot FROM curation.snapshots ORDER BY 1")
    ]
    held = {number: in_tars(world, number) for number in numbers}
    keys = {row["sample_id"]: row["key"] for row in world.ask("SELECT * FROM curation.samples")}

    with world.parts() as parts:
        compared = {two: diff_samples(parts, DATASET, *two) for two in permutations(numbers, 2)}
        expire(parts, DATASET, older, **ANN)
        (vacuumed,) = vacuum(parts, DATASET, grace=0)
        again = {two: diff_samples(parts, DATASET, *two) for two in permutations(numbers, 2)}
        done = [reproduce(parts, DATASET, number, str(tmp_path / "again")) for number in numbers]

    for (first, second), found in compared.items():
        was, now = held[first], held[second]
        assert {each.sample_id: (each.from_shard, each.to_shard) for each in found} == {
            key: (was.get(key), now.get(key))
            for key in was.keys() | now.keys()
            if was.get(key) != now.get(key)
        }
    added = {keys[each.sample_id]: each.decision for each in compared[1, numbers[1]]}
    assert [(key, added[key] and added[key].kind) for key in ("copy", "c0010")] == [
        ("copy", "repair"),
        ("c0010", "night"),
    ]
    assert again == compared
    assert len(vacuumed.removed) > 6
    assert all(each.is_equal for each in done)
    assert files_of(tmp_path / "again").items() <= before.items()
    assert [each.samples for each in done] == [len(held[number]) for number in numbers]
