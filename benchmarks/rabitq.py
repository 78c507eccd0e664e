"""IVF-RaBitQ as a search of history: what it misses near the threshold, its time beside `sketch`.

A prototype; decision 18 says why it is no backend. The index is FAISS's IVF of 512-bit RaBitQ codes
(fast scan), trained and filled with one history, as a merged segment's would be. Queries are copies
of rows at a similarity from the threshold to .02 above it, one of each row at most, of two kinds:
of a random direction (``noise``), and mixtures of a row and another one (``mixture``, as collages
and overlays are). What FAISS answers gets canonical similarities; a pair is missed where its row is
not among the answers. `exact`, which misses nothing, and `sketch` search the same in the same run.

All times are processor seconds of one thread, the least of ``--rounds``. Upper bounds are at 95%,
one side: 3 / n where none was missed, Wilson's otherwise.

Run: ``python -m benchmarks.rabitq [--rows N] [--pairs N] [--kinds LIST] [--thresholds LIST]``; with
``--determinism``: how equal indexes of equal data are across threads and instruction sets; with
``--pictures FOLDER``: what lists miss of copies of real pictures (``FOLDER/*.tar``), described by
the bundled model, beside as many vectors of random directions.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.held_out import _members
from benchmarks.match import DIGEST, DIMENSIONS, LIMIT, make_data
from sscd_ops.core.canonical import pair_similarities, widen
from sscd_ops.descriptors.embedder import open_embedder
from sscd_ops.descriptors.models import MODELS
from sscd_ops.evaluation.describing import describe
from sscd_ops.evaluation.picture_sets import Spool
from sscd_ops.evaluation.transformations import TRANSFORMATIONS, kinds, make_copy
from sscd_ops.index.backends import open_backend
from sscd_ops.index.rotation import length, rotation
from sscd_ops.index.scan import TILE_QUERIES
from sscd_ops.options import FingerprintOptions
from sscd_ops.ports import Silence

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BAND = 0.02
"""Pairs are planted from the threshold to this much above it."""
MARGIN = 0.05
"""The stored floor is this much below the threshold, as in settings."""
CUT = 0.12
"""Estimates this far below the threshold are not reranked: more than five deviations."""
TRAINED = 64
"""Rows a list that k-means is trained on."""
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SEARCHES = ((4, 8), (8, 8), (16, 8), (16, 64), (64, 8))
"""(lists probed, rows of the best estimates) that are timed."""
KINDS = ("isotropic", "clustered")


@dataclass(frozen=True)
class Planted:
    """Queries and the rows they are copies of.

    Attributes:
        history: float16 (rows, d).
        queries: float16 (n, d).
        row: int64 (n,), the row of history that a query is a copy of.
        similarity: float64 (n,), canonical, all at or above the threshold.
        mixture: bool (n,), whether what it was mixed with is another row.
    """

    history: NDArray[np.float16]
    queries: NDArray[np.float16]
    row: NDArray[np.int64]
    similarity: NDArray[np.float64]
    mixture: NDArray[np.bool_]

    def missed(self, answers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of which pairs the row is not among a query's answers (n, k)."""
        return ~(answers == self.row[:, None]).any(axis=1)


def plant(history: NDArray[np.float16], pairs: int, threshold: float, seed: int = 3) -> Planted:
    """``pairs`` copies of each kind in the band above the threshold."""
    random = np.random.default_rng(seed)
    row = random.choice(len(history), 2 * pairs, replace=False)
    mixture = np.arange(2 * pairs) >= pairs
    of = _unit(widen(history[row]))
    away = random.standard_normal(of.shape, np.float32)
    away[mixture] = widen(history[random.integers(0, len(history), pairs)])
    away = _unit(away - (away * of).sum(1, keepdims=True) * of)
    cosine = random.uniform(threshold, threshold + BAND, (2 * pairs, 1)).astype(np.float32)
    queries = (cosine * of + np.sqrt(1 - cosine**2) * away).astype(np.float16)
    similarity = pair_similarities(queries, history, np.arange(len(row)), row)
    good = similarity >= threshold  # rounding to float16 moves a few below it
    return Planted(history, queries[good], row[good], similarity[good], mixture[good])


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def upper(missed: int, pairs: int) -> float:
    """A miss rate that the true one is below, at 95%, one side."""
    if missed == 0:
        return 3 / pairs
    z, rate = 1.6449, missed / pairs
    spread = z * math.sqrt(rate * (1 - rate) / pairs + z**2 / (4 * pairs**2))
    return (rate + z**2 / (2 * pairs) + spread) / (1 + z**2 / pairs)


