"""Whole nights through ``dag.test()``: the example DAG files, on a database of their own."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from sscd_ops.config import load_settings
from sscd_ops.core.schedule import interval_of
from sscd_ops.errors import CatalogUnavailable
from sscd_ops.model import Interval, Person, Runner
from sscd_ops.steps import commit, night, plan
from sscd_ops.steps.orders import applying, correcting, finishing
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.parts import configured
from sscd_ops.testing import make_tar, picture
from sscd_ops.wiring import Wiring
from tests.databases import fresh_database

pytestmark = pytest.mark.timeout(180)

EXAMPLES = Path(__file__).parents[2] / "examples" / "dags"

DATASET = """
[datasets.{name}]
schedule = "0 0 * * *"
timezone = "UTC"
start = 2026-11-01
late_days = 0
[[datasets.{name}.sources]]
name = "crawl"
urls = ["{base}/{name}/{{date}}/*.tar"]
{source}
[datasets.{name}.fingerprint]
model = "dct"
workers = 1
[datasets.{name}.duplicates]
search = "flat"
[datasets.{name}.guard]
first_nights_max = 1.0
[datasets.{name}.airflow]
{airflow}
"""


def plain(value: Any) -> Any:
    return bytes(value).hex() if isinstance(value, memoryview) else value


class Site:
    """A catalog, a storage root and an Airflow database."""

    def __init__(self, base: Path, url: str) -> None:
        self.base = base
        self.config = base / "curation.toml"
        ready = 'ready = "{}/{}/{{date}}/_SUCCESS"'
        self.config.write_text(
            f'[storage]\nroot = "{base}/root"\n'
            + DATASET.format(base=base, name="demo", source="", airflow="")
            + DATASET.format(
                base=base, name="deferred", source=ready.format(base, "deferred"), airflow=""
            )
            + DATASET.format(
                base=base,
                name="rescheduled",
                source=ready.format(base, "rescheduled"),
                airflow="deferrable = false\n[datasets.rescheduled.orders]\nmax_changed = 1",
            )
        )
        self.url = url
        self._engine = sa.create_engine(url, poolclass=NullPool)

    def put(self, day: str, name: str, seed: int, dataset: str = "demo") -> None:
        """A tar of three pictures, and a copy of the first."""
        samples = [(f"{seed}-{i}", picture(seed + i)) for i in range(3)]
        samples.append((f"{seed}-copy", picture(seed, quality=40)))
        make_tar(
            self.base / dataset / day / name,
            [(key, {"jpg": jpg, "txt": key.encode()}) for key, jpg in samples],
        )

    def ask(self, sql: str) -> list[dict[str, Any]]:
        with self._engine.connect() as conn:
            found = conn.execute(sa.text(sql)).mappings()
            return [{name: plain(value) for name, value in row.items()} for row in found]

    def rows(self) -> dict[str, list[str]]:
        """Every table of the catalog."""
        tables = self.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'sscd_ops'")
        names = sorted(table["tablename"] for table in tables)
        return {
            name: sorted(
                # when a source file was looked at last is a time
                str({key: value for key, value in row.items() if key != "seen_at"})
                for row in self.ask(f"SELECT * FROM sscd_ops.{name}")
            )
            for name in names
        }

    def state(self, dataset: str = "demo") -> dict[str, Any]:
        """Every row, every published file, and how many events there are."""
        folder = self.base / "root" / dataset
        files = [p for part in ("shards", "snapshots") for p in (folder / part).rglob("*.*")]
        return {
            **self.rows(),
            "files": {str(path): path.read_bytes() for path in files},
            "asset events": len(events(dataset)),
        }

    def parts(self) -> Wiring:
        return Wiring(load_settings(str(self.config)), database_url=self.url)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, postgres_home: Path, catalog_template: str
) -> Iterator[Site]:
    from airflow.utils.db import initdb

    initdb()
    with pytest.MonkeyPatch.context() as patch:
        for url in fresh_database(postgres_home, catalog_template.rpartition("/")[2]):
            made = Site(tmp_path_factory.mktemp("runs"), url)
            patch.setenv("SSCD_OPS_CONFIG", str(made.config))
            patch.setenv("SSCD_OPS_DATABASE_URL", url)
            patch.setenv("MODELS", str(made.base / "models"))
            yield made


def interval(day: str) -> Interval:
    return interval_of("0 0 * * *", "UTC", day)


def run(
    number: int, conf: dict[str, Any], dag_id: str = "curate_demo", dag: Any = None
) -> dict[str, Any]:
    """Run a DAG; task id -> state. The same number again is the same run, cleared."""
    from airflow.dag_processing.dagbag import DagBag

    # a fresh one each time: a run's params stay in the DAG object
    dag = dag or DagBag(str(EXAMPLES)).dags[dag_id]
    instant = datetime(2026, 12, number, tzinfo=UTC)
    ended = dag.test(logical_date=instant, run_after=instant, run_conf=conf)
    states = ended.fetch_task_instances(dag_id=ended.dag_id, run_id=ended.run_id)
    return {"run": str(ended.state), **{t.task_id: str(t.state) for t in states}}


def events(dataset: str = "demo") -> list[Any]:
    """The asset's events, oldest first."""
    from airflow.models.asset import AssetEvent
    from airflow.settings import Session
    from sqlalchemy.orm import joinedload

    query = sa.select(AssetEvent).options(joinedload(AssetEvent.asset)).order_by(AssetEvent.id)
    with Session() as session:
        return [e for e in session.scalars(query) if e.asset.name == f"sscd-ops://{dataset}"]


