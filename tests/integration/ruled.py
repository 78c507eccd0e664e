"""Standing rules in force, and samples that say where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from uuid import uuid4

from sscd_ops.catalog import sql
from sscd_ops.core.urls import digest, read_domain, read_url, reverse
from sscd_ops.testing import Sample
from tests.integration.orders import Order, apply
from tests.integration.world import World


def crawled(key: str, image: bytes, url: str | None) -> Sample:
    """A sample as img2dataset writes it."""
    document = json.dumps({"key": key, "url": url}).encode()
    return key, {"jpg": image, "txt": f"caption of {key}".encode(), "json": document}


def rule(world: World, *, free: Mapping[str, str] | None = None, **subjects: str) -> int:
    """Put an order with a URL, a domain or a source in force; its number.

    Args:
        world: whose.
        free: key of a sample -> what becomes of it, as ``Order`` has it.
        subjects: kind -> value.
    """
    turn, decision_id = _turn(world, free or {})
    with world.parts() as parts, parts.catalog.begin() as conn:
        order = sql.value(
            conn,
            "INSERT INTO sscd_ops.orders (dataset_id, verb, request, client_key, state, actor, why,"
            " drafted_by, decision_id, turn) SELECT dataset_id, 'withdraw', '{}', :k, 'applied',"
            " 'ann', 'asked', '{}', :x, :t FROM sscd_ops.datasets RETURNING order_id",
            k=str(uuid4()),
            x=decision_id,
            t=turn,
        )
        for kind, given in subjects.items():
            value, host = given, None
            if kind == "url":
                found = read_url(given)
                assert found is not None
                value = found.text
            if kind == "domain":
                value = read_domain(given)
                host = reverse(value)
            sql.run(
                conn,
                "INSERT INTO sscd_ops.order_subjects VALUES (:o, :k, :d, :v, :h)",
                o=order,
                k=kind,
                d=digest(value),
                v=value,
                h=host,
            )
    return int(order)


def end(world: World, order: int) -> None:
    """Have an order end."""
    turn, _ = _turn(world, {})
    with world.parts() as parts, parts.catalog.begin() as conn:
        ended = "UPDATE sscd_ops.orders SET state = 'reverted', turn_to = :t WHERE order_id = :o"
        sql.run(conn, ended, t=turn, o=order)


def _turn(world: World, changes: Mapping[str, str]) -> tuple[int, int]:
    with world.parts() as parts:
        decision = apply(Order(parts, str(uuid4()), changes))
    return decision.turn, decision.decision_id
