r"""The bytes between a decoder process and its parent.

Request: count (u32), lengths (u32 each), then the pictures. Answer: for each picture a status byte,
a length (u32) and a payload: height and width (u32 each), RGB pixels and, where it was asked for,
the picture's perceptual hash; or ``code\nmessage``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sscd_ops.model import Fault

GOOD, BAD = 0, 1
HEAD = struct.Struct("<BI")
_SHAPE = struct.Struct("<II")
_COUNT = struct.Struct("<I")

Decoded = NDArray[np.uint8] | tuple[Fault, str]
"""Pixels (h, w, 3), or why there are none."""
Answer = tuple[Decoded, bytes]
"""That, and the perceptual hash; empty where there is none."""
Read = Callable[[int], bytes]


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


def answer(decoded: Decoded, hashed: bytes = b"") -> bytes:
    """An answer's bytes."""
    if isinstance(decoded, tuple):
        code, message = decoded
        body = f"{code}\n{message[:1000]}".encode("utf-8", "replace")
        return HEAD.pack(BAD, len(body)) + body
    height, width, _ = decoded.shape
    body = _SHAPE.pack(height, width) + decoded.tobytes() + hashed
    return HEAD.pack(GOOD, len(body)) + body


def read_answer(read: Read) -> Answer:
    """The next answer."""
    status, length = HEAD.unpack(read(HEAD.size))
    body = read(length)
    if status == BAD:
        code, _, message = body.decode("utf-8", "replace").partition("\n")
        return (Fault(code), message), b""
    height, width = _SHAPE.unpack_from(body)
    end = _SHAPE.size + 3 * height * width
    pixels = np.frombuffer(body, np.uint8, 3 * height * width, _SHAPE.size)
    return pixels.reshape(height, width, 3), body[end:]
