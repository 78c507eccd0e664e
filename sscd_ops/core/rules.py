"""Standing rules: which samples the withdrawals in force stop, by URL, domain or source. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.urls import covering, digest
from sscd_ops.model import Rules

BY = ("", "url", "domain", "source")
"""What a rule goes by; ``Stopped.by`` numbers them."""


@dataclass(frozen=True)
class Stopped:
    """Which samples are stopped, and by which order: the one of the smallest number.

    ``order``: int64 (n,), 0 where none stops it. ``by``: int8 (n,), place in ``BY``.
    """

    order: NDArray[np.int64]
    by: NDArray[np.int8]

    def message(self, row: int) -> str:
        """What is said of one that is stopped."""
        return f"order {self.order[row]}: {BY[self.by[row]]}"


def none_stopped(count: int) -> Stopped:
    """So many samples, none of which is stopped."""
    return Stopped(np.zeros(count, np.int64), np.zeros(count, np.int8))


def joined(pieces: Sequence[Stopped]) -> Stopped:
    """The samples of several pieces, one after another."""
    pieces = [none_stopped(0), *pieces]
    return Stopped(
        np.concatenate([piece.order for piece in pieces]),
        np.concatenate([piece.by for piece in pieces]),
    )


def stopped(
    rules: Rules,
    of_url: NDArray[np.int64],
    hosts: Sequence[str | None],
    sources: Sequence[str],
) -> Stopped:
    """Which of some samples the rules stop.

    Args:
        rules: those in force.
        of_url: int64 (n,), the first order that names each one's URL; 0: none does.
        hosts: each one's, reversed; None where it says no URL.
        sources: the name of each one's source.
    """
    answer = none_stopped(len(of_url))
    found = [
        of_url,
        _of_each(hosts, lambda host: _of_host(rules, host)),
        _of_each(sources, lambda name: rules.sources.get(digest(name), 0)),
    ]
    for by, order in enumerate(found, 1):
        is_first = (order > 0) & ((answer.order == 0) | (order < answer.order))
        answer.order[is_first], answer.by[is_first] = order[is_first], by
    return answer


def _of_host(rules: Rules, host: str) -> int:
    """The first order whose domain covers a reversed host; 0: none does."""
    found = [rules.domains[each] for each in covering(host) if each in rules.domains]
    return min(found, default=0)


def _of_each(values: Sequence[str | None], order_of: Callable[[str], int]) -> NDArray[np.int64]:
    """Int64 (n,): asked once for each distinct text; 0 for None."""
    orders = {value: 0 if value is None else order_of(value) for value in set(values)}
    return np.fromiter((orders[value] for value in values), np.int64, len(values))
