"""Intervals of a cron schedule in a timezone: which night an instant or a day means.

The boundaries are those that Airflow's ``CronDataIntervalTimetable`` makes, summer time included,
so that a night run from the command line and one run by Airflow are the same batch.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter

from sscd_ops.errors import UsageError
from sscd_ops.model import Interval

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def next_boundary(schedule: str, timezone: str, instant: datetime) -> datetime:
    """The first boundary after an aware instant, in UTC."""
    return _step(schedule, timezone, instant, forward=True)


def interval_holding(schedule: str, timezone: str, instant: datetime) -> Interval:
    """The schedule's interval with ``start <= instant < end``, in UTC."""
    end = next_boundary(schedule, timezone, instant)
    start = _step(schedule, timezone, end, forward=False)
    while start > instant:  # the end of summer time repeats an hour
        end, start = start, _step(schedule, timezone, start, forward=False)
    return Interval(start, end)


def intervals_starting_on(schedule: str, timezone: str, day: date) -> list[Interval]:
    """The intervals that start on a local day, in order; more than one unless nightly."""
    zone = ZoneInfo(timezone)
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
    answer: list[Interval] = []
    start = next_boundary(schedule, timezone, midnight - timedelta(seconds=1))
    while start.astimezone(zone).date() == day:
        end = next_boundary(schedule, timezone, start)
        answer.append(Interval(start, end))
        start = end
    return answer


def intervals_before(
    schedule: str, timezone: str, interval: Interval, count: int
) -> list[Interval]:
    """The ``count`` intervals of the schedule just before one of its own, the latest first."""
    answer: list[Interval] = []
    end = interval.start
    for _ in range(count):
        answer.append(interval_holding(schedule, timezone, end - timedelta(microseconds=1)))
        end = answer[-1].start
    return answer


def date_of(schedule: str, timezone: str, interval: Interval) -> str:
    """What to give as ``--date`` for an interval: its local day, or its start if others share it.

    ``interval_of`` reads it back.
    """
    local = interval.start.astimezone(ZoneInfo(timezone))
    alone = len(intervals_starting_on(schedule, timezone, local.date())) == 1
    return local.date().isoformat() if alone else local.isoformat()


def interval_of(schedule: str, timezone: str, text: str) -> Interval:
    """What ``--date`` means: the local day an interval starts, or an instant inside it.

    An instant without an offset is local time.

    Raises:
        UsageError: not a date; no interval starts on that day, or several do.
    """
    text = text.strip()
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a date: give a day such as 2026-11-01, or an instant such as"
            " 2026-11-01T02:00+00:00"
        ) from error
    zone = ZoneInfo(timezone)
    if not _DAY.fullmatch(text):
        aware = instant if instant.tzinfo else instant.replace(tzinfo=zone)
        return interval_holding(schedule, timezone, aware)
    found = intervals_starting_on(schedule, timezone, instant.date())
    if len(found) == 1:
        return found[0]
    if not found:
        near = interval_holding(schedule, timezone, instant.replace(tzinfo=zone))
        raise UsageError(
            f"no interval of schedule {schedule!r} ({timezone}) starts on {text}; the one before"
            f" starts at {near.start.astimezone(zone).isoformat()}: give that day"
        )
    starts = ", ".join(item.start.astimezone(zone).isoformat() for item in found)
    raise UsageError(
        f"several intervals of schedule {schedule!r} ({timezone}) start on {text}: give one of"
        f" {starts}"
    )


def _step(schedule: str, timezone: str, instant: datetime, *, forward: bool) -> datetime:
    zone = ZoneInfo(timezone)
    naive = instant.astimezone(zone).replace(tzinfo=None)
    cron = croniter(schedule, naive)
    there: datetime = cron.get_next(datetime) if forward else cron.get_prev(datetime)
    if cron.expanded[1] == ["*"]:
        # Every hour: wall-clock time repeats or skips one, elapsed time doesn't.
        return instant.astimezone(UTC) + (there - naive)
    return _aware(there, zone).astimezone(UTC)


def _aware(naive: datetime, zone: ZoneInfo) -> datetime:
    """A wall-clock time as an instant: the later of two equal ones, a skipped one moved on."""
    early = naive.replace(tzinfo=zone, fold=0)
    if early.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != naive:
        return early
    return naive.replace(tzinfo=zone, fold=1)
