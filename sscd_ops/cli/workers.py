"""Processes of a command's own, which do a night's mapped groups side by side (``run --workers``).

Plain subprocesses over pipes, as decoders are (``images.pool``); see ``cli.worker``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, cast

from sscd_ops.cli.worker import error_of, read_message, write_message
from sscd_ops.errors import InvariantError, TransientError
from sscd_ops.options import to_json

if TYPE_CHECKING:
    from sscd_ops.options import Settings, Step
    from sscd_ops.ports import Progress

log = logging.getLogger(__name__)

_PATIENCE = 10.0
"""Seconds in which a process that has nothing to do ends."""


class Workers:
    """So many processes, started when there is work for them. A context manager: leaving ends them.

    Args:
        settings: the config file.
        database_url: of the catalog.
        count: how many; they share the cores that the command may use.
        progress: told how far they are, all together.
    """

    def __init__(
        self, settings: Settings, database_url: str, count: int, progress: Progress
    ) -> None:
        self._settings = settings
        self._database_url = database_url
        self._count = count
        self._progress = progress
        self._processes: list[_Process] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._end(at_once=kind is not None)

    def __call__(self, step: Step, batch_id: int, numbers: Sequence[int]) -> None:
        """Do a step for groups: each process takes neighbours of equal number, in one call.

        Neighbouring parts of match have blocks in common.

        Where one fails all are ended: what they had not written yet the next run does again.

        Raises:
            SscdOpsError: what a process raised first.
            TransientError: a process was killed.
        """
        ends = [k * len(numbers) // self._count for k in range(self._count + 1)]
        shares = [numbers[start:end] for start, end in pairwise(ends) if start < end]
        log.info("%s by workers=%d", step, len(shares))
        self._progress.start(f"{step} by {len(shares)} workers", None)
        try:
            self._do(step, batch_id, shares)
        except BaseException:
            self._end(at_once=True)
            raise
        finally:
            self._progress.done()

    def _do(self, step: Step, batch_id: int, shares: Sequence[Sequence[int]]) -> None:
        while len(self._processes) < len(shares):
            process = _Process()
            self._processes.append(process)
            level = logging.getLogger("sscd_ops").getEffectiveLevel()
            process.send(to_json(self._settings), self._database_url, self._count, level)
        with selectors.DefaultSelector() as waiting:
            for process, share in zip(self._processes, shares, strict=False):
                process.send(step, batch_id, list(share))
                waiting.register(process.stdout, selectors.EVENT_READ, process)
            while waiting.get_map():
                for key, _ in waiting.select():
                    if self._is_done(key.data, step):
                        waiting.unregister(key.fileobj)

    def _is_done(self, process: _Process, step: Step) -> bool:
        """Take a message of a process; whether it has done its share."""
        message = read_message(process.stdout)
        if message is None:
            raise TransientError(
                f"a worker process {process.end()} during {step}. If that was for memory, give"
                " --workers a smaller number; run the night again, it goes on where it was"
            )
        kind, *said = message
        if kind == "failed":
            raise error_of(*said)
        if kind == "advanced":
            self._progress.advance(*said)
        elif kind == "logged":
            name, level, text = said
            logging.getLogger(name).log(level, "%s", text)
        return bool(kind == "done")

    def _end(self, *, at_once: bool) -> None:
        """End the processes; at once also at work: files appear whole, and rows come after them."""
        for process in self._processes if at_once else ():
            process.kill()
        for process in self._processes:
            process.end()
        self._processes.clear()


class _Process:
    """One of the processes, and the pipes to it."""

    def __init__(self) -> None:
        # -P: nothing is imported from the folder that the command is called in
        command = [sys.executable, "-P", "-m", "sscd_ops.cli.worker", str(os.getpid())]
        # unbuffered: a message that was read ahead would not be waited for
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise InvariantError("a worker process without pipes")
        self._stdin = cast("BinaryIO", self._process.stdin)
        self.stdout = cast("BinaryIO", self._process.stdout)

    def send(self, *message: object) -> None:
        """Tell it something; that it is dead is told where it is listened to."""
        with contextlib.suppress(OSError):
            write_message(self._stdin, *message)

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def end(self) -> str:
        """Let it end, at the end of its stdin; how it ended."""
        self._stdin.close()
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self.stdout.close()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
