"""`run --supplement --quarantined`: what a night quarantined is read again, by today's settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sscd_ops.catalog import lookups
from sscd_ops.catalog.partitions import detach_month
from sscd_ops.catalog.read_again import called_before
from sscd_ops.errors import BatchNotRunnable, UsageError
from sscd_ops.model import Runner
from sscd_ops.steps import embed, ingest, manage, match, plan, resolve, survey, turns
from sscd_ops.steps.night import NightReport
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_catalog, verify_index
from sscd_ops.testing import Sample, picture, plant
from tests.integration.orders import Order, apply, lead_by
from tests.integration.remedies import commands_in, run_command
from tests.integration.ruled import crawled, rule
from tests.integration.test_crashes import POINTS, Killed, die_at
from tests.integration.test_damage import copy_of
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import DAYS, clouds
from tests.integration.test_repair import mend, put_back, unpublishable
from tests.integration.test_withdraw import revert, withdraw
from tests.integration.world import DATASET, World, assert_promises, interval, pair
from tests.soak import sweep

SMALL = {"max_pixels": 150 * 150}
"""What ``picture`` makes is 160 by 120; what ``large`` makes is not allowed."""
GOOD: list[Sample] = clouds(range(3))


def large(seed: int) -> bytes:
    return picture(seed, 200, 150)


LARGE: list[Sample] = [
    pair("large8", large(8)),
    pair("large9", large(9)),
    # as soon as it may be looked at, a copy of what is kept
    pair("copy1", plant(large(1), "jpeg_40")),
    pair("same9", large(9)),
]
ORIGINS = {"a": picture(20), "b": large(21), "c": large(22)}
COPY8 = plant(large(8), "jpeg_40")
FIRST = {
    **{key: "kept" for key, _ in GOOD},
    **{key: "quarantined too_many_pixels" for key, _ in LARGE},
}


def first_night(world: World, *more: Sample) -> None:
    world.change(limits=SMALL)
    world.put(DAYS[0], "a.tar", [*GOOD[:2], *LARGE[:2]])
    world.put(DAYS[0], "b.tar", [*GOOD[2:], *LARGE[2:], *more])
    world.night(DAYS[0])


def again(world: World, **options: Any) -> NightReport:
    return world.night(DAYS[0], supplement=True, quarantined=True, **options)


@pytest.fixture(scope="module")
def begun(module_world: World) -> World:
    """The first night is over; nobody changes it."""
    first_night(module_world)
    return module_world


@pytest.fixture
def world(begun: World, tmp_path: Path, postgres_home: Path) -> Iterator[World]:
    """A dataset after the first night."""
    yield from copy_of(begun, tmp_path, postgres_home)


@pytest.fixture
def empty(tmp_path: Path, catalog_url: str) -> World:
    """A dataset before it."""
    return World(tmp_path, catalog_url)


@pytest.fixture(scope="module")
def undisturbed(
    begun: World, tmp_path_factory: pytest.TempPathFactory, postgres_home: Path
) -> Iterator[World]:
    """What was quarantined is read again, and nothing goes wrong."""
    for world in copy_of(begun, tmp_path_factory.mktemp("undisturbed"), postgres_home):
        allow(world)
        again(world)
        yield world


def allow(world: World) -> None:
    world.change(limits={"max_pixels": 10**6})


def known(world: World, turn: int, *images: bytes) -> list[tuple[str, int]]:
    """What is said of images as of a turn, and where their descriptors lie."""
    digests = np.array([list(hashlib.sha256(image).digest()) for image in images], np.uint8)
    with world.parts() as parts, parts.catalog.begin() as conn:
        found = lookups.known_images(conn, 1, digests, turn)
    found = found.take(np.argsort(found.row))
    return list(zip(found.verdict.tolist(), found.segment_row.tolist(), strict=True))


# ---------------------------------------------------------------- limits and rules that changed


def test_what_was_too_large_is_decided_once_it_may_be(begun: World, undisturbed: World) -> None:
    assert begun.verdicts() == FIRST
    assert undisturbed.verdicts() == FIRST | {
        "large8": "kept",
        "large9": "kept",
        "copy1": "removed near",
        "same9": "removed exact",
    }
    (run,) = undisturbed.ask("SELECT * FROM curation.runs WHERE supplement = 1")
    assert (run["read_again"], run["source_shards"], run["skipped_shards"]) == ("all", 2, 0)
    assert (run["read"], run["kept"], run["known"]) == (4, 2, 3)
    assert_promises(undisturbed, read=7)
    with undisturbed.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))
        assert not list(verify_index(parts, DATASET))


def test_a_look_up_as_of_an_earlier_turn_answers_what_it_answered_then(
    begun: World, undisturbed: World
) -> None:
    images = [large(8), large(9), plant(large(1), "jpeg_40"), picture(0)]
    before = known(begun, 1, *images)
    assert [verdict for verdict, _ in before] == ["quarantined"] * 3 + ["kept"]

    assert known(undisturbed, 1, *images) == before
    now = known(undisturbed, 2, *images)
    assert [verdict for verdict, _ in now] == ["kept", "kept", "removed", "kept"]
    assert all(row >= 0 for _, row in now)
    then = "SELECT * FROM curation.verdicts WHERE turn = 1 ORDER BY sample_id"
    assert undisturbed.ask(then) == begun.ask(then)


def test_later_nights_are_compared_with_what_was_read_again(world: World) -> None:
    allow(world)
    again(world)
    with world.parts() as parts:
        rebuild_index(parts, DATASET)
        assert not list(verify_index(parts, DATASET))
    world.put(DAYS[1], "c.tar", [pair("copy8", COPY8), pair("eight", large(8))])

    world.night(DAYS[1])

    verdicts, witnesses = world.verdicts(), world.witnesses()
    assert (verdicts["copy8"], verdicts["eight"]) == ("removed near", "removed exact")
    assert witnesses["copy8"] == witnesses["eight"] == "large8"
    assert_promises(world, read=9)


def test_what_is_quarantined_again_has_its_new_code_and_message(world: World) -> None:
    world.change(limits={"max_pixels": 10**6, "min_side": 151})

    again(world)

    assert world.verdicts() == FIRST | {
        "large8": "quarantined too_small",
        "large9": "quarantined too_small",
        "copy1": "quarantined too_small",
        "same9": "quarantined too_small",
    }
    said = world.ask("SELECT key, message, batch_id, turn FROM curation.quarantined ORDER BY key")
    assert all("151" in row["message"] and row["batch_id"] == row["turn"] == 2 for row in said)
    assert_promises(world, read=7)
    world.change(limits={"min_side": 16})
    again(world)
    assert world.verdicts()["large8"] == "kept"
    assert_promises(world, read=7)


def test_a_caption_that_is_read_elsewhere_makes_it_another_sample(empty: World) -> None:
    """Ids are made of captions too: the old one has no row any more, its history stays."""
    bare = ("bare", {"jpg": picture(5), "json": json.dumps({"alt": "a house"}).encode()})
    empty.put(DAYS[0], "a.tar", [*GOOD, bare])
    empty.night(DAYS[0])
    (old,) = empty.ask("SELECT sample_id FROM curation.quarantined")
    empty.change_source(caption=("txt", "json:alt"))

    again(empty, codes=["missing_caption"])

    (row,) = empty.ask("SELECT * FROM curation.samples WHERE key = 'bare'")
    assert (row["verdict"], row["caption"]) == ("kept", "a house")
    assert row["sample_id"] != old["sample_id"]
    (replaced,) = empty.ask("SELECT sample_id, again_id FROM sscd_ops.read_again")
    assert replaced == {**old, "again_id": row["sample_id"]}
    with empty.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))


def test_samples_with_the_same_bytes_in_other_nights_follow(world: World) -> None:
    world.put(DAYS[1], "c.tar", [pair("other8", large(8)), *clouds(range(20, 22))])
    world.night(DAYS[1])
    assert world.verdicts()["other8"] == "quarantined too_many_pixels"
    allow(world)

    again(world)

    assert world.verdicts()["other8"] == "removed exact"
    assert world.witnesses()["other8"] == "large8"
    assert_what_holds(world)
    report = world.night(DAYS[1], supplement=True, quarantined=True)
    assert report.again is not None
    assert report.again.samples == 0


def test_the_command_says_what_it_reads_and_what_a_sample_is_since(empty: World) -> None:
    """By the default settings; the night had others."""
    bare = ("bare", {"jpg": picture(5), "json": json.dumps({"caption": "a house"}).encode()})
    empty.change_source(caption=("txt",))
    first_night(empty, bare)
    (old,) = empty.ask("SELECT sample_id FROM curation.quarantined WHERE key = 'bare'")
    night = f"run --dataset {DATASET} --date {DAYS[0]} --supplement --quarantined"

    said = run_command(empty, f"{night} --codes 'missing_caption, too_small'")

    assert "read again: 1 that were quarantined" in said.stderr
    (new,) = empty.ask("SELECT sample_id FROM curation.samples WHERE key = 'bare'")
    told = run_command(empty, f"explain {old['sample_id']}", code=2)
    (remedy,) = commands_in(told.stderr)
    assert remedy == f"explain {new['sample_id']}"
    assert "a house" in run_command(empty, remedy).stdout
    run_command(empty, night)
    assert "nothing to read again" in run_command(empty, night).stderr


# ---------------------------------------------------------------- which ones


def test_only_the_codes_that_were_asked_for_are_read_again(empty: World) -> None:
    first_night(empty, ("bare", {"jpg": picture(5)}))
    allow(empty)
    empty.change_source(missing_caption="keep")

    again(empty, codes=["missing_caption", "bad_key"])

    assert empty.verdicts() == FIRST | {"bare": "kept"}
    (run,) = empty.ask("SELECT read_again FROM curation.runs WHERE supplement = 1")
    assert run["read_again"] == "bad_key,missing_caption"
    assert_promises(empty, read=8)


def test_where_nothing_is_quarantined_nothing_is_done(empty: World) -> None:
    empty.put(DAYS[0], "a.tar", GOOD)
    empty.night(DAYS[0])
    before = empty.views(), empty.ask("SELECT count(*) AS n FROM sscd_ops.batches")

    for dry_run in (True, False):
        report = again(empty, dry_run=dry_run)
        assert report.again is not None
        assert (report.again.samples, report.again.gone, report.message) == (0, 0, "")

    assert (empty.views(), empty.ask("SELECT count(*) AS n FROM sscd_ops.batches")) == before


def test_a_dry_run_says_what_would_become_of_it(world: World) -> None:
    allow(world)
    before = world.views()

    report = again(world, dry_run=True)

    assert report.again is not None
    assert report.again.samples == 4
    assert (report.counts.kept, report.counts.removed, report.message) == (2, 2, "")
    assert world.views() == before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"codes": ["too_small"]}, "add --quarantined"),
        ({"supplement": False, "quarantined": True}, "add --supplement"),
        ({"quarantined": True, "codes": ["to_small"]}, "no quarantine code 'to_small'"),
        ({"quarantined": True, "codes": ["near_withdrawn"]}, "until a person keeps it"),
    ],
)
def test_what_makes_no_sense_is_refused(world: World, asked: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        world.night(DAYS[0], **{"supplement": True, **asked})


def test_a_file_that_is_not_there_leaves_its_samples_as_they_are(world: World) -> None:
    allow(world)
    (world.incoming / DAYS[0] / "b.tar").unlink()

    report = again(world)

    assert report.again is not None
    assert (report.again.samples, report.again.gone) == (2, 2)
    assert world.verdicts() == FIRST | {
        "large8": "kept",
        "large9": "kept",
        "same9": "removed exact",
    }


def test_of_a_file_that_was_delivered_again_only_what_was_quarantined_is_read(
    empty: World,
) -> None:
    """Its other samples are an ordinary supplement's: it owns the new version."""
    empty.put(DAYS[0], "a.tar", [*GOOD, pair("broken", b"no picture")])
    empty.night(DAYS[0])
    empty.put(DAYS[0], "a.tar", [*GOOD, pair("broken", picture(5)), pair("new", picture(6))])

    again(empty)

    assert empty.verdicts() == {**{key: "kept" for key, _ in GOOD}, "broken": "kept"}
    report = empty.night(DAYS[0], supplement=True)
    assert (report.counts.read, report.counts.known) == (1, 4)
    assert empty.verdicts()["new"] == "kept"
    with empty.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))


