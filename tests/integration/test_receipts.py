"""Receipts: what became of orders, chained, with what is personal apart."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from sscd_ops.catalog import forgotten, orders
from sscd_ops.catalog import receipts as catalog
from sscd_ops.catalog.orders import Order
from sscd_ops.errors import UsageError
from sscd_ops.model import ERASED
from sscd_ops.steps.orders import applying, receipts
from sscd_ops.steps.orders.asked import withdrawal
from sscd_ops.steps.orders.finishing import erase_text_of
from sscd_ops.steps.parts import Parts, configured
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
    assert body["samples"]["ids"] == sorted((gone, copy))
    assert body["kept_instead"]["ids"] == [kept]
    assert set(body["became"]["withdrawn"]["ids"]) == set(body["samples"]["ids"])
    assert body["stays"].keys() == {"ids and digests", "keys, captions, metadata, descriptors"}
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
    back = told(two)[2]
    assert back["of_order"] == order
    assert back["became"]["kept"]["ids"] == ids(two, "c0003")
    assert "snapshots" not in back, "nothing went"
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


def test_a_picture_with_its_copies(two: World) -> None:
    """Images that went, how near at least; samples that went with them are listed too."""
    with two.parts() as parts:
        asked = withdrawal(
            configured(parts, DATASET),
            scope="and-copies",
            who=ANN,
            why="court order 77",
            ids=ids(two, "c0002"),
        )
        applying.apply(parts, applying.draft(parts, asked).order.order_id, by=ANN)
    [body] = told(two)
    near = body["matched"]["near"]
    assert near["images"] == body["images"]["count"] - 1 == 2
    assert near["fingerprint"]
    assert near["threshold"] <= near["similarity"] < 1
    gone = set(ids(two, "c0002", "copy2", "half2"))
    assert set(body["became"]["withdrawn"]["ids"]) == gone
    assert body["snapshots"]["held"] == [1, 2]


def test_two_at_once_make_one_chain(two: World) -> None:
    """Whoever publishes or refuses beside: each order has one receipt, and the chain no fork."""
    numbers = [draft(two, key).order.order_id for key in ("c0001", "c0002", "c0003", "other")]
    with two.parts() as parts, parts.catalog.begin() as conn:
        for number in numbers:
            orders.refuse(conn, number, "not theirs")

    def write(_: int) -> None:
        with two.parts() as parts:
            receipts.write_due(parts, 1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert sorted(body["order"] for body in told(two)) == numbers
    with two.parts() as parts:
        assert receipts.verify(parts, DATASET) == []


def test_what_is_erased_while_it_is_written_stays_erased(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = draft(two, "c0001").order.order_id
    body = receipts._body

    def then_erased(parts: Parts, conn: Connection, order: Order, kind: str) -> dict[str, Any]:
        said = body(parts, conn, order, kind)
        with parts.catalog.begin() as other:
            forgotten.erase_order(other, number)
        return said

    monkeypatch.setattr(receipts, "_body", then_erased)
    with two.parts() as parts:
        applying.refuse(parts, number, by=BOB, why="not theirs")
    [row] = two.ask("SELECT * FROM sscd_ops.receipts")
    assert row["attachment"]["why"] == ERASED


def test_a_chain_that_somebody_changed(two: World) -> None:
    """Whatever is changed, taken out or cut off by hand is found by ``catalog verify``."""
    for key in ("c0001", "c0002", "c0003"):
        withdraw(two, key)
    damages = {
        "SET body = replace(body, 'crawl', 'Crawl') WHERE number = 1": "not what was written",
        "SET body = 'no JSON' WHERE number = 3": "not what was written",
        "SET at = at - interval '1 day' WHERE number = 2": "written_at",
        "SET kind = 'purge' WHERE number = 2": "kind",
        'SET attachment = attachment || \'{"why": "x"}\' WHERE number = 1': "attachment",
    }
    for number, said in ((1, "missing"), (2, "missing"), (3, "missing")):
        assert said in damaged(two, f"DELETE FROM sscd_ops.receipts WHERE number = {number}")
    for damage, said in damages.items():
        assert said in damaged(two, f"UPDATE sscd_ops.receipts {damage}")
    with two.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
        with parts.catalog.begin() as conn, pytest.raises(UsageError, match="receipt list"):
            catalog.read_receipt(conn, 99)


def damaged(world: World, statement: str) -> str:
    """What is found after a statement that is undone again."""
    with world.parts() as parts, parts.catalog.begin() as conn:
        conn.exec_driver_sql(statement)
        chain = catalog.chain_of(conn, 1)
        found = receipts.broken(chain, catalog.told_of(conn, 1, receipts.RECEIPT))
        conn.rollback()
    return " ".join(str(each) for each in found)
