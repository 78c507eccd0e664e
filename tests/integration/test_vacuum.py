"""vacuum: what no row names goes, in two phases, and nobody loses a file that counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from sscd_ops.catalog import condemned, naming, searches
from sscd_ops.errors import (
    CatalogBehind,
    FileMismatch,
    FileRemoved,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from sscd_ops.model import StoredFile
from sscd_ops.options import StorageOptions, to_json
from sscd_ops.steps import manage
from sscd_ops.steps import vacuum as steps
from sscd_ops.steps.compacting import compact
from sscd_ops.steps.rebuilding import rebuild_index, rebuild_snapshots
from sscd_ops.steps.snapshot_tags import expire
from sscd_ops.steps.vacuum import Vacuumed, folder_of, vacuum
from sscd_ops.steps.verify import verify_catalog, verify_index, verify_snapshot
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.databases import fresh_database
from tests.integration.orders import lead_by
from tests.integration.test_crashes import ROOT, Killed
from tests.integration.test_damage import copy_of
from tests.integration.test_nights import DAYS, clouds, fill, planted_nights
from tests.integration.world import DATASET, World, assert_promises, pair

HOUR = 3600.0
EVERY_FOLDER = {
    "manifests", "worklists", "descriptors", "matches", "index/segments", "index/masks", "shards",
    "removed", "snapshots",
}  # fmt: skip
BESIDE = {f"{DATASET}/README.md", f"{DATASET}/snapshots/latest.json"}
"""What no row names either, and stays."""


def files(world: World) -> dict[str, Path]:
    """Every file and link below the dataset's folder, by its name relative to the root."""
    root = Path(world.storage.root)
    found = [path for path in (root / DATASET).rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path.relative_to(root)): path for path in found}


def clean(world: World, grace: float = 0.0, **options: Any) -> Vacuumed:
    with world.parts() as parts:
        (done,) = vacuum(parts, DATASET, grace=grace, **options)
    return done


def named(world: World) -> set[str]:
    """What rows name, by looking at all of them: rows of attempts that count, unexpired snapshots.

    Written down once more, so that the product's own query is held against something.
    """
    ask = world.ask
    attempts = {
        row["attempt_id"]: row
        for row in ask("SELECT * FROM sscd_ops.batches WHERE state <> 'abandoned'")
    }
    names: list[str] = []
    for row in ask("SELECT * FROM sscd_ops.source_shards"):
        if row["attempt_id"] in attempts:
            names += [file["name"] for file in (row["manifest"], row["descriptors"]) if file]
    for row in ask("SELECT * FROM sscd_ops.searches"):
        names += [row["file"]["name"]] if row["attempt_id"] in attempts else []
    for row in ask("SELECT * FROM sscd_ops.attempts WHERE work_list IS NOT NULL"):
        batch = attempts.get(row["attempt_id"])
        if batch and batch["decision_id"] is None:
            names.append(row["work_list"]["name"])
    newest = "SELECT * FROM sscd_ops.segment_masks m JOIN sscd_ops.segments USING (segment_id)"
    for row in ask(f"{newest} WHERE m.generation_to IS NULL"):
        names += [row["mask"]["name"], *(file["name"] for file in row["files"].values())]
    for row in ask("SELECT * FROM sscd_ops.snapshots WHERE expired_at IS NULL"):
        names.append(row["file"]["name"])
    live = {row["snapshot"] for row in ask("SELECT * FROM sscd_ops.snapshots")}
    live -= {
        row["snapshot"]
        for row in ask("SELECT * FROM sscd_ops.snapshots WHERE expired_at IS NOT NULL")
    }
    placed = "sscd_ops.output_shards JOIN sscd_ops.placements USING (output_id)"
    for row in ask(f"SELECT * FROM {placed}"):
        until = row["snapshot_to"] or 10**6
        waits = row["snapshot_from"] is None and row["snapshot_to"] is None
        if waits or live & set(range(row["snapshot_from"] or until, min(until, 1000))):
            names += [file["name"] for file in (row["files"] or {}).values()]
    for row in ask("SELECT * FROM sscd_ops.archived_shards"):
        names += [file["name"] for file in (row["files"] or {}).values()]
    return set(names)


