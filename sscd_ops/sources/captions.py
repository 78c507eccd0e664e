"""A file with the captions of a folder's pictures: read whatever it is where that is clear.

A row is a dict of its columns. What is not clear is a fault that names what was looked for and
what is there: a folder is never read without its words in silence.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from sscd_ops.core.interpret import is_missing
from sscd_ops.core.members import check_json_size
from sscd_ops.sources.contents import caption_bytes, json_bytes, plain

NAME_COLUMNS = (
    "file_name", "filename", "file", "file_path", "filepath", "image_path", "image_file",
    "image_name", "image_filename", "image", "path", "img", "img_path", "name",
)  # fmt: skip
"""Columns that name the picture, the first that is there. Case and spaces are no matter."""
CAPTION_COLUMNS = ("caption", "text", "captions", "description", "prompt", "alt_text", "alt")
"""Columns that hold the caption, the first that has one."""

_DELIMITERS = ",;\t|"
_LONGEST_FIELD = 1 << 27
_MOST_ROWS = 5_000_000
"""Each takes half a kilobyte of memory, and a packed file of some kilobytes may hold so many."""
_MISSING_IN_CSV = frozenset(
    {"nan", "NaN", "NA", "<NA>", "#N/A", "NaT", "None", "null", "NULL", "\\N"}
)
"""What programs write into text for a missing value; such a caption is none."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""UTF-32 comes first: its mark begins like that of UTF-16."""
_NOT_TEXT = (
    (b"PAR1", "a parquet file"),
    (b"PK\x03\x04", "a zip file or a spreadsheet"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet"),
    (b"SQLite", "a database"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
)
_READ = "a csv or tsv file with a header, jsonl, or json; also compressed with gzip"


class _Unclear(Exception):
    """The file cannot be read as captions."""


@dataclass
class Captions:
    """The rows of a captions file; ``names[n]`` is the picture that ``rows[n]`` names.

    ``bad``: how many entries are no row. ``first``: the first of them. ``is_utf8``: whether all of
    it is. ``why``: why none of it can be used; empty where it can.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad: int = 0
    first: Any = None
    is_utf8: bool = True
    why: str = ""

    def made(self, number: int, kind: str) -> bytes | None:
        """The txt or json that a row, counted from 1, gives a sample; None where it has none."""
        if not 0 < number <= len(self.rows):
            return None
        row = self.rows[number - 1]
        if kind == "json":
            return json_bytes(row)
        caption = _caption(row)
        return None if caption is None else caption_bytes(caption)

    def has_caption(self, fields: Iterable[str] = ()) -> bool:
        """Whether there is a column for captions, or one of the given ones."""
        wanted = {*CAPTION_COLUMNS}
        given = {name.partition(".")[0] for name in fields}
        return any(
            wanted.intersection(_columns(tuple(row))) or not given.isdisjoint(row)
            for row in self.rows
        )


@dataclass(frozen=True)
class Matched:
    """``row_of``: picture -> its row's number from 1; and how many rows are of no use.

    ``again``: their picture has one. ``without_image``, ``not_utf8``: none has the name; it is none
    that a picture could have.
    """

    row_of: Mapping[str, int]
    again: int
    without_image: int
    not_utf8: int


def read_captions(name: str, data: bytes, limit: int = 1 << 30) -> Captions:
    """The rows of a captions file, by its name's ending and its first bytes.

    Never raises for what is in it.

    Args:
        name: the file's.
        data: its bytes.
        limit: bytes that it may unpack to.
    """
    captions = Captions()
    try:
        if data.startswith(b"\x1f\x8b"):
            name, data = name.lower().removesuffix(".gz"), _unpacked(data, limit)
        text = _decoded(data)
        captions.is_utf8 = text.isascii() or _encodes(text)
        for number, row in enumerate(_rows(name.lower(), text)):
            if number > _MOST_ROWS:
                raise _Unclear(f"it has more than {_MOST_ROWS} rows")
            _add(captions, row)
    except _Unclear as unclear:
        return Captions(why=str(unclear))
    if captions.bad and not captions.rows:
        captions.why = _no_row(captions)
    return captions


def match(captions: Captions, pictures: Sequence[str], folders: Sequence[str]) -> Matched:
    r"""Which row is which picture's.

    A row names a picture by its name as it is. Where none has that name, `./`, `\`, percent
    signs, case and the form of accents are no matter, as long as one picture alone is meant.

    Args:
        captions: the rows.
        pictures: names relative to the folder.
        folders: what a row's name may have too much at its beginning, or too little: the folder's
            URL, and the way from the captions file's folder to it or back.
    """
    exact = set(pictures)
    loose: dict[str, str | None] = {}
    for name in pictures:
        loosened = _loose(name)
        loose[loosened] = None if loosened in loose else name
    row_of: dict[str, int] = {}
    again = 0
    others: list[tuple[int, str]] = []
    for number, name in enumerate(captions.names, 1):
        if name not in exact:
            others.append((number, name))
        elif row_of.setdefault(name, number) != number:
            again += 1
    without: list[str] = []
    for number, name in others:
        found = next((f for n in _spelt(name, folders) if (f := loose.get(_loose(n)))), None)
        if found is None:
            without.append(name)
        elif row_of.setdefault(found, number) != number:
            again += 1
    not_utf8 = sum(not _encodes(name) for name in without)
    return Matched(row_of, again, len(without) - not_utf8, not_utf8)


def no_match(captions: Captions, pictures: Sequence[str]) -> str:
    """Says that no row names a picture."""
    if not captions.rows:
        return "it has no rows"
    return (
        f"none of its {len(captions.rows)} rows names a picture of the folder: rows name"
        f" {_some(captions.names)}; pictures are {_some(pictures)}"
    )


def no_caption(captions: Captions) -> str:
    """Says that no column holds captions."""
    return (
        f"no column holds captions: looked for {', '.join(CAPTION_COLUMNS)}; there are:"
        f" {', '.join(map(str, captions.rows[0]))[:300]}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:100]) for name in names[:3]) + (" ..." if len(names) > 3 else "")


def _spelt(name: str, folders: Sequence[str]) -> Iterator[str]:
    yield name
    for folder in folders:
        if folder:
            yield name.removeprefix(f"{folder}/")
            yield f"{folder}/{name}"


def _loose(name: str) -> str:
    steps = unquote(name.strip()).replace("\\", "/").split("/")
    plain = "/".join(step for step in steps if step not in ("", "."))
    return unicodedata.normalize("NFC", plain).casefold()


# ---------------------------------------------------------------- bytes -> text


def _unpacked(data: bytes, limit: int) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as opened:
            unpacked = opened.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _Unclear(f"its gzip data is damaged: {error}") from error
    if len(unpacked) > limit:
        raise _Unclear(f"it unpacks to {too_large(limit)}")
    return unpacked


def too_large(limit: int) -> str:
    """Says that a file has more bytes than may be read."""
    return f"more than {limit} bytes (limits.max_member_bytes)"


def _decoded(data: bytes) -> str:
    """The text, by its byte order mark; UTF-8 where it has none. Bytes that are none stay such."""
    for magic, what in _NOT_TEXT:
        if data.startswith(magic):
            raise _Unclear(f"it is {what}: give {_READ}")
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            if encoding == "utf-8":
                return data[len(mark) :].decode(encoding, "surrogateescape")
            try:
                return data[len(mark) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise _Unclear(f"its byte order mark says {encoding}, but {error}") from error
    head = data[:4096]
    if len(head) > 3 and head.count(0) * 4 > len(head):
        raise _Unclear("it looks like UTF-16 or UTF-32 without a byte order mark: save it as UTF-8")
    return data.decode("utf-8", "surrogateescape")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- text -> rows


def _rows(name: str, text: str) -> Iterator[Any]:
    """What may be rows; anything but a dict is none."""
    first = text.lstrip()[:1]
    if first in ("{", "["):
        whole = _whole(text)
        if whole is not None:
            yield from whole
            return
    if first in ("{", "[") or name.endswith((".json", ".jsonl", ".ndjson")):
        yield from _lines(text)
    elif first:
        yield from _table(text)


def _whole(text: str) -> list[Any] | None:
    """The rows of one document: a list of them, or ``{name: caption}``; None where it is none."""
    try:
        check_json_size(text.encode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise _Unclear(f"it has {error}") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return None
    if _columns(tuple(document)).keys() & {*NAME_COLUMNS} and not _is_table(document):
        return [document]
    if all(value is None or isinstance(value, (str, dict)) for value in document.values()):
        return [
            {**(value if isinstance(value, dict) else {"caption": value}), "file_name": name}
            for name, value in document.items()
        ]
    raise _Unclear(
        "it is neither a list of rows nor an object of picture names with their captions; its keys"
        f" are: {', '.join(document)[:300]}"
    )


def _is_table(document: Mapping[str, Any]) -> bool:
    """Whether it looks like columns, not like a row."""
    return all(isinstance(value, (dict, list)) for value in document.values())


def _lines(text: str) -> Iterator[Any]:
    for line in text.split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _table(text: str) -> Iterator[dict[str, Any] | None]:
    csv.field_size_limit(_LONGEST_FIELD)
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep="):  # as Excel writes it
        text = rest
    delimiter, columns = _header(text)
    of_captions = {columns.index(column) for column in _columns_of_captions(tuple(columns))}
    rows = _csv_rows(text, delimiter)
    next(rows)
    for values in rows:
        yield None if values is None else _row(columns, values, of_captions)


def _csv_rows(text: str, delimiter: str) -> Iterator[list[str] | None]:
    """Rows that are not blank; None for one that breaks the rules of quotes."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise _Unclear(f"line {reader.line_num}: a quote is never closed") from error
            yield None
        else:
            if values:
                yield values


def _header(text: str) -> tuple[str, list[str]]:
    """The delimiter, and the columns: of the delimiters that give a name's column, the most."""
    found: list[tuple[str, list[str]]] = []
    for delimiter in _DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            columns = [value.strip() for value in next((v for v in reader if v), [])]
        except csv.Error:
            continue
        if _columns(tuple(columns)).keys() & {*NAME_COLUMNS}:
            found.append((delimiter, columns))
    if not found:
        first = text.lstrip().partition("\n")[0].strip()
        raise _Unclear(
            f"no column names the pictures: the first line is {first[:200]!r}; looked for"
            f" {', '.join(NAME_COLUMNS)}, with a comma, a semicolon, a tab or | between columns"
        )
    delimiter, columns = max(found, key=lambda one: len(one[1]))
    twice = {column for column in columns if column and columns.count(column) > 1}
    if twice:
        raise _Unclear(f"column {min(twice)!r} is there twice")
    return delimiter, columns


def _row(columns: list[str], values: list[str], of_captions: set[int]) -> dict[str, Any] | None:
    """A row; what is missing is None. None where it has more fields than there are columns."""
    if any(values[len(columns) :]):
        return None
    missing = [None] * (len(columns) - len(values))
    return {
        column: None if at in of_captions and value in _MISSING_IN_CSV else value or None
        for at, (column, value) in enumerate(
            zip(columns, [*values, *missing], strict=False)  # empty fields may follow
        )
    }


# ---------------------------------------------------------------- columns


@lru_cache(maxsize=256)
def _columns(names: tuple[Any, ...]) -> dict[str, Any]:
    """Columns by the name they are looked for; the first of each."""
    answer: dict[str, Any] = {}
    for name in names:
        plain = str(name).strip().lower().replace(" ", "_").replace("-", "_")
        answer.setdefault(plain, name)
    return answer


def _columns_of_captions(names: tuple[Any, ...]) -> list[Any]:
    columns = _columns(names)
    return [columns[name] for name in CAPTION_COLUMNS if name in columns]


def _name(row: Mapping[str, Any]) -> Any:
    columns = _columns(tuple(row))
    return next((row[columns[name]] for name in NAME_COLUMNS if name in columns), None)


def _caption(row: Mapping[str, Any]) -> Any:
    """The first caption that is not missing."""
    for column in _columns_of_captions(tuple(row)):
        if not is_missing(plain(row[column])):
            return row[column]
    return None


def _add(captions: Captions, row: Any) -> None:
    """Take a row where json can be made of it and it names a picture."""
    name = _name(row) if isinstance(row, dict) else None
    try:
        json_bytes(row)
    except ValueError:
        name = None
    if isinstance(name, str) and name.strip():
        captions.rows.append(row)
        captions.names.append(name)
        return
    captions.bad += 1
    captions.first = captions.first or row


def _no_row(captions: Captions) -> str:
    first = captions.first
    has = ", ".join(first) if isinstance(first, dict) else "no columns"
    return (
        f"none of its {captions.bad} rows names a picture: the first has: {has[:200]}; looked for"
        f" {', '.join(NAME_COLUMNS)} in {_READ}"
    )
