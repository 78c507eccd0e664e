"""batch repair: the way on for a decided night of which source bytes are gone for good.

What is lost is found by reading, as publish does. Then a decision of its own takes a turn
(``steps.repair_turn``), the night's unwritten shards are planned anew with it, and what is left is
published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from sqlalchemy.engine import Connection

from sscd_ops.catalog import batches, datasets, decisions, output_shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.locks import CLI_LOCK
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import PlacedSample, Slot, samples_of_output
from sscd_ops.errors import BatchNotRunnable, SourceChanged, SscdOpsError
from sscd_ops.model import Batch, BatchState
from sscd_ops.steps import commit, publish, turns
from sscd_ops.steps.archiving import take_out, unarchivable
from sscd_ops.steps.choosing import run_by_another
from sscd_ops.steps.manage import need_reason
from sscd_ops.steps.next_snapshot import publish_others
from sscd_ops.steps.parts import Parts, load_work
from sscd_ops.steps.publish_plan import groups_of
from sscd_ops.steps.repair_turn import Lost, Outcome, Repair, Repaired
from sscd_ops.steps.rewriting import slots_of
from sscd_ops.steps.snapshots import check_root, repair_latest
from sscd_ops.steps.still_there import StillThere
from sscd_ops.steps.turns import Seen


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did, in a sentence; ``outcomes``: what became of what is lost."""

    said: str
    outcomes: list[Outcome] = field(default_factory=list)


def run(
    parts: Parts,
    batch_id: int,
    *,
    actor: str,
    why: str,
    dry_run: bool = False,
    empty_root: bool = False,
) -> RepairReport:
    """Decide what becomes of what is lost of a night, and publish what is left.

    Killed anywhere, it goes on when it is run again.

    Args:
        parts: the real parts.
        batch_id: the night.
        actor: who repairs it.
        why: and why.
        dry_run: only say what would become of what; nothing is decided, written or published.
        empty_root: what is lost is lost also where nothing at all is at the root of its source.

    Raises:
        UsageError: no reason given.
        BatchNotRunnable: there is nothing to repair; another command runs the batch; a source's
            root is empty.
        SourceChanged: more was lost meanwhile: run it again.
        CommitConflict: others were quicker many times over (retried).
    """
    need_reason(actor, why)
    with parts.catalog.begin() as conn:
        batches.read_batch(conn, batch_id)
    with parts.catalog.locks() as locks:
        if not locks.take(CLI_LOCK, batch_id):
            raise run_by_another(batch_id)

        def keep() -> None:
            if not locks.keep():
                raise run_by_another(batch_id)

        with parts.catalog.begin() as conn:
            batch = batches.read_batch(conn, batch_id)
            dataset = datasets.of_number(conn, batch.dataset_id)
            check_root(parts, conn, dataset)
            unwritten = _unwritten(conn, batch)
        there = StillThere(parts)
        lost = _find_lost(parts, there, unwritten)
        archived = _unarchivable(parts, there, batch)
        if not empty_root:
            gone = chain((each.sample for each in lost), *archived.values())
            _need_roots(parts, dataset, there, list(gone))
        key = _keys_of(batch)
        repair = Repair(parts, batch, key, there, lost, actor=actor, why=why, dry_run=dry_run)
        if dry_run:
            worked = repair.work_out(Seen(dataset), None) if lost else None
            return _would_be(batch, worked, _not_archived(there, archived))
        for archive_id, samples in archived.items():
            take_out(parts, archive_id, {sample.sample_id for sample in samples})
        not_archived = _not_archived(there, archived)
        if not lost:
            turns.forget_tries(parts, repair)
            return RepairReport(f"{_nothing(batch)}: {_publish(parts, batch)}", not_archived)
        try:
            taken = turns.take(parts, repair, keep)
        except SscdOpsError:
            turns.forget_tries(parts, repair)
            raise
        if taken is None or repair.worked is None:
            return RepairReport(f"another command decided the same: {_publish(parts, batch)}")
        said = f"turn {taken.turn}; {_publish(parts, batch)}"
        return RepairReport(said, [*repair.worked.outcomes, *not_archived])


def _nothing(batch: Batch) -> str:
    return f"nothing that batch {batch.batch_id} ({batch.name}) is to publish is lost"


def _would_be(batch: Batch, worked: Repaired | None, not_archived: list[Outcome]) -> RepairReport:
    if worked is None:
        said = f"dry run: {_nothing(batch)}; without --dry-run it is published"
        return RepairReport(said, not_archived)
    said = "dry run: nothing was decided or published"
    return RepairReport(said, [*worked.outcomes, *not_archived])


def _keys_of(batch: Batch) -> str:
    """What the client keys of a night's repairs begin with."""
    return f"repair batch {batch.batch_id} "


