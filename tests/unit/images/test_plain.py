"""Pictures with nothing to compare are told from those with little."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.sparse import SPARSE
from sscd_ops.core.perceptual import NOTHING
from sscd_ops.evaluation.empty import EMPTY, Make
from sscd_ops.images.plain import (
    BAND,
    GRID,
    LEAST_CELLS,
    LEVELS,
    ROUNDED,
    band_of,
    cells_of,
    is_plain,
)
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
        assert cells_of(Image.fromarray(pixels)) > 20 * LEAST_CELLS


def with_cells(count: int) -> np.ndarray:
    grid = np.full((GRID, GRID, 3), 200, np.uint8)
    grid.reshape(-1, 3)[np.linspace(0, GRID * GRID - 1, count).astype(int)] = 90
    return grid


@pytest.mark.parametrize("larger", [1, 5])
def test_it_is_the_cells_that_count_at_any_size(larger: int) -> None:
    for count, plain in ((0, True), (15, True), (16, False)):
        image = Image.fromarray(with_cells(count).repeat(larger, 0).repeat(larger, 1))
        assert cells_of(image) == count
        assert is_plain(image) == plain


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize(("levels", "count"), [(8, 0), (9, GRID * GRID)])
def test_a_cell_stands_out_by_more_than_8_levels_in_any_channel(
    channel: int, levels: int, count: int
) -> None:
    pixels = np.full((GRID, GRID, 3), 100)
    pixels[..., channel] += levels * TURNS
    assert cells_of(Image.fromarray(pixels.astype(np.uint8))) == count
    assert cells_of(Image.fromarray(pixels.astype(np.uint8).swapaxes(0, 1))) == count


def test_a_shade_that_bends_is_taken_away() -> None:
    down, across = np.mgrid[-1:1:160j, -1:1:160j]
    for shade in (down, across, down * across, down**2, across**2, down**2 + across**2):
        pixels = np.rint(120 + 60 * shade)[..., None].repeat(3, axis=2).astype(np.uint8)
        assert cells_of(Image.fromarray(pixels)) == 0


def test_every_pixel_of_a_cell_counts() -> None:
    pixels = np.full((GRID, 5, GRID, 5, 3), 250, np.uint8)
    pixels[TURNS > 0, 4, :, :2] = 0  # two of 25: 20 levels of the cell's mean
    assert cells_of(Image.fromarray(pixels.reshape(5 * GRID, 5 * GRID, 3))) == GRID * GRID


@pytest.mark.parametrize(
    "turned", [lambda p: p[::-1], lambda p: p[:, ::-1], lambda p: p.swapaxes(0, 1)]
)
def test_it_does_not_depend_on_which_way_up_it_is(
    turned: Callable[[np.ndarray], np.ndarray],
) -> None:
    pixels = np.random.default_rng(5).integers(100, 121, (GRID, GRID, 3), np.uint8)
    other = Image.fromarray(np.ascontiguousarray(turned(pixels)))
    assert cells_of(other) == cells_of(Image.fromarray(pixels))


def told(image: Image.Image) -> bool:
    """Whether it is plain, which the band must not tell otherwise than the whole grid."""
    assert is_plain(image) == (cells_of(image) < LEAST_CELLS)
    return is_plain(image)


def real_pictures() -> list[Path]:
    found = sorted((Path(__file__).parents[3] / "examples" / "pictures").iterdir())
    if data := os.environ.get("SSCD_OPS_TEST_DATA"):
        found += sorted((Path(data) / "pairs" / "images").iterdir())
    return [path for path in found if path.suffix in (".jpg", ".png", ".webp")][::3]


@pytest.mark.parametrize("side", [64, 160, 320])
def test_real_pictures_are_told_as_by_the_whole_grid(side: int) -> None:
    pictures = real_pictures()

    assert len(pictures) >= 30
    for path in pictures:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        assert not told(small)
        # hardly any contrast: near what is plain
        told(small.point(lambda value: 120 + value // 12))


@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)) | st.sampled_from([(64, 64)]),
    shade=st.lists(st.floats(-60, 60), min_size=6, max_size=6),
    cells=st.integers(0, 3 * LEAST_CELLS),
    within=st.sampled_from([(0, GRID), BAND]),
    contrast=st.integers(LEVELS // 2, 8 * LEVELS),
    grain=st.integers(0, 2 * LEVELS),
    channels=st.sampled_from([[0], [1], [2], [0, 1, 2]]),
)
def test_made_pictures_are_told_as_by_the_whole_grid(
    seed: int,
    size: tuple[int, int],
    shade: list[float],
    cells: int,
    within: tuple[int, int],
    contrast: int,
    grain: int,
    channels: list[int],
) -> None:
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : GRID * 1j, -1 : 1 : GRID * 1j]
    light = np.tensordot(shade, np.stack([np.ones_like(x), x, y, x * y, x * x, y * y]), 1)
    grid = np.repeat((120 + light)[..., None], 3, 2)
    rows, columns = chance.integers(0, GRID, cells), chance.integers(*within, cells)
    grid[rows[:, None], columns[:, None], channels] += contrast
    grid += chance.integers(-grain, grain + 1, grid.shape)
    image = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8))

    told(image.resize(size, Image.Resampling.NEAREST))


@pytest.mark.parametrize("channels", [[0], [1], [2], [0, 1, 2]])
@pytest.mark.parametrize("count", [LEAST_CELLS - 1, LEAST_CELLS])
def test_cells_in_the_band_count_once(count: int, channels: list[int]) -> None:
    number = np.arange(count)
    # on both sides of the line between two quarters
    rows, columns = GRID // 4 - 1 + number // 8, BAND[0] + number % 8
    grid = np.full((GRID, GRID, 3), 200, np.uint8)
    grid[rows[:, None], columns[:, None], channels] = 0
    assert told(Image.fromarray(grid)) == (count < LEAST_CELLS)

    # as many, two of them in one four
    grid[rows[-1], columns[-1]] = 200
    grid[rows[0] + GRID // 4, columns[0], channels] = 0
    assert told(Image.fromarray(grid)) == (count < LEAST_CELLS)


def deviating(by: int) -> np.ndarray:
    """By quarters up and down, the largest third difference. No surface fits any of it: its signs
    are those of Thue and Morse, and sums over them are nothing for all low powers."""
    across = np.array([(-1) ** number.bit_count() for number in range(GRID)])
    return by * np.outer(np.repeat([1, -1, 1, -1], GRID // 4), across)


@pytest.mark.parametrize(("by", "plain"), [(LEVELS, True), (LEVELS + 1, False)])
def test_what_deviates_the_most_and_does_not_stand_out_is_plain(by: int, *, plain: bool) -> None:
    image = Image.fromarray(np.repeat((128 + deviating(by))[..., None], 3, 2).astype(np.uint8))

    assert cells_of(image) == (0 if plain else GRID**2)
    assert told(image) == plain


@pytest.mark.parametrize("steep", [1, 2, -1, -2])
def test_it_is_plain_on_a_steep_shade_too(steep: int) -> None:
    height = np.linspace(0, 1, GRID) ** abs(steep)
    light = 12 + 230 * (height if steep > 0 else 1 - height)
    grid = np.rint(light[:, None] + deviating(LEVELS - 1))
    image = Image.fromarray(np.repeat(grid[..., None], 3, 2).astype(np.uint8))

    assert cells_of(image) == 0
    assert told(image)


@given(seed=st.integers(0, 2**32), width=st.integers(1, 900), height=st.integers(1, 900))
def test_the_band_is_a_part_of_the_grid(seed: int, width: int, height: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    grid = np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX)).astype(int)

    assert np.abs(np.asarray(band_of(image)) - grid[:, slice(*BAND)]).max() <= ROUNDED
