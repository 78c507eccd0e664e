"""Orders: what people decide, from the draft on. Their decisions' rows are ``changes``.

An order is in force from the turn of its decision on, until another one reverts it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import pyarrow as pa
from sqlalchemy.engine import Connection

from sscd_ops.catalog.copy import copy_table
from sscd_ops.catalog.sql import row, rows, run, tuples, value
from sscd_ops.errors import InvariantError, UsageError
from sscd_ops.masking import without_nul
from sscd_ops.model import OrderState

_OPEN = (OrderState.DRAFTED, OrderState.HELD, OrderState.APPLIED)


@dataclass(frozen=True)
class Subject:
    """What an order names.

    ``kind``: ``id sha256 url domain source picture``. ``digest``: an id's 16 bytes, an image's
    sha256, else the sha256 of ``value``, which is None once it was erased. ``host``: of a domain,
    its labels reversed, ``org.example.``. ``descriptor``, ``hash``: of a picture whose copies go
    too, as bytes of float16 and of the hash; None of a plain one.
    """

    kind: str
    digest: bytes
    value: str | None = None
    host: str | None = None
    descriptor: bytes | None = None
    hash: bytes | None = None


@dataclass(frozen=True)
class Order:
    """An order's row. ``request``: scope and flags; who: see ``model.Person``.

    ``finished_at``: when all was done that the flags ask for; None of one without.
    """

    order_id: int
    dataset_id: int
    dataset: str
    verb: str
    request: Mapping[str, Any]
    of_order: int | None
    state: OrderState
    message: str
    actor: str
    why: str
    drafted_by: Mapping[str, str]
    applied_by: Mapping[str, str] | None
    approved_by: Mapping[str, str] | None
    approved: str | None
    draft: int
    decision_id: int | None
    turn: int | None
    turn_to: int | None
    finished_at: datetime | None

    @property
    def decision(self) -> int:
        """The decision that it is.

        Raises:
            InvariantError: it was not applied.
        """
        if self.decision_id is None:
            raise InvariantError(f"order {self.order_id} was not applied")
        return self.decision_id

    @property
    def decision_key(self) -> str:
        """The ``client_key`` of its decision; its row has one of its own, by which it is found."""
        return f"order {self.order_id}"


@dataclass(frozen=True)
class Draft:
    """What an order would change as of a turn. ``effect``: the digest of that."""

    order_id: int
    draft: int
    turn: int
    effect: str
    counts: Mapping[str, Any]


_COLUMNS = (
    "o.order_id, o.dataset_id, d.name AS dataset, o.verb, o.request, o.of_order, o.state,"
    " o.message, o.actor, o.why, o.drafted_by, o.applied_by, o.approved_by, o.approved, o.draft,"
    " o.decision_id, o.turn, o.turn_to, o.finished_at"
)
_ORDERS = f"SELECT {_COLUMNS} FROM sscd_ops.orders o JOIN sscd_ops.datasets d USING (dataset_id)"


def _order(raw: Mapping[str, Any]) -> Order:
    return Order(**{**raw, "state": OrderState(raw["state"])})


# ---------------------------------------------------------------- read


def read_order(conn: Connection, order_id: int, *, lock: bool = False) -> Order:
    """An order; ``lock``: nobody else changes it until the transaction ends.

    Raises:
        UsageError: there is no such order.
    """
    raw = row(conn, f"{_ORDERS} WHERE o.order_id = :o{' FOR UPDATE OF o' * lock}", o=order_id)
    if raw is None:
        raise UsageError(f"there is no order {order_id}: `sscd-ops order list` shows all")
    return _order(raw)


def open_order(conn: Connection, dataset_id: int, client_key: str) -> Order | None:
    """The order of this key that was neither refused nor reverted."""
    raw = row(
        conn,
        f"{_ORDERS} WHERE o.dataset_id = :d AND o.client_key = :k AND o.state = ANY(:s)",
        d=dataset_id,
        k=client_key,
        s=[str(state) for state in _OPEN],
    )
    return None if raw is None else _order(raw)


def second_part(conn: Connection, order_id: int) -> Order | None:
    """The order by which what is near to an order's pictures goes, where another person decides."""
    raw = row(conn, f"{_ORDERS} WHERE o.of_order = :o AND o.verb = 'withdraw'", o=order_id)
    return None if raw is None else _order(raw)


