"""Operators of ``maintain_<dataset>``: each is hook -> wiring -> one task of ``maintaining``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sscd_ops.errors import DataError
from sscd_ops.provider.assets import corrections, corrections_alias
from sscd_ops.provider.errors import as_airflow
from sscd_ops.provider.operators import SscdStepOperator, is_retry

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sscd_ops.steps.maintaining import Maintained, Task

BEFORE = "{{ ti.xcom_pull(task_ids='list', key='report')['snapshot'] }}"
"""Template of the newest snapshot when ``list`` looked."""


class _MaintenanceOperator(SscdStepOperator):
    """What they share.

    Args:
        dataset: a dataset of the config file.
    """

    template_fields: Sequence[str] = (*SscdStepOperator.template_fields, "dataset")

    def __init__(self, *, dataset: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset


class SscdMaintenanceListOperator(_MaintenanceOperator):
    """Says what the tasks behind it would do now; changes nothing."""

    def execute(self, context: Context) -> None:
        """Log it, and hand on the counts and the newest snapshot."""
        from sscd_ops.steps import maintaining

        with self.parts() as parts:
            told: dict[str, Any] = {"snapshot": maintaining.newest_snapshot(parts, self.dataset)}
            for task in maintaining.TASKS:
                would = maintaining.run(parts, self.dataset, task, dry_run=True)
                told[task] = would.counts
                for line in would.lines:
                    self.log.info("%s: %s", task, line)
        context["ti"].xcom_push(key="report", value=told)


class SscdMaintenanceOperator(_MaintenanceOperator):
    """Does one task; one that finds something fails with what mends it.

    Args:
        task: ``compact``, ``expire``, ``vacuum`` or ``verify``.
    """

    def __init__(self, *, task: Task, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.task = task

    def execute(self, context: Context) -> None:
        """Do it, log what was done and hand on the counts."""
        self.maintain(context)

    def maintain(self, context: Context) -> Maintained:
        """Do it."""
        from sscd_ops.provider.nights import runner_of
        from sscd_ops.steps import maintaining

        with self.parts() as parts:
            done = maintaining.run(parts, self.dataset, self.task, actor=str(runner_of(context)))
        context["ti"].xcom_push(key="report", value=done.counts)
        for line in (*done.lines, *done.found):
            self.log.info("%s: %s", self.task, line)
        if done.found:
            with as_airflow():
                raise DataError(f"{len(done.found)} findings, such as: {done.found[0]}")
        return done


class SscdCompactOperator(SscdMaintenanceOperator):
    """Compacts; an event of the asset ``corrections`` tells of a snapshot that it made.

    Args:
        before: the newest snapshot when the run began.
    """

    template_fields: Sequence[str] = (*SscdMaintenanceOperator.template_fields, "before")

    def __init__(self, *, before: int | str = BEFORE, **kwargs: Any) -> None:
        outlets = [*(kwargs.pop("outlets", None) or ()), corrections_alias(kwargs["dataset"])]
        super().__init__(task="compact", outlets=outlets, **kwargs)
        self.before = before

    def execute(self, context: Context) -> None:
        """Compact, and announce. A try that died behind its snapshot is told of by the next one."""
        from sscd_ops.steps import maintaining

        done = self.maintain(context)
        if not (done.counts["into_shards"] or is_retry(context, self.retries)):
            return
        with self.parts() as parts:
            made = maintaining.compacted_after(parts, self.dataset, int(self.before))
        if made is not None:
            extra = {"kind": "compaction", **made}
            told = context["outlet_events"][corrections_alias(self.dataset)]
            told.add(corrections(self.dataset), extra=extra)
