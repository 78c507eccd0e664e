"""Progress on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)


class TerminalProgress:
    """Bars on stderr, one below the other; a finished one disappears."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: list[TaskID] = []

    def start(self, label: str, total: int | None) -> None:
        """A piece of work begins."""
        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        self._tasks.append(self._progress.add_task(label, total=total))

    def advance(self, n: int = 1) -> None:
        """``n`` units done."""
        if self._progress is not None and self._tasks:
            self._progress.advance(self._tasks[-1], n)

    def done(self) -> None:
        """The piece of work ended."""
        if self._progress is None:
            return
        if self._tasks:
            self._progress.remove_task(self._tasks.pop())
        if not self._tasks:
            self._progress.stop()
            self._progress = None
