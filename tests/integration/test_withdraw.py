"""withdraw --only-these, order apply|approve|refuse|revert: on whole nights."""

from __future__ import annotations

from typing import Any

import pytest

from sscd_ops.errors import EffectChanged, OrderHeld, OrderNotApplicable, UsageError
from sscd_ops.model import Person
from sscd_ops.options import OrderOptions
from sscd_ops.steps.orders import applying
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.parts import configured
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture, plant
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_one_verdict_each, pair
from tests.soak import sweep

ANN, BOB = Person("ann", "ann"), Person("bob", "bob")
FIRST = [*clouds(range(6))]
SECOND = [
    pair("same1", picture(1)),
    pair("copy2", plant(picture(2), "jpeg_40")),
    pair("half2", plant(picture(2), "half_size")),
    pair("copy3", plant(picture(3), "jpeg_40")),
    pair("other", picture(9)),
]


@pytest.fixture
def two(world: World) -> World:
    """Two nights: copies of the first one's pictures came in the second."""
    world.put(DAYS[0], "a.tar", FIRST)
    world.put(DAYS[1], "b.tar", SECOND)
    for day in DAYS[:2]:
        world.night(day)
    return world


def ids(world: World, *keys: str) -> list[str]:
    found = world.ask("SELECT key, sample_id FROM curation.samples")
    by_key = {row["key"]: str(row["sample_id"]) for row in found}
    return [by_key[key] for key in keys]


def draft(world: World, *keys: str, who: Person = ANN, **named: Any) -> applying.Drafted:
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="only-these",
            who=who,
            why="opt-out 412",
            ids=ids(world, *keys),
            **named,
        )
        return applying.draft(parts, asked)


def apply(world: World, order_id: int, by: Person = ANN, **options: Any) -> applying.Applied:
    with world.parts() as parts:
        return applying.apply(parts, order_id, by=by, **options)


def revert(world: World, order_id: int) -> applying.Applied:
    with world.parts() as parts:
        drafted = applying.revert(parts, order_id, who=ANN, why="taken back")
        return applying.apply(parts, drafted.order.order_id, by=ANN)


def withdraw(world: World, *keys: str, **named: Any) -> applying.Applied:
    return apply(world, draft(world, *keys, **named).order.order_id)


def verdicts(world: World) -> dict[str, str]:
    return {row["key"]: row["verdict"] for row in world.ask("SELECT * FROM curation.samples")}


def published(world: World) -> set[str]:
    """Keys in the newest snapshot."""
    rows = world.ask(
        "SELECT s.key FROM curation.kept s JOIN curation.shards p ON p.shard = s.shard"
        " WHERE p.snapshot_to IS NULL"
    )
    return {row["key"] for row in rows}


def assert_ordered(world: World) -> None:
    assert_what_holds(world)
    assert_one_verdict_each(world, None)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_a_copy_is_kept_instead(two: World) -> None:
    """Who has the bytes carries; what was near decided anew, in its old order."""
    drafted = draft(two, "c0001", "c0002")
    assert verdicts(two)["c0001"] == "kept"
    counts = drafted.draft.counts
    assert counts["by_source"] == {"crawl": {"kept -> withdrawn": 2, "removed -> kept": 2}}
    done = apply(two, drafted.order.order_id)
    now = verdicts(two)
    assert (now["c0001"], now["same1"]) == ("withdrawn", "kept")
    assert now["c0002"] == "withdrawn"
    assert sorted([now["copy2"], now["half2"]]) == ["kept", "removed"]
    assert done.snapshot == 3
    assert published(two) == {key for key, verdict in now.items() if verdict == "kept"}
    assert_ordered(two)
    again = apply(two, drafted.order.order_id)
    assert again.answered
    assert again.order.turn == done.order.turn == 3


def test_a_removed_sample_goes_alone(two: World) -> None:
    """It is no carrier any more: should its image be decided anew, another one's turn comes."""
    withdraw(two, "copy2")
    assert verdicts(two)["copy2"] == "withdrawn"
    withdraw(two, "c0002")
    now = verdicts(two)
    assert (now["c0002"], now["copy2"], now["half2"]) == ("withdrawn", "withdrawn", "kept")
    assert_ordered(two)


def test_reverted_at_once_it_never_was(two: World) -> None:
    before = verdicts(two)
    witnesses = two.witnesses()
    order = withdraw(two, "c0001", "c0002", "copy3").order.order_id
    assert verdicts(two) != before
    done = revert(two, order)
    assert verdicts(two) == before
    assert two.witnesses() == witnesses
    assert published(two) == {key for key, verdict in before.items() if verdict == "kept"}
    assert done.snapshot is not None
    assert_ordered(two)
    assert revert(two, order).answered
    with pytest.raises(OrderNotApplicable, match="reverted"):
        apply(two, order)


def test_reverted_behind_a_night_it_comes_back_as_a_newcomer(two: World) -> None:
    order = withdraw(two, "c0002", "c0003").order.order_id
    two.put(
        DAYS[2],
        "c.tar",
        [pair("again3", picture(3)), pair("copy3b", plant(picture(3), "half_size"))],
    )
    two.night(DAYS[2])
    left = verdicts(two)
    revert(two, order)
    now = verdicts(two)
    assert now["c0002"] == now["c0003"] == "removed"
    assert {k: v for k, v in now.items() if k not in ("c0002", "c0003")} == {
        k: v for k, v in left.items() if k not in ("c0002", "c0003")
    }
    assert_ordered(two)


