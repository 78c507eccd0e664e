"""Long runs under the real scheduler (`make test-long`): a week, and ten nights beside a nightly.

Prints what it measured; the last result stands in docs/airflow.md.
"""

from __future__ import annotations

import shutil
import time

import pytest
from nights_support import (
    AT,
    HERE,
    NIGHT,
    Nights,
    assert_promises,
    crossing_night,
    dataset,
    run_by_command,
    turns,
)

pytestmark = [pytest.mark.long, pytest.mark.scheduler, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", autouse=True)
def started(nights: Nights) -> None:
    """Eleven nights of pictures, and Airflow up."""
    for number in range(1, 12):
        crossing_night(nights.incoming / "crossing" / NIGHT.format(number), number)
    nights.write_configs("".join(dataset(nights, name, "crossing") for name in ("week", "ten")))
    shutil.copy(HERE / "dag_file.py", nights.base / "dags" / "nights.py")
    nights.airflow.start()
    nights.airflow.wait_for_dags(["curate_week", "curate_ten"])
    for name in ("week", "ten"):
        nights.airflow.unpause(f"curate_{name}")


def test_a_week_of_overlapping_nights_equals_the_week_run_by_command(nights):
    start = time.monotonic()
    nights.airflow.backfill("curate_week", AT.format(1), AT.format(7), max_active_runs=3)
    ended = nights.airflow.wait_for_runs("curate_week", 7, 900)
    seconds = time.monotonic() - start
    run_by_command(nights, "week", range(1, 8))

    print(f"\na week, three nights at a time: {seconds:.0f} s")
    assert set(ended.values()) == {"success"}
    assert turns(nights, "week") == {day: day for day in range(1, 8)}
    assert nights.dump("week") == nights.dump("week", "cli")
    assert_promises(nights, "week")


def test_a_nightly_run_beside_ten_nights_of_backfill_is_not_starved(nights):
    airflow = nights.airflow
    airflow.backfill("curate_ten", AT.format(1), AT.format(10))
    deadline = time.monotonic() + 120
    while len(turns(nights, "ten")) < 2 and time.monotonic() < deadline:
        time.sleep(0.3)

    start = time.monotonic()
    airflow.trigger("curate_ten", "nightly", {"date": NIGHT.format(11)})
    airflow.wait_for_runs("curate_ten", ["nightly"], 600)
    nightly = time.monotonic() - start
    ended = airflow.wait_for_runs("curate_ten", 11, 900)
    whole = time.monotonic() - start

    turn = turns(nights, "ten")[11]
    print(f"\nthe nightly run: {nightly:.0f} s, turn {turn}; all eleven: {whole:.0f} s")
    assert set(ended.values()) == {"success"}
    assert turn < 8, "it decided well before the backfill was over"
    assert_promises(nights, "ten")
