"""Transparency, deep pictures and animations show what is in them; all else stays what it was."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import GifImagePlugin, Image, ImageDraw

from sscd_ops.images.ground import (
    BLACK,
    GREY,
    WHITE,
    Scale,
    ground_of,
    scale_of,
    to_levels,
    visible,
)
from sscd_ops.images.plain import is_plain
from sscd_ops.images.preprocess import PRESETS, prepare, preprocess
from sscd_ops.images.sheets import thumbnail
from sscd_ops.testing import picture
from tests.soak import examples

FIRST, SECOND = PRESETS["skew-160"], PRESETS["skew-160-v2"]
BLOCKS = np.random.default_rng(7).permutation(100).reshape(10, 10).repeat(12, 0).repeat(16, 1)
"""A hundred blocks, 0 to 99: (120, 160)."""


def saved(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def drawing(ink: tuple[int, int, int], mode: str = "RGBA") -> Image.Image:
    """A ring and a bar on nothing."""
    image = Image.new("RGBA", (160, 120), (*ink, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 90, 90), outline=(*ink, 255), width=8)
    draw.rectangle((100, 30, 140, 100), fill=(*ink, 200))
    return image.convert(mode) if mode != "RGBA" else image


def deep(values: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    return saved(Image.fromarray(values), form, **options)


def keyed_sixteen() -> bytes:
    """White blocks of 16 bits on a colour that is transparent."""
    values = (60_000 + BLOCKS * 50).astype(np.uint16)
    values[:, :40] = 65_535
    return deep(values, transparency=65_535)


def palette() -> bytes:
    image = Image.new("P", (160, 120), 0)
    image.putpalette([255, 255, 255, 255, 255, 255])
    ImageDraw.Draw(image).rectangle((30, 30, 90, 60), fill=1)
    return saved(image, transparency=0)


def animated(form: str, blank: int = 1, **options: object) -> bytes:
    sheet = Image.new("RGB", (160, 120), "white")
    frames = [sheet.copy() for _ in range(blank)]
    for k in range(blank):  # or encoders join equal ones
        frames[k].putpixel((k, 0), (254, 255, 255))
    shown = sheet.copy()
    ImageDraw.Draw(shown).rectangle((30, 30, 90, 60), fill=(30, 90, 40))
    frames.append(shown)
    return saved(frames[0], form, save_all=True, append_images=frames[1:], duration=90, **options)


HIDDEN: dict[str, Callable[[], bytes]] = {
    "white in RGBA": lambda: saved(drawing((255, 255, 255))),
    "near white in RGBA": lambda: saved(drawing((240, 250, 244))),
    "white in LA": lambda: saved(drawing((255, 255, 255), "LA")),
    "white in a WebP": lambda: saved(drawing((255, 255, 255)), "WEBP", lossless=True),
    "white in a palette": palette,
    "white of 16 bits beside its key": keyed_sixteen,
    "9 bits": lambda: deep((BLOCKS * 5).astype(np.uint16)),
    "10 bits": lambda: deep((BLOCKS * 10).astype(np.uint16)),
    "10 bits in a TIFF": lambda: deep((BLOCKS * 10).astype(np.uint16), "TIFF"),
    "12 bits": lambda: deep((BLOCKS * 40).astype(np.uint16), "TIFF"),
    "a mask": lambda: deep((BLOCKS // 50).astype(np.uint16)),
    "kelvins": lambda: deep((270 + BLOCKS / 5).astype(np.float32), "TIFF"),
    "far above zero": lambda: deep((60_000 + BLOCKS * 30).astype(np.uint16)),
    "below zero": lambda: deep((BLOCKS * 10 - 900).astype(np.int32), "TIFF"),
    "floats below zero": lambda: deep((BLOCKS / 50 - 3).astype(np.float32), "TIFF"),
    "small floats": lambda: deep((BLOCKS / 1e6).astype(np.float32), "TIFF"),
    "floats with no number among them": lambda: deep(
        np.where(BLOCKS == 7, np.nan, BLOCKS * 1e5).astype(np.float32), "TIFF"
    ),
    "32 bits": lambda: deep((BLOCKS * 20_000_000).astype(np.int32), "TIFF"),
    "a GIF with a blank first frame": lambda: animated("GIF"),
    "a PNG with a blank first frame": lambda: animated("PNG"),
    "a WebP with blank first frames": lambda: animated("WEBP", 3, lossless=True),
    "an AVIF with a blank first frame": lambda: animated("AVIF"),
    "pages, the first blank": lambda: animated("TIFF"),
}


def marked(values: np.ndarray, *marks: float) -> tuple[bytes, np.ndarray]:
    """With blocks that say "no value here"; the file, and where there are values."""
    values, numbers = values.copy(), BLOCKS < 80
    for number, mark in enumerate(marks):
        values[BLOCKS % len(marks) + 80 * numbers == number] = mark
    return deep(values, "TIFF"), numbers


MARKED = {
    "heights beside 65535": marked((BLOCKS * 8 + 200).astype(np.uint16), 65_535),
    "12 bits beside white": marked((BLOCKS * 40).astype(np.uint16), 65_535),
    "heights beside -32768": marked((BLOCKS * 20).astype(np.int32), -32_768),
    "far above zero beside it": marked((30_000 + BLOCKS * 10).astype(np.uint16), 0),
    "kelvins beside -9999": marked((270 + BLOCKS / 5).astype(np.float32), -9999),
    "kelvins beside the least float": marked((270 + BLOCKS / 5).astype(np.float32), -3.4e38),
    "kelvins beside two": marked((270 + BLOCKS / 5).astype(np.float32), -9999, 1e20),
}


@pytest.mark.parametrize("made", MARKED.values(), ids=MARKED)
def test_a_value_far_from_all_others_does_not_hide_them(made: tuple[bytes, np.ndarray]) -> None:
    data, numbers = made
    levels = np.asarray(visible(Image.open(io.BytesIO(data))))[numbers]
    assert np.ptp(levels.astype(int)) > 20


def test_a_hot_pixel_changes_no_other() -> None:
    values = (BLOCKS * 40).astype(np.uint16)
    hot = values.copy()
    hot[60, 80] = 65_535
    found = [visible(Image.open(io.BytesIO(deep(each)))) for each in (values, hot)]
    assert (np.asarray(found[0]) != np.asarray(found[1])).any(axis=2).sum() <= 1


@pytest.mark.parametrize("made", HIDDEN.values(), ids=HIDDEN)
def test_what_the_first_presets_lose_is_seen(made: Callable[[], bytes]) -> None:
    for preset in (SECOND, PRESETS["grid-64-draft-v2"], PRESETS["small-288-v2"]):
        answer = prepare(made(), preset, hashed=True)
        assert not answer.plain
        assert np.ptp(np.asarray(answer.decoded).astype(int)) > 20
    assert not is_plain(thumbnail(made(), 110))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA"])
def test_opaque_pictures_of_8_bits_are_what_they_were(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    data = saved(Image.open(io.BytesIO(picture(3))).convert(mode), form)
    for name in ("skew-160", "skew-320", "small-288", "grid-64-draft"):
        found = [preprocess(data, PRESETS[each]) for each in (name, f"{name}-v2")]
        np.testing.assert_array_equal(*found)


def test_jpegs_are_what_they_were() -> None:
    data = picture(4)
    for name in ("skew-160", "skew-288-draft", "long-800", "grid-64-draft"):
        found = [prepare(data, PRESETS[each], hashed=True) for each in (name, f"{name}-v2")]
        np.testing.assert_array_equal(found[0].decoded, found[1].decoded)
        assert found[0].hashed == found[1].hashed


def test_the_first_presets_keep_their_pixels() -> None:
    """A dataset that was embedded with them goes on decoding as before."""
    digest = hashlib.sha256()
    for name, made in HIDDEN.items():
        if "AVIF" not in name:  # lossy: its decoder's matter
            pixels = preprocess(made(), FIRST)
            assert isinstance(pixels, np.ndarray), name
            digest.update(pixels.tobytes())
    for ink in (WHITE, BLACK, (200, 40, 90)):
        pixels = preprocess(saved(drawing(ink)), PRESETS["grid-64-draft"])
        assert isinstance(pixels, np.ndarray)
        digest.update(pixels.tobytes())
    assert digest.hexdigest() == (
        "0b01ad76500a545a3bd354a8af9bcfd112c00512ef312594a7cfd31a6af6afde"
    )


def test_the_ground_is_white_unless_a_third_is_lost_there() -> None:
    def half_and_half(one: tuple[int, int, int], other: tuple[int, int, int]) -> Image.Image:
        image = drawing(one)
        image.paste((*other, 255), (0, 100, 160, 120))
        return image

    assert ground_of([drawing((0, 0, 0))]) == WHITE
    assert ground_of([drawing((255, 255, 0))]) == WHITE
    assert ground_of([drawing((255, 255, 255))]) == BLACK
    assert ground_of([half_and_half((255, 255, 255), (0, 0, 0))]) == GREY
    assert ground_of([Image.new("RGBA", (9, 9), (255, 255, 255, 0))]) == WHITE
    thirds = np.full((3, 3, 4), 255, np.uint8)
    thirds[:2, :, :2] = 90  # two blue, one white
    assert ground_of([Image.fromarray(thirds)]) == WHITE
    thirds[0, :, :3], thirds[1] = 0, 255  # one black, two white
    assert ground_of([Image.fromarray(thirds)]) == BLACK
    faint = thirds[[2, 0, 0]]  # what is hardly there hardly counts
    faint[0, :, 3], faint[1:, :, 3] = 255, 60
    faint[1:, :, :3], faint[0, :, :3] = 255, 90
    assert ground_of([Image.fromarray(faint)]) == WHITE
    # less than 32 levels from it in every channel is lost on a ground
    assert ground_of([drawing((224, 255, 255))]) == BLACK
    assert ground_of([drawing((223, 255, 255))]) == WHITE
    assert ground_of([half_and_half((255, 255, 255), (0, 31, 0))]) == GREY
    assert ground_of([half_and_half((255, 255, 255), (0, 32, 0))]) == BLACK


@given(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(1, 255), st.data()
)
@settings(max_examples=examples(60))
def test_a_third_of_the_content_at_most_is_lost(
    red: int, green: int, blue: int, alpha: int, data: st.DataObject
) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    seed = data.draw(st.integers(0, 2**31))
    chance = np.random.default_rng(seed)
    pixels[..., 3] = chance.integers(0, alpha + 1, (8, 8))
    pixels[..., :3] = np.where(chance.random((8, 8, 1)) < 0.5, (red, green, blue), 255)
    level = ground_of([Image.fromarray(pixels)])[0]
    away = np.abs(pixels[..., :3].astype(int) - level).max(axis=2)
    weight = pixels[..., 3].astype(int)
    assert 3 * weight[away < 32].sum() <= weight.sum()


def test_levels_are_those_of_8_bits_where_the_picture_has_8() -> None:
    def levels(values: np.ndarray) -> np.ndarray:
        every = np.ones(values.shape, bool)
        return to_levels(values, every, scale_of([(values, every)]))

    values = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(levels(values.astype(np.uint16)), values)
    np.testing.assert_array_equal(levels((values * 257).astype(np.uint16)), values)
    twelve = levels((values * 16 + 8).astype(np.uint16)).astype(int)
    assert np.abs(twelve - values).max() <= 1


@pytest.mark.parametrize(
    ("least", "most", "kind", "scale"),
    [
        # a quarter of their bits at least: by these
        (12_287, 16_383, np.uint16, (0, 16_383)),
        (12_288, 16_383, np.uint16, (12_288, 4_095)),
        (-1, 16_383, np.int32, (-1, 16_384)),
        (-12_288, -8_192, np.int32, (-12_288, 4_096)),
        # eight times at most
        (16_000, 16_383, np.uint16, (16_000, 16_383 / 8)),
        (300, 300.5, np.float32, (300, 64)),
        # of floats: up to a power of two
        (0, 1, np.float32, (0, 1)),
        (0, 1.5, np.float32, (0, 2)),
        (0, 0.75, np.float32, (0, 1)),
        (0, 0, np.uint16, (0, 1)),
        (0, 0, np.float32, (0, 1)),
    ],
)
def test_values_are_scaled_by_their_bits_or_their_range(
    least: float, most: float, kind: type, scale: tuple[float, float]
) -> None:
    values = np.array([[least], [most]], kind)
    every = np.ones((1, 1), bool)
    assert scale_of([(values[:1], every), (values[1:], every)]) == scale


def test_levels_are_rounded_and_cut_off() -> None:
    values = np.array([[-3.0, 0.9, 1.0, 2.0, 509.0, 900.0, 5.0]])
    counted = np.array([[True] * 6 + [False]])
    assert to_levels(values, counted, Scale(0, 510)).tolist() == [[0, 0, 1, 1, 255, 255, 0]]


def test_noise_on_a_deep_sheet_stays_noise() -> None:
    chance = np.random.default_rng(0)
    hot = chance.normal(100, 5, (240, 320)).astype(np.uint16)
    hot[9, 9] = 65_535
    for values in (
        hot,
        chance.normal(30_000, 40, (240, 320)).astype(np.uint16),
        chance.normal(300, 0.3, (240, 320)).astype(np.float32),
        chance.normal(-500, 1, (240, 320)).astype(np.int32),
    ):
        assert prepare(deep(values, "TIFF"), SECOND, hashed=False).plain


def test_a_large_picture_is_laid_and_scaled_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is converted a few rows at a time, but by one ground and one scale."""
    every = {name: made() for name, made in HIDDEN.items()}
    every |= {name: data for name, (data, _) in MARKED.items()}
    whole = {name: preprocess(data, SECOND) for name, data in every.items()}

    monkeypatch.setattr("sscd_ops.images.ground._BAND", 160 * 7)

    for name, data in every.items():
        np.testing.assert_array_equal(preprocess(data, SECOND), whole[name])


