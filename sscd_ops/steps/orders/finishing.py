"""What an order asked for beside its verdicts, once it is in force: to forget, and to purge.

Each is done again with every retry of the order, and finds it done: what came below the root since,
or came again and was stopped by the order's rules, goes then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog import events, forgotten, orders, receipts, rules, withdrawn_set
from sscd_ops.catalog.orders import Order
from sscd_ops.errors import OrderNotApplicable, UsageError
from sscd_ops.model import ERASED, Person
from sscd_ops.plurals import counted
from sscd_ops.steps.orders.forgetting import Forgotten, forget
from sscd_ops.steps.orders.purging import Purged, purge
from sscd_ops.steps.orders.receipts import listed
from sscd_ops.steps.orders.receipts import write as write_receipt
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.vacuum import by_folder

FORGET, PURGE = "forget", "purge"
"""Flags of an order's request."""


@dataclass(frozen=True)
class Finished:
    """What was done beside the verdicts; None where it was not asked for."""

    forgotten: Forgotten | None = None
    purged: Purged | None = None


def finish(parts: Parts, order_id: int, *, by: Person, and_tagged: bool = False) -> Finished:
    """Forget and purge what an order in force covers, as far as it asks for that.

    Args:
        parts: the real parts.
        order_id: the order.
        by: who carries it out, for events.
        and_tagged: expire snapshots too that a tag keeps.

    Raises:
        UsageError: a tag keeps a snapshot that holds what is to go.
        FileMismatch: a file that is to be written anew is damaged.
        CommitConflict: others were quicker many times over (retried).
    """
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id)
        if order.turn_to is not None or not to_do(order):
            return Finished()
        samples = covered(conn, order)
        pictures = withdrawn_set.pictures_of(conn, order_id)
        held = withdrawn_set.held_by_others(conn, order.dataset_id, order_id)
    why = f"order {order_id}"
    forgot = gone = None
    if FORGET in to_do(order):
        forgot = forget(parts, order.dataset, samples, pictures, held, actor=by.actor, why=why)
    if PURGE in to_do(order):
        try:
            gone = purge(
                parts,
                order.dataset,
                samples,
                actor=by.actor,
                why=why,
                and_tagged=and_tagged,
            )
        except UsageError as error:
            raise UsageError(
                f"order {order_id} is in force and published, and not purged: {error}. Then:"
                f" sscd-ops order apply {order_id}"
            ) from error
        write_receipt(parts, order_id, "purge", _receipt(gone))
    with parts.catalog.begin() as conn:
        forgotten.mark_finished(conn, order_id)
    return Finished(forgot, gone)


def to_do(order: Order) -> list[str]:
    """Which of them an order asks for."""
    return [flag for flag in (FORGET, PURGE) if order.request.get(flag)]


def covered(conn: Connection, order: Order) -> set[UUID]:
    """The samples that an order in force withdrew, or stopped as they were read."""
    found = {UUID(bytes=number) for number in orders.covered_by(conn, order.decision)}
    found |= set(rules.ruled_samples(conn, order.dataset_id, order.order_id))
    return found | set(forgotten.of_withdrawn_images(conn, order.dataset_id, order.order_id))


def _receipt(done: Purged) -> dict[str, Any]:
    """What the receipt of a purge says beside the order's own."""
    return {
        "purged": {
            "expired": done.expired,
            "removed": {
                folder: {"files": count, "bytes": size}
                for folder, (count, size) in by_folder(done.removed).items()
            },
            "manifests_sha256": listed(list(done.manifests.values())),
            "cache_copies": done.copies,
            "samples_of_equal_bytes": done.kept_bytes,
            "sources_uri_sha256": {name: listed(uris) for name, uris in done.sources.items()},
        }
    }


# ---------------------------------------------------------------- an order's own text


def erase_text_of(parts: Parts, order_id: int, *, by: Person) -> str:
    """Take out what an order and its receipts say of people: its reason, URLs and file names.

    Digests stay, so that its rules go on; of a domain the host has to. What holds now, in words.

    Raises:
        UsageError: there is no such order.
        OrderNotApplicable: it waits for somebody who has to know its reason.
    """
    with parts.catalog.begin() as conn:
        order = orders.read_order(conn, order_id, lock=True)
        if order.state in ("drafted", "held"):
            raise OrderNotApplicable(
                f"order {order_id} is {order.state}, and whoever decides has to know its reason:"
                f" sscd-ops order apply {order_id}, or sscd-ops order refuse {order_id} --why"
                " '...', first"
            )
        changed = forgotten.erase_order(conn, order_id)
        changed |= bool(receipts.erase(conn, order_id))
        hosts = forgotten.hosts_of(conn, order_id)
        if changed:
            events.add_event(
                conn,
                order.dataset_id,
                "erased",
                actor=by.actor,
                why=f"text of order {order_id}",
                details={"order_id": order_id, "by": by.known},
            )
    with parts.catalog.direct() as conn:
        forgotten.drop_dead_orders(conn)
    said = f"order {order_id} says {ERASED} in place of its reason, URLs and file names; their"
    said += " digests stay, and its rules hold"
    if hosts:
        words = counted(hosts, "domain stays in words", "domains stay in words")
        said += f". {words}: rules by domain need them"
    return said
