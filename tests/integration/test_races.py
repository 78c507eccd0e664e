"""Two processes at one batch, and what the world does between two of their statements."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sscd_ops.catalog import attempts, searches, shards
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.faults import CONNECTIONS
from sscd_ops.catalog.locks import CLI_LOCK, RESOLVE_LOCK
from sscd_ops.errors import (
    BatchNotRunnable,
    CatalogUnavailable,
    CommitConflict,
    InvariantError,
    SourceChanged,
    StaleAttempt,
)
from sscd_ops.model import Runner, StoredFile
from sscd_ops.options import StorageOptions
from sscd_ops.steps import (
    awaiting,
    commit,
    embed,
    ingest,
    manage,
    match,
    plan,
    publish,
    resolve,
    survey,
    turns,
)
from sscd_ops.steps.night import NightReport
from sscd_ops.steps.reports import StepReport
from sscd_ops.steps.resolve import ResolveReport
from sscd_ops.storage.cache import FileCache
from sscd_ops.storage.store import LocalStore
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.integration.test_nights import DAYS, clouds, fill, planted_nights
from tests.integration.world import DATASET, World, assert_promises, interval, pair
from tests.soak import sweep

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
        real = turns._write_rows

        def write_rows(*given: Any) -> int:
            number = real(*given)
            name = threading.current_thread().name
            if name in self._reached and not self._reached[name].is_set():
                self._reached[name].set()
                assert self._go[name].wait(60)
            return number

        monkeypatch.setattr(turns, "_write_rows", write_rows)

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
    world: World, stops: Callable[[], Stops], first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry has deleted the zombie's rows when the zombie takes the lock, or the retry does."""
    # a zombie that finds its lock with the retry waits for that one
    monkeypatch.setattr(resolve, "_PATIENCE", 2.0)
    race = stops()
    race.start("zombie")
    world.ask(LOSE_SESSIONS)
    race.start("retry")

    answers = [race.finish(first), race.finish("retry" if first == "zombie" else "zombie")]

    assert any(isinstance(answer, ResolveReport) for answer in answers), answers
    events = world.ask("SELECT kind, turn FROM curation.events ORDER BY event_id")
    assert events == [{"kind": "decided", "turn": 1}]
    assert_published_once(world)


@pytest.mark.parametrize("cleaned_up", [False, True])
def test_a_zombie_that_wakes_after_all_was_published_answers(
    world: World, stops: Callable[[], Stops], cleaned_up: bool
) -> None:
    """Whoever delivers may take the files away once their night is published."""
    race = stops()
    race.start("zombie")
    world.ask(LOSE_SESSIONS)
    with world.parts() as parts:
        world.from_resolve(parts, 1)
    before = world.views()
    kept = world.base / "kept"
    if cleaned_up:
        world.incoming.rename(kept)

    answer = race.finish("zombie")

    if cleaned_up:
        kept.rename(world.incoming)

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


LOSE_COMMANDS = LOSE_SESSIONS.replace("23761", str(CLI_LOCK))
"""The same, to the session that says a command is alive."""


@pytest.mark.parametrize(
    "step",
    sweep([ingest, survey, embed, match, resolve, publish, commit], [embed, resolve, commit]),
)
def test_a_command_that_lost_its_session_takes_the_batch_again_before_the_next_step(
    world: World, monkeypatch: pytest.MonkeyPatch, step: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world, planted_nights())
    real = step.run
    locks: list[Any] = []

    def run(*given: Any) -> Any:
        """The session ends in the middle of a step: the next one begins with a lock."""
        answer = real(*given)
        locks.append(world.ask(LOSE_COMMANDS))
        return answer

    def looks(*given: Any) -> Any:
        locks.append(world.ask(HELD))
        return real_commit(*given)

    real_commit = commit.run
    monkeypatch.setattr(commit, "run", looks)
    if step is not commit:
        monkeypatch.setattr(step, "run", run)

    report = world.night(DAYS[0])

    assert str(report.state) == "published"
    assert locks[-1] == [{"n": 1}]
    assert ("was ended: taking them again" in caplog.text) is (step is not commit)
    assert_promises(world)


