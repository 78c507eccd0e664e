"""Pictures in 8-bit RGB, so that what is in them can be seen: by models, and by people.

Transparency has no colour of its own, and 16-bit files often hold 9, 10 or 12 bits, values below
zero or kelvins. Laid on white and cut to the upper byte, white drawings and dark scans all become
one blank sheet. Here a ground is chosen that the content stands out from, and values are scaled by
the bits they need or by their range.

Integers, and float64 one operation a value: the same pixels on any machine. Opaque pictures of 8
bits are what ``convert("RGB")`` makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)
_BAND = 1 << 22
"""Pixels that are converted at once."""
_NEAR = 32
"""Levels, in the channel that differs most, below which a colour is lost on a ground."""
_MOST_GAIN = 8
"""Values are spread over all levels at most this many times: noise stays noise."""
_LEAST_APART = 64
"""Whole numbers that lie closer together are noise beside a value that is far away."""

Convert = Callable[[Image.Image], Image.Image]
Numbers = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""Integers or floats (h, w), and which of them count."""


def visible(image: Image.Image) -> Image.Image:
    """The frame that is open, in RGB.

    Raises:
        Exception: whatever its decoder does at bad bytes.
    """
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _laid(image, partial(_rgba, key=_key_of(image)))
    return image if image.mode == "RGB" else image.convert("RGB")


def by_bands(image: Image.Image, convert: Convert) -> Image.Image:
    """RGB made a few rows at a time: whole, each step would take a picture's memory again."""
    answer = Image.new("RGB", image.size)
    for top, band in bands(image):
        answer.paste(convert(band), (0, top))
    return answer


def bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture a few rows at a time, each with its first row's number."""
    width, height = image.size
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


# ---------------------------------------------------------------- transparency


def _laid(image: Image.Image, rgba: Convert) -> Image.Image:
    """A picture laid on a ground that it stands out from."""
    colour = (*ground_of(rgba(band) for _, band in bands(image)), 255)

    def on_it(band: Image.Image) -> Image.Image:
        ground = Image.new("RGBA", band.size, colour)
        return Image.alpha_composite(ground, rgba(band)).convert("RGB")

    return by_bands(image, on_it)


def ground_of(parts: Iterable[Image.Image]) -> tuple[int, int, int]:
    """White, black or grey: the first on which at most a third of the content is lost.

    Content counts by its opacity. A colour is near one of the three at most, so there always is
    one. White comes first, for it is what others lay transparency on as they make a JPEG of it.

    Args:
        parts: of one picture, RGBA.
    """
    content = on_white = on_black = 0
    for part in parts:
        pixels = np.asarray(part)
        alpha = pixels[..., 3]
        content += int(alpha.sum(dtype=np.int64))
        light = pixels[..., :3].min(axis=2) > WHITE[0] - _NEAR
        dark = pixels[..., :3].max(axis=2) < BLACK[0] + _NEAR
        on_white += int(alpha[light].sum(dtype=np.int64))
        on_black += int(alpha[dark].sum(dtype=np.int64))
    if 3 * on_white <= content:
        return WHITE
    return BLACK if 3 * on_black <= content else GREY


def _key_of(image: Image.Image) -> tuple[int, ...] | None:
    """The transparent colour of a 16-bit RGB picture, whose pixels are the upper bytes."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        return tuple(value >> 8 for value in key)
    return None


def _rgba(band: Image.Image, *, key: tuple[int, ...] | None) -> Image.Image:
    if key is not None:
        band.info["transparency"] = key
    return (band.convert("LA") if band.mode == "La" else band).convert("RGBA")


# ---------------------------------------------------------------- more than 8 bits


class Scale(NamedTuple):
    """Values from ``start`` to ``start + span`` become levels, 0 to 255."""

    start: float
    span: float


def _from_deep(image: Image.Image) -> Image.Image:
    """A picture of one deep channel; what is no number is transparent."""
    key = image.info.get("transparency")

    def numbers(band: Image.Image) -> Numbers:
        values = np.asarray(band)
        counted = np.isfinite(values)
        return values, counted & (values != key) if isinstance(key, int) else counted

    scale = scale_of(numbers(band) for _, band in bands(image))

    def rgba(band: Image.Image) -> Image.Image:
        values, counted = numbers(band)
        alpha = Image.fromarray(np.where(counted, 255, 0).astype(np.uint8))
        grey = Image.fromarray(to_levels(values, counted, scale))
        return Image.merge("LA", (grey, alpha)).convert("RGBA")

    if image.mode == "F" or isinstance(key, int):
        return _laid(image, rgba)
    return by_bands(image, lambda band: rgba(band).convert("RGB"))


def scale_of(parts: Iterable[Numbers]) -> Scale:
    """How the values of a picture become levels.

    Those that use a good part of the bits they need are scaled by these, so a picture of 8 bits in
    16 keeps its levels, and one of 12 bits looks as it would in 8. Others, below zero or far above
    it with little between, are spread over all levels, but by a limited gain. A least or greatest
    value that is far from all others (no height here, a dead pixel) is left out: it becomes black
    or white.
    """
    low: list[float] = []
    high: list[float] = []
    whole = True
    for values, counted in parts:
        whole = values.dtype.kind in "iu"
        some = values[counted]
        low, high = _ends(low, some, greatest=False), _ends(high, some, greatest=True)
    least, most = _without_marks(low, high, _LEAST_APART if whole else 0)
    top = _top(max(abs(least), abs(most)), whole=whole)
    if top == 0:
        return Scale(0.0, 1.0)
    if least >= 0 and most - least >= top / 4:
        return Scale(0.0, top)
    return Scale(least, max(most - least, top / _MOST_GAIN))


def _ends(known: list[float], values: NDArray[np.generic], *, greatest: bool) -> list[float]:
    """The two values furthest at one end, the last one first, of those known and more."""
    found = set(known)
    for _ in range(2):
        if len(values):
            last = values.max() if greatest else values.min()
            found.add(float(last))
            values = values[values != last]
    return sorted(found, reverse=greatest)[:2]


def _without_marks(low: list[float], high: list[float], apart: float) -> tuple[float, float]:
    """The least and the greatest value, each without one that lies far from all others."""
    if not low:
        return 0.0, 0.0
    least, most = low[0], high[0]

    def far(start: float, end: float) -> bool:
        """Whether what is left is little beside what there was."""
        return apart <= end - start <= (most - least) / _MOST_GAIN and start < end

    if len(high) > 1 and far(least, high[1]):
        most = high[1]
    if len(low) > 1 and far(low[1], most):
        least = low[1]
    return least, most


def to_levels(
    values: NDArray[np.generic], counted: NDArray[np.bool_], scale: Scale
) -> NDArray[np.uint8]:
    """Values as levels; 0 where they do not count."""
    wide = np.where(counted, values, scale.start).astype(np.float64)
    levels = np.floor((wide - scale.start) / scale.span * 255.0 + 0.5)
    return np.clip(levels, 0, 255).astype(np.uint8)


def _top(most: float, *, whole: bool) -> float:
    """The greatest value of as many bits as a magnitude needs."""
    if whole:
        return float(2 ** int(most).bit_length() - 1)
    if most == 0:
        return 0.0
    fraction, exponent = math.frexp(most)
    return math.ldexp(1.0, exponent - 1 if fraction == 0.5 else exponent)
