"""Images whose witness is kept no longer: decided anew, like newcomers to all that is kept now.

In their old order, by leader's pass: one that is near a kept image goes for it, another one is kept
if it can be published, and leads from then on. Those that cannot be come last: near one of these
they go too, else they have no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog import lookups
from sscd_ops.core.leader import Compared, lead
from sscd_ops.core.measures import Measure
from sscd_ops.core.segment_file import read_kept
from sscd_ops.model import KnownImages
from sscd_ops.ports import GrowingIndex
from sscd_ops.steps import history
from sscd_ops.steps.free_images import places, stored_queries
from sscd_ops.steps.history import Best, Origin
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import open_backends


class ChangedIndex:
    """A dataset's own index with other rows kept than its masks say.

    Args:
        parts: the real parts.
        origin: the index as of a turn, its segments numbered through.

    Attributes:
        cleared: segment number -> int64 (k,), rows that were kept and are not any more.
        masks: segment number -> bool (n,), of the segments in which something changed.
    """

    def __init__(self, parts: Parts, origin: Origin) -> None:
        self._parts = parts
        self.origin = origin
        self.cleared: dict[int, NDArray[np.int64]] = {}
        self.masks: dict[int, NDArray[np.bool_]] = {}

    def places(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ordinal of the segment that each of some images (k, 32) lies in, and its row there.

        Those without a descriptor, which are plain or forgotten, are left out.
        """
        known = self._known(ids)
        return places(self._parts, known.take(known.segment_row >= 0), self.origin.live)

    def described(self, ids: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of some images (k, 32) have a descriptor: bool (k,)."""
        answer: NDArray[np.bool_] = self._known(ids).segment_row >= 0
        return answer

    def _known(self, ids: NDArray[np.uint8]) -> KnownImages:
        with self._parts.catalog.begin() as conn:
            known = lookups.known_images(conn, self.origin.dataset_id, ids, self.origin.turn)
        return known.take(np.argsort(known.row))

    def clear(self, ids: NDArray[np.uint8]) -> None:
        """Keep some images no longer."""
        for number, rows in self._set(ids, False):
            self.cleared[number] = rows

    def keep(self, ids: NDArray[np.uint8]) -> None:
        """Keep some images again."""
        for _ in self._set(ids, True):
            pass

    def _set(self, ids: NDArray[np.uint8], kept: bool) -> list[tuple[int, NDArray[np.int64]]]:
        segment, row = self.places(ids)
        answer = []
        for ordinal in np.unique(segment):
            found = self.origin.live[int(ordinal)]
            if found.segment_id not in self.masks:
                self.masks[found.segment_id] = read_kept(self._parts.store, found)
            rows = row[segment == ordinal]
            self.masks[found.segment_id][rows] = kept
            answer.append((found.segment_id, rows))
        return answer


@dataclass(frozen=True)
class Anew:
    """What was decided of some images, in their order.

    ``kept``: bool (n,). Where it is removed ``measure``, int8 (n,), is the number of the measure
    that says so (else -1), ``witness``, uint8 (n, 32), the image because of which, ``similarity``,
    float64 (n,), that of the two. Neither kept nor removed: it cannot be published.
    """

    kept: NDArray[np.bool_]
    measure: NDArray[np.int8]
    witness: NDArray[np.uint8]
    similarity: NDArray[np.float64]


def decide_anew(
    parts: Parts,
    work: Work,
    index: ChangedIndex,
    ids: NDArray[np.uint8],
    can_be_published: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> Anew:
    """Decide images anew by stored descriptors and hashes.

    Args:
        parts: the real parts.
        work: whose measures and backends.
        index: what is kept now.
        ids: uint8 (n, 32), the images, in their old order.
        can_be_published: is asked of numbers of images, int64 (k,), each once: of those that are
            near no kept one. One whose descriptor was forgotten is near none.

    Raises:
        InvariantError: the catalog does not keep an image that the index keeps.
    """
    count = len(ids)
    answer = Anew(
        np.zeros(count, bool),
        np.full(count, -1, np.int8),
        np.zeros((count, 32), np.uint8),
        np.full(count, -np.inf),
    )
    if not count:
        return answer
    described = index.described(ids)
    if not described.all():
        rows, bare = np.flatnonzero(described), np.flatnonzero(~described)
        some = decide_anew(
            parts, work, index, ids[rows], lambda numbers: can_be_published(rows[numbers])
        )
        answer.kept[rows], answer.measure[rows] = some.kept, some.measure
        answer.witness[rows], answer.similarity[rows] = some.witness, some.similarity
        answer.kept[bare] = can_be_published(bare)
        return answer
    backends, live = open_backends(parts, work), index.origin.live
    queries = stored_queries(parts, work, ids, live, *index.places(ids))
    near = history.search_few(parts, work, backends, queries, live, index.cleared)
    is_new = np.ones(count, bool)
    for by, best in zip(work.measures, near, strict=True):
        is_new &= best.similarity < by.threshold
    new = np.flatnonzero(is_new)
    last = new[~can_be_published(new)]
    rows = np.setdiff1d(np.arange(count), last)

    def growing(by: Measure) -> GrowingIndex:
        if by.by_hash:
            return parts.hash_search().growing()
        return backends.own.growing(work.attempt.fingerprint.dimensions)

    compared = [
        Compared(by, queries.rows[by.role][rows], best.similarity[rows], growing(by))
        for by, best in zip(work.measures, near, strict=True)
    ]
    led = lead(compared, work.options.duplicates.keep_matches, progress=parts.progress)
    answer.kept[rows] = led.kept
    answer.measure[rows] = led.measure
    answer.similarity[rows] = led.similarity
    here = led.witness >= 0
    answer.witness[rows[here]] = ids[rows[led.witness[here]]]
    _name_earlier(parts, index.origin, near, answer, rows[~led.kept & ~here])
    if len(last):
        asked = [queries.rows[by.role][last] for by in work.measures]
        _come_last(compared, asked, last, ids[rows[led.kept]], answer)
    return answer


def _name_earlier(
    parts: Parts, origin: Origin, near: Sequence[Best], answer: Anew, gone: NDArray[np.int64]
) -> None:
    """Name the images kept before that some were removed for."""
    if not len(gone):
        return
    by = answer.measure[gone]
    segment = np.array([each.segment for each in near])[by, gone]
    row = np.array([each.row for each in near])[by, gone]
    answer.witness[gone] = history.digests_at(parts, origin.live, segment, row)
    history.need_kept(parts, origin, np.unique(answer.witness[gone], axis=0))


def _come_last(
    compared: Sequence[Compared],
    asked: Sequence[NDArray[np.float16] | NDArray[np.uint8]],
    last: NDArray[np.int64],
    kept: NDArray[np.uint8],
    answer: Anew,
) -> None:
    """Compare those that cannot be published with what was kept: the first measure speaks first."""
    if not len(kept):
        return
    for number, (side, mine) in enumerate(zip(compared, asked, strict=True)):
        found = side.index.search(mine, side.measure.threshold, 1)
        image = last[found.query]
        silent = answer.measure[image] < 0
        image, reference = image[silent], found.reference[silent]
        answer.measure[image] = number
        answer.similarity[image] = found.similarity[silent]
        answer.witness[image] = kept[reference]
