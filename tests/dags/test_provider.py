"""What surrounds the DAGs: discovery, triggers, nights, errors, lineage."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import distribution, entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

from sscd_ops import errors
from sscd_ops.core.schedule import next_boundary
from sscd_ops.model import Interval, SourceShard
from sscd_ops.options import DatasetOptions
from sscd_ops.provider.info import get_provider_info
from sscd_ops.testing import picture


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


# ---------------------------------------------------------------- discovery


def test_the_package_name_is_the_distribution_that_brings_the_entry_point():
    ours = [
        p for p in entry_points(group="apache_airflow_provider") if p.value.startswith("sscd_ops.")
    ]

    assert len(ours) == 1
    assert get_provider_info()["package-name"] == distribution("sscd-ops").metadata["Name"]


def test_airflow_finds_the_connection_type_and_loads_its_hook():
    from airflow.providers_manager import ProvidersManager

    hook = ProvidersManager().hooks["sscd_ops"]

    assert hook.hook_class_name == "sscd_ops.provider.hooks.SscdOpsHook"
    assert hook.hook_name == "SSCD curation"


def test_airflow_accepts_the_provider_info_by_its_schema():
    import json

    import airflow
    from jsonschema import validate

    schema = Path(airflow.__file__).parent / "provider_info.schema.json"

    validate(get_provider_info(), json.loads(schema.read_text()))


def test_the_modules_named_in_the_provider_info_exist():
    from importlib import import_module

    info = get_provider_info()

    for kind in ("hooks", "operators", "sensors", "triggers"):
        for module in info[kind][0]["python-modules"]:
            import_module(module)


def test_everything_the_package_promises_can_be_imported():
    import sscd_ops.provider

    assert [
        name for name in sscd_ops.provider.__all__ if not getattr(sscd_ops.provider, name)
    ] == []
    with pytest.raises(AttributeError):
        _ = sscd_ops.provider.nonsense


def test_the_provider_imports_without_openlineage():
    code = (
        "import sys, airflow.sdk;"
        "sys.modules['openlineage'] = sys.modules['airflow.providers.openlineage'] = None;"
        "import sscd_ops.provider as p; [getattr(p, name) for name in p.__all__]"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- nights


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("schedule", ["0 2 * * *", "30 2 * * *", "0 * * * *", "0 */6 * * *"])
def test_boundaries_are_airflows_own_also_when_summer_time_changes(schedule, timezone):
    import pendulum
    from airflow.timetables.interval import CronDataIntervalTimetable

    timetable = CronDataIntervalTimetable(schedule, timezone=timezone)
    for start, until in (
        (utc(2026, 3, 7), utc(2026, 3, 10)),
        (utc(2026, 3, 28), utc(2026, 3, 31)),
        (utc(2026, 10, 24), utc(2026, 10, 27)),
        (utc(2026, 10, 31), utc(2026, 11, 3)),
    ):
        ours = theirs = start
        while theirs < until:
            ours = next_boundary(schedule, timezone, ours)
            theirs = timetable._get_next(pendulum.instance(theirs))
            assert ours == theirs


def run_of(kind: str, **rest: object) -> dict[str, object]:
    run = SimpleNamespace(
        dag_id="curate_web",
        run_id="r",
        run_type=kind,
        logical_date=None,
        data_interval_start=None,
        data_interval_end=None,
    )
    vars(run).update(rest)
    return {"dag_run": run}


WEB = DatasetOptions("web", schedule="0 2 * * *", timezone="UTC")
NIGHT = Interval(utc(2026, 11, 20, 2), utc(2026, 11, 21, 2))


def test_a_scheduled_run_has_its_own_night():
    from sscd_ops.provider.nights import night_of

    context = run_of("scheduled", data_interval_start=NIGHT.start, data_interval_end=NIGHT.end)

    assert night_of(context, "", WEB) == NIGHT
    with pytest.raises(errors.UsageError, match="for manual runs"):
        night_of(context, "2026-11-01", WEB)


def test_a_manual_run_takes_the_night_of_its_param_first():
    from sscd_ops.provider.nights import night_of

    context = run_of("manual", logical_date=utc(2026, 12, 24))

    assert night_of(context, "2026-11-20", WEB) == NIGHT


def test_a_manual_run_takes_the_night_that_holds_its_logical_date_and_logs_it(caplog):
    from sscd_ops.provider.nights import night_of

    caplog.set_level("INFO")

    night = night_of(run_of("manual", logical_date=utc(2026, 11, 20, 23)), "", WEB)

    assert night == NIGHT
    assert "lies in night 2026-11-20, from 2026-11-20 02:00:00" in caplog.text


def test_a_manual_run_without_a_night_is_refused_with_an_example():
    from sscd_ops.provider.nights import night_of

    with pytest.raises(errors.UsageError, match=r'\{"date": "2026-11-01"\}'):
        night_of(run_of("manual"), "", WEB)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "kind", [errors.ConfigError, errors.BatchHeld, errors.FileMismatch, errors.UsageError]
)
def test_what_trying_again_cannot_help_is_not_tried_again(kind):
    from airflow.sdk.exceptions import AirflowFailException

    from sscd_ops.provider.errors import as_airflow

    with pytest.raises(AirflowFailException, match=f"{kind.__name__}: what to do"), as_airflow():
        raise kind("what to do")


def test_what_a_local_disk_refuses_is_not_tried_again_and_says_what_to_do():
    from airflow.sdk.exceptions import AirflowFailException

    from sscd_ops.provider.errors import as_airflow

    with pytest.raises(AirflowFailException, match="may not do this"), as_airflow():
        raise PermissionError(13, "Permission denied", "/data/curation/index/x")
    with pytest.raises(TimeoutError), as_airflow():
        raise TimeoutError


def test_what_may_work_again_is_retried():
    from sscd_ops.provider.errors import as_airflow

    with pytest.raises(errors.CatalogUnavailable), as_airflow():
        raise errors.CatalogUnavailable("no answer")


# ---------------------------------------------------------------- triggers


async def first_event(trigger):
    async for event in trigger.run():
        return event.payload
    return None


def again(trigger):
    """The trigger as the triggerer makes it from what was stored."""
    from airflow._shared.module_loading import import_string

    path, arguments = trigger.serialize()
    return import_string(path)(**arguments)


def test_the_ready_trigger_fires_once_the_file_is_there(tmp_path):
    from sscd_ops.provider.triggers import ReadyTrigger

    marker = tmp_path / "_SUCCESS"
    trigger = again(ReadyTrigger(url=str(marker), poll=0.1, until=time.time() + 20))

    async def arrive_later():
        waiting = asyncio.create_task(first_event(trigger))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        marker.touch()
        return await waiting

    assert asyncio.run(arrive_later()) == {"over": True}


def test_the_ready_trigger_gives_up_in_time(tmp_path):
    from sscd_ops.provider.triggers import ReadyTrigger

    trigger = ReadyTrigger(url=f"file://{tmp_path}/never", poll=0.1, until=time.time() + 0.3)

    assert asyncio.run(first_event(trigger)) == {"over": False}


def test_an_unreachable_storage_counts_as_not_ready():
    from sscd_ops.provider.triggers import ReadyTrigger

    trigger = ReadyTrigger(url="nonsense://x/y", poll=0.1, until=time.time())

    assert asyncio.run(first_event(trigger)) == {"over": False}


@pytest.fixture
def airflow_counts(monkeypatch):
    """Airflow's answers to the two questions a trigger may ask, by run id."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    running: set[str] = set()
    ended: set[str] = set()

    def get_dr_count(dag_id, logical_dates=None, run_ids=None, states=None):
        return len(running & set(run_ids)) if states == ["running"] else 0

    def get_ti_count(dag_id, task_ids=None, run_ids=None, states=None):
        return len(ended & set(run_ids)) if "success" in states else 0

    monkeypatch.setattr(RuntimeTaskInstance, "get_dr_count", staticmethod(get_dr_count))
    monkeypatch.setattr(RuntimeTaskInstance, "get_ti_count", staticmethod(get_ti_count))
    return SimpleNamespace(running=running, ended=ended)


