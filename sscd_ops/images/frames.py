r"""The bytes between a decoder process and its parent.

Request: count (u32), lengths (u32 each), then the pictures. Answer: for each picture a status byte,
a length (u32) and a payload: height and width (u32 each), RGB pixels and, where it was asked for,
the picture's perceptual hash; or ``code\nmessage``. A plain picture has a status of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sscd_ops.model import Fault

GOOD, BAD, PLAIN = 0, 1, 2
HEAD = struct.Struct("<BI")
_SHAPE = struct.Struct("<II")
_COUNT = struct.Struct("<I")

Decoded = NDArray[np.uint8] | tuple[Fault, str]
"""Pixels (h, w, 3), or why there are none."""
Read = Callable[[int], bytes]


class Answer(NamedTuple):
    """What a decoder says of a picture.

    ``hashed``: the perceptual hash; empty where there is none. ``plain``: whether there is nothing
    in it to compare (``images.plain``).
    """

    decoded: Decoded
    hashed: bytes = b""
    plain: bool = False


def request(images: Sequence[bytes]) -> bytes:
    """A request's bytes."""
    count = len(images)
    return b"".join([struct.pack(f"<I{count}I", count, *(len(image) for image in images)), *images])


def read_request(read: Read) -> list[bytes] | None:
    """The next request, None at the end of the stream."""
    head = read(_COUNT.size)
    if len(head) < _COUNT.size:
        return None
    (count,) = _COUNT.unpack(head)
    lengths = struct.unpack(f"<{count}I", read(4 * count))
    return [read(length) for length in lengths]


def answer(decoded: Decoded, hashed: bytes = b"", plain: bool = False) -> bytes:
    """An answer's bytes."""
    if isinstance(decoded, tuple):
        code, message = decoded
        body = f"{code}\n{message[:1000]}".encode("utf-8", "replace")
        return HEAD.pack(BAD, len(body)) + body
    height, width, _ = decoded.shape
    body = _SHAPE.pack(height, width) + decoded.tobytes() + hashed
    return HEAD.pack(PLAIN if plain else GOOD, len(body)) + body


def read_answer(read: Read) -> Answer:
    """The next answer."""
    status, length = HEAD.unpack(read(HEAD.size))
    body = read(length)
    if status == BAD:
        code, _, message = body.decode("utf-8", "replace").partition("\n")
        return Answer((Fault(code), message))
    height, width = _SHAPE.unpack_from(body)
    end = _SHAPE.size + 3 * height * width
    pixels = np.frombuffer(body, np.uint8, 3 * height * width, _SHAPE.size)
    return Answer(pixels.reshape(height, width, 3), body[end:], status == PLAIN)
