"""Who runs a batch, and whether a command still does."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.locks import CLI_LOCK
from sscd_ops.catalog.sql import run, value
from sscd_ops.model import UNDER_WAY, Runner


def runner_json(runner: Runner) -> str:
    """A runner as the jsonb column holds it."""
    return json.dumps({"kind": runner.kind, "dag_id": runner.dag_id, "run_id": runner.run_id})


def runner_of(raw: Any) -> Runner | None:
    """The runner in a jsonb value, or None."""
    if not raw:
        return None
    return Runner(raw["kind"], raw.get("dag_id", ""), raw.get("run_id", ""))


def bind_runner(conn: Connection, batch_id: int, runner: Runner) -> None:
    """Say who runs the batch from now on."""
    update = "UPDATE sscd_ops.batches SET runner = CAST(:r AS jsonb) WHERE batch_id = :b"
    run(conn, update, r=runner_json(runner), b=batch_id)


def leave_others(conn: Connection, batch_id: int, runner: Runner) -> None:
    """Take a DAG run away from other batches of its dataset that it began and did not decide.

    What a run works on follows its params, which a clear or a reprocessing may change. The batch it
    leaves has failed: nobody waits for it, this run itself least of all.
    """
    if runner.kind == "cli":
        return  # all commands are one runner: each holds a lock on the batch it works on
    run(
        conn,
        "UPDATE sscd_ops.batches SET runner = NULL WHERE runner = CAST(:r AS jsonb)"
        " AND batch_id <> :b AND state = ANY(:s) AND NOT dry_run"
        " AND dataset_id = (SELECT dataset_id FROM sscd_ops.batches WHERE batch_id = :b)",
        r=runner_json(runner),
        b=batch_id,
        s=list(UNDER_WAY),
    )


def cli_is_alive(conn: Connection, batch_id: int) -> bool:
    """Whether some session holds the batch's advisory lock, looked up without taking it."""
    found = value(
        conn,
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = :k"
        " AND objid = :b AND objsubid = 2 AND granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()))",
        k=CLI_LOCK,
        b=batch_id,
    )
    return bool(found)
