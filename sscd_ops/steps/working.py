"""Working a decision out: everything resolve does before it takes the lock."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sscd_ops.catalog import decisions, lookups, shards
from sscd_ops.catalog.batches import Dataset
from sscd_ops.core import rows as core_rows
from sscd_ops.core.decide import (
    NEW,
    Decided,
    Images,
    Samples,
    decide,
    find_images,
    load_samples,
)
from sscd_ops.core.leader import Hashes, Leader, lead
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.preference import arrival_rank
from sscd_ops.core.rows import Witnesses
from sscd_ops.errors import InvariantError, MissingDescriptors
from sscd_ops.model import Counts, Fault, Matches, Segment, SourceShard, StoredFile
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.publish_plan import PublishPlan, plan_publish
from sscd_ops.steps.queries import (
    Queries,
    codes_of,
    load_queries,
    open_backend,
    read_matches,
    search_segment,
    sound_searches,
)

log = logging.getLogger(__name__)


_Pairs = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]]
"""New images, digests (k, 32) of kept images of history, and their similarities."""

_LONGEST_EXAMPLE = 500
"""Characters of a fault's message in that of a night that is held."""


@dataclass(frozen=True)
class Worked:
    """A decision worked out for one turn and generation."""

    month: date
    samples: Samples
    images: Images
    decided: Decided
    witness: Witnesses
    history: _Pairs
    hash_history: _Pairs
    shard_ids: NDArray[np.int64]
    publish: PublishPlan
    counts: Counts
    by_source: dict[str, Counts]
    examples: dict[str, dict[str, str]]
    """Source -> quarantine code -> where it first comes and what the message there says."""
    segment_files: Mapping[str, StoredFile]
    segment_rows: int
    mask: StoredFile
    kept_rows: int
    files: str
    dataset_id: int
    keep_matches: int

    @property
    def plan(self) -> str:
        """8 hex digits that name the publish plan."""
        return self.publish.digest

    @property
    def planned(self) -> list[tuple[int, str, int, str]]:
        """Output shards: (number, form, samples, name)."""
        return self.publish.shards

    def figures(self) -> dict[str, Any]:
        """The counts, for the event."""
        return {
            "counts": self.counts.plain(),
            "sources": {source: counts.plain() for source, counts in self.by_source.items()},
        }

    def rows(self, decision_id: int) -> Iterator[tuple[str, pa.Table]]:
        """(table, rows) to COPY."""
        yield (
            "samples",
            core_rows.sample_rows(
                self.samples,
                self.images,
                self.decided,
                self.witness,
                shard_ids=self.shard_ids,
                output_shard=self.publish.output_shard,
                decision_id=decision_id,
                month=self.month,
            ),
        )
        yield (
            "images",
            core_rows.image_rows(
                self.samples,
                self.images,
                self.decided,
                self.witness,
                dataset_id=self.dataset_id,
                decision_id=decision_id,
                month=self.month,
            ),
        )
        by_measure = (
            (self.decided.matches, self.history, False),
            (self.decided.hash_matches, self.hash_history, True),
        )
        matches = [
            core_rows.match_rows(
                self.images,
                inside,
                history,
                limit=self.keep_matches,
                decision_id=decision_id,
                month=self.month,
                by_hash=by_hash,
            )
            for inside, history, by_hash in by_measure
        ]
        yield "matches", pa.concat_tables(matches)


