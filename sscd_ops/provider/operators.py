"""One operator per step. Each is: hook -> wiring -> step -> report.

What a task answers through XCom is small: numbers to map over (plan, survey, resolve) and, under
the key ``report``, ids, counts and seconds. Everything else stands in the catalog.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from sscd_ops.errors import ConfigError, DataError
from sscd_ops.provider.assets import alias, asset
from sscd_ops.provider.errors import as_airflow
from sscd_ops.provider.info import DEFAULT_CONN_ID
from sscd_ops.provider.lineage import CommitLineage, IngestLineage
from sscd_ops.provider.triggers import Member, ReadyTrigger, TurnTrigger
from sscd_ops.provider.waiting import CLI_POLL, RECHECK, first_try, wait, was_rescheduled

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sscd_ops.steps.commit import CommitReport
    from sscd_ops.steps.reports import Report
    from sscd_ops.wiring import Wiring

PLAN_BATCH = "{{ ti.xcom_pull(task_ids=task.plan_task_id, key='report')['batch_id'] }}"
"""Template of the batch that the plan above a task registered."""
LABEL = "{{ sscd_ops_label | default('') }}"
"""``map_index_template`` of mapped steps."""


class SscdStepOperator(BaseOperator):
    """What all steps share.

    Args:
        config: path of the TOML file; empty: the connection's, else SSCD_OPS_CONFIG.
        conn_id: a connection of type ``sscd_ops``; the default one may be missing.
    """

    template_fields: Sequence[str] = ("config", "conn_id")
    ui_color = "#e8f1ee"

    def __init__(self, *, config: str = "", conn_id: str = DEFAULT_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.conn_id = conn_id

    @contextmanager
    def parts(self) -> Iterator[Wiring]:
        """The joined parts; errors that trying again can't mend fail the task for good."""
        from sscd_ops.provider.hooks import SscdOpsHook
        from sscd_ops.provider.progress import LogProgress
        from sscd_ops.provider.turn import ask_airflow

        hook = SscdOpsHook(self.conn_id, self.config)
        with as_airflow(), hook.wiring(progress=LogProgress(), ask_airflow=ask_airflow) as parts:
            yield parts

    def finish(self, context: Context, report: Report) -> None:
        """Store the report and end the log with its funnel."""
        self._report = report
        context["ti"].xcom_push(key="report", value=report.summary())
        self.log.info(report.funnel())


