"""What stands beside a picture's pixels costs no picture, and says which way up it is."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from sscd_ops.images.header import inspect, open_image
from sscd_ops.images.orientation import upright, upright_size
from sscd_ops.images.preprocess import PRESETS, preprocess
from sscd_ops.images.sheets import thumbnail
from sscd_ops.model import Fault, ImageHeader
from sscd_ops.options import LimitsOptions
from sscd_ops.testing import picture
from tests.soak import examples

LIMITS = LimitsOptions()
PRESET = PRESETS["skew-160"]
SIZE = (150, 100)
TURNED = {1: SIZE, 2: SIZE, 3: SIZE, 4: SIZE, **dict.fromkeys(range(5, 9), SIZE[::-1])}
FORMS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def photo(mode: str = "RGB") -> Image.Image:
    return Image.open(io.BytesIO(picture(3, *SIZE, quality=95))).convert(mode)


def encoded(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    quality = {"lossless": True} if form == "WEBP" else {}
    (image or photo()).save(out, form, **quality, **options)
    return out.getvalue()


# ---------------------------------------------------------------- EXIF

Entry = tuple[int, int, int, bytes]
"""Tag, type, count and value, or what stands where the value's place belongs."""


def exif(entries: list[Entry], more: bytes = b"", following: int = 0, order: str = "<") -> bytes:
    """EXIF written by hand, for what no library writes; ``more`` stands behind its directory."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in sorted(entries):
        body += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    return b"Exif\0\0" + head + body + struct.pack(order + "I", following) + more


def turned(value: int, order: str = "<") -> Entry:
    return 0x0112, 3, 1, struct.pack(order + "H", value)


def place(at: int) -> bytes:
    return struct.pack("<I", at)


BEHIND = 8 + 2 + 12 * 2 + 4
"""Where ``more`` begins in EXIF of two entries."""
ODD_EXIF: dict[str, bytes] = {
    # each beside an orientation of 6
    "a rational below zero": exif([turned(6), (0x011A, 5, 1, place(BEHIND))],
                                  struct.pack("<iI", -72, 1)),
    "a signed rational below zero": exif([turned(6), (0x9204, 10, 1, place(BEHIND))],
                                         struct.pack("<ii", -1, 3)),
    "signed where unsigned belongs": exif([turned(6), (0x011A, 10, 1, place(BEHIND))],
                                          struct.pack("<ii", -1, 3)),
    "a rational over nothing": exif([turned(6), (0x011A, 5, 1, place(BEHIND))],
                                    struct.pack("<II", 1, 0)),
    "a rational as text": exif([turned(6), (0x011A, 2, 3, b"72\0")]),
    "a rational as one letter": exif([turned(6), (0x011A, 2, 2, b"7\0"), (0x0128, 3, 1, b"\2\0")]),
    "a number as text": exif([turned(6), (0x0128, 2, 4, b"inch")]),
    "text as numbers": exif([turned(6), (0x0131, 4, 1, place(2**32 - 1))]),
    "an unknown type": exif([turned(6), (0x0131, 77, 1, b"abcd")]),
    "type 0": exif([turned(6), (0x0131, 0, 1, b"abcd")]),
    "a value outside": exif([turned(6), (0x0131, 2, 900, place(10**6))]),
    "a count of billions": exif([turned(6), (0x0131, 2, 2**32 - 1, place(0))]),
    "a directory that is itself": exif([turned(6), (0x8769, 4, 1, place(8))]),
    "a directory outside": exif([turned(6), (0x8769, 4, 1, place(10**6))]),
    "a directory below zero": exif([turned(6), (0x8769, 9, 1, struct.pack("<i", -5))]),
    "a directory as text": exif([turned(6), (0x8769, 2, 4, b"text")]),
    "gps as a rational": exif([turned(6), (0x8825, 5, 1, place(BEHIND))], place(1) + place(3)),
    "a next directory that is the first": exif([turned(6), (0x0128, 3, 1, b"\2\0")], following=8),
    "two orientations": exif([turned(6), turned(7)]),
    "an orientation too many": exif([(0x0112, 3, 2, struct.pack("<HH", 6, 7))]),
    "a thumbnail outside": exif([turned(6), (0x0201, 4, 1, place(10**6))], following=8),
    "cut off behind it": exif([turned(6)])[:-3],
    "text that is no text": exif([turned(6), (0x010E, 2, 4, b"\xff\xfe\xfd\xfc")]),
    "no bytes behind": exif([turned(6), (0x0131, 2, 8, place(BEHIND))]),
    "floats that are none": exif([turned(6), (0x011A, 11, 1, struct.pack("<f", float("nan")))]),
}  # fmt: skip
UNTURNED_EXIF: dict[str, bytes] = {
    "orientation 0": exif([turned(0)]),
    "orientation 9": exif([turned(9)]),
    "orientation 65535": exif([turned(65535)]),
    "orientation as text": exif([(0x0112, 2, 2, b"6\0")]),
    "orientation of no value": exif([(0x0112, 3, 0, b"")]),
    "orientation of an unknown type": exif([(0x0112, 99, 1, b"\6\0\0\0")]),
    "no directory": b"Exif\0\0II*\0\x08\0\0\0",
    "no tiff": b"Exif\0\0" + b"nonsense" * 9,
    "nothing": b"Exif\0\0",
    "cut off in its directory": exif([turned(6)])[:20],
}  # fmt: skip


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", [*ODD_EXIF, *UNTURNED_EXIF])
def test_odd_exif_costs_no_picture_and_no_orientation(name: str, form: str) -> None:
    data = encoded(form, exif=(ODD_EXIF | UNTURNED_EXIF)[name])

    if name in UNTURNED_EXIF:
        assert_shows(data, photo_of(encoded(form)))
    else:
        assert_shows(data, photo_of(encoded(form)).transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("name", ODD_EXIF)
def test_odd_tags_in_a_tiff_cost_no_picture_and_no_orientation(name: str) -> None:
    """A TIFF's own directory is where EXIF stands; the entries are put into it."""
    plain = encoded("TIFF")
    odd = ODD_EXIF[name][6:]
    (count,) = struct.unpack_from("<H", odd, 8)
    entries = [odd[10 + 12 * i : 22 + 12 * i] for i in range(count)]

    data = with_tags(plain, [entry for entry in entries if len(entry) == 12])

    assert_shows(data, photo_of(plain).transpose(Image.Transpose.ROTATE_270))


