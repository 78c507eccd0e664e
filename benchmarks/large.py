"""What nights of millions need: leader in mapped tasks, match, resolve, ingest, publish.

Leader: 1,000,000 x 512 of one night, clustered, a tenth of them copies of earlier ones, in a mapped
file. Its cells are those of match, compared by tasks of one thread each. Measured are one task, two
at once over the same cells; and of 100,000 rows the pass over pairs that cells found, and leader as
a single pass without cells: what its index searches grows with the square, the rest with the rows.
Not all cells unless asked: what they take follows from the pairs that the measured ones have.

Beside it the memory of a task of a larger night, match's seconds a pair, resolve at 1, 2 and 4
million samples, ingest and publish by the benchmarks of those names.

What is measured is kept in a file as it comes, and not measured again: a run that was cut goes on.
From its numbers follows the section "Five million, twenty million" of docs/performance.md
(``benchmarks.large_page``).

Run: ``python -m benchmarks.large [--rows N] [--cells K] [--only PARTS] [--write]``; hours if all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.__main__ import ROOT, machine
from benchmarks.large_page import BACKENDS, section, write
from benchmarks.match import DIGEST, DIMENSIONS, FLOOR, LIMIT, THRESHOLD
from sscd_ops.core.cells import blocks, share
from sscd_ops.core.found import Answer, Found, gather
from sscd_ops.core.leader import Compared, lead
from sscd_ops.core.measures import near
from sscd_ops.index.backends import open_backend
from sscd_ops.steps.searching import LISTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from sscd_ops.model import Matches

PARTS = ("leader", "memory", "match", "resolve", "ingest", "publish")
STATE = ROOT / "build" / "bench-large.json"
_TWO = r"\s+([\d.]+)\s+([\d.]+)"
PRINTED = {
    "resolve": r"samples +kept.*GiB\n.*\s([\d.]+)\s+[\d.]+\s+([\d.]+)\n",
    "ingest_read": rf"ingest: ([\d,]+) samples(?s:.*)ingest, manifest included{_TWO}",
    "publish_copy": rf"publish: ([\d,]+) samples of 60,000(?s:.*?)parquet included{_TWO}",
}
"""Of benchmarks: seconds and GiB; samples, wall and processor seconds, twice."""
MEMORY_NIGHT = 5_000_000
_PART = 32_768


Cell = tuple[int, int, int, int]
"""Rows ``a, b`` of a block, rows ``c, d`` of the same one or of a later one."""


def cells_of(rows: int) -> list[Cell]:
    """The cells of a night, as match cuts it."""
    pairs = combinations_with_replacement(blocks(rows), 2)
    return [(a.start, a.stop, b.start, b.stop) for a, b in pairs]


def pairs_of(cell: Cell) -> float:
    """How many pairs of rows it compares, each two once."""
    a, b, c, d = cell
    return (b - a) * (d - c) / (2 if a == c else 1)


def write_night(path: Path, rows: int) -> None:
    """``benchmarks.match``'s clustered data as a float16 file, made part by part."""
    random = np.random.default_rng(1)
    centres = _unit(random.standard_normal((1000, DIMENSIONS), np.float32))
    out = np.lib.format.open_memmap(path, "w+", np.float16, (rows, DIMENSIONS))
    for at in range(0, rows, _PART):
        count = min(_PART, rows - at)
        weight = np.sqrt(random.uniform(0.3, 0.5, (count, 1))).astype(np.float32)
        part = _unit(random.standard_normal((count, DIMENSIONS), np.float32))
        member = random.integers(0, len(centres), count)
        part = _unit(weight * centres[member] + np.sqrt(1 - weight**2) * part)
        if at:
            copies = random.choice(count, count // 10, replace=False)
            of = _unit(out[np.sort(random.integers(0, at, len(copies)))].astype(np.float32))
            away = _unit(part[copies] - (part[copies] * of).sum(1, keepdims=True) * of)
            cosine = random.uniform(0.68, 1.0, (len(copies), 1)).astype(np.float32)
            part[copies] = cosine * of + np.sqrt(1 - cosine**2) * away
        out[at : at + count] = part
    out.flush()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# --- what a task does, in a process of its own ------------------------------------------------


@dataclass(frozen=True)
class Taken:
    """Of one task: seconds of work without its start, and its peak memory.

    ``searched``: processor seconds, of ``cpu``, that leader's own index took.
    """

    wall: float
    cpu: float
    searched: float
    gib: float
    found: int


def start_task(work: str, backend: str, night: Path, arguments: Any) -> subprocess.Popen[str]:
    """A process of one thread that does the work and prints what it took."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.large", "--task", work]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [*command, json.dumps([backend, str(night), arguments])],
        cwd=ROOT,
        env=os.environ | one,
        stdout=subprocess.PIPE,
        text=True,
    )


def taken(process: subprocess.Popen[str]) -> Taken:
    """What a task took, once it is through."""
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a task ended with {process.returncode}")
    return Taken(**json.loads(said))


class Clock:
    """Wall and processor time since it was last started; ``searched``: see ``Taken``."""

    def __init__(self) -> None:
        self.searched = 0.0
        self.start()

    def start(self) -> None:
        """From here on."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Seconds of both."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def task(work: str, said: str) -> None:
    """Do one task's work and print what it took."""
    name, night, arguments = json.loads(said)
    rows = np.load(night, mmap_mode="r")
    backend = open_backend(
        name, fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=THRESHOLD
    )
    clock = Clock()
    works: dict[str, Callable[..., int]] = {
        "cells": compare_cells,
        "single": single_pass,
        "pairs": over_pairs,
        "match": match_rows,
    }
    found = works[work](backend, rows, arguments, clock)
    wall, cpu = clock.read()
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(asdict(Taken(wall, cpu, clock.searched, gib, found))))


