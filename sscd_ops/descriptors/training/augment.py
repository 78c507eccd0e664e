"""What happens to copies, done to a picture at random: cv2 on 8-bit pixels, no state.

The list follows SSCD's (Pizzi et al., CVPR 2022, section 3.4) with crops that keep more, as a small
network learns nothing from hopeless ones, and with two frequent edits more: borders, and a picture
laid upon another. Everything random comes from the generator, so a view is a function of its seed.

Kept out, so that an evaluation can ask for what was never seen: screenshot frames, collages,
caption bars, perspective, AVIF, and photo filters.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Random = np.random.Generator
Edit = Callable[[Pixels, Random], Pixels]
Other = Callable[[], Pixels]
"""Answers some other training picture."""

cv2.setNumThreads(1)

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_PLAIN,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
)
_LETTERS = string.ascii_letters + string.digits + "      .,:!?#@&%-"
_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_TO_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32
)
_FROM_YIQ = np.linalg.inv(_TO_YIQ).astype(np.float32)


@dataclass(frozen=True)
class Strength:
    """How often each edit is made, [0, 1], and how far it goes.

    ``crop``: how often part of the picture is cut out; ``crop_area``: the least share of the area.
    ``colour``: the greatest relative change of brightness, contrast and saturation.
    """

    onto: float
    border: float
    flip: float
    quarter: float
    turn: float
    text: float
    shapes: float
    crop: float
    crop_area: float
    jitter: float
    colour: float
    grey: float
    gamma: float
    blur: float
    pixelate: float
    noise: float
    jpeg: float
    jpeg_least: int


STRONG = Strength(
    onto=0.15,
    border=0.10,
    flip=0.30,
    quarter=0.05,
    turn=0.15,
    text=0.20,
    shapes=0.15,
    crop=0.75,
    crop_area=0.20,
    jitter=0.80,
    colour=0.60,
    grey=0.12,
    gamma=0.15,
    blur=0.25,
    pixelate=0.06,
    noise=0.10,
    jpeg=0.35,
    jpeg_least=5,
)
MILD = Strength(
    onto=0.0,
    border=0.0,
    flip=0.0,
    quarter=0.0,
    turn=0.0,
    text=0.0,
    shapes=0.0,
    crop=0.20,
    crop_area=0.80,
    jitter=0.25,
    colour=0.15,
    grey=0.0,
    gamma=0.0,
    blur=0.0,
    pixelate=0.0,
    noise=0.0,
    jpeg=0.30,
    jpeg_least=50,
)

PAPER = Strength(
    onto=0.0,
    border=0.0,
    flip=0.50,
    quarter=0.05,
    turn=0.05,
    text=0.10,
    shapes=0.20,
    crop=1.0,
    crop_area=0.08,
    jitter=0.80,
    colour=0.80,
    grey=0.20,
    gamma=0.0,
    blur=0.50,
    pixelate=0.0,
    noise=0.0,
    jpeg=0.20,
    jpeg_least=0,
)
"""Rates and crops of SSCD's ``advanced`` augmentations (Pizzi et al., CVPR 2022, section 3.4; the
reference code's transforms/settings.py); what a single edit does is this module's."""
STRENGTHS = {"wide": STRONG, "paper": PAPER}


def view(pixels: Pixels, side: int, random: Random, strength: Strength, other: Other) -> Pixels:
    """One random copy of a picture, uint8 (side, side, 3).

    Args:
        pixels: RGB, uint8 (h, w, 3); not changed.
        side: pixels a side of the answer.
        random: the only source of chance.
        strength: how often and how much.
        other: a picture to lay this one upon.
    """
    chance = random.random(16)
    before: tuple[tuple[float, Edit], ...] = (
        (strength.text, text),
        (strength.shapes, shapes),
        (strength.border, border),
        (strength.onto, lambda below, random: onto(below, other(), random)),
        (strength.turn, turn),
        (strength.crop, lambda whole, random: crop(whole, random, strength.crop_area)),
    )
    after: tuple[tuple[float, Edit], ...] = (
        (strength.quarter, lambda small, random: np.rot90(small, int(random.integers(1, 4)))),
        (strength.flip, lambda small, random: small[:, ::-1]),
        (strength.jitter, lambda small, random: jitter(small, random, strength.colour)),
        (strength.grey, lambda small, random: recoloured(small, 1.0, 0.0, 0.0, 0.0)),
        (strength.gamma, gamma),
        (strength.blur, blur),
        (strength.pixelate, pixelate),
        (strength.noise, noise),
        (strength.jpeg, lambda small, random: jpeg(small, random, strength.jpeg_least)),
    )
    for number, (rate, edit) in enumerate(before):
        if chance[number] < rate:
            pixels = edit(pixels, random)
    small = resized(pixels, side, random)
    for number, (rate, edit) in enumerate(after, start=len(before)):
        if chance[number] < rate:
            small = np.ascontiguousarray(edit(small, random))
    return small


# ---------------------------------------------------------------- what is laid upon a picture


def text(pixels: Pixels, random: Random) -> Pixels:
    """One to three lines of letters, more or less opaque, anywhere."""
    height, width = pixels.shape[:2]
    drawn = np.array(pixels)
    face = _FONTS[random.integers(len(_FONTS))]
    scale = min(height, width) * random.uniform(0.06, 0.22) / 22.0
    colour = _colour(random)
    thick = int(random.integers(1, 3))
    x, y = int(width * random.uniform(-0.1, 0.6)), int(height * random.uniform(0.1, 0.95))
    for line in range(int(random.integers(1, 4))):
        letters = random.integers(len(_LETTERS), size=random.integers(3, 24))
        words = "".join(_LETTERS[letter] for letter in letters)
        corner = (x, y + int(line * 30 * scale))
        cv2.putText(drawn, words, corner, face, scale, colour, thick, cv2.LINE_AA)
    return _blend(pixels, drawn, random.uniform(0.4, 1.0))


def shapes(pixels: Pixels, random: Random) -> Pixels:
    """A face such as emoji have, or a disc, box or polygon, more or less opaque."""
    height, width = pixels.shape[:2]
    drawn = np.array(pixels)
    for _ in range(int(random.integers(1, 3))):
        radius = max(3, int(min(height, width) * random.uniform(0.06, 0.25)))
        centre = (int(width * random.random()), int(height * random.random()))
        kind = random.integers(4)
        if kind == 0:
            _face(drawn, centre, radius, random)
        elif kind == 1:
            cv2.circle(drawn, centre, radius, _colour(random), _fill(random), cv2.LINE_AA)
        elif kind == 2:
            reach = (centre[0] + int(radius * random.uniform(0.5, 2)), centre[1] + radius)
            cv2.rectangle(drawn, centre, reach, _colour(random), _fill(random))
        else:
            corners = int(random.integers(3, 9))
            angles = np.sort(random.uniform(0, 2 * math.pi, corners))
            lengths = radius * random.uniform(0.5, 1.2, corners)
            points = np.stack([np.cos(angles), np.sin(angles)], 1) * lengths[:, None] + centre
            cv2.fillPoly(drawn, [points.astype(np.int32)], _colour(random), cv2.LINE_AA)
    return _blend(pixels, drawn, random.uniform(0.6, 1.0))


def _face(drawn: Pixels, centre: tuple[int, int], radius: int, random: Random) -> None:
    skin = (255, int(random.integers(170, 230)), int(random.integers(0, 120)))
    dark = (60, 40, 20)
    cv2.circle(drawn, centre, radius, skin, -1, cv2.LINE_AA)
    for side in (-1, 1):
        eye = (centre[0] + side * radius // 3, centre[1] - radius // 4)
        cv2.circle(drawn, eye, max(1, radius // 7), dark, -1, cv2.LINE_AA)
    mouth = (centre[0], centre[1] + radius // 6)
    angle = 0 if random.random() < 0.7 else 180
    cv2.ellipse(drawn, mouth, (radius // 2, radius // 3), angle, 0, 180, dark, 2, cv2.LINE_AA)


def _colour(random: Random) -> tuple[int, int, int]:
    if random.random() < 0.4:  # most overlays are white or black
        level = 255 if random.random() < 0.6 else 0
        return level, level, level
    red, green, blue = (int(value) for value in random.integers(0, 256, 3))
    return red, green, blue


def _fill(random: Random) -> int:
    return -1 if random.random() < 0.6 else int(random.integers(1, 5))


def _blend(below: Pixels, above: Pixels, opacity: float) -> Pixels:
    return np.asarray(cv2.addWeighted(above, opacity, below, 1 - opacity, 0), np.uint8)


# ---------------------------------------------------------------- where the picture is


def border(pixels: Pixels, random: Random) -> Pixels:
    """Bars at two sides or a frame, of one colour or mirrored."""
    height, width = pixels.shape[:2]
    kind = random.integers(3)
    y = int(height * random.uniform(0.05, 0.35)) if kind != 1 else 0
    x = int(width * random.uniform(0.05, 0.35)) if kind != 0 else 0
    above, left = (y, x) if random.random() < 0.7 else (2 * y, 2 * x)
    how = cv2.BORDER_CONSTANT if random.random() < 0.8 else cv2.BORDER_REFLECT_101
    above, left = min(above, height - 1), min(left, width - 1)
    out = cv2.copyMakeBorder(
        pixels, above, max(0, 2 * y - above), left, max(0, 2 * x - left), how, value=_colour(random)
    )
    return np.asarray(out, np.uint8)


def onto(pixels: Pixels, below: Pixels, random: Random) -> Pixels:
    """The picture, 35 to 90% of each side, upon another one, sometimes seen through."""
    height, width = pixels.shape[:2]
    canvas = cv2.resize(below, (width, height), interpolation=cv2.INTER_AREA)
    scale = random.uniform(0.35, 0.9)
    wide, high = max(2, int(width * scale)), max(2, int(height * scale))
    small = cv2.resize(pixels, (wide, high), interpolation=cv2.INTER_AREA)
    x = int(random.integers(0, width - wide + 1))
    y = int(random.integers(0, height - high + 1))
    opacity = 1.0 if random.random() < 0.7 else random.uniform(0.6, 1.0)
    place = canvas[y : y + high, x : x + wide]
    canvas[y : y + high, x : x + wide] = cv2.addWeighted(small, opacity, place, 1 - opacity, 0)
    return np.asarray(canvas, np.uint8)


def turn(pixels: Pixels, random: Random) -> Pixels:
    """A rotation, mostly slight; what comes into sight is black, a colour or mirrored."""
    height, width = pixels.shape[:2]
    angle = random.uniform(-180, 180) if random.random() < 0.2 else random.normal(0, 12)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(angle), 1.0)
    how = cv2.BORDER_REFLECT_101 if random.random() < 0.3 else cv2.BORDER_CONSTANT
    out = cv2.warpAffine(
        pixels,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=how,
        borderValue=(0, 0, 0) if random.random() < 0.6 else _colour(random),
    )
    return np.asarray(out, np.uint8)


def crop(pixels: Pixels, random: Random, least_area: float) -> Pixels:
    """A random part: its share of the area uniform above ``least_area``, its aspect up to 4:3."""
    height, width = pixels.shape[:2]
    area = random.uniform(least_area, 1.0)
    aspect = math.exp(random.uniform(-1, 1) * math.log(4 / 3))
    high = min(height, max(8, round(height * math.sqrt(area / aspect))))
    wide = min(width, max(8, round(width * math.sqrt(area * aspect))))
    y = int(random.integers(0, height - high + 1))
    x = int(random.integers(0, width - wide + 1))
    return pixels[y : y + high, x : x + wide]


def resized(pixels: Pixels, side: int, random: Random) -> Pixels:
    """The picture as a square, its aspect given up, as the product's decoders make it."""
    how = _INTERPOLATIONS[random.integers(len(_INTERPOLATIONS))]
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=how), np.uint8)


