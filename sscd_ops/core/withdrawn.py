"""Pictures of the withdrawn set, and the images of a batch that they stop. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Pictures:
    """Named pictures, in columns of one length (k,).

    ``ids``: uint8 (k, 32), sha256 of their bytes. ``described``: bool (k,), those with something in
    them to compare; of the others equal bytes alone count. ``descriptors``: float16 (k, d), and
    ``hashes``: uint8 (k, 33), zeros of others.
    """

    ids: NDArray[np.uint8]
    described: NDArray[np.bool_]
    descriptors: NDArray[np.float16]
    hashes: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, numbers: NDArray[np.int64] | NDArray[np.bool_]) -> Pictures:
        """Some of them."""
        return Pictures(
            self.ids[numbers],
            self.described[numbers],
            self.descriptors[numbers],
            self.hashes[numbers],
        )

    @classmethod
    def joined(cls, *pieces: Pictures) -> Pictures:
        """One after another; at least one piece."""
        return cls(
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.described for piece in pieces]),
            np.concatenate([piece.descriptors for piece in pieces]),
            np.concatenate([piece.hashes for piece in pieces]),
        )


@dataclass(frozen=True)
class Caught:
    """Images of a batch that the withdrawn set catches, in columns of one length (k,).

    ``image``: int64. ``entry``: uint8 (k, 32), the picture because of which. ``similarity``,
    ``threshold``: float64, NaN where the bytes are equal.
    """

    image: NDArray[np.int64]
    entry: NDArray[np.uint8]
    similarity: NDArray[np.float64]
    threshold: NDArray[np.float64]

    @classmethod
    def equal(cls, image: NDArray[np.int64], entry: NDArray[np.uint8]) -> Caught:
        """Those of equal bytes."""
        nothing = np.full(len(image), np.nan)
        return cls(image, entry, nothing, nothing)

    @classmethod
    def nothing(cls) -> Caught:
        """Of an empty set."""
        return cls.equal(np.empty(0, np.int64), np.empty((0, 32), np.uint8))

    def and_also(self, more: Caught) -> Caught:
        """These, and others."""
        return Caught(
            np.concatenate([self.image, more.image]),
            np.concatenate([self.entry, more.entry]),
            np.concatenate([self.similarity, more.similarity]),
            np.concatenate([self.threshold, more.threshold]),
        )
