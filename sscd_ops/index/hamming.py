"""Perceptual hashes searched by FAISS's Hamming range search: exact, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from sscd_ops.core.best import BestMatches
from sscd_ops.core.perceptual import BITS, CODE, WIDTH, are_fit, codes_of, distance_of
from sscd_ops.machine import limit_threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from sscd_ops.model import Matches

    Rows = tuple[int, NDArray[np.uint8]]
    """The number of the first row, and rows (m, 33)."""

_QUERIES, _TILE = 4096, 4096
"""A tile has at most 2^24 pairs: 200 MB where every one is an answer and FAISS lists them, which
kept images, apart from each other as they are, are not. Smaller tiles take up to four times as
long: a call costs some ms."""
_CHUNK = 65536


class Hamming:
    """A ``ports.HashSearch``."""

    def __init__(self) -> None:
        limit_threads()

    def search(
        self,
        queries: NDArray[np.uint8],
        hashes: NDArray[np.uint8],
        kept: NDArray[np.bool_],
        floor: float,
        limit: int,
    ) -> Matches:
        """Each query's ``limit`` most similar kept rows at or above ``floor`` (ports)."""
        rows = np.flatnonzero(kept)
        best = BestMatches(len(queries), floor, limit)
        for at in range(0, len(rows), _TILE):
            part = rows[at : at + _TILE]
            _compare(best, queries, np.asarray(hashes[part]), part)
        return best.matches()

    def growing(self) -> Growing:
        """An empty index that rows can be added to."""
        return Growing()


class Growing:
    """A ``ports.GrowingIndex``: chunks of rows, so that growing copies nothing."""

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.uint8]] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, hashes: NDArray[np.uint8]) -> None:
        """Append rows (n, 33)."""
        at = 0
        while at < len(hashes):
            used = self._rows % _CHUNK
            if used == 0:
                self._chunks.append(np.empty((_CHUNK, WIDTH), np.uint8))
            end = min(at + _CHUNK - used, len(hashes))
            self._chunks[-1][used : used + end - at] = hashes[at:end]
            self._rows += end - at
            at = end

    def search(self, queries: NDArray[np.uint8], floor: float, limit: int) -> Matches:
        """Each query's ``limit`` most similar rows added so far, at or above ``floor``."""
        best = BestMatches(len(queries), floor, limit)
        for first, rows in self._tiles():
            _compare(best, queries, rows, np.arange(first, first + len(rows)))
        return best.matches()

    def _tiles(self) -> Iterable[Rows]:
        for number, chunk in enumerate(self._chunks):
            held = min(self._rows - number * _CHUNK, _CHUNK)
            for at in range(0, held, _TILE):
                yield number * _CHUNK + at, chunk[at : min(at + _TILE, held)]


def _compare(
    best: BestMatches,
    queries: NDArray[np.uint8],
    rows: NDArray[np.uint8],
    numbers: NDArray[np.int64],
) -> None:
    """Offer the pairs of all queries with a tile; ``numbers`` are the tile's rows, ascending."""
    fit = are_fit(rows)
    codes, numbers = codes_of(rows[fit]), numbers[fit]
    asked = np.flatnonzero(are_fit(queries))
    if not len(codes):
        return
    for at in range(0, len(asked), _QUERIES):
        part = asked[at : at + _QUERIES]
        query, row, distance = _within(codes_of(queries[part]), codes, distance_of(best.floor))
        best.offer(part[query], numbers[row], 1.0 - distance / BITS)


def _within(
    left: NDArray[np.uint8], right: NDArray[np.uint8], radius: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of codes (n, 32), (m, 32) at most ``radius`` bits apart: rows of both, distances."""
    result: Any = faiss.RangeSearchResult(len(left))
    # what IndexBinaryFlat.range_search calls, on our memory; the radius is exclusive
    faiss.hamming_range_search(  # type: ignore[attr-defined]
        faiss.swig_ptr(left),
        faiss.swig_ptr(right),
        len(left),
        len(right),
        radius + 1,
        CODE,
        result,
    )
    limits = faiss.rev_swig_ptr(result.lims, len(left) + 1).astype(np.int64)
    found = int(limits[-1])
    if not found:
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    row = faiss.rev_swig_ptr(result.labels, found).astype(np.int64, copy=True)
    distance = faiss.rev_swig_ptr(result.distances, found).astype(np.float64)
    return np.repeat(np.arange(len(left)), np.diff(limits)), row, distance
