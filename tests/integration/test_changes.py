"""Later verdicts: what the views and look-ups say once rows of ``changes`` are in force."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import Connection

from sscd_ops.catalog import audit, lookups, orders, placements, sql
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.orders import Subject
from sscd_ops.catalog.partitions import detach_month
from sscd_ops.catalog.subjects import named_samples
from tests.integration.ledger import Ledger, sha
from tests.soak import examples

OCTOBER, NOVEMBER = date(2026, 10, 1), date(2026, 11, 1)
A, B, C, E = (sha(n) for n in range(4))
FIRST, SECOND, THIRD = (f"web/shards/{n}/00000.tar" for n in range(3))


def sample_id(number: int) -> UUID:
    return UUID(int=number)


@dataclass
class Nights:
    """Two nights in force. Samples 1 to 5 are of October, 6 and 7 of November.

    Image A: 1 carries it, 2 and 6 follow, 5 has it and a fault of its own. B: 3. C: 4, removed for
    A. E: 7.
    """

    ledger: Ledger
    october: int
    october_shard: int
    november: int
    november_shard: int

    def place_of(self, number: int) -> dict[str, Any]:
        """What a change says of the sample that carries its image."""
        first = number <= 5
        return {
            "carrier_id": sample_id(number),
            "carrier_decision": self.october if first else self.november,
            "carrier_shard": self.october_shard if first else self.november_shard,
            "carrier_position": number - 1 if first else number - 6,
        }

    def kept(self, image: bytes, carrier: int, slot: int, of: int) -> dict[str, Any]:
        """A change: the image is kept, with this carrier and slot of a decision."""
        return {
            "image_sha256": image,
            "verdict": "kept",
            **self.place_of(carrier),
            "slot": slot,
            "slot_decision": of,
        }

    def keep(self, image: bytes, carrier: int, *others: Mapping[str, Any]) -> int:
        """An order in force that keeps an image, in slot 0 of a shard of its own; its turn."""
        order = self.ledger.draft(others)
        self.ledger.newest_snapshot(3)
        self.ledger.insert(
            "changes",
            "turn",
            dataset_id=self.ledger.web,
            decision_id=order,
            turn=self.ledger.one(
                "SELECT next_turn FROM sscd_ops.datasets WHERE dataset_id = :d", d=self.ledger.web
            )["next_turn"],
            **self.kept(image, carrier, 0, order),
        )
        self.ledger.placed(order, THIRD, range(1), 3)
        return self.ledger.apply(order)

    def shown(self) -> dict[int, tuple[str, str | None, int | None, int]]:
        """Sample -> verdict, reason, its witness and the turn, as ``curation.samples`` says."""
        return {
            row["sample_id"].int: (
                row["verdict"],
                row["reason"],
                row["witness_sample_id"] and row["witness_sample_id"].int,
                row["turn"],
            )
            for row in self.ledger.all("SELECT * FROM curation.samples WHERE dataset = 'web'")
        }

    def ids(self, view: str) -> list[int]:
        return sorted(
            row["sample_id"].int
            for row in self.ledger.all(f"SELECT * FROM curation.{view} WHERE dataset = 'web'")
        )

    def said(self, number: int) -> list[tuple[int, str, str | None, int | None]]:
        """(turn, verdict, reason, witness) of all that was decided of a sample, by turn."""
        return [
            (r["turn"], r["verdict"], r["reason"], w and w.int)
            for r in self.ledger.all(
                "SELECT * FROM curation.verdicts WHERE sample_id = :s AND dataset = 'web'"
                " ORDER BY turn",
                s=sample_id(number),
            )
            for w in [r["witness_sample_id"]]
        ]


BEFORE: dict[int, tuple[str, str | None, int | None, int]] = {
    1: ("kept", None, None, 1),
    2: ("removed", "exact", 1, 1),
    3: ("kept", None, None, 1),
    4: ("removed", "near", 1, 1),
    5: ("quarantined", "empty_caption", None, 1),
    6: ("removed", "exact", 1, 2),
    7: ("kept", None, None, 2),
}
WITHDRAWN = {"verdict": "withdrawn", "reason": "withdrawn"}


def follower(ledger: Ledger, decision: int, shard: int, position: int, number: int) -> None:
    """A sample of image A that another one carries."""
    ledger.sample(
        decision, shard, position, sample_id=sample_id(number), key=f"k{number}", image_sha256=A,
        verdict="removed", reason="exact", witness_sha256=A, similarity=1.0,
    )  # fmt: skip


@pytest.fixture
def nights(catalog: Catalog) -> Nights:
    ledger = Ledger(catalog, OCTOBER, NOVEMBER)
    batch = ledger.batch(date(2026, 10, 30))
    october, shard = ledger.night(batch, OCTOBER, 1), ledger.shard(batch, "a.tar")
    for number, image, slot in ((1, A, 0), (3, B, 1)):
        at = {"sample_id": sample_id(number), "key": f"k{number}", "caption": f"c{number}"}
        ledger.sample(october, shard, number - 1, image_sha256=image, slot=slot, **at)
        ledger.image(october, image, sample_id(number), shard, number - 1, slot=slot)
    follower(ledger, october, shard, 1, 2)
    near = {
        "verdict": "removed", "reason": "near", "witness_sha256": A, "similarity": 0.95,
        "threshold": 0.9,
    }  # fmt: skip
    ledger.sample(october, shard, 3, sample_id=sample_id(4), key="k4", image_sha256=C, **near)
    ledger.image(october, C, sample_id(4), shard, 3, **near)
    ledger.sample(
        october, shard, 4, sample_id=sample_id(5), key="k5", image_sha256=A,
        verdict="quarantined", reason="empty_caption", message="no words", own_fault=True,
    )  # fmt: skip
    ledger.placed(october, FIRST, range(2), 1)
    batch = ledger.batch(date(2026, 11, 1))
    november, other = ledger.night(batch, NOVEMBER, 2), ledger.shard(batch, "b.tar")
    follower(ledger, november, other, 0, 6)
    ledger.sample(november, other, 1, sample_id=sample_id(7), key="k7", image_sha256=E, slot=0)
    ledger.image(november, E, sample_id(7), other, 1, slot=0)
    ledger.placed(november, SECOND, range(1), 2)
    for snapshot, decision in ((1, october), (2, november)):
        ledger.insert(
            "snapshots", "snapshot", dataset_id=ledger.web, snapshot=snapshot, parent=snapshot - 1,
            decision_id=decision, turn=snapshot, samples=1 + snapshot, shards=snapshot, bytes=9,
            file='{"name": "n", "sha256": "ab", "bytes": 9}',
        )  # fmt: skip
    ledger.next_turn(3)
    ledger.newest_snapshot(2)
    world = Nights(ledger, october, shard, november, other)
    assert world.shown() == BEFORE
    return world


def test_a_withdrawn_image_takes_along_all_that_follow_it_but_not_a_sample_with_its_own_fault(
    nights: Nights,
) -> None:
    assert nights.ledger.order({"image_sha256": A, **WITHDRAWN}) == 3

    gone = ("withdrawn", "withdrawn", None, 3)
    assert nights.shown() == BEFORE | {1: gone, 2: gone, 6: gone}
    assert (nights.ids("kept"), nights.ids("removed"), nights.ids("quarantined")) == (
        [3, 7],
        [4],
        [5],
    )
    row = nights.ledger.one("SELECT * FROM curation.quarantined")
    assert (row["message"], row["turn"]) == ("no words", 1)
    assert nights.said(1) == [(1, "kept", None, None), (3, "withdrawn", "withdrawn", None)]
    assert nights.said(6) == [(2, "removed", "exact", 1), (3, "withdrawn", "withdrawn", None)]
    assert nights.said(5) == [(1, "quarantined", "empty_caption", None)]
    assert nights.said(7) == [(2, "kept", None, None)]


def test_an_order_is_a_decision_and_an_event_and_leaves_runs_shards_and_snapshots_alone(
    nights: Nights,
) -> None:
    views = ("runs", "shards", "snapshots")
    before = {view: nights.ledger.all(f"SELECT * FROM curation.{view}") for view in views}
    order = nights.ledger.draft([{"image_sha256": A, **WITHDRAWN}])
    nights.ledger.apply(order, why="asked to")

    assert {view: nights.ledger.all(f"SELECT * FROM curation.{view}") for view in views} == before
    decided = nights.ledger.all("SELECT * FROM curation.decisions ORDER BY turn")
    assert [(r["turn"], r["kind"], r["changes"], r["batch_id"] is None) for r in decided] == [
        (1, "night", 0, False),
        (2, "night", 0, False),
        (3, "order", 1, True),
    ]
    assert {k: decided[2][k] for k in ("decision_id", "actor", "why", "published_at")} == {
        "decision_id": order,
        "actor": "ann",
        "why": "asked to",
        "published_at": None,
    }
    event = nights.ledger.one("SELECT * FROM curation.events")
    assert (event["turn"], event["batch_id"], event["why"]) == (3, None, "asked to")


def test_a_snapshot_and_a_shard_of_an_order_have_no_batch(nights: Nights) -> None:
    turn = nights.keep(A, 6)
    (order,) = (r["decision_id"] for r in nights.ledger.all(
        "SELECT decision_id FROM curation.decisions WHERE turn = :t", t=turn))  # fmt: skip
    nights.ledger.insert(
        "snapshots", "snapshot", dataset_id=nights.ledger.web, snapshot=3, parent=2,
        decision_id=order, turn=turn, samples=3, shards=3, bytes=9,
        file='{"name": "n", "sha256": "cd", "bytes": 9}',
    )  # fmt: skip

    made = nights.ledger.one("SELECT * FROM curation.snapshots WHERE snapshot = 3")
    shard = nights.ledger.one("SELECT * FROM curation.shards WHERE shard = :s", s=THIRD)

    assert (made["batch_id"], made["decision_id"], made["turn"]) == (None, order, turn)
    assert (shard["batch_id"], shard["decision_id"], shard["snapshot_from"]) == (None, order, 3)


def test_the_samples_of_a_freed_image_say_what_was_decided_of_them(nights: Nights) -> None:
    ledger = nights.ledger
    ledger.order(
        *({"sample_id": sample_id(n), **WITHDRAWN} for n in (1, 2, 6)),
        {"image_sha256": A, "verdict": "free"},
    )

    gone = ("withdrawn", "withdrawn", None, 3)
    assert nights.shown() == BEFORE | {1: gone, 2: gone, 6: gone}
    assert known(ledger, ledger.web, [A], 3)[A]["verdict"] == "free"

    # a night reads it again, and keeps it: what was withdrawn stays so
    batch = ledger.batch(date(2026, 11, 4))
    night, shard = ledger.night(batch, NOVEMBER, None), ledger.shard(batch, "d.tar")
    ledger.sample(night, shard, 0, sample_id=sample_id(8), image_sha256=A, slot=0)
    follower(ledger, night, shard, 1, 9)
    ledger.insert(
        "changes", "turn", dataset_id=ledger.web, decision_id=night, turn=4, image_sha256=A,
        verdict="kept", carrier_id=sample_id(8), carrier_decision=night, carrier_shard=shard,
        carrier_position=0, slot=0, slot_decision=night,
    )  # fmt: skip
    assert ledger.apply(night) == 4

    shown = nights.shown()
    assert (shown[8], shown[9]) == (("kept", None, None, 4), ("removed", "exact", 8, 4))
    assert {n: shown[n] for n in (1, 2, 6)} == {1: gone, 2: gone, 6: gone}
    assert shown[4] == ("removed", "near", 8, 1)
    assert nights.said(8) == [(4, "kept", None, None)]
    assert nights.said(9) == [(4, "removed", "exact", 8)]


def test_an_image_kept_again_makes_its_other_samples_exact_copies_of_the_new_carrier(
    nights: Nights,
) -> None:
    nights.ledger.order({"image_sha256": A, **WITHDRAWN})
    assert nights.keep(A, 6) == 4

    assert nights.shown() == BEFORE | {
        1: ("removed", "exact", 6, 4),
        2: ("removed", "exact", 6, 4),
        4: ("removed", "near", 6, 1),
        6: ("kept", None, None, 4),
    }
    (kept,) = nights.ledger.all("SELECT * FROM curation.kept WHERE sample_id = :s", s=sample_id(6))
    assert kept["shard"] == THIRD
    for number, similarity in ((1, 1.0), (2, 1.0), (4, 0.95)):
        row = nights.ledger.one(
            "SELECT * FROM curation.removed WHERE sample_id = :s", s=sample_id(number)
        )
        assert (row["witness_key"], row["witness_shard"], row["similarity"]) == (
            "k6",
            THIRD,
            similarity,
        )
        assert row["witness_source_shard"] == "b.tar"
    assert nights.said(1) == [
        (1, "kept", None, None),
        (3, "withdrawn", "withdrawn", None),
        (4, "removed", "exact", 6),
    ]
    assert nights.said(6)[-1] == (4, "kept", None, None)
    # the witness of a removal is who carried the image then
    assert nights.said(4) == [(1, "removed", "near", 1)]


def test_a_kept_image_that_is_removed_names_its_witness(nights: Nights) -> None:
    near = {"verdict": "removed", "reason": "near", "similarity": 0.93, "threshold": 0.9}
    nights.ledger.order(
        {"image_sha256": B, "witness_sha256": E, **near},
        {"image_sha256": C, "witness_sha256": B, **near},
    )

    assert nights.shown() == BEFORE | {
        3: ("removed", "near", 7, 3),
        4: ("removed", "near", 3, 3),
    }
    row = nights.ledger.one("SELECT * FROM curation.removed WHERE sample_id = :s", s=sample_id(3))
    assert (row["similarity"], row["threshold"], row["witness_key"], row["witness_shard"]) == (
        0.93,
        0.9,
        "k7",
        SECOND,
    )
    assert nights.ids("kept") == [1, 7]
    assert nights.said(4) == [(1, "removed", "near", 1), (3, "removed", "near", 3)]


def test_a_sample_withdrawn_alone_leaves_its_image_to_the_next(nights: Nights) -> None:
    nights.keep(A, 2, {"sample_id": sample_id(1), **WITHDRAWN})

    shown = BEFORE | {
        1: ("withdrawn", "withdrawn", None, 3),
        2: ("kept", None, None, 3),
        4: ("removed", "near", 2, 1),
        6: ("removed", "exact", 2, 3),
    }
    assert nights.shown() == shown
    assert nights.said(1) == [(1, "kept", None, None), (3, "withdrawn", "withdrawn", None)]
    assert nights.said(2) == [(1, "removed", "exact", 1), (3, "kept", None, None)]
    assert unlisted(nights) == {("web/shards/0/00000.tar", 0)}

    # what becomes of the image later is no longer its matter
    near = {"verdict": "removed", "reason": "near", "similarity": 0.91, "threshold": 0.9}
    nights.ledger.order(*({"image_sha256": image, "witness_sha256": E, **near} for image in (A, C)))

    gone = ("removed", "near", 7, 4)
    assert nights.shown() == shown | {2: gone, 4: gone, 6: gone}
    assert nights.said(1)[-1] == (3, "withdrawn", "withdrawn", None)
    assert unlisted(nights) == {("web/shards/0/00000.tar", 0), (THIRD, 0)}


def unlisted(nights: Nights) -> set[tuple[str, int]]:
    with nights.ledger.catalog.read() as conn:
        found = placements.lost_slots_in(conn, nights.ledger.web, 3, [], turn=99)
    names = {
        row["output_id"]: row["name"]
        for row in nights.ledger.all("SELECT output_id, name FROM sscd_ops.output_shards")
    }
    return {(names[output_id], slot) for output_id, lost in found.items() for _, slot in lost}


@pytest.mark.parametrize(
    "subject", [{"image_sha256": E}, {"sample_id": sample_id(7)}], ids=["image", "sample"]
)
def test_what_is_changed_twice_says_the_second_and_knows_until_when_the_first_held(
    nights: Nights, subject: dict[str, Any]
) -> None:
    nights.ledger.order({**subject, **WITHDRAWN})
    nights.ledger.order({"image_sha256": B, **WITHDRAWN})
    nights.ledger.order({**subject, "verdict": "quarantined", "reason": "near_withdrawn"})

    assert nights.shown()[7] == ("quarantined", "near_withdrawn", None, 5)
    assert [said[:2] for said in nights.said(7)] == [
        (2, "kept"),
        (3, "withdrawn"),
        (5, "quarantined"),
    ]
    rows = nights.ledger.all("SELECT turn, turn_to FROM sscd_ops.changes ORDER BY turn")
    assert [(r["turn"], r["turn_to"]) for r in rows] == [(3, 5), (4, None), (5, None)]


@pytest.mark.parametrize(
    "subject", [{"image_sha256": E}, {"sample_id": sample_id(7)}], ids=["image", "sample"]
)
def test_a_change_ends_those_of_its_own_dataset_that_are_in_force(
    nights: Nights, subject: dict[str, Any]
) -> None:
    ledger = nights.ledger
    ledger.order({**subject, **WITHDRAWN}, dataset=ledger.other)
    ledger.order({**subject, **WITHDRAWN})
    ledger.draft([{**subject, **WITHDRAWN}], key="lies there")
    ledger.order({**subject, "verdict": "quarantined", "reason": "x"})

    rows = ledger.all("SELECT * FROM sscd_ops.changes ORDER BY decision_id")
    assert [(r["dataset_id"], r["turn"], r["turn_to"]) for r in rows] == [
        (ledger.other, 1, None),
        (ledger.web, 3, 4),
        (ledger.web, 4, None),  # never in force
        (ledger.web, 4, None),
    ]
    assert nights.shown()[7] == ("quarantined", "x", None, 4)


VIEWS = (
    "samples", "removed", "kept", "quarantined", "verdicts", "decisions", "snapshots", "shards",
    "events",
)  # fmt: skip


def all_views(ledger: Ledger) -> dict[str, list[str]]:
    return {view: sorted(map(str, ledger.all(f"SELECT * FROM curation.{view}"))) for view in VIEWS}


def test_changes_that_are_not_in_force_show_nowhere(nights: Nights) -> None:
    ledger = nights.ledger
    ledger.order({"image_sha256": C, **WITHDRAWN})
    before = all_views(ledger)

    changes = (
        {"image_sha256": A, **WITHDRAWN},
        {"image_sha256": C, "verdict": "free"},
        {"sample_id": sample_id(7), **WITHDRAWN},
    )
    order = ledger.draft([*changes, nights.kept(E, 7, 0, nights.november)], key="draft")

    assert all_views(ledger) == before
    assert known(ledger, ledger.web, [A], 99)[A]["verdict"] == "kept"
    assert unlisted(nights) == set()

    # nor when the turn that it was worked out for is another one's
    ledger.order({"image_sha256": B, **WITHDRAWN})

    assert nights.shown() == BEFORE | {
        3: ("withdrawn", "withdrawn", None, 4),
        4: ("withdrawn", "withdrawn", None, 3),
    }
    assert nights.said(7) == [(2, "kept", None, None)]
    assert [r["turn"] for r in ledger.all("SELECT turn FROM curation.decisions ORDER BY 1")] == [
        1, 2, 3, 4,
    ]  # fmt: skip
    assert order not in [r["decision_id"] for r in ledger.all("SELECT * FROM curation.decisions")]


def test_a_sample_read_after_a_change_of_its_image_has_the_turn_that_decided_it(
    nights: Nights,
) -> None:
    ledger = nights.ledger
    nights.keep(A, 6)
    batch = ledger.batch(date(2026, 11, 4))
    night, shard = ledger.night(batch, NOVEMBER, None), ledger.shard(batch, "d.tar")
    follower(ledger, night, shard, 0, 8)
    assert ledger.apply(night) == 4

    assert nights.shown()[8] == ("removed", "exact", 6, 4)
    assert nights.said(8) == [(4, "removed", "exact", 6)]


def test_the_same_sample_in_two_datasets_has_a_verdict_in_each(nights: Nights) -> None:
    ledger = nights.ledger
    batch = ledger.batch(date(2026, 11, 1), dataset=ledger.other)
    decision, shard = ledger.night(batch, NOVEMBER, 1), ledger.shard(batch, "a.tar")
    ledger.sample(decision, shard, 0, sample_id=sample_id(1), key="k1", image_sha256=A, slot=0)
    ledger.image(decision, A, sample_id(1), shard, 0, slot=0)
    follower(ledger, decision, shard, 1, 2)
    ledger.placed(decision, "other/0.tar", range(1), 1)
    ledger.next_turn(2, ledger.other)

    nights.keep(A, 2, {"sample_id": sample_id(1), **WITHDRAWN})
    ledger.order({"image_sha256": A, **WITHDRAWN}, {"image_sha256": C, **WITHDRAWN})

    gone = ("withdrawn", "withdrawn", None)
    assert nights.shown() == BEFORE | {
        1: (*gone, 3),
        2: (*gone, 4),
        4: (*gone, 4),
        6: (*gone, 4),
    }
    rows = ledger.all("SELECT * FROM curation.samples WHERE dataset = 'other' ORDER BY sample_id")
    assert [(r["verdict"], r["reason"], r["turn"]) for r in rows] == [
        ("kept", None, 1),
        ("removed", "exact", 1),
    ]
    row = ledger.one("SELECT * FROM curation.removed WHERE dataset = 'other'")
    assert (row["witness_key"], row["witness_dataset"], row["witness_shard"]) == (
        "k1",
        "other",
        "other/0.tar",
    )
    assert (
        ledger.one("SELECT * FROM curation.kept WHERE dataset = 'other'")["shard"] == "other/0.tar"
    )
    said = ledger.all("SELECT * FROM curation.verdicts WHERE dataset = 'other' ORDER BY sample_id")
    assert [(r["turn"], r["verdict"]) for r in said] == [(1, "kept"), (1, "removed")]
    with ledger.catalog.read() as conn:
        for number in (1, 2):
            told = audit.explain(conn, sample_id(number))
            assert told is not None
            # of one dataset as a whole
            assert (told["shard"] is None) == (told["verdict"] != "kept")
            assert (told["witness_dataset"] or told["dataset"]) == told["dataset"]


# ---------------------------------------------------------------- look-ups as of a turn


def known(
    ledger: Ledger, dataset: int, digests: list[bytes], turn: int
) -> dict[bytes, Mapping[str, Any]]:
    asked = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    with ledger.catalog.begin() as conn:
        found = lookups.known_images(conn, dataset, asked, turn)
    assert len(np.unique(found.row)) == len(found)
    columns = {name: getattr(found, name) for name in found.__dataclass_fields__}
    return {
        digests[row]: {name: plain(name, values[at]) for name, values in columns.items()}
        for at, row in enumerate(found.row)
    }


def plain(name: str, value: Any) -> Any:
    """A value of a column, None where that has a number, a NaN or zeros instead."""
    if isinstance(value, np.ndarray):
        raw = value.tobytes()
        return None if not any(raw) else UUID(bytes=raw) if name.endswith("_id") else raw
    value = value.item() if isinstance(value, np.generic) else value
    return None if value == -1 or value != value else value


IMAGES = [sha(n) for n in range(100, 106)]
SAID = ("verdict", "reason", "message", "witness_sha256", "similarity", "threshold")


@st.composite
def verdicts(draw: st.DrawFn) -> dict[str, Any]:
    """Some verdict on an image, whether a night's or a later one."""
    verdict = draw(st.sampled_from(["kept", "removed", "quarantined"]))
    if verdict == "removed":
        return {
            "verdict": verdict, "reason": draw(st.sampled_from(["near", "perceptual"])),
            "witness_sha256": draw(st.sampled_from(IMAGES)),
            "similarity": draw(st.sampled_from([0.8, 0.9])), "threshold": 0.75,
        }  # fmt: skip
    if verdict == "quarantined":
        return {"verdict": verdict, "reason": "undecodable", "message": draw(st.sampled_from("ab"))}
    return {"verdict": verdict}


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """Some later verdict on an image, with its carrier where it is kept."""
    plain = [{"verdict": "withdrawn", "reason": "withdrawn"}, {"verdict": "free"}]
    said = draw(st.one_of(verdicts(), st.sampled_from(plain)))
    if said["verdict"] == "kept":
        place = {"carrier_decision": 1, "carrier_shard": 1, "carrier_position": 0}
        return said | place | {"carrier_id": draw(st.uuids()), "slot": 0, "slot_decision": 1}
    return said