# ---------------------------------------------------------------- how its pixels look


def recoloured(
    pixels: Pixels, contrast: float, brightness: float, saturation: float, hue: float
) -> Pixels:
    """All linear changes of colour as one matrix.

    Args:
        pixels: RGB.
        contrast: 1 leaves it.
        brightness: added, as a share of full white.
        saturation: 1 leaves it, 0 is grey.
        hue: turn of the colours, in radians.
    """
    cosine, sine = saturation * math.cos(hue), saturation * math.sin(hue)
    middle = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]], np.float32)
    matrix = contrast * (_FROM_YIQ @ middle @ _TO_YIQ)
    mean = 128.0 * (1 - contrast) + 255.0 * brightness
    moved = np.concatenate([matrix, np.full((3, 1), mean, np.float32)], axis=1)
    return np.asarray(cv2.transform(pixels, moved), np.uint8)


def jitter(pixels: Pixels, random: Random, most: float) -> Pixels:
    """Random contrast, brightness, saturation and hue."""
    contrast = math.exp(random.uniform(-most, most) * 0.8)
    brightness = random.uniform(-0.4, 0.4) * most
    saturation = max(0.0, 1 + random.uniform(-most, most) * 1.3)
    return recoloured(pixels, contrast, brightness, saturation, random.uniform(-0.6, 0.6) * most)


