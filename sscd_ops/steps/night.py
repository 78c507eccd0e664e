"""One night without Airflow: the same steps, one after another."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from sscd_ops.catalog import batches, dry_runs, shards
from sscd_ops.catalog.locks import CLI_LOCK, LockSession
from sscd_ops.errors import BatchNotRunnable, DataError, InvariantError, SscdOpsError
from sscd_ops.model import BatchState, Counts, Interval, Runner
from sscd_ops.options import Step
from sscd_ops.steps import awaiting, commit, embed, ingest, match, plan, publish, resolve, survey
from sscd_ops.steps.choosing import run_by_another
from sscd_ops.steps.late import LateShard
from sscd_ops.steps.parts import Parts, Stopwatch, load_work
from sscd_ops.steps.reading_again import Wanted
from sscd_ops.steps.sources import Absent, nothing_at

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class NightReport:
    """What became of a night."""

    batch_id: int
    state: BatchState
    counts: Counts
    by_source: dict[str, Counts]
    source_shards: int
    faulty_shards: int
    skipped_shards: int
    shards: int
    snapshot: int | None
    answered: bool
    """The batch was published before: nothing was done."""
    dry_run: bool
    late: list[LateShard] = field(default_factory=list)
    unpublishable: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    message: str = ""
    night: str = ""
    absent: list[Absent] = field(default_factory=list)
    """Of a dry run: URLs that name nothing in the night."""
    again: Wanted | None = None
    """What is read again, as plan found it."""


class _Overtaken(BatchNotRunnable):
    """The lock was lost, and another command has the batch: nothing more is written about it."""


class _Timed:
    """Runs a step and adds up its seconds; before it, sees that the batch is still this run's."""

    def __init__(self, locks: LockSession) -> None:
        self._locks = locks
        self.seconds: dict[str, float] = {}

    def keep(self) -> None:
        """See that the batch is still this run's, or take it again.

        Raises:
            BatchNotRunnable: another command has it by now.
        """
        if not self._locks.keep():
            raise _Overtaken(
                "the database ended this command's session, and another command runs the batch"
                " since: this one stops. Wait for the other's end, then run the night again"
            )

    def __call__(
        self, step: Step | Literal["wait"], work: Callable[[], T], groups: int | None = None
    ) -> T:
        self.keep()
        log.info("%s%s", step, "" if groups is None else f" groups={groups}")
        watch = Stopwatch()
        answer = work()
        self.seconds[step] = self.seconds.get(step, 0.0) + watch.seconds
        return answer


class Workers(Protocol):
    """Does a mapped step for several groups, in processes beside this one."""

    def __call__(self, step: Step, batch_id: int, numbers: Sequence[int]) -> None:
        """Return when all is done, or raise what a process raised."""


def work_on(parts: Parts, step: Step, batch_id: int, numbers: Sequence[int]) -> None:
    """Do a mapped step for some of its groups here, one after another."""
    # one call for all groups where that is possible: models and decoders start once
    if step == "ingest":
        ingest.run(parts, batch_id, numbers)
    elif step == "embed":
        embed.run(parts, batch_id, numbers)
    elif step == "match":
        match.run(parts, batch_id, numbers)
    elif step == "publish":
        for number in numbers:
            publish.run(parts, batch_id, number)
    else:
        raise InvariantError(f"{step} is not mapped")


def run(
    parts: Parts,
    dataset: str,
    interval: Interval,
    *,
    supplement: bool = False,
    quarantined: bool = False,
    codes: Sequence[str] = (),
    dry_run: bool = False,
    workers: Workers | None = None,
    poll_seconds: float = 2.0,
) -> NightReport:
    """Run every step of a night: in this process, and mapped ones by workers, where there are some.

    Raises:
        SscdOpsError: whatever a step raises; ``DataError`` where the night must wait for a person.
    """
    dry: list[int] = []
    with parts.catalog.locks() as locks, contextlib.ExitStack() as at_end:
        timed = _Timed(locks)

        def hold(batch_id: int) -> None:
            if not locks.take(CLI_LOCK, batch_id):
                raise run_by_another(batch_id)
            if dry_run:
                dry.append(batch_id)

        at_end.callback(_drop, parts, dry)
        planned = timed(
            "plan",
            lambda: plan.run(
                parts,
                dataset,
                interval,
                runner=Runner("cli"),
                supplement=supplement,
                quarantined=quarantined,
                codes=codes,
                dry_run=dry_run,
                hold=hold,
            ),
        )
        batch_id = planned.batch_id
        if planned.waiting_for is not None:
            raise DataError(
                f"batch {batch_id} ({planned.night}) waits for its data: {planned.waiting_for} is"
                " missing. Run it again when that is there, or correct the source's `ready`"
            )
        try:
            steps = _Mapped(parts, planned, timed, workers)
            return _steps(parts, planned, timed, steps, dry_run=dry_run, poll=poll_seconds)
        except SscdOpsError as error:
            if not (dry_run or isinstance(error, _Overtaken)):
                _note(parts, batch_id, str(error))
            raise


