"""Every kind of source, good and bad, goes through a whole night; nothing ends it or is lost."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sscd_ops.model import Counts
from sscd_ops.testing import Sample, picture, plant
from tests.integration import real_img2dataset
from tests.integration.world import World, assert_one_verdict_each, assert_promises, pair, plain

DAY = "2026-11-01"


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def opened(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    return Image.open(io.BytesIO(picture(seed, *size))).convert("RGB")


def unusual() -> dict[str, tuple[str, bytes]]:
    """Key -> (extension, bytes) of valid but unusual pictures, all different."""
    rgb = [opened(1000 + i) for i in range(16)]
    palette = rgb[2].convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    sixteen = np.asarray(rgb[4].convert("L")).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "cmyk": ("jpg", encoded(rgb[0].convert("CMYK"), "JPEG")),
        "grey": ("jpg", encoded(rgb[1].convert("L"), "JPEG")),
        "palette": ("png", encoded(palette, "PNG", transparency=3)),
        "alpha": ("png", encoded(rgb[3].convert("RGBA"), "PNG")),
        "wide": ("png", encoded(Image.fromarray(sixteen), "PNG")),
        "moving": (
            "gif",
            encoded(rgb[5], "GIF", save_all=True, append_images=[rgb[6], rgb[7]], duration=50),
        ),
        "turned": ("jpg", encoded(rgb[8], "JPEG", exif=exif)),
        "webp": ("webp", encoded(rgb[9], "WEBP")),
        "avif": ("avif", encoded(rgb[10], "AVIF")),
        "bmp": ("bmp", encoded(rgb[11], "BMP")),
        "tiff": ("TIF", encoded(rgb[12], "TIFF")),
        "liar": ("jpg", encoded(rgb[13], "WEBP")),
        "shouting": ("JPEG", encoded(rgb[14], "JPEG")),
    }


def test_valid_but_unusual_pictures_are_kept(world: World) -> None:
    samples = [
        (key, {extension: data, "txt": key.encode()})
        for key, (extension, data) in unusual().items()
    ]
    world.put(DAY, "a.tar", samples)

    world.night(DAY)

    assert world.verdicts() == dict.fromkeys(unusual(), "kept")
    rows = {row["key"]: row for row in world.ask("SELECT * FROM curation.kept")}
    assert (rows["turned"]["width"], rows["turned"]["height"]) == (90, 120)
    assert rows["liar"]["format"] == "webp"
    assert_promises(world, read=len(samples))


def test_every_fault_of_a_sample_has_its_code_and_message(world: World) -> None:
    good = picture(1)
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    faulty: dict[str, tuple[dict[str, bytes], str]] = {
        "cut": ({"jpg": good[: len(good) // 2], "txt": b"x"}, "undecodable"),
        "garbled": ({"jpg": good[:300] + bytes(2000), "txt": b"x"}, "undecodable"),
        "zero": ({"jpg": b"", "txt": b"x"}, "empty_image"),
        "page": ({"jpg": b"<html></html>", "txt": b"x"}, "not_an_image"),
        "bomb": ({"png": bomb, "txt": b"x"}, "too_many_pixels"),
        "tiny": ({"jpg": picture(2, 8, 8), "txt": b"x"}, "too_small"),
        "banner": ({"jpg": picture(3, 1600, 20), "txt": b"x"}, "extreme_aspect"),
        "silent": ({"jpg": picture(4)}, "missing_caption"),
        "speechless": ({"jpg": picture(5), "txt": b"  \n"}, "empty_caption"),
        "long": ({"jpg": picture(6), "txt": b"x" * 100_001}, "caption_too_long"),
        "latin": ({"jpg": picture(7), "txt": "caf\u00e9".encode("latin-1")}, "caption_not_utf8"),
        "nul": ({"jpg": picture(8), "txt": b"a\0b"}, "caption_forbidden_character"),
        "lone": ({"jpg": picture(9), "json": rb'{"caption": "a\ud800b"}'},
                 "caption_forbidden_character"),
        "json-nul": ({"jpg": picture(10), "txt": b"x", "json": rb'{"url": "\u0000"}'}, "bad_json"),
        "json-bad": ({"jpg": picture(11), "txt": b"x", "json": b"{"}, "bad_json"),
        "json-list": ({"jpg": picture(12), "txt": b"x", "json": b"[1]"}, "bad_json"),
        "many": ({"0.jpg": picture(13), "1.jpg": picture(14), "txt": b"x"}, "several_images"),
        "none": ({"txt": b"only text"}, "no_image"),
    }  # fmt: skip
    blank = encoded(Image.new("RGB", (90, 90), "white"), "JPEG")
    world.change_source(columns=("url",))
    world.put(
        DAY,
        "a.tar",
        [
            *((key, members) for key, (members, _) in faulty.items()),
            pair("fine", picture(99)),
            pair("blank", blank),
        ],
    )

    report = world.night(DAY)

    found = {row["key"]: row for row in world.ask("SELECT * FROM curation.quarantined")}
    assert {key: row["reason"] for key, row in found.items()} == {
        key: code for key, (_, code) in faulty.items()
    }
    assert all(row["message"] for row in found.values())
    assert (report.counts.kept, report.counts.kept_plain) == (2, 1)
    for key in ("zero", "page", "none"):
        row = found[key]
        assert {row[c] for c in ("image_sha256", "width", "height", "format", "bytes")} == {None}
    for key, width, height in (("tiny", 8, 8), ("banner", 1600, 20), ("bomb", 20_000, 20_000)):
        row, (extension, data), *_ = found[key], *faulty[key][0].items()
        assert plain(row["image_sha256"]) == hashlib.sha256(data).hexdigest()
        assert (row["width"], row["height"], row["bytes"]) == (width, height, len(data))
        assert row["format"] == extension
    assert_promises(world, read=len(faulty) + 2)


def test_a_fault_of_the_picture_follows_its_bytes_and_one_of_the_caption_does_not(
    world: World,
) -> None:
    cut, good = picture(1)[:1500], picture(2)
    world.put(DAY, "a.tar", [pair("cut", cut), ("silent", {"jpg": good})])
    world.put("2026-11-02", "a.tar", [pair("cut2", cut), pair("speaking", good)])

    world.night(DAY)
    world.night("2026-11-02")

    assert world.verdicts() == {
        "cut": "quarantined undecodable",
        "cut2": "quarantined undecodable",
        "silent": "quarantined missing_caption",
        "speaking": "kept",
    }


def test_known_bytes_keep_their_verdict_when_limits_change(world: World) -> None:
    """A picture's own fault follows its bytes, and so does what was said of good ones."""
    large, near = picture(1), plant(picture(1), "jpeg_40")
    small, wide, page = picture(2, 60, 40), picture(3, 200, 30), b"<html>"
    nights = (
        [pair("large", large), pair("near", near), pair("small", small), pair("page", page)],
        [pair("large2", large), pair("near2", near), pair("wide", wide), pair("new", picture(4))],
        [pair("small3", small), pair("wide3", wide), pair("large3", large), pair("page3", page)],
    )
    for number, samples in enumerate(nights, 1):
        world.put(f"2026-11-{number:02d}", "a.tar", samples)

    for number, (min_side, max_aspect) in enumerate([(50, 20.0), (1000, 5.0), (16, 20.0)], 1):
        world.change(limits={"min_side": min_side, "max_aspect": max_aspect})
        world.night(f"2026-11-{number:02d}")

    assert world.verdicts() == {
        "large": "kept",
        "near": "removed near",
        "small": "quarantined too_small",
        "page": "quarantined not_an_image",
        "large2": "removed exact",
        "near2": "removed near",
        "wide": "quarantined too_small",
        "new": "quarantined too_small",
        "small3": "quarantined too_small",
        "wide3": "quarantined too_small",
        "large3": "removed exact",
        "page3": "quarantined not_an_image",
    }
    quarantined = world.ask("SELECT key, message FROM curation.quarantined")
    messages = {row["key"]: row["message"] for row in quarantined}
    assert messages["small3"] == messages["small"] == "60x40, at least 50 a side"
    captions = {row["key"]: row["caption"] for row in world.ask("SELECT * FROM curation.samples")}
    assert captions["large2"] == "caption of large2", "captions of copies are never lost"
    embedded = world.ask("SELECT sum(rows) AS n FROM sscd_ops.segments")
    assert embedded == [{"n": 2}]
    assert_promises(world, read=12)


