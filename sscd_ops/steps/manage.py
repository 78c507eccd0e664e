"""What people decide about a batch: release, abandon."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, batches, datasets, decisions, events
from sscd_ops.errors import BatchNotRunnable, UsageError
from sscd_ops.model import Batch, BatchState
from sscd_ops.steps.parts import Parts


def release(parts: Parts, batch_id: int, *, actor: str, why: str) -> str:
    """Let a held batch pass the guard, whatever its figures are then; what to do next.

    Raises:
        UsageError: no reason given.
        BatchNotRunnable: the batch is not held.
    """
    need_reason(actor, why)
    with parts.catalog.begin() as conn:
        batch = _locked(conn, batch_id)
        if batch.state is not BatchState.HELD:
            raise BatchNotRunnable(
                f"batch {batch_id} is {batch.state}, not held: there is nothing to release"
                " (`sscd-ops batch list` shows which are)"
            )
        attempts.release(conn, batch)
        events.add_event(
            conn, batch.dataset_id, "released", actor=actor, why=why, batch_id=batch_id
        )
    return (
        f"batch {batch_id} is released: clear its resolve task, or run its night again"
        f" ({batch.name})"
    )


def abandon(parts: Parts, batch_id: int, *, actor: str, why: str) -> str:
    """End an undecided batch's attempt and give its source shards back; what to do next.

    A runner that is at work on it is not asked: its next write is refused, as of an attempt that
    is no longer the batch's.

    Raises:
        UsageError: no reason given.
        BatchNotRunnable: the batch is decided.
    """
    need_reason(actor, why)
    with parts.catalog.begin() as conn:
        batch = _locked(conn, batch_id)
        if batch.state.is_decided:
            raise BatchNotRunnable(
                f"batch {batch_id} is {batch.state}: what is decided cannot be abandoned; run"
                " its night again to publish it, or with --supplement to read files that came later"
            )
        if batch.state is not BatchState.ABANDONED:  # else: asked again, after a kill
            attempts.abandon(conn, batch)
            events.add_event(
                conn, batch.dataset_id, "abandoned", actor=actor, why=why, batch_id=batch_id
            )
        decisions.give_up(conn, batch)
    with parts.catalog.begin() as conn:
        # of a try that was held or died; without the lock, as they may be many
        decisions.delete_lost(conn, batch.dataset_id)
    return f"batch {batch_id} is abandoned: running its night again ({batch.name}) plans it anew"


def need_reason(actor: str, why: str) -> None:
    """Refuse what a person decides without a name or a reason.

    Raises:
        UsageError: says what to add.
    """
    if not actor.strip() or not why.strip():
        raise UsageError("say who and why: --who NAME --why '...' (kept in the catalog)")


def _locked(conn: Connection, batch_id: int) -> Batch:
    """The batch as it stands under its dataset's lock."""
    datasets.lock(conn, batches.read_batch(conn, batch_id).dataset_id)
    return batches.read_batch(conn, batch_id)
