"""Turns: the one way to change verdicts, to make a snapshot, and to store the index otherwise.

Whatever changes a dataset is worked out without the lock, for the dataset's numbers as they were
read, and its rows are written under a decision number that nothing names. Then one short
transaction under the lock compares those numbers, and puts the decision in force or leaves. Who
leaves works it out again, after a moment; after three losses the others wait for it. A process
killed anywhere leaves a decision's rows that nothing names, and the next try deletes them.

Nobody else writes ``next_turn``, ``generation`` and ``snapshot`` (``catalog.datasets.advance``).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import pyarrow as pa
from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, decisions, events, locks
from sscd_ops.catalog.copy import copy_table
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.partitions import MONTHLY, ensure_month
from sscd_ops.errors import CommitConflict, SscdOpsError, StaleAttempt
from sscd_ops.steps.parts import Parts, Stopwatch
from sscd_ops.steps.snapshots import check_root

log = logging.getLogger(__name__)

_TRIES = 20
"""Times a change is worked out anew because another one was quicker."""
_LOSSES = 3
"""After so many the others wait for this one."""
_PATIENCE = 900.0
"""Seconds to wait for one that lost so often, or in line behind another such."""
_WRITERS = 2
"""Tables written at a time."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
"""Seconds before the second try; doubled for each further one, up to the longest."""

Made: TypeAlias = pa.Table | Iterable[pa.Table]
"""Rows, or blocks of them, each of which is made when the one before it is being written."""
W = TypeVar("W")
R = TypeVar("R")


@dataclass(frozen=True)
class Seen:
    """What a change is worked out for: the dataset's row, and each bank's newest turn."""

    dataset: Dataset
    origins: Mapping[int, int] = field(default_factory=dict)

    def is_as(self, now: Seen) -> bool:
        """Whether nothing moved that verdicts rest on."""
        mine, its = self.dataset, now.dataset
        return (
            mine.next_turn,
            mine.decided_at,
            mine.generation,
            mine.indexed_at,
            mine.fingerprint,
            self.origins,
        ) == (
            its.next_turn,
            its.decided_at,
            its.generation,
            its.indexed_at,
            its.fingerprint,
            now.origins,
        )


@dataclass(frozen=True)
class Record:
    """Who decided what, and why: kept with the decision and as its event."""

    actor: str
    why: str
    config_sha256: str
    counts: Mapping[str, Any]
    details: Mapping[str, Any]
    batch_id: int | None = None


class Decider(Protocol[W]):
    """What takes a turn: a night, an order, a bank's change. All that differs between kinds."""

    dataset_id: int

    @property
    def origins(self) -> Sequence[int]:
        """The banks it is compared with, beside the dataset's own history."""

    def is_settled(self, conn: Connection) -> bool:
        """Whether another process decided the same; raises where it may not be decided (now).

        Asked before anything is worked out and under the lock.
        """

    def work_out(self, seen: Seen, before: W | None) -> W:
        """Decide for what was seen, without any lock.

        ``before`` is what was worked out for an earlier turn, of which what still holds may be
        taken over.
        """

    def month(self, worked: W) -> date:
        """The partition of its rows."""

    def open(self, conn: Connection, worked: W) -> int:
        """A new decision number, with the rows that are few."""

    def rows(self, worked: W, decision_id: int) -> Iterator[tuple[str, Made]]:
        """(table, rows) to COPY."""

    def give_up(self, conn: Connection) -> None:
        """Mark earlier tries as lost. The caller holds the dataset's lock."""

    def guard(self, seen: Seen, worked: W) -> str:
        """Why a person has to look at it first; empty where none has to."""

    def hold(self, conn: Connection, worked: W, message: str) -> SscdOpsError | None:
        """Store, under the lock, that it is held, and answer with the error that says so.

        None where a person released it: it goes on.
        """

    def admit(self, conn: Connection, worked: W) -> None:
        """Raise where what it was worked out from is no longer so. Under the lock."""

    def put(self, conn: Connection, worked: W, decision_id: int, generation: int) -> bool:
        """Name its segment and masks from ``generation`` on; whether there are any."""

    def record(self, worked: W) -> Record:
        """Who, why, and the figures."""


