"""Orders from the draft to the snapshot: draft, apply, approve, refuse, revert.

Commands, Airflow and Python call these. Each may die anywhere and be called again.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, decisions, events, orders
from sscd_ops.catalog.orders import Draft, Order, Subject
from sscd_ops.errors import (
    EffectChanged,
    OrderHeld,
    OrderNotApplicable,
    SourceChanged,
    UsageError,
)
from sscd_ops.model import OrderState, Person
from sscd_ops.steps import turns
from sscd_ops.steps.manage import need_reason
from sscd_ops.steps.next_snapshot import publish_others
from sscd_ops.steps.orders.asked import Withdrawal
from sscd_ops.steps.orders.copies import describe
from sscd_ops.steps.orders.finishing import Finished, finish, to_do
from sscd_ops.steps.orders.ordered import Ordered, difference
from sscd_ops.steps.orders.receipts import write_due
from sscd_ops.steps.orders.reverting import revert as work_out_revert
from sscd_ops.steps.orders.turn import OrderTurn, near_waits, need_applicable
from sscd_ops.steps.orders.withdrawing import withdraw
from sscd_ops.steps.orders.withdrawing_copies import withdraw_copies, withdraw_near
from sscd_ops.steps.parts import Parts, configured, load_work
from sscd_ops.steps.snapshots import check_root, repair_latest
from sscd_ops.steps.still_there import StillThere
from sscd_ops.steps.turns import Seen


@dataclass(frozen=True)
class Drafted:
    """An order and what it would change; ``is_new``: this call registered it.

    Of one that was applied, ``draft`` is what it did change.
    """

    order: Order
    draft: Draft
    is_new: bool


@dataclass(frozen=True)
class Applied:
    """An order in force. ``snapshot``: the first without what went; None: not published yet.

    ``answered``: it was applied before. ``second``: the order by which what is near to its pictures
    waits for another person. ``finished``: what it asked for beside its verdicts.
    """

    order: Order
    counts: Mapping[str, Any]
    snapshot: int | None
    answered: bool
    second: Order | None = None
    finished: Finished = field(default_factory=Finished)


def this_person(parts: Parts, actor: str, airflow_user: str = "") -> Person:
    """Who decides: what was typed, and what is known beside it."""
    with parts.catalog.begin() as conn:
        database_user = orders.database_user(conn)
    os_user = ""
    with suppress(KeyError, OSError):  # a container's user without a name
        os_user = getpass.getuser()
    return Person(actor, database_user, os_user, socket.gethostname(), airflow_user)


# ---------------------------------------------------------------- draft


def draft(parts: Parts, asked: Withdrawal) -> Drafted:
    """Store what is asked for, and what it would change; the same demand finds its order again.

    Raises:
        UsageError: the dataset has no decided night.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, asked.dataset)
        check_root(parts, conn, dataset)
        if not dataset.turn:
            raise UsageError(
                f"dataset {asked.dataset!r} has no decided night: run one first, then there is"
                " something to withdraw"
            )
    subjects = _described(parts, dataset.dataset_id, asked)
    with parts.catalog.begin() as conn:
        datasets.lock(conn, dataset.dataset_id)  # two at once are one order
        found = orders.open_order(conn, dataset.dataset_id, asked.client_key)
        if found is None:
            order_id = orders.add_order(
                conn,
                dataset.dataset_id,
                verb="withdraw",
                request=asked.request,
                client_key=asked.client_key,
                subjects=subjects,
                actor=asked.who.actor,
                why=asked.why,
                drafted_by=asked.who.known,
            )
            _tell(conn, orders.read_order(conn, order_id), "drafted", asked.who)
        else:
            order_id = found.order_id
    return Drafted(*_redraft(parts, order_id), is_new=found is None)


def _described(parts: Parts, dataset_id: int, asked: Withdrawal) -> Sequence[Subject]:
    """What is named; pictures whose copies go too are described, by the dataset's model.

    Raises:
        UsageError: one is no picture.
    """
    if asked.scope != "and-copies" or not asked.pictures:
        return asked.subjects
    with parts.catalog.begin() as conn:
        work = load_work(parts, decisions.newest_night(conn, dataset_id))
    described = {subject.digest: subject for subject in describe(parts, work, asked.pictures)}
    return [described[s.digest] if s.kind == "picture" else s for s in asked.subjects]


