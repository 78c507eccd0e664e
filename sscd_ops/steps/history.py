"""What a decision is compared with: the kept images of earlier turns, origin by origin.

An origin is the dataset's own index, or a bank's beside it. Their segments are searched cell by
cell (``steps.searching``), as the batch itself is; here is what was found in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import lookups, segments
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.decide import Decided, Images
from sscd_ops.core.descriptor_file import Queries
from sscd_ops.core.found import Answer
from sscd_ops.core.rows import Pairs
from sscd_ops.core.segment_file import read_ids
from sscd_ops.core.witnesses import Earlier
from sscd_ops.errors import InvariantError
from sscd_ops.model import KnownImages, Matches, Segment
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import Backends
from sscd_ops.steps.searching import Searcher, answered, read, sort_out


@dataclass(frozen=True)
class Origin:
    """Where history is searched: a dataset's or bank's live segments as of one of its turns."""

    dataset_id: int
    turn: int
    live: list[Segment]


def banks_of(work: Work) -> list[int]:
    """The banks that a batch is compared with, beside its dataset's own history: none yet."""
    return []


def origins_of(conn: Connection, work: Work, dataset: Dataset) -> list[Origin]:
    """What a batch is compared with: the dataset's own index, as its row says, then its banks."""
    live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
    return [Origin(dataset.dataset_id, dataset.turn, live)]


def live_of(origins: Sequence[Origin]) -> list[Segment]:
    """The segments of all origins, numbered through."""
    everything = [segment for origin in origins for segment in origin.live]
    return [replace(segment, ordinal=ordinal) for ordinal, segment in enumerate(everything)]


# ---------------------------------------------------------------- what was found


@dataclass(frozen=True)
class Best:
    """Each query's most similar kept images of history, by one measure.

    ``similarity``: float64 (q,), -inf where none is at or above the floor; ``segment``, ``row``:
    int64 (q,), where the best one lies. The rest: all stored pairs.
    """

    similarity: NDArray[np.float64]
    segment: NDArray[np.int64]
    row: NDArray[np.int64]
    pairs: Matches
    pair_segment: NDArray[np.int64]


@dataclass(frozen=True)
class Near:
    """What a batch's queries were found near to.

    ``best``: by each of its measures, in history. ``own``: cell by cell, by each measure, each
    query's nearest others of the batch.
    """

    best: list[Best]
    own: list[list[Answer]]


def search(
    parts: Parts,
    work: Work,
    backends: Backends,
    queries: Queries,
    free: Queries,
    live: Sequence[Segment],
) -> Near:
    """Gather match's answers; search what it has no answer for, or an outdated one.

    Args:
        parts: the real parts.
        work: the batch.
        backends: of its search.
        queries: the batch's.
        free: further ones, of images that were described earlier; numbered on.
        live: the segments, as ``live_of`` answers them.
    """
    found: list[list[tuple[NDArray[np.int64], Matches]]] = [[] for _ in work.measures]
    own: list[list[Answer]] = []
    before = 0
    for asked in (queries, free):
        if not len(asked):
            continue
        searcher = Searcher(parts, work, asked, backends)
        stands, todo = sort_out(answered(parts, work, asked), len(asked), live)
        for cell, each, answers in read(parts, work, stands + searcher.search(todo)):
            if cell.own is not None:
                own.append([Answer(before, before, matches, each.listed) for matches in answers])
                continue
            for mine, matches in zip(found, answers, strict=True):
                matches = replace(matches, query=matches.query + before)
                mine.append(_placed(matches, cell.segments))
        before += len(asked)
    if len(queries) and len(free):
        own += Searcher(parts, work, queries, backends).beside(free)
    return Near([_best(before, mine) for mine in found], own)


def search_few(
    parts: Parts,
    work: Work,
    backends: Backends,
    queries: Queries,
    live: Sequence[Segment],
    without: Mapping[int, NDArray[np.int64]],
) -> list[Best]:
    """Search images that are no batch's, by each measure; nothing is recorded.

    Args:
        parts: the real parts.
        work: whose measures.
        backends: of its search.
        queries: the images.
        live: the segments, as ``live_of`` answers them.
        without: segment number -> rows that are to be kept no longer.
    """
    found: list[list[tuple[NDArray[np.int64], Matches]]] = [[] for _ in work.measures]
    for cell, answers in Searcher(parts, work, queries, backends).compare(live, without):
        for mine, matches in zip(found, answers, strict=True):
            mine.append(_placed(matches, cell.segments))
    return [_best(len(queries), mine) for mine in found]


