"""Every change takes a turn: three at once, killed ones, starved ones, and nights among them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest
from sqlalchemy.engine import Connection, make_url

from sscd_ops.catalog import datasets, decisions, locks, sql
from sscd_ops.catalog.database import Catalog
from sscd_ops.errors import BatchHeld, CatalogBehind, CatalogUnavailable, DataError
from sscd_ops.options import to_json
from sscd_ops.steps import commit, publish, rebuilding, resolve, turns, verify
from sscd_ops.steps.resolve import Night
from sscd_ops.steps.snapshots import set_back_latest
from sscd_ops.steps.turns import Seen
from sscd_ops.steps.verify import verify_index, verify_snapshot
from sscd_ops.steps.working import Worked
from sscd_ops.testing import picture, plant
from sscd_ops.wiring import Wiring
from tests.databases import shown_url, superuser
from tests.integration.ledger import Ledger
from tests.integration.orders import Order, apply, lead_by
from tests.integration.test_nights import BOTH, DAYS, clouds, fill, planted_nights
from tests.integration.world import DATASET, World, assert_newest_verdicts, assert_promises, pair

ROOT = Path(__file__).parents[2]


@pytest.fixture
def decided(world: World) -> World:
    """One published night of nine kept pictures."""
    world.put(DAYS[0], "a.tar", clouds(range(9)))
    world.night(DAYS[0])
    return world


def started(world: World, **order: Any) -> subprocess.Popen[str]:
    """A process that takes an order."""
    given = [world.url, str(world.base / "root"), to_json(world.options), json.dumps(order)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.orders", *given],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def order_turns(world: World) -> list[int]:
    """The turns in force, with an event and a row of ``decisions`` each."""
    told = [
        row["turn"]
        for row in world.ask("SELECT turn FROM curation.events WHERE kind = 'decided' ORDER BY 1")
    ]
    decided = world.ask("SELECT turn FROM curation.decisions ORDER BY turn")
    assert [row["turn"] for row in decided] == told
    (dataset,) = world.ask("SELECT next_turn, generation FROM sscd_ops.datasets")
    assert dataset["next_turn"] == len(told) + 1
    listed = world.ask("SELECT generation, turn FROM sscd_ops.generations ORDER BY generation")
    assert [row["generation"] for row in listed] == list(range(1, dataset["generation"] + 1))
    assert told == list(range(1, len(told) + 1))
    return told


def in_force(world: World) -> dict[str, int]:
    """How many rows of each table are of decisions in force; all there are."""
    counts = {}
    for table in ("changes", "images", "samples", "matches", "output_shards", "decision_sources"):
        counts[table] = len(world.ask(f"SELECT decision_id FROM sscd_ops.{table}"))
        of_dead = world.ask(
            f"SELECT t.decision_id FROM sscd_ops.{table} t LEFT JOIN sscd_ops.decisions d"
            " USING (decision_id) WHERE d.turn IS NULL"
        )
        assert of_dead == [], table
    assert world.ask("SELECT 1 FROM sscd_ops.decisions WHERE turn IS NULL") == []
    return counts


def assert_masks_follow(world: World) -> None:
    assert_newest_verdicts(world)
    with world.parts() as parts:
        assert verify_index(parts, DATASET) == []


# ---------------------------------------------------------------- several at once


def all_at_once(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[str, str]]:
    """Let them go at the same moment; what each one printed."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=60) for process in processes]


def test_three_at_once_take_turns_without_gaps(decided: World) -> None:
    """All three clear bits of the same mask: a lost update would set one again."""
    mine = [{f"c{n:04d}": "free" for n in range(i, i + 3)} for i in (0, 3, 6)]
    processes = [
        started(decided, key=f"k{i}", changes=changes, starts=True)
        for i, changes in enumerate(mine)
    ]
    said = all_at_once(processes)

    assert sorted(int(out) for out, _ in said) == [2, 3, 4], said
    assert order_turns(decided) == [1, 2, 3, 4]
    assert in_force(decided)["changes"] == 18
    assert set(decided.verdicts().values()) == {"withdrawn withdrawn"}
    assert_masks_follow(decided)
    (mask,) = decided.ask("SELECT kept FROM sscd_ops.segment_masks WHERE generation_to IS NULL")
    assert mask["kept"] == 0


