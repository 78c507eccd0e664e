"""Decoding to RGB pixels of a model's size. A preset's name is part of the fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sscd_ops.core.perceptual import NOTHING
from sscd_ops.images.header import open_image
from sscd_ops.images.orientation import upright, upright_size
from sscd_ops.model import Fault

Resample = Image.Resampling
_BAND = 1 << 22
"""Pixels that are converted at once."""


@dataclass(frozen=True)
class Preset:
    """How a picture becomes pixels.

    ``size_of``: (width, height) -> the size it is resized to. ``draft``: the least size a JPEG may
    be decoded at by the decoder's own scaling, 0 for none. ``fixed``: whether all pictures come out
    at one size.
    """

    name: str
    size_of: Callable[[int, int], tuple[int, int]]
    fixed: bool
    draft: int = 0
    filter: Resample = Resample.BILINEAR


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


PRESETS = {
    preset.name: preset
    for preset in (
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
}


def preprocess(data: bytes, preset: Preset) -> NDArray[np.uint8] | tuple[Fault, str]:
    """A picture's RGB pixels, uint8 (height, width, 3), or why it has none.

    Raises:
        MemoryError: there is too little for this picture now.
    """
    return prepare(data, preset, hashed=False)[0]


def prepare(
    data: bytes, preset: Preset, *, hashed: bool
) -> tuple[NDArray[np.uint8] | tuple[Fault, str], bytes]:
    """A picture's pixels, and its perceptual hash where that is asked for.

    The hash depends on the bytes alone, not on the preset: a picture that the preset decodes at a
    smaller size is decoded once more for it.

    Raises:
        MemoryError: there is too little for this picture now. That says nothing of its bytes: a
            decoder dies of it, and the picture is tried once more, alone.
    """
    image = open_image(data)
    if isinstance(image, tuple):
        return image, b""
    try:
        full, stored = upright_size(image), image.size
        if preset.draft and image.format == "JPEG":
            image.draft("RGB", (preset.draft, preset.draft))
        as_stored = image.size
        rgb = to_rgb(upright(image))
        # a scaled picture's sides are rounded: the size comes from those before
        resized = rgb.resize(preset.size_of(*full), preset.filter)
        pixels = np.asarray(resized)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever they like at bad bytes
        return (Fault.UNDECODABLE, f"{type(error).__name__}: {error}"), b""
    if not hashed:
        return pixels, b""
    return pixels, _hash(data, None if as_stored != stored else rgb)


def _hash(data: bytes, whole: Image.Image | None) -> bytes:
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
            whole = to_rgb(upright(again))
        return hash_image(whole)
    except MemoryError:
        raise  # or a lack of memory would stand in the catalog as "too plain to compare"
    except Exception:  # noqa: BLE001 - as above
        return NOTHING


def to_rgb(image: Image.Image) -> Image.Image:
    """The first frame in RGB: transparency on white, 16 bits and floats scaled to 8."""
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image)
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image
    if transparent:
        return _by_bands(image, _on_white)
    return image.convert("RGB")


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """RGB made a few rows at a time: whole, each step would take a picture's memory again."""
    answer = Image.new("RGB", image.size)
    for top, band in _bands(image):
        answer.paste(convert(band), (0, top))
    return answer


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    width, height = image.size
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    top = max(float(_numbers(band).max(initial=0.0)) for _, band in _bands(image))
    factor, divisor = 1.0, 1.0
    if image.mode == "F" and top <= 1.0:
        factor = 255.0
    elif top > 255.0:
        divisor = 257.0

    def grey(band: Image.Image) -> Image.Image:
        values = _numbers(band) * factor / divisor
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")

    return _by_bands(image, grey)


def _numbers(image: Image.Image) -> NDArray[np.float64]:
    values = np.asarray(image).astype(np.float64)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
