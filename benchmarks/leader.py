"""Leader of one large night against itself, beside a bare FAISS range search of the same size.

100,000 new x 512 dimensions, clustered, a tenth of them copies of earlier ones. The reference is a
FAISS range search of all against all, timed on every tenth query and scaled; leader runs in full.

Run: ``python -m benchmarks.leader [--rows N]``.
"""

from __future__ import annotations

import argparse
import statistics
import time

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.match import DIGEST, DIMENSIONS, FLOOR, LIMIT, THRESHOLD, make_data
from sscd_ops.core.leader import Compared, Leader, lead
from sscd_ops.core.measures import near
from sscd_ops.index.backends import open_backend

TARGET = 0.6
NAMES = ("flat", "exact", "sketch")
EVERY = 10
ROUNDS = 3


def _lead(name: str, batch: NDArray[np.float16]) -> tuple[float, Leader]:
    """A night decided with a backend: seconds, and what was decided."""
    backend = open_backend(
        name, fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=THRESHOLD
    )
    compared = Compared.first(near(THRESHOLD, FLOOR), batch, backend.growing(DIMENSIONS))
    start = time.perf_counter()
    found = lead([compared], LIMIT)
    return time.perf_counter() - start, found


def main() -> int:
    """Print the table; exit code 3 where a target was missed or kept rows differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
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
    return 0 if good else 3


if __name__ == "__main__":
    raise SystemExit(main())
