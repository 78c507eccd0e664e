"""A process of ``run --workers``: mapped steps of a night, for the groups it is told.

It is started by ``cli.workers``, opens the parts for itself and ends with the command: at the end
of its stdin, and by a signal from the kernel. What it is given, secrets too, comes through a pipe;
what it logs and how far it is goes back through one, so that the command alone writes to the
terminal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from sscd_ops import errors
from sscd_ops.images.worker import die_with
from sscd_ops.machine import share_cores
from sscd_ops.masking import MaskingFormatter, traceback_of
from sscd_ops.options import settings_from_json

if TYPE_CHECKING:
    from sscd_ops.options import Settings


def write_message(stream: BinaryIO, *message: object) -> None:
    """Write a message to the other process: a line of JSON.

    Raises:
        OSError: it has ended.
    """
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def read_message(stream: BinaryIO) -> list[Any] | None:
    """The next message of the other process; None where it has ended."""
    # byte by byte where the pipe is unbuffered, as it is where somebody waits for more than one
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message: list[Any] = json.loads(line)
    return message


class _Told(logging.Handler):
    """Where logs and progress go: to the command, of any thread, one after another."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._one_by_one = threading.Lock()
        self.setFormatter(MaskingFormatter("%(message)s"))

    def say(self, *message: object) -> None:
        with self._one_by_one:
            write_message(self._stream, *message)

    def emit(self, record: logging.LogRecord) -> None:
        self.say("logged", record.name, record.levelno, self.format(record))

    def start(self, label: str, total: int | None) -> None:
        """A piece of work begins: the command shows one bar for all."""

    def advance(self, n: int = 1) -> None:
        """``n`` units done."""
        self.say("advanced", n)

    def done(self) -> None:
        """The piece of work ended."""


def error_of(kind: str, said: str, where: str) -> Exception:
    """A worker's error, as the command raises it: of its class where that is one of ours."""
    known = getattr(errors, kind, None)
    error: Exception = RuntimeError(f"{kind}: {said}")
    # one that is made of more than a message (a tar's fault) ends in its step
    if isinstance(known, type) and issubclass(known, errors.SscdOpsError):
        with contextlib.suppress(TypeError):
            error = known(said)
    error.add_note("in a worker process:\n" + where)
    return error


def _serve(stdin: BinaryIO, told: _Told, settings: Settings, database_url: str) -> None:
    from sscd_ops.steps.night import work_on
    from sscd_ops.wiring import Wiring

    with Wiring(settings, database_url=database_url, progress=told) as parts:
        while (asked := read_message(stdin)) is not None:
            try:
                work_on(parts, *asked)
            except Exception as error:  # noqa: BLE001 - the command raises it
                told.say("failed", type(error).__name__, str(error), traceback_of(error))
            else:
                told.say("done")


def main(parent: int) -> int:
    """Do what is asked until stdin ends."""
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's to handle
    # whatever prints must not come between messages
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    given = read_message(stdin)
    if given is None:
        return 0
    settings, database_url, sharing, level = given
    share_cores(sharing)
    told = _Told(stdout)
    logging.basicConfig(level=logging.WARNING, handlers=[told])
    logging.getLogger("sscd_ops").setLevel(level)
    _serve(stdin, told, settings_from_json(settings), database_url)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
