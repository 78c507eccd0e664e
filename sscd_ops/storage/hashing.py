"""A stream that writes and hashes in a thread of its own: both let go of the GIL."""

from __future__ import annotations

import hashlib
import queue
import threading
from types import TracebackType
from typing import BinaryIO

_PIECE = 1 << 20
"""Small writes are put together to pieces of this size."""
_WAITING = 8
"""Pieces waiting for the thread: bounds memory."""


class HashingStream:
    """Writes to a stream and hashes what it writes, both beside the caller. A context manager.

    After the ``with`` block every byte has been handed to the stream, and ``sha256`` and ``bytes``
    say what was written. What the stream raises is raised by a later ``write`` or at the end.

    Args:
        stream: where the bytes go; may take fewer than it is given, as unbuffered files do.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._small: list[bytes] = []
        self._small_bytes = 0
        self._error: BaseException | None = None
        self.bytes = 0
        self.sha256 = ""

    def __enter__(self) -> HashingStream:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.flush()
        self._queue.put(None)
        self._thread.join()
        self.sha256 = self._digest.hexdigest()
        if kind is None:
            self._raise()

    def _work(self) -> None:
        while (piece := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._digest.update(piece)
                    self._write_all(piece)
                except BaseException as error:  # noqa: BLE001 - raised again where it belongs
                    self._error = error

    def _write_all(self, piece: bytes) -> None:
        """An unbuffered file may take a part, on a full disk even without an error."""
        written = self._stream.write(piece)
        view = memoryview(piece)
        while written < len(view):
            view = view[written:]
            written = self._stream.write(view)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        """Write some bytes."""
        piece = bytes(data)
        self.bytes += len(piece)
        if len(piece) < _PIECE:
            self._small.append(piece)
            self._small_bytes += len(piece)
            if self._small_bytes >= _PIECE:
                self.flush()
        else:
            self.flush()
            self._queue.put(piece)
        return len(piece)

    def flush(self) -> None:
        """Hand what was written to the thread."""
        self._raise()
        if self._small:
            self._queue.put(b"".join(self._small))
            self._small.clear()
            self._small_bytes = 0

    def tell(self) -> int:
        """Bytes written so far."""
        return self.bytes

    def writable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is not."""
        return False

    def seekable(self) -> bool:
        """It is not."""
        return False

    @property
    def closed(self) -> bool:
        """Writers of parquet ask."""
        return False

    def close(self) -> None:
        """Do nothing: whoever opened the stream below closes it."""
