"""Which night an instant or a day means."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.schedule import (
    date_of,
    interval_holding,
    interval_of,
    intervals_before,
    intervals_starting_on,
    next_boundary,
)
from sscd_ops.errors import UsageError
from tests.clock_changes import kinds_of_changes
from tests.soak import sweep

NIGHTLY = "0 2 * * *"


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def test_an_instant_lies_in_the_interval_that_starts_at_or_before_it():
    held = interval_holding(NIGHTLY, "UTC", utc(2026, 11, 20, 2))
    before = interval_holding(NIGHTLY, "UTC", utc(2026, 11, 20, 1, 59))

    assert (held.start, held.end) == (utc(2026, 11, 20, 2), utc(2026, 11, 21, 2))
    assert before.end == held.start


def test_a_day_means_the_interval_that_starts_on_it_locally():
    night = interval_of(NIGHTLY, "America/New_York", "2026-11-20")

    assert night.start == utc(2026, 11, 20, 7)


def test_an_instant_without_offset_is_local_time():
    night = interval_of(NIGHTLY, "Asia/Tokyo", "2026-11-20T02:00")

    assert night.start == utc(2026, 11, 19, 17)


@pytest.mark.parametrize("text", ["20261101", "2026-W44-7", "2026W447"])
def test_a_day_in_another_of_iso_s_forms_is_that_day_and_not_its_midnight(text):
    assert interval_of(NIGHTLY, "Europe/Berlin", text) == interval_of(
        NIGHTLY, "Europe/Berlin", "2026-11-01"
    )


def test_a_local_time_that_comes_twice_is_refused_where_it_is_two_nights():
    with pytest.raises(UsageError, match=r"comes twice.*02:30:00\+02:00 or .*02:30:00\+01:00"):
        interval_of("30 2 * * *", "Europe/Berlin", "2026-10-25T02:30")

    once = interval_of(NIGHTLY, "Europe/Berlin", "2026-10-25T02:30+01:00")
    assert interval_of("0 1 * * *", "Europe/Berlin", "2026-10-25T02:30").start < once.end


def test_a_local_time_that_is_skipped_is_as_much_later():
    """As the schedule reads it."""
    night = interval_of("30 2 * * *", "Europe/Berlin", "2026-03-29T02:30")

    assert night.start == utc(2026, 3, 29, 1, 30)


def test_a_night_is_23_or_25_hours_long_when_summer_time_changes():
    spring = interval_of("30 12 * * *", "Europe/Berlin", "2026-03-28")
    autumn = interval_of("30 12 * * *", "Europe/Berlin", "2026-10-24")

    assert spring.end - spring.start == timedelta(hours=23)
    assert autumn.end - autumn.start == timedelta(hours=25)


def test_an_ambiguous_day_lists_its_intervals():
    with pytest.raises(UsageError, match=r"several intervals.*2026-11-01T00:00.*T12:00"):
        interval_of("0 */12 * * *", "UTC", "2026-11-01")


def test_a_day_without_an_interval_names_the_one_before():
    with pytest.raises(UsageError, match=r"no interval.*2026-11-01T02:00"):
        interval_of("0 2 * * 0", "UTC", "2026-11-03")


def test_what_is_no_date_is_refused_with_an_example():
    with pytest.raises(UsageError, match="2026-11-01"):
        interval_of(NIGHTLY, "UTC", "yesterday")


def test_an_hourly_schedule_has_as_many_intervals_as_the_day_has_hours():
    assert len(intervals_starting_on("0 * * * *", "Europe/Berlin", date(2026, 3, 29))) == 23
    assert len(intervals_starting_on("0 * * * *", "Europe/Berlin", date(2026, 10, 25))) == 25


@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)),  # noqa: DTZ001
    st.sampled_from([NIGHTLY, "30 2 * * *", "0 * * * *", "0 */6 * * *", "15 3 * * 1"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Sydney"]),
)
def test_every_instant_lies_in_exactly_the_interval_found(when, schedule, timezone):
    instant = when.replace(tzinfo=UTC)

    found = interval_holding(schedule, timezone, instant)

    assert found.start <= instant < found.end
    assert interval_holding(schedule, timezone, found.start) == found


@pytest.mark.parametrize(
    "schedule", [NIGHTLY, "0 */6 * * *", "30 1 * * 1", "0 3 1 * *", "15 * * * *"]
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_the_intervals_before_follow_without_a_gap_and_can_be_named(schedule, zone):
    """Over the end of summer time too."""
    now = interval_holding(schedule, zone, utc(2026, 11, 2, 12))

    before = intervals_before(schedule, zone, now, 60)

    assert [i.end for i in before] == [i.start for i in [now, *before[:-1]]]
    assert all(i.start < i.end for i in before)
    assert [interval_of(schedule, zone, date_of(schedule, zone, i)) for i in before] == before


SCHEDULES = {
    # schedule -> how far around a change to look
    NIGHTLY: 3,
    "30 2 * * *": 3,
    "@daily": 3,
    "59 23 * * *": 3,
    "0 */6 * * *": 2,
    "15,45 1-3 * * *": 2,
    "10,20,35 2 * * *": 2,
    "15,45 0-1,22-23 * * *": 2,
    "0 * * * *": 1,
    "*/20 * * * *": 1,
    "7 * * * 1": 8,
    "0 2 * * 0": 15,
    "0 0 1 * *": 70,
    "0 2 * 3 L0": 800,  # near a change in every year
    "0 0 29 2 *": 3000,
}


CHANGES = list(kinds_of_changes())


@pytest.mark.parametrize("change", sweep(CHANGES, [*CHANGES[:-2:4], *CHANGES[-2:]]))
@pytest.mark.timeout(120)
def test_intervals_tile_time_whatever_the_clocks_do(change):
    zone, at = kinds_of_changes()[change]
    for schedule, days in SCHEDULES.items():
        if schedule == "7 * * * 1" and at.year < 2025:
            continue  # elapsed time over a moved date line: Monday's hours would be Tuesday's
        said = f"{schedule} {zone}"
        last = interval_holding(schedule, zone, at + timedelta(days=days))
        tiles = [last]
        while tiles[0].start > at - timedelta(days=days):
            tiles = [*intervals_before(schedule, zone, tiles[0], 20)[::-1], *tiles]

        assert all(a.start < a.end == b.start for a, b in pairwise(tiles)), said
        near = [tile for tile in tiles if abs(tile.start - at) < timedelta(hours=3)]
        for tile in [tiles[0], *near, last]:
            assert interval_holding(schedule, zone, tile.start) == tile, f"{said} {tile}"
            assert interval_of(schedule, zone, date_of(schedule, zone, tile)) == tile, said
        minutes = (-1201, -91, -60, -31, -15, -1, 0, 1, 15, 31, 60, 91, 1201)
        for instant in (at + timedelta(minutes=m, seconds=7) for m in minutes):
            (held,) = [tile for tile in tiles if tile.start <= instant < tile.end]
            assert interval_holding(schedule, zone, instant) == held, f"{said} {instant}"
            assert next_boundary(schedule, zone, instant) == held.end, f"{said} {instant}"


@pytest.mark.parametrize("change", kinds_of_changes())
def test_every_day_means_its_nights_or_says_that_it_has_none(change):
    zone, at = kinds_of_changes()[change]
    days = [at.date() + timedelta(days=offset) for offset in (-2, -1, 0, 1, 2)]
    for schedule in (NIGHTLY, "30 2 * * *", "@daily", "59 23 * * *", "0 */6 * * *"):
        found = [night for day in days for night in intervals_starting_on(schedule, zone, day)]

        assert all(a.end == b.start for a, b in pairwise(found)), f"{schedule} {zone}"
        for day in days:
            nights = intervals_starting_on(schedule, zone, day)
            if len(nights) == 1:
                assert interval_of(schedule, zone, day.isoformat()) == nights[0]
            else:
                with pytest.raises(UsageError, match=r"no interval|several intervals"):
                    interval_of(schedule, zone, day.isoformat())


def test_a_day_that_was_skipped_names_the_night_before_it():
    with pytest.raises(UsageError, match=r"no interval.*2011-12-29T02:00.*give 2011-12-29"):
        interval_of(NIGHTLY, "Pacific/Apia", "2011-12-30")


def test_a_night_at_a_skipped_hour_starts_an_hour_later_by_the_clock():
    night = interval_of(NIGHTLY, "Europe/Zurich", "2027-03-28")

    assert (night.start, night.end) == (utc(2027, 3, 28, 1), utc(2027, 3, 29, 0))
    assert interval_holding(NIGHTLY, "Europe/Zurich", utc(2027, 3, 28, 0, 59)).end == night.start


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31", "9999-12-31T23:59"])
@pytest.mark.parametrize("schedule", [NIGHTLY, "0 * * * *", "0 0 29 2 *"])
def test_the_ends_of_the_calendar_are_refused(text, schedule):
    with pytest.raises(UsageError):
        interval_of(schedule, "Pacific/Apia", text)


@pytest.mark.parametrize("day", [date(1, 1, 1), date(9999, 12, 31)])
def test_a_day_beyond_all_years_is_refused_with_what_to_give(day: date) -> None:
    with pytest.raises(UsageError, match=r"too far away.*give a day such as 2026-11-01"):
        intervals_starting_on("0 2 * * *", "Europe/Zurich", day)