def with_tags(tiff: bytes, entries: list[bytes]) -> bytes:
    """A little-endian TIFF with more entries in a directory that is moved to its end."""
    (at,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, at)
    own = [tiff[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    named = {entry[:2] for entry in entries}
    every = sorted(
        [entry for entry in own if entry[:2] not in named] + entries,
        key=lambda entry: struct.unpack("<H", entry[:2]),
    )
    body = struct.pack("<H", len(every)) + b"".join(every) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + body


def photo_of(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def assert_shows(data: bytes, expected: Image.Image) -> None:
    """Size and pixels as displayed, and the ones at the model's size."""
    header = inspect(data, LIMITS)
    assert isinstance(header, ImageHeader), header
    assert header.fault is None
    assert (header.width, header.height) == expected.size
    image = open_image(data)
    assert isinstance(image, Image.Image)
    np.testing.assert_array_equal(upright(image).convert("RGB"), expected)
    pixels = preprocess(data, PRESET)
    np.testing.assert_array_equal(pixels, expected.resize((160, 160), Image.Resampling.BILINEAR))


# ---------------------------------------------------------------- as Pillow turns them

_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description'
    b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></x:xmpmeta>'
)


def by_exif(form: str, orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a camera"
    return encoded(form, exif=tags)


def by_xmp(form: str, orientation: int) -> bytes:
    if form == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", (_XMP % orientation).decode(), zip=True)
        return encoded(form, pnginfo=info)
    if form == "TIFF":
        return encoded(form, tiffinfo={700: _XMP % orientation})
    return encoded(form, xmp=_XMP % orientation)


def by_both(form: str, orientation: int) -> bytes:
    """EXIF is what counts."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    if form == "TIFF":
        return encoded(form, tiffinfo={700: _XMP % 3, 0x0112: orientation})
    if form == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", (_XMP % 3).decode())
        return encoded(form, exif=tags, pnginfo=info)
    return encoded(form, exif=tags, xmp=_XMP % 3)


def by_raw_profile(form: str, orientation: int) -> bytes:
    """As ImageMagick writes EXIF into a PNG's text."""
    body = exif([turned(orientation)])
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(body):8}\n{body.hex()}\n", zip=True)
    return encoded("PNG", pnginfo=info)


@pytest.mark.parametrize("way", [by_exif, by_xmp, by_both, by_raw_profile])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(
    form: str, orientation: int, way: Callable[[str, int], bytes]
) -> None:
    """Fingerprints rest on these pixels."""
    data = way(form, orientation)

    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image)

    assert_shows(data, expected.convert("RGB"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [(3, "H"), (4, "I"), (8, "h"), (9, "i"), (11, "f")])
def test_an_orientation_of_another_type_counts_as_it_does_for_pillow(
    kind: tuple[int, str], order: str
) -> None:
    value = struct.pack(order + kind[1], 8)
    data = encoded("JPEG", exif=exif([(0x0112, kind[0], 1, value)], order=order))

    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image)

    assert expected.size == SIZE[::-1]
    assert_shows(data, expected)


def test_what_a_sheet_shows_is_upright_and_needs_no_good_exif() -> None:
    data = encoded("PNG", exif=ODD_EXIF["a rational below zero"])

    shown = thumbnail(data, 100)

    assert shown.getpixel((5, 50)) == (245, 245, 245)  # a tall picture has ground beside it
    assert shown.getpixel((50, 3)) != (245, 245, 245)


@settings(max_examples=examples(100))
@given(
    st.sampled_from(FORMS),
    st.lists(
        st.tuples(
            st.sampled_from([0x0112, 0x011A, 0x0128, 0x8769, 0x8825, 0x0131]),
            st.integers(0, 20),
            st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
            st.one_of(st.binary(min_size=4, max_size=4), st.integers(0, 9).map(place)),
        ),
        max_size=5,
    ),
    st.binary(max_size=24),
    st.integers(0, 60),
)
def test_the_size_said_is_the_size_decoded_whatever_the_exif(
    form: str, entries: list[Entry], more: bytes, following: int
) -> None:
    body = exif(entries, more, following)
    if form == "TIFF":
        tags = [
            struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries
        ]
        data = with_tags(encoded("TIFF"), tags)
    else:
        try:
            data = encoded(form, exif=body)
        except Exception:  # AVIF's writer reads EXIF
            return

    header, image = inspect(data, LIMITS), open_image(data)

    assert isinstance(header, ImageHeader), header
    assert isinstance(image, Image.Image)
    assert upright_size(image) == (header.width, header.height) == upright(image).size
    assert isinstance(preprocess(data, PRESET), np.ndarray)


# ---------------------------------------------------------------- PNG


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc or right)