@dataclass(frozen=True)
class Taken:
    """A turn taken. ``lock_seconds``: for how long the dataset's lock was held."""

    decision_id: int
    turn: int
    lock_seconds: float


def take(
    parts: Parts, decider: Decider[W], keep: Callable[[], None] = lambda: None
) -> Taken | None:
    """Put a decision in force, in the dataset's next turn.

    Args:
        parts: the real parts.
        decider: the decision.
        keep: called after each lost try; raises where this process may not go on.

    Returns:
        None where another process decided the same meanwhile.

    Raises:
        SscdOpsError: what the decider raises, and answers where it is held.
        CommitConflict: others were quicker many times over (retried).
        StoreRefused, CatalogBehind: root and catalog do not belong together (``check_root``).
    """
    _check_root(parts, decider.dataset_id)
    before: W | None = None

    def attempt(is_first: bool) -> Taken | _Lost | None:
        nonlocal before
        try:
            with parts.catalog.begin() as conn:
                if decider.is_settled(conn):
                    return None
                seen = Seen(
                    datasets.of_number(conn, decider.dataset_id),
                    datasets.turns(conn, decider.origins),
                )
            before = decider.work_out(seen, before)
            written = _write_rows(parts, decider, before)
            if isinstance(written, _Lost):
                return LOST
            message = decider.guard(seen, before)
            return _swap(parts, decider, seen, before, written, message, is_first)
        except StaleAttempt:
            forget_tries(parts, decider)
            raise
        except SscdOpsError:
            # what is wrong by now is no matter where another process decided the same: who
            # delivers what was decided may take the files away
            if not _is_settled(parts, decider):
                raise
            return None

    answer = _until_not_lost(parts, decider.dataset_id, attempt, keep)
    if answer is None:
        forget_tries(parts, decider)
    return answer


def _check_root(parts: Parts, dataset_id: int) -> None:
    with parts.catalog.begin() as conn:
        check_root(parts, conn, datasets.of_number(conn, dataset_id))


def _is_settled(parts: Parts, decider: Decider[W]) -> bool:
    """Whether another process decided the same; not, where that cannot be asked."""
    try:
        with parts.catalog.begin() as conn:
            return decider.is_settled(conn)
    except SscdOpsError:
        return False


class _Written(NamedTuple):
    """A try whose rows are all there, and since when."""

    decision_id: int
    moment: datetime


def _write_rows(parts: Parts, decider: Decider[W], worked: W) -> _Written | _Lost:
    """COPY the decision's rows into the final tables; nothing names them yet.

    Two tables at a time, each in a transaction of its own: a COPY keeps one core of the server
    busy. The last transaction says that all are there. LOST where the try was given up meanwhile.
    """
    forget_tries(parts, decider)
    for table in MONTHLY:
        ensure_month(parts.catalog, decider.month(worked), table)
    with parts.catalog.begin() as conn:
        decision_id = decider.open(conn, worked)
        opened = decisions.moment(conn, decision_id)

    at_work: set[Any] = set()

    def write(table: str, rows: Made) -> bool:
        rows = _begun(rows)
        with parts.catalog.begin() as conn:
            at_work.add(own := conn.connection.dbapi_connection)
            try:
                stands = decisions.keep_try(conn, decision_id, opened)
                if stands:
                    copy_table(conn, table, rows)
                return stands
            finally:
                at_work.discard(own)

    stood: list[bool] = []
    parts.progress.start("write rows", None)
    with (
        ThreadPoolExecutor(_WRITERS, thread_name_prefix="write") as pool,
        _cutting_off(at_work),
    ):
        running: set[Future[bool]] = set()
        for table, rows in decider.rows(worked, decision_id):
            running.add(pool.submit(write, table, rows))
            if len(running) == _WRITERS:  # no more are asked for than can be written
                done, running = wait(running, return_when=FIRST_COMPLETED)
                stood += [future.result() for future in done]
        stood += [future.result() for future in running]
    parts.progress.done()
    if not all(stood):
        return LOST
    with parts.catalog.begin() as conn:
        written = decisions.mark_written(conn, decision_id, opened)
    return LOST if written is None else _Written(decision_id, written)


