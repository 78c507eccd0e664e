"""Leader grouping: keep an image unless one kept before it is a copy, by either measure.

Images come in preference order. What history removes cannot lead, but is compared with the batch's
kept images before it, so that its witness is the most similar over history and batch together.
Every removal has a direct witness (no chains), and no two kept images are at or above a threshold.
Descriptors are one measure; perceptual hashes may be a second one, in the same pass: an image goes
if either says so, and which images lead follows from both. Pure numpy; the batch's kept images are
searched through a ``ports.GrowingIndex``.

Work goes in blocks: a block is searched in the index of what the batch kept before it; then, in
strips of the block, against what the block kept so far; inside a strip row by row, in order. Memory
is bounded by the block and the strip, whatever the data: 20,000 near-identical rows too. Strips are
products too small for several threads: those would spend three times the processor time of one on
waiting for each other, and gain nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from sscd_ops.core.best import BestMatches, Tile, rerank
from sscd_ops.core.canonical import block_similarities, widen
from sscd_ops.core.perceptual import BITS, distance_of, hash_distances, hash_similarities
from sscd_ops.errors import UsageError
from sscd_ops.model import Matches
from sscd_ops.ports import Silence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sscd_ops.ports import GrowingHashes, GrowingIndex, Progress

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
        matches: pairs (row, kept row before it) at or above the floor, the most similar ``limit``
            of each row; ties to the smaller row.
        perceptual: bool (n,): rows that went by their hash alone.
        hash_matches: as ``matches``, by hash.
    """

    kept: NDArray[np.bool_]
    witness: NDArray[np.int64]
    similarity: NDArray[np.float64]
    matches: Matches
    perceptual: NDArray[np.bool_]
    hash_matches: Matches


@dataclass(frozen=True)
class Hashes:
    """The second measure of a batch (``core.perceptual``).

    Attributes:
        rows: uint8 (n, 33), hash and quality, in the descriptors' order.
        history: float64 (n,): best hash similarity among the kept images of earlier turns, -inf
            where there is none at or above the floor.
        threshold: a pair at or above it is a copy.
        floor: pairs at or above it are reported; at most ``threshold``.
        index: an empty index; afterwards it holds the kept rows, in order.
    """

    rows: NDArray[np.uint8]
    history: NDArray[np.float64]
    threshold: float
    floor: float
    index: GrowingHashes


def lead(
    descriptors: NDArray[np.float16],
    history: NDArray[np.float64],
    threshold: float,
    floor: float,
    limit: int,
    index: GrowingIndex,
    block: int = 4096,
    progress: Progress | None = None,
    hashes: Hashes | None = None,
) -> Leader:
    """Decide a batch by leader.

    Args:
        descriptors: float16 (n, d), in preference order; may be a memory map.
        history: float64 (n,): best canonical similarity among the kept images of earlier turns,
            -inf where there is none at or above the floor.
        threshold: a pair at or above it is a copy.
        floor: pairs at or above it are reported; at most ``threshold``.
        limit: matches reported for a row at most, at least 1. It cuts the report, no decision.
        index: an empty index; afterwards it holds the kept rows, in order.
        block: rows searched at once; decisions don't depend on it.
        progress: told about rows decided.
        hashes: the second measure, if there is one.

    Returns:
        The decisions. The witness is the most similar image at or above the threshold over history
        and batch; ties go to the earlier: history first, then the smaller row. Descriptors speak
        first: the witness is one by hash only where no image kept before is one by descriptor.

    Raises:
        UsageError: arguments that cannot mean anything.
        InvariantError: a descriptor is not finite or not normalised.
    """
    if len(history) != len(descriptors):
        raise UsageError(f"history has {len(history)} rows, descriptors {len(descriptors)}")
    if not floor <= threshold or limit < 1 or block < 1:
        raise UsageError(f"need floor <= threshold, limit and block >= 1, not {floor}, {threshold}")
    near = _Descriptors(descriptors, history, threshold, floor, limit, index)
    hashed = None if hashes is None else _by_hash(hashes, len(descriptors), limit)
    progress = progress or Silence()
    progress.start("leader", len(descriptors))
    measures: list[_Measure] = [near]
    if hashed is not None:
        measures.append(hashed)
    run = _Run(measures, len(descriptors))
    for start in range(0, len(descriptors), block):
        stop = min(start + block, len(descriptors))
        run.block(start, stop)
        progress.advance(stop - start)
    progress.done()
    return _result(run.kept_rows, near, hashed)


def _by_hash(hashes: Hashes, count: int, limit: int) -> _ByHash:
    if (len(hashes.rows), len(hashes.history)) != (count, count):
        raise UsageError(
            f"{len(hashes.rows)} hashes and {len(hashes.history)} answers of history for {count}"
            " descriptors"
        )
    if not hashes.floor <= hashes.threshold:
        raise UsageError(f"need floor <= threshold, not {hashes.floor}, {hashes.threshold}")
    return _ByHash(hashes, limit)


class _Measure(Protocol):
    """One way of calling two images copies, for the rows of a batch."""

    best: BestMatches
    history: NDArray[np.float64]
    threshold: float

    def begin(self, start: int, stop: int, kept: NDArray[np.int64]) -> None:
        """Offer a block's pairs with all rows kept before it."""

    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        """Offer a strip's pairs with what its block kept so far."""

    def within(self, at: int, end: int) -> NDArray[np.float64]:
        """Similarities of a strip's rows among themselves."""

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Take a block's kept rows into the index."""