def list_orders(conn: Connection, dataset: str | None, limit: int) -> list[Order]:
    """The newest orders, of one dataset or of all."""
    found = rows(
        conn,
        f"{_ORDERS} WHERE CAST(:n AS text) IS NULL OR d.name = :n"
        " ORDER BY o.order_id DESC LIMIT :l",
        n=dataset,
        l=limit,
    )
    return [_order(raw) for raw in found]


def subjects_of(conn: Connection, order_id: int) -> list[Subject]:
    """What an order names."""
    found = tuples(
        conn,
        "SELECT kind, digest, value, host, descriptor, hash FROM sscd_ops.order_subjects"
        " WHERE order_id = :o ORDER BY kind, value, digest",
        o=order_id,
    )
    return [
        Subject(kind, bytes(digest), value, host, *(blob and bytes(blob) for blob in described))
        for kind, digest, value, host, *described in found
    ]


def subject_counts(conn: Connection, order_id: int) -> dict[str, int]:
    """How many of each kind an order names."""
    counted = (
        "SELECT kind, count(*) FROM sscd_ops.order_subjects WHERE order_id = :o"
        " GROUP BY kind ORDER BY kind"
    )
    return dict(tuples(conn, counted, o=order_id))


def newest_draft(conn: Connection, order_id: int) -> Draft | None:
    """What an order would change, as it was worked out last."""
    found = row(
        conn,
        "SELECT r.* FROM sscd_ops.order_drafts r JOIN sscd_ops.orders o USING (order_id, draft)"
        " WHERE order_id = :o",
        o=order_id,
    )
    if found is None:
        return None
    return Draft(order_id, found["draft"], found["turn"], found["effect_sha256"], found["counts"])


def need_draft(conn: Connection, order_id: int) -> Draft:
    """As ``newest_draft``, of an order that was drafted.

    Raises:
        InvariantError: it was not.
    """
    found = newest_draft(conn, order_id)
    if found is None:
        raise InvariantError(f"order {order_id} has no draft")
    return found


def effects_of(conn: Connection, order_id: int, draft: int) -> dict[bytes, tuple[str, str]]:
    """Sample (16 bytes) -> its verdict before and after, of a draft."""
    found = tuples(
        conn,
        "SELECT subject, before, after FROM sscd_ops.order_effects"
        " WHERE order_id = :o AND draft = :n",
        o=order_id,
        n=draft,
    )
    return {bytes(subject): (before, after) for subject, before, after in found}


def changed_samples(conn: Connection, draft: Draft, limit: int) -> list[Mapping[str, Any]]:
    """Some samples whose verdict a draft changes, with where they came from; by change and place.

    Of months that are detached the key is not known.
    """
    return rows(
        conn,
        "SELECT e.before || ' -> ' || e.after AS change, sh.source, sh.relative_uri AS"
        " source_shard, s.key, s.sample_id FROM sscd_ops.order_effects e"
        " CROSS JOIN LATERAL (SELECT key, sample_id, shard_id FROM sscd_ops.samples"
        " WHERE sample_id = CAST(encode(e.subject, 'hex') AS uuid)"
        " UNION ALL SELECT NULL, sample_id, shard_id FROM sscd_ops.detached_samples"
        " WHERE sample_id = CAST(encode(e.subject, 'hex') AS uuid) LIMIT 1) s"
        " JOIN sscd_ops.source_shards sh USING (shard_id)"
        " WHERE e.order_id = :o AND e.draft = :n"
        " ORDER BY e.after = 'withdrawn' DESC, 1, 2, 3, 4, 5 LIMIT :l",
        o=draft.order_id,
        n=draft.draft,
        l=limit,
    )


def database_user(conn: Connection) -> str:
    """As whom the session logged in, whatever role it took since."""
    return str(value(conn, "SELECT session_user"))


def first_snapshot(conn: Connection, order: Order) -> int | None:
    """The first snapshot that follows an order's turn; None where there is none yet."""
    found: int | None = value(
        conn,
        "SELECT min(snapshot) FROM sscd_ops.snapshots WHERE dataset_id = :d AND turn >= :t",
        d=order.dataset_id,
        t=order.turn,
    )
    return found


# ---------------------------------------------------------------- write


