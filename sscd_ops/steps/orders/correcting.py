"""What the tasks of ``correct_<dataset>`` do, each for itself; a command does all in one go.

A task may die anywhere and be tried again, and a night may publish the order between two of them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import decisions, orders, output_shards, published, snapshots
from sscd_ops.catalog.decisions import Decision
from sscd_ops.errors import (
    EffectChanged,
    InvariantError,
    OrderHeld,
    OrderNotApplicable,
    UsageError,
)
from sscd_ops.model import OrderState, Person
from sscd_ops.steps.orders import applying
from sscd_ops.steps.orders.applying import Applied
from sscd_ops.steps.orders.receipts import write_due
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.publish import is_unwritten, write_others
from sscd_ops.steps.snapshots import told_of


def apply(parts: Parts, dataset: str, order_id: int, *, effect: str, by: Person) -> Applied:
    """Put an order in force that was looked at, or let one pass that is held; publish nothing.

    Args:
        parts: the real parts.
        dataset: whose DAG was triggered.
        order_id: the order.
        effect: the digest of what was looked at, or its beginning.
        by: who triggered the run.

    Raises:
        UsageError: it is another dataset's, or held and drafted or applied by the same person.
        OrderNotApplicable: it was refused or reverted.
        EffectChanged: it would change something else by now: a new draft was stored.
        OrderHeld: it changes more than one person may decide alone.
        CommitConflict: others were quicker many times over (retried).
    """
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id)
    if order.dataset != dataset:
        raise UsageError(
            f"order {order_id} is one of dataset {order.dataset!r}: trigger"
            f" correct_{order.dataset}, not correct_{dataset}"
        )
    try:
        if order.state is OrderState.HELD:
            applying.let_pass(parts, order_id, by=by, effect=effect)
        answered = applying.put_in_force(parts, order_id, by=by, effect=effect)
    except OrderHeld as error:
        raise OrderHeld(
            f"{error}. In Airflow: another user than {by.airflow_user} triggers"
            f" correct_{dataset} with the same order and effect"
        ) from error
    except EffectChanged as error:
        raise EffectChanged(
            f"{error}; or trigger correct_{dataset} with the effect that it shows"
        ) from error
    return applying.applied(parts, order_id, answered=answered)


def write(parts: Parts, order_id: int) -> dict[str, int]:
    """Write the output shards of what is kept instead; how many there are, and are still to write.

    A source that went is no error here: what went must leave the snapshot all the same.
    """
    with parts.catalog.begin() as conn:
        decision = _decision_of(conn, order_id)
    if not decision.is_published:
        write_others(parts, [decision])
    with parts.catalog.begin() as conn:
        planned = output_shards.planned_shards(conn, decision.decision_id)
    return {"shards": len(planned), "unwritten": sum(map(is_unwritten, planned))}


def receipt(parts: Parts, order_id: int) -> list[int]:
    """Write the receipts of the dataset that are due; the orders they are of."""
    with parts.catalog.begin() as conn:
        dataset_id = _decision_of(conn, order_id).dataset_id
    return write_due(parts, dataset_id)


def made(parts: Parts, order_id: int) -> dict[str, Any]:
    """The snapshot that publishes an order, as its asset's event tells of it; empty: none yet."""
    with parts.catalog.begin() as conn:
        decision = _decision_of(conn, order_id)
        if decision.snapshot is None:
            return {}
        snapshot = snapshots.read_snapshot(conn, decision.dataset_id, decision.snapshot)
    if snapshot is None:
        raise InvariantError(f"snapshot {decision.snapshot} of order {order_id} is not registered")
    return {"order": order_id, **told_of(parts, snapshot)}


def is_announced(parts: Parts, order_id: int) -> bool:
    """Whether the asset event of that snapshot is out."""
    with parts.catalog.begin() as conn:
        return _decision_of(conn, order_id).announced


def mark_announced(parts: Parts, order_id: int) -> None:
    """Store that it is."""
    with parts.catalog.begin() as conn:
        published.mark_announced(conn, _decision_of(conn, order_id).decision_id)


def _decision_of(conn: Connection, order_id: int) -> Decision:
    order = orders.read_order(conn, order_id)
    if order.turn is None:
        raise OrderNotApplicable(f"order {order_id} is {order.state}: it is applied first")
    return decisions.of_turn(conn, order.dataset_id, order.turn)
