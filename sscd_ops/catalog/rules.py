"""Standing rules of withdrawals, as of a turn: what they name, and which samples they stop.

The URLs, domains and sources that a withdrawal names stop later samples too, from its turn on until
the turn that reverts it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog.lookups import numbered_digests
from sscd_ops.catalog.sql import tuples
from sscd_ops.core.rules import Rules

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
