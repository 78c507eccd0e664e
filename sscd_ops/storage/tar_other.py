"""What is no tar: files of other formats, and what lies behind a tar's end."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from sscd_ops.errors import BrokenShard
from sscd_ops.model import Fault
from sscd_ops.storage.streams import GZIP_MAGIC, GZIP_WINDOW, Window
from sscd_ops.storage.tar_header import BLOCK, size_of

_CHUNK = 128 * BLOCK
_MAGIC_AT = 257
"""Where a header says ``ustar``."""
_SHOWN = 40
"""Bytes shown of a file that nothing is known of."""
_TRIAL = 4096
"""Bytes unpacked to see whether something is gzip."""

_PACKED = "tars are read plain or packed with gzip"
_OTHERS = (
    (b"BZh", f"it is packed with bzip2: {_PACKED}: run bunzip2 on it"),
    (b"\xfd7zXZ\0", f"it is packed with xz: {_PACKED}: run unxz on it"),
    (b"\x28\xb5\x2f\xfd", f"it is packed with zstd: {_PACKED}: run unzstd on it"),
    (b"\x04\x22\x4d\x18", f"it is packed with lz4: {_PACKED}: run unlz4 on it"),
    (b"\x1f\x8b", "it is packed with gzip twice: run gunzip on it"),
    (b"\x1f\x9d", f"it is packed with compress: {_PACKED}: run gunzip on it"),
    (b"PK\x03\x04", "it is a zip file: unpack it and make a tar of the files"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z file: unpack it and make a tar of the files"),
    (b"Rar!", "it is a rar file: unpack it and make a tar of the files"),
    (b"PAR1", 'it is a parquet file: a source of kind = "parquet" reads it'),
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file: run git lfs pull"),
)
_BEHIND = (
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"PK\x03\x04", "a zip file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
    (b"Rar!\x1a\x07", "a rar file"),
)
_BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
"""A level, then the mark of a block or of an end: three letters alone stand anywhere."""
_PAGE = (b"<!doctype html", b"<html", b"<?xml")


def no_tar(head: bytes) -> BrokenShard:
    """Says what a file is that does not begin as a tar does, as far as its first bytes tell."""
    why = next((f": {said}" for magic, said in _OTHERS if head.startswith(magic)), "")
    if not why and head.lstrip().lower().startswith(_PAGE):
        why = ": it is a web page, perhaps an error in place of the download"
    why = why or f": it begins with {head[:_SHOWN]!r}"
    return BrokenShard(Fault.UNREADABLE_SHARD, f"the file is no tar archive{why}")


def passed_over(rest: Window) -> int:
    """Count the bytes behind the end of an archive, if they are no archive themselves.

    Args:
        rest: what is left; its first block is no header.

    Returns:
        How many bytes there are, 0 where all are zero.

    Raises:
        BrokenShard: another archive begins among them, whose members are not read.
    """
    count, odd, before = 0, False, b""
    while chunk := rest.take(_CHUNK):
        count += len(chunk)
        odd = odd or bool(chunk.strip(b"\0"))
        found = next(_archives(before + chunk), "")
        if found:
            raise BrokenShard(
                Fault.TRUNCATED_SHARD,
                f"behind the end of the archive come bytes that are no part of it, then {found}"
                " that is not read: deliver it as a file of its own",
            )
        before = chunk[-BLOCK:]
    return count if odd else 0


def _archives(data: bytes) -> Iterator[str]:
    """What begins in some bytes, at any place; of tars those that say ``ustar``, or on a block."""
    at = data.find(b"ustar", _MAGIC_AT)
    while at >= 0:
        if _is_header(data, at - _MAGIC_AT):
            yield "a tar"
        at = data.find(b"ustar", at + 1)
    for start in range(0, len(data) - BLOCK + 1, BLOCK):
        if _is_header(data, start):
            yield "a tar"
    at = data.find(GZIP_MAGIC)
    while at >= 0:
        if _is_gzip(data[at : at + 2 * BLOCK]):
            yield "a gzip file"
        at = data.find(GZIP_MAGIC, at + 1)
    for magic, name in _BEHIND:
        if magic in data:
            yield name
    if _BZIP2.search(data):
        yield "a bzip2 file"


def _is_header(data: bytes, start: int) -> bool:
    block = data[start : start + BLOCK]
    return len(block) == BLOCK and size_of(block) >= 0


def _is_gzip(data: bytes) -> bool:
    try:
        zlib.decompressobj(GZIP_WINDOW).decompress(data, _TRIAL)
    except zlib.error:
        return False
    return True
