"""The catalog at 400 nights and 20,000,000 samples: audit queries, look-ups, and a night more.

Look-ups and the largest query are measured again with 10,000 later verdicts in force.

Makes its own embedded Postgres in a temporary folder, fills it with SQL (rows as the steps write
them; indexes built afterwards), measures, and removes everything.

Run: ``make bench-catalog``, or ``python -m benchmarks.catalog [--batches N] [--samples N]``.
``--write`` puts the results into docs/catalog.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import text

from sscd_ops.catalog import audit as explaining
from sscd_ops.catalog import lookups, placements
from sscd_ops.catalog.copy import copy_table
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.embedded import ensure_running, stop
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.catalog.partitions import ensure_month
from sscd_ops.machine import cores

NEEDED_GB = 30
AUDIT_SECONDS = 2.0
LOOK_UP_SECONDS = 30.0
LOOK_UPS = 1_000_000
READ_AGAIN = 20
"""Nights whose source shards are asked for."""
EXPLAINED = 50
CHANGES = 10_000
NIGHT_SAMPLES = 1_000_000
SHARDS = 10
SOURCES = ("crawl", "partner", "news", "stock", "archive")
FIRST_NIGHT = date(2025, 10, 1)
# Of 100 samples: 60 are kept, 25 near copies, 12 equal bytes, 3 quarantined (one for its picture).
KEPT, NEAR, EXACT = 60, 85, 97
DOCS = Path(__file__).parent.parent / "docs" / "catalog.md"

README = DOCS.parent.parent / "README.md"
PASTED_DIGEST = re.compile(r"decode\('[0-9a-f]{64}', 'hex'\)")
REMOVALS = "README: last night's removals, with the witness of each"


def audit_queries() -> dict[str, str]:
    """The README's three queries as pasted, the last one for two pictures, and two more."""
    blocks = re.findall(r"^```sql\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    removals, sources, picture = (block.strip().rstrip(";") for block in blocks)
    assert PASTED_DIGEST.search(picture)
    decided, verdicts = (
        block.strip().rstrip(";")
        for block in re.findall(r"^```sql\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
        if "GRANT" not in block
    )
    return {
        REMOVALS: removals.replace("'demo'", "'web'"),
        "README: which sources lose most": sources,
        "README: everything about one picture": PASTED_DIGEST.sub("sha256('7/10')", picture),
        "README: everything about a placeholder": PASTED_DIGEST.sub("sha256('1/0')", picture),
        "everything about one sample": """
            SELECT * FROM curation.samples WHERE sample_id = CAST(md5('7/10') AS uuid)""",
        "the last 30 nights": """
            SELECT * FROM curation.runs WHERE dataset = 'web'
            ORDER BY interval_start DESC LIMIT 30""",
        "the last 30 turns": decided.replace("'demo'", "'web'"),
        "all that was decided of one picture": PASTED_DIGEST.sub("sha256('7/10')", verdicts),
        "all that was decided of a placeholder": PASTED_DIGEST.sub("sha256('1/0')", verdicts),
    }


@dataclass
class Results:
    """Lines of the table at the end, and which targets were missed."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, what: str, measured: str, target: str = "", *, ok: bool = True) -> None:
        """Note and print one result."""
        self.rows.append((what, measured, target if ok else f"{target}: missed"))
        if not ok:
            self.missed.append(f"{what}: {measured}, target {target}")
        print(f"  {what:<62} {measured:>24}  {target}", flush=True)

    def table(self) -> str:
        """All of them as Markdown."""
        lines = ["| measured | result | target |", "|---|---:|---|"]
        return "\n".join(lines + [f"| {a} | {b} | {c} |" for a, b, c in self.rows])


# ---------------------------------------------------------------- making the data


def fill(catalog: Catalog, batches: int, samples: int) -> None:
    """Write so many decided and published batches of one dataset."""
    nights = [FIRST_NIGHT.toordinal() + number for number in range(batches + 1)]
    for month in sorted({date.fromordinal(day).replace(day=1) for day in nights}):
        for table in ("samples", "matches"):
            ensure_month(catalog, month, table)
    run(catalog, _SMALL_TABLES, batches=batches, first=FIRST_NIGHT, shards=SHARDS, samples=samples,
        sources=list(SOURCES))  # fmt: skip
    with _without_indexes(catalog):
        for batch in range(1, batches + 1):
            for statement in (_SAMPLES, _IMAGES, _MATCHES):
                run(catalog, statement, b=batch, n=samples, shards=SHARDS)
            if batch % 20 == 0:
                print(f"  {batch} of {batches} nights written", flush=True)
    print("  indexes built; analyzing", flush=True)
    with catalog.direct() as conn:
        conn.execute(text("VACUUM ANALYZE"))


# Night b of batch b, decision b: identities are given so that rows can be made without look-ups.
_SMALL_TABLES = """
INSERT INTO sscd_ops.datasets (name, next_turn, generation, snapshot)
VALUES ('web', :batches + 1, :batches, :batches);
INSERT INTO sscd_ops.batches (batch_id, dataset_id, interval_start, interval_end, state,
    attempt_id, decision_id, label, ready, finished_at)
OVERRIDING SYSTEM VALUE
SELECT b, 1, d, d + interval '1 day', 'published', b, b, to_char(d, 'YYYY-MM-DD'), true,
    d + interval '27 h'
FROM generate_series(1, :batches) b,
    LATERAL (SELECT CAST(:first AS timestamptz) + (b - 1) * interval '1 day') AS x(d);
INSERT INTO sscd_ops.attempts (attempt_id, batch_id, config_sha256, config, fingerprint,
    fingerprint_detail, search, threshold, pinned_turn, pinned_generation)
OVERRIDING SYSTEM VALUE
SELECT b, b, 'c', '{}', 'f', '{"name": "sscd_disc_mixup-00000000"}', 'exact', .75, b - 1, b - 1
FROM generate_series(1, :batches) b;
INSERT INTO sscd_ops.decisions (decision_id, dataset_id, kind, batch_id, attempt_id, month, turn,
    generation, config_sha256, actor, why, decided_at, counts, origins, published_at, snapshot)
OVERRIDING SYSTEM VALUE
SELECT batch_id, 1, 'night', batch_id, batch_id, date_trunc('month', CAST(:first AS date)
        + CAST(batch_id AS int) - 1), batch_id, batch_id, 'c', 'cli', '',
    interval_start + interval '26 h',
    jsonb_build_object('read', :samples, 'kept', :samples * 60 / 100, 'removed_near',
        :samples * 25 / 100, 'removed_exact', :samples * 12 / 100, 'quarantined',
        :samples * 3 / 100, 'known', 0, 'not_delivered', 0),
    '{}', finished_at, batch_id
FROM sscd_ops.batches ORDER BY batch_id;
INSERT INTO sscd_ops.source_shards (shard_id, attempt_id, source, relative_uri, uri, version, size,
    group_no, ordinal)
OVERRIDING SYSTEM VALUE
SELECT (b - 1) * :shards + s + 1, b, (CAST(:sources AS text[]))[1 + s % 5],
    format('2026/%s/%s.tar', b, s), format('/incoming/2026/%s/%s.tar', b, s), '1', 1, 0, s
FROM generate_series(1, :batches) b, generate_series(0, :shards - 1) s;
INSERT INTO sscd_ops.decision_sources (decision_id, source, counts)
SELECT b, source, jsonb_build_object('read', :samples / 5, 'kept', :samples * 60 / 500,
    'removed_near', :samples * 25 / 500, 'removed_exact', :samples * 12 / 500, 'quarantined',
    :samples * 3 / 500, 'known', 0, 'not_delivered', 0)
FROM generate_series(1, :batches) b, unnest(CAST(:sources AS text[])) source;
INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name, turn, files)
SELECT b, n, '0badcafe', 'jpg+txt+json', 10000, format('web/shards/%s-0badcafe/%s.tar', b, n), b,
    '{"tar": {"name": "t", "sha256": "s", "bytes": 1000000000}}'
FROM generate_series(1, :batches) b, generate_series(0, (:samples * 60 / 100 - 1) / 10000) n;
INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to, position,
    snapshot_from)
