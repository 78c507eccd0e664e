"""Per dataset of the config file a DAG of nights, one of corrections, one that looks after it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import DAG, CronDataIntervalTimetable, CronTriggerTimetable, Param

from sscd_ops.provider import maintenance, orders
from sscd_ops.provider import operators as ours
from sscd_ops.provider.doc_md import (
    correction_doc_md,
    doc_md,
    faulty_doc_md,
    maintenance_doc_md,
)

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from sscd_ops.options import AirflowStepOptions, DatasetOptions, Settings

OPERATORS: dict[str, type[BaseOperator]] = {
    "plan": ours.SscdPlanOperator,
    "ingest": ours.SscdIngestOperator,
    "survey": ours.SscdSurveyOperator,
    "embed": ours.SscdEmbedOperator,
    "match": ours.SscdMatchOperator,
    "resolve": ours.SscdResolveOperator,
    "publish": ours.SscdPublishOperator,
    "commit": ours.SscdCommitOperator,
}
MAPPED = ("ingest", "embed", "match", "publish")
# These run on an empty night too, though what is before them has no task.
_TRIGGER_RULES = dict.fromkeys(("survey", "match", "resolve", "commit"), "none_failed")

_RETRIES = 3
_RETRY_DELAY = timedelta(minutes=1)
_MAX_RETRY_DELAY = timedelta(hours=1)
_TIMEOUTS = {
    "plan": timedelta(hours=2),
    "ingest": timedelta(hours=6),
    "survey": timedelta(hours=2),
    "embed": timedelta(hours=12),
    "match": timedelta(hours=6),
    "resolve": timedelta(hours=6),
    "publish": timedelta(hours=6),
    "commit": timedelta(hours=1),
}
"""A hanging task ends and is tried again; waiting for data or a turn does not count."""
_LONG_TIMEOUT = timedelta(hours=12)
"""Of a task of maintenance, or of a correction: one copies all that holds what goes."""


def curation_dags(
    config: str | Path,
    task_args: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    operators: Mapping[str, type[BaseOperator]] | None = None,
) -> dict[str, DAG]:
    """The DAGs of a config file; a dataset whose table is wrong gets one that fails and says why.

    Args:
        config: path of the TOML file, as the workers see it too.
        task_args: step, or task of another DAG -> further operator arguments (``executor_config``,
            ``on_failure_callback``, ``poll`` ...); they go before the config file's. Those of
            ``publish`` and ``commit`` hold for nights and corrections.
        operators: step -> a subclass of that step's operator.

    Returns:
        DAG id (``curate_<dataset>``, ``correct_<dataset>``, and ``maintain_<dataset>`` where that
        has a schedule) -> DAG.

    Raises:
        ConfigError: the file is missing, no TOML, or wrong outside its datasets.
    """
    from sscd_ops.config import load_settings

    return dags_of(load_settings(str(config), tolerant=True), task_args, operators=operators)


def dags_of(
    settings: Settings,
    task_args: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    operators: Mapping[str, type[BaseOperator]] | None = None,
) -> dict[str, DAG]:
    """As ``curation_dags``, of settings already read."""
    classes = {**OPERATORS, **(operators or {})}
    dags = {
        f"curate_{name}": _dag(settings, options, task_args or {}, classes)
        for name, options in settings.datasets.items()
    }
    for name, options in settings.datasets.items():
        dags[f"correct_{name}"] = _correction_dag(settings, options, task_args or {})
        if options.airflow.maintain:
            dags[f"maintain_{name}"] = _maintenance_dag(settings, options, task_args or {})
    for name, message in settings.faulty.items():
        dags[f"curate_{name}"] = _faulty_dag(name, message)
    return dags


def _dag(
    settings: Settings,
    options: DatasetOptions,
    task_args: Mapping[str, Mapping[str, Any]],
    classes: Mapping[str, type[BaseOperator]],
) -> DAG:
    airflow = options.airflow
    dag = DAG(
        dag_id=f"curate_{options.name}",
        description=f"Nightly curation of {options.name}: find copies, keep one, publish",
        schedule=CronDataIntervalTimetable(options.schedule, timezone=options.timezone),
        start_date=_start(options),
        catchup=True,
        max_active_runs=airflow.max_active_runs,
        dagrun_timeout=timedelta(seconds=airflow.run_timeout),
        params=_params(),
        doc_md=doc_md(settings, options),
        tags=["sscd-ops", "curation", *sorted({source.kind for source in options.sources})],
    )
    with dag:
        _steps(settings, options, task_args, classes)
    return dag


def _start(options: DatasetOptions) -> datetime:
    day = options.start
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(options.timezone))


def _maintenance_dag(
    settings: Settings, options: DatasetOptions, task_args: Mapping[str, Mapping[str, Any]]
) -> DAG:
    dag = DAG(
        dag_id=f"maintain_{options.name}",
        description=f"Looks after {options.name}: compact, expire, vacuum, verify",
        schedule=CronTriggerTimetable(options.airflow.maintain, timezone=options.timezone),
        start_date=_start(options),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(seconds=options.airflow.run_timeout),
        doc_md=maintenance_doc_md(settings, options),
        tags=["sscd-ops", "maintenance"],
    )

    def task(kind: type[BaseOperator], name: str, **own: Any) -> Any:
        args = {**_tried(settings, name, _LONG_TIMEOUT), "dataset": options.name, **own}
        return kind(**{**args, **task_args.get(name, {})})

    with dag:
        verify = task(maintenance.SscdMaintenanceOperator, "verify", task="verify")
        (
            task(maintenance.SscdMaintenanceListOperator, "list")
            >> task(maintenance.SscdCompactOperator, "compact")
            >> task(maintenance.SscdMaintenanceOperator, "expire", task="expire")
            >> task(maintenance.SscdMaintenanceOperator, "vacuum", task="vacuum")
            # runs whatever became of the others, and hides no failure of theirs
            >> verify.as_teardown(on_failure_fail_dagrun=True)
        )
    return dag


def _correction_dag(
    settings: Settings, options: DatasetOptions, task_args: Mapping[str, Mapping[str, Any]]
) -> DAG:
    airflow = options.airflow
    dag = DAG(
        dag_id=f"correct_{options.name}",
        description=f"Carries out an order of people in {options.name}, and publishes",
        schedule=None,
        catchup=False,
        is_paused_upon_creation=False,  # nothing runs by itself, and a letter should not wait
        dagrun_timeout=timedelta(seconds=airflow.run_timeout),
        params=_order_params(),
        doc_md=correction_doc_md(settings, options),
        tags=["sscd-ops", "correction"],
    )

    def task(kind: type[BaseOperator], name: str, like: AirflowStepOptions, **own: Any) -> Any:
        """A task that runs where a night's step does that works alike."""
        args = {**_tried(settings, name, _LONG_TIMEOUT), **placement(like), **own}
        return kind(**{**args, **task_args.get(name, {})})

    with dag:
        (
            task(orders.SscdOrderApplyOperator, "apply", airflow.resolve, dataset=options.name)
            >> task(orders.SscdOrderPublishOperator, "publish", airflow.publish)
            >> task(orders.SscdOrderCommitOperator, "commit", airflow.commit, dataset=options.name)
            >> task(orders.SscdOrderReceiptOperator, "receipt", airflow.commit)
            >> task(orders.SscdOrderPurgeOperator, "purge", airflow.commit)
        )
    return dag


