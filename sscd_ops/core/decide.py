"""The verdict of every sample of a batch: exact stage, leader, faults. Pure; numpy and pyarrow.

``Samples`` is what the batch's manifests say, ``Images`` its distinct images and what earlier turns
decided about them, ``Decided`` the answer, image by image and sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sscd_ops.core.descriptor_file import bytes_rows, fixed_bytes
from sscd_ops.core.exact import group_images
from sscd_ops.core.leader import Leader
from sscd_ops.core.manifest import SCHEMA
from sscd_ops.core.measures import Measure
from sscd_ops.core.preference import order
from sscd_ops.core.rules import Stopped, none_stopped
from sscd_ops.errors import BatchNotRunnable
from sscd_ops.model import Fault, KnownImages, Matches

KEPT, REMOVED_EXACT, REMOVED_NEAR, QUARANTINED, KNOWN, SHARD_FAULT, REMOVED_PERCEPTUAL = range(7)
KEPT_PLAIN, WITHDRAWN = 7, 8
"""Codes of ``Decided.outcome``. KNOWN samples have no row; a SHARD_FAULT is no sample. KEPT_PLAIN:
without having been compared."""
VERDICT_OF = {
    KEPT: "kept",
    KEPT_PLAIN: "kept",
    REMOVED_EXACT: "removed",
    REMOVED_NEAR: "removed",
    REMOVED_PERCEPTUAL: "removed",
    QUARANTINED: "quarantined",
    SHARD_FAULT: "quarantined",
    WITHDRAWN: "withdrawn",
    KNOWN: "",
}
"""What the catalog says of each outcome."""
REMOVED_FOR = {"near": REMOVED_NEAR, "perceptual": REMOVED_PERCEPTUAL}
"""A measure's reason -> the outcome of samples whose image it removes."""

NEW, IMAGE_KEPT, IMAGE_REMOVED, IMAGE_FAULTY, PLAIN, IMAGE_WITHDRAWN, FREE = range(7)
"""Codes of an image's standing. PLAIN: new, with nothing in it to compare: kept, and no witness but
of equal bytes. FREE: described earlier, and without a verdict now."""


FAULTS = tuple(Fault)
"""Quarantine codes by the number that stands for each in columns; -1 is none."""
COLUMNS = (
    *("position", "sample_id", "image_sha256", "image_bytes", "width", "height", "caption"),
    *("code", "message"),
)
"""The columns of a manifest that deciding needs."""


@dataclass(frozen=True)
class Samples:
    """What deciding needs of the batch's samples, in its order (source shard ordinal, position).

    The rest of their manifests is read again where rows are made of it.

    ``shard``: int32 (n,), index into the batch's source shards. ``position``: int32 (n,), -1 where
    it is no sample but a shard's own fault. ``ids``: uint8 (n, 16), zeros of shard faults.
    ``digests``: uint8 (n, 32), of images. ``pictured``: bool (n,), which have one picture and no
    fault but perhaps that picture's own. ``code``: int8 (n,), number in ``FAULTS`` or -1.
    ``faulty``, ``messages``: int64 (f,), which have a code, ascending, and what is said of them.
    ``rank``: int64 (n,), 0 is the most preferred sample.
    """

    shard: NDArray[np.int32]
    position: NDArray[np.int32]
    ids: NDArray[np.uint8]
    digests: NDArray[np.uint8]
    pictured: NDArray[np.bool_]
    code: NDArray[np.int8]
    faulty: NDArray[np.int64]
    messages: pa.Array
    rank: NDArray[np.int64]
    is_known: NDArray[np.bool_]
    """Samples that already have a verdict of an earlier turn."""
    stopped: Stopped
    """Which a rule stops: withdrawn as they come, unless they are known. They carry no image."""

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def is_shard_fault(self) -> NDArray[np.bool_]:
        """Bool (n,): those that are no samples."""
        faults: NDArray[np.bool_] = self.position < 0
        return faults

    def messages_of(self, rows: NDArray[np.int64]) -> list[str | None]:
        """What is said of some that have a code."""
        said: list[str | None]
        said = self.messages.take(pa.array(np.searchsorted(self.faulty, rows))).to_pylist()
        return said

    def with_known(self, known: set[bytes]) -> Samples:
        """The same samples; ``known``: sample_ids (16 bytes) that have a verdict already."""
        if not known:
            return replace(self, is_known=np.zeros(len(self), bool))
        theirs = np.frombuffer(b"".join(sorted(known)), dtype="V16")
        return replace(self, is_known=np.isin(self.ids.view("V16").reshape(-1), theirs))