def test_a_whole_shard_that_was_too_large_is_read_once_it_may_be(empty: World) -> None:
    empty.change(limits={"max_shard_bytes": 20_000})
    empty.put(DAYS[0], "a.tar", clouds(range(12)))
    empty.put(DAYS[0], "b.tar", GOOD[:1])
    empty.night(DAYS[0])
    (row,) = empty.ask("SELECT reason, sample_id FROM curation.quarantined")
    assert row == {"reason": "shard_too_large", "sample_id": None}
    empty.change(limits={"max_shard_bytes": 2**30})

    report = again(empty)

    assert (report.counts.read, report.source_shards) == (12, 1)
    assert empty.ask("SELECT * FROM curation.quarantined") == []
    assert_promises(empty, read=13)


def test_a_whole_shard_that_is_still_at_fault_has_one_row(empty: World) -> None:
    empty.change(limits={"max_shard_bytes": 20_000})
    empty.put(DAYS[0], "a.tar", clouds(range(12)))
    empty.put(DAYS[0], "b.tar", GOOD[:1])
    empty.night(DAYS[0])

    again(empty)
    again(empty)

    (row,) = empty.ask("SELECT reason, turn FROM curation.quarantined")
    assert row == {"reason": "shard_too_large", "turn": 3}
    assert_promises(empty, read=1)


