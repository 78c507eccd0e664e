"""Whole nights over what real data does: files as crawlers deliver them, and what must come of it.

A new case is a function with the decorator ``@case``, in the section of its kind: it puts files
into the folder of the day (and changes the world's source where it needs to) and answers what the
night must say of them. Whole, it may look like this::

    @case
    def a_caption_that_is_no_text_is_quarantined(world: World, day: Path) -> Expected:
        make_tar(day / "a.tar", [*good(1), ("bad", {"jpg": picture(2), "txt": b"\\xff"})])
        return Expected(
            {**kept(1), "bad": "quarantined caption_not_utf8"}, messages={"bad": "utf-8"}, tars=True
        )

The test at the end runs the night and compares it, with the promises, and with what readers make of
the published shards. A case alone: ``pytest tests/integration/test_real_data.py -k its_name``.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.sparse import SPARSE
from sscd_ops.evaluation.empty import EMPTY
from sscd_ops.options import LimitsOptions
from sscd_ops.testing import Sample, encode, make_tar, picture, plant
from tests.integration.world import (
    World,
    assert_catalog_and_files_agree,
    assert_no_kept_copies,
    assert_one_verdict_each,
    assert_published_bytes,
    assert_witnesses_are_kept,
    pair,
)

DAY = "2026-11-01"


@dataclass(frozen=True)
class Expected:
    """What a night must say. Keys are samples' keys; of whole source shards, their file names.

    ``verdicts``: "kept", "removed exact", "quarantined bad_json" of every sample, all of them.
    ``captions``: some samples' captions. ``messages``: words that the message of a quarantined
    sample or of a source shard holds. ``faults``: every source shard with a fault of its own, and
    its code. ``left_out``: what is no sample and is counted (``batch show``), all of it.
    ``not_delivered``: rows of img2dataset that are no samples. ``tars``: the sources are plain
    tars, so published bytes are compared with what ``tarfile`` reads there.
    """

    verdicts: Mapping[str, str]
    captions: Mapping[str, str] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    tars: bool = False
    not_delivered: int = 0


Case = Callable[[World, Path], Expected]
CASES: list[Case] = []


def case(made: Case) -> Case:
    """A night to run: called with the world and the folder of its day, which is there and empty."""
    CASES.append(made)
    return made


# ---------------------------------------------------------------- what cases are made of


def packed(samples: Sequence[Sample]) -> bytes:
    """A tar's bytes, its last record filled up as GNU tar does."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for key, members in samples:
            for extension, data in members.items():
                add(tar, f"{key}.{extension}", data)
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", target: str = "", **of: Any) -> None:
    """A member; with a target, a link to it (a hard one where not said otherwise)."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    if target:
        info.type, info.linkname = tarfile.LNKTYPE, target
    for field_name, value in of.items():
        setattr(info, field_name, value)
    tar.addfile(info, io.BytesIO(data))


def good(*numbers: int) -> list[Sample]:
    """Ordinary samples k1, k2 ..."""
    return [pair(f"k{number}", picture(number)) for number in numbers]


def kept(*numbers: int) -> dict[str, str]:
    return {f"k{number}": "kept" for number in numbers}


# ---------------------------------------------------------------- tars


@case
def links_and_devices_are_no_samples(world: World, day: Path) -> Expected:
    make_tar(day / "a.tar", [pair("good", picture(1))])
    with tarfile.open(day / "a.tar", "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return Expected({"good": "kept"}, left_out={"link": 1}, tars=True)


@case
def joined_tars_are_read_on(world: World, day: Path) -> Expected:
    world.change_source(urls=(f"{world.incoming}/{{date}}/*",))
    first, second, third = packed(good(1)), packed(good(2, 3)), packed(good(4))
    (day / "plain.tar").write_bytes(first + second)
    (day / "named-as-plain.tar").write_bytes(
        gzip.compress(third) + bytes(99) + gzip.compress(packed(good(5)))
    )
    (day / "named-as-gzip.tar.gz").write_bytes(packed(good(6)) + bytes(512) + packed(good(7)))
    return Expected(kept(1, 2, 3, 4, 5, 6, 7))


@case
def what_is_joined_and_cannot_be_read_is_named(world: World, day: Path) -> Expected:
    world.change_source(urls=(f"{world.incoming}/{{date}}/*",))
    second = packed(good(90, 91))
    (day / "gz-and-plain.tar.gz").write_bytes(gzip.compress(packed(good(1))) + second)
    (day / "plain-and-gz.tar").write_bytes(packed(good(2)) + gzip.compress(second))
    (day / "damaged.tar").write_bytes(packed(good(3)) + b"?" + second[1:])
    (day / "cut.tar").write_bytes(packed(good(4)) + second[:700])
    (day / "cut.tar.gz").write_bytes(gzip.compress(packed(good(5))) + gzip.compress(second)[:-99])
    (day / "garbage.tar").write_bytes(packed(good(6)) + b"garbage" * 999)
    (day / "garbage.tar.gz").write_bytes(gzip.compress(packed(good(7))) + b"garbage" * 999)
    names = ["gz-and-plain.tar.gz", "plain-and-gz.tar", "damaged.tar", "cut.tar", "cut.tar.gz"]
    return Expected(
        kept(1, 2, 3, 4, 5, 6, 7, 90),
        faults=dict.fromkeys(names, "truncated_shard"),
        messages={
            "gz-and-plain.tar.gz": "then a tar that is not read: deliver it as a file of its own",
            "plain-and-gz.tar": "then a gzip file that is not read",
            "damaged.tar": "deliver it as a file of its own",
            "cut.tar": "its sample 'k90' is left out",
        },
        left_out={"behind_end": 2},
    )


@case
def what_is_packed_in_another_way_is_named_with_what_helps(world: World, day: Path) -> Expected:
    world.change_source(urls=(f"{world.incoming}/{{date}}/*",))
    make_tar(day / "good.tar", good(1))
    (day / "a.tar.bz2").write_bytes(bz2.compress(packed(good(2))))
    (day / "b.tar").write_bytes(lzma.compress(packed(good(2))))
    (day / "page.tar").write_bytes(b"<!DOCTYPE html><html>404 Not Found</html>")
    names = ["a.tar.bz2", "b.tar", "page.tar"]
    return Expected(
        kept(1),
        faults=dict.fromkeys(names, "unreadable_shard"),
        messages={
            "a.tar.bz2": "packed with bzip2: tars are read plain or packed with gzip: run bunzip2",
            "b.tar": "unxz",
            "page.tar": "a web page",
        },
    )


def linked(tar: tarfile.TarFile) -> None:
    """Samples whose second members are links, as GNU tar makes them of files with one inode."""
    add(tar, "one.jpg", picture(1))
    add(tar, "one.txt", b"a caption of two")
    add(tar, "other.jpg", picture(2))
    add(tar, "other.txt", target="./one.txt")
    add(tar, "copy.jpg", target="one.jpg")
    add(tar, "copy.txt", b"of the same picture")
    add(tar, "soft/here.jpg", picture(3))
    add(tar, "soft/here.txt", target="../one.txt", type=tarfile.SYMTYPE)
    add(tar, "soft/later.jpg", target="last.jpg", type=tarfile.SYMTYPE)
    add(tar, "soft/later.txt", b"its picture comes behind it")
    add(tar, "twice.jpg", picture(5))
    add(tar, "twice.txt", target="other.txt")
    add(tar, "soft/last.jpg", picture(4))
    add(tar, "soft/last.txt", target="one.txt")


def linked_samples() -> Expected:
    both = "a caption of two"
    return Expected(
        {
            "one": "removed exact",
            "other": "kept",
            "copy": "kept",
            "soft/here": "kept",
            "soft/later": "kept",
            "soft/last": "removed exact",
            "twice": "kept",
        },
        captions={
            "one": both,
            "other": both,
            "copy": "of the same picture",
            "soft/here": both,
            "soft/later": "its picture comes behind it",
            "soft/last": both,
            "twice": both,
        },
    )


@case
def links_give_what_they_lead_to(world: World, day: Path) -> Expected:
    with tarfile.open(day / "a.tar", "w") as tar:
        linked(tar)
    return linked_samples()


@case
def links_in_a_packed_tar_give_what_they_lead_to(world: World, day: Path) -> Expected:
    world.change_source(urls=(f"{world.incoming}/{{date}}/*.gz",))
    with tarfile.open(day / "a.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as tar:
        linked(tar)
    return linked_samples()


@case
def links_as_gnu_tar_makes_them_and_img2dataset_reads_them(world: World, day: Path) -> Expected:
    world.change_source(kind="img2dataset", urls=(f"{world.incoming}/{{date}}/*",))
    made = day.parent / "files"
    made.mkdir()
    for key, members in good(1, 2):
        for extension, data in members.items():
            (made / f"{key}.{extension}").write_bytes(data)
    (made / "k2.txt").unlink()
    (made / "k2.txt").hardlink_to(made / "k1.txt")
    (made / "k3.jpg").write_bytes(picture(3))
    (made / "k3.txt").hardlink_to(made / "k1.txt")
    names = sorted(file.name for file in made.iterdir())
    with tarfile.open(day / "00000.tar", "w") as tar:
        for name in names:
            tar.add(made / name, name)
    (day / "00001.tar.xz").write_bytes(b"\xfd7zXZ\0")
    (day / "00000_stats.json").write_bytes(b"{}")
    return Expected(kept(1, 2, 3), faults={"00001.tar.xz": "unreadable_shard"}, tars=True)


@case
def a_member_without_bytes_takes_its_sample_with_it(world: World, day: Path) -> Expected:
    world.change(limits=LimitsOptions(max_member_bytes=60_000))
    with tarfile.open(day / "a.tar", "w") as tar:
        add(tar, "k1.jpg", picture(1))
        add(tar, "k1.txt", b"good")
        add(tar, "nothing.jpg", picture(2))
        add(tar, "nothing.json", b'{"caption": "without what the link was"}')
        add(tar, "nothing.txt", target="gone.txt")
        add(tar, "outside.jpg", target="/etc/passwd", type=tarfile.SYMTYPE)
        add(tar, "outside.txt", b"no picture here")
        add(tar, "early.txt", target="late.txt")
        add(tar, "early.jpg", picture(3))
        add(tar, "late.jpg", picture(4))
        add(tar, "late.txt", b"a hard link leads back only")
        add(tar, "device.jpg", picture(5))
        add(tar, "device.json", b'{"caption": "x"}')
        add(tar, "device.txt", type=tarfile.FIFOTYPE)
        add(tar, "circle.jpg", picture(6))
        add(tar, "circle.json", b'{"caption": "x"}')
        add(tar, "circle.txt", target="circle.txt")
        add(tar, "large.jpg", picture(7))
        add(tar, "large.json", b'{"caption": "x"}')
        add(tar, "large.bin", bytes(60_001))
        add(tar, "link.jpg", picture(8))
        add(tar, "link.json", b'{"caption": "x"}')
        add(tar, "link.bin", target="large.bin")
        add(tar, "alone.jpg", target="gone.jpg")
    bad = dict.fromkeys(
        ["nothing", "outside", "early", "device", "circle"], "quarantined bad_member"
    )
    too_large = dict.fromkeys(["large", "link"], "quarantined member_too_large")
    return Expected(
        {"k1": "kept", "late": "kept", **bad, **too_large},
        messages={
            "nothing": "'nothing.txt' is a link to 'gone.txt', which is no file of the archive",
            "outside": "'outside.jpg' is a link to '/etc/passwd'",
            "early": "no file of the archive before it",
            "device": "'device.txt' is a device",
        },
        left_out={"link": 5, "device": 1},
    )


@case
def a_sparse_file_takes_its_sample_with_it(world: World, day: Path) -> Expected:
    """As `tar -S` writes it: in PAX its path is a made-up one."""
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    with tarfile.open(day / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "k1.jpg", picture(1))
        add(tar, "k1.txt", b"x")
        named = sparse | {"GNU.sparse.name": "k1.npy"}
        add(tar, "GNUSparseFile.7/k1.npy", b"1\n0\n9\n", pax_headers=named)
    return Expected(
        {"k1": "quarantined bad_member"},
        messages={"k1": "'k1.npy' is a sparse file"},
        left_out={"other": 1},
    )


NAMES = ("a::b", "c#d", "e?f", "g%20h", "i*j", "k[l]m", "n\no", "p q", "s:t", "u{v}", "~w")


@case
def tars_of_any_name_are_read(world: World, day: Path) -> Expected:
    for number, name in enumerate(NAMES):
        make_tar(day / f"{name}.tar", good(number))
    return Expected(kept(*range(len(NAMES))), tars=True)


@case
def pictures_of_any_name_are_read(world: World, day: Path) -> Expected:
    of_folder(world, captions_file="x::y.csv")
    pictures(day, *(f"{name}.jpg" for name in NAMES))
    with (day / "x::y.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "text"), *((f"{n}.jpg", n) for n in NAMES)])
    return Expected(dict.fromkeys(NAMES, "kept"), captions={name: name for name in NAMES})


@case
def names_of_every_system(world: World, day: Path) -> Expected:
    with tarfile.open(day / "a.tar", "w") as tar:
        for number, key in enumerate(
            ["./here", "here", "/abs/solute", "UPPER", "win\\v1.0\\a", "win\\v1.0\\b", "../up"]
        ):
            add(tar, f"{key.rpartition('/')[0]}/._x.jpg", b"AppleDouble")
            add(tar, f"{key}.JPG", picture(number))
            add(tar, f"__MACOSX/{key}/._x.txt", b"AppleDouble")
            add(tar, f"{key}.TXT", key.encode())
        add(tar, "folder.jpg", type=tarfile.DIRTYPE)
        add(tar, "folder.jpg/in.jpg", picture(50))
        add(tar, "folder.jpg/in.txt", b"x")
    keys = [
        "./here", "here", "/abs/solute", "UPPER", "win\\v1.0\\a", "win\\v1.0\\b", "../up",
        "folder.jpg/in",
    ]  # fmt: skip
    return Expected(
        dict.fromkeys(keys, "kept"),
        captions={key: key for key in keys[:-1]},
        left_out={"no_extension": 14, "directory": 1},
    )


# ---------------------------------------------------------------- members that readers decode


def array(*arrays: Any, **named: Any) -> bytes:
    """An .npy, or an .npz."""
    out = io.BytesIO()
    np.savez(out, **named) if named else np.save(out, arrays[0])
    return out.getvalue()


def put_beside(world: World, day: Path, members: Mapping[str, Mapping[str, bytes]]) -> None:
    """Good pictures with captions, and by key what stands beside them."""
    make_tar(
        day / "a.tar",
        [
            (key, {"jpg": picture(number), "json": b'{"caption": "good"}', **beside})
            for number, (key, beside) in enumerate(members.items())
        ],
    )


@case
def what_readers_fail_at_is_quarantined(world: World, day: Path) -> Expected:
    world.change_source(caption=("json:caption",))
    code = b"cos\nmkdir\n(S'" + str(world.base / "ran").encode() + b"'\ntR."
    members: dict[str, dict[str, bytes]] = {
        "latin-1": {"txt": b"caf\xe9"},
        "other-text": {"de.txt": b"caf\xe9"},
        "transcript": {"transcript": b"\xff"},
        "class": {"cls": b"cat"},
        "number": {"id": b"7.0"},
        "array": {"depth.npy": array(np.ones(99))[:-8]},
        "array-of-objects": {"npy": array(np.array([{}], object))},
        "arrays": {"npz": array(a=np.ones(99))[:-30]},
        "packed": {"mask.gz": b"not gzip"},
        "packed-text": {"txt.gz": gzip.compress(b"caf\xe9")},
        "tensor": {"ten": b"x"},
        "message": {"mp": b"\x92\x01"},
        "cbor": {"cbor": b"\x82\x01"},
        "pickle": {"pkl": pickle.dumps([1])[:-1]},
        "pickle-that-runs": {"pyd": code},
        "weights": {"pth": b"x"},
        "own-name": {"__url__": b"x"},
        "second-picture": {"2.png": b"<html>"},
        "empty-picture": {"thumb.webp": b""},
        "cut-picture": {"small.jpg": picture(99)[:-2000]},
    }
    texts = {
        "json": {"seg.json": b"{"},
        "jsn": {"jsn": b"{'a': 1}"},
        "jsn-with-nul": {"jsn": rb'["\u0000"]'},
    }
    world.change_source(image="jpg")
    put_beside(world, day, members | texts)
    return Expected(
        dict.fromkeys(members, "quarantined bad_member")
        | dict.fromkeys(texts, "quarantined bad_json"),
        messages={
            "latin-1": "member 'latin-1.txt' beside the picture, which readers decode: 'utf-8'",
            "class": "invalid literal for int",
            "pickle-that-runs": "runs code",
            "second-picture": "not_an_image",
            "empty-picture": "empty_image",
            "jsn": "member 'jsn.jsn'",
        },
    )


@case
def bombs_of_values_take_neither_memory_nor_time(world: World, day: Path) -> Expected:
    """A few kilobytes that would become gigabytes of lists, or lines indented by a million."""
    world.change_source(caption=("json:caption",), image="jpg")
    lists = b"[" + b"[]," * 5_100_000 + b"0]"
    members = {
        "packed": {"a.json.gz": gzip.compress(lists, 1)},
        "pickle": {"pkl": b"\x80\x04" + b"(" * 300_000 + b"N."},
    }
    put_beside(world, day, {**members, "json": {"seg.json": lists}})
    return Expected(
        {**dict.fromkeys(members, "quarantined bad_member"), "json": "quarantined bad_json"},
        messages={"packed": "more than 10000000 values", "json": "more than 10000000 values"},
    )


@case
def what_readers_decode_is_published(world: World, day: Path) -> Expected:
    world.change_source(caption=("json:caption",), image="jpg")
    members: dict[str, dict[str, bytes]] = {
        "text": {"txt": "caf\u00e9".encode(), "de.text": b""},
        "numbers": {"cls": b"7", "index": b" -1\n"},
        "arrays": {"npy": array(np.ones((3, 4), ">f4")), "a.npz": array(a=np.ones(3))},
        "packed": {
            "txt.gz": gzip.compress(b"x", mtime=0),
            "mask.gz": gzip.compress(b"\xff", mtime=0),
        },
        "json": {"jsn": b"[1, NaN]", "seg.json": b"null"},
        "pickle": {"pkl": pickle.dumps({"a": [1, 2.5, None, "x", (1, 2)]})},
        "pictures": {
            "jpeg": picture(90, 8, 8),
            "b.png": picture(91, 900, 10),
            "jfif": picture(92),
        },
        "unknown": {"bin": b"\xff", "mp4": b"\xff", "pt": b"\xff"},
    }
    put_beside(world, day, members)
    return Expected(dict.fromkeys(members, "kept"))


@case
def every_name_of_a_format_is_a_picture(world: World, day: Path) -> Expected:
    names = ["JPG", "jpe", "jfif", "jif", "pjpeg", "pjp"]
    make_tar(
        day / "a.tar",
        [(name, {name: picture(i), "txt": b"x"}) for i, name in enumerate(names)]
        + [("phone", {"HEIC": b"\0\0\0\x18ftypheic", "txt": b"x"})],
    )
    return Expected(
        {**dict.fromkeys(names, "kept"), "phone": "quarantined no_image"},
        messages={"phone": "no picture of this format is read: phone.HEIC"},
    )


# ---------------------------------------------------------------- pictures


def saved(form: str, seed: int, **options: object) -> bytes:
    """A picture of its own, 150x100, in a format."""
    out = io.BytesIO()
    Image.open(io.BytesIO(picture(seed, 150, 100))).save(out, form, **options)
    return out.getvalue()


def turned_and_odd() -> bytes:
    """EXIF with an orientation of 6 beside a resolution below zero."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x011A, 10, 1, 38)
    body = struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<ii", -72, 1)
    return b"Exif\0\0II*\0" + body


