"""Streaming a tar: one loop for every kind of header that datasets are made of.

Plain ustar, old v7, PAX and GNU long names are read here, each header's checksum verified; sparse
files, whose bytes are no range of the archive, are passed over as ``other``. So ``tarfile`` has
nothing left to read, and is what the tests hold this loop to. Memory is bounded by the largest
member read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO
from zlib import adler32

from sscd_ops.errors import BrokenShard
from sscd_ops.model import Fault, TarEntry
from sscd_ops.storage.streams import Gunzip, Truncated, Window

_BLOCK = 512
_LONGEST_HEADER = 1 << 20
"""A PAX or long-name record larger than this is no name."""
_LARGEST = 1 << 62

_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"6": "device",
    b"5": "directory",
}
_NO_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
_EXTENDED = frozenset({b"x", b"X", b"g", b"L", b"K"})
_SPARSE = b"S"
_ZERO = bytes(_BLOCK)


def read_tar(stream: BinaryIO, *, gz: bool, max_member_bytes: int) -> Iterator[TarEntry]:
    """Yield the entries of a tar in order.

    Args:
        stream: the file's bytes; need not be seekable.
        gz: whether they are compressed with gzip; offsets are then in the uncompressed archive.
        max_member_bytes: a larger member is passed over: its entry has no data.

    Raises:
        BrokenShard: ``truncated_shard``, ``empty_file`` or ``unreadable_shard``; what came before
            has been yielded. An archive without its end mark is truncated: a file cut between two
            members looks like one whose writer forgot it, and members would be lost unseen.
    """
    window = Window(Gunzip(stream) if gz else stream)
    try:
        yield from _entries(window, max_member_bytes)
    except Truncated:
        raise _stopped(window) from None


def _stopped(window: Window, **where: Any) -> BrokenShard:
    message = f"the archive stops at byte {window.offset}, before its end mark"
    return BrokenShard(Fault.TRUNCATED_SHARD, message, **where)


def _entries(window: Window, limit: int) -> Iterator[TarEntry]:
    long_name: str | None = None
    pax: dict[str, str] = {}
    while (block := _block(window, begun=bool(pax or long_name))) is not None:
        size = _size(block, window.offset - _BLOCK)
        kind = block[156:157]
        if kind in _EXTENDED:
            record = _record(window, size)
            if kind in (b"x", b"X"):
                pax = _pax(record)
            elif kind == b"L":
                long_name = _text(record.rstrip(b"\0"))
            continue
        if pax or long_name:
            name = pax.get("path") or long_name or _name(block)
            size = int(pax.get("size", size))
            sparse = any(key.startswith("GNU.sparse") for key in pax)
            long_name, pax = None, {}
        else:
            name, sparse = _name(block), False
        what = _KINDS.get(kind, "other")
        if sparse or kind == _SPARSE:
            what = "other"
            _skip_sparse_map(window, block)
        elif kind == b"\0" and name.endswith("/"):
            what = "directory"
        size = 0 if kind in _NO_DATA else size
        try:
            entry = _entry(window, what, name, size, limit)
        except Truncated:
            raise _stopped(window, member=name if what == "file" else "") from None
        except BrokenShard as broken:
            broken.member = name if what == "file" else ""
            raise
        yield entry


def _block(window: Window, *, begun: bool) -> bytes | None:
    """The next header block; None at the end of the archive.

    Args:
        window: the archive.
        begun: a header before this one says more of the same entry.
    """
    block = window.take(_BLOCK)
    if len(block) == _BLOCK:
        return None if block[0] == 0 and block == _ZERO else block
    if window.offset > len(block):
        raise _stopped(window, between=not begun and window.offset % _BLOCK == 0)
    if block:
        raise BrokenShard(Fault.UNREADABLE_SHARD, "the file is no tar archive")
    raise BrokenShard(Fault.EMPTY_FILE, "the file has no bytes")


def _entry(window: Window, kind: str, name: str, size: int, limit: int) -> TarEntry:
    offset = window.offset
    padding = -size % _BLOCK
    if kind != "file" or size > limit:
        window.skip(size)
        window.skip(padding, may_end=True)
        return TarEntry(kind, name, offset, size, b"")
    data = window.take(size)
    if len(data) < size:
        raise Truncated
    # a file cut inside the padding still has every byte of its members
    window.skip(padding, may_end=True)
    return TarEntry(kind, name, offset, size, data)


def _record(window: Window, size: int) -> bytes:
    if size > _LONGEST_HEADER:
        raise BrokenShard(
            Fault.TRUNCATED_SHARD, f"an extended header of {size} bytes at {window.offset}"
        )
    record = window.take(size)
    if len(record) < size:
        raise Truncated
    window.skip(-size % _BLOCK)
    return record


def _skip_sparse_map(window: Window, block: bytes) -> None:
    """Pass over the blocks that go on with the map of an old GNU sparse file."""
    more = block[156:157] == _SPARSE and block[482]
    while more:
        block = window.take(_BLOCK)
        if len(block) < _BLOCK:
            raise Truncated
        more = block[504]


def _size(block: bytes, offset: int) -> int:
    """The size in a header whose checksum is right.

    Raises:
        BrokenShard: the checksum is wrong, or a number is none.
    """
    try:
        stored = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        stored, size = -1, 0
    if stored != _checksum(block) and stored != _signed_checksum(block):
        stored = -1
    if stored < 0 or not 0 <= size < _LARGEST:
        if offset:
            raise BrokenShard(Fault.TRUNCATED_SHARD, f"a damaged header at byte {offset}")
        raise BrokenShard(Fault.UNREADABLE_SHARD, "the file is no tar archive")
    return size


def _checksum(block: bytes) -> int:
    """The sum of a header's bytes, its checksum field counted as spaces.

    Adler-32's lower half is 1 + the sum of up to 256 bytes (below its modulus of 65,521), and
    fifteen times as fast as ``sum``.
    """
    return (
        (adler32(block[:148]) & 0xFFFF)
        + (adler32(block[156:384]) & 0xFFFF)
        + (adler32(block[384:]) & 0xFFFF)
        - 3
        + 8 * 0x20
    )


def _signed_checksum(block: bytes) -> int:
    """What some old writers summed: the bytes as signed numbers."""
    return _checksum(block) - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value if field[0] == 0x80 else value - 256 ** (len(field) - 1)
    text = field.partition(b"\0")[0].strip()
    return int(text, 8) if text else 0


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _pax(record: bytes) -> dict[str, str]:
    r"""``length key=value\n`` records; a damaged one ends the reading of them."""
    answer: dict[str, str] = {}
    at = 0
    while at < len(record):
        digits, space, _ = record[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        item = record[at + len(digits) + 1 : at + length - 1]
        key, equals, value = item.partition(b"=")
        if not (space and length and equals):
            break
        answer[_text(key)] = _text(value)
        at += length
    size = answer.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) < 20):
        del answer["size"]
    return answer
