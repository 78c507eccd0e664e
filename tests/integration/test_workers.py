"""`run --workers`: the same night in processes of the command's own."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sscd_ops.cli import workers
from sscd_ops.cli.worker import error_of
from sscd_ops.cli.workers import Workers
from sscd_ops.errors import SourceChanged, TransientError
from sscd_ops.steps import night, survey
from sscd_ops.steps.night import NightReport
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import ASIDE, DATASET, World, assert_promises, interval

SSCD_OPS = Path(sys.executable).with_name("sscd-ops")


def fill(world: World, day: str, first: int = 0) -> None:
    for number in range(4):
        start = first + 4 * number
        world.put(day, f"{number}.tar", clouds(range(start, start + 6)))


def side_by_side(world: World, day: str, count: int = 2) -> NightReport:
    with (
        world.parts() as parts,
        Workers(parts.settings, world.url, count, parts.progress) as beside,
    ):
        return night.run(parts, DATASET, interval(day), workers=beside, poll_seconds=0.05)


def test_a_night_by_two_workers_is_the_one_by_none(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "PAIRS_A_TASK", 50)
    for each in (world, other_world):
        each.change(publish={"max_samples": 4})
    for number, day in enumerate(DAYS[:2]):
        fill(world, day, first=10 * number)

    for day in DAYS[:2]:
        here, beside = other_world.night(day), side_by_side(world, day)
        assert beside.counts == here.counts
        assert beside.shards == here.shards > 1

    assert world.views(ASIDE) == other_world.views(ASIDE)
    assert world.published() == other_world.published()
    assert_promises(world)


@pytest.mark.parametrize("kind", ["BrokenShard", "KeyError", "Path"])
def test_an_error_that_a_message_does_not_make_is_told_all_the_same(kind: str) -> None:
    error = error_of(kind, "what it said", "where it was")

    assert (type(error), str(error)) == (RuntimeError, f"{kind}: what it said")
    assert error.__notes__ == ["in a worker process:\nwhere it was"]


def test_a_worker_s_error_is_the_one_of_a_night_without(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, DAYS[0])
    real = survey.run
    gone = world.incoming / DAYS[0] / "2.tar"
    kept = gone.read_bytes()
    told = []
    for run in (world.night, lambda day: side_by_side(other_world, day)):
        monkeypatch.setattr(survey, "run", lambda *given: gone.unlink() or real(*given))
        with pytest.raises(SourceChanged) as refused:
            run(DAYS[0])
        told.append(str(refused.value))
        monkeypatch.undo()
        gone.write_bytes(kept)

    assert told[0] == told[1]
    (row,) = other_world.ask("SELECT message FROM curation.runs")
    assert row["message"] == told[1]


@pytest.mark.parametrize("step", ["ingest", "publish"])
def test_after_a_killed_worker_the_next_run_ends_as_an_undisturbed_one(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    for each in (world, other_world):
        each.change(publish={"max_samples": 4})
    fill(world, DAYS[0])
    other_world.night(DAYS[0])
    real = workers._Process.send

    def send(self: workers._Process, *message: object) -> None:
        real(self, *message)
        if message[0] == step:
            self.kill()

    with monkeypatch.context() as patch:
        patch.setattr(workers._Process, "send", send)
        with pytest.raises(TransientError, match=f"killed by SIGKILL during {step}.*run the night"):
            side_by_side(world, DAYS[0])

    assert side_by_side(world, DAYS[0]).state == "published"
    assert world.views(ASIDE) == other_world.views(ASIDE)
    assert world.published() == other_world.published()


def test_what_a_worker_logs_is_logged_by_the_command(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world, DAYS[0])
    (world.incoming / DAYS[0] / "3.tar").write_bytes(b"no tar")

    with caplog.at_level(logging.WARNING, "sscd_ops"):
        side_by_side(world, DAYS[0])

    (said,) = [r for r in caplog.records if r.getMessage().startswith("source shard is faulty")]
    assert said.name == "sscd_ops.steps.ingest"
    assert said.levelno == logging.WARNING


# ---------------------------------------------------------------- the command


CONFIG = """
[storage]
root = "{root}"
[datasets.web]
schedule = "0 0 * * *"
start = 2026-11-01
[[datasets.web.sources]]
name = "crawl"
urls = ["{incoming}/{{date}}/*.tar"]
[datasets.web.fingerprint]
model = "dct"
[datasets.web.guard]
first_nights_max = 1.0
"""


def workers_of(pid: int) -> dict[int, str]:
    """The command lines of a command's worker processes."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in found}
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {child: line for child, line in lines.items() if "sscd_ops.cli.worker" in line}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(what: str, seconds: float, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.02)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_the_command(world: World, end: signal.Signals) -> None:
    fill(world, DAYS[0])
    config = world.base / "curation.toml"
    config.write_text(CONFIG.format(root=world.storage.root, incoming=world.incoming))
    command = [str(SSCD_OPS), "run", "--config", str(config), "--dataset", "web"]
    started = subprocess.Popen(
        [*command, "--date", DAYS[0], "--workers", "3"],
        env={**os.environ, "SSCD_OPS_DATABASE_URL": world.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for("three workers", 60, lambda: len(workers_of(started.pid)) == 3)
    mine = workers_of(started.pid)

    started.send_signal(end)
    _, said = started.communicate(timeout=30)

    wait_for("their end", 10, lambda: not any(map(is_running, mine)))
    assert started.returncode != 0
    assert b"Traceback" not in said
    if end is signal.SIGINT:
        assert said.startswith(b"interrupted: run the night again, it goes on where it was\n")
    assert not [line for line in mine.values() if "postgresql" in line or str(world.base) in line]
    assert side_by_side(world, DAYS[0], 3).state == "published"