@case
def exif_with_an_odd_tag_costs_no_picture(world: World, day: Path) -> Expected:
    forms = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
    samples = [
        (form.lower(), {extension: saved(form, seed, exif=turned_and_odd()), "txt": b"a caption"})
        for seed, (form, extension) in enumerate(forms.items(), 1)
    ]
    make_tar(day / "a.tar", samples)
    return Expected(dict.fromkeys(("jpeg", "png", "webp"), "kept"), tars=True)


@case
def what_stands_behind_the_pixels_costs_no_picture(world: World, day: Path) -> Expected:
    png = saved("PNG", 1)
    pixels_end = png.rindex(b"IEND") - 4
    samples = [
        ("garbage", {"jpg": saved("JPEG", 2) + b"garbage" * 99, "txt": b"a caption"}),
        ("no-end", {"png": png[:pixels_end], "txt": b"a caption"}),
        ("cut", {"jpg": saved("JPEG", 3)[:-40], "txt": b"a caption"}),
    ]
    make_tar(day / "a.tar", samples)
    return Expected(
        {"garbage": "kept", "no-end": "kept", "cut": "quarantined undecodable"}, tars=True
    )


@case
def a_picture_that_takes_too_much_memory_is_told_so(world: World, day: Path) -> Expected:
    world.change(limits={"decode_memory": 200 << 20})
    out = io.BytesIO()
    Image.new("RGBA", (5000, 5000), (9, 9, 9, 99)).save(out, "WEBP", lossless=True, method=0)
    make_tar(day / "a.tar", [pair("good", picture(1)), pair("dear", out.getvalue())])
    return Expected(
        {"good": "kept", "dear": "quarantined decoder_limit"},
        messages={"dear": "limits.decode_memory"},
        tars=True,
    )


