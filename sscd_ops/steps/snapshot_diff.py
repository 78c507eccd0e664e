"""``snapshot diff``: what was added, removed and moved from one snapshot to another, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, snapshot_changes, snapshots
from sscd_ops.catalog.placements import Slot
from sscd_ops.catalog.snapshot_changes import DecisionName, SlotSample
from sscd_ops.core.slot_spans import MovedSpan, common, without
from sscd_ops.errors import InvariantError
from sscd_ops.model import SlotSpan
from sscd_ops.steps.parts import Parts

Change = Literal["added", "removed", "moved"]
CHANGES: tuple[Change, ...] = ("added", "removed", "moved")


@dataclass(frozen=True, slots=True)
class Difference:
    """Samples that one decision is the reason for.

    ``decision``: the one that gave a sample its slot, the newer one where it has two; of samples
    that only the older snapshot holds the one that changed the verdict. None: none did, which
    ``catalog verify`` finds too.
    """

    change: Change
    decision: DecisionName | None
    samples: int


class SampleDifference(NamedTuple):
    """A sample, as ``Difference``, with the shards that hold it in the two snapshots."""

    change: Change
    sample_id: UUID
    decision: DecisionName | None
    from_shard: str | None
    to_shard: str | None


def diff(parts: Parts, dataset: str, first: int, second: int) -> list[Difference]:
    """What to do with the first snapshot to come to the second, which may be the older one.

    Numbers alone where samples were added or moved; those that are removed are looked up.

    Raises:
        UsageError: the dataset has no such snapshot.
    """
    with parts.catalog.begin() as conn:
        found = _compare(conn, dataset, first, second)
        counts = found.counts()
        named = _names(conn, {decision_id for _, decision_id in counts})
    return sorted(
        (Difference(change, named(number), count) for (change, number), count in counts.items()),
        key=_order,
    )


def diff_samples(parts: Parts, dataset: str, first: int, second: int) -> list[SampleDifference]:
    """As ``diff``, sample by sample: in the order of changes, decisions and slots.

    Raises:
        UsageError: the dataset has no such snapshot.
    """
    with parts.catalog.begin() as conn:
        found = _compare(conn, dataset, first, second)
        samples = list(found.samples(conn))
        named = _names(conn, {each.decision_id for each in samples})
        shards = snapshot_changes.shard_names(
            conn, {number for each in samples for number in each.shards if number is not None}
        )
    differences = [
        SampleDifference(
            each.change,
            each.sample_id,
            named(each.decision_id),
            *(None if number is None else shards[number] for number in each.shards),
        )
        for each in samples
    ]
    return sorted(differences, key=_order)


def _names(
    conn: Connection, decisions: set[int | None]
) -> Callable[[int | None], DecisionName | None]:
    """What answers a decision's names, None for None."""
    found = snapshot_changes.names_of(conn, [each for each in decisions if each is not None])
    return lambda number: None if number is None else found[number]


def _order(each: Difference | SampleDifference) -> tuple[int, int]:
    return CHANGES.index(each.change), 0 if each.decision is None else each.decision.turn


# ---------------------------------------------------------------- from the older to the newer


class _Sample(NamedTuple):
    """``shards``: output shard in the first and in the second snapshot."""

    change: Change
    sample_id: UUID
    decision_id: int | None
    shards: tuple[int | None, int | None]


