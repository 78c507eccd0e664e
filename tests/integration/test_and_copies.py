"""withdraw --and-copies: pictures that go with all copies of them, now and in later nights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from sscd_ops.cli.main import main
from sscd_ops.errors import EffectChanged, OrderHeld, OrderNotApplicable, UsageError
from sscd_ops.model import OrderState, Person
from sscd_ops.options import OrderOptions
from sscd_ops.steps import resolve
from sscd_ops.steps.orders import applying
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.parts import configured
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_catalog, verify_index
from sscd_ops.testing import encode, picture, plant
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_damage import copy_of
from tests.integration.test_nights import BOTH, DAYS, clouds
from tests.integration.world import (
    DATASET,
    World,
    assert_catalog_and_files_agree,
    assert_newest_verdicts,
    assert_published_bytes,
    assert_witnesses_are_kept,
    pair,
)
from tests.soak import sweep

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
    assert_newest_verdicts(world)
    assert_witnesses_are_kept(world)
    assert_published_bytes(world, replaced=True)
    assert_catalog_and_files_agree(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        assert verify_index(parts, DATASET) == []


def test_two_entries_for_one_image_and_one_ends(world: World) -> None:
    """An image is withdrawn while any entry is in force; without one it is a newcomer."""
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    world.night(DAYS[0])
    first = withdraw(world, picture(50))
    second = withdraw(world, picture(50), picture(51))
    revert(world, first)
    world.put(DAYS[1], "a.tar", [pair("jpeg", plant(picture(50), "jpeg_40"))])
    world.night(DAYS[1])
    third = withdraw(world, plant(picture(50), "half_size"))
    assert third.counts["changed"] == 0  # it is withdrawn already
    revert(world, second)
    assert world.verdicts()["jpeg"] == "withdrawn withdrawn"
    revert(world, third)
    assert world.verdicts()["jpeg"] == "kept"
    world.put(DAYS[2], "a.tar", [pair("half", plant(picture(50), "half_size"))])
    world.night(DAYS[2])

    assert world.verdicts()["half"] == "removed near"
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


def test_an_order_beside_a_night_is_asked_by_its_next_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night that was matched before, and had decided but for its swap."""
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    world.night(DAYS[0])
    world.put(DAYS[1], "a.tar", [pair("jpeg", plant(picture(50), "jpeg_40")), *clouds(range(3, 5))])
    tries = []

    def guard(night: resolve.Night, *given: Any) -> str:
        tries.append(given)
        if len(tries) == 1:
            withdraw(world, picture(50))
        return ""

    monkeypatch.setattr(resolve.Night, "guard", guard)
    with world.parts() as parts:
        decided = world.from_resolve(parts, world.until_match(parts, DAYS[1]))

    assert len(tries) == 2
    assert decided.counts.withdrawn == 1
    assert world.verdicts()["jpeg"] == GONE
    assert_sound(world)


def test_what_is_withdrawn_is_explained_and_not_shown(world: World, tmp_path: Path) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    world.night(DAYS[0])
    withdraw(world, picture(50))
    night(world, DAYS[1], pair("jpeg", plant(picture(50), "jpeg_40")), *clouds(range(3, 5)))
    config = tmp_path / "curation.toml"
    config.write_text(f'[storage]\nroot = "{world.base}/root"\n')
    asked = ["explain", f"{DAYS[1]}/a.tar#jpeg", "--config", str(config)]
    env = {"SSCD_OPS_DATABASE_URL": world.url}

    said = CliRunner().invoke(main, asked, env=env)
    refused = CliRunner().invoke(main, [*asked, "--picture", str(tmp_path / "why.png")], env=env)

    assert "Withdrawn: its image is 0.99" in said.output
    assert "to a picture that was withdrawn with its copies; the threshold is 0.5." in said.output
    assert refused.exit_code == 2
    assert "it is not shown" in refused.output


def test_under_a_lower_threshold_what_is_decided_anew_is_asked_too(world: World) -> None:
    """A free image by a night, one whose witness goes by the order that takes it."""
    text = [plant(picture(1), "text_10"), plant(picture(0), "text_10")]
    world.change(duplicates={"threshold": 0.95})
    near = pair("copy", plant(text[1], "jpeg_40"))
    night(world, DAYS[0], pair("text", text[0]), pair("witness", text[1]), near)
    withdraw(world, picture(0), picture(1))
    assert set(world.verdicts().values()) == {"kept", "removed near"}
    only_these(world, "text")
    assert {row["verdict"] for row in world.ask("SELECT * FROM sscd_ops.images_now")} == {
        *("free", "kept", "removed"),
    }
    world.change(duplicates={"threshold": 0.7})
    night(world, DAYS[1], pair("text-again", text[0]), pair("other", picture(5)))
    drafted = only_these(world, "witness")

    assert world.verdicts() == {
        **dict.fromkeys(("text", "witness", "copy", "text-again"), GONE),
        "other": "kept",
    }
    assert drafted.counts["by_source"] == {
        "crawl": {"kept -> withdrawn": 1, "removed -> withdrawn": 1}
    }
    (row,) = world.ask("SELECT * FROM sscd_ops.samples WHERE key = 'text-again'")
    assert bytes(row["witness_sha256"]) == sha256(picture(1))
    assert row["similarity"] >= row["threshold"] == 0.7
    assert_sound(world)


