"""Orders that purge and forget, from the command to the next crawl."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.errors import OrderHeld, OrderNotApplicable, UsageError
from sscd_ops.options import OrderOptions
from sscd_ops.steps.orders import applying, receipts
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.orders.finishing import erase_text_of
from sscd_ops.steps.parts import configured
from sscd_ops.steps.snapshot_tags import tag
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture, plant
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_damage import copy_of
from tests.integration.test_forget import descriptors_of, stored, without
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import DAYS
from tests.integration.test_purge import holding, ids_of, told
from tests.integration.test_snapshots_kept import as_command
from tests.integration.test_withdraw import ANN, BOB, apply, assert_ordered, revert
from tests.integration.world import DATASET, World

URL = "https://example.org/of/{}.jpg"
GONE = ["c0001", "c0005"]


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """Two nights; of a picture of the first one the second has a copy."""
    world = module_world
    world.change(publish={"max_samples": 2})
    world.change_source(columns=("url",), url="json:url")
    world.put(DAYS[0], "a.tar", [told(n) for n in range(6)])
    twin = ("twin", {"jpg": told(5)[1]["jpg"], "txt": b"x"})
    world.put(DAYS[1], "a.tar", [*(told(n) for n in range(6, 9)), twin])
    for day in DAYS[:2]:
        world.night(day)
    return world


@pytest.fixture
def world(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    yield from copy_of(begun, tmp_path, postgres_home)


def drafted(world: World, *flags: str, keys: list[str] = GONE, **named: Any) -> int:
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="only-these",
            who=ANN,
            why="a letter of Jane Roe",
            url_list=[URL.format(key) for key in keys],
            flags=flags,
            **named,
        )
        return applying.draft(parts, asked).order.order_id


def test_an_opt_out_is_purged_and_what_comes_again_with_the_next_retry(world: World) -> None:
    """The bytes of one are another sample's too, which is kept instead, under a name of its own."""
    number = drafted(world, "purge", "forget", keys=["c0001"])

    done = apply(world, number)

    assert done.finished.purged is not None
    assert done.finished.forgotten is not None
    assert done.finished.purged.expired == [1, 2]
    assert holding(world, ["c0001"]) == []
    assert_ordered(world)
    world.put(DAYS[2], "again.tar", [told(1), told(20)])
    world.night(DAYS[2])
    assert world.ask("SELECT verdict FROM curation.samples WHERE key = 'c0001'") == [
        {"verdict": "withdrawn"}
    ]

    again = apply(world, number)

    assert again.answered
    assert again.finished.purged is not None
    assert again.finished.purged.samples == 2
    assert holding(world, ["c0001"]) == []


def test_what_another_order_stops_copies_by_is_forgotten_once_that_is_over(world: World) -> None:
    """One order guards a picture with its copies; a later one on its URL asks to forget it."""
    mine = told(2)[1]["jpg"]
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="and-copies",
            who=ANN,
            why="court order 77",
            pictures=[("case.jpg", mine)],
        )
        court = applying.draft(parts, asked).order.order_id
    apply(world, court)
    number = drafted(world, "forget", keys=["c0002"])

    done = apply(world, number)

    assert done.finished.forgotten is not None
    assert (done.finished.forgotten.images, done.finished.forgotten.kept_images) == (0, 1)
    copies = {
        day: ("copy" + day, {"jpg": plant(mine, "jpeg_40"), "txt": b"x"}) for day in DAYS[2:4]
    }
    world.put(DAYS[2], "c.tar", [copies[DAYS[2]]])
    world.night(DAYS[2])
    key = copies[DAYS[2]][0]
    assert world.ask("SELECT verdict FROM curation.samples WHERE key = :k", k=key) == [
        {"verdict": "withdrawn"}
    ]

    revert(world, court)
    again = apply(world, number)

    assert again.finished.forgotten is not None
    assert again.finished.forgotten.images == 1
    assert_ordered(world)


def test_bytes_that_another_sample_has_are_kept_with_it(world: World) -> None:
    number = drafted(world, "purge", "forget", keys=["c0005"])

    done = apply(world, number)

    assert done.finished.forgotten is not None
    assert done.finished.forgotten.kept_images == 1
    assert done.finished.purged is not None
    assert done.finished.purged.kept_bytes == 1
    # its own caption and key are gone; the URL and the bytes are the twin's too
    assert ids_of(world, ["c0005"]) == []
    assert_ordered(world)


