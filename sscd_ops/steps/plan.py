"""plan: register a batch, claim its source shards and freeze its configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, batches, dry_runs, shards, waiting
from sscd_ops.model import Batch, BatchState, Interval, Runner
from sscd_ops.options import DatasetOptions, Step
from sscd_ops.steps.choosing import choose_batch
from sscd_ops.steps.claiming import claim, has_unread, look
from sscd_ops.steps.freezing import model_for_attempt
from sscd_ops.steps.late import LateShard, find_late
from sscd_ops.steps.parts import Parts, Stopwatch, configured
from sscd_ops.steps.reading_again import Wanted, codes_asked
from sscd_ops.steps.reports import Report, in_line
from sscd_ops.steps.snapshots import check_pointer, repair_latest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanReport(Report):
    """What plan registered. ``groups`` are the numbers that ingest and embed work on."""

    batch_id: int
    state: BatchState
    groups: list[int]
    answered: bool = False
    """The batch is decided: nothing changed."""
    waiting_for: str | None = None
    """A URL that must exist first; the batch is registered and waits."""
    source_shards: int = 0
    skipped_shards: int = 0
    late: list[LateShard] = field(default_factory=list)
    """Source shards of the last ``late_days`` intervals that nobody has read."""
    unpublishable: list[int] = field(default_factory=list)
    """Decided batches of the dataset whose source changed before they were published."""
    seconds: float = 0.0
    night: str = ""
    """What ``--date`` takes for the night."""
    again: Wanted | None = None
    """What was found to be read again, where that was asked and not planned before."""
    step: Step = field(default="plan", init=False)

    @property
    def counts(self) -> dict[str, int]:
        """The report's numbers."""
        return {
            "source_shards": self.source_shards,
            "skipped_shards": self.skipped_shards,
            "groups": len(self.groups),
            "late": len(self.late),
            "unpublishable": len(self.unpublishable),
        }

    def _figures(self) -> dict[str, Any]:
        return {
            "night": self.night,
            "state": str(self.state),
            "answered": self.answered,
            "waiting_for": self.waiting_for,
            "seconds": round(self.seconds, 3),
            **self.counts,
        }

    def _line(self) -> str:
        stands = in_line({"night": self.night, "state": self.state, **self.counts})
        return f"{stands} seconds={self.seconds:.2f}"


def run(
    parts: Parts,
    dataset: str,
    interval: Interval,
    *,
    runner: Runner,
    supplement: bool = False,
    quarantined: bool = False,
    codes: Sequence[str] = (),
    dry_run: bool = False,
    hold: Callable[[int], None] | None = None,
) -> PlanReport:
    """Register the interval's batch and its source shards, or answer with the one there is.

    Args:
        parts: the joined parts.
        dataset: a dataset of the settings.
        interval: the night.
        runner: who runs the batch from now on.
        supplement: resume the interval's unfinished supplement, else open the next one.
        quarantined: it reads again what the interval's batches quarantined, past ownership.
        codes: of those the ones of these codes; none: all.
        dry_run: work on a private attempt that owns nothing and decides nothing.
        hold: called with the batch's number before anybody else can see it as this runner's; a
            command takes its advisory lock there.

    Raises:
        UsageError: no such dataset, nothing there to supplement, or no such code.
        ConfigError: a source's root changed.
        FingerprintMismatch: the configured model is not the dataset's.
        WeightsUnavailable: the model's weights are nowhere.
        BatchNotRunnable: another live run works on this batch.
    """
    watch = Stopwatch()
    again = codes_asked(supplement=supplement, quarantined=quarantined, codes=codes)
    options = configured(parts, dataset)
    with parts.catalog.begin() as conn:
        check_pointer(parts, conn, dataset)
    choose = partial(
        choose_batch,
        *(parts, options, interval, runner, hold),
        supplement=supplement,
        dry_run=dry_run,
        read_again=again,
    )
    batch = choose()
    own = batch if batch.supplement and batch.state is BatchState.PUBLISHED else None
    if own is not None and _has_more(parts, own, options, again):
        batch = choose(anew=True)
    skipped: int | None = None
    while skipped is None:
        if batch.state.is_decided:
            return _answer(parts, batch, watch, skipped=0)
        seen = look(parts, batch, options, again)
        if seen.missing is not None:
            with parts.catalog.begin() as conn:
                waiting.set_ready(conn, batch.batch_id, False)
            return PlanReport(
                batch.batch_id,
                batch.state,
                [],
                waiting_for=seen.missing,
                seconds=watch.seconds,
                night=batch.night,
            )
        late = find_late(parts, batch, seen.options, seen.sources, seen.found)
        # weights may have to be fetched: never under the lock
        model = None if seen.is_frozen else model_for_attempt(parts, seen.options)
        with parts.catalog.begin() as conn:
            skipped = claim(parts, conn, batch, seen, model)
            if skipped is not None and _is_needless(conn, batch):
                nothing = _nothing_new(conn, batch, watch, skipped)
                return replace(nothing, again=seen.again)
            there = batches.is_there(conn, batch.batch_id)
            batch = batches.read_batch(conn, batch.batch_id) if there else batch
        if not there:  # another try of this very run found nothing to read and forgot it
            batch = choose()
    repair_latest(parts, dataset)
    report = replace(_report(parts, batch.batch_id, watch, skipped, late), again=seen.again)
    for shard in report.late:
        log.warning(
            "source shard of an earlier interval was never read uri=%s date=%s supplement=%s",
            *(shard.uri, shard.date, shard.supplement),
        )
    return report


