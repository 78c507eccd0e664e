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

from sscd_ops.catalog.lookups import numbered_digests
from sscd_ops.catalog.sql import tuples
from sscd_ops.core.descriptor_file import bytes_rows
from sscd_ops.core.rules import Rules, stopped

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
        conn: an open transaction; what it locks, it locks until its end: ask for not too many.
        dataset_id: whose.
        digests: uint8 (n, 32), of URLs (``core.urls``).
        turn: as in ``rules_at``.
        without: likewise.

    Returns:
        int64 (n,).
    """
    source, asked = numbered_digests(conn, digests)
    found = tuples(
        conn,
        f"SELECT q.i - 1, min(o.order_id) FROM {source} JOIN sscd_ops.order_subjects s"
        " ON s.kind = 'url' AND s.digest = q.sha256 JOIN sscd_ops.orders o USING (order_id)"
        f" WHERE {_IN_FORCE} GROUP BY 1",
        d=dataset_id,
        t=turn,
        w=without,
        **asked,
    )
    answer = np.zeros(len(digests), np.int64)
    for row, order in found:
        answer[row] = order
    return answer


# ---------------------------------------------------------------- samples that have a verdict


_AT_ONCE = 10_000
"""Samples that are asked about at once."""
_IN = (
    " JOIN sscd_ops.decisions d ON d.decision_id = s.decision_id AND d.dataset_id = :d"
    " AND d.turn IS NOT NULL"
)
_SOURCE = " JOIN sscd_ops.source_shards sh ON sh.shard_id = s.shard_id"


def orders_of_samples(
    conn: Connection,
    dataset_id: int,
    sample_ids: Sequence[UUID],
    turn: int,
    *,
    without: int = 0,
) -> dict[UUID, int]:
    """Sample -> the first order whose rules stop it; those that none stops are not there.

    Args:
        conn: an open transaction.
        dataset_id: whose.
        sample_ids: of samples with a verdict, also of months that were detached.
        turn: as in ``rules_at``.
        without: likewise: the order that is to end.
    """
    rules = rules_at(conn, dataset_id, turn, without=without)
    answer: dict[UUID, int] = {}
    for start in range(0, len(sample_ids) if rules else 0, _AT_ONCE):
        where = "s.sample_id = ANY(CAST(:s AS uuid[]))"
        columns = "s.sample_id, s.url_sha256, s.host, sh.source"
        found = list(
            tuples(
                conn,
                f"SELECT {columns} FROM sscd_ops.samples s{_IN} AND d.month = s.month{_SOURCE}"
                f" WHERE {where} UNION"
                f" SELECT {columns} FROM sscd_ops.detached_samples s{_IN}{_SOURCE} WHERE {where}",
                d=dataset_id,
                s=list(sample_ids[start : start + _AT_ONCE]),
            )
        )
        urls = bytes_rows([bytes(url or bytes(32)) for _, url, *_ in found], 32)
        of_url = orders_of_urls(conn, dataset_id, urls, turn, without=without)
        hosts, sources = [host for *_, host, _ in found], [source for *_, source in found]
        orders = stopped(rules, of_url, hosts, sources).order.tolist()
        answer |= {row[0]: order for row, order in zip(found, orders, strict=True) if order}
    return answer


_RULED = (
    "WITH rule AS (SELECT kind, digest, host FROM sscd_ops.order_subjects WHERE order_id = :o),"
    " shard AS (SELECT sh.shard_id, x.decision_id, x.month FROM sscd_ops.source_shards sh"
    " JOIN rule ON rule.kind = 'source' AND rule.digest = sha256(convert_to(sh.source, 'UTF8'))"
    " JOIN sscd_ops.decisions x ON x.attempt_id = sh.attempt_id AND x.turn IS NOT NULL) "
) + " UNION ".join(
    f"SELECT s.sample_id FROM {table} s{_IN}{same_month} JOIN {rule} WHERE {is_ruled}"
    for table, same_month, of_shard, is_ruled in (
        (
            "sscd_ops.samples",
            " AND d.month = s.month",
            " AND shard.month = s.month",
            "s.verdict = 'withdrawn' AND s.own_fault",
        ),
        ("sscd_ops.detached_samples", "", "", "s.ruled"),
    )
    for rule in (
        "rule ON rule.kind = 'url' AND s.url_sha256 = rule.digest",
        # a domain ends in a dot, and / is what comes after it
        "rule ON rule.kind = 'domain' AND s.host COLLATE \"C\" >= rule.host"
        " AND s.host COLLATE \"C\" < left(rule.host, -1) || '/'",
        f"shard ON shard.decision_id = s.decision_id AND shard.shard_id = s.shard_id{of_shard}",
    )
)


def ruled_samples(conn: Connection, dataset_id: int, order_id: int) -> list[UUID]:
    """The samples that a rule stopped as they were read, and which this order's rules cover.

    Their first verdict is ``withdrawn``; where no other order stops them (``orders_of_samples``)
    or covers them by name, they become ``rule_ended`` with the order's end.
    """
    found = tuples(conn, f"{_RULED} ORDER BY 1", d=dataset_id, o=order_id)
    return [sample_id for (sample_id,) in found]


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
