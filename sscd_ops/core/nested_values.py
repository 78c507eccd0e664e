"""MessagePack and CBOR: whether bytes are one well-formed value. Pure; nothing is made of them.

What is refused is what the packages ``msgpack`` and ``cbor`` fail at with their default settings.
"""

from __future__ import annotations

_DEEPEST = 200
"""Lists within lists: readers recurse."""
MOST_VALUES = 10_000_000
"""Of one document: a few kilobytes, packed, may hold hundreds of millions."""


class _Walk:
    """Bytes taken one after another."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self._values = 0

    def count(self) -> None:
        """One more value begins."""
        self._values += 1
        if self._values > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) < size:
            raise ValueError(f"cut at byte {len(self.data)}")
        self.at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")


def check_msgpack(data: bytes) -> None:
    """Raise where it is not one value of MessagePack.

    Raises:
        ValueError: and why.
    """
    walk = _Walk(data)
    _msgpack_value(walk, 0)
    if walk.at != len(data):
        raise ValueError(f"{len(data) - walk.at} bytes behind the value")


_MSGPACK_FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1,
    0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
_MSGPACK_SIZED = {
    0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4),
    0xC7: ("extension", 1), 0xC8: ("extension", 2), 0xC9: ("extension", 4),
    0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4),
    0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
_MSGPACK_SMALL = ((0xA0, 0xE0, "text"), (0x90, 0xF0, "list"), (0x80, 0xF0, "map"))
"""First byte, its mask: the other bits are the size."""


def _msgpack_value(walk: _Walk, depth: int, *, key: bool = False) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST}")
    kind, size = _msgpack_head(walk)
    if key and kind not in ("text", "bytes"):
        raise ValueError("a key that is neither text nor bytes")
    if kind == "text":
        walk.take(size).decode()
    elif kind == "bytes":
        walk.take(size)
    elif kind == "extension":
        _check_extension(walk.number(1), walk.take(size))
    else:
        for _ in range(size):
            if kind == "map":
                _msgpack_value(walk, depth + 1, key=True)
            _msgpack_value(walk, depth + 1)


def _check_extension(code: int, data: bytes) -> None:
    """Codes are 0 to 127, and 255 for a time: seconds, or nanoseconds beside them."""
    if code == 255 and len(data) in (4, 8, 12):
        nanoseconds = {4: 0, 8: int.from_bytes(data[:4], "big") >> 2}
        if nanoseconds.get(len(data), int.from_bytes(data[:4], "big")) < 10**9:
            return
    if code > 127:
        raise ValueError(f"an extension {code} of {len(data)} bytes")


def _msgpack_head(walk: _Walk) -> tuple[str, int]:
    walk.count()
    first = walk.number(1)
    if first < 0x80 or first >= 0xE0:
        return "bare", 0
    for head, mask, kind in _MSGPACK_SMALL:
        if first & mask == head:
            return kind, first & ~mask
    if first in _MSGPACK_FIXED:
        walk.take(_MSGPACK_FIXED[first])
        return "bare", 0
    if 0xD4 <= first <= 0xD8:
        return "extension", 1 << (first - 0xD4)
    if first not in _MSGPACK_SIZED:
        raise ValueError(f"no value begins with {first:#x}")
    kind, width = _MSGPACK_SIZED[first]
    return kind, walk.number(width)


def check_cbor(data: bytes) -> None:
    """Raise where it does not begin with a value of CBOR.

    Raises:
        ValueError: and why.
    """
    if _cbor_value(_Walk(data), 0) == "break":
        raise ValueError("an end without a beginning")


_CBOR_KINDS = ("number", "number", "bytes", "text", "list", "map", "tag")
_CBOR_OPEN = ("bytes", "text", "list", "map")
"""They may have no size and end with a mark."""
_CBOR_BARE = (20, 21, 22, 23, 25, 26, 27)
"""false, true, null, undefined and three sizes of floats."""
_CBOR_BIG = (2, 3)
"""Tags of numbers that are written as bytes."""


def _cbor_value(walk: _Walk, depth: int) -> str:
    """Pass over a value; its kind."""
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST}")
    kind, size = _cbor_head(walk)
    if size is None:
        _cbor_open(walk, kind, depth)
    elif kind == "text":
        walk.take(size).decode()
    elif kind == "bytes":
        walk.take(size)
    elif kind == "tag":
        inner = _cbor_value(walk, depth + 1)
        if inner == "break" or (size in _CBOR_BIG and inner != "bytes"):
            raise ValueError(f"tag {size} of {inner}")
    elif kind in ("list", "map"):
        for _ in range(size):
            if _cbor_item(walk, kind, depth) == "break":
                raise ValueError(f"a {kind} of {size} ends before")
    return kind


def _cbor_head(walk: _Walk) -> tuple[str, int | None]:
    """Kind and size (of a tag, its number) of what begins here; None where it has no size."""
    walk.count()
    first = walk.number(1)
    major, more = first >> 5, first & 31
    if major == 7 and more == 31:
        return "break", 0
    if major == 7 and more in _CBOR_BARE:
        walk.take(1 << (more - 24) if more > 24 else 0)
        return "bare", 0
    if major < 7 and more < 24:
        return _CBOR_KINDS[major], more
    if major < 7 and more < 28:
        return _CBOR_KINDS[major], walk.number(1 << (more - 24))
    if major < 7 and more == 31 and _CBOR_KINDS[major] in _CBOR_OPEN:
        return _CBOR_KINDS[major], None
    raise ValueError(f"no value begins with {first:#x}")


def _cbor_item(walk: _Walk, kind: str, depth: int) -> str:
    """Pass over an item of a list or a map; ``break`` at its end."""
    found = _cbor_value(walk, depth + 1)
    if kind != "map" or found == "break":
        return found
    if found in ("list", "map", "tag"):
        raise ValueError(f"a key that is a {found}")
    if _cbor_value(walk, depth + 1) == "break":
        raise ValueError("a key without a value")
    return "item"


def _cbor_open(walk: _Walk, kind: str, depth: int) -> None:
    """Pass over what goes on until it is said to end."""
    found = ""
    while found != "break":
        found = _cbor_item(walk, kind, depth)
        if kind in ("bytes", "text") and found not in (kind, "break"):
            raise ValueError(f"{found} within {kind}")
