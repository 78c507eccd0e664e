"""How often `sketch` misses a pair exactly at the threshold, beside what its derivation says.

Pairs at a similarity of exactly the threshold are the worst case: more similar ones are missed
less. Three kinds of vectors, ten rotations (fingerprints) each: isotropic; of a decaying spectrum
(64 directions carry nine tenths of the energy); sparse (eight coordinates hold all of it). Also
the share of pairs at lower similarities that become candidates. Run: ``python -m benchmarks.recall
[--pairs N]``; N pairs for each line.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

import numpy as np

from sscd_ops.index.sketch import Sketch
from sscd_ops.index.sketch_radius import miss_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROTATIONS = 10
KINDS = ("isotropic", "decaying", "sparse")
LINES = ((512, 0.75), (512, 0.6), (512, 0.5), (192, 0.75))


def pairs(
    kind: str, count: int, dimensions: int, cosine: float, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two times (count, d) unit vectors, row by row at exactly this similarity."""

    def draw() -> NDArray[np.float32]:
        vectors = random.standard_normal((count, dimensions), np.float32)
        if kind == "decaying":
            vectors[:, 64:] *= math.sqrt(64 / (9 * (dimensions - 64)))
        elif kind == "sparse":
            vectors[:, 8:] = 0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    left, away = draw(), draw()
    away -= (away * left).sum(1, keepdims=True) * left
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return left, np.float32(cosine) * left + np.float32(math.sqrt(1 - cosine**2)) * away


def distances(
    kind: str, count: int, dimensions: int, threshold: float, cosine: float
) -> tuple[NDArray[np.uint16], Sketch]:
    """Hamming distances of the codes of ``count`` pairs, and the backend that made them."""
    random = np.random.default_rng(7)
    found = []
    for number in range(ROTATIONS):
        sketch = Sketch(f"{number:064x}", dimensions, threshold)
        for _ in range(0, count // ROTATIONS, 10_000):
            sides = pairs(kind, 10_000, dimensions, cosine, random)
            left, right = (sketch.codes(side.astype(np.float16))[sketch.role] for side in sides)
            found.append(np.bitwise_count(left ^ right).sum(axis=1, dtype=np.uint16))
    return np.concatenate(found), sketch


def main() -> int:
    """Print the tables; exit code 3 where the promise of docs/search.md is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400_000)
    count = parser.parse_args().pairs
    good = True
    print(
        f"{'d':>4} {'t':>5} {'bits':>4} {'radius':>6} {'derived':>9} {'data':10} {'pairs':>9}"
        f" {'missed':>6} {'recall':>9}"
    )
    for dimensions, threshold in LINES:
        for kind in KINDS:
            found, sketch = distances(kind, count, dimensions, threshold, threshold)
            missed = int((found > sketch.radius).sum())
            derived = miss_rate(sketch.bits, threshold, sketch.radius)
            # beyond this the derived rate would be contradicted (Poisson, five deviations)
            good &= missed <= derived * len(found) + 5 * math.sqrt(derived * len(found)) + 1
            print(
                f"{dimensions:4} {threshold:5} {sketch.bits:4} {sketch.radius:6} {derived:9.1e}"
                f" {kind:10} {len(found):9,} {missed:6} {1 - missed / len(found):9.6f}"
            )
    print(f"\nshare of pairs that become candidates, d = 512, isotropic, {count // 10:,} each")
    cosines = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7)
    print(f"{'t':>5} " + " ".join(f"{f'at {cosine}':>8}" for cosine in cosines))
    for threshold in (0.75, 0.6, 0.5):
        shares = []
        for cosine in cosines:
            found, sketch = distances("isotropic", count // 10, 512, threshold, cosine)
            shares.append(float((found <= sketch.radius).mean()))
        print(f"{threshold:5} " + " ".join(f"{share:8.5f}" for share in shares))
    return 0 if good else 3


if __name__ == "__main__":
    raise SystemExit(main())
