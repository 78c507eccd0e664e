"""``--forget``: descriptors and hashes go with the text, and what is made again is as blank."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest

from sscd_ops.errors import FileMismatch, UsageError
from sscd_ops.steps import resolve
from sscd_ops.steps.compacting import compact
from sscd_ops.steps.orders import forgetting
from sscd_ops.steps.orders.forgetting import Forgotten, forget
from sscd_ops.steps.orders.purging import purge
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture, plant
from tests.integration.orders import Order, apply
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_damage import copy_of
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import BOTH, DAYS
from tests.integration.test_purge import holding, ids_of, told, withdraw
from tests.integration.world import DATASET, World
from tests.soak import sweep


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """Two nights with hashes too."""
    world = module_world
    world.change(duplicates=BOTH | {"search": "exact"})
    world.change_source(columns=("url",))
    world.put(DAYS[0], "a.tar", [told(n) for n in range(3)])
    world.put(DAYS[0], "b.tar", [told(n) for n in range(3, 6)])
    world.put(DAYS[1], "a.tar", [told(n) for n in range(6, 12)])
    for day in DAYS[:2]:
        world.night(day)
    return world


@pytest.fixture
def world(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    yield from copy_of(begun, tmp_path, postgres_home)


def forgot(world: World, ids: Collection[UUID]) -> Forgotten:
    with world.parts() as parts:
        return forget(parts, DATASET, ids, actor="ann", why="court order 77")


def described(world: World) -> dict[str, np.ndarray]:
    """Key of a sample (by its seed) -> its descriptor and hash as the index has them, as bytes."""
    images = {
        bytes(row["image_sha256"]): row["sample_id"]
        for row in world.ask(
            "SELECT * FROM sscd_ops.samples WHERE image_sha256 IS NOT NULL ORDER BY key DESC"
        )
    }
    answer = {}
    for row in world.ask(
        "SELECT s.files FROM sscd_ops.segments s JOIN sscd_ops.segment_masks m"
        " USING (segment_id) WHERE m.generation_to IS NULL"
    ):
        root = world.base / "root"
        loaded = {role: np.load(root / file["name"]) for role, file in row["files"].items()}
        count = len(loaded["ids"])
        every = [
            np.ascontiguousarray(values).reshape(count, -1).view(np.uint8)
            for role, values in sorted(loaded.items())
            if role != "ids"
        ]
        for at, digest in enumerate(loaded["ids"]):
            number = images[digest.tobytes()]
            answer[str(number)] = np.concatenate([values[at] for values in every])
    return answer


def stored(world: World) -> list[tuple[str, np.ndarray]]:
    """Descriptors of all files below the root, of segments and of source shards."""
    root = world.base / "root" / DATASET
    answer = []
    for path in sorted((root / "descriptors").glob("*.parquet")):
        column = pq.read_table(path).column("descriptor").drop_null()
        answer += [(path.name, np.frombuffer(row, np.uint8)) for row in column.to_pylist()]
    for path in sorted((root / "index/segments").glob("*.npy")):
        values = np.load(path)
        if values.dtype == np.float16:
            answer += [(path.name, row.view(np.uint8)) for row in values]
    return answer


def without(world: World, wanted: Collection[bytes]) -> list[str]:
    """Files that hold one of some descriptors still."""
    return [name for name, row in stored(world) if row.tobytes() in wanted]


def descriptors_of(world: World, ids: Collection[UUID]) -> set[bytes]:
    """The descriptors of samples, as the index has them."""
    wanted = {str(number) for number in ids}
    found = set()
    for row in world.ask("SELECT files FROM sscd_ops.segments"):
        root = world.base / "root"
        values = np.load(root / row["files"]["descriptors"]["name"])
        digests = np.load(root / row["files"]["ids"]["name"])
        images = {
            bytes(each["image_sha256"])
            for each in world.ask(
                "SELECT * FROM sscd_ops.samples WHERE CAST(sample_id AS text) = ANY(:s)",
                s=list(wanted),
            )
        }
        found |= {
            v.tobytes() for v, d in zip(values, digests, strict=True) if d.tobytes() in images
        }
    return found


def assert_forgotten(world: World, gone: Collection[bytes]) -> None:
    assert without(world, gone) == []
    assert [name for name in holding(world) if not name.endswith((".tar", ".parquet"))] == []
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET, copies=True) == []


def test_descriptors_hashes_and_text_go_and_nothing_else(world: World) -> None:
    ids = withdraw(world)
    before, gone = described(world), descriptors_of(world, ids)
    assert len(gone) == 3

    done = forgot(world, ids)

    assert_forgotten(world, gone)
    after = described(world)
    assert before.keys() == after.keys()
    for number, row in after.items():
        if UUID(number) in ids:
            assert not row.any()
        else:
            assert (row == before[number]).all()
    assert (done.images, done.kept_images, done.rows) == (3, 0, 3)
    assert any("near copies of 3 pictures cannot be found" in said for said in done.left)
    (event,) = world.ask("SELECT details FROM curation.events WHERE kind = 'forgotten'")
    digests = {
        s
        for what in ("manifests", "segments", "descriptors")
        for s in event["details"][what].values()
    }
    there = {path.stem for path in (world.base / "root" / DATASET).rglob("*.*")}
    assert digests <= there
    assert len(digests) == 3 + 2 + 3


def test_a_retry_is_inert_and_what_is_lost_is_made_again_as_blank(world: World) -> None:
    ids = withdraw(world)
    gone = descriptors_of(world, ids)
    forgot(world, ids)
    with world.parts() as parts:
        purge(parts, DATASET, ids, actor="ann", why="court order 77")
    events = world.ask("SELECT count(*) AS n FROM sscd_ops.events")
    generation = world.ask("SELECT generation FROM sscd_ops.datasets")

    again = forgot(world, ids)

    assert (again.removed, again.rows) == ({}, 0)
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.events") == events
    assert world.ask("SELECT generation FROM sscd_ops.datasets") == generation
    root = world.base / "root" / DATASET
    for lost in (("index/segments",), ("descriptors",), ("index/segments", "descriptors")):
        for folder in lost:
            for path in (root / folder).iterdir():
                path.unlink()
        with world.parts() as parts:
            rebuild_index(parts, DATASET)
        assert_forgotten(world, gone)
    assert holding(world) == []
    assert_what_holds(world)


def test_nights_afterwards_do_not_find_near_copies_and_know_equal_bytes(world: World) -> None:
    """Of a withdrawn image equal bytes are withdrawn; a free one is kept, and not compared."""
    ids = withdraw(world)
    forgot(world, ids)
    again = [
        ("same-image", {"jpg": picture(1), "txt": b"x"}),
        ("near-image", {"jpg": plant(picture(1), "jpeg_40"), "txt": b"x"}),
        ("same-free", {"jpg": picture(5), "txt": b"x"}),
        ("near-free", {"jpg": plant(picture(5), "jpeg_40"), "txt": b"x"}),
    ]
    world.put(DAYS[2], "a.tar", again)
    world.night(DAYS[2])

    verdicts = world.verdicts()
    assert verdicts["same-image"] == "withdrawn withdrawn"
    assert verdicts["near-image"] == verdicts["same-free"] == verdicts["near-free"] == "kept"
    assert_what_holds(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_what_another_sample_bears_keeps_its_descriptor(world: World) -> None:
    _, members = told(1)
    world.put(DAYS[2], "a.tar", [("twin", {"jpg": members["jpg"], "txt": b"of the twin"})])
    world.night(DAYS[2])
    with world.parts() as parts:
        apply(Order(parts, "one", {"c0001": "free"}))
        apply(Order(parts, "other", {"twin": "kept"}))
    ids = ids_of(world, ["c0001"])
    before = described(world)

    done = forgot(world, ids)

    assert (done.images, done.kept_images) == (0, 1)
    assert any("1 picture keeps descriptor and hash" in said for said in done.left)
    after = described(world)
    assert all((after[number] == row).all() for number, row in before.items())
    assert holding(world, ["c0001"]) == [
        each for each in holding(world, ["c0001"]) if ".tar" in each or ".parquet" in each
    ]


def test_what_is_not_withdrawn_is_not_forgotten(world: World) -> None:
    with pytest.raises(UsageError, match="is not withdrawn"):
        forgot(world, ids_of(world, ["c0002"]))


def test_segments_that_were_merged_go_and_the_merged_one_is_blank(world: World) -> None:
    ids = withdraw(world)
    gone = descriptors_of(world, ids)
    with world.parts() as parts:
        compact(parts, DATASET, 1000)

    forgot(world, ids)

    assert_forgotten(world, gone)


def test_a_night_under_way_loses_its_swap_and_decides_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was about to keep a free image by its descriptor."""
    ids = withdraw(world)
    world.put(DAYS[2], "a.tar", [("again", {"jpg": picture(5), "txt": b"x"}), told(30)])
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[2])
        real = resolve.Night.work_out
        tries = []

        def work_out(self: resolve.Night, *given: object) -> object:
            answer = real(self, *given)
            if not tries:
                forgot(world, ids)
            tries.append(1)
            return answer

        monkeypatch.setattr(resolve.Night, "work_out", work_out)
        world.from_resolve(parts, batch_id)

    assert len(tries) == 2
    assert world.verdicts()["again"] == "kept"
    assert_what_holds(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_an_image_that_is_kept_meanwhile_is_not_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = withdraw(world)
    world.put(DAYS[2], "a.tar", [("again", {"jpg": picture(5), "txt": b"x"})])
    real = forgetting._Blanker.work_out

    def work_out(self: forgetting._Blanker, seen: object) -> object:
        answer = real(self, seen)  # type: ignore[arg-type]
        monkeypatch.setattr(forgetting._Blanker, "work_out", real)
        world.night(DAYS[2])
        return answer

    monkeypatch.setattr(forgetting._Blanker, "work_out", work_out)
    done = forgot(world, ids)

    assert (done.images, done.kept_images) == (2, 1)
    assert_what_holds(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


DEATHS = [
    (when, point)
    for when in ("before", "after")
    for point in (
        "orders.forgetting.forgotten.forget_images",
        "orders.forgetting.forgotten.replace_segment",
        "orders.forgetting.turns.make_generation",
        "orders.forgetting.shards.replace_descriptors",
        "orders.forgetting.erase_text",
        "vacuum.condemned.mark_deleting",
        "orders.forgetting._record",
    )
]


@pytest.mark.parametrize(
    ("when", "point"),
    sweep(
        DEATHS,
        [
            ("after", "orders.forgetting.turns.make_generation"),
            ("before", "orders.forgetting.shards.replace_descriptors"),
        ],
    ),
)
def test_forgetting_that_dies_is_finished_by_the_next(
    world: World, when: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = withdraw(world)
    gone = descriptors_of(world, ids)
    with monkeypatch.context() as patch:
        die_at(patch, when, point)
        with pytest.raises(Killed):
            forgot(world, ids)

    forgot(world, ids)

    assert_forgotten(world, gone)


def test_a_damaged_segment_is_named_and_mended_first(world: World) -> None:
    ids = withdraw(world)
    gone = descriptors_of(world, ids)
    for path in (world.base / "root" / DATASET / "index/segments").iterdir():
        path.write_bytes(b"other bytes")
    with pytest.raises(FileMismatch, match="index rebuild --dataset web"):
        forgot(world, ids)
    with world.parts() as parts:
        rebuild_index(parts, DATASET)

    forgot(world, ids)

    assert_forgotten(world, gone)
