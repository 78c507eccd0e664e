"""A year of small nights with a compaction every week: few shards, and nothing is lost or changed.

The first night is real, the others are rows and small files as publish leaves them; snapshots and
compactions are the product's own.
"""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from datetime import date, timedelta

import pyarrow as pa
import pytest
from sqlalchemy import text

from sscd_ops.catalog import output_shards
from sscd_ops.catalog.output_shards import PlannedShard
from sscd_ops.catalog.partitions import ensure_month
from sscd_ops.catalog.sql import run, value
from sscd_ops.model import StoredFile
from sscd_ops.options import PUBLISHED_COLUMNS
from sscd_ops.steps import turns
from sscd_ops.steps.compacting_shards import compact
from sscd_ops.steps.next_snapshot import NextSnapshot
from sscd_ops.steps.shard_files import describe, put_file
from sscd_ops.steps.snapshots import repair_latest
from sscd_ops.steps.verify import verify_snapshot
from sscd_ops.storage.tar_write import TarWriter
from sscd_ops.wiring import Wiring
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World
from tests.soak import sweep

SAMPLES = 30
MONTH = date(2026, 11, 1)

_NIGHT = """
WITH batch AS (
    INSERT INTO sscd_ops.batches (dataset_id, interval_start, interval_end, state, label)
    SELECT dataset_id, CAST(:day AS date), CAST(:day AS date) + 1, 'decided', :day
    FROM sscd_ops.datasets RETURNING batch_id, dataset_id),
decided AS (
    INSERT INTO sscd_ops.decisions (dataset_id, kind, batch_id, month, turn, generation,
        config_sha256, actor, why, decided_at, counts, origins)
    SELECT batch.dataset_id, 'night', batch.batch_id, :month, :turn, 1, d.config_sha256, 'cli', '',
        now(), jsonb_build_object('kept', CAST(:n AS int)), '{}'
    FROM batch, sscd_ops.decisions d WHERE d.turn = 1 RETURNING decision_id, batch_id)
SELECT decision_id, batch_id FROM decided
"""
_SAMPLES = """
INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position, key, verdict, rank,
    slot)
SELECT :month, :x, id, 1, 1000 + place, 'k', 'kept', place, place
FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS s(id, nth), LATERAL (SELECT nth - 1) p(place)
"""


def publish(parts: Wiring, day: date, turn: int) -> int:
    """A decided night whose shard is written; its batch."""
    ids = [uuid.uuid5(uuid.NAMESPACE_OID, f"{day} {number}") for number in range(SAMPLES)]
    with parts.catalog.begin() as conn:
        given = {"day": day.isoformat(), "month": MONTH, "turn": turn, "n": SAMPLES}
        decision_id, batch_id = conn.execute(text(_NIGHT), given).one()
        run(conn, _SAMPLES, month=MONTH, x=decision_id, ids=[str(each) for each in ids])
        run(
            conn,
            "UPDATE sscd_ops.batches SET decision_id = :x WHERE batch_id = :b",
            x=decision_id,
            b=batch_id,
        )
        run(conn, "UPDATE sscd_ops.datasets SET next_turn = :t", t=turn + 1)
        name = f"{DATASET}/shards/{day}-0badcafe/00000.tar"
        planned = PlannedShard(0, "jpg+txt+json", SAMPLES, name, 0)
        output_shards.add_plan(conn, decision_id, turn, "0badcafe", [planned])
        (shard,) = output_shards.planned_shards(conn, decision_id)
    offsets: list[int] = []

    def write_tar(stream: io.BytesIO) -> None:
        tar = TarWriter(stream)
        offsets.clear()
        for each in ids:
            offsets.append(tar.add(f"{each.hex}.jpg", each.bytes * 8))
            tar.add(f"{each.hex}.txt", b"a caption")
            tar.add(f"{each.hex}.json", b"{}")
        tar.close()

    def put(role: str, name: str, write: object) -> StoredFile:
        return put_file(parts, role, name, write)  # type: ignore[arg-type]

    tar = put("tar", name, write_tar)
    made = {
        "key": pa.array([each.hex for each in ids]),
        "sample_id": pa.array([str(each) for each in ids]),
        "width": pa.array([16] * SAMPLES, pa.int32()),
        "height": pa.array([16] * SAMPLES, pa.int32()),
        "bytes": pa.array([128] * SAMPLES, pa.int64()),
        "offset": pa.array(offsets, pa.int64()),
    }
    other = pa.array(["text"] * SAMPLES)
    table = pa.table({column: made.get(column, other) for column in PUBLISHED_COLUMNS})
    files = {"tar": tar, **describe(put, shard, tar, table)}
    with parts.catalog.begin() as conn:
        assert output_shards.register_output(conn, shard.output_id, files)
    return int(batch_id)


