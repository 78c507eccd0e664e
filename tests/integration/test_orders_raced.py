"""Orders beside each other, beside nights, and what is asked of them meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.errors import (
    CommitConflict,
    EffectChanged,
    OrderHeld,
    OrderNotApplicable,
    UsageError,
)
from sscd_ops.options import OrderOptions
from sscd_ops.steps import turns
from sscd_ops.steps.orders import applying, purging
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.parts import configured
from sscd_ops.testing import picture, plant
from tests.integration.test_damage import copy_of
from tests.integration.test_nights import DAYS
from tests.integration.test_purge import holding, told
from tests.integration.test_withdraw import (
    ANN,
    BOB,
    FIRST,
    SECOND,
    apply,
    assert_ordered,
    draft,
    ids,
    revert,
    verdicts,
    withdraw,
)
from tests.integration.world import DATASET, World, pair
from tests.soak import sweep

TRIES = "SELECT decision_id FROM sscd_ops.decisions WHERE turn IS NULL"


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """Two nights: copies of the first one's pictures came in the second."""
    module_world.change(publish={"max_samples": 2})
    module_world.change_source(columns=("url",), url="json:url")
    module_world.put(DAYS[0], "a.tar", [*FIRST, told(30)])
    module_world.put(DAYS[1], "b.tar", SECOND)
    for day in DAYS[:2]:
        module_world.night(day)
    return module_world


@pytest.fixture
def world(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    yield from copy_of(begun, tmp_path, postgres_home)


def copies(world: World, *files: bytes, keys: tuple[str, ...] = (), flags: Any = ()) -> int:
    """Draft an order that takes copies too; its number."""
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="and-copies",
            who=ANN,
            why="case 77",
            ids=ids(world, *keys),
            pictures=[(f"{n}.jpg", data) for n, data in enumerate(files)],
            flags=flags,
        )
        return applying.draft(parts, asked).order.order_id


def two_near(world: World) -> None:
    world.put(
        DAYS[2],
        "c.tar",
        [
            pair("jpeg52", plant(picture(52), "jpeg_40")),
            pair("half52", plant(picture(52), "half_size")),
        ],
    )
    world.night(DAYS[2])


def test_what_came_near_since_the_draft_waits_too(world: World) -> None:
    """The draft found nothing near; since then more came than one person may decide on."""
    world.change(orders=OrderOptions(max_changed=1))
    number = copies(world, picture(52))
    two_near(world)
    done = apply(world, number)
    assert done.second is not None
    assert done.counts["near_waits"] == 2
    with world.parts() as parts:
        applying.approve(parts, done.second.order_id, by=BOB)
    now = verdicts(world)
    assert now["jpeg52"] == now["half52"] == "withdrawn"
    assert_ordered(world)


def test_what_is_near_always_waits_for_another_person(world: World) -> None:
    """Also where it alone is few enough: with its first part it was too much."""
    world.change(orders=OrderOptions(max_changed=3))
    two_near(world)
    number = copies(world, picture(52), keys=("c0001", "c0004"))
    done = apply(world, number)
    assert done.second is not None
    with pytest.raises(OrderHeld):
        apply(world, done.second.order_id, by=ANN)
    with world.parts() as parts:
        applying.approve(parts, done.second.order_id, by=BOB)
    assert verdicts(world)["jpeg52"] == "withdrawn"
    assert_ordered(world)


def during(patch: pytest.MonkeyPatch, module: Any, name: str, do: Callable[[], object]) -> None:
    """Have something done once, before a function of a module is called."""
    real, left = getattr(module, name), [do]

    def called(*given: Any, **named: Any) -> Any:
        if left:
            left.pop()()
        return real(*given, **named)

    patch.setattr(module, name, called)


def test_one_turned_down_while_it_is_applied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = verdicts(world)
    number = draft(world, "c0001", "c0002").order.order_id

    def refuse() -> None:
        with world.parts() as parts:
            applying.refuse(parts, number, by=BOB, why="no")

    with monkeypatch.context() as patch, pytest.raises(OrderNotApplicable):
        during(patch, turns, "_swap", refuse)
        apply(world, number)
    assert verdicts(world) == before
    assert world.ask(TRIES) == []
    assert world.ask("SELECT * FROM sscd_ops.changes") == []
    assert_ordered(world)


def test_one_killed_and_then_turned_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    number = draft(world, "c0001", "c0002").order.order_id

    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        during(patch, turns, "_swap", die)
        apply(world, number)
    with world.parts() as parts:
        applying.refuse(parts, number, by=BOB, why="no")
    assert world.ask(TRIES) == []
    assert_ordered(world)


