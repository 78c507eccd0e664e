"""Links in tars: the bytes of the entries they lead to, from anywhere in the archive."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO

from sscd_ops.model import TarEntry

_HOPS = 8
"""Links that lead to links are followed this far."""


class Spool:
    """Members' bytes by their offset in the archive, in a temporary file that is made when needed.

    A context manager.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    def __contains__(self, offset: int) -> bool:
        return offset in self._places

    def put(self, offset: int, data: bytes) -> None:
        """Keep a member's bytes."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the spool
        self._file.seek(self._end)
        self._file.write(data)
        self._places[offset] = self._end, len(data)
        self._end += len(data)

    def get(self, offset: int) -> bytes:
        """A member's bytes, which have been put.

        Raises:
            KeyError: they have not.
        """
        start, size = self._places[offset]
        if self._file is None:
            raise KeyError(offset)
        self._file.seek(start)
        return self._file.read(size)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


class Links:
    """What the links of one tar lead to.

    A tar without links costs nothing. At the first one the archive is read twice more, once for
    what its links lead to, once for those entries' bytes, which wait in the spool: so that memory
    does not grow with the archive, and a compressed or remote one is never read once a link.

    Args:
        spool: for bytes.
        again: reads the archive's entries from its beginning, with the bytes of those that are no
            larger than it is told.
        limit: of a member's bytes.
    """

    def __init__(
        self, spool: Spool, again: Callable[[int], Iterator[TarEntry]], limit: int
    ) -> None:
        self._spool = spool
        self._again = again
        self._limit = limit
        self._links: dict[str, TarEntry] = {}
        self._files: dict[str, list[tuple[int, int]]] | None = None

    def follow(self, link: TarEntry) -> TarEntry | None:
        """The link as a file, with its target's offset and bytes; None where there is no target.

        A hard link leads to the last entry of that name before it; a symbolic one, where none comes
        before it, to the first behind it.
        """
        if self._files is None:
            self._files = self._look()
        place = _place_of(link)
        for _ in range(_HOPS):
            found = self._files.get(place, [])
            before = [one for one in found if one[0] < link.offset]
            if before or (found and link.is_symbolic):
                offset, size = before[-1] if before else found[0]
                data = self._spool.get(offset) if offset in self._spool else b""
                return TarEntry("file", link.name, offset, size, data)
            if place not in self._links:
                break
            place = _place_of(self._links[place])
        return None

    def _look(self) -> dict[str, list[tuple[int, int]]]:
        """Offset and size of every file that a link leads to, by normal name."""
        for entry in self._again(0):
            if entry.kind == "link":
                self._links.setdefault(posixpath.normpath(entry.name), entry)
        wanted = {_place_of(link) for link in self._links.values()}
        found: dict[str, list[tuple[int, int]]] = {}
        for entry in self._again(self._limit):
            if entry.kind == "file" and posixpath.normpath(entry.name) in wanted:
                found.setdefault(posixpath.normpath(entry.name), []).append(
                    (entry.offset, entry.size)
                )
                if entry.size == len(entry.data):
                    self._spool.put(entry.offset, entry.data)
        return found


def _place_of(link: TarEntry) -> str:
    """The normal name of what a link leads to."""
    if link.is_symbolic:
        return posixpath.normpath(posixpath.join(posixpath.dirname(link.name), link.target))
    return posixpath.normpath(link.target)
