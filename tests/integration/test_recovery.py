"""What a death, an operator or the passing of time leaves behind, and the next command picks up."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import event, text

from sscd_ops.catalog import partitions, placements
from sscd_ops.catalog.database import Catalog
from sscd_ops.errors import BatchHeld, SourceChanged, StoreUnavailable
from sscd_ops.model import Runner
from sscd_ops.sources.webdataset import WebDatasetSource
from sscd_ops.steps import commit, ingest, manage, plan, resolve, survey
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_index, verify_snapshot
from sscd_ops.testing import picture
from sscd_ops.wiring import Wiring
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World, assert_promises, interval, pair


def same(count: int) -> list[Any]:
    """So many samples of one picture: the guard of a first night holds them."""
    return [pair(f"k{number}", picture(1)) for number in range(count)]


# ---------------------------------------------------------------- plan


def test_a_supplement_whose_plan_died_still_finds_nothing_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.change(guard={"empty": "hold"})
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    real = WebDatasetSource.find

    def fails(*given: Any) -> Any:
        monkeypatch.setattr(WebDatasetSource, "find", real)
        raise StoreUnavailable("listing: timed out")

    monkeypatch.setattr(WebDatasetSource, "find", fails)
    with pytest.raises(StoreUnavailable):
        world.night(DAYS[0], supplement=True)

    assert world.night(DAYS[0], supplement=True).answered
    assert world.ask("SELECT supplement, state FROM curation.runs") == [
        {"supplement": 0, "state": "published"}
    ]


def test_a_released_batch_keeps_its_files_until_it_is_run_again(world: World) -> None:
    world.change(guard={"first_nights_max": 0.5})
    world.change_source(urls=(f"{world.incoming}/*/*.tar",))
    world.put("any", "a.tar", same(9))
    with pytest.raises(BatchHeld):
        world.night(DAYS[0])
    with world.parts() as parts:
        manage.release(parts, 1, actor="ann", why="fine")

    second = world.night(DAYS[1])

    assert second.skipped_shards == 1
    with world.parts() as parts:
        assert world.from_resolve(parts, 1).counts.read == 9


def test_weights_are_looked_for_without_the_datasets_lock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download may take minutes; a transaction stands idle a minute at most."""
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    real = Wiring.fingerprint
    held: list[object] = []

    def looks(self: Wiring, options: Any) -> Any:
        held.extend(
            world.ask(
                "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'"
                " AND datname = current_database()"
            )
        )
        return real(self, options)

    monkeypatch.setattr(Wiring, "fingerprint", looks)
    world.night(DAYS[0])

    assert held == []


# ---------------------------------------------------------------- dry runs


def test_a_dry_run_of_a_command_that_was_killed_is_dropped_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with world.parts() as parts:  # kill -9 after plan
        plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"), dry_run=True)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resolve, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.night(DAYS[0], dry_run=True)

    assert world.ask("SELECT batch_id FROM sscd_ops.batches") == []


