"""Whether two kept images are copies of each other (I3): all are compared with all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog import datasets, lookups, segments
from sscd_ops.catalog.checks import RESTORE
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.descriptor_file import bytes_rows
from sscd_ops.core.measures import DESCRIPTORS, Measure
from sscd_ops.core.segment_file import IDS, read_kept, read_roles
from sscd_ops.model import Finding, Matches, Segment
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.damage import newest_night, nights_of
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.queries import open_backend

_ROWS = 4096
"""Queries at once."""
_NEAREST = 8
"""Matches of an image that are looked at in a segment, the most similar first."""
_EXAMPLES = 3


class _Pair(NamedTuple):
    """Two kept images that a measure calls similar: their sha256."""

    one: bytes
    other: bytes
    similarity: float
    reason: str


def find_copies(parts: Parts, name: str) -> list[Finding]:
    """Compare every kept image with every other by the index's own search: quadratic.

    A pair counts at the threshold in force when the later one was decided; by perceptual hash
    where that one was decided by it.

    Raises:
        FileMismatch: a file of the index is lost or damaged; says what mends it.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
    if not live:
        return []
    works = [work for segment in live for work, _ in nights_of(parts, segment)]
    measures = {work.batch.turn: {m.reason: m for m in work.measures} for work in works}
    lowest: dict[str, Measure] = {}
    for of_night in measures.values():
        for reason, measure in of_night.items():
            known = lowest.get(reason)
            if known is None or measure.threshold < known.threshold:
                lowest[reason] = measure
    backend = open_backend(parts, newest_night(parts, live))
    similar = list(_similar(parts, name, live, list(lowest.values()), backend))
    turns = _turns(parts, dataset, similar)
    copies = []
    for pair in similar:
        later = max(turns[pair.one], turns[pair.other])
        # of an image that an order keeps: the configuration of the night before
        night = max((turn for turn in measures if turn is not None and turn <= later), default=None)
        by = measures.get(night, {}).get(pair.reason)
        if by is not None and pair.similarity >= by.threshold:
            copies.append(pair)
    if not copies:
        return []
    named = ", ".join(
        f"{pair.one.hex()} and {pair.other.hex()} ({pair.reason} {pair.similarity:.4f})"
        for pair in copies[:_EXAMPLES]
    )
    missed = " (a pair in 100,000 is what `sketch` may miss)" if backend.name == "sketch" else ""
    what = f"{len(copies)} pair(s) of kept images are at or above the threshold: {named}{missed}"
    return [Finding("I3", what, RESTORE)]


def _similar(
    parts: Parts,
    name: str,
    live: Sequence[Segment],
    measures: Sequence[Measure],
    backend: SearchBackend,
) -> Iterator[_Pair]:
    """Pairs of kept images at or above the measures' thresholds, each once."""
    count = len(live)
    parts.progress.start(f"compare all kept of {name}", count * (count + 1) // 2)
    for at, segment in enumerate(live):
        mine = read_roles(parts.store, segment, segment.files)
        rows = np.flatnonzero(read_kept(parts.store, segment))
        for other in live[: at + 1]:
            theirs = mine if other is segment else read_roles(parts.store, other, other.files)
            kept = read_kept(parts.store, other)
            for start in range(0, len(rows), _ROWS):
                some = rows[start : start + _ROWS]
                for measure in measures:
                    found = _search(parts, backend, measure, mine, some, theirs, kept)
                    left, right = some[found.query], found.reference
                    new = (left > right) if other is segment else np.ones(len(left), bool)
                    yield from (
                        _Pair(mine[IDS][a].tobytes(), theirs[IDS][b].tobytes(), s, measure.reason)
                        for a, b, s in zip(
                            left[new].tolist(),
                            right[new].tolist(),
                            found.similarity[new].tolist(),
                            strict=True,
                        )
                    )
            parts.progress.advance()
    parts.progress.done()


def _search(
    parts: Parts,
    backend: SearchBackend,
    measure: Measure,
    mine: dict[str, NDArray[Any]],
    rows: NDArray[np.int64],
    theirs: dict[str, NDArray[Any]],
    kept: NDArray[np.bool_],
) -> Matches:
    limit = _NEAREST + 1  # an image is the one most similar to itself
    if not measure.by_hash:
        return backend.search(
            np.asarray(mine[DESCRIPTORS][rows]),
            theirs[DESCRIPTORS],
            theirs,
            kept,
            measure.threshold,
            limit,
        )
    if measure.role not in mine or measure.role not in theirs:
        nothing = np.empty(0, np.int64)
        return Matches(nothing, nothing, np.empty(0))
    hashes = np.asarray(mine[measure.role][rows])
    return parts.hash_search().search(hashes, theirs[measure.role], kept, measure.threshold, limit)


def _turns(parts: Parts, dataset: Dataset, pairs: Sequence[_Pair]) -> dict[bytes, int]:
    """Image -> the turn that its verdict is of."""
    images = sorted({image for pair in pairs for image in (pair.one, pair.other)})
    digests = bytes_rows(images, 32)
    with parts.catalog.begin() as conn:
        known = lookups.known_images(conn, dataset.dataset_id, digests, dataset.turn)
    return {images[row]: turn for row, turn in zip(known.row, known.turn, strict=True)}