def test_one_applied_by_two(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    number = draft(world, "c0001", "c0002").order.order_id
    with monkeypatch.context() as patch:
        during(patch, turns, "_swap", lambda: apply(world, number))
        done = apply(world, number)
    assert done.order.turn == 3
    assert world.ask(TRIES) == []
    assert_ordered(world)


def test_two_on_the_same_samples(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = draft(world, "c0001", "c0002").order.order_id
    second = draft(world, "c0002", "c0003").order.order_id
    with monkeypatch.context() as patch, pytest.raises(EffectChanged):
        during(patch, turns, "_swap", lambda: apply(world, second))
        apply(world, first)
    assert world.ask(TRIES) == []
    apply(world, first)
    assert_ordered(world)
    revert(world, second)
    assert_ordered(world)
    assert verdicts(world)["c0002"] == "withdrawn"
    revert(world, first)
    assert_ordered(world)


POINTS = ["_held", "_expire", "_plan_anew", "erase_text", "remove_files"]
ENDS = [(point, later) for point in POINTS for later in (False, True)]


def assert_gone_or_back(world: World) -> None:
    """A sample that is kept has its text, and one that lost it is in no snapshot."""
    world.night(DAYS[2])
    erased = world.ask("SELECT sample_id FROM sscd_ops.erased_samples")
    kept = world.ask("SELECT sample_id FROM curation.kept")
    assert not {row["sample_id"] for row in erased} & {row["sample_id"] for row in kept}
    assert_ordered(world)


@pytest.mark.parametrize(("point", "later"), sweep(ENDS, [("_plan_anew", False), ("_held", True)]))
def test_reverted_while_it_is_purged(
    world: World, point: str, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(DAYS[2], "c.tar", [pair("x", picture(70))])
    number = draft(world, "c0030", flags=["purge"]).order.order_id

    def end() -> None:
        with world.parts() as parts:
            ending = applying.revert(parts, number, who=ANN, why="taken back").order.order_id
            applying.apply(parts, ending, by=ANN, later=later)

    with monkeypatch.context() as patch:
        during(patch, purging, point, end)
        if point in ("_held", "_expire"):
            with pytest.raises((CommitConflict, UsageError)):
                apply(world, number)
            assert verdicts(world)["c0030"] == "kept"
        else:
            apply(world, number)
            assert verdicts(world)["(erased)"] == "quarantined"
            assert holding(world, ["c0030"]) == []
    assert_gone_or_back(world)


def test_purged_while_its_revert_is_applied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revert was worked out before the text was erased."""
    world.put(DAYS[2], "c.tar", [pair("x", picture(70))])
    number = draft(world, "c0030", flags=["purge"]).order.order_id
    with monkeypatch.context() as patch:
        patch.setattr(applying, "finish", lambda *given, **named: applying.Finished())
        apply(world, number)
    with world.parts() as parts:
        ending = applying.revert(parts, number, who=ANN, why="taken back").order.order_id
    with monkeypatch.context() as patch:
        during(patch, turns, "_swap", lambda: apply(world, number))
        with pytest.raises(CommitConflict, match="was erased meanwhile"):
            apply(world, ending)
    assert verdicts(world)["(erased)"] == "withdrawn"
    with pytest.raises(EffectChanged):
        apply(world, ending)
    apply(world, ending)
    assert verdicts(world)["(erased)"] == "quarantined"
    assert_gone_or_back(world)


def test_a_sample_whose_source_was_gone_is_so_after_a_revert(world: World) -> None:
    """It cannot be had any more; a withdrawal of it that ends at once changes nothing."""
    path = world.incoming / DAYS[1] / "b.tar"
    aside = path.rename(path.with_suffix(".aside"))
    withdraw(world, "c0001")
    before = verdicts(world)
    assert before["same1"] == "quarantined"
    number = withdraw(world, "same1").order.order_id
    assert verdicts(world)["same1"] == "withdrawn"
    revert(world, number)
    assert verdicts(world) == before
    aside.rename(path)
    assert_ordered(world)


def test_copies_that_nights_stopped_are_purged_with_the_next_retry(world: World) -> None:
    number = copies(world, picture(52), flags=["purge"])
    apply(world, number)
    key, members = told(31)
    world.put(
        DAYS[2], "c.tar", [(key, {**members, "jpg": plant(picture(52), "jpeg_40")}), told(32)]
    )
    world.night(DAYS[2])
    assert verdicts(world)["c0031"] == "withdrawn"
    assert holding(world, ["c0031"]) != []
    apply(world, number)
    assert holding(world, ["c0031"]) == []


@pytest.mark.soak
def test_forgotten_and_reverted_at_once(world: World) -> None:
    number = draft(world, "c0000", "c0030", flags=["forget"]).order.order_id
    apply(world, number)
    revert(world, number)
    assert_ordered(world)


@pytest.mark.parametrize("first", sweep([0, 1], []))
def test_copies_and_these_on_one_sample(world: World, first: int) -> None:
    a = copies(world, picture(2))
    apply(world, a)
    b = withdraw(world, "c0002", "copy2").order.order_id
    two_near(world)
    for number in ([a, b], [b, a])[first]:
        revert(world, number)
        assert_ordered(world)
    assert "withdrawn" not in verdicts(world).values()


@pytest.mark.parametrize("first", sweep([0, 1], []))
def test_a_rule_and_copies_on_one_sample(world: World, first: int) -> None:
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="only-these",
            who=ANN,
            why="x",
            url_list=["https://example.org/of/c0030.jpg"],
        )
        rule = applying.draft(parts, asked).order.order_id
    apply(world, rule)
    a = copies(world, told(30)[1]["jpg"])
    apply(world, a)
    world.put(DAYS[2], "c.tar", [told(30), pair("copy30", plant(picture(30), "jpeg_40"))])
    world.night(DAYS[2])
    for number in ([a, rule], [rule, a])[first]:
        revert(world, number)
        assert_ordered(world)
    assert "withdrawn" not in verdicts(world).values()
