"""commit: make a batch's shards part of the dataset's next snapshot."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from typing import Any

from sscd_ops.catalog import batches, decisions, publishing
from sscd_ops.catalog.sql import files_of, need_file
from sscd_ops.errors import BatchNotRunnable, CommitConflict, InvariantError
from sscd_ops.model import BatchState, StoredFile
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work, write_bytes
from sscd_ops.steps.snapshots import (
    batch_name,
    document,
    repair_latest,
    snapshot_name,
)

log = logging.getLogger(__name__)

_TRIES = 20


@dataclass(frozen=True)
class CommitReport:
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

    def summary(self) -> dict[str, Any]:
        """The report as plain values, for XCom."""
        return {
            "step": "commit",
            "batch_id": self.batch_id,
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

    def funnel(self) -> str:
        """The report as one line."""
        return (
            f"commit batch={self.batch_id} state={self.state} snapshot={self.snapshot}"
            f" samples={self.samples} shards={self.shards} bytes={self.bytes}"
        )


def run(parts: Parts, batch_id: int) -> CommitReport:
    """Register the batch's shards in a new snapshot, or answer with the one it made.

    A batch that adds no shard makes no snapshot and ends published. A dry run is dropped; of a
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
                batches.empty_dry_run(conn, batch_id)
            else:
                batches.drop_dry_run(conn, batch_id)
            return CommitReport(batch_id, batch.state, None, seconds=watch.seconds)
    work = load_work(parts, batch_id)
    if work.batch.state is BatchState.PUBLISHED:
        repair_latest(parts, work.batch.dataset)
        return replace(_answer(parts, work), answered=True, seconds=watch.seconds)
    if not work.batch.state.is_decided:
        raise BatchNotRunnable(
            f"batch {batch_id} is {work.batch.state}: it is committed once it is decided"
        )
    for _ in range(_TRIES):
        if _try(parts, work):
            repair_latest(parts, work.batch.dataset)
            return replace(_answer(parts, work), made_now=True, seconds=watch.seconds)
    raise CommitConflict(f"batch {batch_id}: others made snapshots {_TRIES} times; try again")


def mark_announced(parts: Parts, batch_id: int) -> None:
    """Store that the asset event of the batch's snapshot is out."""
    with parts.catalog.begin() as conn:
        publishing.mark_announced(conn, batch_id)


def _try(parts: Parts, work: Work) -> bool:
    """Write the snapshot's file, then register it if nobody was quicker."""
    batch = work.batch
    with parts.catalog.begin() as conn:
        raw = decisions.batch_row(conn, batch.batch_id)
        mine = publishing.output_shards(conn, raw["decision_id"])
        dataset = batches.read_dataset(conn, batch.dataset)
        if dataset is None:
            raise InvariantError(f"dataset {batch.dataset} vanished from the catalog")
        before = publishing.live_shards(conn, batch.dataset_id, dataset.snapshot)
    unwritten = [shard["number"] for shard in mine if shard["files"] is None]
    if unwritten:
        raise BatchNotRunnable(
            f"batch {batch.batch_id}: output shards {unwritten[:10]} were not written:"
            " clear publish"
        )
    named = {"label": raw["label"], "supplement": raw["supplement"], "turn": raw["turn"]}
    listed = [*before, *({**shard, **named} for shard in mine)]
    # in turn order, whatever order batches commit in
    listed.sort(key=lambda shard: (shard["turn"], shard["number"]))
    snapshot = dataset.snapshot + 1
    file = None
    if mine:
        body = document(
            batch.dataset,
            snapshot,
            parent=dataset.snapshot,
            batch=batch_name(raw["label"], raw["supplement"]),
            fingerprint=work.attempt.fingerprint_detail["name"],
            shards=listed,
        )
        name = snapshot_name(batch.dataset, snapshot, hashlib.sha256(body).hexdigest())
        # the name says the content: other bytes there are those of a killed try or a bad disk
        file = parts.store.put_named(name, lambda stream: write_bytes(stream, body), over=True)
    with parts.catalog.begin() as conn:
        now = batches.lock_dataset(conn, batch.dataset_id)
        raw = decisions.batch_row(conn, batch.batch_id)
        if raw["state"] == "published":
            return True
        if raw["last_change"] != raw["turn"]:
            raise InvariantError(
                f"a later turn changed verdicts of batch {batch.batch_id} before it was published;"
                " this release has no verb that does"
            )
        if now.snapshot != dataset.snapshot:
            return False
        if file is not None:
            _register(conn, work, raw, listed, snapshot, dataset.snapshot, file)
        publishing.finish_batch(conn, batch.batch_id, snapshot if file else None)
        batches.add_event(
            conn,
            batch.dataset_id,
            "published",
            actor=str(batch.runner),
            turn=raw["turn"],
            batch_id=batch.batch_id,
            details={"snapshot": snapshot if file else None, "shards": len(mine)},
        )
    return True


def _register(
    conn: Any,
    work: Work,
    raw: Any,
    listed: list[Any],
    snapshot: int,
    parent: int,
    file: StoredFile,
) -> None:
    publishing.add_snapshot(
        conn,
        work.batch,
        raw["decision_id"],
        snapshot=snapshot,
        parent=parent,
        samples=sum(shard["samples"] for shard in listed),
        shards=len(listed),
        size=sum(files_of(shard["files"])["tar"].bytes for shard in listed),
        file=file,
        turn=raw["turn"],
    )


def _answer(parts: Parts, work: Work) -> CommitReport:
    with parts.catalog.begin() as conn:
        raw = decisions.batch_row(conn, work.batch.batch_id)
        if raw["snapshot"] is None:
            return CommitReport(work.batch.batch_id, BatchState(raw["state"]), None)
        made = publishing.read_snapshot(conn, work.batch.dataset_id, raw["snapshot"])
    if made is None:
        raise InvariantError(
            f"snapshot {raw['snapshot']} of {work.batch.dataset} is not registered"
        )
    return CommitReport(
        work.batch.batch_id,
        BatchState(raw["state"]),
        raw["snapshot"],
        parent=made["parent"],
        samples=made["samples"],
        shards=made["shards"],
        bytes=made["bytes"],
        location=parts.store.url(need_file(made["file"]).name),
        announced=raw["announced"],
    )
