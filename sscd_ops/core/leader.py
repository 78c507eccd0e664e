"""Leader grouping: keep an image unless one kept before it is at or above the threshold.

Images come in preference order. What history removes cannot lead, but is compared with the batch's
kept images before it, so that its witness is the most similar over history and batch together.
Every removal has a direct witness (no chains), and no two kept images are at or above the
threshold. Pure numpy; the batch's kept images are searched through a ``ports.GrowingIndex``.

Work goes in blocks: a block is searched in the index of what the batch kept before it; then, in
strips of the block, against what the block kept so far; inside a strip row by row, in order. Memory
is bounded by the block and the strip, whatever the data: 20,000 near-identical rows too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sscd_ops.core.best import BestMatches, Tile, rerank
from sscd_ops.core.canonical import block_similarities, widen
from sscd_ops.errors import UsageError
from sscd_ops.model import Matches
from sscd_ops.ports import Silence

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        similarity: float64 (n,): canonical similarity of the witness, -inf where the row is kept.
        matches: pairs (row, kept row before it) at or above the floor, the most similar ``limit``
            of each row; ties to the smaller row.
    """

    kept: NDArray[np.bool_]
    witness: NDArray[np.int64]
    similarity: NDArray[np.float64]
    matches: Matches


def lead(
    descriptors: NDArray[np.float16],
    history: NDArray[np.float64],
    threshold: float,
    floor: float,
    limit: int,
    index: GrowingIndex,
    block: int = 4096,
    progress: Progress | None = None,
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

    Returns:
        The decisions. The witness is the most similar image at or above the threshold over history
        and batch; ties go to the earlier: history first, then the smaller row.

    Raises:
        UsageError: arguments that cannot mean anything.
        InvariantError: a descriptor is not finite or not normalised.
    """
    if len(history) != len(descriptors):
        raise UsageError(f"history has {len(history)} rows, descriptors {len(descriptors)}")
    if not floor <= threshold or limit < 1 or block < 1:
        raise UsageError(f"need floor <= threshold, limit and block >= 1, not {floor}, {threshold}")
    progress = progress or Silence()
    progress.start("leader", len(descriptors))
    run = _Run(
        descriptors, history >= threshold, threshold, BestMatches(len(history), floor, limit)
    )
    for start in range(0, len(descriptors), block):
        stop = min(start + block, len(descriptors))
        before = len(run)
        if before:
            found = index.search(descriptors[start:stop], floor, limit)
            run.best.offer(found.query + start, run.kept_rows[found.reference], found.similarity)
        run.block(start, stop)
        new = run.kept_rows[before : len(run)]
        if len(new):
            index.add(descriptors[new])
        progress.advance(stop - start)
    progress.done()
    return run.result(history)


class _Run:
    """A batch half decided: rows before the current one are final."""

    def __init__(
        self,
        descriptors: NDArray[np.float16],
        beaten: NDArray[np.bool_],
        threshold: float,
        best: BestMatches,
    ) -> None:
        self.descriptors = descriptors
        self.beaten = beaten
        self.threshold = threshold
        self.best = best
        self._rows = np.empty(len(beaten), np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def kept_rows(self) -> NDArray[np.int64]:
        """int64: rows kept so far, ascending."""
        return self._rows[: self._count]

    def block(self, start: int, stop: int) -> None:
        """Decide rows whose pairs with everything kept before ``start`` have been offered."""
        before = self._count
        wide = widen(self.descriptors[start:stop])
        for at in range(start, stop, _STRIP):
            end = min(at + _STRIP, stop)
            self._against_kept(at, end, self._rows[before : self._count], start, wide)
            self._strip(at, end)

    def _against_kept(
        self,
        at: int,
        end: int,
        kept: NDArray[np.int64],
        start: int,
        wide: NDArray[np.float32],
    ) -> None:
        """Offer a strip's pairs with what its block kept so far."""
        if not len(kept):
            return
        queries = Tile(np.arange(at, end), self.descriptors[at:end], wide[at - start : end - start])
        tile = Tile(kept, self.descriptors[kept], wide[kept - start])
        dot = queries.wide @ tile.wide.T
        near = dot >= queries.least_product(tile, self.best.floor)
        query, reference = np.nonzero(near)
        rerank(self.best, at, queries, tile, query, reference)

    def _strip(self, at: int, end: int) -> None:
        """Decide a strip row by row and offer its pairs among themselves."""
        rows = self.descriptors[at:end]
        similarity = block_similarities(rows, rows)
        copies = np.tril(similarity >= self.threshold, -1)
        kept = ~self.beaten[at:end] & ~(self.best.similarity[at:end, 0] >= self.threshold)
        # only rows with a possible witness in the strip need the sequential pass
        for row in np.flatnonzero(kept & (copies & kept).any(axis=1)):
            kept[row] = not (copies[row] & kept).any()
        similarity[np.triu_indices(end - at)] = -np.inf
        similarity[:, ~kept] = -np.inf
        self.best.offer_block(at, np.arange(at, end), similarity)
        new = np.flatnonzero(kept) + at
        self._rows[self._count : self._count + len(new)] = new
        self._count += len(new)

    def result(self, history: NDArray[np.float64]) -> Leader:
        """The decisions, once every row is through."""
        kept = np.zeros(len(history), np.bool_)
        kept[self.kept_rows] = True
        top = self.best.similarity[:, 0]
        inside = ~kept & (top >= self.threshold) & (top > history)
        witness = np.where(inside, self.best.reference[:, 0], -1)
        similarity = np.where(kept, -np.inf, np.where(inside, top, history))
        return Leader(kept, witness, similarity, self.best.matches())
