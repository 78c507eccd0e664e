"""resolve: decide a batch, in turn.

Everything is worked out and written without the lock, for the turn and generation read at the
start; then one short transaction checks under the lock that both still hold and puts the decision
in force. If they don't, it is worked out again. A process killed anywhere leaves a decision's rows
that nothing names, and the next try deletes them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import batches, decisions, publishing, shards, sql
from sscd_ops.catalog.batches import Dataset
from sscd_ops.catalog.copy import copy_table
from sscd_ops.catalog.partitions import ensure_month
from sscd_ops.core.guard import check
from sscd_ops.errors import (
    BatchHeld,
    BatchNotRunnable,
    CommitConflict,
    FingerprintMismatch,
    SscdOpsError,
    StaleAttempt,
)
from sscd_ops.model import Batch, BatchState, Counts, Runner, StoredFile
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work, with_abandon
from sscd_ops.steps.sources import nothing_at, require_sources
from sscd_ops.steps.working import Worked, work_out

log = logging.getLogger(__name__)

_TRIES = 20
"""Times the decision is worked out anew because another one was quicker."""
_PATIENCE = 900.0
"""Seconds to wait for another process that decides the same batch."""


@dataclass(frozen=True)
class ResolveReport:
    """What became of the batch. ``groups`` are the numbers publish works on."""

    batch_id: int
    state: BatchState
    turn: int | None
    groups: list[int]
    counts: Counts
    by_source: dict[str, Counts]
    shards: int
    answered: bool = False
    seconds: float = 0.0
    lock_seconds: float = 0.0
    message: str = ""
    """Of a dry run: why the guard would hold the batch."""

    def summary(self) -> dict[str, Any]:
        """The report as plain values, for XCom."""
        return {
            "step": "resolve",
            "batch_id": self.batch_id,
            "state": str(self.state),
            "turn": self.turn,
            "answered": self.answered,
            "seconds": round(self.seconds, 3),
            "lock_seconds": round(self.lock_seconds, 3),
            "message": self.message,
            "shards": self.shards,
            **self.counts.plain(),
        }

    def funnel(self) -> str:
        """The report as one line."""
        c = self.counts
        return (
            f"resolve batch={self.batch_id} turn={self.turn} read={c.read}"
            f" quarantined={c.quarantined} exact={c.removed_exact} near={c.removed_near}"
            f" perceptual={c.removed_perceptual} kept={c.kept} plain={c.kept_plain}"
            f" known={c.known}"
            f" shards={self.shards} seconds={self.seconds:.2f}"
            + (f" ({self.message})" if self.message else "")
        )


@dataclass(frozen=True)
class WaitFor:
    """A batch that decides first, and who runs it."""

    batch_id: int
    runner: Runner
    night: str
    alive: bool | None
    """None where the runner can't be asked from here."""


# ---------------------------------------------------------------- whose turn


def arrive(parts: Parts, batch_id: int) -> tuple[list[WaitFor], float]:
    """Fix the waiting set on first arrival; who must still decide first, and seconds waited.

    A batch that is decided, held, abandoned or whose runner is known to be dead is not waited for;
    a decided batch itself never waits.
    """
    with parts.catalog.begin() as conn:
        batch = batches.read_batch(conn, batch_id)
        if batch.state.is_decided or batch.dry_run:
            return [], 0.0
        batches.lock_dataset(conn, batch.dataset_id)
        undecided, since = batches.waiting_set(conn, batch)
    waited = (datetime.now(UTC) - since).total_seconds()
    answer = []
    for other in undecided:
        alive = parts.is_alive(other)
        if alive is not False:
            answer.append(WaitFor(other.batch_id, other.runner or Runner("cli"), other.name, alive))
    return answer, waited


def leave_unasked(
    parts: Parts, batch_id: int, waiting: Sequence[WaitFor], waited: float
) -> list[WaitFor]:
    """Who is still waited for: after ``turn.max_wait`` (frozen) not those who can't be asked.

    Where nobody else is left the batch decides now, and an event says without whom.
    """
    unasked = [other for other in waiting if other.alive is None]
    if not unasked or waited < load_work(parts, batch_id).options.turn.max_wait:
        return list(waiting)
    asked = [other for other in waiting if other.alive is not None]
    if not asked:
        _note_not_awaited(parts, batch_id, unasked)
    return asked


