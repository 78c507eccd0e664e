"""Files below the root that are lost or damaged: found, and mended by what the message says.

Every kind of file is damaged at every moment of a night. Whoever reads it refuses it or makes it
anew; the remedies in what is printed are then followed to the letter, and the night ends as if
nothing had been.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from sscd_ops.catalog import snapshots
from sscd_ops.catalog.sql import need_file
from sscd_ops.errors import FileMismatch, SourceChanged
from sscd_ops.model import Runner, StoredFile
from sscd_ops.options import StorageOptions
from sscd_ops.steps import commit, embed, ingest, manage, match, plan, publish, resolve, survey
from sscd_ops.steps.rebuilding import rebuild_index, rebuild_snapshots
from sscd_ops.steps.verify import verify_index, verify_snapshot
from sscd_ops.testing import COPIES, picture, plant
from sscd_ops.wiring import Wiring
from tests.databases import fresh_database
from tests.integration.orders import lead_by
from tests.integration.test_nights import BOTH, clouds
from tests.integration.test_recovery import detach
from tests.integration.world import (
    DATASET,
    World,
    assert_catalog_and_files_agree,
    assert_one_verdict_each,
    assert_promises,
    interval,
    pair,
)

FIRST, SECOND = "2026-11-01", "2026-11-02"


def start(world: World) -> None:
    """Two nights to come, with copies of both measures; the first is run."""
    world.change(duplicates=BOTH | {"search": "exact"})
    copies = [
        pair(f"{copy}-{number}", plant(picture(number), copy)) for number, copy in enumerate(COPIES)
    ]
    broken = pair("broken", b"\xff\xd8\xff\xe0 no picture")
    world.put(FIRST, "a.tar", clouds(range(12)))
    world.put(FIRST, "b.tar", [*clouds(range(12, 14)), broken])
    world.put(SECOND, "a.tar", [*clouds(range(20, 24)), *copies])
    world.night(FIRST)


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """The first night is over; nobody changes it."""
    start(module_world)
    return module_world


def copy_of(begun: World, base: Path, home: Path) -> Iterator[World]:
    """Root and database of its own over the same incoming folder, which is put back at the end."""
    shutil.copytree(begun.base / "root", base / "root")
    shutil.copytree(begun.incoming, base / "originals")
    for url in fresh_database(home, begun.url.rpartition("/")[2]):
        world = World(base, url, incoming=begun.incoming)
        world.options = begun.options
        yield world
    shutil.rmtree(begun.incoming)
    shutil.copytree(base / "originals", begun.incoming)


@pytest.fixture
def world(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    """A dataset after its first night, with files for the second."""
    yield from copy_of(begun, tmp_path, postgres_home)


@pytest.fixture(scope="module")
def undisturbed(
    begun: World, tmp_path_factory: pytest.TempPathFactory, postgres_home: Path
) -> Iterator[World]:
    """Both nights without damage."""
    for world in copy_of(begun, tmp_path_factory.mktemp("undisturbed"), postgres_home):
        world.night(SECOND)
        yield world


# ---------------------------------------------------------------- damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def take_away(path: Path) -> None:
    path.unlink()


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (flip, zero, cut, empty, take_away, make_a_folder)


def _of_shards(role: str) -> Callable[[World], list[Any]]:
    return lambda world: [
        row[role]
        for row in world.ask(f"SELECT {role} FROM sscd_ops.source_shards ORDER BY shard_id")
    ]


def _of_segments(role: str) -> Callable[[World], list[Any]]:
    def find(world: World) -> list[Any]:
        rows = world.ask("SELECT files FROM sscd_ops.segments ORDER BY segment_id")
        return [
            next(file for name, file in row["files"].items() if name.startswith(role))
            for row in rows
        ]

    return find


def _of_output(role: str) -> Callable[[World], list[Any]]:
    return lambda world: [
        row["files"][role]
        for row in world.ask(
            "SELECT files FROM sscd_ops.output_shards WHERE files IS NOT NULL"
            " ORDER BY decision_id, number"
        )
    ]


def _column(sql: str) -> Callable[[World], list[Any]]:
    return lambda world: [row["file"] for row in world.ask(sql)]


KINDS: dict[str, Callable[[World], list[Any]]] = {
    "manifest": _of_shards("manifest"),
    "descriptors": _of_shards("descriptors"),
    "work list": _column("SELECT work_list AS file FROM sscd_ops.attempts ORDER BY attempt_id"),
    "matches": _column("SELECT file FROM sscd_ops.searches ORDER BY attempt_id"),
    "segment": _of_segments("descriptors"),
    "ids": _of_segments("ids"),
    "codes": _of_segments("exact"),
    "hashes": _of_segments("pdq"),
    "mask": _column("SELECT mask AS file FROM sscd_ops.segment_masks ORDER BY segment_id"),
    "snapshot": _column("SELECT file FROM sscd_ops.snapshots ORDER BY snapshot"),
    "tar": _of_output("tar"),
    "parquet": _of_output("parquet"),
    "stats": _of_output("stats"),
}


def files(world: World, kind: str) -> list[StoredFile]:
    return [need_file(raw) for raw in KINDS[kind](world) if raw is not None]


# ---------------------------------------------------------------- a night and its remedies


MOMENTS = (
    "planned",
    "ingested",
    "surveyed",
    "embedded",
    "matched",
    "decided",
    "written",
    "published",
)


class Night:
    """The second night, step by step, in a process for each call."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.batch_id = 0
        self.groups: list[int] = []
        self.parts: list[int] = []

    def run(self, first: str = MOMENTS[0], last: str = MOMENTS[-1]) -> None:
        for moment in MOMENTS[MOMENTS.index(first) : MOMENTS.index(last) + 1]:
            with self.world.parts() as parts:
                getattr(self, moment)(parts)

    def planned(self, parts: Wiring) -> None:
        runner = Runner("airflow", "curate_web", "second")
        found = plan.run(parts, DATASET, interval(SECOND), runner=runner)
        self.batch_id, self.groups = found.batch_id, found.groups

    def ingested(self, parts: Wiring) -> None:
        ingest.run(parts, self.batch_id, self.groups)

    def surveyed(self, parts: Wiring) -> None:
        self.parts = survey.run(parts, self.batch_id).parts

    def embedded(self, parts: Wiring) -> None:
        embed.run(parts, self.batch_id, self.groups)

    def matched(self, parts: Wiring) -> None:
        match.run(parts, self.batch_id, self.parts)

    def decided(self, parts: Wiring) -> None:
        self.decision = resolve.run(parts, self.batch_id)

    def written(self, parts: Wiring) -> None:
        for group in self.decision.groups:
            publish.run(parts, self.batch_id, group)

    def published(self, parts: Wiring) -> None:
        commit.run(parts, self.batch_id)


