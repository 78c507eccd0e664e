"""Two processes at one batch, and what the world does between two of their statements."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from sscd_ops.catalog import shards
from sscd_ops.errors import CommitConflict, InvariantError
from sscd_ops.model import Runner
from sscd_ops.steps import plan, resolve
from sscd_ops.steps.resolve import ResolveReport
from sscd_ops.testing import picture
from tests.integration.test_nights import DAYS, clouds, fill, planted_nights
from tests.integration.world import DATASET, World, assert_promises, interval, pair

LOSE_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND classid = 23761 AND database ="
    " (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""What a failover or a lost path does to a resolve that works for an hour: its lock is gone."""


class Stops:
    """Threads that resolve a batch; each may be stopped once, right after it wrote its rows."""

    def __init__(self, world: World, batch_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: dict[str, ResolveReport | BaseException] = {}
        self._world = world
        self._batch_id = batch_id
        self._reached: dict[str, threading.Event] = {}
        self._go: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}
        real = resolve._write_rows

        def write_rows(*given: Any) -> int:
            number = real(*given)
            name = threading.current_thread().name
            if name in self._reached and not self._reached[name].is_set():
                self._reached[name].set()
                assert self._go[name].wait(60)
            return number

        monkeypatch.setattr(resolve, "_write_rows", write_rows)

    def start(self, name: str) -> None:
        """Begin a resolve and come back when its rows are written."""
        self._reached[name], self._go[name] = threading.Event(), threading.Event()
        self._threads[name] = threading.Thread(target=self._decide, args=(name,), name=name)
        self._threads[name].start()
        assert self._reached[name].wait(60)

    def finish(self, name: str) -> ResolveReport | BaseException:
        """Let it go on to its end; what it answered."""
        self._go[name].set()
        self._threads[name].join()
        return self.said[name]

    def _decide(self, name: str) -> None:
        with self._world.parts() as parts:
            try:
                self.said[name] = resolve.run(parts, self._batch_id)
            except BaseException as error:
                self.said[name] = error


@pytest.fixture
def stops(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Stops]:
    """Begins with a batch that waits for resolve."""

    def begin() -> Stops:
        fill(world, planted_nights())
        with world.parts() as parts:
            return Stops(world, world.until_match(parts, DAYS[0]), monkeypatch)

    return begin


@pytest.mark.parametrize("first", ["zombie", "retry"])
def test_two_resolves_without_their_session_lock_decide_once(
    world: World, stops: Callable[[], Stops], first: str
) -> None:
    """The retry has deleted the zombie's rows when the zombie takes the lock, or the retry does."""
    race = stops()
    race.start("zombie")
    world.ask(LOSE_SESSIONS)
    race.start("retry")

    answers = [race.finish(first), race.finish("retry" if first == "zombie" else "zombie")]

    assert any(isinstance(answer, ResolveReport) for answer in answers), answers
    events = world.ask("SELECT kind, turn FROM curation.events ORDER BY event_id")
    assert events == [{"kind": "decided", "turn": 1}]
    assert_published_once(world)


def test_a_zombie_that_wakes_after_all_was_published_answers(
    world: World, stops: Callable[[], Stops]
) -> None:
    race = stops()
    race.start("zombie")
    world.ask(LOSE_SESSIONS)
    with world.parts() as parts:
        world.from_resolve(parts, 1)
    before = world.views()

    answer = race.finish("zombie")

    assert isinstance(answer, ResolveReport)
    assert answer.turn == 1
    assert world.views() == before
    assert_published_once(world)


def assert_published_once(world: World) -> None:
    with world.parts() as parts:
        world.from_resolve(parts, 1)
    assert_promises(world)
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.decisions") == [{"n": 1}]
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.segments") == [{"n": 1}]


def test_a_file_delivered_anew_before_a_repeated_plan_is_read_once(world: World) -> None:
    """The night waits for its turn; a.tar is written again, with one more sample; plan again."""
    world.put(DAYS[0], "a.tar", clouds(range(6)))
    world.put(DAYS[0], "b.tar", clouds(range(20, 26)))
    with world.parts() as parts:
        world.until_match(parts, DAYS[0])
        world.put(DAYS[0], "a.tar", [*clouds(range(6)), pair("new", picture(77))])
        batch = world.until_match(parts, DAYS[0])
        decided = world.from_resolve(parts, batch)

    assert decided.counts.read == 13
    assert_promises(world, read=13)


def test_a_sample_that_is_twice_in_a_batch_is_refused(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
        with parts.catalog.begin() as conn:
            conn.exec_driver_sql(
                "INSERT INTO sscd_ops.source_shards (attempt_id, source, relative_uri, uri,"
                " version, size, group_no, ordinal, manifest, descriptors, counts)"
                " SELECT attempt_id, source, relative_uri, uri, 'x', size, group_no, 9, manifest,"
                " descriptors, counts FROM sscd_ops.source_shards"
            )
            conn.exec_driver_sql(
                "INSERT INTO sscd_ops.shard_owners (dataset_id, source, relative_uri, version,"
                " batch_id, attempt_id) SELECT dataset_id, source, relative_uri, 'x', batch_id,"
                " attempt_id FROM sscd_ops.shard_owners"
            )
        with pytest.raises(InvariantError, match="3 samples of batch 1 are in it twice"):
            resolve.run(parts, batch)


def test_a_shard_appended_while_resolve_reads_is_never_owned_and_undecided(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cleared plan appends b.tar between the two statements that list the batch's shards."""
    world.put(DAYS[0], "a.tar", clouds(range(6)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
    world.put(DAYS[0], "b.tar", clouds(range(20, 26)))
    real = shards.queries_of

    def between(*given: Any) -> str:
        monkeypatch.setattr(shards, "queries_of", real)
        with world.parts() as other:
            runner = Runner("airflow", "curate_web", f"run-{DAYS[0]}")
            plan.run(other, DATASET, interval(DAYS[0]), runner=runner)
        return real(*given)

    monkeypatch.setattr(shards, "queries_of", between)
    with world.parts() as parts:
        with pytest.raises(CommitConflict, match="source shards were added"):
            resolve.run(parts, batch)
        world.until_match(parts, DAYS[0])
        world.from_resolve(parts, batch)

    assert_promises(world, read=12)


def test_files_of_an_attempt_that_was_replaced_are_read_when_they_come_back(world: World) -> None:
    """b.tar goes away before its night is planned anew, and comes back with a later one."""
    world.change_source(urls=(f"{world.incoming}/*/*.tar",))
    world.put("any", "a.tar", clouds(range(4)))
    b = world.put("any", "b.tar", clouds(range(10, 14)))
    with world.parts() as parts:  # a command that dies after plan
        plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))
    away = b.rename(world.base / "b.tar")
    world.night(DAYS[1])  # takes a.tar over
    world.night(DAYS[0])  # planned anew, without b.tar
    away.rename(b)

    third = world.night(DAYS[2])

    assert third.counts.read == 4
    assert_promises(world, read=8)


def test_planning_takes_no_number_of_a_dataset_that_is_there(world: World) -> None:
    """The numbers end at 32,767."""
    for _ in range(3):
        world.night(DAYS[0])

    assert world.ask("SELECT last_value FROM sscd_ops.datasets_dataset_id_seq") == [
        {"last_value": 1}
    ]
