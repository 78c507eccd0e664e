"""Orders beside each other, beside nights under way, vacuum, expiry and detached months."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from sscd_ops.catalog import condemned, partitions
from sscd_ops.catalog.orders import Order
from sscd_ops.errors import EffectChanged, FileRemoved, SscdOpsError, UsageError
from sscd_ops.steps import next_snapshot, resolve, turns
from sscd_ops.steps.orders import applying
from sscd_ops.steps.snapshot_tags import expire
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture, plant
from tests.integration.test_nights import DAYS, clouds
from tests.integration.test_rules import detach_as_of
from tests.integration.test_withdraw import (
    ANN,
    apply,
    assert_ordered,
    draft,
    published,
    revert,
    two,
    verdicts,
    withdraw,
)
from tests.integration.world import DATASET, World, pair

__all__ = ["two"]


def at_once(*done: Callable[[], Any]) -> list[Any]:
    """What each answered, or how it failed."""
    said: list[Any] = [None] * len(done)
    ready = threading.Barrier(len(done))

    def run(number: int) -> None:
        ready.wait(30)
        try:
            said[number] = done[number]()
        except SscdOpsError as error:
            said[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return said


def orders_in_force(world: World) -> list[dict[str, Any]]:
    return world.ask("SELECT * FROM sscd_ops.orders WHERE turn IS NOT NULL ORDER BY turn")


def test_one_order_is_applied_once_by_whoever_applies_it(two: World) -> None:
    number = draft(two, "c0001", "c0002").order.order_id
    said = at_once(*[lambda: apply(two, number)] * 3)

    assert [type(each) for each in said] == [applying.Applied] * 3, said
    assert {each.order.turn for each in said} == {3}
    assert len(two.ask("SELECT * FROM curation.decisions WHERE kind = 'order'")) == 1
    assert len(two.ask("SELECT * FROM sscd_ops.decisions WHERE turn IS NULL")) == 0
    assert_ordered(two)


def test_the_same_is_drafted_once_by_two_at_once(two: World) -> None:
    said = at_once(*[lambda: draft(two, "c0001").order.order_id] * 3)

    assert len(set(said)) == 1, said
    assert len(two.ask("SELECT * FROM sscd_ops.orders")) == 1
    apply(two, said[0])
    assert_ordered(two)


def test_two_orders_at_once_take_a_turn_each(two: World) -> None:
    """What hangs on the one is nothing to the other: both are what their drafts said."""
    numbers = [draft(two, key).order.order_id for key in ("c0001", "c0002")]
    said = at_once(*[lambda n=n: apply(two, n) for n in numbers])

    assert sorted(each.order.turn for each in said) == [3, 4], said
    assert published(two) == {key for key, verdict in verdicts(two).items() if verdict == "kept"}
    assert_ordered(two)


def test_of_two_that_want_one_sample_the_later_says_what_changed(two: World) -> None:
    """It was to withdraw what is withdrawn by now: a draft of it is stored, and then it covers."""
    first, second = (draft(two, *keys).order.order_id for keys in (["c0001"], ["c0001", "c0004"]))
    said = at_once(lambda: apply(two, first), lambda: apply(two, second))

    assert sorted(type(each).__name__ for each in said) == ["Applied", "EffectChanged"], said
    late = second if isinstance(said[1], EffectChanged) else first
    apply(two, late)
    assert [row["order_id"] for row in orders_in_force(two)][-1] == late
    assert verdicts(two)["c0001"] == verdicts(two)["c0004"] == "withdrawn"
    assert_ordered(two)


def test_a_revert_beside_a_revert_and_a_refusal_beside_an_application(two: World) -> None:
    order = withdraw(two, "c0001").order.order_id
    said = at_once(lambda: revert(two, order), lambda: revert(two, order))
    assert {each.order.turn for each in said} == {4}, said
    number = draft(two, "c0003").order.order_id

    def refuse() -> Order:
        with two.parts() as parts:
            return applying.refuse(parts, number, by=ANN, why="no")

    done, refused = at_once(lambda: apply(two, number), refuse)
    assert isinstance(done, SscdOpsError) != isinstance(refused, SscdOpsError), (done, refused)
    (row,) = two.ask("SELECT state, turn FROM sscd_ops.orders WHERE order_id = :o", o=number)
    in_force = not isinstance(done, SscdOpsError)
    assert row == {"state": "applied" if in_force else "refused", "turn": 5 if in_force else None}
    assert (verdicts(two)["c0003"] == "withdrawn") == in_force
    assert_ordered(two)


# ---------------------------------------------------------------- nights


def late_night(world: World) -> int:
    """A night that has compared its pictures: a copy, equal bytes, and a new one."""
    night = [pair("again2", picture(2)), pair("copy4", plant(picture(4), "jpeg_40"))]
    world.put(DAYS[2], "c.tar", [*night, pair("new", picture(11))])
    with world.parts() as parts:
        return world.until_match(parts, DAYS[2])


def test_an_order_comes_while_a_night_decides(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The night worked with what is gone by now: it works it out again, by what is kept then."""
    batch_id = late_night(two)
    real, times = turns._swap, 0

    def swap(*given: Any) -> Any:
        nonlocal times
        times += 1
        if times == 1:
            withdraw(two, "c0002", "c0004", "copy2")
        return real(*given)

    monkeypatch.setattr(turns, "_swap", swap)
    with two.parts() as parts:
        two.from_resolve(parts, batch_id)

    now = verdicts(two)
    assert (now["half2"], now["again2"], now["copy4"]) == ("kept", "removed", "kept")
    assert_ordered(two)