def _begun(rows: Made) -> Made:
    """Rows of which the first are made: that may take longer than a transaction may stand idle.

    The further ones are made while COPY waits for them, and there the server is patient.
    """
    if isinstance(rows, pa.Table):
        return rows
    blocks = iter(rows)
    return chain(list(islice(blocks, 1)), blocks)


@contextmanager
def _cutting_off(connections: set[Any]) -> Iterator[None]:
    """On an error, an interrupt too, cancel what is at work: its rows are of no more use."""
    try:
        yield
    except BaseException:
        for connection in tuple(connections):
            with suppress(Exception):  # it may have ended meanwhile; the error that was is told
                connection.cancel()
        raise


def forget_tries(parts: Parts, decider: Decider[W]) -> None:
    """Delete what earlier tries left: marked in a moment under the lock, deleted without it."""
    with parts.catalog.begin() as conn:
        datasets.lock(conn, decider.dataset_id)
        decider.give_up(conn)
    with parts.catalog.begin() as conn:
        decisions.delete_lost(conn, decider.dataset_id)


def _swap(
    parts: Parts,
    decider: Decider[W],
    seen: Seen,
    worked: W,
    written: _Written,
    message: str,
    is_first: bool,
) -> Taken | _Lost | None:
    held = Stopwatch()

    def under_lock(conn: Connection) -> Taken | SscdOpsError | _Lost | None:
        nonlocal held
        held = Stopwatch()
        decision_id = written.decision_id
        now = Seen(*datasets.lock_with(conn, decider.dataset_id, decider.origins))
        dataset = now.dataset
        if decider.is_settled(conn):
            return None
        if decisions.is_lost(conn, *written) or not seen.is_as(now):
            return LOST
        decider.admit(conn, worked)
        error = decider.hold(conn, worked, message) if message else None
        if error is not None:
            return error
        generation = dataset.generation
        if decider.put(conn, worked, decision_id, generation + 1):
            generation += 1
        _put_in_force(conn, decider.record(worked), now, decision_id, generation)
        return Taken(decision_id, dataset.next_turn, 0.0)

    answer = _in_line(parts, decider.dataset_id, under_lock, is_first)
    if isinstance(answer, SscdOpsError):
        raise answer  # what was stored under the lock is committed by now
    return replace(answer, lock_seconds=held.seconds) if isinstance(answer, Taken) else answer


def _put_in_force(
    conn: Connection, record: Record, now: Seen, decision_id: int, generation: int
) -> None:
    dataset = now.dataset
    decisions.put_in_force(
        conn,
        decision_id,
        turn=dataset.next_turn,
        generation=generation,
        config_sha256=record.config_sha256,
        actor=record.actor,
        why=record.why,
        counts=record.counts,
        origins=now.origins,
    )
    datasets.advance(
        conn,
        dataset.dataset_id,
        next_turn=dataset.next_turn + 1,
        generation=generation,
        snapshot=dataset.snapshot,
    )
    events.add_event(
        conn,
        dataset.dataset_id,
        "decided",
        actor=record.actor,
        why=record.why,
        turn=dataset.next_turn,
        batch_id=record.batch_id,
        details=dict(record.details),
    )


# ---------------------------------------------------------------- without a turn


class SnapshotMaker(Protocol[W]):
    """What makes a snapshot that follows a decision."""

    dataset_id: int

    def work_out(self, seen: Seen) -> W:
        """List and write what the next snapshot holds, without any lock."""

    def put(self, conn: Connection, seen: Seen, worked: W) -> int:
        """Register it, under the lock; the dataset's newest snapshot after that."""


def make_snapshot(parts: Parts, maker: SnapshotMaker[W]) -> None:
    """Make a decision part of the dataset's next snapshot, which follows the newest turn.

    Raises:
        SscdOpsError: what the maker raises.
        CommitConflict: others were quicker many times over (retried).
    """

    def put(conn: Connection, seen: Seen, now: Seen, worked: W) -> Dataset | _Lost:
        before, newest = seen.dataset, now.dataset
        if (before.snapshot, before.published_at) != (newest.snapshot, newest.published_at):
            return LOST
        return replace(newest, snapshot=maker.put(conn, now, worked))

    _change_without_turn(parts, maker.dataset_id, maker.work_out, put)


