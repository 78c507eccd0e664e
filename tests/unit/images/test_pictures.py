"""Header checks and decoding: unusual pictures are read rightly, bad ones refused with a reason."""

from __future__ import annotations

import io
import struct
import time
import zlib
from math import isqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sscd_ops.config import load_settings
from sscd_ops.errors import ConfigError
from sscd_ops.images.frames import Decoded
from sscd_ops.images.header import inspect
from sscd_ops.images.pool import DecoderPool
from sscd_ops.images.preprocess import PRESETS, preprocess
from sscd_ops.model import Fault, ImageHeader
from sscd_ops.options import LimitsOptions
from sscd_ops.testing import picture
from tests.soak import examples

LIMITS = LimitsOptions()
GRID = PRESETS["grid-64-draft"]
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)

# the package ignores the first itself, but pytest resets that; damaged EXIF makes the second
pytestmark = [
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning"),
]


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def halves(mode: str = "RGB") -> Image.Image:
    """96x48: blue on the left, red on the right."""
    image = Image.new("RGB", (96, 48), RED)
    image.paste(BLUE, (0, 0, 48, 48))
    return image.convert(mode)


def see_through(colour: tuple[int, int, int]) -> Image.Image:
    """Halves whose left is transparent; what lies below the transparency is ``colour``."""
    image = Image.new("RGBA", (96, 48), (*RED, 255))
    image.paste((*colour, 0), (0, 0, 48, 48))
    return image


def palette_with_transparency() -> bytes:
    image = halves("P")
    return encoded(image, "PNG", transparency=image.getpixel((5, 5)))


def palette_with_a_table_of_transparency() -> bytes:
    image = halves("P")
    table = bytearray(b"\xff" * 256)
    table[image.getpixel((5, 5))] = 0  # type: ignore[index]
    return encoded(image, "PNG", transparency=bytes(table))


def wide_grey(form: str) -> bytes:
    """16 bits a pixel: a quarter of full on the left, full on the right."""
    values = np.full((48, 96), 65535, np.uint16)
    values[:, :48] = 16448
    return encoded(Image.fromarray(values), form)


def wide_png_with_colours() -> bytes:
    """16 bits for each of three channels, which Pillow does not write."""
    row = b"\0" + struct.pack(">3H", 0, 0, 65535) * 48 + struct.pack(">3H", 65535, 0, 0) * 48

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">2I5B", 96, 48, 16, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(row * 48))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def moving_gif() -> bytes:
    rest = [Image.new("RGB", (96, 48), WHITE), Image.new("RGB", (96, 48))]
    return encoded(halves(), "GIF", save_all=True, append_images=rest, duration=40)


def moving_webp() -> bytes:
    rest = [Image.new("RGB", (96, 48), WHITE)]
    return encoded(halves(), "WEBP", save_all=True, append_images=rest, lossless=True)


GREYS = (29, 76)  # luma of blue and of red
UNUSUAL: dict[str, tuple[bytes, str, object, object]] = {
    # bytes, format, the left half, the right half
    "cmyk jpeg": (encoded(halves("CMYK"), "JPEG", quality=95), "jpg", BLUE, RED),
    "cmyk tiff": (encoded(halves("CMYK"), "TIFF"), "tiff", BLUE, RED),
    "grey jpeg": (encoded(halves("L"), "JPEG", quality=95), "jpg", *GREYS),
    "grey png": (encoded(halves("L"), "PNG"), "png", *GREYS),
    "progressive jpeg": (encoded(halves(), "JPEG", progressive=True), "jpg", BLUE, RED),
    "black and white": (encoded(halves("L").point(lambda v: 255 * (v > 50)).convert("1"), "PNG"),
                        "png", 0, 255),
    "palette": (encoded(halves("P"), "PNG"), "png", BLUE, RED),
    "palette with transparency": (palette_with_transparency(), "png", WHITE, RED),
    "palette with a table of it": (palette_with_a_table_of_transparency(), "png", WHITE, RED),
    "transparent, blue below": (encoded(see_through(BLUE), "PNG"), "png", WHITE, RED),
    "transparent webp": (encoded(see_through(BLUE), "WEBP", lossless=True), "webp", WHITE, RED),
    "grey with transparency": (encoded(see_through(BLUE).convert("LA"), "PNG"), "png", 255, 76),
    "one colour transparent": (encoded(halves(), "PNG", transparency=BLUE), "png", WHITE, RED),
    "one grey transparent": (encoded(halves("L"), "PNG", transparency=29), "png", 255, 76),
    "16-bit png": (wide_grey("PNG"), "png", 64, 255),
    "16-bit tiff": (wide_grey("TIFF"), "tiff", 64, 255),
    "16-bit colours": (wide_png_with_colours(), "png", BLUE, RED),
    "moving gif": (moving_gif(), "gif", BLUE, RED),
    "moving webp": (moving_webp(), "webp", BLUE, RED),
    "webp": (encoded(halves(), "WEBP", quality=95), "webp", BLUE, RED),
    "avif": (encoded(halves(), "AVIF", quality=95), "avif", BLUE, RED),
    "bmp": (encoded(halves(), "BMP"), "bmp", BLUE, RED),
    "tiff": (encoded(halves(), "TIFF"), "tiff", BLUE, RED),
    "compressed tiff": (encoded(halves(), "TIFF", compression="tiff_lzw"), "tiff", BLUE, RED),
    "jpeg 2000": (encoded(halves(), "JPEG2000"), "jp2", BLUE, RED),
}  # fmt: skip


