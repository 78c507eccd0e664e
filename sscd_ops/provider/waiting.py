"""Waiting without holding a worker: deferred to the triggerer, or rescheduled."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowRescheduleException

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.triggers.base import BaseTrigger

RECHECK = 600.0
"""Seconds after which a waiting task looks into the catalog again (a release, an abandon)."""
CLI_POLL = 60.0
"""The same where a batch run from the command line is waited for: no trigger can see it."""


def wait(
    operator: BaseOperator,
    trigger: BaseTrigger,
    *,
    deferrable: bool,
    poll: float,
    kwargs: dict[str, Any],
) -> NoReturn:
    """Leave the worker; ``operator.resume`` goes on, or with ``deferrable=False`` ``execute``."""
    if deferrable:
        operator.defer(trigger=trigger, method_name="resume", kwargs=kwargs)
    raise AirflowRescheduleException(  # type: ignore[no-untyped-call]
        datetime.now(UTC) + timedelta(seconds=poll)
    )


def first_try(context: Context) -> float:
    """Seconds since the epoch of a rescheduled task's first start of this try, else now."""
    first = context["ti"].get_first_reschedule_date(context)
    return first.timestamp() if first is not None else time.time()


def was_rescheduled(context: Context) -> bool:
    """Whether this try has waited before, by leaving the worker and starting from the top again."""
    return context.get("task_reschedule_count", 0) > 0