class SscdPlanOperator(SscdStepOperator):
    """Registers the run's batch and its source shards; answers with the groups to ingest.

    Args:
        dataset: a dataset of the config file.
        date: for manual runs: the local day the night starts, or an instant in it.
        supplement: ``True`` to read what came after the night was decided.
        quarantined: ``True`` to have the supplement read again what the night quarantined.
        codes: of that what has one of these codes, joined by commas; empty: all.
        dry: ``True`` to decide nothing and publish nothing.
        deferrable: wait for the data in the triggerer, else by rescheduling.
        poll: seconds between two looks for the data.
        ready_timeout: seconds after which a night without data fails.
    """

    template_fields: Sequence[str] = (
        *SscdStepOperator.template_fields,
        "dataset",
        "date",
        "supplement",
        "quarantined",
        "codes",
        "dry",
    )

    def __init__(
        self,
        *,
        dataset: str,
        date: str = "",
        supplement: bool | str = False,
        quarantined: bool | str = False,
        codes: str = "",
        dry: bool | str = False,
        deferrable: bool = True,
        poll: float = 60.0,
        ready_timeout: float = 12 * 3600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.date = date
        self.supplement = supplement
        self.quarantined = quarantined
        self.codes = codes
        self.dry = dry
        self.deferrable = deferrable
        self.poll = poll
        self.ready_timeout = ready_timeout

    def execute(self, context: Context) -> list[int]:
        """Plan the night."""
        return self._plan(context, first_try(context) + self.ready_timeout)

    def resume(
        self, context: Context, event: dict[str, Any] | None = None, *, until: float | None = None
    ) -> list[int]:
        """Plan the night, now that its data may be there."""
        # dag.test() hands over nothing but the event
        return self._plan(context, time.time() + self.ready_timeout if until is None else until)

    def _plan(self, context: Context, until: float) -> list[int]:
        from sscd_ops.provider.nights import night_of, options_of, runner_of
        from sscd_ops.steps import plan

        with self.parts() as parts:
            night = night_of(context, self.date, options_of(parts.settings, self.dataset))
            report = plan.run(
                parts,
                self.dataset,
                night,
                runner=runner_of(context),
                supplement=_is_true(self.supplement),
                quarantined=_is_true(self.quarantined),
                codes=[code.strip() for code in self.codes.split(",") if code.strip()],
                dry_run=_is_true(self.dry),
            )
            if report.waiting_for is not None:
                self._wait_for(report.waiting_for, until)
        self.finish(context, report)
        return report.groups

    def _wait_for(self, url: str, until: float) -> None:
        if time.time() >= until:
            raise DataError(
                f"the night's data did not arrive: {url} is still missing after"
                f" {self.ready_timeout:.0f} s (airflow.ready_timeout). Clear plan when it is there"
            )
        self.log.info("waiting for %s", url)
        trigger = ReadyTrigger(url=url, poll=self.poll, until=until)
        wait(self, trigger, deferrable=self.deferrable, poll=self.poll, kwargs={"until": until})


class _BatchOperator(SscdStepOperator):
    """A step after plan.

    Args:
        batch_id: the batch's number; the default asks the nearest ``SscdPlanOperator`` above.
    """

    template_fields: Sequence[str] = (*SscdStepOperator.template_fields, "batch_id")

    def __init__(self, *, batch_id: int | str = PLAN_BATCH, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id

    @property
    def plan_task_id(self) -> str:
        """The task, of whatever name and group, that registers the batch: the nearest plan above.

        Raises:
            AirflowFailException: there is none, or which one is nearest cannot be said.
        """
        found = self.plans_above()
        if len(found) == 1:
            return found[0]
        said = " and ".join(found) + " are both" if found else "no SscdPlanOperator is"
        with as_airflow():
            raise ConfigError(
                f"{self.task_id}: {said} above it, and the batch is asked of that: put one before"
                " it, or give this operator `batch_id`"
            )

    def plans_above(self) -> list[str]:
        """The task ids of the nearest plans above; more than one where they are as near."""
        tasks = self.dag.task_dict
        level = set(self.upstream_task_ids)
        while level:
            found = sorted(name for name in level if isinstance(tasks[name], SscdPlanOperator))
            if found:
                return found
            level = {above for name in level for above in tasks[name].upstream_task_ids}
        return []


class _GroupOperator(_BatchOperator):
    """A step that works on one group of shards.

    Args:
        group: a number that plan (ingest, embed) or resolve (publish) answered.
    """

    template_fields: Sequence[str] = (*_BatchOperator.template_fields, "group")

    def __init__(self, *, group: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group


class SscdIngestOperator(IngestLineage, _GroupOperator):
    """Reads a group of source shards once and writes their manifests."""

    def execute(self, context: Context) -> None:
        """Ingest a group."""
        from sscd_ops.provider import labels
        from sscd_ops.steps import ingest

        with self.parts() as parts:
            self._inputs = labels.source_shards(parts, int(self.batch_id), self.group)
            _set_label(context, labels.of_source_shards(self._inputs))
            report = ingest.run(parts, int(self.batch_id), self.group)
        self.finish(context, report)


class SscdSurveyOperator(_BatchOperator):
    """Finds the night's new images; answers with the parts that match is split into."""

    def execute(self, context: Context) -> list[int]:
        """Survey the night."""
        from sscd_ops.steps import survey

        with self.parts() as parts:
            report = survey.run(parts, int(self.batch_id))
        self.finish(context, report)
        return report.parts


class SscdEmbedOperator(_GroupOperator):
    """Computes the descriptors of a group's new images."""

    def execute(self, context: Context) -> None:
        """Embed a group."""
        from sscd_ops.provider import labels
        from sscd_ops.steps import embed

        with self.parts() as parts:
            shards = labels.source_shards(parts, int(self.batch_id), self.group)
            _set_label(context, labels.of_source_shards(shards))
            report = embed.run(parts, int(self.batch_id), self.group)
        self.finish(context, report)


class SscdMatchOperator(_BatchOperator):
    """Compares a part of the batch with what it has to be compared with.

    Args:
        part: a number that survey answered.
    """

    template_fields: Sequence[str] = (*_BatchOperator.template_fields, "part")

    def __init__(self, *, part: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.part = part

    def execute(self, context: Context) -> None:
        """Match a part."""
        from sscd_ops.provider import labels
        from sscd_ops.steps import match

        with self.parts() as parts:
            _set_label(context, labels.of_match(parts, int(self.batch_id), self.part))
            report = match.run(parts, int(self.batch_id), self.part)
        self.finish(context, report)


class SscdResolveOperator(_BatchOperator):
    """Decides the batch, in turn; answers with the groups of output shards to publish.

    Args:
        deferrable: wait for the turn in the triggerer, else by rescheduling.
        poll: seconds between two looks.
    """

    def __init__(self, *, deferrable: bool = True, poll: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.poll = poll

    def execute(self, context: Context) -> list[int]:
        """Wait for the turn and decide."""
        return self._decide(context, planned=was_rescheduled(context))

    def resume(
        self, context: Context, event: dict[str, Any] | None = None, *, planned: bool = True
    ) -> list[int]:
        """Look again whose turn it is."""
        return self._decide(context, planned=planned)

    def _decide(self, context: Context, *, planned: bool) -> list[int]:
        from sscd_ops.steps import resolve

        with self.parts() as parts:
            self.wait_for_turn(parts, context, planned=planned)
            report = resolve.run(parts, int(self.batch_id))
        self.finish(context, report)
        return report.groups

    def wait_for_turn(self, parts: Wiring, context: Context, *, planned: bool) -> None:
        """Return when it is this batch's turn; else leave the worker.

        Args:
            parts: the joined parts.
            context: the task's.
            planned: the run before this one was given the time to register its batch. It is waited
                for once only, or runs that start meanwhile could hold this one for ever.
        """
        from sscd_ops.provider import turn

        batch_id = int(self.batch_id)
        if not planned and (before := self._planning_before(parts, context)):
            self.log.info("waiting for run %s to register its night", before[0]["run_id"])
            self._wait(before, RECHECK)
        waiting = turn.still_to_decide(parts, batch_id, self.task_id)
        if waiting:
            self.log.info("waiting for %s", turn.describe(waiting))
            members = turn.members_of(waiting, self.task_id)
            self._wait(members, RECHECK if len(members) == len(waiting) else CLI_POLL)

    def _planning_before(self, parts: Wiring, context: Context) -> list[Member]:
        from sscd_ops.provider import turn

        plans = self.plans_above()
        if len(plans) != 1:  # the batch was named by hand
            return []
        return turn.planning_before(parts, int(self.batch_id), context, plans[0])

    def _wait(self, members: list[Member], seconds: float) -> None:
        trigger = TurnTrigger(members=members, poll=self.poll, until=time.time() + seconds)
        poll = max(self.poll, 30.0) if members else seconds
        wait(self, trigger, deferrable=self.deferrable, poll=poll, kwargs={"planned": True})


class SscdPublishOperator(_GroupOperator):
    """Writes a group of output shards."""

    def execute(self, context: Context) -> None:
        """Publish a group."""
        from sscd_ops.provider import labels
        from sscd_ops.steps import publish

        with self.parts() as parts:
            _set_label(context, labels.of_output_shards(parts, int(self.batch_id), self.group))
            report = publish.run(parts, int(self.batch_id), self.group)
        self.finish(context, report)


class SscdCommitOperator(CommitLineage, _BatchOperator):
    """Makes the snapshot; an asset event tells of it where it is new.

    Args:
        dataset: whose asset it is.
    """

    template_fields: Sequence[str] = (*_BatchOperator.template_fields, "dataset")

    def __init__(self, *, dataset: str, **kwargs: Any) -> None:
        # a new list: the caller's may belong to several datasets
        super().__init__(outlets=[*(kwargs.pop("outlets", None) or ()), alias(dataset)], **kwargs)
        self.dataset = dataset

    def execute(self, context: Context) -> None:
        """Commit the batch."""
        from sscd_ops.steps import commit

        with self.parts() as parts:
            report = commit.run(parts, int(self.batch_id))
            self.finish(context, report)
            self._announce(parts, context, report)

    def _announce(self, parts: Wiring, context: Context, report: CommitReport) -> None:
        """Emit the event; a try that dies before its end emits it with the retry.

        Airflow drops the event of a try that does not end well, and the mark says nothing of that:
        so it keeps a clear silent, and a retry announces again (at least once). A snapshot that
        another run or a command made is not this run's to announce.
        """
        from sscd_ops.provider.nights import runner_of
        from sscd_ops.steps import commit
        from sscd_ops.steps import parts as step_parts

        if report.snapshot is None or (report.announced and not is_retry(context, self.retries)):
            return
        batch = step_parts.load_work(parts, int(self.batch_id)).batch
        if not report.made_now and batch.runner != runner_of(context):
            return
        extra = {"kind": "night", **{name: getattr(report, name) for name in _EXTRA}}
        context["outlet_events"][alias(self.dataset)].add(asset(self.dataset), extra=extra)
        commit.mark_announced(parts, int(self.batch_id))


_EXTRA = ("snapshot", "parent", "batch_id", "samples", "shards", "bytes", "location")


class SscdFaultyOperator(BaseOperator):
    """The one task of a dataset whose configuration is wrong: fails with what is wrong.

    Args:
        message: the configuration error.
    """

    ui_color = "#f4d9d6"

    def __init__(self, *, message: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = message

    def execute(self, context: Context) -> None:
        """Fail."""
        with as_airflow():
            raise ConfigError(self.message)


def is_retry(context: Context, retries: int | None) -> bool:
    """Whether a try before this one failed since the task was begun, or begun anew by a clear."""
    ti = context["ti"]
    # a clear leaves try numbers going up, and allows as many retries on top of them
    return ti.try_number > ti.max_tries - (retries or 0) + 1


def _is_true(value: bool | str) -> bool:
    """A flag as given, or as its template rendered it."""
    return value is True or str(value).strip().lower() in ("true", "1")


def _set_label(context: Context, label: str) -> None:
    context["sscd_ops_label"] = label  # type: ignore[typeddict-unknown-key]
