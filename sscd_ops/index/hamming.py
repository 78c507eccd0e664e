"""Perceptual hashes searched by FAISS's Hamming range search: exact, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from sscd_ops.core.best import BestMatches, Mutual
from sscd_ops.core.perceptual import (
    BITS,
    CODE,
    WIDTH,
    are_fit,
    codes_of,
    distance_of,
    hash_similarities,
)
from sscd_ops.machine import limit_threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from sscd_ops.model import Matches

    NumberedRows = tuple[int, NDArray[np.uint8]]
    """The number of the first row, and rows (m, 33)."""

_QUERIES, _TILE = 4096, 4096
"""A tile has at most 2^24 pairs: 200 MB where every one is an answer and FAISS lists them, which
kept images, apart from each other as they are, are not. Smaller tiles take up to four times as
long: a call costs some ms."""
_CHUNK = 65536
_MANY = 1 << 18
"""From so many answers in a tile on, a matrix of all its pairs takes less memory than a list."""
_DENSE_CELLS = 1 << 20
"""Cells of such a matrix at once."""


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

    def block(self, hashes: NDArray[np.uint8]) -> Block:
        """Rows (n, 33) to be compared with each other and with other blocks (ports)."""
        return Block(hashes)

    def growing(self) -> Growing:
        """An empty index that rows can be added to."""
        return Growing()


class Block:
    """A ``ports.SearchBlock``: tiles of the rows that may match at all."""

    def __init__(self, hashes: NDArray[np.uint8]) -> None:
        self._rows = len(hashes)
        self._tiles = [
            _BlockTile(at, np.asarray(hashes[at : at + _TILE]))
            for at in range(0, len(hashes), _TILE)
        ]

    def __len__(self) -> int:
        return self._rows

    def across(self, other: Block, floor: float, limit: int) -> tuple[Matches, Matches]:
        """The most similar rows of ``other`` for each row, and the reverse (ports)."""
        mine, theirs = (BestMatches(len(block), floor, limit) for block in (self, other))
        both = Mutual(mine, theirs)
        for right in other._tiles:
            for left in self._tiles:
                _compare_tiles(both, left, right, floor)
        return mine.matches(), theirs.matches()

    def within(self, floor: float, limit: int) -> Matches:
        """The most similar other rows of the block for each row (ports)."""
        best = BestMatches(len(self), floor, limit)
        both = Mutual(best, best)
        for number, right in enumerate(self._tiles):
            for left in self._tiles[: number + 1]:
                _compare_tiles(both, left, right, floor)
        return best.matches()


class _BlockTile:
    """Some rows of a block, from number ``first`` on, and the codes of those that may match."""

    def __init__(self, first: int, hashes: NDArray[np.uint8]) -> None:
        self.first, self.hashes = first, hashes
        fit = are_fit(hashes)
        self.rows, self.codes = np.flatnonzero(fit) + first, codes_of(hashes[fit])


def _compare_tiles(both: Mutual, left: _BlockTile, right: _BlockTile, floor: float) -> None:
    """Offer the pairs of two tiles."""
    if not len(left.rows) or not len(right.rows):
        return
    found = _within(left.codes, right.codes, distance_of(floor), _MANY)
    if found is not None:
        query, row, distance = found
        both.offer(left.rows[query], right.rows[row], 1.0 - distance / BITS)
        return
    numbers = np.arange(right.first, right.first + len(right.hashes))
    step = max(1, _DENSE_CELLS // len(numbers))
    for at in range(0, len(left.hashes), step):
        similarity = hash_similarities(left.hashes[at : at + step], right.hashes)
        both.offer_block(left.first + at, numbers, similarity)


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

    def _tiles(self) -> Iterable[NumberedRows]:
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
        found = _within(codes_of(queries[part]), codes, distance_of(best.floor))
        if found is not None:
            query, row, distance = found
            best.offer(part[query], numbers[row], 1.0 - distance / BITS)


def _within(
    left: NDArray[np.uint8], right: NDArray[np.uint8], radius: int, most: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]] | None:
    """Pairs of codes (n, 32), (m, 32) at most ``radius`` bits apart: rows of both, distances.

    None where there are more than ``most``.
    """
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
    if most is not None and found > most:
        return None
    if not found:
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    row = faiss.rev_swig_ptr(result.labels, found).astype(np.int64, copy=True)
    distance = faiss.rev_swig_ptr(result.distances, found).astype(np.float64)
    return np.repeat(np.arange(len(left)), np.diff(limits)), row, distance
