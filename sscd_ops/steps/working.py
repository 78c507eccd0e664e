"""Working a night out: everything resolve does before it takes the lock."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sscd_ops.catalog import lookups, shards
from sscd_ops.catalog.archive import PlannedArchive
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.shards import ShardCounts
from sscd_ops.core import rows as core_rows
from sscd_ops.core import tally
from sscd_ops.core.decide import (
    COLUMNS,
    FREE,
    IMAGE_FAULTY,
    NEW,
    Decided,
    Images,
    Samples,
    decide,
    find_images,
    load_samples,
)
from sscd_ops.core.descriptor_file import Queries
from sscd_ops.core.found import gather
from sscd_ops.core.leader import Compared, Leader, lead
from sscd_ops.core.manifest import manifest_blocks, read_manifest
from sscd_ops.core.measures import Measure
from sscd_ops.core.preference import arrival_rank
from sscd_ops.core.rows import DecisionRows, Pairs
from sscd_ops.core.rules import Stopped, joined, none_stopped
from sscd_ops.core.segment_file import rows_of, set_aside, write_mask, write_segment
from sscd_ops.core.witnesses import find_witnesses
from sscd_ops.errors import InvariantError, MissingDescriptors
from sscd_ops.model import Counts, Fault, KnownImages, SourceShard, StoredFile
from sscd_ops.ports import GrowingIndex, SearchBackend
from sscd_ops.steps import history
from sscd_ops.steps.free_images import free_images
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.publish_plan import PublishPlan, plan_archive, plan_publish
from sscd_ops.steps.queries import Backends, codes_of, load_queries, open_backends
from sscd_ops.steps.reading_again import again_of
from sscd_ops.steps.ruling import COLUMNS as RULED_BY
from sscd_ops.steps.ruling import Ruling
from sscd_ops.steps.withdrawn_set import catch_equal, catch_near, read_set

log = logging.getLogger(__name__)


_LONGEST_EXAMPLE = 500
"""Characters of a fault's message in that of a night that is held."""


@dataclass(frozen=True)
class Worked:
    """A decision worked out for one turn and generation."""

    made: DecisionRows
    """Before it has a number."""
    manifests: Manifests
    history: list[Pairs]
    """By each measure."""
    publish: PublishPlan
    archived: Sequence[PlannedArchive]
    counts: Counts
    by_source: dict[str, Counts]
    examples: dict[str, dict[str, str]]
    """Source -> quarantine code -> where it first comes and what the message there says."""
    segment_files: Mapping[str, StoredFile]
    segment_rows: int
    mask: StoredFile
    kept_rows: int
    masks: Mapping[int, tuple[StoredFile, int]]
    """Earlier segment -> the mask it gets, and how many rows that keeps."""
    files: str
    """What names the batch's source shards and their files; see ``shards.files_digest``."""
    keep_matches: int

    def figures(self) -> dict[str, Any]:
        """The counts, for the event."""
        return {
            "counts": self.counts.plain(),
            "sources": {source: counts.plain() for source, counts in self.by_source.items()},
        }

    def rows(self, decision_id: int) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """(table, its rows, block by block) to COPY."""
        given = replace(self.made, decision_id=decision_id)
        manifests = self.manifests.blocks(core_rows.FROM_MANIFEST)
        yield "samples", core_rows.sample_rows(given, manifests)
        yield "images", core_rows.image_rows(given)
        yield "changes", core_rows.change_rows(given)
        yield "matches", core_rows.match_rows(given, self.history, self.keep_matches)
        if len(given.replaced.rows):
            yield "changes", core_rows.followed_rows(given)
            yield "read_again", core_rows.replaced_rows(given)
            yield "described_later", core_rows.described_rows(given)


