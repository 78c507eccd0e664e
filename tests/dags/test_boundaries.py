"""The nights of a command are those of Airflow's scheduler, also where clocks are moved."""

from __future__ import annotations

from datetime import datetime, timedelta

import pendulum
import pytest

from sscd_ops.core.schedule import interval_holding
from sscd_ops.model import Interval
from tests.clock_changes import kinds_of_changes

PLAIN = (
    "0 2 * * *",
    "30 2 * * *",
    "@daily",
    "0 */6 * * *",
    "0 2 * * 0",
    "0 0 1 * *",
    "0 0 29 2 *",
)
SEVERAL = ("15,45 1-3 * * *", "10,20,35 2 * * *", "0 * * * *", "*/20 * * * *", "0 * * * 1")
"""Here Airflow contradicts itself at some changes: it leaves out a time that equals a skipped one,
repeats an interval, or raises where clocks go back by half an hour or in a schedule's pause."""


def by_airflow(schedule: str, zone: str, last: Interval) -> Interval | None:
    """The run after one; None where Airflow contradicts itself."""
    from airflow.timetables.base import DataInterval, TimeRestriction
    from airflow.timetables.interval import CronDataIntervalTimetable

    before = DataInterval(pendulum.instance(last.start), pendulum.instance(last.end))
    try:
        run = CronDataIntervalTimetable(schedule, timezone=zone).next_dagrun_info(
            last_automated_data_interval=before, restriction=TimeRestriction(None, None, True)
        )
    except ValueError:  # "did not advance"
        return None
    found = Interval(run.data_interval.start, run.data_interval.end)
    return found if found.start == last.end else None


@pytest.mark.parametrize("schedule", [*PLAIN, *SEVERAL])
def test_airflow_and_we_agree_which_run_comes_next(schedule):
    asked = contradictions = 0
    for zone, at in kinds_of_changes().values():
        if at.year < 2025:
            continue
        night = interval_holding(schedule, zone, at - timedelta(hours=5))
        while night.start < at + timedelta(hours=3):
            after = interval_holding(schedule, zone, night.end)
            said = by_airflow(schedule, zone, night)
            asked += 1
            if said is None:
                contradictions += 1
            else:
                assert (said.start, said.end) == (after.start, after.end), f"{zone} {night}"
            night = after
    assert contradictions == 0 or (schedule in SEVERAL and contradictions < asked / 4)


def test_a_manual_run_in_a_skipped_hour_has_a_night():
    """Airflow fills in the present as the logical date."""
    from sscd_ops.options import DatasetOptions
    from sscd_ops.provider.nights import night_of

    class Run:
        run_id, run_type = "manual", "manual"
        logical_date = datetime.fromisoformat("2027-03-28T01:00:07+00:00")

    options = DatasetOptions("web", timezone="Europe/Zurich")

    night = night_of({"dag_run": Run}, "", options)

    assert night == night_of({"dag_run": Run}, "2027-03-28", options)
