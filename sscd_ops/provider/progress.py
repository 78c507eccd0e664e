"""Progress of a task as log lines."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

_EVERY = 30.0
"""Seconds between two lines."""


class LogProgress:
    """A progress port that writes a line every half minute."""

    def __init__(self) -> None:
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._said = time.monotonic()

    def start(self, label: str, total: int | None) -> None:
        """A piece of work begins."""
        self._label, self._total, self._done = label, total, 0
        self._said = time.monotonic()

    def advance(self, n: int = 1) -> None:
        """``n`` units done."""
        self._done += n
        now = time.monotonic()
        if now - self._said >= _EVERY:
            self._said = now
            log.info("%s done=%s total=%s", self._label, self._done, self._total)

    def done(self) -> None:
        """The piece of work ended."""
