"""A stream that hashes what is written, in a thread of its own: sha256 lets go of the GIL."""

from __future__ import annotations

import hashlib
import queue
import threading
from types import TracebackType
from typing import BinaryIO

_WAITING = 8
"""Pieces waiting to be hashed: bounds memory."""


class HashingStream:
    """Writes through to a stream and hashes beside it. A context manager.

    After the ``with`` block ``sha256`` and ``bytes`` say what was written.

    Args:
        stream: where the bytes go.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)
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
        self._queue.put(None)
        self._thread.join()
        self.sha256 = self._digest.hexdigest()

    def _work(self) -> None:
        while (piece := self._queue.get()) is not None:
            self._digest.update(piece)

    def write(self, data: bytes) -> int:
        """Write some bytes."""
        piece = bytes(data)
        self._queue.put(piece)
        self._stream.write(piece)
        self.bytes += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Flush the stream below."""
        self._stream.flush()

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
