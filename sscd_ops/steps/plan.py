"""plan: register a batch, claim its source shards and freeze its configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import batches, datasets, shards
from sscd_ops.errors import ConfigError, UsageError
from sscd_ops.model import Batch, BatchState, FoundShard, Interval, Runner, SourceShard
from sscd_ops.options import DatasetOptions, dataset_from_json
from sscd_ops.ports import Source
from sscd_ops.steps.choosing import choose_batch
from sscd_ops.steps.freezing import Model, find_model, open_attempt
from sscd_ops.steps.late import LateShard, find_late
from sscd_ops.steps.parts import Parts, Stopwatch, or_abandon
from sscd_ops.steps.snapshots import repair_latest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanReport:
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

    def summary(self) -> dict[str, Any]:
        """The report as plain values, for XCom."""
        return {
            "step": "plan",
            "batch_id": self.batch_id,
            "night": self.night,
            "state": str(self.state),
            "answered": self.answered,
            "waiting_for": self.waiting_for,
            "seconds": round(self.seconds, 3),
            **self.counts,
        }

    def funnel(self) -> str:
        """The report as one line."""
        counts = " ".join(f"{name}={count}" for name, count in self.counts.items())
        return (
            f"plan batch={self.batch_id} night={self.night} state={self.state} {counts}"
            f" seconds={self.seconds:.2f}"
        )


def run(
    parts: Parts,
    dataset: str,
    interval: Interval,
    *,
    runner: Runner,
    supplement: bool = False,
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
        dry_run: work on a private attempt that owns nothing and decides nothing.
        hold: called with the batch's number before anybody else can see it as this runner's; a
            command takes its advisory lock there.

    Raises:
        UsageError: no such dataset, or nothing there to supplement.
        ConfigError: a source's root changed.
        FingerprintMismatch: the configured model is not the dataset's.
        WeightsUnavailable: the model's weights are nowhere.
        BatchNotRunnable: another live run works on this batch.
    """
    watch = Stopwatch()
    options = _options(parts, dataset)
    asked = {"supplement": supplement, "dry_run": dry_run}
    batch = choose_batch(parts, options, interval, runner, hold, **asked)
    own = batch if batch.supplement and batch.state is BatchState.PUBLISHED else None
    if own is not None and _has_unread(parts, own, options):
        batch = choose_batch(parts, options, interval, runner, hold, **asked, anew=True)
    skipped: int | None = None
    while skipped is None:
        if batch.state.is_decided:
            return _answer(parts, batch, watch, skipped=0)
        seen = _look(parts, batch, options, interval)
        if seen.missing is not None:
            with parts.catalog.begin() as conn:
                batches.set_ready(conn, batch.batch_id, False)
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
        model = None if seen.is_frozen else find_model(parts, seen.options)
        with parts.catalog.begin() as conn:
            skipped = _register(parts, conn, batch, seen, model)
            if skipped is not None and _is_needless(conn, batch):
                return _nothing_new(conn, batch, watch, skipped)
            there = batches.is_there(conn, batch.batch_id)
            batch = batches.read_batch(conn, batch.batch_id) if there else batch
        if not there:  # another try of this very run found nothing to read and forgot it
            batch = choose_batch(parts, options, interval, runner, hold, **asked)
    repair_latest(parts, dataset)
    report = _report(parts, batch.batch_id, watch, skipped, late)
    for shard in report.late:
        log.warning(
            "source shard of an earlier interval was never read uri=%s date=%s supplement=%s",
            *(shard.uri, shard.date, shard.supplement),
        )
    return report


def _options(parts: Parts, dataset: str) -> DatasetOptions:
    settings = parts.settings
    if dataset in settings.faulty:
        raise ConfigError(settings.faulty[dataset])
    if dataset not in settings.datasets:
        known = ", ".join(sorted(settings.datasets)) or "none"
        raise UsageError(f"no dataset {dataset!r} in {settings.path}; it has: {known}")
    return settings.datasets[dataset]


