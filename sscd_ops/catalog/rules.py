"""Standing rules of withdrawals, as of a turn: what they name, and which samples they stop.

The URLs, domains and sources that a withdrawal names stop later samples too, from its turn on until
the turn that reverts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog.orders import subjects_of
from sscd_ops.catalog.read_again import STANDS
from sscd_ops.catalog.sql import tuples
from sscd_ops.catalog.subjects import named_samples
from sscd_ops.model import Rules

_IN_FORCE = (
    "o.dataset_id = :d AND o.verb = 'withdraw' AND o.order_id <> :w"
    " AND o.turn <= :t AND (o.turn_to IS NULL OR o.turn_to > :t)"
)


def rules_at(conn: Connection, dataset_id: int, turn: int, *, without: int = 0) -> Rules:
    """The rules in force at a turn; those by URL are asked with ``orders_of_urls``.

    Args:
        conn: an open transaction.
        dataset_id: whose.
        turn: of orders later than it, and of what ended later, nothing is seen.
        without: an order that does not count.
    """
    found = tuples(
        conn,
        "SELECT s.kind, s.host, s.digest, min(o.order_id) FROM sscd_ops.order_subjects s"
        f" JOIN sscd_ops.orders o USING (order_id) WHERE s.kind IN ('domain', 'source')"
        f" AND {_IN_FORCE} GROUP BY 1, 2, 3",
        d=dataset_id,
        t=turn,
        w=without,
    )
    domains: dict[str, int] = {}
    sources: dict[bytes, int] = {}
    for kind, host, digest, order in found:
        if kind == "domain":
            domains[host] = order
        else:
            sources[bytes(digest)] = order
    urls = tuples(
        conn,
        "SELECT FROM sscd_ops.orders o WHERE EXISTS (SELECT FROM sscd_ops.order_subjects s"
        f" WHERE s.order_id = o.order_id AND s.kind = 'url') AND {_IN_FORCE} LIMIT 1",
        d=dataset_id,
        t=turn,
        w=without,
    )
    return Rules(domains, sources, next(urls, None) is not None)


def orders_of_urls(
    conn: Connection,
    dataset_id: int,
    digests: NDArray[np.uint8],
    turn: int,
    *,
    without: int = 0,
) -> NDArray[np.int64]:
    """The first order in force at a turn that names each of some URLs; 0: none does.

    Args:
        conn: an open transaction.
        dataset_id: whose.
        digests: uint8 (n, 32), of URLs (``core.urls``).
        turn: as in ``rules_at``.
        without: likewise.

    Returns:
        int64 (n,).
    """
    answer = np.zeros(len(digests), np.int64)
    for start in range(0, len(digests), _URLS):
        asked = [url.tobytes() for url in digests[start : start + _URLS]]
        for row, order in tuples(conn, _OF_URLS, u=asked, d=dataset_id, t=turn, w=without):
            answer[start + row] = order
    return answer


_URLS = 2000
"""Digests asked for at once: as a bound array of so many each is a look-up (10 us a digest among a
million), while a table of more would be joined with all that is named."""
_OF_URLS = (
    "SELECT q.i - 1, min(o.order_id) FROM unnest(CAST(:u AS bytea[])) WITH ORDINALITY AS q(url, i)"
    " JOIN sscd_ops.order_subjects s ON s.kind = 'url' AND s.digest = q.url"
    f" JOIN sscd_ops.orders o USING (order_id) WHERE {_IN_FORCE} GROUP BY 1"
)


# ---------------------------------------------------------------- samples that have a verdict


_AT_ONCE = 10_000
"""Samples that are asked about at once."""
_IN = (
    " JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id AND d.dataset_id = :d"
    " AND d.turn IS NOT NULL"
)
_SOURCE = " JOIN sscd_ops.source_shards sh ON sh.shard_id = s.shard_id"


@dataclass(frozen=True, slots=True)
class Came:
    """What rules look at of a sample: digest and reversed host of its URL, if any; its source."""

    sample_id: UUID
    url_sha256: bytes | None
    host: str | None
    source: str


def where_from(conn: Connection, dataset_id: int, sample_ids: Sequence[UUID]) -> list[Came]:
    """Where some samples with a verdict came from, also those of months that were detached."""
    columns = "s.sample_id, s.url_sha256, s.host, sh.source"
    where = "s.sample_id = ANY(CAST(:s AS uuid[]))"
    found = tuples(
        conn,
        f"SELECT {columns} FROM sscd_ops.samples s{_IN} AND d.month = s.month{_SOURCE}"
        f" WHERE {where} UNION ALL"
        f" SELECT {columns} FROM sscd_ops.detached_samples s{_IN}{_SOURCE} WHERE {where}",
        d=dataset_id,
        s=list(sample_ids),
    )
    return [Came(each, url and bytes(url), *rest) for each, url, *rest in found]


def ruled_samples(conn: Connection, dataset_id: int, order_id: int) -> list[UUID]:
    """The samples that a rule stopped as they were read, and which this order's rules cover.

    Their first verdict is ``withdrawn``; where no other order stops them (``steps.ruling``) or
    covers them by name, they become ``rule_ended`` with the order's end.
    """
    kinds = ("url", "domain", "source")
    rules = [each for each in subjects_of(conn, order_id) if each.kind in kinds]
    covered = list(named_samples(conn, dataset_id, order_id, rules))
    return sorted(ruled_of(conn, dataset_id, covered))


def ruled_of(conn: Connection, dataset_id: int, sample_ids: Sequence[UUID]) -> set[UUID]:
    """Which of some samples a rule stopped as they were read: no image ever speaks for them."""
    answer: set[UUID] = set()
    for start in range(0, len(sample_ids), _AT_ONCE):
        found = tuples(
            conn,
            f"SELECT s.sample_id FROM sscd_ops.samples s{_IN} AND d.month = s.month"
            " WHERE s.sample_id = ANY(CAST(:s AS uuid[])) AND s.verdict = 'withdrawn'"
            f" AND s.own_fault AND {STANDS} UNION ALL"
            f" SELECT s.sample_id FROM sscd_ops.detached_samples s{_IN}"
            f" WHERE s.sample_id = ANY(CAST(:s AS uuid[])) AND s.ruled AND {STANDS}",
            d=dataset_id,
            s=list(sample_ids[start : start + _AT_ONCE]),
        )
        answer |= {sample_id for (sample_id,) in found}
    return answer


@dataclass(frozen=True, slots=True)
class WithoutUrl:
    """A source whose samples, or some of them, no rule by URL or domain can find.

    ``samples``: how many it delivered; ``without``: those that say no URL.
    """

    source: str
    samples: int
    without: int


def without_urls(conn: Connection, dataset_id: int) -> list[WithoutUrl]:
    """The sources, in all of history, that delivered samples which say no URL.

    Counted as they were read: a sample that was read twice counts twice.
    """
    found = tuples(
        conn,
        "SELECT source, samples, samples - urls FROM (SELECT sh.source,"
        " sum(coalesce(CAST(sh.counts ->> 'samples' AS bigint), 0)) AS samples,"
        " sum(coalesce(CAST(sh.counts ->> 'urls' AS bigint), 0)) AS urls"
        " FROM sscd_ops.source_shards sh JOIN sscd_ops.decisions d ON d.attempt_id = sh.attempt_id"
        " AND d.turn IS NOT NULL WHERE d.dataset_id = :d GROUP BY 1) n WHERE samples > urls"
        " ORDER BY 1",
        d=dataset_id,
    )
    return [WithoutUrl(source, int(samples), int(without)) for source, samples, without in found]
