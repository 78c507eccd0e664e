"""Train on every new snapshot: an Airflow DAG that the dataset's asset starts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from airflow.sdk import dag, task

from sscd_ops.provider import asset

DATASET = asset("demo")
MODELS = Path(os.environ.get("MODELS", "models"))


# A nightly run beside a backfill makes snapshots quickly: their events wait while one run trains,
# then start the next one together.
@dag(schedule=[DATASET], max_active_runs=1, params={"snapshot": 0, "location": ""})
def train_on_snapshot():
    @task
    def newest(triggering_asset_events: Any = None, params: Any = None) -> dict[str, Any]:
        """The newest snapshot that was told of; by hand, what the params say."""
        told = [event.extra for event in triggering_asset_events[DATASET]]
        return max(told or [dict(params)], key=lambda extra: extra["snapshot"])

    # An event may come twice. What has a model already is skipped: a snapshot never changes.
    @task.short_circuit
    def is_new(told: dict[str, Any]) -> bool:
        return not (MODELS / f"{told['snapshot']:06d}.json").exists()

    @task
    def train(told: dict[str, Any]) -> None:
        """Your training. Here: counts what it would read, beside the snapshot it is from."""
        import fsspec

        with fsspec.open(told["location"]) as file:
            shards = json.load(file)["shardlist"]
        # urls are relative to the snapshot's file
        seen = {"shards": len(shards), "samples": sum(shard["nsamples"] for shard in shards)}
        MODELS.mkdir(parents=True, exist_ok=True)
        (MODELS / f"{told['snapshot']:06d}.json").write_text(json.dumps(seen))

    told = newest()
    is_new(told) >> train(told)


dag_of_snapshots = train_on_snapshot()

if __name__ == "__main__":
    import sys

    dag_of_snapshots.test(run_conf={"snapshot": int(sys.argv[1]), "location": sys.argv[2]})