def add_order(
    conn: Connection,
    dataset_id: int,
    *,
    verb: str,
    request: Mapping[str, Any],
    client_key: str,
    subjects: Iterable[Subject],
    actor: str,
    why: str,
    drafted_by: Mapping[str, str],
    of_order: int | None = None,
) -> int:
    """Register an order, with what it names. The caller holds the dataset's lock."""
    order_id = int(
        value(
            conn,
            "INSERT INTO sscd_ops.orders (dataset_id, verb, request, client_key, of_order, state,"
            " actor, why, drafted_by) VALUES (:d, :v, CAST(:r AS jsonb), :k, :f, :s, :a, :w,"
            " CAST(:b AS jsonb)) RETURNING order_id",
            d=dataset_id,
            v=verb,
            r=json.dumps(dict(request)),
            k=client_key,
            f=of_order,
            s=OrderState.DRAFTED,
            a=without_nul(actor),
            w=without_nul(why),
            b=json.dumps(dict(drafted_by)),
        )
    )
    named = list(subjects)
    table = pa.table(
        {
            "order_id": pa.array([order_id] * len(named), pa.int64()),
            "kind": pa.array([s.kind for s in named], pa.string()),
            "digest": pa.array([s.digest for s in named], pa.binary()),
            "value": pa.array([s.value for s in named], pa.string()),
            "host": pa.array([s.host for s in named], pa.string()),
            "descriptor": pa.array([s.descriptor for s in named], pa.binary()),
            "hash": pa.array([s.hash for s in named], pa.binary()),
        }
    )
    copy_table(conn, "order_subjects", table)
    return order_id


def add_draft(
    conn: Connection,
    order: Order,
    *,
    turn: int,
    effect: str,
    counts: Mapping[str, Any],
    effects: Mapping[bytes, tuple[str, str]],
) -> None:
    """Store what an order would change: its newest draft. The caller has the order locked."""
    number = order.draft + 1
    run(
        conn,
        "INSERT INTO sscd_ops.order_drafts (order_id, draft, turn, effect_sha256, counts)"
        " VALUES (:o, :n, :t, :e, CAST(:c AS jsonb))",
        o=order.order_id,
        n=number,
        t=turn,
        e=effect,
        c=json.dumps(dict(counts)),
    )
    table = pa.table(
        {
            "order_id": pa.array([order.order_id] * len(effects), pa.int64()),
            "draft": pa.array([number] * len(effects), pa.int32()),
            "subject": pa.array(list(effects), pa.binary()),
            "before": pa.array([before for before, _ in effects.values()], pa.string()),
            "after": pa.array([after for _, after in effects.values()], pa.string()),
        }
    )
    copy_table(conn, "order_effects", table)
    run(
        conn,
        "UPDATE sscd_ops.orders SET draft = :n, state = :s, message = '' WHERE order_id = :o",
        n=number,
        s=OrderState.DRAFTED,
        o=order.order_id,
    )


def hold(conn: Connection, order_id: int, message: str, by: Mapping[str, str]) -> None:
    """Store that the guard holds an order, why, and who tried to apply it first."""
    run(
        conn,
        "UPDATE sscd_ops.orders SET state = :s, message = :m,"
        " applied_by = coalesce(applied_by, CAST(:b AS jsonb)) WHERE order_id = :o",
        s=OrderState.HELD,
        m=message,
        b=json.dumps(dict(by)),
        o=order_id,
    )


def approve(conn: Connection, order_id: int, effect: str, by: Mapping[str, str]) -> None:
    """Store who approved which effect of an order."""
    run(
        conn,
        "UPDATE sscd_ops.orders SET approved = :e, approved_by = CAST(:b AS jsonb)"
        " WHERE order_id = :o",
        e=effect,
        b=json.dumps(dict(by)),
        o=order_id,
    )


def refuse(conn: Connection, order_id: int, why: str) -> None:
    """Turn an order down."""
    run(
        conn,
        "UPDATE sscd_ops.orders SET state = :s, message = :m WHERE order_id = :o",
        s=OrderState.REFUSED,
        m=without_nul(why),
        o=order_id,
    )


