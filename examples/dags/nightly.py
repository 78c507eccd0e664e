"""The nightly curation as an Airflow DAG of your own, with what a team adds to it.

One night without a scheduler: ``SSCD_OPS_DATABASE_URL=... python nightly.py 2026-11-01``
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sscd_ops.provider import curation_dags

log = logging.getLogger(__name__)

# A worker reads the config file under the same path as this file does.
CONFIG = os.environ.get("SSCD_OPS_CONFIG") or Path(__file__).parents[1] / "curation.toml"


def call_somebody(context: Any) -> None:
    """Your alert: a night failed for good, or the guard holds it. The exception says what to do."""
    log.error("%s: %s", context["ti"].task_id, context.get("exception"))


dags = curation_dags(
    CONFIG,
    # These go before the config file: arguments of a step's operator, whatever Airflow knows,
    # such as {"executor_config": {"pod_override": ...}} for a GPU on Kubernetes.
    task_args={
        "embed": {"retry_delay": timedelta(seconds=30)},
        "resolve": {"on_failure_callback": call_somebody},
    },
)
globals().update(dags)  # Airflow looks for DAGs among a file's names

if __name__ == "__main__":
    dag = dags["curate_demo"]
    # a run with a logical date before the DAG's start would get no task from Airflow
    instant = max(datetime.now(UTC), dag.start_date)
    dag.test(logical_date=instant, run_conf={"date": sys.argv[1]})
