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
    """Brute force in float32 on a device, the threshold lowered by float32's error bound.

    Not for several threads at once: the instance owns the product's buffer.
    """

    name = "torch"

    def __init__(self, device: str = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        # a GPU wants large products: 64 Mi cells are 256 MB on the device
        self.tile_rows, self.tile_queries = (4096, 1024) if device == "cpu" else (16384, 4096)
        self._tile: Tile | None = None
        self._rows = torch.empty(0)
        self._buffer = torch.empty(0, device=self.device)

    def roles(self) -> tuple[str, ...]:
        """None: descriptors are enough."""
        return ()

    def codes(self, descriptors: NDArray[np.float16]) -> Codes:
        """Nothing to store."""
        return {}

    def prepare(self, queries: NDArray[np.float16]) -> dict[str, Any]:
        """The queries on the device, float32."""
        return {"query": self._put(queries)}

    def candidates(
        self, queries: Tile, ready: dict[str, Any], tile: Tile, codes: Codes, floor: float
    ) -> Candidates | None:
        """All pairs whose float32 product can stand for a similarity at or above ``floor``."""
        if self._tile is not tile:
            self._tile, self._rows = tile, self._put(tile.descriptors)
        radius = queries.least_product(tile, floor)
        cells = len(queries) * len(tile)
        if len(self._buffer) < cells:
            self._buffer = torch.empty(cells, device=self.device)
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
        return torch.from_numpy(held).to(self.device).float()


def _product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """``left @ right.T`` in real float32: TF32 and bfloat16 would break the error bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        torch.mm(left, right.T, out=out)
    finally:
        torch.set_float32_matmul_precision(before)