def _frozen(parts: Parts, batch: Batch) -> DatasetOptions | None:
    """The configuration the batch's attempt froze, where it has one that still counts."""
    with parts.catalog.begin() as conn:
        if not _goes_on(conn, batch):
            return None
        return dataset_from_json(batches.read_attempt(conn, batch).config)


def _goes_on(conn: Connection, batch: Batch) -> bool:
    """Whether the batch has an attempt that was neither abandoned nor lost a file to another."""
    if not batch.attempt_id or batch.state is BatchState.ABANDONED:
        return False
    return batch.dry_run or not shards.lost_shards(
        conn, batch.dataset_id, batch.batch_id, batch.attempt_id
    )


@dataclass(frozen=True)
class _Seen:
    """What the sources have for the night, by the batch's frozen configuration or that of now."""

    attempt_id: int
    """The batch's attempt when it was looked at, 0 for none."""
    options: DatasetOptions
    is_frozen: bool
    """Whether ``options`` are those of that attempt, which goes on; else a new one follows."""
    sources: list[Source]
    missing: str | None
    """A URL that is waited for; then nothing was listed."""
    found: list[FoundShard]


def _look(parts: Parts, batch: Batch, options: DatasetOptions, interval: Interval) -> _Seen:
    """Look by the frozen configuration while its attempt can go on, else by that of now."""
    frozen = _frozen(parts, batch)
    if frozen is not None:
        with or_abandon(parts, batch.batch_id):
            seen = _list(parts, batch, frozen, interval, is_frozen=True)
        with parts.catalog.begin() as conn:
            registered = shards.shards_of(conn, batch.attempt_id)
        if not _delivered_anew(registered, seen.found):
            return seen
    return _list(parts, batch, options, interval, is_frozen=False)


def _list(
    parts: Parts, batch: Batch, options: DatasetOptions, interval: Interval, *, is_frozen: bool
) -> _Seen:
    sources = [parts.source(source, options.limits) for source in options.sources]
    for source in sources:
        missing = source.ready(interval, options.timezone)
        if missing is not None:
            return _Seen(batch.attempt_id, options, is_frozen, sources, missing, [])
    found = [shard for source in sources for shard in source.find(interval, options.timezone)]
    found.sort(key=lambda shard: (shard.source, shard.relative_uri))
    return _Seen(batch.attempt_id, options, is_frozen, sources, None, found)


def _delivered_anew(registered: Sequence[SourceShard], found: Sequence[FoundShard]) -> bool:
    """Whether a file of the batch's attempt has become another since.

    Then the attempt cannot be finished: what it read is gone, and beside its old version the new
    one would put the same samples into the batch twice. The batch needs a new attempt.
    """
    versions = {(s.source, s.relative_uri): s.version for s in registered}
    return any(
        versions.get((shard.source, shard.relative_uri), shard.version) != shard.version
        for shard in found
    )


def _has_unread(parts: Parts, batch: Batch, options: DatasetOptions) -> bool:
    """Whether files of the batch's interval came that no batch has read.

    A DAG run whose supplement is published is run again for these, by a reprocessing; where there
    are none it is a clear, which answers with that supplement.
    """
    sources = [parts.source(source, options.limits) for source in options.sources]
    found = [s for source in sources for s in source.find(batch.interval, options.timezone)]
    with parts.catalog.begin() as conn:
        return len(shards.owners(conn, batch.dataset_id, found)) < len(found)


def _is_needless(conn: Connection, batch: Batch) -> bool:
    """Whether this is a supplement that nobody has planned before and that has nothing to read."""
    if not batch.supplement or batch.attempt_id or batch.dry_run:
        return False
    return not shards.shards_of(conn, batches.read_batch(conn, batch.batch_id).attempt_id)


# ---------------------------------------------------------------- what it reads


