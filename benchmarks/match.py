"""Search of one night's descriptors in the history, beside a bare FAISS range search.

10,000 new x 200,000 of history x 512 dimensions in 20 segments, read as the match step reads them:
memory-mapped files (in the page cache) with stored codes, kept masks, canonical similarities. Two
kinds of data: isotropic (strangers are orthogonal) and clustered (1,000 clusters whose members are
at .3 to .5 of each other), both with planted copies on both sides of the threshold.

Then what it costs that a segment's files are compared with their sha256 when they are opened, once
a process: of one of five times the history, beside its search (that of the table, times five).

Run: ``python -m benchmarks.match [--history N] [--new N] [--share S] [--backends LIST]``.
``--share`` is the part of the queries that the FAISS reference and ``flat`` are timed on; their
times are scaled. ``torch`` has no target: its line says what share of a large bfloat16 product's
rate on its device it reaches. On a GPU: ``--backends flat,torch --history 1000000 --new 100000
--share .02`` for equal decisions, ``--history 10000000 --new 1000000 --share .0002`` for the time.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from sscd_ops.core.segment_file import open_segment, write_segment
from sscd_ops.index.backends import open_backend
from sscd_ops.model import Segment
from sscd_ops.options import StorageOptions
from sscd_ops.storage.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from sscd_ops.core.segment_file import OpenSegment
    from sscd_ops.model import Matches
    from sscd_ops.ports import SearchBackend, Store

DIMENSIONS = 512
SEGMENTS = 20
THRESHOLD = 0.75
FLOOR = 0.70
LIMIT = 8
DIGEST = "5e" * 32
TARGETS = {"flat": 1.3, "exact": 0.35, "sketch": 0.15}
ROUNDS = 3
"""Each times all ways once: a machine's speed changes over seconds."""
_TIMES = 5
NAMES = (*TARGETS, "torch")


