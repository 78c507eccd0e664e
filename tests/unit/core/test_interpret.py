"""Whatever a sample holds, it becomes a row that can be stored: good, or with one code and why."""

from __future__ import annotations

import hashlib
import io
import json
import re
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sscd_ops.core.formats import IMAGE_EXTENSIONS, UNREAD_IMAGE_EXTENSIONS
from sscd_ops.core.interpret import Interpreter, storable
from sscd_ops.core.manifest import ManifestBuilder, ManifestRow, read_manifest
from sscd_ops.core.shard_plan import published_extensions
from sscd_ops.images.inspector import Inspector
from sscd_ops.model import Fault, Member, RawSample
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.testing import picture
from tests.soak import examples

LIMITS = LimitsOptions(max_caption_bytes=200, max_members=6, max_member_bytes=20_000)
SOURCE = SourceOptions("crawl", columns=("url", "meta.score"))
KEEPING = replace(SOURCE, missing_caption="keep")
GOOD, OTHER = picture(1, 60, 40), picture(2, 60, 40)
UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def interpreter(source: SourceOptions = SOURCE, limits: LimitsOptions = LIMITS) -> Interpreter:
    return Interpreter("web", source, limits, "a.tar", Inspector(limits))


def raw(key: str = "k", **members: bytes) -> RawSample:
    """A sample; a double underscore in a member's name is a dot."""
    made = []
    for name, data in members.items():
        extension = name.replace("__", ".")
        made.append(Member(f"{key}.{extension}", extension, 512, len(data), data))
    return RawSample(key, 0, made)


def code_of(sample: RawSample, source: SourceOptions = SOURCE) -> Fault | None:
    row = interpreter(source).row(sample)
    assert_sound(row)
    return Fault(row.code) if row.code else None