def test_one_key_is_decided_once(decided: World) -> None:
    """Two processes with one key at once: the same turn is answered to both."""
    processes = [
        started(decided, key="one", changes={"c0001": "free"}, starts=True) for _ in range(2)
    ]
    said = all_at_once(processes)

    assert [out for out, _ in said] == ["2\n", "2\n"], said
    assert order_turns(decided) == [1, 2]
    assert in_force(decided)["changes"] == 2


def test_rows_of_a_try_that_was_given_up_while_they_were_written_do_not_stay(
    decided: World,
) -> None:
    """Its process was thought dead, between two of its tables: nothing would delete the second."""
    given_up = threading.Event()

    def reached(phase: str, order: Order) -> None:
        if phase == "rows" and not given_up.is_set():
            given_up.set()
            with decided.parts() as others:
                apply(Order(others, "one", {"c0001": "free"}))

    with decided.parts() as parts:
        decision = apply(Order(parts, "one", {"c0001": "free"}, reached=reached))

    assert given_up.is_set()
    assert decision.turn == 2
    assert order_turns(decided) == [1, 2]
    assert in_force(decided)["changes"] == 2


def test_rows_that_take_longer_to_make_than_a_transaction_may_stand_idle_are_written(
    decided: World,
) -> None:
    """Millions of matches are sorted before the first of them is known."""

    def late(rows: Any) -> Iterator[Any]:
        time.sleep(1.5)
        yield rows
        time.sleep(1.5)
        yield rows.slice(0, 0)

    class Slow(Order):
        def rows(self, *given: Any) -> Iterator[tuple[str, Any]]:
            return ((table, late(rows)) for table, rows in super().rows(*given))

    with decided.parts() as parts:
        parts.catalog = Catalog(decided.url, idle_timeout=1.0)
        assert apply(Slow(parts, "slow", {"c0001": "free"})).turn == 2

    assert in_force(decided)["changes"] == 2