def test_what_another_order_withdraws_too_stays(two: World) -> None:
    first = withdraw(two, "c0001", "c0004").order.order_id
    second = withdraw(two, "c0004", "c0005").order.order_id
    revert(two, first)
    now = verdicts(two)
    assert (now["c0001"], now["c0004"], now["c0005"]) == ("removed", "withdrawn", "withdrawn")
    revert(two, second)
    assert verdicts(two)["c0004"] == "kept"
    assert_ordered(two)


def test_by_bytes_and_by_picture(two: World) -> None:
    import hashlib

    digest = hashlib.sha256(picture(1)).hexdigest()
    withdraw(two, sha256=[digest])
    now = verdicts(two)
    assert now["c0001"] == now["same1"] == "withdrawn"
    withdraw(two, pictures=[("case.jpg", picture(9))])
    assert verdicts(two)["other"] == "withdrawn"
    assert_ordered(two)


def test_a_whole_source_is_held_until_another_person_looks(two: World) -> None:
    two.change(orders=OrderOptions(max_changed=3))
    before = verdicts(two)
    drafted = draft(two, sources=["crawl"])
    number = drafted.order.order_id
    for _ in range(2):
        with two.parts() as parts, pytest.raises(OrderHeld, match=f"order approve {number}"):
            applying.apply(parts, number, by=ANN)
    with two.parts() as parts, pytest.raises(UsageError, match="drafted by ann too"):
        applying.approve(parts, number, by=ANN)
    with two.parts() as parts, pytest.raises(EffectChanged, match="drafted anew since"):
        applying.approve(parts, number, by=BOB, effect="0123")
    assert set(verdicts(two).values()) == {"kept", "removed"}
    with two.parts() as parts:
        applying.approve(parts, number, by=BOB, effect=drafted.draft.effect[:12])
    assert set(verdicts(two).values()) == {"withdrawn"}
    assert published(two) == set()
    two.put(DAYS[2], "c.tar", [pair("new", picture(20))])
    two.night(DAYS[2])
    assert verdicts(two)["new"] == "withdrawn"
    with two.parts() as parts:
        drafted = applying.revert(parts, number, who=ANN, why="too wide")
        assert drafted.draft.counts["by_source"]["crawl"]["withdrawn -> quarantined"] == 1
        with pytest.raises(OrderHeld):
            applying.apply(parts, drafted.order.order_id, by=ANN)
        applying.approve(parts, drafted.order.order_id, by=BOB)
    assert verdicts(two) == before | {"new": "quarantined"}
    reason = two.ask("SELECT reason FROM curation.quarantined WHERE key = 'new'")
    assert reason == [{"reason": "rule_ended"}]
    assert published(two) == {key for key, verdict in before.items() if verdict == "kept"}
    assert_ordered(two)


def test_one_turned_down_changes_nothing(two: World) -> None:
    before = verdicts(two)
    number = draft(two, "c0001").order.order_id
    with two.parts() as parts:
        applying.refuse(parts, number, by=BOB, why="not asked for")
        applying.refuse(parts, number, by=BOB, why="not asked for")
        with pytest.raises(OrderNotApplicable, match="refused"):
            applying.apply(parts, number, by=ANN)
    assert verdicts(two) == before
    assert draft(two, "c0001").order.order_id != number


def test_another_effect_than_was_shown_is_drafted_anew(two: World) -> None:
    number = draft(two, "c0003").order.order_id
    two.put(DAYS[2], "c.tar", [pair("again3", picture(3))])
    two.night(DAYS[2])
    with pytest.raises(EffectChanged, match=r"1 sample more .*1 sample that changes no longer"):
        apply(two, number)
    assert verdicts(two)["c0003"] == "kept"
    apply(two, number)
    now = verdicts(two)
    assert (now["c0003"], now["again3"], now["copy3"]) == ("withdrawn", "kept", "removed")
    assert_ordered(two)


DEATHS = [
    f"{when} {point}"
    for point in (
        "orders.applying.orders.add_draft",
        "orders.applying.turns.take",
        "turns.copy_table",
        "turns.decisions.put_in_force",
        "orders.turn.orders.mark_applied",
        "orders.applying.publish_others",
        "next_snapshot.snapshots.add_snapshot",
        "orders.applying.repair_latest",
    )
    for when in ("before", "after")
]


@pytest.mark.parametrize("death", sweep(DEATHS, DEATHS[::5]))
def test_killed_anywhere_it_is_done_again(
    two: World, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    when, point = death.split()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, when, point)
        withdraw(two, "c0001", "c0002")
    withdraw(two, "c0001", "c0002")
    now = verdicts(two)
    assert (now["c0001"], now["same1"], now["c0002"]) == ("withdrawn", "kept", "withdrawn")
    assert len(two.ask("SELECT * FROM curation.decisions WHERE kind = 'order'")) == 1
    assert_ordered(two)
