"""Placeholders: which URLs an interval means."""

from __future__ import annotations

from datetime import datetime

import pytest

from sscd_ops.errors import ConfigError
from sscd_ops.model import Interval
from sscd_ops.sources.places import expand

NEW_YORK, BERLIN, TOKYO = "America/New_York", "Europe/Berlin", "Asia/Tokyo"


def between(start: str, end: str) -> Interval:
    return Interval(datetime.fromisoformat(start), datetime.fromisoformat(end))


NIGHT = between("2026-11-01T02:00Z", "2026-11-02T02:00Z")


@pytest.mark.parametrize(
    ("interval", "timezone", "days"),
    [
        # the local days d with date(start) <= d < date(end)
        (NIGHT, "UTC", ["2026-11-01"]),
        (NIGHT, TOKYO, ["2026-11-01"]),
        # the same instants lie a local day earlier in the west
        (NIGHT, NEW_YORK, ["2026-10-31"]),
        (between("2026-11-20T07:00Z", "2026-11-21T07:00Z"), NEW_YORK, ["2026-11-20"]),
        # midnight to midnight, locally, over the change of summer time: 23 and 25 hours
        (between("2026-03-28T23:00Z", "2026-03-29T22:00Z"), BERLIN, ["2026-03-29"]),
        (between("2026-10-24T22:00Z", "2026-10-25T23:00Z"), BERLIN, ["2026-10-25"]),
        (between("2026-03-08T05:00Z", "2026-03-09T04:00Z"), NEW_YORK, ["2026-03-08"]),
        # a day that has no midnight: Cairo's clocks go from 00:00 to 01:00
        (between("2026-04-23T22:00Z", "2026-04-24T21:00Z"), "Africa/Cairo", ["2026-04-24"]),
        # several days, over a change and over a year's end
        (
            between("2026-10-23T22:00Z", "2026-10-26T23:00Z"),
            BERLIN,
            ["2026-10-24", "2026-10-25", "2026-10-26"],
        ),
        (between("2026-12-31T00:00Z", "2027-01-02T00:00Z"), "UTC", ["2026-12-31", "2027-01-01"]),
        # shorter than a day: at least date(start), also where it ends on the next
        (between("2026-11-01T05:00Z", "2026-11-01T06:00Z"), "UTC", ["2026-11-01"]),
        (between("2026-11-01T23:00Z", "2026-11-02T00:00Z"), "UTC", ["2026-11-01"]),
        (between("2026-11-01T20:00Z", "2026-11-02T04:00Z"), "UTC", ["2026-11-01"]),
        (between("2026-11-01T14:00Z", "2026-11-01T15:00Z"), TOKYO, ["2026-11-01"]),
        (between("2026-11-01T15:00Z", "2026-11-01T16:00Z"), TOKYO, ["2026-11-02"]),
        # an end within a day: that day is the next interval's
        (between("2026-11-01T00:00Z", "2026-11-03T12:00Z"), "UTC", ["2026-11-01", "2026-11-02"]),
    ],
)
def test_date_stands_for_the_local_days_of_the_interval(
    interval: Interval, timezone: str, days: list[str]
) -> None:
    assert expand("/in/{date}/*.tar", interval, timezone) == [f"/in/{day}/*.tar" for day in days]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/in/*.tar", ["/in/*.tar"]),
        ("/in/{date:%Y/%m/%d}/*.tar", ["/in/2026/11/20/*.tar"]),
        ("/in/{date:%Y}/{date:%j}", ["/in/2026/324"]),
        ("/in/{date}/{date:%d}.tar", ["/in/2026-11-20/20.tar"]),
        # instants are UTC, in any timezone of the dataset
        ("/in/{start}--{end}", ["/in/2026-11-20T070000Z--2026-11-21T070000Z"]),
        ("/in/{start:%Y%m%dT%H}", ["/in/20261120T07"]),
        ("/in/{end:%d}", ["/in/21"]),
        ("/in/{date}/{start:%H}", ["/in/2026-11-20/07"]),
        ("s3://b/{date:%Y-%m}/[ab]?*.tar", ["s3://b/2026-11/[ab]?*.tar"]),
    ],
)
def test_each_placeholder_takes_a_format(url: str, expected: list[str]) -> None:
    night = between("2026-11-20T07:00Z", "2026-11-21T07:00Z")

    assert expand(url, night, NEW_YORK) == expected


def test_days_that_give_one_url_are_listed_once() -> None:
    week = between("2026-11-01T00:00Z", "2026-11-08T00:00Z")

    assert expand("/in/{date:%Y-%m}/*.tar", week, "UTC") == ["/in/2026-11/*.tar"]


@pytest.mark.parametrize("url", ["/in/{day}", "/in/{date}/{ds}", "/in/{}", "/in/{a,b}.tar"])
def test_another_placeholder_is_refused_with_those_there_are(url: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown placeholder.*\{date\}, \{start\}, \{end\}"):
        expand(url, NIGHT, "UTC")
