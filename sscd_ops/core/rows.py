"""The catalog rows of a decision as Arrow tables, ready for COPY. Pure; numpy and pyarrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sscd_ops.core.decide import (
    FREE,
    IMAGE_FAULTY,
    IMAGE_KEPT,
    KEPT,
    KEPT_PLAIN,
    KNOWN,
    NEW,
    PLAIN,
    QUARANTINED,
    REMOVED_EXACT,
    REMOVED_NEAR,
    REMOVED_PERCEPTUAL,
    SHARD_FAULT,
    WITHDRAWN,
    Decided,
    Images,
    Samples,
)
from sscd_ops.core.descriptor_file import fixed_bytes
from sscd_ops.core.perceptual import BITS
from sscd_ops.model import Counts, Matches

_VERDICTS = pa.array(["kept", "removed", "quarantined", "withdrawn"])
_VERDICT_OF = np.array([0, 1, 1, 2, 2, 2, 1, 0, 3], np.int8)
_REMOVED = {REMOVED_EXACT: "exact", REMOVED_NEAR: "near", REMOVED_PERCEPTUAL: "perceptual"}
"""Reason of a removed sample, by outcome."""


def days(day: date) -> int:
    """Days since 1970-01-01, as Arrow's date32 counts."""
    return day.toordinal() - date(1970, 1, 1).toordinal()


