"""The DAGs that the config file becomes."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]

CONFIG = """
    [storage]
    root = "/data/curation"
    [datasets.web]
    schedule = "0 2 * * *"
    timezone = "Europe/Berlin"
    start = 2026-11-01
    [[datasets.web.sources]]
    name = "crawl"
    urls = ["/incoming/{date}/*.tar"]
    ready = "/incoming/{date}/_SUCCESS"
    [datasets.web.airflow]
    max_active_runs = 3
    run_timeout = "20h"
    [datasets.web.airflow.embed]
    pool = "embed"
    queue = "gpu"
    executor = "LocalExecutor"
    pool_slots = 2
    retries = 7
    retry_delay = "90s"
    execution_timeout = "5h"
    [datasets.broken]
    schedule = "0 2 * * *"
    [[datasets.broken.sources]]
    name = "crawl"
    url = ["/incoming/{date}/*.tar"]
    """


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "curation.toml"
    path.write_text(dedent(CONFIG))
    monkeypatch.setenv("SSCD_OPS_CONFIG", str(path))
    return path


@pytest.fixture
def bag(config):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(ROOT / "dags"))


def test_the_dag_file_has_no_import_errors(bag):
    assert bag.import_errors == {}
    assert sorted(bag.dags) == ["correct_web", "curate_broken", "curate_web", "maintain_web"]


def test_the_file_beside_the_dag_file_goes_first(config, tmp_path):
    from airflow.dag_processing.dagbag import DagBag

    folder = tmp_path / "bundle"
    folder.mkdir()
    shutil.copy(ROOT / "dags" / "curation.py", folder)
    (folder / "curation.toml").write_text(dedent(CONFIG).replace("datasets.web", "datasets.mine"))

    of_mine = ["correct_mine", "curate_broken", "curate_mine", "maintain_mine"]
    assert sorted(DagBag(str(folder)).dags) == of_mine


def test_without_a_config_the_import_error_says_where_to_put_it(monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.delenv("SSCD_OPS_CONFIG", raising=False)

    (error,) = DagBag(str(ROOT / "dags")).import_errors.values()

    assert "put curation.toml beside" in error
    assert "SSCD_OPS_CONFIG" in error


def test_a_night_is_this_graph(bag):
    graph = {
        task.task_id: (
            sorted(task.downstream_task_ids),
            str(getattr(task.trigger_rule, "value", task.trigger_rule)),
            task.is_mapped,
        )
        for task in bag.dags["curate_web"].tasks
    }

    assert graph == {
        "plan": (["embed", "ingest"], "all_success", False),
        "ingest": (["survey"], "all_success", True),
        "survey": (["embed", "match"], "none_failed", False),
        "embed": (["match"], "all_success", True),
        "match": (["resolve"], "none_failed", True),
        "resolve": (["publish"], "none_failed", False),
        "publish": (["commit"], "all_success", True),
        "commit": ([], "none_failed", False),
    }


def test_maintenance_is_this_graph(bag):
    dag = bag.dags["maintain_web"]

    graph = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
    assert graph == {
        "list": ["compact"],
        "compact": ["expire"],
        "expire": ["vacuum"],
        "vacuum": ["verify"],
        "verify": [],
    }
    assert dag.get_task("verify").is_teardown
    assert type(dag.timetable).__name__ == "CronTriggerTimetable"
    assert dag.timetable.expression == "0 6 * * 0"
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert "**expire** keeps all snapshots" in dag.doc_md


def test_an_empty_schedule_of_maintenance_makes_no_such_dag():
    from sscd_ops.options import AirflowOptions, DatasetOptions, Settings, StorageOptions
    from sscd_ops.provider.factory import dags_of

    web = DatasetOptions("web", airflow=AirflowOptions(maintain=""))
    settings = Settings("x.toml", StorageOptions(root="/r"), datasets={"web": web})

    assert list(dags_of(settings)) == ["curate_web", "correct_web"]


def test_a_correction_is_this_graph(bag):
    dag = bag.dags["correct_web"]

    graph = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
    assert graph == {
        "apply": ["publish"],
        "publish": ["commit"],
        "commit": ["receipt"],
        "receipt": ["purge"],
        "purge": [],
    }
    assert type(dag.timetable).__name__ == "NullTimetable"
    assert dag.is_paused_upon_creation is False
    assert dag.start_date is None, "a run with a logical date before it would get no task"
    assert dag.dagrun_timeout == timedelta(hours=20)
    assert dag.get_task("apply").retries == 3
    assert [each.name for each in dag.get_task("commit").outlets] == ["sscd-ops-web/corrections"]
    assert '{"order": ID, "effect": "..."}' in dag.doc_md


def test_a_correction_s_tasks_run_where_a_night_s_do_that_work_alike(config):
    from sscd_ops.provider import curation_dags

    config.write_text(config.read_text().replace("airflow.embed", "airflow.resolve"))
    args = {"commit": {"executor_config": {"pod_override": 1}}}
    dag = curation_dags(config, args)["correct_web"]

    apply, publish, commit = (dag.get_task(name) for name in ("apply", "publish", "commit"))
    assert (apply.pool, apply.queue, apply.retries) == ("embed", "gpu", 7)
    assert apply.execution_timeout == timedelta(hours=5)
    assert (publish.pool, publish.execution_timeout) == ("default_pool", timedelta(hours=12))
    assert commit.executor_config == {"pod_override": 1}


@pytest.mark.parametrize(
    ("order", "effect", "is_taken"),
    [
        (31, "0123456789ab", True),
        (31, "0123456789ab" * 5 + "cdef", True),
        (0, "0123456789ab", False),
        ("31", "0123456789ab", False),
        (31, "0123456789", False),
        (31, "", False),
        (31, "0123456789ab; drop", False),
        (None, None, False),
    ],
)
def test_a_correction_takes_an_order_s_number_and_an_effect_s_digest(bag, order, effect, is_taken):
    from airflow.sdk.exceptions import ParamValidationError

    params = bag.dags["correct_web"].params

    def give():
        if order is not None:
            params["order"], params["effect"] = order, effect
        params.validate()

    assert set(params) == {"order", "effect"}
    if is_taken:
        give()
    else:
        with pytest.raises(ParamValidationError):
            give()


def test_the_chain_is_the_list_of_steps(bag):
    from sscd_ops.options import STEPS
    from sscd_ops.provider import factory

    tasks = bag.dags["curate_web"].topological_sort()

    assert tuple(factory.OPERATORS) == tuple(factory._TIMEOUTS) == STEPS
    assert [task.task_id for task in tasks] == [*STEPS]


def test_the_schedule_is_the_dataset_s(bag):
    dag = bag.dags["curate_web"]

    assert type(dag.timetable).__name__ == "CronDataIntervalTimetable"
    assert dag.timetable.expression == "0 2 * * *"
    assert str(dag.timetable.timezone) == "Europe/Berlin"
    assert dag.start_date.isoformat() == "2026-10-31T23:00:00+00:00"
    assert dag.catchup is True
    assert dag.max_active_runs == 3
    assert dag.dagrun_timeout == timedelta(hours=20)


PLACEMENT = ("pool", "queue", "executor", "pool_slots", "retries")


def test_a_step_runs_where_and_as_often_as_the_config_says(bag):
    embed = bag.dags["curate_web"].get_task("embed").partial_kwargs

    assert {name: embed[name] for name in PLACEMENT} == {
        "pool": "embed",
        "queue": "gpu",
        "executor": "LocalExecutor",
        "pool_slots": 2,
        "retries": 7,
    }
    assert embed["retry_delay"] == timedelta(seconds=90)
    assert embed["execution_timeout"] == timedelta(hours=5)


def test_other_steps_retry_with_growing_pauses_and_end_at_last(bag):
    for task in bag.dags["curate_web"].tasks:
        args = task.partial_kwargs if task.is_mapped else vars(task)
        assert args["retries"] >= 3, task.task_id
        assert args["retry_exponential_backoff"], task.task_id
        assert args["execution_timeout"], task.task_id


def test_params_have_a_schema_that_refuses_nonsense(bag):
    from airflow.sdk.exceptions import ParamValidationError

    params = bag.dags["curate_web"].params

    assert params.dump() == {
        "date": None, "supplement": False, "quarantined": False, "codes": None, "dry_run": False
    }  # fmt: skip
    params["date"] = "2026-11-01"
    params.validate()
    with pytest.raises(ParamValidationError):
        params["date"] = "yesterday"
    params["codes"] = ["too_small", "missing_caption"]
    with pytest.raises(ParamValidationError):
        params["codes"] = ["'; DROP"]


def test_the_page_says_what_to_do(bag):
    page = bag.dags["curate_web"].doc_md

    for said in ("/incoming/{date}/*.tar", "batch release", "backfill create", "| embed | embed |"):
        assert said in page
    assert "of at least the model's measured threshold (" in page


@pytest.mark.parametrize(
    ("schedule", "timezone", "dates"),
    [
        ("0 2 * * *", "UTC", "2026-11-01T02:00+00:00 --to-date 2026-11-07T02:00+00:00"),
        ("0 0 * * *", "Europe/Berlin", "2026-11-01T00:00+01:00 --to-date 2026-11-07T00:00+01:00"),
        ("0 0 * * *", "Asia/Tokyo", "2026-11-01T00:00+09:00 --to-date 2026-11-07T00:00+09:00"),
        ("0 */6 * * *", "UTC", "2026-11-01T00:00+00:00 --to-date 2026-11-07T18:00+00:00"),
        ("0 1 1 * *", "UTC", "2026-11-01T01:00+00:00 --to-date 2026-11-01T01:00+00:00"),
        ("0 1 15 * *", "UTC", "2026-11-15T01:00+00:00 --to-date 2026-11-15T01:00+00:00"),
    ],
)
def test_the_page_s_backfill_starts_with_the_first_night_of_its_week_and_ends_with_the_last(
    schedule, timezone, dates
):
    import pendulum
    from airflow.sdk.timezone import parse
    from airflow.serialization.serialized_objects import DagSerialization

    from sscd_ops.core.schedule import intervals_starting_on
    from sscd_ops.options import DatasetOptions, Settings, StorageOptions
    from sscd_ops.provider.factory import dags_of

    options = DatasetOptions("web", schedule=schedule, timezone=timezone)
    settings = Settings("x.toml", StorageOptions(root="/r"), datasets={"web": options})
    dag = dags_of(settings)["curate_web"]

    assert f"--from-date {dates}" in dag.doc_md
    # as `airflow backfill create` goes through them
    first, _, last = dates.split()
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    nights = [
        info.data_interval.start
        for info in stored.iter_dagrun_infos_between(parse(first), parse(last))
    ]
    days = [pendulum.date(2026, 11, day) for day in range(1, 8)]
    wanted = [i.start for day in days for i in intervals_starting_on(schedule, timezone, day)]
    assert nights == (wanted or [parse(first)])


@pytest.mark.parametrize(
    ("schedule", "timezone", "night"),
    [
        ("0 2 * * *", "Europe/Berlin", "2026-11-01"),
        ("0 * * * *", "UTC", "2026-11-01T00:00:00+00:00"),
        ("0 */6 * * *", "America/New_York", "2026-11-01T00:00:00-04:00"),
        ("0 1 15 * *", "UTC", "2026-11-15"),
        ("0 2 * * 1", "Asia/Tokyo", "2026-11-02"),
    ],
)
def test_the_page_s_night_by_hand_is_one_that_a_run_takes(schedule, timezone, night):
    from sscd_ops.core.schedule import interval_of
    from sscd_ops.options import DatasetOptions, Settings
    from sscd_ops.provider.doc_md import doc_md

    page = doc_md(Settings("x"), DatasetOptions("web", schedule=schedule, timezone=timezone))

    shown = re.findall(r'\{"date": "([^"]*)"', page)
    assert shown == [night, night]
    assert interval_of(schedule, timezone, night)


def test_the_page_of_a_dataset_without_a_model_says_what_it_cannot_know():
    from sscd_ops.options import DatasetOptions, DuplicatesOptions, Settings
    from sscd_ops.provider.doc_md import doc_md

    page = doc_md(Settings("x"), DatasetOptions("web"))

    assert "Model: the config file names none, so it is the dataset's own since its first" in page
    assert "that of a new dataset is sscd_small (threshold 0.75)" in page
    assert "at least the model's measured threshold (" in page
    assert "with sscd_small a perceptual hash is a second measure" in page
    assert "sscd-ops audit runs --config x --dataset" in page
    given = DatasetOptions("web", duplicates=DuplicatesOptions(threshold=0.9, perceptual=False))
    assert "similarity of at least 0.9 (" in doc_md(Settings("x"), given)
    assert "hash" not in doc_md(Settings("x"), given)


def test_the_page_says_the_model_s_threshold_or_the_config_s():
    from sscd_ops.options import DatasetOptions, DuplicatesOptions, FingerprintOptions, Settings
    from sscd_ops.provider.doc_md import doc_md

    web = DatasetOptions("web", fingerprint=FingerprintOptions(model="sscd_disc_mixup"))

    assert "similarity of at least 0.75 (" in doc_md(Settings("x.toml"), web)
    web = dataclasses.replace(web, duplicates=DuplicatesOptions(threshold=0.8))
    assert "similarity of at least 0.8 (" in doc_md(Settings("x.toml"), web)


@pytest.mark.parametrize(
    ("model", "perceptual", "is_said"),
    [
        ("sscd_small", "auto", True),
        ("sscd_disc_mixup", "auto", False),
        ("sscd_disc_mixup", True, True),
        ("sscd_small", False, False),
    ],
)
def test_the_page_names_the_second_measure_where_there_is_one(model, perceptual, is_said):
    from sscd_ops.options import DatasetOptions, DuplicatesOptions, FingerprintOptions, Settings
    from sscd_ops.provider.doc_md import doc_md

    web = DatasetOptions(
        "web",
        fingerprint=FingerprintOptions(model=model),
        duplicates=DuplicatesOptions(perceptual=perceptual, perceptual_distance=20),
    )

    said = "or with a perceptual hash at most 20 of 256 bits away" in doc_md(Settings("x"), web)
    assert said is is_said


def test_a_faulty_dataset_becomes_one_task_that_fails_with_the_reason(bag):
    from airflow.sdk.exceptions import AirflowFailException

    (task,) = bag.dags["curate_broken"].tasks

    with pytest.raises(AirflowFailException, match=r"datasets\.broken.*url"):
        task.execute({})


def test_every_dag_can_be_stored(bag):
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in bag.dags.values():
        DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))


def test_a_caller_s_arguments_and_operators_go_before_the_config(config):
    from sscd_ops.provider import SscdResolveOperator, curation_dags

    class Mine(SscdResolveOperator):
        pass

    dags = curation_dags(
        config,
        {"embed": {"queue": "mine", "executor_config": {"pod_override": 1}}},
        operators={"resolve": Mine},
    )
    dag = dags["curate_web"]

    assert dag.get_task("embed").partial_kwargs["queue"] == "mine"
    assert dag.get_task("embed").partial_kwargs["executor_config"] == {"pod_override": 1}
    assert isinstance(dag.get_task("resolve"), Mine)


def test_a_caller_s_outlets_stay_the_caller_s(config):
    from airflow.sdk import Asset

    from sscd_ops.provider import curation_dags

    mine = [Asset("mine")]
    commit = curation_dags(config, {"commit": {"outlets": mine}})["curate_web"].get_task("commit")

    assert mine == [Asset("mine")]
    assert [outlet.name for outlet in commit.outlets] == ["mine", "sscd-ops-web"]


def test_the_example_dags_load_nothing_heavy(config):
    code = (
        "import sys, runpy, airflow.sdk; before = set(sys.modules);"
        "[runpy.run_path(file) for file in sys.argv[1:]];"
        "print({'torch', 'faiss', 'pyarrow', 'numpy', 'sscd_ops.catalog'}"
        " & (set(sys.modules) - before))"
    )
    files = [str(file) for file in (ROOT / "examples" / "dags").glob("*.py")]

    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=False
    )

    assert len(files) == 2
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_parsing_is_quick_and_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "dag_import.py"), "--tries", "3"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