def _placed(matches: Matches, group: Sequence[Segment]) -> tuple[NDArray[np.int64], Matches]:
    """Matches with a group of segments, whose rows are numbered through: segment and row there."""
    ends = np.cumsum([segment.rows for segment in group])
    at = np.searchsorted(ends, matches.reference, side="right")
    first = ends - [segment.rows for segment in group]
    ordinals = np.array([segment.ordinal for segment in group], np.int64)
    return ordinals[at], replace(matches, reference=matches.reference - first[at])


def _best(count: int, found: Sequence[tuple[NDArray[np.int64], Matches]]) -> Best:
    """The best of what was found for so many queries, each match with its segment's ordinal."""
    pairs = Matches(
        _join([m.query for _, m in found], np.int64),
        _join([m.reference for _, m in found], np.int64),
        _join([m.similarity for _, m in found], np.float64),
    )
    where = _join([ordinal for ordinal, _ in found], np.int64)
    # best first; ties to the earlier segment, then the smaller row
    by = np.lexsort((pairs.reference, where, -pairs.similarity, pairs.query))
    pairs = Matches(pairs.query[by], pairs.reference[by], pairs.similarity[by])
    where = where[by]
    best = np.full(count, -np.inf)
    segment_best = np.full(count, -1, np.int64)
    row_best = np.full(count, -1, np.int64)
    first, at = np.unique(pairs.query, return_index=True)
    best[first] = pairs.similarity[at]
    segment_best[first] = where[at]
    row_best[first] = pairs.reference[at]
    return Best(best, segment_best, row_best, pairs, where)


def _join(pieces: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *pieces]).astype(dtype, copy=False)


def witnesses(
    parts: Parts,
    origins: Sequence[Origin],
    images: Images,
    decided: Decided,
    best: Sequence[Best],
    live: Sequence[Segment],
) -> Earlier:
    """The history's images that images of the batch were removed for.

    Raises:
        InvariantError: the catalog does not keep an image that the index keeps.
    """
    gone = np.flatnonzero(images.is_compared & ~decided.kept & (decided.witness < 0))
    by, query = decided.measure[gone], images.query[gone]
    segment = np.array([each.segment for each in best])[by, query]
    row = np.array([each.row for each in best])[by, query]
    digests = digests_at(parts, live, segment, row)
    carriers, deciding = np.zeros((len(gone), 16), np.uint8), np.zeros(len(gone), np.int64)
    # whose segment it is: they are numbered through
    whose = np.repeat(np.arange(len(origins)), [len(origin.live) for origin in origins])[segment]
    for number in np.unique(whose):
        mine = whose == number
        distinct, which = np.unique(digests[mine], axis=0, return_inverse=True)
        found = need_kept(parts, origins[number], distinct)
        carriers[mine] = found.sample_id[which.reshape(-1)]
        deciding[mine] = found.carrier_decision[which.reshape(-1)]
    return Earlier(gone, digests, carriers, deciding)


def need_kept(parts: Parts, origin: Origin, digests: NDArray[np.uint8]) -> KnownImages:
    """What is known of images, all of them kept, in the order of the digests."""
    with parts.catalog.begin() as conn:
        found = lookups.known_images(conn, origin.dataset_id, digests, origin.turn)
    is_kept = np.zeros(len(digests), bool)
    is_kept[found.row[found.verdict == "kept"]] = True
    for digest in digests[~is_kept]:
        raise InvariantError(
            f"the index keeps an image that the catalog does not keep"
            f" sha256={digest.tobytes().hex()}: run `sscd-ops index verify`"
        )
    return found.take(np.argsort(found.row))


def digests_at(
    parts: Parts, live: Sequence[Segment], segment: NDArray[np.int64], row: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Image digests, uint8 (k, 32), of rows in segments given by ordinal."""
    answer = np.zeros((len(row), 32), np.uint8)
    for ordinal in np.unique(segment):
        here = segment == ordinal
        answer[here] = read_ids(parts.store, live[int(ordinal)])[row[here]]
    return answer


def matches(parts: Parts, images: Images, best: Best, live: Sequence[Segment]) -> Pairs:
    """Stored pairs of new images with history: image, digest of the earlier one, similarity."""
    image_of_query = np.full(len(best.similarity), -1, np.int64)
    new = np.flatnonzero(images.is_compared)
    image_of_query[images.query[new]] = new
    image = image_of_query[best.pairs.query]
    mine = image >= 0
    digests = digests_at(parts, live, best.pair_segment[mine], best.pairs.reference[mine])
    return image[mine], digests, best.pairs.similarity[mine]
