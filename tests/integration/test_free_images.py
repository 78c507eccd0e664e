"""Images without a verdict: withdrawn with the one sample that carried them, and decided again."""

from __future__ import annotations

import random
from typing import Any

import pytest
from PIL import Image

from sscd_ops.catalog import datasets, output_shards, placements, published, snapshots, sql
from sscd_ops.steps import commit, next_snapshot, publish, resolve
from sscd_ops.steps.rebuilding import rebuild_index, rebuild_snapshots
from sscd_ops.steps.verify import verify_index, verify_snapshot
from sscd_ops.testing import Sample, encode, picture, plant
from tests.integration.orders import lead_by
from tests.integration.test_nights import BOTH, DAYS, clouds
from tests.integration.world import (
    DATASET,
    World,
    assert_catalog_and_files_agree,
    assert_newest_verdicts,
    assert_no_kept_copies,
    assert_published_bytes,
    assert_witnesses_are_kept,
    pair,
)
from tests.soak import seeds, sweep

SHEET = encode(Image.new("RGB", (80, 60), "white"), 90)
HALF = plant(picture(6), "half_size")

NIGHTS: dict[str, list[Sample]] = {
    DAYS[0]: [*clouds(range(6)), pair("half", HALF), pair("sheet", SHEET)],
    DAYS[1]: [
        pair("same1", picture(1)),
        pair("same2", picture(2)),
        pair("better2", picture(2, quality=95)),
        pair("same3", picture(3)),
        pair("copy3", plant(picture(3), "jpeg_40")),
        pair("copy4", plant(picture(4), "jpeg_40")),
        pair("better5", picture(5, quality=95)),
        pair("whole", picture(6)),
        pair("sheet2", SHEET),
    ],
    DAYS[2]: [
        pair("again1", picture(1)),
        pair("again2", picture(2)),
        pair("again3", picture(3)),
        pair("same5", picture(5)),
        pair("half3", HALF),
        pair("sheet3", SHEET),
    ],
}
ORDER = {
    "c0001": "free",
    "c0002": "free",
    "c0003": "withdrawn",
    "c0005": "free",
    "half": "free",
    "sheet": "free",
}


def nights(world: World, *, perceptual: bool = False) -> None:
    """Night, order, night, night."""
    if perceptual:
        world.change(duplicates=BOTH)
    for day, samples in NIGHTS.items():
        world.put(day, "a.tar", samples)
    world.night(DAYS[0])
    with world.parts() as parts:
        lead_by(parts, ORDER)
    world.night(DAYS[1])
    world.night(DAYS[2])


def assert_what_holds(world: World) -> None:
    """The promises, as they read where verdicts changed."""
    assert_newest_verdicts(world)
    assert_witnesses_are_kept(world)
    assert_no_kept_copies(world)
    assert_published_bytes(world, replaced=True)
    assert_catalog_and_files_agree(world)
    samples = world.ask("SELECT * FROM curation.samples")
    assert all(row["verdict"] == "kept" for row in samples if row["plain"])
    told: dict[Any, dict[str, Any]] = {}
    for row in world.ask("SELECT * FROM curation.verdicts ORDER BY turn"):
        told[row["sample_id"]] = row
    same = ("turn", "verdict", "reason", "similarity", "threshold", "decided_at")
    for row in samples:
        assert {name: told[row["sample_id"]][name] for name in same} == {
            name: row[name] for name in same
        }
        assert row["verdict"] in ("kept", "removed", "quarantined", "withdrawn")
    assert len(told) == len(samples)
    assert_lost_slots(world)


