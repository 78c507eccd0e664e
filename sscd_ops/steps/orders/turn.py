"""An order, as what takes a turn (``turns.Decider``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    decisions,
    events,
    forgotten,
    orders,
    output_shards,
    segments,
    withdrawn_set,
)
from sscd_ops.catalog.orders import Order
from sscd_ops.core.changes import change_table
from sscd_ops.errors import (
    CommitConflict,
    EffectChanged,
    OrderHeld,
    OrderNotApplicable,
    SscdOpsError,
)
from sscd_ops.model import DecisionKind, OrderState, Person, StoredFile
from sscd_ops.plurals import counted
from sscd_ops.steps.losing import write_masks
from sscd_ops.steps.orders.ordered import Ordered
from sscd_ops.steps.parts import Parts, configured
from sscd_ops.steps.turns import Record, Seen
from sscd_ops.steps.withdrawn_set import (
    NO_PICTURES,
    StoredPictures,
    add_pictures,
    store_pictures,
)

WorkOut = Callable[[Seen], Ordered]


@dataclass(frozen=True)
class Written:
    """An order worked out, with its masks as files: segment number -> file, rows it keeps.

    ``pictures``: as they are stored for the withdrawn set.
    """

    ordered: Ordered
    masks: Mapping[int, tuple[StoredFile, int]]
    month: date
    pictures: StoredPictures


class OrderTurn:
    """Carries an order out, if it still does what its draft said.

    Args:
        parts: the real parts.
        order: as it was read, with its newest draft.
        effect: the digest that was shown.
        work_out: works the order out.
        redraft: stores what it does now, where that is something else; raises what to say.
        by: who applies it.
    """

    origins: Sequence[int] = ()

    def __init__(
        self,
        parts: Parts,
        order: Order,
        effect: str,
        work_out: WorkOut,
        redraft: Callable[[Ordered], EffectChanged],
        *,
        by: Person,
    ) -> None:
        self._parts, self._order, self._effect = parts, order, effect
        self._work_out, self._redraft, self._by = work_out, redraft, by
        self.dataset_id = order.dataset_id

    def is_settled(self, conn: Connection) -> bool:
        """Whether it was applied.

        Raises:
            OrderNotApplicable: it was refused or reverted.
        """
        now = orders.read_order(conn, self._order.order_id)
        need_applicable(now)
        return now.decision_id is not None

    def work_out(self, seen: Seen, before: Written | None) -> Written:
        """Decide it for the dataset as it was seen.

        Raises:
            EffectChanged: it would change something else than its draft said.
        """
        ordered = self._work_out(seen)
        if ordered.effect != self._effect:
            raise self._redraft(ordered)
        masks = write_masks(self._parts, ordered.work, ordered.masks)
        pictures = NO_PICTURES
        if ordered.pictures is not None:
            pictures = store_pictures(self._parts, ordered.work.folder, ordered.pictures)
        return Written(ordered, masks, datetime.now(UTC).date().replace(day=1), pictures)

    def month(self, worked: Written) -> date:
        """That in which it was worked out."""
        return worked.month

    def open(self, conn: Connection, worked: Written) -> int:
        """A new number, and the output shards of what is kept anew."""
        key, plan = self._order.decision_key, worked.ordered.planned
        number = decisions.open_other(conn, self.dataset_id, DecisionKind.ORDER, worked.month, key)
        output_shards.add_plan(conn, number, worked.ordered.turn, plan.digest, plan.shards)
        return number

    def rows(self, worked: Written, decision_id: int) -> Iterator[tuple[str, pa.Table]]:
        """Its changes, and its pictures."""
        ordered = worked.ordered
        table = change_table(
            ordered.changes,
            dataset_id=self.dataset_id,
            turn=ordered.turn,
            decision_id=decision_id,
        )
        yield "changes", table
        entries = worked.pictures.entries(self._order.order_id, decision_id)
        yield "withdrawn_images", withdrawn_set.entry_table(entries, self.dataset_id)

    def give_up(self, conn: Connection) -> None:
        """Mark other tries to apply it as lost."""
        decisions.give_up_others(conn, self.dataset_id, self._order.decision_key)

    def guard(self, seen: Seen, worked: Written) -> str:
        """Whether it changes more than one person may decide alone, and was not approved."""
        changed = len(worked.ordered.effects)
        most = configured(self._parts, self._order.dataset).orders.most(worked.ordered.kept)
        # a second part is too much with its first, however little it is alone
        is_second = self._order.verb == "withdraw" and self._order.of_order is not None
        if is_second:
            return near_waits(self._order, changed)
        if changed <= most:
            return ""
        return (
            f"order {self._order.order_id} would change the verdicts of"
            f" {counted(changed, 'sample')}, more"
            f" than {most} (orders.max_changed): another person has to approve it"
            f" (sscd-ops order approve {self._order.order_id}), or turns it down (sscd-ops order"
            f" refuse {self._order.order_id} --why '...')"
        )

    def hold(self, conn: Connection, worked: Written, message: str) -> SscdOpsError | None:
        """Store that it is held; None where this very effect was approved."""
        now = self._locked(conn)
        if now.approved == self._effect:
            return None
        orders.hold(conn, now.order_id, message, self._by.known)
        details = {"order_id": now.order_id, "effect": self._effect}
        events.add_event(
            conn, self.dataset_id, "held", actor=self._by.actor, why=message, details=details
        )
        return OrderHeld(message)

    def admit(self, conn: Connection, worked: Written) -> None:
        """Refuse where it was refused, or drafted anew, or lost what it keeps, meanwhile.

        Raises:
            CommitConflict: the text of what it would keep was erased (retried).
            OrderNotApplicable: it was refused.
            EffectChanged: another draft of it was stored.
        """
        now = self._locked(conn)
        carriers = list(worked.ordered.planned.slots)
        if erased := forgotten.erased_of(conn, self.dataset_id, carriers):
            raise CommitConflict(
                f"the text of sample {min(erased)} was erased meanwhile, and it is not published"
                " again: run this again"
            )
        if now.draft != self._order.draft:
            raise EffectChanged(
                f"order {now.order_id} was drafted anew meanwhile: look at what it would change"
                f" (sscd-ops order show {now.order_id}), then apply it again"
            )

    def _locked(self, conn: Connection) -> Order:
        now = orders.read_order(conn, self._order.order_id, lock=True)
        need_applicable(now)
        return now

    def put(self, conn: Connection, worked: Written, decision_id: int, generation: int) -> bool:
        """Name its masks and the segment of its pictures; its rules hold from its turn on."""
        for segment_id, (mask, kept) in worked.masks.items():
            segments.add_mask(conn, segment_id, generation, mask, kept)
        turn = worked.ordered.turn
        orders.mark_applied(
            conn,
            self._order.order_id,
            decision_id,
            turn,
            self._by.known,
            worked.ordered.counts,
        )
        fingerprint = worked.ordered.work.attempt.fingerprint
        has_pictures = add_pictures(
            conn, self.dataset_id, decision_id, generation, worked.pictures, fingerprint
        )
        return bool(worked.masks) or has_pictures

    def record(self, worked: Written) -> Record:
        """Who, and how many became what. The ground stays with the order: it can be erased."""
        order = self._order
        return Record(
            actor=self._by.actor,
            why=f"order {order.order_id}",
            config_sha256=worked.ordered.work.attempt.config_sha256,
            counts=worked.ordered.counts,
            details={
                "order_id": order.order_id,
                "verb": order.verb,
                "effect": self._effect,
                "counts": dict(worked.ordered.counts),
                "by": self._by.known,
            },
        )


def near_waits(second: Order, changed: int) -> str:
    """Why the second part of an order is held."""
    number = second.order_id
    return (
        f"order {number} would withdraw what is near to the pictures of order {second.of_order},"
        f" {changed} samples: another person has to approve it (sscd-ops order approve {number}),"
        f" or turns it down (sscd-ops order refuse {number} --why '...')"
    )


def need_applicable(order: Order) -> None:
    """Refuse an order that was refused or reverted.

    Raises:
        OrderNotApplicable: it was.
    """
    if order.state in (OrderState.REFUSED, OrderState.REVERTED):
        raise OrderNotApplicable(
            f"order {order.order_id} was {order.state}: give the command that drafted it again,"
            " which drafts a new one"
        )