def verify(world: World) -> list[str]:
    with world.parts() as parts:
        found = verify_index(parts, DATASET) + verify_snapshot(parts, DATASET)
    return [str(each) for each in found]


def follow(world: World, said: str, path: Path) -> None:
    """Do what a message says, in its order."""
    done = False
    if "move it away first" in said and path.is_dir():
        shutil.rmtree(path)
        done = "run its night again" in said
    if f"`sscd-ops index rebuild --dataset {DATASET}`" in said:
        with world.parts() as parts:
            rebuild_index(parts, DATASET)
        done = True
    if f"`sscd-ops snapshot verify --dataset {DATASET} --repair`" in said:
        with world.parts() as parts:
            _, left = rebuild_snapshots(parts, DATASET)
        assert left == []
        done = True
    assert done or "run its night again" in said, f"no remedy in: {said}"


@dataclass(frozen=True)
class Case:
    """A file of a kind that is damaged when a night is at a moment, and whether a person must act.

    ``stops``: the next step that needs it refuses it; else it is made anew, or nobody reads it.
    """

    kind: str
    moment: str
    stops: bool


INDEX = ("segment", "ids", "codes", "hashes", "mask")
CASES = [
    *(Case("manifest", moment, False) for moment in MOMENTS[1:]),
    Case("work list", "surveyed", False),
    Case("work list", "matched", False),
    *(Case(kind, "planned", stops=True) for kind in INDEX),
    # match has read all, and ids are read again for witnesses
    *(Case(kind, "matched", stops=kind == "ids") for kind in ("segment", "ids", "mask")),
    *(Case(kind, "published", False) for kind in ("segment", "mask")),
    Case("descriptors", "embedded", True),
    Case("descriptors", "matched", True),
    Case("descriptors", "decided", False),
    Case("descriptors", "published", False),
    Case("matches", "matched", False),
    Case("matches", "decided", False),
    Case("snapshot", "planned", False),
    Case("snapshot", "written", False),
    Case("snapshot", "published", False),
    *(Case(kind, "planned", False) for kind in ("tar", "parquet", "stats")),
    *(Case(kind, "written", False) for kind in ("tar", "parquet", "stats")),
]
SAMPLE = list({(case.kind, case.stops): case for case in reversed(CASES)}.values())
"""In `make test`: every kind, where it stops a night and where it does not."""


