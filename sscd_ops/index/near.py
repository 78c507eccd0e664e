"""A float32 look at candidates that are mostly far below the floor, before the exact one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import faiss
import numpy as np

from sscd_ops.core.best import Tile
from sscd_ops.index.flat import inner_product_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sscd_ops.index.scan import Candidates

_FEW = 1 << 16
"""Below this many pairs (a few ms) one thread does: FAISS's and torch's OpenMP are two runtimes,
and idle threads of one would spin beside the other's (measured: torch._int_mm took 2.5 times as
long)."""


def near_pairs(
    queries: Tile, tile: Tile, found: Candidates | None, floor: float
) -> Candidates | None:
    """Those of the candidates whose float32 product, error bound allowed for, can reach the floor.

    Args:
        queries: the query block.
        tile: the reference block.
        found: rows of the two; None where nearly all pairs are candidates, which makes a plain
            matrix product the cheapest look at them.
        floor: least similarity looked for.

    Returns:
        No pair below the floor's reach; every pair of ``found`` in its reach. None where these are
        nearly all pairs.
    """
    if found is None:
        return inner_product_pairs(queries, tile, floor)
    query, reference = found
    if not len(query):
        return found
    rows, at = tile, reference
    if not tile.is_wide and 2 * len(reference) < len(tile):
        used, at = np.unique(reference, return_inverse=True)
        rows = Tile(tile.rows[used], tile.descriptors[used])
    products = _products(queries.wide, rows.wide, query, np.ascontiguousarray(at, np.int64))
    near = products >= queries.least_product(rows, floor)
    return query[near], reference[near]


def _products(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    at_left: NDArray[np.int64],
    at_right: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Inner products of ``left[at_left[k]]`` and ``right[at_right[k]]``, without gathering them."""
    out = np.empty(len(at_left), np.float32)
    threads = faiss.omp_get_max_threads()
    if len(out) < _FEW:
        faiss.omp_set_num_threads(1)
    faiss.pairwise_indexed_inner_product(  # type: ignore[attr-defined]
        left.shape[1],
        len(out),
        faiss.swig_ptr(left),
        faiss.swig_ptr(at_left),
        faiss.swig_ptr(right),
        faiss.swig_ptr(at_right),
        faiss.swig_ptr(out),
    )
    faiss.omp_set_num_threads(threads)
    return out