def only_these(world: World, key: str) -> applying.Applied:
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="only-these",
            who=ANN,
            why="opt-out",
            ids=ids(world, key),
        )
        return applying.apply(parts, applying.draft(parts, asked).order.order_id, by=ANN)


# ---------------------------------------------------------------- what is there already


TEXT = plant(picture(1), "text_10")
NIGHTS = {
    DAYS[0]: (
        0.9999,
        [
            *clouds(range(4)),
            pair("jpeg1", plant(picture(1), "jpeg_40")),
            pair("half1", plant(picture(1), "half_size")),
            pair("same1", picture(1), "other words"),
            pair("sheet", SHEET),
        ],
    ),
    DAYS[1]: (0.7, [pair("text1", TEXT), pair("half2", plant(picture(2), "half_size"))]),
    DAYS[2]: (0.95, [pair("text3", plant(picture(3), "text_10")), pair("other", picture(9))]),
}
"""Thresholds and samples: copies of 1 are kept; what has text on it went for it, and would not."""


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """Three nights are over; nobody changes it."""
    for day, (threshold, samples) in NIGHTS.items():
        module_world.change(duplicates={"threshold": threshold})
        module_world.put(day, "a.tar", samples)
        module_world.night(day)
    kept = ["c0000", "c0001", "c0002", "c0003", "jpeg1", "half1", "sheet", "text3", "other"]
    gone = {"same1": "removed exact", "text1": "removed near", "half2": "removed near"}
    assert module_world.verdicts() == dict.fromkeys(kept, "kept") | gone
    return module_world