def before_pixels(more: bytes, data: bytes | None = None) -> bytes:
    data = data or encoded("PNG")
    return data[:33] + more + data[33:]


def behind_pixels(more: bytes, data: bytes | None = None) -> bytes:
    data = data or encoded("PNG")
    at = data.rindex(b"IEND") - 4
    return data[:at] + more + data[at:]


MUCH = bytes(3 << 20)
ODD_CHUNKS: dict[str, bytes] = {
    "text of 3 MiB": chunk(b"tEXt", b"Comment\0" + MUCH),
    "packed text of 3 MiB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(MUCH)),
    "packed international text": chunk(b"iTXt", b"C\0\1\0\0\0" + zlib.compress(MUCH)),
    "xmp of 3 MiB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + MUCH),
    "packed xmp of 3 MiB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(MUCH)),
    "a colour profile of 3 MiB": chunk(b"iCCP", b"icc\0\0" + zlib.compress(MUCH)),
    "a broken colour profile": chunk(b"iCCP", b"icc\0\0nonsense"),
    "a colour profile packed strangely": chunk(b"iCCP", b"icc\0\7nonsense"),
    "a colour profile without a name": chunk(b"iCCP", b""),
    "text packed strangely": chunk(b"zTXt", b"Comment\0\7nonsense"),
    "much text in many chunks": 70 * chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(1 << 20))),
    "text named as what Pillow calls interlacing": chunk(b"tEXt", b"interlace\0" + b"1"),
    "text named as what Pillow calls a clear colour": chunk(b"tEXt", b"transparency\0white"),
    "text named as what Pillow calls a box": chunk(b"tEXt", b"bbox\0white"),
    "text named as what Pillow calls EXIF": chunk(b"zTXt", b"exif\0\0" + zlib.compress(b"a")),
    "a raw profile that is none": chunk(b"tEXt", b"Raw profile type exif\0zz\nzz\nzz\nzz"),
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0hello", crc=1),
    "time with a wrong checksum": chunk(b"tIME", bytes(7), crc=1),
    "a clear colour with a wrong checksum": chunk(b"tRNS", bytes(6), crc=1),
    "a clear colour cut short": chunk(b"tRNS", bytes(3)),
    "gamma cut short": chunk(b"gAMA", b"\0"),
    "chromaticities cut short": chunk(b"cHRM", b"\0"),
    "an intent cut short": chunk(b"sRGB", b""),
    "a resolution cut short": chunk(b"pHYs", b"\0"),
    "an animation cut short": chunk(b"acTL", b"\0"),
    "an animation without frames": chunk(b"acTL", struct.pack(">II", 5, 0)),
    "frames out of order": chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 7, *SIZE, 0, 0, 1, 1, 0, 0)),
    "a frame outside": chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 900, 900, 0, 0, 1, 1, 0, 0)),
    "a chunk nobody knows": chunk(b"abCd", b"hello"),
    "odd EXIF": chunk(b"eXIf", ODD_EXIF["a rational below zero"][6:].replace(b"\x12\1", b"\x13\1")),
    "EXIF that is none": chunk(b"eXIf", b"nonsense"),
}  # fmt: skip


