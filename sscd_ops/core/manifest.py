"""The shard manifest: a parquet row for each sample, in shard order. Written once, by ingest."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscd_ops.masking import without_nul
from sscd_ops.model import ERASED, Fault

_MEMBER = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("position", pa.int32(), nullable=False),
        pa.field("sample_id", pa.binary(16)),
        pa.field("key", pa.string()),
        pa.field("occurrence", pa.int32()),
        pa.field("image_member", pa.string()),
        pa.field("image_sha256", pa.binary(32)),
        pa.field("image_offset", pa.int64()),
        pa.field("image_bytes", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),
        pa.field("declared", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("caption_sha256", pa.binary(32)),
        pa.field("meta", pa.string()),
        pa.field("url_sha256", pa.binary(32)),
        pa.field("host", pa.string()),
        pa.field("members", pa.list_(_MEMBER)),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
    ]
)
"""``position`` counts samples from 0; -1 marks a fault of the whole shard, the last row, whose
``sample_id`` and ``key`` are null. ``declared`` is the format by the member's name where the bytes
say another. ``url_sha256`` and ``host`` (reversed) are of the URL that the picture came from, where
it says one (``core.urls``). ``code`` is null for a sample that goes on."""

_COLUMNS = [name for name in SCHEMA.names if name not in ("position", "members")]
_values = attrgetter(*_COLUMNS)
_member_values = attrgetter(*(field.name for field in _MEMBER))
_ROWS = 5000
"""Rows a parquet row group: bounds memory."""
_TEXT = ("image_member", "caption", "caption_sha256", "meta", "message")
"""What is null in a row whose text is erased; its key and the names of its members are ``ERASED``.
Ids, digests of bytes, places and sizes stay."""


@dataclass(slots=True)
class MemberRow:
    """A member as the manifest lists it."""

    name: str
    extension: str
    offset: int
    size: int
    sha256: bytes


@dataclass(slots=True)
class ManifestRow:
    """One sample, as ``core.interpret`` reads it."""

    sample_id: bytes | None
    key: str | None
    occurrence: int | None
    members: list[MemberRow]
    image_member: str | None = None
    image_sha256: bytes | None = None
    image_offset: int | None = None
    image_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    declared: str | None = None
    caption: str | None = None
    caption_sha256: bytes | None = None
    meta: str | None = None
    url_sha256: bytes | None = None
    host: str | None = None
    code: str | None = None
    message: str | None = None


class ManifestBuilder:
    """Writes a manifest row by row; equal rows give equal bytes. A context manager.

    Rows are kept as tuples of plain values, which garbage collection leaves alone: as objects,
    thousands of them cost it a tenth of the time that ingest takes.

    Args:
        stream: where the parquet file goes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(stream, SCHEMA, compression="zstd")
        self._count = 0
        self._clear()

    def _clear(self) -> None:
        self._positions: list[int] = []
        self._rows: list[tuple[Any, ...]] = []
        self._members: list[tuple[Any, ...]] = []
        self._ends = [0]

    def add(self, row: ManifestRow) -> None:
        """Append a sample."""
        self._append(self._count, row)
        self._count += 1
        if len(self._positions) >= _ROWS:
            self._flush()

    def _append(self, position: int, row: ManifestRow) -> None:
        self._positions.append(position)
        self._rows.append(_values(row))
        self._members += map(_member_values, row.members)
        self._ends.append(len(self._members))

    def add_shard_fault(self, code: Fault, message: str) -> None:
        """Append the fault of the whole shard, after its last sample."""
        text = without_nul(message).encode("utf-8", "replace").decode()
        self._append(-1, ManifestRow(None, None, None, [], code=str(code), message=text))

    def __enter__(self) -> ManifestBuilder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Write what is left and the footer; after an error only let go of the stream."""
        if kind is None:
            self._flush()
            self._writer.close()
            return
        with contextlib.suppress(Exception):
            self._writer.close()

    def _flush(self) -> None:
        if not self._positions:
            return
        columns: dict[str, Any] = {
            "position": pa.array(self._positions, pa.int32()),
            "members": self._member_lists(),
        }
        for name, values in zip(_COLUMNS, zip(*self._rows, strict=True), strict=True):
            columns[name] = pa.array(values, SCHEMA.field(name).type)
        arrays = [columns[name] for name in SCHEMA.names]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self._clear()

    def _member_lists(self) -> pa.Array:
        """Members of all rows as one list array, built column by column (5x faster than by row)."""
        columns = list(zip(*self._members, strict=True)) or [()] * _MEMBER.num_fields
        arrays = [
            pa.array(values, field.type) for values, field in zip(columns, _MEMBER, strict=True)
        ]
        structs = pa.StructArray.from_arrays(arrays, fields=list(_MEMBER))
        return pa.ListArray.from_arrays(
            pa.array(self._ends, pa.int32()), structs, type=SCHEMA.field("members").type
        )


def erase(row: ManifestRow) -> None:
    """Take out of a row what is text of its sample: the same as ``write_erased``."""
    for name in _TEXT:
        setattr(row, name, None)
    row.key = ERASED
    for member in row.members:
        member.name = member.extension = ERASED


def write_erased(file: Path, stream: BinaryIO, ids: Collection[bytes]) -> None:
    """Write a manifest again without the text of some samples, named by the bytes of their ids.

    Its bytes are those of a ``ManifestBuilder`` that was given the same rows, these erased.
    """
    gone = pa.array(sorted(ids), pa.binary(16))
    writer = pq.ParquetWriter(stream, SCHEMA, compression="zstd")
    with pq.ParquetFile(file) as manifest, writer:
        for number in range(manifest.num_row_groups):
            table = manifest.read_row_group(number).combine_chunks()
            is_gone = pc.is_in(table.column("sample_id").combine_chunks(), value_set=gone)
            columns = {name: table.column(name).combine_chunks() for name in SCHEMA.names}
            for name in _TEXT:
                nothing = pa.scalar(None, SCHEMA.field(name).type)
                columns[name] = pc.if_else(is_gone, nothing, columns[name])
            columns["key"] = pc.if_else(is_gone, ERASED, columns["key"])
            columns["members"] = _erased_members(columns["members"], is_gone)
            arrays = [columns[name] for name in SCHEMA.names]
            writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))


def _erased_members(lists: pa.ListArray, is_gone: pa.BooleanArray) -> pa.ListArray:
    ends, flat = lists.offsets, lists.values
    members = flat.slice(ends[0].as_py(), ends[-1].as_py() - ends[0].as_py())
    is_of_gone = is_gone.take(pc.list_parent_indices(lists))
    arrays = [members.field(number) for number in range(_MEMBER.num_fields)]
    for number in range(2):  # name and extension
        arrays[number] = pc.if_else(is_of_gone, ERASED, arrays[number])
    structs = pa.StructArray.from_arrays(arrays, fields=list(_MEMBER))
    return pa.ListArray.from_arrays(
        pc.subtract(ends, ends[0]), structs, type=SCHEMA.field("members").type
    )


def read_manifest(file: Path | str | BinaryIO, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a manifest, or some of its columns."""
    # not pq.read_table, which imports pyarrow.dataset: 0.1 s of every process
    with pq.ParquetFile(file) as opened:
        wanted = SCHEMA.names if columns is None else list(columns)
        return opened.read(wanted).select(wanted)


def manifest_blocks(files: Iterable[Path], columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Some columns of several manifests, one after another, about so many rows at a time."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for file in files:
        with pq.ParquetFile(file) as manifest:
            for batch in manifest.iter_batches(rows, columns=list(columns)):
                waiting.append(batch)
                count += len(batch)
                if count >= rows:
                    yield pa.Table.from_batches(waiting)
                    waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)
