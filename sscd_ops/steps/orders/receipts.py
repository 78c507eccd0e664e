"""Receipts: what an order found, and what became of it, for whoever asked and for who comes after.

Written once for each order that was published or refused. The body holds ids and digests alone and
is chained to the one before; who asked, on what ground and for which URLs is in the attachment,
which can be erased: its digest in the body is salted, so that nobody can guess it afterwards.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, events, orders, receipts
from sscd_ops.catalog.orders import Order
from sscd_ops.catalog.receipts import Held, Receipt
from sscd_ops.model import Finding
from sscd_ops.steps.parts import Parts, configured

LISTED = 1000
"""Ids that a receipt lists; of more it has the number and one digest."""
RECEIPT = "receipt"
"""The kind of the event that each has."""
_LEFT = {
    "source": "the files that were read; they are not this product's",
    "root": "shards of snapshots that can be read; of expired ones, until vacuum removes them; the"
    " archive of what nights removed (publish.undo)",
    "backups": "backups and dumps of the storage root and of the database",
    "exports": "copies of shards that were made elsewhere",
    "models": "what was trained on a snapshot that held them",
}
_LEFT_BY_A_PURGE = {
    **{name: where for name, where in _LEFT.items() if name != "root"},
    "caches": "copies in storage.cache of other machines, until they are trimmed",
    "server": "pages of tables and the write-ahead log of Postgres, until they are written over",
}
_STAYS = {"ids and digests": "so that it is known what went, and that it does not come back"}
_NOT_FORGOTTEN = {"keys, captions, metadata, descriptors": "in catalog and index: not forgotten"}
_NOT_FORGOTTEN_BY_A_PURGE = {"descriptors, hashes": "in the index: not forgotten"}


def write_due(parts: Parts, dataset_id: int) -> list[int]:
    """Write the receipts that are due; the orders they are of. A retry writes none twice."""
    with parts.catalog.begin() as conn:
        found = receipts.due(conn, dataset_id)
    for order_id, kind in found:
        write(parts, order_id, kind)
    return [order_id for order_id, _ in found]


def write(parts: Parts, order_id: int, kind: str, more: Mapping[str, Any] | None = None) -> None:
    """Append a receipt of an order to its dataset's chain, unless it has one of this kind.

    Args:
        parts: the real parts.
        order_id: the order.
        kind: ``withdrawal``, ``refusal``, ``revert`` or ``purge``.
        more: what else the body says, ids and digests alone.
    """
    with parts.catalog.read() as conn:  # what may take long, without the lock
        order = orders.read_order(conn, order_id)
        told = _body(parts, conn, order, kind)
    with parts.catalog.begin() as conn:
        datasets.lock(conn, order.dataset_id)
        if receipts.has_receipt(conn, order_id, kind):
            return
        # read again and locked: what was erased meanwhile stays erased
        attachment = _attachment(conn, orders.read_order(conn, order_id, lock=True))
        number, previous = receipts.last_of(conn, order.dataset_id)
        told |= {
            "number": number + 1,
            "written_at": receipts.now(conn),
            "attachment_sha256": _digest(attachment),
            **(more or {}),
        }
        body = canonical(told)
        sha256 = receipts.chained(previous, body)
        receipts.add_receipt(
            conn,
            order.dataset_id,
            number=number + 1,
            order_id=order_id,
            kind=kind,
            body=body,
            sha256=sha256,
            attachment=attachment,
        )
        events.add_event(  # which says so beside the chain: one that was cut off is found
            conn,
            order.dataset_id,
            RECEIPT,
            actor="",
            turn=order.turn,
            details={"order_id": order_id, "number": number + 1, "sha256": sha256},
        )


def canonical(told: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces; equal contents are equal texts."""
    return json.dumps(
        told, sort_keys=True, separators=(",", ":"), default=_plain, ensure_ascii=False
    )


def _plain(told: Any) -> str:
    """Instants are in UTC, whatever zone the session has."""
    return told.astimezone(UTC).isoformat() if isinstance(told, datetime) else str(told)


def _digest(attachment: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(attachment).encode()).hexdigest()


def _attachment(conn: Connection, order: Order) -> dict[str, Any]:
    """What is personal."""
    return {
        "salt": secrets.token_hex(32),
        "who": order.actor,
        "why": order.why,
        "message": order.message,
        "drafted_by": dict(order.drafted_by),
        "applied_by": order.applied_by,
        "approved_by": order.approved_by,
        "subjects": [
            {"kind": each.kind, "value": each.value, "sha256": each.digest.hex()}
            for each in orders.subjects_of(conn, order.order_id)
        ],
    }


def _body(parts: Parts, conn: Connection, order: Order, kind: str) -> dict[str, Any]:
    moments = receipts.asked_and_decided(conn, order.order_id)
    draft = orders.newest_draft(conn, order.order_id)
    counts = {} if draft is None else dict(draft.counts)
    told: dict[str, Any] = {
        "kind": kind,
        "dataset": order.dataset,
        "order": order.order_id,
        "verb": order.verb,
        "request": dict(order.request),
        "of_order": order.of_order,
        "asked_at": moments["at"],
        "decided_at": moments["decided_at"],
        "turn": order.turn,
        "asked": _asked(conn, order),
        "matched": _matched(conn, order, counts, moments["fingerprint"]),
        "unsearched": counts.pop("unsearched", {}),
        "found": counts,
        "effect_sha256": None if draft is None else draft.effect,
    }
    if order.decision_id is not None:
        told |= _carried_out(parts, conn, order, kind, moments)
    return told