@pytest.mark.parametrize("put", [before_pixels, behind_pixels])
@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_what_stands_beside_a_pngs_pixels_costs_no_picture(
    name: str, put: Callable[[bytes], bytes]
) -> None:
    assert_shows(put(ODD_CHUNKS[name]), photo())


@pytest.mark.parametrize("put", [before_pixels, behind_pixels])
@pytest.mark.parametrize("kind", ["exif", "xmp", "packed xmp", "profile"])
def test_a_png_says_its_orientation_before_or_behind_its_pixels(
    kind: str, put: Callable[[bytes], bytes]
) -> None:
    body = exif([turned(8)])
    said = {
        "exif": chunk(b"eXIf", body[6:]),
        "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP % 8),
        "packed xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(_XMP % 8)),
        "profile": chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()),
        ),
    }

    assert_shows(put(said[kind]), photo().transpose(Image.Transpose.ROTATE_90))


def test_text_that_unpacks_to_a_quarter_of_a_gigabyte_costs_no_memory() -> None:
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(16)) + packer.flush()
    data = before_pixels(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed))
    assert len(data) < 2 << 20

    tracemalloc.start()
    try:
        header = inspect(data, LIMITS)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert header == ImageHeader("png", *SIZE)
    assert most < 16 << 20


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
@pytest.mark.parametrize("clear", [False, True])
def test_a_png_with_all_that_usually_stands_in_it_has_the_pixels_pillow_gives_it(
    mode: str, clear: bool
) -> None:
    info = PngInfo()
    info.add_text("Software", "a program")
    options: dict[str, object] = {"pnginfo": info, "icc_profile": b"icc" * 100, "dpi": (72, 72)}
    if clear and mode in ("RGB", "P", "L"):
        options["transparency"] = (9, 9, 9) if mode == "RGB" else 9
    data = encoded("PNG", photo().quantize(64) if mode == "P" else photo(mode), **options)

    image = open_image(data)

    assert isinstance(image, Image.Image)
    plain = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(image.convert("RGBA"), plain.convert("RGBA"))
    assert image.info.get("transparency") == plain.info.get("transparency")


def test_of_an_animated_png_the_first_picture_counts() -> None:
    data = encoded("PNG", save_all=True, append_images=[Image.new("RGB", SIZE)], duration=40)

    assert_shows(data, photo())


# ---------------------------------------------------------------- other formats


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpeg(*more: bytes, **options: object) -> bytes:
    data = encoded("JPEG", **options)
    return data[:2] + b"".join(more) + data[2:]


def riff(data: bytes, more: bytes, cut: int = 0) -> bytes:
    """A WebP with more behind it, of which some may be missing."""
    body = data + more
    return body[:4] + struct.pack("<I", len(body) - 8) + body[8 : len(body) - cut]


def gif(more: bytes) -> bytes:
    data = encoded("GIF", photo("L"))
    at = data.index(b",\0\0\0\0", 700)
    return data[:at] + more + data[at:]