def _note_not_awaited(parts: Parts, batch_id: int, others: Sequence[WaitFor]) -> None:
    """Write the event that the batch decides although these could not be asked any longer."""
    with parts.catalog.begin() as conn:
        batch = batches.lock_batch(conn, batch_id)
        if batches.is_told(conn, batch_id, "turn_not_awaited"):
            return  # by an earlier try
        batches.add_event(
            conn,
            batch.dataset_id,
            "turn_not_awaited",
            actor=str(batch.runner),
            why="turn.max_wait passed and their runners could not be asked",
            batch_id=batch_id,
            details={"batches": [other.batch_id for other in others]},
        )


# ---------------------------------------------------------------- deciding


@with_abandon
def run(parts: Parts, batch_id: int) -> ResolveReport:
    """Decide the batch, or answer with what was decided.

    Raises:
        BatchHeld: the guard holds it; the message has the figures and both ways on.
        MissingDescriptors: an image has no descriptor; names the embed groups to clear.
        FingerprintMismatch: the dataset took another fingerprint meanwhile.
        BatchNotRunnable: the batch is abandoned, was not planned or matched, or lost source shards
            to another.
        CommitConflict: others were quicker many times over (retried).
    """
    watch = Stopwatch()
    # a zombie that hangs must not hang its retry for ever
    with parts.catalog.locks() as locks:
        locks.take(batches.RESOLVE_LOCK, batch_id, wait=_PATIENCE)
        work = load_work(parts, batch_id)
        if work.batch.state.is_decided:
            _delete_left(parts, work)
            return _answer(parts, work, watch)
        if work.batch.state in (BatchState.ABANDONED, BatchState.HELD):
            _refuse(work.batch)
        if work.batch.dry_run:
            return _dry(parts, work, watch)
        for _ in range(_TRIES):
            lock_seconds = _try_unless_decided(parts, work)
            now = load_work(parts, batch_id)
            if lock_seconds is not None:
                return _with_times(_answer(parts, now, watch), watch.seconds, lock_seconds)
            if now.batch.state.is_decided:
                # by the one that took this process for dead
                _delete_lost(parts, now)
                return _answer(parts, now, watch)
            # whoever lost its session lock must not go on beside the one that has it
            if not locks.keep():
                raise BatchNotRunnable(
                    f"another command runs batch {batch_id} by now: wait for its end, then run the"
                    " night again"
                )
            log.info("decided by another meanwhile, working it out again batch=%s", batch_id)
    raise CommitConflict(f"batch {batch_id}: others decided first {_TRIES} times; try again")


def _refuse(batch: Batch) -> None:
    if batch.state is BatchState.HELD:
        raise BatchHeld(batch.message)
    raise BatchNotRunnable(f"batch {batch.batch_id} is abandoned: run its night again from plan")


def _with_times(report: ResolveReport, seconds: float, lock_seconds: float) -> ResolveReport:
    from dataclasses import replace

    return replace(report, answered=False, seconds=seconds, lock_seconds=lock_seconds)


def _try_unless_decided(parts: Parts, work: Work) -> float | None:
    """As ``_try``; what is wrong by now is no matter where another process decided the batch."""
    try:
        return _try(parts, work)
    except StaleAttempt:
        _delete_lost(parts, work)
        raise
    except SscdOpsError:
        # of a decided batch whoever delivers may take the files away
        if not load_work(parts, work.batch.batch_id).batch.state.is_decided:
            raise
        return None


def _try(parts: Parts, work: Work) -> float | None:
    """Work the decision out and put it in force; None if somebody else was quicker.

    Whatever the session lock was to prevent is asked again here, under the dataset's lock: a
    process whose connection broke while it worked does not know that it lost it.
    """
    dataset = _read_dataset(parts, work)
    worked = work_out(parts, work, dataset)
    decision_id = _write_rows(parts, work, worked)
    require_sources(parts, work)
    reasons = _guard(parts, work, dataset, worked)
    message = _held_message(parts, work, reasons, worked) if reasons else ""
    held = Stopwatch()
    with parts.catalog.begin() as conn:
        now = batches.lock_dataset(conn, work.batch.dataset_id)
        batch = batches.lock_batch(conn, work.batch.batch_id)
        if batch.state.is_decided:
            return None
        batches.require_attempt(conn, batch.batch_id, work.attempt.attempt_id)
        if decisions.is_lost(conn, decision_id):
            return None
        if batch.state is BatchState.HELD:
            _refuse(batch)
        if (now.next_turn, now.generation) != (dataset.next_turn, dataset.generation):
            return None
        _check_owned(conn, work, worked)
        is_held = bool(reasons) and not batches.read_attempt(conn, batch).released
        if is_held:
            _hold(conn, work, worked, message)
        else:
            _put_in_force(conn, work, dataset, worked, decision_id)
    if is_held:
        raise BatchHeld(message)
    return held.seconds


