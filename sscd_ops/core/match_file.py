"""Candidate files: what a search for a batch found in a segment (parquet)."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.errors import BatchNotRunnable
from sscd_ops.model import Matches


def write_matches(
    stream: BinaryIO, found: Matches, segment_id: int, hashed: Matches | None = None
) -> None:
    """Write a candidate file: matches by descriptor, then those by hash."""
    hashed = hashed or no_matches()
    table = pa.table(
        {
            "query": np.concatenate([found.query, hashed.query]),
            "reference": np.concatenate([found.reference, hashed.reference]),
            "similarity": np.concatenate([found.similarity, hashed.similarity]),
            "by_hash": np.arange(len(found.query) + len(hashed.query)) >= len(found.query),
        }
    )
    metadata = {"segment": str(segment_id)}
    pq.write_table(table.replace_schema_metadata(metadata), stream, compression="none")


def read_matches(path: Path) -> tuple[Matches, Matches]:
    """Read a candidate file: matches by descriptor, and those by hash.

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
    columns = [table.column(name).to_numpy() for name in ("query", "reference", "similarity")]
    by_hash = table.column("by_hash").to_numpy()
    return (
        Matches(*(values[~by_hash] for values in columns)),
        Matches(*(values[by_hash] for values in columns)),
    )


def no_matches() -> Matches:
    """Not one."""
    return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
