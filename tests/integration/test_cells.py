"""Nights compared in many small cells by any number of tasks are the nights compared in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sscd_ops.catalog.sql import run
from sscd_ops.core import cells
from sscd_ops.core.match_file import MatchFile
from sscd_ops.model import Runner
from sscd_ops.steps import embed, ingest, match, plan, resolve, searching, survey
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.integration.test_nights import BOTH, DAYS, clouds, fill, planted_nights
from tests.integration.world import DATASET, World, assert_promises, interval, pair


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make cells small, lists short and tasks as many as there may be."""

    def make(listed: int) -> None:
        monkeypatch.setattr(survey, "PAIRS_A_TASK", 1)
        monkeypatch.setattr(cells, "_STEP", 2)
        monkeypatch.setattr(cells, "_LEAST", 4)
        monkeypatch.setattr(cells, "_GROUP", 12)
        monkeypatch.setattr(searching, "LISTED", listed)

    return make


def matched(parts: Wiring, day: str) -> int:
    """Run a night up to match, the last of its tasks first."""
    planned = plan.run(parts, DATASET, interval(day), runner=Runner("airflow", "curate_web", day))
    ingest.run(parts, planned.batch_id, planned.groups)
    surveyed = survey.run(parts, planned.batch_id)
    embed.run(parts, planned.batch_id, planned.groups)
    for part in reversed(surveyed.parts):
        match.run(parts, planned.batch_id, part)
    return planned.batch_id


def searches(world: World) -> list[dict[str, Any]]:
    return world.ask("SELECT * FROM sscd_ops.searches ORDER BY search_id")


@pytest.mark.parametrize(("listed", "tasks"), [(1, 3), (3, 7)])
def test_cells_lists_and_tasks_never_matter(
    world: World, other_world: World, small: Callable[[int], None], listed: int, tasks: int
) -> None:
    nights = planted_nights()
    # a crowd of near copies, more than any list holds
    nights[DAYS[1]] += [
        pair(f"crowd{q}", picture(5, quality=q), "a crowd") for q in range(60, 96, 2)
    ]
    nights[DAYS[2]] += [
        pair(f"late{q}", picture(5, quality=q), "a crowd") for q in range(61, 90, 4)
    ]
    fill(world, nights, shards=3)
    for each in (world, other_world):
        each.change(duplicates=BOTH)
    for day in DAYS[:3]:
        other_world.night(day)

    small(listed)
    world.change(airflow={"max_tasks": tasks})
    for day in DAYS[:3]:
        with world.parts() as parts:
            batch_id = matched(parts, day)
            before = searches(world)
            resolve.run(parts, batch_id)
            assert searches(world) == before, "match left nothing to search"
            assert len(before) > 10
            assert len({row["file"]["name"] for row in before}) <= tasks
            world.from_resolve(parts, batch_id)
        assert searches(world) == [], "those of a published batch go"

    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert_promises(world)


def test_a_night_of_which_match_compared_a_part_is_decided_all_the_same(
    world: World, other_world: World, small: Callable[[int], None]
) -> None:
    fill(world, planted_nights(), shards=3)
    small(2)
    for day in DAYS[:2]:
        other_world.night(day)
        with world.parts() as parts:
            batch_id = matched(parts, day)
            with parts.catalog.begin() as conn:
                run(conn, "DELETE FROM sscd_ops.searches WHERE number % 2 = 0")
            world.from_resolve(parts, batch_id)

    assert world.views() == other_world.views()
    assert_promises(world)


def test_equal_pictures_by_the_thousand_are_listed_a_few_times_each(
    world: World, small: Callable[[int], None]
) -> None:
    """What candidate files hold is bounded by the images, not by their pairs."""
    crowd = [pair(f"p{q}", picture(5, quality=q), "one of many") for q in range(20, 96)]
    world.put(DAYS[0], "a.tar", crowd + clouds(range(100, 104)))
    small(2)
    with world.parts() as parts:
        batch_id = matched(parts, DAYS[0])
        listed = 0
        for row in searches(world):
            path = world.base / "root" / row["file"]["name"]
            listed += len(MatchFile(path).matches(row["number"], 1)[0].query)
        shared = len(cells.blocks(len(crowd) + 4))
        assert listed <= 2 * (len(crowd) + 4) * (shared + 1)
        world.from_resolve(parts, batch_id)

    assert_promises(world)
