"""commit: make a batch's shards part of the dataset's next snapshot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    batches,
    decisions,
    dry_runs,
    events,
    output_shards,
    placements,
    published,
    searches,
    snapshots,
)
from sscd_ops.catalog.output_shards import ListedShard
from sscd_ops.errors import BatchNotRunnable, InvariantError
from sscd_ops.model import BatchState, StoredFile
from sscd_ops.options import Step
from sscd_ops.steps import turns
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work, write_bytes
from sscd_ops.steps.reports import Report, in_line
from sscd_ops.steps.rewriting import Replaced, without_slots
from sscd_ops.steps.snapshots import document, repair_latest, snapshot_name
from sscd_ops.steps.turns import Seen


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
        }

    def _line(self) -> str:
        told = ("state", "snapshot", "samples", "shards", "bytes")
        return in_line({name: getattr(self, name) for name in told})


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
        return replace(_answer(parts, work), answered=True, seconds=watch.seconds)
    if not work.batch.state.is_decided:
        raise BatchNotRunnable(
            f"batch {batch_id} is {work.batch.state}: it is committed once it is decided"
        )
    turns.make_snapshot(parts, _Snapshot(parts, work))
    repair_latest(parts, work.batch.dataset)
    return replace(_answer(parts, work), made_now=True, seconds=watch.seconds)


def mark_announced(parts: Parts, batch_id: int) -> None:
    """Store that the asset event of the batch's snapshot is out."""
    with parts.catalog.begin() as conn:
        published.mark_announced(conn, batch_id)


@dataclass(frozen=True)
class _Listed:
    """What the next snapshot holds, and its file; None where it would hold what this one does."""

    shards: Sequence[ListedShard]
    added: int
    replaced: Sequence[Replaced]
    file: StoredFile | None


class _Snapshot:
    """The snapshot that follows a batch's decision (``turns.SnapshotMaker``).

    The newest snapshot's shards, less what is not kept as of the newest turn, and those the
    decision adds.
    """

    def __init__(self, parts: Parts, work: Work) -> None:
        self._parts = parts
        self._work = work
        self.dataset_id = work.batch.dataset_id

    def work_out(self, seen: Seen) -> _Listed:
        batch, dataset = self._work.batch, seen.dataset
        with self._parts.catalog.begin() as conn:
            decision = decisions.of_batch(conn, batch.batch_id)
            listed = output_shards.listed_shards(
                conn, self.dataset_id, dataset.snapshot, decision.decision_id
            )
            lost = placements.lost_slots_in(
                conn, self.dataset_id, dataset.snapshot, decision.decision_id, dataset.turn
            )
            affected = output_shards.shards_of_numbers(conn, list(lost))
        mine = [shard for shard in listed if shard.decision_id == decision.decision_id]
        unwritten = [shard.number for shard in mine if shard.sha256 is None]
        if unwritten:
            raise BatchNotRunnable(
                f"batch {batch.batch_id}: output shards {unwritten[:10]} were not written:"
                " clear publish"
            )
        if decision.is_published or not (mine or lost):
            return _Listed(listed, 0, [], None)
        in_order = [affected[each.output_id] for each in listed if each.output_id in lost]
        replaced = without_slots(self._parts, batch.dataset, dataset.turn, in_order, lost)
        instead = {
            each.output_id: None if each.shard is None else output_shards.listed(each.shard)
            for each in replaced
        }
        listed = [
            shard for each in listed if (shard := instead.get(each.output_id, each)) is not None
        ]
        body = document(
            batch.dataset,
            dataset.snapshot + 1,
            parent=dataset.snapshot,
            batch=self._work.label,
            fingerprint=str(self._work.attempt.fingerprint),
            shards=listed,
        )
        name = snapshot_name(batch.dataset, dataset.snapshot + 1, hashlib.sha256(body).hexdigest())
        # the name says the content: other bytes there are those of a killed try or a bad disk
        file = self._parts.store.put_named(
            name, lambda stream: write_bytes(stream, body), over=True
        )
        return _Listed(listed, len(mine), replaced, file)

    def put(self, conn: Connection, seen: Seen, worked: _Listed) -> int:
        batch, dataset = self._work.batch, seen.dataset
        decision = decisions.of_batch(conn, batch.batch_id)
        if decision.is_published:
            return dataset.snapshot
        snapshot = None
        if worked.file is not None:
            snapshot = dataset.snapshot + 1
            snapshots.add_snapshot(
                conn,
                self.dataset_id,
                decision.decision_id,
                snapshot=snapshot,
                shards=worked.shards,
                file=worked.file,
                turn=dataset.turn,
            )
            for each in worked.replaced:
                output_shards.replace_shard(
                    conn, each.output_id, snapshot, shard=each.shard, slots=each.slots
                )
            published.mark_followed(conn, self.dataset_id, snapshot, dataset.turn)
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
        return dataset.snapshot if snapshot is None else snapshot


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
