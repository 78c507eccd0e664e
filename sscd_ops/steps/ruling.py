"""The standing rules of a batch's dataset at a turn, asked about samples of its manifests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from sscd_ops.catalog import rules
from sscd_ops.core.descriptor_file import fixed_bytes
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
        # one transaction a source shard: many digests make a table, whose locks stay until its end
        with self._parts.catalog.begin() as conn:
            answer[there] = rules.orders_of_urls(conn, self._dataset_id, digests, self._turn)
        return answer
