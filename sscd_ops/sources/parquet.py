"""Parquet files with image bytes in a column, as Hugging Face datasets have them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.core.interpret import is_missing
from sscd_ops.errors import PUT_BACK, SourceChanged
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.sources import files, places
from sscd_ops.sources.arrow_values import (
    bare,
    is_binary,
    is_bytes,
    is_list,
    is_text,
    python_rows,
    python_values,
)
from sscd_ops.sources.contents import caption_bytes, image_extension, json_bytes

_DECODED = 256 << 20
"""Bytes that rows decoded at once take at most, save that one row always is."""
_ROWS = 32
"""Rows decoded at once at most."""
_SMALL = 4 << 20
"""Bytes of a row."""
_FEW = 4
"""Rows decoded at once at least, where their mean is small: one by one takes twice as long."""
_BUFFER = 1 << 20
"""Column chunks are streamed through buffers of this size rather than read whole."""


class ParquetSource:
    """Rows as samples: the image, the caption as ``txt``, the other columns as one ``json``.

    A member's offset is its row number. Bytes made here (``txt``, ``json``) are made the same way
    whenever they are fetched. Columns of bytes other than the image's are left out of the json.
    Several pictures of a row are members ``0.jpg``, ``1.jpg`` ... In what img2dataset writes, rows
    without a picture whose status is not success are no samples.

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
        count = not_delivered = 0
        fault: tuple[Fault, str] | None = None
        with files.opened(shard) as stream:
            if not shard.size:
                fault = Fault.EMPTY_FILE, "the file has no bytes"
            else:
                try:
                    for number, row in self._rows(stream, None):
                        if self._is_not_delivered(row):
                            not_delivered += 1
                            continue
                        yield self._sample(number, row, seen)
                        count += 1
                except Exception as error:
                    if not _is_of_file(error):
                        raise
                    fault = _fault(error, count + not_delivered)
        if fault is None and not count:
            what = f"only {not_delivered} that were not delivered" if not_delivered else "no rows"
            fault = Fault.EMPTY_SHARD, f"the file has {what}"
        yield ShardEnd(fault, not_delivered=not_delivered)

    # ------------------------------------------------------------ rows

    def _rows(
        self, stream: BinaryIO, wanted: frozenset[int] | None
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """(row number, row) of all rows, or of the row groups that hold wanted rows."""
        file = pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False)
        columns = self._columns(file)
        first = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if wanted is None or any(first <= number < first + rows for number in wanted):
                number = first
                size = _rows_at_once(file.metadata.row_group(group))
                for batch in file.iter_batches(size, row_groups=[group], columns=columns):
                    for row in python_rows(batch):
                        yield number, row
                        number += 1
            first += rows

    def _columns(self, file: pq.ParquetFile) -> list[str]:
        """The columns to read: the image's, and all that json can hold."""
        options = self._options
        schema = file.schema_arrow
        for wanted in (options.image_column, *filter(None, [options.key_column])):
            if schema.names.count(wanted) != 1:
                there = "several columns are named" if wanted in schema.names else "no column"
                raise _WrongColumn(
                    f"{there} {wanted!r}; the file has: {', '.join(schema.names)}"
                    + (_meant(schema) if wanted == options.image_column else "")
                )
        kind = schema.field(options.image_column).type
        if not _holds_pictures(kind):
            raise _WrongColumn(
                f"column {options.image_column!r} is of type {str(kind)[:200]}"
                f"{_example(file, options.image_column)}; expected are the bytes of pictures:"
                " binary, {bytes, path} or lists of these; the file has:"
                f" {', '.join(schema.names)}{_meant(schema)}"
            )
        asked = {options.image_column, options.caption_column, options.key_column}
        return [field.name for field in schema if field.name in asked or not is_binary(field.type)]

    def _is_not_delivered(self, row: Mapping[str, Any]) -> bool:
        """Whether img2dataset says that it has no picture for a row."""
        if not row.keys() >= _OF_IMG2DATASET or row["status"] == "success":
            return False
        return not _pictures(row[self._options.image_column])

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
        return RawSample(key, occurrence, members, fault or self._only_named(row))

    def _only_named(self, row: Mapping[str, Any]) -> tuple[Fault, str] | None:
        """The fault of a row that has no picture, but the path of one."""
        image = row[self._options.image_column]
        images = image if isinstance(image, list) else [image]
        paths = [str(i["path"]) for i in images if isinstance(i, Mapping) and i.get("path")]
        if not paths or _pictures(image):
            return None
        return (
            Fault.NO_IMAGE,
            f"the row has no bytes, only the path {paths[0][:300]!r}: pictures must be in the file",
        )

    def _key(self, number: int, row: Mapping[str, Any]) -> tuple[str, tuple[Fault, str] | None]:
        key = row[self._options.key_column] if self._options.key_column else f"{number:09d}"
        if is_missing(key) or key in ("", b""):
            return f"{number:09d}", (Fault.BAD_KEY, f"row {number}: the key column is empty")
        if isinstance(key, bytes):
            return key.decode("utf-8", "surrogateescape"), None
        return str(key), None

    def _contents(self, row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        options = self._options
        pictures = _pictures(row[options.image_column])
        for number, (path, data) in enumerate(pictures):
            extension = image_extension(path, data)
            yield extension if len(pictures) == 1 else f"{number}.{extension}", data
        caption = row.get(options.caption_column)
        if isinstance(caption, (list, tuple)):
            caption = next((one for one in caption if not is_missing(one)), None)
        if not is_missing(caption):
            yield "txt", caption_bytes(caption)
        yield "json", json_bytes({k: v for k, v in row.items() if k != options.image_column})

    # ------------------------------------------------------------ members again

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes from the row groups that hold them, made again where made here."""
        if not members:
            return
        with files.opened(shard.any_version) as stream:
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
            extension = next((e for e in contents if member.name.endswith(f".{e}")), None)
            if extension is None:
                raise SourceChanged(f"{shard.uri} no longer has member {member.name!r}: {PUT_BACK}")
            yield contents[extension]


_OF_VALUES = (ValueError, UnicodeDecodeError, OverflowError, RecursionError)
_OF_IMG2DATASET = {"status", "error_message"}
"""Columns that img2dataset writes."""


class _WrongColumn(ValueError):
    pass


def _is_of_file(error: Exception) -> bool:
    """Whether the file is at fault, not storage."""
    if isinstance(error, OSError):
        return files.is_about_content(error)
    # what Python's own types say of values they cannot hold; drivers have subclasses
    return isinstance(error, (pa.ArrowException, _WrongColumn)) or type(error) in _OF_VALUES


def _fault(error: Exception, rows: int) -> tuple[Fault, str]:
    if isinstance(error, _WrongColumn):
        return Fault.UNREADABLE_SHARD, str(error)[:900]
    code = Fault.TRUNCATED_SHARD if rows else Fault.UNREADABLE_SHARD
    return code, f"after {rows} rows: {str(error)[:500]}"


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    """How many rows of a group may be decoded at once.

    No row takes more than all values of its group do, which are in the file once at least: also
    where a dictionary or one large row among small ones belies the mean.
    """
    # not the sum of its columns' sizes: to ask for one that is encrypted ends the process
    size = int(group.total_byte_size)
    if size < group.num_rows:
        size = _DECODED  # it is not given, or cannot be true
    fewest = _FEW if size <= int(group.num_rows) * _SMALL else 1
    return min(_ROWS, max(fewest, _DECODED // max(size, 1)))


# ---------------------------------------------------------------- the column of pictures


def _pictures(image: Any) -> list[tuple[str, bytes]]:
    """(path, bytes) of a row's pictures; paths may be empty."""
    if isinstance(image, list):
        return [found for one in image for found in _pictures(one)]
    path = ""
    if isinstance(image, Mapping):
        path = str(image.get("path") or "")
        image = image.get("bytes")
    return [(path, image)] if isinstance(image, bytes) else []


def _holds_pictures(kind: pa.DataType) -> bool:
    """Whether a column's values are bytes, ``{bytes, path}`` or lists of these."""
    kind = bare(kind)
    if is_list(kind):
        kind = bare(kind.value_type)
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        kind = bare(kind.field(at).type) if at >= 0 else kind
    return is_bytes(kind) or pa.types.is_null(kind)


def _meant(schema: pa.Schema) -> str:
    """Names the columns that could be meant."""
    names = [
        field.name
        for field in schema
        if _holds_pictures(field.type) and not pa.types.is_null(field.type)
    ]
    return f"; image_column may be: {', '.join(names)}" if names else "; none of them holds bytes"


def _example(file: pq.ParquetFile, column: str) -> str:
    """Says what the text of a column looks like; empty where it is none."""
    if not is_text(bare(file.schema_arrow.field(column).type)):
        return ""
    for batch in file.iter_batches(_FEW, columns=[column]):
        for value in python_values(batch.column(0)):
            if value:
                return f", {_looks_like(value)}"
    return ""


def _looks_like(value: str) -> str:
    if value.startswith("data:"):
        return "data: URLs"
    try:
        base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        return f"such as {value[:100]!r}"
    return "base64" if len(value) > 100 else f"such as {value!r}"
