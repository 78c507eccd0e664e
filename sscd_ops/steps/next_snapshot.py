"""The next snapshot: what the newest one holds, less what is kept no longer, and what is new.

Every snapshot is made here, whoever makes it: a night's commit, a decision without a batch, a
compaction. So what a later turn took away enters none of them, and whatever a decision without a
batch added is in the first one that follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    archive,
    decisions,
    events,
    output_shards,
    placements,
    published,
    snapshots,
)
from sscd_ops.catalog.decisions import Decision
from sscd_ops.catalog.output_shards import ListedShard
from sscd_ops.errors import BatchNotRunnable, InvariantError
from sscd_ops.model import StoredFile
from sscd_ops.steps import turns
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.publish import write_others
from sscd_ops.steps.rewriting import Replaced, without_slots
from sscd_ops.steps.snapshots import document, made_by, put_snapshot
from sscd_ops.steps.turns import Seen


@dataclass(frozen=True)
class Listing:
    """What the next snapshot holds, and its file; None where it would hold what this one does.

    ``deciding``: the decision that its row names. ``others``: decisions without a batch that it
    publishes.
    """

    shards: Sequence[ListedShard]
    deciding: int
    others: Sequence[Decision]
    added: int
    replaced: Sequence[Replaced]
    file: StoredFile | None


class NextSnapshot:
    """The dataset's next snapshot (``turns.SnapshotMaker``).

    Args:
        parts: the real parts.
        dataset_id: whose.
        batch_id: a decided night that it is to publish, if any.
    """

    def __init__(self, parts: Parts, dataset_id: int, batch_id: int | None = None) -> None:
        self._parts = parts
        self.dataset_id = dataset_id
        self._batch_id = batch_id

    def work_out(self, seen: Seen) -> Listing:
        """List it and write its file, and the shards that take the place of others.

        Raises:
            BatchNotRunnable: a shard of the night was not written.
            FileMismatch: a shard that holds what is kept no longer is lost or damaged.
        """
        dataset = seen.dataset
        with self._parts.catalog.begin() as conn:
            mine = None if self._batch_id is None else decisions.of_batch(conn, self._batch_id)
            pending = decisions.pending_others(conn, self.dataset_id, dataset.turn)
        ready = write_others(self._parts, pending)
        others = [decision for decision in pending if decision.decision_id in ready]
        adding = ready if mine is None else [*ready, mine.decision_id]
        with self._parts.catalog.begin() as conn:
            listed = output_shards.listed_shards(conn, self.dataset_id, dataset.snapshot, adding)
            lost = placements.lost_slots_in(
                conn, self.dataset_id, dataset.snapshot, adding, dataset.turn
            )
            affected = output_shards.shards_of_numbers(conn, list(lost))
            if mine is None and dataset.turn:
                deciding = decisions.of_turn(conn, self.dataset_id, dataset.turn).decision_id
            else:
                deciding = 0 if mine is None else mine.decision_id
            archived = [] if mine is None else archive.of_decision(conn, mine.decision_id)
        if any(shard.is_unwritten for shard in archived):
            raise BatchNotRunnable(
                f"batch {self._batch_id}: the archive of what it removed was not written: clear"
                " publish"
            )
        unwritten = [shard.number for shard in listed if shard.sha256 is None]
        if unwritten:
            raise BatchNotRunnable(
                f"batch {self._batch_id}: output shards {unwritten[:10]} were not written:"
                " clear publish"
            )
        added = sum(mine is not None and shard.decision_id == mine.decision_id for shard in listed)
        in_order = [affected[each.output_id] for each in listed if each.output_id in lost]
        replaced = without_slots(self._parts, dataset.name, dataset.turn, in_order, lost)
        replaced = self.merge(seen, _with(listed, replaced), replaced)
        if (mine is not None and mine.is_published) or not (added or others or replaced):
            return Listing(listed, deciding, others, 0, [], None)
        listed = _with(listed, replaced)
        return Listing(
            listed, deciding, others, added, replaced, self._write(seen, deciding, listed)
        )

    def merge(
        self, seen: Seen, listed: Sequence[ListedShard], rewritten: list[Replaced]
    ) -> list[Replaced]:
        """All shards that others take the place of.

        Args:
            seen: what it is worked out for.
            listed: what the snapshot would hold, each under the number of the one it replaces.
            rewritten: those that were written without what is kept no longer.
        """
        return rewritten

    def _write(self, seen: Seen, deciding: int, listed: Sequence[ListedShard]) -> StoredFile:
        dataset = seen.dataset
        if dataset.fingerprint is None:
            raise InvariantError(f"dataset {dataset.name} has decisions and no fingerprint")
        with self._parts.catalog.begin() as conn:
            label = made_by(snapshots.label_of(conn, deciding))
        body = document(
            dataset.name,
            dataset.snapshot + 1,
            parent=dataset.snapshot,
            batch=label,
            fingerprint=str(dataset.fingerprint),
            shards=listed,
        )
        return put_snapshot(self._parts.store, dataset.name, dataset.snapshot + 1, body)

    def put(self, conn: Connection, seen: Seen, worked: Listing) -> int:
        """Register it, and mark as published what it publishes."""
        dataset = seen.dataset
        if worked.file is None:
            published.mark_followed(conn, self.dataset_id, None, dataset.turn)
            return dataset.snapshot
        snapshot = dataset.snapshot + 1
        others = [decision.decision_id for decision in worked.others]
        snapshots.add_snapshot(
            conn,
            self.dataset_id,
            worked.deciding,
            snapshot=snapshot,
            shards=worked.shards,
            file=worked.file,
            turn=dataset.turn,
            adding=[*others, worked.deciding] if self._batch_id is not None else others,
        )
        for each in worked.replaced:
            output_shards.replace_shards(
                conn, each.output_ids, snapshot, shard=each.shard, slots=each.slots
            )
        for decision in worked.others:
            published.mark_published(conn, decision.decision_id, snapshot)
            events.add_event(
                conn,
                self.dataset_id,
                "published",
                actor=str(decision.kind),
                turn=decision.turn,
                details={"snapshot": snapshot},
            )
        published.mark_followed(conn, self.dataset_id, snapshot, dataset.turn)
        return snapshot


def _with(listed: Sequence[ListedShard], replaced: Sequence[Replaced]) -> list[ListedShard]:
    """A list with shards in place of those that they replace, in the order of the catalog's."""
    instead: dict[int, ListedShard | None] = {}
    for each in replaced:
        first, *further = each.output_ids
        instead[first] = None
        if each.shard is not None:
            instead[first] = output_shards.listed(each.shard, each.slots[0][1])
        instead |= dict.fromkeys(further)
    left = (instead.get(each.output_id, each) for each in listed)
    return output_shards.in_order(shard for shard in left if shard is not None)


def publish_others(parts: Parts, dataset_id: int) -> None:
    """Publish the decisions without a batch that wait for a snapshot, nights left alone.

    Raises:
        FileMismatch: a shard that holds what is kept no longer is lost or damaged.
        CommitConflict: others made snapshots many times over (retried).
    """
    turns.make_snapshot(parts, NextSnapshot(parts, dataset_id))
