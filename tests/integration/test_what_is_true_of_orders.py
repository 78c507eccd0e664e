"""Orders against orders: what is true of them in any world, told by two worlds that must be equal.

Small worlds made by seeds: near copies, equal bytes, chains of both, over two nights.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from sscd_ops.testing import Sample, picture, plant
from tests.integration.test_nights import DAYS
from tests.integration.test_withdraw import (
    apply,
    assert_ordered,
    draft,
    published,
    revert,
    withdraw,
)
from tests.integration.world import World, pair
from tests.soak import seeds

FORMS = ("same", "padded", "jpeg_40", "half_size")
SEEN = {"recoverable", "source_seen_at"}


def made(seed: int, form: str) -> bytes:
    original = picture(seed)
    if form in ("same", "padded"):
        return original + b"\0" * (form == "padded")
    return plant(original, form)


def night(chance: random.Random, name: str) -> list[Sample]:
    """A sample's key says what is on it."""
    return [
        pair(f"{name}{number}-{seed}-{form}", made(seed, form))
        for number in range(8)
        for seed in [chance.randrange(5)]
        for form in [chance.choice(FORMS)]
    ]


def told(world: World) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Verdicts, witnesses, what the newest snapshot holds."""
    return world.verdicts(), world.witnesses(), published(world)


def content(key: str) -> str:
    """Of a sample's key: equal for equal bytes."""
    return key.partition("-")[2]


def state(world: World) -> tuple[Any, ...]:
    return world.views(SEEN), world.published()


@pytest.fixture
def elsewhere(other_world: World) -> World:
    """A world with source files of its own."""
    other_world.incoming = other_world.base / "own"
    other_world.change_source(urls=(f"{other_world.incoming}/{{date}}/*.tar",))
    return other_world


@pytest.mark.parametrize("seed", seeds(range(2), 20))
def test_withdrawing_is_deciding_the_orphans_as_newcomers(
    world: World, elsewhere: World, seed: int
) -> None:
    """And taken back at once it never was; and a retry changes nothing."""
    chance = random.Random(seed)
    first, second = night(chance, "a"), night(chance, "b")
    for day, samples in zip(DAYS, (first, second), strict=False):
        world.put(day, "a.tar", samples)
        world.night(day)
    before = told(world)
    verdicts, witnesses, _ = before
    # with equal bytes, so that nobody else carries what goes
    lead = chance.choice(sorted({w for k, w in witnesses.items() if content(k) != content(w)}))
    gone = [key for key in verdicts if content(key) == content(lead)]
    orphans = {content(k) for k, w in witnesses.items() if content(w) == content(lead)}
    orphans -= {content(lead)}
    drafted = draft(world, *gone).order.order_id
    apply(world, drafted)
    after = state(world)
    assert apply(world, drafted).answered
    assert state(world) == after
    revert(world, drafted)
    assert told(world) == before
    withdraw(world, *gone)

    for day, samples in zip(DAYS, (first, second), strict=False):
        there = [sample for sample in samples if content(sample[0]) not in orphans]
        elsewhere.put(day, "a.tar", there)
        elsewhere.night(day)
    withdraw(elsewhere, *gone)
    for day, samples in zip(DAYS[2:], (first, second), strict=False):
        late = [sample for sample in samples if content(sample[0]) in orphans]
        elsewhere.put(day, "a.tar", late or [pair("none", picture(30))])
        elsewhere.night(day)

    left, there = told(world), told(elsewhere)
    for mine, others in zip(left[:2], there[:2], strict=True):
        assert mine == {key: said for key, said in others.items() if key != "none"}  # type: ignore[union-attr]
    assert left[2] == there[2] - {"none"}
    assert_ordered(world)


ONE, OTHER = ["a0-0-same", "a1-0-same"], ["a2-1-same"]


@pytest.mark.parametrize("orders", [[OTHER, ONE], [[*ONE, *OTHER]]], ids=["turned", "as one"])
def test_orders_whose_orphans_are_apart_may_come_in_any_order_or_as_one(
    world: World, elsewhere: World, orders: Sequence[Sequence[str]]
) -> None:
    keys = {
        DAYS[0]: ["a0-0-same", "a1-0-same", "a2-1-same", "a3-2-same"],
        DAYS[1]: ["b0-0-jpeg_40", "b1-0-half_size", "b2-1-jpeg_40", "b3-1-same", "b4-2-padded"],
    }
    for each in (world, elsewhere):
        for day, names in keys.items():
            each.put(day, "a.tar", [pair(k, made(int(k[3]), k[5:])) for k in names])
            each.night(day)

    for names in (ONE, OTHER):
        withdraw(world, *names)
    for names in orders:
        withdraw(elsewhere, *names)

    assert told(world) == told(elsewhere)
    assert sum(said.startswith("withdrawn") for said in world.verdicts().values()) == 3
    assert_ordered(elsewhere)