def drawn(kind: str, count: int) -> list[bytes]:
    """Made pictures of a kind, all different."""
    chance = np.random.default_rng(1)
    return [{**EMPTY, **SPARSE}[kind](chance) for _ in range(count)]


def put_all(day: Path, extension: str, images: Sequence[bytes]) -> dict[str, str]:
    """A tar of them, and what must come of it: all are kept."""
    members = [{extension: data, "txt": b"a caption"} for data in images]
    make_tar(day / "a.tar", [(f"k{number}", each) for number, each in enumerate(members)])
    return {f"k{number}": "kept" for number in range(len(images))}


@case
def white_drawings_on_nothing_are_no_copies(world: World, day: Path) -> Expected:
    return Expected(put_all(day, "png", drawn("white_on_nothing", 6)), tars=True)


@case
def greys_of_few_bits_are_no_copies(world: World, day: Path) -> Expected:
    images = []
    for bits in (9, 10, 12):
        for seed in range(3):
            grey = Image.open(io.BytesIO(picture(3 * bits + seed))).convert("L")
            deep = np.asarray(grey, float) / 255 * (2**bits - 1)
            out = io.BytesIO()
            Image.fromarray(deep.astype(np.uint16)).save(out, "PNG")
            images.append(out.getvalue())
    return Expected(put_all(day, "png", images), tars=True)


