"""Whatever type a column has, its rows are samples, and publish makes the same bytes again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sscd_ops.images.header import inspect
from sscd_ops.model import Fault, ImageHeader
from sscd_ops.options import LimitsOptions
from tests.unit.sources.feeds import DAY, FEEDS, put, refs_of, samples_of

FAR = 2**62
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(),
    2,
    [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xffa")],
)


def in_lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values)


def in_structs(values: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([values], ["t"])


ODD: dict[str, pa.Array] = {
    "far time": pa.array([FAR, 0], pa.timestamp("us")),
    "far day": pa.array([2**30, 0], pa.date32()),
    "far time of day": pa.array([FAR, 0], pa.time64("ns")),
    "far duration": pa.array([FAR, 0], pa.duration("s")),
    "nanoseconds": pa.array([1, 0], pa.timestamp("ns")),
    "no such zone": pa.array([1, 0], pa.timestamp("us", "Nowhere/Land")),
    "not UTF-8": NOT_UTF8,
    "large text": pa.array(["a", None], pa.large_string()),
    "dictionary": pa.array(["a", None]).dictionary_encode(),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"x" * 16, None], pa.binary(16))),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None])),
}
WRAPPED = {
    **ODD,
    **{f"{name} in lists": in_lists(values) for name, values in ODD.items()},
    **{f"{name} in structs": in_structs(values) for name, values in ODD.items()},
    **{f"{name} in structs in lists": in_lists(in_structs(v)) for name, v in ODD.items()},
    "lists in a list": pa.array([[["a"], None], None], pa.list_(pa.large_list(pa.string()))),
    "pairs": pa.array([[1, 2], None], pa.list_(pa.timestamp("ns"), 2)),
    "view": pa.array([["a"], None], pa.list_view(pa.string())),
    "map": pa.array([[("k", FAR)], None], pa.map_(pa.string(), pa.timestamp("us"))),
    "empty": pa.array([[], None], pa.list_(pa.date32())),
    "nothing": pa.nulls(2),
    "decimal": pa.array([1, None], pa.decimal128(10, 2)),
}


def columns_of(folder: Path, columns: dict[str, pa.Array]) -> list[dict[str, object]]:
    """Each row's json, after holding what is fetched to what was read."""
    table = {"image": pa.array([b"\xff\xd8\xff1", b"\xff\xd8\xff2"]), "caption": ["a", "b"]}
    out = io.BytesIO()
    pq.write_table(pa.table(table | columns), out)
    put(f"{folder}/a.parquet", out.getvalue())
    source = FEEDS["parquet"].open(f"{folder}/*", key_column="")
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert end.fault is None
    assert [sample.fault for sample in samples] == [None, None]
    members = [member for sample in samples for member in sample.members]
    assert list(source.fetch(shard, refs_of(members))) == [m.data for m in members]
    # text that was no UTF-8 stays the bytes it was
    return [
        json.loads(sample.members[2].data.decode("utf-8", "surrogateescape")) for sample in samples
    ]


@pytest.mark.parametrize("name", WRAPPED)
def test_a_column_of_any_type_costs_no_sample(tmp_path: Path, name: str) -> None:
    first, second = columns_of(tmp_path, {"odd": WRAPPED[name]})

    assert "odd" in first
    assert "odd" in second


def test_values_are_the_same_at_any_depth(tmp_path: Path) -> None:
    for name, values in ODD.items():
        rows = columns_of(
            tmp_path,
            {
                "plain": values,
                "list": in_lists(values),
                "struct": in_structs(values),
                "both": in_lists(in_structs(values)),
            },
        )
        for row in rows:
            value = row["plain"]
            assert (row["list"], row["struct"], row["both"]) == (
                [value], {"t": value}, [{"t": value}],
            ), name  # fmt: skip


def test_values_read_as_one_would_write_them(tmp_path: Path) -> None:
    first, second = columns_of(tmp_path, WRAPPED)

    assert first["nanoseconds in lists"] == ["1970-01-01 00:00:00.000000001"]
    assert first["no such zone in structs"] == {"t": "1970-01-01 00:00:00.000001Z"}
    assert first["far duration in lists"] == [FAR]
    assert first["not UTF-8 in lists"] == ["\udcff"]
    assert first["uuid in lists"] == ["78787878-7878-7878-7878-787878787878"]
    assert first["lists in a list"] == [["a"], None]
    assert first["map"] == [["k", f"<value out of range: {FAR}>"]]
    assert first["empty"] == []
    nulls = [name for name in WRAPPED if name not in ODD and " in " not in name]
    assert {name: second[name] for name in [*nulls, "lists in a list"]} == dict.fromkeys(
        [*nulls, "lists in a list"]
    )


def test_pictures_captions_and_keys_may_be_missing(tmp_path: Path) -> None:
    table = {
        "id": ["a", None, "", "d", "d"],
    }
    rows = {
        "image": pa.array([None, b"\xff\xd8\xff2", b"\xff\xd8\xff3", b"", b"\xff\xd8\xff5"]),
        "caption": pa.array(["a", None, "c", "", "e"]),
    }
    out = io.BytesIO()
    pq.write_table(pa.table(table | rows), out)
    put(f"{tmp_path}/a.parquet", out.getvalue())
    source = FEEDS["parquet"].open(f"{tmp_path}/*")
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert end.fault is None
    assert [sample.key for sample in samples] == ["a", "000000001", "000000002", "d", "d"]
    assert [sample.fault and sample.fault[0] for sample in samples] == [
        None, Fault.BAD_KEY, Fault.BAD_KEY, None, Fault.DUPLICATE_KEY,
    ]  # fmt: skip
    assert [[m.extension for m in sample.members] for sample in samples] == [
        ["txt", "json"], ["jpg", "json"], *[["jpg", "txt", "json"]] * 3,
    ]  # fmt: skip


def test_bytes_without_a_name_are_named_by_the_format_that_the_header_check_sees(
    tmp_path: Path,
) -> None:
    forms: list[tuple[str, dict[str, bool]]] = [
        *((form, {}) for form in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000")),
        ("TIFF", {"big_tiff": True}),
        ("JPEG2000", {"no_jp2": True}),
    ]
    images = []
    for form, options in forms:
        out = io.BytesIO()
        Image.new("RGB", (20, 20)).save(out, form, **options)
        images.append(out.getvalue())
    pq.write_table(pa.table({"image": images, "caption": ["a"] * len(images)}), tmp_path / "a")
    source = FEEDS["parquet"].open(f"{tmp_path}/*", key_column="")
    (shard,) = source.find(DAY, "UTC")

    samples, _ = samples_of(source, shard)

    seen = [inspect(image, LimitsOptions()) for image in images]
    assert [sample.members[0].extension for sample in samples] == [
        header.format for header in seen if isinstance(header, ImageHeader)
    ]


@pytest.mark.parametrize("column", ["image_column", "key_column"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, column: str) -> None:
    source = FEEDS["parquet"].open(
        FEEDS["parquet"].write(str(tmp_path), "a"), **{column: "picture"}
    )
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert samples == []
    assert end.fault is not None
    assert end.fault[0] is Fault.UNREADABLE_SHARD
    assert "no column 'picture'; the file has: id, image, caption, score" in end.fault[1]