def report(number: int, task: str, dag_id: str = "curate_demo") -> dict[str, Any]:
    """What a task of a run handed on."""
    from airflow.models.xcom import XComModel
    from airflow.settings import Session

    instant = datetime(2026, 12, number, tzinfo=UTC)
    query = sa.select(XComModel).where(
        XComModel.run_id == f"manual__{instant.isoformat()}",
        XComModel.dag_id == dag_id,
        XComModel.task_id == task,
        XComModel.key == "report",
    )
    with Session() as session:
        return XComModel.deserialize_value(session.scalars(query).one())


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in one if one[name] != other[name]]


def by_itself(name: str, *arguments: str) -> None:
    """Run an example file as its own program; OpenLineage writes what it is told to a file."""
    transport = {"type": "file", "log_file_path": str(lineage_file()), "append": True}
    told = {
        "AIRFLOW__OPENLINEAGE__DISABLED": "False",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "60",
        "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD": "True",
    }
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def lineage_file() -> Path:
    return Path(os.environ["AIRFLOW_HOME"]) / "lineage.jsonl"


def lineage(task: str) -> list[dict[str, Any]]:
    """What OpenLineage was told at the end of a task's runs, in order."""
    told = [json.loads(line) for line in lineage_file().read_text().splitlines()]
    return [
        event
        for event in told
        if event["eventType"] == "COMPLETE" and event["job"]["name"] == f"curate_demo.{task}"
    ]


def test_the_nightly_example_runs_a_night_by_itself(site):
    site.put("2026-11-01", "00000.tar", 100)

    by_itself("nightly.py", "2026-11-01")

    (night,) = site.ask("SELECT * FROM curation.runs")
    (snapshot,) = site.ask("SELECT * FROM curation.snapshots")
    assert (night["state"], night["kept"], night["removed_near"]) == ("published", 3, 1)
    assert [event.extra for event in events()] == [
        {
            "snapshot": 1,
            "kind": "night",
            "parent": 0,
            "batch_id": night["batch_id"],
            "samples": 3,
            "shards": 1,
            "bytes": snapshot["bytes"],
            "location": f"{site.base}/root/{snapshot['file']}",
        }
    ]


def test_lineage_names_the_files_read_and_the_snapshot_made_also_of_a_published_night(site):
    before = site.state()

    by_itself("nightly.py", "2026-11-01")  # a run of its own: the night answers as published

    assert differing(site.state(), before) == [], "and no event without a new snapshot"
    source = f"{site.base}/demo/2026-11-01/00000.tar"
    for read, made in zip(lineage("ingest"), lineage("commit"), strict=True):
        assert [(i["namespace"], i["name"]) for i in read["inputs"]] == [("file", source)]
        (output,) = made["outputs"]
        assert (output["namespace"], output["name"]) == ("file", f"{site.base}/root/demo")
        assert output["outputFacets"]["outputStatistics"]["rowCount"] == 3
        assert output["facets"]["version"]["datasetVersion"] == "1"
    assert len(lineage("commit")) == 2


def test_a_cleared_run_changes_nothing(site):
    site.put("2026-11-02", "00000.tar", 200)
    first = run(2, {"date": "2026-11-02"})
    before = site.state()

    again = run(2, {"date": "2026-11-02"})

    assert first == again == dict.fromkeys(first, "success")
    assert differing(site.state(), before) == [], "no event without a new snapshot"


# ---------------------------------------------------------------- params


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(site):
    site.put("2026-11-08", "00000.tar", 850)
    with site.parts() as parts:  # so that dataset and partitions are there
        night.run(parts, "demo", interval("2026-11-08"))
    site.put("2026-11-03", "00000.tar", 300)
    before = site.state()

    ended = run(3, {"date": "2026-11-03", "dry_run": True})

    assert ended["run"] == ended["commit"] == "success"
    # its number alone stays, so that its last task may be tried again; no view shows it
    assert differing(site.state(), before) == ["batches"]
    left = site.ask(
        "SELECT dry_run, state, attempt_id, decision_id FROM sscd_ops.batches WHERE dry_run"
    )
    assert left == [
        {"dry_run": True, "state": "abandoned", "attempt_id": None, "decision_id": None}
    ]
    assert site.ask("SELECT 1 FROM curation.runs WHERE interval_start = '2026-11-03T00:00Z'") == []
    told = report(3, "resolve")
    assert (told["kept"], told["removed_near"]) == (3, 1)