def revert(parts: Parts, order_id: int, *, who: Person, why: str) -> Drafted:
    """Draft the end of an order.

    Raises:
        OrderNotApplicable: it is not in force.
    """
    need_reason(who.actor, why)
    with parts.catalog.begin() as conn:
        target = orders.read_order(conn, order_id)
        datasets.lock(conn, target.dataset_id)
        target = orders.read_order(conn, order_id)
        key = f"revert {order_id}"
        found = orders.open_order(conn, target.dataset_id, key)
        if found is None or found.state is not OrderState.APPLIED:
            _need_in_force(target)
        if found is None:
            number = orders.add_order(
                conn,
                target.dataset_id,
                verb="revert",
                request={},
                client_key=key,
                subjects=[],
                actor=who.actor,
                why=why,
                drafted_by=who.known,
                of_order=order_id,
            )
            _tell(conn, orders.read_order(conn, number), "drafted", who)
        else:
            number = found.order_id
    return Drafted(*_redraft(parts, number), is_new=found is None)


def _need_in_force(order: Order) -> None:
    if order.state is not OrderState.APPLIED or order.verb != "withdraw":
        what = "reverts another one" if order.verb != "withdraw" else f"is {order.state}"
        raise OrderNotApplicable(
            f"order {order.order_id} {what}: only one that is in force can be reverted"
            " (`sscd-ops order list` shows which are)"
        )
    if order.of_order is not None:
        raise OrderNotApplicable(
            f"order {order.order_id} is the second part of order {order.of_order}, whose pictures"
            f" still hold: sscd-ops order revert {order.of_order} --why '...' ends both"
        )


def _redraft(parts: Parts, order_id: int) -> tuple[Order, Draft]:
    """An order with its newest draft, which is what it would change now, unless it was applied."""
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id)
        last = orders.newest_draft(conn, order_id)
        seen = Seen(datasets.of_number(conn, order.dataset_id))
        if order.state not in (OrderState.DRAFTED, OrderState.HELD):
            return order, orders.need_draft(conn, order_id)
    ordered = _work_out(parts, order, seen, StillThere(parts))
    if last is None or last.effect != ordered.effect:
        _store(parts, order, ordered)
    with parts.catalog.begin() as conn:
        return orders.read_order(conn, order_id), orders.need_draft(conn, order_id)


def _work_out(parts: Parts, order: Order, seen: Seen, there: StillThere) -> Ordered:
    if order.verb == "withdraw":
        if order.of_order is not None:
            return withdraw_near(parts, order, seen, there)
        takes_copies = order.request["scope"] == "and-copies"
        return (withdraw_copies if takes_copies else withdraw)(parts, order, seen, there)
    with parts.catalog.begin() as conn:
        target = orders.read_order(conn, order.of_order or 0)
    return work_out_revert(parts, target, seen, there)


def _store(parts: Parts, order: Order, ordered: Ordered) -> None:
    """Store what an order would change as its newest draft, unless another one did meanwhile."""
    with parts.catalog.begin() as conn:
        now = orders.read_order(conn, order.order_id, lock=True)
        if now.draft == order.draft and now.state in (OrderState.DRAFTED, OrderState.HELD):
            orders.add_draft(
                conn,
                now,
                turn=ordered.turn - 1,
                effect=ordered.effect,
                counts=ordered.counts,
                effects=ordered.effects,
            )


# ---------------------------------------------------------------- apply


def apply(
    parts: Parts,
    order_id: int,
    *,
    by: Person,
    later: bool = False,
    effect: str = "",
    and_tagged: bool = False,
) -> Applied:
    """Carry an order out as its newest draft says, and publish; forget and purge where it asks.

    Args:
        parts: the real parts.
        order_id: the order.
        by: who applies it.
        later: leave publishing to the next snapshot, whoever makes it.
        effect: the digest of what was looked at; empty: of the newest draft.
        and_tagged: where it purges, also what snapshots hold that a tag keeps.

    Raises:
        UsageError: it purges, and a tag keeps what is to go; or it purges or forgets, which
            publishes, and that is to be left for later.
        OrderNotApplicable: it was refused or reverted; it has no draft.
        EffectChanged: it would change something else by now: a new draft was stored.
        OrderHeld: it changes more than one person may decide alone.
        SourceChanged: a source went before what is kept anew was published.
        CommitConflict: others were quicker many times over (retried).
    """
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id)
    need_applicable(order)
    if later and to_do(order):
        raise UsageError(
            f"order {order_id} is to {' and '.join(to_do(order))}, which publishes first: leave"
            " --later away"
        )
    answered = put_in_force(parts, order_id, by=by, effect=effect)
    finished = Finished()
    if not later:
        publish(parts, order_id)
        write_due(parts, order.dataset_id)
        finished = finish(parts, order_id, by=by, and_tagged=and_tagged)
    return replace(applied(parts, order_id, answered=answered), finished=finished)


