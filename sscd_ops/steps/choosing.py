"""Which batch a run works on: its own, the interval's, a supplement, a dry run of its own.

The first part of ``plan``; everything here happens under the dataset's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, batches, datasets, dry_runs, runners
from sscd_ops.core.identities import interval_label
from sscd_ops.core.schedule import date_of
from sscd_ops.errors import BatchNotRunnable, UsageError
from sscd_ops.model import Batch, BatchState, Interval, Runner
from sscd_ops.options import DatasetOptions
from sscd_ops.steps.parts import Parts


def choose_batch(
    parts: Parts,
    options: DatasetOptions,
    interval: Interval,
    runner: Runner,
    hold: Callable[[int], None] | None,
    *,
    supplement: bool,
    dry_run: bool,
    read_again: tuple[str, ...] | None = None,
    anew: bool = False,
) -> Batch:
    """The batch this run works on; with ``anew`` not a supplement that it has published.

    Raises:
        BatchNotRunnable: another live run works on it, or it reads other things than were asked.
    """
    with parts.catalog.begin() as conn:
        dataset_id = datasets.ensure(conn, options.name)
        datasets.lock(conn, dataset_id)
        there = batches.batches_of_interval(conn, dataset_id, interval)
        mine = _own(there, runner, supplement=supplement)
        if mine and not dry_run and not anew:
            # a retry or a clear of a DAG run finds its own batch
            runners.leave_others(conn, mine[-1].batch_id, runner)
            return mine[-1]
        if dry_run:
            _drop_dead_dry_runs(parts, conn, dataset_id, runner)
            # the number that the batch would have: the guard takes a supplement otherwise
            number = _supplement(parts, options, there, interval)[1] if supplement else 0
            there = _dry_run_of(conn, dataset_id, interval, runner)
        elif supplement:
            there, number = _supplement(parts, options, there, interval)
        else:
            there, number = there[:1], 0
        if there:
            batch = there[-1]
            if not batch.state.is_decided:
                _take_over(parts, batch, runner)
                _need_same(conn, batch, read_again)
                if hold is not None:
                    hold(batch.batch_id)
                runners.bind_runner(conn, batch.batch_id, runner)
            runners.leave_others(conn, batch.batch_id, runner)
            return batch
        batch_id = batches.insert_batch(
            conn,
            dataset_id,
            interval,
            number,
            label=interval_label(interval, options.timezone),
            night=date_of(options.schedule, options.timezone, interval),
            dry_run=dry_run,
            runner=runner,
        )
        if hold is not None:
            hold(batch_id)
        runners.leave_others(conn, batch_id, runner)
        return batches.read_batch(conn, batch_id)


def _own(there: Sequence[Batch], runner: Runner, *, supplement: bool) -> list[Batch]:
    """The batches of an interval that a DAG run began: its night, or its supplements to it.

    Which of the two the run is for now, its params say: a reprocessing may have changed them.
    """
    return [
        batch
        for batch in there
        if runner.kind == "airflow" and batch.runner == runner
        if bool(batch.supplement) == supplement
    ]


def _supplement(
    parts: Parts, options: DatasetOptions, there: list[Batch], interval: Interval
) -> tuple[list[Batch], int]:
    """The supplement to resume as a list of one, or an empty list and the next number."""
    if not there:
        raise UsageError(
            f"night {date_of(options.schedule, options.timezone, interval)} has no batch yet:"
            " run it without --supplement first"
        )
    for batch in there[1:]:
        # decided by a run that died before it published: nobody else would
        if batch.state is BatchState.DECIDED and parts.is_alive(batch) is False:
            return [batch], batch.supplement
    last = there[-1]
    if last.state.is_decided:
        return [], last.supplement + 1
    if last.supplement == 0:
        raise BatchNotRunnable(
            f"batch {last.batch_id} ({last.name}) is {last.state}: run the night without"
            " --supplement, it reads everything that is there"
        )
    return [last], last.supplement


def _need_same(conn: Connection, batch: Batch, read_again: tuple[str, ...] | None) -> None:
    """Refuse to go on with a supplement that reads late files as if it read again, or other codes.

    Raises:
        BatchNotRunnable: it has to be finished first, or abandoned.
    """
    if not batch.attempt_id or batch.dry_run or batch.state is BatchState.ABANDONED:
        return
    planned = attempts.read_attempt(conn, batch).read_again
    if planned == read_again:
        return
    raise BatchNotRunnable(
        f"batch {batch.batch_id} ({batch.name}) is an unfinished supplement that was planned with"
        f" {flags_of(planned)}: run that to its end first, or give it up: sscd-ops batch abandon"
        f" {batch.batch_id} --why '...'"
    )


def flags_of(read_again: tuple[str, ...] | None) -> str:
    """What a command says to have a supplement read that."""
    again = "" if read_again is None else " --quarantined"
    return "--supplement" + again + (f" --codes {','.join(read_again)}" if read_again else "")


def _dry_run_of(
    conn: Connection, dataset_id: int, interval: Interval, runner: Runner
) -> list[Batch]:
    """The dry run this very DAG run has begun, so that a retry finds it."""
    if runner.kind == "cli":
        return []
    return [
        batch
        for batch in dry_runs.dry_runs(conn, dataset_id)
        if batch.runner == runner and batch.interval == interval
    ]


def _drop_dead_dry_runs(parts: Parts, conn: Connection, dataset_id: int, runner: Runner) -> None:
    for batch in dry_runs.dry_runs(conn, dataset_id):
        # commands are all equal: what tells them apart is the lock that a live one holds
        own = runner.kind == "airflow" and batch.runner == runner
        if not own and parts.is_alive(batch) is False:
            dry_runs.drop_dry_run(conn, batch.batch_id)


def run_by_another(batch_id: int) -> BatchNotRunnable:
    """What a command says of a batch that another live one works on."""
    return BatchNotRunnable(
        f"another command runs batch {batch_id} right now: wait for its end, then run this one"
        " again"
    )


def _take_over(parts: Parts, batch: Batch, runner: Runner) -> None:
    """Refuse to work on a batch that another live run works on."""
    same_run = runner.kind == "airflow" and batch.runner == runner
    if same_run or batch.runner is None:
        return
    if batch.state in (BatchState.HELD, BatchState.ABANDONED):
        return
    alive = parts.is_alive(batch)
    if alive is False:
        return
    if batch.runner.kind == "cli":
        raise run_by_another(batch.batch_id)
    doubt = "" if alive else " (it cannot be asked from here, so it counts as alive)"
    raise BatchNotRunnable(
        f"batch {batch.batch_id} belongs to {batch.runner}, which is still running{doubt}:"
        " wait for it (in Airflow: or clear that run). If it is gone: `sscd-ops batch abandon"
        f" {batch.batch_id} --why ...`"
    )
