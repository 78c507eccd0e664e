"""The withdrawn set as nights ask it: which new images are pictures of it, or near to one.

Its entries are few, and lie in segments of their own that no other search sees. They are compared
with every new image by each measure of the night, exactly: whatever finds candidates, the canonical
similarity decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import lookups, segments, withdrawn_set
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.withdrawn_set import Entry
from sscd_ops.core.changes import Change
from sscd_ops.core.decide import FREE, NEW, PLAIN, Images
from sscd_ops.core.descriptor_file import Queries, bytes_rows
from sscd_ops.core.measures import DESCRIPTORS, Measure
from sscd_ops.core.perceptual import ROLE, WIDTH
from sscd_ops.core.rows import WITHDRAWN_FOR
from sscd_ops.core.segment_file import write_mask, write_segment
from sscd_ops.core.withdrawn import Caught, Pictures
from sscd_ops.errors import InvariantError
from sscd_ops.model import Fingerprint, Segment, StoredFile
from sscd_ops.steps.free_images import fill, places, stored_queries
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import open_backend

EXACT = "flat"
"""The backend that compares with the set: one that misses nothing and needs no codes."""
_AT_ONCE = 65536
"""Images compared at once: 64 MB of 512 float16."""


@dataclass(frozen=True)
class WithdrawnSet:
    """The set as of one turn: ``entries`` as the catalog has them, and what their segments hold."""

    entries: Sequence[Entry]
    segments: Sequence[Segment]
    """Numbered through."""
    places: Mapping[int, tuple[int, int]]
    """Decision -> its segment, and the first row of the decision's there."""

    def pictures(self, parts: Parts, dimensions: int) -> Pictures:
        """Read what is stored of the entries."""
        count = len(self.entries)
        answer = blank_pictures([entry.sha256 for entry in self.entries], dimensions)
        has_row = [number for number in range(count) if self.entries[number].row is not None]
        ordinal_of = {segment.segment_id: segment.ordinal for segment in self.segments}
        segment, row = np.zeros(len(has_row), np.int64), np.zeros(len(has_row), np.int64)
        for at, number in enumerate(has_row):
            entry = self.entries[number]
            if entry.decision_id not in self.places:
                raise InvariantError(
                    f"order {entry.order_id} has no segment of the pictures that it withdrew: run"
                    " `sscd-ops catalog verify`"
                )
            segment_id, first = self.places[entry.decision_id]
            segment[at], row[at] = ordinal_of[segment_id], first + (entry.row or 0)
        read_pictures(parts, answer, np.array(has_row, np.int64), self.segments, segment, row)
        return answer


def blank_pictures(ids: Sequence[bytes], dimensions: int) -> Pictures:
    """Pictures of which nothing is known but their digests."""
    count = len(ids)
    return Pictures(
        bytes_rows(ids, 32),
        np.zeros(count, bool),
        np.zeros((count, dimensions), np.float16),
        np.zeros((count, WIDTH), np.uint8),
    )


def read_pictures(
    parts: Parts,
    pictures: Pictures,
    numbers: NDArray[np.int64],
    live: Sequence[Segment],
    segment: NDArray[np.int64],
    row: NDArray[np.int64],
) -> None:
    """Read what segments hold of some pictures: ``numbers``, int64 (j,), of them lie in these rows.

    ``live``, ``segment``, ``row``: as of ``free_images.fill``.
    """
    found = blank_pictures([bytes(32)] * len(numbers), pictures.descriptors.shape[1])
    rows: dict[str, NDArray[Any]] = {DESCRIPTORS: found.descriptors, ROLE: found.hashes}
    fill(parts, rows, live, segment, row)
    pictures.described[numbers] = True
    pictures.descriptors[numbers] = found.descriptors
    pictures.hashes[numbers] = found.hashes


def known_pictures(
    parts: Parts,
    dataset: Dataset,
    ids: NDArray[np.uint8],
    live: Sequence[Segment],
    dimensions: int,
) -> Pictures:
    """What the dataset's segments hold of some pictures, (k, 32), that nights described."""
    pictures = blank_pictures([digest.tobytes() for digest in ids], dimensions)
    with parts.catalog.begin() as conn:
        known = lookups.known_images(conn, dataset.dataset_id, ids, dataset.turn)
    known = known.take(known.segment_row >= 0)
    read_pictures(parts, pictures, known.row, live, *places(parts, known, live))
    return pictures