def test_an_interrupt_does_not_wait_for_the_rows_that_are_being_written(
    decided: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of rows take minutes, and who stops a task gives it seconds."""
    writing = threading.Event()

    def copy_table(conn: Connection, table: str, rows: Any) -> None:
        writing.set()
        conn.exec_driver_sql("SELECT pg_sleep(60)")

    def reached(phase: str, order: Order) -> None:
        if phase == "rows" and writing.wait(10):
            raise KeyboardInterrupt

    monkeypatch.setattr(turns, "copy_table", copy_table)
    began = time.monotonic()
    with decided.parts() as parts:
        order = Order(parts, "late", {"c0001": "free"}, reached=reached)
        with pytest.raises(KeyboardInterrupt):
            apply(order)
    assert time.monotonic() - began < 30
    monkeypatch.undo()
    with decided.parts() as parts:
        assert apply(Order(parts, "late", {"c0001": "free"})).turn == 2
    assert in_force(decided)["changes"] == 2


def test_giving_up_tries_does_not_wait_for_who_deletes_them(decided: World) -> None:
    """That takes minutes where a try had millions of rows, and would be under the lock."""
    with decided.parts() as parts, decided.parts() as others:
        order = Order(parts, "k", {"c0001": "free"})
        with parts.catalog.begin() as conn:
            seen = Seen(datasets.of_number(conn, order.dataset_id))
            order.open(conn, order.work_out(seen, None))
            order.give_up(conn)
        with others.catalog.begin() as conn:
            decisions.delete_lost(conn, order.dataset_id)
            with parts.catalog.begin() as beside:
                sql.run(beside, "SET LOCAL lock_timeout = '1s'")
                order.give_up(beside)
            assert apply(order).turn == 2

    assert in_force(decided)["changes"] == 2


@pytest.mark.parametrize("command", ["verify", "rebuild"])
def test_looking_after_the_index_beside_an_order_finds_no_fault(
    decided: World, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The masks it listed are those of the turn it began at."""
    if command == "rebuild":
        (mask,) = (decided.base / "root" / DATASET / "index" / "masks").glob("*")
        mask.unlink()
    room, step = {
        "verify": (verify, "_compare_segment"),
        "rebuild": (rebuilding, "_rebuild_mask"),
    }[command]
    real = getattr(room, step)

    def late(*given: Any) -> Any:
        monkeypatch.setattr(room, step, real)
        with decided.parts() as others, others.catalog.begin() as conn:
            # what an order does, without a look at the mask that is lost
            image = sql.value(conn, "SELECT min(sha256::text)::bytea FROM sscd_ops.images")
            ledger = Ledger(others.catalog)
            ledger.order({"image_sha256": image, "verdict": "withdrawn"})
        return real(*given)

    monkeypatch.setattr(room, step, late)
    with decided.parts() as parts:
        if command == "verify":
            assert verify_index(parts, DATASET) == []
        else:
            assert len(rebuilding.rebuild_index(parts, DATASET)) == 1


# ---------------------------------------------------------------- a fail-over that forgets commits


class Standby:
    """A copy of a world's database as it is now, that takes its place later."""

    def __init__(self, world: World) -> None:
        self._name = str(make_url(world.url).database)
        self._server = shown_url(make_url(world.url).set(database="postgres"))
        self._run(f"CREATE DATABASE {self._name}_standby TEMPLATE {self._name}")

    def take_over(self) -> None:
        self._run(
            f"ALTER DATABASE {self._name} RENAME TO {self._name}_lost",
            f"ALTER DATABASE {self._name}_standby RENAME TO {self._name}",
            f"DROP DATABASE {self._name}_lost",
        )

    def _run(self, *statements: str) -> None:
        ended = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = "
        superuser(self._server, f"{ended}'{self._name}'", *statements)


def test_a_turn_that_a_fail_over_forgot_is_not_mistaken_for_the_one_that_has_its_number_now(
    decided: World,
) -> None:
    """Of the same numbers all: only when it was decided tells them apart."""
    standby = Standby(decided)

    class Late(Order):
        def work_out(self, seen: Any, before: Any) -> Any:
            worked = super().work_out(seen, before)
            if self.tries == 1:
                standby.take_over()
                with decided.parts() as others:
                    lead_by(others, {"c0003": "free"})
            return worked

    with decided.parts() as parts:
        lead_by(parts, {"c0001": "free"})
        late = Late(parts, "late", {"c0002": "free"})
        assert apply(late).turn == 3

    assert late.tries == 2
    assert order_turns(decided) == [1, 2, 3]
    assert_masks_follow(decided)


def test_a_snapshot_that_a_fail_over_forgot_is_not_mistaken_for_the_one_that_has_its_number_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start, day in zip((0, 9, 18, 27), DAYS, strict=False):
        world.put(day, "a.tar", clouds(range(start, start + 9)))
    world.night(DAYS[0])
    with world.parts() as parts:
        waiting = [world.until_match(parts, day) for day in DAYS[1:4]]
        for batch in waiting:
            for group in resolve.run(parts, batch).groups:
                publish.run(parts, batch, group)
    standby = Standby(world)
    forgotten, late, other = waiting
    real = commit._Commit.work_out
    taken_over: list[bool] = []

    def work_out(*given: Any) -> Any:
        worked = real(*given)
        if not taken_over:
            taken_over.append(True)
            standby.take_over()
            with world.parts() as others:
                with pytest.raises(CatalogBehind, match="names snapshot 2 and the catalog has 1"):
                    commit.run(others, other)
                set_back_latest(others, DATASET)
                commit.run(others, other)
        return worked

    with world.parts() as parts:
        commit.run(parts, forgotten)
        monkeypatch.setattr(commit._Commit, "work_out", work_out)
        assert commit.run(parts, late).snapshot == 3
        assert commit.run(parts, forgotten).snapshot == 4

    assert_promises(world, read=36)
    with world.parts() as parts:
        assert verify_snapshot(parts, DATASET) == []


def test_a_night_some_of_whose_rows_a_fail_over_forgot_is_decided_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number and `samples` reached the standby; `images`, written after, did not."""
    world.put(DAYS[0], "a.tar", clouds(range(9)))
    world.put(DAYS[1], "a.tar", clouds(range(9)))
    monkeypatch.setattr(turns, "_WRITERS", 1)
    standby: list[Standby] = []
    rows, guard = Worked.rows, Night.guard

    def some(self: Worked, decision_id: int) -> Any:
        for table, made in rows(self, decision_id):
            if table == "images" and not standby:
                standby.append(Standby(world))
            yield table, made

    def later(self: Night, *given: Any) -> str:
        monkeypatch.setattr(Night, "guard", guard)
        standby[0].take_over()
        return guard(self, *given)

    monkeypatch.setattr(Worked, "rows", some)
    monkeypatch.setattr(Night, "guard", later)
    world.night(DAYS[0])

    counted = in_force(world)
    assert (counted["samples"], counted["images"]) == (9, 9)
    world.night(DAYS[1])
    assert_promises(world, read=18)


@pytest.mark.parametrize("phase", ["rows", "written"])
def test_a_number_that_a_fail_over_gave_to_another_is_not_taken(
    decided: World, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """It forgot this try, between two of its tables or after the last; another try has it now."""
    monkeypatch.setattr(turns, "_WRITERS", 1)
    standby = Standby(decided)
    taken: list[int] = []

    def reached(at: str, order: Order) -> None:
        if at == phase and not taken:
            standby.take_over()
            with decided.parts() as parts, parts.catalog.begin() as conn:
                other = Order(parts, "other", {"c0005": "free"})
                seen = Seen(datasets.of_number(conn, other.dataset_id))
                taken.append(other.open(conn, other.work_out(seen, None)))

    with decided.parts() as parts:
        decision = apply(Order(parts, "late", {"c0001": "free", "c0002": "free"}, reached=reached))
        with parts.catalog.begin() as conn:
            assert decisions.of_key(conn, decision.dataset_id, "other") is None

    assert decision.decision_id != taken[0]
    changed = decided.ask("SELECT decision_id FROM sscd_ops.changes")
    assert [row["decision_id"] for row in changed] == [decision.decision_id] * 4


# ---------------------------------------------------------------- killed

PHASES = ("forget", "work_out", "copy", "rows", "written", "admit", "put", "event", "after")


@pytest.mark.parametrize("phase", PHASES)
def test_one_that_is_killed_is_decided_by_its_retry(decided: World, phase: str) -> None:
    changes = {"c0001": "free", "c0002": "withdrawn"}
    process = started(decided, key="k", changes=changes, dies=phase)
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, said
    before = order_turns(decided)
    assert before == ([1, 2] if phase == "after" else [1])

    with decided.parts() as parts:
        decision = apply(Order(parts, "k", changes))
        again = apply(Order(parts, "k", changes))

    assert decision.turn == again.turn == 2
    assert decision.decision_id == again.decision_id
    assert order_turns(decided) == [1, 2]
    assert in_force(decided)["changes"] == 3
    assert_masks_follow(decided)
    verdicts = decided.verdicts()
    assert [verdicts[key] for key in ("c0001", "c0002")] == ["withdrawn withdrawn"] * 2
    assert list(verdicts.values()).count("kept") == 7


# ---------------------------------------------------------------- starved


def test_what_went_wrong_is_told_though_the_catalog_went_away_with_it(
    decided: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(catalog: Catalog) -> NoReturn:
        raise CatalogUnavailable("the server is away")

    def reached(phase: str, order: Order) -> None:
        if phase == "work_out":
            monkeypatch.setattr(Catalog, "begin", away)
            raise DataError("the first thing that went wrong")

    with decided.parts() as parts, pytest.raises(DataError, match="the first thing"):
        apply(Order(parts, "one", {"c0001": "free"}, reached=reached))


def test_one_that_lost_three_times_is_waited_for(
    decided: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it is worked out another one is quicker; the fourth time the others wait."""
    waiting: list[threading.Thread] = []
    done: dict[str, float] = {}
    held: list[float] = []

    def quick(name: str) -> None:
        with decided.parts() as parts:
            apply(Order(parts, name, {name: "free"}))
        done[name] = time.monotonic()

    def reached(phase: str, order: Order) -> None:
        if phase != "work_out":
            return
        if order.tries <= 3:
            quick(f"c{order.tries:04d}")
            return
        waiting.extend(threading.Thread(target=quick, args=(f"c{n:04d}",)) for n in (4, 5))
        for thread in waiting:
            thread.start()
        time.sleep(2.0)
        assert len(done) == 3
        held.append(time.monotonic())

    with decided.parts() as parts:
        slow = Order(parts, "slow", {"c0008": "free"}, reached=reached)
        decision = apply(slow)
    for thread in waiting:
        thread.join(60)

    assert slow.tries == 4
    assert decision.turn == 5
    assert {done["c0004"], done["c0005"]} > set()
    assert all(done[name] > held[0] for name in ("c0004", "c0005"))
    assert order_turns(decided) == list(range(1, 8))
    assert in_force(decided)["changes"] == 12
    assert_masks_follow(decided)


def test_the_death_of_one_that_is_waited_for_frees_the_line(decided: World) -> None:
    others = [{f"c{n:04d}": "free"} for n in range(3)]
    process = started(decided, key="slow", changes={"c0008": "free"}, loses=others)
    assert process.stdout is not None
    assert process.stdout.readline() == "in line\n"
    decision: list[int] = []

    def quick() -> None:
        with decided.parts() as parts:
            decision.append(apply(Order(parts, "quick", {"c0004": "free"})).turn)

    thread = threading.Thread(target=quick)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive()
    process.kill()
    process.communicate()
    thread.join(20)

    assert decision == [5]
    with decided.parts() as parts:
        assert apply(Order(parts, "slow", {"c0008": "free"})).turn == 6
    assert order_turns(decided) == list(range(1, 7))
    assert in_force(decided)["changes"] == 10
    assert_masks_follow(decided)


# ---------------------------------------------------------------- guarded


def test_one_that_is_held_takes_no_turn_until_it_is_released(decided: World) -> None:
    before = decided.views(set())
    with decided.parts() as parts:
        order = Order(parts, "large", {"c0001": "free", "c0002": "free"}, most=3)
        for _ in range(2):
            with pytest.raises(BatchHeld, match="changes 4 verdicts"):
                apply(order)
        assert order_turns(decided) == [1]
        assert decided.views(set()) == before
        order.approve()
        # another one comes between
        apply(Order(parts, "small", {"c0003": "free"}))
        assert apply(order).turn == 3

    kinds = [
        row["kind"] for row in decided.ask("SELECT kind FROM curation.events ORDER BY event_id")
    ]
    assert kinds == ["decided", "published", "held", "held", "approved", "decided", "decided"]
    assert in_force(decided)["changes"] == 6
    assert_masks_follow(decided)


# ---------------------------------------------------------------- nights among them


def both_nights(world: World) -> None:
    fill(world, {day: samples for day, samples in planted_nights().items() if day in DAYS[:2]})
    world.night(DAYS[0])


@pytest.mark.parametrize("perceptual", [False, True])
def test_a_night_that_lost_to_an_order_is_decided_after_it(
    world: World, other_world: World, perceptual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = {"c0007": "free", "c0008": "withdrawn", "c0009": "free"}
    for each in (world, other_world):
        if perceptual:
            each.change(duplicates=BOTH)
        both_nights(each)
    with other_world.parts() as parts:
        lead_by(parts, change)
        other_world.from_resolve(parts, other_world.until_match(parts, DAYS[1]))
    real = resolve.work_out
    tried: list[int] = []

    def work_out(*given: Any) -> Any:
        worked = real(*given)
        tried.append(worked.made.turn)
        if len(tried) == 1:
            with world.parts() as others:
                lead_by(others, change)
        return worked

    monkeypatch.setattr(resolve, "work_out", work_out)
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[1])
        assert resolve.run(parts, batch).turn == 3
        world.from_resolve(parts, batch)

    assert tried == [2, 3]
    assert order_turns(world) == [1, 2, 3]
    assert in_force(world) == in_force(other_world)
    assert world.views() == other_world.views()
    assert_masks_follow(world)


def test_an_order_that_lost_to_a_night_is_decided_after_it(decided: World) -> None:
    decided.put(DAYS[1], "a.tar", clouds(range(5, 14), prefix="d"))

    def reached(phase: str, order: Order) -> None:
        if phase == "written" and order.tries == 1:
            decided.night(DAYS[1])

    with decided.parts() as parts:
        order = Order(parts, "k", {"c0001": "free"}, reached=reached)
        assert apply(order).turn == 3

    assert order.tries == 2
    assert order_turns(decided) == [1, 2, 3]
    assert in_force(decided)["changes"] == 2
    assert_masks_follow(decided)


# ---------------------------------------------------------------- a mask changed under a search


class Counting(Wiring):
    """Notes how many queries and kept rows each search of a segment is asked for."""

    asked: ClassVar[list[tuple[int, int]]] = []

    def backend(self, *given: Any, **named: Any) -> Any:
        real = super().backend(*given, **named)

        class Counted:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def search(
                self, queries: Any, descriptors: Any, codes: Any, kept: Any, *more: Any
            ) -> Any:
                Counting.asked.append((len(queries), int(kept.sum())))
                return real.search(queries, descriptors, codes, kept, *more)

        return Counted()


@pytest.mark.parametrize("limit", [1, 8])
def test_a_mask_that_changed_is_searched_where_it_did(
    world: World, other_world: World, limit: int
) -> None:
    """Of eight queries one finds the picture that is withdrawn, in a list that is full or not."""
    before = {"c0001": "free", "c0002": "free"}
    under = {"c0003": "free", "c0001": "again"}
    copies = [pair(f"k{n}", plant(picture(n), "jpeg_40")) for n in range(1, 6)]
    for each in (world, other_world):
        each.change(duplicates={"keep_matches": limit})
    world.put(DAYS[0], "a.tar", clouds(range(9)))
    world.put(DAYS[1], "a.tar", [*copies, *clouds(range(20, 23))])
    for each in (world, other_world):
        each.night(DAYS[0])
        with each.parts() as parts:
            lead_by(parts, before)
    world.wiring = Counting
    Counting.asked.clear()
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[1])
        assert Counting.asked == [(8, 7)]
        lead_by(parts, under)
        Counting.asked.clear()
        resolve.run(parts, batch)
    with other_world.parts() as parts:
        lead_by(parts, under)
        resolve.run(parts, other_world.until_match(parts, DAYS[1]))

    assert Counting.asked == ([(1, 7), (7, 1)] if limit == 1 else [(8, 1)])
    assert world.views() == other_world.views()
    matches = "SELECT image_sha256, earlier_sha256, similarity FROM sscd_ops.matches ORDER BY 1, 2"
    assert world.ask(matches) == other_world.ask(matches)
    verdicts = world.verdicts()
    assert {key: verdicts[key] for key in ("k1", "k2", "k3", "k4", "k5")} == {
        "k1": "removed near",
        "k2": "kept",
        "k3": "kept",
        "k4": "removed near",
        "k5": "removed near",
    }
    assert_masks_follow(world)


def test_a_night_that_lost_three_times_is_waited_for(
    decided: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the session that holds its other locks, all of which end with it."""
    decided.put(DAYS[1], "a.tar", clouds(range(5, 14), prefix="d"))
    real = resolve.work_out
    tried: list[int] = []
    lines: list[int] = []

    def work_out(*given: Any) -> Any:
        worked = real(*given)
        tried.append(worked.made.turn)
        lines.append(len(decided.ask(LINES)))
        if len(tried) <= 3:
            with decided.parts() as others:
                lead_by(others, {f"c{len(tried):04d}": "free"})
        return worked

    monkeypatch.setattr(resolve, "work_out", work_out)
    decided.night(DAYS[1])

    assert tried == [2, 3, 4, 5]
    assert lines == [0, 0, 0, 1]
    assert order_turns(decided) == [1, 2, 3, 4, 5]
    assert decided.ask(LINES) == []
    assert in_force(decided)["changes"] == 6
    assert_masks_follow(decided)


LINES = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock'"
    f" AND classid = {locks.LINE} AND database ="
    " (SELECT oid FROM pg_database WHERE datname = current_database())"
)
