"""Leader of one large night against itself, beside a bare FAISS range search of the same size.

100,000 new x 512 dimensions, clustered, a tenth of them copies of earlier ones. The reference is a
FAISS range search of all against all, timed on every tenth query and scaled; leader runs in full.

Then what it costs to compare a night in blocks beforehand, as match's tasks do, and to go over the
pairs they found: processor time of one thread, beside leader that compares everything itself. Of
this night nothing is removed, so both compare the same.

Run: ``python -m benchmarks.leader [--rows N] [--in-blocks N]``; the pass over pairs alone, with
pairs made up, and its memory: ``python -m benchmarks.leader --pairs-of N``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.match import DIGEST, DIMENSIONS, FLOOR, LIMIT, THRESHOLD, make_data
from sscd_ops.core.found import Answer, Found, gather
from sscd_ops.core.leader import Compared, Leader, lead
from sscd_ops.core.measures import near
from sscd_ops.index.backends import open_backend

TARGET = 0.6
NAMES = ("flat", "exact", "sketch")
EVERY = 10
ROUNDS = 3
BLOCKS = (16_384, 8_192)
MOST = 1.15
PAIRS, CUT = 3, 0.002


def _lead(name: str, batch: NDArray[np.float16]) -> tuple[float, Leader]:
    """A night decided with a backend: seconds, and what was decided."""
    backend = open_backend(
        name, fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=THRESHOLD
    )
    compared = Compared.first(near(THRESHOLD, FLOOR), batch, backend.growing(DIMENSIONS))
    start = time.perf_counter()
    found = lead([compared], LIMIT)
    return time.perf_counter() - start, found


def _in_blocks(name: str, batch: NDArray[np.float16], block: int) -> tuple[list[float], bool]:
    """Processor seconds of leader, of blocks, of the pass over pairs; whether all is equal."""
    backend = open_backend(
        name, fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=THRESHOLD
    )
    by, history = near(THRESHOLD, FLOOR), np.full(len(batch), -np.inf)
    at = [time.process_time()]
    expected = lead([Compared(by, batch, history, backend.growing(DIMENSIONS))], LIMIT)
    at.append(time.process_time())
    blocks = [backend.block(batch[first : first + block]) for first in range(0, len(batch), block)]
    answers = []
    for number, own in enumerate(blocks):
        first = number * block
        answers.append(Answer(first, first, own.within(FLOOR, LIMIT), LIMIT))
        for other, theirs in enumerate(blocks[:number]):
            forth, back = own.across(theirs, FLOOR, LIMIT)
            answers.append(Answer(first, other * block, forth, LIMIT))
            answers.append(Answer(other * block, first, back, LIMIT))
    at.append(time.process_time())
    pairs = gather(answers, np.arange(len(batch), dtype=np.int32), len(batch))
    found = lead([Compared(by, batch, history, backend.growing(DIMENSIONS), pairs)], LIMIT)
    at.append(time.process_time())
    equal = (found.kept == expected.kept).all() and (found.witness == expected.witness).all()
    return np.diff(at).tolist(), bool(equal)


def _compare_in_blocks(rows: int) -> bool:
    """Print the table of blocks; whether the target was met."""
    batch, _ = make_data("clustered", rows, 10)
    print(f"\nin blocks: {rows:,} new, nothing removed; processor seconds of one thread")
    print(f"{'backend':8} {'block':>7} {'leader':>7} {'blocks':>7} {'pass':>6} {'ratio':>6}")
    good = True
    for block in BLOCKS:
        for name in NAMES:
            with threadpool_limits(1):
                (whole, cells, over), equal = _in_blocks(name, batch, block)
            ratio = (cells + over) / whole
            met = equal and ratio <= MOST
            good &= met
            print(
                f"{name:8} {block:7,} {whole:7.2f} {cells:7.2f} {over:6.2f} {ratio:6.3f}"
                f" {'equal' if equal else 'DIFFERENT'}{'' if met else '  MISSED'}"
            )
    return good


class _Repeated:
    """Some rows over and over, as rows of a larger batch."""

    def __init__(self, rows: NDArray[np.float16], count: int) -> None:
        self._rows, self._count = rows, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.float16]:
        return self._rows[numbers % len(self._rows)]


def _pass_over_pairs(rows: int) -> None:
    """Print what leader takes over made-up pairs, each listed from both sides."""
    random = np.random.default_rng(1)
    one = random.integers(0, rows, PAIRS * rows, np.int32)
    other = (one + random.integers(1, rows, len(one))).astype(np.int32) % rows
    similarity = random.uniform(FLOOR, 1.0, len(one))
    pairs = Found(
        np.concatenate([one, other]),
        np.concatenate([other, one]),
        np.concatenate([similarity, similarity]),
        random.random(rows) < CUT,
    )
    strangers, _ = make_data("clustered", 65_536, 10)
    backend = open_backend(
        "flat", fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=THRESHOLD
    )
    history, index = np.full(rows, -np.inf), backend.growing(DIMENSIONS)
    by = near(THRESHOLD, FLOOR)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, start = _resident("VmRSS"), time.process_time()
    found = lead([Compared(by, _Repeated(strangers, rows), history, index, pairs)], LIMIT)
    seconds, memory = time.process_time() - start, _resident("VmHWM") - before
    print(
        f"leader over pairs: {rows:,} rows, {len(one):,} pairs listed twice, {pairs.cut.sum():,}"
        f" rows cut: {seconds:.1f} cpu s, {memory:,.0f} MiB more; {found.kept.sum():,} kept"
    )


def _resident(key: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


def main() -> int:
    """Print the table; exit code 3 where a target was missed or kept rows differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--in-blocks", type=int, default=20_000)
    parser.add_argument("--pairs-of", type=int)
    args = parser.parse_args()
    if args.pairs_of:
        _pass_over_pairs(args.pairs_of)
        return 0
    rows = args.rows
    old, new = make_data("clustered", rows * 9 // 10, rows - rows * 9 // 10)
    batch = np.concatenate([old, new])
    np.random.default_rng(2).shuffle(batch)
    wide = batch.astype(np.float32)
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(wide)
    seconds: dict[str, list[float]] = {name: [] for name in ("faiss", *NAMES)}
    decided: dict[str, tuple[bytes, bytes, bytes]] = {}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        index.range_search(wide[::EVERY], THRESHOLD)
        seconds["faiss"].append((time.perf_counter() - start) * EVERY)
        for name in NAMES:
            taken, found = _lead(name, batch)
            seconds[name].append(taken)
            decided[name] = (
                found.kept.tobytes(),
                found.witness.tobytes(),
                found.similarity.tobytes(),
            )
            kept = found.kept.sum()
    reference = statistics.median(seconds["faiss"])
    print(f"\nleader: {rows:,} new among themselves x {DIMENSIONS}, clustered")
    print(f"{'backend':8} {'seconds':>8} {'ratio':>6} {'target':>7} {'kept':>8}")
    how = f"(every tenth query, scaled; medians of {ROUNDS} rounds)"
    print(f"{'faiss':8} {reference:8.2f} {1:6.3f}         {how}")
    good = True
    for name in NAMES:
        taken = statistics.median(seconds[name])
        equal = decided[name] == decided["flat"]
        met = equal and taken <= TARGET * reference
        good &= met
        print(
            f"{name:8} {taken:8.2f} {taken / reference:6.3f} {TARGET:7.2f}"
            f" {kept:8,} {'equal' if equal else 'DIFFERENT'}"
            f"{'' if met else '  MISSED'}"
        )
    good &= _compare_in_blocks(args.in_blocks)
    return 0 if good else 3


if __name__ == "__main__":
    raise SystemExit(main())