def _read_dataset(parts: Parts, work: Work) -> Dataset:
    with parts.catalog.begin() as conn:
        dataset = batches.read_dataset(conn, work.batch.dataset)
    if dataset is None:
        raise BatchNotRunnable(f"dataset {work.batch.dataset!r} is not in the catalog")
    if dataset.fingerprint not in (None, work.attempt.fingerprint):
        own = (dataset.fingerprint_detail or {}).get("name")
        raise FingerprintMismatch(
            f"batch {work.batch.batch_id} was embedded with"
            f" {work.attempt.fingerprint_detail['name']}, but the dataset has become {own}"
        )
    return dataset


def _write_rows(parts: Parts, work: Work, worked: Worked) -> int:
    """COPY the decision's rows into the final tables; nothing names them yet."""
    _delete_lost(parts, work)
    for table in ("samples", "matches"):
        ensure_month(parts.catalog, worked.month, table)
    with parts.catalog.begin() as conn:
        # no lock is held here, and millions of rows take their time between two COPYs
        sql.run(conn, "SET LOCAL idle_in_transaction_session_timeout = '1h'")
        decision_id = decisions.open_decision(conn, work.batch, worked.month)
        for table, rows in worked.rows(decision_id):
            parts.progress.start(f"write {table}", None)
            copy_table(conn, table, rows)
            parts.progress.done()
        decisions.add_sources(conn, decision_id, worked.by_source)
        publishing.add_plan(conn, decision_id, worked.plan, worked.planned)
    return decision_id


def _delete_left(parts: Parts, work: Work) -> None:
    """Delete what dead tries of a decided batch left; where nothing is, no lock is taken."""
    with parts.catalog.begin() as conn:
        left = decisions.has_others(conn, work.batch.batch_id)
    if left:
        _delete_lost(parts, work)


def _delete_lost(parts: Parts, work: Work) -> None:
    """Delete what earlier tries left: marked in a moment under the lock, deleted without it."""
    with parts.catalog.begin() as conn:
        batches.lock_dataset(conn, work.batch.dataset_id)
        decisions.give_up(conn, work.batch)
    with parts.catalog.begin() as conn:
        decisions.delete_lost(conn, work.batch)


def _check_owned(conn: Connection, work: Work, worked: Worked) -> None:
    lost = shards.lost_shards(
        conn, work.batch.dataset_id, work.batch.batch_id, work.attempt.attempt_id
    )
    if lost:
        raise BatchNotRunnable(
            f"{lost} source shards of batch {work.batch.batch_id} were taken over by another batch"
            " while this one was thought dead: run it again from plan"
        )
    if shards.queries_of(conn, work.attempt.attempt_id) != worked.files:
        raise CommitConflict(
            f"source shards were added to batch {work.batch.batch_id} while it was being decided:"
            " ingest, embed and match them first"
        )


def _guard(parts: Parts, work: Work, dataset: Dataset, worked: Worked) -> list[str]:
    """Why the batch should be held in this turn, whose history is what it is: no lock is needed."""
    with parts.catalog.begin() as conn:
        history = decisions.recent_decisions(conn, work.batch.dataset_id, dataset.next_turn, 14)
    return check(
        worked.counts,
        worked.by_source,
        [(past.counts, past.sources) for past in history],
        work.options.guard,
        supplement=work.batch.supplement > 0,
    )


_MOST_CODES = 8
"""Quarantine codes that a message lists."""