def read_set(conn: Connection, dataset: Dataset, without: int = 0) -> WithdrawnSet:
    """The set in force as of the dataset's turn; ``without``: an order that does not count."""
    entries = withdrawn_set.entries_in_force(conn, dataset.dataset_id, dataset.turn, without)
    return _set_of(conn, dataset, entries)


def read_pictures_of(conn: Connection, dataset: Dataset, decision_id: int) -> WithdrawnSet:
    """What one decision put into the set."""
    entries = withdrawn_set.entries_of(conn, dataset.dataset_id, decision_id)
    return _set_of(conn, dataset, entries)


def _set_of(conn: Connection, dataset: Dataset, entries: Sequence[Entry]) -> WithdrawnSet:
    live = segments.live_segments(conn, dataset.dataset_id, dataset.generation, "withdrawn")
    described = sorted({entry.decision_id for entry in entries if entry.row is not None})
    return WithdrawnSet(
        entries, live, segments.places_of(conn, [s.segment_id for s in live], described)
    )


# ---------------------------------------------------------------- what it catches of a night


def catch_equal(images: Images, theirs: WithdrawnSet) -> Caught:
    """Catch the new and free images of a batch that have the bytes of an entry.

    Not those with a fault, which are kept by nobody.
    """
    listed = {entry.sha256 for entry in theirs.entries}
    if not listed:
        return Caught.nothing()
    undecided = np.flatnonzero(np.isin(images.standing, (NEW, PLAIN, FREE)))
    found = [image for image in undecided.tolist() if images.digests[image].tobytes() in listed]
    caught = np.array(found, np.int64)
    images.caught[caught] = True
    return Caught.equal(caught, images.digests[caught])


def catch_near(
    parts: Parts, work: Work, images: Images, queries: Queries, theirs: WithdrawnSet
) -> Caught:
    """Catch the images of a batch that one of its measures finds near to an entry.

    Args:
        parts: the real parts.
        work: the batch.
        images: its images, of which those that leader would decide are asked about.
        queries: their descriptors and hashes.
        theirs: the set.
    """
    if not any(entry.row is not None for entry in theirs.entries):
        return Caught.nothing()
    entries = theirs.pictures(parts, work.attempt.fingerprint.dimensions)
    entries = entries.take(entries.described)
    asked = np.flatnonzero(images.is_compared)
    answer = Caught.nothing()
    for measure in work.measures:
        similarity, entry = nearest(parts, work, measure, queries, images.query[asked], entries)
        hit = similarity >= measure.threshold
        found = Caught(
            asked[hit],
            entries.ids[entry[hit]],
            similarity[hit],
            np.full(int(hit.sum()), measure.threshold),
        )
        answer = answer.and_also(found)
        asked = asked[~hit]
    images.caught[answer.image] = True
    return answer


