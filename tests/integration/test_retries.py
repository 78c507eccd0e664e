"""A try that died and its retry, or a run under other settings: told once, named once."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest

from sscd_ops.catalog import decisions, output_shards
from sscd_ops.errors import CatalogUnavailable
from sscd_ops.model import Runner
from sscd_ops.steps import commit, manage, plan, publish, resolve
from sscd_ops.steps.night import wait_for_turn
from tests.integration.test_crashes import Killed
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_promises, interval


def lose_connection_once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    real = getattr(module, name)

    def lost(*given: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        raise CatalogUnavailable("the connection was lost")

    monkeypatch.setattr(module, name, lost)


def told(world: World) -> list[str]:
    events = world.ask("SELECT kind FROM curation.events ORDER BY event_id")
    return [event["kind"] for event in events]


def test_a_turn_not_awaited_is_told_once_though_resolve_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(turn={"max_wait": 0.0})
    for number, day in enumerate(DAYS[:2]):
        world.put(day, "a.tar", clouds(range(number * 10, number * 10 + 3)))
    lose_connection_once(monkeypatch, resolve, "work_out")

    with world.parts() as parts:
        world.until_match(parts, DAYS[0])  # of a DAG run that can't be asked
        second = world.until_match(parts, DAYS[1])
        wait_for_turn(parts, second, 0.05)
        with pytest.raises(CatalogUnavailable):
            resolve.run(parts, second)
        wait_for_turn(parts, second, 0.05)
        resolve.run(parts, second)

    assert told(world) == ["turn_not_awaited", "decided"]


def test_an_abandon_that_is_asked_again_is_one_event(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes between its two transactions, and the command is repeated."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    lose_connection_once(monkeypatch, decisions, "delete_lost")

    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
        with pytest.raises(CatalogUnavailable):
            manage.abandon(parts, batch, actor="ann", why="wrong feed")
        manage.abandon(parts, batch, actor="ann", why="wrong feed")

    assert told(world) == ["abandoned"]


def test_a_parquet_that_a_killed_try_wrote_with_another_pyarrow_is_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other bytes, equal rows: the try died before it registered them, then came the upgrade."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
        resolve.run(parts, batch)
    real = pq.write_table

    def older(table: Any, stream: Any, **options: Any) -> None:
        real(table, stream, **{**options, "compression": "snappy"})

    def killed(*given: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch, world.parts() as parts, pytest.raises(Killed):
        patch.setattr(pq, "write_table", older)
        patch.setattr(output_shards, "register_output", killed)
        publish.run(parts, batch, 0)

    with world.parts() as parts:
        world.from_resolve(parts, batch)

    assert_promises(world, read=3)


def test_a_try_with_another_pyarrow_beside_one_that_was_quicker_is_no_fault(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are upgraded one by one: a retry meets what the try it was started for registered."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
        resolve.run(parts, batch)
    write_shard, write_table = publish.write_shard, pq.write_table

    def older(table: Any, stream: Any, **options: Any) -> None:
        write_table(table, stream, **{**options, "compression": "snappy"})

    def late(*given: Any) -> Any:
        monkeypatch.setattr(publish, "write_shard", write_shard)
        with world.parts() as other:
            publish.run(other, batch, 0)
        monkeypatch.setattr(pq, "write_table", older)
        return write_shard(*given)

    monkeypatch.setattr(publish, "write_shard", late)
    with world.parts() as parts:
        publish.run(parts, batch, 0)
        commit.run(parts, batch)

    assert told(world) == ["decided", "published"]
    assert_promises(world, read=3)


def test_a_night_planned_again_under_another_timezone_has_the_name_of_that_timezone(
    world: World, other_world: World
) -> None:
    """Abandoned under UTC, run again under Bogota: the interval's instants are the same."""
    world.put("2026-10-31", "a.tar", clouds(range(3)))
    world.put("2026-11-01", "a.tar", clouds(range(3)))
    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))
        manage.abandon(parts, planned.batch_id, actor="ann", why="wrong timezone")

    for each in (world, other_world):
        each.change(timezone="America/Bogota", schedule="0 19 * * *")
        each.night(DAYS[0])

    assert world.published() == other_world.published()
    assert world.views()["snapshots"] == other_world.views()["snapshots"]
    assert_promises(world)
