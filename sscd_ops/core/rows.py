"""The catalog rows of a decision as Arrow tables, ready for COPY. Pure; numpy and pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sscd_ops.core.decide import (
    FREE,
    IMAGE_FAULTY,
    KEPT,
    KEPT_PLAIN,
    KNOWN,
    NEW,
    PLAIN,
    QUARANTINED,
    REMOVED_EXACT,
    REMOVED_FOR,
    REMOVED_NEAR,
    SHARD_FAULT,
    VERDICT_OF,
    WITHDRAWN,
    Decided,
    Images,
    Samples,
)
from sscd_ops.core.measures import Measure
from sscd_ops.core.perceptual import BITS
from sscd_ops.core.tally import faults_of
from sscd_ops.core.witnesses import THIS_DECISION, Witnesses
from sscd_ops.model import Matches

_REMOVED = {REMOVED_EXACT: "exact", **{code: reason for reason, code in REMOVED_FOR.items()}}
"""Reason of a removed sample, by outcome."""


def days(day: date) -> int:
    """Days since 1970-01-01, as Arrow's date32 counts."""
    return day.toordinal() - date(1970, 1, 1).toordinal()


def _verdicts(outcome: NDArray[np.int8]) -> pa.Array:
    said = pa.array([VERDICT_OF[code] for code in range(len(VERDICT_OF))], pa.string())
    return said.take(pa.array(outcome))


def fixed(values: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None) -> pa.Array:
    """uint8 (n, w) as fixed-size binary, null where not ``valid``."""
    count, width = values.shape
    mask = None
    if valid is not None:
        mask = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    data = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    return pa.Array.from_buffers(pa.binary(width), count, [mask, data])


@dataclass(frozen=True)
class DecisionRows:
    """A decision, of which rows are made; ``decision_id`` is known last of all.

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
    turn: int
    month: date
    decision_id: int = 0


ROWS = 40_000
"""Rows made at once: their texts are some 20 MB, and COPY encodes half of them at a time."""
FROM_MANIFEST = (
    *("sample_id", "position", "key", "width", "height", "format", "image_bytes"),
    *("caption", "meta", "url_sha256", "host"),
)
"""The columns of manifests that go into rows of ``samples``."""


def sample_rows(given: DecisionRows, manifests: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Rows of ``samples``: one for each sample without an earlier verdict, and shard faults.

    Args:
        given: the decision.
        manifests: ``FROM_MANIFEST`` of all samples in the batch's order, block by block.

    Yields:
        The rows of each block.
    """
    images = given.images
    lasting = np.zeros(len(images.carrier) + 1, bool)  # -1, no image: the last
    for number, (fault, _) in images.faults.items():
        lasting[number] = fault.follows_bytes
    said = np.full(len(images.carrier), None, object)
    said[images.known.row] = images.known.reason
    start = 0
    for table in manifests:
        yield _sample_rows(given, start, table, lasting, said)
        start += len(table)


def _sample_rows(
    given: DecisionRows,
    start: int,
    table: pa.Table,
    lasting: NDArray[np.bool_],
    said: NDArray[np.object_],
) -> pa.Table:
    """The rows of a block of samples; ``said``: what history says of images that are known.

    ``lasting``: the images with a fault of their bytes. A sample quarantined for another follows
    no image.
    """
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    here = np.flatnonzero(decided.outcome[start : start + len(table)] != KNOWN)
    table = table.take(pa.array(here))
    rows = here + start
    outcome = decided.outcome[rows]
    image = images.image_of[rows]
    removed = np.isin(outcome, list(_REMOVED))
    witnessed = witness.valid[image] & (removed | (outcome == WITHDRAWN))
    measured = witnessed & (outcome != REMOVED_EXACT)
    # a sample that follows an image shows which, also where its own header was refused
    shown = (
        removed
        | ((outcome == WITHDRAWN) & (image >= 0))
        | table.column("width").is_valid().to_numpy(zero_copy_only=False)
    )
    code, message = _reasons(given, rows, said)
    slots = given.slot[rows]
    plain = outcome == KEPT_PLAIN
    # one that a rule stops has no image that could speak for it
    own_fault = np.isin(outcome, (QUARANTINED, SHARD_FAULT)) & ~lasting[image]
    own_fault |= (outcome == WITHDRAWN) & (image < 0)
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
            "url_sha256": table.column("url_sha256"),
            "host": table.column("host"),
            "verdict": _verdicts(outcome),
            "reason": code,
            "message": message,
            "own_fault": pa.array(own_fault, pa.bool_(), mask=~own_fault),
            "rank": samples.rank[rows],
            "witness_sha256": fixed(witness.sha256[image], witnessed),
            **_carriers(given, image, witnessed),
            "similarity": pa.array(witness.similarity[image], mask=~witnessed),
            "threshold": _floats(np.where(measured, witness.threshold[image], np.nan)),
            "slot": pa.array(slots, pa.int32(), mask=slots < 0),
            "plain": pa.array(plain, pa.bool_(), mask=~plain),
        }
    )


