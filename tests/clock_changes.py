"""Moments at which the clocks of the world are moved, one of each kind."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

Change = tuple[str, datetime]
"""A zone and the instant from which its clocks say something else."""


def changes_of(name: str, first: int, end: int) -> list[datetime]:
    """When a zone's clocks are moved in the years from ``first`` to before ``end``."""
    zone = ZoneInfo(name)
    at = datetime(first, 1, 1, tzinfo=UTC)
    found = []
    while at.year < end:
        later = at + timedelta(days=7)
        if at.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset():
            found.append(_between(zone, at, later))
        at = later
    return found


def _between(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(minutes=1):
        middle = (low + (high - low) / 2).replace(second=0, microsecond=0)
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


@cache
def kinds_of_changes() -> dict[str, Change]:
    """One change of 2025-2030 for each wall-clock time and shift there is in any zone.

    Zones that are moved at the same wall-clock time by the same shift are one to a schedule.
    """
    kinds: dict[tuple[time, timedelta], Change] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for at in changes_of(name, 2025, 2031):
            before = (at - timedelta(minutes=1)).astimezone(zone)
            shift = at.astimezone(zone).utcoffset() - before.utcoffset()
            kinds.setdefault((before.time(), shift), (name, at))
    # days that were skipped or came twice, where the date line was moved
    kinds[time(1), timedelta(1)] = ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC))
    kinds[time(1), timedelta(-1)] = ("Pacific/Kwajalein", datetime(1969, 9, 30, 13, tzinfo=UTC))
    return {f"{name} {at:%Y-%m-%d}": (name, at) for name, at in kinds.values()}
