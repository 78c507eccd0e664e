"""Made copies: named transformations of a picture, each in up to three severities.

A copy is a function of (picture bytes, transformation, severity, seed) alone. What is drawn at
chance (a place, a colour, a direction) is the same for all severities of one picture, so that a
harder severity is the same edit, done harder. Pillow and numpy.

Kinds and strengths follow what copies on the web look like and what the DISC21 queries were made of
(Douze et al., arXiv 2106.09672, section 4). ``unseen`` marks the ones that `sscd-ops train` never
shows a model: they say whether it learned copies or its own augmentations.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from sscd_ops.errors import DataError
from sscd_ops.images.ground import visible
from sscd_ops.images.header import open_image
from sscd_ops.images.orientation import upright

Picture = Image.Image
Chance = np.random.Generator
Edit = Callable[[Picture, float, Chance], Picture]
"""(RGB picture, strength, chance) -> RGB picture."""

_LONGEST = 1600
"""Larger pictures are made this long before an edit: what is stored on the web, and the time."""
_LEAST = 32
"""No copy's side is shorter: sources quarantine those (limits.min_side)."""
_QUALITY = 90
"""JPEG quality of copies whose transformation is another one."""
_TEXT = (
    "SALE LIKE FOLLOW WHEN YOU SEE IT PART TWO NEW TODAY ONLY wait for it best day ever share"
    " this with a friend FREE breaking more at the link below original photo by us"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True)
class Transformation:
    """A kind of edit.

    Attributes:
        name: as reports name it.
        strengths: one for each severity, mildest first; what the number means is the edit's
            (of ``turn``: two angles, neither harder).
        edit: RGB picture -> RGB picture; None: the bytes stay as they are.
        unseen: never shown by `sscd-ops train`.
        encode: (strength) -> Pillow format and its save options.
    """

    name: str
    strengths: tuple[float, ...]
    edit: Edit | None
    unseen: bool = False
    encode: Callable[[float], tuple[str, int]] = lambda strength: ("JPEG", _QUALITY)


@dataclass(frozen=True, order=True)
class Kind:
    """A transformation and one of its severities, from 1."""

    transformation: str
    severity: int


# ---------------------------------------------------------------- geometry


def _resize(image: Picture, width: float, height: float) -> Picture:
    size = (max(_LEAST, round(width)), max(_LEAST, round(height)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _scale(image: Picture, side: float, chance: Chance) -> Picture:
    return _resize(image, image.width * side, image.height * side)


def _crop(image: Picture, side: float, chance: Chance) -> Picture:
    width = max(_LEAST, round(image.width * side))
    height = max(_LEAST, round(image.height * side))
    left = round((image.width - width) * chance.random())
    top = round((image.height - height) * chance.random())
    return image.crop((left, top, left + width, top + height))


def _mirror(image: Picture, side: float, chance: Chance) -> Picture:
    return _crop(ImageOps.mirror(image), side, chance)


def _turn(image: Picture, degrees: float, chance: Chance) -> Picture:
    return image.rotate(degrees, expand=True)


def _rotate(image: Picture, degrees: float, chance: Chance) -> Picture:
    sign = 1 if chance.random() < 0.5 else -1
    return image.rotate(sign * degrees, Image.Resampling.BILINEAR)


def _aspect(image: Picture, ratio: float, chance: Chance) -> Picture:
    if chance.random() < 0.5:
        return _resize(image, image.width * ratio, image.height)
    return _resize(image, image.width, image.height * ratio)


def _letterbox(image: Picture, share: float, chance: Chance) -> Picture:
    """Bars of ``share`` of the side at two ends: black, white or the picture, blurred."""
    wide = chance.random() < 0.5
    ground = int(chance.integers(3))
    across = round(image.width * share) if wide else 0
    down = 0 if wide else round(image.height * share)
    size = (image.width + 2 * across, image.height + 2 * down)
    if ground == 2:
        sheet = image.resize(size).filter(ImageFilter.GaussianBlur(max(size) / 40))
    else:
        sheet = Image.new("RGB", size, ("black", "white")[ground])
    sheet.paste(image, (across, down))
    return sheet


def _perspective(image: Picture, share: float, chance: Chance) -> Picture:
    """Corners pulled in by up to ``share`` of the side, as a photograph of a picture has them."""
    width, height = image.size
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)], float)
    inwards = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])
    moved = corners + inwards * chance.uniform(0.4, 1.0, (4, 2)) * share * (width, height)
    return image.transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        _coefficients(moved, corners),
        Image.Resampling.BILINEAR,
        fillcolor=(128, 128, 128),
    )


