"""Hard negatives: named sets of pictures that look alike and are no copies.

A set is a list of groups; the pictures of a group look alike. What counts is the share that the
product's own leader would wrongly merge: pictures removed, of those that had an earlier one of
their group before them; by the model alone and, where nights compare perceptual hashes too, by
both. Sets are given (``--hard NAME=URL``), or made from the pictures at hand:

* ``pages``, ``charts``, ``slides``: one template with other text or numbers;
* ``colour_variants``: a product in other colours (the picture with its hues turned);
* ``bursts``: the moment after (the window moved by 4 and 8%, the light a little changed). Made from
  one picture, where a real burst's scene moves as well: this is the hardest case of it;
* ``plain``: sheets, shades, gradients and specks, which have nothing to compare, each of another
  colour (``evaluation.empty``). Their descriptors say nothing: a night merges none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from sscd_ops.core.leader import Compared, lead
from sscd_ops.core.measures import near
from sscd_ops.errors import DataError
from sscd_ops.evaluation.describing import Described, hashes_without_history
from sscd_ops.evaluation.empty import EMPTY
from sscd_ops.evaluation.metrics import ConfidenceInterval, wilson
from sscd_ops.evaluation.picture_sets import PictureSet, Spool
from sscd_ops.evaluation.transformations import chance_of, decoded, encoded
from sscd_ops.ports import HashSearch, SearchBackend

_TEXT = (
    "market growth water river history figure energy school city model result study number river"
    " early trade system measure winter table people region policy method order paper light plan"
)
_WORDS = _TEXT.split()


@dataclass
class HardSet:
    """A named set. ``group``: int64 (n,), pictures of one number look alike."""

    name: str
    made: bool
    pictures: PictureSet
    group: NDArray[np.int64]


@dataclass(frozen=True)
class HardResult:
    """What leader would do with a set.

    Attributes:
        name: the set's.
        made: made here, not given.
        pictures: with a descriptor.
        could: pictures with an earlier one of their group before them.
        merged: those of them that leader removed by the descriptors.
        interval: 95%, of the share merged.
        merged_by_night: those that it removed by the descriptors or the perceptual hashes, where a
            night with this model compares both by default; else None.
    """

    name: str
    made: bool
    pictures: int
    could: int
    merged: int
    interval: ConfidenceInterval
    merged_by_night: int | None = None

    @property
    def share(self) -> float:
        """Wrongly merged, of those that could be."""
        return self.merged / self.could if self.could else 0.0


def given(name: str, pictures: PictureSet) -> HardSet:
    """A set whose groups are the first folders of its names; without folders it is one group."""
    folders = [key.partition("/")[0] if "/" in key else "" for key in pictures.names]
    _, group = np.unique(np.array(folders), return_inverse=True)
    return HardSet(name, False, pictures, group.astype(np.int64))


def made(pictures: PictureSet, count: int = 24, seed: int = 0) -> list[HardSet]:
    """The sets that are made: templates, and variants of the first ``count`` pictures."""
    chance = np.random.default_rng(seed)
    sets = [
        _template("pages", _page, count, chance),
        _template("charts", _chart, count, chance),
    ]
    slides, colours, bursts = Spool(), Spool(), Spool()
    groups: list[int] = []
    background: Image.Image | None = None
    for row in range(min(count, len(pictures))):
        data = pictures.get(row)
        try:
            image = decoded(data)
        except DataError:
            continue
        image.thumbnail((640, 640))
        background = background or image
        slides.add(str(row), encoded(_slide(background, chance)))
        for variant in range(3):
            colours.add(f"{row}/{variant}", encoded(_hue(image, variant * 85)))
            bursts.add(f"{row}/{variant}", encoded(_moment(image, variant, data)))
            groups.append(row)
    sets += [
        HardSet("slides", True, slides, np.zeros(len(slides), np.int64)),
        HardSet("colour_variants", True, colours, np.array(groups, np.int64)),
        HardSet("bursts", True, bursts, np.array(groups, np.int64)),
        _plain(count, np.random.default_rng(seed)),
    ]
    return [item for item in sets if len(item.pictures)]


def judge(
    hard: HardSet,
    described: Described,
    threshold: float,
    backend: SearchBackend,
    hash_search: HashSearch | None = None,
) -> HardResult:
    """Run leader over a set, in order, and count what it would remove.

    Args:
        hard: the set.
        described: its descriptors, and hashes where a night would compare them.
        threshold: least similarity of a copy.
        backend: search among descriptors.
        hash_search: among hashes, where there are any.
    """
    rows = len(described)

    def kept(*hashes: Compared) -> NDArray[np.bool_]:
        index = backend.growing(described.descriptors.shape[1])
        own = Compared.first(near(threshold, threshold), described.descriptors, index)
        return lead([own, *hashes], limit=1).kept

    group = hard.group[described.rows]
    later = np.ones(rows, bool)
    later[np.unique(group, return_index=True)[1]] = False
    merged = int((~kept() & later).sum())
    could = int(later.sum())
    by_night = None
    if described.hashes is not None and hash_search is not None:
        hashes = hashes_without_history(described.hashes, hash_search)
        by_night = int((~kept(hashes) & later).sum())
    return HardResult(hard.name, hard.made, rows, could, merged, wilson(merged, could), by_night)


# ---------------------------------------------------------------- what is made


def _template(
    name: str,
    draw: Callable[[np.random.Generator], Image.Image],
    count: int,
    chance: np.random.Generator,
) -> HardSet:
    spool = Spool()
    for number in range(count):
        spool.add(str(number), encoded(draw(chance)))
    return HardSet(name, True, spool, np.zeros(count, np.int64))


def _plain(count: int, chance: np.random.Generator) -> HardSet:
    spool = Spool()
    kinds = list(EMPTY.items())
    for number in range(count):
        name, draw = kinds[number % len(kinds)]
        spool.add(f"{name}/{number}", draw(chance))
    return HardSet("plain", True, spool, np.zeros(count, np.int64))


def _line(chance: np.random.Generator, words: int) -> str:
    return " ".join(_WORDS[int(i)] for i in chance.integers(0, len(_WORDS), words))


def _page(chance: np.random.Generator) -> Image.Image:
    """A page of a book: one head, one layout, other sentences."""
    sheet = Image.new("RGB", (480, 640), (252, 252, 248))
    draw = ImageDraw.Draw(sheet)
    draw.text((40, 24), "ANNUAL REPORT OF THE COMMISSION", (40, 40, 40), ImageFont.load_default(13))
    draw.line((40, 46, 440, 46), (40, 40, 40))
    for line in range(26):
        words = 9 if line % 7 != 6 else int(chance.integers(2, 8))
        draw.text((40, 64 + line * 20), _line(chance, words)[:62], (30, 30, 30))
    draw.text((230, 608), str(int(chance.integers(1, 400))), (30, 30, 30))
    return sheet


def _chart(chance: np.random.Generator) -> Image.Image:
    """Bars of one colour on the same axes, with other values."""
    sheet = Image.new("RGB", (560, 400), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((170, 12), "Units sold by quarter", "black", ImageFont.load_default(18))
    for step in range(6):
        draw.line((60, 60 + step * 55, 530, 60 + step * 55), (215, 215, 215))
        draw.text((26, 53 + step * 55), str(100 - 20 * step), (90, 90, 90))
    for bar, value in enumerate(chance.random(8)):
        left = 75 + bar * 57
        draw.rectangle((left, 335 - 270 * float(value), left + 36, 335), fill=(54, 112, 184))
        draw.text((left + 10, 342), f"Q{bar % 4 + 1}", (90, 90, 90))
    return sheet


def _slide(background: Image.Image, chance: np.random.Generator) -> Image.Image:
    """A slide: one darkened background, other words."""
    sheet = ImageEnhance.Brightness(background.resize((640, 360))).enhance(0.45)
    draw = ImageDraw.Draw(sheet)
    draw.text((40, 40), _line(chance, 3).title(), "white", ImageFont.load_default(36))
    for bullet in range(4):
        words = f"- {_line(chance, 5)}"
        draw.text((60, 120 + bullet * 48), words, "white", ImageFont.load_default(22))
    return sheet


def _hue(image: Image.Image, turn: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(np.asarray(hue) + np.uint8(turn))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _moment(image: Image.Image, frame: int, data: bytes) -> Image.Image:
    """A window of 90% of the sides that moves by 4% a frame, and a light that changes by 2%."""
    chance = chance_of(data, "bursts", 0)
    across, down = np.cos(angle := chance.random() * 2 * np.pi), np.sin(angle)
    width, height = round(image.width * 0.9), round(image.height * 0.9)
    left = round(image.width * (0.05 + 0.04 * (frame - 1) * across))
    top = round(image.height * (0.05 + 0.04 * (frame - 1) * down))
    moved = image.crop((left, top, left + width, top + height))
    return ImageEnhance.Brightness(moved).enhance(1 + 0.02 * (frame - 1))
