"""Pictures with nothing to compare are told from those with little."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from sscd_ops.core.perceptual import NOTHING
from sscd_ops.evaluation.sparse import EMPTY, SPARSE, Make
from sscd_ops.images.plain import GRID, LEAST_CELLS, cells_of, is_plain
from sscd_ops.images.preprocess import PRESETS, prepare
from sscd_ops.testing import encode, picture

USED = [PRESETS[name] for name in ("skew-160-v2", "skew-320-v2", "grid-64-draft-v2")]

TURNS = np.array([1 - 2 * (k.bit_count() % 2) for k in range(GRID)])
"""The sequence of Thue and Morse: no polynomial of a low degree has a part in it."""


def drawn(name: str, make: Make, count: int = 4) -> list[bytes]:
    chance = np.random.default_rng(sum(name.encode()))
    return [make(chance) for _ in range(count)]


def edits(data: bytes) -> Iterator[bytes]:
    """JPEG quality 40, half the size, and grain."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    yield encode(image, 40)
    yield encode(image.resize((image.width // 2, image.height // 2)), 85)
    grain = np.random.default_rng(0).normal(0, 4, (image.height, image.width, 3))
    yield encode(Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)), 85)


@pytest.mark.parametrize(("name", "make"), EMPTY.items(), ids=EMPTY)
def test_what_has_nothing_to_compare_is_plain_and_so_are_its_copies(name: str, make: Make) -> None:
    for data in drawn(name, make):
        for each in (data, *edits(data)):
            answers = [prepare(each, preset, hashed=True) for preset in USED]
            assert all(answer.plain and answer.hashed == NOTHING for answer in answers)


@pytest.mark.parametrize(("name", "make"), SPARSE.items(), ids=SPARSE)
def test_what_has_little_is_not(name: str, make: Make) -> None:
    for data in drawn(name, make):
        assert not any(prepare(data, preset, hashed=False).plain for preset in USED)
        if "nothing" in name or name in ("few_bits", "late_start"):
            continue  # an edit by Pillow's own conversion loses what is in them
        for edit in edits(data):
            assert not any(prepare(edit, preset, hashed=False).plain for preset in USED)


def test_pictures_of_things_are_far_from_plain() -> None:
    for seed in range(5):
        pixels = prepare(picture(seed), USED[0], hashed=False).decoded
        assert isinstance(pixels, np.ndarray)
        assert cells_of(pixels) > 20 * LEAST_CELLS


def with_cells(count: int) -> np.ndarray:
    grid = np.full((GRID, GRID, 3), 200, np.uint8)
    grid.reshape(-1, 3)[np.linspace(0, GRID * GRID - 1, count).astype(int)] = 90
    return grid


@pytest.mark.parametrize("larger", [1, 5])
def test_it_is_the_cells_that_count_at_any_size(larger: int) -> None:
    for count, plain in ((0, True), (15, True), (16, False)):
        pixels = with_cells(count).repeat(larger, 0).repeat(larger, 1)
        assert cells_of(pixels) == count
        assert is_plain(pixels) == plain


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize(("levels", "count"), [(8, 0), (9, GRID * GRID)])
def test_a_cell_stands_out_by_more_than_8_levels_in_any_channel(
    channel: int, levels: int, count: int
) -> None:
    pixels = np.full((GRID, GRID, 3), 100)
    pixels[..., channel] += levels * TURNS
    assert cells_of(pixels.astype(np.uint8)) == count
    assert cells_of(pixels.astype(np.uint8).swapaxes(0, 1)) == count


def test_a_shade_that_bends_is_taken_away() -> None:
    down, across = np.mgrid[-1:1:160j, -1:1:160j]
    for shade in (down, across, down * across, down**2, across**2, down**2 + across**2):
        pixels = np.rint(120 + 60 * shade)[..., None].repeat(3, axis=2).astype(np.uint8)
        assert cells_of(pixels) == 0


def test_every_pixel_of_a_cell_counts() -> None:
    pixels = np.full((GRID, 5, GRID, 5, 3), 250, np.uint8)
    pixels[TURNS > 0, 4, :, :2] = 0  # two of 25: 20 levels of the cell's mean
    assert cells_of(pixels.reshape(5 * GRID, 5 * GRID, 3)) == GRID * GRID


@pytest.mark.parametrize(
    "turned", [lambda p: p[::-1], lambda p: p[:, ::-1], lambda p: p.swapaxes(0, 1)]
)
def test_it_does_not_depend_on_which_way_up_it_is(
    turned: Callable[[np.ndarray], np.ndarray],
) -> None:
    pixels = np.random.default_rng(5).integers(100, 121, (GRID, GRID, 3), np.uint8)
    assert cells_of(np.ascontiguousarray(turned(pixels))) == cells_of(pixels)