def test_broken_pictures_are_never_grouped_with_each_other(world: World) -> None:
    samples = [pair(f"cut{i}", picture(i)[: 900 + i]) for i in range(6)]
    samples += [pair("zero1", b""), pair("zero2", b"")]
    world.put(DAY, "a.tar", samples)

    report = world.night(DAY)

    assert (report.counts.quarantined, report.counts.removed) == (8, 0)


def test_missing_captions_are_kept_where_the_source_says_so(world: World) -> None:
    world.change_source(missing_caption="keep")
    world.put(DAY, "a.tar", [("silent", {"jpg": picture(1)}), pair("x", picture(2), " ")])

    report = world.night(DAY)

    assert report.counts.kept == 2
    assert_promises(world, read=2)


def test_several_images_and_captions_are_chosen_by_the_source(world: World) -> None:
    world.change_source(image="1.jpg", caption=("alt.txt", "txt", "json:meta.title"))
    world.put(
        DAY,
        "a.tar",
        [
            (
                "both",
                {
                    "0.jpg": picture(1),
                    "1.jpg": picture(2),
                    "txt": b"second choice",
                    "alt.txt": b"first",
                },
            ),
            ("nested", {"jpg": picture(3), "json": b'{"meta": {"title": "deep"}}'}),
        ],
    )

    world.night(DAY)

    rows = {row["key"]: row for row in world.ask("SELECT * FROM curation.kept")}
    assert rows["both"]["caption"] == "first"
    assert rows["nested"]["caption"] == "deep"
    assert_promises(world, read=2)


