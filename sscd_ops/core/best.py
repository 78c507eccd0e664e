"""Each query's few best matches, gathered tile by tile in bounded memory. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sscd_ops.core.canonical import (
    block_similarities,
    least_product,
    pair_similarities,
    span,
    widen,
)
from sscd_ops.model import Matches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sscd_ops.core.canonical import Span

NO_ROW = np.iinfo(np.int64).max
DENSE = 0.01
"""From this share of candidates on, a float64 matrix product beats gathering pairs (measured:
108 GF/s against 1.5 us a pair at 512 dimensions on 2 cores)."""
_DENSE_CELLS = 1 << 20
"""Cells of a similarity matrix at once: 8 MB of float64, a few times that while selecting."""
_PAIRS = 1 << 18
"""Candidate pairs worked on at once."""


class BestMatches:
    """The ``limit`` most similar references of each query, at or above ``floor``.

    Ties go to the smaller reference. The answer depends on the pairs offered, not on the order in
    which, or the tiles by which, they come; each pair is to be offered once.

    Attributes:
        similarity: float64 (n, limit), descending in each row, -inf where there is none.
        reference: int64 (n, limit), ``NO_ROW`` where there is none.
    """

    def __init__(self, queries: int, floor: float, limit: int) -> None:
        self.floor = floor
        self.limit = limit
        self.similarity = np.full((queries, limit), -np.inf)
        self.reference = np.full((queries, limit), NO_ROW, np.int64)

    def offer(
        self,
        query: NDArray[np.int64],
        reference: NDArray[np.int64],
        similarity: NDArray[np.float64],
    ) -> None:
        """Take in pairs with their canonical similarities (three arrays of one length)."""
        last = self.similarity[query, -1]
        better = (similarity >= self.floor) & (
            (similarity > last) | ((similarity == last) & (reference < self.reference[query, -1]))
        )
        query, reference, similarity = query[better], reference[better], similarity[better]
        if not len(query):
            return
        touched = np.unique(query)
        held = self.reference[touched] != NO_ROW
        query = np.concatenate([np.repeat(touched, held.sum(axis=1)), query])
        reference = np.concatenate([self.reference[touched][held], reference])
        similarity = np.concatenate([self.similarity[touched][held], similarity])
        order = np.lexsort((reference, -similarity, query))
        query, reference, similarity = query[order], reference[order], similarity[order]
        starts = np.flatnonzero(np.r_[True, query[1:] != query[:-1]])
        counts = np.diff(np.r_[starts, len(query)])
        rank = np.arange(len(query)) - np.repeat(starts, counts)
        top = rank < self.limit
        self.similarity[query[top], rank[top]] = similarity[top]
        self.reference[query[top], rank[top]] = reference[top]

    def offer_block(
        self, start: int, rows: NDArray[np.int64], similarity: NDArray[np.float64]
    ) -> None:
        """Take in a whole block: cell (i, j) is query ``start + i`` against ``rows[j]``.

        ``rows`` is ascending. At most ``limit`` cells of a query go on to ``offer``.
        """
        last = self.similarity[start : start + len(similarity), -1]
        # a list that is full of smaller references takes no ties: equal rows cost no sorting
        full = self.reference[start : start + len(similarity), -1] < rows[0]
        least = np.where(full, np.nextafter(last, np.inf), last)
        good = similarity >= np.maximum(self.floor, least)[:, None]
        over = np.flatnonzero(good.sum(axis=1) > self.limit)
        if len(over):
            good[over] &= _top_cells(similarity[over], self.limit)
        query, column = np.nonzero(good)
        self.offer(query + start, rows[column], similarity[query, column])

    def matches(self) -> Matches:
        """What was kept, sorted by (query, -similarity, reference)."""
        query, rank = np.nonzero(self.reference != NO_ROW)
        return Matches(
            query.astype(np.int64), self.reference[query, rank], self.similarity[query, rank]
        )


class Mutual:
    """Takes pairs for both their rows: of two blocks, or of one block among its own rows.

    Stands where a ``BestMatches`` would take them for the rows of one side alone. Within one block
    a pair counts where its query comes before its reference, and no row is its own neighbour.

    Args:
        left: of the queries' block.
        right: of the references' block; ``left`` itself where there is one block.

    Attributes:
        within: whether there is one block.
    """

    def __init__(self, left: BestMatches, right: BestMatches) -> None:
        self._left = left
        self._right = right
        self.within = left is right

    def offer(
        self,
        query: NDArray[np.int64],
        reference: NDArray[np.int64],
        similarity: NDArray[np.float64],
    ) -> None:
        """As ``BestMatches.offer``."""
        if self.within:
            once = query < reference
            query, reference, similarity = query[once], reference[once], similarity[once]
        self._left.offer(query, reference, similarity)
        self._right.offer(reference, query, similarity)

    def offer_block(
        self, start: int, rows: NDArray[np.int64], similarity: NDArray[np.float64]
    ) -> None:
        """As ``BestMatches.offer_block``; ``rows`` follow each other, ``similarity`` is changed."""
        queries = np.arange(start, start + len(similarity))
        if self.within and rows[0] <= queries[-1]:
            similarity[rows <= queries[:, None]] = -np.inf
        self._left.offer_block(start, rows, similarity)
        self._right.offer_block(int(rows[0]), queries, similarity.T)


def _top_cells(similarity: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
    """Which cells are a row's ``limit`` largest, ties to the left; rows have more than that."""
    at = similarity.shape[1] - limit
    least = np.partition(similarity, at, axis=1)[:, at : at + 1]
    above = similarity > least
    ties = similarity == least
    room = limit - above.sum(axis=1, keepdims=True)
    above |= ties & (np.cumsum(ties, axis=1, dtype=np.int32) <= room)
    return above