def _has_more(
    parts: Parts, own: Batch, options: DatasetOptions, again: tuple[str, ...] | None
) -> bool:
    """Whether a DAG run whose supplement is published has more to read, or other things."""
    with parts.catalog.begin() as conn:
        planned = attempts.read_attempt(conn, own).read_again
    if planned != again:
        return True
    return again is None and has_unread(parts, own, options)


def _is_needless(conn: Connection, batch: Batch) -> bool:
    """Whether this is a supplement that nobody has planned before and that has nothing to read."""
    if not batch.supplement or batch.attempt_id or batch.dry_run:
        return False
    return not shards.shards_of(conn, batches.read_batch(conn, batch.batch_id).attempt_id)


# ---------------------------------------------------------------- what it says


def _nothing_new(conn: Connection, batch: Batch, watch: Stopwatch, skipped: int) -> PlanReport:
    """Forget the supplement just opened; answer with a batch to be published yet, or the last."""
    dry_runs.forget_empty(conn, batch.batch_id)
    there = batches.batches_of_interval(conn, batch.dataset_id, batch.interval)
    unfinished = (BatchState.DECIDED, BatchState.UNPUBLISHABLE)
    last = next((other for other in there if other.state in unfinished), there[-1])
    log.info("nothing new for night=%s batch=%s skipped=%s", last.night, last.batch_id, skipped)
    return PlanReport(
        last.batch_id,
        last.state,
        [],
        answered=True,
        skipped_shards=skipped,
        seconds=watch.seconds,
        night=last.night,
    )


def _answer(parts: Parts, batch: Batch, watch: Stopwatch, skipped: int) -> PlanReport:
    """A decided batch changes nothing: its groups again, so that later steps answer too."""
    repair_latest(parts, batch.dataset)
    report = _report(parts, batch.batch_id, watch, skipped, [])
    return replace(report, answered=True)


def _report(
    parts: Parts, batch_id: int, watch: Stopwatch, skipped: int, late: list[LateShard]
) -> PlanReport:
    with parts.catalog.begin() as conn:
        batch = batches.read_batch(conn, batch_id)
        registered = shards.shards_of(conn, batch.attempt_id)
        stuck = batches.batches_in_state(conn, batch.dataset_id, BatchState.UNPUBLISHABLE)
        decided = batches.batches_in_state(conn, batch.dataset_id, BatchState.DECIDED)
    for other in stuck:
        log.warning("batch is unpublishable batch=%s message=%s", other.batch_id, other.message)
    for other in decided:
        is_left = other.runner == batch.runner and batch.runner != Runner("cli")
        if other.batch_id != batch_id and (is_left or parts.is_alive(other) is False):
            log.warning(
                "batch was decided by a run that ended before it was published: run it again"
                " batch=%s night=%s",
                *(other.batch_id, other.name),
            )
    return PlanReport(
        batch_id,
        batch.state,
        sorted({shard.group for shard in registered}),
        source_shards=len(registered),
        skipped_shards=skipped,
        late=late,
        unpublishable=[other.batch_id for other in stuck],
        seconds=watch.seconds,
        night=batch.night,
    )