def work_out(parts: Parts, work: Work, dataset: Dataset) -> Worked:
    """Decide the batch for the dataset's turn and generation as they are now.

    Raises:
        BatchNotRunnable: a manifest or descriptor file of the batch is missing.
        MissingDescriptors: an image has no descriptor.
    """
    turn = dataset.next_turn - 1
    # one moment for all: a shard that plan appends in between would be owned and never decided
    with parts.catalog.read() as conn:
        registered = shards.shards_of(conn, work.attempt.attempt_id)
        files = shards.queries_of(conn, work.attempt.attempt_id)
        places = [(s.source, s.relative_uri) for s in registered]
        known = lookups.known_samples(conn, work.batch.dataset_id, places, turn)
        live = decisions.live_segments(conn, work.batch.dataset_id, dataset.generation)
    samples = _samples(parts, work, registered, known)
    _need_distinct(work, samples)
    queries = load_queries(parts, work, registered)
    images = _images(parts, work, samples, queries, turn)
    _need_descriptors(work, registered, samples, images)
    backend = open_backend(parts, work)
    best, hash_best = _search_history(parts, work, backend, queries, live)
    decided = decide(
        samples,
        images,
        lambda rows: _lead(parts, work, backend, queries, rows, best, hash_best),
    )
    month = datetime.now(UTC).date().replace(day=1)
    witness = core_rows.witnesses(
        samples,
        images,
        decided,
        history_witness=_history_witnesses(
            parts, work, images, decided, best, hash_best, live, turn
        ),
        threshold=work.attempt.threshold,
        hash_threshold=work.hash_threshold,
        month=month,
    )
    counts, by_source, examples = _counts(parts, work, samples, images, decided, registered)
    kept = np.zeros(len(queries.ids), bool)
    kept[images.query[decided.kept & (images.standing == NEW)]] = True
    segment_files, mask = _write_segment(parts, work, backend, queries, kept)
    return Worked(
        month=month,
        samples=samples,
        images=images,
        decided=decided,
        witness=witness,
        history=_history_matches(parts, images, best, live),
        hash_history=_history_matches(parts, images, hash_best, live),
        shard_ids=np.array([s.shard_id for s in registered], np.int64),
        publish=plan_publish(work, samples, decided.keeps),
        counts=counts,
        by_source=by_source,
        examples=examples,
        segment_files=segment_files,
        segment_rows=len(queries.ids),
        mask=mask,
        kept_rows=int(kept.sum()),
        files=files,
        dataset_id=work.batch.dataset_id,
        keep_matches=work.options.duplicates.keep_matches,
    )


def _samples(
    parts: Parts, work: Work, registered: Sequence[SourceShard], known: set[bytes]
) -> Samples:
    tables = [read_manifest(manifest_of(parts, work, shard)) for shard in registered]
    if not tables:
        tables.append(_no_rows())
        registered = ()
    return load_samples(
        tables,
        arrival_rank([s.source for s in registered], [s.relative_uri for s in registered]),
        np.array([work.options.source(s.source).priority for s in registered], np.int64),
        work.options.duplicates.prefer,
        known,
    )


def _need_distinct(work: Work, samples: Samples) -> None:
    """Refuse a batch that holds a sample twice: it would be its own witness."""
    ids = samples.table.column("sample_id")
    twice = pc.count(ids).as_py() - pc.count_distinct(ids, mode="only_valid").as_py()
    if twice:
        raise InvariantError(
            f"{twice} samples of batch {work.batch.batch_id} are in it twice: its source shards"
            " overlap. Abandon the batch and run its night again"
        )


def _no_rows() -> pa.Table:
    from sscd_ops.core.manifest import SCHEMA

    return SCHEMA.empty_table()


_TOO_PLAIN = (
    "there is nothing in the picture to compare with others, and duplicates.plain is 'quarantine'"
)


def _images(parts: Parts, work: Work, samples: Samples, queries: Queries, turn: int) -> Images:
    def lookup(digests: NDArray[np.uint8]) -> Sequence[Mapping[str, Any]]:
        with parts.catalog.begin() as conn:
            return lookups.known_images(conn, work.batch.dataset_id, digests, turn)

    if work.options.duplicates.plain == "keep":
        return find_images(samples, lookup, queries.ids, queries.faults, queries.plain)
    refused = dict.fromkeys(queries.plain, (Fault.TOO_PLAIN, _TOO_PLAIN))
    return find_images(samples, lookup, queries.ids, queries.faults | refused)


