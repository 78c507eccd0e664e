"""publish: write the planned output shards, and the archive of what was removed.

A pure function of decisions in force; no lock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from sscd_ops.catalog import archive, decisions, events, output_shards, published
from sscd_ops.catalog.archive import ArchivedShard
from sscd_ops.catalog.decisions import Decision
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.errors import BatchNotRunnable, CommitConflict, FileMismatch, SourceChanged
from sscd_ops.model import StoredFile
from sscd_ops.steps.archiving import write_archived
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work
from sscd_ops.steps.publish_plan import numbers_of
from sscd_ops.steps.reports import StepReport
from sscd_ops.steps.shard_writing import SourceShards, write_shard

log = logging.getLogger(__name__)


def run(parts: Parts, batch_id: int, group: int) -> StepReport:
    """Write the output shards and archived shards of a group that are not registered yet.

    Every member is checked against its manifest digest.

    Raises:
        SourceChanged: a member is gone or differs; the batch becomes ``unpublishable`` until the
            original is back.
        FileMismatch: a manifest is lost and cannot be made anew; the batch likewise.
        BatchNotRunnable: the batch is not decided.
        CommitConflict: a shard was planned anew meanwhile (retried).
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    if not work.batch.state.is_decided:
        raise BatchNotRunnable(f"batch {batch_id} is {work.batch.state}: publish follows resolve")
    with parts.catalog.begin() as conn:
        decision_id = decisions.of_batch(conn, batch_id).decision_id
        shards = planned(conn, decision_id)
    numbers = numbers_of(group, len(shards), work.options.airflow.max_tasks)
    todo = [shards[n] for n in numbers if is_unwritten(shards[n])]
    sources = SourceShards(parts)
    total = {"shards": len(numbers), "written": len(todo), "samples": 0, "bytes": 0}
    total |= {"archived": 0, "archived_bytes": 0}
    parts.progress.start(f"publish {work.batch.dataset}", len(todo))
    for shard in todo:
        try:
            written = write_planned(parts, shard, sources)
        except (SourceChanged, FileMismatch) as error:
            said = (
                f"{error}; what is gone for good: sscd-ops batch repair {batch_id} --why '...'"
                " publishes the batch without it"
            )
            _unpublishable(parts, work, said)
            raise type(error)(said) from error
        samples, size = ("samples", "bytes")
        if isinstance(shard, ArchivedShard):
            samples, size = ("archived", "archived_bytes")
        total[samples] += shard.samples
        total[size] += written
        parts.progress.advance()
    parts.progress.done()
    return StepReport("publish", batch_id, total, watch.seconds, answered=not todo)


def _unpublishable(parts: Parts, work: Work, message: str) -> None:
    with parts.catalog.begin() as conn:
        if published.mark_unpublishable(conn, work.batch.batch_id, message):
            events.add_event(
                conn,
                work.batch.dataset_id,
                "unpublishable",
                actor=str(work.batch.runner),
                why=message,
                turn=work.batch.turn,
                batch_id=work.batch.batch_id,
            )


def planned(conn: Connection, decision_id: int) -> list[OutputShard | ArchivedShard]:
    """What a decision plans to have written: its output shards, then its archive."""
    return [
        *output_shards.planned_shards(conn, decision_id),
        *archive.of_decision(conn, decision_id),
    ]


def is_unwritten(shard: OutputShard | ArchivedShard) -> bool:
    """Whether it is to be written: one that lost all its samples before holds none."""
    if isinstance(shard, ArchivedShard):
        return shard.is_unwritten
    return not shard.files and shard.samples > 0


def write_planned(parts: Parts, shard: OutputShard | ArchivedShard, sources: SourceShards) -> int:
    """Write a planned shard and name its files; the bytes of its tar.

    Raises:
        SourceChanged: a member is gone from its source, or differs.
        FileMismatch: a manifest is lost and cannot be made anew.
        CommitConflict: it was planned anew meanwhile (retried).
    """
    conflict = CommitConflict(f"{shard.name} was planned anew meanwhile: write it again")
    try:
        if isinstance(shard, ArchivedShard):
            files = write_archived(parts, shard, sources)
        else:
            files = write_shard(parts, shard, sources)
    except (SourceChanged, FileMismatch) as error:
        # what a repair took out of it is no fault of what is left
        with parts.catalog.begin() as conn:
            if _is_planned(conn, shard):
                raise
        raise conflict from error
    with parts.catalog.begin() as conn:
        if not _register(conn, shard, files):
            raise conflict
    return files["tar"].bytes


def _is_planned(conn: Connection, shard: OutputShard | ArchivedShard) -> bool:
    if isinstance(shard, ArchivedShard):
        return archive.read(conn, shard.archive_id).name == shard.name
    return output_shards.is_planned(conn, shard.output_id, shard.name)


def _register(
    conn: Connection, shard: OutputShard | ArchivedShard, files: dict[str, StoredFile]
) -> bool:
    if isinstance(shard, ArchivedShard):
        return archive.register(conn, shard, files)
    return output_shards.register_output(conn, shard.output_id, files)


def write_others(parts: Parts, pending: Sequence[Decision]) -> list[int]:
    """Write what decisions without a batch planned; the numbers of those of which all is there.

    One whose source is gone is told, and waits: nothing else waits for it.
    """
    sources = SourceShards(parts)
    ready = []
    for decision in pending:
        with parts.catalog.begin() as conn:
            shards = output_shards.planned_shards(conn, decision.decision_id)
        try:
            for shard in filter(is_unwritten, shards):
                write_planned(parts, shard, sources)
        except (SourceChanged, FileMismatch) as error:
            log.warning("turn %d (%s) is not published: %s", decision.turn, decision.kind, error)
            continue
        ready.append(decision.decision_id)
    return ready