def _carriers(
    given: DecisionRows, image: NDArray[np.int64], valid: NDArray[np.bool_]
) -> dict[str, pa.Array]:
    """The samples that carry the witnesses of some images, as two columns."""
    decision = given.witness.decision[image]
    known = valid & (decision >= 0)
    decision = np.where(decision == THIS_DECISION, given.decision_id, decision)
    return {
        "witness_id": fixed(given.witness.sample_id[image], known),
        "witness_decision": pa.array(decision, pa.int64(), mask=~known),
    }


def _reasons(
    given: DecisionRows, rows: NDArray[np.int64], said: NDArray[np.object_]
) -> tuple[pa.Array, pa.Array]:
    outcome = given.decided.outcome[rows]
    code = np.full(len(outcome), None, object)
    message = np.full(len(outcome), None, object)
    for removed, reason in _REMOVED.items():
        code[outcome == removed] = reason
    image = given.images.image_of[rows]
    withdrawn = (outcome == WITHDRAWN) & (image >= 0)
    code[withdrawn] = said[image[withdrawn]]
    ruled = np.flatnonzero((outcome == WITHDRAWN) & (image < 0))
    code[ruled] = "withdrawn"
    message[ruled] = [given.samples.stopped.message(row) for row in rows[ruled].tolist()]
    bad, codes, messages = faults_of(given.samples, given.images, given.decided.outcome, rows)
    code[bad], message[bad] = codes, messages
    return pa.array(code, pa.string()), pa.array(message, pa.string())


def _constant(value: int, count: int, kind: pa.DataType) -> pa.Array:
    base = pa.int32() if kind == pa.date32() else kind
    return pa.array(np.full(count, value), base).cast(kind)


def _where(column: pa.ChunkedArray, valid: NDArray[np.bool_]) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False)
    return pa.array(values, pa.int64(), mask=~valid, from_pandas=True)


