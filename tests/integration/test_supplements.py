"""Supplements: finished whatever died in between, and gone without a trace where nothing came."""

from __future__ import annotations

from typing import Any

import pytest

from sscd_ops.errors import DataError, SourceChanged
from sscd_ops.model import Runner
from sscd_ops.sources.webdataset import WebDatasetSource
from sscd_ops.steps import commit, manage, plan, publish
from tests.integration.test_crashes import Killed
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_promises, interval


def run_every_command(world: World) -> None:
    """What there is to run for the interval, a few times over."""
    for _ in range(3):
        world.night(DAYS[0], supplement=True)
        world.night(DAYS[0])


def assert_all_published(world: World, *, read: int) -> None:
    states = world.ask("SELECT supplement, state FROM curation.runs ORDER BY supplement")
    assert {row["state"] for row in states} == {"published"}, states
    assert_promises(world, read=read)


@pytest.mark.parametrize("dies", [publish, commit], ids=["publish", "commit"])
def test_a_supplement_killed_after_its_decision_is_finished_though_more_files_came(
    world: World, monkeypatch: pytest.MonkeyPatch, dies: Any
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    world.put(DAYS[0], "b.tar", clouds(range(10, 13)))

    def killed(*given: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(dies, "run", killed)
        world.night(DAYS[0], supplement=True)
    world.put(DAYS[0], "c.tar", clouds(range(20, 23)))

    run_every_command(world)

    assert_all_published(world, read=9)


def test_an_unpublishable_supplement_is_published_once_its_file_is_back_though_another_came(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message says: put the original back and run the night again."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    b = world.put(DAYS[0], "b.tar", clouds(range(10, 13)))
    away = world.base / "b.tar"
    real = publish.run

    def moved(*given: Any) -> Any:
        b.rename(away)
        return real(*given)

    with monkeypatch.context() as patch, pytest.raises(SourceChanged):
        patch.setattr(publish, "run", moved)
        world.night(DAYS[0], supplement=True)
    world.put(DAYS[0], "c.tar", clouds(range(20, 23)))
    world.night(DAYS[0], supplement=True)
    away.rename(b)

    run_every_command(world)

    assert_all_published(world, read=9)


def test_what_somebody_decided_about_a_needless_supplement_stays_in_the_events(
    world: World,
) -> None:
    """Abandoned while it waited for its data; run again when that is there, with nothing new."""
    world.change_source(ready=f"{world.incoming}/{{date}}/_SUCCESS")
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    marker = world.incoming / DAYS[0] / "_SUCCESS"
    marker.touch()
    world.night(DAYS[0])
    marker.unlink()
    with pytest.raises(DataError, match="waits for its data"):
        world.night(DAYS[0], supplement=True)
    with world.parts() as parts:
        manage.abandon(parts, 2, actor="ann", why="the feed sends nothing more")
    told = "SELECT kind, actor, why FROM curation.events ORDER BY event_id"
    before = world.ask(told)
    marker.touch()

    assert world.night(DAYS[0], supplement=True).answered

    assert world.ask(told) == before
    assert before[-1] == {
        "kind": "abandoned",
        "actor": "ann",
        "why": "the feed sends nothing more",
    }


def test_a_needless_supplement_that_a_zombie_forgets_does_not_fail_its_retry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tries of one plan: the other finds nothing new while this one lists the files."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    real = WebDatasetSource.find
    runner = Runner("airflow", "curate_web", "supplement")

    def zombie(*given: Any) -> Any:
        monkeypatch.setattr(WebDatasetSource, "find", real)
        with world.parts() as other:
            plan.run(other, DATASET, interval(DAYS[0]), runner=runner, supplement=True)
        return real(*given)

    monkeypatch.setattr(WebDatasetSource, "find", zombie)
    with world.parts() as parts:
        retry = plan.run(parts, DATASET, interval(DAYS[0]), runner=runner, supplement=True)

    assert retry.answered
    assert world.ask("SELECT supplement FROM curation.runs") == [{"supplement": 0}]