def compare_cells(backend: Any, rows: NDArray[np.float16], cells: list[Cell], _: Clock) -> int:
    """Leader's search of some cells; how many pairs it found, from both sides."""
    return sum(len(answer.matches.query) for answer in answers(backend, rows, cells))


def answers(backend: Any, rows: NDArray[np.float16], cells: list[Cell]) -> Iterator[Answer]:
    """What the blocks of some cells answer each other."""
    held: dict[tuple[int, int], Any] = {}
    for a, b, c, d in cells:
        # a cell's own two blocks and no more: neighbouring cells share their first
        held = {key: block for key, block in held.items() if key in ((a, b), (c, d))}
        for key in {(a, b), (c, d)} - set(held):
            held[key] = backend.block(rows[slice(*key)])
        if a == c:
            yield Answer(a, a, held[a, b].within(FLOOR, LISTED), LISTED)
        else:
            left, right = held[a, b].across(held[c, d], FLOOR, LISTED)
            yield Answer(a, c, left, LISTED)
            yield Answer(c, a, right, LISTED)


def single_pass(backend: Any, rows: NDArray[np.float16], count: int, clock: Clock) -> int:
    """The first rows decided by leader without cells: all are searched as they come; kept rows."""
    return _kept(backend, rows[:count], None, clock)


def over_pairs(backend: Any, rows: NDArray[np.float16], count: int, clock: Clock) -> int:
    """The same rows decided over what cells found; the time is without those; kept rows."""
    found = list(answers(backend, rows, cells_of(count)))
    clock.start()
    pairs = gather(found, np.arange(count, dtype=np.int32), count)
    return _kept(backend, rows[:count], pairs, clock)


def _kept(backend: Any, rows: NDArray[np.float16], found: Found | None, clock: Clock) -> int:
    index = _Timed(backend.growing(DIMENSIONS))
    everything = Compared.first(near(THRESHOLD, FLOOR), rows, index)
    kept = lead([replace(everything, found=found)], LIMIT).kept
    clock.searched = index.cpu
    return int(kept.sum())


class _Timed:
    """A growing index that knows the processor seconds of its searches."""

    def __init__(self, index: Any) -> None:
        self._index, self.cpu = index, 0.0

    def __len__(self) -> int:
        return len(self._index)

    def add(self, rows: NDArray[Any]) -> None:
        self._index.add(rows)

    def search(self, queries: NDArray[Any], floor: float, limit: int) -> Matches:
        start = time.process_time()
        found: Matches = self._index.search(queries, floor, limit)
        self.cpu += time.process_time() - start
        return found


def match_rows(backend: Any, rows: NDArray[np.float16], counts: list[int], clock: Clock) -> int:
    """Match's search of the first rows in the last, whose codes are stored."""
    new, history = counts
    segment = rows[-history:]
    codes, kept = backend.codes(segment), np.ones(history, np.bool_)
    clock.start()
    found = backend.search(np.array(rows[:new]), segment, codes, kept, FLOOR, LIMIT)
    return len(found.query)


# --- the parts ----------------------------------------------------------------------------------