def test_a_supplement_reads_what_came_late_and_a_clear_finds_the_same_one(site):
    site.put("2026-11-04", "00000.tar", 400)
    with site.parts() as parts:
        night.run(parts, "demo", interval("2026-11-04"))
    site.put("2026-11-04", "00001.tar", 450)

    first = run(4, {"date": "2026-11-04", "supplement": True})
    before = site.state()
    again = run(4, {"date": "2026-11-04", "supplement": True})

    assert first["run"] == again["run"] == "success"
    assert differing(site.state(), before) == []
    runs = site.ask(
        "SELECT supplement, state, kept FROM curation.runs"
        " WHERE interval_start = '2026-11-04T00:00Z' ORDER BY supplement"
    )
    assert [tuple(row.values()) for row in runs] == [(0, "published", 3), (1, "published", 3)]


def test_a_run_that_is_reprocessed_as_a_supplement_reads_what_came_late(site):
    """As a backfill does it that reprocesses: the same run, cleared, with another conf."""
    site.put("2026-11-19", "00000.tar", 1200)
    run(19, {"date": "2026-11-19"})
    site.put("2026-11-19", "00001.tar", 1250)

    again = run(19, {"date": "2026-11-19", "supplement": True})

    assert again["run"] == again["publish"] == "success"
    told = report(19, "resolve")
    assert (told["kept"], told["source_shards"], told["answered"]) == (3, 1, False)
    assert report(19, "plan")["night"] == "2026-11-19"


# ---------------------------------------------------------------- DAGs of one's own