@pytest.mark.parametrize(
    ("case", "damage"),
    [
        pytest.param(
            case,
            damage,
            id=f"{case.kind}-{case.moment}-{damage.__name__}",
            marks=[] if case in SAMPLE else pytest.mark.soak,
        )
        for number, case in enumerate(CASES)
        for damage in (DAMAGES[number % len(DAMAGES)],)
    ],
)
def test_a_damaged_file_is_mended_by_what_is_said(
    world: World, undisturbed: World, case: Case, damage: Callable[[Path], None]
) -> None:
    night = Night(world)
    night.run(last=case.moment)
    file = files(world, case.kind)[0 if case.moment == "planned" else -1]
    path = world.base / "root" / file.name
    damage(path)

    found = verify(world)
    assert any(file.name in said for said in found), found

    rest = MOMENTS[MOMENTS.index(case.moment) + 1 :]
    stopped = ""
    for moment in rest:
        try:
            night.run(moment, moment)
        except FileMismatch as error:
            stopped = str(error)
            break
    assert bool(stopped) == case.stops or damage is make_a_folder, stopped
    if stopped:
        assert file.name in stopped
        follow(world, stopped, path)
        night.run()
    for said in verify(world):
        follow(world, said, path)
        night.run()

    assert verify(world) == []
    assert world.verdicts() == undisturbed.verdicts()
    assert world.published() == undisturbed.published()
    assert_promises(world)


# ---------------------------------------------------------------- what no row names


@pytest.mark.parametrize("left", [b"", b"half of it", None])
def test_what_a_killed_try_left_under_a_published_name_is_written_over(
    world: World, undisturbed: World, left: bytes | None
) -> None:
    night = Night(world)
    night.run(last="decided")
    root = world.base / "root"
    for name in undisturbed.published().keys() - world.published().keys():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(len(undisturbed.stored(name))) if left is None else left)
    snapshot = files(undisturbed, "snapshot")[-1]
    (root / snapshot.name).write_bytes(b"{}" if left is None else left)

    night.run("written")

    assert world.published() == undisturbed.published()
    assert_promises(world)


def test_a_parquet_of_another_release_with_the_same_rows_is_taken(world: World) -> None:
    night = Night(world)
    night.run(last="written")
    file = files(world, "parquet")[-1]
    path = world.base / "root" / file.name
    table = pq.read_table(path)
    forget = "UPDATE sscd_ops.output_shards SET files = NULL WHERE files #>> '{parquet,name}' = :n"
    with world.parts() as parts, parts.catalog.begin() as conn:  # it died before its row
        conn.execute(text(forget), {"n": file.name})
    pq.write_table(table, path, compression="none")
    other = path.read_bytes()

    night.run("written")

    assert path.read_bytes() == other
    assert_promises(world)


