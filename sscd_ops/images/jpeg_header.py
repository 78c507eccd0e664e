"""The size of a JPEG whose header is as plain as encoders make it, in a sixth of Pillow's time.

Nothing is judged here: whatever is odd, or says more than the size, Pillow is asked. So an answer
is always what Pillow's would be, and tests hold it to that.
"""

from __future__ import annotations

import struct

_BEGINNING = b"\xff\xd8\xff\xe0\0\x10JFIF\0"
"""Start of image, and a JFIF segment of its one length."""
_FIRST = 20
"""Where the segment behind it begins."""
_SEGMENT = struct.Struct(">HH")
"""Marker; length, the marker not counted."""
_FRAME = struct.Struct(">BHHB")
"""Bits of a value; height, width, components."""
_DQT, _SOS = 0xFFDB, 0xFFDA
_SKIPPED = (0xFFC4, 0xFFDD)
"""Huffman tables, restart interval."""
_SOF = (0xFFC0, 0xFFC1, 0xFFC2)
"""Frames: baseline, extended, progressive."""
_TABLE = 65
"""Bytes of a quantisation table of 8 bits, with the byte that says that it is one."""


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that displays as it is stored; None where Pillow must say.

    Taken is a whole header of JFIF: quantisation tables of 8 bits, Huffman tables, a restart
    interval, one frame of 8 bits with one or three components, the start of its scan. Anything
    else is None: EXIF and XMP, which may turn a picture, profiles, comments, fill bytes.

    Args:
        data: the file's bytes.
    """
    if not data.startswith(_BEGINNING):
        return None
    size, at, last = None, _FIRST, len(data) - _SEGMENT.size
    while at <= last:
        marker, length = _SEGMENT.unpack_from(data, at)
        end = at + 2 + length
        if length < 2:
            return None
        if marker == _DQT:
            if (length - 2) % _TABLE or max(data[at + 4 : end : _TABLE], default=0) > 0x0F:
                return None
        elif marker in _SOF:
            size = None if size else _frame_size(data, at + 4, length - 2)
            if size is None:
                return None
        elif marker == _SOS:
            return size if end <= len(data) else None
        elif marker not in _SKIPPED:
            return None
        at = end
    return None


def _frame_size(data: bytes, at: int, length: int) -> tuple[int, int] | None:
    if length < _FRAME.size or at + length > len(data):
        return None
    bits, height, width, components = _FRAME.unpack_from(data, at)
    if bits != 8 or components not in (1, 3) or length != _FRAME.size + 3 * components:
        return None
    return (width, height) if width and height else None
