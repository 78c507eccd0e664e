"""Leader grouping: keep an image unless one kept before it is a copy, by any measure.

Images come in preference order. What history removes cannot lead, but is compared with the batch's
kept images before it, so that its witness is the most similar over history and batch together.
Every removal has a direct witness (no chains), and no two kept images are at or above a threshold.
All measures go in the same pass: an image goes if any says so, and which images lead follows from
all. What differs between them, the arithmetic inside a block, is ``_Descriptors`` and ``_Hashes``;
what was kept before a block is searched through an index (``ports``). Pure numpy.

Work goes in blocks: a block is searched in the index of what the batch kept before it; then, in
strips of the block, against what the block kept so far; inside a strip row by row, in order. Memory
is bounded by the block and the strip, whatever the data: 20,000 near-identical rows too. Strips are
products too small for several threads: those would spend three times the processor time of one on
waiting for each other, and gain nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from sscd_ops.core.best import BestMatches, Tile, rerank
from sscd_ops.core.canonical import block_similarities, widen
from sscd_ops.core.perceptual import BITS, distance_of, hash_distances, hash_similarities
from sscd_ops.errors import UsageError
from sscd_ops.ports import Silence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sscd_ops.core.measures import Measure
    from sscd_ops.model import Matches
    from sscd_ops.ports import GrowingIndex, Progress

_STRIP = 256
"""Rows decided one by one from one exact similarity matrix (0.5 MB)."""


@dataclass(frozen=True)
class Leader:
    """What leader decided, row by row, in the order given.

    Attributes:
        kept: bool (n,).
        witness: int64 (n,): row of the witness in the batch; -1 where the row is kept or its
            witness is history's.
        similarity: float64 (n,): similarity of the witness by the measure that removed the row,
            -inf where the row is kept.
        measure: int8 (n,): number of the measure that removed the row, -1 where the row is kept.
        measures: which they are.
        matches: of each measure, pairs (row, kept row before it) at or above the floor, the most
            similar ``limit`` of each row; ties to the smaller row.
    """

    kept: NDArray[np.bool_]
    witness: NDArray[np.int64]
    similarity: NDArray[np.float64]
    measure: NDArray[np.int8]
    measures: list[Measure]
    matches: list[Matches]


@dataclass(frozen=True)
class Compared:
    """A batch's rows by one measure.

    Attributes:
        measure: which; its threshold and floor.
        rows: in preference order: descriptors float16 (n, d), or hashes uint8 (n, 33); may be a
            memory map.
        history: float64 (n,): best similarity among the kept images of earlier turns, -inf where
            there is none at or above the floor.
        index: an empty index; afterwards it holds the kept rows, in order.
    """

    measure: Measure
    rows: NDArray[Any]
    history: NDArray[np.float64]
    index: GrowingIndex

    @classmethod
    def first(cls, measure: Measure, rows: NDArray[Any], index: GrowingIndex) -> Compared:
        """Of a night that has no history."""
        return cls(measure, rows, np.full(len(rows), -np.inf), index)


def lead(
    batch: Sequence[Compared],
    limit: int,
    block: int = 4096,
    progress: Progress | None = None,
) -> Leader:
    """Decide a batch by leader.

    Args:
        batch: the same images by each measure, at least one.
        limit: matches reported for a row at most, at least 1. It cuts the report, no decision.
        block: rows searched at once; decisions don't depend on it.
        progress: told about rows decided.

    Returns:
        The decisions. The witness is the most similar image at or above the threshold over history
        and batch; ties go to the earlier: history first, then the smaller row. An earlier measure
        speaks first: the witness is one by a later measure only where no image kept before is one
        by an earlier.

    Raises:
        UsageError: arguments that cannot mean anything.
        InvariantError: a descriptor is not finite or not normalised.
    """
    count = len(batch[0].rows)
    for compared in batch:
        _check(compared, count)
    if limit < 1 or block < 1:
        raise UsageError(f"need limit and block >= 1, not {limit}, {block}")
    progress = progress or Silence()
    progress.start("leader", count)
    sides: list[_Side] = [(_Hashes if c.measure.by_hash else _Descriptors)(c, limit) for c in batch]
    run = _Run(sides, count)
    for start in range(0, count, block):
        stop = min(start + block, count)
        run.block(start, stop)
        progress.advance(stop - start)
    progress.done()
    return run.answer()


def _check(compared: Compared, count: int) -> None:
    measure, rows, history = compared.measure, len(compared.rows), len(compared.history)
    if (rows, history) != (count, count):
        raise UsageError(
            f"{rows} rows of {measure.role} and {history} answers of history for {count} images"
        )
    if not measure.floor <= measure.threshold:
        raise UsageError(f"need floor <= threshold, not {measure.floor}, {measure.threshold}")


class _Side(ABC):
    """A batch's rows by one measure, and the best matches found so far."""

    def __init__(self, compared: Compared, limit: int) -> None:
        self.measure = compared.measure
        self.rows = compared.rows
        self.history = compared.history
        self.best = BestMatches(len(compared.rows), compared.measure.floor, limit)
        self._index = compared.index

    def begin(self, start: int, stop: int, kept: NDArray[np.int64]) -> None:
        """Offer a block's pairs with what the index holds: all rows kept before it."""
        if len(kept):
            found = self._index.search(self.rows[start:stop], self.best.floor, self.best.limit)
            self.best.offer(found.query + start, kept[found.reference], found.similarity)

    @abstractmethod
    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        """Offer a strip's pairs with what its block kept so far."""

    @abstractmethod
    def within(self, at: int, end: int) -> NDArray[np.float64]:
        """Similarities of a strip's rows among themselves."""

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Take a block's kept rows into the index."""
        self._index.add(self.rows[rows])

    def witnesses(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The most similar row kept before each one, -1 where history has one as near; how near."""
        top = self.best.similarity[:, 0]
        inside = top > self.history
        witness = np.where(inside, self.best.reference[:, 0], -1)
        return witness, np.where(inside, top, self.history)


class _Descriptors(_Side):
    """Canonical similarity of descriptors; a block's rows are widened once."""

    def begin(self, start: int, stop: int, kept: NDArray[np.int64]) -> None:
        super().begin(start, stop, kept)
        self._start, self._wide = start, widen(self.rows[start:stop])

    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        start, wide = self._start, self._wide
        queries = Tile(np.arange(at, end), self.rows[at:end], wide[at - start : end - start])
        tile = Tile(kept, self.rows[kept], wide[kept - start])
        dot = queries.wide @ tile.wide.T
        near = dot >= queries.least_product(tile, self.best.floor)
        query, reference = np.nonzero(near)
        rerank(self.best, at, queries, tile, query, reference)

    def within(self, at: int, end: int) -> NDArray[np.float64]:
        rows = self.rows[at:end]
        return block_similarities(rows, rows)


class _Hashes(_Side):
    """Similarity of perceptual hashes."""

    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        distance = hash_distances(self.rows[at:end], self.rows[kept])
        query, reference = np.nonzero(distance <= distance_of(self.best.floor))
        similarity = 1.0 - distance[query, reference] / BITS
        self.best.offer(query + at, kept[reference], similarity)

    def within(self, at: int, end: int) -> NDArray[np.float64]:
        rows = self.rows[at:end]
        return hash_similarities(rows, rows)


class _Run:
    """A batch half decided: rows before the current one are final."""

    def __init__(self, sides: list[_Side], count: int) -> None:
        self._sides = sides
        self._rows = np.empty(count, np.int64)
        self._count = 0
        self._threads = ThreadpoolController()

    @property
    def kept_rows(self) -> NDArray[np.int64]:
        """int64: rows kept so far, ascending."""
        return self._rows[: self._count]

    def block(self, start: int, stop: int) -> None:
        """Decide the rows of a block."""
        before = self._count
        for side in self._sides:
            side.begin(start, stop, self.kept_rows)
        with self._threads.limit(limits=1, user_api="blas"):
            for at in range(start, stop, _STRIP):
                end = min(at + _STRIP, stop)
                kept = self._rows[before : self._count]
                if len(kept):
                    for side in self._sides:
                        side.against(at, end, kept)
                self._strip(at, end)
        new = self._rows[before : self._count]
        if len(new):
            for side in self._sides:
                side.keep(new)

    def _strip(self, at: int, end: int) -> None:
        """Decide a strip row by row and offer its pairs among themselves."""
        kept = np.ones(end - at, np.bool_)
        copies = np.zeros((end - at, end - at), np.bool_)
        grids = []
        for side in self._sides:
            grid = side.within(at, end)
            copies |= grid >= side.measure.threshold
            kept &= side.history[at:end] < side.measure.threshold
            kept &= side.best.similarity[at:end, 0] < side.measure.threshold
            grids.append(grid)
        copies = np.tril(copies, -1)
        # only rows with a possible witness in the strip need the sequential pass
        for row in np.flatnonzero(kept & (copies & kept).any(axis=1)):
            kept[row] = not (copies[row] & kept).any()
        for side, grid in zip(self._sides, grids, strict=True):
            grid[np.triu_indices(end - at)] = -np.inf
            grid[:, ~kept] = -np.inf
            side.best.offer_block(at, np.arange(at, end), grid)
        new = np.flatnonzero(kept) + at
        self._rows[self._count : self._count + len(new)] = new
        self._count += len(new)

    def answer(self) -> Leader:
        """The decisions, once every row is through."""
        count = len(self._rows)
        kept = np.zeros(count, np.bool_)
        kept[self.kept_rows] = True
        witness, similarity = np.full(count, -1, np.int64), np.full(count, -np.inf)
        measure = np.full(count, -1, np.int8)
        for number, side in enumerate(self._sides):
            row, nearness = side.witnesses()
            gone = ~kept & (measure < 0) & (nearness >= side.measure.threshold)
            witness[gone], similarity[gone], measure[gone] = row[gone], nearness[gone], number
        measures = [side.measure for side in self._sides]
        matches = [side.best.matches() for side in self._sides]
        return Leader(kept, witness, similarity, measure, measures, matches)
