"""``torch``: a blocked matrix product on a GPU (or the CPU), candidates as in ``flat``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sscd_ops.core.best import DENSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sscd_ops.core.best import Tile
    from sscd_ops.index.scan import Candidates, Codes


class Torch:
    """Brute force on a device, the threshold lowered by the product's error bound.

    On a GPU the stored float16 numbers are multiplied as they are, on its matrix units, summed in
    float32 and rounded to float16 once (docs/search.md, "torch"); on a CPU in float32.

    Not for several threads at once: the instance owns the product's buffer.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` ...
        dtype: float16 or float32; none: the device's.
    """

    name = "torch"

    def __init__(self, device: str = "auto", dtype: torch.dtype | None = None) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        gpu = self.device.type == "cuda"
        self.dtype = dtype or (torch.float16 if gpu else torch.float32)
        # a GPU wants large products: 64 Mi cells are 128 MB on the device
        self.tile_rows, self.tile_queries = (16384, 4096) if gpu else (4096, 1024)
        self._tile: Tile | None = None
        self._rows = torch.empty(0)
        self._buffer = torch.empty(0, device=self.device, dtype=self.dtype)

    def roles(self) -> tuple[str, ...]:
        """None: descriptors are enough."""
        return ()

    def codes(self, descriptors: NDArray[np.float16]) -> Codes:
        """Nothing to store."""
        return {}

    def prepare(self, queries: NDArray[np.float16]) -> dict[str, Any]:
        """The queries on the device."""
        return {"query": self._put(queries)}

    def candidates(
        self, queries: Tile, ready: dict[str, Any], tile: Tile, codes: Codes, floor: float
    ) -> Candidates | None:
        """All pairs whose product can stand for a similarity at or above ``floor``."""
        if self._tile is not tile:
            self._tile, self._rows = tile, self._put(tile.descriptors)
        radius = self._radius(queries.least_product(tile, floor), tile.descriptors.shape[1])
        cells = len(queries) * len(tile)
        if len(self._buffer) < cells:
            self._buffer = torch.empty(cells, device=self.device, dtype=self.dtype)
        out = self._buffer[:cells].view(len(queries), len(tile))
        _product(ready["query"], self._rows, out)
        near = (out >= radius).view(-1)
        if int(near.count_nonzero()) > DENSE * cells:
            return None
        # numpy is eight times as fast as torch.nonzero on the CPU
        found = (
            np.flatnonzero(near.numpy())
            if self.device.type == "cpu"
            else torch.nonzero(near)[:, 0].cpu().numpy()
        )
        query, reference = np.divmod(found, len(tile))
        return query, reference

    def _put(self, descriptors: NDArray[np.float16]) -> torch.Tensor:
        held = np.array(descriptors)  # a copy: torch takes no read-only memory
        return torch.from_numpy(held).to(self.device, self.dtype)

    def _radius(self, least: float, dimensions: int) -> float:
        """What a product must reach, where one of ``least`` as float32 sums it must not be missed.

        Rounding to float16 keeps the order, so the bound is rounded as the products are.
        """
        if self.dtype == torch.float32:
            return least
        return float(np.float16(least - dimensions * _UNITS))


_UNITS = 2.0**-21
"""A GPU's matrix unit cuts off what it adds, and may drop a bit more than float32 has (Fasi,
Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 2021, section
4): eight times float32's rounding for each term is more than any does."""


def _product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """``left @ right.T`` summed in real float32: TF32 or float16 sums would break the bound."""
    before = torch.get_float32_matmul_precision()
    matmul = torch.backends.cuda.matmul
    reduced = matmul.allow_fp16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_fp16_reduced_precision_reduction = False
    try:
        torch.mm(left, right.T, out=out)
    finally:
        torch.set_float32_matmul_precision(before)
        matmul.allow_fp16_reduced_precision_reduction = reduced
