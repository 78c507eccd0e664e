"""Three nights of image-text pairs with planted copies, from the pictures in this folder.

Every transformation is planted twice within each night and twice across nights, on pictures chosen
by their number alone; the strengths are those of ``sscd_ops.testing.plant``, fixed before anything
was measured. Some broken input comes along. Equal pictures give equal bytes.

    python examples/plant_copies.py FOLDER
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sscd_ops.testing import COPIES, Sample, make_tar, plant

HERE = Path(__file__).parent
NIGHTS = ("2026-11-01", "2026-11-02", "2026-11-03")
ORIGINALS = (51, 38, 30)
"""Pictures that are new in each night."""
SHARDS = 2
SITE = "https://textbooks.example.org"
COPIED = "https://scraper.example.net"
"""Where pictures and copies claim to come from: nothing is fetched."""


@dataclass(frozen=True)
class Planted:
    """A copy: its key, the original's, what was done, its night, and whether that is the same."""

    key: str
    original: str
    transformation: str
    night: str
    where: str


@dataclass(frozen=True)
class Picture:
    """A row of pictures.csv with its bytes."""

    key: str
    data: bytes
    caption: str
    url: str
    licence: str


def pictures() -> list[Picture]:
    """The pictures of this folder, in order."""
    with (HERE / "pictures.csv").open(newline="", encoding="utf-8") as stream:
        return [
            Picture(
                row["key"],
                (HERE / row["file"]).read_bytes(),
                row["caption"],
                f"{SITE}/{row['source_repository']}/{row['source_path']}",
                row["licence"],
            )
            for row in csv.DictReader(stream)
        ]


def sample(key: str, picture: Picture, data: bytes, caption: str, url: str = "") -> Sample:
    """A sample of jpg, txt and json."""
    document = {"url": url or picture.url, "license": picture.licence, "key": key}
    return key, {
        "jpg": data,
        "txt": caption.encode(),
        "json": json.dumps(document, sort_keys=True).encode(),
    }


def copies(night: int, new: list[Picture], old: list[Picture]) -> Iterator[tuple[Planted, Sample]]:
    """A night's planted copies: two of each kind within it, two of earlier nights' pictures."""
    for number, copy in enumerate(COPIES):
        groups = [("within", new)] + ([("across", old)] if old else [])
        for where, group in groups:
            for again in range(2):
                place = (number * 2 + again) * len(group) // (2 * len(COPIES))
                # other pictures each night: else a copy would be a copy of an earlier copy
                original = group[(place + (night if where == "across" else 0)) % len(group)]
                key = f"{original.key}-{copy.replace('_', '-')}-{where}-{night}{again}"
                caption = original.caption
                if copy != "byte_copy":
                    caption = f"Picture {original.key}, seen again."
                yield (
                    Planted(key, original.key, copy, NIGHTS[night], where),
                    sample(
                        key, original, plant(original.data, copy), caption, f"{COPIED}/{key}.jpg"
                    ),
                )


def broken(night: int, new: list[Picture]) -> list[Sample]:
    """What arrives broken: cut short, without a caption, not a picture, without bytes."""
    first, second = new[0], new[1]
    return [
        sample(f"cut-{night}", first, first.data[: len(first.data) // 3], first.caption),
        (f"silent-{night}", {"jpg": plant(second.data, "half_size")}),
        (f"page-{night}", {"jpg": b"<html>404</html>", "txt": b"a page, not a picture"}),
        (f"empty-{night}", {"jpg": b"", "txt": b"nothing"}),
    ]


def plant_nights(folder: Path) -> list[Planted]:
    """Write ``folder/incoming/<date>/*.tar`` and ``folder/planted.csv``; what was planted."""
    everything = pictures()
    planted: list[Planted] = []
    start = 0
    for night, day in enumerate(NIGHTS):
        new = everything[start : start + ORIGINALS[night]]
        old = everything[:start]
        start += ORIGINALS[night]
        samples = [sample(p.key, p, p.data, p.caption) for p in new]
        for truth, copy in copies(night, new, old):
            planted.append(truth)
            samples.append(copy)
        samples += broken(night, new)
        for shard in range(SHARDS):
            # a copy may come before its original: order must not matter
            mine = [item for i, item in enumerate(samples) if i % SHARDS == shard]
            make_tar(folder / "incoming" / day / f"{shard:05d}.tar", mine)
    with (folder / "planted.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["key", "original", "transformation", "night", "where"])
        writer.writerows([(p.key, p.original, p.transformation, p.night, p.where) for p in planted])
    return planted


if __name__ == "__main__":
    made = plant_nights(Path(sys.argv[1]))
    print(f"{len(made)} copies planted below {sys.argv[1]}")
