"""The witness of every image that has one: why its samples go, other than its carrier. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.decide import IMAGE_KEPT, Decided, Images, Samples
from sscd_ops.core.withdrawn import Caught

THIS_DECISION = 0
"""In place of a decision's number that is not known yet."""


@dataclass(frozen=True)
class Witnesses:
    """Why each image's samples go, other than its carrier.

    ``sha256``: uint8 (m, 32), the kept image; of a withdrawn one the picture of the withdrawn set,
    which nobody need carry. ``sample_id``: uint8 (m, 16), and ``decision``: int64
    (m,), the sample that carries it and the decision that has its row; 0: this one, -1: not known
    (nor is the sample). ``similarity``, ``threshold``: float64 (m,), NaN
    where there is none. ``valid``: bool (m,). A row more stands for no image (-1).
    """

    sha256: NDArray[np.uint8]
    sample_id: NDArray[np.uint8]
    decision: NDArray[np.int64]
    similarity: NDArray[np.float64]
    threshold: NDArray[np.float64]
    valid: NDArray[np.bool_]

    def put(
        self,
        image: NDArray[np.int64],
        sha256: NDArray[np.uint8],
        sample_id: NDArray[np.uint8],
        decision: NDArray[np.int64] | int,
    ) -> None:
        """Say which images, and which samples of which decisions, some images' samples go for."""
        self.sha256[image] = sha256
        self.sample_id[image] = sample_id
        self.decision[image] = decision
        self.valid[image] = True


@dataclass(frozen=True)
class Earlier:
    """Kept images of history that images of the batch go for, in columns of one length (k,).

    ``image``: int64, of the batch. ``sha256``: uint8 (k, 32). ``sample_id``: uint8 (k, 16), and
    ``decision``: int64, the sample that carries it and the decision with its row.
    """

    image: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    sample_id: NDArray[np.uint8]
    decision: NDArray[np.int64]


def find_witnesses(
    samples: Samples, images: Images, decided: Decided, earlier: Earlier, caught: Caught
) -> Witnesses:
    """Find the witness of every image that has one.

    Args:
        samples: the batch.
        images: its images.
        decided: the leader's answer.
        earlier: the history's images that some were removed for.
        caught: the images that the withdrawn set catches.
    """
    count = len(images.carrier)
    ids = samples.ids
    answer = Witnesses(
        np.zeros((count + 1, 32), np.uint8),
        np.zeros((count + 1, 16), np.uint8),
        np.full(count + 1, -1, np.int64),
        np.full(count + 1, np.nan),
        np.full(count + 1, np.nan),
        np.zeros(count + 1, bool),
    )
    beaten, kept = np.flatnonzero(decided.witness >= 0), np.flatnonzero(decided.kept)
    for image, other in ((beaten, decided.witness[beaten]), (kept, kept)):
        answer.put(image, images.digests[other], ids[images.carrier[other]], THIS_DECISION)
    answer.similarity[kept] = 1.0
    near = np.flatnonzero(images.is_compared & ~decided.kept)
    answer.similarity[near] = decided.similarity[near]
    answer.threshold[near] = decided.each(near, [m.threshold for m in decided.measures])
    answer.put(earlier.image, earlier.sha256, earlier.sample_id, earlier.decision)
    known = images.known
    is_kept = images.standing[known.row] == IMAGE_KEPT
    own = known.take(is_kept)
    answer.put(own.row, images.digests[own.row], own.sample_id, own.carrier_decision)
    answer.similarity[own.row] = 1.0
    gone = known.take(~is_kept & known.is_witnessed)
    answer.put(gone.row, gone.witness_sha256, gone.witness_id, gone.witness_decision)
    answer.similarity[gone.row] = gone.similarity
    answer.threshold[gone.row] = gone.threshold
    answer.put(caught.image, caught.entry, np.zeros((len(caught.image), 16), np.uint8), -1)
    answer.similarity[caught.image] = caught.similarity
    answer.threshold[caught.image] = caught.threshold
    return answer
