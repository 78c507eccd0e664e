"""Whole nights over what real data does: files as crawlers deliver them, and what must come of it.

A new case is a function with the decorator ``@case``: it puts files below the world's incoming
folder (and changes its source where it needs to) and answers what the night must say of them. The
test at the end runs the night and compares it, with the promises, and with what readers make of
the published shards.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from sscd_ops.testing import make_tar, picture
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
    its code. ``left_out``: what is no sample and is counted (``batch show``), all of it. ``tars``:
    the sources are plain tars, so published bytes are compared with what ``tarfile`` reads there.
    """

    verdicts: Mapping[str, str]
    captions: Mapping[str, str] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    tars: bool = False


Case = Callable[[World, Path], Expected]
CASES: list[Case] = []


def case(made: Case) -> Case:
    """A night to run: called with the world and the folder of its day, which is there and empty."""
    CASES.append(made)
    return made


# ---------------------------------------------------------------- tars


@case
def links_and_devices_are_no_samples(world: World, day: Path) -> Expected:
    make_tar(day / "a.tar", [pair("good", picture(1))])
    with tarfile.open(day / "a.tar", "a") as tar:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return Expected({"good": "kept"}, left_out={"link": 1}, tars=True)


# ---------------------------------------------------------------- members that readers decode


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


# ---------------------------------------------------------------- parquet


# ---------------------------------------------------------------- folders and captions files


# ---------------------------------------------------------------- img2dataset


# ---------------------------------------------------------------- the night


@pytest.mark.parametrize("made", CASES, ids=lambda made: made.__name__)
def test_a_night_over(made: Case, world: World) -> None:
    day = world.incoming / DAY
    day.mkdir(parents=True)
    expected = made(world, day)

    world.night(DAY)

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
    assert_one_verdict_each(world, len(expected.verdicts))
    assert_witnesses_are_kept(world)
    assert_no_kept_copies(world)
    assert_catalog_and_files_agree(world)
    if expected.tars:
        assert_published_bytes(world)
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

    tars = [name for name in world.published() if name.endswith(".tar")]
    if not tars:
        return
    urls = [f"{world.storage.root}/{name}" for name in tars]
    read = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    kept = world.ask("SELECT shard_key FROM curation.kept")
    assert sorted(sample["__key__"] for sample in read) == sorted(r["shard_key"] for r in kept)
