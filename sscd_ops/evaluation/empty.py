"""Made pictures with nothing in them to compare: a colour, noise, a soft shade or a speck.

A night must never take one for a copy of another.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Chance = np.random.Generator
Make = Callable[[Chance], bytes]
"""Draws one, as a file."""

SIZE = (320, 240)


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """The picture as a file."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def colour_of(chance: Chance, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    """Any colour whose levels are in [low, high)."""
    red, green, blue = (int(value) for value in chance.integers(low, high, 3))
    return red, green, blue


def _sheet(chance: Chance) -> bytes:
    return saved(Image.new("RGB", SIZE, colour_of(chance)))


def _jpeg_sheet(chance: Chance) -> bytes:
    return saved(Image.new("RGB", SIZE, colour_of(chance)), "JPEG", quality=80)


def _noise(chance: Chance) -> bytes:
    """A sheet as a camera or scanner takes it: grain of one or two levels."""
    sheet = np.array(colour_of(chance, 8, 248)) + chance.normal(0, 2, (*SIZE[::-1], 3))
    return saved(Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)), "JPEG", quality=85)


def _shade(chance: Chance) -> bytes:
    """A sheet whose light falls off by a few levels towards a side."""
    angle = chance.random() * 2 * np.pi
    down, across = np.mgrid[-1:1:240j, -1:1:320j]
    fall = 5 * (np.cos(angle) * across + np.sin(angle) * down)
    sheet = np.array(colour_of(chance, 8, 248)) + fall[..., None]
    return saved(Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)), "JPEG", quality=90)


def _border(chance: Chance) -> bytes:
    """A sheet with a hairline around it, one level apart."""
    colour = colour_of(chance, 8, 248)
    image = Image.new("RGB", SIZE, colour)
    edge = (colour[0] + 3, colour[1] + 3, colour[2] + 3)
    ImageDraw.Draw(image).rectangle((0, 0, 319, 239), outline=edge)
    return saved(image)


def _speck(chance: Chance) -> bytes:
    """A sheet with a dead pixel, or a grain of dust."""
    image = Image.new("RGB", SIZE, colour_of(chance, 200, 256))
    left, top = int(chance.integers(5, 310)), int(chance.integers(5, 230))
    image.paste((90, 90, 90), (left, top, left + 1, top + 1))
    return saved(image)


def _gradient(chance: Chance) -> bytes:
    """From one clear colour to another, in any direction."""
    angle = chance.random() * 2 * np.pi
    down, across = np.mgrid[-1:1:240j, -1:1:320j]
    at = (np.cos(angle) * across + np.sin(angle) * down)[..., None] / 2.83 + 0.5
    sheet = np.array(colour_of(chance)) * (1 - at) + np.array(colour_of(chance)) * at
    return saved(Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8)), "JPEG", quality=90)


def page(chance: Chance) -> Image.Image:
    """An empty page as a scanner takes it."""
    grain = np.clip(chance.normal(249, 1.5, (640, 460, 1)), 0, 255).repeat(3, axis=2)
    return Image.fromarray(grain.astype(np.uint8))


def _page_number(chance: Chance) -> bytes:
    """A scanned page with its number alone."""
    image = page(chance)
    number = str(int(chance.integers(10, 400)))
    at = (222, 605)
    ImageDraw.Draw(image).text(at, number, fill=(50, 50, 50), font=ImageFont.load_default(15))
    return saved(image, "JPEG", quality=85)


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
