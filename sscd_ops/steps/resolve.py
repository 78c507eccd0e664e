"""resolve: decide a batch, in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    archive,
    attempts,
    batches,
    datasets,
    decisions,
    events,
    output_shards,
    segments,
    shards,
)
from sscd_ops.catalog.locks import RESOLVE_LOCK, LockSession
from sscd_ops.core.guard import check
from sscd_ops.errors import BatchHeld, BatchNotRunnable, CommitConflict, FingerprintMismatch
from sscd_ops.model import BatchState, Counts
from sscd_ops.options import Step
from sscd_ops.steps import history, turns
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work, with_abandon
from sscd_ops.steps.publish_plan import groups_of
from sscd_ops.steps.reports import Report
from sscd_ops.steps.sources import nothing_at, require_sources
from sscd_ops.steps.turns import Made, Record, Seen
from sscd_ops.steps.working import Worked, work_out

_PATIENCE = 900.0
"""Seconds to wait for another process that decides the same batch."""


@dataclass(frozen=True)
class ResolveReport(Report):
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
    step: Step = field(default="resolve", init=False)

    def _figures(self) -> dict[str, Any]:
        return {
            "state": str(self.state),
            "turn": self.turn,
            "answered": self.answered,
            "seconds": round(self.seconds, 3),
            "lock_seconds": round(self.lock_seconds, 3),
            "message": self.message,
            "shards": self.shards,
            **self.counts.plain(),
        }

    def _line(self) -> str:
        c = self.counts
        return (
            f"turn={self.turn} read={c.read} quarantined={c.quarantined} exact={c.removed_exact}"
            f" near={c.removed_near} perceptual={c.removed_perceptual} kept={c.kept}"
            f" plain={c.kept_plain} known={c.known} shards={self.shards}"
            f" seconds={self.seconds:.2f}" + (f" ({self.message})" if self.message else "")
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
        locks.take(RESOLVE_LOCK, batch_id, wait=_PATIENCE)
        work = load_work(parts, batch_id)
        night = Night(parts, work)
        if work.batch.state.is_decided:
            night.forget_left()
            return _answer(parts, work, watch)
        if work.batch.state is BatchState.ABANDONED:
            raise BatchNotRunnable(f"batch {batch_id} is abandoned: run its night again from plan")
        if work.batch.dry_run:
            return _dry(parts, night, watch)
        taken = turns.take(parts, night, lambda: _keep(parts, locks, batch_id))
    answer = _answer(parts, load_work(parts, batch_id), watch)
    if taken is None:
        return answer
    return replace(answer, answered=False, seconds=watch.seconds, lock_seconds=taken.lock_seconds)


def _keep(parts: Parts, locks: LockSession, batch_id: int) -> None:
    """Whoever lost its session lock must not go on beside the one that has it."""
    if locks.keep():
        return
    with parts.catalog.begin() as conn:
        if batches.read_batch(conn, batch_id).state.is_decided:
            return  # by that one
    raise BatchNotRunnable(
        f"another command runs batch {batch_id} by now: wait for its end, then run the night again"
    )


class Night:
    """A batch as what takes a turn (``turns.Decider``)."""

    def __init__(self, parts: Parts, work: Work) -> None:
        self._parts = parts
        self.work = work
        self.dataset_id = work.batch.dataset_id
        self.origins = history.banks_of(work)

    def is_settled(self, conn: Connection) -> bool:
        """Whether it is decided.

        A process whose connection broke while it worked does not know that it lost its session
        lock: whatever that was to prevent is asked here.
        """
        batch = batches.lock_batch(conn, self.work.batch.batch_id)
        if batch.state.is_decided:
            return True
        attempts.require_attempt(conn, batch.batch_id, self.work.attempt.attempt_id)
        if batch.state is BatchState.HELD:
            raise BatchHeld(batch.message)
        return False

    def work_out(self, seen: Seen, before: Worked | None) -> Worked:
        """Decide its samples for the dataset as it was seen."""
        dataset, work = seen.dataset, self.work
        own, mine = dataset.fingerprint, work.attempt.fingerprint
        if own is not None and own.digest != mine.digest:
            raise FingerprintMismatch(
                f"batch {work.batch.batch_id} was embedded with {mine}, but the dataset has become"
                f" {own}"
            )
        return work_out(self._parts, work, dataset, before)

    def month(self, worked: Worked) -> date:
        """That in which it was worked out."""
        return worked.made.month

    def open(self, conn: Connection, worked: Worked) -> int:
        """A new number, the counts by source, the output shards and the archive."""
        decision_id = decisions.open_night(conn, self.work.batch, worked.made.month)
        decisions.add_sources(conn, decision_id, worked.by_source)
        plan = worked.publish
        output_shards.add_plan(conn, decision_id, worked.made.turn, plan.digest, plan.shards)
        archive.add_plan(conn, decision_id, worked.archived)
        return decision_id

    def rows(self, worked: Worked, decision_id: int) -> Iterator[tuple[str, Made]]:
        """Those of its samples and images."""
        return worked.rows(decision_id)

    def give_up(self, conn: Connection) -> None:
        """Mark other tries at the batch as lost."""
        decisions.give_up(conn, self.work.batch)

    def forget_left(self) -> None:
        """Delete what dead tries left of a decided batch; where nothing is, no lock is taken."""
        with self._parts.catalog.begin() as conn:
            left = decisions.has_tries(conn, self.work.batch.batch_id)
        if left:
            turns.forget_tries(self._parts, self)

    def guard(self, seen: Seen, worked: Worked) -> str:
        """Why the batch should be held in this turn, whose history is what it is."""
        require_sources(self._parts, self.work)
        figures = self.unusual(seen, worked)
        batch = self.work.batch
        return figures and (
            f"the guard holds batch {batch.batch_id} ({batch.name}): {figures}. If it is right as"
            f" it is: sscd-ops batch release {batch.batch_id} --why '...', then clear resolve (or"
            " run it again); what is quarantined stays so. If not: mend data or configuration,"
            f" sscd-ops batch abandon {batch.batch_id} --why '...' and run the night again (in"
            " Airflow: clear the run from plan). Until it is abandoned the batch keeps the"
            " configuration that it was planned with"
        )

    def unusual(self, seen: Seen, worked: Worked) -> str:
        """What the guard finds, in words; empty where it finds nothing."""
        with self._parts.catalog.begin() as conn:
            before = decisions.recent_nights(conn, self.dataset_id, seen.dataset.next_turn, 14)
        reasons = check(
            worked.counts,
            worked.by_source,
            [(past.counts, past.sources) for past in before],
            self.work.options.guard,
            supplement=self.work.batch.supplement > 0,
            read_again=self.work.attempt.read_again is not None,
        )
        return _unusual(self._parts, self.work, reasons, worked) if reasons else ""

    def hold(self, conn: Connection, worked: Worked, message: str) -> BatchHeld | None:
        """Store that the guard holds it, unless this attempt was released."""
        batch = self.work.batch
        if attempts.read_attempt(conn, batch).released:
            return None
        decisions.hold(conn, batch, message)
        events.add_event(
            conn,
            batch.dataset_id,
            "held",
            actor=str(batch.runner),
            why=message,
            batch_id=batch.batch_id,
            details=worked.figures(),
        )
        return BatchHeld(message)

    def admit(self, conn: Connection, worked: Worked) -> None:
        """Refuse what was worked out from source shards that are no longer the batch's own."""
        batch_id, attempt_id = self.work.batch.batch_id, self.work.attempt.attempt_id
        lost = shards.lost_shards(conn, self.dataset_id, batch_id, attempt_id)
        if lost:
            raise BatchNotRunnable(
                f"{lost} source shards of batch {batch_id} were taken over by another batch"
                " while this one was thought dead: run it again from plan"
            )
        if shards.files_digest(conn, attempt_id) != worked.files:
            raise CommitConflict(
                f"source shards were added to batch {batch_id} while it was being decided:"
                " ingest, embed and match them first"
            )

    def put(self, conn: Connection, worked: Worked, decision_id: int, generation: int) -> bool:
        """Name the decision the batch's, and its segment and masks."""
        attempt = self.work.attempt
        decisions.decide_batch(conn, self.work.batch, decision_id)
        datasets.set_fingerprint(conn, self.dataset_id, attempt.attempt_id)
        masks = dict(worked.masks)
        if worked.segment_rows:
            segment_id = segments.add_segment(
                conn,
                self.dataset_id,
                decision_id,
                row_count=worked.segment_rows,
                dimensions=attempt.fingerprint.dimensions,
                fingerprint=attempt.fingerprint.digest,
                files=worked.segment_files,
            )
            masks[segment_id] = worked.mask, worked.kept_rows
        for segment_id, (mask, kept) in masks.items():
            segments.add_mask(conn, segment_id, generation, mask, kept)
        return bool(masks)

    def record(self, worked: Worked) -> Record:
        """By its runner; the counts."""
        return Record(
            actor=str(self.work.batch.runner),
            why="",
            config_sha256=self.work.attempt.config_sha256,
            counts=worked.counts.plain(),
            details=worked.figures(),
            batch_id=self.work.batch.batch_id,
        )


