"""``flat``: FAISS range search by inner product, the reference. Needs no codes, never torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from sscd_ops.core.best import DENSE
from sscd_ops.index.scan import TILE_QUERIES, TILE_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sscd_ops.core.best import Tile
    from sscd_ops.index.scan import Candidates, Codes


class Flat:
    """Brute force in float32, the radius lowered by float32's error bound."""

    name = "flat"
    tile_rows, tile_queries = TILE_ROWS, TILE_QUERIES

    def roles(self) -> tuple[str, ...]:
        """None: descriptors are enough."""
        return ()

    def codes(self, descriptors: NDArray[np.float16]) -> Codes:
        """Nothing to store."""
        return {}

    def prepare(self, queries: NDArray[np.float16]) -> dict[str, Any]:
        """Nothing beside the queries."""
        return {}

    def candidates(
        self, queries: Tile, ready: dict[str, Any], tile: Tile, codes: Codes, floor: float
    ) -> Candidates | None:
        """All pairs whose float32 product can stand for a similarity at or above ``floor``."""
        return inner_product_pairs(queries, tile, floor)


def inner_product_pairs(queries: Tile, tile: Tile, floor: float) -> Candidates | None:
    """Pairs whose float32 product can stand for a similarity at or above ``floor``.

    This is the function below ``IndexFlatIP.range_search``, called on our memory instead of a
    copy in an index.

    Returns:
        Rows of the two tiles in order of the query, or None where nearly all pairs are such.
    """
    result = faiss.RangeSearchResult(len(queries))
    # FAISS's radius is exclusive
    radius = np.nextafter(np.float32(queries.least_product(tile, floor)), np.float32(-np.inf))
    faiss.range_search_inner_product(
        faiss.swig_ptr(queries.wide),
        faiss.swig_ptr(tile.wide),
        queries.wide.shape[1],
        len(queries),
        len(tile),
        float(radius),
        result,
    )
    return pairs_of(result, len(queries), DENSE * len(queries) * len(tile))


def pairs_of(result: Any, queries: int, most: float) -> Candidates | None:
    """A FAISS ``RangeSearchResult`` as (query, row) arrays; None where more than ``most``."""
    limits = faiss.rev_swig_ptr(result.lims, queries + 1).astype(np.int64)
    found = int(limits[-1])
    if found > most:
        return None
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    row = faiss.rev_swig_ptr(result.labels, found).astype(np.int64, copy=True)
    return np.repeat(np.arange(queries), np.diff(limits)), row