def test_a_key_of_16_bits_is_compared_with_upper_bytes() -> None:
    image = Image.new("RGB", (160, 120), (0x12, 0x12, 0x12))
    ImageDraw.Draw(image).rectangle((30, 30, 90, 60), fill=(255, 255, 255))
    image.info["transparency"] = (0x12FF, 0x12FF, 0x12FF)
    seen = visible(image)
    assert (seen.getpixel((0, 0)), seen.getpixel((40, 40))) == (BLACK, WHITE)


def test_a_key_of_deep_grey_is_no_value() -> None:
    """It would be the greatest of all, and the rest black beside it."""
    values = (BLOCKS + 100).astype(np.uint16)
    values[:, :40] = 65_535
    seen = np.asarray(visible(Image.open(io.BytesIO(deep(values, transparency=65_535)))))
    np.testing.assert_array_equal(seen[:, 40:, 0], BLOCKS[:, 40:] + 100)
    assert (seen[:, :40] == 255).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF"])
def test_the_frame_that_counts_is_the_one_that_is_hashed(form: str) -> None:
    shown = Image.open(io.BytesIO(animated(form)))
    shown.seek(1)
    alone = prepare(saved(shown.convert("RGB")), SECOND, hashed=True)
    moving = prepare(animated(form), SECOND, hashed=True)
    np.testing.assert_array_equal(moving.decoded, alone.decoded)
    assert moving.hashed == alone.hashed
    assert any(moving.hashed)


