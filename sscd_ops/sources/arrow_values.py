"""Arrow's types, each in all its variants, and its columns as Python values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def bare(kind: pa.DataType) -> pa.DataType:
    """A type without what wraps it."""
    if isinstance(kind, pa.BaseExtensionType):
        return bare(kind.storage_type)
    return bare(kind.value_type) if pa.types.is_dictionary(kind) else kind


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return bool(pa.types.is_fixed_size_binary(kind) or kind == pa.binary_view())


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, or structs or lists with bytes in them."""
    if isinstance(kind, pa.BaseExtensionType):
        return not _is_uuid(kind) and is_binary(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_binary(kind.value_type)
    return is_bytes(kind) or any(is_binary(kind.field(at).type) for at in range(kind.num_fields))


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return bool(lists or views or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text."""
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(plain or kind == pa.string_view())


def _is_uuid(kind: pa.DataType) -> bool:
    return bool(kind.extension_name == "arrow.uuid")


def python_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """A batch's rows: column -> value, as ``python_values`` has them."""
    names = batch.schema.names
    columns = [python_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def python_values(column: pa.Array) -> list[Any]:
    """A column as Python values, the same with and without pandas, at any depth.

    Bad UTF-8 survives as it is. Times are text and durations numbers, since Python has none of its
    own for every one that Arrow holds.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and not _is_uuid(kind):
        return python_values(column.storage)
    if pa.types.is_dictionary(kind):
        return python_values(column.dictionary_decode())
    if pa.types.is_struct(kind):
        return _structs(column)
    if pa.types.is_map(kind):
        pairs = column.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
        return [v and [tuple(item.values()) for item in v] for v in _lists(pairs)]
    # lists of floats, such as descriptors, go the quick way below
    if is_list(kind) and not pa.types.is_floating(kind.value_type):
        return _lists(column)
    if is_text(kind):
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
    fields = [python_values(values) for values in column.flatten()]
    valid = column.is_valid().to_pylist()
    rows = zip(*fields, strict=True) if fields else ((),) * len(valid)
    return [
        dict(zip(names, row, strict=True)) if there else None
        for row, there in zip(rows, valid, strict=True)
    ]


def _lists(column: pa.Array) -> list[Any]:
    lengths = pc.list_value_length(column).to_pylist()
    values = iter(python_values(column.flatten()))
    return [None if length is None else list(islice(values, length)) for length in lengths]
