"""Arrow tables into Postgres by COPY, in its binary format, encoded a column at a time.

Each field of a row is an int32 length (-1: null) followed by the value, all big-endian
(https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"). Length and value are made
as Arrow binary columns and joined row by row in C++, so that no Python code runs for a row. The
encoder works one chunk ahead in a thread while Postgres takes the last one.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import text

from sscd_ops.errors import InvariantError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sqlalchemy.engine import Connection

CHUNK_ROWS = 20_000
"""Rows encoded at a time: a few MB of captions, and the next chunk is ready when one is taken."""
_READ_BYTES = 1 << 20
_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Days and microseconds from 1970-01-01 (Arrow) to 2000-01-01 (Postgres).
_EPOCH_DAYS = 10_957
_EPOCH_MICROSECONDS = _EPOCH_DAYS * 86_400_000_000
# What JSON text may say and jsonb can't hold: NUL, lone surrogates, NaN, infinities and numbers
# with exponents beyond numeric. Found cheaply, then looked at by a JSON parser.
_SUSPICIOUS = r"\\u0000|\\u[dD][89a-fA-F]|NaN|Infinity|[eE]\+?\d{4}"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_INSTEAD = "\N{REPLACEMENT CHARACTER}"


def copy_table(conn: Connection, table: str, data: pa.Table | Iterable[pa.Table]) -> int:
    """Append the rows of an Arrow table, or of several, to ``sscd_ops.<table>`` by one COPY.

    Columns go by name; what the Arrow table lacks takes the column's default. Integers, floats,
    booleans, dates and timestamps are cast to the width of the database's column, safely. Binary
    of 16 bytes goes into uuid columns, text into jsonb ones. A NUL in a text, and what JSON can
    say but jsonb cannot hold, becomes U+FFFD (numbers: null): text was checked when it was read,
    and one odd character must not end a night here.

    Args:
        conn: an open transaction.
        table: name of a table in schema ``sscd_ops``.
        data: the rows; of several tables, all of the same columns, one is asked for ahead.

    Returns:
        How many rows were written.

    Raises:
        InvariantError: no such table or column.
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    types = _column_types(conn, table)
    blocks = iter([data] if isinstance(data, pa.Table) else data)
    first = next(blocks, None)
    if first is None:
        return 0
    columns = first.column_names
    unknown = [name for name in columns if name not in types]
    if unknown:
        raise InvariantError(f"table sscd_ops.{table} has no column {unknown[0]!r}")
    encoders = [_ENCODERS[types[name]] for name in columns]
    names = ", ".join(f'"{name}"' for name in columns)
    chunks = _chunks(chain([first], blocks), columns)
    cursor = conn.connection.cursor()
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="copy") as ahead:
            stream = _Stream(_encoded(chunks, encoders, ahead))
            try:
                cursor.copy_expert(
                    f'COPY sscd_ops."{table}" ({names}) FROM STDIN (FORMAT binary)',
                    stream,
                    size=_READ_BYTES,
                )
            except psycopg2.errors.QueryCanceled:
                if stream.fault is not None:  # the encoder's, which COPY wraps as text
                    raise stream.fault from None
                raise
        return int(cursor.rowcount)
    finally:
        cursor.close()


def _column_types(conn: Connection, table: str) -> dict[str, str]:
    if not _IDENTIFIER.fullmatch(table):
        raise InvariantError(f"{table!r} is not the name of a table")
    found = conn.execute(
        text(
            "SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
            " WHERE a.attrelid = to_regclass(:t) AND a.attnum > 0 AND NOT a.attisdropped"
        ),
        {"t": f'sscd_ops."{table}"'},
    ).all()
    if not found:
        raise InvariantError(f"there is no table sscd_ops.{table}")
    return {str(name): str(kind) for name, kind in found}


