"""survey: what is new in a night, found once, and what is frozen with it."""

from __future__ import annotations

import io
from typing import Any

import pytest

from sscd_ops.core.work_list import read_work_list
from sscd_ops.errors import BatchNotRunnable, StaleAttempt
from sscd_ops.index import backends
from sscd_ops.model import Runner
from sscd_ops.steps import embed, ingest, manage, match, plan, survey
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import ASIDE, DATASET, World, assert_promises, interval, pair

RUN = Runner("cli")


def planned(parts: Wiring, day: str = DAYS[0]) -> plan.PlanReport:
    return plan.run(parts, DATASET, interval(day), runner=RUN)


def ingested(parts: Wiring, day: str = DAYS[0]) -> plan.PlanReport:
    report = planned(parts, day)
    ingest.run(parts, report.batch_id, report.groups)
    return report


def frozen(world: World) -> dict[str, Any]:
    return world.ask("SELECT * FROM sscd_ops.attempts ORDER BY attempt_id DESC LIMIT 1")[0]


def work_list(world: World) -> dict[int, list[int]]:
    data = world.stored(frozen(world)["work_list"]["name"])
    return {n: list(rows) for n, rows in read_work_list(io.BytesIO(data), range(100)).items()}


def test_each_new_image_is_embedded_at_its_first_place(world: World) -> None:
    world.put(DAYS[0], "old.tar", [pair("old", picture(1))])
    world.night(DAYS[0])
    known, twice = pair("known", picture(1)), picture(2)
    world.put(DAYS[1], "a.tar", [known, pair("a1", twice), pair("a2", b"no picture")])
    world.put(DAYS[1], "b.tar", [pair("b0", picture(3)), pair("b1", twice)])

    with world.parts() as parts:
        batch = ingested(parts, DAYS[1]).batch_id
        report = survey.run(parts, batch)

    assert work_list(world) == {0: [1], 1: [0]}
    assert report.counts == {"images": 2, "history": 1, "match_tasks": 1}
    assert report.parts == [0]


def test_embed_reads_the_manifests_of_its_own_shards_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(airflow={"max_tasks": 3})
    for number in range(3):
        world.put(DAYS[0], f"{number}.tar", clouds(range(number * 2, number * 2 + 2)))
    with world.parts() as parts:
        report = ingested(parts)
        survey.run(parts, report.batch_id)
        read: list[str] = []
        real = embed.manifest_of
        monkeypatch.setattr(
            embed, "manifest_of", lambda *given: read.append(given[2].relative_uri) or real(*given)
        )
        embed.run(parts, report.batch_id, 1)

    assert [name.rpartition("/")[2] for name in read] == ["1.tar"]


def test_a_step_that_comes_too_early_names_the_one_before_it(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    with world.parts() as parts:
        batch = planned(parts).batch_id
        with pytest.raises(BatchNotRunnable, match="no manifest yet"):
            survey.run(parts, batch)
        ingest.run(parts, batch, [0])
        for step in (embed.run, match.run):
            with pytest.raises(BatchNotRunnable, match="run survey first"):
                step(parts, batch, 0)


def test_what_was_frozen_stays_when_source_shards_are_added(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(duplicates={"search": "auto"})
    monkeypatch.setattr(backends, "FLAT_BELOW", 4)
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:
        report = ingested(parts)
        survey.run(parts, report.batch_id)
        embed.run(parts, report.batch_id, report.groups)
        first = frozen(world)
        world.put(DAYS[0], "b.tar", clouds(range(2, 6)))
        again = planned(parts)
        with pytest.raises(BatchNotRunnable, match="survey first"):
            match.run(parts, report.batch_id, 0)
        ingest.run(parts, again.batch_id, again.groups)
        monkeypatch.setattr(survey, "PAIRS_A_TASK", 4)
        found = survey.run(parts, again.batch_id)
        done = embed.run(parts, again.batch_id, again.groups)
        match.run(parts, again.batch_id, found.parts)
        world.from_resolve(parts, again.batch_id)

    assert again.batch_id == report.batch_id
    assert work_list(world) == {0: [0, 1, 2], 1: [1, 2, 3]}
    assert done.counts["embedded"] == 3, "what was embedded before stays right"
    after = frozen(world)
    assert (after["search"], after["search_within"]) == ("flat", "flat")
    assert (first["match_tasks"], after["match_tasks"]) == (1, 5)
    assert_promises(world, read=7)


def test_a_survey_beside_a_plan_that_adds_shards_is_run_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    with world.parts() as parts:
        report = ingested(parts)
        real = survey._put

        def put(*given: Any) -> Any:
            world.put(DAYS[0], "b.tar", clouds(range(2, 4)))
            planned(parts)
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(survey, "_put", put)
            with pytest.raises(BatchNotRunnable, match="run ingest and survey again"):
                survey.run(parts, report.batch_id)

    assert frozen(world)["work_list"] is None
    assert world.night(DAYS[0]).counts.kept == 4


def test_a_decided_night_and_an_abandoned_one_are_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS[:2]:
        world.put(day, "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    with world.parts() as parts:
        with monkeypatch.context() as patch:
            patch.setattr(survey, "_file", lambda *given: 1 / 0)
            assert survey.run(parts, 1).answered
        second = ingested(parts, DAYS[1]).batch_id
        manage.abandon(parts, second, actor="ann", why="a test")
        with pytest.raises(StaleAttempt):
            survey.run(parts, second)


@pytest.mark.parametrize("count", [1, 3])
def test_a_night_is_the_same_in_any_number_of_match_tasks(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    for each in (world, other_world):
        for number, day in enumerate(DAYS[:3]):
            each.put(day, "a.tar", clouds(range(number * 2, number * 2 + 4)))
        monkeypatch.setattr(survey, "PAIRS_A_TASK", 1 if each is world else 10**9)
        each.change(airflow={"max_tasks": count})
        for day in DAYS[:3]:
            with each.parts() as parts:
                each.from_resolve(parts, each.until_match(parts, day))

    assert frozen(world)["match_tasks"] == count
    assert world.views(ASIDE) == other_world.views(ASIDE)
    assert world.published() == other_world.published()


def test_an_empty_night_is_surveyed(world: World) -> None:
    report = world.night(DAYS[0])

    assert report.state == "published"
    assert frozen(world)["match_tasks"] == 1


@pytest.mark.parametrize(
    ("new", "history", "most", "tasks"),
    [
        (0, 0, 64, 1),
        (0, 10**9, 64, 1),
        (10_000, 200_000, 64, 1),
        (10**6, 0, 1024, 125),
        (10**5, 10**7, 1024, 252),
        (5 * 10**6, 0, 64, 64),
    ],
)
def test_match_tasks_follow_from_the_pairs(new: int, history: int, most: int, tasks: int) -> None:
    assert survey.match_tasks(new, history, most) == tasks


def test_a_killed_embed_loses_one_source_shard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        world.put(DAYS[0], f"{number}.tar", clouds(range(number * 2, number * 2 + 2)))
    with world.parts() as parts:
        report = ingested(parts)
        survey.run(parts, report.batch_id)
        real, seen = embed._embed, []

        def killed(*given: Any) -> Any:
            seen.append(given[2])
            return real(*given) if len(seen) < 3 else 1 / 0

        with monkeypatch.context() as patch:
            patch.setattr(embed, "_embed", killed)
            with pytest.raises(ZeroDivisionError):
                embed.run(parts, report.batch_id, report.groups)
        rest = embed.run(parts, report.batch_id, report.groups)

    assert rest.counts["shards"] == 2
