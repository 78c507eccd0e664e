"""The walk all backends share: blocks of queries against tiles of rows, in bounded memory.

A backend differs in how it finds candidates in one tile; what decides is the canonical similarity
that ``core.best.rerank`` gives them. So backends agree to the last bit wherever their candidates
hold every pair at or above the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sscd_ops.core.best import BestMatches, Mutual, Tile, rerank, rerank_all
from sscd_ops.core.canonical import widen
from sscd_ops.model import Matches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Codes = dict[str, NDArray[Any]]
    Candidates = tuple[NDArray[np.int64], NDArray[np.int64]]

TILE_ROWS = 4096
TILE_QUERIES = 1024
"""A tile has at most 2^22 cells: 150 MB where every one is a candidate and FAISS lists them."""
_GROUP = 16
"""Query blocks walked over the rows together: 32 MB of float32 at 512 dimensions."""
_HELD = 65536
"""Up to this many queries stay in float32 from one segment to the next (128 MB)."""


@dataclass(frozen=True)
class Part:
    """Rows to be searched, one after another: ``first`` is the number of their first row."""

    first: int
    descriptors: NDArray[np.float16]
    codes: Codes
    kept: NDArray[np.bool_] | None = None


class Method(Protocol):
    """How a backend finds candidates."""

    name: str
    tile_rows: int
    tile_queries: int

    def codes(self, descriptors: NDArray[np.float16]) -> Codes:
        """Role -> (n, ...) for float16 (n, d)."""

    def roles(self) -> tuple[str, ...]:
        """The roles of ``codes``."""

    def prepare(self, queries: NDArray[np.float16]) -> dict[str, Any]:
        """What the method needs of a query block, beside it."""

    def candidates(
        self, queries: Tile, ready: dict[str, Any], tile: Tile, codes: Codes, floor: float
    ) -> Candidates | None:
        """Rows of ``queries`` and of ``tile`` that may reach ``floor``: int64 (k,) each.

        None: so many that the whole block is to be looked at.
        """


def scan(
    method: Method,
    queries: Prepared,
    parts: list[Part],
    floor: float,
    limit: int,
) -> Matches:
    """Each query's ``limit`` most similar rows of the parts at or above ``floor``."""
    best = BestMatches(len(queries), floor, limit)
    for blocks in queries.groups():
        for part in parts:
            for tile, codes in _tiles(method, part):
                for block in blocks:
                    found = method.candidates(block.tile, block.ready, tile, codes, floor)
                    if found is None:
                        rerank_all(best, block.first, block.tile, tile)
                    elif len(found[0]):
                        rerank(best, block.first, block.tile, tile, *found)
    return best.matches()


@dataclass(frozen=True)
class QueryBlock:
    """Some queries, and what the method made of them."""

    first: int
    tile: Tile
    ready: dict[str, Any]


class Prepared:
    """A method's queries, prepared once for any number of segments."""

    def __init__(self, method: Method, descriptors: NDArray[np.float16]) -> None:
        self.descriptors = descriptors
        self._step = method.tile_queries
        self._ready = [
            method.prepare(descriptors[at : at + self._step])
            for at in range(0, len(descriptors), self._step)
        ]
        self._held = list(self._blocks(range(len(self._ready)))) if len(self) <= _HELD else None

    def __len__(self) -> int:
        return len(self.descriptors)

    def groups(self) -> Iterator[list[QueryBlock]]:
        """The blocks, in groups that are walked over the rows together."""
        for start in range(0, len(self._ready), _GROUP):
            stop = min(start + _GROUP, len(self._ready))
            yield self._held[start:stop] if self._held else list(self._blocks(range(start, stop)))

    def _blocks(self, numbers: range) -> Iterator[QueryBlock]:
        for number in numbers:
            at = number * self._step
            part = np.ascontiguousarray(self.descriptors[at : at + self._step])
            yield QueryBlock(at, Tile(np.arange(at, at + len(part)), part), self._ready[number])


def _tiles(method: Method, part: Part) -> Iterator[tuple[Tile, Codes]]:
    """The kept rows of a part, tile by tile; rows without stored codes get them computed."""
    rows = None if part.kept is None or part.kept.all() else np.flatnonzero(part.kept)
    count = len(part.descriptors) if rows is None else len(rows)
    for at in range(0, count, method.tile_rows):
        end = min(at + method.tile_rows, count)
        pick: Any = slice(at, end) if rows is None else rows[at:end]
        numbers = np.arange(at, end) if rows is None else rows[at:end]
        descriptors = part.descriptors[pick]
        if all(role in part.codes for role in method.roles()):
            # a copy: torch takes no read-only memory
            codes = {role: np.array(part.codes[role][pick]) for role in method.roles()}
        else:
            codes = method.codes(descriptors)
        yield Tile(numbers + part.first, descriptors), codes