def strings(value: Any) -> Iterator[str]:
    """Every string in a document, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def assert_sound(row: ManifestRow) -> None:
    """Postgres takes every string of the row, and a refused sample says why."""
    texts = [row.key, row.image_member, row.declared, row.caption, row.meta, row.message]
    texts += [text for member in row.members for text in (member.name, member.extension)]
    assert not any(UNSTORABLE.search(text) for text in texts if text)
    assert (row.code is None) == (row.message is None)
    assert row.sample_id is not None
    assert len(row.sample_id) == 16
    if row.code is not None:
        assert not Fault(row.code).of_shard
        assert row.message
        assert len(row.message) <= 1000
    else:
        assert None not in (row.image_sha256, row.width, row.height, row.format)
    if row.meta is not None:
        document = json.loads(row.meta, parse_constant=no_constant)
        assert not any(UNSTORABLE.search(text) for text in strings(document))


# ---------------------------------------------------------------- every code

CASES: dict[str, tuple[RawSample, Fault | None]] = {
    "good": (raw(jpg=GOOD, txt=b"a cat"), None),
    "caption in json": (raw(jpg=GOOD, json=b'{"caption": "a cat"}'), None),
    "a number as caption": (raw(jpg=GOOD, json=b'{"caption": 7}'), None),
    "byte order mark": (raw(jpg=GOOD, txt=b"\xef\xbb\xbfa cat"), None),
    "json in UTF-16": (raw(jpg=GOOD, json='{"caption": "a cat"}'.encode("utf-16")), None),
    "longest caption": (raw(jpg=GOOD, txt=b"x" * 200), None),
    "said by the reader": (replace(raw(jpg=GOOD, txt=b"x"), fault=(Fault.DUPLICATE_KEY, "again")),
                           Fault.DUPLICATE_KEY),
    "key with NUL": (raw("a\0b", jpg=GOOD, txt=b"x"), Fault.BAD_KEY),
    "key not UTF-8": (raw("a\udcff", jpg=GOOD, txt=b"x"), Fault.BAD_KEY),
    "name not UTF-8": (raw(jpg=GOOD, txt=b"x", **{"\udcff": b""}), Fault.BAD_KEY),
    "most members": (raw(jpg=GOOD, txt=b"x", a=b"", b=b"", c=b"", d=b""), None),
    "too many members": (raw(jpg=GOOD, txt=b"x", a=b"", b=b"", c=b"", d=b"", e=b""),
                         Fault.TOO_MANY_MEMBERS),
    "too large a member": (RawSample("k", 0, [Member("k.jpg", "jpg", 0, 30_000, b"")]),
                           Fault.MEMBER_TOO_LARGE),
    "nothing": (RawSample("k", 0, []), Fault.NO_IMAGE),
    "no image": (raw(txt=b"x"), Fault.NO_IMAGE),
    "several images": (raw(jpg=GOOD, png=OTHER, txt=b"x"), Fault.SEVERAL_IMAGES),
    "empty image": (raw(jpg=b"", txt=b"x"), Fault.EMPTY_IMAGE),
    "no picture": (raw(jpg=b"<html>", txt=b"x"), Fault.NOT_AN_IMAGE),
    "small": (raw(jpg=picture(1, 8, 8), txt=b"x"), Fault.TOO_SMALL),
    "json cut": (raw(jpg=GOOD, txt=b"x", json=b'{"a": '), Fault.BAD_JSON),
    "json empty": (raw(jpg=GOOD, txt=b"x", json=b""), Fault.BAD_JSON),
    "json not UTF-8": (raw(jpg=GOOD, txt=b"x", json=b'{"a": "\xff"}'), Fault.BAD_JSON),
    "json a list": (raw(jpg=GOOD, txt=b"x", json=b"[]"), Fault.BAD_JSON),
    "json null": (raw(jpg=GOOD, txt=b"x", json=b"null"), Fault.BAD_JSON),
    "json NaN": (raw(jpg=GOOD, txt=b"x", json=b'{"url": NaN}'), Fault.BAD_JSON),
    "json -Infinity": (raw(jpg=GOOD, txt=b"x", json=b'{"url": -Infinity}'), Fault.BAD_JSON),
    "json number too large": (raw(jpg=GOOD, txt=b"x", json=b'{"url": 1e999}'), Fault.BAD_JSON),
    "json many digits": (raw(jpg=GOOD, txt=b"x", json=b'{"url": ' + b"9" * 5000 + b"}"),
                         Fault.BAD_JSON),
    "json deep": (raw(jpg=GOOD, txt=b"x", json=b'{"url":' + b"[" * 9000 + b"]" * 9000 + b"}"),
                  Fault.BAD_JSON),
    "meta with NUL": (raw(jpg=GOOD, txt=b"x", json=rb'{"url": "\u0000"}'), Fault.BAD_JSON),
    "meta with backslash and NUL": (raw(jpg=GOOD, txt=b"x", json=rb'{"url": "\\\u0000"}'),
                                    Fault.BAD_JSON),
    "meta with half a pair": (raw(jpg=GOOD, txt=b"x", json=rb'{"url": "\ud83d"}'), Fault.BAD_JSON),
    "meta with parted halves": (raw(jpg=GOOD, txt=b"x", json=rb'{"url": "\ud83d\\\ude00"}'),
                                Fault.BAD_JSON),
    "meta with a pair": (raw(jpg=GOOD, txt=b"x", json=rb'{"url": "\ud83d\ude00"}'), None),
    "meta that spells an escape": (raw(jpg=GOOD, txt=b"x", json=rb'{"url": "C:\\u0000"}'), None),
    "meta that spells half a pair": (raw(jpg=GOOD, txt=b"x", json=rb'{"url": "C:\\ud83d"}'), None),
    "NUL beside what is wanted": (raw(jpg=GOOD, txt=b"x", json=rb'{"no": "\u0000"}'),
                                  Fault.BAD_JSON),
    "half a pair beside what is wanted": (raw(jpg=GOOD, txt=b"x", json=rb'{"no": [{"\ud800": 1}]}'),
                                          Fault.BAD_JSON),
    "half a pair as bytes": (raw(jpg=GOOD, txt=b"x", json=b'{"no": "\xed\xa0\x80"}'),
                             Fault.BAD_JSON),
    "half a pair in UTF-16": (raw(jpg=GOOD, txt=b"x", json='{"no": "\ud800"}'.encode(
        "utf-16", "surrogatepass")), Fault.BAD_JSON),
    "an escaped NUL in UTF-16": (raw(jpg=GOOD, txt=b"x", json=r'{"no": "\u0000"}'.encode("utf-16")),
                                 Fault.BAD_JSON),
    "a pair elsewhere": (raw(jpg=GOOD, txt=b"x", json=rb'{"no": "\ud83d\ude00"}'), None),
    "NaN beside what is wanted": (raw(jpg=GOOD, txt=b"x", json=b'{"no": [NaN, -Infinity, 1e999]}'),
                                  None),
    "json caption NaN": (raw(jpg=GOOD, json=b'{"caption": [NaN]}'), Fault.BAD_JSON),
    "json caption NaN that is second": (raw(jpg=GOOD, txt=b"x", json=b'{"caption": NaN}'), None),
    "another json cut": (raw(jpg=GOOD, txt=b"x", alt__json=b"{"), Fault.BAD_JSON),
    "another json with half a pair": (raw(jpg=GOOD, txt=b"x", alt__json=rb'["\ud800"]'),
                                      Fault.BAD_JSON),
    "another json that is a list": (raw(jpg=GOOD, txt=b"x", alt__json=b"[1]"), None),
    "jsn cut": (raw(jpg=GOOD, txt=b"x", jsn=b"{"), Fault.BAD_JSON),
    "another text in Latin-1": (raw(jpg=GOOD, txt=b"x", alt__txt=b"\xe9"), Fault.BAD_MEMBER),
    "a class that is no number": (raw(jpg=GOOD, txt=b"x", cls=b"cat"), Fault.BAD_MEMBER),
    "no caption": (raw(jpg=GOOD), Fault.MISSING_CAPTION),
    "no caption in json": (raw(jpg=GOOD, json=b'{"caption": null}'), Fault.MISSING_CAPTION),
    "empty caption": (raw(jpg=GOOD, txt=b""), Fault.EMPTY_CAPTION),
    "blank caption": (raw(jpg=GOOD, txt=b" \n\t\xe2\x80\x83"), Fault.EMPTY_CAPTION),
    "long caption": (raw(jpg=GOOD, txt=b"x" * 201), Fault.CAPTION_TOO_LONG),
    "long and not UTF-8": (raw(jpg=GOOD, txt=b"\xff" * 201), Fault.CAPTION_TOO_LONG),
    "caption in Latin-1": (raw(jpg=GOOD, txt=b"caf\xe9"), Fault.CAPTION_NOT_UTF8),
    "caption cut in a letter": (raw(jpg=GOOD, txt=b"caf\xc3"), Fault.CAPTION_NOT_UTF8),
    "caption with NUL": (raw(jpg=GOOD, txt=b"a\0b"), Fault.CAPTION_FORBIDDEN_CHARACTER),
    "caption with a surrogate": (raw(jpg=GOOD, txt=b"a\xed\xa0\x80"),
                                 Fault.CAPTION_FORBIDDEN_CHARACTER),
    "json caption with NUL": (raw(jpg=GOOD, json=rb'{"caption": "\u0000"}'),
                              Fault.CAPTION_FORBIDDEN_CHARACTER),
    "json caption half a pair": (raw(jpg=GOOD, json=rb'{"caption": "\udc00"}'),
                                 Fault.CAPTION_FORBIDDEN_CHARACTER),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_bad_sample_has_its_code(name: str) -> None:
    sample, code = CASES[name]

    assert code_of(sample) is code


def test_the_codes_of_a_sample_are_all_shown() -> None:
    shown = {code for _, code in CASES.values()}

    elsewhere = {
        Fault.UNDECODABLE,
        Fault.NO_DESCRIPTOR,
        Fault.DECODER_DIED,
        Fault.DECODER_LIMIT,  # embed's
        Fault.TOO_PLAIN,  # by a setting, resolve's
        Fault.TOO_MANY_PIXELS,
        Fault.EXTREME_ASPECT,  # the header's
        Fault.SOURCE_GONE,  # a repair's
        Fault.RULE_ENDED,
        Fault.NEAR_WITHDRAWN,  # an order's
    }
    assert {fault for fault in Fault if not fault.of_shard} - elsewhere == shown - {None}


def test_depth_that_can_be_read_but_not_written_is_a_fault_too() -> None:
    """Around the interpreter's recursion limit, for metadata and for a caption alike."""
    for depth in range(900, 1000):
        nested = b"[" * depth + b"]" * depth
        for name in (b"url", b"caption"):
            sample = raw(jpg=GOOD, json=b'{"caption": "x", "%s": %s}' % (name, nested))
            assert code_of(sample) in (None, Fault.BAD_JSON, Fault.CAPTION_TOO_LONG)