class _Descriptors:
    """Canonical similarity of descriptors. A ``_Measure``."""

    def __init__(
        self,
        descriptors: NDArray[np.float16],
        history: NDArray[np.float64],
        threshold: float,
        floor: float,
        limit: int,
        index: GrowingIndex,
    ) -> None:
        self.descriptors = descriptors
        self.history = history
        self.threshold = threshold
        self.best = BestMatches(len(descriptors), floor, limit)
        self._index = index
        self._start = 0
        self._wide = np.empty((0, 0), np.float32)

    def begin(self, start: int, stop: int, kept: NDArray[np.int64]) -> None:
        _offer_kept(self.best, self._index, self.descriptors[start:stop], start, kept)
        self._start, self._wide = start, widen(self.descriptors[start:stop])

    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        start, wide = self._start, self._wide
        queries = Tile(np.arange(at, end), self.descriptors[at:end], wide[at - start : end - start])
        tile = Tile(kept, self.descriptors[kept], wide[kept - start])
        dot = queries.wide @ tile.wide.T
        near = dot >= queries.least_product(tile, self.best.floor)
        query, reference = np.nonzero(near)
        rerank(self.best, at, queries, tile, query, reference)

    def within(self, at: int, end: int) -> NDArray[np.float64]:
        rows = self.descriptors[at:end]
        return block_similarities(rows, rows)

    def keep(self, rows: NDArray[np.int64]) -> None:
        self._index.add(self.descriptors[rows])


class _ByHash:
    """Similarity of perceptual hashes. A ``_Measure``."""

    def __init__(self, hashes: Hashes, limit: int) -> None:
        self.rows = hashes.rows
        self.history = hashes.history
        self.threshold = hashes.threshold
        self.best = BestMatches(len(hashes.rows), hashes.floor, limit)
        self._index = hashes.index

    def begin(self, start: int, stop: int, kept: NDArray[np.int64]) -> None:
        _offer_kept(self.best, self._index, self.rows[start:stop], start, kept)

    def against(self, at: int, end: int, kept: NDArray[np.int64]) -> None:
        distance = hash_distances(self.rows[at:end], self.rows[kept])
        query, reference = np.nonzero(distance <= distance_of(self.best.floor))
        similarity = 1.0 - distance[query, reference] / BITS
        self.best.offer(query + at, kept[reference], similarity)

    def within(self, at: int, end: int) -> NDArray[np.float64]:
        rows = self.rows[at:end]
        return hash_similarities(rows, rows)

    def keep(self, rows: NDArray[np.int64]) -> None:
        self._index.add(self.rows[rows])


def _offer_kept(
    best: BestMatches,
    index: GrowingIndex | GrowingHashes,
    rows: NDArray[Any],
    start: int,
    kept: NDArray[np.int64],
) -> None:
    """Offer a block's pairs with what the index holds: the rows kept before it."""
    if len(kept):
        found = index.search(rows, best.floor, best.limit)
        best.offer(found.query + start, kept[found.reference], found.similarity)


class _Run:
    """A batch half decided: rows before the current one are final."""

    def __init__(self, measures: list[_Measure], count: int) -> None:
        self._measures = measures
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
        for measure in self._measures:
            measure.begin(start, stop, self.kept_rows)
        with self._threads.limit(limits=1, user_api="blas"):
            for at in range(start, stop, _STRIP):
                end = min(at + _STRIP, stop)
                kept = self._rows[before : self._count]
                if len(kept):
                    for measure in self._measures:
                        measure.against(at, end, kept)
                self._strip(at, end)
        new = self._rows[before : self._count]
        if len(new):
            for measure in self._measures:
                measure.keep(new)

    def _strip(self, at: int, end: int) -> None:
        """Decide a strip row by row and offer its pairs among themselves."""
        kept = np.ones(end - at, np.bool_)
        copies = np.zeros((end - at, end - at), np.bool_)
        grids = []
        for measure in self._measures:
            grid = measure.within(at, end)
            copies |= grid >= measure.threshold
            kept &= measure.history[at:end] < measure.threshold
            kept &= measure.best.similarity[at:end, 0] < measure.threshold
            grids.append(grid)
        copies = np.tril(copies, -1)
        # only rows with a possible witness in the strip need the sequential pass
        for row in np.flatnonzero(kept & (copies & kept).any(axis=1)):
            kept[row] = not (copies[row] & kept).any()
        for measure, grid in zip(self._measures, grids, strict=True):
            grid[np.triu_indices(end - at)] = -np.inf
            grid[:, ~kept] = -np.inf
            measure.best.offer_block(at, np.arange(at, end), grid)
        new = np.flatnonzero(kept) + at
        self._rows[self._count : self._count + len(new)] = new
        self._count += len(new)


def _result(kept_rows: NDArray[np.int64], near: _Measure, hashed: _Measure | None) -> Leader:
    """The decisions, once every row is through."""
    kept = np.zeros(len(near.history), np.bool_)
    kept[kept_rows] = True
    witness, similarity = _witnesses(near)
    perceptual = np.zeros(len(kept), np.bool_)
    hash_matches = Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    if hashed is not None:
        perceptual = ~kept & (similarity < near.threshold)
        by_hash, hash_similarity = _witnesses(hashed)
        witness = np.where(perceptual, by_hash, witness)
        similarity = np.where(perceptual, hash_similarity, similarity)
        hash_matches = hashed.best.matches()
    return Leader(
        kept,
        np.where(kept, -1, witness),
        np.where(kept, -np.inf, similarity),
        near.best.matches(),
        perceptual,
        hash_matches,
    )


def _witnesses(measure: _Measure) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The most similar row kept before each one, -1 where history has one as near; how similar."""
    top = measure.best.similarity[:, 0]
    inside = top > measure.history
    witness = np.where(inside, measure.best.reference[:, 0], -1)
    return witness, np.where(inside, top, measure.history)