def nearest(
    parts: Parts,
    work: Work,
    measure: Measure,
    queries: Queries,
    rows: NDArray[np.int64],
    entries: Pictures,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest of some pictures to each of some rows of a batch, at or above the threshold.

    Returns:
        float64 (n,), -inf where there is none; int64 (n,), numbers of pictures.
    """
    similarity = np.full(len(rows), -np.inf)
    entry = np.zeros(len(rows), np.int64)
    everyone = np.ones(len(entries), bool)
    stored, floor = queries.rows[measure.role], measure.threshold
    hashes = parts.hash_search() if measure.by_hash else None
    backend = open_backend(parts, work, EXACT)
    for start in range(0, len(rows), _AT_ONCE):
        block: NDArray[Any] = stored[rows[start : start + _AT_ONCE]]
        if hashes is not None:
            found = hashes.search(block, entries.hashes, everyone, floor, 1)
        else:
            found = backend.search(block, entries.descriptors, {}, everyone, floor, 1)
        similarity[start + found.query] = found.similarity
        entry[start + found.query] = found.reference
    return similarity, entry


def withdrawn_again(
    parts: Parts, work: Work, dataset: Dataset, images: Sequence[bytes], without: int = 0
) -> dict[bytes, Change]:
    """Which images that are to be decided anew the set catches: image -> its withdrawal.

    Args:
        parts: the real parts.
        work: whose measures.
        dataset: as it was seen.
        images: known ones.
        without: an order whose entries do not count any more.
    """
    answer: dict[bytes, Change] = {}
    if not images:
        return answer
    with parts.catalog.read() as conn:
        theirs = read_set(conn, dataset, without)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
    listed = {entry.sha256 for entry in theirs.entries}
    for image in images:
        if image in listed:
            answer[image] = Change("withdrawn", image=image, reason=WITHDRAWN_FOR, witness=image)
    if not any(entry.row is not None for entry in theirs.entries):
        return answer
    entries = theirs.pictures(parts, work.attempt.fingerprint.dimensions)
    entries = entries.take(entries.described)
    left = bytes_rows([image for image in images if image not in answer], 32)
    with parts.catalog.begin() as conn:
        known = lookups.known_images(conn, dataset.dataset_id, left, dataset.turn)
    known = known.take(known.segment_row >= 0)
    ids = left[known.row]
    queries = stored_queries(parts, work, ids, live, *places(parts, known, live))
    for measure in work.measures:
        rows = np.arange(len(ids))
        similarity, entry = nearest(parts, work, measure, queries, rows, entries)
        for n in np.flatnonzero(similarity >= measure.threshold).tolist():
            image = ids[n].tobytes()
            change = Change(
                "withdrawn",
                image=image,
                reason=WITHDRAWN_FOR,
                witness=entries.ids[entry[n]].tobytes(),
                similarity=float(similarity[n]),
                threshold=measure.threshold,
            )
            answer.setdefault(image, change)
    return answer


# ---------------------------------------------------------------- what an order adds to it


@dataclass(frozen=True)
class StoredPictures:
    """Pictures as they are stored for the set: in force with their order's decision.

    ``files``: of the segment, by role; none where no picture has a descriptor. ``rows``: of each of
    ``ids``, sha256 (32 bytes), its row there, or None.
    """

    ids: Sequence[bytes]
    rows: Sequence[int | None]
    files: Mapping[str, StoredFile]
    mask: StoredFile | None

    def entries(self, order_id: int, decision_id: int) -> list[Entry]:
        """What the catalog is to say of them."""
        pairs = zip(self.ids, self.rows, strict=True)
        return [Entry(sha256, order_id, decision_id, row) for sha256, row in pairs]


NO_PICTURES = StoredPictures((), (), {}, None)
"""Of an order that names none."""


def store_pictures(parts: Parts, folder: str, pictures: Pictures) -> StoredPictures:
    """Write the segment of an order's pictures: descriptors, hashes and digests, no bytes.

    Args:
        parts: the real parts.
        folder: the dataset's.
        pictures: distinct ones.
    """
    described = pictures.take(pictures.described)
    row = np.cumsum(pictures.described) - 1
    rows = [int(at) if has else None for at, has in zip(row, pictures.described, strict=True)]
    ids = [digest.tobytes() for digest in pictures.ids]
    if not len(described):
        return StoredPictures(ids, rows, {}, None)
    files = write_segment(
        parts.store,
        f"{folder}/index/segments",
        described.descriptors,
        described.ids,
        {ROLE: described.hashes},
    )
    mask = write_mask(parts.store, f"{folder}/index/masks", np.ones(len(described), bool))
    return StoredPictures(ids, rows, files, mask)


def add_pictures(
    conn: Connection,
    dataset_id: int,
    decision_id: int,
    generation: int,
    stored: StoredPictures,
    fingerprint: Fingerprint,
) -> bool:
    """Name the segment of a decision's pictures, from a generation on; whether there is one.

    The caller puts the decision in force, in a transaction with the dataset's lock; rows of
    ``withdrawn_images`` were written with the decision's.
    """
    if stored.mask is None:
        return False
    count = sum(row is not None for row in stored.rows)
    segment_id = segments.add_segment(
        conn,
        dataset_id,
        decision_id,
        row_count=count,
        dimensions=fingerprint.dimensions,
        fingerprint=fingerprint.digest,
        files=stored.files,
        role="withdrawn",
    )
    segments.add_mask(conn, segment_id, generation, stored.mask, count)
    return True