ICC = 65_000 * b"i"
ODD_FILES: dict[str, tuple[bytes, Image.Image]] = {
    "jpeg: resources cut off": (jpeg(segment(0xED, b"Photoshop 3.0\0" b"8BIM\3\xed")), photo()),
    "jpeg: JFIF cut off": (jpeg(segment(0xE0, b"JFIF\0")), photo()),
    "jpeg: Adobe cut off": (jpeg(segment(0xEE, b"Adobe")), photo()),
    "jpeg: a bad index of pictures": (jpeg(segment(0xE2, b"MPF\0nonsense")), photo()),
    "jpeg: large segments": (jpeg(*(segment(0xE5, ICC) for _ in range(60))), photo()),
    "jpeg: a large profile": (
        jpeg(*(segment(0xE2, b"ICC_PROFILE\0" + bytes((i, 60)) + ICC) for i in range(1, 61))),
        photo(),
    ),
    "jpeg: a profile with parts missing": (
        jpeg(segment(0xE2, b"ICC_PROFILE\0\1\3" + ICC)), photo()
    ),
    "jpeg: comments": (jpeg(*(segment(0xFE, ICC) for _ in range(9))), photo()),
    "jpeg: garbage behind": (jpeg() + b"\xff\xd8garbage" * 99, photo()),
    "jpeg: much EXIF": (jpeg(*(segment(0xE1, b"Exif\0\0" + ICC) for _ in range(20))), photo()),
    "webp: much XMP": (encoded("WEBP", xmp=MUCH), photo()),
    "webp: a large profile": (encoded("WEBP", icc_profile=MUCH), photo()),
    "webp: a chunk nobody knows": (riff(encoded("WEBP"), b"ABCD\2\0\0\0hi"), photo()),
    "webp: EXIF cut off": (
        riff(encoded("WEBP", exif=exif([turned(1)])), b"", cut=9), photo()
    ),
    "webp: a chunk cut off": (
        riff(encoded("WEBP"), b"ABCD\x40\0\0\0" + bytes(64), cut=20), photo()
    ),
    "webp: garbage behind": (encoded("WEBP") + b"garbage" * 99, photo()),
    "gif: a comment": (gif(b"!\xfe\5hello\0"), photo("L")),
    "gif: a comment that is empty": (gif(b"!\xfe\0"), photo("L")),
    "gif: a control cut short": (gif(b"!\xf9\2\0\0\0"), photo("L")),
    "gif: a control of nothing": (gif(b"!\xf9\0"), photo("L")),
    "gif: an application nobody knows": (gif(b"!\xff\x0bNETSCAPE2.0\1\1\0"), photo("L")),
    "gif: garbage behind": (encoded("GIF", photo("L")) + b"garbage" * 99, photo("L")),
    "tiff: a resolution as text": (
        with_tags(encoded("TIFF"), [struct.pack("<HHI4s", 282, 2, 4, b"many"),
                                    struct.pack("<HHI4s", 283, 2, 4, b"many"),
                                    struct.pack("<HHI4s", 296, 3, 1, b"\3\0")]),
        photo(),
    ),
    "tiff: text outside": (
        with_tags(encoded("TIFF"), [struct.pack("<HHII", 270, 2, 900, 10**6)]), photo()
    ),
    "tiff: xmp as text": (
        with_tags(encoded("TIFF"), [struct.pack("<HHI4s", 700, 2, 4, b"many")]), photo()
    ),
    "tiff: xmp as numbers": (
        with_tags(encoded("TIFF"), [struct.pack("<HHII", 700, 4, 1, 7)]), photo()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_FILES)
def test_what_stands_beside_the_pixels_costs_no_picture(name: str) -> None:
    data, expected = ODD_FILES[name]

    jpegs = name.startswith("jpeg")

    assert_shows(data, photo_of(encoded("JPEG")) if jpegs else expected.convert("RGB"))


@pytest.mark.parametrize("name", ODD_EXIF)
@pytest.mark.parametrize("orientation", [1, 6])
def test_odd_exif_in_an_avif_costs_no_picture(name: str, orientation: int) -> None:
    """Its own boxes say how it is turned; EXIF of a good length is put in the place of another."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "x" * 200
    data = encoded("AVIF", exif=tags)
    written = tags.tobytes()[6:]
    at = data.index(written[:8], data.index(b"mdat"))
    odd = ODD_EXIF[name][6:]

    damaged = data[:at] + odd.ljust(len(written), b"\0") + data[at + len(written) :]

    assert len(damaged) == len(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image)
    assert expected.size == TURNED[orientation]
    assert_shows(damaged, expected)


def test_a_colour_profile_for_print_changes_no_pixel() -> None:
    plain = encoded("JPEG", photo("CMYK"))
    data = encoded("JPEG", photo("CMYK"), icc_profile=bytes(100_000))

    np.testing.assert_array_equal(preprocess(data, PRESET), preprocess(plain, PRESET))


# ---------------------------------------------------------------- cut off


def test_a_png_is_whole_without_what_stands_behind_its_pixels() -> None:
    data = encoded("PNG")
    whole = data.rindex(b"IEND") - 4

    for kept in (whole, whole + 3, whole + 8, len(data) - 1):
        assert_shows(data[:kept], photo())
    assert_shows(data[:whole] + chunk(b"tEXt", b"Comment\0hello")[:-9], photo())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.98])
def test_a_picture_that_lacks_pixels_is_refused(form: str, kept: float) -> None:
    data = encoded(form)

    found = preprocess(data[: round(kept * len(data))], PRESET)

    assert isinstance(found, tuple)
    assert found[0] in (Fault.UNDECODABLE, Fault.NOT_AN_IMAGE)


def test_a_moving_webp_that_lacks_a_later_frame_is_refused_as_its_readers_do() -> None:
    frames = [Image.effect_noise(SIZE, sigma) for sigma in (20, 40, 60)]
    data = encoded("WEBP", frames[0], save_all=True, append_images=frames[1:])
    assert isinstance(preprocess(data, PRESET), np.ndarray)

    assert isinstance(preprocess(data[: round(0.8 * len(data))], PRESET), tuple)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_first_of_several_photos_in_a_file_is_turned_as_pillow_turns_it(
    orientation: int,
) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encoded("MPO", save_all=True, append_images=[Image.new("RGB", SIZE)], exif=tags)

    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image)

    assert_shows(data, expected)


@pytest.mark.parametrize("cut", [2, 3, 30])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_ends_too_soon_is_refused(cut: int, progressive: bool) -> None:
    """Without its end mark too, which its readers need as the decoder here does."""
    found = preprocess(encoded("JPEG", progressive=progressive)[:-cut], PRESET)

    assert isinstance(found, tuple)
    assert found[0] is Fault.UNDECODABLE


# ---------------------------------------------------------------- what a header check costs


def many_strips(count: int) -> bytes:
    """A TIFF of 4x4 pixels that says it has very many strips."""
    plain = encoded("TIFF", Image.new("L", (64, 64)))
    return with_tags(
        plain, [struct.pack("<HHII", tag, 4, count, len(plain) + 500) for tag in (273, 279)]
    ) + bytes(500 + 4 * count)


def moving_gif() -> bytes:
    frame = gif(b"")[gif(b"").index(b",\0\0\0\0", 700) : -1]
    return gif(frame * 5000)


DEAR_HEADERS: dict[str, Callable[[], bytes]] = {
    "a tiff of very many strips": lambda: many_strips(3_000_000),
    "a gif of 5,000 frames": moving_gif,
    "a jpeg of much EXIF": lambda: jpeg(*(segment(0xE1, b"Exif\0\0" + ICC) for _ in range(300))),
    "a png of much text": lambda: before_pixels(ODD_CHUNKS["much text in many chunks"]),
    "a large webp": lambda: encoded("WEBP", Image.new("RGB", (8_000, 3_000)), method=0),
}


@pytest.mark.parametrize("name", DEAR_HEADERS)
def test_a_header_check_costs_little(name: str) -> None:
    data = DEAR_HEADERS[name]()
    began = time.process_time()

    header = inspect(data, LIMITS)

    assert time.process_time() - began < 1
    if name == "a tiff of very many strips":
        assert isinstance(header, tuple)
        assert header[0] is Fault.DECODER_LIMIT
    else:
        assert isinstance(header, ImageHeader)
        assert header.fault is None


def test_a_picture_too_large_to_show_says_so() -> None:
    """A contact sheet is drawn in this very process, which nothing bounds."""
    large = Image.new("1", (11_000, 10_000), 1)
    large.paste(0, (0, 0, 5_500, 10_000))
    assert not (np.asarray(thumbnail(encoded("PNG", large), 100)) == 0).all(axis=2).any()
