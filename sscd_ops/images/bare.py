"""A picture's bytes without what does not decide its pixels: text, colour profiles, EXIF.

Decoders refuse a whole picture for what stands beside it: Pillow does for a PNG whose text unpacks
to more than a mebibyte, or has a wrong checksum, and for a JPEG with a resource block cut off. What
browsers show is kept: the decoder is given the picture without that. Pixels stay what they were.

Of what is left out, the parts that say how a picture is turned are handed on by the names that
Pillow has for them in ``Image.info``.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

Notes = dict[str, bytes | str]
"""What says how the picture is turned, by Pillow's names."""


class Bare(NamedTuple):
    """A picture that is left, and what the rest says of its orientation."""

    data: bytes
    notes: Notes


_MOST_TEXT = 1 << 20
"""Unpacked bytes of a compressed text that are looked at."""


# ---------------------------------------------------------------- png

_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_LEAST_TRANSPARENCY = {0: 2, 2: 6}
"""Colour type -> bytes of a tRNS chunk."""
_XMP, _PROFILE = "XML:com.adobe.xmp", "Raw profile type exif"


def png(data: bytes) -> Bare:
    """A PNG's first picture: header, palette, transparency and pixels."""
    kept, notes = _Kept(data, 8), Notes()
    for kind, start, end in _chunks(data):
        body = data[start + 8 : end - 4] if kind not in _PIXELS and end <= len(data) else b""
        if kind in _PIXELS or (kind == b"tRNS" and _is_sound(data, start, end)):
            kept.add(start, end)
        elif kind == b"eXIf" and body:
            notes["exif"] = b"Exif\0\0" + body
        elif body and kind in _TEXTS:
            _note(notes, kind, body)
        if kind == b"IEND":
            break
    return Bare(kept.joined(), notes)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each; the last one may be cut off. Ends where no chunk begins."""
    start = 8
    while start + 8 <= len(data):
        length = int.from_bytes(data[start : start + 4])
        kind = data[start + 4 : start + 8]
        if not kind.isalpha():
            return
        yield kind, start, start + 12 + length
        start += 12 + length


def _is_sound(data: bytes, start: int, end: int) -> bool:
    """Whether a transparency can be used; viewers leave one out that cannot."""
    body = data[start + 8 : end - 4]
    if end > len(data) or zlib.crc32(b"tRNS" + body) != int.from_bytes(data[end - 4 : end]):
        return False
    return len(body) >= _LEAST_TRANSPARENCY.get(data[25], 1)


def _note(notes: Notes, kind: bytes, body: bytes) -> None:
    """Take down a text that says how the picture is turned."""
    keyword, _, rest = body.partition(b"\0")
    name = keyword.decode("latin-1")
    if name == "exif" and kind == b"tEXt":
        notes["exif"] = rest
    elif name in (_XMP, _PROFILE):
        text = _TEXTS[kind](rest)
        if name == _XMP:
            notes["xmp"] = text
        else:
            notes[name] = text.decode("latin-1")


def _international(rest: bytes) -> bytes:
    text = rest[2:].split(b"\0", 2)[-1]
    return _unpacked(text) if rest[:1] == b"\1" else text


def _unpacked(text: bytes) -> bytes:
    """The first mebibyte: a few kilobytes may unpack to gigabytes."""
    try:
        return zlib.decompressobj().decompress(text, _MOST_TEXT)
    except zlib.error:
        return b""


_TEXTS: dict[bytes, Callable[[bytes], bytes]] = {
    b"tEXt": lambda rest: rest,
    b"zTXt": lambda rest: _unpacked(rest[1:]),
    b"iTXt": _international,
}


# ---------------------------------------------------------------- jpeg

_COLOURS = ((0xE0, b"JFIF\0", 16), (0xEE, b"Adobe", 14))
"""Segments by which decoders choose the colour space: marker, beginning, least length."""


def jpeg(data: bytes) -> Bare:
    """A JPEG without application segments and comments, those about colours aside."""
    kept, notes, at = _Kept(data, 2), Notes(), 2
    exif: list[bytes] = []
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA or marker < 0xC0 or 0xD0 <= marker <= 0xD9:
            break
        body = data[at + 4 : end]
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or any(
            marker == one and body.startswith(begins) and end - at - 2 >= least
            for one, begins, least in _COLOURS
        ):
            kept.add(at, end)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:] if exif else body)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            notes["xmp"] = body.partition(b"\0")[2]
        at = end
    kept.add(at, len(data))
    if exif:
        notes["exif"] = b"".join(exif)
    return Bare(kept.joined(), notes)


# ---------------------------------------------------------------- the others

_WEBP = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_NOTES = {b"EXIF": "exif", b"XMP ": "xmp"}
_WEBP_FLAGS = 0x2C
"""Of VP8X: that a colour profile, EXIF or XMP follow."""


def webp(data: bytes) -> Bare:
    """A WebP without what stands beside its frames, and what is cut off of that."""
    kept, notes, start = _Kept(data, 12), Notes(), 12
    while start + 8 <= len(data):
        kind, length = (
            data[start : start + 4],
            int.from_bytes(data[start + 4 : start + 8], "little"),
        )
        end = start + 8 + length + length % 2
        if kind in _WEBP:  # also one that is cut off: then the picture is
            kept.add(start, end)
        elif kind in _WEBP_NOTES and start + 8 + length <= len(data):
            notes[_WEBP_NOTES[kind]] = data[start + 8 : start + 8 + length]
        start = end
    answer = bytearray(kept.joined())
    answer[4:8] = struct.pack("<I", len(answer) - 8)
    if answer[12:16] == b"VP8X" and len(answer) > 20:
        answer[20] &= ~_WEBP_FLAGS & 0xFF
    return Bare(bytes(answer), notes)


def gif(data: bytes) -> Bare:
    """A GIF without extensions before its first picture, but the one that says what is clear."""
    at = 13 + (3 << (data[10] % 8 + 1) if len(data) > 10 and data[10] & 0x80 else 0)
    kept = _Kept(data, at)
    while data[at : at + 1] == b"!":
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        end += 1
        if data[at + 1 : at + 3] == b"\xf9\4" and end == at + 8:
            kept.add(at, end)
        at = end
    kept.add(at, len(data))
    return Bare(kept.joined(), Notes())


def avif(data: bytes) -> Bare:
    """An AVIF whose EXIF is called free space: how it is turned, its own boxes say."""
    return Bare(re.sub(rb"(infe.{8}(?:..)?)Exif", rb"\1free", data, flags=re.DOTALL), Notes())


_TIFF_PIXELS = frozenset(
    {
        254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320,
        322, 323, 324, 325, 332, 334, 338, 339, 347, *range(512, 522), 529, 530, 531, 532,
    }
)  # fmt: skip
"""Tags that decide pixels."""


def tiff(data: bytes) -> Bare:
    """A TIFF whose other tags, in its first directory, are of no type that anyone reads."""
    answer = bytearray(data)
    for at, tag, kind, count in tiff_tags(data):
        is_orientation = tag == 274 and (kind, count) == (3, 1)
        if tag not in _TIFF_PIXELS and not is_orientation:
            answer[at + 2 : at + 4] = b"\0\0"
    return Bare(bytes(answer), Notes())


def tiff_tags(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Where an entry of a TIFF's first directory stands, its tag, type and count."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    word, size = ("Q", 20) if big else ("L", 12)
    try:
        (at,) = struct.unpack_from(f"{order}{word}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
        at += 8 if big else 2
        for entry in range(at, min(at + size * count, len(data)), size):
            yield entry, *struct.unpack_from(f"{order}HH{word}", data, entry)
    except (struct.error, OverflowError):
        return


BARE: dict[str, Callable[[bytes], Bare]] = {
    "jpg": jpeg,
    "png": png,
    "webp": webp,
    "gif": gif,
    "avif": avif,
    "tiff": tiff,
}
"""By our names of formats."""


class _Kept:
    """Ranges of some bytes, in order."""

    def __init__(self, data: bytes, head: int) -> None:
        self._data = data
        self._ranges = [(0, head)]

    def add(self, start: int, end: int) -> None:
        """Keep a range; one that follows the last is joined to it."""
        first, last = self._ranges[-1]
        if start == last:
            self._ranges[-1] = (first, end)
        else:
            self._ranges.append((start, end))

    def joined(self) -> bytes:
        """What is kept; the bytes themselves where that is all."""
        if len(self._ranges) == 1 and self._ranges[0][1] >= len(self._data):
            return self._data
        view = memoryview(self._data)
        return b"".join(view[start:end] for start, end in self._ranges)
