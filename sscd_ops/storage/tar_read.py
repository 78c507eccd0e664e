"""Streaming a tar: one fast path for what datasets are made of, and the same answers as `tarfile`.

Plain ustar, old v7, PAX and GNU long-name headers are read here; each header's checksum is
verified. Sparse files are skipped as ``other``. Memory is bounded by the largest member read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from sscd_ops.errors import BrokenShard
from sscd_ops.model import Fault, TarEntry

_BLOCK = 512
_BUFFER = 4 << 20
_LONGEST_HEADER = 1 << 20
"""A PAX or long-name record larger than this is no name."""

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
_ZERO = bytes(_BLOCK)


class _Truncated(Exception):
    pass


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Gunzip:
    """A gzip stream that gives everything before the place where it is damaged or ends.

    ``gzip.GzipFile`` loses what it has decompressed when a read runs into the end.
    """

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._unzip = zlib.decompressobj(wbits=31)
        self._whole = True

    def read(self, size: int, /) -> bytes:
        """Some bytes, at most about ``size``; none at the end.

        Raises:
            EOFError: the stream ends inside a gzip member.
            zlib.error: it is no gzip stream, or damaged.
        """
        while True:
            data = self._unzip.unconsumed_tail or self._stream.read(_BUFFER)
            if not data:
                if self._whole:
                    return b""
                raise EOFError("the compressed stream ends early")
            out = self._unzip.decompress(data, size)
            self._whole = False
            if self._unzip.eof:
                rest = self._unzip.unused_data
                self._unzip = zlib.decompressobj(wbits=31)
                self._whole = True
                if rest.strip(b"\0"):
                    self._stream = _Chained(rest, self._stream)
            if out:
                return out


class _Chained:
    """Some bytes, then a stream."""

    def __init__(self, first: bytes, rest: _Readable) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int, /) -> bytes:
        first, self._first = self._first, b""
        return first or self._rest.read(size)


class _Buffered:
    """Exact reads over a stream that may answer short; counts the offset."""

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self.offset = 0

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end."""
        left = len(self._buffer) - self._at
        if size > left:
            parts = [self._buffer[self._at :]]
            missing = size - left
            while missing > 0:
                more = self._stream.read(max(missing, _BUFFER))
                if not more:
                    break
                parts.append(more)
                missing -= len(more)
            self._buffer = b"".join(parts)
            self._at = 0
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        self.offset += len(data)
        return data

    def skip(self, size: int) -> None:
        """Pass over ``size`` bytes."""
        while size:
            step = min(size, _BUFFER)
            if len(self.read(step)) < step:
                raise _Truncated
            size -= step


def read_tar(stream: BinaryIO, *, gz: bool, max_member_bytes: int) -> Iterator[TarEntry]:
    """Yield the entries of a tar in order.

    Args:
        stream: the file's bytes; need not be seekable.
        gz: whether they are compressed with gzip; offsets are then in the uncompressed archive.
        max_member_bytes: a larger member is passed over: its entry has no data.

    Raises:
        BrokenShard: ``truncated_shard``, ``empty_file`` or ``unreadable_shard``; what came before
            has been yielded. A missing end of archive after a whole member is no fault.
    """
    source = _Buffered(_Gunzip(stream) if gz else stream)
    try:
        yield from _entries(source, max_member_bytes)
    except _Truncated:
        raise BrokenShard(
            Fault.TRUNCATED_SHARD, f"the archive ends at byte {source.offset}, inside a member"
        ) from None
    except (EOFError, zlib.error) as error:
        code = Fault.TRUNCATED_SHARD if source.offset else Fault.UNREADABLE_SHARD
        raise BrokenShard(code, f"gzip at byte {source.offset}: {error}") from error


def _entries(source: _Buffered, limit: int) -> Iterator[TarEntry]:
    long_name: str | None = None
    pax: dict[str, str] = {}
    first = True
    while (block := _block(source, first=first)) is not None:
        size = _checked(block, source.offset - _BLOCK, first=first)
        first = False
        kind = block[156:157]
        if kind in b"xgLK":
            record = _record(source, size)
            if kind == b"x":
                pax = _pax(record)
            elif kind == b"L":
                long_name = record.rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        size = 0 if kind in _NO_DATA else int(pax.get("size", size))
        name = pax.get("path") or long_name or _name(block)
        sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in pax)
        long_name, pax = None, {}
        what = "other" if sparse else _KINDS.get(kind, "other")
        if what == "file" and name.endswith("/"):
            what = "directory"
        yield _entry(source, what, name, size, limit)


def _block(source: _Buffered, *, first: bool) -> bytes | None:
    """The next header block; None at the end of the archive or of the file."""
    block = source.read(_BLOCK)
    if len(block) == _BLOCK:
        return None if block == _ZERO else block
    if not first:
        if block:
            raise _Truncated
        return None
    if block:
        raise BrokenShard(Fault.UNREADABLE_SHARD, "the file is no tar archive")
    raise BrokenShard(Fault.EMPTY_FILE, "the file has no bytes")


def _entry(source: _Buffered, kind: str, name: str, size: int, limit: int) -> TarEntry:
    offset = source.offset
    padding = -size % _BLOCK
    if kind != "file" or size > limit:
        source.skip(size + padding)
        return TarEntry(kind, name, offset, size, b"")
    data = source.read(size)
    if len(data) < size:
        raise _Truncated
    # a file cut inside the padding still has every byte of its members
    source.read(padding)
    return TarEntry(kind, name, offset, size, data)


def _record(source: _Buffered, size: int) -> bytes:
    if size > _LONGEST_HEADER:
        raise BrokenShard(
            Fault.UNREADABLE_SHARD, f"an extended header of {size} bytes at {source.offset}"
        )
    padded = size + -size % _BLOCK
    record = source.read(padded)
    if len(record) < padded:
        raise _Truncated
    return record[:size]


def _checked(block: bytes, offset: int, *, first: bool) -> int:
    """The size in a header whose checksum is right."""
    try:
        stored = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        stored, size = -1, 0
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if stored != unsigned and stored != unsigned - 256 * sum(
        byte > 127 for byte in block[:148] + block[156:]
    ):
        where = "is no tar archive" if first else f"has a damaged header at byte {offset}"
        raise BrokenShard(
            Fault.UNREADABLE_SHARD if first else Fault.TRUNCATED_SHARD, f"the file {where}"
        )
    if size < 0:
        raise BrokenShard(Fault.UNREADABLE_SHARD, f"a negative size at byte {offset}")
    return size


def _number(field: bytes) -> int:
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value if field[0] == 0x80 else value - 256 ** (len(field) - 1)
    text = field.split(b"\0", 1)[0].strip()
    return int(text, 8) if text else 0


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        if prefix:
            name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _pax(record: bytes) -> dict[str, str]:
    r"""``length key=value\n`` records; a damaged one ends the reading of them."""
    answer: dict[str, str] = {}
    at = 0
    while at < len(record):
        space = record.find(b" ", at)
        if space < 0:
            break
        try:
            length = int(record[at:space])
        except ValueError:
            break
        item = record[space + 1 : at + length - 1]
        key, equals, value = item.partition(b"=")
        if length <= 0 or not equals:
            break
        answer[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        at += length
    if not answer.get("size", "0").isdigit():
        answer.pop("size", None)
    return answer
