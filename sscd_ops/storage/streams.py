"""Streams below the tar reader: exact reads through one reused buffer, and gunzip."""

from __future__ import annotations

import zlib
from typing import Any, BinaryIO

from sscd_ops.errors import BrokenShard
from sscd_ops.model import Fault

_BUFFER = 1 << 20
"""Fits a core's cache, so that what was read is copied out while it is still there."""
_GZ_INPUT = 64 << 10
GZIP_MAGIC = b"\x1f\x8b\x08"
GZIP_WINDOW = 31
"""zlib's window bits for a gzip header and trailer."""


class Truncated(Exception):
    """The stream ended inside something that says how long it is."""


class Window:
    """Exact reads over a stream that may answer short; ``offset`` counts what was taken.

    Args:
        stream: bytes in order; needs ``readinto`` or ``read``.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._readinto = getattr(stream, "readinto", None) or self._by_read
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.offset = 0

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end of the stream."""
        stop = self._start + size
        if stop > self._end:
            if size > _BUFFER:
                return self._take_large(size)
            self._fill(size)
            stop = min(self._start + size, self._end)
        data = bytes(self._view[self._start : stop])
        self._start = stop
        self.offset += len(data)
        return data

    def skip(self, size: int, *, may_end: bool = False) -> None:
        """Pass over ``size`` bytes.

        Raises:
            Truncated: the stream ended before, and it may not.
        """
        if self._start + size <= self._end:
            self._start += size
            self.offset += size
            return
        while size:
            if self._start == self._end:
                self._fill(1)
            step = min(size, self._end - self._start)
            if not step:
                if may_end:
                    return
                raise Truncated
            self._start += step
            self.offset += step
            size -= step

    def give_back(self, size: int) -> None:
        """Have the last bytes taken once more: as many as the last ``take`` gave, at most 1 MiB."""
        self._start -= size
        self.offset -= size

    def _fill(self, wanted: int) -> None:
        """Have ``wanted`` bytes in the buffer, fewer only at the end of the stream."""
        left = self._end - self._start
        self._view[:left] = self._view[self._start : self._end]
        self._start, self._end = 0, left
        while self._end < wanted:
            count = self._readinto(self._view[self._end :])
            if not count:
                return
            self._end += count

    def _take_large(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        filled = self._end - self._start
        view[:filled] = self._view[self._start : self._end]
        self._start = self._end = 0
        while filled < size:
            count = self._readinto(view[filled:])
            if not count:
                break
            filled += count
        self.offset += filled
        return bytes(view[:filled])

    def _by_read(self, view: memoryview) -> int:
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)


class Gunzip:
    """What a gzip stream holds, up to the very byte where it is cut or damaged.

    ``gzip.GzipFile`` loses what it has read in the call that fails, which for a small truncated
    archive is everything.

    Args:
        stream: the compressed bytes; several gzip members in a row, also with zero bytes between
            them, are one stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._inflate: Any = zlib.decompressobj(GZIP_WINDOW)
        self._input = b""
        self._began = False
        self._delivered = False

    def readinto(self, view: memoryview) -> int:
        """Fill some of ``view``; 0 at the end.

        Raises:
            BrokenShard: damaged or cut here; everything before has been delivered.
        """
        while True:
            if self._inflate.eof and not self._next_member():
                return 0
            if not self._input:
                self._input = self._stream.read(_GZ_INPUT)
                if not self._input:
                    return self._at_end()
                self._began = True
            data = self._some(len(view))
            if data:
                view[: len(data)] = data
                self._delivered = True
                return len(data)

    def _some(self, most: int) -> bytes:
        spare = self._inflate.copy()
        try:
            data: bytes = self._inflate.decompress(self._input, most)
        except zlib.error as error:
            return self._up_to(spare, error)
        self._input = self._inflate.unconsumed_tail
        return data

    def _up_to(self, spare: Any, error: zlib.error) -> bytes:
        """What comes before the damage: the same input once more, byte by byte."""
        parts = []
        for at in range(len(self._input)):
            try:
                parts.append(spare.decompress(self._input[at : at + 1]))
            except zlib.error:
                break
        data = b"".join(parts)
        if not data:
            code = Fault.TRUNCATED_SHARD if self._delivered else Fault.UNREADABLE_SHARD
            raise BrokenShard(code, f"gzip: {error}")
        self._inflate = _Damaged(error)
        return data

    def _next_member(self) -> bool:
        """Begin another gzip member, where one follows; anything else there is left behind."""
        rest = self._inflate.unused_data.lstrip(b"\0")
        while len(rest) < len(GZIP_MAGIC):
            more = self._stream.read(_GZ_INPUT)
            if not more:
                break
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(GZIP_MAGIC[:2]):
            self._inflate = _Ended(rest)
            return False
        self._inflate = zlib.decompressobj(GZIP_WINDOW)
        self._input = rest
        return True

    def behind(self) -> Behind:
        """What follows the last gzip member, once that has been read."""
        return Behind(self._inflate.unused_data, self._stream)

    def _at_end(self) -> int:
        if not self._began:
            return 0
        code = Fault.TRUNCATED_SHARD if self._delivered else Fault.UNREADABLE_SHARD
        raise BrokenShard(code, "gzip: the file ends before its end-of-stream marker")


class Behind:
    """Some bytes, and then a stream."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        if not self._head:
            return self._stream.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class _Ended:
    """Stands in for a decompressor behind the last gzip member."""

    eof = True

    def __init__(self, rest: bytes) -> None:
        self.unused_data = rest


class _Damaged:
    """Stands in for a decompressor that has met damage."""

    eof = False
    unused_data = b""
    unconsumed_tail = b""

    def __init__(self, error: zlib.error) -> None:
        self._error = error

    def copy(self) -> _Damaged:
        return self

    def decompress(self, data: bytes, most: int = 0) -> bytes:
        raise self._error