def _need_descriptors(
    work: Work, registered: Sequence[SourceShard], samples: Samples, images: Images
) -> None:
    missing = images.undescribed
    if not len(missing):
        return
    groups = sorted({registered[i].group for i in samples.shard[images.carrier[missing]]})
    raise MissingDescriptors(
        f"{len(missing)} images of batch {work.batch.batch_id} have no descriptor, because an"
        f" earlier verdict on them was withdrawn after plan; clear embed for map indexes {groups}"
    )


# ---------------------------------------------------------------- history


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


def _search_history(
    parts: Parts, work: Work, backend: SearchBackend, queries: Queries, live: Sequence[Segment]
) -> tuple[Best, Best]:
    """Gather match's answers; search what it has no answer for, or an outdated one.

    Returns:
        The best by descriptor, and by hash.
    """
    done = sound_searches(parts, work, queries)
    found: list[tuple[int, Matches]] = []
    by_hash: list[tuple[int, Matches]] = []
    for segment in live if len(queries.ids) else ():
        if segment.mask is None:
            raise InvariantError(f"segment {segment.segment_id} has no mask")
        file = done.get((segment.segment_id, segment.mask.sha256))
        if file is None:
            file = search_segment(parts, work, backend, queries, segment)
        near, hashed = read_matches(parts.store.local(file))
        found.append((segment.ordinal, near))
        by_hash.append((segment.ordinal, hashed))
    return _best(len(queries.ids), found), _best(len(queries.ids), by_hash)


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


def _join(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)


def _history_witnesses(
    parts: Parts,
    work: Work,
    images: Images,
    decided: Decided,
    best: Best,
    hash_best: Best,
    live: Sequence[Segment],
    turn: int,
) -> dict[int, tuple[UUID, date]]:
    """Image -> carrying sample of the history's image it was removed for."""
    gone = np.flatnonzero((images.standing == NEW) & ~decided.kept & (decided.witness < 0))
    if not len(gone):
        return {}
    queries = images.query[gone]
    by_hash = decided.perceptual[gone]
    segment = np.where(by_hash, hash_best.segment[queries], best.segment[queries])
    row = np.where(by_hash, hash_best.row[queries], best.row[queries])
    digests = _digests(parts, live, segment, row)
    with parts.catalog.begin() as conn:
        distinct, at = np.unique(digests.view("S32").reshape(-1), return_inverse=True)
        keys = np.frombuffer(_padded(distinct), np.uint8).reshape(-1, 32)
        found = lookups.known_images(conn, work.batch.dataset_id, keys, turn)
    carriers = {int(r["i"]): (r["sample_id"], r["month"]) for r in found if r["verdict"] == "kept"}
    answer = {}
    for image, key in zip(gone, at, strict=True):
        if int(key) not in carriers:
            raise InvariantError(
                f"the index keeps an image that the catalog does not keep"
                f" sha256={keys[key].tobytes().hex()}: run `sscd-ops index verify`"
            )
        answer[int(image)] = carriers[int(key)]
    return answer


def _padded(values: NDArray[np.bytes_]) -> bytes:
    return values.astype("S32").tobytes()


