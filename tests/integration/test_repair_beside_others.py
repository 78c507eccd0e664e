"""`batch repair` beside a late publish, a detached month, sources whose disk is not there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from sscd_ops.catalog import partitions
from sscd_ops.errors import CommitConflict, SscdOpsError, UsageError
from sscd_ops.steps import publish, resolve
from sscd_ops.testing import picture, plant
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import DAYS, clouds
from tests.integration.test_plain import sheet
from tests.integration.test_repair import (
    REPAIRED,
    assert_repaired,
    lost_between,
    mend,
    put_back,
    unpublishable,
)
from tests.integration.world import World, pair


def test_a_publish_that_began_before_the_repair_takes_nothing_from_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told of shards that are planned anew by the time it reads what is in them."""
    batch_id = lost_between(world)
    real = publish.write_planned

    def late(*given: Any) -> int:
        monkeypatch.setattr(publish, "write_planned", real)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            die_at(patch, "after", "turns._swap")
            mend(world, batch_id)
        return real(*given)

    monkeypatch.setattr(publish, "write_planned", late)
    with world.parts() as parts, pytest.raises(CommitConflict, match="planned anew"):
        publish.run(parts, batch_id, 0)

    state = world.ask("SELECT state FROM curation.runs WHERE batch_id = :b", b=batch_id)
    assert state == [{"state": "decided"}]
    mend(world, batch_id)
    assert world.verdicts() == REPAIRED
    assert_repaired(world)


def test_a_month_that_a_repair_still_publishes_from_is_not_detached(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it keeps was read by a night that is published, and cannot be had just now."""
    lost = world.put(DAYS[0], "a.tar", [pair("lead", picture(1))])
    world.put(DAYS[0], "b.tar", clouds(range(4, 6)))
    batch_id = unpublishable(world, DAYS[0], lost)
    later = world.put(DAYS[1], "a.tar", [pair("copy", plant(picture(1), "jpeg_40"))])
    world.night(DAYS[1])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, "after", "turns._swap")
        mend(world, batch_id)
    data = later.read_bytes()
    later.unlink()
    world.night(DAYS[0])
    assert {row["state"] for row in world.ask("SELECT state FROM curation.runs")} == {"published"}
    in_time = datetime.now(UTC) + timedelta(days=70)
    monkeypatch.setattr(partitions, "datetime", SimpleNamespace(now=lambda zone: in_time))
    (month,) = {row["month"] for row in world.ask("SELECT month FROM sscd_ops.decisions")}

    with world.parts() as parts, pytest.raises(UsageError, match=r"turn 3 \(repair\)"):
        partitions.detach_month(parts.catalog, month)

    later.write_bytes(data)
    mend(world, batch_id)
    assert world.verdicts()["copy"] == "kept"
    assert_repaired(world)
    with world.parts() as parts:
        assert len(partitions.detach_month(parts.catalog, month)) == 2


def test_a_plain_picture_that_was_lost_is_kept_when_it_is_delivered_again(world: World) -> None:
    """Also by a night that took it for known when it looked what to embed."""
    plain = sheet("#102030")
    lost = world.put(DAYS[0], "a.tar", [pair("plain", plain), pair("photo", picture(1))])
    world.put(DAYS[0], "b.tar", clouds(range(4, 6)))
    batch_id = unpublishable(world, DAYS[0], lost)
    world.put(DAYS[1], "a.tar", [pair("again", plain), pair("photo2", picture(1))])
    with world.parts() as parts:
        later = world.until_match(parts, DAYS[1])
    mend(world, batch_id)
    with world.parts() as parts:
        world.from_resolve(parts, later)

    gone = dict.fromkeys(["plain", "photo"], "quarantined source_gone")
    kept = dict.fromkeys(["again", "photo2", "c0004", "c0005"], "kept")
    assert world.verdicts() == gone | kept
    plain_of = "SELECT kept_plain, turn FROM curation.runs ORDER BY turn"
    assert [row["kept_plain"] for row in world.ask(plain_of)] == [1, 1]
    put_back(world)
    assert_what_holds(world)


def test_nothing_is_lost_where_the_disk_of_the_sources_is_not_there(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    world.put(DAYS[1], "a.tar", clouds(range(10, 14)))
    world.night(DAYS[0])
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[1])
        resolve.run(parts, batch_id)
    aside = world.base / "aside"
    world.incoming.rename(aside)
    world.incoming.mkdir()
    with world.parts() as parts, pytest.raises(SscdOpsError):
        world.from_resolve(parts, batch_id)

    with pytest.raises(SscdOpsError, match="mounted"):
        mend(world, batch_id)

    world.incoming.rmdir()
    aside.rename(world.incoming)
    world.night(DAYS[1])
    assert set(world.verdicts().values()) == {"kept"}
    assert_repaired(world)
