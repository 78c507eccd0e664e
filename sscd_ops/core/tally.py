"""What a batch's decision comes to: its counts, and what is quarantined in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.decide import (
    FAULTS,
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
    samples: Samples, images: Images, outcome: NDArray[np.int8], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.object_], NDArray[np.object_]]:
    """Which of some samples have a fault, and its code and message: the image's, else their own.

    Args:
        samples: the batch.
        images: its images.
        outcome: int8 (n,).
        rows: int64 (k,), the samples that are asked about.

    Returns:
        int64 (f,), places in ``rows``; object (f,) each.
    """
    bad = np.flatnonzero(np.isin(outcome[rows], (QUARANTINED, SHARD_FAULT)))
    faulty = rows[bad]
    image = images.image_of[faulty]
    codes, messages = np.empty(len(bad), object), np.empty(len(bad), object)
    for at in np.flatnonzero(image >= 0):
        fault, messages[at] = images.faults[int(image[at])]
        codes[at] = str(fault)
    own = np.flatnonzero((image < 0) & (samples.code[faulty] >= 0))
    codes[own] = [str(FAULTS[code]) for code in samples.code[faulty[own]]]
    messages[own] = samples.messages_of(faulty[own])
    return bad, codes, messages


@dataclass(frozen=True)
class FaultTally:
    """What a batch, or one of its sources, quarantines.

    ``codes``: how many samples by code, and how many source shards by the code of their own fault.
    ``examples``: code -> the first sample (or fault of a whole shard) that has it, message.
    """

    codes: dict[str, int]
    examples: dict[str, tuple[int, str]]


_AT_ONCE = 100_000
"""Samples whose messages are texts of Python at once."""


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
    faulty = np.flatnonzero(np.isin(decided.outcome, (QUARANTINED, SHARD_FAULT)))
    for start in range(0, len(faulty), _AT_ONCE):
        rows = faulty[start : start + _AT_ONCE]
        _, codes, messages = faults_of(samples, images, decided.outcome, rows)
        for row, code, message in zip(rows, codes, messages, strict=True):
            tally = answer[source_of[row]]
            tally.codes[code] = tally.codes.get(code, 0) + 1
            if code not in tally.examples:
                tally.examples[code] = int(row), message or ""
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