def turn_trigger(*run_ids: str, seconds: float = 20.0):
    from sscd_ops.provider.triggers import Member, TurnTrigger

    members = [
        Member(dag_id="curate_web", run_id=run, task_id="resolve", states=["success", "failed"])
        for run in run_ids
    ]
    return again(TurnTrigger(members=members, poll=0.05, until=time.time() + seconds))


def test_the_turn_comes_when_every_earlier_run_has_decided_or_ended(airflow_counts):
    airflow_counts.running |= {"a", "b"}

    async def one_after_the_other():
        waiting = asyncio.create_task(first_event(turn_trigger("a", "b")))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        airflow_counts.ended.add("a")
        await asyncio.sleep(0.2)
        assert not waiting.done()
        airflow_counts.running.discard("b")
        return await waiting

    assert asyncio.run(one_after_the_other()) == {"over": True}


def test_a_deleted_run_is_not_waited_for(airflow_counts):
    assert asyncio.run(first_event(turn_trigger("gone"))) == {"over": True}


def test_a_batch_run_by_a_command_is_looked_at_again_when_the_time_has_passed():
    assert asyncio.run(first_event(turn_trigger(seconds=0.1))) == {"over": False}


def test_a_trigger_carries_no_secret():
    from sscd_ops.provider.triggers import ReadyTrigger, TurnTrigger

    ready = ReadyTrigger(url="/in/_SUCCESS", poll=1, until=2).serialize()[1]
    turn = TurnTrigger(members=[], poll=1, until=2).serialize()[1]

    assert set(ready) == {"url", "poll", "until"}
    assert set(turn) == {"members", "poll", "until"}


