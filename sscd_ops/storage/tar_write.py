"""Writing published tars: ustar with fixed headers, so that equal members give equal bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from sscd_ops.errors import InvariantError
from sscd_ops.storage.tar_header import name_of, size_of

_BLOCK = 512
_RECORD = 10_240
_NAME = 100
_OCTAL_SIZE = 8**11
_FLUSH = 1 << 20

_MODE_AND_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
"""From the type on: a regular file, ustar."""
_FIXED_SUM = sum(_MODE_AND_OWNER) + sum(_TIME) + sum(_REST) + 8 * 0x20
"""The checksum counts its own field as spaces."""
_PADDING = bytes(_BLOCK)


class TarWriter:
    """Appends members to a stream: mode 0644, mtime, uid and gid 0, no owner names.

    The bytes are those ``tarfile`` writes for the same ``TarInfo`` in USTAR format; a member of
    8 GiB and more, which that format has no number for, has GNU's base-256 size.

    Args:
        stream: where the tar goes; written in large pieces.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0
        self._pending: list[bytes] = []
        self._flushed = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; the byte offset of its data.

        Raises:
            InvariantError: the name has more than 100 bytes.
        """
        size = len(data)
        at = self._offset + _BLOCK
        padding = -size % _BLOCK
        self._pending += (header(name, size), data, _PADDING[:padding])
        self._offset = at + size + padding
        if self._offset - self._flushed >= _FLUSH:
            self._flush()
        return at

    def append(self, tar: Iterable[bytes], last: int) -> int:
        """Append all members of a tar that was written here, as they stand there.

        Args:
            tar: its bytes, in pieces.
            last: byte offset of the data of one of its last members. What follows that one is held
                in memory: a sample, where it is a member of the last one.

        Returns:
            By how much its offsets are larger here.

        Raises:
            InvariantError: it has no end where such a tar has one.
        """
        self._flush()
        begin, header_at = self._offset, last - _BLOCK
        read = 0
        tail: list[bytes] = []
        for piece in tar:
            before = min(max(0, header_at - read), len(piece))
            if before:
                self._stream.write(piece[:before])
            if before < len(piece):
                tail.append(piece[before:])
            read += len(piece)
        rest = b"".join(tail)
        end = _end_of_members(rest)
        self._stream.write(rest[:end])
        self._offset = self._flushed = begin + header_at + end
        return begin

    def copy(self, tar: Path, is_wanted: Callable[[str], bool]) -> list[tuple[int, int]]:
        """Append some members of a tar that was written here, as they stand there.

        Args:
            tar: its file. Of what is not wanted, headers alone are read.
            is_wanted: is asked of the name of each member.

        Returns:
            Of each run of members that follow each other there, in order: byte offset there, here.

        Raises:
            InvariantError: it has neither a member nor its end where one must be.
        """
        self._flush()
        runs: list[tuple[int, int]] = []
        with tar.open("rb", buffering=0) as stream:
            for start, end in _wanted(stream.fileno(), is_wanted):
                runs.append((start, self._offset))
                for at in range(start, end, _FLUSH):
                    self._stream.write(os.pread(stream.fileno(), min(_FLUSH, end - at), at))
                self._offset += end - start
        self._flushed = self._offset
        return runs

    def close(self) -> None:
        """Write the end of the archive: two empty blocks, padded to a record."""
        self._offset += 2 * _BLOCK
        padding = -self._offset % _RECORD
        self._pending.append(bytes(2 * _BLOCK + padding))
        self._offset += padding
        self._flush()

    def _flush(self) -> None:
        self._stream.write(b"".join(self._pending))
        self._pending.clear()
        self._flushed = self._offset


def _end_of_members(rest: bytes) -> int:
    """Where the last member of a tar ends, in what is left of it from some header on."""
    at = 0
    while (block := rest[at : at + _BLOCK]) != _PADDING:
        at += _length(block)
    return at


def _wanted(descriptor: int, is_wanted: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Runs of a tar's members whose names are wanted: begin and end in it."""
    at, start = 0, -1
    while (block := os.pread(descriptor, _BLOCK, at)) != _PADDING:
        length = _length(block)
        if is_wanted(name_of(block)):
            start = at if start < 0 else start
        elif start >= 0:
            yield start, at
            start = -1
        at += length
    if start >= 0:
        yield start, at


def _length(block: bytes) -> int:
    """How many bytes a member takes, from its header on.

    Raises:
        InvariantError: that is no header.
    """
    size = size_of(block) if len(block) == _BLOCK else -1
    if size < 0:
        raise InvariantError("a published tar has neither a member nor its end where one must be")
    return _BLOCK + size + -size % _BLOCK


def header(name: str, size: int) -> bytes:
    """A ustar header of a regular file.

    Raises:
        InvariantError: the name has more than 100 bytes.
    """
    raw = name.encode("utf-8")
    if len(raw) > _NAME:
        raise InvariantError(f"tar member name has {len(raw)} bytes, at most {_NAME}: {name!r}")
    length = b"%011o\0" % size if size < _OCTAL_SIZE else b"\x80" + size.to_bytes(11, "big")
    checksum = sum(raw) + sum(length) + _FIXED_SUM
    return b"%b%b%b%b%06o\0 %b" % (
        raw.ljust(_NAME, b"\0"),
        _MODE_AND_OWNER,
        length,
        _TIME,
        checksum,
        _REST,
    )
