"""Rows of a decision that never came into force leave the large tables again."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from sscd_ops.catalog import batches, decisions
from sscd_ops.catalog.copy import copy_table
from sscd_ops.errors import BatchNotRunnable, StaleAttempt
from sscd_ops.steps import manage, resolve, turns
from sscd_ops.steps.parts import load_work
from tests.integration.test_crashes import Killed
from tests.integration.test_nights import DAYS, fill, planted_nights
from tests.integration.test_races import LOSE_SESSIONS
from tests.integration.world import World, assert_promises

LARGE = (
    "samples",
    "images",
    "matches",
    "changes",
    "decisions",
    "decision_sources",
    "output_shards",
    "placements",
)


@pytest.fixture
def batch(world: World) -> int:
    """A batch that waits for resolve."""
    fill(world, planted_nights())
    with world.parts() as parts:
        return world.until_match(parts, DAYS[0])


def left(world: World) -> dict[str, int]:
    """Table -> rows of decisions that are not in force, where there are any."""
    counts = {
        table: world.ask(
            f"SELECT count(*) AS n FROM sscd_ops.{table} t WHERE NOT EXISTS"
            " (SELECT FROM sscd_ops.batches b WHERE b.decision_id = t.decision_id)"
        )[0]["n"]
        for table in LARGE
    }
    return {table: count for table, count in counts.items() if count}


@pytest.mark.parametrize("moment", ["before_its_first_table", "after_its_last_table"])
def test_an_abandon_beside_a_resolve_that_writes_leaves_no_rows(
    world: World, batch: int, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Resolve writes its rows without the dataset's lock, and may not write them a second time."""
    real = turns._write_rows
    wrote: list[int] = []

    def abandon() -> None:
        with world.parts() as other:
            manage.abandon(other, batch, actor="ann", why="wrong feed")

    def copies(*given: Any) -> int:
        monkeypatch.setattr(turns, "copy_table", copy_table)
        abandon()
        return copy_table(*given)

    def writes(*given: Any) -> int:
        wrote.append(real(*given))
        if moment == "after_its_last_table":
            abandon()
        return wrote[-1]

    monkeypatch.setattr(turns, "_write_rows", writes)
    if moment == "before_its_first_table":
        monkeypatch.setattr(turns, "copy_table", copies)
    with world.parts() as parts, pytest.raises((StaleAttempt, BatchNotRunnable)):
        resolve.run(parts, batch)

    assert len(wrote) == 1
    assert left(world) == {}


def test_rows_of_a_zombie_that_dies_after_its_batch_was_decided_go_with_the_next_run(
    world: World, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = turns._write_rows

    def writes(*given: Any) -> int:
        monkeypatch.setattr(turns, "_write_rows", real)
        world.ask(LOSE_SESSIONS)
        with world.parts() as other:  # the retry
            world.from_resolve(other, batch)
        real(*given)
        raise Killed

    monkeypatch.setattr(turns, "_write_rows", writes)
    with world.parts() as parts, pytest.raises(Killed):
        resolve.run(parts, batch)
    assert left(world)["decisions"] == 1

    world.night(DAYS[0])

    assert left(world) == {}
    assert_promises(world)


def test_rows_that_a_zombie_wrote_after_an_abandon_go_with_the_next_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died before it could find out that its attempt was over."""
    fill(world, planted_nights())
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
    real = turns._write_rows

    def write_rows(*given: Any) -> Any:
        with world.parts() as other:
            manage.abandon(other, batch, actor="ann", why="wrong feed")
        real(*given)
        raise Killed

    monkeypatch.setattr(turns, "_write_rows", write_rows)
    with world.parts() as parts, pytest.raises(Killed):
        resolve.run(parts, batch)
    assert left(world) != {}
    with world.parts() as parts:
        manage.abandon(parts, batch, actor="ann", why="wrong feed")

    assert left(world) == {}


def test_who_works_for_an_abandoned_attempt_takes_nothing_from_the_next(
    world: World, batch: int
) -> None:
    with world.parts() as parts:
        stale = resolve.Night(parts, load_work(parts, batch))
        manage.abandon(parts, batch, actor="ann", why="wrong feed")
        assert world.until_match(parts, DAYS[0]) == batch
        with parts.catalog.begin() as conn:
            planned_anew = batches.read_batch(conn, batch)
            decisions.open_night(conn, planned_anew, date(2026, 11, 1))

        with pytest.raises(StaleAttempt):
            turns.take(parts, stale)

    assert world.ask("SELECT lost FROM sscd_ops.decisions") == [{"lost": False}]