SELECT output_id, decision_id, number * 10000, number * 10000 + 10000, 0, decision_id
FROM sscd_ops.output_shards
"""

# Sample i of night b. The witness of a copy is a kept sample of an earlier night (or of this one's
# first hundredth); every 400th copy is one of the same picture, as placeholders are.
_DRAWN = """
SELECT i, i % 100 AS kind, w.wb, w.wi, d.month
FROM generate_series(0, :n - 1) i
CROSS JOIN LATERAL (
    SELECT CASE WHEN i % 400 = 99 - 3 THEN 1 ELSE 1 + floor(random() * :b)::int END AS wb,
        CASE WHEN i % 400 = 99 - 3 THEN 0
        ELSE floor(random() * :n / 100)::int * 100 + floor(random() * 60)::int END AS wi
    WHERE i IS NOT NULL
) w
JOIN sscd_ops.decisions d ON d.decision_id = :b
"""

_SAMPLES = f"""
INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position, key, image_sha256,
    width, height, format, bytes, caption, meta, verdict, reason, message, own_fault, rank,
    witness_sha256, witness_id, witness_decision, similarity, threshold, slot)
SELECT month, :b, CAST(md5(:b || '/' || i) AS uuid), (:b - 1) * :shards + 1 + i * :shards / :n,
    i % (:n / :shards), lpad(i::text, 9, '0'),
    sha256(CASE WHEN kind >= {NEAR} AND kind < {EXACT} THEN wb || '/' || wi ELSE :b || '/' || i
        END::bytea),
    1024, 768, 'jpg', 100000 + i, 'a photo of number ' || i || ', as its page describes it in '
        || 'some sixty characters',
    jsonb_build_object('url', 'https://example.org/' || :b || '/' || i || '.jpg', 'similarity',
        .31),
    CASE WHEN kind < {KEPT} THEN 'kept' WHEN kind < {EXACT} THEN 'removed' ELSE 'quarantined' END,
    CASE WHEN kind < {KEPT} THEN NULL WHEN kind < {NEAR} THEN 'near' WHEN kind < {EXACT}
        THEN 'exact' ELSE 'undecodable' END,
    CASE WHEN kind >= {EXACT} THEN 'broken data stream when reading image file' END,
    CASE WHEN kind > {EXACT} THEN true END, i,
    CASE WHEN kind >= {KEPT} AND kind < {EXACT} THEN sha256((wb || '/' || wi)::bytea) END,
    CASE WHEN kind >= {KEPT} AND kind < {EXACT} THEN CAST(md5(wb || '/' || wi) AS uuid) END,
    CASE WHEN kind >= {KEPT} AND kind < {EXACT} THEN wb END,
    CASE WHEN kind >= {KEPT} AND kind < {EXACT} THEN .75 + random() / 4 END,
    CASE WHEN kind >= {KEPT} AND kind < {NEAR} THEN .75 END,
    CASE WHEN kind < {KEPT} THEN i / 100 * {KEPT} + kind END