def gamma(pixels: Pixels, random: Random) -> Pixels:
    """A power of the brightness between 1/2 and 2."""
    power = math.exp(random.uniform(-0.7, 0.7))
    table = np.rint(255.0 * (np.arange(256) / 255.0) ** power).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table), np.uint8)


def blur(pixels: Pixels, random: Random) -> Pixels:
    """Gaussian, its deviation up to 2.5% of the side."""
    deviation = pixels.shape[0] * random.uniform(0.003, 0.025)
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), deviation), np.uint8)


def pixelate(pixels: Pixels, random: Random) -> Pixels:
    """Shrunk to a third at least, and blown up again."""
    height, width = pixels.shape[:2]
    scale = random.uniform(0.3, 0.7)
    tiny = cv2.resize(
        pixels,
        (max(4, int(width * scale)), max(4, int(height * scale))),
        interpolation=cv2.INTER_AREA,
    )
    how = cv2.INTER_NEAREST if random.random() < 0.5 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(tiny, (width, height), interpolation=how), np.uint8)


def noise(pixels: Pixels, random: Random) -> Pixels:
    """Gaussian noise, its deviation up to 25 of 255 levels."""
    levels = random.standard_normal(pixels.shape, np.float32) * random.uniform(3, 25)
    return np.clip(pixels + levels, 0, 255).astype(np.uint8)


def jpeg(pixels: Pixels, random: Random, least: int) -> Pixels:
    """Stored as JPEG and read again. cv2 takes red for blue, both ways: only its chroma knows."""
    quality = int(random.integers(least, 96))
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