def plant_leftovers(world: World, mark: str = "") -> set[str]:
    """What killed writers leave: whole files of each kind that no row names, and hidden ones."""
    digest = f"{mark}{'0123456789abcdef' * 4}"[:64]
    left = [
        *(f"{kind}/{digest}.parquet" for kind in ("manifests", "worklists", "descriptors")),
        f"matches/{digest}.parquet",
        f"index/segments/{digest}.npy",
        f"index/masks/{digest}.mask",
        *(f"{folder}/2026-11-09-{digest[:8]}/00000{end}" for folder in ("shards", "removed")
          for end in (".tar", ".parquet", "_stats.json")),
        f"snapshots/000001-{digest[:8]}.json",
        f"shards/2026-11-09-{digest[:8]}/.tmp-{digest[:32]}",
        f"manifests/.tmp-{digest[:32]}",
    ]  # fmt: skip
    for name in left:
        path = Path(world.storage.root) / DATASET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left by a killed try")
    return {f"{DATASET}/{name}" for name in left}


def age(world: World, hours: float) -> None:
    """Everything was written, and condemned, so much earlier."""
    for path in files(world).values():
        if not path.is_symlink():
            written = path.stat().st_mtime - hours * HOUR
            os.utime(path, (written, written))
    with world.parts() as parts, parts.catalog.begin() as conn:
        conn.execute(
            sa.text(
                "UPDATE sscd_ops.condemned"
                " SET condemned_at = condemned_at - make_interval(secs => :s)"
            ),
            {"s": hours * HOUR},
        )


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """What ``used`` is a copy of."""
    return use(module_world)