@case
def animations_that_begin_alike_are_no_copies(world: World, day: Path) -> Expected:
    return Expected(put_all(day, "gif", drawn("late_start", 12)), tars=True)


def sheets(*colours: Any) -> list[bytes]:
    """Pictures of one colour each."""
    return [encode(Image.new("RGB", (120, 90), colour), 90) for colour in colours]


def skies() -> list[bytes]:
    """Two that darken upwards, and one that does so sideways."""
    fall = np.linspace(0, 60, 90)[:, None, None].repeat(120, 1)
    aside = np.linspace(0, 60, 120)[None, :, None].repeat(90, 0)
    blue = np.array([120, 160, 190])
    each = (fall + blue, fall + blue - 30, aside + blue)
    return [encode(Image.fromarray(sky.astype(np.uint8)), 90) for sky in each]


@case
def plain_sheets_are_copies_of_equal_bytes_alone(world: World, day: Path) -> Expected:
    images = [*sheets("white", "#f4f4f4", "#888888", "#202020", "black"), *skies()]
    images += [plant(images[1], "jpeg_40"), plant(images[6], "half_size")]
    expected = put_all(day, "jpg", images)
    make_tar(day / "b.tar", [pair("again", images[1], "x"), pair("sky", images[6], "x")])
    return Expected({**expected, "again": "removed exact", "sky": "removed exact"}, tars=True)


@case
def plain_pictures_may_be_quarantined(world: World, day: Path) -> Expected:
    world.change(duplicates={"plain": "quarantine"})
    make_tar(day / "a.tar", [pair("good", picture(1)), *map(pair, "ab", sheets("red", "blue"))])
    refused = dict.fromkeys("ab", "quarantined too_plain")
    return Expected(
        {"good": "kept", **refused}, messages=dict.fromkeys("ab", "duplicates.plain"), tars=True
    )


@case
def a_missing_caption_of_pandas_is_none(world: World, day: Path) -> Expected:
    """``str`` and ``json`` of NaN are words; what the json member says of the caption counts."""
    texts = {"nan": b'{"caption": NaN}', "None": b'{"caption": null}', "real": b"{}"}
    samples = [
        (key, {"jpg": picture(i), "txt": b"nan" if key == "real" else key.encode(), "json": data})
        for i, (key, data) in enumerate(texts.items())
    ]
    samples.append(("alone", {"jpg": picture(8), "json": b'{"caption": NaN}'}))
    make_tar(day / "a.tar", samples)
    missing = dict.fromkeys(["nan", "None", "alone"], "quarantined missing_caption")
    return Expected(missing | {"real": "kept"}, captions={"real": "nan"}, tars=True)


