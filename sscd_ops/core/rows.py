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
from sscd_ops.model import Matches, Quarantined

_REMOVED = {REMOVED_EXACT: "exact", **{code: reason for reason, code in REMOVED_FOR.items()}}
"""Reason of a removed sample, by outcome."""
WITHDRAWN_FOR = "withdrawn"
"""Reason of what is withdrawn, an image or a sample."""


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
class Replaced:
    """Quarantined rows that are none any more, since their samples were read again.

    ``by``: int64 (k,), the sample of the batch in each one's place; -1: a fault of a shard.
    """

    rows: Sequence[Quarantined]
    by: NDArray[np.int64]


NOTHING_REPLACED = Replaced((), np.empty(0, np.int64))


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
    replaced: Replaced = NOTHING_REPLACED


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
    # what an earlier turn said of the image: its bearers follow it, whatever the fault
    lasting[images.known.row] = True
    said = np.full(len(images.carrier), None, object)
    said[images.known.row] = images.known.reason
    said[images.caught] = WITHDRAWN_FOR
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

    ``lasting``: the images that are known, or have a fault of their bytes. A sample quarantined for
    another follows no image.
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
            "similarity": _floats(np.where(witnessed, witness.similarity[image], np.nan)),
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
    code[ruled] = WITHDRAWN_FOR
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
    first = np.isin(images.standing, (NEW, PLAIN)) | _lasting(given)
    first[images.known.row] = False
    rows = np.flatnonzero(first)
    for start in range(0, len(rows), ROWS):
        yield _image_rows(given, rows[start : start + ROWS])


def _lasting(given: DecisionRows) -> NDArray[np.bool_]:
    """Bool (m,): images with a fault of their bytes."""
    lasting = np.zeros(len(given.images.carrier), bool)
    for image, (fault, _) in given.images.faults.items():
        lasting[image] = fault.follows_bytes
    return lasting


def _image_rows(given: DecisionRows, rows: NDArray[np.int64]) -> pa.Table:
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    kept = decided.kept[rows]
    faulty = images.standing[rows] == IMAGE_FAULTY
    caught = images.caught[rows]
    near = ~kept & ~faulty & ~caught
    outcome = np.full(len(rows), REMOVED_NEAR, np.int8)
    outcome[kept], outcome[faulty], outcome[caught] = KEPT, QUARANTINED, WITHDRAWN
    reason = np.full(len(rows), None, object)
    reason[caught] = WITHDRAWN_FOR
    message = np.full(len(rows), None, object)
    reason[near] = decided.each(rows[near], [m.reason for m in decided.measures])
    for at in np.flatnonzero(faulty):
        fault, why = images.faults[int(rows[at])]
        reason[at], message[at] = str(fault), why
    carrier = images.carrier[rows]
    slots = np.where(kept, given.slot[carrier], -1)
    query = images.query[rows]
    because = near | caught
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
            "witness_sha256": fixed(witness.sha256[rows], because),
            **_carriers(given, rows, because),
            "similarity": _floats(np.where(because, witness.similarity[rows], np.nan)),
            "threshold": _floats(np.where(because, witness.threshold[rows], np.nan)),
        }
    )