FROM ({_DRAWN}) drawn
"""

_IMAGES = """
INSERT INTO sscd_ops.images (dataset_id, sha256, decision_id, verdict, reason, message, sample_id,
    shard_id, position, rank, slot, segment_row, witness_sha256, witness_id, witness_decision,
    similarity, threshold)
SELECT 1, s.image_sha256, s.decision_id, s.verdict, s.reason, s.message, s.sample_id, s.shard_id,
    s.position, s.rank, s.slot,
    CASE WHEN s.verdict <> 'quarantined' THEN s.shard_id * 5000 + s.position END,
    s.witness_sha256, s.witness_id, s.witness_decision, s.similarity, s.threshold
FROM sscd_ops.samples s JOIN sscd_ops.decisions d ON d.month = s.month
WHERE d.decision_id = :b AND s.decision_id = :b AND s.reason IS DISTINCT FROM 'exact'
    AND s.own_fault IS NULL AND :n > 0 AND :shards > 0
"""

# Two matches for each near copy.
_MATCHES = f"""
INSERT INTO sscd_ops.matches (month, decision_id, image_sha256, earlier_sha256, similarity)
SELECT month, :b, sha256((:b || '/' || i)::bytea), sha256((wb || '/' || wi + k)::bytea),
    .75 + random() / 4