def test_a_run_that_airflow_cannot_be_asked_about_is_waited_for_until_max_wait(
    tmp_path, catalog_url, airflow_counts
):
    from sscd_ops.catalog import sql
    from sscd_ops.provider.turn import still_to_decide
    from tests.integration.world import World

    world = World(tmp_path, catalog_url)
    world.change(turn={"max_wait": 3600.0})
    for day in range(1, 4):
        world.put(f"2026-11-{day:02d}", "a.tar", [(f"k{day}", {"jpg": picture(day), "txt": b"x"})])
    with world.parts() as parts:
        silent = world.until_match(parts, "2026-11-01")
        alive = world.until_match(parts, "2026-11-02")
        batch = world.until_match(parts, "2026-11-03")
        parts._ask_airflow = lambda runner: runner.run_id == "run-2026-11-02" or None
        airflow_counts.running.add("run-2026-11-02")

        def waited_for() -> list[int]:
            return [other.batch_id for other in still_to_decide(parts, batch, "resolve")]

        def told() -> list[dict[str, object]]:
            return world.ask("SELECT * FROM sscd_ops.events WHERE kind = 'turn_not_awaited'")

        assert waited_for() == [silent, alive]
        with parts.catalog.begin() as conn:
            sql.run(
                conn,
                "UPDATE sscd_ops.batches SET waiting_since = waiting_since - interval '1 hour'"
                " WHERE batch_id = :b",
                b=batch,
            )
        assert waited_for() == [alive]
        assert told() == [], "it still waits for another one"
        airflow_counts.ended.add("run-2026-11-02")
        assert waited_for() == []
        (event,) = told()
        assert (event["batch_id"], event["details"]) == (batch, {"batches": [silent]})


# ---------------------------------------------------------------- lineage


def shard(number: int) -> SourceShard:
    uri = f"s3://bucket/incoming/{number:05d}.tar"
    return SourceShard(number, "crawl", uri, f"{number:05d}.tar", 1, "v", 0, number)