Step = tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]], bool]
STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 5), verdicts(), max_size=4),
        st.dictionaries(st.integers(0, 5), changed(), max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)
"""Each a decision: what it says of images as the first, what it changes, and whether it comes into
force. What it says first of an image already known, or changes of one that is not, is left out."""


class Told:
    """A dataset's decisions in plain Python: by turn, what each image's verdict is."""

    def __init__(self, ledger: Ledger, name: str, batch: int, shard: int) -> None:
        self.ledger, self.batch, self.shard = ledger, batch, shard
        self.dataset = ledger.insert("datasets", "dataset_id", name=name)
        self.at: list[dict[bytes, dict[str, Any]]] = [{}]

    def decide(self, first: dict[int, Any], later: dict[int, Any], *, comes: bool) -> None:
        before = self.at[-1]
        turn = len(self.at)
        new = {IMAGES[n]: said for n, said in first.items() if IMAGES[n] not in before}
        again = {IMAGES[n]: said for n, said in later.items() if IMAGES[n] in before}
        decision = self.ledger.draft(
            [{"image_sha256": digest, **said} for digest, said in again.items()],
            dataset=self.dataset,
        )
        now = dict(before)
        for digest, said in new.items():
            carrier = UUID(bytes=digest[:16])
            self.ledger.image(decision, digest, carrier, self.shard, 0, segment_row=turn, **said)
            now[digest] = {"sample_id": carrier, "decision_id": decision, "segment_row": turn}
            now[digest] |= dict.fromkeys(SAID) | said | {"turn": turn}
        for digest, said in again.items():
            base = {k: before[digest][k] for k in ("decision_id", "segment_row")}
            now[digest] = dict.fromkeys(SAID) | said | base | {"turn": turn}
        if comes:
            assert self.ledger.apply(decision) == turn
            self.at.append(now)

    def check(self) -> None:
        """Every turn answers what it answered when it was the newest."""
        for turn, expected in enumerate(self.at):
            found = known(self.ledger, self.dataset, IMAGES, turn)
            assert found.keys() == expected.keys()
            for digest, said in expected.items():
                row = {**found[digest], "carrier_id": found[digest]["sample_id"]}
                asked = {k: v for k, v in said.items() if k in row}
                assert {k: row[k] for k in asked} == asked


