"""commit: make a batch's shards part of the dataset's next snapshot."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    batches,
    decisions,
    dry_runs,
    events,
    published,
    recoverable,
    searches,
    snapshots,
)
from sscd_ops.catalog.recoverable import Recoverable
from sscd_ops.errors import BatchNotRunnable, InvariantError, SscdOpsError
from sscd_ops.model import BatchState
from sscd_ops.options import Step
from sscd_ops.steps import looking, turns
from sscd_ops.steps.next_snapshot import Listing, NextSnapshot
from sscd_ops.steps.orders.receipts import write_due
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work
from sscd_ops.steps.reports import Report, in_line
from sscd_ops.steps.snapshots import repair_latest
from sscd_ops.steps.turns import Seen

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommitReport(Report):
    """What the batch published."""

    batch_id: int
    state: BatchState
    snapshot: int | None
    """The snapshot this batch made; None where it added no shard."""
    parent: int = 0
    samples: int = 0
    shards: int = 0
    bytes: int = 0
    """``samples``, ``shards`` and ``bytes`` are the whole snapshot's."""
    location: str = ""
    announced: bool = False
    """The asset event of the snapshot is out."""
    made_now: bool = False
    answered: bool = False
    removed: Recoverable | None = None
    """What can be had of all that nights removed; None of a dry run."""
    seconds: float = 0.0
    step: Step = field(default="commit", init=False)

    def _figures(self) -> dict[str, Any]:
        return {
            "state": str(self.state),
            "snapshot": self.snapshot,
            "parent": self.parent,
            "samples": self.samples,
            "shards": self.shards,
            "bytes": self.bytes,
            "location": self.location,
            "answered": self.answered,
            "seconds": round(self.seconds, 3),
            **self._recoverable(),
        }

    def _recoverable(self) -> dict[str, Any]:
        if self.removed is None:
            return {}
        counts = {name: getattr(self.removed, name) for name in ("archive", "source", "gone")}
        since = self.removed.since
        return {"recoverable": counts | {"since": since and since.isoformat(timespec="seconds")}}

    def _line(self) -> str:
        told = ("state", "snapshot", "samples", "shards", "bytes")
        line = in_line({name: getattr(self, name) for name in told})
        return line if self.removed is None else f"{line}; {looking.said(self.removed)}"


def run(parts: Parts, batch_id: int) -> CommitReport:
    """Register the batch's shards in a new snapshot, or answer with the one it made.

    What is kept no longer as of the newest turn is left out: shards that hold some of it are
    written again without it, under new names. A batch that adds no shard makes no snapshot, unless
    there is such a shard, and ends published. A dry run is dropped; of a
    DAG run's the number stays until the run has ended, so that this task may be tried again.

    Raises:
        BatchNotRunnable: the batch is undecided, or a shard of its plan was not written.
        CommitConflict: other batches made snapshots many times over (retried).
    """
    watch = Stopwatch()
    with parts.catalog.begin() as conn:
        batch = batches.read_batch(conn, batch_id)
        if batch.dry_run:
            if batch.runner is not None and batch.runner.kind == "airflow":
                dry_runs.empty_dry_run(conn, batch_id)
            else:
                dry_runs.drop_dry_run(conn, batch_id)
            return CommitReport(batch_id, batch.state, None, seconds=watch.seconds)
    work = load_work(parts, batch_id)
    if work.batch.state is BatchState.PUBLISHED:
        repair_latest(parts, work.batch.dataset)
        write_due(parts, work.batch.dataset_id)
        answer = replace(_answer(parts, work), removed=looking.tell(parts, work.batch.dataset_id))
        return replace(answer, answered=True, seconds=watch.seconds)
    if not work.batch.state.is_decided:
        raise BatchNotRunnable(
            f"batch {batch_id} is {work.batch.state}: it is committed once it is decided"
        )
    with parts.catalog.begin() as conn:
        recoverable.count_removed(conn, decisions.of_batch(conn, batch_id).decision_id)
    turns.make_snapshot(parts, _Commit(parts, work))
    repair_latest(parts, work.batch.dataset)
    write_due(parts, work.batch.dataset_id)
    answer = replace(_answer(parts, work), removed=_look(parts, work.batch.dataset_id))
    return replace(answer, made_now=True, seconds=watch.seconds)


def _look(parts: Parts, dataset_id: int) -> Recoverable | None:
    """Look at a few sources; what can be had of what was removed. The night is published."""
    try:
        looking.look(parts, dataset_id, looking.A_NIGHT)
        return looking.tell(parts, dataset_id)
    except SscdOpsError as error:
        log.warning("sources of what was removed were not looked at: %s", error)
        return None


def mark_announced(parts: Parts, batch_id: int) -> None:
    """Store that the asset event of the batch's snapshot is out."""
    with parts.catalog.begin() as conn:
        published.mark_announced(conn, decisions.of_batch(conn, batch_id).decision_id)


class _Commit(NextSnapshot):
    """The snapshot that publishes a night."""

    def __init__(self, parts: Parts, work: Work) -> None:
        super().__init__(parts, work.batch.dataset_id, work.batch.batch_id)
        self._work = work

    def put(self, conn: Connection, seen: Seen, worked: Listing) -> int:
        batch = self._work.batch
        decision = decisions.of_batch(conn, batch.batch_id)
        if decision.is_published:
            return seen.dataset.snapshot
        newest = super().put(conn, seen, worked)
        snapshot = None if worked.file is None else newest
        published.mark_published(conn, decision.decision_id, snapshot)
        searches.drop_searches(conn, batch.batch_id)
        events.add_event(
            conn,
            batch.dataset_id,
            "published",
            actor=str(batch.runner),
            turn=decision.turn,
            batch_id=batch.batch_id,
            details={"snapshot": snapshot, "shards": worked.added}
            | ({"rewritten": len(worked.replaced)} if worked.replaced else {}),
        )
        return newest


def _answer(parts: Parts, work: Work) -> CommitReport:
    with parts.catalog.begin() as conn:
        state = batches.read_batch(conn, work.batch.batch_id).state
        decision = decisions.of_batch(conn, work.batch.batch_id)
        if decision.snapshot is None:
            return CommitReport(work.batch.batch_id, state, None)
        made = snapshots.read_snapshot(conn, work.batch.dataset_id, decision.snapshot)
    if made is None:
        raise InvariantError(
            f"snapshot {decision.snapshot} of {work.batch.dataset} is not registered"
        )
    return CommitReport(
        work.batch.batch_id,
        state,
        decision.snapshot,
        parent=made.parent,
        samples=made.samples,
        shards=made.shards,
        bytes=made.bytes,
        location=parts.store.url(made.file.name),
        announced=decision.announced,
    )
