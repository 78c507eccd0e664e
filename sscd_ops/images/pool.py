"""Decoder processes behind an iterator: pictures in, pixels out, in order.

Plain subprocesses over pipes of their own: multiprocessing breaks inside Airflow tasks (spawn
re-runs the task's main module, fork hangs after OpenMP work), and a decoder that dies on a picture
must cost that picture alone.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sscd_ops.images import frames
from sscd_ops.images.frames import Answer, Decoded
from sscd_ops.machine import cores
from sscd_ops.model import Fault
from sscd_ops.options import USUAL_LIMITS, LimitsOptions

log = logging.getLogger(__name__)

_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT")
_PICTURES = 16
"""Pictures in one request at most: spreads the cost of a round trip."""
_BYTES = 4 << 20
"""Bytes in one request, unless a single picture is larger."""
_TIMEOUT = 600.0
"""Seconds a picture may take by the clock, a busy machine's too; longer counts as a death."""
_LOOK = 25
"""Milliseconds of waiting between two looks at what a decoder takes: it may get a few hundred
megabytes in that time."""
_MOST_WORKERS = 16


class _Died(Exception):
    """It ended, or did not answer in time."""


class _Exceeded(_Died):
    """It took more than a picture may: says of what, and which setting that is."""


def default_workers() -> int:
    """One decoder a core this process may use (``machine.cores``), at most 16."""
    return min(_MOST_WORKERS, cores().number)


def worker_command(preset: str, *, hashed: bool = False) -> list[str]:
    """How a decoder is started."""
    command = [sys.executable, "-m", "sscd_ops.images.worker", preset, str(os.getpid())]
    return [*command, "hashed"] if hashed else command