# ---------------------------------------------------------------- what other decisions quarantined


def test_what_a_repair_gave_up_is_kept_once_its_file_is_back(empty: World) -> None:
    a = empty.put(DAYS[0], "a.tar", clouds(range(3)))
    empty.put(DAYS[0], "b.tar", clouds(range(10, 13)))
    batch_id = unpublishable(empty, DAYS[0], a)
    mend(empty, batch_id)
    assert empty.verdicts()["c0001"] == "quarantined source_gone"
    report = again(empty)
    assert report.again is not None
    assert (report.again.samples, report.again.gone) == (0, 3)
    put_back(empty)

    again(empty, codes=["source_gone"])

    assert set(empty.verdicts().values()) == {"kept"}
    assert_what_holds(empty)
    with empty.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))


class Ended(Order):
    """Verdicts of samples' own, as orders that end give them."""

    @staticmethod
    def _rows_of(verdict: str, sample: Mapping[str, Any], slot: int) -> list[dict[str, Any]]:
        own = {"sample_id": sample["sample_id"].bytes, "verdict": "quarantined"}
        return [{**own, "reason": verdict}]


def test_what_was_withdrawn_meanwhile_is_left_alone(world: World) -> None:
    """Between plan and resolve: what holds then decides."""
    allow(world)
    with world.parts() as parts:
        runner = Runner("airflow", "curate_web", "again")
        planned = plan.run(
            parts, DATASET, interval(DAYS[0]), runner=runner, supplement=True, quarantined=True
        )
        lead_by(parts, {"large8": "withdrawn"})
        run_steps(world, parts, planned)

    verdicts = world.verdicts()
    assert verdicts["large8"] == "withdrawn withdrawn"
    assert (verdicts["large9"], verdicts["copy1"]) == ("kept", "removed near")
    assert_what_holds(world)


