"""Leader grouping: keep an image unless one kept before it is a copy, by any measure.

Images come in preference order. What history removes cannot lead, but is compared with the batch's
kept images before it, so that its witness is the most similar over history and batch together.
Every removal has a direct witness (no chains), and no two kept images are at or above a threshold.
All measures go in the same pass: an image goes if any says so, and which images lead follows from
all. Pure numpy.

Pairs may have been found before, in parallel (``core.found``); then the pass goes over pairs. They
come in lists of bounded length; a row whose list may lack pairs, by any measure, is *cut*. A pair
of an uncut row is always listed, from its own side if from no other. What lists may lack is pairs
of two cut rows, and those are taken from no list: cut rows are compared among themselves here. So
every kept row before a row, at or above a floor, is known when that row is decided, and decisions,
witnesses and matches are those of comparing everything with everything, whatever the lists. Of many
near-identical rows, all of them cut, one is kept, and rows are compared with kept ones alone. Rows
that nobody compared before are all cut.

What differs between measures, the arithmetic inside a block, is ``_Descriptors`` and ``_Hashes``;
what was kept of the cut rows before a block is searched through an index (``ports``).

Cut rows go in blocks: a block is searched in the index of what was kept before it; then, in
strips of the block, against what the block kept so far; inside a strip row by row, in order, the
rows that are not cut in their places between them. Memory is bounded by the pairs listed, the block
and the strip, whatever the data: 20,000 near-identical rows too. Strips are products too small for
several threads: those would spend three times the processor time of one on waiting for each other,
and gain nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from sscd_ops.core.best import BestMatches, Tile, rerank
from sscd_ops.core.canonical import block_similarities, widen
from sscd_ops.core.found import Found
from sscd_ops.core.perceptual import BITS, distance_of, hash_distances, hash_similarities
from sscd_ops.errors import UsageError
from sscd_ops.model import Matches
from sscd_ops.ports import Silence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sscd_ops.core.measures import Measure
    from sscd_ops.core.stored_rows import Rows
    from sscd_ops.ports import GrowingIndex, Progress

_STRIP = 256
"""Rows decided one by one from one exact similarity matrix (0.5 MB)."""
_CONTESTED = 4096
"""Contested rows whose pairs are turned into lists at once."""


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
        rows: in preference order: descriptors float16 (n, d), or hashes uint8 (n, 33). Only
            those that are cut are read, some thousand at a time, in order.
        history: float64 (n,): best similarity among the kept images of earlier turns, -inf where
            there is none at or above the floor.
        index: an empty index; afterwards it holds the kept rows that are cut, in order.
        found: pairs of rows found before; None: not compared yet, all rows are cut.
    """

    measure: Measure
    rows: Rows
    history: NDArray[np.float64]
    index: GrowingIndex
    found: Found | None = None

    @classmethod
    def first(cls, measure: Measure, rows: Rows, index: GrowingIndex) -> Compared:
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
        block: cut rows searched at once; decisions don't depend on it.
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
    found = [compared.found or Found.nothing(count) for compared in batch]
    cut = np.flatnonzero(np.logical_or.reduce([pairs.cut for pairs in found]))
    sides: list[_Side] = [
        (_Hashes if compared.measure.by_hash else _Descriptors)(compared, pairs, cut, limit)
        for compared, pairs in zip(batch, found, strict=True)
    ]
    run = _Run(sides, cut, count)
    for start in range(0, len(cut), block):
        stop = min(start + block, len(cut))
        run.block(start, stop)
        progress.advance(stop - start)
    run.settle(count)
    progress.advance(count - len(cut))
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
    if compared.found is not None and len(compared.found.cut) != count:
        raise UsageError(f"pairs of {len(compared.found.cut)} rows for {count} images")


class _Pairs:
    """Pairs that lists hold and that count, each once, sorted by (later, earlier).

    Attributes:
        later, earlier: int32 (k,), rows.
        similarity: float64 (k,).
    """

    def __init__(self, found: Found, cut: NDArray[np.bool_]) -> None:
        counts = ~(cut[found.row] & cut[found.other])
        row, other, similarity = found.row[counts], found.other[counts], found.similarity[counts]
        later, earlier = np.maximum(row, other), np.minimum(row, other)
        _, once = np.unique(later * np.int64(len(cut)) + earlier, return_index=True)
        self.later, self.earlier, self.similarity = later[once], earlier[once], similarity[once]


