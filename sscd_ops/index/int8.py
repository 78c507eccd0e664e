"""The int8 matrix product, checked before it is trusted.

``torch._int_mm`` is private and runs through whatever kernel the CPU has, or a bare loop, so it
stands behind ``product`` alone. ``usable`` compares it with numpy on this machine: on extremes too,
since kernels without VNNI are known to saturate 16-bit sums, and by the clock, since the loop
is many times slower than the float32 product that it is to replace.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def product(
    left: NDArray[np.int8], right: NDArray[np.int8], out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """``left @ right.T`` in int32: int8 (n, k), (m, k), C-contiguous -> int32 (n, m).

    Args:
        left: int8 (n, k).
        right: int8 (m, k).
        out: where to write, C-contiguous (a fresh result costs more than the product).
    """
    import torch

    if out is None:
        out = np.empty((len(left), len(right)), np.int32)
    torch._int_mm(torch.from_numpy(left), torch.from_numpy(right).T, out=torch.from_numpy(out))
    return out


_TILE = (512, 1024)
"""Rows of the tile that is timed: large enough for every kernel's full speed, some milliseconds."""
_TIMES = 4
LEAST_SPEED = 1.0
"""As many times as fast as float32 must int8 be; without its kernels it is a tenth and less
(docs/search.md)."""


@cache
def usable(columns: int, dimensions: int) -> str:
    """Empty where ``product`` is right and worth it on this machine, else what is wrong with it.

    Whether it is worth it may follow the machine, since no decision depends on it.

    Args:
        columns: of the codes it multiplies.
        dimensions: of the float32 vectors that are multiplied where it is not used.
    """
    fault = _wrong(columns)
    if fault:
        return fault
    ratio = speed(columns, dimensions)
    if ratio < LEAST_SPEED:
        return (
            f"on this CPU the int8 product ({columns} columns) takes {1 / ratio:.1f} times as long"
            f" as the float32 one ({dimensions} dimensions)"
        )
    return ""


@cache
def speed(columns: int, dimensions: int) -> float:
    """How many times as fast as a float32 product of the same rows ``product`` is, on one thread.

    One, since threads that wait for each other on a busy machine would be what is measured.
    """
    import faiss
    import torch

    random = np.random.default_rng(9)
    left, right = (random.integers(-127, 128, (rows, columns), np.int8) for rows in _TILE)
    out = np.empty(_TILE, np.int32)
    wide_left, wide_right = (torch.randn(rows, dimensions) for rows in _TILE)
    wide_out = torch.empty(_TILE)
    int8, float32 = [], []
    threads, of_faiss = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_TIMES):
            int8.append(_seconds(lambda: product(left, right, out)))
            float32.append(_seconds(lambda: torch.mm(wide_left, wide_right.T, out=wide_out)))
    finally:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(of_faiss)  # one number for both, where OpenMP is shared
    return min(float32) / min(int8)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _wrong(columns: int) -> str:
    """Empty where ``product`` agrees with numpy for ``columns``, else where it does not."""
    try:
        for rows, others, values in _cases(columns):
            left, right = values(rows), values(others)
            expected = left.astype(np.int32) @ right.astype(np.int32).T
            if not np.array_equal(product(left, right), expected):
                return f"torch._int_mm is wrong for {rows} x {others} x {columns}"
    except (ImportError, OSError, AttributeError, RuntimeError, TypeError) as error:
        return f"torch._int_mm does not run: {error}"
    return ""


def _cases(columns: int):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(8)

    def mixed(rows: int) -> NDArray[np.int8]:
        return random.integers(-127, 128, (rows, columns), np.int8)

    def extreme(rows: int) -> NDArray[np.int8]:
        return random.choice(np.array([-127, 127], np.int8), (rows, columns))

    def largest(rows: int) -> NDArray[np.int8]:
        return np.full((rows, columns), 127, np.int8)

    for values in (mixed, extreme, largest):
        for rows, others in ((1, 1), (1, 33), (17, 2), (64, 257), (300, 5)):
            yield rows, others, values