def _digests(
    parts: Parts, live: Sequence[Segment], segment: NDArray[np.int64], row: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Image digests, uint8 (k, 32), of rows in segments given by ordinal."""
    answer = np.zeros((len(row), 32), np.uint8)
    for ordinal in np.unique(segment):
        here = segment == ordinal
        answer[here] = parts.segments.ids(live[int(ordinal)])[row[here]]
    return answer


def _history_matches(
    parts: Parts, images: Images, best: Best, live: Sequence[Segment]
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]]:
    """Stored pairs of new images with history: image, digest of the earlier one, similarity."""
    image_of_query = np.full(len(best.similarity), -1, np.int64)
    new = np.flatnonzero(images.standing == NEW)
    image_of_query[images.query[new]] = new
    image = image_of_query[best.pairs.query]
    mine = image >= 0
    digests = _digests(parts, live, best.pair_segment[mine], best.pairs.reference[mine])
    return image[mine], digests, best.pairs.similarity[mine]


# ---------------------------------------------------------------- the batch itself


def _lead(
    parts: Parts,
    work: Work,
    backend: SearchBackend,
    queries: Queries,
    rows: NDArray[np.int64],
    best: Best,
    hash_best: Best,
) -> Leader:
    dimensions = int(work.attempt.fingerprint_detail["dimensions"])
    hashes = None
    if queries.hashes is not None:
        hashes = Hashes(
            queries.hashes[rows],
            hash_best.similarity[rows],
            work.hash_threshold,
            work.hash_floor,
            parts.hash_search().growing(),
        )
    return lead(
        queries.descriptors[rows],
        best.similarity[rows],
        work.attempt.threshold,
        work.floor,
        work.options.duplicates.keep_matches,
        _among_themselves(parts, work, backend, len(rows)).growing(dimensions),
        progress=parts.progress,
        hashes=hashes,
    )


def _among_themselves(parts: Parts, work: Work, backend: SearchBackend, rows: int) -> SearchBackend:
    """The backend for a night against itself: ``auto`` follows the night's own size.

    History's would be ``flat`` for a first night of a million, and ``sketch``, which may miss a
    copy, for a small night beside a large history.
    """
    wanted = work.options.duplicates.search
    name = parts.choose_search(wanted, rows, work.attempt.threshold)
    if name == work.attempt.search:
        return backend
    log.info("night against itself batch=%s images=%s search=%s", work.batch.batch_id, rows, name)
    return open_backend(parts, work, name)


def _counts(
    parts: Parts,
    work: Work,
    samples: Samples,
    images: Images,
    decided: Decided,
    registered: Sequence[SourceShard],
) -> tuple[Counts, dict[str, Counts], dict[str, dict[str, str]]]:
    """The batch's counts, those of each source, and an example of every fault."""
    with parts.catalog.begin() as conn:
        said = shards.shard_counts(conn, work.attempt.attempt_id)
    names = sorted(source.name for source in work.options.sources)
    of_shard = np.array([names.index(s.source) for s in registered], np.int64)
    of_sample = of_shard[samples.shard] if len(registered) else np.empty(0, np.int64)
    tallies = core_rows.tally_faults(samples, images, decided, of_sample, len(names))
    by_source, examples = {}, {}
    for i, (name, tally) in enumerate(zip(names, tallies, strict=True)):
        mine = [s for s in registered if s.source == name]
        missed = sum(int(said[s.shard_id].get("not_delivered", 0)) for s in mine)
        by_source[name] = replace(
            core_rows.count(decided.outcome[of_sample == i], missed),
            source_shards=len(mine),
            codes=tally.codes,
        )
        examples[name] = {
            code: _example(registered[shard].relative_uri, key, message)
            for code, (shard, key, message) in tally.examples.items()
        }
    together = core_rows.count(
        decided.outcome, sum(counts.not_delivered for counts in by_source.values())
    )
    codes = sum((Counter(counts.codes) for counts in by_source.values()), Counter())
    return (
        replace(together, source_shards=len(registered), codes=dict(codes)),
        by_source,
        examples,
    )


def _example(shard: str, key: str | None, message: str) -> str:
    shown = message[:_LONGEST_EXAMPLE] + (" ..." if len(message) > _LONGEST_EXAMPLE else "")
    return f"{shard if key is None else f'{shard}#{key}'}: {shown}"


def _write_segment(
    parts: Parts, work: Work, backend: SearchBackend, queries: Queries, kept: NDArray[np.bool_]
) -> tuple[Mapping[str, StoredFile], StoredFile]:
    folder = f"{work.folder}/index"
    if not len(queries.ids):
        return {}, StoredFile("", "", 0)
    if work.batch.dry_run:
        return {}, StoredFile("", "", 0)
    files = parts.segments.write(
        f"{folder}/segments", queries.descriptors, queries.ids, codes_of(backend, queries)
    )
    return files, parts.segments.write_mask(f"{folder}/masks", kept)
