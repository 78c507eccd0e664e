"""``snapshot diff``: by placements and slots, against the files and against sets."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from sscd_ops.catalog import snapshot_changes
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.partitions import detach_month
from sscd_ops.errors import UsageError
from sscd_ops.steps.snapshot_diff import Difference, SampleDifference, diff, diff_samples
from tests.integration.ledger import Ledger, sha
from tests.integration.orders import lead_by
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, pair
from tests.soak import examples

OCTOBER = date(2026, 10, 1)
SLOTS = 12


def parts_of(ledger: Ledger) -> Any:
    """All that is asked of parts here."""
    return SimpleNamespace(catalog=ledger.catalog)


def said(found: list[Difference]) -> list[tuple[str, int | None, int]]:
    """Change, turn and number of samples."""
    return [(each.change, each.decision and each.decision.turn, each.samples) for each in found]


# ---------------------------------------------------------------- of real nights


def test_what_differs_is_what_the_tars_hold(world: World) -> None:
    """Three nights; samples of the first and second are withdrawn by two orders between."""
    for number, day in enumerate(DAYS[:3]):
        world.put(day, "a.tar", clouds(range(10 * number, 10 * number + 6)))
    with world.parts() as parts:
        world.night(DAYS[0])
        lead_by(parts, {"c0001": "withdrawn", "c0002": "free"})
        world.night(DAYS[1])
        lead_by(parts, {"c0003": "free", "c0011": "withdrawn"})
        world.night(DAYS[2])

        held = [in_tars(world, number) for number in (1, 2, 3)]
        for first, second in permutations((1, 2, 3), 2):
            found = diff_samples(parts, DATASET, first, second)
            before, after = held[first - 1], held[second - 1]
            assert {each.sample_id: (each.from_shard, each.to_shard) for each in found} == {
                key: (before.get(key), after.get(key))
                for key in before.keys() | after.keys()
                if before.get(key) != after.get(key)
            }
            assert_changes_are_named(found)
            counted = Counter((each.change, each.decision and each.decision.turn) for each in found)
            assert said(diff(parts, DATASET, first, second)) == [
                (*key, count) for key, count in counted.items()
            ]
        assert said(diff(parts, DATASET, 1, 3)) == [
            ("added", 3, 5),
            ("added", 5, 6),
            ("removed", 2, 2),
            ("removed", 4, 1),
            ("moved", 1, 3),
        ]
        assert said(diff(parts, DATASET, 3, 1)) == [
            ("added", 2, 2),
            ("added", 4, 1),
            ("removed", 3, 5),
            ("removed", 5, 6),
            ("moved", 1, 3),
        ]
        removed = diff(parts, DATASET, 1, 2)[1].decision
        assert removed is not None
        assert (removed.kind, removed.night, removed.snapshot) == ("order", None, 2)
        assert diff(parts, DATASET, 2, 2) == []
        with pytest.raises(UsageError, match="no snapshot 4 of 'web': `sscd-ops snapshot list`"):
            diff(parts, DATASET, 1, 4)


def in_tars(world: World, number: int) -> dict[UUID, str]:
    """The samples that a snapshot's tars hold, each with its tar."""
    held = {}
    shards = world.ask(
        "SELECT shard FROM curation.shards WHERE snapshot_from <= :s"
        " AND (snapshot_to IS NULL OR snapshot_to > :s)",
        s=number,
    )
    for row in shards:
        with tarfile.open(Path(world.storage.root) / row["shard"]) as tar:
            held |= {UUID(name.partition(".")[0]): row["shard"] for name in tar.getnames()}
    return held


def assert_changes_are_named(found: list[SampleDifference]) -> None:
    for each in found:
        there = (each.from_shard is not None, each.to_shard is not None)
        assert there == {"added": (False, True), "removed": (True, False)}.get(
            each.change, (True, True)
        )