def _floats(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def image_rows(given: DecisionRows) -> Iterator[pa.Table]:
    """Rows of ``images``: one for each image this decision is the first to give a standing to.

    Yields:
        Some of them at a time.
    """
    images = given.images
    lasting = np.zeros(len(images.carrier), bool)
    for image, (fault, _) in images.faults.items():
        lasting[image] = fault.follows_bytes
    lasting[images.known.row] = False
    rows = np.flatnonzero(np.isin(images.standing, (NEW, PLAIN)) | lasting)
    for start in range(0, len(rows), ROWS):
        yield _image_rows(given, rows[start : start + ROWS])


def _image_rows(given: DecisionRows, rows: NDArray[np.int64]) -> pa.Table:
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    kept = decided.kept[rows]
    faulty = images.standing[rows] == IMAGE_FAULTY
    near = ~kept & ~faulty
    outcome = np.where(kept, KEPT, np.where(faulty, QUARANTINED, REMOVED_NEAR)).astype(np.int8)
    reason = np.full(len(rows), None, object)
    message = np.full(len(rows), None, object)
    reason[near] = decided.each(rows[near], [m.reason for m in decided.measures])
    for at in np.flatnonzero(faulty):
        fault, why = images.faults[int(rows[at])]
        reason[at], message[at] = str(fault), why
    carrier = images.carrier[rows]
    slots = np.where(kept, given.slot[carrier], -1)
    query = images.query[rows]
    similarity = np.where(near, witness.similarity[rows], np.nan)
    return pa.table(
        {
            "dataset_id": _constant(given.dataset_id, len(rows), pa.int16()),
            "sha256": fixed(images.digests[rows]),
            "decision_id": _constant(given.decision_id, len(rows), pa.int64()),
            "verdict": _verdicts(outcome),
            "reason": pa.array(reason, pa.string()),
            "message": pa.array(message, pa.string()),
            "sample_id": fixed(samples.ids[carrier]),
            "shard_id": given.shard_ids[samples.shard[carrier]],
            "position": samples.position[carrier],
            "rank": samples.rank[carrier],
            "slot": pa.array(slots, pa.int32(), mask=slots < 0),
            "segment_row": pa.array(query, pa.int64(), mask=query < 0),
            "witness_sha256": fixed(witness.sha256[rows], near),
            **_carriers(given, rows, near),
            "similarity": _floats(similarity),
            "threshold": _floats(np.where(near, witness.threshold[rows], np.nan)),
        }
    )


def change_rows(given: DecisionRows) -> pa.Table:
    """Rows of ``changes``: one for each image that was free, and is decided again."""
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    rows = np.flatnonzero(images.standing == FREE)
    gone = ~decided.kept[rows]
    carrier = images.carrier[rows]
    reason = np.full(len(rows), None, object)
    reason[gone] = decided.each(rows[gone], [m.reason for m in decided.measures])

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
            "carrier_id": fixed(samples.ids[carrier], ~gone),
            "carrier_decision": of_kept(np.full(len(rows), given.decision_id), pa.int64()),
            "carrier_shard": of_kept(given.shard_ids[samples.shard[carrier]], pa.int64()),
            "carrier_position": of_kept(samples.position[carrier], pa.int32()),
            "slot": of_kept(given.slot[carrier], pa.int32()),
            "slot_decision": of_kept(np.full(len(rows), given.decision_id), pa.int64()),
        }
    )


Pairs = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float64]]
"""Images of the batch (k,), digests (k, 32) of kept images of history, and their similarities."""


def match_rows(given: DecisionRows, history: Sequence[Pairs], limit: int) -> Iterator[pa.Table]:
    """Rows of ``matches``: each new image's most similar kept images at or above the floor.

    Args:
        given: the decision.
        history: by each of its measures, pairs with images of history.
        limit: rows of an image at most, by each.

    Yields:
        Some of them at a time.
    """
    decided = given.decided
    for measure, inside, earlier in zip(decided.measures, decided.matches, history, strict=True):
        yield from _matches(given, measure, inside, earlier, limit)


def _matches(
    given: DecisionRows, measure: Measure, inside: Matches, history: Pairs, limit: int
) -> Iterator[pa.Table]:
    image = np.concatenate([history[0], inside.query])
    similarity = np.concatenate([history[2], inside.similarity])
    by = np.lexsort((np.arange(len(image)), -similarity, image))
    image = image[by]
    first = np.searchsorted(image, image, side="left")
    by = by[np.arange(len(image)) - first < limit]
    for start in range(0, len(by), ROWS):
        part = by[start : start + ROWS]
        yield _match_rows(given, measure, inside, history, part)


def _match_rows(
    given: DecisionRows, measure: Measure, inside: Matches, history: Pairs, pairs: NDArray[np.int64]
) -> pa.Table:
    """Of pairs numbered through: those with history, then those inside the batch."""
    digests, count = given.images.digests, len(history[0])
    is_history = pairs < count
    old, new = pairs[is_history], pairs[~is_history] - count
    image = np.empty(len(pairs), np.int64)
    image[is_history], image[~is_history] = history[0][old], inside.query[new]
    similarity = np.empty(len(pairs))
    similarity[is_history], similarity[~is_history] = history[2][old], inside.similarity[new]
    earlier = np.empty((len(pairs), 32), np.uint8)
    earlier[is_history], earlier[~is_history] = history[1][old], digests[inside.reference[new]]
    distance = np.full(len(image), np.nan)
    if measure.by_hash:
        distance = np.rint((1.0 - similarity) * BITS)
    return pa.table(
        {
            "month": _constant(days(given.month), len(image), pa.date32()),
            "decision_id": _constant(given.decision_id, len(image), pa.int64()),
            "image_sha256": fixed(digests[image]),
            "earlier_sha256": fixed(earlier),
            "similarity": similarity,
            "distance": pa.array(distance, from_pandas=True).cast(pa.int16()),
        }
    )
