"""Candidate files: what some searches for a batch found (parquet)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.model import Matches

_COLUMNS = ("query", "reference", "similarity")


def write_matches(stream: BinaryIO, searches: Sequence[Sequence[Matches]]) -> None:
    """Write a candidate file: search by search, of each the matches by every measure."""
    pieces = [matches for found in searches for matches in found]
    search = np.repeat(np.arange(len(searches)), [len(found) for found in searches])
    measure = np.concatenate([np.empty(0, np.int64), *(np.arange(len(f)) for f in searches)])
    lengths = [len(matches.query) for matches in pieces]
    blank = no_matches()
    table = pa.table(
        {
            "search": np.repeat(search, lengths).astype(np.int32),
            "measure": np.repeat(measure, lengths).astype(np.int8),
            **{
                name: np.concatenate([getattr(matches, name) for matches in [blank, *pieces]])
                for name in _COLUMNS
            },
        }
    )
    pq.write_table(table, stream, compression="none")


class MatchFile:
    """A candidate file, read."""

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path)
        self._columns = [table.column(name).to_numpy() for name in _COLUMNS]
        # sorted by search and measure, as they were written
        self._search = table.column("search").to_numpy()
        self._measure = table.column("measure").to_numpy()

    def matches(self, search: int, measures: int) -> list[Matches]:
        """What a search found by each of so many measures."""
        first, end = np.searchsorted(self._search, [search, search + 1])
        cuts = first + np.searchsorted(self._measure[first:end], np.arange(measures + 1))
        return [Matches(*(values[at:to] for values in self._columns)) for at, to in pairwise(cuts)]


def no_matches() -> Matches:
    """Not one."""
    return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
