"""`catalog verify`: what is wrong with rows is found, and what it says mends it.

Files of every kind are damaged in `test_damage.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from sscd_ops.catalog import datasets, segments
from sscd_ops.catalog.checks import CHECKS, RESTORE, check_rows
from sscd_ops.catalog.dumps import dump
from sscd_ops.core.segment_file import read_kept, read_roles
from sscd_ops.model import Finding
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture, plant
from tests.integration.orders import lead_by
from tests.integration.remedies import commands_in, run_command
from tests.integration.test_nights import BOTH, DAYS, clouds
from tests.integration.world import DATASET, World, pair

COPIES = [
    pair("same1", picture(1)),
    pair("near2", plant(picture(2), "jpeg_40")),
    pair("near3", plant(picture(3), "half_size")),
]


@pytest.fixture(scope="module")
def sound(module_world: World) -> World:
    """Two nights, an order, one more, and a dump; nobody leaves it changed."""
    module_world.change(duplicates=BOTH)
    module_world.put(DAYS[0], "a.tar", clouds(range(9)))
    module_world.put(DAYS[1], "a.tar", [*COPIES, *clouds(range(20, 23))])
    module_world.put(DAYS[2], "a.tar", clouds(range(30, 34)))
    module_world.night(DAYS[0])
    module_world.night(DAYS[1])
    with module_world.parts() as parts:
        lead_by(parts, {"c0005": "free", "c0006": "withdrawn"}, {"c0006": "free"})
    module_world.night(DAYS[2])
    dump(module_world.url, module_world.base / "catalog.dump")
    return module_world


def found(world: World, **options: bool) -> list[Finding]:
    with world.parts() as parts:
        return verify_catalog(parts, DATASET, **options)


DAMAGES = {
    "in two decisions": "UPDATE sscd_ops.samples SET sample_id = (SELECT sample_id"
    " FROM sscd_ops.samples WHERE key = 'c0000') WHERE key = 'c0030'",
    "read again and have no row": "INSERT INTO sscd_ops.read_again SELECT x.dataset_id,"
    " x.decision_id, x.turn, s.decision_id, s.shard_id, s.position, s.sample_id, gen_random_uuid()"
    " FROM sscd_ops.samples s JOIN sscd_ops.decisions x USING (decision_id) WHERE s.key = 'c0031'",
    "count other samples": "DELETE FROM sscd_ops.samples WHERE key = 'near2'",
    "read 6 (rows: 7)": "INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id,"
    " position, verdict, reason, rank) SELECT month, decision_id, gen_random_uuid(), shard_id, 99,"
    " 'quarantined', 'bad_json', 99 FROM sscd_ops.samples WHERE key = 'near2'",
    "than their sources together": "UPDATE sscd_ops.decision_sources SET counts ="
    " counts || '{\"kept\": 1}'",
    "though a rule in force": "WITH o AS (INSERT INTO sscd_ops.orders (dataset_id, verb, request,"
    " client_key, state, actor, why, drafted_by, turn) SELECT dataset_id, 'withdraw', '{}', 'r',"
    " 'applied', 'ann', 'asked', '{}', 3 FROM sscd_ops.datasets RETURNING order_id)"
    " INSERT INTO sscd_ops.order_subjects SELECT order_id, 'source', sha256('crawl'), 'crawl', NULL"
    " FROM o",
    "not what their images say": "UPDATE sscd_ops.images SET slot = slot + 1 WHERE sha256 ="
    " (SELECT image_sha256 FROM sscd_ops.samples WHERE key = 'c0021')",
    "no witness that is kept": "UPDATE sscd_ops.images SET verdict = 'quarantined' WHERE sha256 ="
    " (SELECT witness_sha256 FROM sscd_ops.samples WHERE key = 'near2')",
    "not as similar": "UPDATE sscd_ops.samples SET similarity = threshold - 0.01"
    " WHERE key = 'near3'",
    "are not numbered through": "UPDATE sscd_ops.samples SET slot = slot + 1 WHERE key = 'c0022'",
    "in two shards": "UPDATE sscd_ops.placements SET slot_to = slot_to + 3"
    " WHERE slot_from = 0 AND snapshot_to IS NULL",
    "are in no shard": "UPDATE sscd_ops.placements SET slot_to = slot_to - 1"
    " WHERE snapshot_to IS NULL",
    "were not kept at its turn": "INSERT INTO sscd_ops.changes (dataset_id, decision_id, turn,"
    " image_sha256, verdict) SELECT d.dataset_id, d.decision_id, d.turn, s.image_sha256,"
    " 'withdrawn' FROM sscd_ops.decisions d, sscd_ops.samples s WHERE d.kind = 'order'"
    " AND d.turn = 3 AND s.key = 'c0000'",
    "other numbers of samples than": "UPDATE sscd_ops.output_shards SET samples = samples + 1",
    "other shards or samples than are placed": "UPDATE sscd_ops.snapshots"
    " SET samples = samples + 1 WHERE snapshot = 2",
    "do not follow on the one before": "UPDATE sscd_ops.snapshots SET parent = 0",
    "next one of the same image": "UPDATE sscd_ops.changes SET turn_to = turn_to + 1"
    " WHERE image_sha256 IS NOT NULL",
    "next one of the same sample": "UPDATE sscd_ops.changes SET turn_to = 9"
    " WHERE sample_id IS NOT NULL",
    "next_turn is 9": "UPDATE sscd_ops.datasets SET next_turn = 9",
    "generation is 9": "UPDATE sscd_ops.datasets SET generation = 9",
    "snapshot is 9": "UPDATE sscd_ops.datasets SET snapshot = 9",
    "in another state": "UPDATE sscd_ops.batches SET state = 'decided' WHERE batch_id = 1",
    "other pictures in the withdrawn set": "INSERT INTO sscd_ops.withdrawn_images"
    " (dataset_id, sha256, order_id, decision_id, row) SELECT dataset_id, 'x', 1, decision_id, 0"
    " FROM sscd_ops.decisions WHERE turn = 1",
    "kept image(s) have the bytes": "WITH o AS (INSERT INTO sscd_ops.orders (dataset_id, verb,"
    " request, client_key, state, actor, why, drafted_by, turn) SELECT dataset_id, 'withdraw',"
    " '{}', 'k', 'applied', 'ann', 'asked', '{}', 3 FROM sscd_ops.datasets RETURNING order_id)"
    " INSERT INTO sscd_ops.withdrawn_images (dataset_id, sha256, order_id, decision_id)"
    " SELECT i.dataset_id, i.sha256, o.order_id, i.decision_id FROM o, sscd_ops.images i"
    " WHERE i.verdict = 'kept' LIMIT 1",
    "have masks of other numbers": "UPDATE sscd_ops.segment_masks SET kept = kept + 1",
}
"""What is found -> how it comes about."""


def of_damage(world: World, sql: str) -> list[Finding]:
    """What is found of rows that are damaged in a transaction, which is rolled back."""
    with world.parts() as parts, parts.catalog.engine.connect() as conn:
        changed = conn.exec_driver_sql(sql).rowcount
        assert changed, sql
        return list(check_rows(conn, datasets.need(conn, DATASET).dataset_id))


@pytest.mark.parametrize("said", DAMAGES)
def test_damaged_rows_are_found(sound: World, said: str) -> None:
    answer = of_damage(sound, DAMAGES[said])

    assert any(said in finding.what for finding in answer), answer
    assert {finding.remedy for finding in answer} == {RESTORE}


def test_every_question_to_the_rows_has_a_damage_that_it_finds() -> None:
    left = [check.what for check in CHECKS if not any(said in check.what for said in DAMAGES)]

    assert left == ["{count} number(s) of the dataset are not those of its rows"]  # "next_turn is"


def test_nothing_is_found_of_sound_nights_and_a_dump_mends_what_is(sound: World) -> None:
    assert found(sound, copies=True) == []
    with sound.parts() as parts, parts.catalog.begin() as conn:
        for sql in DAMAGES.values():
            conn.exec_driver_sql(sql)
    answer = found(sound, only_rows=True)
    assert {finding.promise for finding in answer} == {"I1", "I2", "I4", "I7", "I8"}
    said = run_command(sound, "catalog verify --dataset web --rows-only --format json", code=1)
    assert said.stdout.count('"remedy"') == len(answer)

    (command,) = {command for each in answer for command in commands_in(each.remedy)}
    told = run_command(sound, command, sound.base / "catalog.dump")

    assert commands_in(told.stderr) == ["catalog verify --dataset NAME"]
    told = run_command(sound, "catalog verify --dataset web --copies")
    assert told.stderr.endswith("rows and files are as promised\n")


def test_kept_copies_are_found_wherever_they_lie_in_the_index(sound: World) -> None:
    """Of a threshold that was changed by hand: the pairs that numpy finds by brute force."""
    vectors = []
    with sound.parts() as parts, parts.catalog.begin() as conn:
        dataset = datasets.need(conn, DATASET)
        for segment in segments.live_segments(conn, dataset.dataset_id, dataset.generation):
            rows = read_roles(parts.store, segment, ["descriptors"])["descriptors"]
            vectors.append(np.asarray(rows, np.float64)[read_kept(parts.store, segment)])
    matrix = np.concatenate(vectors)
    norms = np.sqrt((matrix**2).sum(axis=1))
    similar = np.sort((matrix @ matrix.T / np.outer(norms, norms))[np.tril_indices(len(norms), -1)])
    threshold = float(similar[-6:-4].mean())
    with sound.parts() as parts, parts.catalog.begin() as conn:
        conn.exec_driver_sql(f"UPDATE sscd_ops.attempts SET threshold = {threshold}")

    (copies,) = found(sound, copies=True)

    assert copies.promise == "I3"
    assert copies.what.startswith("5 pair(s) of kept images")
    (command,) = commands_in(copies.remedy)
    run_command(sound, command, sound.base / "catalog.dump")
    assert found(sound, copies=True) == []
