"""What the public views show, and what they leave out."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.partitions import ensure_month

OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)
COUNTS = {"read": 3, "kept": 1, "removed_exact": 1, "removed_near": 1, "quarantined": 0, "known": 2}


class World:
    """Two decided nights, a lost decision, a dry run and an undecided batch, row by row."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        for month in (OCTOBER, NOVEMBER):
            for table in ("samples", "matches"):
                ensure_month(catalog, month, table)
        self.dataset = self.insert("datasets", "dataset_id", name="web")

    def insert(self, table: str, returning: str, **values: Any) -> int:
        with self.catalog.begin() as conn:
            names = ", ".join(values)
            bound = ", ".join(f":{name}" for name in values)
            return conn.execute(
                text(
                    f"INSERT INTO sscd_ops.{table} ({names}) VALUES ({bound}) RETURNING {returning}"
                ),
                values,
            ).scalar_one()

    def batch(self, day: date, turn: int | None, *, state: str = "published", **more: Any) -> int:
        values = {"turn": turn, "state": state, "label": str(day), "plan": "0badcafe", **more}
        if turn is not None:
            values |= {
                "counts": json.dumps(COUNTS),
                "decided_at": datetime(2026, 11, 3, tzinfo=UTC),
            }
        batch = self.insert(
            "batches",
            "batch_id",
            dataset_id=self.dataset,
            interval_start=datetime(day.year, day.month, day.day, tzinfo=UTC),
            interval_end=datetime(day.year, day.month, day.day, 12, tzinfo=UTC),
            **values,
        )
        attempt = self.insert(
            "attempts",
            "attempt_id",
            batch_id=batch,
            config_sha256="c0ffee",
            config="{}",
            fingerprint="f" * 64,
            fingerprint_detail='{"name": "dct-ffffffff"}',
            search="flat",
            threshold=0.9,
            pinned_turn=0,
            pinned_generation=0,
            skipped_shards=5,
        )
        self.run(
            "UPDATE sscd_ops.batches SET attempt_id = :a WHERE batch_id = :b", a=attempt, b=batch
        )
        return batch

    def shard(self, batch: int, uri: str, ordinal: int = 0) -> int:
        (attempt,) = self.all(
            "SELECT attempt_id FROM sscd_ops.batches WHERE batch_id = :b", b=batch
        )
        return self.insert(
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

    def decision(self, batch: int, month: date, *, in_force: bool = True) -> int:
        (row,) = self.all("SELECT attempt_id FROM sscd_ops.batches WHERE batch_id = :b", b=batch)
        decision = self.insert(
            "decisions", "decision_id", batch_id=batch, attempt_id=row["attempt_id"], month=month
        )
        if in_force:
            self.run(
                "UPDATE sscd_ops.batches SET decision_id = :x,"
                " month = (SELECT month FROM sscd_ops.decisions WHERE decision_id = :x)"
                " WHERE batch_id = :b",
                x=decision,
                b=batch,
            )
        return decision

    def sample(self, decision: int, month: date, shard: int, position: int, **values: Any) -> None:
        self.insert(
            "samples",
            "position",
            month=month,
            decision_id=decision,
            shard_id=shard,
            position=position,
            **{"verdict": "kept", **values},
        )

    def run(self, sql: str, **parameters: Any) -> None:
        with self.catalog.begin() as conn:
            conn.execute(text(sql), parameters)

    def all(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        with self.catalog.read() as conn:
            return [dict(row) for row in conn.execute(text(sql), parameters).mappings()]


@pytest.fixture
def world(catalog: Catalog) -> World:
    """October keeps one picture; November removes a copy of it, and reads other things."""
    world = World(catalog)
    first = world.batch(date(2026, 10, 31), 1)
    kept = world.decision(first, OCTOBER)
    world.sample(
        kept, OCTOBER, world.shard(first, "a.tar"), 0,
        sample_id=UUID(int=1), key="a", caption="first", output_shard=0, image_sha256=bytes(32),
    )  # fmt: skip
    world.insert(
        "output_shards", "number", decision_id=kept, number=0, plan="0badcafe", form="jpg+txt+json",
        samples=1, name="web/shards/2026-10-31-0badcafe/00000.tar", snapshot_from=1,
        files='{"tar": {"name": "x", "sha256": "ab", "bytes": 10240}}',
    )  # fmt: skip
    world.insert(
        "output_shards", "number", decision_id=kept, number=0, plan="01dplan0", form="jpg+txt+json",
        samples=1, name="an/older/plan.tar",
    )  # fmt: skip
    second = world.batch(date(2026, 11, 1), 2, state="decided")
    lost = world.decision(second, NOVEMBER, in_force=False)
    decided = world.decision(second, NOVEMBER)
    shard = world.shard(second, "b.tar")
    for decision in (lost, decided):
        world.sample(
            decision, NOVEMBER, shard, 0, sample_id=UUID(int=2), key="b", verdict="removed",
            reason="exact", witness_sample_id=UUID(int=1), witness_month=OCTOBER, similarity=1.0,
            image_sha256=bytes(32),
        )  # fmt: skip
        world.sample(decision, NOVEMBER, shard, 1, sample_id=UUID(int=3), key="c", output_shard=0)
        world.sample(
            decision, NOVEMBER, shard, 2, sample_id=UUID(int=4), key="d", verdict="removed",
            reason="near", witness_sample_id=UUID(int=3), witness_month=NOVEMBER, similarity=0.95,
            threshold=0.9,
        )  # fmt: skip
        world.sample(
            decision, NOVEMBER, shard, -1, verdict="quarantined", reason="truncated_shard",
            message="ends at byte 7",
        )  # fmt: skip
        world.insert(
            "output_shards", "number", decision_id=decision, number=0, plan="0badcafe",
            form="jpg+txt", samples=1, name=f"web/shards/2026-11-01-{decision}/00000.tar",
        )  # fmt: skip
    world.insert(
        "batch_sources", "source", decision_id=decided, source="crawl", counts=json.dumps(COUNTS)
    )
    world.insert(
        "batch_sources", "source", decision_id=lost, source="crawl", counts=json.dumps(COUNTS)
    )
    dry = world.batch(date(2026, 11, 2), None, state="decided", dry_run=True)
    world.sample(
        world.decision(dry, NOVEMBER),
        NOVEMBER,
        world.shard(dry, "dry.tar"),
        0,
        sample_id=UUID(int=9),
    )
    world.batch(date(2026, 11, 3), None, state="ingested")
    return world


def test_runs_shows_every_batch_but_dry_runs_with_the_counts_of_its_decision(world: World) -> None:
    rows = world.all("SELECT * FROM curation.runs ORDER BY batch_id")

    assert [(r["state"], r["turn"], r["read"]) for r in rows] == [
        ("published", 1, 3),
        ("decided", 2, 3),
        ("ingested", None, None),
    ]
    assert all(
        r["read"]
        == r["kept"] + r["removed_exact"] + r["removed_near"] + r["quarantined"] + r["withdrawn"]
        for r in rows[:2]
    )
    assert {k: rows[0][k] for k in ("shards", "published_bytes", "source_shards")} == {
        "shards": 1,
        "published_bytes": 10240,
        "source_shards": 1,
    }
    assert (rows[2]["shards"], rows[2]["seconds"], rows[2]["fingerprint"]) == (
        None,
        None,
        "dct-ffffffff",
    )


def test_rows_of_lost_decisions_and_dry_runs_are_in_no_view(world: World) -> None:
    samples = world.all("SELECT sample_id FROM curation.samples ORDER BY 1")

    assert [row["sample_id"] for row in samples] == [UUID(int=i) for i in (1, 2, 3, 4)]
    assert len(world.all("SELECT * FROM curation.run_sources")) == 1
    assert len(world.all("SELECT * FROM curation.quarantined")) == 1


def test_a_removed_sample_names_its_witness_of_an_earlier_month(world: World) -> None:
    (row,) = world.all("SELECT * FROM curation.removed WHERE reason = 'exact'")

    assert row["witness_sample_id"] == UUID(int=1)
    assert row["similarity"] == 1.0
    assert [row[f"witness_{name}"] for name in ("source", "source_shard", "key", "caption")] == [
        "crawl",
        "a.tar",
        "a",
        "first",
    ]
    assert row["witness_dataset"] == "web"
    assert row["witness_batch_id"] != row["batch_id"]
    assert row["witness_shard"] == "web/shards/2026-10-31-0badcafe/00000.tar"


def test_a_witness_of_the_same_night_is_one_row_and_has_no_published_shard_yet(
    world: World,
) -> None:
    (row,) = world.all("SELECT * FROM curation.removed WHERE reason = 'near'")

    assert (row["witness_key"], row["witness_shard"], row["threshold"]) == ("c", None, 0.9)
    assert row["witness_batch_id"] == row["batch_id"]


def test_a_removal_whose_witness_lies_in_a_detached_month_is_still_shown(world: World) -> None:
    world.run("ALTER TABLE sscd_ops.samples DETACH PARTITION sscd_ops.samples_2026_10")

    (row,) = world.all("SELECT * FROM curation.removed WHERE reason = 'exact'")

    assert (row["witness_sample_id"], row["witness_key"]) == (UUID(int=1), None)


def test_a_kept_sample_names_the_shard_and_key_of_its_plan_in_force(world: World) -> None:
    rows = world.all("SELECT sample_id, shard, shard_key FROM curation.kept ORDER BY 1")

    assert rows[0]["shard"] == "web/shards/2026-10-31-0badcafe/00000.tar"
    assert rows[0]["shard_key"] == f"{1:032x}"
    assert len(rows) == 2


def test_a_fault_of_a_source_shard_has_neither_key_nor_sample_id(world: World) -> None:
    (row,) = world.all("SELECT * FROM curation.quarantined")

    assert (row["sample_id"], row["key"], row["image_sha256"]) == (None, None, None)
    assert (row["source_shard"], row["reason"]) == ("b.tar", "truncated_shard")
    assert row["message"] == "ends at byte 7"


def test_shards_are_those_of_a_snapshot(world: World) -> None:
    rows = world.all("SELECT shard, sha256, bytes, snapshot_from, snapshot_to FROM curation.shards")

    assert rows == [
        {
            "shard": "web/shards/2026-10-31-0badcafe/00000.tar",
            "sha256": "ab",
            "bytes": 10240,
            "snapshot_from": 1,
            "snapshot_to": None,
        }
    ]


def test_a_changed_verdict_shows_the_turn_and_time_that_changed_it(world: World) -> None:
    world.run(
        "UPDATE sscd_ops.samples SET verdict = 'withdrawn', changed_turn = 7,"
        " changed_at = '2026-11-20' WHERE sample_id = :s",
        s=UUID(int=3),
    )

    (row,) = world.all("SELECT * FROM curation.samples WHERE sample_id = :s", s=UUID(int=3))

    assert (row["verdict"], row["turn"], row["decided_at"].day) == ("withdrawn", 7, 20)
    assert [r["sample_id"] for r in world.all("SELECT sample_id FROM curation.kept")] == [
        UUID(int=1)
    ]
    (row,) = world.all("SELECT * FROM curation.runs WHERE turn = 2")
    assert (row["kept"], row["withdrawn"]) == (1, 0)
