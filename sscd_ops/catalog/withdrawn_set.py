"""The withdrawn set: pictures that orders name, whose copies no night may keep.

An entry is in force where its order is. What is near it is withdrawn too, by the descriptor and
hash that the order's segment of role ``withdrawn`` holds of it (``steps.withdrawn_set``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import run, tuples

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture in the set.

    ``decision_id``: of its order, whose segment holds it at ``row``; None where it has no
    descriptor: equal bytes alone count.
    """

    sha256: bytes
    order_id: int
    decision_id: int
    row: int | None


_ENTRIES = (
    "FROM sscd_ops.withdrawn_images w"
    " JOIN sscd_ops.decisions x ON x.decision_id = w.decision_id AND x.turn IS NOT NULL"
    " JOIN sscd_ops.orders o ON o.order_id = w.order_id WHERE w.dataset_id = :d"
)


def entries_in_force(conn: Connection, dataset_id: int, turn: int, without: int = 0) -> list[Entry]:
    """The distinct pictures whose order is in force at a turn, by their sha256.

    Of several orders that name one picture, one with its descriptor answers, the first of them.
    ``without``: an order that does not count.
    """
    found = tuples(
        conn,
        f"SELECT DISTINCT ON (w.sha256) w.sha256, w.order_id, w.decision_id, w.row {_ENTRIES}"
        " AND x.turn <= :t AND (o.turn_to IS NULL OR o.turn_to > :t) AND o.order_id <> :o"
        " ORDER BY w.sha256, w.row IS NULL, x.turn",
        d=dataset_id,
        t=turn,
        o=without,
    )
    return [Entry(bytes(sha256), *rest) for sha256, *rest in found]


def entries_of(conn: Connection, dataset_id: int, decision_id: int) -> list[Entry]:
    """The pictures of one decision, by their row in its segment; those without one come last."""
    found = tuples(
        conn,
        f"SELECT w.sha256, w.order_id, w.decision_id, w.row {_ENTRIES} AND w.decision_id = :x"
        " ORDER BY w.row NULLS LAST, w.sha256",
        d=dataset_id,
        x=decision_id,
    )
    return [Entry(bytes(sha256), *rest) for sha256, *rest in found]


def pictures_of(conn: Connection, order_id: int) -> set[bytes]:
    """The sha256 of the pictures that an order put into the set."""
    named = "SELECT sha256 FROM sscd_ops.withdrawn_images WHERE order_id = :o"
    return {bytes(digest) for (digest,) in tuples(conn, named, o=order_id)}


def held_by_others(conn: Connection, dataset_id: int, order_id: int) -> set[bytes]:
    """Pictures and images by which other orders in force stop copies, and are to go on doing so.

    Not those of orders that ask to forget too.
    """
    others = tuples(
        conn,
        "SELECT DISTINCT w.order_id FROM sscd_ops.withdrawn_images w"
        " JOIN sscd_ops.orders o USING (order_id) WHERE w.dataset_id = :d AND w.order_id <> :o"
        " AND o.turn IS NOT NULL AND o.turn_to IS NULL AND NOT o.request ? 'forget'",
        d=dataset_id,
        o=order_id,
    )
    held: set[bytes] = set()
    for (other,) in others:
        held |= pictures_of(conn, other)
        held.update(images_of(conn, dataset_id, other))
    return held


def forget_rows(conn: Connection, dataset_id: int, pictures: Collection[bytes]) -> None:
    """Say that of some pictures nothing but their sha256 is known any more."""
    run(
        conn,
        "UPDATE sscd_ops.withdrawn_images SET row = NULL WHERE dataset_id = :d"
        " AND sha256 = ANY(:p) AND row IS NOT NULL",
        d=dataset_id,
        p=list(pictures),
    )


def images_of(conn: Connection, dataset_id: int, order_id: int) -> list[bytes]:
    """The images that are withdrawn or quarantined now because of an order's pictures.

    By its own decision, by that of its second part, and by nights since.
    """
    entries = "ARRAY(SELECT sha256 FROM sscd_ops.withdrawn_images WHERE order_id = :o)"
    decisions = (
        "ARRAY(SELECT decision_id FROM sscd_ops.orders WHERE decision_id IS NOT NULL"
        " AND (order_id = :o OR (of_order = :o AND verb = 'withdraw')))"
    )
    found = tuples(
        conn,
        "SELECT c.image_sha256 FROM sscd_ops.changes_now c WHERE c.dataset_id = :d"
        f" AND c.decision_id = ANY({decisions}) AND c.image_sha256 IS NOT NULL"
        " AND (c.verdict = 'withdrawn' OR c.reason = 'near_withdrawn')"
        " UNION SELECT c.image_sha256 FROM sscd_ops.changes_now c WHERE c.dataset_id = :d"
        f" AND c.witness_sha256 = ANY({entries}) AND c.verdict = 'withdrawn'"
        " AND c.image_sha256 IS NOT NULL"
        " UNION SELECT i.sha256 FROM sscd_ops.images i JOIN sscd_ops.decisions b"
        " ON b.decision_id = i.decision_id AND b.turn IS NOT NULL WHERE i.dataset_id = :d"
        f" AND i.witness_sha256 = ANY({entries}) AND i.verdict = 'withdrawn'"
        " AND NOT EXISTS (SELECT FROM sscd_ops.changes_now c"
        " WHERE c.dataset_id = :d AND c.image_sha256 = i.sha256)",
        d=dataset_id,
        o=order_id,
    )
    return sorted(bytes(image) for (image,) in found)


def entry_table(entries: Sequence[Entry], dataset_id: int) -> pa.Table:
    """Rows of ``withdrawn_images``, ready for COPY."""
    import pyarrow as pa

    return pa.table(
        {
            "dataset_id": pa.array([dataset_id] * len(entries), pa.int16()),
            "sha256": pa.array([entry.sha256 for entry in entries], pa.binary()),
            "order_id": pa.array([entry.order_id for entry in entries], pa.int64()),
            "decision_id": pa.array([entry.decision_id for entry in entries], pa.int64()),
            "row": pa.array([entry.row for entry in entries], pa.int64()),
        }
    )
