"""Intervals of a cron schedule in a timezone: which night an instant or a day means.

The boundaries are those of the runs that Airflow's ``CronDataIntervalTimetable`` makes one after
another, summer time included, so that a night run from the command line and one run by Airflow are
the same batch. A wall-clock time that summer time skips comes as much later, one that its end
repeats comes the second time; a schedule of every hour counts elapsed time.

From one boundary the next follows, but not the one before: a skipped time and one an hour later
may be the same instant. So every look begins at an *anchor*, a boundary that is one whatever came
before it, and goes forward. Intervals tile time whatever the clocks do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, croniter

from sscd_ops.errors import UsageError
from sscd_ops.model import Interval

_SHIFT = timedelta(hours=26)
"""More than clocks were ever moved by: 24 hours, where the date line was."""
_REACH = timedelta(hours=30)
"""From noon UTC on a date to any moment of that day in any zone (UTC-12 to UTC+15)."""
_HOURS = timedelta(hours=3)
"""More than clocks are moved by today."""


def next_boundary(schedule: str, timezone: str, instant: datetime) -> datetime:
    """The first boundary after an aware instant, in UTC."""
    return interval_holding(schedule, timezone, instant).end


def interval_holding(schedule: str, timezone: str, instant: datetime) -> Interval:
    """The schedule's interval with ``start <= instant < end``, in UTC.

    Raises:
        UsageError: the instant is too near to the first or the last of all years.
    """
    return _Clock(schedule, timezone).until(instant)[-1]


def intervals_starting_on(schedule: str, timezone: str, day: date) -> list[Interval]:
    """The intervals that start on a local day, in order; more than one unless nightly."""
    clock = _Clock(schedule, timezone)
    # No clock says when a day begins that is skipped or comes twice: all that may lie in it.
    with _known_years():
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        found = clock.between(noon - _REACH, noon + _REACH)
        return [item for item in found if item.start.astimezone(clock.zone).date() == day]


def intervals_before(
    schedule: str, timezone: str, interval: Interval, count: int
) -> list[Interval]:
    """The ``count`` intervals of the schedule just before one of its own, the latest first."""
    clock = _Clock(schedule, timezone)
    answer: list[Interval] = []
    end = interval.start
    while len(answer) < count:
        answer += reversed(clock.until(end - timedelta(microseconds=1)))
        end = answer[-1].start
    return answer[:count]


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
        day = _day(text)
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a date: give a day such as 2026-11-01, or an instant such as"
            " 2026-11-01T02:00+00:00"
        ) from error
    zone = ZoneInfo(timezone)
    if day is None:
        return _of_instant(schedule, timezone, instant)
    found = intervals_starting_on(schedule, timezone, day)
    if len(found) == 1:
        return found[0]
    if not found:
        near = interval_holding(schedule, timezone, instant.replace(tzinfo=zone))
        raise UsageError(
            f"no interval of schedule {schedule!r} ({timezone}) starts on {text}; the one before"
            f" starts at {near.start.astimezone(zone).isoformat()}: give"
            f" {date_of(schedule, timezone, near)}"
        )
    starts = ", ".join(item.start.astimezone(zone).isoformat() for item in found)
    raise UsageError(
        f"several intervals of schedule {schedule!r} ({timezone}) start on {text}: give one of"
        f" {starts}"
    )


def _day(text: str) -> date | None:
    """The day that a text names in any of ISO's forms (20261101, 2026-W45-1); None: an instant."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _of_instant(schedule: str, timezone: str, instant: datetime) -> Interval:
    """The interval that holds an instant; local time, where it has no offset.

    Raises:
        UsageError: a local time that comes twice, each time in another interval.
    """
    if instant.tzinfo:
        return interval_holding(schedule, timezone, instant)
    twice = [instant.replace(tzinfo=ZoneInfo(timezone), fold=fold) for fold in (0, 1)]
    first, second = (interval_holding(schedule, timezone, one) for one in twice)
    comes_twice = all(one.astimezone(UTC).astimezone(one.tzinfo) == one for one in twice)
    if first != second and comes_twice and twice[0].utcoffset() != twice[1].utcoffset():
        raise UsageError(
            f"{instant.isoformat()} comes twice in {timezone}, each time in another night: give"
            f" {' or '.join(one.isoformat() for one in twice)}"
        )
    return first


