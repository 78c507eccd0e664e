"""Made pictures with much ground and a little upon it, which must go on being compared.

Icons, logos, drawings, charts, codes, night skies, fog, snow, scans of nearly empty pages, and what
only its decoding can show. Those with nothing in them at all: ``sscd_ops.evaluation.empty``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sscd_ops.evaluation.empty import SIZE, Chance, Make, colour_of, page, saved

Ink = tuple[int, ...]

_SIGNS = "ABCDEFGHKLMNPQRSTUVWXYZ2345678&@#%"


def _strokes(draw: ImageDraw.ImageDraw, chance: Chance, ink: Ink) -> None:
    for _ in range(6):
        across, down = chance.integers(40, 280, 4), chance.integers(30, 210, 4)
        points = [(int(x), int(y)) for x, y in zip(across, down, strict=True)]
        draw.line(points, fill=ink, width=3)


def _drawing(chance: Chance) -> bytes:
    """A few lines on white."""
    image = Image.new("RGB", SIZE, "white")
    _strokes(ImageDraw.Draw(image), chance, (20, 20, 20))
    return saved(image)


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
    image = Image.new("RGB", (96, 96), colour_of(chance, 150, 256))
    draw = ImageDraw.Draw(image)
    for _ in range(2):
        _shape(draw, chance, colour_of(chance, 0, 110), 96)
    return saved(image)


def _logo(chance: Chance) -> bytes:
    """A word in the middle of a white sheet."""
    image = Image.new("RGB", SIZE, "white")
    word = "".join(_SIGNS[int(i)] for i in chance.integers(0, len(_SIGNS), 4))
    font = ImageFont.load_default(44)
    ImageDraw.Draw(image).text((90, 90), word, fill=colour_of(chance, 0, 150), font=font)
    return saved(image)


def _chart(chance: Chance) -> bytes:
    """One thin line on axes."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    draw.line([(30, 10), (30, 215), (310, 215)], fill=(120, 120, 120))
    heights = 110 + np.cumsum(chance.normal(0, 14, 40))
    points = [(32 + 7 * i, int(np.clip(h, 15, 210))) for i, h in enumerate(heights)]
    draw.line(points, fill=(40, 90, 180), width=2)
    return saved(image)


def _night(chance: Chance) -> bytes:
    """A few dozen stars."""
    sky = chance.normal(10, 1.5, (*SIZE[::-1], 1)).repeat(3, axis=2)
    for _ in range(int(chance.integers(25, 60))):
        left, top = int(chance.integers(1, 318)), int(chance.integers(1, 238))
        sky[top : top + 2, left : left + 2] = chance.integers(120, 256)
    return saved(Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8)), "JPEG", quality=90)


def _moon(chance: Chance) -> bytes:
    """A disc in a black sky."""
    sky = np.zeros((*SIZE[::-1], 3), np.uint8) + np.uint8(6)
    image = Image.fromarray(sky)
    left, top, side = (int(chance.integers(*r)) for r in ((20, 250), (20, 170), (20, 60)))
    ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), fill=(235, 232, 210))
    return saved(image.filter(ImageFilter.GaussianBlur(1)), "JPEG", quality=90)


def _clouds(chance: Chance, low: float, high: float) -> Image.Image:
    """Soft random shapes between two levels."""
    total = np.zeros(SIZE[::-1])
    for octave in (4, 8, 16):
        grid = Image.fromarray((chance.random((octave, octave)) * 255).astype(np.uint8))
        total += np.asarray(grid.resize(SIZE, Image.Resampling.BICUBIC), float) / octave
    total = (total - total.min()) / (total.max() - total.min())
    grey = low + (high - low) * total + chance.normal(0, 1, total.shape)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def _fog(chance: Chance) -> bytes:
    """Shapes that come out of the fog by a dozen levels or two."""
    return saved(_clouds(chance, 178, 202), "JPEG", quality=88)


def _snow(chance: Chance) -> bytes:
    """White on white: drifts, and some grass."""
    image = _clouds(chance, 226, 252)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        left, top = int(chance.integers(10, 310)), int(chance.integers(60, 230))
        draw.line((left, top, left + int(chance.integers(-4, 5)), top - 14), fill=(120, 110, 90))
    return saved(image, "JPEG", quality=88)


def _few_words(chance: Chance) -> bytes:
    """A scanned page with one line."""
    image = page(chance)
    words = " ".join("".join(_SIGNS[int(i)] for i in chance.integers(0, 24, 6)) for _ in range(3))
    at = (60, int(chance.integers(60, 560)))
    ImageDraw.Draw(image).text(at, words, fill=(40, 40, 40), font=ImageFont.load_default(20))
    return saved(image, "JPEG", quality=85)


def _signature(chance: Chance) -> bytes:
    """A scanned page with a signature at its foot."""
    image = page(chance)
    across = 240 + np.linspace(0, 150, 40) + chance.normal(0, 5, 40)
    down = 540 + chance.normal(0, 16, 40)
    points = list(zip(across.tolist(), down.tolist(), strict=True))
    ImageDraw.Draw(image).line(points, fill=(30, 30, 110), width=2)
    return saved(image, "JPEG", quality=85)


def _code(chance: Chance) -> bytes:
    """A QR-like code with a wide quiet zone."""
    cells = chance.integers(0, 2, (25, 25)).astype(np.uint8) * 255
    code = Image.fromarray(cells).resize((150, 150), Image.Resampling.NEAREST)
    image = Image.new("RGB", (240, 240), "white")
    image.paste(code.convert("RGB"), (45, 45))
    return saved(image)


def _lines_on_nothing(chance: Chance, ink: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", SIZE, (*ink, 0))
    _strokes(ImageDraw.Draw(image), chance, (*ink, 255))
    return image


def _white_on_nothing(chance: Chance) -> bytes:
    return saved(_lines_on_nothing(chance, (255, 255, 255)))


def _black_on_nothing(chance: Chance) -> bytes:
    return saved(_lines_on_nothing(chance, (0, 0, 0)))


def _both_on_nothing(chance: Chance) -> bytes:
    """White lines, and one black that all have."""
    image = _lines_on_nothing(chance, (255, 255, 255))
    ImageDraw.Draw(image).line((20, 220, 300, 220), fill=(0, 0, 0, 255), width=3)
    return saved(image)


def _few_bits(chance: Chance) -> bytes:
    """9, 10 or 12 bits in 16."""
    bits = int(chance.choice([9, 10, 12]))
    grey = np.asarray(_clouds(chance, 0, 255).convert("L"), float) / 255 * (2**bits - 1)
    return saved(Image.fromarray(grey.astype(np.uint16)))


def _late_start(chance: Chance) -> bytes:
    """An animation that begins with a white frame."""
    frames = [Image.new("RGB", SIZE, "white")]
    for _ in range(2):
        image = Image.new("RGB", SIZE, "white")
        _strokes(ImageDraw.Draw(image), chance, colour_of(chance, 0, 200))
        frames.append(image)
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


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