def test_a_free_image_that_a_night_keeps_is_added_by_it(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    first = clouds(range(4))[1]
    world.put(DAYS[1], "a.tar", [pair("same", first[1]["jpg"]), *clouds(range(10, 12))])
    with world.parts() as parts:
        world.night(DAYS[0])
        lead_by(parts, {"c0001": "free"})
        world.night(DAYS[1])

        assert said(diff(parts, DATASET, 1, 2)) == [
            ("added", 3, 3),
            ("removed", 2, 1),
            ("moved", 1, 3),
        ]


# ---------------------------------------------------------------- slots that change


def sample_id(number: int) -> UUID:
    return UUID(int=number)


class Story:
    """A night of two samples in slots 0 and 1, in snapshot 1; what follows is made by hand."""

    def __init__(self, catalog: Catalog) -> None:
        self.ledger = Ledger(catalog, OCTOBER)
        batch = self.ledger.batch(OCTOBER)
        self.night, shard = self.ledger.night(batch, OCTOBER, 1), self.ledger.shard(batch, "a.tar")
        for slot in range(2):
            at = {"sample_id": sample_id(slot), "key": f"k{slot}", "image_sha256": sha(slot)}
            self.ledger.sample(self.night, shard, slot, slot=slot, **at)
            self.ledger.image(self.night, sha(slot), sample_id(slot), shard, slot, slot=slot)
        self.shard = shard
        self.ledger.next_turn(2)
        self.newest = self.ledger.placed(self.night, "web/1.tar", range(2), 1)
        self.snapshot(1, 1, self.night)

    def snapshot(self, number: int, turn: int, decision: int) -> None:
        self.ledger.insert(
            "snapshots", "snapshot", dataset_id=self.ledger.web, snapshot=number, turn=turn,
            parent=number - 1, decision_id=decision, samples=1, shards=1, bytes=9,
            file='{"name": "n", "sha256": "ab", "bytes": 9}',
        )  # fmt: skip
        self.ledger.newest_snapshot(number)

    def withdraw(self, slot: int) -> int:
        return self.ledger.order({"image_sha256": sha(slot), "verdict": "withdrawn"})

    def keep(self, slot: int) -> tuple[int, int]:
        """An order keeps the picture again, in slot 0 of its own; decision and turn."""
        decision = self.ledger.draft([])
        turn = self.ledger.one("SELECT next_turn FROM sscd_ops.datasets WHERE name = 'web'")
        self.ledger.insert(
            "changes", "turn", dataset_id=self.ledger.web, decision_id=decision,
            turn=turn["next_turn"], image_sha256=sha(slot), verdict="kept",
            carrier_id=sample_id(slot), carrier_decision=self.night, carrier_shard=self.shard,
            carrier_position=slot, slot=0, slot_decision=decision,
        )  # fmt: skip
        return decision, self.ledger.apply(decision)

    def end(self, output: int, snapshot: int) -> None:
        self.ledger.run(
            "UPDATE sscd_ops.placements SET snapshot_to = :s WHERE output_id = :o",
            s=snapshot,
            o=output,
        )

    def rewritten(self, snapshot: int, slots: range, turn: int) -> int:
        """Another shard takes over these slots of the night."""
        self.end(self.newest, snapshot)
        self.newest = self.ledger.placed(
            self.night, f"web/1-{snapshot}.tar", slots, snapshot, plan=f"{snapshot}", turn=turn
        )
        return self.newest


def test_a_sample_that_was_withdrawn_and_is_kept_again_in_another_slot_has_moved(
    catalog: Catalog,
) -> None:
    story = Story(catalog)
    story.withdraw(0)
    order, turn = story.keep(0)
    story.rewritten(2, range(1, 2), turn)
    story.ledger.placed(order, "web/order.tar", range(1), 2, turn=turn)
    story.snapshot(2, turn, order)
    parts = parts_of(story.ledger)

    assert said(diff(parts, DATASET, 1, 2)) == [("moved", 1, 1), ("moved", 3, 1)]
    assert said(diff(parts, DATASET, 2, 1)) == [("moved", 1, 1), ("moved", 3, 1)]
    assert [
        (each.sample_id.int, each.from_shard, each.to_shard)
        for each in diff_samples(parts, DATASET, 2, 1)
    ] == [(1, "web/1-2.tar", "web/1.tar"), (0, "web/order.tar", "web/1.tar")]


def test_what_was_kept_again_and_withdrawn_once_more_is_removed_by_the_last_decision(
    catalog: Catalog,
) -> None:
    story = Story(catalog)
    first = story.withdraw(0)
    story.rewritten(2, range(1, 2), first)
    story.snapshot(2, first, story.night)
    order, turn = story.keep(0)
    output = story.ledger.placed(order, "web/order.tar", range(1), 3, turn=turn)
    story.snapshot(3, turn, order)
    last = story.withdraw(0)
    story.end(output, 4)
    story.snapshot(4, last, story.night)
    parts = parts_of(story.ledger)

    assert said(diff(parts, DATASET, 1, 2)) == [("removed", first, 1), ("moved", 1, 1)]
    assert said(diff(parts, DATASET, 2, 3)) == [("added", turn, 1)]
    assert said(diff(parts, DATASET, 3, 4)) == [("removed", last, 1)]
    assert said(diff(parts, DATASET, 1, 4)) == [("removed", last, 1), ("moved", 1, 1)]
    assert said(diff(parts, DATASET, 2, 4)) == []


def test_months_that_were_detached_and_what_no_decision_removed_are_told_too(
    catalog: Catalog,
) -> None:
    story = Story(catalog)
    turn = story.withdraw(0)
    story.rewritten(2, range(0), turn)
    story.snapshot(2, turn, story.night)
    before = said(diff(parts_of(story.ledger), DATASET, 1, 2))

    assert detach_month(story.ledger.catalog, OCTOBER) != []

    assert before == [("removed", None, 1), ("removed", 2, 1)]
    assert said(diff(parts_of(story.ledger), DATASET, 1, 2)) == before


# ---------------------------------------------------------------- against sets


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, int, int, int | None]]:
    """Decision, slots and range of snapshots 1 .. 4 of placements that share no slot at a time."""
    found = []
    for decision in range(2):
        for start in range(0, SLOTS, 4):
            begin = draw(st.integers(1, 5))
            while begin < 5:
                end = draw(st.one_of(st.none(), st.integers(begin + 1, 5)))
                cut = draw(st.integers(start + 1, start + 3))
                for a, b in ((start, cut), (cut, start + 4)):
                    if draw(st.integers(0, 3)):
                        found.append((decision, a, b, begin, end))
                begin = 5 if end is None else end
    return found