def test_ingest_tells_openlineage_the_shards_it_read_and_folders_where_they_are_many():
    from sscd_ops.provider.operators import SscdIngestOperator

    operator = SscdIngestOperator(task_id="ingest", batch_id=1, group=0)
    assert operator.get_openlineage_facets_on_complete(None) is None

    operator._inputs = [shard(n) for n in range(3)]
    few = operator.get_openlineage_facets_on_complete(None)
    operator._inputs = [shard(n) for n in range(3000)]
    many = operator.get_openlineage_facets_on_complete(None)

    assert (few.inputs[0].namespace, few.inputs[0].name) == ("s3://bucket", "incoming/00000.tar")
    assert len(few.inputs) == 3
    assert [i.name for i in many.inputs] == ["incoming"]


def test_commit_tells_openlineage_what_it_published():
    from sscd_ops.model import BatchState
    from sscd_ops.provider.operators import SscdCommitOperator
    from sscd_ops.steps.commit import CommitReport

    operator = SscdCommitOperator(task_id="commit", batch_id=1, dataset="web")
    location = "/data/web/snapshots/000012-0a1b2c3d.json"
    operator._report = CommitReport(
        1, BatchState.PUBLISHED, 12, samples=70, shards=3, bytes=9, location=location
    )

    (output,) = operator.get_openlineage_facets_on_complete(None).outputs

    assert (output.namespace, output.name) == ("file", "/data/web")
    assert output.outputFacets["outputStatistics"].rowCount == 70
    assert output.outputFacets["outputStatistics"].fileCount == 3
    assert output.facets["version"].datasetVersion == "12"


def test_a_night_without_a_snapshot_has_no_output():
    from sscd_ops.model import BatchState
    from sscd_ops.provider.operators import SscdCommitOperator
    from sscd_ops.steps.commit import CommitReport

    operator = SscdCommitOperator(task_id="commit", batch_id=1, dataset="web")
    operator._report = CommitReport(1, BatchState.PUBLISHED, None)

    assert operator.get_openlineage_facets_on_complete(None) is None


def test_the_asset_has_one_name_for_producers_and_consumers():
    from airflow.sdk import Asset

    from sscd_ops.provider import asset

    # Airflow itself appends a slash to a uri without a path; the name decides.
    assert asset("web").name == "sscd-ops://web"
    assert asset("web") == Asset(name="sscd-ops://web", uri="sscd-ops://web")


# ---------------------------------------------------------------- secrets


SECRET = "hunter2x7"


def test_airflow_is_told_the_database_s_secrets_to_mask(tmp_path, monkeypatch):
    from airflow.sdk.log import redact

    from sscd_ops.provider import SscdOpsHook

    config = tmp_path / "c.toml"
    config.write_text(
        f'[storage]\nroot = "r"\n[catalog]\nurl = "postgresql://ann:{SECRET}-1@h/c"\n'
    )
    url = f"postgresql://h/c?sslpassword={SECRET}-2"
    monkeypatch.setenv("SSCD_OPS_DATABASE_URL", url)
    monkeypatch.setattr(SscdOpsHook, "_connection", lambda self: None)

    with SscdOpsHook(config=str(config)).wiring():
        said = redact(f"could not connect: {SECRET}-1 {SECRET}-2")

    assert SECRET not in said


def test_no_secret_reaches_lineage_pages_or_failures(caplog):
    from airflow.sdk.exceptions import AirflowFailException

    from sscd_ops.options import DatasetOptions, Settings, SourceOptions
    from sscd_ops.provider.doc_md import doc_md, faulty_doc_md
    from sscd_ops.provider.errors import as_airflow
    from sscd_ops.provider.lineage import split_uri
    from sscd_ops.provider.triggers import ReadyTrigger

    url = f"nonsense://ann:{SECRET}@h/in/x.tar?token={SECRET}"
    source = SourceOptions("s", urls=(url,), ready=url)
    page = doc_md(Settings("x"), DatasetOptions("web", sources=(source,)))
    with pytest.raises(AirflowFailException) as failed, as_airflow():
        raise errors.StoreRefused(url)
    asyncio.run(first_event(ReadyTrigger(url=url, poll=0.1, until=time.time())))

    told = [page, faulty_doc_md("web", url), str(failed.value), caplog.text, *split_uri(url)]
    assert "can't look for nonsense://***@h/in/x.tar?token=***" in caplog.text
    assert SECRET not in "".join(told)
