"""Leader of one large night against itself, beside a bare FAISS range search of the same size.

100,000 new x 512 dimensions, clustered, a tenth of them copies of earlier ones. The reference is a
FAISS range search of all against all, timed on every tenth query and scaled; leader runs in full.

Run: ``python -m benchmarks.leader [--rows N]``.
"""

from __future__ import annotations

import argparse
import time

import faiss
import numpy as np

from benchmarks.match import DIGEST, DIMENSIONS, FLOOR, LIMIT, THRESHOLD, make_data
from sscd_ops.core.leader import lead
from sscd_ops.index.backends import open_backend

TARGET = 0.6
NAMES = ("flat", "exact", "sketch")
EVERY = 10


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
    start = time.perf_counter()
    index.range_search(wide[::EVERY], THRESHOLD)
    reference = (time.perf_counter() - start) * EVERY
    del index, wide
    print(f"\nleader: {rows:,} new among themselves x {DIMENSIONS}, clustered")
    print(f"{'backend':8} {'seconds':>8} {'ratio':>6} {'target':>7} {'kept':>8}")
    print(f"{'faiss':8} {reference:8.2f} {1:6.3f}         (every tenth query, scaled)")
    good, expected = True, None
    for name in NAMES:
        backend = open_backend(
            name, fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=THRESHOLD
        )
        start = time.perf_counter()
        found = lead(
            batch, np.full(rows, -np.inf), THRESHOLD, FLOOR, LIMIT, backend.growing(DIMENSIONS)
        )
        seconds = time.perf_counter() - start
        decided = (found.kept.tobytes(), found.witness.tobytes(), found.similarity.tobytes())
        expected = decided if expected is None else expected
        met = decided == expected and seconds <= TARGET * reference
        good &= met
        print(
            f"{name:8} {seconds:8.2f} {seconds / reference:6.3f} {TARGET:7.2f}"
            f" {found.kept.sum():8,} {'equal' if decided == expected else 'DIFFERENT'}"
            f"{'' if met else '  MISSED'}"
        )
    return 0 if good else 3


if __name__ == "__main__":
    raise SystemExit(main())
