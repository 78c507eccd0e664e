"""Receipts: what became of orders, in a chain for each dataset; and what they are made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.sql import row, rows, run, tuples, value
from sscd_ops.errors import UsageError
from sscd_ops.model import OrderState

_KIND_OF = (
    "CASE WHEN o.state = 'refused' THEN 'refusal' WHEN o.verb = 'revert' THEN 'revert'"
    " ELSE 'withdrawal' END"
)


@dataclass(frozen=True)
class Receipt:
    """A receipt. ``body``: canonical JSON. ``attachment``: None once it was erased."""

    receipt_id: int
    dataset: str
    number: int
    order_id: int
    kind: str
    body: str
    sha256: str
    attachment: Mapping[str, Any] | None
    at: datetime


def chained(previous: str, body: str) -> str:
    """The digest of a receipt, which rests on that of the one before (empty: it is the first)."""
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


_RECEIPTS = (
    "SELECT r.receipt_id, d.name, r.number, r.order_id, r.kind, r.body, r.sha256, r.attachment,"
    " r.at FROM sscd_ops.receipts r JOIN sscd_ops.datasets d USING (dataset_id)"
)


def due(conn: Connection, dataset_id: int) -> list[tuple[int, str]]:
    """Orders that were published or refused and have no receipt of that yet, and of which kind."""
    found = tuples(
        conn,
        f"SELECT o.order_id, {_KIND_OF} FROM sscd_ops.orders o"
        " LEFT JOIN sscd_ops.decisions x ON x.decision_id = o.decision_id"
        " WHERE o.dataset_id = :d AND (o.state = :refused OR x.published_at IS NOT NULL)"
        " AND NOT EXISTS (SELECT FROM sscd_ops.receipts r WHERE r.order_id = o.order_id"
        f" AND r.kind = {_KIND_OF}) ORDER BY x.turn, o.order_id",
        d=dataset_id,
        refused=OrderState.REFUSED,
    )
    return [(order_id, kind) for order_id, kind in found]


def last_of(conn: Connection, dataset_id: int) -> tuple[int, str]:
    """Number and digest of a dataset's last receipt; 0 and empty where there is none."""
    found = row(
        conn,
        "SELECT number, sha256 FROM sscd_ops.receipts WHERE dataset_id = :d"
        " ORDER BY number DESC LIMIT 1",
        d=dataset_id,
    )
    return (0, "") if found is None else (found["number"], found["sha256"])


def has_receipt(conn: Connection, order_id: int, kind: str) -> bool:
    """Whether an order has a receipt of a kind."""
    found = "SELECT EXISTS (SELECT FROM sscd_ops.receipts WHERE order_id = :o AND kind = :k)"
    return bool(value(conn, found, o=order_id, k=kind))


def add_receipt(
    conn: Connection,
    dataset_id: int,
    *,
    number: int,
    order_id: int,
    kind: str,
    body: str,
    sha256: str,
    attachment: Mapping[str, Any],
) -> None:
    """Append a receipt. The caller holds the dataset's lock."""
    run(
        conn,
        "INSERT INTO sscd_ops.receipts (dataset_id, number, order_id, kind, body, sha256,"
        " attachment) VALUES (:d, :n, :o, :k, :b, :s, CAST(:a AS jsonb))",
        d=dataset_id,
        n=number,
        o=order_id,
        k=kind,
        b=body,
        s=sha256,
        a=json.dumps(dict(attachment)),
    )


def list_receipts(conn: Connection, dataset: str | None, limit: int) -> list[Receipt]:
    """The newest receipts, of one dataset or of all."""
    found = tuples(
        conn,
        f"{_RECEIPTS} WHERE CAST(:n AS text) IS NULL OR d.name = :n"
        " ORDER BY r.receipt_id DESC LIMIT :l",
        n=dataset,
        l=limit,
    )
    return [Receipt(*each) for each in found]


