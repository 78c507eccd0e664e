"""Streaming a tar: one loop for every kind of header that datasets are made of.

Plain ustar, old v7, PAX and GNU long names are read here, each header's checksum verified; sparse
files, whose bytes are no range of the archive, are passed over as ``other``. Archives that were
joined (``cat a.tar b.tar``) are read as one. So ``tarfile`` has nothing left to read, and is what
the tests hold this loop to. Memory is bounded by the largest member read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from sscd_ops.errors import BrokenShard
from sscd_ops.model import Fault, TarEntry
from sscd_ops.storage.streams import Gunzip, Truncated, Window
from sscd_ops.storage.tar_header import BLOCK, name_of, pax_of, size_of, target_of, text_of
from sscd_ops.storage.tar_other import no_tar, passed_over

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
_EXTENDED = frozenset({b"x", b"X", b"g", b"L", b"K"})
_SPARSE = b"S"
_ZERO = bytes(BLOCK)


def read_tar(
    stream: BinaryIO,
    *,
    gz: bool,
    max_member_bytes: int,
    ignored: dict[str, int] | None = None,
) -> Iterator[TarEntry]:
    """Yield the entries of a tar in order, and of those that were joined to it.

    Args:
        stream: the file's bytes; need not be seekable.
        gz: whether they are compressed with gzip; offsets are then in the uncompressed archive.
        max_member_bytes: a larger member is passed over: its entry has no data.
        ignored: gets ``behind_end`` where bytes behind the end mark were passed over that are
            neither zero nor another archive.

    Raises:
        BrokenShard: ``truncated_shard``, ``empty_file`` or ``unreadable_shard``; what came before
            has been yielded. An archive without its end mark is truncated: a file cut between two
            members looks like one whose writer forgot it, and members would be lost unseen. So is
            one behind whose end another follows that cannot be read on.
    """
    unpacked = Gunzip(stream) if gz else None
    window = Window(unpacked or stream)
    try:
        yield from _entries(window, max_member_bytes)
    except Truncated:
        raise _stopped(window) from None
    with _behind_end():
        passed = passed_over(window)
        if unpacked is not None:
            passed += passed_over(Window(unpacked.behind()))
    if passed and ignored is not None:
        ignored["behind_end"] = 1


def _stopped(window: Window, **where: Any) -> BrokenShard:
    message = f"the archive stops at byte {window.offset}, before its end mark"
    return BrokenShard(Fault.TRUNCATED_SHARD, message, **where)


@contextmanager
def _behind_end() -> Iterator[None]:
    """What breaks here has cost no member before it."""
    try:
        yield
    except BrokenShard as broken:
        broken.ended = True
        raise


def _entries(window: Window, limit: int) -> Iterator[TarEntry]:
    long: dict[str, str] = {}
    while (block := _block(window, begun=bool(long))) is not None:
        size = size_of(block)
        if size < 0:
            raise _damaged(window, block)
        kind = block[156:157]
        if kind in _EXTENDED:
            _extend(long, kind, _record(window, size))
            continue
        sparse, target = kind == _SPARSE, ""
        if long:
            # of a sparse file the path is a made-up one
            name = long.get("GNU.sparse.name") or long.get("path") or name_of(block)
            size = int(long.get("size", size))
            sparse = sparse or any(key.startswith("GNU.sparse") for key in long)
        else:
            name = name_of(block)
        what = _KINDS.get(kind, "other")
        if sparse:
            what = "other"
            _skip_sparse_map(window, block)
        elif what == "link":
            target = long.get("linkpath") or target_of(block)
        elif kind == b"\0" and name.endswith("/"):
            what = "directory"
        long = {}
        size = 0 if kind in _NO_DATA else size
        entry = _entry(window, what, name, size, limit)
        if target:
            entry.target, entry.is_symbolic = target, kind == b"2"
        yield entry


def _extend(long: dict[str, str], kind: bytes, record: bytes) -> None:
    """Take what an extended header says of the entry behind it, under PAX's names."""
    if kind in (b"x", b"X"):
        long |= pax_of(record)
    elif kind != b"g":
        long["path" if kind == b"L" else "linkpath"] = text_of(record.rstrip(b"\0"))


def _damaged(window: Window, block: bytes) -> BrokenShard:
    at = window.offset - BLOCK
    if not at:
        return no_tar(block)
    return BrokenShard(Fault.TRUNCATED_SHARD, f"a damaged header at byte {at}")


def _block(window: Window, *, begun: bool) -> bytes | None:
    """The next header block; None at the end of the archive.

    Args:
        window: the archive.
        begun: a header before this one says more of the same entry.
    """
    block = window.take(BLOCK)
    if len(block) == BLOCK:
        if block[0] or block != _ZERO:
            return block
        if begun:
            raise BrokenShard(
                Fault.TRUNCATED_SHARD, f"an end mark at {window.offset} instead of an entry"
            )
        with _behind_end():
            return _joined(window)
    if window.offset > len(block):
        raise _stopped(window, between=not begun and window.offset % BLOCK == 0)
    if block:
        raise no_tar(block)
    raise BrokenShard(Fault.EMPTY_FILE, "the file has no bytes")


def _joined(window: Window) -> bytes | None:
    """The first header of an archive that was joined behind the end mark of another; else None."""
    block = _ZERO
    while block == _ZERO:
        block = window.take(BLOCK)
    if len(block) == BLOCK and size_of(block) >= 0:
        return block
    window.give_back(len(block))
    return None


def _entry(window: Window, kind: str, name: str, size: int, limit: int) -> TarEntry:
    offset = window.offset
    member = name if kind == "file" else ""
    try:
        data = b""
        if kind != "file" or size > limit:
            window.skip(size)
        else:
            data = window.take(size)
            if len(data) < size:
                raise Truncated
        # a file cut inside the padding still has every byte of its members
        window.skip(-size % BLOCK, may_end=True)
    except Truncated:
        raise _stopped(window, member=member) from None
    except BrokenShard as broken:
        broken.member = member
        raise
    return TarEntry(kind, name, offset, size, data)


def _record(window: Window, size: int) -> bytes:
    if size > _LONGEST_HEADER:
        raise BrokenShard(
            Fault.TRUNCATED_SHARD, f"an extended header of {size} bytes at {window.offset}"
        )
    record = window.take(size)
    if len(record) < size:
        raise Truncated
    window.skip(-size % BLOCK)
    return record


def _skip_sparse_map(window: Window, block: bytes) -> None:
    """Pass over the blocks that go on with the map of an old GNU sparse file."""
    more = block[156:157] == _SPARSE and block[482]
    while more:
        block = window.take(BLOCK)
        if len(block) < BLOCK:
            raise Truncated
        more = block[504]
