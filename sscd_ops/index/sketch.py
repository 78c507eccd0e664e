"""``sketch``: sign bits of a random rotation, Hamming distance, then the real similarity.

Two vectors at an angle differ in each bit with probability angle / pi (Goemans and Williamson 1995;
Charikar 2002), so the distance of ``bits`` such bits is binomial. The radius is the smallest one
that misses a pair at the threshold with probability below ``MISS_RATE``; the code is the shortest
that then lets few strangers through. docs/search.md has derivation and measured recall.

Decisions are at the threshold, and the radius serves it: matches between the stored floor and the
threshold are best effort here, they are found the more rarely the further below it they are.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from sscd_ops.core.best import DENSE
from sscd_ops.core.canonical import widen
from sscd_ops.index.flat import pairs_of
from sscd_ops.index.near import near_pairs
from sscd_ops.index.rotation import padded, rotation
from sscd_ops.index.scan import TILE_QUERIES, TILE_ROWS
from sscd_ops.index.sketch_radius import radius_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sscd_ops.core.best import Tile
    from sscd_ops.index.scan import Candidates, Codes

_ROWS = 4096


class Sketch:
    """Search by sign bits."""

    name = "sketch"
    tile_rows, tile_queries = TILE_ROWS, TILE_QUERIES

    def __init__(self, fingerprint_digest: str, dimensions: int, threshold: float) -> None:
        chosen = radius_for(threshold)
        self.bits, self.radius = chosen.bits, chosen.radius
        # one rotation has as many bits as (padded) dimensions; further ones are independent
        turns = -(-self.bits // padded(dimensions))
        self._rotation = np.concatenate(
            [rotation(fingerprint_digest, f"sketch/{turn}", dimensions) for turn in range(turns)],
            axis=1,
        )[:, : self.bits]
        plan = f"sketch 1 {fingerprint_digest} {dimensions} {self.bits}"
        self.role = f"sketch-{hashlib.sha256(plan.encode()).hexdigest()[:8]}"

    def roles(self) -> tuple[str, ...]:
        """One array; its name carries what the codes were made with."""
        return (self.role,)

    def codes(self, descriptors: NDArray[np.float16]) -> Codes:
        """uint8 (n, bits / 8): the sign bits."""
        return {self.role: self._encode(descriptors)}

    def prepare(self, queries: NDArray[np.float16]) -> dict[str, Any]:
        """The queries' own bits."""
        return {"query": self._encode(queries)}

    def candidates(
        self, queries: Tile, ready: dict[str, Any], tile: Tile, codes: Codes, floor: float
    ) -> Candidates | None:
        """Pairs within the radius whose float32 product can stand for the floor."""
        left, right = ready["query"], codes[self.role]
        result = faiss.RangeSearchResult(len(left))
        # what IndexBinaryFlat.range_search calls, on our memory; the radius is exclusive
        faiss.hamming_range_search(  # type: ignore[attr-defined]
            faiss.swig_ptr(left),
            faiss.swig_ptr(right),
            len(left),
            len(right),
            self.radius + 1,
            self.bits // 8,
            result,
        )
        found = pairs_of(result, len(left), DENSE * len(left) * len(right))
        return near_pairs(queries, tile, found, floor)

    def _encode(self, descriptors: NDArray[np.float16]) -> NDArray[np.uint8]:
        out = np.empty((len(descriptors), self.bits // 8), np.uint8)
        for start in range(0, len(descriptors), _ROWS):
            # float64, where this product is exact (see rotation): the same bits on every machine
            block = widen(descriptors[start : start + _ROWS]).astype(np.float64)
            out[start : start + len(block)] = np.packbits(block @ self._rotation > 0, axis=1)
        return out
