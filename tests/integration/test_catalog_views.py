"""What the public views show, and what they leave out."""

from __future__ import annotations

import json
from datetime import date
from uuid import UUID

import pytest

from sscd_ops.catalog.database import Catalog
from tests.integration.ledger import COUNTS, Ledger, sha

OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)


@pytest.fixture
def world(catalog: Catalog) -> Ledger:
    """October keeps one picture; November removes a copy of it, and reads other things.

    Beside them a lost decision, a dry run and an undecided batch.
    """
    world = Ledger(catalog, OCTOBER, NOVEMBER)
    first = world.batch(date(2026, 10, 31))
    kept, shard = world.night(first, OCTOBER, 1), world.shard(first, "a.tar")
    world.sample(
        kept, shard, 0,
        sample_id=UUID(int=1), key="a", caption="first", slot=0, image_sha256=sha(1),
    )  # fmt: skip
    world.image(kept, sha(1), UUID(int=1), shard, 0, slot=0)
    world.placed(
        kept, "web/shards/2026-10-31-0badcafe/00000.tar", range(1), 1,
        files='{"tar": {"name": "x", "sha256": "ab", "bytes": 10240}}',
    )  # fmt: skip
    second = world.batch(date(2026, 11, 1), state="decided")
    shard = world.shard(second, "b.tar")
    lost = world.night(second, NOVEMBER, None, decided=False)
    decided = world.night(second, NOVEMBER, 2)
    for decision in (lost, decided):
        world.sample(
            decision, shard, 0, sample_id=UUID(int=2), key="b", verdict="removed",
            reason="exact", witness_sha256=sha(1), similarity=1.0, image_sha256=sha(1),
        )  # fmt: skip
        world.sample(
            decision, shard, 1, sample_id=UUID(int=3), key="c", slot=0, image_sha256=sha(3)
        )
        world.sample(
            decision, shard, 2, sample_id=UUID(int=4), key="d", verdict="removed",
            reason="near", witness_sha256=sha(3), similarity=0.95, threshold=0.9,
            image_sha256=sha(4),
        )  # fmt: skip
        world.sample(
            decision, shard, -1, verdict="quarantined", reason="truncated_shard",
            message="ends at byte 7", own_fault=True,
        )  # fmt: skip
        world.image(decision, sha(3), UUID(int=3), shard, 1, slot=0)
        world.image(
            decision, sha(4), UUID(int=4), shard, 2, verdict="removed", reason="near",
            witness_sha256=sha(3), similarity=0.95, threshold=0.9,
        )  # fmt: skip
        world.placed(
            decision, f"web/shards/2026-11-01-{decision}/00000.tar", range(1), None, form="jpg+txt"
        )
        world.insert(
            "decision_sources",
            "source",
            decision_id=decision,
            source="crawl",
            counts=json.dumps(COUNTS),
        )
    dry = world.batch(date(2026, 11, 2), state="decided", dry_run=True)
    world.sample(
        world.night(dry, NOVEMBER, None), world.shard(dry, "dry.tar"), 0, sample_id=UUID(int=9)
    )
    world.batch(date(2026, 11, 3), state="ingested")
    world.next_turn(3)
    return world


def test_runs_shows_every_batch_but_dry_runs_with_the_counts_of_its_decision(world: Ledger) -> None:
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


def test_rows_of_lost_decisions_and_dry_runs_are_in_no_view(world: Ledger) -> None:
    samples = world.all("SELECT sample_id FROM curation.samples ORDER BY 1")

    assert [row["sample_id"] for row in samples] == [UUID(int=i) for i in (1, 2, 3, 4)]
    assert len(world.all("SELECT * FROM curation.run_sources")) == 1
    assert len(world.all("SELECT * FROM curation.quarantined")) == 1


def test_a_removed_sample_names_its_witness_of_an_earlier_month(world: Ledger) -> None:
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
    world: Ledger,
) -> None:
    (row,) = world.all("SELECT * FROM curation.removed WHERE reason = 'near'")

    assert (row["witness_key"], row["witness_shard"], row["threshold"]) == ("c", None, 0.9)
    assert row["witness_batch_id"] == row["batch_id"]


def test_a_removal_whose_witness_lies_in_a_detached_month_is_still_shown(world: Ledger) -> None:
    world.run("ALTER TABLE sscd_ops.samples DETACH PARTITION sscd_ops.samples_2026_10")

    (row,) = world.all("SELECT * FROM curation.removed WHERE reason = 'exact'")

    assert (row["witness_sample_id"], row["witness_key"]) == (UUID(int=1), None)


def test_a_kept_sample_names_the_shard_and_key_of_its_plan_in_force(world: Ledger) -> None:
    rows = world.all("SELECT sample_id, shard, shard_key FROM curation.kept ORDER BY 1")

    assert rows[0]["shard"] == "web/shards/2026-10-31-0badcafe/00000.tar"
    assert rows[0]["shard_key"] == f"{1:032x}"
    assert len(rows) == 2


def test_a_fault_of_a_source_shard_has_neither_key_nor_sample_id(world: Ledger) -> None:
    (row,) = world.all("SELECT * FROM curation.quarantined")

    assert (row["sample_id"], row["key"], row["image_sha256"]) == (None, None, None)
    assert (row["source_shard"], row["reason"]) == ("b.tar", "truncated_shard")
    assert row["message"] == "ends at byte 7"


def test_shards_are_those_of_a_snapshot(world: Ledger) -> None:
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


def test_a_changed_verdict_shows_the_turn_and_time_that_changed_it(world: Ledger) -> None:
    before = world.one("SELECT now() AS at")["at"]
    world.next_turn(7)
    world.order({"sample_id": UUID(int=3), "verdict": "withdrawn", "reason": "withdrawn"})

    row = world.one("SELECT * FROM curation.samples WHERE sample_id = :s", s=UUID(int=3))

    assert (row["verdict"], row["turn"]) == ("withdrawn", 7)
    assert row["decided_at"] > before
    assert [r["sample_id"] for r in world.all("SELECT sample_id FROM curation.kept")] == [
        UUID(int=1)
    ]
    row = world.one("SELECT * FROM curation.runs WHERE turn = 2")
    assert (row["kept"], row["withdrawn"]) == (1, 0)