def change_rows(given: DecisionRows) -> pa.Table:
    """Rows of ``changes``: one for each image that is decided again.

    Those that were free, and those whose fault was looked for anew; where it is one that does not
    follow their bytes, what was said of them stays.
    """
    samples, images, decided, witness = given.samples, given.images, given.decided, given.witness
    faulty = images.standing == IMAGE_FAULTY
    again = images.anew & (~faulty | _lasting(given))
    rows = np.flatnonzero((images.standing == FREE) | again)
    kept, faulty, caught = decided.kept[rows], faulty[rows], images.caught[rows]
    gone = ~kept & ~faulty
    near = gone & ~caught
    carrier = images.carrier[rows]
    outcome = np.full(len(rows), REMOVED_NEAR, np.int8)
    outcome[kept], outcome[faulty], outcome[caught] = KEPT, QUARANTINED, WITHDRAWN
    reason = np.full(len(rows), None, object)
    message = np.full(len(rows), None, object)
    reason[near] = decided.each(rows[near], [m.reason for m in decided.measures])
    reason[caught] = WITHDRAWN_FOR
    for at in np.flatnonzero(faulty):
        fault, why = images.faults[int(rows[at])]
        reason[at], message[at] = str(fault), why

    def of_kept(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=~kept)

    return pa.table(
        {
            "dataset_id": _constant(given.dataset_id, len(rows), pa.int16()),
            "decision_id": _constant(given.decision_id, len(rows), pa.int64()),
            "turn": _constant(given.turn, len(rows), pa.int64()),
            "image_sha256": fixed(images.digests[rows]),
            "verdict": _verdicts(outcome),
            "reason": pa.array(reason, pa.string()),
            "message": pa.array(message, pa.string()),
            "witness_sha256": fixed(witness.sha256[rows], gone),
            "similarity": _floats(np.where(gone, witness.similarity[rows], np.nan)),
            "threshold": _floats(np.where(gone, witness.threshold[rows], np.nan)),
            "carrier_id": fixed(samples.ids[carrier], kept),
            "carrier_decision": of_kept(np.full(len(rows), given.decision_id), pa.int64()),
            "carrier_shard": of_kept(given.shard_ids[samples.shard[carrier]], pa.int64()),
            "carrier_position": of_kept(samples.position[carrier], pa.int32()),
            "slot": of_kept(given.slot[carrier], pa.int32()),
            "slot_decision": of_kept(np.full(len(rows), given.decision_id), pa.int64()),
        }
    )


# ---------------------------------------------------------------- read again


def followed_rows(given: DecisionRows) -> pa.Table:
    """Rows of ``changes``: verdicts of their own end that samples had which were read again."""
    own = [row.sample_id for row in given.replaced.rows if row.has_own]
    return pa.table(
        {
            "dataset_id": _constant(given.dataset_id, len(own), pa.int16()),
            "decision_id": _constant(given.decision_id, len(own), pa.int64()),
            "turn": _constant(given.turn, len(own), pa.int64()),
            "sample_id": pa.array(own, pa.binary(16)),
            "verdict": pa.array(["follows"] * len(own), pa.string()),
        }
    )


def replaced_rows(given: DecisionRows) -> pa.Table:
    """Rows of ``read_again``: one for each row that is none any more."""
    rows, by = given.replaced.rows, given.replaced.by
    ids = [None if at < 0 else given.samples.ids[at].tobytes() for at in by.tolist()]
    return pa.table(
        {
            "dataset_id": _constant(given.dataset_id, len(rows), pa.int16()),
            "decision_id": _constant(given.decision_id, len(rows), pa.int64()),
            "turn": _constant(given.turn, len(rows), pa.int64()),
            "of_decision": pa.array([row.decision_id for row in rows], pa.int64()),
            "shard_id": pa.array([row.shard_id for row in rows], pa.int64()),
            "position": pa.array([row.position for row in rows], pa.int32()),
            "sample_id": pa.array([row.sample_id for row in rows], pa.binary(16)),
            "again_id": pa.array(ids, pa.binary(16)),
        }
    )


def described_rows(given: DecisionRows) -> pa.Table:
    """Rows of ``described_later``: where the descriptors of images lie that were faulty before."""
    images = given.images
    rows = np.flatnonzero(images.anew & (images.standing == NEW))
    return pa.table(
        {
            "dataset_id": _constant(given.dataset_id, len(rows), pa.int16()),
            "sha256": fixed(images.digests[rows]),
            "decision_id": _constant(given.decision_id, len(rows), pa.int64()),
            "segment_row": pa.array(images.query[rows], pa.int64()),
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