class _Side(ABC):
    """A batch's rows by one measure, and the best matches found so far.

    Its methods number the cut rows from 0.
    """

    def __init__(
        self, compared: Compared, found: Found, cut: NDArray[np.int64], limit: int
    ) -> None:
        self.measure = compared.measure
        self.history = compared.history
        self.best = BestMatches(len(cut), compared.measure.floor, limit)
        marked = np.zeros(len(compared.rows), np.bool_)
        marked[cut] = True
        self.pairs = _Pairs(found, marked)
        self._everything = compared.rows
        self._cut = cut
        self._index = compared.index

    def begin(self, start: int, stop: int, kept: NDArray[np.int64]) -> None:
        """Read a block and offer its pairs with what the index holds: all kept before it."""
        self.start = start
        self.rows = self._everything[self._cut[start:stop]]
        if len(kept):
            found = self._index.search(self.rows, self.best.floor, self.best.limit)
            self.best.offer(found.query + start, kept[found.reference], found.similarity)

    @abstractmethod
    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        """Offer a strip's pairs with what its block kept so far."""

    @abstractmethod
    def within(self, at: int, end: int) -> NDArray[np.float64]:
        """Similarities of a strip's rows among themselves."""

    def strip(self, at: int, end: int) -> NDArray[Any]:
        """A strip of the block."""
        return self.rows[at - self.start : end - self.start]

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Take a block's kept rows into the index."""
        self._index.add(self.rows[rows - self.start])

    def matches(self, kept: NDArray[np.bool_]) -> Matches:
        """Each row's most similar kept rows before it: all of those listed, and those cut."""
        inside = self.best.matches()
        query, reference = self._cut[inside.query], self._cut[inside.reference]
        if not len(self.pairs.later):
            return Matches(query, reference, inside.similarity)
        led = kept[self.pairs.earlier]
        query = np.concatenate([self.pairs.later[led], query])
        reference = np.concatenate([self.pairs.earlier[led], reference])
        similarity = np.concatenate([self.pairs.similarity[led], inside.similarity])
        by = np.lexsort((reference, -similarity, query))
        query, reference, similarity = query[by], reference[by], similarity[by]
        few = np.arange(len(query)) - np.searchsorted(query, query, side="left") < self.best.limit
        return Matches(query[few], reference[few], similarity[few])

    def witnesses(self, matches: Matches) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The most similar row kept before each one, -1 where history has one as near; how near."""
        row, first = np.unique(matches.query, return_index=True)
        nearer = matches.similarity[first] > self.history[row]
        row, first = row[nearer], first[nearer]
        witness, similarity = np.full(len(self.history), -1, np.int64), self.history.copy()
        witness[row], similarity[row] = matches.reference[first], matches.similarity[first]
        return witness, similarity


class _Descriptors(_Side):
    """Canonical similarity of descriptors; a block's rows are widened once."""

    def begin(self, start: int, stop: int, kept: NDArray[np.int64]) -> None:
        super().begin(start, stop, kept)
        self._wide = widen(self.rows)

    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        start, wide = self.start, self._wide
        queries = Tile(np.arange(at, end), self.strip(at, end), wide[at - start : end - start])
        tile = Tile(kept, self.rows[kept - start], wide[kept - start])
        dot = queries.wide @ tile.wide.T
        near = dot >= queries.least_product(tile, self.best.floor)
        query, reference = np.nonzero(near)
        rerank(self.best, at, queries, tile, query, reference)

    def within(self, at: int, end: int) -> NDArray[np.float64]:
        rows = self.strip(at, end)
        return block_similarities(rows, rows)


class _Hashes(_Side):
    """Similarity of perceptual hashes."""

    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        distance = hash_distances(self.strip(at, end), self.rows[kept - self.start])
        query, reference = np.nonzero(distance <= distance_of(self.best.floor))
        similarity = 1.0 - distance[query, reference] / BITS
        self.best.offer(query + at, kept[reference], similarity)

    def within(self, at: int, end: int) -> NDArray[np.float64]:
        rows = self.strip(at, end)
        return hash_similarities(rows, rows)