@dataclass(frozen=True)
class _Compared:
    """Two snapshots, in the order of their numbers.

    ``back``: asked for from the newer to the older one. ``gone``, ``come``, ``moved``: slots.
    ``lost``: the samples of the gone slots, with those that have another slot now in ``again``.
    ``by``: which decision each of the others was lost by, None: by none.
    """

    back: bool
    gone: list[SlotSpan]
    come: list[SlotSpan]
    moved: list[MovedSpan]
    lost: list[SlotSample]
    again: dict[UUID, Slot]
    by: dict[UUID, int | None]

    @property
    def _of_gone(self) -> Change:
        return "added" if self.back else "removed"

    @property
    def _of_come(self) -> Change:
        return "removed" if self.back else "added"

    def counts(self) -> Counter[tuple[Change, int | None]]:
        """How many samples by change and decision."""
        answer: Counter[tuple[Change, int | None]] = Counter()
        for span in self.come:
            answer[self._of_come, span.decision_id] += span.end - span.start
        for moved in self.moved:
            answer["moved", moved.decision_id] += moved.end - moved.start
        for decision_id, _ in self.again.values():
            answer[self._of_come, decision_id] -= 1
            answer["moved", decision_id] += 1
        answer.update((self._of_gone, decision_id) for decision_id in self.by.values())
        return +answer

    def samples(self, conn: Connection) -> Iterator[_Sample]:
        """All samples that differ."""
        held = _shards_of(self.gone, [(each.decision_id, each.slot) for each in self.lost])
        before = {each.sample_id: held[each.decision_id, each.slot] for each in self.lost}
        for sample in self.lost:
            if sample.sample_id in self.by:
                shards = self._in_order(before[sample.sample_id], None)
                yield _Sample(self._of_gone, sample.sample_id, self.by[sample.sample_id], shards)
        for span in self.come:
            for sample in snapshot_changes.samples_of_slots(conn, [span]):
                is_moved = sample.sample_id in self.again
                shards = self._in_order(
                    before[sample.sample_id] if is_moved else None, span.output_id
                )
                change: Change = "moved" if is_moved else self._of_come
                yield _Sample(change, sample.sample_id, sample.decision_id, shards)
        for moved in self.moved:
            shards = self._in_order(moved.output_id, moved.other_id)
            for sample in snapshot_changes.samples_of_slots(conn, [SlotSpan(*moved[:4])]):
                yield _Sample("moved", sample.sample_id, sample.decision_id, shards)

    def _in_order(self, older: int | None, newer: int | None) -> tuple[int | None, int | None]:
        return (newer, older) if self.back else (older, newer)


def _compare(conn: Connection, dataset: str, first: int, second: int) -> _Compared:
    row = datasets.need(conn, dataset)
    older, newer = sorted(
        (snapshots.need_snapshot(conn, row, number) for number in (first, second)),
        key=lambda each: each.number,
    )
    before, after = snapshot_changes.differing(conn, row.dataset_id, older.number, newer.number)
    moved = list(common(before, after))
    gone, come = list(without(before, moved)), list(without(after, moved))
    lost = list(snapshot_changes.samples_of_slots(conn, gone))
    if len(lost) != sum(span.end - span.start for span in gone):
        raise InvariantError(
            f"samples of snapshot {older.number} are not in the catalog: was a month detached by"
            " hand? `sscd-ops db detach-month` keeps what says which they are"
        )
    again = _again(conn, lost, come) if lost else {}
    only = [sample for sample in lost if sample.sample_id not in again]
    found = snapshot_changes.removed_by(conn, row.dataset_id, only, newer.turn)
    by = {sample.sample_id: found.get(sample.sample_id) for sample in only}
    return _Compared(first > second, gone, come, moved, lost, again, by)


def _again(conn: Connection, lost: list[SlotSample], come: list[SlotSpan]) -> dict[UUID, Slot]:
    """The lost samples that have another slot among those that came: kept again, not new."""
    ids = {sample.sample_id for sample in lost}
    given = snapshot_changes.given_again(conn, {span.decision_id for span in come})
    found = [(sample_id, slot) for sample_id, slot in given if sample_id in ids]
    there = _shards_of(come, [slot for _, slot in found])
    return {sample_id: slot for sample_id, slot in found if slot in there}


def _shards_of(spans: list[SlotSpan], slots: list[Slot]) -> dict[Slot, int]:
    """Which output shard holds each of some slots, of those that one of the spans has."""
    answer: dict[Slot, int] = {}
    ordered, at = sorted(spans), 0
    for slot in sorted(slots):
        while at < len(ordered) and (ordered[at].decision_id, ordered[at].end - 1) < slot:
            at += 1
        if at < len(ordered) and (ordered[at].decision_id, ordered[at].start) <= slot:
            answer[slot] = ordered[at].output_id
    return answer