class _Stream(io.RawIOBase):
    """What ``copy_expert`` reads: blocks of bytes behind a file's ``read``."""

    def __init__(self, blocks: Iterator[memoryview]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")
        self.fault: Exception | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most ``size``; empty at the end."""
        while not len(self._block):
            try:
                self._block = next(self._blocks)
            except StopIteration:
                return b""
            except Exception as error:
                self.fault = error
                raise
        taken = self._block[: size if size > 0 else None]
        self._block = self._block[len(taken) :]
        return taken.tobytes()


def _chunks(blocks: Iterable[pa.Table], columns: list[str]) -> Iterator[pa.Table]:
    for block in blocks:
        if block.column_names != columns:
            raise InvariantError(f"rows of columns {block.column_names} after some of {columns}")
        for start in range(0, block.num_rows, CHUNK_ROWS):
            yield block.slice(start, CHUNK_ROWS)


def _encoded(
    chunks: Iterator[pa.Table], encoders: list[Encoder], ahead: ThreadPoolExecutor
) -> Iterator[memoryview]:
    def encode() -> memoryview | None:
        chunk = next(chunks, None)
        return None if chunk is None else _rows(chunk, encoders)

    coming = ahead.submit(encode)
    yield memoryview(_SIGNATURE)
    while (block := coming.result()) is not None:
        coming = ahead.submit(encode)
        yield block
    yield memoryview(_TRAILER)


def _rows(chunk: pa.Table, encoders: list[Encoder]) -> memoryview:
    """The chunk's rows as COPY's bytes."""
    count = pa.scalar(chunk.num_columns.to_bytes(2, "big"), pa.large_binary())
    pieces: list[Any] = [pa.repeat(count, chunk.num_rows)]
    for column, encoder in zip(chunk.columns, encoders, strict=True):
        pieces.extend(_field(encoder(_one(column))))
    joined = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))
    offsets = np.frombuffer(joined.buffers()[1], np.int64, len(joined) + 1, joined.offset * 8)
    return memoryview(joined.buffers()[2])[offsets[0] : offsets[-1]]


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # pyarrow < 19 where there are no chunks, or several
        array = array.chunk(0)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _field(value: pa.Array) -> Iterator[pa.Array]:
    """A column of values as lengths and bytes; ``value`` is large_binary with nulls."""
    if value.null_count == len(value):
        yield pa.repeat(pa.scalar(b"\xff\xff\xff\xff", pa.large_binary()), len(value))
        return
    lengths = pc.fill_null(pc.binary_length(value), -1).to_numpy(zero_copy_only=False)
    yield _binary(lengths.astype(">i4"))
    yield pc.fill_null(value, b"")


def _binary(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """Each number's bytes as large_binary, null where not ``valid``."""
    width = values.dtype.itemsize
    offsets = np.arange(0, (len(values) + 1) * width, width, dtype=np.int64)
    validity = None
    if valid is not None:
        validity = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.Array.from_buffers(
        pa.large_binary(),
        len(values),
        [validity, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(values))],
    )


# ---------------------------------------------------------------- column types

Encoder = Callable[[pa.Array], pa.Array]


def _number(arrow: pa.DataType, wire: str, shift: int = 0) -> Encoder:
    def encode(array: pa.Array) -> pa.Array:
        array = array.cast(arrow)
        valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
        integers = pa.types.is_date(arrow) or pa.types.is_timestamp(arrow)
        if integers:
            array = array.view(pa.int32() if pa.types.is_date(arrow) else pa.int64())
        filled = pc.fill_null(array, False if pa.types.is_boolean(arrow) else 0)
        values = filled.to_numpy(zero_copy_only=False)
        return _binary((values - shift if shift else values).astype(wire), valid)

    return encode


def _bytes(array: pa.Array) -> pa.Array:
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.binary())
    return array.cast(pa.large_binary())


def _uuid(array: pa.Array) -> pa.Array:
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        raise pa.ArrowInvalid("a uuid column takes 16 bytes a value, not text")
    value = _bytes(array)
    wrong = pc.any(pc.not_equal(pc.binary_length(value), 16)).as_py()
    if wrong:
        raise pa.ArrowInvalid("a uuid column takes 16 bytes a value")
    return value


def _text(array: pa.Array) -> pa.Array:
    array = array.cast(pa.large_string())
    if pc.any(pc.match_substring(array, "\0")).as_py():
        array = pc.replace_substring(array, "\0", _INSTEAD)
    return array.cast(pa.large_binary())


def _jsonb(array: pa.Array) -> pa.Array:
    array = array.cast(pa.large_string())
    odd = pc.match_substring_regex(array, _SUSPICIOUS)
    if pc.any(odd).as_py():
        texts = array.filter(odd).to_pylist()
        clean = pa.array([_clean_json(value) for value in texts], pa.large_string())
        array = pc.replace_with_mask(array, pc.fill_null(odd, False), clean)
    version = pa.scalar(b"\x01", pa.large_binary())
    return pc.binary_join_element_wise(
        version, _text(array), pa.scalar(b"", pa.large_binary()), null_handling="emit_null"
    )


def _clean_json(value: str) -> str:
    # Python refuses to read integers of more digits than this.
    parsed = json.loads(value, parse_int=lambda digits: int(digits) if len(digits) < 4300 else None)
    return json.dumps(_clean(parsed), ensure_ascii=False, allow_nan=False)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub(_INSTEAD, value)
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {cast(str, _clean(key)): _clean(item) for key, item in value.items()}
    return value


_ENCODERS: dict[str, Encoder] = {
    "bool": _number(pa.bool_(), "u1"),
    "int2": _number(pa.int16(), ">i2"),
    "int4": _number(pa.int32(), ">i4"),
    "int8": _number(pa.int64(), ">i8"),
    "float4": _number(pa.float32(), ">f4"),
    "float8": _number(pa.float64(), ">f8"),
    "date": _number(pa.date32(), ">i4", _EPOCH_DAYS),
    "timestamptz": _number(pa.timestamp("us", "UTC"), ">i8", _EPOCH_MICROSECONDS),
    "bytea": _bytes,
    "uuid": _uuid,
    "text": _text,
    "jsonb": _jsonb,
}
