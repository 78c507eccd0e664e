"""``sscd-ops try``: what the product would do with some tars. No catalog, nothing published.

The same sources and quarantine, decoder and model, exact stage and leader as a night's, on one
batch without history: its funnel and its removals are those of a first night on these samples.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sscd_ops.core.decide import (
    COLUMNS,
    FAULTS,
    Decided,
    Images,
    Samples,
    decide,
    find_images,
    load_samples,
    nothing_known,
)
from sscd_ops.core.exact import group_images
from sscd_ops.core.leader import Compared, Leader, lead
from sscd_ops.core.manifest import ManifestBuilder, read_manifest
from sscd_ops.core.measures import near
from sscd_ops.core.preference import arrival_rank
from sscd_ops.core.tally import count
from sscd_ops.errors import UsageError
from sscd_ops.evaluation.contenders import of_product
from sscd_ops.evaluation.describing import (
    Described,
    describe,
    hashes_without_history,
    nearest,
)
from sscd_ops.evaluation.given import Given
from sscd_ops.evaluation.picture_sets import SourceSet
from sscd_ops.evaluation.results import BINS
from sscd_ops.model import Counts, Fault, FoundShard, MemberRef, ShardEnd
from sscd_ops.options import DuplicatesOptions, FingerprintOptions, SourceKind
from sscd_ops.ports import Progress, Rooms, SearchBackend

MARGIN = 0.25
"""Kept pairs down to this far below the threshold are looked at."""
_NEIGHBOURS = 8


@dataclass(frozen=True)
class Trial:
    """What is tried.

    Attributes:
        urls: of tars, parquet files or folders.
        kind: of source; None: by the URLs' endings.
        sample: samples read at most, 0: all.
        threshold: None: the model's own.
        seed: of the order in which shards are read.
        keep_silent: keep samples without a caption.
        perceptual: compare perceptual hashes too; None: where the model says.
    """

    urls: tuple[str, ...]
    kind: SourceKind | None = None
    sample: int = 20_000
    threshold: float | None = None
    seed: int = 0
    keep_silent: bool = False
    perceptual: bool | None = None


@dataclass(frozen=True)
class StepTime:
    """A step's speed: of what, how many, in how long."""

    step: str
    unit: str
    count: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Units a second."""
        return self.count / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class PairFound:
    """Two samples: the later one and the one kept before it (their places in ``pictures``)."""

    row: int
    other: int
    similarity: float


@dataclass
class TrialReport:
    """What came of it.

    Attributes:
        perceptual: whether perceptual hashes were compared too.
        counts: the funnel, as of a night.
        quarantined: code -> samples.
        shard_faults: what was wrong with whole source shards.
        shards_read, shards_found: source shards.
        pictures: the readable samples' pictures.
        removed: near copies, the least similar first, each with its witness.
        removed_perceptual: those by perceptual hash alone, likewise.
        kept_pairs: the most similar pairs that were both kept.
        plain: rows of ``pictures`` that were kept without being compared: nothing is in them.
        histogram: images by similarity to the most similar other image, in ``BINS``; without
            those that have nothing in them to compare.
        times: by step.
    """

    model: str
    fingerprint: str
    runtime: dict[str, str]
    threshold: float
    perceptual: bool
    counts: Counts
    quarantined: dict[str, int]
    shard_faults: list[str]
    shards_read: int
    shards_found: int
    images: int
    pictures: SourceSet
    removed: list[PairFound]
    removed_perceptual: list[PairFound]
    kept_pairs: list[PairFound]
    plain: list[int]
    histogram: list[int]
    times: list[StepTime]


@dataclass
class _Read:
    """The samples that were read, as ingest writes them down."""

    tables: list[pa.Table] = field(default_factory=list)
    shards: list[FoundShard] = field(default_factory=list)
    found: int = 0
    faults: list[str] = field(default_factory=list)
    not_delivered: int = 0


def run(rooms: Rooms, trial: Trial, options: FingerprintOptions) -> TrialReport:
    """Try the product on some samples.

    Raises:
        UsageError: nothing is there, no sample of it is usable, or no threshold is known.
        WeightsUnavailable: the model's weights are nowhere.
    """
    clock = time.monotonic
    if options.postprocessing and trial.threshold is None:  # a night refuses it likewise
        raise UsageError(
            f"give --threshold: none was measured for {options.model} with postprocessing; sscd-ops"
            " evaluate helps to choose it"
        )
    contender = of_product(rooms, options)
    started = clock()
    given = Given(rooms, trial.urls, trial.kind, missing_caption=trial.keep_silent)
    read = _ingest(given, trial, rooms.progress)
    ingested = clock()
    threshold = contender.model.threshold_for(trial.threshold)
    samples = load_samples(
        (table.select(COLUMNS) for table in read.tables),
        arrival_rank([s.source for s in read.shards], [s.relative_uri for s in read.shards]),
        np.zeros(len(read.tables), np.int64),
        DuplicatesOptions().prefer,
    )
    pictures, digests = _pictures(given, read, samples)
    if not len(pictures):
        raise UsageError(_nothing(samples, read.faults))
    perceptual = contender.model.perceptual_for(trial.perceptual)
    with contender.open(perceptual) as embedder:
        ready = clock()  # weights are loaded, decoders stand by
        found = describe(embedder, pictures, rooms.progress).without_plain()
        embedded = clock()
        fingerprint, runtime = embedder.fingerprint, embedder.runtime()
    ids, descriptors = digests[found.rows], found.descriptors
    faults = {digests[row].tobytes(): fault for row, fault in found.failed.items()}
    backend = rooms.backend(
        rooms.choose_search("auto", len(descriptors), threshold),
        fingerprint.digest,
        descriptors.shape[1],
        threshold,
    )
    plain = [digests[row].tobytes() for row in found.plain]
    images = find_images(samples, nothing_known, ids, faults, plain)
    decided = _decide(rooms, samples, images, found, backend, threshold)
    done = clock()
    # the decision numbers images with a faulty header too
    row = {digest.tobytes(): number for number, digest in enumerate(digests)}
    picture_of = np.array([row.get(d.tobytes(), -1) for d in images.digests], np.int64)
    closest = nearest(descriptors, descriptors, 1, rooms.progress, without_self=True)
    counts = count(decided.outcome, read.not_delivered)
    total = counts.read
    return TrialReport(
        model=fingerprint.model,
        fingerprint=str(fingerprint),
        runtime=runtime,
        threshold=threshold,
        perceptual=perceptual,
        counts=counts,
        quarantined=_quarantined(samples, images),
        shard_faults=read.faults,
        shards_read=len(read.shards),
        shards_found=read.found,
        images=len(pictures),
        pictures=pictures,
        removed=_removed(decided, 0, picture_of),
        removed_perceptual=_removed(decided, 1, picture_of),
        kept_pairs=_kept_pairs(decided, picture_of),
        plain=found.plain.tolist(),
        histogram=[
            int(n) for n in np.histogram(np.clip(closest.similarity, BINS[0], BINS[-1]), BINS)[0]
        ],
        times=[
            StepTime("ingest", "samples", total, ingested - started),
            StepTime("embed", "images", len(pictures), embedded - ready),
            StepTime("match and leader", "images", len(ids), done - embedded),
        ],
    )


# ---------------------------------------------------------------- reading


def _ingest(given: Given, trial: Trial, progress: Progress) -> _Read:
    """Read shards in a chance order, whole but for the last, until there are enough samples."""
    found = given.find()
    read = _Read(found=len(found))
    left = trial.sample or np.iinfo(np.int64).max
    progress.start("reading", trial.sample or None)
    for number in np.random.default_rng(trial.seed).permutation(len(found)):
        shard = found[number]
        stream = io.BytesIO()
        ends: list[ShardEnd] = []
        with ManifestBuilder(stream) as builder:
            for row in given.rows(shard, ends.append):
                builder.add(row)
                progress.advance()
                left -= 1
                if left <= 0:
                    break
            for end in ends:
                read.not_delivered += end.not_delivered
                if end.fault is not None:
                    code, message = end.fault
                    builder.add_shard_fault(code, message)
                    read.faults.append(f"{shard.relative_uri}: {code}: {message}")
        stream.seek(0)
        read.tables.append(read_manifest(stream))
        read.shards.append(shard)
        if left <= 0:
            break
    progress.done()
    return read


def _pictures(given: Given, read: _Read, samples: Samples) -> tuple[SourceSet, NDArray[np.uint8]]:
    """The distinct readable images at their first place, numbered as the decision numbers them.

    Returns:
        The pictures, and their sha256, uint8 (m, 32).
    """
    pictures = SourceSet(given)
    fine = samples.code < 0
    grouped = group_images(samples.digests, fine, np.arange(len(samples)))
    columns = ["key", "image_member", "image_offset", "image_bytes", "image_sha256"]
    firsts = pa.concat_tables(read.tables).select(columns).take(pa.array(grouped.first)).to_pylist()
    for place, row in zip(grouped.first, firsts, strict=True):
        pictures.add(
            read.shards[samples.shard[place]],
            row["key"],
            MemberRef(
                row["image_member"], row["image_offset"], row["image_bytes"], row["image_sha256"]
            ),
        )
    return pictures, samples.digests[grouped.first]


def _nothing(samples: Samples, shard_faults: Sequence[str]) -> str:
    codes = Counter(str(FAULTS[code]) if code >= 0 else None for code in samples.code)
    said = ", ".join([*(f"{code} {n}" for code, n in codes.most_common()), *shard_faults[:3]])
    hint = ""
    if codes[str(Fault.MISSING_CAPTION)]:
        hint = "; --missing-caption keep takes pictures without one"
    return f"no sample is usable: {said or 'there are none'}{hint}"


# ---------------------------------------------------------------- deciding


def _decide(
    rooms: Rooms,
    samples: Samples,
    images: Images,
    found: Described,
    backend: SearchBackend,
    threshold: float,
) -> Decided:
    """The exact stage and leader of a night without history."""

    def lead_by(rows: NDArray[np.int64]) -> Leader:
        index = backend.growing(found.descriptors.shape[1])
        measure = near(threshold, max(-1.0, threshold - MARGIN))
        batch = [Compared.first(measure, found.descriptors[rows], index)]
        if found.hashes is not None:
            batch.append(hashes_without_history(found.hashes[rows], rooms.hash_search()))
        return lead(batch, _NEIGHBOURS, progress=rooms.progress)

    return decide(samples, images, lead_by)


def _quarantined(samples: Samples, images: Images) -> dict[str, int]:
    own = samples.code[~samples.is_shard_fault & (samples.code >= 0)]
    codes = Counter(str(FAULTS[code]) for code in own)
    good = samples.code < 0
    for image, (fault, _) in images.faults.items():
        codes[str(fault)] += int((good & (images.image_of == image)).sum())
    return dict(codes.most_common())


def _removed(decided: Decided, measure: int, picture_of: NDArray[np.int64]) -> list[PairFound]:
    gone = np.flatnonzero((decided.witness >= 0) & (decided.measure == measure))
    order = gone[np.argsort(decided.similarity[gone], kind="stable")]
    return [
        PairFound(
            int(picture_of[i]), int(picture_of[decided.witness[i]]), float(decided.similarity[i])
        )
        for i in order
    ]


def _kept_pairs(decided: Decided, picture_of: NDArray[np.int64], most: int = 50) -> list[PairFound]:
    matches = decided.matches[0]
    both = np.flatnonzero(decided.kept[matches.query] & decided.kept[matches.reference])
    order = both[np.argsort(-matches.similarity[both], kind="stable")][:most]
    return [
        PairFound(
            int(picture_of[matches.query[i]]),
            int(picture_of[matches.reference[i]]),
            float(matches.similarity[i]),
        )
        for i in order
    ]
