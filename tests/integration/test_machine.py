"""Lives of a dataset made by chance (``machine.py``): short ones here, long ones in a soak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.integration.machine import DAYS, DRAFT_DIES, ORDER_DIES, Life
from tests.integration.test_damage import cut, flip, take_away
from tests.soak import SEED

STORY: list[Callable[[Life], object]] = [
    # a held night, abandoned; then held again and released
    lambda life: life.night(DAYS[2], [(1, "padded"), (2, "same")], strict=True),
    lambda life: life.abandon(run_again=False),
    lambda life: life.run(DAYS[2], strict=True),
    lambda life: life.release(run_again=True),
    # a witness goes before it is published: its copies are decided anew
    lambda life: life.decided_alone(DAYS[3], [(5, "same"), (4, "same"), (4, "cut")]),
    lambda life: life.supplement(0, [(5, "padded"), (4, "jpeg_40"), (4, "same")]),
    lambda life: life.source_lost([0]),
    lambda life: life.repair("turns.decisions.put_in_force after"),
    lambda life: life.again(0, dry=True),
    # orders, a killed night and its retry
    lambda life: life.withdraw("id", [0], "orders.turn.orders.mark_applied before", later=True),
    lambda life: life.killed(
        DAYS[0], [(2, "jpeg_40")], ("after", "sscd_ops.steps.turns._swap"), supplement=True
    ),
    lambda life: life.withdraw("url", [4, 7], DRAFT_DIES[1], later=False),
    lambda life: life.tag(1, "a", until=False),
    lambda life: life.publish_orders(""),
    lambda life: life.gone_on_with(),
    lambda life: life.touched(0, [(0, "same"), (2, "half_size")]),
    # what is merged, given up and removed; what is damaged after that
    lambda life: life.merge_segments(100, "before"),
    lambda life: life.merge_shards(100, "next_snapshot.snapshots.add_snapshot before"),
    lambda life: life.expire(0, keep_last=1),
    lambda life: life.vacuum(0, "condemned.mark_removed before"),
    lambda life: life.differ(0, -1),
    lambda life: life.reproduced(-1),
    lambda life: life.damaged("segment", flip, 0),
    lambda life: life.damaged("mask", take_away, 1),
    lambda life: life.damaged("shard", cut, 0),
    lambda life: life.withdraw("domain", [1], ORDER_DIES[3], later=False),
    lambda life: life.revert(1, "orders.applying.publish_others before", later=False),
    lambda life: life.drafted("id", [2, 5]),
    lambda life: life.revert_drafted(0),
    lambda life: life.held("source", [2], approved=True),
    lambda life: life.apply_a_draft(0, refused=False),
    lambda life: life.apply_a_draft(0, refused=True),
    lambda life: life.maintained(1, 0.0),
    lambda life: life.again(1, dry=False),
]


def of(home: Path, template: str) -> type[Life]:
    """A machine on the tests' server."""

    class Here(Life):
        pass

    Here.home, Here.template = home, template.rpartition("/")[2]
    return Here


def live(machine: type[Life], number: int, *, lives: int, steps: int) -> None:
    """Lives by a seed. A failure is printed as it was: a step takes seconds, shrinking hours."""
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_life_with_every_verb_keeps_every_promise(
    postgres_home: Path, catalog_template: str
) -> None:
    life = of(postgres_home, catalog_template)()
    try:
        life.two_nights()
        for number, step in enumerate(STORY):
            step(life)
            try:
                life.what_holds()
            except AssertionError as error:
                raise AssertionError(f"after step {number} of the story") from error
        life.finish()
    finally:
        life.at_end.close()


def test_short_lives_keep_every_promise(postgres_home: Path, catalog_template: str) -> None:
    live(of(postgres_home, catalog_template), 1, lives=2, steps=6)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(4))
def test_long_lives_keep_every_promise(
    postgres_home: Path, catalog_template: str, number: int
) -> None:
    live(of(postgres_home, catalog_template), SEED + number, lives=5, steps=30)
