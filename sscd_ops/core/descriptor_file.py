"""The file embed writes for a source shard: descriptors of its work list, in manifest order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sscd_ops.core.measures import DESCRIPTORS, HASHES
from sscd_ops.core.stored_rows import StoredRows, joined
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
_COLUMN_OF = {DESCRIPTORS: "descriptor"}
"""Names of columns that are not the role's own."""
_GROUP_ROWS = 65536
"""Rows of a parquet row group: what is decoded at once, 64 MB of 512 float16."""


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
    _write_table(table.replace_schema_metadata(metadata), stream)


def write_blank(path: Path, stream: BinaryIO, images: Collection[bytes]) -> None:
    """Write a descriptor file again, with zeros where some images have descriptor and hashes."""
    with pq.ParquetFile(path) as file:
        table = file.read().combine_chunks()
    wanted = pa.array(sorted(images), pa.binary())
    is_gone = pc.is_in(table.column("image_sha256").cast(pa.binary()), value_set=wanted)
    for role in (DESCRIPTORS, *HASHES):
        name = _COLUMN_OF.get(role, role)
        if name in table.column_names:
            column = table.column(name)
            zeros = pa.scalar(bytes(column.type.byte_width), column.type)
            blank = pc.if_else(pc.and_(is_gone, column.is_valid()), zeros, column)
            table = table.set_column(table.column_names.index(name), name, blank)
    _write_table(table, stream)


def _write_table(table: pa.Table, stream: BinaryIO) -> None:
    pq.write_table(
        table, stream, compression="none", use_dictionary=False, row_group_size=_GROUP_ROWS
    )


def _fixed(raw: bytes, width: int, count: int) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(width), count, [None, pa.py_buffer(raw)])


class DescriptorReader:
    """A descriptor file, open: what it lists, and its rows, row group by row group.

    Attributes:
        count: rows with a descriptor.
        dimensions: numbers of a descriptor.
        roles: ``DESCRIPTORS``, and the hashes that it has.
    """

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        metadata, schema = self._file.metadata, self._file.schema_arrow
        self.dimensions = int(schema.metadata[b"dimensions"])
        self.roles = {DESCRIPTORS, *(role for role in HASHES if role in schema.names)}
        column = schema.names.index(_COLUMN_OF[DESCRIPTORS])
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        # what has none comes last
        self._counts = [
            group.num_rows - group.column(column).statistics.null_count
            for group in groups
            if group.num_rows
        ]
        self.count = sum(self._counts)
        self._last: dict[str, tuple[int, NDArray[Any]]] = {}

    def listed(self) -> Listed:
        """The images that have a descriptor, in order, and those that have none."""
        table = self._file.read(columns=["image_sha256", "code", "message"])
        bare = table.slice(self.count).to_pylist()
        return Listed(
            fixed_bytes(table.column("image_sha256").slice(0, self.count), 32),
            {
                row["image_sha256"]: (Fault(row["code"]), row["message"])
                for row in bare
                if row["code"] != _PLAIN
            },
            [row["image_sha256"] for row in bare if row["code"] == _PLAIN],
        )

    def rows(self, role: str) -> StoredRows:
        """The descriptors or hashes: float16 (n, d), uint8 (n, w)."""
        blank = np.empty((0, self.dimensions), np.float16)
        if role in HASHES:
            blank = np.empty((0, HASHES[role]), np.uint8)
        numbered = enumerate(self._counts)
        return StoredRows([_RowGroup(self, role, number, n) for number, n in numbered], blank)

    def group(self, role: str, number: int) -> NDArray[Any]:
        """A row group's rows, decoded; the last one asked for is kept."""
        held, rows = self._last.get(role, (-1, np.empty(0)))
        if held != number:
            name = _COLUMN_OF.get(role, role)
            column = self._file.read_row_group(number, columns=[name]).column(0)
            raw = fixed_bytes(column.slice(0, self._counts[number]), column.type.byte_width)
            rows = raw if role in HASHES else raw.view("<f2")
            self._last[role] = number, rows
        return rows


@dataclass(frozen=True)
class _RowGroup:
    """A row group of a descriptor file as a piece of ``StoredRows``."""

    reader: DescriptorReader
    role: str
    number: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        return self.reader.group(self.role, self.number)[key]


@dataclass(frozen=True)
class Listed:
    """What descriptor files say of images, beside their descriptors.

    ``ids``: uint8 (n, 32), those that have one. ``faults``: sha256 -> (code, message), pictures
    that got none. ``plain``: sha256 of pictures with nothing in them to compare, which have none.
    """

    ids: NDArray[np.uint8]
    faults: dict[bytes, tuple[Fault, str]] = field(default_factory=dict)
    plain: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class Queries:
    """Every descriptor of a batch, in manifest order: its descriptor files, one after another.

    ``rows``: role of a measure -> (n, ...): descriptors float16 (n, d), hashes uint8 (n, w).
    ``digest`` names the list: it changes when source shards are appended. ``read_listed`` reads
    what ``listed`` answers: once, where it is asked for.
    """

    rows: dict[str, StoredRows]
    digest: str
    read_listed: Callable[[], Listed]

    def __len__(self) -> int:
        return len(self.descriptors)

    @property
    def descriptors(self) -> StoredRows:
        """float16 (n, d)."""
        return self.rows[DESCRIPTORS]

    @cached_property
    def listed(self) -> Listed:
        """The images' digests, and which pictures have no descriptor."""
        return self.read_listed()

    @property
    def ids(self) -> NDArray[np.uint8]:
        """uint8 (n, 32), the images' sha256."""
        return self.listed.ids

    def with_rows(self, rows: dict[str, StoredRows]) -> Queries:
        """The same, with rows that lie elsewhere."""
        return Queries(rows, self.digest, lambda: self.listed)

    def with_more(self, more: Queries) -> Queries:
        """These and, numbered on, some more by the same measures."""
        if not len(more):
            return self
        return Queries(
            {role: joined([rows, more.rows[role]]) for role, rows in self.rows.items()},
            self.digest,
            lambda: replace(self.listed, ids=np.concatenate([self.ids, more.ids])),
        )


def bytes_rows(values: Iterable[bytes], width: int) -> NDArray[np.uint8]:
    """Values of so many bytes each, such as digests, as uint8 (n, width)."""
    return np.frombuffer(b"".join(values), np.uint8).reshape(-1, width)


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
