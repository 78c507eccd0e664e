"""`snapshot compact`: fewer shards of the same samples; no snapshot that there was changes."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner, Result

from sscd_ops.cli.main import main
from sscd_ops.errors import FileMismatch, FileRemoved, UsageError
from sscd_ops.options import StorageOptions
from sscd_ops.steps import (
    commit,
    compacting_shards,
    next_snapshot,
    publish,
    resolve,
    shard_writing,
)
from sscd_ops.steps.compacting_shards import Compacted, compact, would_merge
from sscd_ops.steps.rebuilding import rebuild_snapshots
from sscd_ops.steps.snapshot_tags import expire
from sscd_ops.steps.snapshots import shard_urls
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.steps.verify import verify_snapshot
from sscd_ops.testing import picture
from tests.integration.orders import lead_by
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_damage import copy_of
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import (
    DATASET,
    World,
    assert_catalog_and_files_agree,
    assert_published_bytes,
)
from tests.soak import sweep

NEXT = DAYS[3]
Listed = list[tuple[str, str, list[str]]]
"""Of a snapshot: name of each tar, its sha256, and its samples' keys in order."""


def run_nights(world: World, samples: Sequence[int]) -> None:
    """Nights of so many small pictures, each of another."""
    first = 0
    for day, count in zip(DAYS, samples, strict=False):
        world.put(day, "a.tar", clouds(range(first, first + count)))
        first += count
        world.night(day)


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """Three nights of three pictures, c0000 to c0008; nobody changes it."""
    run_nights(module_world, (3, 3, 3))
    return module_world