def _figures(parts: Parts, work: Work, reasons: Sequence[str], worked: Worked) -> str:
    """Why the guard holds the batch, an example of each fault, and which URLs name nothing."""
    said = list(reasons)
    faults = [
        (count, f"{source} has {count} {code}, e.g. {worked.examples[source][code]}")
        for source, counts in worked.by_source.items()
        for code, count in counts.codes.items()
    ]
    faults.sort(key=lambda fault: -fault[0])
    said += [text for _, text in faults[:_MOST_CODES]]
    silent = [s for s in work.options.sources if not worked.by_source[s.name].source_shards]
    if worked.counts.read == 0 or not work.batch.supplement:
        said += [
            f"no sample was found under the urls of {absent.source} ({', '.join(absent.urls)})"
            for absent in nothing_at(parts, work, silent)
        ]
    return "; ".join(said)


def _held_message(parts: Parts, work: Work, reasons: Sequence[str], worked: Worked) -> str:
    batch = work.batch.batch_id
    return (
        f"the guard holds batch {batch} ({work.batch.name}):"
        f" {_figures(parts, work, reasons, worked)}. If it is right as it is: sscd-ops batch"
        f" release {batch} --why '...', then clear resolve (or run it again); what is quarantined"
        f" stays so. If not: mend data or configuration, sscd-ops batch abandon {batch} --why"
        " '...' and run the night again (in Airflow: clear the run from plan). Until it is"
        " abandoned the batch keeps the configuration that it was planned with"
    )


def _hold(conn: Connection, work: Work, worked: Worked, message: str) -> None:
    decisions.hold(conn, work.batch, message)
    batches.add_event(
        conn,
        work.batch.dataset_id,
        "held",
        actor=str(work.batch.runner),
        why=message,
        batch_id=work.batch.batch_id,
        details=worked.figures(),
    )


def _put_in_force(
    conn: Connection, work: Work, dataset: Dataset, worked: Worked, decision_id: int
) -> None:
    generation = dataset.generation
    if worked.segment_rows:
        segment_id = decisions.add_segment(
            conn,
            work.batch,
            row_count=worked.segment_rows,
            dimensions=int(work.attempt.fingerprint_detail["dimensions"]),
            fingerprint=work.attempt.fingerprint,
            files=worked.segment_files,
        )
        generation += 1
        mask: StoredFile = worked.mask
        decisions.add_mask(conn, segment_id, generation, mask, worked.kept_rows)
    decisions.put_in_force(
        conn,
        work.batch,
        dataset,
        decision_id,
        counts=worked.counts,
        plan=worked.plan,
        fingerprint=work.attempt.fingerprint,
        fingerprint_detail=work.attempt.fingerprint_detail,
        generation=generation,
    )
    batches.add_event(
        conn,
        work.batch.dataset_id,
        "decided",
        actor=str(work.batch.runner),
        turn=dataset.next_turn,
        batch_id=work.batch.batch_id,
        details=worked.figures(),
    )


# ---------------------------------------------------------------- answering


def groups_of(shard_count: int, max_tasks: int) -> list[int]:
    """The publish groups of so many output shards."""
    return list(range(min(shard_count, max_tasks)))


def numbers_of(group: int, shard_count: int, max_tasks: int) -> range:
    """The output shards of a publish group."""
    groups = min(shard_count, max_tasks)
    return range(-(-group * shard_count // groups), -(-(group + 1) * shard_count // groups))


def _answer(parts: Parts, work: Work, watch: Stopwatch) -> ResolveReport:
    with parts.catalog.begin() as conn:
        raw = decisions.batch_row(conn, work.batch.batch_id)
        planned = publishing.output_shards(conn, raw["decision_id"])
        by_source = decisions.batch_sources(conn, raw["decision_id"])
    return ResolveReport(
        work.batch.batch_id,
        BatchState(raw["state"]),
        raw["turn"],
        groups_of(len(planned), work.options.airflow.max_tasks),
        decisions.counts_of(raw["counts"]),
        by_source,
        len(planned),
        answered=True,
        seconds=watch.seconds,
    )


def _dry(parts: Parts, work: Work, watch: Stopwatch) -> ResolveReport:
    """Work everything out and say so; no row, no turn, nothing to publish."""
    dataset = _read_dataset(parts, work)
    worked = work_out(parts, work, dataset)
    reasons = _guard(parts, work, dataset, worked)
    return ResolveReport(
        work.batch.batch_id,
        work.batch.state,
        None,
        [],
        worked.counts,
        worked.by_source,
        len(worked.planned),
        seconds=watch.seconds,
        message=f"the guard would hold it: {_figures(parts, work, reasons, worked)}"
        if reasons
        else "",
    )