# ---------------------------------------------------------------- parquet


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def of_parquet(world: World, **options: Any) -> None:
    world.change_source(
        kind="parquet",
        urls=(f"{world.incoming}/{{date}}/*.parquet",),
        **({"key_column": "id"} | options),
    )


@case
def missing_captions_of_every_type_are_missing(world: World, day: Path) -> Expected:
    of_parquet(world)
    columns = {
        "float": pa.array([float("nan"), None]),
        "half": pa.array([float("nan"), None], pa.float16()),
        "list": pa.array([[float("nan"), None], []], pa.list_(pa.float64())),
        "text": pa.array([None, "nan"]),
        "times": pa.array([None, None], pa.timestamp("ns")),
        "nothing": pa.nulls(2),
    }
    for i, (name, values) in enumerate(columns.items()):
        ids = [f"{name}{n}" for n in range(2)]
        images = [picture(2 * i), picture(2 * i + 1)]
        table = {"id": ids, "image": images, "caption": values}
        pq.write_table(pa.table(table), day / f"{name}.parquet")
    missing = {f"{name}{n}": "quarantined missing_caption" for name in columns for n in range(2)}
    return Expected(missing | {"text1": "kept"}, captions={"text1": "nan"})


@case
def a_key_that_is_not_a_number_is_none(world: World, day: Path) -> Expected:
    of_parquet(world)
    table = {"id": [1.0, float("nan")], "image": [picture(1), picture(2)], "caption": ["a", "b"]}
    pq.write_table(pa.table(table), day / "a.parquet")
    return Expected({"1.0": "kept", "000000001": "quarantined bad_key"})


@case
def pictures_lie_in_columns_of_many_types(world: World, day: Path) -> Expected:
    of_parquet(world)
    one = [picture(i) for i in range(20)]
    columns = {
        "large": pa.array([one[0]], pa.large_binary()),
        "view": pa.array([one[1]], pa.binary_view()),
        "dictionary": pa.array([one[2]]).dictionary_encode(),
        "list": pa.array([[one[3]]]),
        "structs": pa.array([[{"bytes": one[4], "path": "x.png"}]], pa.list_(STRUCT)),
        "gaps": pa.array([[None, one[5]]], pa.list_(pa.binary())),
        "two": pa.array([[one[6], one[7]]]),
        "none": pa.array([[]], pa.list_(pa.binary())),
        "null": pa.array([None], pa.list_(STRUCT)),
        "nothing": pa.nulls(1),
        "path": pa.array([{"bytes": None, "path": "images/a.jpg"}], STRUCT),
        "paths": pa.array([[{"bytes": None, "path": "images/a.jpg"}]], pa.list_(STRUCT)),
    }
    for name, values in columns.items():
        table = {"id": [name], "image": values, "caption": [name]}
        pq.write_table(pa.table(table), day / f"{name}.parquet")
    no_image = dict.fromkeys(["none", "null", "nothing", "path", "paths"], "quarantined no_image")
    kept = dict.fromkeys(["large", "view", "dictionary", "list", "structs", "gaps"], "kept")
    return Expected(
        kept | no_image | {"two": "quarantined several_images"},
        messages={"path": "only the path 'images/a.jpg'", "two": "0.jpg, 1.jpg"},
    )


@case
def one_picture_of_several_may_be_named(world: World, day: Path) -> Expected:
    of_parquet(world, image="1.jpg")
    table = {"id": ["a.0"], "image": [[picture(1), picture(2)]], "caption": ["a"]}
    pq.write_table(pa.table(table), day / "a.parquet")
    return Expected({"a.0": "kept"})


@case
def columns_without_bytes_are_named(world: World, day: Path) -> Expected:
    of_parquet(world)
    columns = {
        "base64": pa.array(["/9j/" + "A" * 200]),
        "data": pa.array(["data:image/png;base64,iVBORw0KGgo="]),
        "paths": pa.array(["images/a.jpg"]),
        "arrays": pa.array([[[1, 2, 3]]], pa.list_(pa.list_(pa.uint8()))),
        "struct": pa.array([{"data": b"x"}]),
        "deep": pa.array([{"image": {"bytes": b"x"}}]),
    }
    for name, values in columns.items():
        table = {"id": [name], "image": values, "caption": [name], "jpg": [picture(1)]}
        pq.write_table(pa.table(table), day / f"{name}.parquet")
    words = {"base64": "base64", "data": "data: URLs", "paths": "such as 'images/a.jpg'"}
    kinds = {"arrays": "list<", "struct": "struct<data: binary>", "deep": "struct<image: "}
    return Expected(
        {},
        faults={f"{name}.parquet": "unreadable_shard" for name in columns},
        messages={f"{name}.parquet": word for name, word in (words | kinds).items()}
        | {"paths.parquet": "the file has: id, image, caption, jpg; image_column may be: jpg"},
    )


@case
def damaged_and_encrypted_parquet_files_are_faults(world: World, day: Path) -> Expected:
    of_parquet(world)
    table = {"id": ["a"], "image": [picture(1)], "caption": ["a"]}
    out = io.BytesIO()
    pq.write_table(pa.table(table), out)
    (day / "cut.parquet").write_bytes(out.getvalue()[:-300])
    (day / "encrypted.parquet").write_bytes(b"PARE" + out.getvalue()[4:-4] + b"PARE")
    pq.write_table(pa.table(table).slice(0, 0), day / "no_rows.parquet")
    with pq.ParquetWriter(day / "no_groups.parquet", pa.table(table).schema):
        pass
    twice = pa.table([pa.array([picture(2)])] * 2, names=["image", "image"])
    pq.write_table(twice.append_column("id", pa.array(["b"])), day / "twice.parquet")
    return Expected(
        {},
        faults={
            "cut.parquet": "unreadable_shard",
            "encrypted.parquet": "unreadable_shard",
            "no_rows.parquet": "empty_shard",
            "no_groups.parquet": "empty_shard",
            "twice.parquet": "unreadable_shard",
        },
        messages={"encrypted.parquet": "ncrypt", "twice.parquet": "several columns are named"},
    )