def put_in_force(parts: Parts, order_id: int, *, by: Person, effect: str = "") -> bool:
    """Have an order take its turn; publish nothing. Whether it had before.

    Raises:
        OrderNotApplicable, EffectChanged, OrderHeld, CommitConflict: as ``apply``.
    """
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id)
        shown = orders.newest_draft(conn, order_id)
    need_applicable(order)
    if order.decision_id is None:
        if shown is None:  # killed between its row and its draft
            order, shown = _redraft(parts, order_id)
        _need_seen(shown, effect)
        _take(parts, order, shown, by)
    _hold_near(parts, order_id, by)
    return order.decision_id is not None


def _need_seen(shown: Draft, effect: str) -> None:
    if effect and not shown.effect.startswith(effect):
        raise EffectChanged(
            f"order {shown.order_id} was drafted anew since: look at what it would change now"
            f" (sscd-ops order show {shown.order_id}), then apply it again"
        )


def _take(parts: Parts, order: Order, shown: Draft, by: Person) -> None:
    there = StillThere(parts)

    def redraft(ordered: Ordered) -> EffectChanged:
        with parts.catalog.begin() as conn:
            before = orders.effects_of(conn, order.order_id, shown.draft)
        _store(parts, order, ordered)
        return EffectChanged(
            f"order {order.order_id} would change something else than its draft said:"
            f" {difference(before, ordered.effects)}. Nothing was changed, and the new draft is"
            f" stored: look at it (sscd-ops order show {order.order_id}), then apply it (sscd-ops"
            f" order apply {order.order_id})"
        )

    decider = OrderTurn(
        parts,
        order,
        shown.effect,
        lambda seen: _work_out(parts, order, seen, there),
        redraft,
        by=by,
    )
    try:
        turns.take(parts, decider)
    except (EffectChanged, OrderHeld, OrderNotApplicable):
        turns.forget_tries(parts, decider)
        raise


def _hold_near(parts: Parts, order_id: int, by: Person) -> None:
    """Hold what is near to an order's pictures, and too much for one person, as a second order."""
    with parts.catalog.begin() as conn:
        datasets.lock(conn, orders.read_order(conn, order_id).dataset_id)
        order = orders.read_order(conn, order_id)
        if not orders.need_draft(conn, order_id).counts.get("near_waits"):
            return
        second = orders.second_part(conn, order_id)
        if second is None:
            number = orders.add_order(
                conn,
                order.dataset_id,
                verb="withdraw",
                request=order.request,
                client_key=f"near {order_id}",
                subjects=[],
                actor=order.actor,
                why=order.why,
                drafted_by=order.drafted_by,
                of_order=order_id,
            )
            second = orders.read_order(conn, number)
            _tell(conn, second, "drafted", by)
    if second.state is not OrderState.DRAFTED or order.state is not OrderState.APPLIED:
        return
    shown = _redraft(parts, second.order_id)[1]
    message = near_waits(second, shown.counts["changed"])
    with parts.catalog.begin() as conn:
        if orders.read_order(conn, second.order_id, lock=True).state is OrderState.DRAFTED:
            orders.hold(conn, second.order_id, message, by.known)
            _tell(conn, second, "held", by, effect=shown.effect)


def publish(parts: Parts, order_id: int) -> None:
    """Make the snapshot that follows an order in force, unless there is one.

    Raises:
        SourceChanged: what went is gone, and the source of what is kept instead went too.
        CommitConflict: others were quicker many times over (retried).
    """
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id)
    publish_others(parts, order.dataset_id)
    repair_latest(parts, order.dataset)
    with parts.catalog.begin() as conn:
        pending = decisions.pending_others(conn, order.dataset_id, order.turn or 0)
    if order.decision_id in {decision.decision_id for decision in pending}:
        raise SourceChanged(
            f"order {order_id} is in force, and what went is in no snapshot from now on; what is"
            " kept instead is not published, for a source went meanwhile. Once it can be read:"
            f" sscd-ops order apply {order_id}"
        )