def _steps(
    settings: Settings,
    options: DatasetOptions,
    task_args: Mapping[str, Mapping[str, Any]],
    classes: Mapping[str, type[BaseOperator]],
) -> None:
    args = {
        step: {**_common(settings, options, step), **task_args.get(step, {})} for step in classes
    }
    plan = classes["plan"](**args["plan"])
    groups = plan.output
    ingest = classes["ingest"].partial(**args["ingest"]).expand(group=groups)
    survey = classes["survey"](**args["survey"])
    embed = classes["embed"].partial(**args["embed"]).expand(group=groups)
    match = classes["match"].partial(**args["match"]).expand(part=survey.output)
    resolve = classes["resolve"](**args["resolve"])
    publish = classes["publish"].partial(**args["publish"]).expand(group=resolve.output)
    commit = classes["commit"](**args["commit"])
    plan >> ingest >> survey >> embed >> match >> resolve >> publish >> commit


def _common(settings: Settings, options: DatasetOptions, step: str) -> dict[str, Any]:
    """A step's operator arguments: the product's, then the config file's."""
    args: dict[str, Any] = {
        **_tried(settings, step, _TIMEOUTS[step]),
        "trigger_rule": _TRIGGER_RULES.get(step, "all_success"),
        **_own(options, step),
        **placement(getattr(options.airflow, step)),
    }
    if step in MAPPED:
        args["map_index_template"] = ours.LABEL
    return args


