"""A DAG run whose params change between its tries: a clear, or a backfill's reprocessing."""

from __future__ import annotations

import pytest

from sscd_ops.errors import BatchNotRunnable
from sscd_ops.model import Runner
from sscd_ops.steps import commit, embed, ingest, match, plan, publish, resolve, survey
from sscd_ops.steps.awaiting import arrive
from sscd_ops.wiring import Wiring
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_promises, interval

RUN = Runner("airflow", "curate_web", "scheduled__2026-11-02")


def planned(parts: Wiring, day: str = DAYS[0], runner: Runner = RUN, **asked: bool) -> int:
    return plan.run(parts, DATASET, interval(day), runner=runner, **asked).batch_id


def whole(parts: Wiring, day: str = DAYS[0], runner: Runner = RUN, **asked: bool) -> int:
    """All tasks of the run; its batch."""
    report = plan.run(parts, DATASET, interval(day), runner=runner, **asked)
    ingest.run(parts, report.batch_id, report.groups)
    surveyed = survey.run(parts, report.batch_id)
    embed.run(parts, report.batch_id, report.groups)
    match.run(parts, report.batch_id, surveyed.parts)
    for group in resolve.run(parts, report.batch_id).groups:
        publish.run(parts, report.batch_id, group)
    commit.run(parts, report.batch_id)
    return report.batch_id


def runs(world: World) -> list[tuple[str, int, str, int]]:
    found = world.ask("SELECT night, supplement, state, kept FROM curation.runs ORDER BY batch_id")
    return [tuple(row.values()) for row in found]  # type: ignore[misc]


@pytest.fixture
def night(world: World) -> World:
    """A night that its DAG run published; then a file came."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:
        whole(parts)
    world.put(DAYS[0], "b.tar", clouds(range(10, 12)))
    return world


def test_a_reprocessing_as_a_supplement_reads_the_late_files(night: World) -> None:
    with night.parts() as parts:
        first = whole(parts, supplement=True)
        again = whole(parts, supplement=True)

    assert first == again, "a clear answers with the run's own"
    assert runs(night) == [(DAYS[0], 0, "published", 3), (DAYS[0], 1, "published", 2)]
    assert_promises(night, read=5)


def test_and_so_does_the_next_one(night: World) -> None:
    with night.parts() as parts:
        first = whole(parts, supplement=True)
        night.put(DAYS[0], "c.tar", clouds(range(20, 21)))
        second = whole(parts, supplement=True)

    assert second == first + 1
    assert [kept for *_, kept in runs(night)] == [3, 2, 1]
    assert_promises(night, read=6)


def test_a_retry_finds_its_own_supplement_though_more_came(night: World) -> None:
    with night.parts() as parts:
        first = planned(parts, supplement=True)
        night.put(DAYS[0], "c.tar", clouds(range(20, 21)))

        assert planned(parts, supplement=True) == first
        assert whole(parts, supplement=True) == first
    assert_promises(night, read=6)


def test_a_clear_without_the_param_answers_with_the_night_again(night: World) -> None:
    with night.parts() as parts:
        supplement = planned(parts, supplement=True)
        night_itself = planned(parts)

        assert night_itself != supplement
        assert plan.run(parts, DATASET, interval(DAYS[0]), runner=RUN).answered
        # the supplement was left: nobody waits for it, and who asks for it again gets it
        assert whole(parts, supplement=True) == supplement


def test_an_undecided_night_is_not_reprocessed_as_a_supplement(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:
        batch = planned(parts)
        with pytest.raises(BatchNotRunnable, match=rf"{DAYS[0]}.*without --supplement"):
            planned(parts, supplement=True)
        assert whole(parts) == batch


def test_a_run_that_is_given_another_date_does_not_wait_for_itself(world: World) -> None:
    for number, day in enumerate(DAYS[:2]):
        world.put(day, "a.tar", clouds(range(10 * number, 10 * number + 3)))
    with world.parts() as parts:
        parts._ask_airflow = lambda runner: True
        left = planned(parts, DAYS[0])
        second = planned(parts, DAYS[1])
        waiting, _ = arrive(parts, second)

        assert [other.batch_id for other in waiting] == []
        assert whole(parts, DAYS[1]) == second
        assert whole(parts, DAYS[0]) == left
    assert_promises(world, read=6)


def test_a_run_that_becomes_a_dry_run_reads_what_its_night_had_claimed(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:
        left = planned(parts)
        dry = planned(parts, dry_run=True)

        report = plan.run(parts, DATASET, interval(DAYS[0]), runner=RUN, dry_run=True)
        assert (report.batch_id, report.source_shards) == (dry, 1)
        assert whole(parts) == left
    assert_promises(world, read=3)
