"""Rows become dataclasses by the order of their columns: each must be that of the fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Connection

from sscd_ops.catalog import lookups, output_shards, placements, segments, snapshots
from sscd_ops.catalog.database import Catalog
from sscd_ops.model import SegmentPart

PLACE = placements.Placement(1, 0, 1, date(2026, 11, 1), changes=False)

ROWS: dict[type, Callable[[Connection], object]] = {
    lookups.SamplePlace: lambda conn: lookups.sample_place(conn, UUID(int=1)),
    output_shards.ListedShard: lambda conn: output_shards.listed_shards(conn, 1, 1),
    output_shards.OutputShard: lambda conn: output_shards.live_shards(conn, 1, 1),
    placements.PlacedSample: lambda conn: placements.samples_of_output(conn, 1),
    placements.Placement: lambda conn: placements.placed(conn, 1),
    SegmentPart: lambda conn: segments.parts_of(conn, 1),
    snapshots.Snapshot: lambda conn: snapshots.all_snapshots(conn, 1),
}


@pytest.mark.parametrize("kind", ROWS)
def test_the_columns_of_a_statement_are_the_fields_in_order(
    catalog: Catalog, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is placements.PlacedSample:
        monkeypatch.setattr(placements, "placed", lambda *_: [PLACE])
    asked: list[Any] = []
    with catalog.begin() as conn:
        event.listen(
            conn, "after_cursor_execute", lambda *given: asked.append(given[1].description)
        )

        ROWS[kind](conn)

    named = getattr(kind, "_fields", None) or [field.name for field in fields(kind)]
    assert [column.name for column in asked[-1]] == list(named)
