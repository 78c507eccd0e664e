"""What a decision is compared with: the kept images of earlier turns, origin by origin.

An origin is the dataset's own index, or a bank's beside it. Each (queries, segment, mask) is
searched once: the answer is a candidate file that a row names. Where a mask changed since, only
what changed is searched.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, lookups, searches, segments
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.decide import Decided, Images
from sscd_ops.core.descriptor_file import Queries
from sscd_ops.core.masks import SearchRows, follow_mask
from sscd_ops.core.match_file import no_matches, read_matches, write_matches
from sscd_ops.core.measures import HASHES, Measure
from sscd_ops.core.rows import Pairs
from sscd_ops.core.segment_file import open_segment, read_ids, read_mask
from sscd_ops.core.witnesses import Earlier
from sscd_ops.errors import FileMismatch, InvariantError
from sscd_ops.model import KnownImages, Matches, Segment, StoredFile
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.parts import Parts, Work

log = logging.getLogger(__name__)


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


# ---------------------------------------------------------------- searching


Answered = dict[int, dict[str, StoredFile]]
"""Segment -> sha256 of the mask it was searched under -> candidate file."""


def answered(parts: Parts, work: Work, queries: Queries) -> Answered:
    """What was searched for these queries so far; lost and damaged files are forgotten."""
    with parts.catalog.begin() as conn:
        done = searches.searched(conn, work.attempt.attempt_id, queries.digest)
    sound: Answered = {}
    for (segment_id, mask), file in done.items():
        try:
            parts.store.local(file)
        except FileMismatch as damage:
            log.warning("searching again segment=%d damage=%s", segment_id, damage)
            with parts.catalog.begin() as conn:
                searches.forget_search(conn, work.attempt.attempt_id, file)
        else:
            sound.setdefault(segment_id, {})[mask] = file
    return sound


def search_segment(
    parts: Parts,
    work: Work,
    backend: SearchBackend,
    queries: Queries,
    segment: Segment,
    done: Answered,
) -> StoredFile:
    """The candidate file for a segment under its mask: the one there is, else a new one."""
    if segment.mask is None:
        raise InvariantError(f"segment {segment.segment_id} is in no generation")
    earlier = done.get(segment.segment_id, {})
    if segment.mask.sha256 in earlier:
        return earlier[segment.mask.sha256]
    kept = read_mask(parts.store, segment.mask, segment.rows)
    search = _Search(parts, work, backend, queries, segment)
    found = None
    if earlier:
        found = _follow(parts, work, search, segment, kept, earlier)
    if found is None:
        everything = np.arange(len(queries.ids))
        found = [search.by(measure)(everything, kept) for measure in work.measures]
    answer = found
    file = parts.store.put(
        f"{work.folder}/matches",
        ".parquet",
        lambda stream: write_matches(stream, answer, segment.segment_id),
    )
    with parts.catalog.begin() as conn:
        attempts.require_attempt(conn, work.batch.batch_id, work.attempt.attempt_id)
        searches.register_search(
            conn,
            work.attempt.attempt_id,
            segment.segment_id,
            segment.mask.sha256,
            queries.digest,
            file,
        )
    return file


class _Search:
    """A segment, opened, and the queries that are compared with it by every measure."""

    def __init__(
        self, parts: Parts, work: Work, backend: SearchBackend, queries: Queries, segment: Segment
    ) -> None:
        self._parts = parts
        self._backend = backend
        self._limit = work.options.duplicates.keep_matches
        self.queries = queries
        hashes = HASHES.keys() & queries.rows.keys()
        self._opened = open_segment(parts.store, segment, [*backend.roles(), *hashes])
        lacking = [role for role in backend.roles() if role not in self._opened.codes]
        if lacking:
            log.info(
                "segment %d has no %s: made anew at each search; `sscd-ops index rebuild --dataset"
                " %s` stores them",
                segment.segment_id,
                ", ".join(lacking),
                work.batch.dataset,
            )
        for role in hashes - self._opened.codes.keys():
            log.info(
                "segment %d was decided without perceptual hashes (%s): its kept images are"
                " compared by descriptor alone",
                segment.segment_id,
                role,
            )

    def by(self, measure: Measure) -> SearchRows:
        """The best kept rows of some queries by a measure; none where the segment has no such."""
        everything = self.queries.rows[measure.role]

        def search(rows: NDArray[np.int64], kept: NDArray[np.bool_]) -> Matches:
            # all are asked as one array, which a backend prepares once for segment after segment
            queries = everything if len(rows) == len(everything) else everything[rows]
            if not measure.by_hash:
                stored, codes = self._opened.descriptors, self._opened.codes
                return self._backend.search(
                    queries, stored, codes, kept, measure.floor, self._limit
                )
            if measure.role not in self._opened.codes:
                return no_matches()
            hashes = self._opened.codes[measure.role]
            return self._parts.hash_search().search(
                queries, hashes, kept, measure.floor, self._limit
            )

        return search


def _follow(
    parts: Parts,
    work: Work,
    search: _Search,
    segment: Segment,
    kept: NDArray[np.bool_],
    earlier: Mapping[str, StoredFile],
) -> list[Matches] | None:
    """An answer under another mask brought up to this one; None where that mask is lost."""
    with parts.catalog.begin() as conn:
        masks = segments.earlier_masks(conn, segment.segment_id)
    limit = work.options.duplicates.keep_matches
    for sha256, file in earlier.items():
        try:
            old = read_mask(parts.store, masks[sha256], segment.rows)
        except (KeyError, FileMismatch):
            continue
        log.info(
            "the kept rows of a segment changed, searching those segment=%d set=%d cleared=%d",
            segment.segment_id,
            int((kept & ~old).sum()),
            int((old & ~kept).sum()),
        )
        found = read_matches(parts.store.local(file), len(work.measures))
        count = len(search.queries.ids)
        return [
            follow_mask(matches, count, old, kept, limit, search.by(measure))
            for measure, matches in zip(work.measures, found, strict=True)
        ]
    return None


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


def search(
    parts: Parts,
    work: Work,
    backend: SearchBackend,
    asked: Sequence[Queries],
    live: Sequence[Segment],
) -> list[Best]:
    """Gather match's answers; search what it has no answer for, or an outdated one.

    Args:
        parts: the real parts.
        work: the batch.
        backend: of its search.
        asked: queries, each list with answers of its own; numbered through in what is answered.
        live: the segments, as ``live_of`` answers them.

    Returns:
        The best by each of the batch's measures.
    """
    found: list[list[tuple[int, Matches]]] = [[] for _ in work.measures]
    before = 0
    for queries in asked:
        if len(queries.ids):
            done = answered(parts, work, queries)
            for segment in live:
                file = search_segment(parts, work, backend, queries, segment, done)
                read = read_matches(parts.store.local(file), len(found))
                for mine, matches in zip(found, read, strict=True):
                    mine.append((segment.ordinal, replace(matches, query=matches.query + before)))
        before += len(queries.ids)
    return [_best(before, mine) for mine in found]


def _best(count: int, found: Sequence[tuple[int, Matches]]) -> Best:
    """The best of what was found for so many queries, segment by segment."""
    pairs = Matches(
        _join([m.query for _, m in found], np.int64),
        _join([m.reference for _, m in found], np.int64),
        _join([m.similarity for _, m in found], np.float64),
    )
    where = _join([np.full(len(m.query), ordinal) for ordinal, m in found], np.int64)
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
    digests = _digests(parts, live, segment, row)
    carriers, deciding = np.zeros((len(gone), 16), np.uint8), np.zeros(len(gone), np.int64)
    # whose segment it is: they are numbered through
    whose = np.repeat(np.arange(len(origins)), [len(origin.live) for origin in origins])[segment]
    for number in np.unique(whose):
        mine = whose == number
        distinct, which = np.unique(digests[mine], axis=0, return_inverse=True)
        found = _need_kept(parts, origins[number], distinct)
        carriers[mine] = found.sample_id[which.reshape(-1)]
        deciding[mine] = found.carrier_decision[which.reshape(-1)]
    return Earlier(gone, digests, carriers, deciding)


def _need_kept(parts: Parts, origin: Origin, digests: NDArray[np.uint8]) -> KnownImages:
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


def _digests(
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
    digests = _digests(parts, live, best.pair_segment[mine], best.pairs.reference[mine])
    return image[mine], digests, best.pairs.similarity[mine]
