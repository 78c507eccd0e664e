"""Nights compared in many small cells by any number of tasks are the nights compared in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.catalog import segments
from sscd_ops.catalog.sql import run
from sscd_ops.core import cells
from sscd_ops.core.match_file import MatchFile
from sscd_ops.model import Runner, StoredFile
from sscd_ops.steps import embed, ingest, manage, match, plan, resolve, searching, survey
from sscd_ops.steps.compacting import compact
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.snapshots import set_back_latest
from sscd_ops.testing import picture, plant
from sscd_ops.wiring import Wiring
from tests.integration.orders import lead_by
from tests.integration.test_crashes import Killed
from tests.integration.test_nights import BOTH, DAYS, clouds, fill, planted_nights
from tests.integration.test_turns import Standby
from tests.integration.world import (
    ASIDE,
    DATASET,
    World,
    assert_no_kept_copies,
    assert_promises,
    interval,
    pair,
)
from tests.soak import sweep


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


def ready_to_match(parts: Wiring, day: str) -> int:
    """Run a night up to embed; its batch."""
    planned = plan.run(parts, DATASET, interval(day), runner=Runner("airflow", "curate_web", day))
    ingest.run(parts, planned.batch_id, planned.groups)
    survey.run(parts, planned.batch_id)
    embed.run(parts, planned.batch_id, planned.groups)
    return planned.batch_id


def matched(parts: Wiring, day: str) -> int:
    """Run a night up to match, the last of its tasks first."""
    batch_id = ready_to_match(parts, day)
    for part in reversed(survey.run(parts, batch_id).parts):
        match.run(parts, batch_id, part)
    return batch_id


def searches(world: World) -> list[dict[str, Any]]:
    return world.ask("SELECT * FROM sscd_ops.searches ORDER BY search_id")


@pytest.mark.parametrize(("listed", "tasks"), sweep([(1, 3), (3, 7)], [(1, 3)]))
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


def test_each_of_a_crowd_is_listed_a_few_times(world: World, small: Callable[[int], None]) -> None:
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


def test_a_match_that_ends_after_its_night_was_published_leaves_no_search(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What publishing deletes nobody deletes later."""
    fill(world, planted_nights(), shards=2)
    real = searching.Searcher._record

    def late(*given: Any) -> Any:
        monkeypatch.setattr(searching.Searcher, "_record", real)
        with world.parts() as other:
            world.from_resolve(other, 1)
        return real(*given)

    monkeypatch.setattr(searching.Searcher, "_record", late)
    with world.parts() as parts:
        world.until_match(parts, DAYS[0])

    assert searches(world) == []
    assert_promises(world)


def test_searches_of_an_abandoned_night_go(world: World) -> None:
    """It may never be run again."""
    fill(world, planted_nights(), shards=2)
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])
        assert searches(world)
        manage.abandon(parts, batch_id, actor="ann", why="a test")

    assert searches(world) == []
    world.night(DAYS[0])
    assert_promises(world)


def test_a_search_of_a_segment_that_a_fail_over_forgot_is_not_taken_for_one_of_its_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another night has the number, as many rows and, all of them kept, the same mask."""
    for start, day in ((0, DAYS[0]), (10, DAYS[1]), (20, DAYS[3])):
        world.put(day, "a.tar", clouds(range(start, start + 5)))
    copies = [pair(f"copy{n}", plant(picture(n), "jpeg_40")) for n in (22, 23)]
    world.put(DAYS[2], "a.tar", copies)
    world.night(DAYS[0])
    with world.parts() as parts:
        later = [ready_to_match(parts, DAYS[n]) for n in (1, 2, 3)]
    standby = Standby(world)
    with world.parts() as parts:
        world.from_resolve(parts, later[0])
    real = searching.Searcher._record

    def late(*given: Any) -> Any:
        monkeypatch.setattr(searching.Searcher, "_record", real)
        standby.take_over()
        with world.parts() as other:
            set_back_latest(other, DATASET)  # a person goes on with what is left
            world.from_resolve(other, later[2])
        return real(*given)

    monkeypatch.setattr(searching.Searcher, "_record", late)
    with world.parts() as parts:
        match.run(parts, later[1], 0)
        world.from_resolve(parts, later[1])
        world.from_resolve(parts, later[0])

    assert world.witnesses() == {"copy22": "c0022", "copy23": "c0023"}
    assert_promises(world)


def test_segments_searched_together_may_come_to_differ_in_codes(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`index rebuild` was killed on its way through them, and a mask changed since match."""
    for each in (world, other_world):
        for start, day in ((0, DAYS[0]), (5, DAYS[1]), (20, DAYS[3])):
            each.put(day, "a.tar", clouds(range(start, start + 5)))
        each.put(DAYS[2], "a.tar", clouds(range(3, 12), "again"))
        for day in DAYS[:2]:
            each.night(day)
        each.change(duplicates={"search": "exact"})
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[2])
        world.from_resolve(parts, world.until_match(parts, DAYS[3]))
        lead_by(parts, {"c0002": "free"})
        real = segments.add_segment_files

        added: list[object] = []

        def killed(*given: Any) -> None:
            added.append(given)
            if len(added) == 2:
                raise Killed("index rebuild")
            real(*given)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(segments, "add_segment_files", killed)
            rebuild_index(parts, DATASET)
        world.from_resolve(parts, batch)
    with other_world.parts() as parts:
        other_world.from_resolve(parts, other_world.until_match(parts, DAYS[3]))
        lead_by(parts, {"c0002": "free"})
        other_world.from_resolve(parts, other_world.until_match(parts, DAYS[2]))

    assert world.verdicts() == other_world.verdicts()
    assert world.witnesses() == other_world.witnesses()