def read_receipt(conn: Connection, receipt_id: int) -> Receipt:
    """A receipt.

    Raises:
        UsageError: there is no such receipt.
    """
    for each in tuples(conn, f"{_RECEIPTS} WHERE r.receipt_id = :r", r=receipt_id):
        return Receipt(*each)
    raise UsageError(f"there is no receipt {receipt_id}: `sscd-ops receipt list` shows all")


def chain_of(conn: Connection, dataset_id: int) -> list[Receipt]:
    """All receipts of a dataset, from the first on."""
    found = tuples(conn, f"{_RECEIPTS} WHERE r.dataset_id = :d ORDER BY r.number", d=dataset_id)
    return [Receipt(*each) for each in found]


def told_of(conn: Connection, dataset_id: int, kind: str) -> dict[int, str]:
    """Number -> digest of the receipts that a dataset's events of a kind tell of."""
    found = tuples(
        conn,
        "SELECT CAST(details ->> 'number' AS int), details ->> 'sha256' FROM sscd_ops.events"
        " WHERE dataset_id = :d AND kind = :k ORDER BY event_id",
        d=dataset_id,
        k=kind,
    )
    return dict(found)


def now(conn: Connection) -> datetime:
    """When the transaction began: what the column ``at`` of its rows says."""
    found: datetime = value(conn, "SELECT now()")
    return found


def erase(conn: Connection, order_id: int) -> int:
    """Erase what is personal in an order's receipts; in how many."""
    erased = (
        "UPDATE sscd_ops.receipts SET attachment = NULL WHERE order_id = :o"
        " AND attachment IS NOT NULL"
    )
    return run(conn, erased, o=order_id)


# ---------------------------------------------------------------- what they say


@dataclass(frozen=True)
class Held:
    """A range of snapshots that held some sample: ``start <= snapshot < end``; None: still does."""

    start: int
    end: int | None


def held_in(conn: Connection, decision_id: int) -> list[Held]:
    """The snapshots that held samples which a decision withdrew, or images that it did."""
    found = tuples(
        conn,
        "WITH gone AS (SELECT sample_id FROM sscd_ops.changes WHERE decision_id = :x"
        " AND verdict = 'withdrawn' AND sample_id IS NOT NULL), images AS (SELECT image_sha256"
        " FROM sscd_ops.changes WHERE decision_id = :x AND verdict = 'withdrawn'"
        " AND image_sha256 IS NOT NULL), slots AS (SELECT s.decision_id, s.slot"
        " FROM sscd_ops.samples s WHERE s.slot IS NOT NULL AND s.sample_id IN (TABLE gone)"
        " UNION SELECT s.decision_id, s.slot FROM sscd_ops.samples s WHERE s.slot IS NOT NULL"
        " AND s.image_sha256 IN (TABLE images)"
        " UNION SELECT s.decision_id, s.slot FROM sscd_ops.detached_samples s"
        " WHERE s.slot IS NOT NULL AND (s.sample_id IN (TABLE gone)"
        " OR s.image_sha256 IN (TABLE images))"
        " UNION SELECT c.slot_decision, c.slot FROM sscd_ops.changes c WHERE c.slot IS NOT NULL"
        " AND c.dataset_id = (SELECT dataset_id FROM sscd_ops.decisions WHERE decision_id = :x)"
        " AND (c.carrier_id IN (TABLE gone) OR c.image_sha256 IN (TABLE images)))"
        " SELECT DISTINCT p.snapshot_from, p.snapshot_to FROM slots t"
        " JOIN sscd_ops.placements p ON p.decision_id = t.decision_id"
        " AND p.slot_from <= t.slot AND p.slot_to > t.slot"
        " WHERE p.snapshot_from IS NOT NULL"
        " AND (p.snapshot_to IS NULL OR p.snapshot_to > p.snapshot_from) ORDER BY 1, 2",
        x=decision_id,
    )
    return [Held(*each) for each in found]


