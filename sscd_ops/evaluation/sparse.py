"""Made pictures with little in them: sheets that say nothing, and real kinds that say something.

``EMPTY`` are kinds whose pictures nothing tells apart but a colour, noise, a soft shade or a speck:
a night must never take one for a copy of another. ``SPARSE`` are kinds with much ground and a
little upon it, which must go on being compared: icons, logos, drawings, charts, codes, night skies,
fog, snow, scans of nearly empty pages, and what only its decoding can show.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Chance = np.random.Generator
Make = Callable[[Chance], bytes]
"""Draws one, as a file."""
Ink = tuple[int, ...]

_SIZE = (320, 240)
_SIGNS = "ABCDEFGHKLMNPQRSTUVWXYZ2345678&@#%"


def _saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _colour(chance: Chance, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in chance.integers(low, high, 3))
    return red, green, blue


# ---------------------------------------------------------------- nothing to compare


def _sheet(chance: Chance) -> bytes:
    return _saved(Image.new("RGB", _SIZE, _colour(chance)))


def _jpeg_sheet(chance: Chance) -> bytes:
    return _saved(Image.new("RGB", _SIZE, _colour(chance)), "JPEG", quality=80)


def _noise(chance: Chance) -> bytes:
    """A sheet as a camera or scanner takes it: grain of one or two levels."""
    sheet = np.array(_colour(chance, 8, 248)) + chance.normal(0, 2, (*_SIZE[::-1], 3))
    return _saved(Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)), "JPEG", quality=85)


def _shade(chance: Chance) -> bytes:
    """A sheet whose light falls off by a few levels towards a side."""
    angle = chance.random() * 2 * np.pi
    down, across = np.mgrid[-1:1:240j, -1:1:320j]
    fall = 5 * (np.cos(angle) * across + np.sin(angle) * down)
    sheet = np.array(_colour(chance, 8, 248)) + fall[..., None]
    return _saved(Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)), "JPEG", quality=90)


def _border(chance: Chance) -> bytes:
    """A sheet with a hairline around it, one level apart."""
    colour = _colour(chance, 8, 248)
    image = Image.new("RGB", _SIZE, colour)
    edge = (colour[0] + 3, colour[1] + 3, colour[2] + 3)
    ImageDraw.Draw(image).rectangle((0, 0, 319, 239), outline=edge)
    return _saved(image)


def _speck(chance: Chance) -> bytes:
    """A sheet with a dead pixel, or a grain of dust."""
    image = Image.new("RGB", _SIZE, _colour(chance, 200, 256))
    left, top = int(chance.integers(5, 310)), int(chance.integers(5, 230))
    image.paste((90, 90, 90), (left, top, left + 1, top + 1))
    return _saved(image)


def _gradient(chance: Chance) -> bytes:
    """From one clear colour to another, in any direction."""
    angle = chance.random() * 2 * np.pi
    down, across = np.mgrid[-1:1:240j, -1:1:320j]
    at = (np.cos(angle) * across + np.sin(angle) * down)[..., None] / 2.83 + 0.5
    sheet = np.array(_colour(chance)) * (1 - at) + np.array(_colour(chance)) * at
    return _saved(Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)), "JPEG", quality=90)


def _page(chance: Chance) -> Image.Image:
    grain = np.clip(chance.normal(249, 1.5, (640, 460, 1)), 0, 255).repeat(3, axis=2)
    return Image.fromarray(grain.astype(np.uint8))


def _page_number(chance: Chance) -> bytes:
    """A scanned page with its number alone."""
    image = _page(chance)
    number = str(int(chance.integers(10, 400)))
    at = (222, 605)
    ImageDraw.Draw(image).text(at, number, fill=(50, 50, 50), font=ImageFont.load_default(15))
    return _saved(image, "JPEG", quality=85)


EMPTY: Mapping[str, Make] = {
    "sheets": _sheet,
    "sheets_jpeg": _jpeg_sheet,
    "sheets_grain": _noise,
    "sheets_shade": _shade,
    "sheets_border": _border,
    "sheets_speck": _speck,
    "gradients": _gradient,
    "page_numbers": _page_number,
}


# ---------------------------------------------------------------- little to compare


def _strokes(draw: ImageDraw.ImageDraw, chance: Chance, ink: Ink) -> None:
    for _ in range(6):
        across, down = chance.integers(40, 280, 4), chance.integers(30, 210, 4)
        points = [(int(x), int(y)) for x, y in zip(across, down, strict=True)]
        draw.line(points, fill=ink, width=3)


def _drawing(chance: Chance) -> bytes:
    """A few lines on white."""
    image = Image.new("RGB", _SIZE, "white")
    _strokes(ImageDraw.Draw(image), chance, (20, 20, 20))
    return _saved(image)


def _shape(draw: ImageDraw.ImageDraw, chance: Chance, ink: Ink, side: int) -> None:
    left, top = (int(value) for value in chance.integers(side // 10, side // 3, 2))
    right, bottom = (int(value) for value in chance.integers(side // 2, side * 9 // 10, 2))
    kind = int(chance.integers(0, 4))
    box = (left, top, right, bottom)
    if kind == 0:
        draw.ellipse(box, fill=ink)
    elif kind == 1:
        draw.rectangle(box, fill=ink)
    elif kind == 2:
        tip = ((left + right) // 2, top)
        draw.polygon([(left, bottom), tip, (right, bottom)], fill=ink)
    else:
        draw.arc(box, 20, 290, fill=ink, width=side // 12)


def _icon(chance: Chance) -> bytes:
    """A sign on a square of one colour."""
    image = Image.new("RGB", (96, 96), _colour(chance, 150, 256))
    draw = ImageDraw.Draw(image)
    for _ in range(2):
        _shape(draw, chance, _colour(chance, 0, 110), 96)
    return _saved(image)


def _logo(chance: Chance) -> bytes:
    """A word in the middle of a white sheet."""
    image = Image.new("RGB", _SIZE, "white")
    word = "".join(_SIGNS[int(i)] for i in chance.integers(0, len(_SIGNS), 4))
    font = ImageFont.load_default(44)
    ImageDraw.Draw(image).text((90, 90), word, fill=_colour(chance, 0, 150), font=font)
    return _saved(image)


def _chart(chance: Chance) -> bytes:
    """One thin line on axes."""
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    draw.line([(30, 10), (30, 215), (310, 215)], fill=(120, 120, 120))
    heights = 110 + np.cumsum(chance.normal(0, 14, 40))
    points = [(32 + 7 * i, int(np.clip(h, 15, 210))) for i, h in enumerate(heights)]
    draw.line(points, fill=(40, 90, 180), width=2)
    return _saved(image)


def _night(chance: Chance) -> bytes:
    """A few dozen stars."""
    sky = chance.normal(10, 1.5, (*_SIZE[::-1], 1)).repeat(3, axis=2)
    for _ in range(int(chance.integers(25, 60))):
        left, top = int(chance.integers(1, 318)), int(chance.integers(1, 238))
        sky[top : top + 2, left : left + 2] = chance.integers(120, 256)
    return _saved(Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8)), "JPEG", quality=90)


def _moon(chance: Chance) -> bytes:
    """A disc in a black sky."""
    sky = np.zeros((*_SIZE[::-1], 3), np.uint8) + np.uint8(6)
    image = Image.fromarray(sky)
    left, top, side = (int(chance.integers(*r)) for r in ((20, 250), (20, 170), (20, 60)))
    ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), fill=(235, 232, 210))
    return _saved(image.filter(ImageFilter.GaussianBlur(1)), "JPEG", quality=90)


def _clouds(chance: Chance, low: float, high: float) -> Image.Image:
    """Soft random shapes between two levels."""
    total = np.zeros(_SIZE[::-1])
    for octave in (4, 8, 16):
        grid = Image.fromarray((chance.random((octave, octave)) * 255).astype(np.uint8))
        total += np.asarray(grid.resize(_SIZE, Image.Resampling.BICUBIC), float) / octave
    total = (total - total.min()) / (total.max() - total.min())
    grey = low + (high - low) * total + chance.normal(0, 1, total.shape)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def _fog(chance: Chance) -> bytes:
    """Shapes that come out of the fog by a dozen levels or two."""
    return _saved(_clouds(chance, 178, 202), "JPEG", quality=88)


def _snow(chance: Chance) -> bytes:
    """White on white: drifts, and some grass."""
    image = _clouds(chance, 226, 252)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        left, top = int(chance.integers(10, 310)), int(chance.integers(60, 230))
        draw.line((left, top, left + int(chance.integers(-4, 5)), top - 14), fill=(120, 110, 90))
    return _saved(image, "JPEG", quality=88)


def _few_words(chance: Chance) -> bytes:
    """A scanned page with one line."""
    image = _page(chance)
    words = " ".join("".join(_SIGNS[int(i)] for i in chance.integers(0, 24, 6)) for _ in range(3))
    at = (60, int(chance.integers(60, 560)))
    ImageDraw.Draw(image).text(at, words, fill=(40, 40, 40), font=ImageFont.load_default(20))
    return _saved(image, "JPEG", quality=85)


def _signature(chance: Chance) -> bytes:
    """A scanned page with a signature at its foot."""
    image = _page(chance)
    across = 240 + np.linspace(0, 150, 40) + chance.normal(0, 5, 40)
    down = 540 + chance.normal(0, 16, 40)
    points = list(zip(across.tolist(), down.tolist(), strict=True))
    ImageDraw.Draw(image).line(points, fill=(30, 30, 110), width=2)
    return _saved(image, "JPEG", quality=85)


def _code(chance: Chance) -> bytes:
    """A QR-like code with a wide quiet zone."""
    cells = chance.integers(0, 2, (25, 25)).astype(np.uint8) * 255
    code = Image.fromarray(cells).resize((150, 150), Image.Resampling.NEAREST)
    image = Image.new("RGB", (240, 240), "white")
    image.paste(code.convert("RGB"), (45, 45))
    return _saved(image)


def _lines_on_nothing(chance: Chance, ink: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", _SIZE, (*ink, 0))
    _strokes(ImageDraw.Draw(image), chance, (*ink, 255))
    return image


def _white_on_nothing(chance: Chance) -> bytes:
    return _saved(_lines_on_nothing(chance, (255, 255, 255)))


def _black_on_nothing(chance: Chance) -> bytes:
    return _saved(_lines_on_nothing(chance, (0, 0, 0)))


def _both_on_nothing(chance: Chance) -> bytes:
    """White lines, and one black that all have."""
    image = _lines_on_nothing(chance, (255, 255, 255))
    ImageDraw.Draw(image).line((20, 220, 300, 220), fill=(0, 0, 0, 255), width=3)
    return _saved(image)


def _few_bits(chance: Chance) -> bytes:
    """9, 10 or 12 bits in 16."""
    bits = int(chance.choice([9, 10, 12]))
    grey = np.asarray(_clouds(chance, 0, 255).convert("L"), float) / 255 * (2**bits - 1)
    return _saved(Image.fromarray(grey.astype(np.uint16)))


def _late_start(chance: Chance) -> bytes:
    """An animation that begins with a white frame."""
    frames = [Image.new("RGB", _SIZE, "white")]
    for _ in range(2):
        image = Image.new("RGB", _SIZE, "white")
        _strokes(ImageDraw.Draw(image), chance, _colour(chance, 0, 200))
        frames.append(image)
    return _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


SPARSE: Mapping[str, Make] = {
    "drawings": _drawing,
    "icons": _icon,
    "logos": _logo,
    "line_charts": _chart,
    "night_skies": _night,
    "moons": _moon,
    "fog": _fog,
    "snow": _snow,
    "few_words": _few_words,
    "signatures": _signature,
    "codes": _code,
    "white_on_nothing": _white_on_nothing,
    "black_on_nothing": _black_on_nothing,
    "both_on_nothing": _both_on_nothing,
    "few_bits": _few_bits,
    "late_start": _late_start,
}