class _Run:
    """A batch half decided.

    ``kept``, bool (n,), is final for the rows before the one where the pass stands, but for the
    moment inside a strip; of those after it, it says which ones history does not remove.
    """

    def __init__(self, sides: list[_Side], cut: NDArray[np.int64], count: int) -> None:
        self._sides = sides
        self._cut = cut
        self._flags = bytearray(count)  # Python reads its items fast
        self.kept = np.frombuffer(self._flags, np.bool_)
        self.kept[:] = True
        for side in sides:
            self.kept &= side.history < side.measure.threshold
        self._contest()
        self._led = np.empty(len(cut), np.int64)
        self._leaders = 0
        self._threads = ThreadpoolController()

    def _contest(self) -> None:
        """Find the rows that a listed pair may remove, and with whom they would go."""
        later, earlier = [], []
        for side in self._sides:
            pairs = side.pairs
            copies = pairs.similarity >= side.measure.threshold
            copies &= self.kept[pairs.later] & self.kept[pairs.earlier]
            later.append(pairs.later[copies])
            earlier.append(pairs.earlier[copies])
        rows = np.concatenate(later)
        order = np.argsort(rows, kind="stable")
        self._earlier = np.concatenate(earlier)[order]
        self._contested, starts = np.unique(rows[order], return_index=True)
        self._starts = np.append(starts, len(rows))
        self._at = 0

    def settle(self, stop: int) -> None:
        """Decide the contested rows before ``stop`` by lists; cut ones before it have to be."""
        end = int(np.searchsorted(self._contested, stop))
        flags = self._flags
        for at in range(self._at, end, _CONTESTED):
            upto = min(at + _CONTESTED, end)
            starts = self._starts[at : upto + 1]
            earlier = self._earlier[starts[0] : starts[-1]].tolist()
            bounds = (starts - starts[0]).tolist()
            for row, start, after in zip(
                self._contested[at:upto].tolist(), bounds, bounds[1:], strict=False
            ):
                if flags[row]:
                    flags[row] = 1 not in [flags[k] for k in earlier[start:after]]
        self._at = end

    def block(self, start: int, stop: int) -> None:
        """Decide a block of cut rows, and what comes before its last one."""
        before = self._leaders
        for side in self._sides:
            side.begin(start, stop, self._led[:before])
        with self._threads.limit(limits=1, user_api="blas"):
            for at in range(start, stop, _STRIP):
                end = min(at + _STRIP, stop)
                led = self._led[before : self._leaders]
                if len(led):
                    for side in self._sides:
                        side.against(at, end, led)
                self._strip(at, end)
        new = self._led[before : self._leaders]
        if len(new):
            for side in self._sides:
                side.keep(new)

    def _strip(self, at: int, end: int) -> None:
        """Decide a strip row by row and offer its pairs among themselves."""
        rows = self._cut[at:end]
        kept = self.kept[rows]
        copies = np.zeros((end - at, end - at), np.bool_)
        grids = []
        for side in self._sides:
            grid = side.within(at, end)
            copies |= grid >= side.measure.threshold
            kept &= side.best.similarity[at:end, 0] < side.measure.threshold
            grids.append(grid)
        copies = np.tril(copies, -1)
        self.kept[rows] = kept
        # only rows with a possible witness in the strip need the sequential pass
        for row in np.flatnonzero(kept & (copies & kept).any(axis=1)):
            self.settle(int(rows[row]) + 1)
            if self.kept[rows[row]]:
                self.kept[rows[row]] = not (copies[row] & self.kept[rows]).any()
        self.settle(int(rows[-1]) + 1)
        kept = self.kept[rows]
        for side, grid in zip(self._sides, grids, strict=True):
            grid[np.triu_indices(end - at)] = -np.inf
            grid[:, ~kept] = -np.inf
            side.best.offer_block(at, np.arange(at, end), grid)
        new = np.flatnonzero(kept) + at
        self._led[self._leaders : self._leaders + len(new)] = new
        self._leaders += len(new)

    def answer(self) -> Leader:
        """The decisions, once every row is through."""
        count = len(self.kept)
        witness, similarity = np.full(count, -1, np.int64), np.full(count, -np.inf)
        measure = np.full(count, -1, np.int8)
        measures, matches = [], []
        for number, side in enumerate(self._sides):
            matches.append(side.matches(self.kept))
            row, nearness = side.witnesses(matches[-1])
            gone = ~self.kept & (measure < 0) & (nearness >= side.measure.threshold)
            witness[gone], similarity[gone], measure[gone] = row[gone], nearness[gone], number
            measures.append(side.measure)
        return Leader(self.kept, witness, similarity, measure, measures, matches)
