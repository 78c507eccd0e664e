"""``--purge``: nothing below the root holds what was withdrawn, and all else is as it was."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from uuid import UUID

import fsspec
import pyarrow.parquet as pq
import pytest

from sscd_ops.catalog.sql import files_of
from sscd_ops.errors import CommitConflict, FileMismatch, FileRemoved, UsageError
from sscd_ops.options import StorageOptions
from sscd_ops.steps import commit, ingest, publish, resolve
from sscd_ops.steps.next_snapshot import publish_others
from sscd_ops.steps.orders.purging import Purged, purge
from sscd_ops.steps.rebuilding import rebuild_index, rebuild_snapshots
from sscd_ops.steps.snapshot_tags import tag, untag
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import Sample, picture
from tests.integration.orders import lead_by
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_damage import copy_of
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import DAYS
from tests.integration.test_recovery import detach
from tests.integration.world import DATASET, World
from tests.soak import sweep

GONE = {"c0001": "withdrawn", "c0005": "free", "c0009": "withdrawn"}
"""What is withdrawn: the image, or the sample; of the first night two, of the second one."""


def told(seed: int) -> Sample:
    """A sample that says where it is from."""
    key = f"c{seed:04d}"
    said = {"url": f"https://example.org/of/{key}.jpg"}
    members = {"jpg": picture(seed), "txt": f"caption of {key}", "json": json.dumps(said)}
    return key, {n: d if isinstance(d, bytes) else d.encode() for n, d in members.items()}


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """Two nights of three shards each; what is to go is withdrawn."""
    world = module_world
    world.change(publish={"max_samples": 2})
    world.change_source(columns=("url",))
    world.put(DAYS[0], "a.tar", [told(n) for n in range(3)])
    world.put(DAYS[0], "b.tar", [told(n) for n in range(3, 6)])
    world.put(DAYS[1], "a.tar", [told(n) for n in range(6, 12)])
    for day in DAYS[:2]:
        world.night(day)
    return world


@pytest.fixture
def world(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    """A root and database of its own; the sources are put back at the end."""
    yield from copy_of(begun, tmp_path, postgres_home)


def ids_of(world: World, keys: Collection[str] = GONE.keys()) -> list[UUID]:
    asked = "SELECT sample_id FROM sscd_ops.samples WHERE key = ANY(:k) ORDER BY key"
    return [row["sample_id"] for row in world.ask(asked, k=list(keys))]


def withdraw(world: World, **changes: str) -> list[UUID]:
    """Withdraw samples; their ids."""
    ids = ids_of(world, changes or GONE)
    with world.parts() as parts:
        lead_by(parts, changes or GONE)
    return ids


def purged(world: World, ids: Collection[UUID], **options: bool) -> Purged:
    with world.parts() as parts:
        return purge(parts, DATASET, ids, actor="ann", why="court order 77", **options)


def holding(world: World, keys: Collection[str] = GONE.keys()) -> list[str]:
    """Files of ours that hold the bytes, captions, URLs or keys of samples; searched, not asked."""
    wanted = {key: _traces(int(key[1:])) for key in keys}
    found = []
    for path in sorted(world.base.rglob("*")):
        if not path.is_file() or world.incoming in path.parents:
            continue
        if path.relative_to(world.base).parts[0] == "originals":
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet" or data[:4] == b"PAR1":
            data += repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
        for key, traces in wanted.items():
            found += [f"{key} in {path.name}" for trace in traces if trace in data]
    rows = world.ask("SELECT * FROM sscd_ops.samples")
    for table in ("events", "batches", "decisions", "detached_samples"):
        rows += world.ask(f"SELECT * FROM sscd_ops.{table}")
    for row in rows:
        if row.get("kind") == "order" or "changes" in row.get("details", {}):
            continue  # the made-up order names its samples by their keys
        said = repr(row).encode()
        for key, traces in wanted.items():
            found += [f"{key} in {row}" for trace in traces[1:] if trace in said]
    return found


def _traces(seed: int) -> tuple[bytes, ...]:
    key, members = told(seed)
    image = members["jpg"]
    return image[len(image) // 2 :][:64], members["txt"], f"/of/{key}.jpg".encode(), key.encode()


def others(world: World) -> dict[str, bytes]:
    """Member of the newest snapshot -> its bytes."""
    (newest,) = world.ask("SELECT * FROM curation.snapshots ORDER BY snapshot DESC LIMIT 1")
    document = json.loads(world.stored(newest["file"]))
    answer = {}
    for shard in document["shardlist"]:
        name = f"{DATASET}/{shard['url'].removeprefix('../')}"
        with tarfile.open(fileobj=io.BytesIO(world.stored(name))) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                answer[member.name] = stream.read()
    return answer


def assert_purged(world: World) -> None:
    assert holding(world) == []
    assert_what_holds(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET, copies=True) == []


# ---------------------------------------------------------------- what goes, what stays


def test_nothing_holds_what_was_purged_and_all_else_is_untouched(world: World) -> None:
    before = others(world)
    ids = withdraw(world)
    assert len(holding(world)) > 20

    done = purged(world, ids)

    assert_purged(world)
    kept = {name: data for name, data in before.items() if UUID(name[:32]) not in ids}
    assert others(world) == kept
    assert done.samples == 3
    assert done.expired == [1, 2]
    assert sorted(name.rpartition(".")[2] for name in done.removed if "/shards/" in name) == [
        *["json"] * 3, *["parquet"] * 3, *["tar"] * 3,
    ]  # fmt: skip
    assert len(done.manifests) == 3
    assert done.rows == 3
    said = " ".join(done.left)
    assert all(word in said for word in ("'crawl'", "storage.cache", "dumps", "models", "VACUUM"))
    assert "example.org" not in said


def test_a_retry_is_inert_and_what_is_made_again_stays_without_it(world: World) -> None:
    ids = withdraw(world)
    purged(world, ids)
    before = world.published()
    events = world.ask("SELECT count(*) AS n FROM sscd_ops.events")

    again = purged(world, ids)

    assert (again.removed, again.rows) == ({}, 0)
    assert again.expired == [1, 2]
    assert world.published() == before
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.events") == events
    for folder in ("manifests", "shards"):
        for path in (world.base / "root" / DATASET / folder).rglob("*.*"):
            path.unlink()
    with world.parts() as parts:
        rebuild_index(parts, DATASET)
        done, left = rebuild_snapshots(parts, DATASET)
    assert left == []
    assert done
    assert world.published() == before
    assert_purged(world)
    world.put(DAYS[2], "a.tar", [told(n) for n in range(20, 23)])
    world.night(DAYS[2])
    assert_purged(world)


def test_a_file_that_comes_again_is_read_without_what_was_erased(world: World) -> None:
    """Its other samples are read, and the ids of those that went are known."""
    purged(world, withdraw(world))
    world.put(DAYS[0], "a.tar", [*(told(n) for n in range(3)), told(40)])

    world.night(DAYS[0], supplement=True)

    assert len(ids_of(world, ["c0040"])) == 1
    assert holding(world) == []


def test_what_is_not_withdrawn_is_not_purged(world: World) -> None:
    kept = ids_of(world, ["c0002"])
    before = world.published()
    for ids in (kept, [*withdraw(world), *kept]):
        with pytest.raises(UsageError, match="is not withdrawn"):
            purged(world, ids)
    with pytest.raises(UsageError, match="has no sample"):
        purged(world, [UUID(int=7)])

    assert world.published().items() >= before.items()
    assert ids_of(world, ["c0001"])


def test_a_tagged_snapshot_is_kept_until_somebody_says_so(world: World) -> None:
    with world.parts() as parts:
        tag(parts, DATASET, 1, "paper", used_by="run-9", actor="bob", why="cited")
    ids = withdraw(world)
    with pytest.raises(UsageError, match=r"paper on snapshot 1") as refused:
        purged(world, ids)
    remedy = f"sscd-ops snapshot tag 1 paper --dataset {DATASET} --remove --why '...'"
    assert remedy in str(refused.value)
    assert "--and-tagged" in str(refused.value)
    assert len(world.ask("SELECT * FROM sscd_ops.snapshots WHERE expired_at IS NULL")) == 3

    done = purged(world, ids, and_tagged=True)

    assert_purged(world)
    assert "run 'run-9' was trained on snapshot 1" in done.left


def test_a_purge_after_the_tag_is_taken_away(world: World) -> None:
    with world.parts() as parts:
        tag(parts, DATASET, 2, "paper", actor="bob", why="cited")
    ids = withdraw(world)
    with pytest.raises(UsageError, match=r"paper on snapshot 2"):
        purged(world, ids)
    with world.parts() as parts:
        untag(parts, DATASET, 2, "paper", actor="bob", why="a purge")
    purged(world, ids)
    assert_purged(world)


def test_detached_months_are_blanked_too(world: World) -> None:
    ids = withdraw(world)
    with world.parts() as parts:
        publish_others(parts, 1)
    detach(world)

    purged(world, ids)

    (table,) = world.ask("SELECT tablename FROM pg_tables WHERE tablename ~ '^samples_2'")
    rows = world.ask(f"SELECT * FROM sscd_ops.{table['tablename']}")
    assert sorted(r["key"] for r in rows)[:3] == ["(erased)"] * 3
    assert holding(world) == []


def test_equal_bytes_of_another_sample_stay_and_are_told(world: World) -> None:
    _, members = told(1)
    world.put(DAYS[2], "z.tar", [("twin", {"jpg": members["jpg"], "txt": b"of the twin"})])
    world.night(DAYS[2])

    done = purged(world, withdraw(world, c0001="withdrawn"))

    assert done.kept_bytes == 1
    assert any("1 other sample has equal bytes" in said for said in done.left)
    assert holding(world, ["c0001"]) == []


# ---------------------------------------------------------------- beside others


def test_what_nobody_lists_any_more_and_what_killed_writers_left_goes_too(world: World) -> None:
    """Copies of files under names that no row has, and of a snapshot that was expired before."""
    root = world.base / "root"
    names = [name for name in holding(world) if name.endswith((".tar", ".parquet"))]
    assert names
    for path in list((root / DATASET / "shards").rglob("*.*")):
        other = path.parent.with_name("2026-11-01-0badf00d") / path.name.replace("0000", "1000")
        other.parent.mkdir(exist_ok=True)
        shutil.copy(path, other)
    for path in list((root / DATASET / "manifests").glob("*.parquet")):
        shutil.copy(path, path.with_name(f"{path.stem[::-1]}.parquet"))
    ids = withdraw(world)

    purged(world, ids)

    assert holding(world) == []
    left = list((root / DATASET / "shards" / "2026-11-01-0badf00d").iterdir())
    assert left  # those that hold none of them wait for vacuum
    with world.parts() as parts:
        vacuum(parts, DATASET, grace=0)
        assert verify_catalog(parts, DATASET) == []
    assert not list((root / DATASET / "shards" / "2026-11-01-0badf00d").iterdir())


@pytest.mark.parametrize("written", [True, False])
def test_a_night_between_decision_and_commit_goes_on_without_it(
    world: World, written: bool
) -> None:
    world.put(DAYS[2], "y.tar", [told(n) for n in range(30, 35)])
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[2])
        groups = resolve.run(parts, batch_id).groups
        if written:
            for group in groups:
                publish.run(parts, batch_id, group)
    ids = withdraw(world, c0031="withdrawn")

    done = purged(world, ids)

    assert holding(world, ["c0031"]) == []
    assert any("may leave it there" in said for said in done.left) is not written
    with world.parts() as parts:
        if not written:
            for group in groups:
                publish.run(parts, batch_id, group)
        commit.run(parts, batch_id)
    assert holding(world, ["c0031"]) == []
    assert_what_holds(world)


@pytest.mark.parametrize("late", ["names", "writes"])
def test_a_zombie_publish_names_nothing_of_what_went(
    world: World, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are written before the purge, and named behind it; or written behind it too."""
    world.put(DAYS[2], "y.tar", [told(n) for n in range(30, 33)])
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[2])
        groups = resolve.run(parts, batch_id).groups
    ids = withdraw(world, c0031="withdrawn")
    module, name = {
        "names": (publish.output_shards, "register_output"),
        "writes": (publish, "write_shard"),
    }[late]
    real = getattr(module, name)

    def zombie(*given: object) -> object:
        monkeypatch.setattr(module, name, real)
        purged(world, ids)
        return real(*given)

    with world.parts() as parts:
        monkeypatch.setattr(module, name, zombie)
        with pytest.raises((FileRemoved, CommitConflict)):
            publish.run(parts, batch_id, groups[-1])  # whose shard holds it
        for group in groups:
            publish.run(parts, batch_id, group)
        commit.run(parts, batch_id)

    if late == "writes":  # as was said
        purged(world, ids)
    assert holding(world, ["c0031"]) == []
    assert_what_holds(world)