def keys(world: World, name: str) -> list[str]:
    """The samples of a tar, in order."""
    with tarfile.open(fileobj=io.BytesIO(world.stored(name))) as tar:
        return [each.name.partition(".")[0] for each in tar if each.name.endswith(".jpg")]


def shards_of(world: World, snapshot: int) -> Iterator[tuple[str, str, int]]:
    (path,) = (world.base / "root" / DATASET / "snapshots").glob(f"{snapshot:06d}-*")
    for shard in json.loads(path.read_text())["shardlist"]:
        yield shard["url"], shard["sha256"], shard["nsamples"]


@pytest.mark.parametrize(("many", "most"), sweep([(42, 400), (365, 10_000)], [(42, 400)]))
def test_a_year_of_small_nights(world: World, many: int, most: int) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(SAMPLES)))
    world.night(DAYS[0])
    world.change(publish={"max_samples": most})
    counts: dict[int, int] = {1: 1}
    made: dict[int, list[tuple[str, str, int]]] = {1: list(shards_of(world, 1))}
    compactions: list[tuple[int, int]] = []
    with world.parts() as parts:
        ensure_month(parts.catalog, MONTH, "samples")
        with parts.catalog.begin() as conn:
            dataset_id = value(conn, "SELECT dataset_id FROM sscd_ops.datasets")
        for turn in range(2, many + 1):
            batch_id = publish(parts, date(2026, 11, 1) + timedelta(days=turn - 1), turn)
            turns.make_snapshot(parts, NextSnapshot(parts, dataset_id, batch_id))
            number = max(made) + 1
            made[number] = list(shards_of(world, number))
            assert len(made[number]) == len(made[number - 1]) + 1
            if turn % 7 == 0:
                done = compact(parts, DATASET)
                before = made[number]
                if done.snapshot is not None:
                    number = done.snapshot
                    made[number] = list(shards_of(world, number))
                    assert made[number - 1] == before
                compactions.append((len(before), len(made[number])))
                assert sum(n for _, _, n in made[number]) == turn * SAMPLES
                assert compact(parts, DATASET).snapshot is None
            counts[turn] = len(made[number])
        repair_latest(parts, DATASET)
        assert verify_snapshot(parts, DATASET) == []

    full = 2 * many * SAMPLES // most
    assert max(counts.values()) <= full + 7 + 8  # and the week's nights, and halves that wait
    assert counts[many] < many / 3
    print(f"before and after each compaction: {compactions}")
    # every snapshot there was lists what it listed, and its files are there
    for number, then in made.items():
        assert list(shards_of(world, number)) == then
    # night by night in the order they were decided, within each shard as without compactions
    (newest,) = (made[max(made)],)
    held = [key for url, _, _ in newest for key in keys(world, f"{DATASET}/{url[3:]}")]
    nights = [
        uuid.uuid5(uuid.NAMESPACE_OID, f"{date(2026, 11, 1) + timedelta(days=night)} {place}").hex
        for night in range(1, many)
        for place in range(SAMPLES)
    ]
    assert len(held) == len(set(held)) == many * SAMPLES
    assert set(held) >= set(nights)
    for url, _, _ in newest:
        mine = [key for key in keys(world, f"{DATASET}/{url[3:]}") if key in set(nights)]
        places = [nights.index(key) for key in mine]
        assert places == sorted(places)