def beside(conn: Connection, decision_id: int) -> Mapping[str, int]:
    """Samples with the bytes of those that a decision withdrew, which are not withdrawn."""
    found = row(
        conn,
        "SELECT count(*) AS samples, count(DISTINCT n.image_sha256) AS images"
        " FROM sscd_ops.samples_now n WHERE n.verdict IN ('kept', 'removed')"
        " AND n.image_sha256 = ANY(ARRAY(SELECT s.image_sha256 FROM sscd_ops.samples s"
        " JOIN sscd_ops.changes c ON c.sample_id = s.sample_id AND c.decision_id = :x"
        " AND c.verdict = 'withdrawn' WHERE s.image_sha256 IS NOT NULL))"
        " AND n.dataset_id = (SELECT dataset_id FROM sscd_ops.decisions WHERE decision_id = :x)",
        x=decision_id,
    )
    return {name: int(count) for name, count in (found or {}).items()}


def kept_instead(conn: Connection, decision_id: int) -> list[str]:
    """The samples that carry an image since a decision."""
    found = tuples(
        conn,
        "SELECT DISTINCT CAST(carrier_id AS text) FROM sscd_ops.changes WHERE decision_id = :x"
        " AND verdict = 'kept' ORDER BY 1",
        x=decision_id,
    )
    return [number for (number,) in found]


def withdrawn_images(conn: Connection, decision_id: int) -> list[str]:
    """The images (hex) that a decision withdrew, whoever carried them."""
    found = tuples(
        conn,
        "SELECT encode(image_sha256, 'hex') FROM sscd_ops.changes WHERE decision_id = :x"
        " AND verdict = 'withdrawn' AND image_sha256 IS NOT NULL",
        x=decision_id,
    )
    return [image for (image,) in found]


def near_of(conn: Connection, decision_id: int) -> Mapping[str, Any]:
    """How many of the images that a decision withdrew were near ones, and how near at least."""
    found = row(
        conn,
        "SELECT count(*) AS images, min(threshold) AS threshold, min(similarity) AS similarity"
        " FROM sscd_ops.changes WHERE decision_id = :x AND verdict = 'withdrawn'"
        " AND image_sha256 IS NOT NULL AND similarity IS NOT NULL",
        x=decision_id,
    )
    return dict(found or {})


def tags_and_users(
    conn: Connection, dataset_id: int, snapshots: Sequence[int]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]], list[int]]:
    """Tags of some snapshots, what was trained on them, and which of them can be read still."""
    asked = {"d": dataset_id, "s": list(snapshots)}
    of_these = "WHERE dataset_id = :d AND snapshot = ANY(CAST(:s AS int[]))"
    tags = rows(
        conn,
        "SELECT snapshot, name, CAST(keep_until AS text) AS keep_until FROM sscd_ops.snapshot_tags"
        f" {of_these} ORDER BY snapshot, name",
        **asked,
    )
    users = rows(
        conn,
        f"SELECT snapshot, run FROM sscd_ops.snapshot_users {of_these} ORDER BY snapshot, run",
        **asked,
    )
    readable = tuples(
        conn,
        f"SELECT snapshot FROM sscd_ops.snapshots {of_these} AND expired_at IS NULL ORDER BY 1",
        **asked,
    )
    return tags, users, [snapshot for (snapshot,) in readable]


def asked_and_decided(conn: Connection, order_id: int) -> Mapping[str, Any]:
    """When an order was asked for and decided, with which model."""
    found = row(
        conn,
        "SELECT o.at, x.decided_at, x.published_at, x.snapshot, s.fingerprint"
        " FROM sscd_ops.orders o JOIN sscd_ops.datasets s USING (dataset_id)"
        " LEFT JOIN sscd_ops.decisions x ON x.decision_id = o.decision_id WHERE o.order_id = :o",
        o=order_id,
    )
    return found or {}
