"""What a decision is compared with: the kept images of earlier turns, origin by origin.

An origin is the dataset's own index, or a bank's beside it. Each (queries, segment, mask) is
searched once: the answer is a candidate file that a row names. Where a mask changed since, only
what changed is searched.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, lookups, segments, shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.decide import FREE, Decided, Images
from sscd_ops.core.masks import follow_mask
from sscd_ops.core.match_file import no_matches, read_matches, write_matches
from sscd_ops.core.perceptual import ROLE, WIDTH
from sscd_ops.core.rows import HistoryWitness
from sscd_ops.core.segment_file import open_segment, read_ids, read_mask
from sscd_ops.errors import FileMismatch, InvariantError
from sscd_ops.model import Matches, Segment, StoredFile
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import Queries

log = logging.getLogger(__name__)

Pairs = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]]
"""New images, digests (k, 32) of kept images of history, and their similarities."""


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
        done = shards.searched(conn, work.attempt.attempt_id, queries.digest)
    sound: Answered = {}
    for (segment_id, mask), file in done.items():
        try:
            parts.store.local(file)
        except FileMismatch as damage:
            log.warning("searching again segment=%d damage=%s", segment_id, damage)
            with parts.catalog.begin() as conn:
                shards.forget_search(conn, work.attempt.attempt_id, file)
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
        found = search.near(everything, kept), search.by_hash(everything, kept)
    near, hashed = found
    file = parts.store.put(
        f"{work.folder}/matches",
        ".parquet",
        lambda stream: write_matches(stream, near, segment.segment_id, hashed),
    )
    with parts.catalog.begin() as conn:
        attempts.require_attempt(conn, work.batch.batch_id, work.attempt.attempt_id)
        shards.register_search(
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
        self._work = work
        self._backend = backend
        self.queries = queries
        hash_roles = () if queries.hashes is None else (ROLE,)
        self._opened = open_segment(parts.store, segment, [*backend.roles(), *hash_roles])
        lacking = [role for role in backend.roles() if role not in self._opened.codes]
        if lacking:
            log.info(
                "segment %d has no %s: made anew at each search; `sscd-ops index rebuild --dataset"
                " %s` stores them",
                segment.segment_id,
                ", ".join(lacking),
                work.batch.dataset,
            )
        if hash_roles and ROLE not in self._opened.codes:
            log.info(
                "segment %d was decided without perceptual hashes (%s): its kept images are"
                " compared by descriptor alone",
                segment.segment_id,
                ROLE,
            )

    def near(self, rows: NDArray[np.int64], kept: NDArray[np.bool_]) -> Matches:
        """The best kept rows of some queries, by descriptor."""
        return self._backend.search(
            self.queries.descriptors[rows],
            self._opened.descriptors,
            self._opened.codes,
            kept,
            self._work.floor,
            self._work.options.duplicates.keep_matches,
        )

    def by_hash(self, rows: NDArray[np.int64], kept: NDArray[np.bool_]) -> Matches:
        """Likewise by perceptual hash; none where the batch or the segment has no hashes."""
        if self.queries.hashes is None or ROLE not in self._opened.codes:
            return no_matches()
        return self._parts.hash_search().search(
            self.queries.hashes[rows],
            self._opened.codes[ROLE],
            kept,
            self._work.hash_floor,
            self._work.options.duplicates.keep_matches,
        )


def _follow(
    parts: Parts,
    work: Work,
    search: _Search,
    segment: Segment,
    kept: NDArray[np.bool_],
    earlier: Mapping[str, StoredFile],
) -> tuple[Matches, Matches] | None:
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
        near, hashed = read_matches(parts.store.local(file))
        count = len(search.queries.ids)
        return (
            follow_mask(near, count, old, kept, limit, search.near),
            follow_mask(hashed, count, old, kept, limit, search.by_hash),
        )
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
) -> tuple[Best, Best]:
    """Gather match's answers; search what it has no answer for, or an outdated one.

    Args:
        parts: the real parts.
        work: the batch.
        backend: of its search.
        asked: queries, each list with answers of its own; numbered through in what is answered.
        live: the segments, as ``live_of`` answers them.

    Returns:
        The best by descriptor, and by hash.
    """
    found: list[tuple[int, Matches]] = []
    by_hash: list[tuple[int, Matches]] = []
    before = 0
    for queries in asked:
        if len(queries.ids):
            done = answered(parts, work, queries)
            for segment in live:
                file = search_segment(parts, work, backend, queries, segment, done)
                near, hashed = read_matches(parts.store.local(file))
                found.append((segment.ordinal, replace(near, query=near.query + before)))
                by_hash.append((segment.ordinal, replace(hashed, query=hashed.query + before)))
        before += len(queries.ids)
    return _best(before, found), _best(before, by_hash)


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
    best: Best,
    hash_best: Best,
    live: Sequence[Segment],
) -> dict[int, HistoryWitness]:
    """Image -> the history's image it was removed for.

    Raises:
        InvariantError: the catalog does not keep an image that the index keeps.
    """
    gone = np.flatnonzero(images.is_compared & ~decided.kept & (decided.witness < 0))
    if not len(gone):
        return {}
    queries = images.query[gone]
    by_hash = decided.perceptual[gone]
    segment = np.where(by_hash, hash_best.segment[queries], best.segment[queries])
    row = np.where(by_hash, hash_best.row[queries], best.row[queries])
    digests = _digests(parts, live, segment, row)
    # whose segment it is: they are numbered through
    whose = np.repeat(np.arange(len(origins)), [len(origin.live) for origin in origins])[segment]
    answer: dict[int, HistoryWitness] = {}
    for number, origin in enumerate(origins):
        mine = whose == number
        distinct, which = np.unique(digests[mine], axis=0, return_inverse=True)
        found = _need_kept(parts, origin, distinct)
        for image, at in zip(gone[mine], which.reshape(-1), strict=True):
            answer[int(image)] = found[int(at)]
    return answer


def _need_kept(
    parts: Parts, origin: Origin, digests: NDArray[np.uint8]
) -> dict[int, HistoryWitness]:
    """Row of the digests -> the kept image, and who carries it."""
    with parts.catalog.begin() as conn:
        found = lookups.known_images(conn, origin.dataset_id, digests, origin.turn)
    kept = {
        int(r["i"]): (digests[int(r["i"])].tobytes(), r["sample_id"], r["carrier_decision"])
        for r in found
        if r["verdict"] == "kept"
    }
    for number, digest in enumerate(digests):
        if number not in kept:
            raise InvariantError(
                f"the index keeps an image that the catalog does not keep"
                f" sha256={digest.tobytes().hex()}: run `sscd-ops index verify`"
            )
    return kept


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


# ---------------------------------------------------------------- images that are free


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
            if segment.mask is None:
                raise InvariantError(f"segment {segment.segment_id} is in no generation")
            mask = read_mask(parts.store, segment.mask, segment.rows)
            mask[self.row[again & (self.segment == ordinal)]] = True
            yield segment, mask


def free_images(parts: Parts, work: Work, images: Images, live: Sequence[Segment]) -> Free:
    """Read the stored descriptors of the batch's free images."""
    free = [int(i) for i in np.flatnonzero(images.standing == FREE)]
    chosen = [i for i in free if images.known[i]["segment_row"] is not None]
    with parts.catalog.begin() as conn:
        of_decision = segments.of_decisions(
            conn, sorted({images.known[i]["decision_id"] for i in chosen})
        )
    ordinal_of = {segment.segment_id: segment.ordinal for segment in live}
    segment = np.array(
        [ordinal_of[of_decision[images.known[i]["decision_id"]]] for i in chosen], np.int64
    )
    row = np.array([images.known[i]["segment_row"] for i in chosen], np.int64)
    dimensions = work.attempt.fingerprint.dimensions
    descriptors = np.empty((len(chosen), dimensions), np.float16)
    hashes = np.zeros((len(chosen), WIDTH), np.uint8) if work.perceptual else None
    for ordinal in np.unique(segment):
        here = segment == ordinal
        opened = open_segment(parts.store, live[int(ordinal)], [ROLE] if work.perceptual else [])
        descriptors[here] = opened.descriptors[row[here]]
        if hashes is not None and ROLE in opened.codes:
            hashes[here] = opened.codes[ROLE][row[here]]
    chosen_rows = np.array(chosen, np.int64)
    ids = images.digests[chosen_rows]
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    queries = Queries(ids, descriptors, {}, digest, hashes, [])
    return Free(chosen_rows, segment, row, queries)