FROM ({_DRAWN}) drawn, generate_series(0, 1) k
WHERE kind >= {KEPT} AND kind < {NEAR} AND :shards > 0
"""

# An order: kept pictures of all nights are withdrawn, and single samples of others.
_CHANGES = f"""
INSERT INTO sscd_ops.decisions (decision_id, dataset_id, kind, month, client_key, turn, generation,
    config_sha256, actor, why, decided_at, counts, origins)
OVERRIDING SYSTEM VALUE
SELECT :turn + 1, 1, 'order', month, 'x', :turn, :turn, 'c', 'ann', 'asked for', now(), '{{}}',
    '{{}}'
FROM sscd_ops.decisions WHERE turn = :turn - 1;
INSERT INTO sscd_ops.changes (dataset_id, decision_id, turn, image_sha256, sample_id, verdict,
    reason)
SELECT 1, :turn + 1, :turn, CASE WHEN k % 10 > 0 THEN sha256((b || '/' || i)::bytea) END,
    CASE WHEN k % 10 = 0 THEN CAST(md5(b || '/' || i) AS uuid) END, 'withdrawn', 'withdrawn'
FROM generate_series(1, :count) k,
    LATERAL (SELECT 1 + k % (:turn - 1), k / (:turn - 1) * 100 + k % {KEPT}) AS x(b, i);
UPDATE sscd_ops.datasets SET next_turn = :turn + 1
"""


@contextmanager
def _without_indexes(catalog: Catalog) -> Iterator[None]:
    """Drop the large tables' indexes and build them anew at the end: a third of the time."""
    with catalog.read() as conn:
        found = conn.execute(
            text(
                "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'sscd_ops'"
                " AND tablename IN ('samples', 'matches', 'images') ORDER BY indexname"
            )
        ).all()
    # The batch's rows of samples are read back to make its images.
    kept = ("samples_by_place", "images_pkey")
    dropped = [(name, definition) for name, definition in found if name not in kept]
    for name, _ in dropped:
        run(catalog, f"DROP INDEX sscd_ops.{name}")
    run(catalog, "ALTER TABLE sscd_ops.images DROP CONSTRAINT images_pkey")
    yield
    for _, definition in dropped:
        run(catalog, definition.replace(" ON ONLY ", " ON "))
    run(catalog, "ALTER TABLE sscd_ops.images ADD PRIMARY KEY (dataset_id, sha256, decision_id)")


def run(catalog: Catalog, sql: str, **parameters: Any) -> None:
    """Run statements in one transaction."""
    with catalog.begin(lock_timeout=0) as conn:
        used = {name: value for name, value in parameters.items() if f":{name}" in sql}
        conn.execute(text(sql), used)


# ---------------------------------------------------------------- measuring


def seconds(work: Callable[[], Any], tries: int = 3) -> tuple[float, Any]:
    """The median of some tries, and what the last one answered."""
    taken = []
    for _ in range(tries):
        start = time.perf_counter()
        answer = work()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2], answer


def audit(catalog: Catalog, results: Results) -> None:
    """The queries a person asks, rows fetched."""
    for what, sql in audit_queries().items():

        def ask(sql: str = sql) -> int:
            with catalog.read() as conn:
                return len(conn.execute(text(sql)).all())

        start = time.perf_counter()
        ask()
        first = time.perf_counter() - start
        again, rows = seconds(ask)
        results.add(
            f"{what} ({rows:,} rows; first time, then again)",
            f"{first:.2f} s, {again:.2f} s",
            f"< {AUDIT_SECONDS:g} s",
            ok=first < AUDIT_SECONDS,
        )


