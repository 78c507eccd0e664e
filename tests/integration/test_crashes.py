"""kill -9 at any moment, then a retry: the result is that of an undisturbed run (promise I6)."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.errors import BatchNotRunnable, CommitConflict
from sscd_ops.options import to_json
from sscd_ops.steps import commit, publish, resolve
from sscd_ops.steps.resolve import ResolveReport
from tests.integration.test_nights import DAYS, clouds, fill, planted_nights
from tests.integration.world import World, assert_promises
from tests.soak import sweep

RUN = """
import sys
from sscd_ops.options import Settings, StorageOptions, dataset_from_json
from sscd_ops.wiring import Wiring
from sscd_ops.steps import night
from tests.integration.world import interval
url, root, day, options = sys.argv[1:]
datasets = {"web": dataset_from_json(options)}
settings = Settings("t.toml", StorageOptions(root=root), datasets=datasets)
with Wiring(settings, database_url=url) as parts:
    night.run(parts, "web", interval(day), poll_seconds=0.05)
"""
ROOT = Path(__file__).parents[2]


def start(world: World, day: str) -> subprocess.Popen[bytes]:
    arguments = [world.url, str(world.base / "root"), day, to_json(world.options)]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("spared", sweep([2, 0], [2]))
def test_a_night_killed_again_and_again_ends_as_an_undisturbed_one(
    world: World, other_world: World, spared: int
) -> None:
    """Each try lives a little longer than the one before, until one finishes.

    Three nights, the first of which may be spared.
    """
    fill(world, planted_nights(), shards=3)
    for day in DAYS[:3]:
        other_world.night(day)
    for day in DAYS[:spared]:
        world.night(day)

    kills = 0
    for day in DAYS[spared:3]:
        patience = 0.6
        while True:
            process = start(world, day)
            try:
                _, said = process.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
                patience *= 1.12
                continue
            assert process.returncode == 0, said.decode()[-2000:]
            break

    assert kills > 2 * (3 - spared)
    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert_promises(world)


class Killed(BaseException):
    """Stands for kill -9: nothing in the product catches it."""


def die_at(monkeypatch: pytest.MonkeyPatch, when: str, point: str) -> None:
    """Have a call die, before or after it; ``point``: its place below ``sscd_ops.steps``."""
    module, *steps, name = point.split(".")
    target: Any = importlib.import_module(f"sscd_ops.steps.{module}")
    for step in steps:
        target = getattr(target, step)
    real = getattr(target, name)

    def dies(*arguments: Any, **named: Any) -> Any:
        if when == "after":
            real(*arguments, **named)
        raise Killed(point)

    monkeypatch.setattr(target, name, dies)


POINTS = {
    "ingest": ("ingest.attempts.register_file",),
    "survey": ("survey.attempts.register_survey",),
    "embed": ("embed.attempts.register_file",),
    "match": ("searching.searches.register_searches",),
    "resolve": ("turns.forget_tries",),
    "resolve's rows": (
        "turns.copy_table",
        "resolve.output_shards.add_plan",
    ),
    "the swap": (
        "turns.decisions.put_in_force",
        "resolve.decisions.decide_batch",
        "resolve.segments.add_mask",
        "turns.datasets.advance",
    ),
    "a decision in force": ("turns._swap",),
    "publish": ("publish.output_shards.register_output",),
    "commit": ("commit._Commit.work_out",),
    "a snapshot's file": ("commit._Commit.put",),
    "a snapshot's rows": (
        "next_snapshot.snapshots.add_snapshot",
        "commit.published.mark_published",
    ),
    "a snapshot in force": ("turns.make_snapshot",),
    "the newest pointer": ("commit.repair_latest",),
}
"""Every write to the catalog, by the phase of a night that it is in.

