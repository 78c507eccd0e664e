"""withdraw --and-copies: pictures that go with all copies of them, now and in later nights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from sscd_ops.model import Person
from sscd_ops.steps.orders import applying
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.parts import configured
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_catalog, verify_index
from sscd_ops.testing import encode, picture, plant
from tests.integration.orders import Order, apply
from tests.integration.test_nights import BOTH, DAYS, clouds
from tests.integration.world import DATASET, World, pair

SHEET = encode(Image.new("RGB", (80, 60), "white"), 90)


ANN, BOB = Person("ann", "ann"), Person("bob", "bob")


def draft(world: World, files: Sequence[bytes] = (), **named: Any) -> applying.Drafted:
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="and-copies",
            who=ANN,
            why="case 77",
            pictures=[(f"{n}.jpg", data) for n, data in enumerate(files)],
            **named,
        )
        return applying.draft(parts, asked)


def withdraw(world: World, *files: bytes, **named: Any) -> applying.Applied:
    drafted = draft(world, files, **named)
    with world.parts() as parts:
        return applying.apply(parts, drafted.order.order_id, by=ANN)


def revert(world: World, done: applying.Applied) -> applying.Applied:
    with world.parts() as parts:
        drafted = applying.revert(parts, done.order.order_id, who=ANN, why="taken back")
        return applying.apply(parts, drafted.order.order_id, by=ANN)


def ids(world: World, *keys: str) -> list[str]:
    found = world.ask("SELECT key, sample_id FROM curation.samples")
    by_key = {row["key"]: str(row["sample_id"]) for row in found}
    return [by_key[key] for key in keys]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize("perceptual", [False, True])
def test_later_nights_withdraw_what_is_near_to_an_entry(world: World, perceptual: bool) -> None:
    """Pictures that were never in the dataset, one of them plain."""
    if perceptual:
        world.change(duplicates=BOTH)
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    world.night(DAYS[0])
    withdraw(world, picture(52), SHEET)
    half, jpeg = plant(picture(52), "half_size"), plant(picture(52), "jpeg_40")
    world.put(
        DAYS[1],
        "a.tar",
        [
            *clouds(range(4, 6)),
            pair("same", picture(52)),
            pair("jpeg", jpeg),
            pair("jpeg-again", jpeg, "other words"),
            pair("half", half),
            pair("sheet", SHEET),
            pair("grey", encode(Image.new("RGB", (80, 60), "grey"), 90)),
        ],
    )
    report = world.night(DAYS[1])
    world.put(DAYS[2], "a.tar", [pair("same3", picture(52)), pair("jpeg3", jpeg), pair("s", SHEET)])
    again = world.night(DAYS[2])

    assert report.counts.withdrawn == 5
    assert again.counts.withdrawn == again.counts.read == 3
    gone = ("same", "jpeg", "jpeg-again", "half", "sheet", "same3", "jpeg3", "s")
    verdicts = world.verdicts()
    assert {key: verdicts.pop(key) for key in gone} == dict.fromkeys(gone, "withdrawn withdrawn")
    assert set(verdicts.values()) == {"kept"}
    entry = {"witness_sha256": sha256(picture(52))}
    rows = {row["key"]: row for row in world.ask("SELECT * FROM sscd_ops.samples")}
    for key in ("same", "jpeg", "jpeg-again", "half", "same3", "jpeg3"):
        assert bytes(rows[key]["witness_sha256"]) == entry["witness_sha256"]
    assert rows["same"]["similarity"] is rows["same"]["threshold"] is None
    for key in ("jpeg", "half", "jpeg3"):
        assert rows[key]["similarity"] >= rows[key]["threshold"]
    by_hash = 1 - BOTH["perceptual_distance"] / 256  # type: ignore[operator]
    assert rows["half"]["threshold"] == (by_hash if perceptual else rows["jpeg"]["threshold"])
    assert_sound(world)


def assert_sound(world: World) -> None:
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        assert verify_index(parts, DATASET) == []


def test_two_entries_for_one_image_and_one_ends(world: World) -> None:
    """An image is stopped while any entry is in force; without one it is a newcomer."""
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    world.night(DAYS[0])
    first = withdraw(world, picture(50))
    second = withdraw(world, picture(50), picture(51))
    revert(world, first)
    world.put(DAYS[1], "a.tar", [pair("jpeg", plant(picture(50), "jpeg_40"))])
    world.night(DAYS[1])
    revert(world, second)
    world.put(DAYS[2], "a.tar", [pair("half", plant(picture(50), "half_size"))])
    world.night(DAYS[2])

    assert world.verdicts()["jpeg"] == "withdrawn withdrawn"
    assert world.verdicts()["half"] == "kept"
    assert_sound(world)


def test_entries_of_known_images_have_what_nights_stored(world: World) -> None:
    """A lost segment of the set is made anew of theirs; of a picture that was given it is not."""
    world.put(DAYS[0], "a.tar", [*clouds(range(4)), pair("sheet", SHEET)])
    world.night(DAYS[0])
    named = [sha256(picture(1)), sha256(picture(3)), sha256(SHEET), b"?" * 32]
    withdraw(world, sha256=[digest.hex() for digest in named])
    withdraw(world, picture(60))
    known, given = world.ask(
        "SELECT s.files, m.mask, s.rows FROM sscd_ops.segments s JOIN sscd_ops.segment_masks m"
        " USING (segment_id) WHERE s.role = 'withdrawn' ORDER BY s.segment_id"
    )
    assert (known["rows"], given["rows"]) == (2, 1)
    for file in (*known["files"].values(), known["mask"]):
        path = world.base / "root" / file["name"]
        before = path.read_bytes()
        path.unlink()
        with world.parts() as parts:
            assert verify_index(parts, DATASET) != []
            rebuild_index(parts, DATASET)
        assert path.read_bytes() == before
    assert_sound(world)
    path = world.base / "root" / given["files"]["descriptors"]["name"]
    path.unlink()
    with world.parts() as parts, pytest.raises(Exception, match=r"restore .* from a backup"):
        rebuild_index(parts, DATASET)


def test_a_free_image_is_stopped_too(world: World) -> None:
    world.put(DAYS[0], "a.tar", [*clouds(range(3)), pair("sheet", SHEET)])
    world.night(DAYS[0])
    with world.parts() as parts:
        apply(Order(parts, "free", {"c0001": "free", "sheet": "free"}))
    withdraw(world, plant(picture(1), "jpeg_40"), SHEET)
    world.put(DAYS[1], "a.tar", [pair("again", picture(1)), pair("sheet2", SHEET)])

    world.night(DAYS[1])

    for key in ("again", "sheet2"):
        assert world.verdicts()[key] == "withdrawn withdrawn"
    (row,) = world.ask("SELECT * FROM sscd_ops.changes WHERE witness_sha256 <> image_sha256")
    assert bytes(row["image_sha256"]) == sha256(picture(1))
    assert row["verdict"] == "withdrawn"
    assert row["similarity"] >= row["threshold"]
    assert_sound(world)
