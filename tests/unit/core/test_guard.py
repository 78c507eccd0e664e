"""What the guard holds, and what it lets pass."""

from __future__ import annotations

import pytest

from sscd_ops.core.guard import check
from sscd_ops.model import Counts
from sscd_ops.options import GuardOptions

OPTIONS = GuardOptions(max_removed_odds=3.0, first_nights_max=0.8)


def counts(kept: int, exact: int = 0, near: int = 0, quarantined: int = 0) -> Counts:
    return Counts(kept + exact + near + quarantined, kept, exact, near, quarantined)


def night(now: Counts) -> tuple[Counts, dict[str, Counts]]:
    return now, {"crawl": now}


def held(now: Counts, history: list[Counts], options: GuardOptions = OPTIONS) -> str:
    return "; ".join(check(now, {"crawl": now}, [night(past) for past in history], options))


USUAL = [counts(800, 100, 100)] * 5
"""Odds of 201 to 801, about a quarter."""


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (counts(800, 100, 100), ""),
        (counts(580, 210, 210), ""),  # 421/581 = 0.72, three times the usual is 0.75
        (counts(560, 220, 220), "max_removed_odds"),  # 441/561 = 0.79
        (counts(560, 220, 219, quarantined=9000), ""),  # 999 judged: too few to say, share 0.44
        (counts(100, 450, 449), "first_nights_max"),  # 999 judged, share 0.9
        (counts(0, quarantined=50), "keeps none"),
        (counts(0), "no sample"),
    ],
)
def test_a_night_is_compared_with_those_before(now: Counts, why: str) -> None:
    assert why in held(now, USUAL)
    assert bool(why) == bool(held(now, USUAL))


def test_the_median_is_of_the_batches_given_and_counted_as_a_twentieth_at_least() -> None:
    clean = [counts(1000)] * 4 + [counts(10, 990)]

    assert held(counts(1000, near=145), clean) == ""  # 146/1001 = 0.146
    assert "0.05" in held(counts(1000, near=155), clean)  # 156/1001 = 0.156


@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_first_nights_are_held_by_their_share(before: int) -> None:
    history = USUAL[:before]

    assert held(counts(200, 800), history) == ""
    assert "first_nights_max" in held(counts(199, 801), history)


def test_each_large_source_is_judged_by_its_own_nights() -> None:
    past = {"crawl": counts(2000), "small": counts(800, 200)}
    now = {"crawl": counts(1000, near=400), "small": counts(100, near=899)}
    whole = counts(9000, near=1299)
    history = [(counts(9000, near=900), past)] * 3

    reasons = check(whole, now, history, OPTIONS)

    assert len(reasons) == 1, "999 samples of the small one say little"
    assert reasons[0].startswith("source 'crawl'")


def test_a_source_that_went_silent_is_named_unless_the_night_is_a_supplement() -> None:
    past = {"crawl": counts(100), "partner": counts(100)}
    now = {"crawl": counts(5), "partner": counts(0)}
    history = [(counts(200), past)]

    (reason,) = check(counts(5), now, history, OPTIONS)

    assert reason.startswith("source 'partner' keeps none of 0")
    assert check(counts(5), now, history, OPTIONS, supplement=True) == []
    allowed = GuardOptions(empty="allow")
    assert check(counts(5), now, history, allowed) == []


def test_a_supplement_that_keeps_none_of_its_samples_is_still_held() -> None:
    history = [(counts(100), {"crawl": counts(100)})]
    now = counts(0, exact=3)

    reasons = check(now, {"crawl": now}, history, OPTIONS, supplement=True)

    assert any("keeps none of 3" in reason for reason in reasons)


def test_only_the_last_three_turns_say_that_a_source_should_keep_some() -> None:
    silent, busy = {"crawl": counts(0)}, {"crawl": counts(100)}
    now = counts(0, quarantined=2)

    assert "keeps none" in "".join(
        check(now, {"crawl": now}, [(counts(0), silent)] * 2 + [(counts(100), busy)], OPTIONS)
    )
    assert (
        check(now, {"crawl": now}, [(counts(0), silent)] * 3 + [(counts(100), busy)], OPTIONS) == []
    )
