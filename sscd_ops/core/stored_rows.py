"""Rows of many files as one array, of which only what is asked for is read. Pure numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence


class Piece(Protocol):
    """Some rows: an array, a memory map, or what reads them from a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice | NDArray[np.int64], /) -> NDArray[Any]: ...


class StoredRows:
    """Pieces, one after another, as an array (n, ...) that is read where it is indexed.

    ``rows[a:b]`` and ``rows[numbers]``, int64 (k,) in any order, answer with an array; each piece
    that holds some of the rows is asked once.

    Args:
        pieces: the rows.
        blank: an array without rows: says how one looks.
    """

    def __init__(self, pieces: Sequence[Piece], blank: NDArray[Any]) -> None:
        self._pieces = pieces
        self._starts = np.cumsum([0, *(len(piece) for piece in pieces)], dtype=np.int64)
        self._blank = blank
        self.dtype = blank.dtype
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *blank.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._run(start, stop)
            key = np.arange(start, stop, step)
        return self._some(np.asarray(key))

    # without it numpy and for would ask row by row
    __iter__ = None

    def _run(self, start: int, stop: int) -> NDArray[Any]:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        found = []
        while start < stop:
            begin, end = self._starts[first : first + 2]
            if end > start:
                found.append(self._pieces[first][int(start - begin) : int(min(stop, end) - begin)])
                start = int(end)
            first += 1
        if len(found) == 1:
            return found[0]
        return np.concatenate([self._blank, *found])

    def _some(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        answer = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        piece = np.searchsorted(self._starts, numbers, side="right") - 1
        order = np.argsort(piece, kind="stable")
        ends = np.flatnonzero(np.diff(piece[order], append=len(self._pieces))) + 1
        for part in np.split(order, ends[:-1]) if len(order) else ():
            which = int(piece[part[0]])
            answer[part] = self._pieces[which][numbers[part] - self._starts[which]]
        return answer

    def at(self, numbers: NDArray[np.int64]) -> StoredRows:
        """The rows of these numbers, int64 (k,), in their order; read where they are asked for."""
        return StoredRows([_Picked(self, numbers)], self._blank)


class _Picked:
    """Some of the rows, in another order."""

    def __init__(self, rows: StoredRows, numbers: NDArray[np.int64]) -> None:
        self._rows = rows
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        return self._rows[self._numbers[key]]


def joined(rows: Sequence[StoredRows]) -> StoredRows:
    """Rows one after another, numbered through; at least one, all of one kind."""
    return StoredRows(rows, rows[0][:0])


def in_memory(rows: NDArray[Any]) -> StoredRows:
    """An array, or a memory map, as the one piece there is."""
    return StoredRows([rows], rows[:0])


Rows: TypeAlias = StoredRows | NDArray[Any]
"""Rows by number: stored ones, or those in memory."""