def assert_lost_slots(world: World) -> None:
    """The slots that lost their sample are those of shards, less what the views say is kept."""
    given = {
        (row["decision_id"], slot)
        for row in world.ask("SELECT decision_id, slot_from, slot_to FROM sscd_ops.placements")
        for slot in range(row["slot_from"], row["slot_to"])
    }
    kept = {
        (row["slot_decision"], row["slot"])
        for row in world.ask(
            "SELECT slot_decision, slot FROM sscd_ops.samples_now WHERE verdict = 'kept'"
        )
    }
    with world.parts() as parts, parts.catalog.begin() as conn:
        dataset = datasets.need(conn, DATASET)
        statement = f"{placements.LOST} SELECT * FROM lost"
        lost = sql.rows(conn, statement, d=dataset.dataset_id, t=dataset.turn)
    assert {(row["decision_id"], row["slot"]) for row in lost} & given == given - kept


@pytest.mark.parametrize("perceptual", [False, True])
def test_free_images_are_decided_by_later_nights(world: World, perceptual: bool) -> None:
    nights(world, perceptual=perceptual)

    by_hash = "removed perceptual" if perceptual else "removed near"
    assert world.verdicts() == {
        "c0000": "kept",
        "c0001": "withdrawn withdrawn",
        "c0002": "withdrawn withdrawn",
        "c0003": "withdrawn withdrawn",
        "c0004": "kept",
        "c0005": "withdrawn withdrawn",
        "half": "withdrawn withdrawn",
        "sheet": "withdrawn withdrawn",
        "same1": "kept",
        "same2": "removed near",
        "better2": "kept",
        "same3": "withdrawn withdrawn",
        "copy3": "kept",
        "copy4": "removed near",
        "better5": "kept",
        "whole": "kept",
        "sheet2": "kept",
        "again1": "removed exact",
        "again2": "removed near",
        "again3": "withdrawn withdrawn",
        "same5": "removed near",
        "half3": by_hash,
        "sheet3": "removed exact",
    }
    assert world.witnesses() == {
        "same2": "better2",
        "copy4": "c0004",
        "again1": "same1",
        "again2": "better2",
        "same5": "better5",
        "half3": "whole",
        "sheet3": "sheet2",
    }
    runs = world.ask("SELECT * FROM curation.runs ORDER BY turn")
    assert [run["turn"] for run in runs] == [1, 3, 4]
    assert [run["withdrawn"] for run in runs] == [0, 1, 1]
    assert [run["kept"] for run in runs] == [8, 6, 0]
    assert [run["kept_plain"] for run in runs] == [1, 1, 0]
    assert all(
        run["read"]
        == run["kept"]
        + run["removed_exact"]
        + run["removed_near"]
        + run["quarantined"]
        + run["withdrawn"]
        for run in runs
    )
    assert_what_holds(world)
    # described once: the second night's segment has the new images alone, the third has none
    rows = world.ask(
        "SELECT x.turn, s.rows FROM sscd_ops.segments s JOIN sscd_ops.decisions x"
        " USING (decision_id) ORDER BY 1"
    )
    assert rows == [{"turn": 1, "rows": 7}, {"turn": 3, "rows": 5}]
    changed = world.ask(
        "SELECT turn, verdict, count(*) AS n FROM sscd_ops.changes WHERE image_sha256 IS NOT NULL"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert [(row["turn"], row["verdict"], row["n"]) for row in changed] == [
        (2, "free", 5),
        (2, "withdrawn", 1),
        (3, "kept", 2),
        (3, "removed", 1),
        (4, "removed", 2),
    ]


def test_shards_are_written_again_without_what_was_withdrawn(world: World) -> None:
    nights(world)

    snapshots = world.ask("SELECT snapshot, samples, shards FROM curation.snapshots ORDER BY 1")
    assert [(row["samples"], row["shards"]) for row in snapshots] == [(8, 1), (8, 2)]
    shards = world.ask("SELECT * FROM curation.shards ORDER BY snapshot_from, shard")
    names = [row["shard"].split("/")[2].rpartition("-")[0] for row in shards]
    assert names == ["2026-11-01", "2026-11-02", "turn-000003"]
    assert [(row["snapshot_from"], row["snapshot_to"]) for row in shards] == [
        (1, 2),
        (2, None),
        (2, None),
    ]
    decisions = world.ask("SELECT kind, snapshot FROM curation.decisions ORDER BY turn")
    assert [(row["kind"], row["snapshot"]) for row in decisions] == [
        ("night", 1),
        ("order", 2),
        ("night", 2),
        ("night", None),
    ]


def test_a_shard_whose_samples_are_all_withdrawn_is_left_out(world: World) -> None:
    for day, numbers in zip(DAYS[:3], (range(3), range(10, 13), range(20, 23)), strict=True):
        world.put(day, "a.tar", clouds(numbers))
        if day != DAYS[2]:
            world.night(day)
    with world.parts() as parts:
        lead_by(parts, {f"c{n:04d}": "free" for n in range(3)})

    world.night(DAYS[2])

    (newest,) = world.ask("SELECT samples, shards FROM curation.snapshots WHERE snapshot = 3")
    assert newest == {"samples": 6, "shards": 2}
    assert_what_holds(world)


def test_an_order_between_decision_and_commit_keeps_its_samples_out(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(5)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
        for group in resolve.run(parts, batch).groups:
            publish.run(parts, batch, group)
        lead_by(parts, {"c0001": "free", "c0003": "withdrawn"})
        commit.run(parts, batch)
        assert commit.run(parts, batch).answered
        assert resolve.run(parts, batch).groups == [0]
        assert publish.run(parts, batch, 0).answered

    assert world.ask("SELECT samples, turn FROM curation.snapshots") == [{"samples": 3, "turn": 2}]
    assert len(world.ask("SELECT * FROM curation.shards")) == 1
    assert_what_holds(world)


def test_what_was_written_again_is_made_anew_where_it_is_lost(world: World) -> None:
    nights(world)
    files = world.published()
    lost = [name for name in files if "/turn-" in name]
    for name in lost:
        (world.base / "root" / name).write_bytes(b"damaged")
    index = world.base / "root" / DATASET / "index"
    for path in [*index.glob("segments/*"), *index.glob("masks/*")]:
        path.unlink()
    with world.parts() as parts:
        assert len(verify_snapshot(parts, DATASET)) == len(lost) == 3
        assert verify_index(parts, DATASET)
        rebuild_index(parts, DATASET)
        _, left = rebuild_snapshots(parts, DATASET)
        assert left == []

    assert world.published() == files
    assert_what_holds(world)


def test_what_is_decided_without_hashes_is_free_without_them(world: World) -> None:
    """Perceptual from the second night on: the free image's segment has no hashes."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.change(duplicates={**BOTH, "perceptual": False})
    world.night(DAYS[0])
    with world.parts() as parts:
        lead_by(parts, {"c0001": "free"})
    world.change(duplicates=BOTH)
    world.put(
        DAYS[1], "a.tar", [pair("same1", picture(1)), pair("copy1", plant(picture(1), "jpeg_40"))]
    )

    world.night(DAYS[1])

    assert world.verdicts()["same1"] == "kept"
    assert world.witnesses() == {"copy1": "same1"}
    assert_published_bytes(world, replaced=True)
    assert_catalog_and_files_agree(world)


class Killed(BaseException):
    """Stands for kill -9: nothing in the product catches it."""


WRITES = {
    "add_snapshot": snapshots,
    "replace_shards": output_shards,
    "mark_followed": published,
}


@pytest.mark.parametrize(
    ("point", "when"),
    sweep(
        [(name, when) for name in WRITES for when in ("before", "after")],
        [("add_snapshot", "before"), ("replace_shards", "after"), ("mark_followed", "after")],
    ),
)
def test_a_commit_that_dies_while_shards_are_replaced_is_tried_again(
    world: World,
    other_world: World,
    point: str,
    when: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    world.put(DAYS[1], "a.tar", clouds(range(10, 13)))
    for each in (world, other_world):
        each.night(DAYS[0])
        with each.parts() as parts:
            lead_by(parts, {"c0001": "free"})
    real = getattr(WRITES[point], point)

    def dies(*given: Any, **named: Any) -> None:
        if when == "after":
            real(*given, **named)
        raise Killed(point)

    monkeypatch.setattr(WRITES[point], point, dies)
    with pytest.raises(Killed):
        world.night(DAYS[1])
    monkeypatch.undo()
    world.night(DAYS[1])
    other_world.night(DAYS[1])

    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert_what_holds(world)


def test_an_order_while_a_commit_works_out_is_followed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice: the shard that was written again is not what is registered."""
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    world.put(DAYS[1], "a.tar", clouds(range(10, 13)))
    world.night(DAYS[0])
    with world.parts() as parts:
        lead_by(parts, {"c0001": "free"})
    orders = [{"c0002": "free"}, {"c0010": "free"}]
    real = next_snapshot.without_slots

    def without_slots(*given: Any) -> Any:
        answer = real(*given)
        if orders:
            with world.parts() as others:
                lead_by(others, orders.pop(0))
        return answer

    monkeypatch.setattr(next_snapshot, "without_slots", without_slots)
    world.night(DAYS[1])

    (newest,) = world.ask("SELECT * FROM curation.snapshots WHERE snapshot = 2")
    assert (newest["turn"], newest["samples"], newest["shards"]) == (5, 4, 2)
    assert {row["snapshot"] for row in world.ask(ORDERS)} == {2}
    assert_what_holds(world)


ORDERS = "SELECT snapshot FROM curation.decisions WHERE kind = 'order'"


def test_a_shard_is_replaced_again_and_again(world: World) -> None:
    """Also by a night that brings nothing; old snapshots stay as they were."""
    world.put(DAYS[0], "a.tar", clouds(range(5)))
    world.put(DAYS[1], "a.tar", clouds(range(10, 12)))
    world.put(DAYS[2], "a.tar", clouds(range(1)))
    world.night(DAYS[0])
    before = world.published()
    for day, key in ((DAYS[1], "c0001"), (DAYS[2], "c0003")):
        with world.parts() as parts:
            lead_by(parts, {key: "free"})
        world.night(day)

    counted = world.ask(
        "SELECT samples, shards, batch_id FROM curation.snapshots ORDER BY snapshot"
    )
    assert [tuple(row.values()) for row in counted] == [(5, 1, 1), (6, 2, 2), (5, 2, 3)]
    assert before.items() <= world.published().items()
    ranges = "SELECT snapshot_from, snapshot_to FROM curation.shards ORDER BY 1, 2"
    assert [tuple(row.values()) for row in world.ask(ranges)] == [
        (1, 2),
        (2, 3),
        (2, None),
        (3, None),
    ]
    assert_what_holds(world)


def test_an_image_is_freed_and_kept_again_and_again(world: World) -> None:
    """Each time another sample carries it, in a slot of its own; a dry run changes nothing."""
    world.put(DAYS[0], "a.tar", [pair("s0", picture(7)), *clouds(range(3))])
    world.night(DAYS[0])
    for number, day in enumerate(DAYS[1:], 1):
        with world.parts() as parts:
            lead_by(parts, {f"s{number - 1}": "free"})
        world.put(day, "a.tar", [pair(f"s{number}", picture(7)), pair(f"k{number}", COPY)])
        before = world.views(set())
        assert world.night(day, dry_run=True).counts.kept == 1
        assert world.views(set()) == before
        world.night(day)
        assert world.witnesses()[f"k{number}"] == f"s{number}"
        assert_no_kept_copies(world)
        assert_catalog_and_files_agree(world)
        assert_lost_slots(world)
        told = world.ask("SELECT turn, turn_to FROM sscd_ops.changes WHERE verdict = 'kept'")
        assert [row["turn_to"] for row in told] == [row["turn"] + 1 for row in told[:-1]] + [None]

    verdicts = world.verdicts()
    assert [verdicts[f"s{n}"] for n in range(4)] == ["withdrawn withdrawn"] * 3 + ["kept"]
    assert_published_bytes(world, replaced=True)
    (newest,) = world.ask("SELECT * FROM curation.snapshots ORDER BY snapshot DESC LIMIT 1")
    assert (newest["turn"], newest["samples"], newest["shards"]) == (7, 4, 2)


COPY = plant(picture(7), "jpeg_40")


def test_what_two_nights_embedded_and_one_kept_is_free_for_the_other(world: World) -> None:
    """Its own descriptor lies in the batch's segment too; the stored one counts."""
    world.put(DAYS[0], "a.tar", [pair("first", picture(7)), *clouds(range(3))])
    world.put(DAYS[1], "a.tar", [pair("second", picture(7)), pair("copy", COPY)])
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[1])
        world.from_resolve(parts, world.until_match(parts, DAYS[0]))
        lead_by(parts, {"first": "free"})
        world.from_resolve(parts, batch)

    assert world.witnesses() == {"copy": "second"}
    (row,) = world.ask("SELECT verdict, turn FROM sscd_ops.changes WHERE turn > 2")
    assert tuple(row.values()) == ("kept", 3)
    masks = world.ask(
        "SELECT x.turn, s.rows, m.kept FROM sscd_ops.segments s JOIN sscd_ops.segment_masks m"
        " USING (segment_id) JOIN sscd_ops.decisions x USING (decision_id)"
        " WHERE m.generation_to IS NULL ORDER BY x.turn"
    )
    assert [tuple(row.values()) for row in masks] == [(1, 4, 4), (3, 2, 0)]
    assert_what_holds(world)


ALONE = (
    "SELECT k.key FROM curation.kept k WHERE NOT EXISTS (SELECT FROM curation.removed r"
    " WHERE r.witness_sample_id = k.sample_id) AND NOT EXISTS (SELECT FROM curation.samples s"
    " WHERE s.image_sha256 = k.image_sha256 AND s.sample_id <> k.sample_id"
    " AND s.verdict <> 'withdrawn') ORDER BY 1"
)
"""Kept samples that nothing was removed for."""
SHORT = (0, 1)
"""Seeds of stories of three nights; others have five."""


@pytest.mark.parametrize("seed", seeds(SHORT, more=6))
def test_nights_and_orders_in_any_order_keep_what_holds(world: World, seed: int) -> None:
    """Orders come before a night's decision, between it and its commit, and after."""
    chance = random.Random(seed)
    moments: set[str] = set()
    if seed % 2:
        world.change(duplicates=BOTH)

    def image() -> bytes:
        original = picture(chance.randrange(8))
        kind = chance.choice(("same", "same", "sheet", "jpeg_40", "half_size"))
        return {"same": original, "sheet": SHEET}.get(kind) or plant(original, kind)

    def order(moment: str, likely: float) -> None:
        keys = [row["key"] for row in world.ask(ALONE)]
        chosen = chance.sample(keys, min(len(keys), 2)) if chance.random() < likely else []
        if chosen:
            moments.add(moment)
            with world.parts() as parts:
                lead_by(parts, {key: chance.choice(("free", "withdrawn")) for key in chosen})

    for number in range(3 if seed in SHORT else 5):
        day = f"2026-11-{number + 1:02d}"
        samples = [pair(f"n{number}-{i}", image()) for i in range(chance.randrange(3, 10))]
        world.put(day, "a.tar", samples)
        with world.parts() as parts:
            batch = world.until_match(parts, day)
            order("before the decision", 0.5)
            for group in resolve.run(parts, batch).groups:
                publish.run(parts, batch, group)
            order("before the commit", 0.5)
            commit.run(parts, batch)
        if not world.ask("SELECT 1 FROM curation.decisions WHERE published_at IS NULL"):
            assert_what_holds(world)
        order("after", 0.8)

    world.put("2026-11-06", "a.tar", clouds(range(20, 22)))
    world.night("2026-11-06")
    assert_what_holds(world)
    assert seed not in SHORT or len(moments) == 3, f"another seed: orders {moments} alone"
