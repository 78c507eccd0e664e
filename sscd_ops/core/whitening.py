"""Centring and PCA whitening of descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.canonical import widen

Stored = TypeVar("Stored", np.float16, np.float32)

_ROWS = 8192
_LEAST_SHARE = 1e-9
"""Of the greatest variance, up to which a component has none: it would be divided by chance."""


@dataclass(frozen=True)
class Whitening:
    """``normalise(matrix @ (x - mean))``.

    ``mean``: float64 (d,); ``matrix``: float64 (k, d), None for centring alone.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64] | None

    @property
    def dimensions(self) -> int:
        """Of what comes out."""
        return len(self.mean if self.matrix is None else self.matrix)

    def apply(self, rows: NDArray[Stored]) -> NDArray[Stored]:
        """Descriptors (n, d) -> (n, k), L2-normalised anew.

        A row that is no descriptor (zero or not finite) stays one: its answer is zero. Sums run in
        float64, so that neighbours in the product do not show in the float16 that is stored.
        """
        out = np.empty((len(rows), self.dimensions), rows.dtype)
        done = 0
        for wide in _wide(rows):
            good = np.abs(np.linalg.norm(wide, axis=1) - 1) <= 0.01
            wide = np.where(good[:, None], wide, 0) - self.mean
            if self.matrix is not None:
                wide = wide @ self.matrix.T
            norms = np.linalg.norm(wide, axis=1)
            good &= norms > 0
            wide[~good] = 0
            out[done : done + len(wide)] = wide / np.where(good, norms, 1)[:, None]
            done += len(wide)
        return out


def fit(descriptors: NDArray[Stored], dimensions: int, *, whiten: bool = True) -> Whitening:
    """Whitening by the components of greatest variance, each over its own deviation.

    Where the descriptors span fewer dimensions than asked for, it has that few.

    Args:
        descriptors: (n, d), L2-normalised.
        dimensions: to keep, at most d.
        whiten: False for centring alone.
    """
    count, d = descriptors.shape
    mean = np.zeros(d)
    for wide in _wide(descriptors):
        mean += wide.sum(axis=0)
    mean /= count
    if not whiten:
        return Whitening(mean, None)
    scatter = np.zeros((d, d))
    for wide in _wide(descriptors):
        wide -= mean
        scatter += wide.T @ wide
    variances, vectors = np.linalg.eigh(scatter / count)
    order = np.argsort(variances)[::-1][:dimensions]
    order = order[variances[order] > _LEAST_SHARE * variances[order[0]]]
    chosen = vectors[:, order]
    # eigenvectors have no sign of their own; equal samples shall give equal files
    chosen *= np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(len(order))])
    return Whitening(mean, (chosen / np.sqrt(variances[order])).T)


def _wide(rows: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Copies of a few rows at a time: a whole sample in float64 may be gigabytes."""
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        yield (widen(part) if part.dtype == np.float16 else part).astype(np.float64)
