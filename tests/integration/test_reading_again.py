"""`run --supplement --quarantined`: what a night quarantined is read again, by today's settings."""

from __future__ import annotations

from sscd_ops.testing import picture
from tests.integration.test_nights import DAYS
from tests.integration.world import World, assert_promises, pair


def test_limits_that_were_raised_keep_what_was_too_large(world: World) -> None:
    world.change(limits={"max_pixels": 200 * 200})
    world.put(DAYS[0], "a.tar", [pair("small", picture(1)), pair("large", picture(2, 320, 240))])
    world.night(DAYS[0])
    assert world.verdicts() == {"small": "kept", "large": "quarantined too_many_pixels"}
    world.change(limits={"max_pixels": 10**6})

    report = world.night(DAYS[0], supplement=True, quarantined=True)

    assert (report.counts.read, report.counts.kept, report.counts.known) == (1, 1, 1)
    assert world.verdicts() == {"small": "kept", "large": "kept"}
    assert_promises(world, read=2)
