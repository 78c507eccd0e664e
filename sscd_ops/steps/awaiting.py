"""Whose turn it is: batches under way together decide in the order of their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sscd_ops.catalog import batches, datasets, events, waiting
from sscd_ops.model import Runner
from sscd_ops.steps.parts import Parts, load_work


@dataclass(frozen=True)
class WaitFor:
    """A batch that decides first, and who runs it."""

    batch_id: int
    runner: Runner
    night: str
    alive: bool | None
    """None where the runner can't be asked from here."""


def arrive(parts: Parts, batch_id: int) -> tuple[list[WaitFor], float]:
    """Fix the waiting set on first arrival; who must still decide first, and seconds waited.

    A batch that is decided, held, abandoned or whose runner is known to be dead is not waited for;
    a decided batch itself never waits.
    """
    with parts.catalog.begin() as conn:
        batch = batches.read_batch(conn, batch_id)
        if batch.state.is_decided or batch.dry_run:
            return [], 0.0
        datasets.lock(conn, batch.dataset_id)
        undecided, since = waiting.waiting_set(conn, batch)
    waited = (datetime.now(UTC) - since).total_seconds()
    answer = []
    for other in undecided:
        alive = parts.is_alive(other)
        if alive is not False:
            answer.append(WaitFor(other.batch_id, other.runner or Runner("cli"), other.name, alive))
    return answer, waited


def leave_unasked(
    parts: Parts, batch_id: int, waiting: Sequence[WaitFor], waited: float
) -> list[WaitFor]:
    """Who is still waited for: after ``turn.max_wait`` (frozen) not those who can't be asked.

    Where nobody else is left the batch decides now, and an event says without whom.
    """
    unasked = [other for other in waiting if other.alive is None]
    if not unasked or waited < load_work(parts, batch_id).options.turn.max_wait:
        return list(waiting)
    asked = [other for other in waiting if other.alive is not None]
    if not asked:
        _note_not_awaited(parts, batch_id, unasked)
    return asked


def _note_not_awaited(parts: Parts, batch_id: int, others: Sequence[WaitFor]) -> None:
    """Write the event that the batch decides although these could not be asked any longer."""
    with parts.catalog.begin() as conn:
        batch = batches.lock_batch(conn, batch_id)
        if events.is_told(conn, batch_id, "turn_not_awaited"):
            return  # by an earlier try
        events.add_event(
            conn,
            batch.dataset_id,
            "turn_not_awaited",
            actor=str(batch.runner),
            why="turn.max_wait passed and their runners could not be asked",
            batch_id=batch_id,
            details={"batches": [other.batch_id for other in others]},
        )