def test_later_frames_stand_upright_too() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    as_stored = prepare(animated("WEBP", lossless=True), SECOND, hashed=False).decoded
    upright = prepare(animated("WEBP", lossless=True, exif=turned), SECOND, hashed=False).decoded
    np.testing.assert_array_equal(upright, np.rot90(as_stored, -1))


def test_too_little_memory_for_a_later_frame_is_no_end_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or what is compared would follow the machine."""

    def seek(image: Image.Image, number: int) -> None:
        raise MemoryError

    data = animated("GIF")
    monkeypatch.setattr(GifImagePlugin.GifImageFile, "seek", seek)
    with pytest.raises(MemoryError):
        prepare(data, SECOND, hashed=False)


def test_of_a_long_animation_a_bounded_number_of_frames_is_looked_at() -> None:
    shown = prepare(animated("GIF", 31), SECOND, hashed=False)
    late = prepare(animated("GIF", 32), SECOND, hashed=False)
    assert (shown.plain, late.plain) == (False, True)


@pytest.mark.parametrize(("blank", "plain"), [(1, False), (2, True)])
def test_pages_count_by_their_own_pixels(
    monkeypatch: pytest.MonkeyPatch, blank: int, plain: bool
) -> None:
    """A page of a TIFF may be far larger than the first."""
    monkeypatch.setattr("sscd_ops.images.animation._MOST_PIXELS", 100_000)
    shown = Image.fromarray(BLOCKS.astype(np.uint8)).resize((200, 200))
    pages = [*[Image.new("L", (200, 200), 255)] * blank, shown]
    data = saved(Image.new("L", (60, 40), 255), "TIFF", save_all=True, append_images=pages)
    assert prepare(data, SECOND, hashed=False).plain == plain
