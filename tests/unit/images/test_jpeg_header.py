"""The size that is read without Pillow is Pillow's, whatever was done to the header."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sscd_ops.images.header import inspect, inspect_with_pillow
from sscd_ops.images.jpeg_header import jpeg_size
from sscd_ops.options import LimitsOptions
from sscd_ops.testing import picture
from tests.soak import examples

LIMITS = LimitsOptions(max_pixels=10_000_000)
PHOTO = Image.open(io.BytesIO(picture(3, 90, 60, quality=95)))

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    PHOTO.convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


PLAIN = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "optimised": jpeg(optimize=True),
    "grey": jpeg("L"),
    "finest": jpeg(quality=100, subsampling=0),
    "restarts": jpeg(restart_marker_blocks=4),
    "with a density": jpeg(dpi=(72, 72)),
}
OTHER = {
    "EXIF": jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "a profile": jpeg(icc_profile=bytes(400)),
    "a comment": jpeg(comment=b"a comment"),
    "CMYK": jpeg("CMYK"),
    "no JFIF": jpeg()[:2] + jpeg()[20:],
    "another format": picture(1, 90, 60)[:3] + b"no",
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN.keys())
def test_what_encoders_write_is_read_here(data: bytes) -> None:
    assert jpeg_size(data) == (90, 60)
    assert inspect(data, LIMITS) == inspect_with_pillow(data, LIMITS)


@pytest.mark.parametrize("data", OTHER.values(), ids=OTHER.keys())
def test_what_says_more_is_left_to_pillow(data: bytes) -> None:
    assert jpeg_size(data) is None


def header_of(data: bytes) -> int:
    """Bytes up to its pixels."""
    return data.index(b"\xff\xda") + 16


BYTES = st.one_of(
    st.sampled_from([0, 1, 2, 0xFF, 0xC0, 0xC4, 0xD8, 0xDA, 0xDB]), st.integers(0, 255)
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "remove", "repeat", "cut"]),
        st.floats(0, 1),
        st.lists(BYTES, min_size=1, max_size=4).map(bytes),
    ),
    max_size=4,
)


def changed(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for how, where, given_ in changes:
        at = int(where * min(header_of(PLAIN["restarts"]), len(data)))
        size = len(given_)
        if how == "set":
            data = data[:at] + given_ + data[at + size :]
        elif how == "insert":
            data = data[:at] + given_ + data[at:]
        elif how == "remove":
            data = data[:at] + data[at + size :]
        elif how == "repeat":  # a segment twice, or none of it
            data = data[:at] + data[at : at + 16 * size] + data[at:]
        else:
            data = data[:at]
    return data


@given(
    data=st.sampled_from([*PLAIN.values(), *OTHER.values()]),
    changes=CHANGES,
)
@example(data=PLAIN["baseline"], changes=[])
@settings(max_examples=examples(400), deadline=None)
def test_a_damaged_header_is_judged_as_pillow_judges_it(
    data: bytes, changes: list[tuple[str, float, bytes]]
) -> None:
    data = changed(data, changes)

    assert inspect(data, LIMITS) == inspect_with_pillow(data, LIMITS)


@given(
    marker=st.sampled_from([0xC0, 0xC1, 0xC2]),
    bits=st.sampled_from([8, 8, 8, 12]),
    sides=st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1)),
    components=st.integers(0, 5),
    length=st.integers(-3, 3),
)
@example(marker=0xC0, bits=8, sides=(65535, 65535), components=3, length=0)
@settings(max_examples=examples(200), deadline=None)
def test_every_frame_is_judged_as_pillow_judges_it(
    marker: int, bits: int, sides: tuple[int, int], components: int, length: int
) -> None:
    whole = PLAIN["baseline"]
    at = whole.index(b"\xff\xc0")
    body = bytes([bits, *sides[0].to_bytes(2), *sides[1].to_bytes(2), components])
    body += bytes([1, 0x22, 0] * components)
    said = max(0, 2 + len(body) + length).to_bytes(2)
    data = whole[:at] + bytes([0xFF, marker]) + said + body + whole[at + 19 :]

    assert inspect(data, LIMITS) == inspect_with_pillow(data, LIMITS)


def test_every_cut_is_judged_as_pillow_judges_it() -> None:
    for data in PLAIN.values():
        for end in range(header_of(data) + 4):
            cut = data[:end]
            assert inspect(cut, LIMITS) == inspect_with_pillow(cut, LIMITS), end
