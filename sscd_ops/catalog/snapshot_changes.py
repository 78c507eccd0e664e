"""What two snapshots of a dataset differ in, and which decisions did that.

From placements, slots and changes: the list of shards of a snapshot is never read as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.placements import Slot
from sscd_ops.catalog.sql import tuples
from sscd_ops.model import SlotSpan

_AT_ONCE = 10_000
"""Slots, or samples, that a statement names."""
_RANGE = 500
"""So many slots in a row are asked for as a range."""

_SPAN = (
    "SELECT p.decision_id, p.slot_from, p.slot_to, p.output_id FROM sscd_ops.placements p"
    " JOIN sscd_ops.decisions d USING (decision_id) WHERE d.dataset_id = :d"
)


def differing(
    conn: Connection, dataset_id: int, older: int, newer: int
) -> tuple[list[SlotSpan], list[SlotSpan]]:
    """What only the older one of two snapshots lists, and what only the newer one does.

    Read are the placements whose range begins or ends between them.
    """
    ended = f"{_SPAN} AND p.snapshot_from <= :a AND p.snapshot_to > :a AND p.snapshot_to <= :b"
    begun = (
        f"{_SPAN} AND p.snapshot_from > :a AND p.snapshot_from <= :b"
        " AND (p.snapshot_to IS NULL OR p.snapshot_to > :b)"
    )
    before, after = (
        [SlotSpan(*row) for row in tuples(conn, sql, d=dataset_id, a=older, b=newer)]
        for sql in (ended, begun)
    )
    return before, after


# ---------------------------------------------------------------- samples of slots


class SlotSample(NamedTuple):
    """The sample of a slot, and its image; None where the slot was given to the sample alone."""

    decision_id: int
    slot: int
    sample_id: UUID
    image_sha256: bytes | None


def samples_of_slots(conn: Connection, spans: Sequence[SlotSpan]) -> Iterator[SlotSample]:
    """The samples of some slots, each once; also of months that were detached.

    Args:
        conn: an open transaction.
        spans: in the order of decisions and slots.

    Yields:
        In that order.
    """
    months = _months(conn, {span.decision_id for span in spans})
    for decision_id, where, bound in _asked(spans):
        # slots and month as values, so that one month is read, by the index on slots; what other
        # decisions than nights keep has its slot in changes, as has a free image that a night kept
        found = tuples(
            conn,
            "SELECT DISTINCT ON (f.slot) f.slot, f.sample_id, f.image_sha256 FROM ("
            "SELECT slot, sample_id, image_sha256 FROM sscd_ops.samples WHERE month = :m"
            f" AND decision_id = :x AND {where}"
            " UNION ALL SELECT slot, sample_id, image_sha256 FROM sscd_ops.detached_samples"
            f" WHERE decision_id = :x AND {where}"
            " UNION ALL SELECT slot, carrier_id, image_sha256 FROM sscd_ops.changes"
            f" WHERE decision_id = :x AND slot_decision = :x AND {where}"
            ") f ORDER BY f.slot, f.image_sha256 NULLS LAST",
            x=decision_id,
            m=months[decision_id],
            **bound,
        )
        for slot, sample_id, digest in found:
            yield SlotSample(decision_id, slot, sample_id, digest and bytes(digest))


def _months(conn: Connection, decisions: Collection[int]) -> dict[int, date]:
    found = tuples(
        conn,
        "SELECT decision_id, month FROM sscd_ops.decisions WHERE decision_id = ANY(:x)",
        x=list(decisions),
    )
    return dict(map(tuple, found))


def _asked(spans: Sequence[SlotSpan]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Decision, a condition on its ``slot`` and what is bound in it, of all slots in their order.

    Long spans go as ranges, of short ones the slots.
    """
    few: list[int] = []
    for at, span in enumerate(spans):
        following = spans[at + 1] if at + 1 < len(spans) else None
        is_long = span.end - span.start >= _RANGE
        if not is_long:
            few += range(span.start, span.end)
        same = following is not None and following.decision_id == span.decision_id
        if few and (is_long or not same or len(few) >= _AT_ONCE):
            yield span.decision_id, "slot = ANY(:slots)", {"slots": few}
            few = []
        if is_long:
            yield span.decision_id, "slot >= :a AND slot < :b", {"a": span.start, "b": span.end}


def given_again(conn: Connection, decisions: Collection[int]) -> list[tuple[UUID, Slot]]:
    """Samples that were given a slot by a change of one of these decisions, with that slot."""
    found = tuples(
        conn,
        "SELECT carrier_id, slot_decision, slot FROM sscd_ops.changes"
        " WHERE decision_id = ANY(:x) AND slot_decision = decision_id AND carrier_id IS NOT NULL",
        x=list(decisions),
    )
    return [(sample_id, (decision_id, slot)) for sample_id, decision_id, slot in found]