def tell(ledger: Ledger, name: str, steps: list[Step]) -> Told:
    batch = ledger.batch(OCTOBER, supplement=len(ledger.all("SELECT 1 FROM sscd_ops.batches")))
    told = Told(ledger, name, batch, ledger.shard(batch, "a.tar"))
    for first, later, comes in steps:
        told.decide(first, later, comes=comes)
        told.check()
    return told


@settings(max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(here=STEPS, there=STEPS)
def test_a_look_up_at_a_past_turn_answers_what_it_answered_then(
    catalog: Catalog, here: list[Step], there: list[Step]
) -> None:
    ledger = Ledger(catalog)
    count = len(ledger.all("SELECT 1 FROM sscd_ops.datasets"))

    one = tell(ledger, f"one{count}", here)
    two = tell(ledger, f"two{count}", there)

    one.check()
    two.check()


def test_look_ups_and_witnesses_outlive_the_month_of_the_samples(nights: Nights) -> None:
    ledger = nights.ledger
    near = {"verdict": "removed", "reason": "near", "similarity": 0.93, "threshold": 0.9}
    ledger.order({"image_sha256": B, "witness_sha256": A, **near})
    ledger.order({"image_sha256": E, "witness_sha256": A, **near})
    nights.keep(B, 3)

    def answers() -> list[Any]:
        turns = [known(ledger, ledger.web, [A, B, C, E], turn) for turn in range(6)]
        return [turns, unlisted(nights), {n: nights.shown()[n] for n in (6, 7)}]

    before = answers()
    assert [sorted(row["turn"] for row in turn.values()) for turn in before[0]] == [
        [], [1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 3], [1, 1, 3, 4], [1, 1, 4, 5],
    ]  # fmt: skip

    assert detach_month(ledger.catalog, OCTOBER) != []

    assert answers() == before
    assert nights.ids("samples") == [6, 7]
    row = ledger.one("SELECT * FROM curation.removed WHERE sample_id = :s", s=sample_id(7))
    assert (row["witness_sample_id"], row["witness_source_shard"], row["witness_key"]) == (
        sample_id(1),
        "a.tar",
        None,
    )
    assert row["witness_shard"] == FIRST


# ---------------------------------------------------------------- what a question reads

MONTHS = [date(2025, month, 1) for month in range(1, 13)]
ASKED = date(2025, 6, 1)
NIGHTS = 8


@pytest.fixture
def year(catalog: Catalog) -> Ledger:
    """Twelve months of nights, each with near copies of the first one's, and 1,000 changes."""
    ledger = Ledger(catalog, *MONTHS)
    first = 0
    for turn, day in enumerate((m.replace(day=n) for m in MONTHS for n in range(1, NIGHTS + 1)), 1):
        batch = ledger.batch(day)
        decision = ledger.night(batch, day.replace(day=1), turn)
        first = first or decision
        ledger.run(
            "INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position, key,"
            " image_sha256, verdict, reason, rank, slot, witness_sha256, similarity)"
            " SELECT :m, :x, md5(:x || '/' || i)::uuid, :s, i, i::text,"
            " sha256(convert_to(:x || '/' || i, 'UTF8')),"
            " CASE WHEN r THEN 'removed' ELSE 'kept' END,"
            " CASE WHEN r THEN 'near' END, i, CASE WHEN NOT r THEN i END,"
            " CASE WHEN r THEN sha256(convert_to(:f || '/' || (i + 1), 'UTF8')) END,"
            " CASE WHEN r THEN .9 END"
            " FROM generate_series(0, 149) i, LATERAL (SELECT :x > :f AND i % 3 = 0 AS r) q",
            m=day.replace(day=1),
            x=decision,
            f=first,
            s=ledger.shard(batch, f"{day}.tar"),
        )
        ledger.placed(decision, f"{day}.tar", range(150), turn)
    ledger.run(
        "INSERT INTO sscd_ops.images (dataset_id, sha256, decision_id, verdict, reason, sample_id,"
        " shard_id, position, rank, slot, witness_sha256, similarity) SELECT :d, image_sha256,"
        " decision_id, verdict, reason, sample_id, shard_id, position, rank, slot, witness_sha256,"
        " similarity FROM sscd_ops.samples",
        d=ledger.web,
    )
    ledger.run(
        "INSERT INTO sscd_ops.matches (month, decision_id, image_sha256, earlier_sha256,"
        " similarity) SELECT month, decision_id, image_sha256, witness_sha256, similarity"
        " FROM sscd_ops.samples WHERE verdict = 'removed'"
    )
    ledger.next_turn(len(MONTHS) * NIGHTS + 1)
    order = ledger.draft([])
    for subject, column, table in (
        ("image_sha256", "sha256", "images"),
        ("sample_id", "sample_id", "samples"),
    ):
        ledger.run(
            f"INSERT INTO sscd_ops.changes (dataset_id, decision_id, turn, {subject}, verdict)"
            f" SELECT :d, :x, :t, {column}, 'withdrawn' FROM sscd_ops.{table}"
            f" ORDER BY {column} LIMIT 500",
            d=ledger.web,
            x=order,
            t=len(MONTHS) * NIGHTS + 1,
        )
    ledger.apply(order)
    ledger.run("ANALYZE")
    return ledger


Asked = Callable[[Connection], object]


def reads(ledger: Ledger, asked: Asked, begin: str = "SELECT") -> tuple[set[str], set[str]]:
    """The months that a question's statements found rows in, and the tables they read as a whole.

    Of the monthly tables, ``images`` and ``changes``.
    """
    statements: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        statements.append((sql, parameters))

    engine = ledger.catalog.engine
    with ledger.catalog.begin() as conn:
        event.listen(engine, "before_cursor_execute", note)
        asked(conn)
        event.remove(engine, "before_cursor_execute", note)
        plans = [
            conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", parameters).scalar_one()
            for sql, parameters in statements
            if sql.startswith(begin)
        ]
    months, whole = set(), set()
    for node in (node for (plan,) in plans for node in nodes(plan["Plan"])):
        table = node.get("Relation Name", "")
        if node["Actual Loops"] and table.startswith(
            ("samples_", "matches_", "images_", "changes")
        ):
            if table.startswith(("samples_", "matches_")) and node["Actual Rows"]:
                months.add(table[-7:])
            if node["Node Type"] == "Seq Scan":
                whole.add(table)
    return months, whole


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def test_what_holds_of_one_sample_is_read_from_its_month_and_that_of_its_witness(
    year: Ledger,
) -> None:
    for position, verdict in ((33, "removed"), (34, "kept")):
        number = year.one(
            "SELECT sample_id FROM sscd_ops.samples WHERE month = :m AND position = :p"
            " AND verdict = :v ORDER BY decision_id LIMIT 1",
            m=ASKED,
            p=position,
            v=verdict,
        )["sample_id"]
        questions = of_sample(number)
        for name, asked in questions.items():
            months, whole = reads(year, asked)

            assert whole == set(), name
            assert "2025_06" in months, name
            removed = verdict == "removed" and name in ("explain", "matches")
            assert months <= {"2025_06", *(("2025_01",) if removed else ())}, (name, months)


def of_sample(number: UUID) -> dict[str, Asked]:
    return {
        "explain": lambda conn: audit.explain(conn, number),
        "matches": lambda conn: audit.nearest_matches(conn, number, 3),
        "place": lambda conn: lookups.published_place(conn, number),
        "verdicts": lambda conn: sql.rows(
            conn, "SELECT * FROM curation.verdicts WHERE sample_id = :s", s=number
        ),
    }


def test_the_samples_of_a_batch_are_read_from_its_month_alone(year: Ledger) -> None:
    batch = year.one("SELECT min(batch_id) AS b FROM sscd_ops.decisions WHERE month = :m", m=ASKED)[
        "b"
    ]

    for view in ("samples", "kept", "removed", "quarantined"):
        for limit in ("", " LIMIT 100"):
            statement = f"SELECT * FROM curation.{view} WHERE batch_id = {batch}{limit}"
            months, whole = reads(year, lambda conn, s=statement: sql.rows(conn, s))  # type: ignore[misc]

            assert months <= {"2025_06", *(("2025_01",) if view == "removed" else ())}, statement
            assert whole <= {"changes"}, statement


def test_a_look_up_of_images_reads_no_samples_and_for_few_no_whole_table(year: Ledger) -> None:
    for count in (3, 3000):
        found = year.all("SELECT sha256 FROM sscd_ops.images ORDER BY sha256 LIMIT :n", n=count)
        asked = np.frombuffer(b"".join(row["sha256"] for row in found), np.uint8).reshape(-1, 32)

        def look_up(conn: Connection, digests: Any = asked) -> None:
            lookups.known_images(conn, year.web, digests, 99)

        months, whole = reads(year, look_up)

        assert months == set()
        assert count == 3000 or whole == set()


def test_putting_an_order_in_force_reads_its_own_changes_alone_whatever_the_statistics_say(
    nights: Nights,
) -> None:
    """All who decide wait for it, and after a large order nothing was counted yet."""
    ledger = nights.ledger
    large = ledger.draft([])
    for subject, value in (
        ("image_sha256", "sha256(i::text::bytea)"),
        ("sample_id", "md5(i::text)::uuid"),
    ):
        ledger.run(
            f"INSERT INTO sscd_ops.changes (dataset_id, decision_id, turn, {subject}, verdict)"
            f" SELECT :d, :x, 3, {value}, 'withdrawn' FROM generate_series(1, 30000) i",
            d=ledger.web,
            x=large,
        )
    ledger.apply(large)
    small = ledger.draft(
        [{"image_sha256": sha(7), "verdict": "free"}, {"sample_id": sample_id(7), **WITHDRAWN}]
    )

    assert whole_tables(ledger, lambda: ledger.apply(small)) == set()


def whole_tables(ledger: Ledger, done: Callable[[], object]) -> set[str]:
    """Which of the large tables the UPDATEs of something would read as a whole, done again."""
    statements: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        statements.append((sql, parameters))

    event.listen(ledger.catalog.engine, "before_cursor_execute", note)
    done()
    event.remove(ledger.catalog.engine, "before_cursor_execute", note)
    updates = [statement for statement in statements if statement[0].startswith("UPDATE")]
    assert updates
    with ledger.catalog.begin() as conn:
        plans = [
            conn.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters).scalar_one()
            for sql, parameters in updates
        ]
    return {
        node["Relation Name"]
        for (plan,) in plans
        for node in nodes(plan["Plan"])
        if node["Node Type"] == "Seq Scan"
        and node["Relation Name"].startswith(("changes", "images", "samples"))
    }