def load_samples(
    tables: Iterable[pa.Table],
    shard_rank: NDArray[np.int64],
    priority: NDArray[np.int64],
    prefer: Sequence[str],
) -> Samples:
    """Join a batch's manifests; of samples that are known already nothing is said yet.

    Args:
        tables: ``COLUMNS`` of one manifest for each source shard, in ordinal order; one is held at
            a time.
        shard_rank: int64 (s,), arrival rank of each source shard: by source name, then URI.
        priority: int64 (s,), priority of each shard's source.
        prefer: the preference list.
    """
    pieces = [_columns(SCHEMA.empty_table()), *map(_columns, tables)]
    sizes = [len(piece["position"]) for piece in pieces[1:]]
    shard = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([piece.pop(name) for piece in pieces])

    position, code = joined("position"), joined("code")
    values = {name: joined(name) for name in ("pixels", "caption_length", "bytes")}
    values["priority"] = priority[shard]
    best_first = order(prefer, values, shard_rank[shard] * 2**32 + position)
    del values
    rank = np.empty(len(shard), np.int64)
    rank[best_first] = np.arange(len(shard))
    return Samples(
        shard,
        position,
        joined("ids"),
        joined("digests"),
        joined("pictured"),
        code,
        np.flatnonzero(code >= 0),
        pa.chunked_array(
            [chunk for piece in pieces for chunk in piece["messages"].chunks], pa.large_string()
        ).combine_chunks(),
        rank,
        np.zeros(len(shard), bool),
        none_stopped(len(shard)),
    )


_OF_PICTURE = np.array([fault.follows_bytes for fault in FAULTS] + [True])
"""By code, the last of none: whether it leaves a picture to be decided."""


def _columns(table: pa.Table) -> dict[str, Any]:
    """What is kept of a manifest."""
    said = table.column("code")
    # made here, for the first array of a list imports pandas, which an answered night goes without
    numbered = pa.array([str(fault) for fault in FAULTS], pa.string())
    code = pc.index_in(said, value_set=numbered).fill_null(-1).to_numpy().astype(np.int8)
    is_faulty = said.is_valid().to_numpy()
    for text in said.filter(pa.array(is_faulty & (code < 0))).to_pylist():
        raise BatchNotRunnable(
            f"a manifest has the quarantine code {text!r}, which this release does not know: a"
            " newer one ingested it. Give all workers one release, abandon the batch (sscd-ops"
            " batch abandon) and run the night again"
        )
    has_picture = table.column("image_sha256").is_valid().to_numpy()
    return {
        "position": table.column("position").to_numpy(),
        "ids": fixed_bytes(table.column("sample_id"), 16),
        "digests": fixed_bytes(table.column("image_sha256"), 32),
        "pictured": has_picture & _OF_PICTURE[code],
        "code": code,
        "messages": table.column("message").filter(pa.array(is_faulty)).cast(pa.large_string()),
        "pixels": _int(table, "width") * _int(table, "height"),
        "caption_length": pc.fill_null(pc.utf8_length(table.column("caption")), 0)
        .cast(pa.int64())
        .to_numpy(),
        "bytes": _int(table, "image_bytes"),
    }


def _int(table: pa.Table, column: str) -> NDArray[np.int64]:
    values: NDArray[np.int64] = pc.fill_null(table.column(column).cast(pa.int64()), 0).to_numpy()
    return values


@dataclass
class Images:
    """The batch's distinct images, those whose header is at fault among them.

    ``image_of``: int64 (n,), image of each sample or -1. ``carrier``: int64 (m,), the preferred
    sample of each image. ``standing``: int8 (m,). ``known``: what history says; its ``row`` is the
    image.
    ``query``: int64 (m,), row of its descriptor in the batch's queries, -1 without one.
    ``caught``: bool (m,), new and free images that the withdrawn set catches (``core.withdrawn``).
    """

    image_of: NDArray[np.int64]
    carrier: NDArray[np.int64]
    digests: NDArray[np.uint8]
    standing: NDArray[np.int8]
    known: KnownImages
    faults: dict[int, tuple[Fault, str]]
    query: NDArray[np.int64]
    caught: NDArray[np.bool_]
    anew: NDArray[np.bool_]
    """Bool (m,): known ones whose fault is not believed: they stand as if they were new."""

    @property
    def undescribed(self) -> NDArray[np.int64]:
        """New images without a descriptor."""
        return np.flatnonzero((self.standing == NEW) & (self.query < 0))

    @property
    def is_compared(self) -> NDArray[np.bool_]:
        """Bool (m,): those that leader decides, new ones and free ones."""
        free = (self.standing == FREE) & (self.query >= 0)
        compared: NDArray[np.bool_] = (free | (self.standing == NEW)) & ~self.caught
        return compared

    @property
    def is_plain(self) -> NDArray[np.bool_]:
        """Bool (m,): those that are kept without: of free ones what was kept so before."""
        free = (self.standing == FREE) & (self.query < 0)
        plain: NDArray[np.bool_] = (free | (self.standing == PLAIN)) & ~self.caught
        return plain