def _register(
    parts: Parts,
    conn: Connection,
    batch: Batch,
    seen: _Seen,
    model: Model | None,
) -> int | None:
    """Claim and register shards under the lock; how many were skipped as read elsewhere.

    None, and nothing was done, where what was seen no longer holds: look again.
    """
    dataset = datasets.lock(conn, batch.dataset_id)
    if not batches.is_there(conn, batch.batch_id):
        return None
    batch = batches.read_batch(conn, batch.batch_id)
    if batch.state.is_decided:
        return 0
    if batch.attempt_id != seen.attempt_id:
        return None
    free, skipped = _free(parts, conn, batch, seen.found)
    attempt_id = batch.attempt_id
    registered = shards.shards_of(conn, attempt_id) if seen.is_frozen else []
    if seen.is_frozen:
        batches.set_ready(conn, batch.batch_id, True)
        if not _goes_on(conn, batch) or _delivered_anew(registered, seen.found):
            return None
        mine = {(s.source, s.relative_uri, s.version) for s in registered}
        free = [s for s in free if (s.source, s.relative_uri, s.version) not in mine]
        if free:
            batches.require_attempt(conn, batch.batch_id, attempt_id)
            batches.advance_state(
                conn, batch.batch_id, ("ingested", "embedded", "matched"), "planned"
            )
    else:
        if model is None or model.of != dataset.fingerprint:
            return None
        # an owner row left by the attempt before would keep its file from every later night
        batches.give_back_shards(conn, batch.batch_id)
        attempt_id = open_attempt(parts, conn, dataset, batch, seen.options, model, skipped)
    if not batch.dry_run:
        shards.claim(conn, dataset.dataset_id, batch.batch_id, attempt_id, free)
    shards.add_shards(conn, attempt_id, _place(free, registered, seen.options.airflow.max_tasks))
    return skipped


def _free(
    parts: Parts, conn: Connection, batch: Batch, found: Sequence[FoundShard]
) -> tuple[list[FoundShard], int]:
    """Shards this batch may read: unowned, its own, or a failed batch's; and how many are not."""
    owned = shards.owners(conn, batch.dataset_id, found)
    verdicts: dict[int, bool] = {batch.batch_id: True}
    free = []
    for shard in found:
        owner = owned.get((shard.source, shard.relative_uri, shard.version))
        if owner is not None and owner not in verdicts:
            verdicts[owner] = _gives_back(parts, conn, batches.read_batch(conn, owner))
        if owner is None or verdicts[owner]:
            free.append(shard)
    return free, len(found) - len(free)


def _gives_back(parts: Parts, conn: Connection, owner: Batch) -> bool:
    if owner.state is BatchState.ABANDONED:
        return True
    if owner.state.is_decided or owner.state is BatchState.HELD:
        return False
    if owner.attempt_id and batches.read_attempt(conn, owner).released:
        return False  # somebody has decided about these very files; its next run is to come
    return parts.is_alive(owner) is False


def _place(
    free: Sequence[FoundShard], registered: Sequence[Any], max_tasks: int
) -> list[tuple[FoundShard, int, int]]:
    """Give new shards groups and ordinals after those already registered."""
    first = max((shard.group for shard in registered), default=-1) + 1
    ordinal = max((shard.ordinal for shard in registered), default=-1) + 1
    groups = min(len(free), max(1, max_tasks - first))
    return [(shard, first + i * groups // len(free), ordinal + i) for i, shard in enumerate(free)]


# ---------------------------------------------------------------- what it says


def _nothing_new(conn: Connection, batch: Batch, watch: Stopwatch, skipped: int) -> PlanReport:
    """Forget the supplement just opened; answer with a batch to be published yet, or the last."""
    batches.forget_empty(conn, batch.batch_id)
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
        stuck = batches.batches_in_state(conn, batch.dataset_id, ("unpublishable",))
        decided = batches.batches_in_state(conn, batch.dataset_id, ("decided",))
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
