"""Withdrawals by URL, domain and source, and samples that say where they came from."""

from __future__ import annotations

import json

from sscd_ops.model import Person
from sscd_ops.steps.orders import applying
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.parts import configured
from sscd_ops.testing import Sample
from tests.integration.world import DATASET, World

ANN = Person("ann", "ann")


def crawled(key: str, image: bytes, url: str | None) -> Sample:
    """A sample as img2dataset writes it."""
    document = json.dumps({"key": key, "url": url}).encode()
    return key, {"jpg": image, "txt": f"caption of {key}".encode(), "json": document}


def rule(
    world: World, *, url: str = "", domain: str = "", source: str = "", sample: str = ""
) -> int:
    """Withdraw what these name; the order's number."""
    with world.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="only-these",
            who=ANN,
            why="opt-out",
            ids=filter(None, [sample]),
            url_list=[url],
            domains=filter(None, [domain]),
            sources=filter(None, [source]),
        )
        order = applying.draft(parts, asked).order.order_id
        applying.apply(parts, order, by=ANN)
    return order


def end(world: World, order: int) -> None:
    """Revert an order."""
    with world.parts() as parts:
        drafted = applying.revert(parts, order, who=ANN, why="taken back")
        applying.apply(parts, drafted.order.order_id, by=ANN)