# ---------------------------------------------------------------- folders and captions files


def of_folder(world: World, **options: Any) -> None:
    world.change_source(kind="folder", urls=(f"{world.incoming}/{{date}}",), **options)


def pictures(day: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (day / name).parent.mkdir(parents=True, exist_ok=True)
        (day / name).write_bytes(picture(number))


@case
def pictures_of_every_name_are_read_or_named(world: World, day: Path) -> Expected:
    of_folder(world)
    pictures(day, "a.jpe", "b.JFIF", "c.HEIC", "d.svg", "e.jpg", "e.dng", "f.psd", "f.TXT")
    for stem in ("a", "b", "c", "d", "e", "f", "empty"):
        (day / f"{stem}.txt").write_text(stem)
    (day / "empty.jpg").write_bytes(b"")
    read = dict.fromkeys("abe", "kept") | dict.fromkeys("cdf", "quarantined no_image")
    return Expected(
        read | {"empty": "quarantined empty_image"},
        messages={"c": "no picture of this format is read: c.HEIC"},
        left_out={"unread_image_beside": 1, "caption_file_again": 1},
    )


@case
def whatever_else_lies_in_a_folder_is_counted(world: World, day: Path) -> Expected:
    of_folder(world)
    pictures(day, "a.jpg", ".hidden.jpg", "_temporary/0/a.jpg", "b.jpg.part", "notes.md")
    for name in ("a.txt", "lost.txt", "lost.json"):
        (day / name).write_text("{}")
    elsewhere = world.base / "elsewhere"
    pictures(elsewhere, "x.jpg")
    (day / "folder").symlink_to(elsewhere)
    (day / "broken.jpg").symlink_to(elsewhere / "gone.jpg")
    (day / "linked.jpg").symlink_to(elsewhere / "x.jpg")
    os.mkfifo(day / "pipe.jpg")
    (day / os.fsdecode(b"caf\xe9.jpg")).write_bytes(picture(9))
    return Expected(
        {"a": "kept", "linked": "quarantined missing_caption"},
        left_out={
            "hidden_file": 2,
            "unfinished_file": 1,
            "other_file": 1,
            "caption_file_without_image": 2,
            "link_to_folder": 1,
            "broken_link": 1,
            "special_file": 1,
            "name_not_utf8": 1,
        },
    )


@case
def a_folder_of_unfinished_files_alone_is_a_fault(world: World, day: Path) -> Expected:
    of_folder(world)
    pictures(day, "a.jpg.part")
    faults = {DAY: "empty_shard"}
    return Expected({}, faults=faults, left_out={"unfinished_file": 1})


@case
def a_picture_is_named_in_many_ways(world: World, day: Path) -> Expected:
    of_folder(world, captions_file="metadata.csv")
    accents = "caf\u00e9"
    named = {
        "dot": "./dot.jpg",
        "deep/back": "deep\\back.jpg",
        unicodedata.normalize("NFD", accents): f"{accents}.jpg",
        "case": "Case.JPG",
        "a space": "a%20space.jpg",
        "100%25": "100%25.jpg",
        "whole": f"{day}/whole.jpg",
        "twice": "twice.jpg",
        "TWICE": "TWICE.jpg",
    }
    pictures(day, *(f"{key}.jpg" for key in named))
    rows = "".join(f'"{name}",{number}\n' for number, name in enumerate(named.values()))
    (day / "metadata.csv").write_text(
        f"file_name,text\n{rows}Twice.jpg,which\n./dot.jpg,again\ngone.jpg,gone\n"
    )
    return Expected(
        dict.fromkeys(named, "kept"),
        captions={key: str(number) for number, key in enumerate(named)},
        left_out={"caption_row_without_image": 2, "caption_row_again": 1},
    )


def rows_of(name: str) -> list[tuple[str, str]]:
    return [(f"{name}-0.jpg", 'one, \u00e4\n"quoted"'), (f"{name}-1.jpg", "two")]


def table_of(name: str, delimiter: str = ",", columns: str = "file_name text") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([columns.split(), *rows_of(name)])
    return out.getvalue()


def json_rows(name: str) -> list[dict[str, str]]:
    return [{"file_name": file, "text": text} for file, text in rows_of(name)]


@case
def captions_files_of_many_forms_are_read(world: World, day: Path) -> Expected:
    """None has an ending: what it is says itself."""
    world.change_source(
        kind="folder", urls=(f"{world.incoming}/{{date}}/*",), captions_file="captions"
    )
    forms = {
        "comma": table_of("comma"),
        "semicolon": table_of("semicolon", ";"),
        "tab": table_of("tab", "\t"),
        "bar": table_of("bar", "|"),
        "excel": "sep=;\r\n" + table_of("excel", ";"),
        "columns": table_of("columns", columns="Image Caption"),
        "others": table_of("others", columns="img_path description"),
        "bom8": "\ufeff" + table_of("bom8"),
        "jsonl": "\n".join(json.dumps(row) for row in json_rows("jsonl")),
        "array": json.dumps(json_rows("array"), indent=1),
    }
    data = {name: text.encode() for name, text in forms.items()}
    data |= {
        "utf16": table_of("utf16", "\t").encode("utf-16"),
        "utf16be": b"\xfe\xff" + table_of("utf16be", ";").encode("utf-16-be"),
        "utf32": table_of("utf32").encode("utf-32"),
        "packed": gzip.compress(table_of("packed").encode()),
    }
    for name, written in data.items():
        (day / name).mkdir()
        (day / name / "captions").write_bytes(written)
    keys = [f"{name}-{number}" for name in data for number in range(2)]
    for number, key in enumerate(keys):
        (day / key.split("-")[0] / f"{key}.jpg").write_bytes(picture(number))
    captions = {Path(file).stem: text for name in data for file, text in rows_of(name)}
    return Expected(dict.fromkeys(keys, "kept"), captions=captions)


@case
def an_object_of_names_and_captions_is_read(world: World, day: Path) -> Expected:
    of_folder(world, captions_file="captions.json")
    pictures(day, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    document = {"a.jpg": "A", "b.jpg": {"caption": "B", "n": 1}, "c.jpg": None}
    (day / "captions.json").write_text(json.dumps(document))
    missing = dict.fromkeys("cd", "quarantined missing_caption")
    return Expected({"a": "kept", "b": "kept"} | missing, captions={"a": "A", "b": "B"})


@case
def captions_files_that_are_unclear_are_faults(world: World, day: Path) -> Expected:
    world.change_source(
        kind="folder", urls=(f"{world.incoming}/{{date}}/*",), captions_file="captions"
    )
    world.change(limits=LimitsOptions(max_member_bytes=200_000))
    good = "file_name,text\na.jpg,caption\n"
    coco = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}
    unclear = {
        "empty": (b"", "it has no rows"),
        "no_rows": (b"file_name,text\n", "it has no rows"),
        "no_header": (b"a.jpg,caption\n", "the first line is 'a.jpg,caption'"),
        "no_name": (b'{"uid": 1, "text": "a"}\n' * 2, "the first has: uid, text"),
        "no_caption": (b"file_name,words\na.jpg,caption\n", "there are: file_name, words"),
        "others": (b"file_name,text\nx/b.png,caption\n", "rows name 'x/b.png'; pictures are"),
        "twice": (b"file_name,text,text\na.jpg,b,c\n", "column 'text' is there twice"),
        "open": (b'file_name,text\na.jpg,"caption\nb.jpg,b\n', "a quote is never closed"),
        "no_mark": (good.encode("utf-16-le"), "without a byte order mark"),
        "half": (good.encode("utf-16")[:-1], "its byte order mark says utf-16"),
        "coco": (json.dumps(coco).encode(), "its keys are: images, annotations"),
        "columns": (b'{"file_name": {"0": "a.jpg"}, "text": {"0": "a"}}', "none of its 2 rows"),
        "parquet": (b"PAR1" + bytes(20), "it is a parquet file"),
        "sheet": (b"PK\x03\x04" + bytes(20), "a spreadsheet"),
        "cut": (gzip.compress(good.encode())[:-9], "gzip data is damaged"),
        "bomb": (gzip.compress(bytes(300_000)), "unpacks to more than 200000 bytes"),
        "large": (good.encode().ljust(200_001), "more than 200000 bytes (limits.max_member_bytes)"),
    }
    for name, (data, _) in unclear.items():
        pictures(day / name, "a.jpg")
        (day / name / "captions").write_bytes(data)
    pictures(day / "missing", "a.jpg")
    return Expected(
        {},
        faults=dict.fromkeys([*unclear, "missing"], "unreadable_shard"),
        messages={name: words for name, (_, words) in unclear.items()}
        | {"missing": "captions': it is not there"},
        left_out={"caption_row": 2},
    )


@case
def odd_rows_of_a_table_are_never_words_of_another(world: World, day: Path) -> Expected:
    of_folder(world, captions_file="captions.csv", columns=("n",))
    lines = {
        "good": b"caption,1",
        "more": b"a cat, a dog,1",
        "trailing": b"caption,1,,",
        "short": b"caption",
        "nothing": b"",
        "empty": b",1",
        "quotes": b'"",1',
        "NaN": b"NaN,1",
        "nan": b"nan,1",
        "NA": b"<NA>,1",
        "of-R": b"NA,1",
        "of-Excel": b"#N/A,1",
        "text": b"a nan,1",
        "nul": b"cap\0tion,1",
        "stray": b'"a "small" cat",1',
        "latin": b"caf\xe9,1",
        "late": b"caption,1",
    }
    for number, key in enumerate(lines):
        (day / f"{key}.jpg").write_bytes(picture(number))
    data = b"\n".join(f"{key}.jpg,".encode() + line for key, line in lines.items())
    data += "\ncaf\u00e9.jpg,caption".encode("latin-1")
    (day / "captions.csv").write_bytes(b"file_name,text,n\n" + data)
    kept = ["good", "trailing", "short", "text", "late"]
    missing = dict.fromkeys(lines, "quarantined missing_caption")
    return Expected(
        missing
        | dict.fromkeys(kept, "kept")
        | {
            "nul": "quarantined caption_forbidden_character",
            "latin": "quarantined caption_not_utf8",
        },
        captions={"good": "caption", "text": "a nan"},
        messages={"latin": "save that file as UTF-8"},
        left_out={"caption_row": 2, "caption_row_not_utf8": 1},
    )


@case
def missing_captions_of_jsonl_are_missing(world: World, day: Path) -> Expected:
    of_folder(world, captions_file="metadata.jsonl")
    captions = {"a": "NaN", "b": "null", "c": '"nan"', "d": 'NaN, "text": "words"', "e": "[NaN]"}
    lines = [f'{{"file_name": "{key}.jpg", "caption": {word}}}' for key, word in captions.items()]
    (day / "metadata.jsonl").write_text("\r\n".join(lines))
    pictures(day, *(f"{key}.jpg" for key in captions))
    missing = dict.fromkeys("abe", "quarantined missing_caption")
    return Expected(missing | {"c": "kept", "d": "kept"}, captions={"c": "nan", "d": "words"})


@case
def pictures_without_a_row_are_counted_where_they_are_kept(world: World, day: Path) -> Expected:
    of_folder(world, captions_file="metadata.csv", missing_caption="keep")
    pictures(day, "a.jpg", "b.jpg", "c.jpg")
    (day / "metadata.csv").write_text("file_name,text\na.jpg,A\n")
    return Expected(dict.fromkeys("abc", "kept"), left_out={"image_without_caption_row": 2})


# ---------------------------------------------------------------- img2dataset


def of_img2dataset(world: World) -> None:
    world.change_source(kind="img2dataset", urls=(f"{world.incoming}/{{date}}/*",))


def statuses(path: Path, rows: Mapping[str, str], **columns: Any) -> None:
    """The parquet of a shard: key -> status."""
    table = {"key": list(rows), "status": list(rows.values())}
    errors = [None if status == "success" else "HTTP Error 404" for status in rows.values()]
    pq.write_table(pa.table(table | {"error_message": errors} | columns), path)


@case
def parquet_files_that_do_not_fit_their_tars_are_named(world: World, day: Path) -> Expected:
    of_img2dataset(world)
    for number in range(6):
        make_tar(
            day / f"{number:05d}.tar",
            [pair(f"{number}-{i}", picture(9 * number + i)) for i in (0, 1)],
        )
        (day / f"{number:05d}_stats.json").write_text("{}")
    statuses(day / "00000.parquet", {"0-0": "success", "0-1": "success", "0-2": "failed"})
    (day / "00001.parquet").write_bytes(b"PAR1 no more")
    statuses(day / "00002.parquet", {"x-0": "success", "x-1": "success", "x-2": "failed"})
    statuses(day / "00003.parquet", {"3-0": "success", "3-1": "success", "3-2": "success"})
    statuses(day / "00004.parquet", {"4-0": "success", "4-1": "failed"})
    keys = [f"{number}-{i}" for number in range(6) for i in (0, 1)]
    return Expected(
        dict.fromkeys(keys, "kept"),
        faults={
            "00001.tar": "unreadable_shard",
            "00002.tar": "unreadable_shard",
            "00003.tar": "truncated_shard",
            "00004.tar": "unreadable_shard",
        },
        messages={
            "00001.tar": "not counted",
            "00002.tar": "is of another run",
            "00003.tar": "1 rows with status success have no sample here ('3-2')",
            "00004.tar": "1 samples are in no such row ('4-1')",
        },
        tars=True,
        not_delivered=2,
    )


@case
def other_forms_of_img2dataset_are_named(world: World, day: Path) -> Expected:
    of_img2dataset(world)
    statuses(day / "00000.parquet", {"a": "success"}, jpg=[picture(1)])
    (day / "00000_stats.json").write_text("{}")
    (day / "00001.tfrecord").write_bytes(bytes(100))
    return Expected(
        {},
        faults=dict.fromkeys(["00000.parquet", "00001.tfrecord"], "unreadable_shard"),
        messages={
            "00000.parquet": 'is read with kind = "parquet" and image_column = "jpg"',
            "00001.tfrecord": "output_format = 'webdataset'",
        },
    )


@case
def parquet_files_with_pictures_of_img2dataset_are_read(world: World, day: Path) -> Expected:
    of_parquet(world, image_column="jpg", key_column="key")
    rows = {"a": "success", "b": "failed_to_download", "c": "success", "d": "failed_to_resize"}
    images = [picture(1), None, None, picture(2)]
    statuses(day / "00000.parquet", rows, jpg=images, caption=["a", "b", "c", None])
    return Expected(
        {"a": "kept", "c": "quarantined no_image", "d": "quarantined missing_caption"},
        not_delivered=1,
    )


@case
def files_of_img2dataset_are_a_folder(world: World, day: Path) -> Expected:
    of_folder(world)
    pictures(day, "00000/000000000.jpg", "00000/000000002.jpg")
    for stem, caption in (("000000000", "A"), ("000000002", "")):
        (day / f"00000/{stem}.txt").write_text(caption)
        (day / f"00000/{stem}.json").write_text(json.dumps({"caption": caption or None}))
    (day / "00000_stats.json").write_text("{}")
    statuses(day / "00000.parquet", {"000000000": "success", "000000001": "failed_to_download"})
    return Expected(
        {"00000/000000000": "kept", "00000/000000002": "quarantined empty_caption"},
        left_out={"other_file": 1, "caption_file_without_image": 1},
    )


# ---------------------------------------------------------------- the night


@pytest.mark.parametrize("made", CASES, ids=lambda made: made.__name__)
def test_a_night_over(made: Case, world: World) -> None:
    day = world.incoming / DAY
    day.mkdir(parents=True)
    expected = made(world, day)

    report = world.night(DAY)

    samples = world.ask("SELECT * FROM curation.samples")
    assert world.verdicts() == expected.verdicts
    assert len(samples) == len(expected.verdicts), "a key twice"
    quarantined = world.ask("SELECT * FROM curation.quarantined")
    faulty = {Path(r["source_shard"]).name: r for r in quarantined if r["key"] is None}
    assert {name: row["reason"] for name, row in faulty.items()} == expected.faults
    messages = faulty | {row["key"]: row for row in quarantined if row["key"] is not None}
    for name, words in expected.messages.items():
        assert words in messages[name]["message"]
    captions = {row["key"]: row["caption"] for row in samples}
    assert {key: captions[key] for key in expected.captions} == expected.captions
    assert left_out(world) == expected.left_out
    assert report.counts.not_delivered == expected.not_delivered
    assert_one_verdict_each(world, len(expected.verdicts))
    assert_witnesses_are_kept(world)
    assert_no_kept_copies(world)
    assert_catalog_and_files_agree(world)
    if expected.tars:
        assert_published_bytes(world)
    assert_readers_decode_what_is_published(world)


def test_a_mended_member_is_read_from_a_file_of_another_name(world: World) -> None:
    """As docs/operations.md says."""
    members = {"jpg": picture(1), "txt": b"x"}
    world.put(DAY, "a.tar", [("k", {**members, "cls": b"cat"})])
    world.night(DAY)
    assert world.verdicts() == {"k": "quarantined bad_member"}

    world.put(DAY, "b.tar", [("k", {**members, "cls": b"7"})])
    world.night(DAY, supplement=True)

    found = world.ask("SELECT source_shard, verdict FROM curation.samples")
    assert {row["source_shard"].rpartition("/")[2]: row["verdict"] for row in found} == {
        "a.tar": "quarantined",
        "b.tar": "kept",
    }
    assert_readers_decode_what_is_published(world)


def left_out(world: World) -> dict[str, int]:
    """What `batch show` counts as no sample."""
    counted: dict[str, int] = {}
    for row in world.ask("SELECT counts FROM sscd_ops.source_shards WHERE counts IS NOT NULL"):
        for kind, number in row["counts"].get("ignored_entries", {}).items():
            counted[kind] = counted.get(kind, 0) + number
    return counted


def assert_readers_decode_what_is_published(world: World) -> None:
    """The default decoders of webdataset, and those of `datasets`, take every published shard."""
    import webdataset
    from datasets.packaged_modules.webdataset.webdataset import WebDataset
    from datasets.utils.file_utils import ArchiveIterable

    urls = [f"{world.storage.root}/{name}" for name in world.published() if name.endswith(".tar")]
    if not urls:
        return
    kept = sorted(row["shard_key"] for row in world.ask("SELECT shard_key FROM curation.kept"))
    for decoded in (
        webdataset.WebDataset(urls, shardshuffle=False).decode("pil"),
        webdataset.WebDataset(urls, shardshuffle=False).decode(),
    ):
        assert sorted(sample["__key__"] for sample in decoded) == kept
    found = [
        sample["__key__"]
        for url in urls
        # without Arrow's types, which may differ from sample to sample (docs/publishing.md)
        for sample in WebDataset._get_pipeline_from_tar(url, ArchiveIterable.from_urlpath(url))
    ]
    assert sorted(found) == kept
