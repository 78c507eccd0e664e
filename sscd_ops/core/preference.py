"""Who wins: the order of preference inside a batch. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def order(
    prefer: Sequence[str], columns: Mapping[str, NDArray[np.int64]], arrival: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Row numbers, most preferred first.

    Args:
        prefer: column names, the most important first; of each, more is better. Empty: by arrival.
        columns: int64 (n,) values by name.
        arrival: int64 (n,), breaks ties: the smaller comes first.

    Returns:
        A permutation, int64 (n,).
    """
    # lexsort's last key is its first criterion
    keys = [arrival, *(-columns[name] for name in reversed(prefer))]
    return np.lexsort(keys).astype(np.int64)


def arrival_rank(sources: Sequence[str], relative_uris: Sequence[str]) -> NDArray[np.int64]:
    """Each source shard's place by (source name, relative URI): never by listing order.

    Args:
        sources: source name of each shard.
        relative_uris: URI of each shard relative to its source's root.
    """
    places = sorted(range(len(sources)), key=lambda i: (sources[i], relative_uris[i]))
    rank = np.empty(len(sources), np.int64)
    rank[places] = np.arange(len(sources))
    return rank