class Tile:
    """Rows that queries are compared with: their numbers, float16 vectors, float32 when asked."""

    def __init__(
        self,
        rows: NDArray[np.int64],
        descriptors: NDArray[np.float16],
        wide: NDArray[np.float32] | None = None,
    ) -> None:
        self.rows = rows
        self.descriptors = descriptors
        self._wide = wide
        self._span: Span | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def wide(self) -> NDArray[np.float32]:
        """float32 (m, d), exact, converted once."""
        if self._wide is None:
            self._wide = widen(self.descriptors)
        return self._wide

    @property
    def span(self) -> Span:
        """The least and the largest length of the rows, in float32."""
        if self._span is None:
            self._span = span(self.wide)
        return self._span

    def least_product(self, other: Tile, floor: float) -> float:
        """Float32 products of the two tiles below this are of pairs below the floor."""
        return float(least_product(self.span, other.span, floor, self.descriptors.shape[1]))

    @property
    def is_wide(self) -> bool:
        """Whether ``wide`` costs nothing."""
        return self._wide is not None


def rerank(
    best: BestMatches | Mutual,
    start: int,
    queries: Tile,
    tile: Tile,
    query: NDArray[np.int64],
    reference: NDArray[np.int64],
) -> None:
    """Give candidate pairs their canonical similarity and offer them.

    Where candidates are many the whole block goes through an exact matrix product instead; the
    pairs this adds have true similarities too, so the answer only gains.

    Args:
        best: takes the pairs.
        start: number of the first query of ``queries`` in ``best``.
        queries: the query block.
        tile: the reference block; ``tile.rows`` are the numbers given to ``best``.
        query: int64 (k,), rows of ``queries``.
        reference: int64 (k,), rows of ``tile``.
    """
    if len(query) > DENSE * len(queries) * len(tile):
        rerank_all(best, start, queries, tile)
        return
    for at in range(0, len(query), _PAIRS):
        left, right = query[at : at + _PAIRS], reference[at : at + _PAIRS]
        similarity = pair_similarities(queries.descriptors, tile.descriptors, left, right)
        best.offer(left + start, tile.rows[right], similarity)


def rerank_all(best: BestMatches | Mutual, start: int, queries: Tile, tile: Tile) -> None:
    """Offer every pair of two blocks, through exact matrix products of bounded size."""
    step = max(1, _DENSE_CELLS // max(1, len(tile)))
    for at in range(0, len(queries), step):
        block = block_similarities(queries.descriptors[at : at + step], tile.descriptors)
        best.offer_block(start + at, tile.rows, block)
