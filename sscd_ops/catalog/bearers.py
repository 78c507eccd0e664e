"""Who bears an image: samples that may carry it, and images that were removed because of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.placements import PlacedSample, Slot
from sscd_ops.catalog.read_again import STANDS
from sscd_ops.catalog.sql import tuples


@dataclass(frozen=True, slots=True)
class Bearer:
    """A sample whose image it may carry: no fault and no later verdict of its own forbids it.

    ``decision_id``, ``turn``: of the night with the sample's row; ``rank``: its preference there.
    """

    sample: PlacedSample
    decision_id: int
    turn: int
    rank: int


def bearers(
    conn: Connection, dataset_id: int, images: Sequence[bytes], again: Sequence[bytes] = ()
) -> dict[bytes, list[Bearer]]:
    """Image -> the samples that may carry it, the preferred first: by turn, then rank.

    Those of a month that was detached are not among them: what is published of a sample is gone
    with it.

    Args:
        conn: an open transaction.
        dataset_id: whose.
        images: their sha256.
        again: sample_ids (16 bytes) that may, whatever was decided of them alone.
    """
    found = tuples(
        conn,
        "SELECT s.image_sha256, s.sample_id, s.shard_id, s.position, sh.source, sh.relative_uri,"
        " s.key, s.width, s.height, s.caption, s.meta, s.decision_id, d.turn, s.rank"
        " FROM sscd_ops.samples s JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id"
        " AND d.month = s.month AND d.turn IS NOT NULL"
        " JOIN sscd_ops.source_shards sh USING (shard_id)"
        " WHERE d.dataset_id = :d AND s.image_sha256 = ANY(:i) AND s.own_fault IS NULL"
        " AND (s.sample_id = ANY(CAST(:a AS uuid[]))"
        " OR NOT EXISTS (SELECT FROM sscd_ops.changes_now own WHERE own.dataset_id = :d"
        " AND own.sample_id = s.sample_id AND own.verdict NOT IN ('kept', 'follows')))"
        f" AND {STANDS} ORDER BY d.turn, s.rank",
        d=dataset_id,
        i=list(images),
        a=[str(UUID(bytes=number)) for number in again],
    )
    answer: dict[bytes, list[Bearer]] = {image: [] for image in images}
    for digest, *sample, decision_id, turn, rank in found:
        image = bytes(digest)
        answer[image].append(Bearer(PlacedSample(image, *sample), decision_id, turn, rank))
    return answer


def kept_slots(conn: Connection, dataset_id: int, images: Sequence[bytes]) -> dict[bytes, Slot]:
    """Image -> the slot of the sample that carries it, of those that are kept now."""
    found = tuples(
        conn,
        "SELECT sha256, slot_decision, slot FROM sscd_ops.images_now"
        " WHERE dataset_id = :d AND sha256 = ANY(:i) AND verdict = 'kept'",
        d=dataset_id,
        i=list(images),
    )
    return {bytes(image): (decision_id, number) for image, decision_id, number in found}


def verdicts_now(
    conn: Connection, dataset_id: int, images: Sequence[bytes]
) -> dict[bytes, tuple[str, bytes]]:
    """Image -> its verdict in force, and the sample (16 bytes) that carries it, kept or not."""
    found = tuples(
        conn,
        "SELECT sha256, verdict, uuid_send(carrier_id) FROM sscd_ops.images_now"
        " WHERE dataset_id = :d AND sha256 = ANY(:i)",
        d=dataset_id,
        i=list(images),
    )
    return {bytes(image): (verdict, bytes(carrier)) for image, verdict, carrier in found}


def orphans(conn: Connection, dataset_id: int, witnesses: Sequence[bytes]) -> list[bytes]:
    """The images that are removed now because of some, in their old order: first turn, then rank.

    Args:
        conn: an open transaction.
        dataset_id: whose.
        witnesses: images that are to be kept no longer.
    """
    found = tuples(
        conn,
        "WITH gone AS ("
        " SELECT i.sha256 FROM sscd_ops.images i JOIN sscd_ops.decisions f"
        " ON f.decision_id = i.decision_id AND f.turn IS NOT NULL"
        " WHERE i.dataset_id = :d AND i.witness_sha256 = ANY(:w) AND i.verdict = 'removed'"
        " AND NOT EXISTS (SELECT FROM sscd_ops.changes_now c"
        " WHERE c.dataset_id = :d AND c.image_sha256 = i.sha256)"
        " UNION SELECT c.image_sha256 FROM sscd_ops.changes_now c WHERE c.dataset_id = :d"
        " AND c.witness_sha256 = ANY(:w) AND c.verdict = 'removed' AND c.image_sha256 IS NOT NULL)"
        f"{_IN_OLD_ORDER}",
        d=dataset_id,
        w=list(witnesses),
    )
    return [bytes(image) for (image,) in found]


_IN_OLD_ORDER = (
    " SELECT i.sha256 FROM gone JOIN sscd_ops.images i ON i.dataset_id = :d"
    " AND i.sha256 = gone.sha256 JOIN sscd_ops.decisions b ON b.decision_id = i.decision_id"
    " AND b.turn IS NOT NULL ORDER BY b.turn, i.rank"
)


def in_old_order(conn: Connection, dataset_id: int, images: Collection[bytes]) -> list[bytes]:
    """Known images in the order in which they came: first turn, then rank."""
    found = tuples(
        conn,
        f"WITH gone AS (SELECT unnest(CAST(:i AS bytea[])) AS sha256){_IN_OLD_ORDER}",
        d=dataset_id,
        i=list(images),
    )
    return [bytes(image) for (image,) in found]