@pytest.fixture
def placed(catalog: Catalog) -> tuple[Ledger, list[int]]:
    """Two nights of samples, and four snapshots."""
    ledger = Ledger(catalog, OCTOBER)
    nights = []
    for turn in (1, 2):
        batch = ledger.batch(OCTOBER, supplement=turn)
        night, shard = ledger.night(batch, OCTOBER, turn), ledger.shard(batch, "a.tar")
        for slot in range(SLOTS):
            ledger.sample(night, shard, slot, sample_id=sample_id(turn * 100 + slot), slot=slot)
        nights.append(night)
    for number in range(1, 5):
        ledger.insert(
            "snapshots", "snapshot", dataset_id=ledger.web, snapshot=number, turn=2,
            parent=number - 1, decision_id=nights[0], samples=1, shards=1, bytes=9,
            file='{"name": "n", "sha256": "ab", "bytes": 9}',
        )  # fmt: skip
    return ledger, nights


@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_placements_between_two_snapshots_say_what_two_whole_lists_say(
    placed: tuple[Ledger, list[int]], history: list[tuple[int, int, int, int, int | None]]
) -> None:
    ledger, nights = placed
    ledger.run("DELETE FROM sscd_ops.placements")
    ledger.run("DELETE FROM sscd_ops.output_shards")
    held: list[dict[UUID, str]] = [{} for _ in range(5)]
    for number, (decision, a, b, begin, end) in enumerate(history):
        name = f"web/{number}.tar"
        output = ledger.placed(nights[decision], name, range(a, b), begin, number=number)
        ledger.run(
            "UPDATE sscd_ops.placements SET snapshot_to = :e WHERE output_id = :o", e=end, o=output
        )
        for snapshot in range(begin, 5 if end is None else end):
            held[snapshot] |= {sample_id((decision + 1) * 100 + slot): name for slot in range(a, b)}
    for first, second in permutations(range(1, 5), 2):
        found = diff_samples(parts_of(ledger), DATASET, first, second)
        assert {each.sample_id: (each.from_shard, each.to_shard) for each in found} == {
            key: (held[first].get(key), held[second].get(key))
            for key in held[first].keys() | held[second].keys()
            if held[first].get(key) != held[second].get(key)
        }
        assert_changes_are_named(found)
        assert sum(each.samples for each in diff(parts_of(ledger), DATASET, first, second)) == len(
            found
        )


# ---------------------------------------------------------------- what it reads


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[tuple[str, Any]]]:
    noted: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        noted.append((sql, parameters))

    event.listen(ledger.catalog.engine, "before_cursor_execute", note)
    yield noted
    event.remove(ledger.catalog.engine, "before_cursor_execute", note)


def test_neighbours_are_compared_by_the_placements_that_begin_or_end_between_them(
    catalog: Catalog,
) -> None:
    """Of 600 snapshots: each adds 20 shards, and takes the place of one of the snapshot before."""
    ledger = Ledger(catalog, OCTOBER)
    night = ledger.night(ledger.batch(OCTOBER), OCTOBER, 1)
    ledger.run(
        "INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name, turn)"
        " SELECT :x, i, 'p', 'f', 1, i::text, 1 FROM generate_series(0, 11999) i",
        x=night,
    )
    ledger.run(
        "INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to, position,"
        " snapshot_from, snapshot_to) SELECT output_id, decision_id, number, number + 1, 0,"
        " number / 20 + 1, CASE WHEN number % 20 = 0 THEN number / 20 + 2 END"
        " FROM sscd_ops.output_shards"
    )
    ledger.run("ANALYZE")

    with ledger.catalog.begin() as conn:
        with statements(ledger) as noted:
            before, after = snapshot_changes.differing(conn, ledger.web, 300, 301)
        plans = [
            conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", given).scalar_one()
            for sql, given in list(noted)
        ]

    assert (len(before), len(after)) == (1, 20)
    read = [node for (plan,) in plans for node in nodes(plan["Plan"])]
    read = [node for node in read if node.get("Relation Name") == "placements"]
    assert read
    for node in read:
        assert node["Node Type"] != "Seq Scan"
        passed_over = node.get("Rows Removed by Filter", 0)
        assert (node["Actual Rows"] + passed_over) * node["Actual Loops"] <= 20


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)