def test_a_night_that_reads_while_text_is_erased_reads_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest was written with the text, and is not named."""
    ids = withdraw(world)
    world.put(DAYS[0], "a.tar", [*(told(n) for n in range(3)), told(41)])
    real = ingest.attempts.register_file

    def late(*given: object) -> None:
        monkeypatch.setattr(ingest.attempts, "register_file", real)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, "before", "orders.purging.remove_files")
            purged(world, ids)
        real(*given)

    monkeypatch.setattr(ingest.attempts, "register_file", late)
    with pytest.raises(CommitConflict, match="erased meanwhile"):
        world.night(DAYS[0], supplement=True)
    world.night(DAYS[0], supplement=True)

    purged(world, ids)  # the manifest of the first try is below the root, unnamed
    assert holding(world) == []


def test_copies_of_a_remote_root_go_with_the_files(world: World, tmp_path: Path) -> None:
    world.storage = StorageOptions(
        root=f"memory://purge-{tmp_path.name}", cache=str(tmp_path / "cache"), cache_bytes=10**9
    )
    fs = fsspec.filesystem("memory")
    for path in (tmp_path / "root").rglob("*"):
        if path.is_file():
            fs.pipe_file(
                f"/purge-{tmp_path.name}/{path.relative_to(tmp_path / 'root')}", path.read_bytes()
            )
    shutil.rmtree(tmp_path / "root")
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        rebuild_index(parts, DATASET)
        for row in world.ask("SELECT files FROM sscd_ops.output_shards"):
            for file in files_of(row["files"]).values():
                parts.store.local(file)
    ids = withdraw(world)
    assert holding(world)

    done = purged(world, ids)

    assert holding(world) == []
    assert done.copies > 0
    for name in fs.find(f"/purge-{tmp_path.name}"):
        data = fs.cat_file(name)
        assert all(trace not in data for key in GONE for trace in _traces(int(key[1:]))), name


# ---------------------------------------------------------------- deaths, damage

DEATHS = [
    (when, point)
    for when in ("before", "after")
    for point in (
        "orders.purging.publish_others",
        "orders.purging._plan_anew",
        "orders.purging._expire",
        "orders.erasing.wait_for_namers",
        "orders.erasing.forgotten.replace_manifest",
        "orders.erasing.forgotten.blank_rows",
        "vacuum._condemn",
        "vacuum.condemned.mark_deleting",
        "vacuum.condemned.mark_removed",
        "orders.purging._drop_dead_rows",
        "orders.purging._record",
    )
]


@pytest.mark.parametrize(
    ("when", "point"),
    sweep(
        DEATHS,
        [
            ("after", "orders.purging._expire"),
            ("before", "orders.erasing.forgotten.replace_manifest"),
            ("after", "orders.erasing.forgotten.blank_rows"),
            ("before", "vacuum.condemned.mark_removed"),
        ],
    ),
)
def test_a_purge_that_dies_is_finished_by_the_next(
    world: World, when: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = withdraw(world)
    with monkeypatch.context() as patch:
        die_at(patch, when, point)
        with pytest.raises(Killed):
            purged(world, ids)

    done = purged(world, ids)

    assert done.expired == [1, 2]
    assert_purged(world)


def test_a_damaged_shard_is_mended_by_what_is_said_and_then_goes(world: World) -> None:
    ids = withdraw(world)
    newest = json.loads(world.stored(f"{DATASET}/snapshots/latest.json"))
    (shard,) = [each for each in newest["shardlist"] if each["nsamples"]][:1]
    path = world.base / "root" / DATASET / shard["url"].removeprefix("../")
    path.write_bytes(b"other bytes")
    with pytest.raises(FileMismatch, match="snapshot verify --dataset web --repair"):
        purged(world, ids)
    with world.parts() as parts:
        assert rebuild_snapshots(parts, DATASET)[1] == []

    purged(world, ids)

    assert_purged(world)


def test_a_lost_manifest_is_made_anew_without_the_text(world: World) -> None:
    ids = withdraw(world)
    for path in (world.base / "root" / DATASET / "manifests").glob("*.parquet"):
        path.unlink()
    purged(world, ids)
    assert_purged(world)