_STANDING = {
    "kept": IMAGE_KEPT,
    "removed": IMAGE_REMOVED,
    "quarantined": IMAGE_FAULTY,
    "withdrawn": IMAGE_WITHDRAWN,
    "free": FREE,
}


def nothing_known(_: NDArray[np.uint8]) -> KnownImages:
    """What a history without images says of some."""
    texts, numbers = np.empty(0, object), np.empty(0, np.int64)
    floats, flags = np.empty(0), np.empty(0, bool)
    ids, digests = np.empty((0, 16), np.uint8), np.empty((0, 32), np.uint8)
    return KnownImages(
        *(numbers, texts, texts, texts, ids, numbers, digests, flags, ids, numbers),
        *(floats, floats, numbers, numbers, numbers),
    )


def find_images(
    samples: Samples,
    lookup: Callable[[NDArray[np.uint8]], KnownImages],
    query_ids: NDArray[np.uint8],
    query_faults: Mapping[bytes, tuple[Fault, str]],
    plain: Sequence[bytes] = (),
    *,
    read_again: bool = False,
) -> Images:
    """Group the batch's samples by image and say where each image stands.

    Args:
        samples: the batch.
        lookup: digests (m, 32) -> known images, as ``catalog.lookups.known_images``.
        query_ids: uint8 (q, 32), the batch's descriptors' images.
        query_faults: images that embed quarantined.
        plain: images that embed found nothing in to compare, and which are to be kept.
        read_again: the batch reads quarantined samples again: faults that history says of images
            are looked for anew.
    """
    eligible = samples.pictured & ~samples.is_known & ~samples.is_shard_fault
    eligible &= samples.stopped.order == 0
    grouped = group_images(samples.digests, eligible, samples.rank)
    digests = samples.digests[grouped.carrier]
    standing = np.full(len(digests), NEW, np.int8)
    known = lookup(digests)
    for verdict, state in _STANDING.items():
        standing[known.row[known.verdict == verdict]] = state
    anew = np.zeros(len(digests), bool)
    if read_again:
        anew[known.row[is_faulty(known)]] = True
        standing[anew] = NEW
    faults = {
        int(known.row[at]): (Fault(known.reason[at]), known.message[at] or "")
        for at in np.flatnonzero(known.verdict == "quarantined")
        if not anew[known.row[at]]
    }
    for image, fault in _header_faults(samples, grouped.carrier).items():
        # what history says of these bytes comes first: limits may have been others then
        if standing[image] == NEW:
            standing[image] = IMAGE_FAULTY
            faults[image] = fault
    query = _rows_of(query_ids, digests)
    answers = list(query_faults.values())
    rows = _rows_of(bytes_rows(query_faults, 32), digests)
    for failure in np.flatnonzero((rows >= 0) & (standing == NEW)):
        standing[failure] = IMAGE_FAULTY
        faults[int(failure)] = answers[rows[failure]]
    standing[(_rows_of(bytes_rows(plain, 32), digests) >= 0) & (standing == NEW)] = PLAIN
    caught = np.zeros(len(digests), bool)
    return Images(
        grouped.image_of, grouped.carrier, digests, standing, known, faults, query, caught, anew
    )


def is_faulty(known: KnownImages) -> NDArray[np.bool_]:
    """Bool (k,): which images are quarantined for a fault of their bytes."""
    lasting = [str(fault) for fault in Fault if fault.follows_bytes]
    faulty: NDArray[np.bool_] = (known.verdict == "quarantined") & np.isin(
        known.reason.astype(str), lasting
    )
    return faulty


def _header_faults(samples: Samples, carrier: NDArray[np.int64]) -> dict[int, tuple[Fault, str]]:
    """Image -> what ingest found wrong with its header; equal bytes have equal headers."""
    at = np.flatnonzero(samples.code[carrier] >= 0)
    faulty = carrier[at]
    said = zip(samples.code[faulty], samples.messages_of(faulty), strict=True)
    return {
        int(image): (FAULTS[code], message or "")
        for image, (code, message) in zip(at, said, strict=True)
    }


