"""The file embed writes for a source shard: descriptors of its work list, in manifest order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sscd_ops.core.measures import DESCRIPTORS, HASHES, Measure
from sscd_ops.model import Fault


@dataclass(frozen=True)
class DescriptorFile:
    """A work list's answers.

    ``ids``: uint8 (n, 32), images with a descriptor. ``descriptors``: float16 (n, d), same order.
    ``faults``: image sha256 -> (code, message), for pictures that got none. ``hashes``: role of
    ``core.measures.HASHES`` -> uint8 (n, w), same order; empty where the batch needs none.
    ``plain``: image sha256 of sound pictures that have nothing in them to compare.
    """

    ids: NDArray[np.uint8]
    descriptors: NDArray[np.float16]
    faults: dict[bytes, tuple[Fault, str]]
    hashes: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    plain: Sequence[bytes] = ()


_PLAIN = "plain"
"""What a file says of a plain picture where it has the code of a fault: it has none."""


def write_descriptors(
    stream: BinaryIO, content: DescriptorFile, *, fingerprint: str, runtime: dict[str, str]
) -> None:
    """Write a descriptor file: parquet, one row an image, null descriptors for faults and plain."""
    dimensions = content.descriptors.shape[1]
    bare_ids = [*content.faults, *content.plain]
    digests = pa.concat_arrays(
        [
            _fixed(content.ids.tobytes(), 32, len(content.ids)),
            pa.array(bare_ids, pa.binary(32)),
        ]
    )
    width = 2 * dimensions
    descriptors = pa.concat_arrays(
        [
            _fixed(content.descriptors.astype("<f2").tobytes(), width, len(content.ids)),
            pa.nulls(len(bare_ids), pa.binary(width)),
        ]
    )
    blank = [None] * len(content.ids)
    codes = [*(str(code) for code, _ in content.faults.values()), *[_PLAIN] * len(content.plain)]
    messages = [*(said for _, said in content.faults.values()), *[None] * len(content.plain)]
    columns = {
        "image_sha256": digests,
        "descriptor": descriptors,
        "code": pa.array([*blank, *codes], pa.string()),
        "message": pa.array([*blank, *messages], pa.string()),
    }
    for role, hashes in content.hashes.items():
        # the column's name says how they were made: those of another making are not found
        columns[role] = pa.concat_arrays(
            [
                _fixed(hashes.tobytes(), HASHES[role], len(content.ids)),
                pa.nulls(len(bare_ids), pa.binary(HASHES[role])),
            ]
        )
    table = pa.table(columns)
    metadata = {"fingerprint": fingerprint, "dimensions": str(dimensions)}
    metadata.update({f"runtime.{name}": said for name, said in sorted(runtime.items())})
    pq.write_table(
        table.replace_schema_metadata(metadata), stream, compression="none", use_dictionary=False
    )


def _fixed(raw: bytes, width: int, count: int) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(width), count, [None, pa.py_buffer(raw)])


def read_descriptors(path: Path) -> DescriptorFile:
    """Read a descriptor file."""
    table = pq.read_table(path)
    dimensions = int(table.schema.metadata[b"dimensions"])
    found = table.filter(table.column("code").is_null())
    bare = table.filter(table.column("code").is_valid())
    bare_rows = bare.select(["image_sha256", "code", "message"]).to_pylist()
    return DescriptorFile(
        fixed_bytes(found.column("image_sha256"), 32),
        fixed_bytes(found.column("descriptor"), 2 * dimensions).view("<f2"),
        {
            row["image_sha256"]: (Fault(row["code"]), row["message"])
            for row in bare_rows
            if row["code"] != _PLAIN
        },
        {
            role: fixed_bytes(found.column(role), width)
            for role, width in HASHES.items()
            if role in table.column_names
        },
        [row["image_sha256"] for row in bare_rows if row["code"] == _PLAIN],
    )


@dataclass(frozen=True)
class Queries:
    """Every descriptor of a batch, in manifest order: its descriptor files, one after another.

    ``ids``: uint8 (n, 32). ``rows``: role of a measure -> (n, ...): descriptors float16 (n, d),
    hashes uint8 (n, w). ``faults``: sha256 -> (code, message). ``plain``: sha256 of pictures with
    nothing in them to compare, which have no descriptor. ``digest`` names the list: it changes when
    source shards are appended.
    """

    ids: NDArray[np.uint8]
    rows: dict[str, NDArray[Any]]
    faults: dict[bytes, tuple[Fault, str]]
    plain: list[bytes]
    digest: str

    @property
    def descriptors(self) -> NDArray[np.float16]:
        """float16 (n, d)."""
        rows: NDArray[np.float16] = self.rows[DESCRIPTORS]
        return rows

    def with_more(self, more: Queries) -> Queries:
        """These and, numbered on, some more by the same measures."""
        if not len(more.ids):
            return self
        return replace(
            self,
            ids=np.concatenate([self.ids, more.ids]),
            rows={
                role: np.concatenate([rows, more.rows[role]]) for role, rows in self.rows.items()
            },
        )


def join_files(
    files: Sequence[DescriptorFile], measures: Sequence[Measure], dimensions: int, digest: str
) -> Queries:
    """A batch's descriptor files as one. Each has the rows of all its measures."""
    blank = {by.role: by.blank(0, dimensions) for by in measures}
    rows: list[dict[str, NDArray[Any]]] = [blank]
    rows += ({DESCRIPTORS: file.descriptors, **file.hashes} for file in files)
    return Queries(
        np.concatenate([np.empty((0, 32), np.uint8), *(file.ids for file in files)]),
        {role: np.concatenate([each[role] for each in rows]) for role in blank},
        {sha256: fault for file in files for sha256, fault in file.faults.items()},
        [sha256 for file in files for sha256 in file.plain],
        digest,
    )


def fixed_bytes(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """A fixed-size binary column as uint8 (n, width); nulls become zeros."""
    parts = []
    for chunk in column.chunks:
        if not len(chunk):
            continue
        if chunk.null_count:
            chunk = chunk.fill_null(b"\0" * width)
        raw = np.frombuffer(chunk.buffers()[1], dtype=np.uint8)
        parts.append(raw[chunk.offset * width : (chunk.offset + len(chunk)) * width])
    if not parts:
        return np.empty((0, width), np.uint8)
    return np.concatenate(parts).reshape(-1, width)
