"""Placements: which slots, and so which samples, an output shard holds, and what it lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.sql import tuples

Slot = tuple[int, int]
"""Decision and number."""
Span = tuple[int, int, int]
"""Slots of a decision in a row: decision, first one and end."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Slots of a decision in a row, ``start <= number < end``; its rows lie in ``month``.

    ``changes``: it gave them to samples that others had read, in rows of ``changes``.
    """

    decision_id: int
    start: int
    end: int
    month: date
    changes: bool


@dataclass(frozen=True, slots=True)
class PlacedSample:
    """A sample of an output shard. ``position``: in its source shard, as the manifest counts."""

    image_sha256: bytes
    sample_id: UUID
    shard_id: int
    position: int
    source: str
    relative_uri: str
    key: str
    width: int
    height: int
    caption: str | None
    meta: Mapping[str, Any] | None


def placed(conn: Connection, output_id: int) -> list[Placement]:
    """Which slots an output shard holds, in its order."""
    found = tuples(
        conn,
        'SELECT p.decision_id, p.slot_from AS start, p.slot_to AS "end", d.month,'
        " d.kind IN ('order', 'repair', 'bank') AS changes"
        " FROM sscd_ops.placements p JOIN sscd_ops.decisions d USING (decision_id)"
        " WHERE p.output_id = :o ORDER BY p.position",
        o=output_id,
    )
    return [Placement(*place) for place in found]


_GIVEN = (
    " FROM (SELECT DISTINCT ON (c.slot) c.slot, c.carrier_id, c.carrier_decision"
    " FROM sscd_ops.changes c WHERE c.decision_id = :x AND c.slot_decision = :x AND c.slot >= :a"
    " AND c.slot < :b ORDER BY c.slot) g"
)
"""The samples that a decision gave slots to which others had read."""


PLACED = (
    "s.image_sha256, s.sample_id, s.shard_id, s.position, sh.source, sh.relative_uri, s.key,"
    " s.width, s.height, s.caption, s.meta"
)
"""The fields of ``PlacedSample``: of samples ``s`` and source shards ``sh``."""


def samples_of_output(conn: Connection, output_id: int) -> list[PlacedSample]:
    """The samples of one output shard in published order: that of their slots.

    Without those whose month was detached.
    """
    # slots and month as values: joined with its placements, a shard might cost the whole month
    read = (
        f"SELECT {PLACED} FROM sscd_ops.samples s JOIN sscd_ops.source_shards sh USING (shard_id)"
        " WHERE s.month = :m AND s.decision_id = :x AND s.slot >= :a AND s.slot < :b"
        " ORDER BY s.slot"
    )
    given = (
        f"SELECT {PLACED}{_GIVEN} JOIN sscd_ops.decisions d ON d.decision_id = g.carrier_decision"
        " JOIN sscd_ops.samples s ON s.month = d.month AND s.decision_id = d.decision_id"
        " AND s.sample_id = g.carrier_id JOIN sscd_ops.source_shards sh USING (shard_id)"
        " ORDER BY g.slot"
    )
    return [
        PlacedSample(bytes(digest), *others)
        for place in placed(conn, output_id)
        for digest, *others in _of_slots(conn, given if place.changes else read, place)
    ]


def _of_slots(conn: Connection, sql: str, place: Placement) -> Iterator[Any]:
    key = {} if place.changes else {"m": place.month}
    return tuples(conn, sql, x=place.decision_id, a=place.start, b=place.end, **key)


def ids_of_output(conn: Connection, output_id: int) -> set[str] | None:
    """The ids of the samples of one output shard; None where their month was detached."""
    there = months(conn)
    places = placed(conn, output_id)
    if any(place.month not in there for place in places if not place.changes):
        return None
    read = (
        "SELECT s.sample_id FROM sscd_ops.samples s WHERE s.month = :m AND s.decision_id = :x"
        " AND s.slot >= :a AND s.slot < :b"
    )
    return {
        str(sample_id)
        for place in places
        for (sample_id,) in _of_slots(
            conn, f"SELECT g.carrier_id{_GIVEN}" if place.changes else read, place
        )
    }


# ---------------------------------------------------------------- kept no longer


LOST = (
    "WITH changed AS ("
    " SELECT c.* FROM sscd_ops.changes c JOIN sscd_ops.decisions x"
    " ON x.decision_id = c.decision_id AND x.turn = c.turn"
    " WHERE c.dataset_id = :d AND c.turn <= :t),"
    " given AS ("
    " SELECT i.decision_id, i.slot FROM sscd_ops.images i"
    " JOIN sscd_ops.decisions x ON x.decision_id = i.decision_id AND x.turn IS NOT NULL"
    " WHERE i.dataset_id = :d AND i.slot IS NOT NULL AND i.sha256 IN"
    " (SELECT c.image_sha256 FROM changed c WHERE c.image_sha256 IS NOT NULL)"
    " UNION SELECT c.slot_decision, c.slot FROM changed c WHERE c.slot IS NOT NULL),"
    " lost AS ("
    " SELECT decision_id, slot FROM given EXCEPT"
    " SELECT c.slot_decision, c.slot FROM changed c WHERE c.slot IS NOT NULL"
    " AND c.verdict = 'kept' AND (c.turn_to IS NULL OR c.turn_to > :t))"
)
"""Slots that lost their sample until a turn, as ``lost (decision_id, slot)``.

From ``changes`` and ``images`` alone: a slot is lost where another verdict, or another carrier,
followed on the one that gave the slot.
"""


def lost_slots_in(
    conn: Connection, dataset_id: int, snapshot: int, adding: Sequence[int], turn: int
) -> dict[int, set[Slot]]:
    """Output shard -> its slots whose sample is kept no longer as of a turn.

    Of the shards of a snapshot, and of those that some decisions add.
    """
    found = tuples(
        conn,
        f"{LOST} SELECT p.output_id, l.decision_id, l.slot FROM lost l"
        " JOIN sscd_ops.placements p ON p.decision_id = l.decision_id"
        " AND p.slot_from <= l.slot AND p.slot_to > l.slot"
        " JOIN sscd_ops.output_shards o ON o.output_id = p.output_id"
        " WHERE p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s)"
        " OR p.snapshot_from IS NULL AND p.snapshot_to IS NULL AND o.decision_id = ANY(:x)",
        d=dataset_id,
        t=turn,
        s=snapshot,
        x=list(adding),
    )
    lost: dict[int, set[Slot]] = {}
    for output_id, *slot in found:
        lost.setdefault(output_id, set()).add(tuple(slot))
    return lost