def test_an_order_comes_between_a_night_s_decision_and_its_commit(two: World) -> None:
    """What the night was to publish and the order takes away is never in a snapshot."""
    batch_id = late_night(two)
    with two.parts() as parts:
        resolve.run(parts, batch_id)
    order = withdraw(two, "new", "c0002").order.order_id
    assert "new" not in published(two)
    with two.parts() as parts:
        two.from_resolve(parts, batch_id)

    assert verdicts(two)["new"] == "withdrawn"
    assert published(two) == {key for key, verdict in verdicts(two).items() if verdict == "kept"}
    assert_ordered(two)
    revert(two, order)
    assert verdicts(two)["new"] == "kept"
    assert_ordered(two)


# ---------------------------------------------------------------- files that go, months that go


def test_orders_beside_vacuum_and_expiry_lose_nothing(two: World) -> None:
    """What was condemned and is named again stays; what a withdrawal left goes, once expired."""
    order = withdraw(two, "c0001", "c0002").order.order_id
    before = two.published()
    with two.parts() as parts:
        expire(parts, DATASET, [1, 2], actor="ann", why="a test")

    def clean() -> int:
        with two.parts() as mine:
            return len(vacuum(mine, DATASET, grace=0)[0].removed)

    said = at_once(lambda: revert(two, order), clean, clean)
    assert not [each for each in said if isinstance(each, SscdOpsError)], said
    clean()
    withdraw(two, "c0001", "c0002")
    clean()

    with two.parts() as parts:
        expire(parts, DATASET, (), keep_last=1, actor="ann", why="a test")
    clean()
    left = two.published()
    assert set(before) - set(left)
    assert published(two) == {key for key, verdict in verdicts(two).items() if verdict == "kept"}
    with two.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


@pytest.mark.parametrize("removed", [False, True])
def test_a_publish_thought_dead_names_shards_that_vacuum_condemned(
    two: World, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """They were written and not registered when a vacuum came by; or one that removed them."""
    number = draft(two, "c0001", "c0002").order.order_id
    real, seen = next_snapshot.without_slots, 0

    def without_slots(*given: Any) -> Any:
        nonlocal seen
        replaced = real(*given)
        seen += 1
        if seen == 1:
            with monkeypatch.context() as patch, two.parts() as parts:
                if not removed:
                    patch.setattr(condemned, "mark_deleting", lambda *_: [])
                done = vacuum(parts, DATASET, grace=0)
            names = {each.shard.files["tar"].name for each in replaced if each.shard}
            assert names <= done[0].condemned.keys()
            assert (names <= done[0].removed.keys()) == removed
        return replaced

    monkeypatch.setattr(next_snapshot, "without_slots", without_slots)
    try:
        done = apply(two, number)
    except FileRemoved:  # retried, as storage errors are
        done = apply(two, number)

    assert done.snapshot == 3
    with two.parts() as parts:
        vacuum(parts, DATASET, grace=0)
    assert_ordered(two)


def test_a_month_is_not_detached_while_an_order_is_to_publish_from_it(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is published, and the month is gone, its rules and its revert still hold."""
    number = draft(two, "c0001", "c0005").order.order_id
    apply(two, number, later=True)
    in_time = datetime.now(UTC) + timedelta(days=70)
    monkeypatch.setattr(partitions, "datetime", SimpleNamespace(now=lambda zone: in_time))
    (month,) = {row["month"] for row in two.ask("SELECT month FROM sscd_ops.decisions")}
    with two.parts() as parts, pytest.raises(UsageError, match="order"):
        partitions.detach_month(parts.catalog, month)
    monkeypatch.undo()
    apply(two, number)
    detach_as_of(two, date(2026, 10, 1))
    two.put(DAYS[3], "d.tar", [pair("c5again", picture(5)), *clouds(range(40, 42))])
    two.night(DAYS[3])

    assert verdicts(two).keys() == {"c5again", "c0040", "c0041"}
    revert(two, number)
    assert verdicts(two)["c5again"] == "kept"
    with two.parts() as parts:
        assert verify_catalog(parts, DATASET, only_rows=True) == []