class GenerationMaker(Protocol[W]):
    """What stores the index in another way, by which every kept image stays kept."""

    dataset_id: int

    def work_out(self, seen: Seen) -> W:
        """Write what the next generation lists, without any lock."""

    def put(self, conn: Connection, worked: W, generation: int) -> bool:
        """Name it from ``generation`` on, under the lock; whether there is anything."""


def make_generation(parts: Parts, maker: GenerationMaker[W]) -> None:
    """Make the dataset's next generation, without a turn: no verdict changes.

    Who worked for the generation before loses its swap, and works it out for this one.

    Raises:
        SscdOpsError: what the maker raises.
        CommitConflict: others were quicker many times over (retried).
    """

    def put(conn: Connection, seen: Seen, now: Seen, worked: W) -> Dataset | _Lost:
        following = now.dataset.generation + 1
        if not maker.put(conn, worked, following):
            return now.dataset
        return replace(now.dataset, generation=following)

    _change_without_turn(parts, maker.dataset_id, maker.work_out, put)


def _change_without_turn(
    parts: Parts,
    dataset_id: int,
    work_out: Callable[[Seen], W],
    put: Callable[[Connection, Seen, Seen, W], Dataset | _Lost],
) -> None:
    """Work it out without the lock; under it write it, if nothing moved that it rests on.

    ``put`` is told what was seen and what is so now, and answers with the dataset's numbers then.
    """
    _check_root(parts, dataset_id)

    def attempt(is_first: bool) -> _Lost | None:
        with parts.catalog.begin() as conn:
            seen = Seen(datasets.of_number(conn, dataset_id))
        worked = work_out(seen)

        def under_lock(conn: Connection) -> _Lost | None:
            now = Seen(datasets.lock(conn, dataset_id))
            if not seen.is_as(now):
                return LOST
            following = put(conn, seen, now, worked)
            if isinstance(following, _Lost):
                return LOST
            datasets.advance(
                conn,
                dataset_id,
                next_turn=following.next_turn,
                generation=following.generation,
                snapshot=following.snapshot,
            )
            return None

        return _in_line(parts, dataset_id, under_lock, is_first)

    _until_not_lost(parts, dataset_id, attempt, lambda: None)


# ---------------------------------------------------------------- losing, and waiting in line


class _Lost:
    """Another one was quicker."""


LOST = _Lost()


def _until_not_lost(
    parts: Parts,
    dataset_id: int,
    attempt: Callable[[bool], R | _Lost],
    keep: Callable[[], None],
) -> R:
    """Try until nobody else was quicker; ``attempt`` is told whether the others wait for it."""
    with parts.catalog.locks() as line:
        is_first = False
        for losses in range(_TRIES):
            if losses == _LOSSES:
                is_first = line.take(locks.LINE, dataset_id, wait=_PATIENCE)
            elif losses > _LOSSES:
                is_first = line.keep()  # its session may have been ended
            answer = attempt(is_first)
            if not isinstance(answer, _Lost):
                return answer
            keep()
            log.info("another one was quicker, working it out again dataset=%s", dataset_id)
            time.sleep(_pause(losses))
    raise CommitConflict(f"dataset {dataset_id}: others were quicker {_TRIES} times; try again")


def _pause(losses: int) -> float:
    # not in step with the one that was quicker
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**losses) * random.uniform(0.5, 1.5)


def _in_line(
    parts: Parts, dataset_id: int, under_lock: Callable[[Connection], R], is_first: bool
) -> R:
    """Run the short transaction, once nobody who lost too often is at work."""
    waited = Stopwatch()
    while True:
        with parts.catalog.begin() as conn:
            if is_first or locks.may_pass(conn, dataset_id):
                return under_lock(conn)
        if waited.seconds > _PATIENCE:
            raise CommitConflict(
                f"dataset {dataset_id}: another command has had its turn for"
                f" {waited.seconds:.0f} s and does not end; try again"
            )
        time.sleep(_LONGEST_PAUSE / 10)