def run_steps(world: World, parts: Any, planned: plan.PlanReport) -> resolve.ResolveReport:
    for group in planned.groups:
        ingest.run(parts, planned.batch_id, group)
    surveyed = survey.run(parts, planned.batch_id)
    for group in planned.groups:
        embed.run(parts, planned.batch_id, group)
    for part in surveyed.parts:
        match.run(parts, planned.batch_id, part)
    return world.from_resolve(parts, planned.batch_id)


def test_what_a_later_turn_quarantined_is_read_too(empty: World) -> None:
    """As samples of a rule that ended: their own verdict ends with it."""
    empty.put(DAYS[0], "a.tar", clouds(range(4)))
    empty.night(DAYS[0])
    with empty.parts() as parts:
        lead_by(parts, {"c0001": "free"})
        apply(Ended(parts, "the rule ended", {"c0001": "rule_ended"}))
    assert empty.verdicts()["c0001"] == "quarantined rule_ended"

    again(empty, codes=["rule_ended"])

    assert set(empty.verdicts().values()) == {"kept"}
    assert_what_holds(empty)
    with empty.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))


# ---------------------------------------------------------------- retries, other runs


def test_twice_reads_only_what_is_still_quarantined(empty: World) -> None:
    first_night(empty, pair("broken", b"no picture"))
    allow(empty)

    first, second = again(empty), again(empty)

    assert (first.counts.read, second.counts.read) == (5, 1)
    assert empty.verdicts()["broken"] == "quarantined not_an_image"
    rows = empty.ask("SELECT of_decision, decision_id FROM sscd_ops.read_again ORDER BY 2, 1")
    assert len(rows) == 6
    assert_promises(empty, read=8)


