"""Nights and orders under the real scheduler: one Airflow, `dct` and `flat`, 22 nights.

The first backfills are started at the beginning; later tests start their own.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import time
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from nights_support import (
    AT,
    HERE,
    NIGHT,
    Nights,
    as_user,
    assert_promises,
    crossing_night,
    dataset,
    make_tar,
    picture,
    run_by_command,
    turns,
)
from PIL import Image

MODULE_SECONDS = 540.0
"""For all of it on 2 quiet cores. A busy machine takes longer: beyond it there is a warning."""
# Of one test, against hanging.
pytestmark = [pytest.mark.scheduler, pytest.mark.timeout(540)]


# ---------------------------------------------------------------- the pictures and the runs


def big_night(folder: Path) -> None:
    """Pictures that take a while to decode: 36 megapixels each."""
    samples = []
    for number in range(24):
        out = io.BytesIO()
        rng = np.random.default_rng(number)
        small = rng.integers(0, 256, (6, 6), dtype=np.uint8)
        large = Image.fromarray(small).resize((6000, 6000), Image.Resampling.NEAREST)
        large.save(out, "PNG", compress_level=1)
        samples.append((f"big{number}", out.getvalue(), "large"))
    make_tar(folder / "00000.tar", samples)


@pytest.fixture(scope="module", autouse=True)
def started(nights: Nights) -> Iterator[None]:
    """Everything is laid out, Airflow is up, and the first backfills are under way."""
    begun = time.monotonic()
    for number in range(1, 6):
        crossing_night(nights.incoming / "crossing" / NIGHT.format(number), number)
    big_night(nights.incoming / "big" / NIGHT.format(1))
    ready = f'ready = "{nights.incoming}/shared/{{date}}/_SUCCESS"'
    nights.write_configs(
        "".join(
            [
                *(
                    dataset(nights, name, "crossing")
                    for name in ("forward", "nowait", "backwards", "beside")
                ),
                dataset(nights, "calm", "nothing", guard='empty = "allow"'),
                dataset(nights, "killed", "big"),
                dataset(nights, "ordered", "crossing"),
                "[datasets.ordered.orders]\nmax_changed = 2\n",
                dataset(nights, "shared", "shared", source=ready, max_samples=6),
            ]
        )
    )
    shutil.copy(HERE / "dag_file.py", nights.base / "dags" / "nights.py")
    airflow = nights.airflow
    airflow.start()
    names = ("forward", "nowait", "backwards", "beside", "calm", "killed", "shared", "ordered")
    airflow.wait_for_dags([f"curate_{name}" for name in names])
    for name in names:
        airflow.unpause(f"curate_{name}")
    said = airflow.cli(
        *("backfill", "create", "--dag-id", "curate_forward", "--max-active-runs", "2"),
        *("--from-date", "2026-11-01T02:00", "--to-date", "2026-11-04T02:00"),
    )
    print(said)
    airflow.backfill("curate_nowait", AT.format(1), AT.format(2))
    yield
    took = time.monotonic() - begun
    if took > MODULE_SECONDS:
        warnings.warn(f"took {took:.0f} s, meant to take {MODULE_SECONDS:.0f}", stacklevel=1)


# ---------------------------------------------------------------- the turn


def test_a_forward_backfill_equals_the_nights_run_by_command(nights):
    run_by_command(nights, "forward", range(1, 5))
    ended = nights.airflow.wait_for_runs("curate_forward", 4, 200)

    assert set(ended.values()) == {"success"}
    assert turns(nights, "forward") == {1: 1, 2: 2, 3: 3, 4: 4}
    assert nights.dump("forward") == nights.dump("forward", "cli")
    assert len(nights.dump("forward")["removed"]) >= 18, "copies cross the nights"


def test_the_later_night_of_each_pair_did_wait(nights):
    waited = nights.ask(
        "SELECT interval_start, waiting_set FROM sscd_ops.batches JOIN sscd_ops.datasets"
        " USING (dataset_id) WHERE name = 'forward' ORDER BY interval_start"
    )
    tries = {
        run["logical_date"][8:10]: nights.airflow.task_log(
            "curate_forward", run["dag_run_id"], "resolve"
        )
        for run in nights.airflow.runs("curate_forward")
    }

    assert [len(row["waiting_set"]) for row in waited][1] == 1
    assert "waiting for batch" in tries["02"]
    assert "register its night" in tries["04"]


def test_with_the_wait_switched_off_the_same_pair_differs(nights):
    run_by_command(nights, "nowait", range(1, 3))
    ended = nights.airflow.wait_for_runs("curate_nowait", 2, 120)

    assert set(ended.values()) == {"success"}
    assert turns(nights, "nowait") == {1: 2, 2: 1}
    assert nights.dump("nowait")["removed"] != nights.dump("nowait", "cli")["removed"]


def test_a_backfill_that_runs_backwards_ends_and_keeps_the_promises(nights):
    nights.airflow.backfill("curate_backwards", AT.format(1), AT.format(4), run_backwards=True)

    ended = nights.airflow.wait_for_runs("curate_backwards", 4, 200)

    assert set(ended.values()) == {"success"}
    assert_promises(nights, "backwards")


def test_a_nightly_run_beside_a_backfill_is_not_starved(nights):
    airflow = nights.airflow
    airflow.backfill("curate_beside", AT.format(1), AT.format(4))
    deadline = time.monotonic() + 60
    while len(turns(nights, "beside")) < 2 and time.monotonic() < deadline:
        time.sleep(0.3)

    airflow.trigger("curate_beside", "nightly", {"date": NIGHT.format(5)})
    ended = airflow.wait_for_runs("curate_beside", 5, 200)

    assert set(ended.values()) == {"success"}
    assert turns(nights, "beside") == {1: 1, 2: 2, 5: 3, 3: 4, 4: 5}, "3 and 4 began after it"
    assert_promises(nights, "beside")


# ---------------------------------------------------------------- orders


def test_an_order_beside_a_nightly_run_and_a_backfill_survives_a_kill_behind_its_turn(nights):
    airflow = nights.airflow
    airflow.backfill("curate_ordered", AT.format(1), AT.format(2))
    deadline = time.monotonic() + 200
    while turns(nights, "ordered").get(1) is None and time.monotonic() < deadline:
        time.sleep(0.3)
    conf = draft(nights, "new1-0")

    airflow.trigger("curate_ordered", "nightly", {"date": NIGHT.format(3)})
    airflow.trigger("correct_ordered", "opt-out", conf)
    corrected = airflow.wait_for_runs("correct_ordered", ["opt-out"], 200)
    ended = airflow.wait_for_runs("curate_ordered", 3, 200)

    assert corrected == {"opt-out": "success"}
    assert set(ended.values()) == {"success"}
    tries = {t["task_id"]: t["try_number"] for t in airflow.tasks("correct_ordered", "opt-out")}
    assert tries == {"apply": 2, "publish": 1, "commit": 1, "purge": 1, "receipt": 1}
    (order,) = nights.ask("SELECT * FROM sscd_ops.orders WHERE order_id = :o", o=conf["order"])
    assert turns(nights, "ordered")[1] < order["turn"] < turns(nights, "ordered")[2]
    assert order["applied_by"]["airflow_user"] == "admin"
    verdicts = verdicts_of(nights)
    assert (verdicts["new1-0"], verdicts["again2-0"]) == ("withdrawn", "kept")
    assert_promises(nights, "ordered")
    (told,) = events(nights, "ordered/corrections")
    assert (told["extra"]["kind"], told["extra"]["order"]) == ("order", conf["order"])


def test_an_order_that_is_held_is_approved_by_a_run_of_a_second_user(nights):
    airflow = nights.airflow
    conf = draft(nights, "new1-1", "new1-2", "new1-3")
    runs = {}

    for run_id, user in (("first", "admin"), ("again", "admin"), ("approval", "second")):
        as_user(airflow, user).trigger("correct_ordered", run_id, conf)
        runs |= airflow.wait_for_runs("correct_ordered", [run_id], 100)

    assert runs == {"first": "failed", "again": "failed", "approval": "success"}
    first, again = (
        airflow.task_log("correct_ordered", run_id, "apply") for run_id in ("first", "again")
    )
    assert "another user than admin triggers correct_ordered" in first
    assert f"order {conf['order']} was applied by admin too" in again
    (order,) = nights.ask("SELECT * FROM sscd_ops.orders WHERE order_id = :o", o=conf["order"])
    assert order["approved_by"]["airflow_user"] == "second"
    assert {verdicts_of(nights)[f"new1-{i}"] for i in (1, 2, 3)} == {"withdrawn"}
    assert_promises(nights, "ordered")
    assert len(events(nights, "ordered/corrections")) == 2


def draft(nights: Nights, *keys: str) -> dict[str, Any]:
    """Draft a withdrawal by the command; the conf that carries it out."""
    found = nights.ask("SELECT key, sample_id FROM curation.samples WHERE dataset = 'ordered'")
    ids = [str(row["sample_id"]) for row in found if row["key"] in keys]
    said = nights.command(
        *("withdraw", "--dataset", "ordered", "--only-these", "--why", "opt-out 412", *ids),
        side="airflow",
    )
    drafted = re.search(r"order (\d+) is drafted: .*\(effect (\w+)\)", said)
    assert drafted is not None, said
    return {"order": int(drafted[1]), "effect": drafted[2]}


def verdicts_of(nights: Nights) -> dict[str, str]:
    found = nights.ask("SELECT key, verdict FROM curation.samples WHERE dataset = 'ordered'")
    return {row["key"]: row["verdict"] for row in found}


# ---------------------------------------------------------------- shared nights


def test_a_night_of_several_units_waits_for_its_data_and_survives_a_retry(nights):
    airflow = nights.airflow
    folder = nights.incoming / "shared" / NIGHT.format(1)
    for number in range(3):
        pictures = [picture(9000 + 10 * number + i) for i in range(6)]
        make_tar(
            folder / f"{number:05d}.tar",
            [(f"s{number}-{i}", data, "shared") for i, data in enumerate(pictures)],
        )
    airflow.trigger("curate_shared", "night1", {"date": NIGHT.format(1)})
    wait_for_task(airflow, "curate_shared", "night1", "plan", {"deferred"})

    (folder / "_SUCCESS").touch()
    ended = airflow.wait_for_runs("curate_shared", ["night1"], 120)

    tasks = airflow.tasks("curate_shared", "night1")
    mapped = {
        step: sorted(t["map_index"] for t in tasks if t["task_id"] == step)
        for step in ("ingest", "embed", "match", "publish")
    }
    assert ended == {"night1": "success"}
    assert mapped == {
        "ingest": [0, 1, 2],
        "embed": [0, 1, 2],
        "match": [0],
        "publish": [0, 1, 2],
    }
    assert {t["try_number"] for t in tasks if t["task_id"] == "embed"} == {2}
    assert "crawl/shared/2026-11-01/00001.tar" in [t["rendered_map_index"] for t in tasks]
    assert_promises(nights, "shared")
    assert [e["extra"]["snapshot"] for e in events(nights, "shared")] == [1]


def test_clearing_a_finished_run_changes_nothing(nights):
    before = state_of(nights, "shared")

    nights.airflow.clear("curate_shared", "night1")
    ended = nights.airflow.wait_for_runs("curate_shared", ["night1"], 120)

    assert ended == {"night1": "success"}
    assert state_of(nights, "shared") == before
    assert len(events(nights, "shared")) == 1, "no event without a new snapshot"


def test_clearing_one_mapped_task_after_the_decision_changes_nothing(nights):
    before = state_of(nights, "shared")

    nights.airflow.clear("curate_shared", "night1", [("ingest", 1)])
    ended = nights.airflow.wait_for_runs("curate_shared", ["night1"], 120)

    tries = {
        t["map_index"]: t["try_number"]
        for t in nights.airflow.tasks("curate_shared", "night1")
        if t["task_id"] == "ingest"
    }
    assert ended == {"night1": "success"}
    assert tries[1] > tries[0] == tries[2]
    assert state_of(nights, "shared") == before
    assert len(events(nights, "shared")) == 1


def test_an_empty_night_is_held_and_goes_on_once_it_is_released(nights):
    airflow = nights.airflow
    folder = nights.incoming / "shared" / NIGHT.format(2)
    folder.mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    airflow.trigger("curate_shared", "night2", {"date": NIGHT.format(2)})

    held = airflow.wait_for_runs("curate_shared", ["night2"], 120)
    tasks = {t["task_id"]: t for t in airflow.tasks("curate_shared", "night2")}
    batch = nights.ask(
        "SELECT batch_id, state FROM curation.runs WHERE dataset = 'shared'"
        " AND interval_start = '2026-11-02T02:00Z'"
    )[0]
    nights.command(
        *("batch", "release", str(batch["batch_id"]), "--who", "me", "--why", "a day off"),
        side="airflow",
    )
    airflow.clear("curate_shared", "night2", ["resolve"])
    released = airflow.wait_for_runs("curate_shared", ["night2"], 120)

    assert held == {"night2": "failed"}
    assert batch["state"] == "held"
    assert tasks["resolve"]["state"] == "failed"
    assert tasks["resolve"]["try_number"] == 1, "trying again can't help"
    assert "batch release" in airflow.task_log("curate_shared", "night2", "resolve")
    assert released == {"night2": "success"}
    assert len(events(nights, "shared")) == 1


def test_an_empty_night_passes_where_the_config_allows_it(nights):
    nights.airflow.trigger("curate_calm", "empty", {"date": NIGHT.format(1)})

    ended = nights.airflow.wait_for_runs("curate_calm", ["empty"], 120)

    states = {t["task_id"]: t["state"] for t in nights.airflow.tasks("curate_calm", "empty")}
    assert ended == {"empty": "success"}
    assert states["publish"] == "skipped"
    assert states["commit"] == "success"
    assert events(nights, "calm") == []


def test_a_run_without_a_night_is_refused_with_a_sentence(nights):
    nights.airflow.trigger("curate_calm", "nothing")

    ended = nights.airflow.wait_for_runs("curate_calm", ["nothing"], 60)

    assert ended == {"nothing": "failed"}
    assert "says no night" in nights.airflow.task_log("curate_calm", "nothing", "plan")


def test_a_task_killed_while_it_decodes_leaves_no_child_and_is_seen_at_once(nights):
    airflow = nights.airflow
    airflow.trigger("curate_killed", "night", {"date": NIGHT.format(1)})
    task, decoders = wait_for_decoders(airflow)

    killed = time.monotonic()
    os.kill(task["pid"], signal.SIGKILL)
    gone, seen = follow_death(airflow, task, decoders)
    ended = airflow.wait_for_runs("curate_killed", ["night"], 120)

    print(f"kill -9: children gone after {gone - killed:.1f} s, seen after {seen - killed:.1f} s")
    assert gone - killed < 5
    assert seen - killed < 10
    assert ended == {"night": "success"}
    assert_promises(nights, "killed")


# ---------------------------------------------------------------- of all of it


def test_there_are_no_plugin_import_errors(nights):
    errors = nights.airflow.call("GET", "/plugins/importErrors")["import_errors"]
    plugins = nights.airflow.call("GET", "/plugins")["plugins"]

    assert errors == []
    assert [p["name"] for p in plugins].count("sscd_ops") == 1
    assert nights.airflow.call("GET", "/importErrors")["import_errors"] == []


def test_no_task_loaded_torch(nights):
    seen = {path.name: path.read_text() for path in (nights.base / "seen").iterdir()}

    assert len(seen) > 100
    assert [name for name, heavy in seen.items() if "torch" in heavy.split()] == []
    assert any("sscd_ops.steps.plan" in heavy for heavy in seen.values())


def test_what_tasks_hand_on_is_small(nights):
    runs = nights.airflow.runs("curate_shared")
    path = f"/dags/curate_shared/dagRuns/{runs[0]['dag_run_id']}/taskInstances"
    report = nights.airflow.call("GET", f"{path}/resolve/xcomEntries/report")["value"]

    assert len(str(report)) < 1000


# ---------------------------------------------------------------- questions


def wait_for_task(
    airflow: Any, dag_id: str, run_id: str, task_id: str, states: set[str], poll: float = 0.3
) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for task in airflow.tasks(dag_id, run_id):
            if task["task_id"] == task_id and task["state"] in states:
                return task
        time.sleep(poll)
    raise AssertionError(f"{task_id} never became {states}")


def wait_for_decoders(airflow: Any) -> tuple[dict[str, Any], list[psutil.Process]]:
    """The embed task and its decoder processes, once they have worked for a moment."""
    task = wait_for_task(airflow, "curate_killed", "night", "embed", {"running"}, 0.1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children = psutil.Process(task["pid"]).children(recursive=True)
        decoders = [p for p in children if "sscd_ops.images.worker" in " ".join(p.cmdline())]
        if any(sum(p.cpu_times()[:2]) > 0.5 for p in decoders):
            return task, decoders
        time.sleep(0.05)
    raise AssertionError("no decoder was seen at work")


def follow_death(
    airflow: Any, task: dict[str, Any], children: list[psutil.Process]
) -> tuple[float, float]:
    """When the last child of a killed task was gone, and when Airflow knew that the task failed."""
    gone = seen = 0.0
    deadline = time.monotonic() + 60
    while not (gone and seen):
        assert time.monotonic() < deadline, f"gone {gone}, seen {seen}"
        if not gone and not any(map(is_alive, children)):
            gone = time.monotonic()
        if not seen:
            now = airflow.tasks("curate_killed", "night")
            (now,) = [t for t in now if t["task_id"] == "embed"]
            if now["state"] != "running" or now["try_number"] > task["try_number"]:
                seen = time.monotonic()
        time.sleep(0.05)
    return gone, seen


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def events(nights: Nights, name: str) -> list[dict[str, Any]]:
    found = nights.airflow.call("GET", "/assets/events?limit=100")["asset_events"]
    return [event for event in found if event["name"] == f"sscd-ops://{name}"]


def state_of(nights: Nights, name: str) -> tuple[Any, dict[str, str]]:
    """The views in full, and the digest of every published file."""
    folder = nights.base / "airflow" / name
    files = [p for part in ("shards", "snapshots") for p in (folder / part).rglob("*")]
    digests = {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }
    return nights.dump(name), digests