def own_dag(site: Site, names: dict[str, str], datasets: tuple[str, ...] = ("demo",)) -> Any:
    """The operators in a task group each, under names of one's own, one dataset after another."""
    from airflow.sdk import DAG, TaskGroup

    from sscd_ops import provider

    def common(step: str) -> dict[str, Any]:
        after_mapped = step in ("survey", "match", "resolve", "commit")
        rule = "none_failed" if after_mapped else "all_success"
        return {"task_id": names.get(step, step), "config": str(site.config), "trigger_rule": rule}

    with DAG("curate_demo", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        before = None
        for dataset in datasets:
            with TaskGroup(f"curate_{dataset}") as group, TaskGroup("night"):
                plan = provider.SscdPlanOperator(
                    dataset=dataset, date="{{ params.date }}", **common("plan")
                )
                groups = plan.output
                ingest = provider.SscdIngestOperator.partial(**common("ingest"))
                embed = provider.SscdEmbedOperator.partial(**common("embed"))
                survey = provider.SscdSurveyOperator(**common("survey"))
                match = provider.SscdMatchOperator.partial(**common("match"))
                resolve = provider.SscdResolveOperator(**common("resolve"))
                publish = provider.SscdPublishOperator.partial(**common("publish"))
                commit = provider.SscdCommitOperator(dataset=dataset, **common("commit"))
                ingested, embedded = ingest.expand(group=groups), embed.expand(group=groups)
                matched = match.expand(part=survey.output)
                published = publish.expand(group=resolve.output)
                plan >> ingested >> survey >> embedded >> matched >> resolve >> published >> commit
            if before is not None:
                before >> group
            before = group
    dag.params["date"] = ""
    return dag


def test_the_operators_work_in_task_groups_under_other_names_and_for_two_datasets(site):
    site.put("2026-11-11", "00000.tar", 920)
    site.put("2026-11-11", "00000.tar", 930, "deferred")
    (site.base / "deferred" / "2026-11-11" / "_SUCCESS").touch()
    names = {"plan": "register", "resolve": "decide", "commit": "end"}

    dag = own_dag(site, names, ("demo", "deferred"))
    ended = run(11, {"date": "2026-11-11"}, dag=dag)

    assert set(ended.values()) == {"success"}
    assert "curate_demo.night.register" in ended
    done = site.ask(
        "SELECT dataset, state, kept FROM curation.runs"
        " WHERE interval_start = '2026-11-11T00:00Z' ORDER BY dataset"
    )
    assert [tuple(row.values()) for row in done] == [
        ("deferred", "published", 3),
        ("demo", "published", 3),
    ]


def test_a_run_waits_for_the_plan_before_it_by_the_name_it_has_in_this_dag(site, monkeypatch):
    from sscd_ops.provider import turn

    asked = []
    monkeypatch.setattr(turn, "is_over", lambda member: asked.append(member) or True)
    site.put("2026-11-12", "00000.tar", 940)
    add_running_run("curate_demo", "before", datetime(2026, 12, 11, 12, tzinfo=UTC))

    ended = run(12, {"date": "2026-11-12"}, dag=own_dag(site, {"plan": "register"}))

    assert ended["run"] == "success"
    assert [member["task_id"] for member in asked] == ["curate_demo.night.register"]


def test_a_step_without_a_plan_above_says_what_to_do():
    from airflow.sdk import DAG
    from airflow.sdk.exceptions import AirflowFailException

    from sscd_ops.provider import SscdMatchOperator, SscdPlanOperator

    with DAG("alone", schedule=None):
        alone = SscdMatchOperator(task_id="match", part=0)
        two = SscdMatchOperator(task_id="two", part=0)
        [SscdPlanOperator(task_id=name, dataset=name) for name in ("a", "b")] >> two

    with pytest.raises(AirflowFailException, match=r"match: no SscdPlanOperator is.*`batch_id`"):
        _ = alone.plan_task_id
    with pytest.raises(AirflowFailException, match="a and b are both above"):
        _ = two.plan_task_id


# ---------------------------------------------------------------- waiting, and dying in between


def test_a_commit_that_dies_before_its_mark_tells_of_the_snapshot_once(site, monkeypatch):
    """And a night that waits for its data, in ``dag.test()`` too."""
    from sscd_ops.provider import curation_dags

    marker = site.base / "deferred" / "2026-11-01" / "_SUCCESS"
    site.put("2026-11-01", "00000.tar", 500, "deferred")
    arrival = threading.Timer(1.0, marker.touch)
    mark = commit.mark_announced
    marks = []

    def lost_once(parts: Any, batch_id: int) -> None:
        marks.append(batch_id)
        if len(marks) == 1:
            raise CatalogUnavailable("the connection was lost")
        mark(parts, batch_id)

    monkeypatch.setattr(commit, "mark_announced", lost_once)
    soon = {"retry_delay": timedelta(seconds=0.1), "retry_exponential_backoff": 0.0}

    def night_of_deferred() -> dict[str, Any]:
        dags = curation_dags(site.config, {"plan": {"poll": 0.2}, "commit": soon})
        return run(1, {"date": "2026-11-01"}, dag=dags["curate_deferred"])

    before = len(events("deferred"))
    arrival.start()
    first = night_of_deferred()
    told = len(events("deferred"))
    again = night_of_deferred()

    assert first["run"] == again["run"] == "success"
    assert len(marks) == 2, "the first try died, the second made it, the cleared one did nothing"
    assert told == len(events("deferred")) == before + 1
    assert max(event.extra["snapshot"] for event in events("deferred")) == before + 1


def test_a_commit_whose_report_is_not_taken_tells_of_the_snapshot_with_its_retry(site, monkeypatch):
    """Airflow drops the event of a try that fails, so it comes after all else that can fail."""
    from sscd_ops.provider import curation_dags
    from sscd_ops.provider.operators import SscdCommitOperator

    site.put("2026-11-09", "00000.tar", 900)
    before = [event.extra["snapshot"] for event in events()]
    finish = SscdCommitOperator.finish
    tries: list[int] = []

    def lost_once(self: Any, context: Any, report: Any) -> None:
        tries.append(report.batch_id)
        if len(tries) == 1:
            raise CatalogUnavailable("the API server did not answer")
        finish(self, context, report)

    monkeypatch.setattr(SscdCommitOperator, "finish", lost_once)
    soon = {"retry_delay": timedelta(seconds=0.1), "retry_exponential_backoff": 0.0}
    dags = curation_dags(site.config, {"commit": soon})

    ended = run(9, {"date": "2026-11-09"}, dag=dags["curate_demo"])

    (newest,) = site.ask(
        "SELECT max(snapshot) AS snapshot FROM curation.snapshots WHERE dataset = 'demo'"
    )
    assert ended["run"] == "success"
    assert len(tries) == 2
    assert [event.extra["snapshot"] for event in events()] == [*before, newest["snapshot"]]


def test_a_commit_that_dies_after_its_mark_tells_of_the_snapshot_with_its_retry(site, monkeypatch):
    """The mark is no proof that Airflow took the event; a clear is silent all the same."""
    from sscd_ops.provider import curation_dags
    from sscd_ops.steps import commit

    site.put("2026-11-10", "00000.tar", 910)
    before = len(events())
    mark = commit.mark_announced
    tries: list[int] = []

    def killed_once(parts: Any, batch_id: int) -> None:
        mark(parts, batch_id)
        tries.append(batch_id)
        if len(tries) == 1:
            raise CatalogUnavailable("the worker was lost")

    monkeypatch.setattr(commit, "mark_announced", killed_once)
    soon = {"retry_delay": timedelta(seconds=0.1), "retry_exponential_backoff": 0.0}
    dags = curation_dags(site.config, {"commit": soon})

    first = run(10, {"date": "2026-11-10"}, dag=dags["curate_demo"])
    told = len(events())
    again = run(10, {"date": "2026-11-10"}, dag=dags["curate_demo"])

    assert first["run"] == again["run"] == "success"
    assert len(tries) == 2, "the retry announces again, the cleared run does not"
    assert told == len(events()) == before + 1


def test_without_deferring_a_night_waits_for_data_and_turn_by_rescheduling(site):
    """A run that never registers its night is waited for once, or it could block for ever."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskreschedule import TaskReschedule
    from airflow.settings import Session

    waits: list[Any] = []
    marker = site.base / "rescheduled" / "2026-11-02" / "_SUCCESS"
    for day in ("2026-11-01", "2026-11-02"):
        site.put(day, "00000.tar", 600 + int(day[-2:]), "rescheduled")
    (site.base / "rescheduled" / "2026-11-01" / "_SUCCESS").touch()
    add_running_run("curate_rescheduled", "earlier")
    with site.parts() as parts:
        runner = Runner("airflow", "curate_rescheduled", "earlier")
        earlier = plan.run(parts, "rescheduled", interval("2026-11-01"), runner=runner)

    def hurry(mapper: Any, connection: Any, row: Any) -> None:
        """No pause; the data comes during the first wait, the earlier night ends in the third."""
        row.reschedule_date = row.start_date
        waits.append(row.ti_id)
        if len(waits) == 1:
            marker.touch()
        if len(waits) == 3:
            abandon(site, earlier.batch_id)
        if len(waits) == 6:  # else a task that waits for ever would
            connection.execute(
                sa.text("UPDATE dag_run SET state = 'failed' WHERE run_id = 'earlier'")
            )

    sa.event.listen(TaskReschedule, "before_insert", hurry)
    try:
        ended = run(2, {"date": "2026-11-02"}, "curate_rescheduled")
    finally:
        sa.event.remove(TaskReschedule, "before_insert", hurry)

    with Session() as session:
        waited = [session.get(TaskInstance, ti).task_id for ti in waits]
    assert ended["run"] == "success"
    assert waited == ["plan", "resolve", "resolve"]


_THEN = datetime(2026, 12, 1, tzinfo=UTC)


def add_running_run(dag_id: str, run_id: str, logical_date: datetime | None = _THEN) -> None:
    """A DAG run that is under way and whose plan has not ended."""
    from airflow.models.dagrun import DagRun
    from airflow.settings import Session

    with Session() as session:
        session.add(
            DagRun(
                dag_id=dag_id,
                run_id=run_id,
                run_type="manual",
                state="running",
                logical_date=logical_date,
                run_after=_THEN,
            )
        )
        session.commit()


def abandon(site: Site, batch_id: int) -> None:
    with site._engine.begin() as conn:
        conn.execute(
            sa.text("UPDATE sscd_ops.batches SET state = 'abandoned' WHERE batch_id = :b"),
            {"b": batch_id},
        )


def test_a_run_that_is_deleted_while_it_is_waited_for_is_waited_for_no_longer(site):
    """The trigger's own questions, on a real Airflow database."""
    from sscd_ops.provider import curation_dags

    for day in ("2026-11-03", "2026-11-04"):
        site.put(day, "00000.tar", 650 + int(day[-2:]), "deferred")
        (site.base / "deferred" / day / "_SUCCESS").touch()
    add_running_run("curate_deferred", "deleted", logical_date=None)
    with site.parts() as parts:
        runner = Runner("airflow", "curate_deferred", "deleted")
        earlier = plan.run(parts, "deferred", interval("2026-11-03"), runner=runner)
    deletion = threading.Thread(target=delete_when_waited_for, args=(site, earlier.batch_id))
    deletion.start()

    dags = curation_dags(site.config, {"resolve": {"poll": 0.2}})
    ended = run(4, {"date": "2026-11-04"}, dag=dags["curate_deferred"])

    deletion.join()
    assert ended["run"] == "success"
    states = site.ask("SELECT state FROM curation.runs WHERE dataset = 'deferred' ORDER BY 1")
    assert "planned" in [row["state"] for row in states], "the deleted run's night is undecided"


def delete_when_waited_for(site: Site, batch_id: int) -> None:
    """Delete the run of an undecided batch once another one has stored that it waits for it."""
    from airflow.models.dagrun import DagRun
    from airflow.settings import Session

    waits = f"SELECT 1 FROM sscd_ops.batches WHERE waiting_set = '{{{batch_id}}}'"
    while not site.ask(waits):
        time.sleep(0.1)
    time.sleep(0.5)
    with Session() as session:
        session.delete(session.scalars(sa.select(DagRun).where(DagRun.run_id == "deleted")).one())
        session.commit()


# ---------------------------------------------------------------- consumers


def test_the_training_example_takes_the_newest_snapshot_told_of_once(site, monkeypatch):
    site.put("2026-11-05", "00000.tar", 700)
    run(5, {"date": "2026-11-05"})
    start_by(events(), monkeypatch)

    first = run(6, {}, "train_on_snapshot")
    again = run(7, {}, "train_on_snapshot")

    newest = site.ask(
        "SELECT snapshot, samples, shards FROM curation.snapshots"
        " WHERE dataset = 'demo' ORDER BY snapshot DESC LIMIT 1"
    )[0]
    (model,) = (site.base / "models").iterdir()
    assert model.name == f"{newest['snapshot']:06d}.json"
    assert json.loads(model.read_text()) == {
        "shards": newest["shards"],
        "samples": newest["samples"],
    }
    assert (first["train"], again["train"]) == ("success", "skipped")


def test_the_training_example_runs_by_hand(site, monkeypatch):
    with site.parts() as parts:
        site.put("2026-11-06", "00000.tar", 800)
        night.run(parts, "demo", interval("2026-11-06"))
    (row,) = site.ask("SELECT * FROM curation.snapshots WHERE dataset = 'demo' AND snapshot = 1")
    where = f"{site.base}/root/{row['file']}"
    monkeypatch.setattr(sys, "argv", ["train_on_snapshot.py", "1", where])

    runpy.run_path(str(EXAMPLES / "train_on_snapshot.py"), run_name="__main__")

    model = json.loads((site.base / "models" / "000001.json").read_text())
    assert model["samples"] == row["samples"]


def start_by(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the runs to come these events, as the scheduler does; ``dag.test()`` gives none."""
    import airflow.models.dagrun as module

    make = module.get_or_create_dagrun

    def with_events(**given: Any) -> Any:
        made = make(**given)
        made.consumed_asset_events.extend(given["session"].merge(event) for event in told)
        given["session"].commit()
        return made

    monkeypatch.setattr(module, "get_or_create_dagrun", with_events)


# ---------------------------------------------------------------- maintenance


def corrections() -> list[Any]:
    """Extras of the events of snapshots that hold nothing new."""
    return [event.extra for event in events("demo/corrections")]


def small_nights(site: Site, *days: int) -> None:
    with site.parts() as parts:
        for day in days:
            site.put(f"2026-11-{day}", "00000.tar", 100 * day)
            night.run(parts, "demo", interval(f"2026-11-{day}"))


def test_maintenance_lists_then_compacts_and_verifies_and_is_inert_a_second_time(site):
    (newest,) = site.ask("SELECT max(snapshot) AS n FROM curation.snapshots WHERE dataset = 'demo'")
    before = site.ask("SELECT shard_key FROM curation.kept ORDER BY 1")

    ended = run(26, {}, "maintain_demo")

    tasks = ("run", "list", "compact", "expire", "vacuum", "verify")
    assert ended == dict.fromkeys(tasks, "success")
    listed = report(26, "list", "maintain_demo")
    done = report(26, "compact", "maintain_demo")
    assert listed["snapshot"] == newest["n"]
    assert listed["compact"] == done
    assert done["shards"] > done["into_shards"] > 0
    assert report(26, "verify", "maintain_demo")["findings"] == 0
    assert site.ask("SELECT shard_key FROM curation.kept ORDER BY 1") == before
    (told,) = corrections()
    (made,) = site.ask(
        "SELECT * FROM curation.snapshots WHERE dataset = 'demo' ORDER BY snapshot DESC LIMIT 1"
    )
    assert told == {
        "kind": "compaction",
        "snapshot": newest["n"] + 1,
        "parent": newest["n"],
        "samples": made["samples"],
        "shards": made["shards"],
        "bytes": made["bytes"],
        "location": f"{site.base}/root/{made['file']}",
    }
    after = site.state()

    assert run(27, {}, "maintain_demo") == ended
    assert run(26, {}, "maintain_demo") == ended, "cleared"

    assert differing(site.state(), after) == []
    assert len(corrections()) == 1


def test_a_compaction_whose_try_died_behind_its_snapshot_is_told_of_by_the_next(site, monkeypatch):
    from sscd_ops.provider import curation_dags, maintenance

    seen = len(corrections())
    small_nights(site, 22, 23)
    tries = []
    real = maintenance.SscdCompactOperator.maintain

    def dies_once(self, context):
        done = real(self, context)
        tries.append(done.counts)
        if len(tries) == 1:
            raise CatalogUnavailable("gone, with the snapshot made")
        return done

    monkeypatch.setattr(maintenance.SscdCompactOperator, "maintain", dies_once)

    soon = {"retry_delay": timedelta(seconds=0.1), "retry_exponential_backoff": 0.0}
    dag = curation_dags(site.config, {"compact": soon})["maintain_demo"]
    ended = run(28, {}, "maintain_demo", dag=dag)

    assert ended["run"] == "success"
    assert [counts["into_shards"] > 0 for counts in tries] == [True, False]
    assert len(corrections()) == seen + 1


def test_a_failed_compaction_removes_nothing_and_verify_says_why(site):
    small_nights(site, 24, 25)
    shard = next((site.base / "root/demo/shards").glob("2026-11-25-*")) / "00000.tar"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + b"x")

    ended = run(29, {}, "maintain_demo")
    shard.write_bytes(sound)

    assert ended == {
        "run": "failed",
        "list": "success",
        "compact": "failed",
        "expire": "upstream_failed",
        "vacuum": "upstream_failed",
        "verify": "failed",
    }
    assert run(29, {}, "maintain_demo")["run"] == "success", "cleared, when it was mended"


# ---------------------------------------------------------------- corrections


CORRECTION = ("apply", "publish", "commit", "receipt", "purge")


def drafted(
    site: Site, seed: int, dataset: str = "demo", flags: tuple[str, ...] = ()
) -> dict[str, Any]:
    """An order, drafted by a command, that withdraws what a tar's copy was removed for.

    Answers with the conf that carries it out.
    """
    (row,) = site.ask(
        "SELECT witness_sample_id AS sample_id FROM curation.samples"
        f" WHERE dataset = '{dataset}' AND key LIKE '{seed}-%' AND verdict = 'removed'"
    )
    with site.parts() as parts:
        asked = withdrawal(
            configured(parts, dataset),
            scope="only-these",
            who=Person("ann", database_user="ann", os_user="ann"),
            why="opt-out 412",
            ids=[str(row["sample_id"])],
            flags=flags,
        )
        draft = applying.draft(parts, asked).draft
    return {"order": draft.order_id, "effect": draft.effect[:12]}


def corrected(
    site: Site,
    number: int,
    conf: dict[str, Any],
    dataset: str = "demo",
    args: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Run ``correct_<dataset>``; task id -> state, and what its failed tries said."""
    from sscd_ops.provider import curation_dags

    said: list[str] = []
    common = {
        "retry_delay": timedelta(seconds=0.1),
        "retry_exponential_backoff": 0.0,
        "on_failure_callback": lambda context: said.append(str(context["exception"])),
        **(args or {}),
    }
    dags = curation_dags(site.config, dict.fromkeys(CORRECTION, common))
    dag_id = f"correct_{dataset}"
    return run(number, conf, dag_id, dag=dags[dag_id]), said


def triggered_by(user: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the runs to come this user; those of ``dag.test()`` are ``dag_test``'s."""
    import airflow.models.dagrun as module

    make = getattr(module.get_or_create_dagrun, "real", module.get_or_create_dagrun)

    def by_user(**given: Any) -> Any:
        return make(**{**given, "triggering_user_name": user})

    by_user.real = make
    monkeypatch.setattr(module, "get_or_create_dagrun", by_user)


def test_an_order_is_carried_out_and_told_of_and_clearing_its_run_changes_nothing(site):
    small_nights(site, 27)
    conf = drafted(site, 2700)
    seen = len(corrections())

    ended, said = corrected(site, 1, conf)

    assert (said, ended) == ([], dict.fromkeys(("run", *CORRECTION), "success"))
    order = conf["order"]
    (row,) = site.ask(f"SELECT * FROM sscd_ops.orders WHERE order_id = {order}")
    assert row["applied_by"]["airflow_user"] == "dag_test"
    assert report(1, "apply", "correct_demo") == {
        "order": order,
        "turn": row["turn"],
        "answered": False,
    }
    assert report(1, "publish", "correct_demo") == {"order": order, "shards": 1, "unwritten": 0}
    verdicts = site.ask("SELECT verdict FROM curation.samples WHERE key LIKE '2700-%'")
    assert sorted(row["verdict"] for row in verdicts) == [*["kept"] * 3, "withdrawn"]
    (made,) = site.ask(
        "SELECT * FROM curation.snapshots WHERE dataset = 'demo' ORDER BY snapshot DESC LIMIT 1"
    )
    assert corrections()[seen:] == [
        {
            "kind": "order",
            "order": order,
            **{name: made[name] for name in ("snapshot", "parent", "samples", "shards", "bytes")},
            "location": f"{site.base}/root/{made['file']}",
        }
    ]
    before = site.state()

    again, said = corrected(site, 1, conf)

    assert (again, said) == (ended, [])
    assert differing(site.state(), before) == []
    assert len(corrections()) == seen + 1


def test_tries_that_die_behind_what_they_did_are_tried_again_and_do_it_once(site, monkeypatch):
    small_nights(site, 28)
    conf = drafted(site, 2800, flags=("forget", "purge"))
    seen = len(corrections())
    died = []

    def dies_once(module: Any, name: str) -> None:
        real = getattr(module, name)

        def tried(*given: Any, **named: Any) -> Any:
            done = real(*given, **named)
            if name not in died:
                died.append(name)
                raise CatalogUnavailable(f"the worker was lost behind {name}")
            return done

        monkeypatch.setattr(module, name, tried)

    for module, name in (
        (correcting, "apply"),
        (correcting, "write"),
        (applying, "publish"),
        (correcting, "mark_announced"),
        (correcting, "receipt"),
        (finishing, "finish"),
    ):
        dies_once(module, name)

    ended, said = corrected(site, 2, conf)

    assert ended["run"] == "success", said
    assert died == ["apply", "write", "publish", "mark_announced", "receipt", "finish"]
    turns = site.ask(f"SELECT 1 FROM sscd_ops.orders WHERE order_id = {conf['order']} AND turn > 0")
    tried = site.ask(
        f"SELECT kind FROM sscd_ops.decisions WHERE client_key = 'order {conf['order']}'"
        " AND turn IS NOT NULL"
    )
    assert (len(turns), len(tried)) == (1, 1)
    receipts = site.ask(
        f"SELECT kind FROM sscd_ops.receipts WHERE order_id = {conf['order']} ORDER BY number"
    )
    assert [row["kind"] for row in receipts] == ["withdrawal", "purge"]
    left = site.ask("SELECT * FROM curation.snapshots WHERE dataset = 'demo'")
    told = corrections()[seen:]
    assert [row["snapshot"] for row in left if row["expired_at"]] == [told[0]["parent"]]
    assert [(each["order"], each["kind"]) for each in told] == [(conf["order"], "order")]


def test_an_order_that_a_night_publishes_in_between_is_told_of_too(site, monkeypatch):
    small_nights(site, 29)
    conf = drafted(site, 2900)
    seen = len(corrections())
    write = correcting.write

    def night_goes_first(parts: Any, order_id: int) -> Any:
        done = write(parts, order_id)
        small_nights(site, 30)
        return done

    monkeypatch.setattr(correcting, "write", night_goes_first)

    ended, said = corrected(site, 3, conf)

    assert (ended["run"], said) == ("success", [])
    (made,) = site.ask("SELECT max(snapshot) AS n FROM curation.snapshots WHERE dataset = 'demo'")
    assert [each["snapshot"] for each in corrections()[seen:]] == [made["n"]]
    (row,) = site.ask(
        f"SELECT d.kind FROM sscd_ops.snapshots s JOIN sscd_ops.decisions d"
        f" USING (decision_id) WHERE s.snapshot = {made['n']}"
        " AND s.dataset_id = (SELECT dataset_id FROM sscd_ops.datasets WHERE name = 'demo')"
    )
    assert row["kind"] == "night"


def test_an_order_that_is_held_is_approved_by_the_run_of_another_user(site, monkeypatch):
    site.put("2026-11-20", "00000.tar", 2000, "rescheduled")
    (site.base / "rescheduled" / "2026-11-20" / "_SUCCESS").touch()
    with site.parts() as parts:
        night.run(parts, "rescheduled", interval("2026-11-20"))
    conf = drafted(site, 2000, "rescheduled")
    number = conf["order"]

    triggered_by("bob", monkeypatch)
    held, why = corrected(site, 1, conf, "rescheduled")
    again, refused = corrected(site, 1, conf, "rescheduled")
    other_effect, unseen = corrected(site, 2, {**conf, "effect": "0" * 12}, "rescheduled")
    triggered_by("ann", monkeypatch)
    by_ann, drafter = corrected(site, 3, conf, "rescheduled")
    triggered_by("eve", monkeypatch)
    approved, said = corrected(site, 4, conf, "rescheduled")

    assert {each["run"] for each in (held, again, other_effect, by_ann)} == {"failed"}
    assert held["publish"] == held["commit"] == "upstream_failed"
    (why,), (refused,), (unseen,), (drafter,) = why, refused, unseen, drafter
    assert "more than 1 (orders.max_changed)" in why
    assert "another user than bob triggers correct_rescheduled with the same order and ef" in why
    assert f"order {number} was applied by bob too: another person" in refused
    assert "as another Airflow user, who triggers correct_rescheduled" in refused
    assert f"order {number} was drafted anew since" in unseen
    assert f"order {number} was drafted by ann too" in drafter
    assert (approved["run"], said) == ("success", [])
    (row,) = site.ask(f"SELECT * FROM sscd_ops.orders WHERE order_id = {number}")
    assert row["applied_by"]["airflow_user"] == "bob"
    assert row["approved_by"]["airflow_user"] == "eve"


def test_what_no_order_can_mean_fails_with_a_sentence_and_is_not_tried_again(site, monkeypatch):
    small_nights(site, 30)
    conf = drafted(site, 3000)
    number = conf["order"]

    for given, dataset, expected in (
        (conf, "deferred", f"order {number} is one of dataset 'demo': trigger correct_demo"),
        ({**conf, "order": 999}, "demo", "there is no order 999"),
        ({**conf, "effect": "0" * 12}, "demo", f"order show {number}"),
    ):
        ended, (said,) = corrected(site, 5, given, dataset)
        assert ended["apply"] == "failed"
        assert expected in said
    triggered_by(None, monkeypatch)
    ended, (said,) = corrected(site, 6, conf)
    assert ended["apply"] == "failed"
    assert "was triggered by no Airflow user" in said
    with site.parts() as parts:
        applying.refuse(parts, number, by=Person("ann"), why="not hers")
    triggered_by("bob", monkeypatch)
    ended, (said,) = corrected(site, 7, conf)
    assert f"order {number} was refused" in said
