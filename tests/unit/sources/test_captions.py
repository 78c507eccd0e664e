"""A captions file: whatever its form, the same rows; whatever its bytes, no error."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.sources.captions import CAPTION_COLUMNS, NAME_COLUMNS, match, read_captions

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
ROWS = st.lists(st.tuples(TEXT.filter(str.strip), TEXT), min_size=1, max_size=5)


def table(rows: list[tuple[str, str]], delimiter: str = ",") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("file_name", "caption"), *rows])
    return out.getvalue()


def objects(rows: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"file_name": name, "caption": caption} for name, caption in rows]


@given(ROWS, st.sampled_from(",;\t|"), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_a_table_is_what_was_written(
    rows: list[tuple[str, str]], delimiter: str, encoding: str
) -> None:
    found = read_captions("captions.csv", table(rows, delimiter).encode(encoding))

    assert found.why == ""
    assert found.names == [name for name, _ in rows]
    missing = {"nan", "NaN", "NA", "<NA>", "#N/A", "NaT", "None", "null", "NULL", "\\N"}
    assert [found.made(n, "txt") for n in range(1, len(rows) + 1)] == [
        None if caption in missing else caption.encode() for _, caption in rows
    ]


@given(ROWS, st.sampled_from([None, 1]))
def test_json_is_what_was_written(rows: list[tuple[str, str]], indent: int | None) -> None:
    lines = "\n".join(json.dumps(row) for row in objects(rows))
    for name, text in (
        ("a.jsonl", lines), ("a.json", lines), ("a.txt", lines),
        ("a.json", json.dumps(objects(rows), indent=indent)),
    ):  # fmt: skip
        found = read_captions(name, text.encode())

        assert (found.why, found.names) == ("", [name for name, _ in rows])
        assert [found.made(n, "txt") for n in range(1, len(rows) + 1)] == [
            caption.encode() for _, caption in rows
        ]


@given(
    st.binary() | st.text('{}[]",:;\n\r\\ null123file_namecaption').map(str.encode),
    st.sampled_from(["a.csv", "a.jsonl", "a.json", "a", "a.csv.gz"]),
)
def test_no_bytes_are_an_error(data: bytes, name: str) -> None:
    found = read_captions(name, data)

    assert len(found.rows) == len(found.names)
    assert all(found.made(number, "json") for number in range(1, len(found.rows) + 1))
    assert found.rows == [] or not found.why
    match(found, found.names[::2], ["/in", ""])


@pytest.mark.parametrize("name", [*NAME_COLUMNS, "File Name", "FILE-NAME"])
@pytest.mark.parametrize("caption", [*CAPTION_COLUMNS, "Alt-Text"])
def test_columns_have_many_names(name: str, caption: str) -> None:
    for text in (f"{name},{caption}\na.jpg,A", json.dumps({name: "a.jpg", caption: "A"})):
        found = read_captions("a", text.encode())

        assert (found.names, found.made(1, "txt")) == (["a.jpg"], b"A")


@pytest.mark.parametrize(
    "header", ['file_name,te"xt', '"file_name,text', '"file_name" ,text', "\0", "sep=,", "sep=;\n"]
)
def test_odd_headers_are_no_error(header: str) -> None:
    found = read_captions("a.csv", f"{header}\na.jpg,A\n".encode())

    assert found.names == ["a.jpg"] or found.why


def test_a_row_that_is_meant_exactly_goes_before_one_that_is_nearly() -> None:
    rows = "A.jpg,nearly\na.jpg,exactly\nB.jpg,both\nc%20d.jpg,encoded\n"
    found = read_captions("a.csv", f"file_name,text\n{rows}".encode())

    matched = match(found, ["a.jpg", "b.jpg", "b.JPG", "c d.jpg"], [])

    assert matched.row_of == {"a.jpg": 2, "c d.jpg": 4}
    assert (matched.again, matched.without_image) == (1, 1)
