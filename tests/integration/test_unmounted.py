"""A storage root that is not there: an empty mount point must not look like an empty dataset."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sscd_ops.errors import StoreRefused
from sscd_ops.steps.compacting import compact
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.integration.world import DATASET, World, assert_promises, pair

DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")


@pytest.mark.parametrize("left", ["an empty mount point", "nothing"])
def test_a_root_that_is_not_mounted_is_told_and_nothing_is_written_there(
    world: World, left: str
) -> None:
    world.put(DAYS[0], "a.tar", [pair(f"k{n}", picture(n)) for n in range(3)])
    world.night(DAYS[0])
    root, aside = Path(world.storage.root), world.base / "aside"
    root.rename(aside)
    if left != "nothing":
        root.mkdir()
    world.put(DAYS[1], "a.tar", [pair("new", picture(10))])
    world.put(DAYS[2], "a.tar", [pair("copy", picture(1))])

    for day in DAYS:  # published, with a new sample, with a copy alone
        with pytest.raises(StoreRefused, match=r"storage\.root mounted.*[Mm]ount it.*backup"):
            world.night(day)

    assert [path for path in root.rglob("*") if path.is_file()] == []
    if root.exists():
        for folder in sorted(root.rglob("*"), reverse=True):
            folder.rmdir()
        root.rmdir()
    aside.rename(root)
    for day in DAYS:
        world.night(day)
    assert_promises(world, read=5)


@pytest.mark.parametrize("command", [rebuild_index, lambda *given: compact(*given, 100), vacuum])
def test_nothing_is_done_to_a_root_that_is_not_mounted(
    world: World, command: Callable[[Wiring, str], object]
) -> None:
    for number, day in enumerate(DAYS):
        samples = [pair(f"{number}-{n}", picture(3 * number + n)) for n in range(3)]
        world.put(day, "a.tar", samples)
        world.night(day)
    root, aside = Path(world.storage.root), world.base / "aside"
    root.rename(aside)
    root.mkdir()

    with world.parts() as parts, pytest.raises(StoreRefused, match=r"storage\.root mounted"):
        command(parts, DATASET)

    assert [path for path in root.rglob("*") if path.is_file()] == []
    shutil.rmtree(root)
    aside.rename(root)
    with world.parts() as parts:
        command(parts, DATASET)
    assert_promises(world, read=9)


def test_a_snapshot_and_its_pointer_that_are_lost_beside_its_shards_are_made_again(
    world: World,
) -> None:
    world.put(DAYS[0], "a.tar", [pair(f"k{n}", picture(n)) for n in range(3)])
    world.night(DAYS[0])
    for path in (Path(world.storage.root) / "web" / "snapshots").iterdir():
        path.unlink()

    world.night(DAYS[0])

    assert_promises(world, read=3)