def fixed(values: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """uint8 (n, w) as fixed-size binary, null where not ``valid``."""
    count, width = values.shape
    mask = None
    if valid is not None:
        mask = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    data = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    return pa.Array.from_buffers(pa.binary(width), count, [mask, data])


@dataclass(frozen=True)
class Witnesses:
    """Why each image's samples go, other than its carrier.

    ``sha256``: uint8 (m, 32), the kept image. ``sample_id``: uint8 (m, 16), and ``decision``: int64
    (m,), the sample that carries it and the decision that has its row; 0: this one, -1: not known
    (nor is the sample). ``similarity``, ``threshold``: float64 (m,), NaN
    where there is none. ``valid``: bool (m,).
    """

    sha256: NDArray[np.uint8]
    sample_id: NDArray[np.uint8]
    decision: NDArray[np.int64]
    similarity: NDArray[np.float64]
    threshold: NDArray[np.float64]
    valid: NDArray[np.bool_]

    def put(self, image: int, digest: bytes, carrier: UUID | None, decision: int | None) -> None:
        """Say which image, and which sample of which decision, an image's samples go for."""
        self.sha256[image] = np.frombuffer(digest, np.uint8)
        self.valid[image] = True
        self.decision[image] = -1
        if carrier is not None and decision is not None:
            self.sample_id[image] = np.frombuffer(carrier.bytes, np.uint8)
            self.decision[image] = decision


HistoryWitness = tuple[bytes, UUID, int]
"""sha256 of a kept image of history, the sample that carries it, the decision with its row."""


def witnesses(
    samples: Samples,
    images: Images,
    decided: Decided,
    *,
    history_witness: Mapping[int, HistoryWitness],
    threshold: float,
    hash_threshold: float = np.nan,
) -> Witnesses:
    """Find the witness of every image that has one.

    Args:
        samples: the batch.
        images: its images.
        decided: the leader's answer.
        history_witness: image -> the history's image it was removed for.
        threshold: the batch's.
        hash_threshold: likewise, of hash similarity.
    """
    count = len(images.carrier)
    ids = fixed_bytes(samples.table.column("sample_id"), 16)
    beaten = np.flatnonzero(decided.witness >= 0)
    inside = np.arange(count)
    inside[beaten] = decided.witness[beaten]
    answer = Witnesses(
        images.digests[inside],
        ids[images.carrier[inside]],
        np.zeros(count, np.int64),
        np.full(count, np.nan),
        np.full(count, np.nan),
        decided.kept | (decided.witness >= 0),
    )
    answer.similarity[decided.kept] = 1.0
    near = images.is_compared & ~decided.kept
    answer.similarity[near] = decided.similarity[near]
    answer.threshold[near] = np.where(decided.perceptual[near], hash_threshold, threshold)
    for image, witness in history_witness.items():
        answer.put(image, *witness)
    for image, row in images.known.items():
        if images.standing[image] == IMAGE_KEPT:
            own = images.digests[image].tobytes()
            answer.put(image, own, row["sample_id"], row["carrier_decision"])
            answer.similarity[image] = 1.0
        elif row["witness_sha256"] is not None:
            digest = bytes(row["witness_sha256"])
            answer.put(image, digest, row["witness_id"], row["witness_decision"])
            answer.similarity[image] = row["similarity"]
            answer.threshold[image] = np.nan if row["threshold"] is None else row["threshold"]
    return answer


@dataclass(frozen=True)
class Rows:
    """A decision whose rows are made.

    ``shard_ids``: int64 (s,), catalog number of each source shard. ``slot``: int32 (n,), number of
    each sample in published order, -1 where not kept. ``month``: the partition.
    """

    samples: Samples
    images: Images
    decided: Decided
    witness: Witnesses
    shard_ids: NDArray[np.int64]
    slot: NDArray[np.int32]
    dataset_id: int
    decision_id: int
    turn: int
    month: date


def sample_rows(given: Rows) -> pa.Table:
    """Rows of ``samples``: one for each sample without an earlier verdict, and shard faults."""
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    rows = np.flatnonzero(decided.outcome != KNOWN)
    outcome = decided.outcome[rows]
    table = samples.table.take(pa.array(rows))
    image = images.image_of[rows]
    removed = np.isin(outcome, list(_REMOVED))
    witnessed = np.zeros(len(rows), bool)
    witnessed[image >= 0] = witness.valid[image[image >= 0]]
    witnessed &= removed | (outcome == WITHDRAWN)
    measured = witnessed & (outcome != REMOVED_EXACT)
    image_or_0 = np.where(witnessed, image, 0)
    # a removed sample shows which image it follows, also where its own header was refused
    shown = (
        removed
        | (outcome == WITHDRAWN)
        | table.column("width").is_valid().to_numpy(zero_copy_only=False)
    )
    code, message = _reasons(table, images, outcome, image)
    slots = given.slot[rows]
    plain = outcome == KEPT_PLAIN
    own_fault = _own_faults(images, outcome, image)
    if not len(images.carrier):
        witness = _no_witness()
    return pa.table(
        {
            "month": _constant(days(given.month), len(rows), pa.date32()),
            "decision_id": _constant(given.decision_id, len(rows), pa.int64()),
            "sample_id": table.column("sample_id"),
            "shard_id": given.shard_ids[samples.shard[rows]],
            "position": table.column("position"),
            "key": table.column("key"),
            "image_sha256": fixed(samples.digests[rows], shown),
            "width": table.column("width"),
            "height": table.column("height"),
            "format": table.column("format"),
            "bytes": _where(table.column("image_bytes"), shown),
            "caption": table.column("caption"),
            "meta": table.column("meta"),
            "verdict": pa.DictionaryArray.from_arrays(_VERDICT_OF[outcome], _VERDICTS).cast(
                pa.string()
            ),
            "reason": code,
            "message": message,
            "own_fault": pa.array(own_fault, pa.bool_(), mask=~own_fault),
            "rank": samples.rank[rows],
            "witness_sha256": fixed(witness.sha256[image_or_0], witnessed),
            **_carriers(given, image_or_0, witnessed),
            "similarity": pa.array(witness.similarity[image_or_0], mask=~witnessed),
            "threshold": _floats(np.where(measured, witness.threshold[image_or_0], np.nan)),
            "slot": pa.array(slots, pa.int32(), mask=slots < 0),
            "plain": pa.array(plain, pa.bool_(), mask=~plain),
        }
    )


def _no_witness() -> Witnesses:
    return Witnesses(
        np.zeros((1, 32), np.uint8),
        np.zeros((1, 16), np.uint8),
        np.zeros(1, np.int64),
        np.zeros(1),
        np.full(1, np.nan),
        np.zeros(1, bool),
    )


def _carriers(
    given: Rows, image: NDArray[np.int64], valid: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """The samples that carry the witnesses of some images, as two columns."""
    witness = given.witness if len(given.images.carrier) else _no_witness()
    decision = witness.decision[image]
    known = valid & (decision >= 0)
    decision = np.where(decision == 0, given.decision_id, decision)
    return {
        "witness_id": fixed(witness.sample_id[image], known),
        "witness_decision": pa.array(decision, pa.int64(), mask=~known),
    }


def _own_faults(
    images: Images, outcome: NDArray[np.int8], image: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Quarantined for what is not a fault of the image's bytes: it does not follow its image."""
    follows = np.zeros(len(images.carrier) + 1, bool)
    for number, (fault, _) in images.faults.items():
        follows[number] = fault.follows_bytes
    quarantined: NDArray[np.bool_] = np.isin(outcome, (QUARANTINED, SHARD_FAULT))
    return quarantined & ~follows[image]  # -1, no image: the last


def _reasons(
    table: pa.Table, images: Images, outcome: NDArray[np.int8], image: NDArray[np.int64]
) -> tuple[pa.Array, pa.Array]:
    code = np.full(len(outcome), None, object)
    message = np.full(len(outcome), None, object)
    for removed, reason in _REMOVED.items():
        code[outcome == removed] = reason
    for row in np.flatnonzero(outcome == WITHDRAWN):
        code[row] = images.known[int(image[row])]["reason"]
    bad, codes, messages = _faults(table, images, outcome, image)
    code[bad], message[bad] = codes, messages
    return pa.array(code, pa.string()), pa.array(message, pa.string())


def _faults(
    table: pa.Table, images: Images, outcome: NDArray[np.int8], image: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.object_], NDArray[np.object_]]:
    """The rows with a fault, and its code and message: that of the image, else the row's own."""
    bad = np.flatnonzero((outcome == QUARANTINED) | (outcome == SHARD_FAULT))
    subset = table.select(["code", "message"]).take(pa.array(bad))
    codes, messages = np.empty(len(bad), object), np.empty(len(bad), object)
    codes[:] = subset.column("code").to_pylist()
    messages[:] = subset.column("message").to_pylist()
    for at in np.flatnonzero(image[bad] >= 0):
        fault, messages[at] = images.faults[int(image[bad[at]])]
        codes[at] = str(fault)
    return bad, codes, messages


@dataclass(frozen=True)
class FaultTally:
    """What a batch, or one of its sources, quarantines.

    ``codes``: how many samples by code, and how many source shards by the code of their own fault.
    ``examples``: code -> index of the source shard, key (None: the shard's own fault), message.
    """

    codes: dict[str, int]
    examples: dict[str, tuple[int, str | None, str]]


def tally_faults(
    samples: Samples, images: Images, decided: Decided, source_of: NDArray[np.int64], count: int
) -> list[FaultTally]:
    """What each source quarantines.

    Args:
        samples: the batch.
        images: its images.
        decided: the outcomes.
        source_of: int64 (n,), number of each sample's source.
        count: how many sources there are.
    """
    answer = [FaultTally({}, {}) for _ in range(count)]
    bad, codes, messages = _faults(samples.table, images, decided.outcome, images.image_of)
    for row, code, message in zip(bad, codes, messages, strict=True):
        tally = answer[source_of[row]]
        tally.codes[code] = tally.codes.get(code, 0) + 1
        if code not in tally.examples:
            key = samples.table.column("key")[int(row)].as_py()
            tally.examples[code] = int(samples.shard[row]), key, message or ""
    return answer


def _constant(value: int, count: int, kind: pa.DataType) -> pa.Array:
    base = pa.int32() if kind == pa.date32() else kind
    return pa.array(np.full(count, value), base).cast(kind)


def _where(column: pa.ChunkedArray, valid: NDArray[np.bool_]) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False)
    return pa.array(values, pa.int64(), mask=~valid, from_pandas=True)


def _floats(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def image_rows(given: Rows) -> pa.Table:
    """Rows of ``images``: one for each image this decision is the first to give a standing to."""
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    lasting = np.zeros(len(images.carrier), bool)
    for image, (fault, _) in images.faults.items():
        lasting[image] = fault.follows_bytes and image not in images.known
    rows = np.flatnonzero(np.isin(images.standing, (NEW, PLAIN)) | lasting)
    kept = decided.kept[rows]
    faulty = images.standing[rows] == IMAGE_FAULTY
    near = ~kept & ~faulty
    verdict = np.where(kept, 0, np.where(faulty, 2, 1)).astype(np.int8)
    reason = np.full(len(rows), None, object)
    message = np.full(len(rows), None, object)
    reason[near] = "near"
    reason[near & decided.perceptual[rows]] = "perceptual"
    for at in np.flatnonzero(faulty):
        fault, why = images.faults[int(rows[at])]
        reason[at], message[at] = str(fault), why
    ids = fixed_bytes(samples.table.column("sample_id"), 16)
    carrier = images.carrier[rows]
    slots = np.where(kept, given.slot[carrier], -1)
    query = images.query[rows]
    similarity = np.where(near, witness.similarity[rows], np.nan)
    return pa.table(
        {
            "dataset_id": _constant(given.dataset_id, len(rows), pa.int16()),
            "sha256": fixed(images.digests[rows]),
            "decision_id": _constant(given.decision_id, len(rows), pa.int64()),
            "verdict": pa.DictionaryArray.from_arrays(verdict, _VERDICTS).cast(pa.string()),
            "reason": pa.array(reason, pa.string()),
            "message": pa.array(message, pa.string()),
            "sample_id": fixed(ids[carrier]),
            "shard_id": given.shard_ids[samples.shard[carrier]],
            "position": samples.table.column("position").take(pa.array(carrier)),
            "rank": samples.rank[carrier],
            "slot": pa.array(slots, pa.int32(), mask=slots < 0),
            "segment_row": pa.array(query, pa.int64(), mask=query < 0),
            "witness_sha256": fixed(witness.sha256[rows], near),
            **_carriers(given, rows, near),
            "similarity": _floats(similarity),
            "threshold": _floats(np.where(near, witness.threshold[rows], np.nan)),
        }
    )


def change_rows(given: Rows) -> pa.Table:
    """Rows of ``changes``: one for each image that was free, and is decided again."""
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    rows = np.flatnonzero(images.standing == FREE)
    gone = ~decided.kept[rows]
    carrier = images.carrier[rows]
    ids = fixed_bytes(samples.table.column("sample_id"), 16)
    reason = np.full(len(rows), None, object)
    reason[gone] = "near"
    reason[gone & decided.perceptual[rows]] = "perceptual"
    position = samples.table.column("position").to_numpy()[carrier]

    def of_kept(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=gone)

    return pa.table(
        {
            "dataset_id": _constant(given.dataset_id, len(rows), pa.int16()),
            "decision_id": _constant(given.decision_id, len(rows), pa.int64()),
            "turn": _constant(given.turn, len(rows), pa.int64()),
            "image_sha256": fixed(images.digests[rows]),
            "verdict": pa.array(np.where(gone, "removed", "kept").astype(object), pa.string()),
            "reason": pa.array(reason, pa.string()),
            "witness_sha256": fixed(witness.sha256[rows], gone),
            "similarity": _floats(np.where(gone, witness.similarity[rows], np.nan)),
            "threshold": _floats(np.where(gone, witness.threshold[rows], np.nan)),
            "carrier_id": fixed(ids[carrier], ~gone),
            "carrier_decision": of_kept(np.full(len(rows), given.decision_id), pa.int64()),
            "carrier_shard": of_kept(given.shard_ids[samples.shard[carrier]], pa.int64()),
            "carrier_position": of_kept(position, pa.int32()),
            "slot": of_kept(given.slot[carrier], pa.int32()),
            "slot_decision": of_kept(np.full(len(rows), given.decision_id), pa.int64()),
        }
    )


def match_rows(
    images: Images,
    inside: Matches,
    history: tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]],
    *,
    limit: int,
    decision_id: int,
    month: date,
    by_hash: bool = False,
) -> pa.Table:
    """Rows of ``matches``: each new image's most similar kept images at or above the floor.

    Args:
        images: the batch's images.
        inside: pairs inside the batch, by image.
        history: image int64 (k,), digest of the earlier image uint8 (k, 32), similarity (k,).
        limit: rows of an image at most.
        decision_id: the decision.
        month: its partition.
        by_hash: whether these are matches by hash.
    """
    image = np.concatenate([history[0], inside.query])
    earlier = np.concatenate([history[1], images.digests[inside.reference]])
    similarity = np.concatenate([history[2], inside.similarity])
    by = np.lexsort((np.arange(len(image)), -similarity, image))
    image, earlier, similarity = image[by], earlier[by], similarity[by]
    first = np.searchsorted(image, image, side="left")
    few = np.arange(len(image)) - first < limit
    image, earlier, similarity = image[few], earlier[few], similarity[few]
    return pa.table(
        {
            "month": _constant(days(month), len(image), pa.date32()),
            "decision_id": _constant(decision_id, len(image), pa.int64()),
            "image_sha256": fixed(images.digests[image]),
            "earlier_sha256": fixed(earlier),
            "similarity": similarity,
            "distance": pa.array(
                np.rint((1.0 - similarity) * BITS) if by_hash else np.full(len(image), np.nan),
                from_pandas=True,
            ).cast(pa.int16()),
        }
    )


def count(outcome: NDArray[np.int8], not_delivered: int) -> Counts:
    """The counts of some samples' outcomes."""
    tally = np.bincount(outcome, minlength=9)
    return Counts(
        read=int(tally[[KEPT, KEPT_PLAIN, *_REMOVED, QUARANTINED, WITHDRAWN]].sum()),
        kept=int(tally[[KEPT, KEPT_PLAIN]].sum()),
        removed_exact=int(tally[REMOVED_EXACT]),
        removed_near=int(tally[[REMOVED_NEAR, REMOVED_PERCEPTUAL]].sum()),
        quarantined=int(tally[QUARANTINED]),
        known=int(tally[KNOWN]),
        not_delivered=not_delivered,
        removed_perceptual=int(tally[REMOVED_PERCEPTUAL]),
        kept_plain=int(tally[KEPT_PLAIN]),
        withdrawn=int(tally[WITHDRAWN]),
    )