def test_a_dry_run_freezes_nothing(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.change_source(root=str(world.incoming.parent))  # tried out
    world.night(DAYS[0], dry_run=True)
    assert world.ask("SELECT * FROM curation.configs") == []
    world.change_source(root=str(world.incoming))

    world.night(DAYS[0])

    assert_promises(world, read=3)


def test_the_commit_of_a_dry_run_may_be_tried_again(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    runner = Runner("airflow", "curate_web", "dry")
    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=runner, dry_run=True)
        first = commit.run(parts, planned.batch_id)  # the task dies before its success
        again = commit.run(parts, planned.batch_id)
        assert first.snapshot is again.snapshot is None
        assert world.ask("SELECT * FROM sscd_ops.source_shards") == []
        # a clear of the whole run finds it
        cleared = plan.run(parts, DATASET, interval(DAYS[0]), runner=runner, dry_run=True)
        assert (cleared.batch_id, cleared.source_shards) == (planned.batch_id, 1)


# ---------------------------------------------------------------- after the decision


def test_a_source_file_that_was_put_back_is_published(world: World) -> None:
    """A copy from a backup has another time of change; what counts is its bytes."""
    world.put(DAYS[0], "a.tar", clouds(range(6)))
    tar = world.incoming / DAYS[0] / "a.tar"
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
        resolve.run(parts, batch)
        data = tar.read_bytes()
        tar.write_bytes(data[:1024] + b"x" + data[1025:])
        with pytest.raises(SourceChanged, match=r"no longer|put the original back"):
            world.from_resolve(parts, batch)
        time.sleep(0.02)
        tar.write_bytes(data)
        world.from_resolve(parts, batch)

    assert world.ask("SELECT state, message FROM curation.runs") == [
        {"state": "published", "message": ""}
    ]
    assert_promises(world, read=6)


def test_snapshots_and_masks_outlive_a_month_that_was_detached(world: World) -> None:
    world.put(DAYS[0], "a.tar", [*clouds(range(5)), pair("copy", picture(3))])
    world.night(DAYS[0])
    detach(world)
    masks = world.base / "root" / DATASET / "index" / "masks"

    with world.parts() as parts:
        assert verify_snapshot(parts, DATASET) == []
        for mask in masks.iterdir():
            mask.unlink()
        assert rebuild_index(parts, DATASET) == ["segment 1: wrote its mask anew"]
        assert verify_index(parts, DATASET) == []


def test_a_lost_and_a_doubled_sample_are_found_in_a_snapshot_of_the_right_size(
    world: World,
) -> None:
    """A writer's fault: catalog and files agree by sha256, and all counts fit."""
    world.put(DAYS[0], "a.tar", clouds(range(5)))
    world.night(DAYS[0])
    (shard,) = world.ask("SELECT name, files FROM sscd_ops.output_shards")
    path = world.base / "root" / shard["files"]["parquet"]["name"]
    table = pq.read_table(path)
    ids = table.column("sample_id").to_pylist()
    wrong = pa.chunked_array([[ids[1], *ids[1:]]])
    pq.write_table(table.set_column(1, "sample_id", wrong), path)
    data = path.read_bytes()
    file = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    changed = shard["files"] | {"parquet": shard["files"]["parquet"] | file}
    with world.parts() as parts:
        with parts.catalog.begin() as conn:
            conn.execute(
                text("UPDATE sscd_ops.output_shards SET files = CAST(:f AS jsonb)"),
                {"f": json.dumps(changed)},
            )

        problems = [found.what for found in verify_snapshot(parts, DATASET)]
        detach(world)
        later = [found.what for found in verify_snapshot(parts, DATASET)]

    doubled = f"{shard['name']}: 1 sample(s) listed more than once, such as {ids[1]}"
    assert problems == [
        doubled,
        f"{shard['name']}: 1 sample(s) kept in it and not listed, such as {ids[0]}",
    ]
    assert later == [doubled]


def detach(world: World) -> None:
    """Take out every month, as ``detach_month`` does once they are over."""
    with world.parts() as parts, parts.catalog.begin() as conn:
        for table in partitions.MONTHLY:
            for month in partitions.months(conn, table):
                if table == "samples":
                    conn.execute(partitions._KEEP, {"m": month})
                parent, name, *_ = partitions._names(table, month)
                conn.exec_driver_sql(f"ALTER TABLE {parent} DETACH PARTITION {name}")


def test_rows_of_a_night_that_was_held_go_when_it_is_abandoned(world: World) -> None:
    world.change(guard={"first_nights_max": 0.1})
    page = pair("page", b"<html>")  # an image without a shown digest
    world.put(DAYS[0], "a.tar", [*same(9), page])
    with pytest.raises(BatchHeld):
        world.night(DAYS[0])
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.samples") == [{"n": 10}]

    with world.parts() as parts:
        manage.abandon(parts, 1, actor="ann", why="wrong feed")

    for table in ("samples", "images", "decisions"):
        assert world.ask(f"SELECT count(*) AS n FROM sscd_ops.{table}") == [{"n": 0}]


# ---------------------------------------------------------------- size


def test_what_embed_asks_of_history_is_let_go_shard_by_shard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up of many images makes a table; a transaction with thousands fills the server."""
    monkeypatch.setattr("sscd_ops.catalog.lookups._FEW", 1)
    for number in range(4):
        world.put(DAYS[0], f"{number}.tar", clouds(range(number * 3, number * 3 + 3)))
    made: list[int] = []
    real = Catalog.begin

    @contextmanager
    def begin(self: Catalog, **options: Any) -> Any:
        with real(self, **options) as conn:
            yield conn
            made.append(
                conn.exec_driver_sql(
                    "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"
                    " AND mode = 'AccessExclusiveLock'"
                ).scalar_one()
            )

    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))
        ingest.run(parts, planned.batch_id, planned.groups)
        monkeypatch.setattr(Catalog, "begin", begin)
        survey.run(parts, planned.batch_id)

    assert 0 < max(made) <= 4


def test_the_samples_of_an_output_shard_are_found_by_an_index(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])

    with world.parts() as parts, parts.catalog.begin() as conn:
        conn.exec_driver_sql(
            "INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position,"
            " rank, verdict, slot) SELECT month, decision_id, gen_random_uuid(), 1, 10 + i,"
            " i, 'kept', 10 + i FROM sscd_ops.decisions, generate_series(0, 9999) i"
        )
        conn.exec_driver_sql("ANALYZE sscd_ops.samples")
        asked: list[tuple[str, Any]] = []
        event.listen(conn, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
        placements.samples_of_output(conn, 1)
        statement, values = asked[-1]
        found = conn.exec_driver_sql("EXPLAIN " + statement, values).scalars()
        assert any("decision_id_slot_idx" in line for line in found)