@pytest.fixture
def three(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    yield from copy_of(begun, tmp_path / "three", postgres_home)


def changed(world: World, before: dict[str, str]) -> dict[str, str]:
    return {k: now for k, now in world.verdicts().items() if before.get(k) != now}


GONE = "withdrawn withdrawn"
OF_ONE = dict.fromkeys(("c0001", "same1", "jpeg1", "half1"), GONE)
OF_ONE["text1"] = "quarantined near_withdrawn"


def night(world: World, day: str, *samples: Any) -> None:
    world.put(day, "a.tar", samples)
    world.night(day)


def recrawl(world: World) -> None:
    """Other re-encodings of picture 1, and what went because of it."""
    night(
        world,
        DAYS[3],
        pair("again1", picture(1)),
        pair("q60", picture(1, quality=60)),
        pair("text-again", TEXT),
        pair("text-jpeg", plant(TEXT, "jpeg_40")),
    )


def test_a_picture_goes_with_its_kept_copies_and_none_comes_back(three: World) -> None:
    """By its file: equal bytes, what is near, and what had been removed for one of them."""
    before = three.verdicts()
    done = withdraw(three, picture(1))
    assert changed(three, before) == OF_ONE
    assert done.snapshot == 3
    rows = three.ask("SELECT * FROM curation.samples WHERE verdict = 'withdrawn'")
    near = {row["key"]: row["similarity"] for row in rows}
    assert near["c0001"] is None
    assert min(near["jpeg1"], near["half1"]) >= 0.95
    assert_sound(three)

    recrawl(three)

    new = dict.fromkeys(("again1", "q60"), GONE)
    new |= {"text-again": OF_ONE["text1"], "text-jpeg": "kept"}
    assert changed(three, before) == OF_ONE | new
    assert_sound(three)


def test_pictures_that_are_not_in_the_dataset_and_plain_ones(three: World) -> None:
    before = three.verdicts()
    done = withdraw(three, picture(2, quality=80), SHEET)
    assert changed(three, before) == dict.fromkeys(("c0002", "half2", "sheet"), GONE)
    assert (done.counts["pictures"], done.counts["compared"]) == (2, 1)
    with pytest.raises(UsageError, match=r"0.jpg: not_an_image.*--sha256"):
        draft(three, [b"no picture"])
    assert_sound(three)


def test_by_ids_digests_and_sources(three: World) -> None:
    """The pictures of all that is named; every named sample has a verdict of its own."""
    before = three.verdicts()
    withdraw(three, ids=ids(three, "text1"))  # a removed one
    assert changed(three, before) == {"text1": GONE}
    withdraw(three, sha256=[sha256(plant(picture(1), "half_size")).hex()])
    assert changed(three, before) == OF_ONE | {"text1": GONE}
    done = withdraw(three, sources=["crawl"])
    assert set(three.verdicts().values()) == {GONE}
    assert done.counts["named"] == len(before)
    assert_sound(three)


def test_reverted_at_once_it_never_was(three: World) -> None:
    before, witnesses = three.verdicts(), three.witnesses()
    done = withdraw(three, picture(1), ids=ids(three, "other"))
    revert(three, done)
    assert three.verdicts() == before
    assert three.witnesses() == witnesses
    recrawl(three)
    assert three.verdicts()["again1"] == "removed exact"
    assert_sound(three)


def test_reverted_behind_a_night_all_come_back_as_newcomers(three: World) -> None:
    """What nights withdrew since too, in the old order, at the threshold of now."""
    before = three.verdicts()
    done = withdraw(three, picture(1), SHEET, ids=ids(three, "other"))
    recrawl(three)
    revert(three, done)
    assert changed(three, before) == {
        "half1": "removed near",
        "jpeg1": "removed near",
        "again1": "removed exact",
        "q60": "removed near",
        "text-again": "removed near",
        "text-jpeg": "kept",
    }
    assert three.witnesses()["text1"] == "text-jpeg"
    assert_sound(three)


def test_what_is_near_waits_for_another_person_as_a_second_order(three: World) -> None:
    """The picture itself goes at once, and no night keeps a copy meanwhile."""
    three.change(orders=OrderOptions(max_changed=3))
    before = three.verdicts()
    done = withdraw(three, picture(1))
    first = {key: OF_ONE[key] for key in ("c0001", "same1")}
    assert changed(three, before) == first
    assert done.second is not None
    assert done.second.state is OrderState.HELD
    assert f"order approve {done.second.order_id}" in done.second.message
    again = withdraw(three, picture(1))
    assert again.answered
    assert again.second == done.second
    recrawl(three)
    assert three.verdicts()["q60"] == GONE
    with three.parts() as parts:
        with pytest.raises(UsageError, match="drafted by ann too"):
            applying.approve(parts, done.second.order_id, by=ANN)
        with pytest.raises(EffectChanged, match="1 sample more"):  # text-again came meanwhile
            applying.approve(parts, done.second.order_id, by=BOB)
        with pytest.raises(OrderHeld):
            applying.apply(parts, done.second.order_id, by=ANN)
        applying.approve(parts, done.second.order_id, by=BOB)
    assert {key: three.verdicts()[key] for key in OF_ONE} == OF_ONE
    assert_sound(three)
    three.change(orders=OrderOptions(max_changed=100))
    with pytest.raises(OrderNotApplicable, match=f"order revert {done.order.order_id}"):
        revert(three, replace(done, order=done.second))
    revert(three, done)
    assert GONE not in three.verdicts().values()
    states = three.ask("SELECT state FROM sscd_ops.orders WHERE verb = 'withdraw'")
    assert [row["state"] for row in states] == ["reverted", "reverted"]
    assert_sound(three)


def test_a_second_part_whose_first_was_reverted_is_turned_down(three: World) -> None:
    three.change(orders=OrderOptions(max_changed=3))
    done = withdraw(three, picture(1))
    assert done.second is not None
    number = done.second.order_id
    revert(three, done)
    with three.parts() as parts:
        with pytest.raises(OrderNotApplicable, match=f"order refuse {number}"):
            applying.approve(parts, number, by=BOB)
        applying.refuse(parts, number, by=BOB, why="its first part was reverted")
    assert GONE not in three.verdicts().values()


DEATHS = [
    f"{when} {point}"
    for point in (
        "orders.applying.orders.add_order",
        "orders.applying.turns.take",
        "turns.copy_table",
        "orders.turn.add_pictures",
        "turns.decisions.put_in_force",
        "orders.applying.orders.hold",
        "orders.applying.publish_others",
    )
    for when in ("before", "after")
]


@pytest.mark.parametrize("death", sweep(DEATHS, DEATHS[3::7]))
def test_killed_anywhere_it_is_done_again(
    three: World, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    three.change(orders=OrderOptions(max_changed=3))
    when, point = death.split()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, when, point)
        withdraw(three, picture(1))
    done = withdraw(three, picture(1))
    assert done.second is not None
    assert done.second.state is OrderState.HELD
    assert len(three.ask("SELECT * FROM sscd_ops.withdrawn_images")) == 1
    assert len(three.ask("SELECT * FROM sscd_ops.segments WHERE role = 'withdrawn'")) == 1
    assert len(three.ask("SELECT * FROM sscd_ops.orders")) == 2
    with three.parts() as parts:
        applying.approve(parts, done.second.order_id, by=BOB)
    assert {key: three.verdicts()[key] for key in OF_ONE} == OF_ONE
    assert_sound(three)
