"""The tar reader beside tarfile: the same members, names, offsets and bytes; what breaks."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.errors import BrokenShard
from sscd_ops.model import Fault, TarEntry
from sscd_ops.storage.tar_read import read_tar
from sscd_ops.storage.tar_write import TarWriter
from tests.soak import examples

BIG = 1 << 28
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
MEMBERS = [
    ("a.jpg", b"picture"),
    ("a.txt", b""),
    ("dir/b.JPG", bytes(range(256)) * 9),
    ("c.json", b"x" * 512),
    ("d.bin", b"y" * 513),
    ("../../e.jpg", b"up"),
]
LONG = [("n" * 60 + "/" + "m" * 150 + ".jpg", b"long"), ("\N{SNOWMAN}" * 120 + ".txt", b"snow")]


def archive(members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Trickle(io.RawIOBase):
    """A stream that answers a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, view) -> int:  # type: ignore[no-untyped-def]
        data = self._data.read(min(len(view), self._most))
        view[: len(data)] = data
        return len(data)


class ReadOnly:
    """A stream with nothing but ``read``."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def read(data: bytes, way: str = "whole", limit: int = BIG) -> list[TarEntry]:
    if way == "gz":
        return list(read_tar(io.BytesIO(gzip.compress(data, 1)), gz=True, max_member_bytes=limit))
    streams = {"whole": io.BytesIO, "trickle": lambda d: Trickle(d, 97), "read only": ReadOnly}
    return list(read_tar(streams[way](data), gz=False, max_member_bytes=limit))


def read_until_broken(
    data: bytes, *, gz: bool = False
) -> tuple[list[TarEntry], BrokenShard | None]:
    found: list[TarEntry] = []
    try:
        for entry in read_tar(io.BytesIO(data), gz=gz, max_member_bytes=BIG):
            found.append(entry)  # noqa: PERF402 - what came before a fault counts
    except BrokenShard as broken:
        return found, broken
    return found, None


def by_tarfile(data: bytes, *, joined: bool = False) -> list[tuple[str, str, int, bytes]]:
    """(kind, name, offset, data) as tarfile has them; sparse files and the unknown are other."""
    found = []
    with tarfile.open(
        fileobj=io.BytesIO(data), errors="surrogateescape", encoding="utf-8", ignore_zeros=joined
    ) as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.isreg() else None
            kind = (
                "other"
                if info.issparse()
                else "file"
                if info.isreg()
                else "link"
                if info.islnk() or info.issym()
                else "directory"
                if info.isdir()
                else "device"
                if info.isdev()
                else "other"
            )
            name = info.name
            offset = info.offset_data
            content = stream.read() if stream is not None and kind == "file" else b""
            found.append((kind, name, offset, content))
    return found


def as_tarfile(entries: list[TarEntry]) -> list[tuple[str, str, int, bytes]]:
    return [
        (e.kind, e.name.rstrip("/") if e.kind == "directory" else e.name, e.offset, e.data)
        for e in entries
    ]


@pytest.mark.parametrize("way", ["whole", "trickle", "read only", "gz"])
@pytest.mark.parametrize("form", FORMATS)
def test_members_names_offsets_and_bytes_are_those_of_tarfile(form: str, way: str) -> None:
    data = archive(MEMBERS if form == "ustar" else MEMBERS + LONG, FORMATS[form])

    found = read(data, way)

    assert as_tarfile(found) == by_tarfile(data)
    assert all(e.size == len(e.data) for e in found)
    assert all(data[e.offset : e.offset + e.size] == e.data for e in found)


@pytest.mark.parametrize("form", FORMATS)
def test_links_devices_and_directories_have_their_kind_and_no_data(form: str) -> None:
    out = io.BytesIO()
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[form]) as tar:
        for number, kind in enumerate([*kinds, tarfile.DIRTYPE]):
            info = tarfile.TarInfo(f"entry{number}")
            info.type = kind
            info.linkname = "somewhere" if kind in kinds[:2] else ""
            tar.addfile(info)
        last = tarfile.TarInfo("after.jpg")
        last.size = 3
        tar.addfile(last, io.BytesIO(b"jpg"))

    found = read(out.getvalue())

    assert [e.kind for e in found] == [*["link"] * 2, *["device"] * 3, "directory", "file"]
    assert as_tarfile(found) == by_tarfile(out.getvalue())


def test_a_link_with_a_long_target_does_not_lend_its_name_to_the_next_member() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 300
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("next.jpg"))

    assert [e.name for e in read(out.getvalue())] == ["link", "next.jpg"]


def test_a_pax_size_counts_and_a_global_header_is_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"}
    ) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 4, {"size": "4", "comment": "x" * 3000}
        tar.addfile(info, io.BytesIO(b"jpeg"))
    data = bytearray(out.getvalue())
    at = data.index(b"a.jpg\0")
    data[at + 124 : at + 136] = b"00000000000\0"
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])

    assert [(e.name, e.data) for e in read(bytes(data))] == [("a.jpg", b"jpeg")]


def test_sizes_in_base_256_are_read() -> None:
    data = bytearray(archive([("a.jpg", b"jpeg")], tarfile.GNU_FORMAT))
    data[124:136] = b"\x80" + (4).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])

    assert [e.data for e in read(bytes(data))] == [b"jpeg"]


def test_a_checksum_of_signed_bytes_is_a_checksum() -> None:
    data = bytearray(archive([("\xe4.jpg", b"jpeg")], tarfile.GNU_FORMAT))
    signed = sum(b - 256 if b > 127 else b for b in data[:148] + data[156:512]) + 8 * 0x20
    data[148:156] = b"%06o\0 " % signed

    assert [e.name for e in read(bytes(data))] == ["\xe4.jpg"]


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_old_gnu_sparse_files_are_passed_over_whole(blocks: int) -> None:
    plain = archive([("s.jpg", b"data"), ("after.jpg", b"jpeg")], tarfile.GNU_FORMAT)
    head = bytearray(plain[:512])
    head[156:157] = b"S"
    head[482] = 1 if blocks else 0
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    more = [bytearray(512) for _ in range(blocks)]
    for block in more[:-1]:
        block[504] = 1

    found = read(bytes(head) + b"".join(more) + plain[512:])

    assert [(e.kind, e.name) for e in found] == [("other", "s.jpg"), ("file", "after.jpg")]


def test_pax_sparse_files_are_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/s.jpg")
        info.size = 512 + 4
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "s.jpg",
            "GNU.sparse.realsize": "4",
        }
        tar.addfile(info, io.BytesIO(b"1\n0\n4\n".ljust(512, b"\0") + b"data"))
        after = tarfile.TarInfo("after.jpg")
        tar.addfile(after)

    assert [e.kind for e in read(out.getvalue())] == ["other", "file"]


def test_unknown_kinds_are_other_and_their_data_is_passed_over() -> None:
    data = bytearray(archive([("a.jpg", b"jpeg"), ("b.jpg", b"more")]))
    data[156:157] = b"D"
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])

    assert [(e.kind, e.data) for e in read(bytes(data))] == [("other", b""), ("file", b"more")]


def test_names_that_are_no_utf_8_survive() -> None:
    data = archive([("x.jpg", b"jpeg")], tarfile.USTAR_FORMAT)
    head = bytearray(data[:512])
    head[:5] = b"\xff.jpg"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)

    (entry,) = read(bytes(head) + data[512:])

    assert entry.name.encode("utf-8", "surrogateescape") == b"\xff.jpg"


def test_a_member_above_the_limit_is_reported_without_its_bytes() -> None:
    data = archive([("big.jpg", b"x" * 5000), ("a.jpg", b"jpeg")])

    found = read(data, limit=4999)

    assert [(e.size, e.data) for e in found] == [(5000, b""), (4, b"jpeg")]


@pytest.mark.parametrize("way", ["whole", "trickle", "read only", "gz"])
def test_members_larger_than_the_buffer_are_read_whole(way: str) -> None:
    large = random.Random(3).randbytes((3 << 20) + 7)
    data = archive([("a.jpg", b"jpeg"), ("large.png", large), ("b.jpg", large[:100_000])])

    found = (
        read(data, way)
        if way != "trickle"
        else list(read_tar(Trickle(data, 70_001), gz=False, max_member_bytes=BIG))
    )

    assert [e.data == d for e, d in zip(found, [b"jpeg", large, large[:100_000]], strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("end", ["one end block", "not padded", "garbage behind"])
def test_an_odd_end_of_archive_is_no_fault(end: str) -> None:
    data = archive(MEMBERS)
    stop = by_tarfile(data)[-1][2] + 512
    tail = {
        "one end block": bytes(512),
        "not padded": bytes(1024),
        "garbage behind": bytes(1024) + b"garbage" * 200,
    }[end]

    found, broken = read_until_broken(data[:stop] + tail)

    assert broken is None
    assert as_tarfile(found) == by_tarfile(data)


# ---------------------------------------------------------------- behind the end mark

MORE = [("x.jpg", b"another picture"), ("x.txt", b"z" * 700)]


def without_end(data: bytes) -> bytes:
    *_, (_, _, offset, last) = by_tarfile(data)
    return data[: offset + len(last) + -len(last) % 512]


@pytest.mark.parametrize("way", ["whole", "trickle", "read only", "gz"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("zeros", [512, 1024, 1536, 10_240, 3 << 20])
def test_joined_archives_are_one_however_many_zeros_stand_between(
    zeros: int, form: str, way: str
) -> None:
    second = archive(MORE + (LONG if form != "ustar" else []), FORMATS[form])
    data = without_end(archive(MEMBERS)) + bytes(zeros) + second

    found = read(data, way) if way != "trickle" or zeros < 1 << 20 else read(data)

    assert as_tarfile(found) == by_tarfile(data, joined=True)
    assert len(found) == len(MEMBERS) + len(MORE) + (len(LONG) if form != "ustar" else 0)


def test_an_archive_with_a_global_header_can_be_the_second() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"comment": "of all"}) as tar:
        tar.addfile(tarfile.TarInfo("x.jpg"))

    found = read(archive(MEMBERS) + out.getvalue())

    assert [e.name for e in found] == [name for name, _ in MEMBERS] + ["x.jpg"]


@pytest.mark.parametrize("between", [b"", bytes(7), bytes(512), bytes(70_000)])
@pytest.mark.parametrize("empty", [b"", gzip.compress(b""), gzip.compress(bytes(1024))])
def test_gzip_files_that_were_joined_are_one(between: bytes, empty: bytes) -> None:
    first, second = archive(MEMBERS), archive(MORE)

    for way in (first, without_end(first)):
        found, broken = read_until_broken(
            gzip.compress(way) + between + empty + between + gzip.compress(second) + between,
            gz=True,
        )
        assert broken is None
        assert [(e.name, e.data) for e in found] == MEMBERS + MORE
        unpacked = way + (gzip.decompress(empty) if empty else b"") + second
        assert all(unpacked[e.offset : e.offset + e.size] == e.data for e in found)


def spoiled(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


HIDDEN = {
    "a tar whose first header is damaged": spoiled(archive(MORE)),
    "a tar behind an odd number of bytes": b"\n" + archive(MORE),
    "a tar behind many bytes": b"-" * 200_001 + archive(MORE),
    "a gzip file": gzip.compress(archive(MORE)),
    "a gzip file behind bytes": b"\n" * 65_535 + gzip.compress(archive(MORE)),
    "a bzip2 file": bz2.compress(archive(MORE)),
    "an xz file": lzma.compress(archive(MORE)),
    "an xz file behind bytes": b"\n" * 65_535 + lzma.compress(archive(MORE)),
    "a zstd file": b"\x28\xb5\x2f\xfd" + bytes(range(256)),
    "a zip file": b"PK\x03\x04" + bytes(range(256)),
    "a 7z file": b"7z\xbc\xaf\x27\x1c" + bytes(range(256)),
    "a rar file": b"Rar!\x1a\x07" + bytes(range(256)),
}  # fmt: skip


def old(data: bytes) -> bytes:
    """A first header without what ustar added, its checksum right."""
    head = bytearray(data[:512])
    head[257:265] = bytes(8)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


HIDDEN["an old tar behind a block"] = b"-" * 512 + old(archive(MORE, tarfile.USTAR_FORMAT))


@pytest.mark.parametrize("gz", ["plain", "inside", "behind"])
@pytest.mark.parametrize("what", HIDDEN)
def test_an_archive_behind_the_end_that_is_not_read_is_named(what: str, gz: str) -> None:
    first, rest = archive(MEMBERS), HIDDEN[what]
    data = {
        "plain": first + rest,
        "inside": gzip.compress(first + rest),
        "behind": gzip.compress(first) + rest,
    }[gz]

    found, broken = read_until_broken(data, gz=gz != "plain")

    if gz == "behind" and what == "a gzip file":
        assert [(e.name, e.data) for e in found] == MEMBERS + MORE
        return
    assert [(e.name, e.data) for e in found] == MEMBERS
    assert broken is not None
    assert broken.code == Fault.TRUNCATED_SHARD
    assert broken.ended
    assert "deliver it as a file of its own" in broken.message


@pytest.mark.parametrize("gz", ["plain", "inside", "behind"])
@pytest.mark.parametrize("rest", [b"garbage" * 200, b"x", bytes(700) + b"x", b"\x1f" * 9])
def test_other_bytes_behind_the_end_are_counted(rest: bytes, gz: str) -> None:
    first = archive(MEMBERS)
    data = {
        "plain": first + rest,
        "inside": gzip.compress(first + rest),
        "behind": gzip.compress(first) + rest,
    }[gz]
    ignored: dict[str, int] = {}

    entries = read_tar(io.BytesIO(data), gz=gz != "plain", max_member_bytes=BIG, ignored=ignored)

    assert [(e.name, e.data) for e in entries] == MEMBERS
    assert ignored == {"behind_end": 1}


def test_zeros_behind_the_end_are_not_counted() -> None:
    for data, gz in (
        (archive(MEMBERS) + bytes(99), False),
        (gzip.compress(archive(MEMBERS)), True),
    ):
        ignored: dict[str, int] = {}
        list(read_tar(io.BytesIO(data), gz=gz, max_member_bytes=BIG, ignored=ignored))
        assert ignored == {}


@pytest.mark.parametrize("gz", [False, True])
def test_wherever_the_second_archive_is_cut_nothing_is_lost_in_silence(gz: bool) -> None:
    first, second = archive(MEMBERS), without_end(archive(MORE))
    for size in range(1, len(second), 97):
        data = gzip.compress(first) + gzip.compress(second, 0)[: size + 20]
        if not gz:
            data = first + second[:size]
        ignored: dict[str, int] = {}
        found = []
        broken = False
        try:
            for entry in read_tar(io.BytesIO(data), gz=gz, max_member_bytes=BIG, ignored=ignored):
                found.append((entry.name, entry.data))  # noqa: PERF401 - what came before counts
        except BrokenShard:
            broken = True

        assert found[: len(MEMBERS)] == MEMBERS, size
        assert broken or ignored == {"behind_end": 1}, size


def test_a_damaged_end_of_a_gzip_file_is_named_and_costs_no_member() -> None:
    packed = gzip.compress(archive(MEMBERS))
    for data in (packed[:-5], spoiled(packed, len(packed) - 6)):
        found, broken = read_until_broken(data, gz=True)

        assert [(e.name, e.data) for e in found] == MEMBERS
        assert broken is not None
        assert broken.code == Fault.TRUNCATED_SHARD
        assert broken.ended


def test_an_end_mark_behind_an_extended_header_is_damage() -> None:
    data = archive([("a.jpg", b"jpeg"), *LONG])
    at = data.index(b"././@PaxHeader")

    found, broken = read_until_broken(data[: at + 1024] + bytes(1024))

    assert [e.name for e in found] == ["a.jpg"]
    assert broken is not None
    assert not broken.ended


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("long", [False, True])
def test_links_have_their_targets(form: str, long: bool) -> None:
    if form == "ustar" and long:
        return
    target = "folder/" + "\N{SNOWMAN}" * (90 if long else 3) + ".jpg"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[form]) as tar:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            info = tarfile.TarInfo("b.jpg")
            info.type, info.linkname = kind, target
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("c.jpg"))

    found = [(e.kind, e.target, e.is_symbolic) for e in read(out.getvalue())]

    assert found == [("link", target, False), ("link", target, True), ("file", "", False)]


# ---------------------------------------------------------------- what breaks


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (bz2.compress(archive(MEMBERS)), "bunzip2"),
        (lzma.compress(archive(MEMBERS)), "unxz"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 900, "unzstd"),
        (b"\x04\x22\x4d\x18" + b"x" * 900, "unlz4"),
        (b"PK\x03\x04" + b"x" * 900, "zip"),
        (b"PAR1" + b"x" * 900, "parquet"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (b"no such key: 1.tar", "begins with b'no such key: 1.tar'"),
        (gzip.compress(gzip.compress(archive(MEMBERS))), "gunzip"),
    ],
)
def test_files_of_other_formats_are_named_with_what_helps(packed: bytes, said: str) -> None:
    found, broken = read_until_broken(packed, gz=packed.startswith(b"\x1f\x8b"))

    assert found == []
    assert broken is not None
    assert broken.code == Fault.UNREADABLE_SHARD
    assert said in broken.message


@pytest.mark.parametrize("cut", [516, 700, 1024])
def test_a_file_cut_right_behind_a_member_is_truncated_and_gives_that_member(cut: int) -> None:
    data = archive([("a.jpg", b"jpeg"), ("b.jpg", b"jpeg")])

    found, broken = read_until_broken(data[:cut])

    assert [e.data for e in found] == [b"jpeg"]
    assert broken is not None
    assert broken.code == Fault.TRUNCATED_SHARD


@pytest.mark.parametrize("gz", [False, True])
def test_a_cut_archive_yields_every_whole_member_before_the_cut(gz: bool) -> None:
    rng = random.Random(5)
    members = [(f"{n}.jpg", rng.randbytes(2000)) for n in range(40)]
    data = archive(members)
    whole = by_tarfile(data)

    for cut in (1, 511, 700, 20_000, 40_960 + 3, len(data) - 12_000):
        if gz:
            # stored, not deflated: so it is known how far a cut file reaches
            packed = gzip.compress(data, 0)
            found, broken = read_until_broken(packed[:cut], gz=True)
        else:
            found, broken = read_until_broken(data[:cut])
        reach = cut - 64 if gz else cut
        expected = [m for m in whole if m[2] + len(m[3]) <= reach]
        assert broken is not None
        assert as_tarfile(found)[: len(expected)] == expected
        assert len(found) - len(expected) <= 1
        if found:
            assert broken.code == Fault.TRUNCATED_SHARD


def test_damage_in_a_gzip_stream_leaves_the_members_before_it() -> None:
    rng = random.Random(6)
    data = archive([(f"{n}.jpg", rng.randbytes(2000)) for n in range(200)])
    packed = bytearray(gzip.compress(data, 6))
    at = len(packed) // 2
    packed[at : at + 200] = b"\xff" * 200

    found, broken = read_until_broken(bytes(packed), gz=True)

    assert broken is not None
    assert broken.code == Fault.TRUNCATED_SHARD
    assert 80 <= len(found) <= 110
    assert all(e.name == f"{n}.jpg" for n, e in enumerate(found))


def test_a_gzip_file_of_several_parts_is_one_archive() -> None:
    data = archive(MEMBERS)
    packed = gzip.compress(data[:3000]) + gzip.compress(data[3000:]) + b"\0" * 100

    found, broken = read_until_broken(packed, gz=True)

    assert broken is None
    assert as_tarfile(found) == by_tarfile(data)


@pytest.mark.parametrize(
    ("data", "gz", "code"),
    [
        (b"", False, Fault.EMPTY_FILE),
        (b"", True, Fault.EMPTY_FILE),
        (b"short", False, Fault.UNREADABLE_SHARD),
        (b"garbage!" * 500, False, Fault.UNREADABLE_SHARD),
        (b"\x1f\x8bnot gzip after all", True, Fault.UNREADABLE_SHARD),
        (archive(MEMBERS), True, Fault.UNREADABLE_SHARD),
        (gzip.compress(archive(MEMBERS)), False, Fault.UNREADABLE_SHARD),
        (gzip.compress(b"garbage!" * 500), True, Fault.UNREADABLE_SHARD),
        (gzip.compress(archive(MEMBERS))[:15], True, Fault.TRUNCATED_SHARD),
    ],
)
def test_what_is_no_archive_is_said_so(data: bytes, gz: bool, code: Fault) -> None:
    found, broken = read_until_broken(data, gz=gz)

    assert found == []
    assert broken is not None
    assert broken.code == code


def test_an_archive_of_end_blocks_is_empty_without_fault() -> None:
    assert read_until_broken(bytes(10_240)) == ([], None)


@pytest.mark.parametrize("field", ["checksum", "size", "huge size", "negative size"])
def test_a_damaged_header_after_good_members_truncates(field: str) -> None:
    data = bytearray(archive([("a.jpg", b"jpeg"), ("b.jpg", b"more")]))
    head = 1024
    if field == "checksum":
        data[head] ^= 1
    else:
        data[head + 124 : head + 136] = {
            "size": b"ninety\0\0\0\0\0\0",
            "huge size": b"\x80" + b"\x7f" * 11,
            "negative size": b"\xff" * 12,
        }[field]
        data[head + 148 : head + 156] = b" " * 8
        data[head + 148 : head + 156] = b"%06o\0 " % sum(data[head : head + 512])

    found, broken = read_until_broken(bytes(data))

    assert [e.name for e in found] == ["a.jpg"]
    assert broken is not None
    assert broken.code == Fault.TRUNCATED_SHARD


@given(st.binary(max_size=300))
def test_any_pax_record_is_survived(record: bytes) -> None:
    head = bytearray(archive([("PaxHeader", record)], tarfile.USTAR_FORMAT)[:512])
    head[156:157] = b"x"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    data = bytes(head) + record + bytes(-len(record) % 512) + archive([("a.jpg", b"jpeg")])

    found, _ = read_until_broken(data)

    assert len(found) <= 1


@settings(max_examples=examples(200))
@given(st.binary(max_size=2000), st.integers(0, 4000), st.booleans())
def test_no_bytes_raise_anything_but_a_broken_shard(junk: bytes, at: int, gz: bool) -> None:
    data = bytearray(archive(MEMBERS))
    data[at : at + len(junk)] = junk

    found, _ = read_until_broken(gzip.compress(data, 1) if gz else bytes(data), gz=gz)

    assert len(found) < 100


names = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=40
).filter(lambda name: len(name.encode()) <= 100 and not name.endswith("/"))


@given(st.lists(st.tuples(names, st.binary(max_size=3000)), max_size=8))
def test_what_is_written_reads_back(members: list[tuple[str, bytes]]) -> None:
    out = io.BytesIO()
    writer = TarWriter(out)

    offsets = [writer.add(name, data) for name, data in members]
    writer.close()

    found = read(out.getvalue())
    assert [(e.kind, e.name, e.offset, e.data) for e in found] == [
        ("file", name, at, data) for (name, data), at in zip(members, offsets, strict=True)
    ]


def test_fifty_thousand_members_take_seconds() -> None:
    out = io.BytesIO()
    writer = TarWriter(out)
    for number in range(50_000):
        writer.add(f"{number:08d}.txt", b"caption")
    writer.close()

    start = time.perf_counter()
    found = read(out.getvalue())

    assert len(found) == 50_000
    assert time.perf_counter() - start < 10