def _coefficients(shown: np.ndarray, source: np.ndarray) -> list[float]:
    """The eight numbers of the projective map that takes ``shown`` corners to ``source`` ones."""
    rows, right = [], []
    for (x, y), (u, v) in zip(shown, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return [float(value) for value in np.linalg.solve(np.array(rows), np.array(right))]


# ---------------------------------------------------------------- colour and detail


def _blur(image: Picture, share: float, chance: Chance) -> Picture:
    return image.filter(ImageFilter.GaussianBlur(min(image.size) * share))


def _noise(image: Picture, sigma: float, chance: Chance) -> Picture:
    pixels = np.asarray(image, np.float32)
    noisy = pixels + chance.standard_normal(pixels.shape, np.float32) * sigma
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _brightness(image: Picture, factor: float, chance: Chance) -> Picture:
    return ImageEnhance.Brightness(image).enhance(factor if chance.random() < 0.5 else 1 / factor)


def _contrast(image: Picture, factor: float, chance: Chance) -> Picture:
    return ImageEnhance.Contrast(image).enhance(factor)


def _grayscale(image: Picture, levels: float, chance: Chance) -> Picture:
    """0: half the colour; else grey, with so many bits."""
    if not levels:
        return ImageEnhance.Color(image).enhance(0.5)
    return ImageOps.posterize(ImageOps.grayscale(image), round(levels)).convert("RGB")


def _photo_filter(image: Picture, strength: float, chance: Chance) -> Picture:
    """A warm or cold tone, faded blacks and dark corners, as phone filters do."""
    tone = (1.0, 0.85, 0.55) if chance.random() < 0.5 else (0.6, 0.85, 1.0)
    pixels = np.asarray(image, np.float32) / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    toned = grey[..., None] * np.array(tone, np.float32)
    faded = 0.12 + 0.85 * ((1 - 0.7 * strength) * pixels + 0.7 * strength * toned)
    down, across = np.ogrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    corner = 1 - 0.45 * strength * np.clip(down**2 + across**2 - 0.4, 0, None)
    mixed = (1 - strength) * pixels + strength * faded
    out = np.clip(mixed * corner[..., None], 0, 1) * 255
    return Image.fromarray(out.astype(np.uint8))


# ---------------------------------------------------------------- things laid over and around


def _colour(chance: Chance) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in chance.integers(0, 256, 3))
    return red, green, blue


def _sentence(chance: Chance, words: int) -> str:
    return " ".join(_WORDS[int(i)] for i in chance.integers(0, len(_WORDS), words))