@pytest.mark.parametrize("listed", sweep([1, 3], [1]))
def test_free_images_are_compared_in_cells_too(
    world: World, other_world: World, small: Callable[[int], None], listed: int
) -> None:
    """Masks change twice between match and resolve, segments are merged in between."""
    nights = {day: clouds(range(n * 6, n * 6 + 6)) for n, day in enumerate(DAYS[:3])}
    again = [pair(f"again{n:02d}", picture(n)) for n in range(0, 18, 2)]
    copies = [
        pair(f"copy{n:02d}{q}", plant(picture(n), q))
        for n in range(18)
        for q in ("jpeg_40", "half_size")
    ]
    nights[DAYS[3]] = [*copies[::2], *again, *copies[1::2], *clouds(range(30, 34))]
    fill(world, nights, shards=3)
    free = {f"c{n:04d}": "free" for n in range(0, 18, 2)}
    for each in (world, other_world):
        each.change(duplicates=BOTH)
        for day in DAYS[:3]:
            each.night(day)
        with each.parts() as parts:
            lead_by(parts, free)
            if each is other_world:
                lead_by(parts, {"c0001": "free", "c0000": "again"}, {"c0003": "free"})
                each.from_resolve(parts, each.until_match(parts, DAYS[3]))
                continue
            small(listed)
            each.change(airflow={"max_tasks": 5})
            batch_id = matched(parts, DAYS[3])
            lead_by(parts, {"c0001": "free", "c0000": "again"})
            match.run(parts, batch_id, range(5))
            compact(parts, DATASET, 10)
            lead_by(parts, {"c0003": "free"})
            each.from_resolve(parts, batch_id)

    found = (
        "SELECT image_sha256, earlier_sha256, similarity, distance FROM sscd_ops.matches"
        " ORDER BY 1, 2, 3, 4"
    )
    assert world.ask(found) == other_world.ask(found)
    aside = ASIDE | {"generation"}
    assert world.views(aside) == other_world.views(aside)
    assert world.published() == other_world.published()
    assert_no_kept_copies(world)


def test_a_match_task_looks_at_its_own_candidate_files_alone(
    world: World, small: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a night's other tasks, fetched by each, would be the square of them."""
    fill(world, planted_nights(), shards=2)
    small(2)
    world.change(airflow={"max_tasks": 4})
    with world.parts() as parts:
        batch_id = ready_to_match(parts, DAYS[0])
        read: list[str] = []
        real = parts.store.local

        def local(file: StoredFile) -> Path:
            if "/matches/" in file.name:
                read.append(file.name)
            return real(file)

        monkeypatch.setattr(parts.store, "local", local)
        for part in range(4):
            match.run(parts, batch_id, part)
        assert read == []
        names = list(dict.fromkeys(row["file"]["name"] for row in searches(world)))
        assert len(names) == 4
        (world.base / "root" / names[0]).unlink()
        (world.base / "root" / names[3]).unlink()
        match.run(parts, batch_id, 0)
        assert set(read) == {names[0]}
        again = list(dict.fromkeys(row["file"]["name"] for row in searches(world)))
        assert again == [*names[1:], names[0]]
        world.from_resolve(parts, batch_id)

    assert_promises(world)
