"""What is published can be decoded: every kind that readers decode unasked is looked at."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset import autodecode, tenbin

from sscd_ops.core.members import FORMS, UNPACKED, why_undecodable
from tests.soak import examples

LIMIT = 1 << 20


def array(*arrays: Any, **named: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **named) if named else np.save(out, arrays[0])
    return out.getvalue()


def saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


PLAIN = {"a": [1, 2.5, None, True, "\N{SNOWMAN}"], "t": (1, "x")}
GOOD: dict[str, list[bytes]] = {
    "txt": [b"", "caf\u00e9".encode(), b"\xef\xbb\xbfx"],
    "cls": [b"7", b" -12\n", b"12345678901234567890123"],
    "json": [b"[1, NaN]", json.dumps(PLAIN).encode("utf-16")],
    "npy": [
        array(np.arange(12.0).reshape(3, 4)),
        array(np.zeros((0, 3), "u1")),
        array(np.array(3, ">i2")),
        array(np.zeros(2, [("a", "i4"), ("\u00e9", "f2")])),
    ],
    "npz": [array(a=np.arange(3), b=np.ones((2, 2)))],
    "ten": [
        bytes(tenbin.encode_buffer([np.ones((3, 4), "f4"), np.zeros(5, "u1")])),
        b"",
    ],
    "mp": [
        b"\xc0", b"\x07", b"\xf9", b"\xa1x", b"\xc4\x02ab", b"\x93\x01\xc2\xc3", b"\x81\xa1k\x90",
        b"\xcb" + bytes(8), b"\xd9\x01x", b"\xdc\x00\x01\x05", b"\xde\x00\x01\xc4\x01k\xcd\x01\x02",
        b"\xd6\xff\0\0\0\x01", b"\xc7\x03\x07abc", b"\xdb\0\0\0\x02\xc3\xa9",
    ],
    "cbor": [
        b"\x07", b"\x38\xff", b"\x63abc", b"\x82\x01\xf6", b"\xa1\x61k\x80", b"\x9f\x01\xff",
        b"\xbf\x61k\x01\xff", b"\x5f\x41a\xff", b"\xf9\x3c\x00", b"\xc2\x41\x01", b"\xd8\x21\x61x",
        b"\xfb" + bytes(8), b"\x1b" + bytes(8),
    ],
    "pkl": [pickle.dumps(PLAIN, protocol) for protocol in range(6)],
    "pth": [
        saved({"w": torch.ones(3, 2), "b": torch.zeros(1, dtype=torch.bfloat16)}),
        saved(torch.nn.Linear(2, 2).state_dict()),
        saved(torch.nn.Parameter(torch.ones(2))),
    ],
}  # fmt: skip
OTHER_NAMES = {
    "txt": ["text", "transcript"],
    "cls": ["cls2", "index", "inx", "id"],
    "json": ["jsn"],
    "ten": ["tb"],
    "mp": ["msg"],
    "pkl": ["pickle", "pyd"],
}
RUN_BY_READERS = ("pkl", "pickle", "pyd", "pth")
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


class Runs:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


BAD: dict[str, list[bytes]] = {
    "txt": [b"caf\xe9", b"\xed\xa0\x80", "x".encode("utf-16")],
    "cls": [b"", b"cat", b"7.0", b"1 2", b"\xff", b"9" * 5000],
    "json": [b"", b"{", b"\xff", rb'["\ud800"]', b"[" * 90_000],
    "npy": [
        b"",
        b"\x93NUMPY",
        array(np.arange(12.0))[:-1],
        array(np.arange(12.0)).replace(b"(12,)", b"(10**12,)").replace(b"10**12", b"999999"),
        array(np.array([{}], object)),
        b"PK\x03\x04",
    ],
    "npz": [b"", array(a=np.arange(99))[:-9], array(np.arange(3)), array(a=np.array([{}], object)),
            array(a=np.zeros(LIMIT, "u1"))],
    "ten": [b"x", GOOD["ten"][0][:-64], b"~TenBin~" + b"\xff" * 8, b"~TenBin~" + bytes(56) * 2],
    "mp": [b"", b"\xc1", b"\x01\x02", b"\xa2x", b"\x81\x01\x02", b"\xa1\xff", b"\x91" * 900,
           b"\xd4\xff\x01", b"\xd4\x80\x01", b"\xdf\xff\xff\xff\xff"],
    "cbor": [b"", b"\xff", b"\x62x", b"\x61\xff", b"\x82\x01", b"\x82\x01\xff", b"\x1c", b"\xe0",
             b"\xf8\x20", b"\xa1\x80\x01", b"\xbf\x01\xff", b"\xc2\x01", b"\x81" * 900,
             b"\x5f\x01"],
    "pkl": [b"", b"x", pickle.dumps(PLAIN)[:-1], pickle.dumps(PLAIN)[:-9], b"\x80\x07K\x01.",
            pickle.dumps(np.arange(3)), pickle.dumps(Path("/")), b"cos\nsystem\n(S'true'\ntR."],
    "pth": [b"", b"x", GOOD["pth"][0][:-30], saved(Path("/")), pickle.dumps(PLAIN),
            array(a=np.arange(3))],
}  # fmt: skip


def names() -> list[tuple[str, str]]:
    """(extension, the one whose examples it has)"""
    return [(name, of) for of in GOOD for name in (of, *OTHER_NAMES.get(of, []))]


def decoders_of(extension: str) -> list[Callable[[bytes], Any]]:
    """How each reader decodes a member."""
    from datasets.packaged_modules.webdataset.webdataset import DECODERS

    last = extension.rpartition(".")[2]
    found = [lambda data: autodecode.Decoder([]).decode1(extension, data)]
    if last in DECODERS:
        found.append(DECODERS[last])
    return found


def need(extension: str) -> None:
    for extensions, package in ((("mp", "msg"), "msgpack"), (("cbor",), "cbor")):
        if extension in extensions:
            pytest.importorskip(package, reason="readers decode it with a package of its own")


def test_all_that_readers_decode_is_looked_at() -> None:
    from datasets.filesystems import EXTENSION_TO_COMPRESSION_FS_FILE_CLS
    from datasets.packaged_modules.webdataset.webdataset import DECODERS

    assert {name for name, _ in names()} == set(FORMS)
    assert set(autodecode.decoders) | set(DECODERS) == set(FORMS)
    # of zstd and lz4 only where packages for them are installed
    packed = {name[1:] for name in EXTENSION_TO_COMPRESSION_FS_FILE_CLS} - {"zst", "lz4"}
    assert packed == set(UNPACKED) == set(PACKED)
    assert autodecode.default_pre_handlers == [autodecode.gzfilter]
    assert autodecode.default_post_handlers == [autodecode.basichandlers]


@pytest.mark.parametrize(("extension", "of"), names())
def test_good_members_are_good(extension: str, of: str) -> None:
    for data in GOOD[of]:
        for packed, pack in (("", bytes), *((f".{name}", pack) for name, pack in PACKED.items())):
            assert not why_undecodable(f"seg.{extension}{packed}", pack(data), LIMIT), data[:40]
    need(extension)
    for data in GOOD[of]:
        for decode in decoders_of(extension):
            decode(data)


@pytest.mark.parametrize(("extension", "of"), names())
def test_bad_members_are_refused_with_a_reason(extension: str, of: str) -> None:
    for data in BAD[of]:
        for name, member in ((extension, data), (f"a.{extension}.gz", gzip.compress(data))):
            assert why_undecodable(name, member, LIMIT), (name, data[:40])


@pytest.mark.parametrize("packed", PACKED)
def test_packed_members_are_unpacked_within_the_limit(packed: str) -> None:
    pack = PACKED[packed]

    assert not why_undecodable(f"mask.{packed}", pack(b"x" * LIMIT), LIMIT)
    assert why_undecodable(f"mask.{packed}", pack(b"x" * (LIMIT + 1)), LIMIT)
    assert why_undecodable(f"mask.{packed}", pack(b"x" * 5000)[:-9], LIMIT)
    assert why_undecodable(f"mask.{packed}", b"x", LIMIT)


def test_pictures_are_looked_at_as_the_caller_does_also_packed_ones() -> None:
    def why_no_picture(data: bytes) -> str:
        return "" if data == b"picture" else "no picture"

    for extension, pack in (("0.jpg", bytes), ("tif", bytes), ("jpg.gz", gzip.compress)):
        assert not why_undecodable(extension, pack(b"picture"), LIMIT, why_no_picture)
        assert why_undecodable(extension, pack(b"x"), LIMIT, why_no_picture) == "no picture"


def test_every_extension_that_is_looked_at_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/publishing.md").read_text()
    table = page[page.index("## What readers decode") : page.index("Not looked into")]

    named = {word for part in table.split("`")[1::2] for word in part.split()}
    assert set(FORMS) | set(UNPACKED) <= named


@pytest.mark.parametrize("extension", ["", "bin", "pt", "seg.bin", "mp4", "heic", "txt.bin"])
def test_other_members_are_as_they_are(extension: str) -> None:
    assert not why_undecodable(extension, b"\xff", LIMIT)


@pytest.mark.parametrize("extension", ["__key__", "__url__", "__bad__.txt"])
def test_names_that_readers_keep_for_themselves_are_refused(extension: str) -> None:
    assert "__" in why_undecodable(extension, b"x", LIMIT)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("extension", ["pkl", "pickle", "pyd", "pkl.gz", "pth"])
def test_pickles_that_run_code_are_named_and_never_run(
    tmp_path: Path, extension: str, protocol: int
) -> None:
    data = pickle.dumps([1, Runs(tmp_path / "ran")], protocol)
    if extension == "pth":
        data = saved({"w": torch.ones(1), "x": Runs(tmp_path / "ran")})
    if extension.endswith("gz"):
        data = gzip.compress(data)

    why = why_undecodable(extension, data, LIMIT)

    assert "runs code" in why
    assert list(tmp_path.iterdir()) == []


SPOILED = st.sampled_from([name for name, _ in names() if name not in RUN_BY_READERS]).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.sampled_from(GOOD[dict(names())[name]]),
        st.integers(0, 200),
        st.binary(max_size=3),
        st.booleans(),
    )
)


@settings(max_examples=examples(400))
@given(SPOILED)
def test_whatever_is_not_refused_readers_decode(
    spoiled: tuple[str, bytes, int, bytes, bool],
) -> None:
    extension, data, at, other, cut = spoiled
    data = data[:at] + other + (b"" if cut else data[at + len(other) :])

    if not why_undecodable(extension, data, LIMIT):
        try:
            for decode in decoders_of(extension):
                decode(data)
        except ImportError:
            pass  # msgpack, cbor