def digests_to_look_up(
    catalog: Catalog, batches: int, samples: int, count: int
) -> NDArray[np.uint8]:
    """uint8 (n, 32), distinct: half of them of kept pictures, half of none."""
    random = np.random.default_rng(1)
    half = count // 2
    with catalog.read() as conn:
        known = conn.execute(
            text(
                "SELECT sha256((b || '/' || i)::bytea) FROM unnest(CAST(:b AS int[]),"
                " CAST(:i AS int[])) AS x(b, i)"
            ),
            {
                "b": random.integers(1, batches + 1, half).tolist(),
                "i": (
                    random.integers(0, samples // 100, half) * 100 + random.integers(0, 60, half)
                ).tolist(),
            },
        ).scalars()
        found = np.frombuffer(b"".join(known), np.uint8).reshape(-1, 32)
    unknown = random.integers(0, 256, (count - half, 32), np.uint8)
    return np.unique(np.concatenate([found, unknown]), axis=0)


def look_up(
    catalog: Catalog, results: Results, batches: int, samples: int, *, setting: str = ""
) -> None:
    """What plan, embed and resolve ask of history: which of these have a verdict.

    ``setting``: what is said of the changes that are in force.
    """
    digests = digests_to_look_up(catalog, batches, samples, LOOK_UPS)

    def images() -> int:
        with catalog.begin() as conn:
            return len(lookups.known_images(conn, 1, digests, batches + 1))

    taken, rows = seconds(images, tries=2)
    results.add(
        f"{len(digests):,} hashes looked up, {rows:,} of them known{setting}",
        f"{taken:.1f} s",
        f"< {LOOK_UP_SECONDS:g} s",
        ok=taken < LOOK_UP_SECONDS,
    )
    again = np.linspace(1, batches, min(READ_AGAIN, batches)).astype(int)
    places = [
        (SOURCES[shard % len(SOURCES)], f"2026/{batch}/{shard}.tar")
        for batch in again
        for shard in range(SHARDS)
    ]

    def ids() -> int:
        with catalog.begin() as conn:
            return len(lookups.known_samples(conn, 1, places, batches + 1))

    taken, rows = seconds(ids, tries=2)
    results.add(
        f"{len(places)} source shards read again: {rows:,} known ids{setting}", f"{taken:.1f} s"
    )


def explain(catalog: Catalog, results: Results, batches: int, samples: int) -> None:
    """``sscd-ops explain``, one sample after the other: kept ones, copies, broken ones."""
    random = np.random.default_rng(3)
    chosen = [
        UUID(hashlib.md5(f"{b}/{i}".encode(), usedforsecurity=False).hexdigest())
        for b, i in zip(
            random.integers(1, batches + 1, EXPLAINED),
            random.integers(0, samples, EXPLAINED),
            strict=True,
        )
    ]

    def ask() -> int:
        with catalog.read() as conn:
            return sum(explaining.explain(conn, sample) is not None for sample in chosen)

    taken, rows = seconds(ask)
    results.add(f"explain, each of {rows} samples", f"{1000 * taken / EXPLAINED:.1f} ms")


def with_changes(catalog: Catalog, results: Results, batches: int, samples: int) -> None:
    """Put an order in force, and measure what asks for changes again."""
    count = min(CHANGES, batches * samples // 200)
    run(catalog, _CHANGES, turn=batches + 1, count=count)
    with catalog.direct() as conn:
        conn.execute(text("ANALYZE sscd_ops.changes"))  # as autovacuum does within a minute
    setting = f", with {count:,} changes in force"
    look_up(catalog, results, batches, samples, setting=setting)

    def removals() -> int:
        with catalog.read() as conn:
            return len(conn.execute(text(audit_queries()[REMOVALS])).all())

    taken, rows = seconds(removals)
    results.add(f"{REMOVALS} ({rows:,} rows){setting}", f"{taken:.2f} s")

    def slots() -> int:
        with catalog.read() as conn:
            lost = placements.lost_slots_in(conn, 1, batches, [batches], batches + 1)
            return sum(map(len, lost.values()))

    taken, rows = seconds(slots)
    results.add(f"what a commit must leave out: {rows:,} samples", f"{taken:.2f} s")


def pruning(catalog: Catalog, results: Results, batches: int) -> None:
    """How many partitions EXPLAIN ANALYZE shows as really read, of how many."""
    alone = f"SELECT * FROM curation.removed WHERE sample_id = CAST(md5('{batches}/60') AS uuid)"
    for what, sql, own in (
        (REMOVALS, audit_queries()[REMOVALS], 1),
        ("one removal by its sample_id", alone, None),
    ):
        with catalog.read() as conn:
            lines = conn.execute(text("EXPLAIN (ANALYZE, TIMING OFF) " + sql)).scalars().all()
            months = conn.execute(
                text(
                    "SELECT count(*) FROM pg_inherits"
                    " WHERE inhparent = 'sscd_ops.samples'::regclass"
                )
            ).scalar_one()
        witness = [line for line in lines if " c_" in line or " c " in line]
        batch = [line for line in lines if " s_" in line or " s " in line]
        for name, part, most in (("its own rows", batch, own), ("its witnesses", witness, None)):
            scans = [line for line in part if "Scan" in line and "samples_2" in line]
            read = [line for line in scans if "never executed" not in line]
            results.add(
                f"partitions of samples read for {what}: {name}",
                f"{len(read)} of {months}",
                "" if most is None else f"{most}",
                ok=len(scans) > 0 and (most is None or len(read) <= most),
            )


def sizes(catalog: Catalog, results: Results) -> dict[str, tuple[float, float]]:
    """Of each large table: bytes a row with its indexes, and rows."""
    answer = {}
    for table in ("samples", "images", "matches"):
        with catalog.read() as conn:
            heap, indexes, rows = conn.execute(
                text(
                    "SELECT sum(pg_table_size(relid)), sum(pg_indexes_size(relid)),"
                    " (SELECT sum(reltuples) FROM pg_class c JOIN pg_partition_tree(:t) p"
                    " ON p.relid = c.oid WHERE p.isleaf) FROM pg_partition_tree(:t) WHERE isleaf"
                ),
                {"t": f"sscd_ops.{table}"},
            ).one()
        answer[table] = (float(heap + indexes) / float(rows), float(rows))
        results.add(
            f"{table}: bytes a row, table + indexes ({int(rows):,} rows)",
            f"{float(heap) / float(rows):.0f} + {float(indexes) / float(rows):.0f}",
        )
    return answer


def growth(measured: dict[str, tuple[float, float]]) -> str:
    """What 10^9 images take, in the proportions of the rows measured, as Markdown."""
    images = measured["images"][1]
    lines = ["| at 10^9 images | bytes each | together |", "|---|---:|---:|"]
    parts = [
        ("descriptors (512 x float16)", 1024.0, 1.0),
        ("ids (sha256)", 32.0, 1.0),
        ("codes of `exact`", 256.0, 1.0),
        ("codes of `sketch` (256 bits)", 32.0, 1.0),
    ]
    parts += [
        (f"table `{table}`, {rows / images:.2f} rows an image", size, rows / images)
        for table, (size, rows) in measured.items()
    ]
    lines += [f"| {what} | {each:.0f} | {each * many:,.0f} GB |" for what, each, many in parts]
    return "\n".join(lines)


def another_night(catalog: Catalog, results: Results, batches: int) -> None:
    """COPY a large night's rows into the filled tables, indexes and all."""
    random = np.random.default_rng(2)
    count, month = NIGHT_SAMPLES, date.fromordinal(FIRST_NIGHT.toordinal() + batches).replace(day=1)

    def drawn(width: int) -> pa.Array:
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), count, [None, pa.py_buffer(random.bytes(width * count))]
        )

    ids, shas = drawn(16), drawn(32)
    common = {
        "decision_id": np.full(count, batches + 1),
        "sample_id": ids,
        "verdict": pa.array(["kept"] * count),
        "shard_id": np.ones(count, np.int64),
        "position": np.arange(count, dtype=np.int32),
        "rank": np.arange(count, dtype=np.int32),
        "slot": np.arange(count, dtype=np.int32),
    }
    night = {
        "samples": pa.table(
            common
            | {
                "month": pa.array([month] * count),
                "key": pa.array([f"{i:09}" for i in range(count)]),
                "image_sha256": shas,
                "width": np.full(count, 1024, np.int32),
                "height": np.full(count, 768, np.int32),
                "format": pa.array(["jpg"] * count),
                "bytes": np.full(count, 100_000),
                "caption": pa.array(
                    [f"a photo of number {i}, as its page describes it, " * 2 for i in range(count)]
                ),
                "meta": pa.array(
                    [
                        f'{{"url": "https://example.org/{i}.jpg", "similarity": 0.31}}'
                        for i in range(count)
                    ]
                ),
            }
        ),
        "images": pa.table(
            common
            | {
                "dataset_id": np.ones(count, np.int16),
                "sha256": shas,
                "segment_row": np.arange(count, dtype=np.int64),
            }
        ),
    }
    for table, data in night.items():
        start = time.perf_counter()
        with catalog.begin() as conn:
            copy_table(conn, table, data)
        taken = time.perf_counter() - start
        results.add(f"{count:,} more rows into {table}, with indexes", f"{taken:.1f} s", "")


