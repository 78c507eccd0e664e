"""What a death, an operator or the passing of time leaves behind, and the next command picks up."""

from __future__ import annotations

from typing import Any

import pytest

from sscd_ops.errors import BatchHeld, StoreUnavailable
from sscd_ops.model import Runner
from sscd_ops.sources.webdataset import WebDatasetSource
from sscd_ops.steps import commit, manage, plan, resolve
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_promises, interval, pair


def same(count: int) -> list[Any]:
    """So many samples of one picture: the guard of a first night holds them."""
    return [pair(f"k{number}", picture(1)) for number in range(count)]


# ---------------------------------------------------------------- plan


def test_a_supplement_whose_plan_died_still_finds_nothing_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(guard={"empty": "hold"})
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    real = WebDatasetSource.find

    def fails(*given: Any) -> Any:
        monkeypatch.setattr(WebDatasetSource, "find", real)
        raise StoreUnavailable("listing: timed out")

    monkeypatch.setattr(WebDatasetSource, "find", fails)
    with pytest.raises(StoreUnavailable):
        world.night(DAYS[0], supplement=True)

    assert world.night(DAYS[0], supplement=True).answered
    assert world.ask("SELECT supplement, state FROM curation.runs") == [
        {"supplement": 0, "state": "published"}
    ]


def test_a_released_batch_keeps_its_files_until_it_is_run_again(world: World) -> None:
    world.change(guard={"first_nights_max": 0.5})
    world.change_source(urls=(f"{world.incoming}/*/*.tar",))
    world.put("any", "a.tar", same(9))
    with pytest.raises(BatchHeld):
        world.night(DAYS[0])
    with world.parts() as parts:
        manage.release(parts, 1, actor="ann", why="fine")

    second = world.night(DAYS[1])

    assert second.skipped_shards == 1
    with world.parts() as parts:
        assert world.from_resolve(parts, 1).counts.read == 9


def test_weights_are_looked_for_without_the_datasets_lock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download may take minutes; a transaction stands idle a minute at most."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    real = Wiring.fingerprint
    held: list[object] = []

    def looks(self: Wiring, options: Any) -> Any:
        held.extend(
            world.ask(
                "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'"
                " AND datname = current_database()"
            )
        )
        return real(self, options)

    monkeypatch.setattr(Wiring, "fingerprint", looks)
    world.night(DAYS[0])

    assert held == []


# ---------------------------------------------------------------- dry runs


def test_a_dry_run_of_a_command_that_was_killed_is_dropped_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:  # kill -9 after plan
        plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"), dry_run=True)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resolve, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.night(DAYS[0], dry_run=True)

    assert world.ask("SELECT batch_id FROM sscd_ops.batches") == []


def test_a_dry_run_freezes_nothing(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.change_source(root=str(world.incoming.parent))  # tried out
    world.night(DAYS[0], dry_run=True)
    assert world.ask("SELECT * FROM curation.configs") == []
    world.change_source(root=str(world.incoming))

    world.night(DAYS[0])

    assert_promises(world, read=3)


def test_the_commit_of_a_dry_run_may_be_tried_again(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    runner = Runner("airflow", "curate_web", "dry")
    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=runner, dry_run=True)
        first = commit.run(parts, planned.batch_id)  # the task dies before its success
        again = commit.run(parts, planned.batch_id)
        assert first.snapshot is again.snapshot is None
        assert world.ask("SELECT * FROM sscd_ops.source_shards") == []
        # a clear of the whole run finds it
        cleared = plan.run(parts, DATASET, interval(DAYS[0]), runner=runner, dry_run=True)
        assert (cleared.batch_id, cleared.source_shards) == (planned.batch_id, 1)
