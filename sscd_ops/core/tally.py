"""What a batch's decision comes to: its counts, and what is quarantined in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sscd_ops.core.decide import (
    KEPT,
    KEPT_PLAIN,
    KNOWN,
    QUARANTINED,
    REMOVED_EXACT,
    REMOVED_NEAR,
    REMOVED_PERCEPTUAL,
    SHARD_FAULT,
    VERDICT_OF,
    WITHDRAWN,
    Decided,
    Images,
    Samples,
)
from sscd_ops.model import Counts


def faults_of(
    table: pa.Table, images: Images, outcome: NDArray[np.int8], image: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.object_], NDArray[np.object_]]:
    """The rows with a fault, and its code and message: that of the image, else the row's own."""
    bad = np.flatnonzero((outcome == QUARANTINED) | (outcome == SHARD_FAULT))
    subset = table.select(["code", "message"]).take(pa.array(bad))
    codes, messages = np.empty(len(bad), object), np.empty(len(bad), object)
    codes[:] = subset.column("code").to_pylist()
    messages[:] = subset.column("message").to_pylist()
    for at in np.flatnonzero(image[bad] >= 0):
        fault, messages[at] = images.faults[int(image[bad[at]])]
        codes[at] = str(fault)
    return bad, codes, messages


@dataclass(frozen=True)
class FaultTally:
    """What a batch, or one of its sources, quarantines.

    ``codes``: how many samples by code, and how many source shards by the code of their own fault.
    ``examples``: code -> index of the source shard, key (None: the shard's own fault), message.
    """

    codes: dict[str, int]
    examples: dict[str, tuple[int, str | None, str]]


def tally_faults(
    samples: Samples, images: Images, decided: Decided, source_of: NDArray[np.int64], count: int
) -> list[FaultTally]:
    """What each source quarantines.

    Args:
        samples: the batch.
        images: its images.
        decided: the outcomes.
        source_of: int64 (n,), number of each sample's source.
        count: how many sources there are.
    """
    answer = [FaultTally({}, {}) for _ in range(count)]
    bad, codes, messages = faults_of(samples.table, images, decided.outcome, images.image_of)
    for row, code, message in zip(bad, codes, messages, strict=True):
        tally = answer[source_of[row]]
        tally.codes[code] = tally.codes.get(code, 0) + 1
        if code not in tally.examples:
            key = samples.table.column("key")[int(row)].as_py()
            tally.examples[code] = int(samples.shard[row]), key, message or ""
    return answer


def count(outcome: NDArray[np.int8], not_delivered: int) -> Counts:
    """The counts of some samples' outcomes."""
    tally = np.bincount(outcome, minlength=len(VERDICT_OF))
    return Counts(
        read=int(tally.sum() - tally[[KNOWN, SHARD_FAULT]].sum()),
        kept=int(tally[[KEPT, KEPT_PLAIN]].sum()),
        removed_exact=int(tally[REMOVED_EXACT]),
        removed_near=int(tally[[REMOVED_NEAR, REMOVED_PERCEPTUAL]].sum()),
        quarantined=int(tally[QUARANTINED]),
        known=int(tally[KNOWN]),
        not_delivered=not_delivered,
        removed_perceptual=int(tally[REMOVED_PERCEPTUAL]),
        kept_plain=int(tally[KEPT_PLAIN]),
        withdrawn=int(tally[WITHDRAWN]),
    )