# ---------------------------------------------------------------- the whole


def write_docs(results: Results, setting: str, grown: str) -> None:
    """Put the results between the marks in docs/catalog.md."""
    begin, end = "<!-- results: begin -->", "<!-- results: end -->"
    page = DOCS.read_text()
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    DOCS.write_text(f"{before}{begin}\n{setting}\n\n{results.table()}\n\n{grown}\n{end}{after}")


def main() -> int:
    """Measure; 1 where a target was missed, 2 where there is no room."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--samples", type=int, default=50_000, help="a night")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--write", action="store_true", help="put the results into docs/catalog.md")
    arguments = parser.parse_args()
    free = shutil.disk_usage(arguments.folder).free / 1e9
    if free < NEEDED_GB:
        print(
            f"{arguments.folder} has {free:.0f} GB free, {NEEDED_GB} are needed:"
            " name another with --folder"
        )
        return 2
    home = Path(tempfile.mkdtemp(prefix="sscd-ops-bench-", dir=arguments.folder))
    home.chmod(0o755)
    results = Results()
    try:
        catalog = _open(home)
        start = time.perf_counter()
        fill(catalog, arguments.batches, arguments.samples)
        total = arguments.batches * arguments.samples
        print(f"  filled in {time.perf_counter() - start:.0f} s", flush=True)
        measured = sizes(catalog, results)
        audit(catalog, results)
        pruning(catalog, results, arguments.batches)
        explain(catalog, results, arguments.batches, arguments.samples)
        look_up(catalog, results, arguments.batches, arguments.samples)
        with_changes(catalog, results, arguments.batches, arguments.samples)
        another_night(catalog, results, arguments.batches)
        catalog.dispose()
    finally:
        stop(home)
        shutil.rmtree(home)
    load = os.getloadavg()[1]
    setting = (
        f"{arguments.batches} batches, {total:,} samples; embedded Postgres,"
        f" {cores().number} cores, load average {load:.1f}, {datetime.now(UTC):%Y-%m-%d}."
    )
    print(setting)
    if arguments.write:
        write_docs(results, setting, growth(measured))
    for line in results.missed:
        print(f"MISSED {line}")
    return 1 if results.missed else 0


def _open(home: Path) -> Catalog:
    url = ensure_running(home)["catalog"]
    settings = Catalog(url)
    with settings.direct() as conn:
        # What a server of this size would be given; the audit's first times are those of a server
        # with everything else at its defaults.
        for line in (
            "max_wal_size = '8GB'",
            "maintenance_work_mem = '1GB'",
            "shared_buffers = '1GB'",
        ):
            conn.execute(text(f"ALTER SYSTEM SET {line}"))
    settings.dispose()
    stop(home)
    url = ensure_running(home)["catalog"]
    upgrade(url)
    return Catalog(url, idle_timeout=600)


if __name__ == "__main__":
    sys.exit(main())