@pytest.mark.parametrize(
    ("when", "phase", "point"),
    sweep(
        [(when, phase, point) for when in ("before", "after")
         for phase, points in POINTS.items() for point in points],
        [("after", "resolve's rows", "turns.copy_table"),
         ("before", "the swap", "turns.datasets.advance"),
         ("after", "a decision in force", "turns._swap"),
         ("after", "a snapshot's rows", "commit.published.mark_published")],
    ),
)  # fmt: skip
def test_killed_anywhere_a_retry_ends_as_an_undisturbed_one(
    world: World,
    undisturbed: World,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    phase: str,
    point: str,
) -> None:
    allow(world)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, when, point)
        again(world)

    again(world)

    if "snapshot" not in phase and "newest" not in phase:
        assert world.views() == undisturbed.views()
    assert world.published() == undisturbed.published()
    assert_promises(world, read=7)


def test_another_decision_meanwhile_is_what_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the witness away: worked out again, the copy is kept."""
    allow(world)
    real = turns._write_rows

    def beside(parts: Any, *given: Any) -> Any:
        monkeypatch.setattr(turns, "_write_rows", real)
        lead_by(parts, {"c0001": "free"})
        return real(parts, *given)

    monkeypatch.setattr(turns, "_write_rows", beside)

    again(world)

    assert (world.verdicts()["c0001"], world.verdicts()["copy1"]) == ("withdrawn withdrawn", "kept")
    assert_what_holds(world)


def test_a_clear_of_a_dag_run_answers_with_its_own_supplement(empty: World) -> None:
    first_night(empty, pair("broken", b"no picture"))
    allow(empty)
    runner = Runner("airflow", "curate_web", "again")
    asked = {"runner": runner, "supplement": True, "quarantined": True}
    with empty.parts() as parts:
        first = plan.run(parts, DATASET, interval(DAYS[0]), **asked)
        run_steps(empty, parts, first)
        cleared = plan.run(parts, DATASET, interval(DAYS[0]), **asked)
        assert (cleared.answered, cleared.batch_id) == (True, first.batch_id)
        other = plan.run(parts, DATASET, interval(DAYS[0]), **asked, codes=["not_an_image"])
        assert (other.answered, other.batch_id) == (False, first.batch_id + 1)


def test_an_unfinished_supplement_of_the_other_kind_is_finished_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(world)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, "before", "ingest.attempts.register_file")
        again(world, codes=["too_many_pixels"])

    with pytest.raises(
        BatchNotRunnable, match="--supplement --quarantined --codes too_many_pixels"
    ):
        world.night(DAYS[0], supplement=True)
    with pytest.raises(BatchNotRunnable, match="batch abandon 2"):
        again(world)
    with world.parts() as parts:
        manage.abandon(parts, 2, actor="ann", why="all of them")
    report = again(world)

    assert (report.batch_id, report.counts.read) == (2, 4)
    assert_promises(world, read=7)


def test_the_guard_does_not_hold_it_for_what_stays_quarantined(empty: World) -> None:
    empty.change(guard={"empty": "hold"})
    first_night(empty)

    report = again(empty)

    assert (report.counts.quarantined, report.counts.kept) == (4, 0)
    assert_promises(empty, read=7)


# ---------------------------------------------------------------- months that were detached


def test_old_rows_and_new_ones_may_be_detached(world: World) -> None:
    allow(world)
    again(world)
    before = world.ask("SELECT sample_id, verdict FROM curation.samples ORDER BY 1")
    earlier(world, date(2026, 1, 1), decision=1)
    earlier(world, date(2026, 2, 1), decision=2)
    assert world.ask("SELECT sample_id, verdict FROM curation.samples ORDER BY 1") == before
    with world.parts() as parts:
        for month in (date(2026, 1, 1), date(2026, 2, 1)):
            detach_month(parts.catalog, month)
            assert not list(verify_catalog(parts, DATASET))

    report = again(world)

    assert report.again is not None
    assert (report.again.samples, report.again.detached) == (0, True)
    world.put(DAYS[1], "c.tar", [pair("eight", large(8))])
    world.night(DAYS[1])
    assert world.verdicts() == {"eight": "removed exact"}


def earlier(world: World, month: date, *, decision: int) -> None:
    """Move a decision and its rows to another month."""
    from sscd_ops.catalog.partitions import MONTHLY, ensure_month
    from sscd_ops.catalog.sql import run

    with world.parts() as parts:
        for table in MONTHLY:
            ensure_month(parts.catalog, month, table)
        with parts.catalog.begin() as conn:
            for table in (*MONTHLY, "decisions"):
                statement = f"UPDATE sscd_ops.{table} SET month = :m WHERE decision_id = :x"
                run(conn, statement, m=month, x=decision)


def rows_of(world: World, table: str) -> Sequence[Mapping[str, Any]]:
    return world.ask(f"SELECT * FROM sscd_ops.{table}")


def test_a_try_that_lost_leaves_no_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = ("read_again", "described_later")
    allow(world)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, "before", "turns._swap")
        again(world)
    assert all(rows_of(world, table) for table in tables)
    assert world.verdicts() == FIRST

    again(world)

    decisions = {
        row["decision_id"] for row in world.ask("SELECT decision_id FROM curation.decisions")
    }
    for table in tables:
        assert {row["decision_id"] for row in rows_of(world, table)} <= decisions


# ---------------------------------------------------------------- beside orders


def crawl(world: World, day: str, *samples: Sample) -> None:
    world.change_source(url="json:url")
    world.put(day, "c.tar", list(samples))
    world.night(day)


def test_what_a_rule_stopped_is_read_once_its_order_is_reverted(empty: World) -> None:
    """And stays read: another order's end does not ask the row that it had before."""
    empty.put(DAYS[0], "a.tar", GOOD)
    crawl(empty, DAYS[0], crawled("first", picture(20), "https://example.org/1.jpg"))
    order = withdraw(empty, domains=["example.org"]).order.order_id
    crawl(empty, DAYS[1], crawled("second", picture(21), "https://www.example.org/2.jpg"))
    assert empty.verdicts()["second"] == "withdrawn withdrawn"
    revert(empty, order)
    assert empty.verdicts()["second"] == "quarantined rule_ended"

    report = empty.night(DAYS[1], supplement=True, quarantined=True)

    assert (report.counts.read, report.counts.kept) == (1, 1)
    assert set(empty.verdicts().values()) == {"kept"}
    assert_what_holds(empty)
    revert(empty, withdraw(empty, domains=["example.org"]).order.order_id)
    assert set(empty.verdicts().values()) == {"kept"}
    assert_what_holds(empty)
    with empty.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))


