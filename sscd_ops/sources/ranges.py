"""Members of a plain tar by byte range: neighbours in one read, through one reused buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sscd_ops.errors import PUT_BACK, SourceChanged
from sscd_ops.model import MemberRef

_RUN = 1 << 20
"""Bytes read at once: they are copied out while they are still in a core's cache."""
_GAP = 32 << 10
"""A gap up to this size is read through rather than skipped."""


def ranges(stream: BinaryIO, members: Sequence[MemberRef], uri: str) -> Iterator[bytes]:
    """The members' bytes, in the given (ascending) order.

    Args:
        stream: the file; seekable.
        members: where they are.
        uri: the file's name, for messages.

    Raises:
        SourceChanged: the file is shorter than it was.
    """
    view = memoryview(bytearray(_RUN))
    at = 0
    while at < len(members):
        first = members[at]
        stop, end = _run(members, at)
        size = end - first.offset
        run = view if size <= _RUN else memoryview(bytearray(size))
        stream.seek(first.offset)
        got = _fill(stream, run[:size])
        for member in members[at:stop]:
            start = member.offset - first.offset
            if start + member.size > got:
                raise SourceChanged(
                    f"{uri} is shorter than it was, without member {member.name!r}: {PUT_BACK}"
                )
            yield bytes(run[start : start + member.size])
        at = stop


def _run(members: Sequence[MemberRef], at: int) -> tuple[int, int]:
    """Where the run of members that begins at ``at`` ends: its stop, and its last byte's end."""
    start = members[at].offset
    end = start + members[at].size
    stop = at + 1
    while stop < len(members):
        offset, size = members[stop].offset, members[stop].size
        if not 0 <= offset - end <= _GAP or offset + size - start > _RUN:
            break
        end = offset + size
        stop += 1
    return stop, end


def _fill(stream: Any, view: memoryview) -> int:
    """Fill the view; fewer bytes only at the end of the file."""
    got = 0
    while got < len(view):
        count = stream.readinto(view[got:])
        if not count:
            break
        got += count
    return got