def test_json_is_read_where_nothing_asks_for_it() -> None:
    """Whoever reads what is published reads it."""
    source = SourceOptions("crawl", caption=("txt",))

    for document in (b"{", b"", b"\xff", rb'{"a": "\ud800"}', rb'{"a": "\u0000"}', b"[" * 9000):
        assert code_of(raw(jpg=GOOD, txt=b"x", json=document), source) is Fault.BAD_JSON
    for document in (b"{}", b"[1]", b"null", b'{"a": NaN}', '{"a": "\u00e9"}'.encode("utf-16")):
        assert code_of(raw(jpg=GOOD, txt=b"x", json=document), source) is None


def test_without_a_caption_a_source_may_keep_the_picture() -> None:
    assert code_of(raw(jpg=GOOD), KEEPING) is None
    assert code_of(raw(jpg=GOOD, txt=b" "), KEEPING) is None
    assert code_of(raw(jpg=GOOD, txt=b"\0"), KEEPING) is Fault.CAPTION_FORBIDDEN_CHARACTER


def test_a_caption_that_is_not_found_names_what_is_there() -> None:
    """A mistyped field is seen by its message alone."""
    source = SourceOptions("crawl", caption=("json:captoin",))
    document = json.dumps({"caption": "a cat", "url": "x", "other": {"n": 1}}).encode()

    row = interpreter(source).row(raw(jpg=GOOD, txt=b"a cat", json=document))

    assert row.code == "missing_caption"
    assert row.message == (
        "none of these is there: json:captoin; there are: jpg, txt, json:caption, json:url,"
        " json:other"
    )


