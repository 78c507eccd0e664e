"""Candidate files: what a search for a batch found in a segment (parquet)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.errors import BatchNotRunnable
from sscd_ops.model import Matches

_COLUMNS = ("query", "reference", "similarity")


def write_matches(stream: BinaryIO, found: Sequence[Matches], segment_id: int) -> None:
    """Write a candidate file: the matches by each measure, one after another.

    The column ``by_hash`` tells two measures apart; with a third the file needs another one.
    """
    first, *rest = (len(matches.query) for matches in found)
    table = pa.table(
        {
            **{
                name: np.concatenate([getattr(matches, name) for matches in found])
                for name in _COLUMNS
            },
            "by_hash": np.arange(first + sum(rest)) >= first,
        }
    )
    metadata = {"segment": str(segment_id)}
    pq.write_table(table.replace_schema_metadata(metadata), stream, compression="none")


def read_matches(path: Path, measures: int) -> list[Matches]:
    """Read a candidate file: the matches by each of so many measures.

    Raises:
        BatchNotRunnable: a release that knew no hashes wrote it, so that it may lack matches.
    """
    table = pq.read_table(path)
    if "by_hash" not in table.column_names:
        raise BatchNotRunnable(
            f"{path.name}: another release searched for this batch, without perceptual hashes. Give"
            " all workers one release, abandon the batch (sscd-ops batch abandon) and run the night"
            " again"
        )
    columns = [table.column(name).to_numpy() for name in _COLUMNS]
    by_hash = table.column("by_hash").to_numpy()
    found = [Matches(*(values[mine] for values in columns)) for mine in (~by_hash, by_hash)]
    return found[:measures]


def no_matches() -> Matches:
    """Not one."""
    return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
