"""Whose turn it is, as a task can find out: the catalog says who, Airflow says whether alive."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sscd_ops.provider.triggers import Member, is_over, is_running

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sscd_ops.model import Runner
    from sscd_ops.steps.awaiting import WaitFor
    from sscd_ops.wiring import Wiring

log = logging.getLogger(__name__)

_ENDED = ["success", "failed", "upstream_failed", "skipped"]
_PLANNED = [*_ENDED, "deferred", "up_for_reschedule"]
"""Plan registers its batch before it waits for data: a deferred plan has."""


def ask_airflow(runner: Runner) -> bool | None:
    """Whether a DAG run is alive; None where Airflow does not answer."""
    from airflow.sdk.exceptions import AirflowRuntimeError

    try:
        return is_running(runner.dag_id, runner.run_id)
    except AirflowRuntimeError as error:
        log.warning("can't ask for run %s: %s", runner, error)
        return None


def planning_before(
    parts: Wiring, batch_id: int, context: Context, plan_task_id: str
) -> list[Member]:
    """The running DAG run just before this one, while its plan is still to register its batch.

    One is enough: a run further back is waited for by the one between, and a batch decides only
    after those in its waiting set.
    """
    from sscd_ops.steps.parts import load_work

    batch = load_work(parts, batch_id).batch
    if batch.state.is_decided or batch.dry_run:
        return []
    before = context["ti"].get_previous_dagrun(state="running")
    if before is None:
        return []
    member = _member(before.dag_id, before.run_id, plan_task_id, _PLANNED)
    return [] if is_over(member) else [member]


def still_to_decide(parts: Wiring, batch_id: int, task_id: str) -> list[WaitFor]:
    """The members of the waiting set that must decide first.

    Those that can't be asked are waited for until ``turn.max_wait`` has passed; the batch then
    decides without them and an event says so.
    """
    from sscd_ops.steps import awaiting

    waiting, waited = awaiting.arrive(parts, batch_id)
    waiting = [other for other in waiting if not _resolve_ended(other, task_id)]
    return awaiting.leave_unasked(parts, batch_id, waiting, waited)


def members_of(waiting: Sequence[WaitFor], task_id: str) -> list[Member]:
    """The waiting set's DAG runs, as a trigger asks for them."""
    return [
        _member(other.runner.dag_id, other.runner.run_id, task_id, _ENDED)
        for other in waiting
        if other.runner.kind == "airflow"
    ]


def _resolve_ended(other: WaitFor, task_id: str) -> bool:
    """Whether the run's resolve has ended though its batch was undecided a moment ago."""
    if other.runner.kind != "airflow" or other.alive is None:
        return False
    return is_over(_member(other.runner.dag_id, other.runner.run_id, task_id, _ENDED))


def _member(dag_id: str, run_id: str, task_id: str, states: list[str]) -> Member:
    return Member(dag_id=dag_id, run_id=run_id, task_id=task_id, states=states)


def describe(waiting: Sequence[Any]) -> str:
    """The waited-for as one line for the log."""
    return ", ".join(f"batch {w.batch_id} of {w.night} ({w.runner})" for w in waiting)