class _Mapped:
    """Does a step for all of its groups, where that is quickest."""

    def __init__(
        self, parts: Parts, planned: plan.PlanReport, timed: _Timed, workers: Workers | None
    ) -> None:
        self._parts = parts
        self._batch_id = planned.batch_id
        self._timed = timed
        # of a published night there is nothing to do: no process need start for it
        self._workers = None if planned.state is BatchState.PUBLISHED else workers

    def __call__(self, step: Step, numbers: Sequence[int]) -> None:
        workers = self._workers
        if workers is None or len(numbers) < 2:
            parts, batch_id = self._parts, self._batch_id
            self._timed(step, lambda: work_on(parts, step, batch_id, numbers), len(numbers))
        else:
            self._timed(step, lambda: workers(step, self._batch_id, numbers), len(numbers))


def _steps(
    parts: Parts,
    planned: plan.PlanReport,
    timed: _Timed,
    mapped: _Mapped,
    *,
    dry_run: bool,
    poll: float,
) -> NightReport:
    batch_id = planned.batch_id
    if not planned.answered:
        mapped("ingest", planned.groups)
        surveyed = timed("survey", lambda: survey.run(parts, batch_id))
        mapped("embed", planned.groups)
        mapped("match", surveyed.parts)
        timed("wait", lambda: wait_for_turn(parts, batch_id, poll, timed.keep))
    decided = timed("resolve", lambda: resolve.run(parts, batch_id))
    mapped("publish", decided.groups)
    with parts.catalog.begin() as conn:
        faulty = shards.faulty_shards(conn, batches.read_batch(conn, batch_id).attempt_id)
    # commit drops a dry run
    absent = _absent(parts, batch_id) if dry_run and planned.again is None else []
    # a dry run over what other batches have read finds nothing to hold
    is_read = dry_run and not planned.source_shards and planned.skipped_shards > 0
    done = timed("commit", lambda: commit.run(parts, batch_id))
    return NightReport(
        batch_id,
        done.state,
        decided.counts,
        decided.by_source,
        planned.source_shards,
        faulty,
        planned.skipped_shards,
        decided.shards,
        done.snapshot,
        planned.answered and planned.state is BatchState.PUBLISHED,
        dry_run,
        planned.late,
        planned.unpublishable,
        {step: round(spent, 3) for step, spent in timed.seconds.items()},
        "" if is_read else decided.message,
        planned.night,
        absent,
        planned.again,
    )


def _absent(parts: Parts, batch_id: int) -> list[Absent]:
    work = load_work(parts, batch_id)
    return nothing_at(parts, work, work.options.sources)


def wait_for_turn(
    parts: Parts,
    batch_id: int,
    poll_seconds: float = 2.0,
    keep: Callable[[], None] = lambda: None,
) -> None:
    """Wait until every batch of the waiting set has decided, or is known not to.

    ``keep`` is called after every look: it may take hours, and ends where ``keep`` raises.
    """
    said = False
    while True:
        others, waited = awaiting.arrive(parts, batch_id)
        others = awaiting.leave_unasked(parts, batch_id, others, waited)
        if not others:
            return
        if not said:
            names = ", ".join(f"{other.batch_id} ({other.night})" for other in others)
            log.warning("waiting for earlier batches to decide first batches=%s", names)
            said = True
        time.sleep(poll_seconds)
        keep()


def _drop(parts: Parts, dry: Sequence[int]) -> None:
    """Forget a dry run however it ended; what cannot be dropped now, the next one drops."""
    try:
        with parts.catalog.begin() as conn:
            for batch_id in dry:
                dry_runs.drop_dry_run(conn, batch_id)
    except SscdOpsError as error:
        log.warning("could not drop the dry run batches=%s error=%s", dry, error)


def _note(parts: Parts, batch_id: int, message: str) -> None:
    """Leave the reason where `runs` shows it; the batch counts as failed once we are gone."""
    try:
        with parts.catalog.begin() as conn:
            batch = batches.read_batch(conn, batch_id)
            if not batch.state.is_decided and batch.state is not BatchState.HELD:
                batches.set_message(conn, batch_id, message)
    except SscdOpsError as error:
        log.warning("could not note the failure batch=%s error=%s", batch_id, error)
