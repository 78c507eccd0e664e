"""Standing rules at a turn, asked about samples of manifests, and about those with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import rules
from sscd_ops.core.descriptor_file import bytes_rows, fixed_bytes
from sscd_ops.core.rules import Stopped, none_stopped, stopped
from sscd_ops.steps.parts import Parts

COLUMNS = ("url_sha256", "host")
"""The columns of manifests that rules look at."""


class Ruling:
    """The rules in force at a turn; false where there are none.

    Args:
        parts: the real parts.
        dataset_id: whose rules.
        turn: of later ones nothing is seen, whenever it is asked.
    """

    def __init__(self, parts: Parts, dataset_id: int, turn: int) -> None:
        self._parts, self._dataset_id, self._turn = parts, dataset_id, turn
        with parts.catalog.begin() as conn:
            self._rules = rules.rules_at(conn, dataset_id, turn)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def stopped(self, source: str, table: Any) -> Stopped:
        """Which samples of a source shard are stopped.

        Args:
            source: the name of its source.
            table: its manifest; of it ``COLUMNS``.
        """
        if not self:
            return none_stopped(len(table))
        hosts = table.column("host").to_pylist()
        return stopped(self._rules, self._of_urls(table), hosts, [source] * len(table))

    def _of_urls(self, table: Any) -> NDArray[np.int64]:
        answer = np.zeros(len(table), np.int64)
        if not self._rules.has_urls:
            return answer
        urls = table.column("url_sha256")
        there = np.flatnonzero(urls.is_valid().to_numpy())
        digests = fixed_bytes(pc.drop_null(urls), 32)
        with self._parts.catalog.begin() as conn:
            answer[there] = rules.orders_of_urls(conn, self._dataset_id, digests, self._turn)
        return answer


_AT_ONCE = 10_000
"""Samples that are asked about at once."""


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
        turn: rules in force then.
        without: an order that does not count: the one that is to end.
    """
    in_force = rules.rules_at(conn, dataset_id, turn, without=without)
    answer: dict[UUID, int] = {}
    for start in range(0, len(sample_ids) if in_force else 0, _AT_ONCE):
        came = rules.where_from(conn, dataset_id, sample_ids[start : start + _AT_ONCE])
        urls = bytes_rows([each.url_sha256 or bytes(32) for each in came], 32)
        of_url = rules.orders_of_urls(conn, dataset_id, urls, turn, without=without)
        hosts, sources = [each.host for each in came], [each.source for each in came]
        orders = stopped(in_force, of_url, hosts, sources).order.tolist()
        answer |= {each.sample_id: order for each, order in zip(came, orders, strict=True) if order}
    return answer
