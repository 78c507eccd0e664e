"""What the guard holds, and what it lets pass."""

from __future__ import annotations

import dataclasses

import pytest

from sscd_ops.core.guard import check
from sscd_ops.model import Counts, Fault
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
        (counts(560, 220, 219), ""),  # 999 judged: too few to say, share 0.44
        (counts(560, 220, 219, quarantined=9000), "max_quarantined_odds"),
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


# ---------------------------------------------------------------- quarantine


def faulty(kept: int, shards: int = 0, **codes: int) -> Counts:
    """Counts of samples and source shards that are quarantined by these codes."""
    lost = sum(n for code, n in codes.items() if not Fault(code).of_shard)
    whole = counts(kept, quarantined=lost)
    return dataclasses.replace(whole, source_shards=shards, codes=codes)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (faulty(0, missing_caption=19), "19 of 19 samples"),
        (faulty(3, undecodable=27), "27 of 30 samples"),
        (faulty(1, undecodable=4, missing_caption=5), "9 of 10 samples"),
        (faulty(2, undecodable=8), ""),  # a share of 0.8
        (faulty(1, undecodable=2), ""),
        (faulty(900, 30, truncated_shard=27), "27 of 30 source shards"),
        (faulty(900, 30, truncated_shard=13, unreadable_shard=12), "25 of 30 source shards"),
        (faulty(900, 30, truncated_shard=24), ""),
        (faulty(900, 2, unreadable_shard=2), ""),
        (faulty(900, 3, unreadable_shard=3), "3 of 3 source shards"),
    ],
)
def test_first_nights_are_held_by_the_share_that_is_quarantined(now: Counts, why: str) -> None:
    said = [reason for reason in check(now, {"crawl": now}, [], OPTIONS) if "keeps" not in reason]

    assert bool(said) == bool(why), said
    assert all(why in reason and "first_nights_max" in reason for reason in said)


@pytest.mark.parametrize(
    ("usual", "now", "why"),
    [
        # odds of 0.15 are thrice the least that counts as usual
        (faulty(1000), faulty(870, undecodable=129), ""),
        (faulty(1000), faulty(869, undecodable=131), "131 of 1000 samples as undecodable"),
        # one that is usual may be large, and hides no other
        (faulty(500, bad_json=500), faulty(300, bad_json=700), ""),
        (faulty(500, bad_json=500), faulty(200, bad_json=800), "800 of 1000 samples as bad_json"),
        (faulty(500, bad_json=500), faulty(350, bad_json=500, no_image=150), "150 of 1000"),
        # many small ones together
        (faulty(1000), faulty(760, no_image=80, bad_json=80, bad_key=80), "240 of 1000 samples,"),
        (faulty(100, 40), faulty(100, 40, empty_file=4), ""),
        (faulty(100, 40), faulty(100, 40, empty_file=5), "5 of 40 source shards as empty_file"),
        (faulty(9), faulty(20, undecodable=20), ""),  # of too few to know; a share of 0.5
    ],
)
def test_a_code_is_compared_with_the_nights_before(usual: Counts, now: Counts, why: str) -> None:
    history = [night(usual)] * 4 + [night(faulty(0, 0))]  # an empty night says nothing

    said = check(now, {"crawl": now}, history, OPTIONS)

    assert bool(said) == bool(why), said
    assert all(why in reason and "max_quarantined_odds" in reason for reason in said)
    assert len(said) <= 1


def test_a_share_that_grows_slowly_is_held_where_most_of_a_night_is_lost() -> None:
    """Each night is like those before it, and after 40 nothing is left."""
    history: list[Counts] = []
    for number in range(70):
        lost = round(1000 * (1 - 0.97**number))
        now = dataclasses.replace(
            counts(1000 - lost, quarantined=lost), codes={"undecodable": lost}
        )
        said = held(now, history[:14])
        if said:
            break
        history.insert(0, now)

    assert 780 < lost < 830
    assert "share of 0.8" in said
    # released night after night, it is what is usual
    assert held(now, [now] * 14) == ""


def test_each_source_is_judged_by_what_it_quarantines() -> None:
    now = {"crawl": faulty(9000), "partner": faulty(30, not_an_image=70)}
    past = {"crawl": faulty(9000), "partner": faulty(90, not_an_image=10)}
    whole = faulty(9030, not_an_image=70)

    (reason,) = check(whole, now, [(faulty(9090, not_an_image=10), past)] * 3, OPTIONS)

    assert reason.startswith("source 'partner' quarantines 70 of 100 samples as not_an_image")


def test_a_source_that_keeps_none_in_its_first_night_is_named() -> None:
    now = {"crawl": counts(100), "partner": counts(0)}
    known = [night(counts(100))]

    (first,) = check(counts(100), now, [], OPTIONS)
    (new,) = check(counts(100), now, known, OPTIONS)

    assert "source 'partner' keeps none of 0 samples, in its first night" in first
    assert first == new
    assert check(counts(100), now, [(counts(100), now)], OPTIONS) == [], "released once"
    assert check(counts(100), now, [], GuardOptions(empty="allow")) == []
    assert check(counts(100), now, [], OPTIONS, supplement=True) == []


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (faulty(0, 1, unreadable_shard=1), ""),
        (faulty(0, 1, undecodable=2), ""),
        (faulty(0, 3, unreadable_shard=3), "no sample"),
        (faulty(0, 1, undecodable=3), "keeps none"),
        (faulty(500, 1, truncated_shard=1), ""),
    ],
)
def test_a_late_broken_file_holds_no_supplement(now: Counts, why: str) -> None:
    history = [night(faulty(100, 10))]

    said = "; ".join(check(now, {"crawl": now}, history, OPTIONS, supplement=True))

    assert bool(said) == bool(why)
    assert why in said


def test_what_is_withdrawn_is_left_out_on_both_sides() -> None:
    ruled = dataclasses.replace(counts(90), read=1090, withdrawn=1000)
    with_broken = dataclasses.replace(counts(16, quarantined=14), read=1030, withdrawn=1000)

    assert held(ruled, USUAL) == ""
    assert "max_quarantined_odds" in held(with_broken, USUAL)
    assert held(with_broken, [with_broken] * 3) == ""
    assert held(counts(16, quarantined=14), [with_broken] * 3) == ""


def test_a_source_that_people_withdrew_is_not_silent() -> None:
    gone, left = Counts(50, withdrawn=50), counts(100)
    before = [(counts(200), {"bought": counts(100), "crawl": counts(100)})] * 3
    now = Counts(150, 100, withdrawn=50)

    assert check(now, {"bought": gone, "crawl": left}, before, OPTIONS) == []
    assert check(gone, {"crawl": gone}, [night(counts(100))], OPTIONS) == []
    (reason,) = check(now, {"bought": Counts(), "crawl": left}, before, OPTIONS)
    assert "source 'bought' keeps none of 0" in reason
    some = Counts(60, withdrawn=50, quarantined=10)
    (reason, *_) = check(some, {"crawl": some}, [night(counts(100))], OPTIONS)
    assert "source 'crawl' keeps none of 10" in reason
