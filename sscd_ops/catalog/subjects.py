"""The samples that an order names, with the verdict of each that is in force now.

By look-ups alone: each kind of subject has its index, in samples and in those of months that were
detached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.orders import Subject
from sscd_ops.catalog.read_again import STANDS
from sscd_ops.catalog.sql import tuples


@dataclass(frozen=True, slots=True)
class Named:
    """A sample that an order names. ``by``: the kind of subject that does.

    ``verdict``: in force now. A ``kept`` one carries its image. ``own_fault``: no image ever speaks
    for it; ``is_own``: now none does, for it has a later verdict of its own.
    """

    sample_id: UUID
    image_sha256: bytes | None
    source: str
    verdict: str
    own_fault: bool
    is_own: bool
    by: str

    @property
    def follows(self) -> bool:
        """Whether its image speaks for it."""
        return not self.own_fault and not self.is_own


_COLUMNS = "sample_id, decision_id, shard_id, image_sha256, own_fault"
_NOW = (
    " SELECT f.sample_id, f.image_sha256, sh.source, CASE WHEN own.verdict IS NOT NULL"
    " THEN own.verdict WHEN f.own_fault OR img.verdict IS NULL"
    " THEN coalesce(f.verdict, 'quarantined') WHEN img.verdict <> 'kept' THEN img.verdict"
    " WHEN img.carrier_id = f.sample_id THEN 'kept' ELSE 'removed' END, f.own_fault IS TRUE,"
    " own.verdict IS NOT NULL"
    " FROM (SELECT DISTINCT ON (r.sample_id) r.* FROM found r JOIN sscd_ops.decisions x"
    " ON x.decision_id = r.decision_id AND x.turn IS NOT NULL AND x.dataset_id = :d"
    " ORDER BY r.sample_id, x.turn DESC, r.verdict) f"
    " JOIN sscd_ops.source_shards sh ON sh.shard_id = f.shard_id"
    " LEFT JOIN sscd_ops.changes_now own ON own.dataset_id = :d AND own.sample_id = f.sample_id"
    " AND own.verdict <> 'follows'"
    " LEFT JOIN sscd_ops.images_now img ON img.dataset_id = :d AND img.sha256 = f.image_sha256"
)


def _both(condition: str) -> str:
    """The rows of samples that meet a condition, of detached months too."""
    return (
        f"WITH found AS (SELECT {_COLUMNS}, verdict FROM sscd_ops.samples s"
        f" WHERE sample_id IS NOT NULL AND {condition} AND {STANDS}"
        f" UNION ALL SELECT {_COLUMNS}, CASE WHEN ruled THEN 'withdrawn' END"
        f" FROM sscd_ops.detached_samples s WHERE {condition} AND {STANDS})"
        f"{_NOW}"
    )


_OF_SOURCE = (
    " FROM sscd_ops.decisions b JOIN sscd_ops.source_shards o ON o.attempt_id = b.attempt_id"
    " AND o.source = :v JOIN sscd_ops.{0} s ON s.decision_id = b.decision_id"
    " AND s.shard_id = o.shard_id WHERE b.dataset_id = :d AND b.turn IS NOT NULL"
    f" AND {STANDS}"
)
_SOURCE = (
    "WITH found AS (SELECT "
    + ", ".join(f"s.{name}" for name in _COLUMNS.split(", "))
    + f", s.verdict{_OF_SOURCE.format('samples')} AND s.month = b.month"
    " AND s.sample_id IS NOT NULL UNION ALL SELECT "
    + ", ".join(f"s.{name}" for name in _COLUMNS.split(", "))
    + f", CASE WHEN ruled THEN 'withdrawn' END{_OF_SOURCE.format('detached_samples')}){_NOW}"
)
_SUBJECTS = "ARRAY(SELECT digest FROM sscd_ops.order_subjects WHERE order_id = :o AND kind = :k)"


def named_samples(
    conn: Connection, dataset_id: int, order_id: int, subjects: Sequence[Subject]
) -> dict[UUID, Named]:
    """The samples that an order names, each once.

    Args:
        conn: an open transaction.
        dataset_id: whose.
        order_id: the order.
        subjects: what it names.
    """
    answer: dict[UUID, Named] = {}

    def add(kind: str, sql: str, **asked: Any) -> None:
        for named in _named(conn, sql, kind, d=dataset_id, **asked):
            answer.setdefault(named.sample_id, named)

    kinds = {subject.kind for subject in subjects}
    if "id" in kinds:
        ids = [str(UUID(bytes=s.digest)) for s in subjects if s.kind == "id"]
        add("id", _both("sample_id = ANY(CAST(:v AS uuid[]))"), v=ids)
    for kind in ("sha256", "picture"):
        if kind in kinds:
            add(kind, _both(f"image_sha256 = ANY({_SUBJECTS})"), o=order_id, k=kind)
    if "url" in kinds:
        add("url", _both(f"url_sha256 = ANY({_SUBJECTS})"), o=order_id, k="url")
    for subject in subjects:
        if subject.kind == "domain" and subject.host:
            # all that begins so: '/' follows '.'
            end = subject.host.removesuffix(".") + "/"
            condition = 'host COLLATE "C" >= :a AND host COLLATE "C" < :b'
            add("domain", _both(condition), a=subject.host, b=end)
        elif subject.kind == "source":
            add("source", _SOURCE, v=subject.value)
    return answer


def samples_now(conn: Connection, dataset_id: int, samples: Sequence[UUID]) -> list[Named]:
    """Some samples, with the verdict of each that is in force now."""
    sql = _both("sample_id = ANY(CAST(:v AS uuid[]))")
    return list(_named(conn, sql, "", d=dataset_id, v=[str(number) for number in samples]))


def samples_of_images(conn: Connection, dataset_id: int, images: Sequence[bytes]) -> list[Named]:
    """All samples with the bytes of some images."""
    return list(_named(conn, _both("image_sha256 = ANY(:v)"), "", d=dataset_id, v=list(images)))


def _named(conn: Connection, sql: str, by: str, **asked: Any) -> Iterator[Named]:
    for sample_id, image, source, verdict, own_fault, is_own in tuples(conn, sql, **asked):
        digest = None if image is None else bytes(image)
        yield Named(sample_id, digest, source, verdict, own_fault, is_own, by)