def _unwritten(conn: Connection, batch: Batch) -> list[OutputShard]:
    """The output shards of a night, and of its repairs so far, that are to be written yet.

    Raises:
        BatchNotRunnable: there is nothing to repair.
    """
    repairs = decisions.of_keys(conn, batch.dataset_id, _keys_of(batch))
    waiting = [decision.decision_id for decision in repairs if not decision.is_published]
    # decided: it was repaired, and is to be published yet
    if batch.state is BatchState.UNPUBLISHABLE or (batch.state is BatchState.DECIDED and repairs):
        waiting.append(decisions.of_batch(conn, batch.batch_id).decision_id)
    if not (waiting or repairs):  # one that was repaired and published is answered
        to_do = "run its night again to publish it" if batch.state is BatchState.DECIDED else ""
        raise BatchNotRunnable(
            f"batch {batch.batch_id} ({batch.name}) is {batch.state}, not unpublishable: there is"
            f" nothing to repair ({to_do or '`sscd-ops batch list` shows which are'})"
        )
    planned = chain.from_iterable(output_shards.planned_shards(conn, d) for d in waiting)
    return [shard for shard in planned if publish.is_unwritten(shard)]


def _find_lost(parts: Parts, there: StillThere, unwritten: Sequence[OutputShard]) -> list[Lost]:
    """All samples of some output shards that cannot be had, not the first of them alone.

    Raises:
        BatchNotRunnable: the month of some was detached.
    """
    placed: list[tuple[OutputShard, Slot, PlacedSample]] = []
    for shard in unwritten:
        slots = slots_of(parts, shard.output_id)
        with parts.catalog.begin() as conn:
            samples = samples_of_output(conn, shard.output_id)
        if len(samples) != len(slots):
            raise BatchNotRunnable(
                f"{shard.name} cannot be written, for the month of its samples was detached:"
                " attach it again"
            )
        placed += [(shard, *each) for each in zip(slots, samples, strict=True)]
    gone = there.gone(sample for _, _, sample in placed)
    return [
        Lost(shard, slot, sample, gone[sample.sample_id])
        for shard, slot, sample in placed
        if sample.sample_id in gone
    ]


def _unarchivable(parts: Parts, there: StillThere, batch: Batch) -> dict[int, list[PlacedSample]]:
    """What the night's archive was to hold and cannot, by archived shard."""
    if batch.state is BatchState.PUBLISHED:
        return {}
    with parts.catalog.begin() as conn:
        decision_id = decisions.of_batch(conn, batch.batch_id).decision_id
    return unarchivable(parts, there, decision_id)


def _not_archived(there: StillThere, archived: Mapping[int, list[PlacedSample]]) -> list[Outcome]:
    samples = list(chain(*archived.values()))
    why = there.gone(samples)
    return [
        Outcome("not archived", s.relative_uri, s.key, str(s.sample_id), why[s.sample_id])
        for s in samples
    ]


def _need_roots(
    parts: Parts, dataset: Dataset, there: StillThere, lost: Sequence[PlacedSample]
) -> None:
    """Refuse to give up what lies on a disk that is not mounted: no later turn brings it back.

    Raises:
        BatchNotRunnable: nothing at all is at the root of a source that lost samples.
    """
    read = there.sources.of(lost)
    for source in sorted({read[each.shard_id][1].source for each in lost}):
        root = dataset.roots[source]
        if parts.is_empty(root):
            raise BatchNotRunnable(
                f"nothing at all is at {root}, the root of source {source!r}: is it mounted? Mount"
                " it, then run the night again; if everything there is gone for good:"
                f" sscd-ops batch repair --empty-root, with the same arguments"
            )


def _publish(parts: Parts, batch: Batch) -> str:
    """Publish a night and its repairs; what to say of it.

    Raises:
        SourceChanged: a source went meanwhile.
    """
    with parts.catalog.begin() as conn:
        now = batches.read_batch(conn, batch.batch_id)
        decision = decisions.of_batch(conn, batch.batch_id)
        planned = len(publish.planned(conn, decision.decision_id))
    if now.state is not BatchState.PUBLISHED:
        work = load_work(parts, batch.batch_id)
        for group in groups_of(planned, work.options.airflow.max_tasks):
            publish.run(parts, batch.batch_id, group)
        commit.run(parts, batch.batch_id)
    publish_others(parts, batch.dataset_id)
    repair_latest(parts, batch.dataset)
    with parts.catalog.begin() as conn:
        newest = datasets.of_number(conn, batch.dataset_id)
        pending = decisions.pending_others(conn, batch.dataset_id, newest.turn)
        mine = {d.decision_id for d in decisions.of_keys(conn, batch.dataset_id, _keys_of(batch))}
    for decision in pending:
        if decision.decision_id in mine:
            raise SourceChanged(
                f"turn {decision.turn}, which repairs batch {batch.batch_id}, is not published: a"
                f" source went meanwhile. Run it again: sscd-ops batch repair {batch.batch_id}"
                " --why '...'"
            )
    return f"snapshot {newest.snapshot} of {batch.dataset} has all that is left"
