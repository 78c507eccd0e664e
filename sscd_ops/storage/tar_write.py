"""Writing published tars: ustar with fixed headers, so that equal members give equal bytes."""

from __future__ import annotations

from typing import BinaryIO

_BLOCK = 512
_RECORD = 10_240
_NAME = 100
_OCTAL_SIZE = 8**11
_FLUSH = 4 << 20


class TarWriter:
    """Appends members to a stream: mode 0644, mtime, uid and gid 0, no owner names.

    The bytes are those ``tarfile`` writes for the same ``TarInfo`` in USTAR format.

    Args:
        stream: where the tar goes; written in large pieces.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._offset = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member; the byte offset of its data.

        Raises:
            ValueError: the name has more than 100 bytes.
        """
        self._push(header(name, len(data)))
        at = self._offset
        self._push(data)
        padding = -len(data) % _BLOCK
        if padding:
            self._push(bytes(padding))
        if self._pending_bytes >= _FLUSH:
            self._flush()
        return at

    def close(self) -> None:
        """Write the end of the archive: two empty blocks, padded to a record."""
        self._push(bytes(2 * _BLOCK))
        self._push(bytes(-self._offset % _RECORD))
        self._flush()

    def _push(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        self._offset += len(data)

    def _flush(self) -> None:
        self._stream.write(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0


def header(name: str, size: int) -> bytes:
    """A ustar header of a regular file.

    Raises:
        ValueError: the name has more than 100 bytes.
    """
    raw = name.encode("utf-8")
    if len(raw) > _NAME:
        raise ValueError(f"tar member name has {len(raw)} bytes, at most {_NAME}: {name!r}")
    octal = size < _OCTAL_SIZE
    length = b"%011o\0" % size if octal else b"\x80" + size.to_bytes(11, "big")
    head = raw.ljust(_NAME, b"\0") + b"0000644\0" + b"0000000\0" * 2 + length + b"00000000000\0"
    tail = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
    checksum = sum(head) + 8 * 0x20 + sum(tail)
    return head + b"%06o\0 " % checksum + tail
