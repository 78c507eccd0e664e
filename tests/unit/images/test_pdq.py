"""PDQ beside pdqhash's own answers (pdqhash.json, made once with pdqhash 0.2.8 and Pillow)."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sscd_ops.core.perceptual import LEAST_QUALITY, NOTHING
from sscd_ops.images.pdq import hash_image, hash_luminance, shrunk
from sscd_ops.images.preprocess import PRESETS, prepare
from sscd_ops.model import Fault
from sscd_ops.testing import encode, picture, plant
from tests.soak import examples

PICTURES = Path(__file__).parents[3] / "examples" / "pictures"
PUBLISHED = json.loads((Path(__file__).parent / "pdqhash.json").read_text())
"""Picture -> hash and quality of it shrunk to fit 512 pixels, and of it as it is."""


def rgb(name: str) -> Image.Image:
    opened = Image.open(PICTURES / name)
    return (ImageOps.exif_transpose(opened) or opened).convert("RGB")


def apart(one: bytes, other: bytes | str) -> int:
    other = bytes.fromhex(other) if isinstance(other, str) else other
    return (int.from_bytes(one[:32]) ^ int.from_bytes(other[:32])).bit_count()


def test_equal_pixels_have_the_hash_that_pdqhash_gives_them() -> None:
    """All 119 were equal to the bit; another order of sums may turn a bit at the median over."""
    distances = []
    for name, (_, _, wanted, quality) in PUBLISHED.items():
        luminance = np.asarray(rgb(name), np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        code, said = hash_luminance(luminance)
        distances.append(apart(code, wanted))
        assert abs(said - quality) <= 1

    assert len(distances) == 119
    assert max(distances) <= 2
    assert np.mean(distances) <= 0.1


def test_pictures_are_shrunk_nearly_as_the_reference_hasher_shrinks_them() -> None:
    """Measured: 0.20 bits in the mean, 2 at most."""
    distances = []
    for name, (wanted, quality, _, _) in PUBLISHED.items():
        row = hash_image(rgb(name))
        distances.append(apart(row, wanted))
        assert abs(row[32] - quality) <= 1

    assert np.mean(distances) <= 0.5
    assert max(distances) <= 4


@given(st.integers(5, 1500), st.integers(5, 1500), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(40))
def test_shrinking_in_the_matrix_is_shrinking_by_pillow(width: int, height: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)
    grey = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert("F")
    by_pillow = grey.copy()
    by_pillow.thumbnail((512, 512), reducing_gap=None)

    found = hash_luminance(np.asarray(grey), shrunk(width, height))

    assert shrunk(width, height) == by_pillow.size
    if min(by_pillow.size) < 64:
        return  # stretched to 64 samples, frequencies are alike: the median falls among equals
    expected = hash_luminance(np.asarray(by_pillow))
    assert apart(found[0], expected[0]) <= 2
    assert abs(found[1] - expected[1]) <= 1


def test_the_hash_depends_on_the_picture_alone_whatever_it_is_decoded_for() -> None:
    """Presets that decode a JPEG at a smaller size, and pictures on their side, too."""
    image = rgb("p0003.jpg").resize((900, 700))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(turned, "PNG", exif=exif)
    upright = io.BytesIO()
    image.save(upright, "PNG")
    data = encode(image, 95)

    hashes = {prepare(data, preset, hashed=True)[1] for preset in PRESETS.values()}
    sideways = prepare(turned.getvalue(), PRESETS["skew-128"], hashed=True)[1]

    assert hashes == {hash_image(Image.open(io.BytesIO(data)))}
    assert sideways == prepare(upright.getvalue(), PRESETS["grid-64-draft"], hashed=True)[1]


def test_copies_are_near_and_strangers_far() -> None:
    original, other = ((PICTURES / name).read_bytes() for name in ("p0001.jpg", "p0002.jpg"))
    row, stranger = (
        prepare(data, PRESETS["skew-128"], hashed=True)[1] for data in (original, other)
    )

    for copy in ("jpeg_40", "half_size"):
        found = prepare(plant(original, copy), PRESETS["skew-128"], hashed=True)[1]
        assert apart(row, found) <= 31
    assert apart(row, stranger) > 80
    assert row[32] >= LEAST_QUALITY


@pytest.mark.parametrize("size", [(64, 64), (5, 900), (1300, 70), (5, 5)])
def test_any_size_is_hashed(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)

    row = hash_image(Image.fromarray(noise))

    assert len(row) == len(NOTHING)
    assert row[32] == 100


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_plain_picture_has_no_quality(grey: int) -> None:
    assert hash_image(Image.new("RGB", (300, 200), (grey, grey, grey)))[32] == 0


def test_what_is_too_small_or_cannot_be_read_has_no_hash() -> None:
    fault, row, _ = prepare(b"no picture", PRESETS["skew-128"], hashed=True)

    assert hash_image(Image.new("RGB", (4, 300))) == NOTHING
    assert isinstance(fault, tuple)
    assert fault[0] is Fault.NOT_AN_IMAGE
    assert row == b""


def test_a_hash_is_made_only_where_it_is_asked_for() -> None:
    pixels, row, _ = prepare(picture(1), PRESETS["skew-128"], hashed=False)

    assert isinstance(pixels, np.ndarray)
    assert row == b""
