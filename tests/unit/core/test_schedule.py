"""Which night an instant or a day means."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.core.schedule import (
    date_of,
    interval_holding,
    interval_of,
    intervals_before,
    intervals_starting_on,
)
from sscd_ops.errors import UsageError

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