@pytest.fixture
def used(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    """Three nights, a shard written again, an abandoned attempt, a dry run, merged segments."""
    yield from copy_of(begun, tmp_path, postgres_home)


def use(world: World) -> World:
    world.change(publish={"undo": "archive"})
    fill(world, planted_nights(), shards=2)
    world.night(DAYS[0])
    world.night(DAYS[1])
    wrong = world.put(DAYS[2], "wrong.tar", clouds(range(200, 203)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[2])
        wrong.unlink()
        manage.abandon(parts, batch, actor="ann", why="a test")
        world.night(DAYS[2], dry_run=True)
        lead_by(parts, {"c0001": "withdrawn"})
    world.night(DAYS[2])
    with world.parts() as parts:
        assert len(compact(parts, DATASET, 1000)) == 1
    return world


# ---------------------------------------------------------------- what goes, what stays


def test_what_no_row_names_goes_and_all_else_stays(used: World) -> None:
    left = plant_leftovers(used)
    folder = Path(used.storage.root) / DATASET
    (folder / "manifests" / "notes.txt").write_text("somebody's")
    (folder / "shards" / "mine").mkdir()
    (folder / "shards" / "mine" / "00000.tar").write_text("somebody's")
    elsewhere = used.base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / f"{'a' * 64}.parquet").write_text("not below the root")
    (folder / "matches" / "more").symlink_to(elsewhere)
    (folder / "matches" / f"{'b' * 64}.parquet").symlink_to(elsewhere / f"{'a' * 64}.parquet")
    before, views = files(used), used.views(set())
    others = {f"{DATASET}/{name}" for name in (
        "manifests/notes.txt", "shards/mine/00000.tar", "matches/more",
        f"matches/{'b' * 64}.parquet",
    )}  # fmt: skip
    stay = others | BESIDE

    foreseen = clean(used, dry_run=True)
    assert files(used).keys() == before.keys()
    assert used.ask("SELECT * FROM sscd_ops.condemned") == []
    done = clean(used)

    assert files(used).keys() == named(used) | stay
    assert done.removed == done.condemned == foreseen.removed == foreseen.condemned
    assert done.removed.keys() == before.keys() - files(used).keys()
    assert left < done.removed.keys()
    # nights leave some of each kind themselves, save that nothing published is ever left
    assert {folder_of(name) for name in done.removed.keys() - left} >= EVERY_FOLDER - {
        "shards", "removed", "snapshots",
    }  # fmt: skip
    assert set(done.others) == others
    assert list(elsewhere.iterdir())
    (event,) = [e for e in used.ask("SELECT * FROM curation.events") if e["kind"] == "vacuumed"]
    gone = sum(folder["files"] for folder in event["details"]["removed"].values())
    assert gone == len(done.removed)
    assert used.views(set()) == views
    assert_promises_of_replaced(used)
    with used.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        assert rebuild_index(parts, DATASET) == []
        assert rebuild_snapshots(parts, DATASET) == ([], [])
    assert clean(used).removed == {}

    used.put(DAYS[3], "a.tar", [*clouds(range(90, 95)), pair("again", picture(3))])
    used.night(DAYS[3])
    assert_promises_of_replaced(used)
    assert used.verdicts()["again"] == "removed exact"


def assert_promises_of_replaced(world: World) -> None:
    from tests.integration import world as promises

    promises.assert_no_kept_copies(world)
    promises.assert_published_bytes(world, replaced=True)
    promises.assert_catalog_and_files_agree(world)


def test_a_file_is_condemned_after_one_grace_and_removed_after_another(world: World) -> None:
    fill(world, {DAYS[0]: clouds(range(4))}, shards=1)
    world.night(DAYS[0])
    before = plant_leftovers(world)
    night_s = files(world).keys() - named(world) - before - BESIDE

    assert clean(world, 24 * HOUR).condemned == {}  # too young
    age(world, 25)
    first = clean(world, 24 * HOUR)
    age(world, 23)
    second = clean(world, 24 * HOUR)
    assert first.condemned.keys() == before | night_s
    assert (first.removed, second.condemned, second.removed) == ({}, {}, {})
    assert second.waiting == first.condemned
    assert before | night_s < files(world).keys()
    # one of them is written anew meanwhile, by a try that may come to name it
    young = min(before)
    (Path(world.storage.root) / young).write_bytes(b"left by a killed try")
    age(world, 2)
    third = clean(world, 24 * HOUR)

    assert third.acquitted == 1
    assert third.removed.keys() == (before | night_s) - {young}
    assert young in files(world)
    assert_promises(world)


def test_a_snapshot_is_read_as_before_until_it_is_expired(used: World) -> None:
    """The first one's shard was written again without what was withdrawn."""
    clean(used)
    old = used.ask("SELECT * FROM curation.snapshots ORDER BY snapshot")
    mine = {
        row["shard"]
        for row in used.ask("SELECT * FROM curation.shards WHERE snapshot_to IS NOT NULL")
    }
    assert mine
    assert mine < files(used).keys()
    with used.parts() as parts:
        for row in old:
            assert verify_snapshot(parts, DATASET, row["snapshot"]) == []

    with used.parts() as parts:
        expire(parts, DATASET, [1, 2], actor="ann", why="a test")
    done = clean(used)

    assert {name for name in done.removed if name.endswith(".tar")} == mine
    assert {name for name in done.removed if "/snapshots/" in name} == {
        row["file"] for row in old[:2]
    }
    assert files(used).keys() == named(used) | BESIDE
    assert_promises_of_readable(used)


def assert_promises_of_readable(world: World) -> None:
    """Verify misses nothing that was expired, and repairs nothing of it."""
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        assert verify_snapshot(parts, DATASET) == []
        assert verify_index(parts, DATASET) == []
        assert rebuild_snapshots(parts, DATASET) == ([], [])
        assert rebuild_index(parts, DATASET) == []
    assert files(world).keys() == named(world) | BESIDE


def test_what_a_batch_under_way_may_still_read_stays(used: World) -> None:
    """Its generation is followed by another, which lists a merged segment instead."""
    clean(used)
    used.put(DAYS[3], "a.tar", clouds(range(90, 95)))
    used.night(DAYS[3])
    used.put("2026-11-05", "a.tar", [*clouds(range(100, 104)), pair("again", picture(91))])
    with used.parts() as parts:
        batch = used.until_match(parts, "2026-11-05")
        before = named(used)
        assert len(compact(parts, DATASET, 1000)) == 1
        clean(used)
        assert before <= files(used).keys()
        used.from_resolve(parts, batch)

    done = clean(used)

    assert {"index/segments", "index/masks", "matches", "worklists"} <= set(
        map(folder_of, done.removed)
    )
    assert files(used).keys() == named(used) | BESIDE
    assert_promises_of_replaced(used)


def test_a_remote_root_is_vacuumed_likewise(world: World, other_world: World) -> None:
    fill(world, {DAYS[0]: clouds(range(6)), DAYS[1]: clouds(range(4, 9))}, shards=1)
    other_world.storage = StorageOptions(
        f"memory://{other_world.base}", str(other_world.base / "cache")
    )
    for each in (world, other_world):
        for day in DAYS[:2]:
            each.night(day)

    assert clean(other_world, HOUR).condemned == {}
    local, remote = clean(world), clean(other_world)

    # bytes of a candidate file may differ by the numbers of rows
    assert sorted(map(folder_of, local.removed)) == sorted(map(folder_of, remote.removed))
    assert local.removed
    assert_promises(other_world)
    with other_world.parts() as parts:
        assert all(parts.store.has(name) for name in named(other_world))
        assert not any(parts.store.has(name) for name in remote.removed)


# ---------------------------------------------------------------- beside those who name files


def first_naming(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[StoredFile], None]) -> None:
    """Have something happen just before a row comes to name files, the first of a transaction."""
    real = naming.name_files
    begun: list[Any] = []  # kept: another one might get its place in memory

    def name_files(conn: sa.Connection, given: Any) -> None:
        given = list(given)
        transaction = conn.get_transaction()
        if given and given[0].name and not any(each is transaction for each in begun):
            begun.append(transaction)
            meanwhile(given[0])
        real(conn, given)

    monkeypatch.setattr(naming, "name_files", name_files)
    monkeypatch.setattr(searches, "name_files", name_files)