def test_a_rule_in_force_stops_what_is_read_again(empty: World) -> None:
    empty.change(limits=SMALL)
    crawl(empty, DAYS[0], *(crawled(k, i, f"https://{k}.org/") for k, i in ORIGINS.items()))
    assert empty.verdicts()["b"] == "quarantined too_many_pixels"
    rule(empty, domain="b.org")
    allow(empty)

    again(empty)

    assert empty.verdicts() == {"a": "kept", "b": "withdrawn withdrawn", "c": "kept"}
    assert_what_holds(empty)
    with empty.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))


def test_what_was_read_again_may_be_withdrawn_and_come_back(world: World) -> None:
    allow(world)
    again(world)
    before = world.verdicts()

    applied = withdraw(world, "large9")

    assert world.verdicts() == before | {"large9": "withdrawn withdrawn", "same9": "kept"}
    assert_what_holds(world)
    revert(world, applied.order.order_id)
    assert world.verdicts() == before
    assert_what_holds(world)
    with world.parts() as parts:
        assert not list(verify_catalog(parts, DATASET))


def test_what_a_sample_was_before_is_found_with_it(empty: World) -> None:
    """As `--forget` asks: the row before has a key and metadata too."""
    bare = ("bare", {"jpg": picture(5), "json": json.dumps({"alt": "a house"}).encode()})
    empty.put(DAYS[0], "a.tar", [*GOOD, bare])
    empty.night(DAYS[0])
    (old,) = empty.ask("SELECT sample_id FROM curation.quarantined")
    empty.change_source(caption=("txt", "json:alt"))
    again(empty)
    (new,) = empty.ask("SELECT sample_id FROM curation.samples WHERE key = 'bare'")

    with empty.parts() as parts, parts.catalog.begin() as conn:
        assert called_before(conn, [new["sample_id"]]) == {old["sample_id"]}
        assert called_before(conn, [old["sample_id"]]) == set()
