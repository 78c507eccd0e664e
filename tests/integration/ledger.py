"""Rows of the private tables made by hand: what verdicts, views and look-ups are asked about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, decisions, events
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.partitions import MONTHLY, ensure_month
from sscd_ops.model import DecisionKind

COUNTS = {"read": 3, "kept": 1, "removed_exact": 1, "removed_near": 1, "quarantined": 0, "known": 2}


def sha(number: int) -> bytes:
    """sha256 of an image's made-up bytes."""
    return hashlib.sha256(b"%d" % number).digest()


class Ledger:
    """The datasets `web` and `other`, and rows of theirs. A ``turn`` of None: not in force."""

    def __init__(self, catalog: Catalog, *months: date) -> None:
        self.catalog = catalog
        for month in months:
            for table in MONTHLY:
                ensure_month(catalog, month, table)
        with catalog.begin() as conn:
            self.web, self.other = (datasets.ensure(conn, name) for name in ("web", "other"))

    def insert(self, table: str, returning: str, **values: Any) -> Any:
        """Insert a row; the value of one of its columns."""
        names = ", ".join(values)
        bound = ", ".join(f":{name}" for name in values)
        with self.catalog.begin() as conn:
            return conn.execute(
                text(
                    f"INSERT INTO sscd_ops.{table} ({names}) VALUES ({bound}) RETURNING {returning}"
                ),
                values,
            ).scalar_one()

    def run(self, sql: str, **parameters: Any) -> None:
        with self.catalog.begin() as conn:
            conn.execute(text(sql), parameters)

    def all(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with self.catalog.read() as conn:
            return [
                {k: bytes(v) if isinstance(v, memoryview) else v for k, v in row.items()}
                for row in conn.execute(text(sql), parameters).mappings()
            ]

    def one(self, sql: str, **parameters: Any) -> dict[str, Any]:
        (row,) = self.all(sql, **parameters)
        return row

    def batch(
        self, day: date, *, state: str = "published", dataset: int | None = None, **more: Any
    ) -> int:
        """A batch with an attempt of its own."""
        batch = self.insert(
            "batches",
            "batch_id",
            dataset_id=dataset or self.web,
            interval_start=datetime(day.year, day.month, day.day, tzinfo=UTC),
            interval_end=datetime(day.year, day.month, day.day, 12, tzinfo=UTC),
            state=state,
            label=str(day),
            **more,
        )
        attempt = self.insert(
            "attempts",
            "attempt_id",
            batch_id=batch,
            config_sha256="c0ffee",
            config="{}",
            fingerprint="f" * 64,
            fingerprint_detail='{"name": "dct-ffffffff"}',
            threshold=0.9,
            pinned_turn=0,
            pinned_generation=0,
            skipped_shards=5,
        )
        self.run(
            "UPDATE sscd_ops.batches SET attempt_id = :a WHERE batch_id = :b", a=attempt, b=batch
        )
        return int(batch)

    def shard(self, batch: int, uri: str, ordinal: int = 0) -> int:
        """A source shard of the batch's attempt."""
        attempt = self.one("SELECT attempt_id FROM sscd_ops.batches WHERE batch_id = :b", b=batch)
        return int(
            self.insert(
                "source_shards",
                "shard_id",
                attempt_id=attempt["attempt_id"],
                source="crawl",
                relative_uri=uri,
                uri=f"/incoming/{uri}",
                version="1",
                size=9,
                group_no=0,
                ordinal=ordinal,
            )
        )

    def night(self, batch: int, month: date, turn: int | None, *, decided: bool = True) -> int:
        """A decision of the batch; ``decided``: the one that the batch names."""
        of = self.one("SELECT * FROM sscd_ops.batches WHERE batch_id = :b", b=batch)
        decision = self.insert(
            "decisions",
            "decision_id",
            dataset_id=of["dataset_id"],
            kind="night",
            batch_id=batch,
            attempt_id=of["attempt_id"],
            month=month,
            turn=turn,
            **({"counts": json.dumps(COUNTS), "decided_at": at(turn)} if turn else {}),
        )
        if decided:
            self.run(
                "UPDATE sscd_ops.batches SET decision_id = :x WHERE batch_id = :b",
                x=decision,
                b=batch,
            )
        return int(decision)

    def sample(self, decision: int, shard: int, position: int, **values: Any) -> None:
        """A row of ``samples``, kept where ``values`` does not say otherwise."""
        self.insert(
            "samples",
            "position",
            month=self.one(
                "SELECT month FROM sscd_ops.decisions WHERE decision_id = :x", x=decision
            )["month"],
            decision_id=decision,
            shard_id=shard,
            position=position,
            **{"verdict": "kept", "rank": max(position, 0), **values},
        )

    def image(
        self, decision: int, digest: bytes, sample: UUID, shard: int, position: int, **values: Any
    ) -> None:
        """A row of ``images``, kept where ``values`` does not say otherwise."""
        of = self.one(
            "SELECT dataset_id FROM sscd_ops.decisions WHERE decision_id = :x", x=decision
        )
        self.insert(
            "images",
            "rank",
            dataset_id=of["dataset_id"],
            sha256=digest,
            decision_id=decision,
            sample_id=sample,
            shard_id=shard,
            position=position,
            **{"verdict": "kept", "rank": position, **values},
        )

    def placed(
        self, decision: int, name: str, slots: range, snapshot: int | None, **values: Any
    ) -> int:
        """An output shard of the decision with these slots, from a snapshot on."""
        output = self.insert(
            "output_shards",
            "output_id",
            decision_id=decision,
            samples=len(slots),
            name=name,
            **{"number": 0, "plan": "0badcafe", "form": "jpg+txt+json", "turn": 1, **values},
        )
        self.place(output, decision, slots, snapshot)
        return int(output)

    def place(self, output: int, decision: int, slots: range, snapshot: int | None) -> None:
        """Say that an output shard holds these slots of a decision."""
        self.insert(
            "placements",
            "output_id",
            output_id=output,
            decision_id=decision,
            slot_from=slots.start,
            slot_to=slots.stop,
            position=0,
            snapshot_from=snapshot,
        )

    def draft(
        self, changes: Sequence[Mapping[str, Any]], *, dataset: int | None = None, key: str = ""
    ) -> int:
        """A decision of kind `order` with these rows of ``changes``, not in force."""
        dataset = dataset or self.web
        with self.catalog.begin() as conn:
            turn = datasets.of_number(conn, dataset).next_turn
            decision = decisions.open_other(
                conn, dataset, DecisionKind.ORDER, date(2026, 12, 1), key or f"order of {turn}"
            )
            for change in changes:
                values = {
                    "dataset_id": dataset,
                    "decision_id": decision,
                    "turn": turn,
                    **change,
                }
                names = ", ".join(values)
                bound = ", ".join(f":{name}" for name in values)
                conn.execute(
                    text(f"INSERT INTO sscd_ops.changes ({names}) VALUES ({bound})"), values
                )
        return decision

    def apply(self, decision: int, *, why: str = "") -> int:
        """Put a decision in force under the dataset's lock, as ``steps.turns`` does; its turn."""
        of = self.one(
            "SELECT dataset_id FROM sscd_ops.decisions WHERE decision_id = :x", x=decision
        )
        with self.catalog.begin() as conn:
            return put_in_force(conn, of["dataset_id"], decision, why=why)

    def order(self, *changes: Mapping[str, Any], dataset: int | None = None) -> int:
        """A decision of kind `order` in force with these changes; its turn."""
        return self.apply(self.draft(changes, dataset=dataset))

    def next_turn(self, turn: int, dataset: int | None = None) -> None:
        """Say which turn comes next."""
        self.run(
            "UPDATE sscd_ops.datasets SET next_turn = :t WHERE dataset_id = :d",
            t=turn,
            d=dataset or self.web,
        )

    def newest_snapshot(self, snapshot: int) -> None:
        """Say which snapshot of `web` is the newest."""
        self.run(
            "UPDATE sscd_ops.datasets SET snapshot = :s WHERE dataset_id = :d",
            s=snapshot,
            d=self.web,
        )


def put_in_force(conn: Connection, dataset_id: int, decision: int, *, why: str = "") -> int:
    dataset = datasets.lock(conn, dataset_id)
    decisions.put_in_force(
        conn,
        decision,
        turn=dataset.next_turn,
        generation=dataset.generation,
        config_sha256="c0ffee",
        actor="ann",
        why=why,
        counts={},
        origins={},
    )
    datasets.advance(
        conn,
        dataset_id,
        next_turn=dataset.next_turn + 1,
        generation=dataset.generation,
        snapshot=dataset.snapshot,
    )
    events.add_event(conn, dataset_id, "decided", actor="ann", why=why, turn=dataset.next_turn)
    return dataset.next_turn


def at(turn: int) -> datetime:
    """When a night of this turn was decided."""
    return datetime(2026, 11, 2, tzinfo=UTC) + timedelta(days=turn)
