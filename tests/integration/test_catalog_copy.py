"""Rows that were written by COPY read back the same."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from sscd_ops.catalog.copy import CHUNK_ROWS, copy_table
from sscd_ops.catalog.database import Catalog
from sscd_ops.errors import FileMismatch, InvariantError
from tests.soak import examples

STORABLE = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
COLUMNS = {
    "a_bool": ("boolean", st.booleans(), pa.bool_()),
    "a_small": ("smallint", st.integers(-(2**15), 2**15 - 1), pa.int64()),
    "an_int": ("integer", st.integers(-(2**31), 2**31 - 1), pa.int32()),
    "a_big": ("bigint", st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "a_real": ("real", st.floats(width=32, allow_nan=False), pa.float32()),
    "a_double": ("double precision", st.floats(allow_nan=False), pa.float64()),
    "a_date": ("date", st.dates(date(1, 1, 1), date(9999, 12, 31)), pa.date32()),
    "a_time": (
        "timestamptz",
        st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        pa.timestamp("us", "UTC"),
    ),
    "some_bytes": ("bytea", st.binary(max_size=50), pa.binary()),
    "a_digest": ("bytea", st.binary(min_size=32, max_size=32), pa.binary(32)),
    "a_uuid": ("uuid", st.binary(min_size=16, max_size=16), pa.binary(16)),
    "a_text": ("text", st.text(STORABLE, max_size=50), pa.string()),
    "a_word": (
        "text",
        st.sampled_from(["kept", "removed"]),
        pa.dictionary(pa.int8(), pa.string()),
    ),
}


@pytest.fixture(scope="module")
def table(postgres_home: Any, catalog_template: str) -> Iterator[Catalog]:
    """A database with one table of every type. It is one for all examples of a property."""
    from sqlalchemy import create_engine

    server = catalog_template.rpartition("/")[0] + "/postgres"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.execute(text("CREATE DATABASE copies TEMPLATE catalog_template"))
    catalog = Catalog(server.rpartition("/")[0] + "/copies")
    columns = ", ".join(f"{name} {kind}" for name, (kind, *_) in COLUMNS.items())
    with catalog.begin() as conn:
        conn.execute(text(f"CREATE TABLE sscd_ops.anything ({columns}, a_json jsonb)"))
    yield catalog
    catalog.dispose()
    with engine.connect() as conn:
        conn.execute(text("DROP DATABASE copies WITH (FORCE)"))
    engine.dispose()


def written(catalog: Catalog, data: pa.Table) -> list[dict[str, Any]]:
    names = ", ".join(data.column_names).replace("a_real", "CAST(a_real AS float8) AS a_real")
    with catalog.begin() as conn:
        conn.execute(text("TRUNCATE sscd_ops.anything"))
        assert copy_table(conn, "anything", data) == data.num_rows
        found = conn.execute(text(f"SELECT {names} FROM sscd_ops.anything ORDER BY ctid"))
        return [dict(row) for row in found.mappings()]


def plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    return value.bytes if isinstance(value, UUID) else value


ROWS = st.lists(
    st.fixed_dictionaries({name: st.none() | kind for name, (_, kind, _) in COLUMNS.items()}),
    max_size=12,
)
ON_ONE_TABLE = settings(
    max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ON_ONE_TABLE
@given(rows=ROWS)
def test_values_of_every_type_and_nulls_read_back_the_same(
    table: Catalog, rows: list[dict[str, Any]]
) -> None:
    data = pa.table(
        {
            name: pa.array([row[name] for row in rows], pa.string()).cast(arrow)
            if pa.types.is_dictionary(arrow)
            else pa.array([row[name] for row in rows], arrow)
            for name, (_, _, arrow) in COLUMNS.items()
        }
    )

    found = written(table, data)

    assert [{name: plain(value) for name, value in row.items()} for row in found] == rows


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-1e15, 1e15)
    | st.text(STORABLE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(STORABLE, max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@ON_ONE_TABLE
@given(values=st.lists(JSON, max_size=6), ascii_only=st.booleans())
def test_json_reads_back_the_same(table: Catalog, values: list[Any], ascii_only: bool) -> None:
    data = pa.table(
        {"a_json": pa.array([json.dumps(v, ensure_ascii=ascii_only) for v in values], pa.string())}
    )

    found = [row["a_json"] for row in written(table, data)]

    assert found == values


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ('{"a": "x\\u0000y"}', {"a": "x\ufffdy"}),
        ('{"a\\u0000": 1}', {"a\ufffd": 1}),
        ('"not a NUL: \\\\u0000"', "not a NUL: \\u0000"),
        ('["\\ud800", "\\ude00"]', ["\ufffd", "\ufffd"]),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ('[NaN, Infinity, -Infinity, 1e999999, "NaN"]', [None, None, None, None, "NaN"]),
        ('{"n": ' + "9" * 5000 + ', "x": NaN}', {"n": None, "x": None}),
    ],
)
def test_what_json_says_and_jsonb_cannot_hold_does_not_end_a_night(
    table: Catalog, said: str, kept: Any
) -> None:
    data = pa.table({"a_json": [None, said, "{}"]})

    found = [row["a_json"] for row in written(table, data)]

    assert found == [None, kept, {}]


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "",
        "\\N",
        "\\.",
        "quotes \" and ' and , and ;",
        "line\nbreaks\r\nand\ttabs",
        "back\\slash \\n \\x41",
        "日本語 🙂 e\u0301 \u202e",
        "x" * 200_000,
    ],
)
def test_awkward_texts_read_back_the_same(table: Catalog, value: str) -> None:
    assert written(table, pa.table({"a_text": [value, None]})) == [
        {"a_text": value},
        {"a_text": None},
    ]


def test_a_nul_in_a_text_becomes_the_replacement_character(table: Catalog) -> None:
    assert written(table, pa.table({"a_text": ["a\0b"]})) == [{"a_text": "a\ufffdb"}]


def test_special_floats_read_back_the_same(table: Catalog) -> None:
    values = [math.nan, math.inf, -math.inf, -0.0, 5e-324]
    data = pa.table({"a_double": pa.array(values, pa.float64(), from_pandas=False)})

    found = [row["a_double"] for row in written(table, data)]

    assert [struct.pack("d", v) for v in found] == [struct.pack("d", v) for v in values]


def test_rows_keep_their_order_across_chunks_and_slices(table: Catalog) -> None:
    count = 2 * CHUNK_ROWS + 7
    data = pa.concat_tables(
        [
            pa.table({"an_int": range(5), "a_text": [str(i) for i in range(5)]}),
            pa.table({"an_int": range(5, count), "a_text": [str(i) for i in range(5, count)]}),
        ]
    ).slice(3)

    found = written(table, data)

    assert [row["an_int"] for row in found] == list(range(3, count))
    assert [row["a_text"] for row in found] == [str(i) for i in range(3, count)]


def test_no_rows_is_no_work(table: Catalog) -> None:
    assert written(table, pa.table({"an_int": pa.array([], pa.int64())})) == []


def test_a_column_that_is_left_out_takes_its_default(table: Catalog) -> None:
    with table.begin() as conn:
        copy_table(conn, "datasets", pa.table({"name": ["web"]}))

        found = conn.execute(text("SELECT next_turn, generation FROM sscd_ops.datasets")).all()

    assert found == [(1, 0)]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("an_int", pa.array([2**31])),
        ("a_small", pa.array([-(2**15) - 1])),
        ("an_int", pa.array([1.5])),
        ("a_uuid", pa.array([b"short"])),
        ("a_uuid", pa.array(["c0ffee00-0000-0000-0000-000000000000"])),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_nothing_is_written(
    table: Catalog, column: str, values: pa.Array
) -> None:
    with table.begin() as conn:
        conn.execute(text("TRUNCATE sscd_ops.anything"))

    with pytest.raises(pa.ArrowInvalid), table.begin() as conn:
        copy_table(conn, "anything", pa.table({column: values}))

    with table.read() as conn:
        assert conn.execute(text("SELECT count(*) FROM sscd_ops.anything")).scalar() == 0


def test_an_unknown_column_or_table_is_named(table: Catalog) -> None:
    with table.begin() as conn:
        with pytest.raises(InvariantError, match="no column 'colour'"):
            copy_table(conn, "anything", pa.table({"colour": [1]}))
        with pytest.raises(InvariantError, match=r"no table sscd_ops\.nothing"):
            copy_table(conn, "nothing", pa.table({"colour": [1]}))
        with pytest.raises(InvariantError, match="not the name of a table"):
            copy_table(conn, 'x" ; DROP', pa.table({"colour": [1]}))


def test_a_fault_in_the_last_chunk_writes_nothing_at_all(table: Catalog) -> None:
    with table.begin() as conn:
        conn.execute(text("TRUNCATE sscd_ops.anything"))
    values = np.zeros(3 * CHUNK_ROWS, np.int64)
    values[-1] = 2**40

    with pytest.raises(pa.ArrowInvalid), table.begin() as conn:
        copy_table(conn, "anything", pa.table({"an_int": values}))

    with table.read() as conn:
        assert conn.execute(text("SELECT count(*) FROM sscd_ops.anything")).scalar() == 0


def test_blocks_go_into_one_table_and_are_asked_for_as_they_are_taken(table: Catalog) -> None:
    made: list[int] = []

    def blocks() -> Iterator[pa.Table]:
        for number in range(5):
            yield pa.table({"an_int": np.full(number % 2 * (CHUNK_ROWS + 1), number, np.int64)})
            made.append(number)

    with table.begin() as conn:
        conn.execute(text("TRUNCATE sscd_ops.anything"))
        asked = blocks()
        next(asked)
        assert made == []
        assert copy_table(conn, "anything", asked) == 2 * (CHUNK_ROWS + 1)
        found = conn.execute(
            text("SELECT an_int, count(*) FROM sscd_ops.anything GROUP BY 1 ORDER BY 1")
        )
        assert [tuple(each) for each in found] == [(1, CHUNK_ROWS + 1), (3, CHUNK_ROWS + 1)]
        assert copy_table(conn, "anything", iter(())) == 0

    assert made == [0, 1, 2, 3, 4]


def test_an_error_while_a_block_is_made_is_told_as_it_is_and_nothing_is_written(
    table: Catalog,
) -> None:
    def blocks() -> Iterator[pa.Table]:
        yield pa.table({"an_int": np.arange(3)})
        raise FileMismatch("a manifest is damaged")

    def mixed() -> Iterator[pa.Table]:
        yield pa.table({"an_int": np.arange(3)})
        yield pa.table({"a_small": np.arange(3)})

    with table.begin() as conn:
        conn.execute(text("TRUNCATE sscd_ops.anything"))
    with pytest.raises(FileMismatch, match="is damaged"), table.begin() as conn:
        copy_table(conn, "anything", blocks())
    with pytest.raises(InvariantError, match="a_small"), table.begin() as conn:
        copy_table(conn, "anything", mixed())

    with table.read() as conn:
        assert conn.execute(text("SELECT count(*) FROM sscd_ops.anything")).scalar() == 0