@pytest.mark.parametrize("point", ["work_out", "_answer"])
def test_a_command_that_loses_its_session_inside_resolve_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Its session holds two locks then, one of which it lets go before the next step."""
    fill(world, planted_nights())
    real = getattr(resolve, point)

    def lost(*given: Any) -> Any:
        answer = real(*given)
        world.ask(LOSE_COMMANDS)
        return answer

    monkeypatch.setattr(resolve, point, lost)

    assert str(world.night(DAYS[0]).state) == "published"
    assert_promises(world)


def test_locks_of_a_session_that_is_lost_again_and_again_are_taken_again(world: World) -> None:
    with world.parts() as parts, parts.catalog.locks() as locks:
        assert locks.take(CLI_LOCK, 1)
        for _ in range(3):
            world.ask(LOSE_COMMANDS)
            with pytest.raises(CatalogUnavailable):
                locks.take(RESOLVE_LOCK, 1)
            assert locks.keep()
            assert world.ask(HELD) == [{"n": 1}]


HELD = LOSE_COMMANDS.replace("pg_terminate_backend(pid)", "count(*) AS n")


def test_a_command_whose_batch_another_took_stops_before_the_next_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, planted_nights())
    real = match.run
    lost, stopped = threading.Event(), threading.Event()
    said: list[BaseException | NightReport] = []

    def first(*given: Any) -> Any:
        """The first command's match; the second's waits until the first has stopped."""
        answer = real(*given)
        if not lost.is_set():
            world.ask(LOSE_COMMANDS)
            lost.set()
            threading.Thread(target=second, name="second").start()
            assert holding.wait(60)
        else:
            holding.set()
            assert stopped.wait(60)
        return answer

    def second() -> None:
        try:
            said.append(world.night(DAYS[0]))
        except BaseException as error:
            said.append(error)

    holding = threading.Event()
    monkeypatch.setattr(match, "run", first)
    try:
        with pytest.raises(BatchNotRunnable, match="another command runs the batch"):
            world.night(DAYS[0])
    finally:
        stopped.set()
    for thread in threading.enumerate():
        if thread.name == "second":
            thread.join(60)

    assert isinstance(said[0], NightReport), said
    assert_promises(world)
    assert world.ask("SELECT message FROM curation.runs") == [{"message": ""}]


def test_a_command_uses_two_connections_and_a_third_for_a_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, planted_nights())
    most: list[int] = []
    stop = threading.Event()
    watch = Catalog(world.url, application_name="watch")

    def look() -> None:
        counted = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'sscd-ops%'"
        )
        while not stop.is_set():
            with watch.begin() as conn:
                most.append(conn.execute(counted).scalar_one())
            time.sleep(0.002)

    looking = threading.Thread(target=look)
    looking.start()
    world.night(DAYS[0])
    stop.set()
    looking.join()
    watch.dispose()

    assert sorted(most)[len(most) // 2] <= 2
    assert max(most) <= CONNECTIONS


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
    real = shards.files_digest

    def between(*given: Any) -> str:
        monkeypatch.setattr(shards, "files_digest", real)
        with world.parts() as other:
            runner = Runner("airflow", "curate_web", f"run-{DAYS[0]}")
            plan.run(other, DATASET, interval(DAYS[0]), runner=runner)
        return real(*given)

    monkeypatch.setattr(shards, "files_digest", between)
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


# ---------------------------------------------------------------- another default of isolation


@pytest.fixture
def isolated(world: World, request: pytest.FixtureRequest) -> World:
    """A world whose database begins transactions at another level, as its owner may set it."""
    with world.parts() as parts, parts.catalog.begin() as conn:
        name = parts.catalog.engine.url.database
        conn.exec_driver_sql(
            f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'"
        )
    return world


def wait_until_somebody_waits(world: World) -> None:
    """Until a statement waits for a lock that another transaction has."""
    waiting = (
        "SELECT 1 AS x FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    deadline = time.monotonic() + 20
    while not world.ask(waiting):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("isolated", ["repeatable read", "serializable"], indirect=True)
def test_a_shard_appended_while_resolve_waits_for_the_lock_is_never_lost(
    isolated: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cleared plan has the lock and appends b.tar: resolve must see it once it has the lock."""
    world = isolated
    world.put(DAYS[0], "a.tar", clouds(range(6)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
    world.put(DAYS[0], "b.tar", clouds(range(20, 26)))
    appended = threading.Event()
    add_shards, write_rows = shards.add_shards, turns._write_rows

    def append() -> None:
        with world.parts() as other:
            runner = Runner("airflow", "curate_web", f"run-{DAYS[0]}")
            plan.run(other, DATASET, interval(DAYS[0]), runner=runner)

    def adds(*given: Any) -> None:
        add_shards(*given)
        appended.set()
        wait_until_somebody_waits(world)

    with ThreadPoolExecutor() as pool, world.parts() as parts:
        planned: list[Future[None]] = []

        def writes(*given: Any) -> int:
            number = write_rows(*given)
            if not planned:
                planned.append(pool.submit(append))
                assert appended.wait(60)
            return number

        monkeypatch.setattr(shards, "add_shards", adds)
        monkeypatch.setattr(turns, "_write_rows", writes)
        with pytest.raises(CommitConflict, match="source shards were added"):
            resolve.run(parts, batch)
        planned[0].result()
        monkeypatch.undo()
        world.until_match(parts, DAYS[0])
        world.from_resolve(parts, batch)

    assert_promises(world, read=12)


@pytest.mark.parametrize("isolated", ["repeatable read"], indirect=True)
def test_two_commands_that_plan_one_night_at_once_have_one_batch(isolated: World) -> None:
    """The second waits for the lock while the first registers the night."""
    world = isolated
    world.put(DAYS[0], "a.tar", clouds(range(6)))
    registered = threading.Event()

    def hold(batch_id: int) -> None:
        registered.set()
        wait_until_somebody_waits(world)

    def planned(hold: Callable[[int], None] | None = None) -> int:
        with world.parts() as parts:
            runner = Runner("cli")
            return plan.run(parts, DATASET, interval(DAYS[0]), runner=runner, hold=hold).batch_id

    with ThreadPoolExecutor() as pool:
        first = pool.submit(planned, hold)
        assert registered.wait(60)
        second = planned()

    assert second == first.result()
    world.night(DAYS[0])
    assert_promises(world, read=6)


# ---------------------------------------------------------------- tasks side by side


def side_by_side(world: World, works: list[Callable[[Wiring], object]]) -> list[object]:
    """Run each in a thread with parts of its own; what they answered or raised."""
    said: list[object] = []

    def one(work: Callable[[Wiring], object]) -> None:
        with world.parts() as parts:
            try:
                said.append(work(parts))
            except BaseException as error:
                said.append(error)

    threads = [threading.Thread(target=one, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def planned_shards(world: World, count: int) -> plan.PlanReport:
    for number in range(count):
        world.put(DAYS[0], f"{number}.tar", clouds(range(number * 3, number * 3 + 3)))
    with world.parts() as parts:
        runner = Runner("airflow", "curate_web", f"run-{DAYS[0]}")
        return plan.run(parts, DATASET, interval(DAYS[0]), runner=runner)


def test_two_tries_of_one_ingest_do_not_deadlock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planned_shards(world, 1)
    both = threading.Barrier(2)
    real = attempts.require_attempt

    def require_attempt(*given: Any) -> None:
        real(*given)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)

    monkeypatch.setattr(attempts, "require_attempt", require_attempt)
    said = side_by_side(
        world, [lambda parts: ingest.run(parts, planned.batch_id, planned.groups)] * 2
    )

    assert [type(answer) for answer in said] == [StepReport] * 2, said


def test_two_ingests_that_end_together_leave_the_batch_ingested(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planned_shards(world, 2)
    both = threading.Barrier(2)
    real = shards.register_file

    def register_file(*given: Any) -> None:
        real(*given)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)

    monkeypatch.setattr(shards, "register_file", register_file)
    side_by_side(
        world,
        [
            lambda parts, group=group: ingest.run(parts, planned.batch_id, group)
            for group in planned.groups
        ],
    )

    assert world.ask("SELECT state FROM curation.runs") == [{"state": "ingested"}]


def test_a_zombie_match_leaves_a_new_attempt_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    real = searches.searched

    def searched(*given: Any) -> Any:
        monkeypatch.setattr(searches, "searched", real)
        with world.parts() as other:
            manage.abandon(other, 1, actor="ann", why="test")
            runner = Runner("airflow", "curate_web", f"run-{DAYS[0]}")
            plan.run(other, DATASET, interval(DAYS[0]), runner=runner)
        return real(*given)

    monkeypatch.setattr(searches, "searched", searched)
    with world.parts() as parts, pytest.raises(StaleAttempt):
        world.until_match(parts, DAYS[0])

    assert world.ask("SELECT state FROM curation.runs") == [{"state": "planned"}]


def test_a_zombie_publish_says_nothing_of_a_published_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(5)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
        resolve.run(parts, batch)
    real = publish.write_shard

    def late(*given: Any) -> Any:
        monkeypatch.setattr(publish, "write_shard", real)
        with world.parts() as other:
            world.from_resolve(other, batch)
        (world.incoming / DAYS[0] / "a.tar").rename(world.base / "a.tar")  # cleaned up
        return real(*given)

    monkeypatch.setattr(publish, "write_shard", late)
    with world.parts() as parts, pytest.raises(SourceChanged):
        publish.run(parts, batch, 0)

    kinds = [row["kind"] for row in world.ask("SELECT kind FROM curation.events")]
    assert kinds == ["decided", "published"]


def test_an_abandoned_night_that_is_planned_again_is_not_waited_for(world: World) -> None:
    for day in DAYS[:2]:
        world.put(day, "a.tar", clouds(range(3), prefix=day))
    with world.parts() as parts:
        parts._ask_airflow = lambda runner: True
        first = world.until_match(parts, DAYS[0])
        second = world.until_match(parts, DAYS[1])
        assert [other.batch_id for other in awaiting.arrive(parts, second)[0]] == [first]
        manage.abandon(parts, first, actor="ann", why="test")
        later = Runner("airflow", "curate_web", "a later run")
        plan.run(parts, DATASET, interval(DAYS[0]), runner=later)

        assert awaiting.arrive(parts, second)[0] == []


def test_a_night_that_waits_for_its_data_again_is_not_waited_for(world: World) -> None:
    """Its feed takes the marker away to deliver anew, and plan is cleared."""
    world.change_source(ready=f"{world.incoming}/{{date}}/_SUCCESS")
    for number, day in enumerate(DAYS[:2]):
        world.put(day, "a.tar", clouds(range(number * 10, number * 10 + 3)))
        (world.incoming / day / "_SUCCESS").touch()
    with world.parts() as parts:
        parts._ask_airflow = lambda runner: True
        world.until_match(parts, DAYS[0])
        (world.incoming / DAYS[0] / "_SUCCESS").unlink()
        runner = Runner("airflow", "curate_web", f"run-{DAYS[0]}")
        again = plan.run(parts, DATASET, interval(DAYS[0]), runner=runner)
        assert again.waiting_for is not None
        second = world.until_match(parts, DAYS[1])

        assert awaiting.arrive(parts, second)[0] == []


def test_the_newest_pointer_stands_though_storage_hung_longer_than_a_transaction_may(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first night's pointer is written after the second's: its lock had gone meanwhile."""
    for number, day in enumerate(DAYS[:2]):
        world.put(day, "a.tar", clouds(range(number * 20, number * 20 + 5)))
    with world.parts() as parts:
        first = world.until_match(parts, DAYS[0])
        for group in resolve.run(parts, first).groups:
            publish.run(parts, first, group)
    init = Catalog.__init__
    monkeypatch.setattr(Catalog, "__init__", partialmethod(init, idle_timeout=0.5))
    real = LocalStore.replace

    def hangs(self: LocalStore, name: str, data: bytes) -> None:
        monkeypatch.setattr(LocalStore, "replace", real)
        world.night(DAYS[1])  # waits for the lock until the server ends our transaction
        real(self, name, data)

    monkeypatch.setattr(LocalStore, "replace", hangs)
    with world.parts() as parts:
        commit.run(parts, first)

    latest = world.base / "root" / DATASET / "snapshots" / "latest.json"
    assert json.loads(latest.read_text())["snapshot"] == 2
    assert_promises(world)


def test_two_match_tasks_of_one_host_do_not_trim_each_others_copies(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have been given the path of a copy, and neither has opened it, in a full cache."""
    world.storage = StorageOptions(
        f"memory://{world.base}", str(world.base / "cache"), cache_bytes=1
    )
    for number, day in enumerate(DAYS[:2]):
        world.put(day, "a.tar", clouds(range(number * 20, number * 20 + 5)))
        world.night(day)
    world.put(DAYS[2], "a.tar", clouds(range(40, 45)))
    with monkeypatch.context() as patch, world.parts() as parts:
        patch.setattr(match, "run", lambda *given: None)
        patch.setattr(survey, "PAIRS_A_TASK", 1)
        batch = world.until_match(parts, DAYS[2])
    both = threading.Barrier(2)
    waited: set[str] = set()
    real = FileCache.get

    def get(self: FileCache, file: StoredFile, download: Callable[[Path], None]) -> Path:
        path = real(self, file, download)
        name = threading.current_thread().name
        if file.name.endswith(".npy") and name not in waited:
            waited.add(name)
            both.wait(30)
        return path

    monkeypatch.setattr(FileCache, "get", get)
    said = side_by_side(
        world, [lambda parts, part=part: match.run(parts, batch, part) for part in range(2)]
    )

    assert [type(answer) for answer in said] == [StepReport] * 2, said
