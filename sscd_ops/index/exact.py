"""``exact``: an int8 inner product that is an upper bound of the similarity, then the real one.

The proof is in docs/search.md ("exact"); in short, for unit vectors ``x``, rotated prefixes ``p``
and integer codes ``q = round(p / s)`` with error ``e = p / s - q`` (all in units of ``s``)::

    <x_a, x_b> / s^2 <= q_a.q_b + |q_a| |e_b| + |e_a| |q_b| + |r_a| |r_b|
    |r|^2 = (1 - |p|^2) / s^2 + |e|^2

by Cauchy-Schwarz. The last three products are appended to ``q`` as further integer coordinates,
rounded up, so one int8 matrix product compared with one integer yields every pair at or above the
floor, and few others. A float32 and then the canonical similarity sort those out.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from sscd_ops.core.best import DENSE
from sscd_ops.core.canonical import widen
from sscd_ops.index.int8 import product
from sscd_ops.index.near import near_pairs
from sscd_ops.index.rotation import length, padded, rotation
from sscd_ops.index.scan import TILE_QUERIES, TILE_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sscd_ops.core.best import Tile
    from sscd_ops.index.scan import Candidates, Codes

COLUMNS = 256
"""Bytes of a code at most: prefix, two coordinates for quantisation, the rest for the residual."""
RESIDUAL = 18
WILD = -128
"""In a code's last column: the bound does not hold, the row is a candidate of everything."""
_LARGEST = np.iinfo(np.int32).max
_SPAN = 5.5
"""Coordinates are quantised up to this many standard deviations of an isotropic unit vector."""
_CROSS = 8.0
"""How the factors of |q| |e| share the range of int8: |q| / 8 and 8 |e|."""
SLACK = 1e-9
"""More than all float64 rounding of this module together (below 1e-12), in similarity."""
_ROWS = 4096
_STRIP = 2048
"""Rows multiplied at once: with 1,024 queries an int32 result of 8 MB, in the L3 cache."""


class Exact:
    """Superset search by int8 codes.

    Not for several threads at once: the instance owns the product's buffer.
    """

    name = "exact"
    tile_rows, tile_queries = TILE_ROWS, TILE_QUERIES

    def __init__(self, fingerprint_digest: str, dimensions: int) -> None:
        order = padded(dimensions)
        self.prefix = min(order, COLUMNS - RESIDUAL - 2)
        self.columns = -(-(self.prefix + RESIDUAL + 2) // 32) * 32
        self.scale = min(1.0, _SPAN / np.sqrt(order)) / 127.0
        self._rotation = rotation(fingerprint_digest, "exact", dimensions)[:, : self.prefix]
        # the largest residual of a row that is not wild, so that every share of one fits in int8
        self._share = 127.0 / np.sqrt(self.scale**-2 + (127.0 / _CROSS) ** 2 + 1e-6)
        self._unit = length(dimensions) * self.scale
        plan = f"exact 1 {fingerprint_digest} {dimensions} {self.prefix} {self.scale!r}"
        self.role = f"exact-{hashlib.sha256(plan.encode()).hexdigest()[:8]}"
        self._buffer = np.empty(0, np.int32)

    def roles(self) -> tuple[str, ...]:
        """One array; its name carries what the codes were made with."""
        return (self.role,)

    def codes(self, descriptors: NDArray[np.float16]) -> Codes:
        """int8 (n, columns): the reference side of the bound."""
        return {self.role: self._encode(descriptors, is_query=False)}

    def prepare(self, queries: NDArray[np.float16]) -> dict[str, Any]:
        """int8 (n, columns): the query side of the bound."""
        return {"query": self._encode(queries, is_query=True)}

    def candidates(
        self, queries: Tile, ready: dict[str, Any], tile: Tile, codes: Codes, floor: float
    ) -> Candidates | None:
        """All pairs whose bound reaches the floor and whose float32 product can stand for it."""
        left, right = ready["query"], codes[self.role]
        least = int(np.ceil((floor - SLACK) / self.scale**2))
        found: list[Candidates] = []
        room = int(DENSE * len(left) * len(right))
        for at in range(0, len(right), _STRIP):
            found.append(self._bounded(left, right[at : at + _STRIP], at, least))
            room -= len(found[-1][0])
            if room < 0:  # the list would grow without bound
                return near_pairs(queries, tile, None, floor)
        query = np.concatenate([pair[0] for pair in found])
        reference = np.concatenate([pair[1] for pair in found])
        return near_pairs(queries, tile, (query, reference), floor)

    def _bounded(
        self, left: NDArray[np.int8], right: NDArray[np.int8], first: int, least: int
    ) -> Candidates:
        """Pairs whose bound is ``least`` or more; rows of ``right`` count from ``first``."""
        cells = len(left) * len(right)
        if self._buffer.size < cells:
            self._buffer = np.empty(cells, np.int32)
        out = self._buffer[:cells].reshape(len(left), len(right))
        product(left, right, out)
        out[left[:, -1] == WILD] = _LARGEST
        out[:, right[:, -1] == WILD] = _LARGEST
        query, reference = np.divmod(np.flatnonzero(out >= least), len(right))
        return query, reference + first

    def _encode(self, descriptors: NDArray[np.float16], *, is_query: bool) -> NDArray[np.int8]:
        out = np.zeros((len(descriptors), self.columns), np.int8)
        for start in range(0, len(descriptors), _ROWS):
            stop = min(start + _ROWS, len(descriptors))
            self._encode_block(descriptors[start:stop], out[start:stop], is_query)
        return out

    def _encode_block(
        self, descriptors: NDArray[np.float16], out: NDArray[np.int8], is_query: bool
    ) -> None:
        prefix = widen(descriptors).astype(np.float64)
        norm = np.sqrt(np.einsum("ij,ij->i", prefix, prefix))
        norm[norm == 0.0] = 1.0
        # the product is exact (see rotation), so codes are equal to the bit on every machine
        prefix = (prefix @ self._rotation) / (norm[:, None] * self._unit)
        code = np.rint(prefix).clip(-127, 127)
        inside = np.einsum("ij,ij->i", prefix, prefix)
        prefix -= code
        error = np.einsum("ij,ij->i", prefix, prefix)
        residual = np.sqrt(np.maximum(1.0 / self.scale**2 - inside, 0.0) + error + 1e-6)
        error = np.sqrt(error) + 1e-6
        size = np.sqrt(np.einsum("ij,ij->i", code, code))
        out[:, : self.prefix] = code
        # the query's error meets the reference's size in the first column, and the reverse
        of_error, of_size = self.prefix + (not is_query), self.prefix + is_query
        out[:, of_error] = np.minimum(np.ceil(error * _CROSS), 127)
        out[:, of_size] = np.ceil(size / _CROSS)
        last = out[:, -RESIDUAL:]
        if is_query:
            last[:] = np.minimum(np.ceil(residual * self._share), 127)[:, None]
        else:  # these 18 add up to the residual, rounded up once instead of 18 times
            total = np.ceil(residual / self._share).astype(np.int64)
            last[:] = np.minimum((total[:, None] + np.arange(RESIDUAL)) // RESIDUAL, 127)
        # where clipping left an error beyond int8 the bound does not hold
        out[error * _CROSS > 127, -1] = WILD
