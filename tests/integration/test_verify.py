"""`catalog verify`: what is wrong is found, and what it says mends it."""

from __future__ import annotations

from sscd_ops.catalog import datasets
from sscd_ops.catalog.checks import check_rows
from sscd_ops.model import Finding
from tests.integration.orders import lead_by
from tests.integration.test_nights import DAYS, fill, planted_nights
from tests.integration.world import DATASET, World


def found_in_rows(world: World) -> list[Finding]:
    with world.parts() as parts, parts.catalog.read() as conn:
        return list(check_rows(conn, datasets.need(conn, DATASET).dataset_id))


def test_nights_leave_nothing_to_find(world: World) -> None:
    fill(world, planted_nights())
    for day in DAYS[:3]:
        world.night(day)
    assert found_in_rows(world) == []
    with world.parts() as parts:
        lead_by(
            parts,
            {
                world.ask("SELECT key FROM curation.kept WHERE NOT plain ORDER BY key LIMIT 1")[0][
                    "key"
                ]: "free"
            },
        )
    print(found_in_rows(world))
    world.night(DAYS[0])
