"""What comes back when an order ends: by whom it was stopped, and what it was before."""

from __future__ import annotations

import pytest

from sscd_ops.testing import picture, plant
from tests.integration.ruled import crawled
from tests.integration.test_free_images import SHEET
from tests.integration.test_nights import DAYS, clouds
from tests.integration.test_withdraw import assert_ordered, revert, verdicts, withdraw
from tests.integration.world import World, pair

URL = "https://example.org/a.jpg"


def test_a_plain_picture_comes_back_behind_a_night(world: World) -> None:
    """It has no descriptor by which it could be decided: it is kept, beside others that have."""
    world.put(DAYS[0], "a.tar", [*clouds(range(3)), pair("sheet", SHEET)])
    world.night(DAYS[0])
    before = verdicts(world)
    order = withdraw(world, "c0001", "sheet").order.order_id
    world.put(DAYS[1], "a.tar", [pair("other", picture(9))])
    world.night(DAYS[1])

    revert(world, order)

    assert verdicts(world) == before | {"other": "kept"}
    assert_ordered(world)


def ruled(world: World) -> tuple[int, int]:
    """A sample that a rule stopped as it was read, and that another order names by its id then."""
    world.change_source(url="json:url")
    world.put(DAYS[0], "a.tar", clouds(range(2)))
    world.night(DAYS[0])
    rule = withdraw(world, url_list=[URL]).order.order_id
    world.put(DAYS[1], "a.tar", [crawled("stopped", picture(7), URL)])
    world.night(DAYS[1])
    named = withdraw(world, "stopped").order.order_id
    return rule, named


@pytest.mark.parametrize("rule_first", [True, False])
def test_what_a_rule_stopped_is_to_be_read_once_no_order_names_it_any_more(
    world: World, rule_first: bool
) -> None:
    first, last = ruled(world) if rule_first else reversed(ruled(world))

    revert(world, first)
    assert world.verdicts()["stopped"] == "withdrawn withdrawn"
    revert(world, last)

    assert world.verdicts()["stopped"] == "quarantined rule_ended"
    again = withdraw(world, "stopped").order.order_id
    revert(world, again)
    assert world.verdicts()["stopped"] == "quarantined rule_ended"
    assert_ordered(world)


@pytest.mark.parametrize("between", [False, True])
def test_what_was_gone_before_an_order_is_gone_behind_it(world: World, between: bool) -> None:
    """An order that ends brings back what it took, and nothing else."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    lost = world.put(DAYS[1], "b.tar", [pair("gone", picture(1))])
    world.put(DAYS[2], "c.tar", [pair("copy1", plant(picture(1), "jpeg_40"))])
    for day in DAYS[:3]:
        world.night(day)
    data = lost.read_bytes()
    lost.unlink()
    withdraw(world, "c0001")
    before = world.verdicts()
    assert before["gone"] == "quarantined source_gone"

    order = withdraw(world, "gone", "c0002").order.order_id
    if between:
        world.put(DAYS[3], "d.tar", [pair("other", picture(9))])
        world.night(DAYS[3])
        before["other"] = "kept"
    revert(world, order)

    assert world.verdicts() == before
    lost.write_bytes(data)
    assert_ordered(world)