class _Worker:
    """One decoder process.

    Used by one thread, which also starts it: the kernel ends the process when that thread ends.
    """

    def __init__(self, command: Sequence[str], limits: LimitsOptions, timeout: float) -> None:
        self._command = list(command)
        self._limits = limits
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, images: Sequence[bytes]) -> list[Answer]:
        """Decode some pictures.

        Raises:
            _Died: the process ended, or took too long or too much; the next call starts a fresh
                one.
        """
        process = self._process or self._start()
        try:
            if process.stdin is None or process.stdout is None:
                raise _Died
            watch = _Watch(process.pid, self._limits, self._timeout)
            _write(process.stdin.fileno(), frames.request(images), watch)
            read = _Reader(process.stdout.fileno(), watch)
            answers = []
            for _ in images:
                watch.begin()
                answers.append(frames.read_answer(read))
            return answers
        except _Died:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise _Died from error

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["OMP_NUM_THREADS"] = "1"
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)  # our end alone
        return self._process

    def kill(self) -> None:
        """End the process from another thread; its reader then sees the end of the stream."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    log.debug("pipe of a dead decoder")
        process.wait()


class _Usage(NamedTuple):
    """What a process takes: bytes of memory now, seconds of processor time since it began."""

    memory: int
    seconds: float


def _usage(pid: int) -> _Usage | None:
    """None for a process that has ended, and where no /proc tells."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(times[11]) + int(times[12])
        return _Usage(int(pages) * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        return None


class _Watch:
    """Waits for a decoder, and looks meanwhile at what it takes.

    Looked at from here, since a decoder that is refused memory calls the picture broken as often as
    not, and a picture's code must be true. Time is the processor's, so that a picture is not given
    up because the machine is busy.
    """

    def __init__(self, pid: int, limits: LimitsOptions, timeout: float) -> None:
        self._pid = pid
        self._memory = limits.decoder_memory
        self._seconds = limits.decode_seconds
        self._timeout = timeout
        self.begin()

    def begin(self) -> None:
        """The next picture."""
        self._deadline = time.monotonic() + self._timeout
        self._began: float | None = None

    def wait(self, descriptor: int, event: int) -> None:
        """Wait until a pipe is ready; by poll, since select takes no descriptor above 1023.

        Raises:
            _Exceeded: the decoder takes more than a picture may.
            _Died: it does not answer.
        """
        waiter = select.poll()
        waiter.register(descriptor, event)
        while not waiter.poll(_LOOK):
            self._look()

    def _look(self) -> None:
        if time.monotonic() > self._deadline:
            raise _Died
        usage = _usage(self._pid)
        if usage is None:
            return
        if self._began is None:
            self._began = usage.seconds
        if usage.memory > self._memory:
            raise _Exceeded(f"{self._memory} bytes of memory (limits.decode_memory)")
        if usage.seconds - self._began > self._seconds:
            raise _Exceeded(f"{self._seconds:g} s of processor time (limits.decode_seconds)")


def _write(descriptor: int, data: bytes, watch: _Watch) -> None:
    """Write all of it; a decoder may die, or stop, without reading."""
    view = memoryview(data)
    while view:
        watch.wait(descriptor, select.POLLOUT)
        view = view[os.write(descriptor, view) :]


class _Reader:
    """Exact reads from a pipe under a watch."""

    def __init__(self, descriptor: int, watch: _Watch) -> None:
        self._descriptor = descriptor
        self._watch = watch

    def __call__(self, size: int) -> bytes:
        parts = []
        while size:
            self._watch.wait(self._descriptor, select.POLLIN)
            data = os.read(self._descriptor, min(size, 1 << 20))
            if not data:
                raise _Died
            parts.append(data)
            size -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class DecoderPool:
    """Decoder processes. A context manager: leaving it ends them.

    Args:
        preset: a name of ``images.preprocess.PRESETS``.
        workers: processes; 0 for one a core.
        limits: memory and processor time a picture may take.
        timeout: seconds it may take by the clock.
        command: how a decoder is started; None for ours.
        hashed: whether they make perceptual hashes too, for ``map_hashed``.
    """

    def __init__(
        self,
        preset: str,
        workers: int = 0,
        *,
        limits: LimitsOptions = USUAL_LIMITS,
        timeout: float = _TIMEOUT,
        command: Sequence[str] | None = None,
        hashed: bool = False,
    ) -> None:
        self._count = workers or default_workers()
        self._command = list(command) if command else worker_command(preset, hashed=hashed)
        self._limits = limits
        self._timeout = timeout
        self._tasks: queue.Queue[tuple[int, list[bytes]] | None] = queue.Queue(2 * self._count)
        self._answers: queue.Queue[tuple[int, list[Answer] | BaseException]] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._workers: list[_Worker] = []
        self._closing = threading.Event()
        # of the pool's life: answers to requests of an iterator that was given up must not be
        # taken for the next one's
        self._sent = 0

    def __enter__(self) -> DecoderPool:
        for number in range(self._count):
            worker = _Worker(self._command, self._limits, self._timeout)
            self._workers.append(worker)
            thread = threading.Thread(
                target=self._serve, args=(worker,), name=f"decoder-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._tasks.put(None)
        for worker in self._workers:
            worker.kill()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._workers.clear()

    def map(self, images: Iterable[bytes]) -> Iterator[Decoded]:
        """Pixels, uint8 (h, w, 3), or (code, message), one for each picture, in order.

        One iterator at a time; one that is given up may be followed by another.
        """
        for answer in self.map_hashed(images):
            yield answer.decoded

    def map_hashed(self, images: Iterable[bytes]) -> Iterator[Answer]:
        """As ``map``, each with the perceptual hash, and whether the picture is plain."""
        ready: dict[int, list[Answer]] = {}
        chunks = _chunks(images)
        first = told = self._sent
        more = True
        while more or told < self._sent:
            while more and self._sent - told < 3 * self._count:
                chunk = next(chunks, None)
                if chunk is None:
                    more = False
                    break
                self._tasks.put((self._sent, chunk))
                self._sent += 1
            while told in ready:
                yield from ready.pop(told)
                told += 1
            if told < self._sent and told not in ready:
                number, decoded = self._answers.get()
                if number < first:
                    continue
                if isinstance(decoded, BaseException):
                    raise decoded
                ready[number] = decoded

    def _serve(self, worker: _Worker) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                number, images = task
                try:
                    self._answers.put((number, self._decode(worker, images)))
                except BaseException as error:  # noqa: BLE001 - it is raised in the consumer
                    self._answers.put((number, error))
        finally:
            worker.close()

    def _decode(self, worker: _Worker, images: list[bytes]) -> list[Answer]:
        """Decode a request; where the decoder dies, each picture again, alone."""
        try:
            return worker.decode(images)
        except _Died as died:
            log.warning(
                "a decoder %s on one of %d pictures, trying each alone",
                f"took over {died}" if isinstance(died, _Exceeded) else "died",
                len(images),
            )
        return [self._alone(worker, image) for image in images]

    def _alone(self, worker: _Worker, image: bytes) -> Answer:
        if self._closing.is_set():
            return Answer((Fault.DECODER_DIED, "the pool was closed"))
        try:
            return worker.decode([image])[0]
        except _Exceeded as limit:
            said = f"decoding its {len(image)} bytes takes over {limit}, also alone"
            return Answer((Fault.DECODER_LIMIT, said))
        except _Died:
            said = f"the decoder died or took over {self._timeout:g} s, twice, on"
            return Answer((Fault.DECODER_DIED, f"{said} {len(image)} bytes"))


def _chunks(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for image in images:
        if chunk and (len(chunk) >= _PICTURES or size + len(image) > _BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(image)
        size += len(image)
    if chunk:
        yield chunk
