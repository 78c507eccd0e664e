"""Seven nights of tars made by chance, good, odd and damaged: no night ends, nothing is lost."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from sscd_ops.testing import picture
from tests.integration.world import (
    World,
    assert_catalog_and_files_agree,
    assert_no_kept_copies,
    assert_one_verdict_each,
    assert_witnesses_are_kept,
    plain,
)
from tests.soak import seeds

NIGHTS = [f"2026-11-{day:02d}" for day in range(1, 8)]

KEYS = [
    "plain{}", "a/b/{}", "dotted.{}.name", "../../{}", "/abs/{}", "späce {}", "{}\nnew line",
    "x" * 120 + "{}", "{}-\udcff", "C:\\{}", "{}'; DROP TABLE samples; --", "-{}", "{}%20\t",
    "a//{}", "Dr. Strange " + "and more " * 9 + "{}",
]  # fmt: skip
LONG = "and more " * 9 + ".jpg"
CAPTIONS = [
    b"a plain caption", b"", b"   ", b"nul \x00 inside", b"\xff\xfe not utf-8", b"x" * 70_000,
    "\u202eturned \U0001f600".encode(), b"\xed\xa0\x80 a lone surrogate", b'"; \\ \' \t\r\n', None,
]  # fmt: skip
DOCUMENTS = [
    b"{}", b"[1, 2]", b"null", b"{", b'{"a": NaN, "b": 1e400}', b'{"a": "\\u0000\\ud800"}',
    b'{"url": 5}', b'{"url": {"deep": [1, {"x": null}]}}', b'{"a": ' + b"9" * 400 + b"}",
    b"[" * 5000 + b"]" * 5000, b"\xff", None, None, None,
]  # fmt: skip


def image_of(chance: random.Random) -> tuple[str, bytes]:
    """(extension, bytes): mostly a picture, often one that came before, sometimes broken."""
    data = picture(chance.randrange(60), *chance.choice([(120, 90), (90, 120), (64, 64)]))
    extension = chance.choice(["jpg", "jpg", "jpeg", "JPG", "png", "webp", "cls", "jpg.txt", LONG])
    how = chance.random()
    if how < 0.06:
        data = data[: chance.randrange(len(data))]
    elif how < 0.12:
        spoiled = bytearray(data)
        for _ in range(chance.randrange(1, 9)):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        data = bytes(spoiled)
    elif how < 0.15:
        data = chance.choice([b"", b"\0", b"<html>", b"GIF89a", b"\xff\xd8\xff", b"RIFF0000WEBP"])
    return extension, data


def members_of(chance: random.Random, number: int) -> list[tuple[str, bytes]]:
    key = chance.choice(KEYS).format(number)
    if chance.random() < 0.05:
        key = "twice"
    members = [(f"{key}.{extension}", data) for extension, data in [image_of(chance)]]
    caption, document = chance.choice(CAPTIONS), chance.choice(DOCUMENTS)
    if chance.random() < 0.6:
        caption, document = b"good", json.dumps({"url": f"u{number}"}).encode()
    if caption is not None:
        members.append((f"{key}.txt", caption))
    if document is not None:
        members.append((f"{key}.json", document))
    if chance.random() < 0.1:
        members.append(
            (f"{key}.{chance.choice(['png', 'second.jpg', 'npy', '', 'txt', LONG])}", b"more")
        )
    chance.shuffle(members)
    return members


def add_oddity(chance: random.Random, tar: tarfile.TarFile) -> None:
    info = tarfile.TarInfo(
        chance.choice(["link.jpg", "../../etc/passwd", "dir", "README", "a.jpg"])
    )
    info.type = chance.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
    info.linkname = "/etc/passwd"
    tar.addfile(info)


def tar_of(chance: random.Random, night: int) -> bytes:
    out = io.BytesIO()
    form = chance.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number in range(chance.randrange(12)):
            for name, data in members_of(chance, 1000 * night + number):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            if chance.random() < 0.1:
                add_oddity(chance, tar)
    return out.getvalue()


def damaged(chance: random.Random, data: bytes) -> bytes:
    how = chance.random()
    if how < 0.12:
        return data[: chance.randrange(len(data))]
    if how < 0.20:
        at = chance.randrange(len(data))
        return data[:at] + chance.randbytes(64) + data[at + 64 :]
    if how < 0.26:
        return chance.choice([b"", b"<html>404</html>", bytes(1024), bytes(10_240), b"\x1f\x8b"])
    return data


def write_night(chance: random.Random, folder: Path, night: int) -> None:
    folder.mkdir(parents=True)
    for number in range(chance.randrange(1, 6)):
        data = tar_of(chance, night)
        name = f"{number:05d}.tar"
        if chance.random() < 0.3:
            data = gzip.compress(data)
            name += chance.choice([".gz", ""])
        (folder / name).write_bytes(damaged(chance, data))


@pytest.mark.parametrize("seed", seeds([1], more=6))
def test_no_night_ends_and_every_sample_has_its_verdict(world: World, seed: int) -> None:
    chance = random.Random(seed)
    world.change_source(urls=(f"{world.incoming}/{{date}}/*",), columns=("url", "a"))
    for night, day in enumerate(NIGHTS):
        write_night(chance, world.incoming / day, night)

    reports = [world.night(day) for day in NIGHTS]

    assert [report.state for report in reports] == ["published"] * 7
    assert_one_verdict_each(world, None)
    assert_witnesses_are_kept(world)
    assert_no_kept_copies(world)
    assert_catalog_and_files_agree(world)
    assert_published_images(world)
    rows = world.ask("SELECT * FROM curation.quarantined")
    assert rows
    assert all(row["reason"] and row["message"] for row in rows)


def assert_published_images(world: World) -> None:
    """Every kept sample is published once, its image byte for byte as the catalog knows it."""
    found: dict[str, list[str]] = {}
    for name in world.published():
        if name.endswith(".tar"):
            with tarfile.open(world.base / "root" / name) as tar:
                for member in tar:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    digest = hashlib.sha256(stream.read()).hexdigest()
                    found.setdefault(member.name.partition(".")[0], []).append(digest)
    kept = {r["shard_key"]: r["image_sha256"] for r in world.ask("SELECT * FROM curation.kept")}
    assert found.keys() == kept.keys()
    for key, image in kept.items():
        assert found[key].count(plain(image)) == 1