def assert_looks(pixels: Decoded, left: object, right: object) -> None:
    assert isinstance(pixels, np.ndarray), pixels
    assert pixels.dtype == np.uint8
    side = pixels.shape[1]
    for middle, wanted in ((side // 4, left), (3 * side // 4, right)):
        found = pixels[pixels.shape[0] // 2, middle].astype(int)
        assert np.abs(found - np.array(wanted)).max() <= 12, (found, wanted)


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_valid_but_unusual_picture_looks_as_a_viewer_shows_it(name: str) -> None:
    data, form, left, right = UNUSUAL[name]

    header = inspect(data, LIMITS)

    assert header == ImageHeader(form, 96, 48)
    assert_looks(preprocess(data, GRID), left, right)
    assert_looks(preprocess(data, PRESETS["skew-288"]), left, right)


def test_unusual_pictures_come_through_a_decoder_process_as_they_are() -> None:
    images = [data for data, *_ in UNUSUAL.values()]

    with DecoderPool(GRID.name, 1) as pool:
        found = list(pool.map(images))

    for data, pixels in zip(images, found, strict=True):
        np.testing.assert_array_equal(pixels, preprocess(data, GRID))


# ---------------------------------------------------------------- orientation

_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description'
    b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></x:xmpmeta>'
)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_shown_upright_and_measured_so(form: str, orientation: int) -> None:
    # how a camera held that way stores it
    stored = {
        1: (),
        2: (Image.Transpose.FLIP_LEFT_RIGHT,),
        3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,),
        5: (Image.Transpose.TRANSPOSE,),
        6: (Image.Transpose.ROTATE_90,),
        7: (Image.Transpose.TRANSVERSE,),
        8: (Image.Transpose.ROTATE_270,),
    }
    image = halves()
    for turn in stored[orientation]:
        image = image.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation

    data = encoded(image, form, exif=exif)

    header = inspect(data, LIMITS)
    assert isinstance(header, ImageHeader)
    assert (header.width, header.height) == (96, 48)
    assert_looks(preprocess(data, GRID), BLUE, RED)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_an_orientation_said_by_xmp_alone_counts_for_size_and_pixels_alike(form: str) -> None:
    image = halves().transpose(Image.Transpose.ROTATE_90)

    data = encoded(image, form, xmp=_XMP % 6)

    header = inspect(data, LIMITS)
    assert isinstance(header, ImageHeader)
    assert (header.width, header.height) == (96, 48)
    assert_looks(preprocess(data, GRID), BLUE, RED)


def test_damaged_exif_costs_no_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(halves(), "JPEG", exif=exif)
    at = data.index(b"Exif\0\0") + 6

    damaged = data[:at] + b"\xff" * 20 + data[at + 20 :]

    assert inspect(damaged, LIMITS) == ImageHeader("jpg", 96, 48)
    assert_looks(preprocess(damaged, GRID), BLUE, RED)


# ---------------------------------------------------------------- refused


def refused(data: bytes, limits: LimitsOptions = LIMITS) -> tuple[Fault, str]:
    found = inspect(data, limits)
    if isinstance(found, ImageHeader):
        assert found.fault, found
        found = found.fault
    assert found[1]
    return found


def bomb(side: int) -> bytes:
    """A PNG of side x side pixels in a few bytes: only the header is there."""
    whole = encoded(Image.new("1", (32, 32)), "PNG")
    body = b"IHDR" + struct.pack(">2I", side, side) + whole[24:29]
    return whole[:12] + body + struct.pack(">I", zlib.crc32(body)) + whole[33:]


@pytest.mark.parametrize("side", [10_001, 20_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header_alone(side: int) -> None:
    began = time.monotonic()

    header = inspect(bomb(side), LIMITS)

    assert isinstance(header, ImageHeader)
    assert (header.format, header.width, header.height) == ("png", side, side)
    assert header.fault == (
        Fault.TOO_MANY_PIXELS, f"{side}x{side}, at most {LIMITS.max_pixels} pixels"
    )  # fmt: skip
    assert time.monotonic() - began < 1


def test_sides_that_no_row_can_hold_are_said_and_not_kept() -> None:
    code, message = refused(bomb(2**31))

    assert code is Fault.TOO_MANY_PIXELS
    assert "2147483648x2147483648" in message
    assert isinstance(inspect(bomb(2**31), LIMITS), tuple)


def test_turned_pictures_that_are_refused_have_their_sides_as_displayed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("JPEG", "PNG", "WEBP"):
        data = encoded(Image.new("RGB", (640, 20)), form, exif=exif)

        header = inspect(data, LIMITS)

        assert isinstance(header, ImageHeader)
        assert (header.width, header.height) == (20, 640)
        assert header.fault == (Fault.EXTREME_ASPECT, "20x640, at most 20 to 1")


def test_no_pixel_of_a_bomb_is_decoded_to_see_how_it_is_turned() -> None:
    """Pillow decodes a whole PNG in search of EXIF behind the pixels."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    data = encoded(Image.new("1", (12_000, 10_000)), "PNG", pnginfo=info)
    began = time.process_time()

    header = inspect(data, LIMITS)

    assert isinstance(header, ImageHeader)
    assert header.fault
    assert (header.width, header.height) == (10_000, 12_000)
    assert time.process_time() - began < 0.02


def test_the_most_pixels_allowed_are_allowed() -> None:
    assert inspect(bomb(10_000), LIMITS) == ImageHeader("png", 10_000, 10_000)


def test_no_limit_can_be_set_that_would_not_hold(tmp_path: Path) -> None:
    """Pillow refuses pictures of its own accord beyond a size: no setting may promise more."""
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    side = isqrt(most)
    config = tmp_path / "sscd-ops.toml"
    text = (
        '[storage]\nroot = "/data"\n[datasets.web]\n'
        '[[datasets.web.sources]]\nurls = ["/in/*.tar"]\n'
        "[datasets.web.limits]\nmax_pixels = {}\n"
    )

    config.write_text(text.format(most))
    limits = load_settings(config).datasets["web"].limits

    assert inspect(bomb(side), limits) == ImageHeader("png", side, side)
    config.write_text(text.format(most + 1))
    with pytest.raises(ConfigError, match="max_pixels"):
        load_settings(config)


def test_a_gif_whose_frame_is_larger_than_it_says_is_measured_by_the_frame() -> None:
    data = bytearray(encoded(Image.new("P", (20, 20)), "GIF"))
    at = data.index(b",\0\0\0\0") + 5
    data[at : at + 4] = struct.pack("<HH", 12_000, 12_000)

    code, message = refused(bytes(data))

    assert code is Fault.TOO_MANY_PIXELS
    assert "12000x12000" in message


@pytest.mark.parametrize(
    ("size", "code"),
    [
        ((15, 200), Fault.TOO_SMALL),
        ((200, 15), Fault.TOO_SMALL),
        ((1, 1), Fault.TOO_SMALL),
        ((16, 321), Fault.EXTREME_ASPECT),
        ((321, 16), Fault.EXTREME_ASPECT),
        ((16, 16), None),
        ((16, 320), None),
        ((320, 16), None),
    ],
)
def test_small_and_long_pictures_are_refused_from_the_limit_on(
    size: tuple[int, int], code: Fault | None
) -> None:
    data = encoded(Image.new("RGB", size), "PNG")

    found = inspect(data, LIMITS)

    assert isinstance(found, ImageHeader)
    assert (found.width, found.height) == size
    assert (found.fault and found.fault[0]) is code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Fault.EMPTY_IMAGE),
        (b"\0", Fault.NOT_AN_IMAGE),
        (b"\xff\xd8\xff", Fault.NOT_AN_IMAGE),
        (b"GIF89a", Fault.NOT_AN_IMAGE),
        (b"RIFF\x10\0\0\0WEBPVP8 ", Fault.NOT_AN_IMAGE),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), Fault.NOT_AN_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", Fault.NOT_AN_IMAGE),
        (b"%PDF-1.4", Fault.NOT_AN_IMAGE),
        (b"\0\0\0\x18ftypheic", Fault.NOT_AN_IMAGE),
    ],
)
def test_bytes_that_are_no_picture_are_told_from_none(data: bytes, code: Fault) -> None:
    assert refused(data)[0] is code
    decoded = preprocess(data, GRID)
    assert isinstance(decoded, tuple)
    assert decoded[0] is code


def test_a_picture_cut_short_has_a_header_but_no_pixels() -> None:
    whole = picture(1, 300, 200)

    cut = whole[: len(whole) // 2]

    assert inspect(cut, LIMITS) == ImageHeader("jpg", 300, 200)
    decoded = preprocess(cut, GRID)
    assert isinstance(decoded, tuple)
    assert decoded[0] is Fault.UNDECODABLE
    assert decoded[1]


@settings(max_examples=examples(300))
@given(
    st.sampled_from(sorted(UNUSUAL)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_no_damage_raises(name: str, changes: list[tuple[float, int]], kept: float) -> None:
    """Bytes overwritten anywhere, mostly in the header, and an end cut off."""
    data = bytearray(UNUSUAL[name][0])
    for place, value in changes:
        data[int(place**3 * len(data))] = value
    damaged = bytes(data[: round(len(data) * max(kept, 0.1))])

    header = inspect(damaged, LimitsOptions(max_pixels=1_000_000))

    fault = header if isinstance(header, tuple) else header.fault
    if fault is not None:
        assert isinstance(fault[0], Fault)
        assert fault[1]
        return
    pixels = preprocess(damaged, GRID)
    if isinstance(pixels, tuple):
        assert isinstance(pixels[0], Fault)
        assert pixels[1]
    else:
        assert pixels.shape == (64, 64, 3)
