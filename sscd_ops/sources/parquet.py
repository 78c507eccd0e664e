"""Parquet files with image bytes in a column, as Hugging Face datasets have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscd_ops.errors import PUT_BACK, SourceChanged
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.sources import files, places
from sscd_ops.sources.contents import caption_bytes, image_extension, json_bytes

_ROWS = 32
"""Rows decoded at once: with pictures of a few MB this bounds memory."""
_BUFFER = 1 << 20
"""Column chunks are streamed through buffers of this size rather than read whole."""


class ParquetSource:
    """Rows as samples: the image, the caption as ``txt``, the other columns as one ``json``.

    A member's offset is its row number. Bytes made here (``txt``, ``json``) are made the same way
    whenever they are fetched. Columns of bytes other than the image's are left out of the json.

    Args:
        options: the source; names of the image, caption and key columns.
        limits: sizes.
    """

    def __init__(self, options: SourceOptions, limits: LimitsOptions) -> None:
        self.name = options.name
        self.root = places.resolve_root(options)
        self._options = options
        self._limits = limits

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """The interval's files, sorted by relative URI."""
        return places.find(self._options, self.root, interval, timezone)

    def ready(self, interval: Interval, timezone: str) -> str | None:
        """None when the interval's data may be read, else the URL that is waited for."""
        return places.missing_marker(self._options, interval, timezone)

    def version(self, shard: FoundShard) -> str | None:
        """The version of a file as it is now; None where it is gone."""
        return files.version(shard.uri)

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Stream the rows of a file, then its end."""
        seen: dict[str, int] = {}
        count = 0
        fault: tuple[Fault, str] | None = None
        with files.opened(shard) as stream:
            if not shard.size:
                fault = Fault.EMPTY_FILE, "the file has no bytes"
            else:
                try:
                    for number, row in self._rows(stream, None):
                        yield self._sample(number, row, seen)
                        count += 1
                except Exception as error:
                    if not _is_of_file(error):
                        raise
                    code = Fault.TRUNCATED_SHARD if count else Fault.UNREADABLE_SHARD
                    fault = code, f"after {count} rows: {str(error)[:500]}"
        if fault is None and not count:
            fault = Fault.EMPTY_SHARD, "the file has no rows"
        yield ShardEnd(fault)

    # ------------------------------------------------------------ rows

    def _rows(
        self, stream: BinaryIO, wanted: frozenset[int] | None
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(row number, row) of all rows, or of the row groups that hold wanted rows."""
        file = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
        columns = self._columns(file.schema_arrow)
        first = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if wanted is None or any(first <= number < first + rows for number in wanted):
                number = first
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
                    for row in _python_rows(batch):
                        yield number, row
                        number += 1
            first += rows

    def _columns(self, schema: pa.Schema) -> list[str]:
        """The columns to read: the image's, and all that json can hold."""
        options = self._options
        for wanted in (options.image_column, options.key_column):
            if wanted and wanted not in schema.names:
                raise _NoColumn(f"no column {wanted!r}; the file has: {', '.join(schema.names)}")
        asked = {options.image_column, options.caption_column, options.key_column}
        return [field.name for field in schema if field.name in asked or not _is_binary(field.type)]

    def _sample(self, number: int, row: Mapping[str, Any], seen: dict[str, int]) -> RawSample:
        key, fault = self._key(number, row)
        occurrence = seen.get(key, 0)
        seen[key] = occurrence + 1
        if occurrence and fault is None:
            fault = (Fault.DUPLICATE_KEY, "the key came before in this file")
        limit = self._limits.max_member_bytes
        members = [
            Member(
                f"{key}.{extension}",
                extension,
                number,
                len(data),
                data if len(data) <= limit else b"",
            )
            for extension, data in self._contents(row)
        ]
        return RawSample(key, occurrence, members, fault)

    def _key(self, number: int, row: Mapping[str, Any]) -> tuple[str, tuple[Fault, str] | None]:
        key = row[self._options.key_column] if self._options.key_column else f"{number:09d}"
        if key is None or key == "":
            return f"{number:09d}", (Fault.BAD_KEY, f"row {number}: the key column is empty")
        if isinstance(key, bytes):
            return key.decode("utf-8", "surrogateescape"), None
        return str(key), None

    def _contents(self, row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        options = self._options
        image = row[options.image_column]
        path = ""
        if isinstance(image, Mapping):
            path = str(image.get("path") or "")
            image = image.get("bytes")
        if isinstance(image, bytes):
            yield image_extension(path, image), image
        caption = row.get(options.caption_column)
        if isinstance(caption, (list, tuple)):
            caption = caption[0] if caption else None
        if caption is not None:
            yield "txt", caption_bytes(caption)
        yield "json", json_bytes({k: v for k, v in row.items() if k != options.image_column})

    # ------------------------------------------------------------ members again

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes from the row groups that hold them, made again where made here."""
        if not members:
            return
        with files.opened(shard, as_listed=False) as stream:
            try:
                yield from self._fetch(shard, stream, members)
            except Exception as error:
                if not _is_of_file(error):
                    raise
                raise SourceChanged(f"{shard.uri} cannot be read any longer: {error}") from error

    def _fetch(
        self, shard: FoundShard, stream: BinaryIO, members: Sequence[MemberRef]
    ) -> Iterator[bytes]:
        rows = self._rows(stream, frozenset(member.offset for member in members))
        number = -1
        contents: dict[str, bytes] = {}
        for member in members:
            while number < member.offset:
                found = next(rows, None)
                if found is None:
                    raise SourceChanged(
                        f"{shard.uri} no longer has row {member.offset}: {PUT_BACK}"
                    )
                number, row = found
                contents = dict(self._contents(row)) if number == member.offset else {}
            extension = member.name.rpartition(".")[2]
            if extension not in contents:
                raise SourceChanged(f"{shard.uri} no longer has member {member.name!r}: {PUT_BACK}")
            yield contents[extension]


_OF_VALUES = (ValueError, UnicodeDecodeError, OverflowError, RecursionError)


class _NoColumn(ValueError):
    pass


def _is_of_file(error: Exception) -> bool:
    """Whether the file is at fault, not storage."""
    if isinstance(error, OSError):
        return files.is_about_content(error)
    # what Python's own types say of values they cannot hold; drivers have subclasses
    return isinstance(error, (pa.ArrowException, _NoColumn)) or type(error) in _OF_VALUES


def _is_binary(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, or structs or lists with bytes in them."""
    if isinstance(kind, pa.BaseExtensionType):
        return not _is_uuid(kind) and _is_binary(kind.storage_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_fixed_size_binary(kind) or kind == pa.binary_view():
        return True
    return any(_is_binary(kind.field(at).type) for at in range(kind.num_fields))


def _python_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    names = batch.schema.names
    columns = [_python_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _python_values(column: pa.Array) -> list[Any]:
    """A column as Python values, the same with and without pandas, at any depth.

    Bad UTF-8 survives as it is. Times are text and durations numbers, since Python has none of its
    own for every one that Arrow holds.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and not _is_uuid(kind):
        return _python_values(column.storage)
    if pa.types.is_dictionary(kind):
        return _python_values(column.dictionary_decode())
    if pa.types.is_struct(kind):
        return _structs(column)
    if pa.types.is_map(kind):
        pairs = column.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
        return [v and [tuple(item.values()) for item in v] for v in _lists(pairs)]
    # lists of numbers, such as descriptors, go the quick way
    if _is_list(kind) and not pa.types.is_floating(kind.value_type):
        return _lists(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view():
        raw = column.cast(pa.binary() if pa.types.is_string(kind) else pa.large_binary())
        return [
            None if v is None else v.decode("utf-8", "surrogateescape") for v in raw.to_pylist()
        ]
    if pa.types.is_timestamp(kind):
        # cast to UTC first: the text of a time with a zone would depend on the machine's tz data
        text = pc.cast(column.cast(pa.timestamp(kind.unit)), pa.string()).to_pylist()
        return [v if v is None or kind.tz is None else f"{v}Z" for v in text]
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        values: list[Any] = pc.cast(column, pa.string()).to_pylist()
        return values
    if pa.types.is_duration(kind):
        return list(column.cast(pa.int64()).to_pylist())
    return list(column.to_pylist())


def _structs(column: pa.Array) -> list[Any]:
    names = [field.name for field in column.type]
    fields = [_python_values(values) for values in column.flatten()]
    valid = column.is_valid().to_pylist()
    rows = zip(*fields, strict=True) if fields else ((),) * len(valid)
    return [
        dict(zip(names, row, strict=True)) if there else None
        for row, there in zip(rows, valid, strict=True)
    ]


def _lists(column: pa.Array) -> list[Any]:
    lengths = pc.list_value_length(column).to_pylist()
    values = iter(_python_values(column.flatten()))
    return [None if length is None else list(islice(values, length)) for length in lengths]


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return bool(lists or views or pa.types.is_fixed_size_list(kind))


def _is_uuid(kind: pa.DataType) -> bool:
    return bool(kind.extension_name == "arrow.uuid")