@pytest.fixture
def nights(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    """A dataset after three nights."""
    yield from copy_of(begun, tmp_path / "nights", postgres_home)


@pytest.fixture
def other_nights(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    """Its equal, with another root and database."""
    yield from copy_of(begun, tmp_path / "others", postgres_home)


def compacted(world: World, below: int | None = None) -> Compacted:
    with world.parts() as parts:
        return compact(parts, DATASET, below)


def listed(world: World, snapshot: int) -> Listed:
    """What a snapshot's file lists, read with `tarfile`."""
    (row,) = world.ask("SELECT * FROM curation.snapshots WHERE snapshot = :s", s=snapshot)
    answer: Listed = []
    for shard in json.loads(world.stored(row["file"]))["shardlist"]:
        name = f"{DATASET}/{shard['url'].removeprefix('../')}"
        with tarfile.open(fileobj=io.BytesIO(world.stored(name))) as tar:
            keys = [member.name for member in tar if member.name.endswith((".jpg", ".png"))]
        answer.append((name, shard["sha256"], keys))
    return answer


def keys_of(found: Listed) -> list[str]:
    return [key for _, _, keys in found for key in keys]


def assert_sound(world: World) -> None:
    """What is published is what is kept, and catalog and files agree."""
    assert_published_bytes(world, replaced=True)
    assert_catalog_and_files_agree(world)


def assert_sound_now(world: World) -> None:
    """The same where earlier snapshots are expired."""
    newest = len(world.ask("SELECT FROM curation.snapshots"))
    kept = {f"{row['shard_key']}.jpg" for row in world.ask("SELECT * FROM curation.kept")}
    assert set(keys_of(listed(world, newest))) == kept
    assert_catalog_and_files_agree(world)


def vacuum_all(world: World) -> None:
    with world.parts() as parts:
        for _ in range(2):
            vacuum(parts, DATASET, grace=0)


# ---------------------------------------------------------------- what becomes of shards


@pytest.mark.parametrize("root", ["folder", "memory"])
def test_shards_of_many_nights_become_one_and_old_snapshots_stay(nights: World, root: str) -> None:
    if root == "memory":
        copied = fsspec.filesystem("memory")
        copied.put(str(nights.base / "root"), str(nights.base / "root"), recursive=True)
        nights.storage = StorageOptions(
            f"memory://{nights.base}/root", str(nights.base / "cache"), 10**9
        )
    before = [listed(nights, number) for number in (1, 2, 3)]
    with nights.parts() as parts:
        urls = shard_urls(parts, DATASET, 3, "")
        planned = would_merge(parts, DATASET)
    verdicts = nights.ask("SELECT * FROM curation.verdicts ORDER BY sample_id, turn")

    done = compacted(nights)

    (merge,) = done.merges
    assert (done.merges, done.parent, planned.snapshot) == (planned.merges, 3, None)
    assert (done.snapshot, done.shards, done.samples) == (4, 1, 9)
    assert list(merge.shards) == [name for name, _, _ in before[2]]
    ((name, _, keys),) = after = listed(nights, 4)
    assert name == merge.into
    assert name.split("/")[2].startswith("turn-000003-")
    assert keys == keys_of(before[2])
    assert [listed(nights, number) for number in (1, 2, 3)] == before
    with nights.parts() as parts:
        assert shard_urls(parts, DATASET, 3, "") == urls
    assert nights.ask("SELECT * FROM curation.verdicts ORDER BY sample_id, turn") == verdicts
    (event,) = nights.ask("SELECT * FROM curation.events WHERE kind = 'compacted'")
    assert event["details"] == {"snapshot": 4, "shards": 3, "into": 1, "samples": 9}
    assert_sound(nights)

    # the next night is in a snapshot beside it
    nights.put(NEXT, "a.tar", clouds(range(20, 23)))
    nights.night(NEXT)
    assert listed(nights, 5)[:1] == after
    assert_sound(nights)


def test_compacting_again_does_nothing(nights: World) -> None:
    compacted(nights)
    there = nights.published()

    done = compacted(nights)

    assert (done.merges, done.snapshot, done.parent) == ([], None, 4)
    assert nights.published() == there


def test_equal_shards_merge_under_equal_names_whenever_that_is(
    nights: World, other_nights: World
) -> None:
    """A night that was decided and not published meanwhile, and a large one, change no name."""
    for each in (nights, other_nights):
        each.change(publish={"max_samples": 12})
    (first,) = compacted(nights).merges
    nights.put(NEXT, "a.tar", clouds(range(20, 27)))
    other_nights.night(NEXT)

    (second,) = compacted(other_nights).merges

    assert first == second
    assert other_nights.published()[second.into] == nights.published()[first.into]
    assert [len(keys) for _, _, keys in listed(other_nights, 5)] == [9, 7]
    assert_sound(other_nights)


def test_shards_of_other_forms_and_columns_are_left_apart(world: World) -> None:
    from PIL import Image

    png = io.BytesIO()
    Image.open(io.BytesIO(picture(50))).save(png, "PNG")
    for number, day in enumerate(DAYS):
        world.put(day, "a.tar", clouds(range(number * 2, number * 2 + 2)))
    world.put(DAYS[0], "b.tar", [("png0", {"png": png.getvalue(), "txt": b"one"})])
    for number, day in enumerate(DAYS):
        if number == 2:
            world.change_source(columns=("url",))
        world.night(day)

    done = compacted(world)

    assert [(merge.form, len(merge.shards)) for merge in done.merges] == [
        ("jpg+txt+json", 2),
        ("jpg+txt+json", 2),
    ]
    assert sorted(len(keys) for _, _, keys in listed(world, 5)) == [1, 4, 4]
    assert compacted(world).merges == []


def test_shards_that_another_release_wrote_with_other_columns_stay_apart(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.put(DAYS[1], "a.tar", clouds(range(3, 6)))
    fewer = tuple(name for name in shard_writing.PUBLISHED_COLUMNS if name != "height")
    with monkeypatch.context() as older:
        older.setattr(shard_writing, "PUBLISHED_COLUMNS", fewer)
        world.night(DAYS[0])
    world.night(DAYS[1])

    assert compacted(world).snapshot is None
    assert "different columns are not merged" in caplog.text
    assert_catalog_and_files_agree(world)


def test_what_is_small_and_what_fits_are_settings_of_now(nights: World) -> None:
    nights.put(NEXT, "a.tar", clouds(range(20, 23)))
    nights.night(NEXT)
    sizes = [row["bytes"] for row in nights.ask("SELECT bytes FROM curation.shards")]

    assert compacted(nights, below=min(sizes)).merges == []
    nights.change(publish={"max_samples": 6})
    assert compacted(nights).merges == []  # three of six are no less than half
    nights.change(publish={"max_samples": 7})
    assert [len(merge.shards) for merge in compacted(nights).merges] == [2, 2]
    nights.change(publish={"max_samples": 100, "max_bytes": 3 * sum(sizes)})
    assert [len(merge.shards) for merge in compacted(nights).merges] == [2]
    assert_sound(nights)


def test_a_night_cut_small_is_merged_when_the_limit_was_raised(world: World) -> None:
    """All of one decision: nothing but its folder says that the shard took others' place."""
    world.change(publish={"max_samples": 2})
    run_nights(world, (6,))
    assert len(listed(world, 1)) == 3
    world.change(publish={"max_samples": 100})

    (merge,) = compacted(world).merges

    assert len(merge.shards) == 3
    assert keys_of(listed(world, 2)) == keys_of(listed(world, 1))
    assert_sound(world)


def test_a_dataset_without_snapshots_and_one_that_is_not_there(world: World) -> None:
    with world.parts() as parts, pytest.raises(UsageError):
        compact(parts, "none")
    world.night(DAYS[0])  # nothing is there to read
    assert compacted(world) == Compacted([], 0)


def test_the_command_lists_before_it_writes(nights: World, tmp_path: Path) -> None:
    config = tmp_path / "curation.toml"
    config.write_text(
        f'[storage]\nroot = "{nights.base}/root"\n[catalog]\nurl = "{nights.url}"\n'
        '[datasets.web]\n[[datasets.web.sources]]\nname = "crawl"\nurls = ["in/{date}/*.tar"]\n'
    )

    def call(*more: str) -> Result:
        asked = ["snapshot", "compact", "--config", str(config), "--dataset", DATASET, *more]
        return CliRunner().invoke(main, asked)

    there = nights.published()
    planned = call("--dry-run")
    assert planned.stderr.splitlines()[-1] == "1 to write; nothing was done"
    assert nights.published() == there
    assert call("--dry-run", "--below", "10kB").stderr.splitlines()[-1].startswith("0 to write")

    done = call()
    assert done.exit_code == 0
    assert done.stdout == planned.stdout
    assert re.fullmatch(
        r"web/shards/turn-000003-\w{8}/00000\.tar: 3 shards of jpg\+txt\+json, 9 samples,"
        r" \d+ bytes \(web/shards/2026-11-01-\w{8}/00000\.tar ... web/shards/2026-11-03-\S+tar\)\n",
        done.stdout,
    )
    assert done.stderr.splitlines()[-1] == "snapshot 4: 1 shard(s), 9 samples"

    again = call()
    assert (again.stdout, again.stderr.splitlines()[-1]) == ("", "nothing to merge")
    wrong = call("--below", "much")
    assert wrong.exit_code == 2
    assert 'a size such as "512MB"' in wrong.stderr


# ---------------------------------------------------------------- what is kept no longer


def test_what_was_withdrawn_is_left_out_of_the_merged_shard(nights: World) -> None:
    with nights.parts() as parts:
        gone = {f"c{number:04d}": "free" for number in (4, 6, 7, 8)}  # all of the third night
        lead_by(parts, {"c0001": "free"}, gone)
    before = [listed(nights, number) for number in (1, 2, 3)]

    done = compacted(nights)

    assert [len(merge.shards) for merge in done.merges] == [2]
    ((name, _, keys),) = listed(nights, 4)
    assert len(keys) == 4
    # it bears the turn at which a shard was last written without something
    assert name.split("/")[2].startswith("turn-000005-")
    assert [listed(nights, number) for number in (1, 2, 3)] == before
    assert_sound(nights)
    assert compacted(nights).merges == []


def test_a_merged_shard_loses_a_sample(nights: World) -> None:
    compacted(nights)
    with nights.parts() as parts:
        lead_by(parts, {"c0004": "free"})

    done = compacted(nights)

    assert (done.merges, done.snapshot, done.samples) == ([], 5, 8)
    assert_sound(nights)
    for path in (nights.base / "root" / DATASET / "shards").glob("turn-*/*"):
        path.unlink()
    with nights.parts() as parts:
        assert len(rebuild_snapshots(parts, DATASET)[0]) == 2
    assert_sound(nights)


# ---------------------------------------------------------------- damage


def test_a_damaged_merged_shard_follows_from_the_sources(world: World) -> None:
    """Written anew sample by sample it has the bytes that copying whole bodies gave."""
    world.change_source(columns=("url",))
    for number, day in enumerate(DAYS[:3]):
        samples = clouds(range(number * 3, number * 3 + 3))
        samples[0][1]["json"] = json.dumps({"url": f"https://x.org/{number}"}).encode()  # type: ignore[index]
        world.put(day, "a.tar", samples)
        world.night(day)
    done = compacted(world)
    assert [len(merge.shards) for merge in done.merges] in ([3], [2])
    there = world.published()
    lost = list((world.base / "root" / DATASET / "shards").glob("turn-*/*"))
    assert len(lost) == 3
    for path in lost:
        path.unlink()

    with world.parts() as parts:
        assert verify_snapshot(parts, DATASET)
        assert rebuild_snapshots(parts, DATASET)[1] == []

    assert world.published() == there
    assert_sound(world)


@pytest.mark.parametrize("role", sweep(["tar", "parquet"], ["tar"]))
def test_a_damaged_shard_is_not_merged_and_its_remedy_works(
    nights: World, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = (nights.base / "root" / DATASET / "shards").glob(f"{DAYS[1]}-*/*.{role}")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    there = nights.published()

    with pytest.raises(FileMismatch, match="sscd-ops snapshot verify --dataset web --repair"):
        compacted(nights)

    assert nights.published() == there
    assert "wrote over" not in caplog.text, "there was nothing to write over"
    with nights.parts() as parts:
        assert rebuild_snapshots(parts, DATASET)[1] == []
    assert compacted(nights).snapshot == 4
    assert_sound(nights)


# ---------------------------------------------------------------- beside others


def beside(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, *others: Any
) -> list[tuple[Any, ...]]:
    """Have others do something behind each of the first calls; the calls."""
    real = getattr(module, name)
    calls: list[tuple[Any, ...]] = []

    def call(*given: Any) -> Any:
        answer = real(*given)
        calls.append(given)
        if len(calls) <= len(others):
            others[len(calls) - 1]()
        return answer

    monkeypatch.setattr(module, name, call)
    return calls


def test_a_compaction_that_loses_to_a_commit_takes_over_what_it_wrote(
    nights: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.change(publish={"max_samples": 12})
    nights.put(NEXT, "a.tar", clouds(range(20, 27)))  # no small one
    calls = beside(monkeypatch, compacting_shards, "write_merged", lambda: nights.night(NEXT))

    done = compacted(nights)

    assert len(calls) == 1
    assert (done.parent, done.snapshot) == (4, 5)
    assert [len(keys) for _, _, keys in listed(nights, 5)] == [9, 7]
    assert_sound(nights)


def test_a_compaction_that_loses_to_an_order_leaves_out_what_is_withdrawn(
    nights: World, monkeypatch: pytest.MonkeyPatch
) -> None:

    def order() -> None:
        with nights.parts() as parts:
            lead_by(parts, {"c0001": "free"})

    calls = beside(monkeypatch, compacting_shards, "write_merged", order)

    done = compacted(nights)

    assert len(calls) == 2
    assert done.samples == 8
    assert_sound(nights)


def test_a_commit_that_loses_to_a_compaction_keeps_it(
    nights: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights.put(NEXT, "a.tar", clouds(range(20, 23)))
    real = next_snapshot.NextSnapshot.work_out
    busy: list[int] = []

    def work_out(self: Any, seen: Any) -> Any:
        answer = real(self, seen)
        if not busy:
            busy.append(1)
            compacted(nights)
        return answer

    monkeypatch.setattr(next_snapshot.NextSnapshot, "work_out", work_out)
    nights.night(NEXT)

    assert [len(keys) for _, _, keys in listed(nights, 5)] == [9, 3]
    assert_sound(nights)


def test_a_night_that_is_decided_and_not_published_is_left_to_its_commit(nights: World) -> None:
    nights.put(NEXT, "a.tar", clouds(range(20, 23)))
    with nights.parts() as parts:
        batch = nights.until_match(parts, NEXT)
        decided = resolve.run(parts, batch)

        done = compacted(nights)

        assert (done.snapshot, done.shards, done.samples) == (4, 1, 9)
        for group in decided.groups:
            publish.run(parts, batch, group)
        assert commit.run(parts, batch).snapshot == 5
    assert [len(keys) for _, _, keys in listed(nights, 5)] == [9, 3]
    assert_sound(nights)


def test_two_compactions_merge_once(nights: World, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[Compacted] = []
    beside(monkeypatch, compacting_shards, "write_merged", lambda: others.append(compacted(nights)))

    done = compacted(nights)

    assert ([each.snapshot for each in others], done.snapshot) == ([4], None)
    assert done.merges == []
    assert_sound(nights)


def expire_all(world: World) -> None:
    with world.parts() as parts:
        expire(parts, DATASET, keep_last=1, actor="ann", why="room")


def test_snapshots_that_expire_meanwhile_are_of_no_matter(
    nights: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = beside(monkeypatch, compacting_shards, "write_merged", lambda: expire_all(nights))

    done = compacted(nights)

    assert (len(calls), done.snapshot) == (1, 4)
    assert_sound_now(nights)
    monkeypatch.undo()
    expire_all(nights)
    vacuum_all(nights)
    assert list(nights.published()) == [
        f"{done.merges[0].into.removesuffix('.tar')}{end}"
        for end in (".parquet", ".tar", "_stats.json")
    ]
    assert_sound_now(nights)


def test_a_merged_shard_that_vacuum_took_before_its_row_is_written_again(
    nights: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(monkeypatch, compacting_shards, "write_merged", lambda: vacuum_all(nights))
    with pytest.raises(FileRemoved, match="Run the night or command again"):
        compacted(nights)

    assert compacted(nights).snapshot == 4
    assert_sound(nights)


# ---------------------------------------------------------------- deaths

POINTS = (
    "compacting_shards.write_merged",
    "compacting_shards._Compaction.merge",
    "next_snapshot.snapshots.add_snapshot",
    "next_snapshot.output_shards.replace_shards",
    "compacting_shards.events.add_event",
    "turns.datasets.advance",
    "turns.make_snapshot",
    "compacting_shards.repair_latest",
)
DEATHS = [(when, point) for when in ("before", "after") for point in POINTS]
SAMPLE = [
    ("after", "compacting_shards.write_merged"),
    ("after", "next_snapshot.output_shards.replace_shards"),
    ("after", "turns.make_snapshot"),
]


@pytest.mark.parametrize(("when", "point"), sweep(DEATHS, SAMPLE))
def test_a_death_at_any_write_leaves_the_old_snapshot_or_the_new_one(
    nights: World, other_nights: World, when: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compacted(other_nights)
    before = [listed(nights, number) for number in (1, 2, 3)]
    die_at(monkeypatch, when, point)
    with pytest.raises(Killed):
        compacted(nights)
    monkeypatch.undo()

    assert [listed(nights, number) for number in (1, 2, 3)] == before
    newest = len(nights.ask("SELECT FROM curation.snapshots"))
    assert sorted(keys_of(listed(nights, newest))) == sorted(keys_of(before[2]))
    compacted(nights)

    assert nights.views() == other_nights.views()
    assert nights.published() == other_nights.published()
    assert_sound(nights)