def mark_applied(
    conn: Connection,
    order_id: int,
    decision_id: int,
    turn: int,
    by: Mapping[str, str],
    counts: Mapping[str, Any],
) -> None:
    """Say which decision an order is, and end the one that it reverts. Under the dataset's lock.

    ``counts``: as it was worked out last; its draft had the same effect, at an earlier turn.
    """
    run(
        conn,
        "UPDATE sscd_ops.orders SET state = :s, decision_id = :x, turn = :t, message = '',"
        " applied_by = coalesce(applied_by, CAST(:b AS jsonb)) WHERE order_id = :o",
        s=OrderState.APPLIED,
        x=decision_id,
        t=turn,
        b=json.dumps(dict(by)),
        o=order_id,
    )
    run(
        conn,
        "UPDATE sscd_ops.order_drafts r SET counts = CAST(:c AS jsonb) FROM sscd_ops.orders o"
        " WHERE o.order_id = :o AND r.order_id = o.order_id AND r.draft = o.draft",
        c=json.dumps(dict(counts)),
        o=order_id,
    )
    run(
        conn,
        "UPDATE sscd_ops.orders r SET state = :s, turn_to = :t FROM sscd_ops.orders o"
        # its second part too: what is near to its pictures went because of them
        " WHERE o.order_id = :o AND o.verb = 'revert' AND (r.order_id = o.of_order"
        " OR r.of_order = o.of_order AND r.verb = 'withdraw' AND r.state = 'applied')",
        s=OrderState.REVERTED,
        t=turn,
        o=order_id,
    )


# ---------------------------------------------------------------- what an order covers


def covered_by(conn: Connection, decision_id: int) -> list[bytes]:
    """The samples (16 bytes each) that an order's decision withdrew."""
    return _changed_samples(conn, decision_id, "verdict = 'withdrawn'")


def gone_by(conn: Connection, decision_id: int) -> list[bytes]:
    """The samples (16 bytes each) that could not be had when a decision was made."""
    return _changed_samples(conn, decision_id, "reason = 'source_gone'")


def _changed_samples(conn: Connection, decision_id: int, condition: str) -> list[bytes]:
    found = tuples(
        conn,
        "SELECT uuid_send(sample_id) FROM sscd_ops.changes"
        f" WHERE decision_id = :x AND sample_id IS NOT NULL AND {condition}",
        x=decision_id,
    )
    return [bytes(number) for (number,) in found]


def changed_images(conn: Connection, decision_id: int) -> list[bytes]:
    """The images that a decision gave another verdict, or another carrier."""
    found = tuples(
        conn,
        "SELECT image_sha256 FROM sscd_ops.changes"
        " WHERE decision_id = :x AND image_sha256 IS NOT NULL",
        x=decision_id,
    )
    return sorted(bytes(image) for (image,) in found)


def covered_otherwise(
    conn: Connection, order: Order, samples: Sequence[bytes], turn: int
) -> set[bytes]:
    """Those of some samples (16 bytes) that another order, in force at a turn, withdraws."""
    found = tuples(
        conn,
        "SELECT DISTINCT uuid_send(c.sample_id) FROM sscd_ops.changes c"
        " JOIN sscd_ops.orders o ON o.decision_id = c.decision_id AND o.order_id <> :o"
        " AND o.turn <= :t AND (o.turn_to IS NULL OR o.turn_to > :t)"
        " WHERE c.dataset_id = :d AND c.sample_id = ANY(CAST(:s AS uuid[]))"
        " AND c.verdict = 'withdrawn'",
        o=order.order_id,
        d=order.dataset_id,
        t=turn,
        s=[str(UUID(bytes=number)) for number in samples],
    )
    return {bytes(number) for (number,) in found}


def quarantined_before(
    conn: Connection, dataset_id: int, samples: Sequence[bytes]
) -> dict[bytes, tuple[str, str | None]]:
    """Those of some samples (16 bytes) that were quarantined alone before they were withdrawn.

    Returns:
        Sample -> the code and the message of that.
    """
    found = tuples(
        conn,
        "SELECT DISTINCT ON (c.sample_id) uuid_send(c.sample_id), c.verdict, c.reason, c.message"
        " FROM sscd_ops.changes c JOIN sscd_ops.decisions x ON x.decision_id = c.decision_id"
        " AND x.turn = c.turn WHERE c.dataset_id = :d AND c.sample_id = ANY(CAST(:s AS uuid[]))"
        " AND c.verdict <> 'withdrawn' ORDER BY c.sample_id, c.turn DESC",
        d=dataset_id,
        s=[str(UUID(bytes=number)) for number in samples],
    )
    return {
        bytes(number): (reason, message)
        for number, verdict, reason, message in found
        if verdict == "quarantined"
    }