def test_a_caption_that_is_there_and_null_is_named_as_that() -> None:
    row = interpreter().row(raw(jpg=GOOD, json=b'{"caption": null, "url": "x"}'))

    assert row.message == (
        "none of these is there: txt, json:caption; there are: jpg, json:caption (null), json:url"
    )


def test_an_image_is_named_even_where_the_sample_is_refused() -> None:
    row = interpreter().row(raw(jpg=GOOD))

    assert row.code == "missing_caption"
    assert row.message == "none of these is there: txt, json:caption; there are: jpg"
    assert row.image_sha256 == hashlib.sha256(GOOD).digest()
    assert (row.image_member, row.image_offset, row.image_bytes) == ("k.jpg", 512, len(GOOD))
    assert (row.width, row.height, row.format, row.declared) == (60, 40, "jpg", None)


@pytest.mark.parametrize(
    ("size", "code"),
    [((8, 12), "too_small"), ((700, 20), "extreme_aspect"), ((400, 300), "too_many_pixels")],
)
def test_a_header_that_can_be_read_is_in_the_row_of_a_refused_picture(
    size: tuple[int, int], code: str
) -> None:
    data = picture(1, *size)

    row = interpreter(limits=replace(LIMITS, max_pixels=100_000)).row(raw(png=data, txt=b"x"))

    assert row.code == code
    assert row.image_sha256 == hashlib.sha256(data).digest()
    assert (row.width, row.height, row.format, row.declared) == (*size, "jpg", "png")
    assert row.image_bytes == len(data)


def test_the_bytes_say_the_format_and_a_lying_name_is_noted() -> None:
    png = interpreter().row(raw(png=GOOD, txt=b"x"))
    jpeg = interpreter().row(raw(JPEG=GOOD, txt=b"x"))

    assert (png.code, png.format, png.declared) == (None, "jpg", "png")
    assert (jpeg.code, jpeg.format, jpeg.declared) == (None, "jpg", None)


GIF = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
SECOND = {
    "good": (OTHER, None),
    "in another format than its name": (GIF, None),
    "small": (picture(3, 2, 2), None),
    "long": (picture(3, 400, 2), None),
    "empty": (b"", "empty_image"),
    "a page": (b"<html>", "not_an_image"),
    "cut": (OTHER[:-300], "undecodable"),
    "large": (picture(3, 400, 300), "too_many_pixels"),
}  # fmt: skip


@pytest.mark.parametrize("name", SECOND)
@pytest.mark.parametrize("extension", ["0.jpg", "png"])
def test_another_picture_must_be_one_that_readers_decode(name: str, extension: str) -> None:
    data, why = SECOND[name]
    limits = replace(LIMITS, max_pixels=100_000)
    source = replace(SOURCE, image="jpg")

    row = interpreter(source, limits).row(
        raw(jpg=GOOD, txt=b"x", **{extension.replace(".", "__"): data})
    )

    assert row.code == (None if why is None else "bad_member")
    assert row.message is None or f"'k.{extension}'" in row.message
    assert row.message is None or f": {why}: " in row.message


