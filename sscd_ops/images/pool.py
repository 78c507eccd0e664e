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

from sscd_ops.images import frames
from sscd_ops.images.frames import Answer, Decoded
from sscd_ops.model import Fault

log = logging.getLogger(__name__)

_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "SYSTEMROOT")
_PICTURES = 16
"""Pictures in one request at most: spreads the cost of a round trip."""
_BYTES = 4 << 20
"""Bytes in one request, unless a single picture is larger."""
_TIMEOUT = 60.0
"""Seconds a picture may take; longer counts as a death."""


class _Died(Exception):
    pass


def default_workers() -> int:
    """One decoder a core this process may use, at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0))))


def worker_command(preset: str, *, hashed: bool = False) -> list[str]:
    """How a decoder is started."""
    command = [sys.executable, "-m", "sscd_ops.images.worker", preset, str(os.getpid())]
    return [*command, "hashed"] if hashed else command


class _Worker:
    """One decoder process.

    Used by one thread, which also starts it: the kernel ends the process when that thread ends.
    """

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self._command = list(command)
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, images: Sequence[bytes]) -> list[Answer]:
        """Decode some pictures.

        Raises:
            _Died: the process ended or took too long; the next call starts a fresh one.
        """
        process = self._process or self._start()
        try:
            if process.stdin is None or process.stdout is None:
                raise _Died
            deadline = time.monotonic() + self._timeout * len(images)
            _write(process.stdin.fileno(), frames.request(images), deadline)
            read = _Reader(process.stdout.fileno(), deadline)
            return [frames.read_answer(read) for _ in images]
        except (_Died, OSError) as error:
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


def _await(descriptor: int, event: int, deadline: float) -> None:
    """Wait until a pipe is ready; by poll, since select takes no descriptor above 1023."""
    left = deadline - time.monotonic()
    waiter = select.poll()
    waiter.register(descriptor, event)
    if left <= 0 or not waiter.poll(left * 1000):
        raise _Died


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    """Write all of it; a decoder may die, or stop, without reading."""
    view = memoryview(data)
    while view:
        _await(descriptor, select.POLLOUT, deadline)
        view = view[os.write(descriptor, view) :]


class _Reader:
    """Exact reads from a pipe with a deadline."""

    def __init__(self, descriptor: int, deadline: float) -> None:
        self._descriptor = descriptor
        self._deadline = deadline

    def __call__(self, size: int) -> bytes:
        parts = []
        while size:
            _await(self._descriptor, select.POLLIN, self._deadline)
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
        timeout: seconds a picture may take.
        command: how a decoder is started; None for ours.
        hashed: whether they make perceptual hashes too, for ``map_hashed``.
    """

    def __init__(
        self,
        preset: str,
        workers: int = 0,
        *,
        timeout: float = _TIMEOUT,
        command: Sequence[str] | None = None,
        hashed: bool = False,
    ) -> None:
        self._count = workers or default_workers()
        self._command = list(command) if command else worker_command(preset, hashed=hashed)
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
            worker = _Worker(self._command, self._timeout)
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
        for decoded, _ in self.map_hashed(images):
            yield decoded

    def map_hashed(self, images: Iterable[bytes]) -> Iterator[Answer]:
        """As ``map``, each with the picture's perceptual hash; empty where there is none."""
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
        except _Died:
            log.warning("a decoder died on one of %d pictures, trying each alone", len(images))
        return [self._alone(worker, image) for image in images]

    def _alone(self, worker: _Worker, image: bytes) -> Answer:
        if self._closing.is_set():
            return (Fault.DECODER_DIED, "the pool was closed"), b""
        try:
            return worker.decode([image])[0]
        except _Died:
            said = f"the decoder died or took over {self._timeout:g} s, twice, on"
            return (Fault.DECODER_DIED, f"{said} {len(image)} bytes"), b""


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
