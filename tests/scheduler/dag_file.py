"""The DAG file of the scheduler tests (airflow, dag): the product's DAGs, slowed where asked.

Nights are slowed through ``task_args``; the wait is switched off by a subclass of resolve.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sscd_ops.provider import SscdResolveOperator, curation_dags

STEPS = ("plan", "ingest", "embed", "match", "resolve", "publish", "commit")


def ask(sql: str, **given: Any) -> Any:
    """One value of the catalog, None where there is no row."""
    import psycopg2

    url = os.environ["SSCD_OPS_DATABASE_URL"].replace("+psycopg2", "")
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(sql, given)
        row = cursor.fetchone()
    connection.close()
    return row and row[0]


NEXT_NIGHT = """
SELECT {} FROM sscd_ops.batches b JOIN sscd_ops.datasets d USING (dataset_id)
WHERE d.name = %(name)s AND b.interval_start = %(start)s
"""


def wait_until(condition: str, context: Any, then: float) -> None:
    """Sleep until the following night's batch is that far, then a little longer."""
    run = context["dag_run"]
    name = run.dag_id.removeprefix("curate_")
    start = run.data_interval_start + timedelta(days=1)
    first = True
    for _ in range(300):
        if ask(NEXT_NIGHT.format(condition), name=name, start=start):
            if not first:
                time.sleep(then)
            return
        first = False
        time.sleep(0.3)
    raise TimeoutError(f"the night after {start} never came so far")


def earlier_of_first_pair(context: Any) -> None:
    """Night 1 decides only after night 2 stood before its turn (or decided, without the wait)."""
    if context["dag_run"].data_interval_start.day == 1:
        wait_until("waiting_since IS NOT NULL OR turn IS NOT NULL", context, 2.0)


def earlier_of_second_pair(context: Any) -> None:
    """Night 3 registers itself only after night 4 could decide."""
    if context["dag_run"].data_interval_start.day == 3:
        wait_until("state NOT IN ('planned', 'ingested', 'embedded')", context, 4.0)


def take_a_while(context: Any) -> None:
    """So that a backfill is still under way when a nightly run comes."""
    time.sleep(3)


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
        for step in STEPS
    }
    args["plan"]["poll"] = args["resolve"]["poll"] = 1.0
    return args


def dags(names: tuple[str, ...], hooks: dict[str, Any], **rest: Any) -> None:
    """The DAGs of those of some datasets that are configured, a function called before a step."""
    args = common()
    for step, hook in hooks.items():
        args[step]["pre_execute"] = hook
    found = curation_dags(os.environ["SSCD_OPS_CONFIG"], args, **rest)
    wanted = {f"curate_{name}" for name in names}
    globals().update({name: dag for name, dag in found.items() if name in wanted})


slow = {"resolve": earlier_of_first_pair, "plan": earlier_of_second_pair}
dags(("forward",), slow)
dags(("nowait",), slow, operators={"resolve": DecidesAtOnce})
dags(("backwards", "calm", "killed", "week"), {})
dags(("beside", "ten"), {"embed": take_a_while})
dags(("shared",), {"embed": fail_once})