def make_data(
    kind: str, rows: int, new: int, seed: int = 1
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """History (rows, d) and new (new, d) unit vectors, float16.

    Every tenth new vector is a copy of one in history at a similarity of .68 to 1.
    """
    random = np.random.default_rng(seed)

    def strangers(count: int) -> NDArray[np.float32]:
        vectors = _unit(random.standard_normal((count, DIMENSIONS), np.float32))
        if kind == "clustered":
            weight = np.sqrt(random.uniform(0.3, 0.5, (count, 1))).astype(np.float32)
            member = random.integers(0, len(centres), count)
            vectors = _unit(weight * centres[member] + np.sqrt(1 - weight**2) * vectors)
        return vectors

    centres = _unit(random.standard_normal((1000, DIMENSIONS), np.float32))
    history = strangers(rows)
    fresh = strangers(new)
    planted = np.arange(0, new, 10)
    of = history[random.integers(0, rows, len(planted))]
    away = fresh[planted] - (fresh[planted] * of).sum(1, keepdims=True) * of
    cosine = random.uniform(0.68, 1.0, (len(planted), 1)).astype(np.float32)
    fresh[planted] = cosine * of + np.sqrt(1 - cosine**2) * _unit(away)
    return history.astype(np.float16), fresh.astype(np.float16)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def write_segments(
    store: Store, history: NDArray[np.float16], backends: list[SearchBackend]
) -> list[Segment]:
    """The history as registered segments, with the codes of all backends."""
    segments = []
    for number, part in enumerate(np.array_split(history, SEGMENTS)):
        codes: dict[str, Any] = {}
        for backend in backends:
            codes |= backend.codes(part)
        ids = np.zeros((len(part), 32), np.uint8)
        files = write_segment(store, "segments", part, ids, codes)
        segments.append(Segment(number, number, len(part), DIMENSIONS, DIGEST, files))
    return segments


def search(
    backend: SearchBackend, queries: NDArray[np.float16], opened: list[OpenSegment]
) -> tuple[list[Matches], float]:
    """All segments one after another, as the match step does; and the seconds it took."""
    start = time.perf_counter()
    found = [
        backend.search(
            queries, part.descriptors, part.codes, np.ones(len(part.ids), bool), FLOOR, LIMIT
        )
        for part in opened
    ]
    return found, time.perf_counter() - start


def bare_faiss(queries: NDArray[np.float32], history: NDArray[np.float32]) -> float:
    """Seconds of one FAISS range search; the index is there already."""
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(history)
    start = time.perf_counter()
    index.range_search(queries, THRESHOLD)
    return time.perf_counter() - start


def decisions(found: list[Matches], queries: int) -> set[tuple[int, int, int, float]]:
    """(segment, query, reference, similarity) at or above the threshold."""
    return {
        (number, int(q), int(r), float(s))
        for number, part in enumerate(found)
        for q, r, s in zip(part.query, part.reference, part.similarity, strict=True)
        if s >= THRESHOLD and q < queries
    }


def measure(
    kind: str, rows: int, new: int, share: float, names: Sequence[str], say: Callable[[str], None]
) -> bool:
    """One kind of data; whether all targets were met and decisions were equal."""
    history, fresh = make_data(kind, rows, new)
    backends = {
        name: open_backend(
            name, fingerprint_digest=DIGEST, dimensions=DIMENSIONS, threshold=THRESHOLD
        )
        for name in names
    }
    folder = Path(tempfile.mkdtemp(prefix="bench-match-"))
    try:
        store = open_store(StorageOptions(root=str(folder)))
        segments = write_segments(store, history, list(backends.values()))
        opened = [open_segment(store, segment) for segment in segments]
        good, times = _table(kind, history, fresh, share, backends, opened, say)
        del opened
        if kind == "isotropic":
            _say_compared(folder, history, backends, times, say)
        return good
    finally:
        shutil.rmtree(folder)


def _table(
    kind: str,
    history: NDArray[np.float16],
    fresh: NDArray[np.float16],
    share: float,
    backends: dict[str, SearchBackend],
    opened: list[OpenSegment],
    say: Callable[[str], None],
) -> tuple[bool, dict[str, float]]:
    """Print a kind's table; whether all targets were met, and each backend's seconds."""
    part = max(1, int(len(fresh) * share))
    wide, queries = history.astype(np.float32), fresh[:part].astype(np.float32)
    said = ("faiss", *backends)
    scale = {name: len(fresh) / part if name in ("faiss", "flat") else 1.0 for name in said}
    seconds: dict[str, list[float]] = {name: [] for name in said}
    decided: dict[str, set[tuple[int, int, int, float]]] = {}
    for _ in range(ROUNDS):
        seconds["faiss"].append(bare_faiss(queries, wide))
        for name, backend in backends.items():
            # another array each time: what a backend makes of its queries counts
            found, taken = search(backend, fresh[: part if name == "flat" else None], opened)
            seconds[name].append(taken)
            decided[name] = decisions(found, part)
    times = {name: statistics.median(seconds[name]) * scale[name] for name in said}
    reference = times["faiss"]
    say(f"\n{kind}: {len(fresh):,} new x {len(history):,} x {DIMENSIONS} in {SEGMENTS} segments")
    say(f"{'backend':8} {'seconds':>8} {'ratio':>6} {'target':>7} {'at the threshold':>17}")
    scaled = "" if share == 1 else f"; faiss and flat on {share:.0%} of the queries, scaled"
    say(f"{'faiss':8} {reference:8.2f} {1:6.3f}         (medians of {ROUNDS} rounds{scaled})")
    good = True
    for name in backends:
        ratio = times[name] / reference
        equal = decided[name] == decided["flat"]
        target = TARGETS.get(name, math.inf)
        good &= equal and ratio <= target
        say(
            f"{name:8} {times[name]:8.2f} {ratio:6.3f} {target:7.2f}"
            f" {len(decided[name]):9,} {'equal' if equal else 'DIFFERENT'}"
            f"{'' if ratio <= target else '  MISSED'}"
        )
    if "torch" in backends:
        rate = 2 * len(history) * len(fresh) * DIMENSIONS / times["torch"]
        say(_share_of_peak(rate))
    return good, times


def _say_compared(
    folder: Path,
    history: NDArray[np.float16],
    backends: dict[str, SearchBackend],
    times: dict[str, float],
    say: Callable[[str], None],
) -> None:
    """Seconds to open one large segment: its files are read, hashed and compared."""
    rows = _TIMES * len(history)
    codes = {
        role: np.concatenate([values] * _TIMES)
        for backend in backends.values()
        for role, values in backend.codes(history).items()
    }
    store = open_store(StorageOptions(root=str(folder)))
    large = np.concatenate([history] * _TIMES)
    files = write_segment(store, "segments", large, np.zeros((rows, 32), np.uint8), codes)
    segment = Segment(0, 0, rows, DIMENSIONS, DIGEST, files)
    say(f"\nopened and compared: a segment of {rows:,} x {DIMENSIONS} (least of {ROUNDS} rounds)")
    for name, backend in backends.items():
        took = []
        for _ in range(ROUNDS):
            another = open_store(StorageOptions(root=str(folder)))
            start = time.perf_counter()
            open_segment(another, segment, backend.roles())
            took.append(time.perf_counter() - start)
        read = sum(f.bytes for r, f in files.items() if r not in codes or r in backend.roles())
        say(
            f"{name:8} {min(took):8.2f} s {read / min(took) / 1e9:6.2f} GB/s"
            f" {min(took) / (_TIMES * times[name]):6.3f} of its search"
        )


def _share_of_peak(rate: float) -> str:
    import torch

    from benchmarks.embed import matrix_rate

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = matrix_rate(device, torch.bfloat16)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "this CPU"
    return (
        f"torch: {rate / 1e12:.2f} Tflop/s in float32, {rate / peak:.2f} of a large bfloat16"
        f" product's rate on {name} ({peak / 1e12:.2f})"
    )


def main() -> int:
    """Print the tables; exit code 3 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=int, default=200_000)
    parser.add_argument("--new", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--backends", default=",".join(TARGETS), help="flat is always there")
    arguments = parser.parse_args()
    wanted = {"flat", *arguments.backends.split(",")}
    names = [name for name in NAMES if name in wanted]
    good = [
        measure(kind, arguments.history, arguments.new, arguments.share, names, print)
        for kind in ("isotropic", "clustered")
    ]
    return 0 if all(good) else 3


if __name__ == "__main__":
    raise SystemExit(main())