class State:
    """Figures measured so far, in a file: part -> ... -> figure (see ``benchmarks.large_page``)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def once(self, names: tuple[str, ...], measure: Callable[[], Any]) -> Any:
        """What was measured under these names; measured now if it was not."""
        *way, last = names
        at = self.figures
        for name in way:
            at = at.setdefault(name, {})
        if last not in at:
            print(f"{datetime.now(UTC):%H:%M:%S} {' '.join(names)} ...", flush=True)
            at[last] = measure()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self.figures, indent=1))
        return at[last]

    def same(self, name: str, asked: dict[str, Any]) -> None:
        """Sizes of a part; figures of other sizes do not go beside them.

        Raises:
            SystemExit: what is measured already is of other sizes.
        """
        at = self.figures.setdefault(name, {})
        for key, value in asked.items():
            if at.setdefault(key, value) != value:
                raise SystemExit(f"{self._path} is of {key} {at[key]}, not {value}: remove it")


def leader(state: State, night: Path, rows: int, most: int, single: int) -> None:
    """Cells by one task and by two at once; the pass over pairs; the single pass."""
    every = cells_of(rows)
    chosen = every[:: max(1, len(every) // most)] if most else every
    costs = [round(2 * pairs_of(cell)) for cell in chosen]
    sizes = {
        "rows": rows,
        "cells": len(every),
        "pairs": sum(map(pairs_of, every)),
        "measured_cells": len(chosen),
        "measured_pairs": sum(map(pairs_of, chosen)),
        "single_rows": single,
    }
    state.same("leader", sizes)
    for backend in BACKENDS:

        def tasks(count: int, backend: str = backend) -> list[dict[str, float]]:
            shares = [chosen[slice_of(share(costs, part, count))] for part in range(count)]
            started = [start_task("cells", backend, night, mine) for mine in shares]
            return [asdict(taken(process)) for process in started]

        def one_pass(work: str, backend: str = backend) -> dict[str, float]:
            return asdict(taken(start_task(work, backend, night, single)))

        state.once(("leader", backend, "one"), lambda tasks=tasks: tasks(1))
        state.once(("leader", backend, "two"), lambda tasks=tasks: tasks(2))
        for work in ("single", "pairs"):
            state.once(("leader", backend, work), lambda work=work, of=one_pass: of(work))


def slice_of(numbers: range) -> slice:
    """The same numbers of a list."""
    return slice(numbers.start, numbers.stop)


def memory(state: State, night: Path, rows: int) -> None:
    """Peak memory of a task that compares two blocks of the size of a larger night's."""
    size = min(len(blocks(MEMORY_NIGHT)[0]), rows // 2)

    def one_cell() -> dict[str, float]:
        found = taken(start_task("cells", "sketch", night, [(0, size, size, 2 * size)]))
        return asdict(found) | {"rows": size}

    state.once(("memory", "sketch"), one_cell)


def match(state: State, night: Path, rows: int) -> None:
    """Seconds of match's search by each backend, one thread."""
    new, history = min(10_000, rows // 10), min(200_000, rows // 2)
    for backend in BACKENDS:

        def search(backend: str = backend) -> dict[str, float]:
            took = taken(start_task("match", backend, night, (new, history)))
            return asdict(took) | {"pairs": new * history}

        state.once(("match", backend), search)


def another(name: str, *arguments: str) -> list[float]:
    """Numbers that another benchmark prints (``PRINTED``)."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(f"benchmarks.{name}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return numbers(name, done.stdout)


def numbers(name: str, printed: str) -> list[float]:
    """What ``PRINTED`` looks for in what a benchmark printed.

    Raises:
        RuntimeError: it is not there.
    """
    found = re.search(PRINTED[name], printed)
    if not found:
        raise RuntimeError(f"benchmarks.{name} prints no {PRINTED[name]!r}:\n{printed}")
    return [float(each.replace(",", "")) for each in found.groups()]


def resolve(state: State, samples: list[int]) -> None:
    """Seconds and GiB at each number of samples; one by one, so that a cut run goes on."""
    for count in samples:
        state.once(("resolve", str(count)), lambda n=count: another("resolve", "--rows", str(n)))


def main() -> int:
    """Measure, print the section; exit code 3 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of leader's night")
    parser.add_argument("--cells", type=int, default=48, help="measured of all; 0: all of them")
    parser.add_argument("--single", type=int, default=100_000, help="rows of the single pass")
    parser.add_argument("--samples", default="1000000,2000000,4000000", help="resolve's")
    parser.add_argument("--only", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--state", type=Path, default=STATE, help="what is measured already")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.task:
        task(*said.task)
        return 0
    state, only = State(said.state), said.only.split(",")
    state.once(("machine",), machine)
    with tempfile.TemporaryDirectory(prefix="bench-large-") as folder:
        night = Path(folder) / "night.npy"
        if {"leader", "memory", "match"} & set(only):
            write_night(night, said.rows)
        if "leader" in only:
            leader(state, night, said.rows, said.cells, min(said.single, said.rows))
        if "memory" in only:
            memory(state, night, said.rows)
        if "match" in only:
            match(state, night, said.rows)
    if "resolve" in only:
        resolve(state, [int(each) for each in said.samples.split(",")])
    if "ingest" in only:
        state.once(("ingest",), lambda: another("ingest_read"))
    if "publish" in only:
        state.once(("publish",), lambda: another("publish_copy"))
    text, good = section(state.figures)
    print(text)
    if said.write:
        write(text)
    return 0 if good else 3


if __name__ == "__main__":
    raise SystemExit(main())