class Block:
    """A ``ports.SearchBlock`` around a method: float32 and codes are made once, when first needed.

    A block's tiles are squares of the cells that one of the method's has, so that each pair of
    tiles is compared once and serves both.
    """

    def __init__(self, method: Method, descriptors: NDArray[np.float16]) -> None:
        self._method = method
        self._rows = len(descriptors)
        self._side = isqrt(method.tile_rows * method.tile_queries)
        self._descriptors = descriptors

    def __len__(self) -> int:
        return self._rows

    @cached_property
    def _tiles(self) -> list[Tile]:
        descriptors = np.ascontiguousarray(self._descriptors)
        wide = widen(descriptors)
        return [
            Tile(np.arange(at, end), descriptors[at:end], wide[at:end])
            for at, end in self._ranges()
        ]

    @cached_property
    def _queries(self) -> list[dict[str, Any]]:
        return [self._method.prepare(tile.descriptors) for tile in self._tiles]

    @cached_property
    def _codes(self) -> list[Codes]:
        return [self._method.codes(tile.descriptors) for tile in self._tiles]

    def _ranges(self) -> Iterator[tuple[int, int]]:
        for at in range(0, self._rows, self._side):
            yield at, min(at + self._side, self._rows)

    def across(self, other: Block, floor: float, limit: int) -> tuple[Matches, Matches]:
        """The most similar rows of ``other`` for each row, and the reverse (ports)."""
        mine, theirs = (BestMatches(len(block), floor, limit) for block in (self, other))
        both = Mutual(mine, theirs)
        for number in range(len(other._tiles)):
            for own in range(len(self._tiles)):
                self._compare(both, own, other, number, floor)
        return mine.matches(), theirs.matches()

    def within(self, floor: float, limit: int) -> Matches:
        """The most similar other rows of the block for each row (ports)."""
        best = BestMatches(len(self), floor, limit)
        both = Mutual(best, best)
        for number in range(len(self._tiles)):
            for own in range(number + 1):
                self._compare(both, own, self, number, floor)
        return best.matches()

    def _compare(self, both: Mutual, own: int, other: Block, number: int, floor: float) -> None:
        queries, tile = self._tiles[own], other._tiles[number]
        found = self._method.candidates(
            queries, self._queries[own], tile, other._codes[number], floor
        )
        first = int(queries.rows[0])
        if found is None:
            rerank_all(both, first, queries, tile)
            return
        query, reference = found
        if both.within and own == number:  # not a row itself, and of two rows one pair
            once = query < reference
            query, reference = query[once], reference[once]
        if len(query):
            rerank(both, first, queries, tile, query, reference)


class Backend:
    """A ``ports.SearchBackend`` around a method."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.name = method.name
        self._queries: Prepared | None = None

    def codes(self, descriptors: NDArray[np.float16]) -> Codes:
        """The arrays this backend wants stored beside descriptors (n, d)."""
        return self.method.codes(descriptors)

    def roles(self) -> tuple[str, ...]:
        """The roles of ``codes``."""
        return self.method.roles()

    def search(
        self,
        queries: NDArray[np.float16],
        descriptors: NDArray[np.float16],
        codes: Codes,
        kept: NDArray[np.bool_],
        floor: float,
        limit: int,
    ) -> Matches:
        """Each query's ``limit`` most similar kept rows at or above ``floor`` (ports).

        The same ``queries`` array may be given for segment after segment: what is made of it is
        kept until another one comes. It must not be written to in between.
        """
        if self._queries is None or self._queries.descriptors is not queries:
            self._queries = Prepared(self.method, queries)
        return scan(self.method, self._queries, [Part(0, descriptors, codes, kept)], floor, limit)

    def block(self, descriptors: NDArray[np.float16]) -> Block:
        """Rows (n, d) to be compared with each other and with other blocks (ports)."""
        return Block(self.method, descriptors)

    def growing(self, dimensions: int) -> Growing:
        """An empty index that rows can be added to."""
        return Growing(self.method, dimensions)


_CHUNK = 65536
"""Rows of a growing index are kept in chunks of this many, so that growing copies nothing."""


class Growing:
    """A ``ports.GrowingIndex`` around a method."""

    def __init__(self, method: Method, dimensions: int) -> None:
        self._method = method
        self._dimensions = dimensions
        self._chunks: list[Part] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, descriptors: NDArray[np.float16]) -> None:
        """Append rows (n, d)."""
        codes = self._method.codes(descriptors)
        at = 0
        while at < len(descriptors):
            used = self._rows % _CHUNK
            if used == 0:
                self._chunks.append(self._chunk(codes))
            chunk = self._chunks[-1]
            end = min(at + _CHUNK - used, len(descriptors))
            chunk.descriptors[used : used + end - at] = descriptors[at:end]
            for role, values in codes.items():
                chunk.codes[role][used : used + end - at] = values[at:end]
            self._rows += end - at
            at = end

    def _chunk(self, codes: Codes) -> Part:
        return Part(
            self._rows,
            np.empty((_CHUNK, self._dimensions), np.float16),
            {role: np.empty((_CHUNK, *v.shape[1:]), v.dtype) for role, v in codes.items()},
        )

    def search(self, queries: NDArray[np.float16], floor: float, limit: int) -> Matches:
        """Each query's ``limit`` most similar rows added so far, at or above ``floor``."""
        parts = []
        for chunk in self._chunks:
            rows = min(self._rows - chunk.first, _CHUNK)
            codes = {role: values[:rows] for role, values in chunk.codes.items()}
            parts.append(Part(chunk.first, chunk.descriptors[:rows], codes))
        return scan(self._method, Prepared(self._method, queries), parts, floor, limit)
