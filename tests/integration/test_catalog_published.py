"""Which decisions a snapshot publishes beside the one that made it."""

from __future__ import annotations

from datetime import date
from uuid import uuid4

from sscd_ops.catalog import published
from sscd_ops.catalog.database import Catalog
from tests.integration.ledger import Ledger, sha

MONTH = date(2026, 12, 1)


def test_a_snapshot_publishes_earlier_decisions_that_only_take_away(catalog: Catalog) -> None:
    ledger = Ledger(catalog, MONTH)
    takes = ledger.order({"image_sha256": sha(1), "verdict": "withdrawn"})
    ledger.order({"sample_id": uuid4(), "verdict": "kept", "slot": 0})
    ledger.draft([], key="plans a shard")
    adds = ledger.one("SELECT max(decision_id) AS x FROM sscd_ops.decisions")["x"]
    ledger.placed(adds, "web/shards/turn-000003/00000.tar", range(2), None)
    ledger.apply(adds)
    of_other = ledger.order({"image_sha256": sha(1), "verdict": "free"}, dataset=ledger.other)
    later = ledger.order({"image_sha256": sha(2), "verdict": "withdrawn"})

    with catalog.begin() as conn:
        published.mark_followed(conn, ledger.web, 7, later - 1)

    marked = ledger.all(
        "SELECT dataset_id, turn, snapshot FROM sscd_ops.decisions WHERE published_at IS NOT NULL"
    )
    assert (takes, of_other) == (1, 1)
    assert marked == [{"dataset_id": ledger.web, "turn": takes, "snapshot": 7}]