def test_hostile_names_are_plain_keys(world: World) -> None:
    path = world.incoming / DAY / "a.tar"
    path.parent.mkdir(parents=True)
    names = ["../../escape", "/absolute", "deep/er/key", "with'quote;--", "dotted.key"]
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            for extension, data in (("jpg", picture(number)), ("txt", b"caption")):
                member = tarfile.TarInfo(f"{name}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        device = tarfile.TarInfo("device.jpg")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)

    report = world.night(DAY)

    assert report.counts.read == len(names)
    assert set(world.verdicts()) == {
        "../../escape", "/absolute", "deep/er/key", "with'quote;--", "dotted",
    }  # fmt: skip
    assert not (world.base.parent / "escape.jpg").exists()
    counts = world.ask("SELECT counts FROM sscd_ops.source_shards")[0]["counts"]
    assert counts["ignored_entries"] == {"link": 1, "device": 1}


def test_keys_that_postgres_cannot_hold_are_escaped_and_quarantined(world: World) -> None:
    path = world.incoming / DAY / "a.tar"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in (b"bad\xff", b"worse\xfe"):
            member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape") + ".jpg")
            data = picture(len(name))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

    report = world.night(DAY)

    assert report.counts.quarantined == 2
    assert set(world.verdicts().values()) == {"quarantined bad_key"}


def test_names_too_long_to_be_published_are_quarantined(world: World) -> None:
    """What follows the first dot of a name is its extension, and goes behind 32 hex digits."""
    longest, second = "e" * 63 + ".jpg", "\u00e9" * 33 + "jpg"
    samples = [
        ("fits", {longest: picture(1), "txt": b"x"}),
        ("Dr", {f" Strange and {longest}": picture(2), "txt": b"x"}),
        ("bytes", {"jpg": picture(3), "txt": b"x", second: b"travels along"}),
        # published as 2.<extension>: equal names after jpeg -> jpg
        ("twice", {longest: picture(4), longest.replace(".jpg", ".jpeg"): b"", "txt": b"x"}),
    ]
    world.change_source(image=longest)
    put_long(world.incoming / DAY / "a.tar", samples)

    world.night(DAY)

    rows = {row["key"]: row for row in world.ask("SELECT * FROM curation.samples")}
    assert {key: row["reason"] for key, row in rows.items()} == {
        "fits": None, "Dr": "bad_key", "bytes": "bad_key", "twice": "bad_key",
    }  # fmt: skip
    (found,) = world.ask("SELECT message FROM curation.quarantined WHERE key = 'Dr'")
    assert "at most 67" in found["message"]
    assert_promises(world, read=4)


def put_long(path: Path, samples: list[Sample]) -> None:
    """A tar with names that our own writer does not take."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_a_key_that_comes_again_in_a_shard_is_quarantined(world: World) -> None:
    world.put(DAY, "a.tar", [pair("k", picture(1)), pair("x", picture(2)), pair("k", picture(3))])

    world.night(DAY)

    reasons = sorted(
        (row["key"], row["verdict"], row["reason"])
        for row in world.ask("SELECT * FROM curation.samples")
    )
    assert reasons == [
        ("k", "kept", None),
        ("k", "quarantined", "duplicate_key"),
        ("x", "kept", None),
    ]


def test_faulty_shards_are_rows_and_what_came_before_is_used(world: World) -> None:
    world.change_source(urls=(f"{world.incoming}/{{date}}/*.tar*",))
    whole = world.put(DAY, "whole.tar", [pair(f"k{i}", picture(i)) for i in range(5)])
    data = whole.read_bytes()
    folder = whole.parent
    (folder / "cut.tar").write_bytes(data[: data.index(b"k3.jpg") + 700])
    (folder / "empty.tar").write_bytes(b"")
    (folder / "nothing.tar").write_bytes(bytes(10_240))
    (folder / "noise.tar").write_bytes(random.Random(1).randbytes(4000))
    (folder / "squeezed.tar.gz").write_bytes(gzip.compress(data)[:-900])

    report = world.night(DAY)

    faults = {
        row["source_shard"].rpartition("/")[2]: row["reason"]
        for row in world.ask("SELECT * FROM curation.quarantined WHERE key IS NULL")
    }
    assert faults == {
        "cut.tar": "truncated_shard",
        "empty.tar": "empty_file",
        "nothing.tar": "empty_shard",
        "noise.tar": "unreadable_shard",
        "squeezed.tar.gz": "truncated_shard",
    }
    assert report.counts.kept == 5
    assert report.counts.read > 8
    assert_one_verdict_each(world, None)


def test_a_source_shard_beyond_the_limit_is_not_read(world: World) -> None:
    world.put(DAY, "large.tar", [pair(f"k{i}", picture(i)) for i in range(9)])
    small = world.put(DAY, "small.tar", [pair("k", picture(9))])
    world.change(limits={"max_shard_bytes": small.stat().st_size})

    report = world.night(DAY)

    assert (report.counts.read, report.counts.kept) == (1, 1)
    (fault,) = world.ask("SELECT * FROM curation.quarantined")
    assert fault["reason"] == "shard_too_large"
    assert fault["source_shard"].endswith("large.tar")
    assert "limits.max_shard_bytes" in fault["message"]


def test_a_sample_that_was_cut_off_is_read_when_the_whole_file_comes(world: World) -> None:
    world.change_source(columns=("n",))
    samples = [
        (f"k{i}", {"jpg": picture(i), "txt": b"caption", "json": b'{"n": %d}' % i})
        for i in range(3)
    ]
    path = world.put(DAY, "a.tar", samples)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"k1.json") + 514])

    world.night(DAY)

    (fault,) = world.ask("SELECT * FROM curation.quarantined")
    assert fault["reason"] == "truncated_shard"
    assert "'k1'" in fault["message"]
    assert world.verdicts() == {"k0": "kept"}

    path.write_bytes(whole)
    report = world.night(DAY, supplement=True)

    assert (report.counts.read, report.counts.known) == (2, 1)
    rows = world.ask("SELECT * FROM curation.kept")
    assert {row["key"]: row["meta"] for row in rows} == {f"k{i}": {"n": i} for i in range(3)}
    assert_promises(world)


@pytest.mark.parametrize("depth", [101, 480, 900, 960, 50_000])
def test_nesting_in_a_captions_file_ends_no_night(world: World, depth: int) -> None:
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    nested = "[" * depth + "]" * depth
    lines = [f'{{"file_name": "p{i}.jpg", "caption": "x", "a": [[1]]}}' for i in range(2)]
    lines.insert(1, f'{{"file_name": "p2.jpg", "caption": "x", "a": {nested}}}')
    for i in range(3):
        (folder / f"p{i}.jpg").write_bytes(picture(i))
    (folder / "c.jsonl").write_text("\n".join(lines))
    world.change_source(
        kind="folder", urls=(f"{world.incoming}/{{date}}",), captions_file="c.jsonl"
    )

    world.night(DAY)

    # a row that cannot be taken is none: its picture has no caption
    assert world.verdicts() == {"p0": "kept", "p1": "kept", "p2": "quarantined missing_caption"}
    assert ignored(world) == {"caption_row": 1}
    assert_one_verdict_each(world, 3)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_of_a_captions_file_that_are_not_used_are_counted(world: World, kind: str) -> None:
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    for i in range(2):
        (folder / f"p{i}.jpg").write_bytes(picture(i))
    names = ["p0.jpg", "p1.jpg", "p0.jpg", "elsewhere.jpg", "p0.jpg"]
    rows = [{"file_name": name, "caption": f"caption {i}"} for i, name in enumerate(names)]
    lines = [json.dumps(row) for row in rows]
    if kind == "csv":
        lines = ["file_name,caption", *(",".join(row.values()) for row in rows)]
    (folder / f"c.{kind}").write_text("\n".join(lines))
    world.change_source(
        kind="folder", urls=(f"{world.incoming}/{{date}}",), captions_file=f"c.{kind}"
    )

    world.night(DAY)

    kept = world.ask("SELECT key, caption FROM curation.kept ORDER BY key")
    assert [(row["key"], row["caption"]) for row in kept] == [
        ("p0", "caption 0"), ("p1", "caption 1"),
    ]  # fmt: skip
    assert ignored(world) == {"caption_row_again": 2, "caption_row_without_image": 1}


def test_a_caption_that_is_no_text_is_json(world: World) -> None:
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    captions = {
        "p0": {"en": "a cat", "de": "eine Katze"},
        "p1": ["a", "caf\u00e9"],
        "p2": 7,
        "p3": True,
    }
    lines = []
    for i, (key, caption) in enumerate(captions.items()):
        (folder / f"{key}.jpg").write_bytes(picture(i))
        lines.append(json.dumps({"file_name": f"{key}.jpg", "caption": caption}))
    (folder / "c.jsonl").write_text("\n".join(lines))
    world.change_source(
        kind="folder", urls=(f"{world.incoming}/{{date}}",), captions_file="c.jsonl"
    )

    world.night(DAY)

    kept = {row["key"]: row["caption"] for row in world.ask("SELECT * FROM curation.kept")}
    assert {key: json.loads(caption) for key, caption in kept.items()} == captions
    assert "caf\u00e9" in kept["p1"]


def test_a_value_that_python_cannot_hold_costs_no_other_sample(world: World) -> None:
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    bad = pa.array([b"\xff", b"fine"]).view(pa.string())
    table = {
        "image": [picture(1), picture(2)],
        "caption": ["a", "b"],
        "times": pa.array([[2**62], [0]], pa.list_(pa.timestamp("us"))),
        "zones": pa.array([[1], [0]], pa.list_(pa.timestamp("us", "Nowhere/Land"))),
        "words": pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), bad),
    }
    pq.write_table(pa.table(table), folder / "a.parquet")
    world.change_source(
        kind="parquet", urls=(f"{world.incoming}/{{date}}/*.parquet",), columns=("times",)
    )

    world.night(DAY)

    # json is UTF-8, whatever the file was
    assert world.verdicts() == {"000000000": "quarantined bad_json", "000000001": "kept"}
    (row,) = world.ask("SELECT meta FROM curation.kept")
    assert row["meta"] == {"times": ["1970-01-01 00:00:00.000000"]}


def ignored(world: World) -> dict[str, int]:
    (found,) = world.ask("SELECT counts FROM sscd_ops.source_shards")
    answer: dict[str, int] = found["counts"]["ignored_entries"]
    return answer


# ---------------------------------------------------------------- every kind of source


def webdataset(world: World) -> None:
    world.put(DAY, "a.tar", [pair(f"k{i}", picture(i)) for i in range(4)])


def gzipped(world: World) -> None:
    tar = world.put(DAY, "a.tar", [pair(f"k{i}", picture(i)) for i in range(4)])
    tar.with_name("a.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    tar.unlink()
    world.change_source(urls=(f"{world.incoming}/{{date}}/*.tar.gz",))


def img2dataset_layout(world: World) -> None:
    samples = [
        (
            f"{i:09d}",
            {
                "jpg": picture(i),
                "txt": f"caption {i}".encode(),
                "json": json.dumps({"url": f"http://x/{i}", "status": "success"}).encode(),
            },
        )
        for i in range(4)
    ]
    world.put(DAY, "00000.tar", samples)
    folder = world.incoming / DAY
    (folder / "00000_stats.json").write_text("{}")
    status = ["success"] * 4 + ["failed_to_download"] * 3
    pq.write_table(pa.table({"status": status}), folder / "00000.parquet")
    world.change_source(
        kind="img2dataset", urls=(f"{world.incoming}/{{date}}/*",), columns=("url",)
    )


def img2dataset_itself(world: World) -> None:
    """Two shards of three rows; one row of each is no picture in the end."""
    cut = picture(90)[:200]
    files = {f"/{i}.jpg": picture(i) for i in range(4)} | {"/cut.jpg": cut}
    paths = ["/0.jpg", "/nowhere.jpg", "/1.jpg", "/2.jpg", "/cut.jpg", "/3.jpg"]
    folder = world.incoming / DAY
    real_img2dataset.download(
        files,
        [(path, f"caption of {path}") for path in paths],
        folder,
        number_sample_per_shard=3,
    )
    statuses = [
        status
        for path in sorted(folder.glob("*.parquet"))
        for status in pq.read_table(path).column("status").to_pylist()
    ]
    assert sorted(statuses) == ["failed_to_download", "failed_to_resize"] + ["success"] * 4
    world.change_source(
        kind="img2dataset", urls=(f"{world.incoming}/{{date}}/*",), columns=("url",)
    )


def huggingface_parquet(world: World) -> None:
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    rows = [{"bytes": picture(i), "path": f"{i}.jpg"} for i in range(4)]
    table = {"image": rows, "text": [f"caption {i}" for i in range(4)], "url": ["u"] * 4}
    pq.write_table(pa.table(table), folder / "a.parquet")
    world.change_source(
        kind="parquet",
        urls=(f"{world.incoming}/{{date}}/*.parquet",),
        caption_column="text",
        columns=("url",),
    )


def folder_with_text_beside(world: World) -> None:
    folder = world.incoming / DAY / "deep"
    folder.mkdir(parents=True)
    for i in range(4):
        (folder / f"p{i}.jpg").write_bytes(picture(i))
        (folder / f"p{i}.txt").write_text(f"caption {i}")
    world.change_source(kind="folder", urls=(f"{world.incoming}/{{date}}",))


def folder_with_jsonl(world: World) -> None:
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    lines = []
    for i in range(4):
        (folder / f"p{i}.jpg").write_bytes(picture(i))
        lines.append(json.dumps({"file_name": f"p{i}.jpg", "caption": f"caption {i}", "url": "u"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    world.change_source(
        kind="folder",
        urls=(f"{world.incoming}/{{date}}",),
        captions_file="metadata.jsonl",
        columns=("url",),
    )


def folder_with_csv(world: World) -> None:
    """As a spreadsheet saves it: a byte order mark, CRLF, quotes, a line break in a field."""
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    lines = ["\ufefffile_name,text,url"]
    for i in range(4):
        (folder / f"p{i}.jpg").write_bytes(picture(i))
        lines.append(f'p{i}.jpg,"caption {i}, ""quoted""\r\nand broken",u')
    (folder / "captions.csv").write_bytes("\r\n".join(lines).encode())
    world.change_source(
        kind="folder",
        urls=(f"{world.incoming}/{{date}}",),
        captions_file="captions.csv",
        columns=("url",),
    )


KINDS: dict[str, Callable[[World], None]] = {
    made.__name__: made
    for made in (
        webdataset,
        gzipped,
        img2dataset_layout,
        img2dataset_itself,
        huggingface_parquet,
        folder_with_text_beside,
        folder_with_jsonl,
        folder_with_csv,
    )
}


NOT_DELIVERED = {"img2dataset_layout": 3, "img2dataset_itself": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_goes_through_a_whole_night(world: World, kind: str) -> None:
    KINDS[kind](world)

    report = world.night(DAY)

    not_delivered = NOT_DELIVERED.get(kind, 0)
    assert report.counts == Counts(read=4, kept=4, not_delivered=not_delivered)
    published = _published(world.base / "root")
    assert sorted(found["jpg"] for found in published) == sorted(picture(i) for i in range(4))
    captions = {row["caption"] for row in world.ask("SELECT caption FROM curation.kept")}
    assert len(captions) == 4
    assert {found["txt"].decode() for found in published} == captions
    if world.options.sources[0].columns:
        assert {row["meta"]["url"][:1] for row in world.ask("SELECT meta FROM curation.kept")} <= {
            "u",
            "h",
        }


def _published(root: Path) -> list[dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in root.glob("*/shards/*/*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                stream = tar.extractfile(member)
                assert stream is not None
                found.setdefault(key, {})[extension] = stream.read()
    return list(found.values())


def test_odd_rows_of_a_parquet_have_their_codes_and_the_others_are_kept(world: World) -> None:
    folder = world.incoming / DAY
    folder.mkdir(parents=True)
    rows = {
        "good": (picture(0), "caption"),
        "no-bytes": (None, "caption"),
        "null-image": (None, "caption"),
        "no-caption": (picture(1), None),
        None: (picture(2), "caption"),
        "": (picture(3), "caption"),
        "last": (picture(4), "caption"),
    }
    images = [{"bytes": data, "path": "x.png"} for data, _ in rows.values()]
    images[2] = None  # type: ignore[call-overload]
    table = pa.table(
        {"id": list(rows), "image": images, "caption": [text for _, text in rows.values()]}
    )
    pq.write_table(table, folder / "a.parquet")
    pq.write_table(table.drop_columns(["image"]), folder / "no_image.parquet")
    pq.write_table(table.drop_columns(["id"]), folder / "no_key.parquet")
    pq.write_table(table.drop_columns(["caption"]).slice(0, 1), folder / "no_caption.parquet")
    pq.write_table(table.slice(0, 0), folder / "no_rows.parquet")
    world.change_source(
        kind="parquet",
        urls=(f"{world.incoming}/{{date}}/*.parquet",),
        key_column="id",
    )

    report = world.night(DAY)

    found = {
        (row["source_shard"].rpartition("/")[2], row["key"]): (row["verdict"], row["reason"])
        for row in world.ask("SELECT * FROM curation.samples")
    }
    faults = {
        row["source_shard"].rpartition("/")[2]: (row["reason"], row["message"])
        for row in world.ask("SELECT * FROM curation.quarantined WHERE key IS NULL")
    }
    quarantined = {
        key: code
        for (shard, key), (verdict, code) in found.items()
        if shard == "a.parquet" and verdict == "quarantined"
    }
    assert quarantined == {
        "no-bytes": "no_image",
        "null-image": "no_image",
        "no-caption": "missing_caption",
        "000000004": "bad_key",
        "000000005": "bad_key",
    }
    assert found["a.parquet", "good"] == found["a.parquet", "last"] == ("kept", None)
    assert found["no_caption.parquet", "good"] == ("quarantined", "missing_caption")
    assert {name: code for name, (code, _) in faults.items()} == {
        "no_image.parquet": "unreadable_shard",
        "no_key.parquet": "unreadable_shard",
        "no_rows.parquet": "empty_shard",
    }
    assert "no column 'image'; the file has: id, caption" in faults["no_image.parquet"][1]
    assert "no column 'id'" in faults["no_key.parquet"][1]
    assert report.counts == Counts(read=8, kept=2, quarantined=6)
    assert_one_verdict_each(world, 8)
