"""Which night a DAG run is for, and who triggered it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sscd_ops.errors import ConfigError, UsageError
from sscd_ops.model import Interval, Runner

if TYPE_CHECKING:
    from sscd_ops.options import DatasetOptions, Settings

log = logging.getLogger(__name__)

_BY_SCHEDULE = ("scheduled", "backfill")


def runner_of(context: Mapping[str, Any]) -> Runner:
    """The DAG run as a batch's runner."""
    run = context["dag_run"]
    return Runner("airflow", run.dag_id, run.run_id)


def user_of(context: Mapping[str, Any]) -> str:
    """The Airflow user who triggered a run; a clear by somebody else changes nothing of that.

    Raises:
        UsageError: nobody did.
    """
    run = context["dag_run"]
    user = getattr(run, "triggering_user_name", None)
    if not user:
        raise UsageError(
            f"run {run.run_id} was triggered by no Airflow user, and an order needs a person:"
            f" trigger {run.dag_id} in the UI or by the API"
        )
    return str(user)


def night_of(context: Mapping[str, Any], date: str, options: DatasetOptions) -> Interval:
    """The interval a run is for.

    A scheduled or backfill run has its own. A manual run takes the one that ``date`` names, else
    the schedule's interval that holds its logical date.

    Raises:
        UsageError: a manual run without either; a scheduled run with ``date``.
    """
    from sscd_ops.core.schedule import date_of, interval_holding, interval_of

    run = context["dag_run"]
    if str(getattr(run.run_type, "value", run.run_type)) in _BY_SCHEDULE:
        if date:
            raise UsageError(
                f"run {run.run_id} has a night of its own; param `date` ({date}) is for manual runs"
            )
        return Interval(run.data_interval_start, run.data_interval_end)
    if date:
        return interval_of(options.schedule, options.timezone, date)
    if run.logical_date is None:
        raise UsageError(
            f"run {run.run_id} says no night: trigger it with param `date`, e.g."
            ' {"date": "2026-11-01"}, or with a logical date'
        )
    night = interval_holding(options.schedule, options.timezone, run.logical_date)
    name = date_of(options.schedule, options.timezone, night)
    log.info(
        "logical date %s lies in night %s, from %s to %s",
        *(run.logical_date, name, night.start, night.end),
    )
    return night


def options_of(settings: Settings, dataset: str) -> DatasetOptions:
    """A dataset's options.

    Raises:
        ConfigError: there is no such dataset, or its table is wrong.
    """
    if dataset in settings.datasets:
        return settings.datasets[dataset]
    known = ", ".join(sorted(settings.datasets)) or "none"
    raise ConfigError(
        settings.faulty.get(dataset)
        or f"{settings.path}: there is no dataset {dataset!r}; it has {known}"
    )