def _text(image: Picture, share: float, chance: Chance) -> Picture:
    """Lines of text with an outline over ``share`` of the height, at chance places."""
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    size = max(10, image.height // 11)
    font = ImageFont.load_default(size)
    colour = "white" if chance.random() < 0.7 else _colour(chance)
    places = chance.random((24, 2))
    for line in range(max(1, round(image.height * share / size))):
        left, top = places[line % 24] * (image.width * 0.4, image.height - size)
        draw.text(
            (left, top), _sentence(chance, 5), colour, font, stroke_width=2, stroke_fill="black"
        )
    return copy


def _shapes(image: Picture, count: float, chance: Chance) -> Picture:
    """Round faces, hearts and stars the size of emoji, a fifth of the short side each."""
    copy = image.copy()
    draw = ImageDraw.Draw(copy)
    side = max(12, min(image.size) // 5)
    for _ in range(round(count)):
        left, top = chance.random(2) * (image.width - side, image.height - side)
        _face(draw, float(left), float(top), side, chance)
    return copy


def _face(draw: ImageDraw.ImageDraw, left: float, top: float, side: int, chance: Chance) -> None:
    box = (left, top, left + side, top + side)
    if chance.random() < 0.3:
        points = [
            (
                left + side * (0.5 + (0.5, 0.2)[i % 2] * np.sin(i * np.pi / 5)),
                top + side * (0.5 - (0.5, 0.2)[i % 2] * np.cos(i * np.pi / 5)),
            )
            for i in range(10)
        ]
        draw.polygon(points, fill=_colour(chance))
        return
    draw.ellipse(box, fill=(255, 204, 77) if chance.random() < 0.7 else _colour(chance))
    for eye in (0.3, 0.6):
        x, y = left + side * eye, top + side * 0.3
        draw.ellipse((x, y, x + side * 0.1, y + side * 0.16), fill=(80, 50, 10))
    smile = (left + side * 0.25, top + side * 0.3, left + side * 0.75, top + side * 0.8)
    draw.arc(smile, 20, 160, fill=(80, 50, 10), width=max(1, side // 14))


def _caption_bar(image: Picture, share: float, chance: Chance) -> Picture:
    """A white or black bar with a few lines of text, added above or below."""
    dark, below = chance.random() < 0.3, chance.random() < 0.5
    bar = max(14, round(image.height * share))
    ground, ink = ("black", "white") if dark else ("white", "black")
    sheet = Image.new("RGB", (image.width, image.height + bar), ground)
    sheet.paste(image, (0, 0 if below else bar))
    draw = ImageDraw.Draw(sheet)
    size = max(9, min(image.height // 14, bar // 2))
    top = image.height if below else 0
    for line in range(max(1, bar // round(size * 1.3))):
        at = (image.width * 0.03, top + 2 + line * size * 1.3)
        draw.text(at, _sentence(chance, 8), ink, ImageFont.load_default(size))
    return sheet


def _screenshot(image: Picture, share: float, chance: Chance) -> Picture:
    """A phone's screen: status bar, name, the picture over ``share`` of the height, buttons."""
    width = image.width
    height = round(image.height / share)
    dark = chance.random() < 0.5
    ground, ink = ((18, 18, 18), (235, 235, 235)) if dark else ((250, 250, 250), (30, 30, 30))
    sheet = Image.new("RGB", (width, height), ground)
    free = height - image.height
    top = round(free * 0.45)
    sheet.paste(image, (0, top))
    draw = ImageDraw.Draw(sheet)
    line = max(8, free // 9)
    font = ImageFont.load_default(line)
    draw.text((width * 0.03, line * 0.2), f"{int(chance.integers(10, 23))}:41", ink, font)
    draw.rectangle((width * 0.88, line * 0.3, width * 0.96, line), outline=ink)
    if top > 3 * line:
        left = width * 0.03
        draw.ellipse((left, top - 2 * line, left + 1.6 * line, top - line * 0.4), ink)
        draw.text((left + 2 * line, top - 1.8 * line), _sentence(chance, 2), ink, font)
    under = top + image.height
    for button in range(4):
        x = width * (0.05 + 0.12 * button)
        draw.ellipse((x, under + line * 0.3, x + line, under + line * 1.3), outline=ink, width=2)
    draw.text((width * 0.03, under + line * 1.6), _sentence(chance, 6), ink, font)
    return sheet


def _collage(image: Picture, tiles: float, chance: Chance) -> Picture:
    """The picture as one tile among others of its size; the others are clouds made at chance."""
    count = round(tiles)
    across = 2 if count <= 4 else 3
    down = -(-count // across)
    width, height = max(_LEAST, image.width // across), max(_LEAST, image.height // across)
    mine = int(chance.integers(count))
    sheet = Image.new("RGB", (across * (width + 4), down * (height + 4)), "white")
    for number in range(count):
        clouds = Image.fromarray(chance.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        tile = image if number == mine else clouds
        at = (number % across * (width + 4), number // across * (height + 4))
        sheet.paste(tile.resize((width, height), Image.Resampling.BICUBIC), at)
    return sheet


def _several(image: Picture, count: float, chance: Chance) -> Picture:
    """Several edits one after another, at their middle severity."""
    names = ("crop", "text", "brightness", "mirror", "shapes", "letterbox", "aspect", "blur")
    chosen = [names[int(i)] for i in chance.permutation(len(names))][: round(count)]
    for name in chosen:
        found = BY_NAME[name]
        if found.edit is not None:
            image = found.edit(image, found.strengths[1], chance)
    return image


def _same(image: Picture, strength: float, chance: Chance) -> Picture:
    return image


TRANSFORMATIONS: tuple[Transformation, ...] = (
    Transformation("byte_copy", (0,), None),
    Transformation("jpeg", (60, 25, 8), _same, encode=lambda q: ("JPEG", round(q))),
    Transformation("webp", (60, 25, 5), _same, encode=lambda q: ("WEBP", round(q))),
    Transformation("resize", (0.7, 0.4, 0.2), _scale),
    Transformation("crop", (0.9, 0.7, 0.5), _crop),
    Transformation("mirror", (1.0, 0.85, 0.7), _mirror),
    Transformation("rotate", (3, 10, 30), _rotate),
    Transformation("turn", (180, 90), _turn),
    Transformation("aspect", (0.85, 0.65, 0.45), _aspect),
    Transformation("letterbox", (0.08, 0.2, 0.45), _letterbox),
    Transformation("blur", (0.004, 0.012, 0.03), _blur),
    Transformation("noise", (8, 24, 60), _noise),
    Transformation("brightness", (1.25, 1.7, 2.6), _brightness),
    Transformation("contrast", (0.7, 0.45, 0.2), _contrast),
    Transformation("grayscale", (0, 8, 2), _grayscale),
    Transformation("text", (0.08, 0.25, 0.6), _text),
    Transformation("shapes", (1, 4, 9), _shapes),
    Transformation("several", (2, 3, 5), _several),
    Transformation("screenshot", (0.85, 0.65, 0.45), _screenshot, unseen=True),
    Transformation("collage", (2, 4, 6), _collage, unseen=True),
    Transformation("caption_bar", (0.12, 0.25, 0.5), _caption_bar, unseen=True),
    Transformation("perspective", (0.05, 0.12, 0.22), _perspective, unseen=True),
    Transformation("avif", (60, 30, 10), _same, unseen=True, encode=lambda q: ("AVIF", round(q))),
    Transformation("photo_filter", (0.4, 0.7, 1.0), _photo_filter, unseen=True),
)
BY_NAME = {item.name: item for item in TRANSFORMATIONS}


def kinds(names: Sequence[str] = ()) -> list[Kind]:
    """Every (transformation, severity), in order; of some transformations alone, if named."""
    chosen = [BY_NAME[name] for name in names] if names else TRANSFORMATIONS
    return [
        Kind(item.name, severity)
        for item in chosen
        for severity in range(1, len(item.strengths) + 1)
    ]


def make_copy(data: bytes, kind: Kind, seed: int = 0) -> bytes:
    """A copy of a picture: the bytes of a file.

    Args:
        data: the picture's file.
        kind: which transformation, how severe.
        seed: of what is drawn at chance.

    Raises:
        DataError: the bytes cannot be decoded.
    """
    found = BY_NAME[kind.transformation]
    if found.edit is None:
        return data
    strength = found.strengths[kind.severity - 1]
    copy = found.edit(decoded(data), strength, chance_of(data, found.name, seed))
    form, quality = found.encode(strength)
    return encoded(copy, form, quality)


def decoded(data: bytes) -> Picture:
    """A picture as displayed, RGB, its long side at most 1600 pixels.

    Raises:
        DataError: the bytes cannot be decoded.
    """
    opened = open_image(data)
    if isinstance(opened, tuple):
        raise DataError(opened[1])
    try:
        image = visible(upright(opened))
    except Exception as error:
        raise DataError(f"cannot be decoded: {type(error).__name__}: {error}") from error
    if max(image.size) > _LONGEST:
        image.thumbnail((_LONGEST, _LONGEST))
    return image


def encoded(image: Picture, form: str = "JPEG", quality: int = _QUALITY) -> bytes:
    """A picture as a file."""
    out = io.BytesIO()
    options: dict[str, int] = {"quality": quality}
    if form == "AVIF":  # one thread: the same bytes on any machine
        options |= {"speed": 9, "max_threads": 1}
    if form == "WEBP":
        options |= {"method": 2}
    image.save(out, form, **options)
    return out.getvalue()


def chance_of(data: bytes, name: str, seed: int) -> Chance:
    """The draws of a picture under a transformation: the same for all its severities."""
    digest = hashlib.sha256(data).digest() + f"|{name}|{seed}".encode()
    return np.random.default_rng(list(hashlib.sha256(digest).digest()))
