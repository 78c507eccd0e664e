"""What verify and rebuild both ask: which files are damaged, and what a segment should hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog import lookups, segments
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.measures import DESCRIPTORS, HASHES
from sscd_ops.errors import PUT_BACK, FileMismatch, SourceChanged
from sscd_ops.model import Segment, StoredFile
from sscd_ops.steps.parts import Parts, Work, load_work


def damage(parts: Parts, file: StoredFile) -> str | None:
    """What is wrong with a named file, and its remedy; None where it is as the catalog says."""
    try:
        parts.store.verify(file)
    except FileMismatch as error:
        return str(error)
    return None


def damaged_roles(parts: Parts, files: Mapping[str, StoredFile]) -> list[str]:
    """Which of these files are lost or damaged, by role."""
    return sorted(role for role, file in files.items() if damage(parts, file) is not None)


@contextmanager
def noting(left: list[str]) -> Iterator[None]:
    """Note what a piece of work could not mend, so that the next one is tried all the same."""
    try:
        yield
    except SourceChanged as error:
        reason = str(error).removesuffix(f": {PUT_BACK}")
        left.append(
            f"{reason}: put the original back and run this command again, or restore what is"
            " lost from a backup"
        )
    except FileMismatch as error:
        left.append(str(error))


# ---------------------------------------------------------------- segments


OF_DESCRIPTORS = frozenset({DESCRIPTORS, "ids", *HASHES})
"""The roles of a segment that its batch's descriptor files follow from, and it from them."""


def both_damaged(segment: Segment, batch_id: int) -> str:
    """Says that of what follows from each other neither is sound."""
    return (
        f"segment {segment.segment_id} and descriptor files of its batch {batch_id} are both"
        " damaged: restore one of them from a backup, the other follows from it"
    )


def night_of(parts: Parts, segment: Segment) -> tuple[Work, int]:
    """The batch and the decision that a segment is of."""
    with parts.catalog.begin() as conn:
        batch_id, decision_id = segments.night_of_segment(conn, segment.segment_id)
    return load_work(parts, batch_id), decision_id


def kept_rows(
    parts: Parts, dataset: Dataset, decision_id: int, ids: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Which rows of a segment hold a kept image, by the catalog's verdicts as of the row's turn.

    Of later turns masks are others than those that were listed with that row.
    """
    with parts.catalog.begin() as conn:
        known = lookups.known_images(conn, dataset.dataset_id, ids, dataset.turn)
    kept = np.zeros(len(ids), bool)
    mine = (known.verdict == "kept") & (known.decision_id == decision_id)
    kept[known.segment_row[mine]] = True
    return kept