def test_what_an_order_names_is_found_by_look_ups(year: Ledger) -> None:
    """By id, bytes, URL and domain: no large table is read as a whole, whatever its size."""
    url, host = sha(70), "org.example.found."
    found = year.one(
        "SELECT sample_id, image_sha256, decision_id, month FROM sscd_ops.samples"
        " WHERE month = :m AND verdict = 'kept' ORDER BY decision_id, position LIMIT 1",
        m=ASKED,
    )
    year.run(
        "UPDATE sscd_ops.samples SET url_sha256 = :u, host = :h WHERE month = :m"
        " AND sample_id = :s",
        u=url,
        h=host,
        m=ASKED,
        s=found["sample_id"],
    )
    subjects = {
        "id": Subject("id", found["sample_id"].bytes),
        "sha256": Subject("sha256", found["image_sha256"]),
        "url": Subject("url", url, "https://found.example.org/"),
        "domain": Subject("domain", sha(71), "example.org", "org.example."),
    }
    named: list[Any] = []
    for kind, subject in subjects.items():
        with year.catalog.begin() as conn:
            order = orders.add_order(
                conn, year.web, verb="withdraw", request={}, client_key=kind, subjects=[subject],
                actor="ann", why="asked", drafted_by={},
            )  # fmt: skip

        def asked(conn: Connection, number: int = order, subject: Subject = subject) -> None:
            named[:] = named_samples(conn, year.web, number, [subject])

        _, whole = reads(year, asked, "WITH")

        assert named == [found["sample_id"]], kind
        assert whole == set(), kind
