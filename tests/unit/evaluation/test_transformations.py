"""Every made copy: deterministic, of the size it says, harder with each severity."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from sscd_ops.errors import DataError
from sscd_ops.evaluation.transformations import (
    BY_NAME,
    TRANSFORMATIONS,
    Kind,
    Transformation,
    decoded,
    kinds,
    make_copy,
)
from sscd_ops.testing import picture

PICTURES = [
    (Path(__file__).parents[3] / "examples" / "pictures" / f"p{number:04}.jpg").read_bytes()
    for number in (2, 21, 60)
]
KEEP_SIZE = {
    "jpeg", "webp", "avif", "rotate", "blur", "noise", "brightness", "contrast", "grayscale",
    "text", "shapes", "perspective", "photo_filter",
}  # fmt: skip
names = pytest.mark.parametrize("item", TRANSFORMATIONS, ids=lambda item: item.name)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference in grey levels, the second resized to the first."""
    apart = ImageChops.difference(one, other.convert("RGB").resize(one.size))
    return float(np.asarray(apart, np.float32).mean())


def test_there_are_over_twenty_in_three_severities_and_the_unseen_are_named() -> None:
    assert len(TRANSFORMATIONS) >= 20
    assert len({item.name for item in TRANSFORMATIONS}) == len(TRANSFORMATIONS)
    assert sum(len(item.strengths) == 3 for item in TRANSFORMATIONS) >= 20
    assert {item.name for item in TRANSFORMATIONS if item.unseen} == {
        "screenshot", "collage", "caption_bar", "perspective", "avif", "photo_filter",
    }  # fmt: skip
    assert len(kinds()) == sum(len(item.strengths) for item in TRANSFORMATIONS)
    assert kinds(["turn"]) == [Kind("turn", 1), Kind("turn", 2)]


@names
def test_equal_pictures_and_seeds_give_equal_bytes(item: Transformation) -> None:
    for severity in range(1, len(item.strengths) + 1):
        kind = Kind(item.name, severity)
        assert make_copy(PICTURES[0], kind) == make_copy(PICTURES[0], kind)


def test_another_seed_draws_something_else() -> None:
    kind = Kind("shapes", 2)
    assert make_copy(PICTURES[0], kind, 1) != make_copy(PICTURES[0], kind, 2)


@names
def test_a_harder_severity_changes_more(item: Transformation) -> None:
    apart = []
    for severity in range(1, len(item.strengths) + 1):
        kind = Kind(item.name, severity)
        apart.append(
            np.mean([difference(decoded(d), opened(make_copy(d, kind))) for d in PICTURES])
        )
    if item.edit is None:
        assert apart == [0.0]
    elif item.name == "turn":  # two angles, neither of them harder
        assert min(apart) > 30
    else:
        assert apart[0] > 0.5
        assert all(b > a for a, b in itertools.pairwise(apart)), apart


@names
def test_the_size_is_what_the_transformation_says(item: Transformation) -> None:
    width, height = opened(PICTURES[1]).size
    for severity, strength in enumerate(item.strengths, 1):
        made = opened(make_copy(PICTURES[1], Kind(item.name, severity)))
        across, down = made.size
        if item.name in KEEP_SIZE or item.edit is None:
            assert made.size == (width, height)
        elif item.name in ("resize", "crop", "mirror"):
            assert made.size == (round(width * strength), round(height * strength))
        elif item.name == "turn":
            assert made.size == ((width, height) if strength == 180 else (height, width))
        elif item.name == "aspect":
            assert (across == width) != (down == height)
        elif item.name in ("letterbox", "caption_bar", "screenshot"):
            assert across * down > width * height
        elif item.name == "collage":
            assert across < width + 20
        else:
            assert item.name == "several"


def test_formats_are_what_the_names_say() -> None:
    for name, form in (("webp", "WEBP"), ("avif", "AVIF"), ("jpeg", "JPEG"), ("crop", "JPEG")):
        assert opened(make_copy(PICTURES[0], Kind(name, 1))).format == form
    assert make_copy(b"any bytes", Kind("byte_copy", 1)) == b"any bytes"


@names
def test_small_large_grey_and_see_through_pictures_can_be_copied(item: Transformation) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (40, 33), (10, 200, 30, 120)).save(out, "PNG")
    grey = io.BytesIO()
    Image.fromarray(np.arange(96 * 64, dtype=np.uint8).reshape(64, 96)).save(grey, "PNG")
    for data in (out.getvalue(), grey.getvalue(), picture(1, 2000, 300)):
        for severity in range(1, len(item.strengths) + 1):
            made = opened(make_copy(data, Kind(item.name, severity)))
            assert min(made.size) >= 16


def test_large_pictures_are_made_smaller_first() -> None:
    assert decoded(picture(1, 2000, 300)).size == (1600, 240)


def test_bytes_that_are_no_picture_are_refused() -> None:
    with pytest.raises(DataError, match="no known picture"):
        make_copy(b"<html>", Kind("crop", 1))
    with pytest.raises(DataError, match="cannot be decoded"):
        make_copy(PICTURES[0][: len(PICTURES[0]) // 2], Kind("crop", 1))


def test_edits_that_a_baseline_must_find_are_mild() -> None:
    """Severity 1 of re-encoding, resizing and tone leaves a picture anybody takes for the same."""
    for name in ("jpeg", "webp", "avif", "resize", "blur", "noise"):
        assert difference(decoded(PICTURES[1]), opened(make_copy(PICTURES[1], Kind(name, 1)))) < 8
    assert BY_NAME["jpeg"].strengths[0] > BY_NAME["jpeg"].strengths[-1]
