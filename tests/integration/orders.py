"""A made-up kind of decision that changes verdicts: what takes a turn beside a night.

``python -m tests.integration.orders URL ROOT OPTIONS ORDER`` takes one, for tests that kill it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, decisions, events, lookups, segments, sql
from sscd_ops.core.segment_file import read_mask, write_mask
from sscd_ops.errors import BatchHeld, SscdOpsError
from sscd_ops.model import DecisionKind, StoredFile
from sscd_ops.options import Settings, StorageOptions, dataset_from_json
from sscd_ops.steps import turns
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.turns import Record, Seen
from sscd_ops.wiring import Wiring
from tests.integration.world import DATASET

Reached = Callable[[str, "Order"], None]
"""Told of each phase that an order reaches."""


@dataclass(frozen=True)
class Ordered:
    """Rows of ``changes``, and the masks that follow from them."""

    month: date
    turn: int
    rows: Sequence[Mapping[str, Any]]
    masks: Mapping[int, tuple[StoredFile, int]]


class Order:
    """Changes verdicts of samples named by their keys (``turns.Decider``).

    Args:
        parts: the real parts.
        key: by which a retry finds it again.
        changes: key of a sample -> ``free``: this sample is withdrawn, and its image without a
            verdict; ``withdrawn``: its image is; ``kept``: its image is kept, and it carries it;
            ``again``: likewise, and what was decided of the sample alone ends.
        most: so many changes need no approval.
        reached: told of each phase.
    """

    origins: Sequence[int] = ()

    def __init__(
        self,
        parts: Parts,
        key: str,
        changes: Mapping[str, str],
        *,
        most: int = 100,
        reached: Reached = lambda phase, order: None,
    ) -> None:
        self.parts = parts
        self.key = key
        self.changes = changes
        self.most = most
        self.reached = reached
        self.tries = 0
        with parts.catalog.begin() as conn:
            self.dataset_id = datasets.need(conn, DATASET).dataset_id

    def is_settled(self, conn: Connection) -> bool:
        return decisions.of_key(conn, self.dataset_id, self.key) is not None

    def work_out(self, seen: Seen, before: Ordered | None) -> Ordered:
        self.tries += 1
        self.reached("work_out", self)
        dataset = seen.dataset
        with self.parts.catalog.begin() as conn:
            samples = self._samples(conn)
            digests = np.array([list(bytes(s["image_sha256"])) for s in samples], np.uint8)
            known = lookups.known_images(conn, self.dataset_id, digests, dataset.turn)
            live = segments.live_segments(conn, self.dataset_id, dataset.generation)
            place = segments.places_of(
                conn, [s.segment_id for s in live], known.decision_id.tolist()
            )
        changed: dict[int, np.ndarray] = {}
        by_number = {segment.segment_id: segment for segment in live}
        rows: list[dict[str, Any]] = []
        for at in np.argsort(known.row):
            sample = samples[known.row[at]]
            verdict = self.changes[sample["key"]]
            rows += self._rows_of(verdict, sample, len(rows))
            if known.segment_row[at] < 0:
                continue
            number, first = place[int(known.decision_id[at])]
            segment = by_number[number]
            assert segment.mask is not None
            if segment.segment_id not in changed:
                mask = read_mask(self.parts.store, segment.mask, segment.rows)
                changed[segment.segment_id] = mask
            changed[number][first + known.segment_row[at]] = verdict in ("kept", "again")
        masks = {
            number: (
                write_mask(self.parts.store, f"{DATASET}/index/masks", mask),
                int(mask.sum()),
            )
            for number, mask in changed.items()
        }
        month = datetime.now(UTC).date().replace(day=1)
        return Ordered(month, dataset.next_turn, rows, masks)

    def _samples(self, conn: Connection) -> list[Mapping[str, Any]]:
        found = sql.rows(
            conn,
            "SELECT DISTINCT ON (s.key) s.* FROM sscd_ops.samples s"
            " JOIN sscd_ops.decisions d USING (decision_id)"
            " WHERE d.turn IS NOT NULL AND s.key = ANY(:k) ORDER BY s.key",
            k=list(self.changes),
        )
        assert len(found) == len(self.changes)
        return found

    @staticmethod
    def _rows_of(verdict: str, sample: Mapping[str, Any], slot: int) -> list[dict[str, Any]]:
        image = {"image_sha256": bytes(sample["image_sha256"])}
        own = {"sample_id": sample["sample_id"].bytes}
        if verdict == "free":
            reason = {"verdict": "withdrawn", "reason": "withdrawn"}
            return [{**image, "verdict": "free"}, {**own, **reason}]
        if verdict == "withdrawn":
            return [{**image, "verdict": verdict, "reason": "withdrawn"}]
        kept = {
            "verdict": "kept",
            "carrier_id": sample["sample_id"].bytes,
            "carrier_decision": sample["decision_id"],
            "carrier_shard": sample["shard_id"],
            "carrier_position": sample["position"],
            "slot": slot,
        }
        return [{**image, **kept}] + ([{**own, **kept}] if verdict == "again" else [])

    def month(self, worked: Ordered) -> date:
        return worked.month

    def open(self, conn: Connection, worked: Ordered) -> int:
        return decisions.open_other(
            conn, self.dataset_id, DecisionKind.ORDER, worked.month, self.key
        )

    def rows(self, worked: Ordered, decision_id: int) -> Iterator[tuple[str, pa.Table]]:
        half = len(worked.rows) // 2
        for rows in (worked.rows[:half], worked.rows[half:]):
            yield "changes", self._table(rows, worked.turn, decision_id)
            self.reached("rows", self)

    def _table(self, rows: Sequence[Mapping[str, Any]], turn: int, decision_id: int) -> pa.Table:
        kinds = {
            "image_sha256": pa.binary(),
            "sample_id": pa.binary(16),
            "verdict": pa.string(),
            "reason": pa.string(),
            "carrier_id": pa.binary(16),
            "carrier_decision": pa.int64(),
            "carrier_shard": pa.int64(),
            "carrier_position": pa.int32(),
            "slot": pa.int32(),
        }
        columns = {
            name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()
        }
        slots = [None if row.get("slot") is None else decision_id for row in rows]
        return pa.table(
            {
                **columns,
                "slot_decision": pa.array(slots, pa.int64()),
                "dataset_id": pa.array([self.dataset_id] * len(rows), pa.int16()),
                "decision_id": pa.array([decision_id] * len(rows), pa.int64()),
                "turn": pa.array([turn] * len(rows), pa.int64()),
            }
        )

    def give_up(self, conn: Connection) -> None:
        decisions.give_up_others(conn, self.dataset_id, self.key)

    def guard(self, seen: Seen, worked: Ordered) -> str:
        self.reached("written", self)
        count = len(worked.rows)
        return f"order {self.key} changes {count} verdicts" if count > self.most else ""

    def hold(self, conn: Connection, worked: Ordered, message: str) -> SscdOpsError | None:
        approved = "SELECT count(*) FROM sscd_ops.events WHERE kind = 'approved' AND why = :k"
        if sql.value(conn, approved, k=self.key):
            return None
        events.add_event(conn, self.dataset_id, "held", actor="order", why=message)
        return BatchHeld(message)

    def approve(self) -> None:
        with self.parts.catalog.begin() as conn:
            events.add_event(conn, self.dataset_id, "approved", actor="another", why=self.key)

    def admit(self, conn: Connection, worked: Ordered) -> None:
        self.reached("admit", self)

    def put(self, conn: Connection, worked: Ordered, decision_id: int, generation: int) -> bool:
        for segment_id, (mask, kept) in worked.masks.items():
            segments.add_mask(conn, segment_id, generation, mask, kept)
        self.reached("put", self)
        return bool(worked.masks)

    def record(self, worked: Ordered) -> Record:
        with self.parts.catalog.begin() as conn:
            config = sql.value(
                conn,
                "SELECT config_sha256 FROM sscd_ops.decisions WHERE dataset_id = :d"
                " AND kind = 'night' AND turn IS NOT NULL ORDER BY turn DESC LIMIT 1",
                d=self.dataset_id,
            )
        return Record(
            actor="a person",
            why=self.key,
            config_sha256=config,
            counts={"changes": len(worked.rows)},
            details={"changes": dict(self.changes)},
        )


def apply(order: Order) -> decisions.Decision:
    """Take its turn, or answer with what was decided under its key."""
    turns.take(order.parts, order)
    with order.parts.catalog.begin() as conn:
        decision = decisions.of_key(conn, order.dataset_id, order.key)
    assert decision is not None
    return decision


def lead_by(parts: Parts, *changes: Mapping[str, str]) -> None:
    """Apply orders one after another, each under a key of its own."""
    for change in changes:
        apply(Order(parts, json.dumps(sorted(change.items())), change))


# ---------------------------------------------------------------- a process of its own


def _dies(phase: str) -> Reached:
    """Kills this process where it reaches a phase, also one inside ``turns`` by what is called."""
    import os
    import signal

    def die(*given: object, **named: object) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    class Read:
        read = die

    def copy_table(conn: Connection, table: str, rows: pa.Table) -> None:
        conn.connection.cursor().copy_expert(f"COPY sscd_ops.{table} FROM STDIN BINARY", Read())

    if phase == "copy":
        turns.copy_table = copy_table  # type: ignore[attr-defined]
    if phase == "event":
        turns.events.add_event = die  # type: ignore[attr-defined]
    if phase == "forget":
        turns.decisions.delete_lost = die  # type: ignore[attr-defined]
    return lambda reached, order: die() if reached == phase else None


def main() -> None:
    url, root, options, given = sys.argv[1:]
    asked = json.loads(given)
    settings = Settings(
        "t.toml", StorageOptions(root=root), datasets={DATASET: dataset_from_json(options)}
    )
    reached: Reached = lambda phase, order: None  # noqa: E731
    if asked.get("dies"):
        reached = _dies(asked["dies"])
    with Wiring(settings, database_url=url) as parts:
        if asked.get("starts"):
            print("ready", flush=True)
            sys.stdin.readline()
        if asked.get("loses"):
            reached = _loses(parts, asked["loses"])
        decision = apply(Order(parts, asked["key"], asked["changes"], reached=reached))
        if asked.get("dies") == "after":
            _dies("now")("now", None)  # type: ignore[arg-type]
        print(decision.turn, flush=True)


def _loses(parts: Parts, others: Sequence[Mapping[str, str]]) -> Reached:
    """Others are quicker each time it is worked out; then it says so, and hangs."""
    left = list(others)

    def reached(phase: str, order: Order) -> None:
        if phase == "work_out" and left:
            lead_by(parts, left.pop(0))
        elif phase == "work_out":
            print("in line", flush=True)
            sys.stdin.readline()

    return reached


if __name__ == "__main__":
    main()