def _tried(settings: Settings, name: str, timeout: timedelta) -> dict[str, Any]:
    """Arguments that every task has: how often it is tried, and for how long."""
    return {
        "task_id": name,
        "config": settings.path,
        "retries": _RETRIES,
        "retry_delay": _RETRY_DELAY,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": _MAX_RETRY_DELAY,
        "execution_timeout": timeout,
    }


def _own(options: DatasetOptions, step: str) -> dict[str, Any]:
    """What only one step's operator takes."""
    airflow = options.airflow
    if step == "plan":
        return {
            "dataset": options.name,
            "date": "{{ params.date or '' }}",
            "supplement": "{{ params.supplement }}",
            "quarantined": "{{ params.quarantined }}",
            "codes": "{{ (params.codes or []) | join(',') }}",
            "dry": "{{ params.dry_run }}",
            "deferrable": airflow.deferrable,
            "ready_timeout": airflow.ready_timeout,
        }
    if step == "resolve":
        return {"deferrable": airflow.deferrable}
    return {"dataset": options.name} if step == "commit" else {}


def placement(options: AirflowStepOptions) -> dict[str, Any]:
    """Where a step's tasks run and how often they are tried; only what is set."""
    given: dict[str, Any] = {
        "pool": options.pool or None,
        "queue": options.queue or None,
        "executor": options.executor or None,
        "pool_slots": options.pool_slots,
        "retries": options.retries,
        "retry_delay": _seconds(options.retry_delay),
        "execution_timeout": _seconds(options.execution_timeout),
    }
    return {name: value for name, value in given.items() if value is not None}


def _seconds(value: float | None) -> timedelta | None:
    return None if value is None else timedelta(seconds=value)


def _params() -> dict[str, Param]:
    return {
        "date": Param(
            None,
            type=["null", "string"],
            pattern=r"^\s*\d{4}-\d{2}-\d{2}([T ].*)?$",
            title="Night",
            description="For manual runs: the local day the night starts, e.g. 2026-11-01",
        ),
        "supplement": Param(
            False,
            type="boolean",
            title="Supplement",
            description="Read what arrived after the night was decided",
        ),
        "quarantined": Param(
            False,
            type="boolean",
            title="Quarantined samples again",
            description="With supplement: read again what the night quarantined, by today's"
            " settings",
        ),
        "codes": Param(
            None,
            type=["null", "array"],
            items={"type": "string", "pattern": "^[a-z_]+$"},
            title="Codes",
            description="With quarantined: only what has one of these codes, one a line",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Report what would happen; decide nothing, publish nothing",
        ),
    }


def _order_params() -> dict[str, Param]:
    return {
        "order": Param(
            type="integer",
            minimum=1,
            title="Order",
            description="Its number, as `sscd-ops order list` shows it",
        ),
        "effect": Param(
            type="string",
            pattern="^[0-9a-f]{12,64}$",
            title="Effect",
            description="The digest of what you looked at, as `sscd-ops order show` says it, or"
            " its first 12 digits",
        ),
    }


def _faulty_dag(name: str, message: str) -> DAG:
    dag = DAG(
        dag_id=f"curate_{name}",
        description=f"The configuration of {name} is wrong",
        schedule=None,
        catchup=False,
        doc_md=faulty_doc_md(name, message),
        tags=["sscd-ops", "curation", "faulty"],
    )
    with dag:
        ours.SscdFaultyOperator(task_id="configuration", message=message, retries=0)
    return dag