Of a turn and of a snapshot the whole transaction is a phase, and what is inside it another.
"""
BEFORE = {"ingest", "publish", "the newest pointer"}
"""Phases whose sample dies before its write: with a file that no row names, or an old pointer."""
DEATHS = {
    (when, f"sscd_ops.steps.{point}"): point == points[0]
    and (when == "before") == (phase in BEFORE)
    for when in ("before", "after")
    for phase, points in POINTS.items()
    for point in points
}
"""Whether they are those of the sample: one of each phase."""


@pytest.mark.parametrize(
    ("when", "point"), sweep(DEATHS, [death for death, sampled in DEATHS.items() if sampled])
)
def test_a_death_at_any_write_to_the_catalog_changes_nothing_in_the_end(
    world: World,
    other_world: World,
    point: str,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second night dies at a write, and is run again."""
    nights = {DAYS[0]: clouds(range(8)), DAYS[1]: clouds(range(4, 12), prefix="d")}
    fill(world, nights, shards=2)
    for each in (world, other_world):
        each.night(DAYS[0])
    other_world.night(DAYS[1])
    die_at(monkeypatch, when, point.removeprefix("sscd_ops.steps."))
    with pytest.raises(Killed):
        world.night(DAYS[1])
    monkeypatch.undo()
    world.night(DAYS[1])

    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert_promises(world)


def test_a_zombie_and_its_retry_decide_once(world: World) -> None:
    """Two tries of one resolve at once: one decision, equal answers."""
    fill(world, planted_nights())
    answers: list[ResolveReport | BaseException] = []
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])

    def decide() -> None:
        with world.parts() as mine:
            try:
                answers.append(resolve.run(mine, batch_id))
            except BaseException as error:
                answers.append(error)

    threads = [threading.Thread(target=decide) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [type(answer) for answer in answers] == [ResolveReport] * 3
    assert len({answer.counts for answer in answers}) == 1
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.decisions") == [{"n": 1}]
    with world.parts() as parts:
        world.from_resolve(parts, batch_id)
    assert_promises(world)


def test_nights_that_decide_at_the_same_moment_keep_every_promise(world: World) -> None:
    """Four nights reach resolve together, nobody waits: each is decided against the others."""
    nights = {day: clouds(range(i * 3, i * 3 + 12), prefix=f"n{i}-") for i, day in enumerate(DAYS)}
    fill(world, nights)
    with world.parts() as parts:
        batch_ids = [world.until_match(parts, day) for day in DAYS]
    failures: list[BaseException] = []

    def decide(batch_id: int) -> None:
        with world.parts() as mine:
            try:
                world.from_resolve(mine, batch_id)
            except CommitConflict:
                decide(batch_id)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=decide, args=(batch,)) for batch in batch_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    turns = world.ask("SELECT turn FROM curation.runs ORDER BY turn")
    assert [row["turn"] for row in turns] == [1, 2, 3, 4]
    assert_promises(world)


def test_publish_and_commit_of_a_zombie_beside_its_retry_do_no_harm(world: World) -> None:
    world.change(publish={"max_samples": 3})
    fill(world, planted_nights())
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])
        groups = resolve.run(parts, batch_id).groups
    failures: list[BaseException] = []

    def finish() -> None:
        with world.parts() as mine:
            try:
                for group in groups:
                    publish.run(mine, batch_id, group)
                commit.run(mine, batch_id)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=finish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(world.ask("SELECT * FROM curation.snapshots")) == 1
    assert_promises(world)


def test_two_commands_at_once_run_a_night_once(world: World) -> None:
    fill(world, planted_nights())

    processes = [start(world, DAYS[0]) for _ in range(2)]
    outputs = [process.communicate()[1].decode() for process in processes]

    codes = sorted(process.returncode for process in processes)
    assert codes[0] == 0, outputs
    if codes[1]:  # the slower one was refused, or came late and was answered
        assert any(
            "still running" in output or "another command runs" in output for output in outputs
        ), outputs
    assert_promises(world)


def test_an_abandoned_attempt_cannot_write_any_more(world: World) -> None:
    fill(world, planted_nights())
    from sscd_ops.steps import manage

    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])
        manage.abandon(parts, batch_id, actor="ann", why="test")
        with pytest.raises(BatchNotRunnable, match="abandoned"):
            resolve.run(parts, batch_id)

    report = world.night(DAYS[0])
    assert report.state == "published"
    assert_promises(world)


def test_a_dead_command_leaves_no_lock_behind(world: World) -> None:
    fill(world, planted_nights())
    process = start(world, DAYS[0])
    deadline = time.monotonic() + 20
    while not world.ask("SELECT 1 AS x FROM sscd_ops.batches") and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    report = world.night(DAYS[0])

    assert report.state == "published"
    assert_promises(world)