@dataclass(frozen=True)
class Manifests:
    """The manifests of a batch: of them is held what deciding needs, the rest is read again."""

    parts: Parts
    work: Work
    registered: Sequence[SourceShard]

    def each(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns, a table for each source shard."""
        for shard in self.registered:
            yield read_manifest(manifest_of(self.parts, self.work, shard), columns)

    def blocks(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns, samples of several source shards at a time."""
        files = (manifest_of(self.parts, self.work, shard) for shard in self.registered)
        return manifest_blocks(files, columns, core_rows.ROWS)

    def key(self, samples: Samples, row: int) -> str | None:
        """The key of a sample; None where it is a shard's own fault."""
        shard = samples.shard[row]
        table = read_manifest(manifest_of(self.parts, self.work, self.registered[shard]), ["key"])
        key: str | None
        key = table.column("key")[row - int(np.searchsorted(samples.shard, shard))].as_py()
        return key


def work_out(parts: Parts, work: Work, dataset: Dataset, before: Worked | None = None) -> Worked:
    """Decide the batch for the dataset's turn and generation as they are now.

    Args:
        parts: the real parts.
        work: the batch.
        dataset: its row, as it was read.
        before: what was worked out for an earlier turn: files that follow from the batch alone
            are not written again.

    Raises:
        BatchNotRunnable: a manifest or descriptor file of the batch is missing.
        MissingDescriptors: an image has no descriptor.
    """
    turn = dataset.turn
    # One moment for all that later commits could change: a shard that plan appends in between would
    # be owned and never decided. What is asked as of the turn afterwards, of images, is the same
    # whenever it is asked.
    with parts.catalog.read() as conn:
        registered = shards.shards_of(conn, work.attempt.attempt_id)
        counted = shards.shard_counts(conn, work.attempt.attempt_id)
        files = shards.files_digest(conn, work.attempt.attempt_id)
        places = [(s.source, s.relative_uri) for s in registered]
        known = lookups.known_samples(conn, work.batch.dataset_id, places, turn)
        origins = history.origins_of(conn, work, dataset)
        withdrawn = read_set(conn, dataset)
        again = again_of(conn, work, turn)
    live = history.live_of(origins)
    same = before if before is not None and before.files == files else None
    manifests = Manifests(parts, work, registered)
    samples = same.made.samples if same else _samples(manifests)
    _need_distinct(work, samples)
    replaced = core_rows.NOTHING_REPLACED
    if again is None:
        samples = samples.with_known(known)
    else:
        is_read, replaced = again.replaced(parts, work, registered)
        samples = replace(samples, is_known=~is_read)
    samples = replace(samples, stopped=_stopped(manifests, len(samples), turn))
    queries = load_queries(parts, work, registered)
    images = _images(parts, work, samples, queries, turn)
    _quarantine_ended(manifests, samples, images)
    _need_descriptors(work, registered, samples, images)
    equal = catch_equal(images, withdrawn)
    backends = open_backends(parts, work)
    segment_files = (
        same.segment_files if same else _write_segment(parts, work, backends.history, queries)
    )
    queries = _as_one(parts, queries, segment_files)
    free = free_images(parts, work, images, live)
    images.query[images.standing == FREE] = -1
    images.query[free.images] = len(queries) + np.arange(len(free.images))
    near = history.search(parts, work, backends, queries, free.queries, live)
    everything = queries.with_more(free.queries)
    caught = equal.and_also(catch_near(parts, work, images, everything, withdrawn))
    decided = decide(
        samples,
        images,
        lambda rows: _lead(parts, work, backends, everything, rows, near),
    )
    earlier = history.witnesses(parts, origins, images, decided, near.best, live)
    counts, by_source, examples = _counts(manifests, samples, images, decided, counted)
    kept = np.zeros(len(queries), bool)
    kept[images.query[decided.kept & (images.standing == NEW)]] = True
    publish = plan_publish(work, samples, decided.keeps, manifests.blocks(["members"]))
    shard_ids = np.array([s.shard_id for s in registered], np.int64)
    archived = plan_archive(
        work, samples, shard_ids, decided.removes, manifests.blocks(["members"])
    )
    made = DecisionRows(
        samples,
        images,
        decided,
        find_witnesses(samples, images, decided, earlier, caught),
        shard_ids=shard_ids,
        slot=publish.slot,
        dataset_id=work.batch.dataset_id,
        turn=turn + 1,
        month=datetime.now(UTC).date().replace(day=1),
        replaced=replaced,
    )
    return Worked(
        made=made,
        manifests=manifests,
        history=[history.matches(parts, images, best, live) for best in near.best],
        publish=publish,
        archived=archived,
        counts=counts,
        by_source=by_source,
        examples=examples,
        segment_files=segment_files,
        segment_rows=len(queries),
        mask=_write_mask(parts, work, kept),
        kept_rows=int(kept.sum()),
        masks={
            segment.segment_id: (_write_mask(parts, work, changed), int(changed.sum()))
            for segment, changed in free.masks(parts, live, decided.kept)
        },
        files=files,
        keep_matches=work.options.duplicates.keep_matches,
    )


def _samples(manifests: Manifests) -> Samples:
    registered, options = manifests.registered, manifests.work.options
    return load_samples(
        manifests.each(COLUMNS),
        arrival_rank([s.source for s in registered], [s.relative_uri for s in registered]),
        np.array([options.source(s.source).priority for s in registered], np.int64),
        options.duplicates.prefer,
    )


def _need_distinct(work: Work, samples: Samples) -> None:
    """Refuse a batch that holds a sample twice: it would be its own witness."""
    ids = samples.ids[~samples.is_shard_fault]
    twice = len(ids) - pc.count_distinct(core_rows.fixed(ids)).as_py()
    if twice:
        raise InvariantError(
            f"{twice} samples of batch {work.batch.batch_id} are in it twice: its source shards"
            " overlap. Abandon the batch and run its night again"
        )


def _stopped(manifests: Manifests, count: int, turn: int) -> Stopped:
    """Which of the batch's samples the rules in force at a turn stop."""
    ruling = Ruling(manifests.parts, manifests.work.batch.dataset_id, turn)
    if not ruling:
        return none_stopped(count)
    tables = zip(manifests.registered, manifests.each(RULED_BY), strict=True)
    return joined([ruling.stopped(shard.source, table) for shard, table in tables])


_TOO_PLAIN = (
    "there is nothing in the picture to compare with others, and duplicates.plain is 'quarantine'"
)


def _images(parts: Parts, work: Work, samples: Samples, queries: Queries, turn: int) -> Images:
    def lookup(digests: NDArray[np.uint8]) -> KnownImages:
        with parts.catalog.begin() as conn:
            return lookups.known_images(conn, work.batch.dataset_id, digests, turn)

    listed = queries.listed
    find = partial(find_images, read_again=work.attempt.read_again is not None)
    if work.options.duplicates.plain == "keep":
        return find(samples, lookup, listed.ids, listed.faults, listed.plain)
    refused = dict.fromkeys(listed.plain, (Fault.TOO_PLAIN, _TOO_PLAIN))
    return find(samples, lookup, listed.ids, listed.faults | refused)


def _quarantine_ended(manifests: Manifests, samples: Samples, images: Images) -> None:
    """Quarantine images that nobody described, because a rule stopped all their samples then.

    The rule was in force at the turn that plan pinned, and is not any more.
    """
    missing = images.undescribed
    if not len(missing):
        return
    then = _stopped(manifests, len(samples), manifests.work.attempt.pinned_turn)
    ended = np.zeros(len(images.carrier), bool)
    ended[missing] = True
    listed = (images.image_of >= 0) & (then.order == 0)
    ended[images.image_of[listed]] = False
    for image in np.flatnonzero(ended).tolist():
        why = f"{then.message(images.carrier[image])}, a rule that ended after the night's plan"
        images.standing[image] = IMAGE_FAULTY
        images.faults[image] = Fault.RULE_ENDED, why


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


# ---------------------------------------------------------------- the batch itself


def _lead(
    parts: Parts,
    work: Work,
    backends: Backends,
    queries: Queries,
    rows: NDArray[np.int64],
    near: history.Near,
) -> Leader:
    def growing(measure: Measure) -> GrowingIndex:
        if measure.by_hash:
            return parts.hash_search().growing()
        return backends.own.growing(work.attempt.fingerprint.dimensions)

    place = np.full(len(queries), -1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    batch = [
        Compared(
            by,
            queries.rows[by.role].at(rows),
            best.similarity[rows],
            growing(by),
            gather((cell[number] for cell in near.own), place, len(rows)),
        )
        for number, (by, best) in enumerate(zip(work.measures, near.best, strict=True))
    ]
    return lead(batch, work.options.duplicates.keep_matches, progress=parts.progress)


def _counts(
    manifests: Manifests,
    samples: Samples,
    images: Images,
    decided: Decided,
    counted: Mapping[int, ShardCounts],
) -> tuple[Counts, dict[str, Counts], dict[str, dict[str, str]]]:
    """The batch's counts, those of each source, and an example of every fault."""
    registered = manifests.registered
    names = sorted(source.name for source in manifests.work.options.sources)
    of_shard = np.array([names.index(s.source) for s in registered], np.int64)
    of_sample = of_shard[samples.shard] if len(registered) else np.empty(0, np.int64)
    tallies = tally.tally_faults(samples, images, decided, of_sample, len(names))
    by_source, examples = {}, {}
    for i, (name, found) in enumerate(zip(names, tallies, strict=True)):
        mine = [s for s in registered if s.source == name]
        missed = sum(counted[s.shard_id].not_delivered for s in mine)
        by_source[name] = replace(
            tally.count(decided.outcome[of_sample == i], missed),
            source_shards=len(mine),
            codes=found.codes,
        )
        examples[name] = {
            code: _example(
                registered[samples.shard[row]].relative_uri, manifests.key(samples, row), message
            )
            for code, (row, message) in found.examples.items()
        }
    together = tally.count(
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
    parts: Parts, work: Work, backend: SearchBackend, queries: Queries
) -> Mapping[str, StoredFile]:
    """The batch's segment; none for a dry run."""
    if not len(queries) or work.batch.dry_run:
        return {}
    folder = f"{work.folder}/index/segments"
    codes = codes_of(backend, queries)
    return write_segment(parts.store, folder, queries.descriptors, queries.ids, codes)


def _as_one(parts: Parts, queries: Queries, files: Mapping[str, StoredFile]) -> Queries:
    """The same rows in one file each, those of the segment: leader looks at some here and there."""
    if not len(queries):
        return queries
    rows = {
        role: rows_of(parts.store, files[role]) if files else set_aside(stored)
        for role, stored in queries.rows.items()
    }
    return queries.with_rows(rows)


def _write_mask(parts: Parts, work: Work, kept: NDArray[np.bool_]) -> StoredFile:
    if work.batch.dry_run or not len(kept):
        return StoredFile("", "", 0)
    return write_mask(parts.store, f"{work.folder}/index/masks", kept)
