"""The int8 matrix product, checked before it is trusted.

``torch._int_mm`` is private and runs through whatever kernel the CPU has (VNNI, AVX2, plain), so it
stands behind ``product`` alone, and ``usable`` compares it with numpy on this machine: on extremes
too, since kernels without VNNI are known to saturate 16-bit sums.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
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


@cache
def usable(columns: int) -> str:
    """Empty where ``product`` is right on this machine for ``columns``, else what is wrong."""
    try:
        for rows, others, values in _cases(columns):
            left, right = values(rows), values(others)
            expected = left.astype(np.int32) @ right.astype(np.int32).T
            if not np.array_equal(product(left, right), expected):
                return f"torch._int_mm is wrong for {rows} x {others} x {columns}"
    except (ImportError, AttributeError, RuntimeError, TypeError) as error:
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
