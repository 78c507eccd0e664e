"""A process of ``run --workers``: mapped steps of a night, for the groups it is told.

It is started by ``cli.workers``, opens the parts for itself and ends with the command: at the end
of its stdin, and by a signal from the kernel. What it is given, secrets too, comes through a pipe;
what it logs and how far it is goes back through one, so that the command alone writes to the
terminal.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from sscd_ops.images.worker import die_with
from sscd_ops.machine import share_cores
from sscd_ops.masking import MaskingFormatter, traceback_of

if TYPE_CHECKING:
    from sscd_ops.options import Settings

_LENGTH = struct.Struct("<Q")


def write_message(stream: BinaryIO, *message: object) -> None:
    """Write a message to the other process.

    Raises:
        OSError: it has ended.
    """
    data = pickle.dumps(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[Any, ...] | None:
    """The next message of the other process; None where it has ended."""
    head = _read(stream, _LENGTH.size)
    data = None if head is None else _read(stream, *_LENGTH.unpack(head))
    if data is None:
        return None
    message: tuple[Any, ...] = pickle.loads(data)  # noqa: S301 - of a process that we started
    return message


def _read(stream: BinaryIO, size: int) -> bytes | None:
    """So many bytes, of a pipe that may give fewer at once; None at its end."""
    data = bytearray()
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            return None
        data += more
    return bytes(data)


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


def _portable(error: Exception) -> Exception:
    """The error as it may go through a pipe, with where it arose, for ``--debug``."""
    error.add_note("in a worker process:\n" + traceback_of(error))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - whatever an error of a library holds
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _serve(stdin: BinaryIO, told: _Told, settings: Settings, database_url: str) -> None:
    from sscd_ops.steps.night import work_on
    from sscd_ops.wiring import Wiring

    with Wiring(settings, database_url=database_url, progress=told) as parts:
        while (asked := read_message(stdin)) is not None:
            try:
                work_on(parts, *asked)
            except Exception as error:  # noqa: BLE001 - the command raises it
                told.say("failed", _portable(error))
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
    _serve(stdin, told, settings, database_url)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
