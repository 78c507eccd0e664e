"""Rows of ``changes``: later verdicts of images and of samples. Pure; pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Carried:
    """The sample that carries a kept image from now on, and its slot in the decision that says so.

    ``decision_id``: that with the sample's row. ``shard_id``, ``position``: its source shard, and
    its place there.
    """

    sample_id: bytes
    decision_id: int
    shard_id: int
    position: int
    slot: int


@dataclass(frozen=True, slots=True)
class Change:
    """A verdict of an image (``image``, 32 bytes) or of one sample (``sample``, 16 bytes).

    ``witness``: the image because of which it is removed, at ``similarity`` >= ``threshold``.
    """

    verdict: str
    image: bytes | None = None
    sample: bytes | None = None
    reason: str | None = None
    message: str | None = None
    witness: bytes | None = None
    similarity: float | None = None
    threshold: float | None = None
    carried: Carried | None = None


def change_table(
    changes: Sequence[Change], *, dataset_id: int, turn: int, decision_id: int
) -> pa.Table:
    """Their rows, ready for COPY."""

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([getattr(change, name) for change in changes], kind)

    def carried(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([c.carried and getattr(c.carried, name) for c in changes], kind)

    def constant(value: int, kind: pa.DataType) -> pa.Array:
        return pa.array([value] * len(changes), kind)

    slots: list[Any] = [None if change.carried is None else decision_id for change in changes]
    return pa.table(
        {
            "dataset_id": constant(dataset_id, pa.int16()),
            "decision_id": constant(decision_id, pa.int64()),
            "turn": constant(turn, pa.int64()),
            "image_sha256": column("image", pa.binary()),
            "sample_id": column("sample", pa.binary(16)),
            "verdict": column("verdict", pa.string()),
            "reason": column("reason", pa.string()),
            "message": column("message", pa.string()),
            "witness_sha256": column("witness", pa.binary()),
            "similarity": column("similarity", pa.float64()),
            "threshold": column("threshold", pa.float64()),
            "carrier_id": carried("sample_id", pa.binary(16)),
            "carrier_decision": carried("decision_id", pa.int64()),
            "carrier_shard": carried("shard_id", pa.int64()),
            "carrier_position": carried("position", pa.int32()),
            "slot": carried("slot", pa.int32()),
            "slot_decision": pa.array(slots, pa.int64()),
        }
    )
