"""Images of a batch that were described earlier and have no verdict now: they are decided anew.

They are searched by their stored descriptors, and where they are kept again the mask of the segment
that they lie in changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog import segments
from sscd_ops.core.decide import Images
from sscd_ops.core.descriptor_file import Listed, Queries
from sscd_ops.core.measures import DESCRIPTORS, HASHES
from sscd_ops.core.segment_file import open_segment, read_kept
from sscd_ops.core.stored_rows import in_memory
from sscd_ops.model import KnownImages, Segment
from sscd_ops.steps.parts import Parts, Work


@dataclass(frozen=True)
class Free:
    """Images of the batch that have a descriptor of an earlier decision and no verdict now.

    ``images``: int64 (k,), rows of the batch's images; ``segment``, ``row``: int64 (k,), ordinal of
    the live segment and row there. ``queries``: their stored descriptors.
    """

    images: NDArray[np.int64]
    segment: NDArray[np.int64]
    row: NDArray[np.int64]
    queries: Queries

    def masks(
        self, parts: Parts, live: Sequence[Segment], kept: NDArray[np.bool_]
    ) -> Iterator[tuple[Segment, NDArray[np.bool_]]]:
        """The segments in which some of them are kept again, each with its mask then.

        Args:
            parts: the real parts.
            live: the segments.
            kept: bool (m,), of the batch's images.
        """
        again = kept[self.images]
        for ordinal in np.unique(self.segment[again]):
            segment = live[int(ordinal)]
            mask = read_kept(parts.store, segment)
            mask[self.row[again & (self.segment == ordinal)]] = True
            yield segment, mask


def free_images(parts: Parts, work: Work, images: Images, live: Sequence[Segment]) -> Free:
    """Read the stored descriptors of the batch's free images."""
    known = images.known
    free = known.take((known.verdict == "free") & (known.segment_row >= 0))
    free = free.take(np.argsort(free.row))
    segment, row = places(parts, free, live)
    queries = stored_queries(parts, work, images.digests[free.row], live, segment, row)
    return Free(free.row, segment, row, queries)


def stored_queries(
    parts: Parts,
    work: Work,
    ids: NDArray[np.uint8],
    live: Sequence[Segment],
    segment: NDArray[np.int64],
    row: NDArray[np.int64],
) -> Queries:
    """What segments hold of images, by each of a batch's measures.

    Args:
        parts: the real parts.
        work: the batch.
        ids: uint8 (k, 32), the images.
        live: the segments.
        segment: int64 (k,), ordinal of the one that each lies in.
        row: int64 (k,), its row there.
    """
    dimensions = work.attempt.fingerprint.dimensions
    rows = {by.role: by.blank(len(ids), dimensions) for by in work.measures}
    fill(parts, rows, live, segment, row)
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    own = {role: in_memory(values) for role, values in rows.items()}
    return Queries(own, digest, lambda: Listed(ids))


def fill(
    parts: Parts,
    rows: Mapping[str, NDArray[Any]],
    live: Sequence[Segment],
    segment: NDArray[np.int64],
    row: NDArray[np.int64],
) -> None:
    """Read what segments hold into blank rows by role, (k, ...).

    Of a segment without hashes they stay blank, which match nothing. Arguments as of
    ``stored_queries``.
    """
    for ordinal in np.unique(segment):
        here = segment == ordinal
        opened = open_segment(parts.store, live[int(ordinal)], HASHES.keys() & rows.keys())
        stored = {DESCRIPTORS: opened.descriptors, **opened.codes}
        for role in rows.keys() & stored.keys():
            rows[role][here] = stored[role][row[here]]


def places(
    parts: Parts, images: KnownImages, live: Sequence[Segment]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ordinal of the live segment that each image lies in, and its row there."""
    if not len(images):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ordinal_of = {segment.segment_id: segment.ordinal for segment in live}
    decisions = np.unique(images.decision_id).tolist()
    with parts.catalog.begin() as conn:
        found = segments.places_of(conn, list(ordinal_of), decisions)
    places = np.array([found[decision] for decision in images.decision_id.tolist()], np.int64)
    ordinal = np.array([ordinal_of[segment_id] for segment_id in places[:, 0].tolist()], np.int64)
    return ordinal, places[:, 1] + images.segment_row
