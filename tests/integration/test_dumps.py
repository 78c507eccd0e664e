"""A dump of the catalog, and what is told and done after a restore."""

from __future__ import annotations

import pytest

from sscd_ops.catalog.dumps import dump, restore
from sscd_ops.catalog.migrate import upgrade
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import World, assert_promises


@pytest.fixture
def night(world: World) -> World:
    """A dataset after its first night, with files for two more."""
    for start, day in zip((0, 9, 18), DAYS, strict=False):
        world.put(day, "a.tar", clouds(range(start, start + 9)))
    world.night(DAYS[0])
    return world


def test_a_restored_catalog_is_the_one_that_was_dumped(night: World, empty_url: str) -> None:
    file = night.base / "catalog.dump"
    dump(night.url, file)
    before = night.views(set())
    assert file.stat().st_mode & 0o777 == 0o600

    restore(empty_url, file)
    upgrade(empty_url)
    night.url = empty_url

    assert night.views(set()) == before
    night.night(DAYS[1])
    assert_promises(night, read=18)