@pytest.mark.parametrize("extension", sorted(IMAGE_EXTENSIONS))
def test_every_extension_of_a_format_is_an_image_and_readers_know_the_published_one(
    extension: str,
) -> None:
    from datasets.packaged_modules.webdataset.webdataset import IMAGE_EXTENSIONS as IN_DATASETS
    from webdataset.autodecode import IMAGE_EXTENSIONS as IN_WEBDATASET

    row = interpreter().row(raw(txt=b"x", **{extension.upper(): GOOD}))

    assert row.code is None
    (published, _, _) = published_extensions([extension.upper(), "txt"])
    # of avif both hand out the bytes
    assert {published} - {"avif"} <= set(IN_DATASETS) & set(IN_WEBDATASET)


def test_a_picture_of_a_format_that_is_not_read_is_named() -> None:
    row = interpreter().row(raw(HEIC=b"\0\0\0\x18ftypheic", txt=b"x"))

    assert row.code == "no_image"
    assert row.message == (
        "no image member; members: HEIC, txt; no picture of this format is read: k.HEIC"
    )
    assert not UNREAD_IMAGE_EXTENSIONS & IMAGE_EXTENSIONS


# ---------------------------------------------------------------- whatever comes

TEXT = st.text(st.one_of(st.characters(), st.sampled_from("\0\ud800\udc00\udfff\\u0d{\"' ")))
ODD_BYTES = st.one_of(
    st.binary(max_size=30),
    TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"", b"\0", b"\xff", b"\xed\xa0\x80", b"x" * 201, b"\xef\xbb\xbf"]),
)
NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(
    st.one_of(st.sampled_from(["caption", "url", "meta", "meta.score", "alt"]), TEXT), VALUES
)
JSON = st.one_of(
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    DOCUMENTS.map(
        lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    st.builds(lambda text: b'{"url": "%s"}' % text, ODD_BYTES),
    st.builds(
        lambda escapes: b'{"url": "%s"}' % b"".join(escapes),
        st.lists(st.sampled_from([rb"\ud83d", rb"\ude00", rb"\\", rb"\u0000", b"u0000", b"d"])),
    ),
    ODD_BYTES,
)
MEMBERS = st.one_of(
    st.tuples(st.sampled_from(["jpg", "0.jpg", "PNG"]), st.sampled_from([GOOD, OTHER, b"", b"<"])),
    st.tuples(st.sampled_from(["txt", "TXT", "alt.txt"]), ODD_BYTES),
    st.tuples(st.just("json"), JSON),
    st.tuples(TEXT, ODD_BYTES),
)
FAULTS = st.one_of(
    st.none(),
    st.tuples(st.sampled_from([Fault.DUPLICATE_KEY, Fault.BAD_KEY, Fault.BAD_JSON]), TEXT)
    # a reader says something at least
    .map(lambda said: (said[0], f"reader: {said[1]}")),
)
SAMPLES = st.builds(
    lambda key, occurrence, members, fault: RawSample(
        key,
        occurrence,
        [Member(f"{key}.{ext}", ext, i, len(data), data) for i, (ext, data) in enumerate(members)],
        fault,
    ),
    st.one_of(st.just("k"), TEXT),
    st.integers(0, 3),
    st.lists(MEMBERS, max_size=7),
    FAULTS,
)
SOURCES = st.builds(
    SourceOptions,
    st.just("crawl"),
    image=st.sampled_from(["", "0.jpg", "jpg"]),
    caption=st.lists(
        st.sampled_from(["txt", "alt.txt", "json:caption", "json:meta.title", "column:alt"]),
        min_size=1,
        unique=True,
    ).map(tuple),
    missing_caption=st.sampled_from(["quarantine", "keep"]),
    columns=st.sampled_from([(), ("url",), ("url", "meta.score", "meta")]),
    url=st.sampled_from(["", "json:url", "json:meta.url"]),
)


@settings(max_examples=examples(600))
@given(SAMPLES, SOURCES)
@example(raw(jpg=GOOD, txt=b"x", json=b'{"url": 1e999}'), SOURCE)
def test_no_sample_raises_and_every_row_can_be_stored(
    sample: RawSample, source: SourceOptions
) -> None:
    row = interpreter(source).row(sample)

    assert_sound(row)
    assert row == interpreter(source).row(sample)
    if sample.fault is not None:
        assert row.code == sample.fault[0]
    if row.code is None and source.missing_caption == "quarantine":
        assert row.caption
        assert row.caption_sha256
    if row.caption is not None:
        assert len(row.caption.encode()) <= LIMITS.max_caption_bytes
    # members are what was read, whatever became of the sample
    assert [(m.size, m.offset, m.sha256) for m in row.members] == [
        (m.size, m.offset, hashlib.sha256(m.data).digest()) for m in sample.members
    ]


@settings(max_examples=examples(60))
@given(st.lists(SAMPLES, max_size=8))
def test_rows_come_back_from_the_manifest_as_they_went_in(samples: list[RawSample]) -> None:
    rows = [interpreter().row(sample) for sample in samples]
    stream = io.BytesIO()

    with ManifestBuilder(stream) as builder:
        for row in rows:
            builder.add(row)

    table = read_manifest(io.BytesIO(stream.getvalue())).to_pylist()
    assert [row.pop("position") for row in table] == list(range(len(rows)))
    for found, row in zip(table, rows, strict=True):
        for member, wanted in zip(found.pop("members"), row.members, strict=True):
            assert member == {name: getattr(wanted, name) for name in member}
        assert found == {name: getattr(row, name) for name in found}


@given(st.lists(TEXT, unique=True, max_size=20))
def test_what_is_escaped_can_be_told_apart(texts: list[str]) -> None:
    odd = [text for text in texts if UNSTORABLE.search(text)]

    assert len({storable(text) for text in odd}) == len(odd)
    for text in texts:
        assert not UNSTORABLE.search(storable(text))
        assert text in odd or storable(text) == text


@given(st.tuples(TEXT, st.integers(0, 3)), st.tuples(TEXT, st.integers(0, 3)))
def test_other_places_give_other_samples(one: tuple[str, int], other: tuple[str, int]) -> None:
    first, second = (
        interpreter().row(replace(raw(key, jpg=GOOD, txt=b"x"), occurrence=occurrence)).sample_id
        for key, occurrence in (one, other)
    )

    assert (first == second) == (one == other)


def test_an_interpreter_ends_with_its_last_use() -> None:
    """What looks at pictures ends its decoder with it, and waits for no garbage collection."""
    inspector = Inspector(LIMITS)
    ended = weakref.ref(inspector)
    reader = Interpreter("web", SOURCE, LIMITS, "a.tar", inspector)
    reader.row(raw(jpg=GOOD, txt=b"x"))

    del inspector, reader

    assert ended() is None


# ---------------------------------------------------------------- where it came from


CAME_FROM = "https://www.example.org/a.jpg"


@pytest.mark.parametrize(
    ("source", "document"),
    [
        (replace(SOURCE, columns=(), url="json:url"), {"url": "HTTP://www.Example.org:80/a.jpg"}),
        (replace(SOURCE, url="json:from.url"), {"from": {"url": CAME_FROM}}),
        (replace(SOURCE, url="column:URL"), {"URL": CAME_FROM}),
        (SourceOptions("crawl", "img2dataset"), {"url": CAME_FROM}),
    ],
)
def test_a_sample_says_where_it_came_from(source: SourceOptions, document: Any) -> None:
    row = interpreter(source).row(raw(jpg=GOOD, txt=b"a", json=json.dumps(document).encode()))

    assert row.code is None
    assert row.url_sha256 == hashlib.sha256(CAME_FROM.encode()).digest()
    assert row.host == "org.example.www."


@pytest.mark.parametrize(
    "members",
    [
        {"jpg": GOOD},
        {"jpg": GOOD, "png": OTHER, "txt": b"a"},
        {"jpg": b"no picture", "txt": b"a"},
        {"txt": b"a"},
        {"jpg": GOOD, "txt": b"a", "vtt.json": b"{"},
    ],
)
def test_a_quarantined_sample_says_it_too(members: dict[str, bytes]) -> None:
    given_sample = raw(**members, json=json.dumps({"url": CAME_FROM}).encode())

    row = interpreter(replace(SOURCE, url="json:url")).row(given_sample)

    assert row.code is not None
    assert (row.host is not None) == ("vtt.json" not in members)


@pytest.mark.parametrize(
    "document", [b"[1]", b"{}", b'{"url": null}', b'{"url": 3}', b'{"url": "no\\u0020url"}']
)
def test_what_is_no_url_is_no_fault(document: bytes) -> None:
    source = SourceOptions("crawl", caption=("txt",), url="json:url")

    row = interpreter(source).row(raw(jpg=GOOD, txt=b"a", json=document))

    assert (row.code, row.url_sha256, row.host) == (None, None, None)


def test_without_the_setting_nothing_is_read() -> None:
    document = json.dumps({"url": CAME_FROM}).encode()

    row = interpreter(SourceOptions("crawl")).row(raw(jpg=GOOD, txt=b"a", json=document))

    assert (row.url_sha256, row.host) == (None, None)
