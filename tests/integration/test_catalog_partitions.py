"""Monthly partitions: made while others read and write, pruned, and taken out."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from sscd_ops.catalog import lookups
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.partitions import detach_month, ensure_month, months
from sscd_ops.errors import CatalogUnavailable, UsageError
from tests.integration.ledger import Ledger
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import World, assert_promises

JANUARY, FEBRUARY = date(2026, 1, 1), date(2026, 2, 1)


def run(conn: Connection, sql: str, **parameters: Any) -> Any:
    return conn.execute(text(sql), parameters)


def decided_batch(catalog: Catalog, month: date, *, state: str = "published") -> int:
    """A batch with ten kept samples, decided in ``month``; answers its decision."""
    ledger = Ledger(catalog, month)
    batch = ledger.batch(month.replace(day=2), state=state)
    turn = ledger.one("SELECT count(*) + 1 AS turn FROM sscd_ops.decisions")["turn"]
    decision = ledger.night(batch, month, turn)
    shard = ledger.shard(batch, f"{month}.tar")
    ledger.run(
        "INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position,"
        " key, image_sha256, verdict, rank, slot) SELECT :m, :x, gen_random_uuid(), :s, i, i::text,"
        " sha256(convert_to(:x || '/' || i, 'UTF8')), 'kept', i, i FROM generate_series(0, 9) i",
        m=month,
        x=decision,
        s=shard,
    )
    ledger.run(
        "INSERT INTO sscd_ops.images (dataset_id, sha256, decision_id, verdict, sample_id,"
        " shard_id, position, rank, slot) SELECT :d, image_sha256, decision_id, verdict,"
        " sample_id, shard_id, position, rank, slot FROM sscd_ops.samples WHERE decision_id = :x",
        d=ledger.web,
        x=decision,
    )
    return decision


def count(catalog: Catalog, table: str) -> int:
    with catalog.read() as conn:
        return int(run(conn, f"SELECT count(*) FROM {table}").scalar_one())


def plan(catalog: Catalog, sql: str, **parameters: Any) -> str:
    with catalog.read() as conn:
        run(conn, "SET LOCAL enable_seqscan = off")
        return "\n".join(
            run(conn, f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) {sql}", **parameters).scalars()
        )


def scanned(explained: str) -> set[str]:
    """The monthly partitions of samples that a plan really looked into."""
    lines = [line for line in explained.splitlines() if " on samples_2026_" in line]
    return {
        line.split(" on samples_")[1].split(" ")[0]
        for line in lines
        if "never executed" not in line
    }


def test_a_month_is_made_once_whoever_asks(catalog: Catalog) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            for month in (date(2026, 12, 31), date(2027, 1, 1), date(2026, 12, 1)):
                for table in ("samples", "matches"):
                    ensure_month(catalog, month, table)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    with catalog.read() as conn:
        for table in ("samples", "matches"):
            assert months(conn, table) == [date(2026, 12, 1), date(2027, 1, 1)]


def test_a_month_is_made_while_others_read_and_write_the_table(catalog: Catalog) -> None:
    decided_batch(catalog, JANUARY)

    with catalog.begin() as writer, catalog.read() as reader:
        run(reader, "SELECT count(*) FROM sscd_ops.samples")
        run(writer, "UPDATE sscd_ops.samples SET caption = 'new'")

        impatient = Catalog(catalog.url, lock_timeout=2)
        ensure_month(impatient, FEBRUARY, "samples")
        impatient.dispose()

    with catalog.read() as conn:
        assert months(conn) == [JANUARY, FEBRUARY]


def test_a_new_month_has_the_indexes_of_its_parent(catalog: Catalog) -> None:
    ensure_month(catalog, JANUARY, "samples")

    with catalog.read() as conn:
        attached = run(
            conn,
            "SELECT count(*) FROM pg_inherits WHERE inhparent IN ('sscd_ops.samples_by_place'::"
            "regclass, 'sscd_ops.samples_by_id'::regclass, 'sscd_ops.samples_by_image'::regclass,"
            " 'sscd_ops.samples_by_slot'::regclass, 'sscd_ops.samples_by_url'::regclass,"
            " 'sscd_ops.samples_by_host'::regclass)",
        ).scalar()
        own = run(
            conn, "SELECT count(*) FROM pg_indexes WHERE tablename = 'samples_2026_01'"
        ).scalar()
    assert (attached, own) == (6, 6)


def test_only_samples_and_matches_have_months(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match="images"):
        ensure_month(catalog, JANUARY, "images")


def test_a_place_of_a_source_shard_has_one_row_in_a_decision(catalog: Catalog) -> None:
    decided_batch(catalog, JANUARY)

    with pytest.raises(Exception, match="samples_2026_01_decision_id"), catalog.begin() as conn:
        run(conn, "INSERT INTO sscd_ops.samples SELECT * FROM sscd_ops.samples LIMIT 1")


def test_rows_of_one_batch_are_looked_for_in_their_own_month(catalog: Catalog) -> None:
    decided_batch(catalog, JANUARY)
    decided_batch(catalog, FEBRUARY)
    with catalog.read() as conn:
        batch = run(conn, "SELECT max(batch_id) FROM curation.runs").scalar()

    for view in ("samples", "kept", "removed", "quarantined"):
        explained = plan(catalog, f"SELECT * FROM curation.{view} WHERE batch_id = :b", b=batch)

        assert scanned(explained) <= {"2026_02"}, explained


def test_a_witness_is_looked_for_in_its_own_month(catalog: Catalog) -> None:
    first = decided_batch(catalog, JANUARY)
    second = decided_batch(catalog, FEBRUARY)
    with catalog.begin() as conn:
        run(
            conn,
            "UPDATE sscd_ops.samples s SET verdict = 'removed', reason = 'near', similarity = 1,"
            " witness_sha256 = w.image_sha256, slot = NULL FROM sscd_ops.samples w"
            " WHERE s.decision_id = :b AND w.decision_id = :a AND w.position = s.position",
            a=first,
            b=second,
        )
        run(conn, "ANALYZE sscd_ops.samples")
    ensure_month(catalog, date(2026, 3, 1), "samples")
    with catalog.read() as conn:
        batch = run(conn, "SELECT max(batch_id) FROM curation.runs").scalar()

    explained = plan(catalog, "SELECT * FROM curation.removed WHERE batch_id = :b", b=batch)

    assert scanned(explained) == {"2026_01", "2026_02"}, explained


def test_history_is_looked_up_by_hash_in_images_alone(catalog: Catalog) -> None:
    sha = bytes(32)

    explained = plan(
        catalog,
        "SELECT * FROM sscd_ops.images i JOIN sscd_ops.decisions b USING (decision_id)"
        " WHERE i.dataset_id = 1 AND i.sha256 = :s",
        s=sha,
    )

    assert explained.count(" on images_") == 1
    assert "samples" not in explained


def test_a_detached_month_leaves_its_ids_known_and_its_tables_apart(catalog: Catalog) -> None:
    decided_batch(catalog, JANUARY)
    decided_batch(catalog, FEBRUARY)
    with catalog.begin() as conn:
        before = lookups.known_samples(conn, 1, [("crawl", "2026-01-01.tar")], 99)

    detached = detach_month(catalog, date(2026, 1, 20))

    assert detached == ["sscd_ops.samples_2026_01", "sscd_ops.matches_2026_01"]
    assert count(catalog, "sscd_ops.samples") == 10
    assert count(catalog, "sscd_ops.samples_2026_01") == 10
    with catalog.begin() as conn:
        assert months(conn) == [FEBRUARY]
        assert lookups.known_samples(conn, 1, [("crawl", "2026-01-01.tar")], 99) == before
    assert len(before) == 10
    assert detach_month(catalog, JANUARY) == []
    assert count(catalog, "sscd_ops.detached_samples") == 10


def test_what_decides_about_the_samples_of_a_detached_month_stays(catalog: Catalog) -> None:
    decision = decided_batch(catalog, JANUARY)
    with catalog.begin() as conn:
        run(
            conn,
            "UPDATE sscd_ops.samples SET verdict = 'quarantined', own_fault = true, slot = NULL,"
            " rank = 7 WHERE position = 3",
        )
        run(
            conn,
            "UPDATE sscd_ops.samples SET verdict = 'withdrawn', own_fault = true, slot = NULL,"
            " url_sha256 = sha256('u'), host = 'org.x.' WHERE position = 4",
        )
        run(
            conn,
            "INSERT INTO sscd_ops.samples (month, decision_id, shard_id, position, verdict, rank)"
            " SELECT month, decision_id, shard_id, -1, 'quarantined', 0 FROM sscd_ops.samples"
            " LIMIT 1",
        )
        kept = (
            "sample_id, decision_id, shard_id, position, image_sha256, own_fault, rank, slot,"
            " url_sha256, host"
        )
        before = run(
            conn,
            f"SELECT {kept}, CASE position WHEN 4 THEN true END FROM sscd_ops.samples"
            " WHERE decision_id = :x AND sample_id IS NOT NULL ORDER BY position",
            x=decision,
        ).all()

    detach_month(catalog, JANUARY)

    with catalog.read() as conn:
        stays = f"SELECT {kept}, ruled FROM sscd_ops.detached_samples ORDER BY position"
        after = run(conn, stays).all()
    assert len(before) == 10
    assert after == before


def test_a_sample_id_of_two_datasets_stays_known_to_both(catalog: Catalog) -> None:
    decision = decided_batch(catalog, JANUARY)
    ledger = Ledger(catalog)
    batch = ledger.batch(JANUARY, dataset=ledger.other)
    derived = ledger.night(batch, JANUARY, 1)
    shard = ledger.shard(batch, "2026-01-01.tar")
    ledger.run(
        "INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position,"
        " image_sha256, verdict, rank) SELECT month, :x, sample_id, :s, position, image_sha256,"
        " verdict, rank FROM sscd_ops.samples WHERE decision_id = :o",
        x=derived,
        s=shard,
        o=decision,
    )

    detach_month(catalog, JANUARY)

    with catalog.begin() as conn:
        for dataset in (ledger.web, ledger.other):
            found = lookups.known_samples(conn, dataset, [("crawl", "2026-01-01.tar")], 99)
            assert len(found) == 10


def test_only_ids_of_a_decision_in_force_stay_known(catalog: Catalog) -> None:
    decision = decided_batch(catalog, JANUARY)
    with catalog.begin() as conn:
        run(
            conn,
            "INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position,"
            " verdict, rank) SELECT month, decision_id + 1000, :u, shard_id, position, 'kept', 0"
            " FROM sscd_ops.samples LIMIT 1",
            u=uuid4(),
        )

    detach_month(catalog, JANUARY)

    with catalog.read() as conn:
        assert run(
            conn,
            "SELECT count(*), min(decision_id), max(decision_id) FROM sscd_ops.detached_samples",
        ).one() == (10, decision, decision)


@pytest.mark.parametrize("state", ["matched", "held", "decided", "unpublishable"])
def test_a_month_that_batches_still_need_is_not_detached(catalog: Catalog, state: str) -> None:
    decided_batch(catalog, JANUARY, state=state)

    with pytest.raises(UsageError, match=rf"\({state}\)"):
        detach_month(catalog, JANUARY)

    assert count(catalog, "sscd_ops.samples") == 10


def test_a_month_that_is_not_over_is_not_detached(catalog: Catalog) -> None:
    with pytest.raises(UsageError, match="cannot be detached before"):
        detach_month(catalog, datetime.now(UTC).date() - timedelta(days=1))


# ---------------------------------------------------------------- a detach that was killed


def kill_a_detach(catalog: Catalog, month: date) -> None:
    """End a detach while it waits for a reader of samples: Postgres keeps that month pending."""
    for each in (JANUARY, FEBRUARY):
        for table in ("samples", "matches"):
            ensure_month(catalog, each, table)
    with ThreadPoolExecutor() as pool, catalog.read() as reader:
        run(reader, "SELECT count(*) FROM sscd_ops.samples")
        detach: Future[list[str]] = pool.submit(detach_month, catalog, month)
        deadline = time.monotonic() + 20
        while not pending(catalog):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with catalog.begin() as conn:
            run(
                conn,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE 'ALTER TABLE%DETACH%' AND datname = current_database()"
                " AND pid <> pg_backend_pid()",
            )
        with pytest.raises(CatalogUnavailable):
            detach.result()
    assert pending(catalog) == [f"sscd_ops.samples_{month:%Y_%m}"]


def pending(catalog: Catalog) -> list[str]:
    with catalog.read() as conn:
        return list(
            run(
                conn, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending"
            ).scalars()
        )


@pytest.mark.parametrize("month", [JANUARY, FEBRUARY], ids=["its_own", "another"])
def test_a_detach_that_was_killed_is_finished_by_the_next_of_whichever_month(
    catalog: Catalog, month: date
) -> None:
    kill_a_detach(catalog, JANUARY)

    detached = detach_month(catalog, month)

    assert detached == [f"sscd_ops.{table}_{month:%Y_%m}" for table in ("samples", "matches")]
    assert pending(catalog) == []


def test_nights_go_on_beside_a_detach_that_was_killed(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(5)))
    world.put(DAYS[1], "a.tar", clouds(range(3, 8), prefix="d"))
    with world.parts() as parts:
        kill_a_detach(parts.catalog, JANUARY)

    for day in DAYS[:2]:
        world.night(day)

    assert_promises(world, read=10)