def rotated(descriptors: NDArray[np.float16]) -> NDArray[np.float32]:
    """The vectors that RaBitQ takes: rotated at random, with `sketch`'s rotation of exact sums."""
    turn = rotation(DIGEST, "rabitq", DIMENSIONS)
    out = np.empty(descriptors.shape, np.float32)
    for at in range(0, len(out), 4096):
        block = widen(descriptors[at : at + 4096]).astype(np.float64)
        out[at : at + 4096] = block @ turn / length(DIMENSIONS)
    return out


def build(vectors: NDArray[np.float32], lists: int) -> tuple[Any, float, float]:
    """The index of all rows; processor seconds of training and of encoding."""
    index = faiss.IndexIVFRaBitQFastScan(
        faiss.IndexFlatIP(DIMENSIONS), DIMENSIONS, lists, faiss.METRIC_INNER_PRODUCT, 32, True, 1
    )
    index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = 7, 10, TRAINED
    sample = np.random.default_rng(7).permutation(len(vectors))[: TRAINED * lists]
    start = time.process_time()
    index.train(vectors[np.sort(sample)])
    trained = time.process_time()
    index.add(vectors)
    return index, trained - start, time.process_time() - trained


def timed(work: Callable[[], Any], rounds: int = 1) -> tuple[Any, float]:
    """What it answers, and the processor seconds of its fastest round."""
    took = []
    for _ in range(rounds):
        start = time.process_time()
        answer = work()
        took.append(time.process_time() - start)
    return answer, min(took)


def search(index: Any, planted: Planted, most: int, threshold: float) -> NDArray[np.int64]:
    """As a backend would: rotate, ask for the ``most`` nearest by estimate, rerank.

    Returns:
        int64 (n, most): rows that were reranked, -1 where the estimate was too low for it.
    """
    estimate, rows = nearest(index, planted.queries, most)
    rows[estimate < threshold - CUT] = -1
    query, rank = np.nonzero(rows >= 0)
    pair_similarities(planted.queries, planted.history, query, rows[query, rank])
    return rows


