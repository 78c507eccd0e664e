"""Decoding to RGB pixels of a model's size. A preset's name is part of the fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sscd_ops.core.perceptual import NOTHING
from sscd_ops.images.animation import first_not_plain
from sscd_ops.images.frames import Answer, Decoded
from sscd_ops.images.ground import bands, by_bands, visible
from sscd_ops.images.header import open_image
from sscd_ops.images.orientation import upright, upright_size
from sscd_ops.images.plain import is_plain
from sscd_ops.model import Fault

Resample = Image.Resampling


@dataclass(frozen=True)
class Preset:
    """How a picture becomes pixels.

    ``size_of``: (width, height) -> the size it is resized to. ``draft``: the least size a JPEG may
    be decoded at by the decoder's own scaling, 0 for none. ``fixed``: whether all pictures come out
    at one size. ``seen``: whether transparency, deep pictures and animations are decoded so that
    their content is seen; without, transparency lies on white, and first frames count.
    """

    name: str
    size_of: Callable[[int, int], tuple[int, int]]
    fixed: bool
    draft: int = 0
    filter: Resample = Resample.BILINEAR
    seen: bool = False


def _short_edge(edge: int) -> Callable[[int, int], tuple[int, int]]:
    """Short edge to ``edge``, the long one truncated, as torchvision's Resize(int) does."""

    def size_of(width: int, height: int) -> tuple[int, int]:
        if width <= height:
            return edge, int(edge * height / width)
        return int(edge * width / height), edge

    return size_of


def _long_edge(edge: int) -> Callable[[int, int], tuple[int, int]]:
    """Long edge to ``edge``, both rounded, as the reference's Copydays evaluation does."""

    def size_of(width: int, height: int) -> tuple[int, int]:
        scale = edge / max(width, height)
        return max(1, int(scale * width + 0.5)), max(1, int(scale * height + 0.5))

    return size_of


def _square(edge: int) -> Callable[[int, int], tuple[int, int]]:
    return lambda width, height: (edge, edge)


_FIRST = (
    # SSCD's own (README and copydays_eval.py of the reference code): PIL bilinear
    Preset("skew-320", _square(320), fixed=True),
    Preset("skew-288", _square(288), fixed=True),
    Preset("small-288", _short_edge(288), fixed=False),
    Preset("long-800", _long_edge(800), fixed=False),
    # the same sizes, but JPEGs at least twice as large are scaled down by their decoder first,
    # to no less than the target: faster, other numbers (docs/descriptors.md has both)
    Preset("skew-320-draft", _square(320), fixed=True, draft=320),
    Preset("skew-288-draft", _square(288), fixed=True, draft=288),
    Preset("small-288-draft", _short_edge(288), fixed=False, draft=288),
    # for the small network: its pictures were 128 px on the short side
    Preset("skew-128", _square(128), fixed=True),
    Preset("skew-160", _square(160), fixed=True),
    # the baseline: a small grid; JPEGs are scaled down while they are decoded
    Preset("grid-64-draft", _square(64), fixed=True, draft=128, filter=Resample.BOX),
)
PRESETS = {
    preset.name: preset
    for first in _FIRST
    # of the first, pixels stay what they were: datasets were embedded with them
    for preset in (first, replace(first, name=f"{first.name}-v2", seen=True))
}


def preprocess(data: bytes, preset: Preset) -> Decoded:
    """A picture's RGB pixels, uint8 (height, width, 3), or why it has none.

    Raises:
        MemoryError: there is too little for this picture now.
    """
    return prepare(data, preset, hashed=False).decoded


def prepare(data: bytes, preset: Preset, *, hashed: bool) -> Answer:
    """A picture's pixels, whether they are plain, and its perceptual hash where asked for.

    The hash does not depend on the preset's size: a picture that is decoded at a smaller one is
    decoded once more for it.

    Raises:
        MemoryError: there is too little for this picture now. That says nothing of its bytes: a
            decoder dies of it, and the picture is tried once more, alone.
    """
    image = open_image(data)
    if isinstance(image, tuple):
        return Answer(image)
    try:
        full, stored = upright_size(image), image.size
        if preset.draft and image.format == "JPEG":
            image.draft("RGB", (preset.draft, preset.draft))
        as_stored = image.size
        rgb = _rgb(upright(image), preset)
        # a scaled picture's sides are rounded: the size comes from those before
        small = rgb.resize(preset.size_of(*full), preset.filter)
        pixels = np.asarray(small)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like at bad bytes
        return Answer((Fault.UNDECODABLE, f"{type(error).__name__}: {error}"))
    plain = is_plain(small)
    if plain and preset.seen:
        later = first_not_plain(data, image.format, partial(_resized, preset))
        if later is not None:
            rgb, pixels, plain = later[0], np.asarray(later[1]), False
    if not hashed:
        return Answer(pixels, b"", plain)
    if plain:
        return Answer(pixels, NOTHING, plain)
    whole = None if as_stored != stored else rgb
    return Answer(pixels, _hash(data, whole, preset), plain)


def _resized(preset: Preset, rgb: Image.Image) -> Image.Image:
    return rgb.resize(preset.size_of(*rgb.size), preset.filter)


def _rgb(image: Image.Image, preset: Preset) -> Image.Image:
    return visible(image) if preset.seen else to_rgb(image)


def _hash(data: bytes, whole: Image.Image | None, preset: Preset) -> bytes:
    """The perceptual hash of a picture that was decoded whole, or else is now.

    What cannot be read whole has none: it stays a picture for its descriptor.
    """
    # imported where asked for: most pools make none
    from sscd_ops.images.pdq import hash_image

    try:
        if whole is None:
            again = open_image(data)
            if isinstance(again, tuple):
                return NOTHING
            whole = _rgb(upright(again), preset)
        return hash_image(whole)
    except MemoryError:
        raise  # or a lack of memory would be stored for good, as a hash of quality 0
    except Exception:  # noqa: BLE001 - as above
        return NOTHING


def to_rgb(image: Image.Image) -> Image.Image:
    """As the first presets have it: transparency on white, 16 bits and floats scaled to 8.

    Never to be changed: datasets were embedded with it. ``ground.visible`` is its better.
    """
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image)
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image
    if transparent:
        return by_bands(image, _on_white)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    top = max(float(_numbers(band).max(initial=0.0)) for _, band in bands(image))
    factor, divisor = 1.0, 1.0
    if image.mode == "F" and top <= 1.0:
        factor = 255.0
    elif top > 255.0:
        divisor = 257.0

    def grey(band: Image.Image) -> Image.Image:
        values = _numbers(band) * factor / divisor
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")

    return by_bands(image, grey)


def _numbers(image: Image.Image) -> NDArray[np.float64]:
    values = np.asarray(image).astype(np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