def test_a_night_loses_a_file_before_each_registration_and_ends_as_an_undisturbed_one(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vacuum without grace takes what was written and not named yet: it is written anew."""
    fill(world, planted_nights(), shards=2)
    for each in (other_world, world):
        each.change(publish={"undo": "archive"})
    for day in DAYS[:2]:
        other_world.night(day)
    world.night(DAYS[0])
    hit: set[str] = set()

    def meanwhile(file: StoredFile) -> None:
        if (kind := folder_of(file.name)) not in hit:
            hit.add(kind)
            assert file.name in clean(world).removed

    refused = 0
    with monkeypatch.context() as patch:
        first_naming(patch, meanwhile)
        while True:
            try:
                world.night(DAYS[1])
                break
            except FileRemoved:
                refused += 1

    assert hit == EVERY_FOLDER - {"index/masks"}  # named together with their segments
    assert refused == len(hit)
    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert_promises(world)


@pytest.mark.soak
def test_nights_beside_vacuums_without_a_grace_end_as_undisturbed_ones(
    world: World, other_world: World
) -> None:
    """Again and again, and beside publishing too; whoever lost a file is run again."""
    fill(world, planted_nights(), shards=3)
    for day in DAYS[:3]:
        other_world.night(day)
    over = threading.Event()
    removed: list[str] = []
    went_wrong: list[BaseException] = []
    lost = 0

    def again_and_again() -> None:
        try:
            with world.parts() as parts:
                while not over.wait(0.05 * (1 + lost)):  # the slower the more is lost: it ends
                    for done in vacuum(parts, grace=0.0):
                        removed.extend(done.removed)
        except BaseException as error:
            went_wrong.append(error)

    cleaners = [threading.Thread(target=again_and_again) for _ in range(2)]
    for cleaner in cleaners:
        cleaner.start()
    for day in DAYS[:3]:
        while True:
            try:
                world.night(day)
                break
            except (FileRemoved, FileMismatch, StoreUnavailable):
                lost += 1
    over.set()
    for cleaner in cleaners:
        cleaner.join(60)
    clean(world)

    assert went_wrong == []
    assert removed
    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert files(world).keys() == named(world) | BESIDE
    assert_promises(world)


@pytest.mark.parametrize("state", ["condemned", "deleting"])
def test_a_zombie_names_what_is_condemned_and_it_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """``deleting``: a vacuum died between marking the file and removing it."""
    fill(world, {DAYS[0]: clouds(range(4))}, shards=1)
    seen: list[dict[str, Any]] = []

    def die(*_: Any) -> None:
        raise Killed

    def meanwhile(file: StoredFile) -> None:
        if folder_of(file.name) != "descriptors":
            return
        age(world, 2)
        assert file.name in clean(world, HOUR).condemned
        if state == "deleting":
            age(world, 2)
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr(condemned, "lock_deleting", die)
                clean(world, HOUR)
        seen.extend(world.ask("SELECT * FROM sscd_ops.condemned WHERE name = :n", n=file.name))

    with monkeypatch.context() as patch:
        first_naming(patch, meanwhile)
        world.night(DAYS[0])

    assert [row["deleting"] for row in seen] == [state == "deleting"]
    age(world, 2)
    done = clean(world, HOUR)
    assert seen[0]["name"] not in done.removed
    assert_promises(world)


def test_a_zombie_waits_for_a_vacuum_that_has_its_file_in_hand(world: World) -> None:
    """It is refused where the file went, and the retry that writes it anew is not."""
    fill(world, {DAYS[0]: clouds(range(4))}, shards=1)
    world.night(DAYS[0])
    with world.parts() as parts:
        file = parts.store.put(f"{DATASET}/manifests", ".parquet", lambda s: s.write(b"x"))
        removing, go = threading.Event(), threading.Event()
        real = parts.store.delete

        def delete(name: str) -> None:
            removing.set()
            assert go.wait(20)
            real(name)

        parts.store.delete = delete  # type: ignore[method-assign]
        cleaner = threading.Thread(target=vacuum, args=(parts, DATASET), kwargs={"grace": 0.0})
        cleaner.start()
        assert removing.wait(20)
        said: list[Exception] = []

        def register() -> None:
            try:
                with parts.catalog.begin() as conn:
                    naming.file_json(conn, file)
            except FileRemoved as error:
                said.append(error)

        zombie = threading.Thread(target=register)
        zombie.start()
        time.sleep(0.3)
        assert zombie.is_alive()  # it does not go on beside a removal
        go.set()
        cleaner.join(20)
        zombie.join(20)
        assert len(said) == 1

        parts.store.put(f"{DATASET}/manifests", ".parquet", lambda s: s.write(b"x"))
        register()
        assert len(said) == 1
        assert world.ask("SELECT * FROM sscd_ops.condemned WHERE name = :n", n=file.name) == []


def test_who_began_to_name_a_file_before_it_was_condemned_is_waited_for(world: World) -> None:
    fill(world, {DAYS[0]: clouds(range(4))}, shards=1)
    world.night(DAYS[0])
    with world.parts() as parts:
        write = lambda stream: stream.write(b"x")  # noqa: E731
        file = parts.store.put(f"{DATASET}/manifests", ".parquet", write)
        done: list[Vacuumed] = []
        cleaner = threading.Thread(target=lambda: done.append(clean(world)))
        with parts.catalog.begin() as conn:
            told = naming.file_json(conn, file)  # and a row of another transaction's
            cleaner.start()
            time.sleep(1.0)
            assert cleaner.is_alive()
            conn.execute(
                sa.text(
                    "UPDATE sscd_ops.source_shards SET manifest = CAST(:f AS jsonb)"
                    " WHERE shard_id = (SELECT min(shard_id) FROM sscd_ops.source_shards)"
                ),
                {"f": told},
            )
        cleaner.join(20)

    assert file.name in done[0].condemned
    assert file.name not in done[0].removed
    assert file.name in files(world)


# ---------------------------------------------------------------- killed, two at once


PHASES = [
    (when, point)
    for point in ("condemn", "wait_for_namers", "acquit", "mark_deleting", "lock_deleting",
                  "mark_removed", "forget_removed")
    for when in ("before", "after")
]  # fmt: skip


def test_a_vacuum_that_dies_anywhere_is_finished_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, {DAYS[0]: clouds(range(4))}, shards=1)
    world.night(DAYS[0])
    clean(world)
    kept = files(world).keys()
    for number, (when, point) in enumerate(PHASES):
        left = plant_leftovers(world, f"{number:02d}")
        with world.parts() as parts, parts.catalog.begin() as conn:
            condemned.condemn(conn, 1, {min(named(world)): 1})  # let go again
        real = getattr(condemned, point)

        def dies(*given: Any, real: Any = real, when: str = when) -> Any:
            if when == "after":
                real(*given)
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(condemned, point, dies)
            clean(world)
        assert kept <= files(world).keys()

        done = clean(world)

        assert files(world).keys() == kept
        # what the dead one removed before it could say so is gone without having been listed
        assert done.removed.keys() <= left
        open_ = world.ask("SELECT * FROM sscd_ops.condemned WHERE removed_at IS NULL")
        assert open_ == []
    assert_promises(world)


KILLED = """
import os, signal, sys
from sscd_ops.options import Settings, StorageOptions, dataset_from_json
from sscd_ops.wiring import Wiring
from sscd_ops.steps.vacuum import vacuum
url, root, options = sys.argv[1:]
datasets = {"web": dataset_from_json(options)}
settings = Settings("t.toml", StorageOptions(root=root), datasets=datasets)
with Wiring(settings, database_url=url) as parts:
    real, left = parts.store.delete, [7]
    def delete(name):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        real(name)
    parts.store.delete = delete
    vacuum(parts, "web", grace=0.0)
"""


def test_a_vacuum_that_is_killed_while_it_removes_is_finished_by_the_next(world: World) -> None:
    fill(world, {DAYS[0]: clouds(range(4))}, shards=1)
    world.night(DAYS[0])
    kept = named(world) | BESIDE
    left = plant_leftovers(world)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, world.url, world.storage.root, to_json(world.options)],
        cwd=ROOT,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert left & files(world).keys()
    assert kept < files(world).keys()

    clean(world)

    assert files(world).keys() == kept
    assert_promises(world)


def test_two_vacuums_at_once_remove_each_file_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, {DAYS[0]: clouds(range(4))}, shards=1)
    world.night(DAYS[0])
    monkeypatch.setattr(steps, "_AT_ONCE", 7)
    monkeypatch.setattr(steps, "_BATCH", 10)
    monkeypatch.setattr(steps, "_TOGETHER", 3)
    left = set.union(*(plant_leftovers(world, f"{number:02d}") for number in range(12)))
    done: list[Vacuumed] = []
    together = [threading.Thread(target=lambda: done.append(clean(world))) for _ in range(2)]
    for one in together:
        one.start()
    for one in together:
        one.join(60)
    clean(world)

    assert len(done) == 2
    assert not done[0].removed.keys() & done[1].removed.keys()
    assert left <= done[0].removed.keys() | done[1].removed.keys()
    assert files(world).keys() == named(world) | BESIDE
    assert_promises(world)


# ---------------------------------------------------------------- refused


@pytest.fixture
def restored(world: World, postgres_home: Path) -> Iterator[World]:
    """The catalog as it was before the last of two nights, over the root as it is after it."""
    fill(world, {DAYS[0]: clouds(range(4)), DAYS[1]: clouds(range(4, 8))}, shards=1)
    world.night(DAYS[0])
    for url in fresh_database(postgres_home, world.url.rpartition("/")[2]):
        world.night(DAYS[1])
        older = World(world.base, url)
        older.options = world.options
        yield older


def test_a_root_that_is_newer_than_the_catalog_is_refused(world: World, restored: World) -> None:
    before = files(restored).keys()
    with pytest.raises(CatalogBehind, match=r"latest\.json names snapshot 2.*has 1 as the newest"):
        clean(restored)
    assert files(restored).keys() == before
    assert restored.ask("SELECT * FROM sscd_ops.condemned") == []

    clean(world)  # the remedy: the newer catalog
    assert_promises(world)

    with restored.parts() as parts:  # or, where this one counts: snapshot verify --repair
        rebuild_snapshots(parts, DATASET)
    clean(restored)
    restored.night(DAYS[1])
    assert_promises(restored)


def test_the_root_of_another_catalog_is_refused(world: World, other_world: World) -> None:
    fill(world, {DAYS[0]: clouds(range(4)), DAYS[1]: clouds(range(4, 8))}, shards=1)
    for day in reversed(DAYS[:2]):
        other_world.night(day)
    world.night(DAYS[0])
    before, own = files(world).keys(), other_world.storage

    other_world.storage = world.storage
    with pytest.raises(StoreRefused, match=r"latest\.json is no snapshot of this catalog"):
        clean(other_world)
    assert files(world).keys() == before

    other_world.storage = own
    pointer = Path(own.root) / DATASET / "snapshots" / "latest.json"
    pointer.write_bytes(b"{")
    with pytest.raises(StoreRefused, match="if both are right, that file is damaged: `sscd"):
        clean(other_world)
    with other_world.parts() as parts:  # snapshot verify --repair
        rebuild_snapshots(parts, DATASET)
    clean(other_world)
    assert_promises(other_world)


def test_the_grace_is_the_dataset_s_own_unless_one_is_given(used: World) -> None:
    used.change(retention={"grace": 0.0})
    with used.parts() as parts:
        (own,) = vacuum(parts, dry_run=True)
        (given,) = vacuum(parts, grace=3600, dry_run=True)
    assert own.condemned
    assert not given.condemned


def test_a_grace_below_zero_and_an_unknown_dataset_are_refused(world: World) -> None:
    with world.parts() as parts:
        for grace in (-1.0, float("nan")):
            with pytest.raises(UsageError, match="grace is 0 seconds or more"):
                vacuum(parts, grace=grace)
        with pytest.raises(UsageError, match="dataset"):
            vacuum(parts, "nope")
        assert vacuum(parts) == []


# ---------------------------------------------------------------- nobody goes round it


FILES = {
    "archived_shards.files",
    "source_shards.manifest", "source_shards.descriptors", "attempts.work_list", "searches.file",
    "segments.files", "segment_masks.mask", "output_shards.files", "snapshots.file",
}  # fmt: skip
OTHERS = {
    "datasets.fingerprint_detail", "datasets.roots", "batches.runner", "attempts.config",
    "attempts.fingerprint_detail", "source_shards.counts", "decisions.counts", "decisions.origins",
    "decision_sources.counts", "samples.meta", "events.details", "configs.config",
    "orders.request", "orders.drafted_by", "orders.applied_by", "orders.approved_by",
    "order_drafts.counts", "receipts.attachment",
}  # fmt: skip
"""Columns of JSON that hold no file."""


def names_in(value: Any) -> Iterator[str]:
    """Names of stored files in a statement's parameter."""
    if isinstance(value, dict) and {"name", "sha256"} <= value.keys():
        yield value["name"]
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from names_in(item)
    elif isinstance(value, str) and '"sha256"' in value:
        yield from names_in(json.loads(value))


def test_every_row_that_names_a_file_says_so(used: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written into a column of files was told to ``name_files`` in its transaction."""
    columns = used.ask(
        "SELECT relname || '.' || attname AS name FROM pg_attribute JOIN pg_class c"
        " ON c.oid = attrelid WHERE atttypid = 'jsonb'::regtype AND attnum > 0"
        " AND relnamespace = 'sscd_ops'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition"
    )
    assert {row["name"] for row in columns} == FILES | OTHERS
    told: dict[int, set[str]] = {}
    written: set[str] = set()
    real = naming.name_files

    def name_files(conn: sa.Connection, given: Any) -> None:
        given = list(given)
        transaction = id(conn.connection.dbapi_connection)
        told.setdefault(transaction, set()).update(file.name for file in given)
        real(conn, given)

    def forget(conn: sa.Connection) -> None:
        told.pop(id(conn.connection.dbapi_connection), None)

    def watch(conn: sa.Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found = {name for name in names_in(list(dict(parameters or {}).values())) if name}
        assert found <= told.get(id(conn.connection.dbapi_connection), set()), statement
        written.update(map(folder_of, found))

    monkeypatch.setattr(naming, "name_files", name_files)
    monkeypatch.setattr(searches, "name_files", name_files)
    opened = Wiring.__enter__

    def enter(self: Wiring) -> Wiring:
        sa.event.listen(self.catalog.engine, "before_cursor_execute", watch)
        for end in ("commit", "rollback"):
            sa.event.listen(self.catalog.engine, end, forget)
        return opened(self)

    monkeypatch.setattr(Wiring, "__enter__", enter)
    used.change(publish={"undo": "archive"})
    again = [pair("again", picture(1)), pair("more", picture(3))]
    used.put(DAYS[3], "a.tar", [*clouds(range(90, 95)), *again])
    with used.parts() as parts:
        lead_by(parts, {"c0002": "withdrawn"})
    used.night(DAYS[3])
    with used.parts() as parts:
        compact(parts, DATASET, 1000)
    for kind in ("worklists", "manifests", "descriptors", "index/segments", "index/masks"):
        for path in (Path(used.storage.root) / DATASET / kind).iterdir():
            path.unlink()
        with used.parts() as parts:
            rebuild_index(parts, DATASET)

    assert written == EVERY_FOLDER