def nearest(
    index: Any, queries: NDArray[np.float16], most: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Estimates and rows (n, most), query block by query block.

    FAISS keeps a table of 2 KB for each query and list probed, and 1.15.1 crashes where those of
    one call pass 2 GiB.
    """
    blocks = [
        index.search(rotated(queries[at : at + TILE_QUERIES]), most)
        for at in range(0, len(queries), TILE_QUERIES)
    ]
    estimates, rows = zip(*blocks, strict=True)
    return np.concatenate(estimates), np.concatenate(rows)


def measure(kind: str, threshold: float, said: argparse.Namespace) -> None:
    """Print one kind of data at one threshold."""
    rows, lists = said.rows, said.lists
    history, _ = make_data(kind, rows, 10)
    planted = plant(history, said.pairs, threshold)
    print(
        f"\n{kind}, threshold {threshold:g}: {rows:,} rows x {DIMENSIONS}, {lists:,} lists,"
        f" {len(planted.row):,} pairs up to {threshold + BAND:g}"
    )
    vectors = rotated(history)
    index, training, encoding = build(vectors, lists)
    codes, sketch_codes = timed(lambda: _backend("sketch", threshold).codes(history))
    each = index.code_size + 8 + 4 * DIMENSIONS * lists / rows
    width = next(iter(codes.values())).shape[1]
    print(
        f"made in {training:.1f} s of training + {encoding:.1f} s of encoding, {each:.0f} bytes a"
        f" row; sketch in {sketch_codes:.1f} s, {width} bytes"
    )
    _lists(index, planted)
    _left_out(index, vectors, planted, threshold)
    _searches(index, planted, threshold, vectors, said.rounds)


def _lists(index: Any, planted: Planted) -> None:
    """What lists alone miss: a pair whose row lies in a list that is not probed."""
    probed = [p for p in PROBES if p <= index.nlist]
    _, near = index.quantizer.search(rotated(planted.queries), probed[-1])
    _, home = index.quantizer.search(rotated(planted.history[planted.row]), 1)
    rank = np.where(near == home, np.arange(probed[-1]), index.nlist).min(axis=1)
    print(f"{'':26}{'noise':>21}{'mixture':>22}")
    print(f"{'lists probed':26}" + f"{'missed':>10}{'below':>11}" * 2)
    for probes in probed:
        said = ""
        for part in (~planted.mixture, planted.mixture):
            missed = int((rank[part] >= probes).sum())
            said += f"{missed:10,}{upper(missed, int(part.sum())):11.1e}"
        print(f"{probes:<26}{said}")


def _left_out(index: Any, vectors: NDArray[np.float32], planted: Planted, threshold: float) -> None:
    """Print the share of lists that a bound could leave out, whatever the data.

    By the angle between a query and the row of a list that is farthest from its centre; or by how
    far beyond the border to the query's own list a list's rows begin.
    """
    queries = _unit(rotated(planted.queries[:2000]))
    centres = index.quantizer.reconstruct_n(0, index.nlist)
    near, home = index.quantizer.search(vectors, 1)
    widest = np.zeros(index.nlist)
    angle = np.arccos(np.clip(near[:, 0] / np.linalg.norm(vectors, axis=1), -1, 1))
    np.maximum.at(widest, home[:, 0], angle)
    product = queries @ centres.T
    reach = math.acos(threshold)
    by_angle = np.arccos(np.clip(product, -1, 1)) - widest > reach
    nearest = product.argmax(axis=1)
    gap = product[np.arange(len(queries)), nearest][:, None] - product
    away = np.sqrt(np.maximum(2 - 2 * (centres[nearest] @ centres.T), 1e-12))
    by_border = gap / away > math.sin(reach)
    print(f"lists that a bound for any data leaves out: {(by_angle | by_border).mean():.4f}")


def _searches(
    index: Any,
    planted: Planted,
    threshold: float,
    vectors: NDArray[np.float32],
    rounds: int,
) -> None:
    """The table of searches, and what the estimates of the planted pairs are worth."""
    seconds: dict[str, float] = {}
    print(f"{'search':26}{'cpu s':>8}{'of sketch':>10}{'missed':>10}{'below':>11}")

    def say(name: str, took: float, missed: int) -> None:
        seconds[name] = took
        ratio = took / seconds["sketch"]
        print(
            f"{name:26}{took:8.2f}{ratio:10.2f}{missed:10,}{upper(missed, len(planted.row)):11.1e}"
        )

    for name in ("sketch", "exact"):
        answer, took = timed(_by_backend(name, planted, threshold), rounds)
        found = set(zip(answer.query.tolist(), answer.reference.tolist(), strict=True))
        say(name, took, sum((q, r) not in found for q, r in enumerate(planted.row.tolist())))
    for probes, most in SEARCHES:
        index.nprobe = min(probes, index.nlist)
        answer, took = timed(lambda most=most: search(index, planted, most, threshold), rounds)
        say(f"rabitq {probes} lists, best {most}", took, int(planted.missed(answer).sum()))
    every = faiss.IndexRaBitQFastScan(DIMENSIONS, faiss.METRIC_INNER_PRODUCT, 32, 1)
    every.train(vectors)
    every.add(vectors)
    answer, took = timed(lambda: search(every, planted, 8, threshold), rounds)
    say("rabitq without lists", took, int(planted.missed(answer).sum()))
    _estimates(every, planted, threshold)
    index.nprobe = index.nlist
    _ranges(index, planted, threshold)


def _backend(name: str, threshold: float) -> Any:
    return open_backend(name, fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=threshold)


def _by_backend(name: str, planted: Planted, threshold: float) -> Callable[[], Any]:
    """A search of the product; its codes are stored before, the queries' are not."""
    backend = _backend(name, threshold)
    codes = backend.codes(planted.history)
    kept = np.ones(len(planted.history), np.bool_)
    return lambda: backend.search(
        planted.queries.copy(), planted.history, codes, kept, threshold - MARGIN, LIMIT
    )


def _estimates(every: Any, planted: Planted, threshold: float) -> None:
    """How far estimates are from the truth: what a cut below the threshold would miss."""
    estimate, rows = nearest(every, planted.queries, 8)
    query, rank = np.nonzero(rows == planted.row[:, None])
    error = estimate[query, rank] - planted.similarity[query]
    deviation = float(error.std())
    print(
        f"estimate - similarity: mean {error.mean():+.4f}, deviation {deviation:.4f},"
        f" least {error.min():.3f}; a cut 4.26 deviations below misses one in 100,000 if normal"
    )
    for below in (3.0, 4.0, 4.26, 5.0):
        cut = threshold - below * deviation
        missed = int((estimate[query, rank] < cut).sum()) + len(planted.row) - len(query)
        others = (int((estimate >= cut).sum()) - len(query) + missed) / len(planted.row)
        print(
            f"  cut {below:4.2f} deviations below: {missed} missed, below"
            f" {upper(missed, len(planted.row)):.1e}; {others:.3f} others a query"
        )


def _ranges(index: Any, planted: Planted, threshold: float) -> None:
    """Whether FAISS's own range search, all lists probed, answers by the same estimates."""
    some = slice(0, 500)
    limits, _, rows = index.range_search(rotated(planted.queries[some]), threshold - 0.15)
    found = [
        row in rows[limits[q] : limits[q + 1]] for q, row in enumerate(planted.row[some].tolist())
    ]
    print(
        f"FAISS's range search .15 below, all lists: {np.mean(found):.3f} of {len(found)} pairs,"
        f" {len(rows) / len(found):,.0f} rows a query"
    )


_WAYS: dict[str, dict[str, str]] = {
    "one thread": {},
    "one thread again": {},
    "two threads": {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    "BLAS of another processor": {"OPENBLAS_CORETYPE": "Haswell"},
    "FAISS without AVX-512": {"FAISS_SIMD_LEVEL": "AVX2"},
    "both": {"OPENBLAS_CORETYPE": "Haswell", "FAISS_SIMD_LEVEL": "AVX2"},
}
"""Of a process; the last three stand for another machine."""


def determinism() -> None:
    """Build and search the same in processes that differ as machines do."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    print(
        f"\nequal data and seed, 40,000 isotropic rows, 256 lists\n{'':26}{'centres':>10}", end=""
    )
    print(f"{'codes':>10}{'answers':>10}")
    for name, way in _WAYS.items():
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.rabitq", "--digests"],
            env=os.environ | one | way,
            capture_output=True,
            text=True,
            check=True,
        )
        print(f"{name:26}" + "".join(f"{digest:>10}" for digest in done.stdout.split()))


def digests() -> None:
    """Print what identifies the centres, the codes and the answers of one index; what it misses."""
    history, _ = make_data("isotropic", 40_000, 10)
    planted = plant(history, 1000, 0.75)
    index, _, _ = build(rotated(history), 256)
    index.nprobe = 16
    centres = index.quantizer.reconstruct_n(0, index.nlist)
    estimates, rows = nearest(index, planted.queries, 8)
    whole = faiss.serialize_index(index)
    for part in (centres, whole, np.concatenate([estimates.view(np.int32), rows], axis=1)):
        print(hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()[:8])
    print(int(planted.missed(rows).sum()))


def pictures(folder: Path, most: int) -> None:
    """Print what lists miss of real copies: two edits, drawn, of each picture."""
    edits = kinds([each.name for each in TRANSFORMATIONS if each.edit])
    originals, copies, copy_of = Spool(), Spool(), []
    for row, (key, data) in enumerate(islice(_members(folder), most)):
        originals.add(key, data)
        for number in np.random.default_rng(row).choice(len(edits), 2, replace=False):
            copies.add(f"{key}-{number}", make_copy(data, edits[number]))
            copy_of.append(row)
    with (
        tempfile.TemporaryDirectory() as cache,
        open_embedder(FingerprintOptions("sscd_small"), Path(cache)) as embedder,
    ):
        described = describe(embedder, originals, Silence()).without_plain()
        asked = describe(embedder, copies, Silence()).without_plain()
    of = np.array(copy_of)[asked.rows]
    asked_here = np.isin(of, described.rows)
    queries, row = asked.descriptors[asked_here], np.searchsorted(described.rows, of[asked_here])
    history, threshold = described.descriptors, MODELS["sscd_small"].threshold
    similarity = pair_similarities(queries, history, np.arange(len(row)), row)
    good = similarity >= threshold
    queries, row, similarity = queries[good], row[good], similarity[good].astype(np.float32)
    random = np.random.default_rng(5)
    lists = max(2, len(history) // 40)
    print(
        f"\n{len(history):,} pictures, {lists} lists; {len(row):,} copies at {threshold:g} or more,"
        f" {int((similarity < threshold + MARGIN).sum()):,} of them below {threshold + MARGIN:g}"
    )
    even = _unit(random.standard_normal(history.shape, np.float32))
    away = random.standard_normal(queries.shape, np.float32)
    away = _unit(away - (away * even[row]).sum(1, keepdims=True) * even[row])
    cosine = similarity[:, None]
    made = cosine * even[row] + np.sqrt(np.maximum(1 - cosine**2, 0)) * away
    near = similarity < threshold + MARGIN
    print(f"{'lists probed':14}{'share':>7}{'pictures':>18}{'random directions':>20}   (all, near)")
    real_rank = _rank(widen(history), widen(queries), row, lists)
    even_rank = _rank(even, made, row, lists)
    for probes in (p for p in PROBES if p <= lists):
        said = "".join(
            f"{(rank >= probes).mean():12.4f}{(rank[near] >= probes).mean():9.4f}"
            for rank in (real_rank, even_rank)
        )
        print(f"{probes:<14}{probes / lists:7.3f}{said}")


def _rank(
    rows: NDArray[np.float32], queries: NDArray[np.float32], row: NDArray[np.int64], lists: int
) -> NDArray[np.int64]:
    """How many lists are nearer to a query than the one that its row lies in."""
    means = faiss.Kmeans(rows.shape[1], lists, niter=10, seed=7, spherical=True)
    means.train(rows)
    _, near = means.index.search(queries, lists)
    _, home = means.index.search(rows[row], 1)
    rank: NDArray[np.int64] = (near == home).argmax(axis=1)
    return rank


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--pairs", type=int, default=10_000, help="of each of the two kinds")
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--thresholds", default=".75,.6")
    parser.add_argument("--determinism", action="store_true")
    parser.add_argument("--digests", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=Path, help="a folder of tars")
    parser.add_argument("--most", type=int, default=6000, help="pictures")
    said = parser.parse_args()
    if said.digests:
        digests()
        return 0
    if said.determinism:
        determinism()
        return 0
    faiss.omp_set_num_threads(1)
    if said.pictures:
        pictures(said.pictures, said.most)
        return 0
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(1):
        for kind in said.kinds.split(","):
            for threshold in map(float, said.thresholds.split(",")):
                measure(kind, threshold, said)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