def applied(parts: Parts, order_id: int, *, answered: bool) -> Applied:
    """What has become of an order in force."""
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id)
        shown = orders.newest_draft(conn, order_id)
        snapshot = orders.first_snapshot(conn, order)
        second = orders.second_part(conn, order_id)
    return Applied(order, shown.counts if shown else {}, snapshot, answered, second)


# ---------------------------------------------------------------- approve, refuse


def approve(
    parts: Parts,
    order_id: int,
    *,
    by: Person,
    effect: str = "",
    later: bool = False,
    and_tagged: bool = False,
) -> Applied:
    """Let an order pass that is held, as another person than drafted or applied it; apply it.

    ``effect``: the digest of what was looked at; empty: of the newest draft.

    Raises:
        UsageError: the same person drafted or applied it.
        OrderNotApplicable: it is not held.
        EffectChanged: it would change something else by now: a new draft was stored.
        SourceChanged, CommitConflict: as ``apply``.
    """
    let_pass(parts, order_id, by=by, effect=effect)
    return apply(parts, order_id, by=by, later=later, and_tagged=and_tagged)


def let_pass(parts: Parts, order_id: int, *, by: Person, effect: str = "") -> None:
    """Approve the effect of an order that is held.

    ``effect``: the digest of what was looked at; empty: of the newest draft.

    Raises:
        UsageError, OrderNotApplicable, EffectChanged: as ``approve``.
    """
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id, lock=True)
        shown = orders.newest_draft(conn, order_id)
        if order.decision_id is not None:
            return
        if order.state is not OrderState.HELD or shown is None:
            raise OrderNotApplicable(
                f"order {order_id} is {order.state}, not held: there is nothing to approve"
                " (`sscd-ops order list` shows which are)"
            )
        _need_seen(shown, effect)
        if configured(parts, order.dataset).orders.approval == "other":
            _need_another(order, by)
        if order.approved != shown.effect:
            orders.approve(conn, order_id, shown.effect, by.known)
            _tell(conn, order, "approved", by, effect=shown.effect)


def _need_another(order: Order, by: Person) -> None:
    """Refuse whoever drafted or applied an order, by a command or in Airflow."""
    mine = by.airflow_user or by.database_user
    other = (
        f"as another Airflow user, who triggers correct_{order.dataset}"
        if by.airflow_user
        else "with a login role of Postgres of its own (CREATE ROLE ... LOGIN IN ROLE"
        f" {mine}) in catalog.url"
    )
    for did, who in (("drafted", order.drafted_by), ("applied", order.applied_by)):
        if who is not None and mine in _names(who):
            raise UsageError(
                f"order {order.order_id} was {did} by {mine} too: another person has to approve it,"
                f" {other}; where nobody else is there, set"
                f' [datasets.{order.dataset}.orders] approval = "self", which is recorded'
            )


def _names(who: Mapping[str, str]) -> set[str]:
    """By which names a person is known again; in Airflow all share the role of its tasks."""
    if "airflow_user" in who:
        return {who["airflow_user"]}
    return {who[name] for name in ("database_user", "os_user") if name in who}


def refuse(parts: Parts, order_id: int, *, by: Person, why: str) -> Order:
    """Turn an order down that was not applied.

    Raises:
        UsageError: no reason given.
        OrderNotApplicable: it was applied.
    """
    need_reason(by.actor, why)
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id, lock=True)
        if order.decision_id is not None:
            raise OrderNotApplicable(
                f"order {order_id} is {order.state}: what is in force is ended by"
                f" sscd-ops order revert {order_id} --why '...'"
            )
        if order.state is not OrderState.REFUSED:  # else: asked again, after a kill
            orders.refuse(conn, order_id, why)
            _tell(conn, order, "refused", by)
    with parts.catalog.begin() as conn:  # what a process that was applying it left
        datasets.lock(conn, order.dataset_id)
        decisions.give_up_others(conn, order.dataset_id, order.decision_key)
    with parts.catalog.begin() as conn:
        decisions.delete_lost(conn, order.dataset_id)
    write_due(parts, order.dataset_id)
    return replace(order, state=OrderState.REFUSED, message=why)


def _tell(conn: Connection, order: Order, kind: str, by: Person, **details: Any) -> None:
    """Add the event of an order that takes no turn; the ground stays with the order."""
    told = {"order_id": order.order_id, "verb": order.verb, "by": by.known, **details}
    events.add_event(conn, order.dataset_id, kind, actor=by.actor, details=told)
