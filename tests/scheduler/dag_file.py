"""The DAG file of the scheduler tests (airflow, dag): the product's DAGs, slowed where asked.

Nights are slowed through ``task_args``; the wait is switched off by a subclass of resolve.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sscd_ops.options import STEPS
from sscd_ops.provider import SscdResolveOperator, curation_dags


def ask(sql: str, **given: Any) -> Any:
    """One value of the catalog, None where there is no row."""
    import psycopg2

    url = os.environ["SSCD_OPS_DATABASE_URL"].replace("+psycopg2", "")
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(sql, given)
        row = cursor.fetchone()
    connection.close()
    return row and row[0]


A_NIGHT = """
SELECT {} FROM sscd_ops.batches b JOIN sscd_ops.datasets d USING (dataset_id)
LEFT JOIN sscd_ops.decisions x ON x.decision_id = b.decision_id
WHERE d.name = %(name)s AND b.interval_start = %(start)s
"""


STANDS_BEFORE_ITS_TURN = "waiting_since IS NOT NULL OR turn IS NOT NULL"


def wait_until(day: int, condition: str, context: Any, then: float = 0.0) -> None:
    """Sleep until the batch of that day of the month is that far, then a little longer."""
    run = context["dag_run"]
    name = run.dag_id.removeprefix("curate_")
    start = run.data_interval_start.replace(day=day)
    first = True
    for _ in range(300):
        if ask(A_NIGHT.format(condition), name=name, start=start):
            if not first:
                time.sleep(then)
            return
        first = False
        time.sleep(0.3)
    raise TimeoutError(f"the night of {start} never came so far")


def day_of(context: Any) -> int:
    """Day of the month of a run of a backfill, 0 of any other run."""
    run = context["dag_run"]
    return int(run.data_interval_start.day) if run.run_type == "backfill" else 0


def earlier_of_first_pair(context: Any) -> None:
    """Night 1 decides only after night 2 stood before its turn (or decided, without the wait)."""
    if day_of(context) == 1:
        wait_until(2, STANDS_BEFORE_ITS_TURN, context, then=2.0)


def earlier_of_second_pair(context: Any) -> None:
    """Night 3 registers itself only after night 4 could decide."""
    if day_of(context) == 3:
        wait_until(4, "state NOT IN ('planned', 'ingested', 'embedded')", context, then=4.0)


def let_the_nightly_run_between(context: Any) -> None:
    """A backfill of nights 1 to 4, two at a time, beside a nightly run of night 5.

    Night 5 stands before its turn when 1 and 2 are under way; night 3 starts before 2 has decided,
    so that an earlier night is under way at every moment; and 3 waits for what 5 decides.
    """
    waits = {
        1: (5, STANDS_BEFORE_ITS_TURN),
        2: (3, "true"),
        3: (5, "turn IS NOT NULL"),
    }
    if day_of(context) in waits:
        wait_until(*waits[day_of(context)], context)


def take_a_while(context: Any) -> None:
    """So that a backfill is still under way when a nightly run comes."""
    time.sleep(3)


def wait_for_the_order(context: Any) -> None:
    """Night 2 is surveyed, and decides once an order has taken its turn."""
    if day_of(context) != 2:
        return
    for _ in range(600):
        if ask(
            "SELECT turn FROM sscd_ops.orders JOIN sscd_ops.datasets USING (dataset_id)"
            " WHERE name = 'ordered' AND turn IS NOT NULL"
        ):
            return
        time.sleep(0.3)
    raise TimeoutError("no order was applied")


def die_once(context: Any, result: Any = None) -> None:
    """Be killed at the end of the first try, with all done and Airflow not told."""
    if context["ti"].try_number == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def fail_once(context: Any) -> None:
    """A transient fault on the first try."""
    if context["ti"].try_number == 1:
        raise ConnectionError("storage did not answer")


def note_modules(context: Any, result: Any = None) -> None:
    """Write down which of the heavy libraries a task has loaded."""
    ti = context["ti"]
    heavy = [name for name in ("torch", "faiss", "sscd_ops.steps.plan") if name in sys.modules]
    path = Path(os.environ["NIGHTS_SEEN"]) / f"{ti.dag_id}.{ti.task_id}.{ti.id}"
    path.write_text(" ".join(heavy))


class DecidesAtOnce(SscdResolveOperator):
    """Resolve with the wait for earlier nights switched off."""

    def wait_for_turn(self, parts: Any, context: Any, *, planned: bool) -> None:
        """Do not wait."""


def common() -> dict[str, dict[str, Any]]:
    """Short pauses, and every task says what it has loaded."""
    args: dict[str, dict[str, Any]] = {
        step: {
            "retry_delay": timedelta(seconds=1),
            "retry_exponential_backoff": 0.0,
            "post_execute": note_modules,
        }
        for step in (*STEPS, "apply")
    }
    args["apply"]["post_execute"] = die_once
    args["plan"]["poll"] = args["resolve"]["poll"] = 1.0
    return args


def dags(names: tuple[str, ...], hooks: dict[str, Any], **rest: Any) -> None:
    """The DAGs of those of some datasets that are configured, a function called before a step."""
    args = common()
    for step, hook in hooks.items():
        args[step]["pre_execute"] = hook
    found = curation_dags(os.environ["SSCD_OPS_CONFIG"], args, **rest)
    wanted = {f"{what}_{name}" for name in names for what in ("curate", "correct")}
    globals().update({name: dag for name, dag in found.items() if name in wanted})


slow = {"resolve": earlier_of_first_pair, "plan": earlier_of_second_pair}
dags(("forward",), slow)
dags(("nowait",), slow, operators={"resolve": DecidesAtOnce})
dags(("backwards", "calm", "killed", "week"), {})
dags(("beside",), {"embed": let_the_nightly_run_between})
dags(("ten",), {"embed": take_a_while})
dags(("shared",), {"embed": fail_once})
dags(("ordered",), {"embed": wait_for_the_order})