@pytest.mark.parametrize(
    ("when", "point"),
    [
        ("before", "orders.finishing.forget"),
        ("before", "orders.finishing.purge"),
        ("before", "orders.finishing.forgotten.mark_finished"),
    ],
)
def test_an_order_that_dies_before_it_was_finished_is_finished_by_a_retry(
    world: World, when: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = drafted(world, "purge", "forget", keys=["c0001"])
    with monkeypatch.context() as patch:
        die_at(patch, when, point)
        with pytest.raises(Killed):
            apply(world, number)
    unfinished = "SELECT state, finished_at IS NOT NULL AS done FROM sscd_ops.orders"
    assert world.ask(unfinished) == [{"state": "applied", "done": False}]

    apply(world, number)

    assert world.ask(unfinished) == [{"state": "applied", "done": True}]
    assert holding(world, ["c0001"]) == []
    assert_ordered(world)


def test_a_tag_stops_a_purge_and_what_is_said_goes_on(world: World) -> None:
    with world.parts() as parts:
        tag(parts, DATASET, 1, "paper", actor="bob", why="cited")
    number = drafted(world, "purge", keys=["c0001"])
    with pytest.raises(UsageError, match=r"in force and published, and not purged") as refused:
        apply(world, number)
    commands = (
        str(refused.value).split("`")[1].replace("'...'", "purge"),
        (str(refused.value).rpartition("Then: ")[2]),
    )
    for command in commands:
        as_command(world, " ".join(shlex.split(command)[1:]))

    assert holding(world, ["c0001"]) == []
    assert_ordered(world)


def test_and_tagged_expires_tagged_snapshots_too(world: World) -> None:
    with world.parts() as parts:
        tag(parts, DATASET, 1, "paper", actor="bob", why="cited")
    number = drafted(world, "purge", keys=["c0001"])

    apply(world, number, and_tagged=True)

    assert holding(world, ["c0001"]) == []


def test_a_purge_is_not_left_for_later(world: World) -> None:
    number = drafted(world, "purge", keys=["c0001"])
    with pytest.raises(UsageError, match="leave --later away"):
        apply(world, number, later=True)
    assert world.ask("SELECT state FROM sscd_ops.orders") == [{"state": "drafted"}]


def test_who_approves_an_order_purges(world: World) -> None:
    world.change(orders=OrderOptions(max_changed=1))
    number = drafted(world, "purge")
    with pytest.raises(OrderHeld):
        apply(world, number)
    assert holding(world, ["c0001"])
    with world.parts() as parts:
        done = applying.approve(parts, number, by=BOB)
    assert done.finished.purged is not None
    assert holding(world, ["c0001"]) == []


def test_what_was_erased_is_not_published_again_by_a_revert(world: World) -> None:
    number = drafted(world, "purge", "forget", keys=["c0001", "c0002"])
    apply(world, number)
    revert(world, number)

    ended = world.ask("SELECT * FROM curation.quarantined WHERE key = '(erased)'")
    assert {(row["verdict"], row["reason"]) for row in ended} == {("quarantined", "source_gone")}
    assert all("its text was erased" in row["message"] for row in ended)
    assert holding(world, ["c0001", "c0002"]) == []
    assert_what_holds(world)
    world.put(DAYS[2], "again.tar", [("other", {"jpg": picture(1), "txt": b"x"})])
    world.night(DAYS[2])
    assert world.verdicts()["other"] == "kept"
    assert_what_holds(world)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_of_pictures_that_go_with_copies_the_digest_alone_is_left(world: World) -> None:
    """One of the dataset's, and one that was given as a file."""
    gone = descriptors_of(world, ids_of(world, ["c0001"]))
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="and-copies",
            who=ANN,
            why="court order 77",
            pictures=[("a.jpg", picture(1)), ("b.jpg", picture(52))],
            flags=["forget", "purge"],
        )
        number = applying.draft(parts, asked).order.order_id
    before = len(stored(world))

    apply(world, number)

    assert without(world, gone) == []
    assert len(stored(world)) == before + 2  # the set's, which are blank
    assert holding(world, ["c0001"]) == []
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET, copies=True) == []
    again = [
        *((f"same{n}", {"jpg": picture(n), "txt": b"x"}) for n in (1, 52)),
        *((f"near{n}", {"jpg": plant(picture(n), "jpeg_40"), "txt": b"x"}) for n in (1, 52)),
    ]
    world.put(DAYS[2], "again.tar", again)
    world.night(DAYS[2])
    verdicts = world.verdicts()
    assert {verdicts["same1"], verdicts["same52"]} == {"withdrawn withdrawn"}
    assert (verdicts["near1"], verdicts["near52"]) == ("kept", "kept")
    apply(world, number)  # what the night read of them goes too
    generation = world.ask("SELECT generation FROM sscd_ops.datasets")
    apply(world, number)
    assert world.ask("SELECT generation FROM sscd_ops.datasets") == generation
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