_MOST_CODES = 8
"""Quarantine codes that a message lists."""


def _unusual(parts: Parts, work: Work, reasons: Sequence[str], worked: Worked) -> str:
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


# ---------------------------------------------------------------- answering


def _answer(parts: Parts, work: Work, watch: Stopwatch) -> ResolveReport:
    with parts.catalog.begin() as conn:
        state = batches.read_batch(conn, work.batch.batch_id).state
        decision = decisions.of_batch(conn, work.batch.batch_id)
        planned = output_shards.planned_shards(conn, decision.decision_id)
        archived = archive.of_decision(conn, decision.decision_id)
        by_source = decisions.sources_of(conn, decision.decision_id)
    return ResolveReport(
        work.batch.batch_id,
        state,
        decision.turn,
        groups_of(len(planned) + len(archived), work.options.airflow.max_tasks),
        decision.counts,
        by_source,
        len(planned),
        answered=True,
        seconds=watch.seconds,
    )


def _dry(parts: Parts, night: Night, watch: Stopwatch) -> ResolveReport:
    """Work everything out and say so; no row, no turn, nothing to publish."""
    with parts.catalog.begin() as conn:
        night.is_settled(conn)
        seen = Seen(datasets.of_number(conn, night.dataset_id))
    worked = night.work_out(seen, None)
    figures = night.unusual(seen, worked)
    work = night.work
    return ResolveReport(
        work.batch.batch_id,
        work.batch.state,
        None,
        [],
        worked.counts,
        worked.by_source,
        len(worked.publish.shards),
        seconds=watch.seconds,
        message=f"the guard would hold it: {figures}" if figures else "",
    )
