"""The work list: which samples of each source shard embed has to describe. Written by survey."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

_SHARDS = 64
"""Source shards a parquet row group: who asks for few of them reads no more than needed."""


def write_work_list(
    stream: BinaryIO, ordinals: Sequence[int], positions: Sequence[NDArray[np.int32]]
) -> None:
    """Write a work list: parquet, one row a source shard; equal lists give equal bytes.

    Args:
        stream: where to.
        ordinals: of the source shards, ascending.
        positions: int32 (k,) of each: the positions in its manifest, ascending.
    """
    ends = np.cumsum([0, *map(len, positions)])
    flat = np.concatenate([np.empty(0, np.int32), *positions])
    lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(flat))
    table = pa.table({"ordinal": pa.array(ordinals, pa.int32()), "positions": lists})
    pq.write_table(table, stream, row_group_size=_SHARDS, compression="zstd")


def read_work_list(
    file: Path | BinaryIO, ordinals: Collection[int]
) -> dict[int, NDArray[np.int32]]:
    """The positions to embed, by the ordinals of these source shards; not of those it lacks."""
    asked = pa.array(sorted(ordinals), pa.int32())
    table = pq.read_table(file, filters=pc.field("ordinal").isin(asked))
    lists = table.column("positions").combine_chunks()
    return {
        ordinal: positions.values.to_numpy()
        for ordinal, positions in zip(table.column("ordinal").to_pylist(), lists, strict=True)
    }