@pytest.mark.parametrize("dies", [False, True])
def test_what_was_archived_is_written_anew_without_it(
    world: World, dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(publish={"undo": "archive"})
    copies = {
        f"c00{n}{n}": {"jpg": plant(picture(n), "jpeg_40"), "txt": f"caption of c00{n}{n}".encode()}
        for n in (2, 3)
    }
    world.put(DAYS[2], "copies.tar", list(copies.items()))
    world.night(DAYS[2])
    (other,) = ids_of(world, ["c0033"])
    asked_for = [str(each) for each in ids_of(world, ["c0022"])]
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="only-these",
            who=ANN,
            why="opt-out",
            ids=asked_for,
            flags=["purge"],
        )
        number = applying.draft(parts, asked).order.order_id
    image = copies["c0022"]["jpg"]
    root = world.base / "root" / DATASET / "removed"
    assert any(image in path.read_bytes() for path in root.rglob("*.tar"))

    if dies:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, "before", "orders.purging.remove_files")
            apply(world, number)
    apply(world, number)

    left = [path for path in root.rglob("*.tar") if other.hex.encode() in path.read_bytes()]
    assert len(left) == 1
    files = [path for path in (world.base / "root" / DATASET).rglob("*.*") if path.is_file()]
    assert not any(image in path.read_bytes() for path in files)
    assert [each for each in holding(world, ["c0022"]) if "/of/" not in each] == []
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_an_order_s_own_text_is_erased_and_its_rule_holds(world: World) -> None:
    number = drafted(world, "purge", keys=["c0001"], domains=["example.com"])
    with world.parts() as parts, pytest.raises(OrderNotApplicable, match="order apply"):
        erase_text_of(parts, number, by=ANN)
    apply(world, number)

    with world.parts() as parts:
        said = erase_text_of(parts, number, by=ANN)
        events = world.ask("SELECT count(*) AS n FROM sscd_ops.events")
        assert erase_text_of(parts, number, by=ANN) == said

    assert "1 domain stays in words" in said
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.events") == events
    written = world.ask("SELECT kind, body FROM sscd_ops.receipts ORDER BY number")
    assert [row["kind"] for row in written] == ["withdrawal", "purge"]
    told_of = json.loads(written[1]["body"])
    assert told_of["purged"]["expired"] == [1, 2]
    assert told_of["snapshots"]["readable"] == []
    assert told_of["stays"].keys() == {"ids and digests", "descriptors, hashes"}
    assert {"caches", "server"} <= told_of["bytes"]["may_be_left_in"].keys()
    assert "root" not in told_of["bytes"]["may_be_left_in"]
    for table in ("orders", "order_subjects", "decisions", "events", "order_drafts", "receipts"):
        rows = repr(world.ask(f"SELECT * FROM sscd_ops.{table}"))
        assert "Jane Roe" not in rows, table
        assert "c0001" not in rows, table
    world.put(DAYS[2], "again.tar", [told(1), told(20)])
    world.night(DAYS[2])
    assert world.verdicts()["c0001"] == "withdrawn withdrawn"
    as_command(world, f"order show {number}")
    apply(world, number)
    assert holding(world, ["c0001"]) == []
    with world.parts() as parts:
        assert receipts.verify(parts, DATASET) == []
    assert_ordered(world)
