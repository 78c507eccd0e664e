"""What verify and rebuild both ask: which files are damaged, and what a segment should hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog import lookups, segments, withdrawn_set
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.measures import DESCRIPTORS, HASHES
from sscd_ops.errors import PUT_BACK, FileMismatch, SourceChanged
from sscd_ops.model import Segment, SegmentPart, StoredFile
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


BOTH_DAMAGED = "are both damaged"


def both_damaged(segment: Segment, batch_id: int) -> str:
    """Says that of what follows from each other neither is sound."""
    return (
        f"segment {segment.segment_id} and descriptor files of its batch {batch_id} {BOTH_DAMAGED};"
        " restore one of them from a backup, the other follows from it; both follow from"
        " the batch's sources on the device that embedded it (`sscd-ops index rebuild`)"
    )


def nights_of(parts: Parts, segment: Segment) -> list[tuple[Work, SegmentPart]]:
    """The nights whose images a segment holds, in turn order, each with its rows there."""
    with parts.catalog.begin() as conn:
        found = segments.parts_of(conn, segment.segment_id)
    return [(load_work(parts, part.batch_id), part) for part in found]


def newest_night(parts: Parts, live: Sequence[Segment]) -> Work:
    """The night whose images come last in the index."""
    with parts.catalog.begin() as conn:
        newest = segments.parts_of(conn, live[-1].segment_id)[-1]
    return load_work(parts, newest.batch_id)


def rows_of_pictures(parts: Parts, dataset: Dataset, segment: Segment) -> dict[int, bytes]:
    """Row -> sha256 of the pictures of the withdrawn set that a segment is to hold."""
    with parts.catalog.begin() as conn:
        (part,) = segments.parts_of(conn, segment.segment_id)
        found = withdrawn_set.entries_of(conn, dataset.dataset_id, part.decision_id)
    return {entry.row: entry.sha256 for entry in found if entry.row is not None}


def kept_rows(
    parts: Parts, dataset: Dataset, segment: Segment, ids: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Which rows of a segment hold a kept image, by the catalog's verdicts as of the row's turn.

    Of later turns masks are others than those that were listed with that row.
    """
    with parts.catalog.begin() as conn:
        first_row = {
            part.decision_id: part.first_row for part in segments.parts_of(conn, segment.segment_id)
        }
        known = lookups.known_images(conn, dataset.dataset_id, ids, dataset.turn)
    kept = np.zeros(len(ids), bool)
    # an image whose descriptor was forgotten has its digest there, and no row of its own
    is_kept = (known.verdict == "kept") & (known.segment_row >= 0)
    mine = known.take(is_kept & np.isin(known.decision_id, list(first_row)))
    first = np.array([first_row[decision] for decision in mine.decision_id.tolist()], np.int64)
    kept[first + mine.segment_row] = True
    return kept