def _rows_of(keys: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """First row of each wanted 32-byte value in ``keys``, -1 where it is not there."""
    answer = np.full(len(wanted), -1, np.int64)
    if not len(keys) or not len(wanted):
        return answer
    # S32 drops zero bytes at an end, which tells nothing apart: all values are 32 bytes long
    have = np.ascontiguousarray(keys).view("S32").reshape(-1)
    want = np.ascontiguousarray(wanted).view("S32").reshape(-1)
    by = np.argsort(have, kind="stable")
    at = np.searchsorted(have[by], want)
    at[at == len(by)] = 0
    row = by[at]
    hit = (keys[row] == wanted).all(axis=1)
    answer[hit] = row[hit]
    return answer


@dataclass(frozen=True)
class Decided:
    """Verdicts.

    ``outcome``: int8 (n,) for samples. For images: ``kept`` bool (m,), ``witness`` int64 (m,) the
    image of the batch it was removed for, -1 elsewhere; ``similarity`` float64 (m,); ``measure``
    int8 (m,), number of the measure in ``measures`` that removed it now, -1 elsewhere.
    ``matches``: of each measure, pairs of (image, image kept before it) inside the batch.
    """

    outcome: NDArray[np.int8]
    kept: NDArray[np.bool_]
    witness: NDArray[np.int64]
    similarity: NDArray[np.float64]
    measure: NDArray[np.int8]
    measures: Sequence[Measure]
    matches: list[Matches]

    @property
    def keeps(self) -> NDArray[np.bool_]:
        """The samples that are kept, bool (n,)."""
        return np.isin(self.outcome, (KEPT, KEPT_PLAIN))

    @property
    def removes(self) -> NDArray[np.bool_]:
        """The samples that are removed as copies, bool (n,)."""
        return np.isin(self.outcome, (REMOVED_EXACT, *REMOVED_FOR.values()))

    def each(self, images: NDArray[np.int64], values: Sequence[Any]) -> NDArray[Any]:
        """For images (k,) that were removed now, of one value a measure that of theirs: (k,)."""
        return np.array(values)[self.measure[images]]


LeadBy = Callable[[NDArray[np.int64]], Leader]
"""Query rows in preference order -> the leader's answer."""


def decide(samples: Samples, images: Images, lead_by: LeadBy) -> Decided:
    """Run leader over the new images and give every sample its outcome.

    Plain images are kept without it, and nothing is compared with them.

    Args:
        samples: the batch.
        images: its images; none of them undescribed.
        lead_by: runs leader on query rows.
    """
    new = np.flatnonzero(images.is_compared)
    new = new[np.argsort(samples.rank[images.carrier[new]], kind="stable")]
    led = lead_by(images.query[new])
    count = len(images.carrier)
    kept = images.is_plain
    kept[new] = led.kept
    witness = np.full(count, -1, np.int64)
    similarity = np.full(count, -np.inf)
    similarity[new] = led.similarity
    beaten = led.witness >= 0
    witness[new[beaten]] = new[led.witness[beaten]]
    measure = np.full(count, -1, np.int8)
    measure[new] = led.measure
    matches = [Matches(new[m.query], new[m.reference], m.similarity) for m in led.matches]
    outcome = _outcomes(samples, images, kept, _removed_for(images, measure, led.measures))
    return Decided(outcome, kept, witness, similarity, measure, led.measures, matches)


def _removed_for(
    images: Images, measure: NDArray[np.int8], measures: Sequence[Measure]
) -> NDArray[np.int8]:
    """Int8 (m,): the outcome of samples of each image, should it be removed, now or earlier."""
    answer = np.full(len(measure), REMOVED_NEAR, np.int8)
    known = images.known
    for reason, outcome in REMOVED_FOR.items():
        answer[known.row[known.reason == reason]] = outcome
    for number, by in enumerate(measures):
        answer[measure == number] = REMOVED_FOR[by.reason]
    return answer


def _outcomes(
    samples: Samples,
    images: Images,
    kept: NDArray[np.bool_],
    removed: NDArray[np.int8],
) -> NDArray[np.int8]:
    outcome = np.full(len(samples), QUARANTINED, np.int8)
    outcome[samples.stopped.order > 0] = WITHDRAWN
    outcome[samples.is_known] = KNOWN
    outcome[samples.is_shard_fault] = SHARD_FAULT
    has = np.flatnonzero(images.image_of >= 0)
    image = images.image_of[has]
    standing = images.standing[image]
    carries = images.carrier[image] == has
    answer = np.full(len(has), QUARANTINED, np.int8)
    answer[standing == IMAGE_KEPT] = REMOVED_EXACT
    answer[(standing == IMAGE_WITHDRAWN) | images.caught[image]] = WITHDRAWN
    compared, plain = images.is_compared[image], images.is_plain[image]
    fresh = compared | plain
    gone = (standing == IMAGE_REMOVED) | (fresh & ~kept[image])
    answer[gone] = removed[image][gone]
    answer[compared & kept[image] & carries] = KEPT
    answer[plain & carries] = KEPT_PLAIN
    answer[fresh & kept[image] & ~carries] = REMOVED_EXACT
    outcome[has] = answer
    return outcome