def withdrawn_now(
    conn: Connection, dataset_id: int, samples: Sequence[tuple[UUID, bytes]]
) -> set[UUID]:
    """Which of some published samples, each with its image, are withdrawn by now."""
    of_image: dict[bytes, list[UUID]] = {}
    for sample_id, digest in samples:
        of_image.setdefault(digest, []).append(sample_id)
    changed = (
        "SELECT c.sample_id, c.image_sha256, c.verdict = 'withdrawn' FROM sscd_ops.changes c"
        " JOIN sscd_ops.decisions e ON e.decision_id = c.decision_id AND e.turn = c.turn"
        " WHERE c.dataset_id = :d AND c.turn_to IS NULL AND c.verdict <> 'follows' AND"
    )
    found = tuples(
        conn,
        f"{changed} c.image_sha256 = ANY(:i) UNION ALL {changed} c.sample_id = ANY(:s)",
        d=dataset_id,
        s=[sample_id for sample_id, _ in samples],
        i=list(of_image),
    )
    by_image: dict[UUID, bool] = {}
    own: dict[UUID, bool] = {}
    for number, digest, is_withdrawn in found:
        if digest is None:
            own[number] = is_withdrawn
        else:
            by_image |= dict.fromkeys(of_image[bytes(digest)], is_withdrawn)
    # a change of the sample itself speaks before that of its image
    return {sample_id for sample_id, is_withdrawn in (by_image | own).items() if is_withdrawn}


# ---------------------------------------------------------------- decisions


def removed_by(
    conn: Connection, dataset_id: int, samples: Sequence[SlotSample], turn: int
) -> dict[UUID, int]:
    """The decision that each of some samples, not kept as of a turn, was kept no longer from on.

    The first one after the last that kept it, if any.
    """
    answer: dict[UUID, int] = {}
    for start in range(0, len(samples), _AT_ONCE):
        answer |= _removed_by(conn, dataset_id, samples[start : start + _AT_ONCE], turn)
    return answer


def _removed_by(
    conn: Connection, dataset_id: int, samples: Sequence[SlotSample], turn: int
) -> dict[UUID, int]:
    of_image: dict[bytes, list[UUID]] = {}
    for sample in samples:
        if sample.image_sha256 is not None:
            of_image.setdefault(sample.image_sha256, []).append(sample.sample_id)
    columns = "c.turn, c.decision_id, c.sample_id, c.image_sha256, c.verdict, c.carrier_id"
    changed = (
        f"SELECT {columns} FROM sscd_ops.changes c JOIN sscd_ops.decisions e"
        " ON e.decision_id = c.decision_id AND e.turn = c.turn"
        " WHERE c.dataset_id = :d AND c.turn <= :t AND"
    )
    found = tuples(
        conn,
        f"{changed} c.sample_id = ANY(:s) UNION ALL {changed} c.image_sha256 = ANY(:i) ORDER BY 1",
        d=dataset_id,
        t=turn,
        s=[sample.sample_id for sample in samples],
        i=list(of_image),
    )
    answer: dict[UUID, int] = {}
    for _, decision_id, sample_id, digest, verdict, carrier_id in found:
        for each in [sample_id] if digest is None else of_image[bytes(digest)]:
            if verdict == "kept" and carrier_id == each:
                answer.pop(each, None)
            else:
                answer.setdefault(each, decision_id)
    return answer


@dataclass(frozen=True, slots=True)
class DecisionName:
    """What people call a decision. ``night``: as commands take it by --date, None of no night's.

    ``snapshot``: the one that first followed it.
    """

    turn: int
    decision_id: int
    kind: str
    night: str | None
    supplement: int | None
    snapshot: int | None
    actor: str
    why: str


def names_of(conn: Connection, decisions: Collection[int]) -> dict[int, DecisionName]:
    """Some decisions in force, by number."""
    found = tuples(
        conn,
        "SELECT x.turn, x.decision_id, x.kind, b.night, b.supplement, x.snapshot, x.actor, x.why"
        " FROM sscd_ops.decisions x LEFT JOIN sscd_ops.batches b ON b.batch_id = x.batch_id"
        " WHERE x.decision_id = ANY(:x) AND x.turn IS NOT NULL",
        x=list(decisions),
    )
    return {name.decision_id: name for name in (DecisionName(*row) for row in found)}


def shard_names(conn: Connection, output_ids: Collection[int]) -> dict[int, str]:
    """Names of some output shards, by number."""
    found = tuples(
        conn,
        "SELECT output_id, name FROM sscd_ops.output_shards WHERE output_id = ANY(:o)",
        o=list(output_ids),
    )
    return dict(map(tuple, found))
