"""Receipts: what became of orders, chained, with what is personal apart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sscd_ops.catalog import receipts as catalog
from sscd_ops.errors import UsageError
from sscd_ops.steps.orders import applying, receipts
from sscd_ops.steps.orders.finishing import erase_text_of
from sscd_ops.steps.snapshot_tags import tag
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_nights import DAYS
from tests.integration.test_withdraw import ANN, BOB, draft, ids, revert, two, withdraw
from tests.integration.world import DATASET, World, pair

__all__ = ["two"]


def told(world: World) -> list[dict[str, Any]]:
    return [
        dict(r["body"]) for r in world.ask("SELECT body FROM curation.receipts ORDER BY number")
    ]


def test_what_became_of_an_opt_out(two: World) -> None:
    with two.parts() as parts:
        tag(parts, DATASET, 2, "train-7", used_by="run 7", keep_until=None, actor="ann", why="v7")
    withdraw(two, "c0001", "copy2")
    [body] = told(two)
    gone, copy, kept = ids(two, "c0001", "copy2", "same1")
    assert body["samples"]["ids"] == sorted(i.replace("-", "") for i in (gone, copy))
    assert body["kept_instead"]["ids"] == [kept]
    assert body["beside"] == {"samples": 1, "images": 1}
    held = body["snapshots"]
    assert (held["held"], held["first_without"], held["readable"]) == ([1, 2], 3, [1, 2])
    assert held["tags"] == [{"snapshot": 2, "name": "train-7", "keep_until": None}]
    assert held["users"] == [{"snapshot": 2, "run": "run 7"}]
    assert body["found"]["by_source"] == {
        "crawl": {"kept -> withdrawn": 1, "removed -> kept": 1, "removed -> withdrawn": 1}
    }


def test_ids_and_digests_alone(two: World) -> None:
    """Who, why, names of files and keys are in the attachment, and gone with it."""
    withdraw(two, "c0001", pictures=[("private-name.jpg", picture(9))])
    rows = two.ask("SELECT * FROM sscd_ops.receipts")
    body = rows[0]["body"]
    for personal in ("ann", "opt-out 412", "private-name", "c0001"):
        assert personal not in body
    assert rows[0]["attachment"]["why"] == "opt-out 412"
    with two.parts() as parts:
        erase_text_of(parts, rows[0]["order_id"], by=BOB)
        erase_text_of(parts, rows[0]["order_id"], by=BOB)
        assert receipts.verify(parts, DATASET) == []
    everything = ""
    for table in ("receipts", "orders", "order_subjects", "order_drafts", "decisions", "events"):
        everything += json.dumps(two.ask(f"SELECT * FROM sscd_ops.{table}"), default=str)
    for personal in ("opt-out 412", "private-name"):
        assert personal not in everything


def test_one_that_was_turned_down_and_one_that_was_taken_back(two: World) -> None:
    number = draft(two, "c0002").order.order_id
    with two.parts() as parts:
        applying.refuse(parts, number, by=BOB, why="not theirs")
    order = withdraw(two, "c0003").order.order_id
    revert(two, order)
    assert [body["kind"] for body in told(two)] == ["refusal", "withdrawal", "revert"]
    assert told(two)[2]["of_order"] == order
    with two.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def test_what_nobody_published_has_its_receipt_with_the_next_night(two: World) -> None:
    number = draft(two, "c0003").order.order_id
    with two.parts() as parts:
        applying.apply(parts, number, by=ANN, later=True)
    assert told(two) == []
    two.put(DAYS[2], "c.tar", [pair("new", picture(20))])
    two.night(DAYS[2])
    [body] = told(two)
    assert body["snapshots"]["first_without"] == 3


@pytest.mark.parametrize("point", ["orders.applying.write_due", "orders.receipts.write"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_behind_the_snapshot(
    two: World, when: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, when, point)
        withdraw(two, "c0001")
    withdraw(two, "c0001")
    assert len(told(two)) == 1


def test_a_chain_that_somebody_changed(two: World) -> None:
    for key in ("c0001", "c0002", "c0003"):
        withdraw(two, key)
    with two.parts() as parts, parts.catalog.begin() as conn:
        chain = catalog.chain_of(conn, 1)
    assert receipts.broken(chain) == []
    for place in range(3):
        other = chain[place].body.replace('"turn":', '"Turn":')
        changed = [*chain[:place], replace(chain[place], body=other), *chain[place + 1 :]]
        assert len(receipts.broken(changed)) == 1
        if place < 2:
            assert receipts.broken([*chain[:place], *chain[place + 1 :]])
    spoilt = [replace(chain[0], attachment={**(chain[0].attachment or {}), "why": "x"}), *chain[1:]]
    [found] = receipts.broken(spoilt)
    assert "attachment" in found.what
    with (
        two.parts() as parts,
        parts.catalog.begin() as conn,
        pytest.raises(UsageError, match="receipt list"),
    ):
        catalog.read_receipt(conn, 99)