class _Clock:
    """The boundaries of a schedule.

    Args:
        schedule: a cron line.
        timezone: of the wall clock it is read by.
    """

    def __init__(self, schedule: str, timezone: str) -> None:
        self.zone = ZoneInfo(timezone)
        self._cron = croniter(schedule)
        self._is_hourly = self._cron.expanded[1] == ["*"]

    def until(self, instant: datetime) -> list[Interval]:
        """Intervals that follow each other, at least one; the last holds the instant."""
        with _known_years():
            return self._through(self._anchor(instant), instant)

    def between(self, first: datetime, last: datetime) -> list[Interval]:
        """The intervals from the one that holds ``first`` to the one that holds ``last``."""
        with _known_years():
            return self._through(self.until(first)[-1].start, last)

    def _through(self, boundary: datetime, instant: datetime) -> list[Interval]:
        """The intervals from a boundary to the one that holds an instant."""
        answer: list[Interval] = []
        while boundary <= instant:
            end = self._after(boundary)
            answer.append(Interval(boundary, end))
            boundary = end
        return answer

    def _after(self, boundary: datetime) -> datetime:
        """The boundary after one."""
        naive = self._naive(boundary)
        self._cron.set_current(naive, force=True)
        there: datetime = self._cron.get_next(datetime)
        if self._is_hourly:
            # wall-clock time repeats or skips an hour, elapsed time doesn't
            return boundary.astimezone(UTC) + (there - naive)
        return self._aware(there)

    def _anchor(self, instant: datetime) -> datetime:
        """A boundary at or before an instant that does not depend on those before it."""
        minute = self._naive(instant).replace(second=0, microsecond=0)
        there = self._before(minute + timedelta(minutes=1))
        while self._aware(there) > instant or not self._is_anchor(there):
            there = self._before(there - _HOURS if self._is_hourly else there)
        return self._aware(there)

    def _is_anchor(self, there: datetime) -> bool:
        """Whether every sequence of boundaries has the one at a wall-clock time of the schedule.

        It has where no clock is moved near it. A schedule of every hour of some days only may come
        shifted out of a pause in which one is, and is itself again when it has run for hours.
        Times that only ever come near such a moment (the last Sunday of March) begin with the
        first after a pause.
        """
        if self._is_calm(there):
            return not self._is_hourly or self._before(there - _HOURS) >= there - 2 * _HOURS
        return not self._is_hourly and there - self._before(there) > _SHIFT

    def _is_calm(self, there: datetime) -> bool:
        """Whether the clock is moved within ``_SHIFT`` of a wall-clock time."""
        here = self._aware(there)
        near = (here - _SHIFT, here, here + _SHIFT)
        return len({moment.astimezone(self.zone).utcoffset() for moment in near}) == 1

    def _before(self, there: datetime) -> datetime:
        self._cron.set_current(there, force=True)
        found: datetime = self._cron.get_prev(datetime)
        return found

    def _naive(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None)

    def _aware(self, naive: datetime) -> datetime:
        """A wall-clock time in UTC: the later of two equal ones, a skipped one moved on."""
        early = naive.replace(tzinfo=self.zone, fold=0).astimezone(UTC)
        if self._naive(early) != naive:
            return early
        return naive.replace(tzinfo=self.zone, fold=1).astimezone(UTC)


@contextmanager
def _known_years() -> Iterator[None]:
    """Around what may leave the years that a date can have."""
    try:
        yield
    except (OverflowError, CroniterBadDateError) as error:
        raise UsageError(
            "the date is too far away for this schedule (years 1 to 9999): give a day such as"
            " 2026-11-01"
        ) from error
