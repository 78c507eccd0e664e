"""Which pictures look alike to a network in training: its hardest negatives."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sscd_ops.descriptors.training.decoded import Pictures

_MOST = 50_000
"""Pictures at most among which they are sought: the product is quadratic."""
_MINIBATCH = 64
_BLOCK = 1024


@torch.no_grad()
def nearest(
    describe: Callable[[NDArray[np.uint8]], Tensor],
    pictures: Pictures,
    side: int,
    k: int,
    random: np.random.Generator,
) -> Tensor:
    """The nearest others of each picture by cosine: int64 (n, k), the nearest first.

    Batches made of them teach what tells them apart (Schroff et al., CVPR 2015, section 3.2).

    Args:
        describe: pixels, uint8 (m, side, side, 3), to L2-normalised descriptors (m, d).
        pictures: all of them, at least ``k + 1``.
        side: pixels a side they are shrunk to; nothing else is done to them.
        k: how many.
        random: draws 50,000 to seek among where there are more.
    """
    count = len(pictures)
    ours = torch.cat(
        [
            describe(np.stack([_square(pictures, row, side) for row in rows]))
            for rows in (range(a, min(a + _MINIBATCH, count)) for a in range(0, count, _MINIBATCH))
        ]
    )
    among = np.sort(random.choice(count, min(count, _MOST), replace=False))
    places = torch.from_numpy(among).to(ours.device)
    found = []
    for first in range(0, count, _BLOCK):
        cosine = ours[first : first + _BLOCK] @ ours[places].T
        rows = torch.arange(first, first + len(cosine), device=ours.device)
        cosine[rows[:, None] == places] = -torch.inf  # not itself
        found.append(places[cosine.topk(k).indices])
    return torch.cat(found)


def _square(pictures: Pictures, row: int, side: int) -> NDArray[np.uint8]:
    small = cv2.resize(pictures[row], (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)