def _asked(conn: Connection, order: Order) -> dict[str, Any]:
    by_kind: dict[str, list[str]] = {}
    for each in orders.subjects_of(conn, order.order_id):
        by_kind.setdefault(each.kind, []).append(each.digest.hex())
    return {kind: listed(digests) for kind, digests in by_kind.items()}


def _matched(
    conn: Connection, order: Order, counts: dict[str, Any], fingerprint: str | None
) -> dict[str, Any]:
    """How what was asked for was matched: by equal ids, bytes, URLs; or near, by which model."""
    told: dict[str, Any] = {"exact": counts.pop("named_by", {})}
    if order.request.get("scope") == "and-copies" and order.decision_id is not None:
        near = receipts.near_of(conn, order.decision)
        told["near"] = {"fingerprint": fingerprint, **near}
    return told


def _carried_out(
    parts: Parts, conn: Connection, order: Order, kind: str, moments: Mapping[str, Any]
) -> dict[str, Any]:
    covered = [str(UUID(bytes=number)) for number in orders.covered_by(conn, order.decision)]
    became: dict[str, list[str]] = {}
    for number, (_, after) in orders.effects_of(conn, order.order_id, order.draft).items():
        became.setdefault(after, []).append(str(UUID(bytes=number)))
    told: dict[str, Any] = {
        "samples": listed(covered),
        "images": listed(receipts.withdrawn_images(conn, order.decision)),
        "became": {verdict: listed(numbers) for verdict, numbers in became.items()},
        "kept_instead": listed(receipts.kept_instead(conn, order.decision)),
        "published": {"snapshot": moments["snapshot"], "at": moments["published_at"]},
    }
    return told if order.verb == "revert" else told | _went(parts, conn, order, kind, moments)


def _went(
    parts: Parts, conn: Connection, order: Order, kind: str, moments: Mapping[str, Any]
) -> dict[str, Any]:
    """Where a withdrawal's samples are gone, and where they may be left."""
    purged = kind == "purge"
    known = _NOT_FORGOTTEN_BY_A_PURGE if purged else _NOT_FORGOTTEN
    newest = datasets.of_number(conn, order.dataset_id).snapshot
    held = _numbers(receipts.held_in(conn, order.decision), newest)
    tags, users, readable = receipts.tags_and_users(conn, order.dataset_id, held)
    return {
        "beside": dict(receipts.beside(conn, order.decision)),
        "snapshots": {
            "held": held,
            "first_without": moments["snapshot"],
            "readable": readable,
            "stay_readable": configured(parts, order.dataset).retention.snapshots or "all",
            "tags": tags,
            "users": users,
        },
        "bytes": {
            "in_no_snapshot_from": moments["snapshot"],
            "in_readable_snapshots": bool(readable),
            "may_be_left_in": _LEFT_BY_A_PURGE if purged else _LEFT,
        },
        "stays": _STAYS | ({} if order.request.get("forget") else known),
    }


def _numbers(ranges: Sequence[Held], newest: int) -> list[int]:
    found = {n for r in ranges for n in range(r.start, newest + 1 if r.end is None else r.end)}
    return sorted(found)


def listed(ids: Sequence[str]) -> dict[str, Any]:
    """Ids as a receipt lists them: how many, one digest of all, and each where they are few."""
    in_order = sorted(ids)
    told: dict[str, Any] = {
        "count": len(in_order),
        "sha256": hashlib.sha256("".join(f"{each}\n" for each in in_order).encode()).hexdigest(),
    }
    return told | ({"ids": in_order} if len(in_order) <= LISTED else {})


# ---------------------------------------------------------------- looked at


def verify(parts: Parts, dataset: str) -> list[Finding]:
    """What is wrong with a dataset's chain: a receipt that was changed, taken out or put in."""
    with parts.catalog.read() as conn:
        dataset_id = datasets.need(conn, dataset).dataset_id
        return broken(
            receipts.chain_of(conn, dataset_id), receipts.told_of(conn, dataset_id, RECEIPT)
        )


_REMEDY = "restore the table sscd_ops.receipts from a dump: somebody changed it by hand"


def broken(chain: Sequence[Receipt], told: Mapping[int, str]) -> list[Finding]:
    """As ``verify``, of a chain that was read.

    Args:
        chain: the receipts, by number.
        told: number -> digest, as the events say that they were written.
    """
    found = []
    previous = ""
    for place, each in enumerate(chain, 1):
        name = f"receipt {each.receipt_id} of {each.dataset}"
        if each.number != place:
            found.append(Finding("receipts", f"{name}: those before it are missing", _REMEDY))
            break
        if receipts.chained(previous, each.body) != each.sha256:
            found.append(Finding("receipts", f"{name} is not what was written", _REMEDY))
        elif told.get(each.number) != each.sha256:
            found.append(Finding("receipts", f"{name}: its event has another digest", _REMEDY))
        else:
            found += [Finding("receipts", f"{name}: {what}", _REMEDY) for what in _beside(each)]
        previous = each.sha256
    else:
        if missing := sorted(number for number in told if number > len(chain)):
            what = f"{len(missing)} receipt(s) are missing, from number {missing[0]} on"
            found.append(Finding("receipts", what, _REMEDY))
    return found


def _beside(receipt: Receipt) -> list[str]:
    """What a receipt's row says beside its body, and the body does not."""
    body = json.loads(receipt.body)
    row = {
        "kind": receipt.kind,
        "order": receipt.order_id,
        "number": receipt.number,
        "written_at": _plain(receipt.at),
    }
    said = body | {"written_at": _plain(datetime.fromisoformat(body["written_at"]))}
    found = [f"its column {name} was changed" for name in row if row[name] != said[name]]
    attached = receipt.attachment
    if attached is not None and _digest(attached) != body["attachment_sha256"]:
        found.append("its attachment was changed")
    return found