def test_a_parquet_that_another_release_wrote_again_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits of one turn write the same shards again; the other one may have named them."""
    for day, seeds in ((FIRST, range(4)), (SECOND, range(10, 12))):
        world.put(day, "a.tar", clouds(seeds))
    world.night(FIRST)
    with world.parts() as parts:
        lead_by(parts, {"c0001": "withdrawn"})
        batch = world.until_match(parts, SECOND)
        for group in resolve.run(parts, batch).groups:
            publish.run(parts, batch, group)
        with monkeypatch.context() as patched:
            patched.setattr(snapshots, "add_snapshot", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                commit.run(parts, batch)
    (path,) = (world.base / "root" / DATASET / "shards").glob("turn-*/*.parquet")
    pq.write_table(pq.read_table(path), path, compression="none")
    other = path.read_bytes()

    with world.parts() as parts:
        commit.run(parts, batch)

    assert path.read_bytes() == other
    assert_catalog_and_files_agree(world)


# ---------------------------------------------------------------- what it is made from is gone


def test_a_lost_manifest_and_a_changed_source_need_the_original(
    world: World, undisturbed: World
) -> None:
    """A copy from a backup has another time of change; what counts is its bytes."""
    night = Night(world)
    night.run(last="decided")
    tar = world.incoming / SECOND / "a.tar"
    original = tar.read_bytes()
    flip(tar)
    take_away(world.base / "root" / files(world, "manifest")[-1].name)

    with pytest.raises((SourceChanged, FileMismatch)) as refused:
        night.run("written")
    assert "from a backup" in str(refused.value) or "put the original back" in str(refused.value)
    (batch,) = world.ask("SELECT * FROM curation.runs WHERE state = 'unpublishable'")
    assert batch["message"] == str(refused.value)
    tar.write_bytes(original)
    night.run()

    assert world.published() == undisturbed.published()
    assert_promises(world)


@pytest.mark.parametrize("change", [flip, take_away])
def test_before_the_decision_a_batch_that_lost_both_may_be_abandoned(
    world: World, change: Callable[[Path], None]
) -> None:
    night = Night(world)
    night.run(last="matched")
    take_away(world.base / "root" / files(world, "manifest")[-1].name)
    change(world.incoming / SECOND / "a.tar")

    with pytest.raises((SourceChanged, FileMismatch)) as refused:
        night.run("decided", "decided")
    assert f"sscd-ops batch abandon {night.batch_id} --why '...'" in str(refused.value)
    with world.parts() as parts:
        manage.abandon(parts, night.batch_id, actor="ann", why="lost")
    # its rows still name what was lost
    for said in verify(world):
        follow(world, said, world.base)
    assert verify(world) == []
    night.run()

    assert_catalog_and_files_agree(world)
    assert_one_verdict_each(world, None)


def test_a_published_shard_is_written_again_from_its_source_alone(world: World) -> None:
    tar = world.incoming / FIRST / "b.tar"
    original = tar.read_bytes()
    flip(tar)
    lost = [world.base / "root" / file.name for file in files(world, "tar")]
    before = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()

    with world.parts() as parts:
        done, left = rebuild_snapshots(parts, DATASET)
    assert done == []
    assert "put the original back and run this command again, or restore" in left[0]
    tar.write_bytes(original)
    for said in verify(world):
        follow(world, said, world.base)

    assert [path.read_bytes() for path in lost] == before
    assert_promises(world)


def test_a_shard_of_a_detached_month_comes_from_a_backup_alone(world: World) -> None:
    detach(world)
    take_away(world.base / "root" / files(world, "tar")[0].name)

    with world.parts() as parts:
        done, left = rebuild_snapshots(parts, DATASET)

    assert done == []
    assert "the month of its samples was detached" in left[0]
    assert "restore it from a backup" in left[0]


def test_snapshots_of_all_nights_are_compared_and_made_again(world: World) -> None:
    world.night(SECOND)
    folder = world.base / "root" / DATASET / "snapshots"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)

    assert len(verify(world)) == 2
    with world.parts() as parts:
        done, left = rebuild_snapshots(parts, DATASET)

    assert (len(done), left) == (2, [])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    flip(folder / "latest.json")
    (said,) = verify(world)
    follow(world, said, folder)
    assert_promises(world)


# ---------------------------------------------------------------- a source that changed


@pytest.mark.parametrize("moment", ["planned", "ingested", "decided"])
@pytest.mark.parametrize("change", [zero, take_away])
def test_a_source_that_was_put_back_goes_on(
    world: World, undisturbed: World, moment: str, change: Callable[[Path], None]
) -> None:
    night = Night(world)
    night.run(last=moment)
    tar = world.incoming / SECOND / "a.tar"
    original, times = tar.read_bytes(), tar.stat()
    change(tar)

    with pytest.raises(SourceChanged) as refused:
        night.run(MOMENTS[MOMENTS.index(moment) + 1])
    tar.write_bytes(original)
    if "time of change" in str(refused.value):
        os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    night.run()

    assert world.published() == undisturbed.published()
    assert_promises(world)


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("damage", [flip, take_away, make_a_folder])
def test_damaged_copies_of_a_remote_root_change_nothing(
    other_world: World, undisturbed: World, damage: Callable[[Path], None]
) -> None:
    other_world.storage = StorageOptions(
        f"memory://{other_world.base}", str(other_world.base / "cache"), 10**9
    )
    start(other_world)
    night = Night(other_world)
    for moment in MOMENTS:
        night.run(moment, moment)
        for copy in (other_world.base / "cache").iterdir():
            if copy.is_file():
                damage(copy)
    if damage is not take_away:
        assert all("in storage.cache was damaged" in said for said in verify(other_world))

    assert verify(other_world) == []
    assert other_world.published() == undisturbed.published()
    assert_promises(other_world)


def test_a_cache_that_is_removed_while_a_step_runs_is_filled_again(
    other_world: World, undisturbed: World
) -> None:
    other_world.storage = StorageOptions(
        f"memory://{other_world.base}", str(other_world.base / "cache"), 10**9
    )
    start(other_world)
    night = Night(other_world)
    with other_world.parts() as parts:
        for moment in MOMENTS:
            getattr(night, moment)(parts)
            shutil.rmtree(other_world.base / "cache", ignore_errors=True)

    assert other_world.published() == undisturbed.published()
    assert_promises(other_world)


# ---------------------------------------------------------------- other sources


@pytest.mark.parametrize("kind", ["folder", "parquet", "img2dataset"])
def test_manifests_of_every_kind_of_source_are_made_again(other_world: World, kind: str) -> None:
    """Though the source was copied back from a backup, with other times."""
    day = other_world.incoming / FIRST
    endings = {"folder": "", "parquet": "/*.parquet", "img2dataset": "/*.tar"}
    urls = (f"{other_world.incoming}/{{date}}{endings[kind]}",)
    other_world.change_source(kind=kind, urls=urls, image_column="image", caption_column="text")
    if kind == "folder":
        day.mkdir(parents=True)
        for seed in range(3):
            (day / f"{seed}.jpg").write_bytes(picture(seed))
            (day / f"{seed}.txt").write_text(f"caption {seed}")
    elif kind == "parquet":
        day.mkdir(parents=True)
        rows = {"image": [picture(seed) for seed in range(3)], "text": ["a", "b", "c"]}
        pq.write_table(pa.table(rows), day / "a.parquet")
    else:
        other_world.put(FIRST, "a.tar", clouds(range(3)))
    other_world.night(FIRST)
    for path in day.iterdir():
        os.utime(path, (1, 1))
    shutil.rmtree(other_world.base / "root" / DATASET / "manifests")
    shutil.rmtree(other_world.base / "root" / DATASET / "shards")

    for said in verify(other_world):
        follow(other_world, said, other_world.base)

    assert_catalog_and_files_agree(other_world)
