"""Deciding nights of several sizes, rows included, on a real Postgres: seconds and memory.

Manifests, descriptor files (512 dimensions) and match's answers are made beforehand, as ingest,
embed and match write them: 30% of the images have a kept image of history, 10% one of the night
itself. Then `resolve.run` is timed whole, in a process of its own, whose peak memory it is. What a
further million samples takes is the slope between the smallest and the largest night.

Run: ``python -m benchmarks.resolve [--rows N [N ...]]``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sscd_ops.catalog import attempts, batches, datasets, embedded, searches, shards, sql
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.catalog.searches import Searched
from sscd_ops.core.descriptor_file import DescriptorFile, write_descriptors
from sscd_ops.core.manifest import SCHEMA
from sscd_ops.core.match_file import no_matches, write_matches
from sscd_ops.model import Interval, Matches, Runner
from sscd_ops.options import (
    DatasetOptions,
    FingerprintOptions,
    GuardOptions,
    Settings,
    SourceOptions,
    StorageOptions,
)
from sscd_ops.ports import Silence
from sscd_ops.steps import (
    commit,
    embed,
    history,
    ingest,
    match,
    plan,
    publish,
    queries,
    resolve,
    searching,
    survey,
)
from sscd_ops.steps.parts import load_work
from sscd_ops.testing import make_tar, picture
from sscd_ops.wiring import Wiring

ROWS = (100_000, 200_000, 400_000)
A_SHARD = 10_000
DIMENSIONS = 512
MATCHED, COPIES = 0.3, 0.1
TARGET_SECONDS, TARGET_LOCK = 60.0, 10.0
TARGET_FIRST, TARGET_MORE = 1.5, 0.8
"""GiB for the first million samples with all that a process has, and for each million more."""


def made_manifest(rows: int, seed: int) -> pa.Table:
    """A manifest of ordinary samples: jpg, txt and json members, a caption of 60 characters."""
    random = np.random.default_rng(seed)
    ids = random.bytes(16 * rows)
    digests = random.bytes(32 * rows)

    def binary(raw: bytes, width: int) -> pa.Array:
        return pa.Array.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(raw)])

    def numbers(low: int, high: int, kind: pa.DataType) -> pa.Array:
        return pa.array(random.integers(low, high, rows), kind)

    keys = [f"{seed:03d}{i:07d}" for i in range(rows)]
    members = pa.StructArray.from_arrays(
        [
            pa.array([f"{key}.{ext}" for key in keys for ext in ("jpg", "txt", "json")]),
            pa.array(["jpg", "txt", "json"] * rows),
            pa.array(np.arange(3 * rows) * 20_480, pa.int64()),
            pa.array(random.integers(60, 60_000, 3 * rows), pa.int64()),
            pa.Array.from_buffers(
                pa.binary(32), 3 * rows, [None, pa.py_buffer(random.bytes(96 * rows))]
            ),
        ],
        fields=list(SCHEMA.field("members").type.value_type),
    )
    columns = {
        "position": pa.array(np.arange(rows), pa.int32()),
        "sample_id": binary(ids, 16),
        "key": pa.array(keys),
        "occurrence": pa.array(np.zeros(rows), pa.int32()),
        "image_member": pa.array([f"{key}.jpg" for key in keys]),
        "image_sha256": binary(digests, 32),
        "image_offset": pa.array(np.arange(rows) * 61_440, pa.int64()),
        "image_bytes": numbers(20_000, 60_000, pa.int64()),
        "width": numbers(200, 2000, pa.int32()),
        "height": numbers(200, 2000, pa.int32()),
        "format": pa.array(["jpg"] * rows),
        "declared": pa.nulls(rows, pa.string()),
        "caption": pa.array(
            [f"A caption of an ordinary length, number {key} of many" for key in keys]
        ),
        "caption_sha256": binary(random.bytes(32 * rows), 32),
        "meta": pa.array([f'{{"url":"http://example.com/{key}.jpg"}}' for key in keys]),
        "url_sha256": binary(random.bytes(32 * rows), 32),
        "host": pa.array(["com.example."] * rows),
        "members": pa.ListArray.from_arrays(
            pa.array(np.arange(rows + 1) * 3, pa.int32()),
            members,
            type=SCHEMA.field("members").type,
        ),
        "code": pa.nulls(rows, pa.string()),
        "message": pa.nulls(rows, pa.string()),
    }
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def first_night(parts: Wiring, dataset: str, folder: Path, day: Interval) -> None:
    """A real small night, so that there is a history to match."""
    make_tar(
        folder / "2026-11-01" / "a.tar",
        [(f"h{i}", {"jpg": picture(i), "txt": b"history"}) for i in range(50)],
    )
    report = plan.run(parts, dataset, day, runner=Runner("airflow", "d", "1"))
    ingest.run(parts, report.batch_id, report.groups)
    surveyed = survey.run(parts, report.batch_id)
    embed.run(parts, report.batch_id, report.groups)
    match.run(parts, report.batch_id, surveyed.parts)
    for group in resolve.run(parts, report.batch_id).groups:
        publish.run(parts, report.batch_id, group)
    commit.run(parts, report.batch_id)


def big_night(parts: Wiring, dataset: str, folder: Path, day: Interval, samples: int) -> int:
    """A batch with every file before resolve in place; its number."""
    rows = min(A_SHARD, samples)
    for number in range(samples // rows):
        path = folder / "2026-11-02" / f"{number:04d}.tar"
        make_tar(path, [("k", {"txt": b"a placeholder: its manifest is made by hand"})])
    report = plan.run(parts, dataset, day, runner=Runner("airflow", "d", "2"))
    with parts.catalog.begin() as conn:
        batch = batches.read_batch(conn, report.batch_id)
        attempt = attempts.read_attempt(conn, batch)
        registered = shards.shards_of(conn, attempt.attempt_id)
        sql.run(
            conn,
            "UPDATE sscd_ops.attempts SET fingerprint_detail = jsonb_set(fingerprint_detail,"
            " '{dimensions}', to_jsonb(CAST(:n AS int))) WHERE attempt_id = :a",
            n=DIMENSIONS,
            a=attempt.attempt_id,
        )
    for number, shard in enumerate(registered):
        table = made_manifest(rows, number)
        manifest = parts.store.put(
            f"{dataset}/manifests", ".parquet", lambda s, t=table: pq.write_table(t, s)
        )
        ids = np.frombuffer(table.column("image_sha256").chunk(0).buffers()[1], np.uint8)
        content = DescriptorFile(ids.reshape(-1, 32).copy(), unit_rows(rows, number), {})
        found = parts.store.put(
            f"{dataset}/descriptors",
            ".parquet",
            lambda s, c=content: write_descriptors(
                s, c, fingerprint=attempt.fingerprint.digest, runtime={}
            ),
        )
        with parts.catalog.begin() as conn:
            shards.register_file(conn, shard.shard_id, "manifest", manifest, {})
            embedded_rows = {"embedded": rows}
            shards.register_file(conn, shard.shard_id, "descriptors", found, embedded_rows)
    survey.run(parts, report.batch_id)
    register_matches(parts, report.batch_id)
    return report.batch_id


def unit_rows(rows: int, seed: int) -> NDArray[np.float16]:
    """Descriptors: float16 (rows, DIMENSIONS), normalised."""
    made = np.random.default_rng(seed).standard_normal((rows, DIMENSIONS), np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made.astype(np.float16)


def register_matches(parts: Wiring, batch_id: int) -> None:
    """What match would have found, cell by cell."""
    work = load_work(parts, batch_id)
    attempt_id = work.attempt.attempt_id
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, attempt_id)
        dataset = datasets.need(conn, work.batch.dataset)
        live = history.live_of(history.origins_of(conn, work, dataset))
    asked = queries.load_queries(parts, work, registered)
    count = len(asked)
    random = np.random.default_rng(5)
    cells = [*searching.against(count, live), *searching.within(count)]
    found = []
    for cell in cells:
        if cell.own is None:
            many = int(len(cell.block) * MATCHED)
            query = np.sort(random.choice(cell.block, many, replace=False))
            reference = random.integers(0, 50, many)
        else:
            many = int(len(cell.block) * COPIES * 2 * len(cell.own) / count)
            query = np.sort(random.choice(cell.block, many, replace=False))
            reference = random.choice(cell.own, many)
            query, reference = query[query != reference], reference[query != reference]
        matches = Matches(query, reference, random.uniform(0.6, 1.0, len(query)))
        found.append([matches, *(no_matches() for _ in work.measures[1:])])
    file = parts.store.put(
        f"{work.folder}/matches", ".parquet", lambda stream: write_matches(stream, found)
    )
    limit = work.options.duplicates.keep_matches
    made = [
        Searched(
            cell.block,
            tuple(segment.segment_id for segment in cell.segments),
            cell.masks,
            cell.own,
            limit if cell.own is None else searching.LISTED,
            file,
            number,
        )
        for number, cell in enumerate(cells)
    ]
    with parts.catalog.begin() as conn:
        searches.register_searches(conn, attempt_id, asked.digest, made)


def opened(base: Path, url: str, rows: list[int]) -> Wiring:
    """The real parts, with a dataset for each size."""
    named = {
        f"big{samples}": DatasetOptions(
            f"big{samples}",
            schedule="0 0 * * *",
            start=date(2026, 11, 1),
            late_days=0,
            sources=(
                SourceOptions("s", urls=(f"{base}/{samples}/{{date}}/*.tar",), columns=("url",)),
            ),
            fingerprint=FingerprintOptions("dct"),
            guard=GuardOptions(first_nights_max=1.0),
        )
        for samples in rows
    }
    settings = Settings("bench", StorageOptions(str(base / "root")), datasets=named)
    return Wiring(settings, database_url=url, progress=Silence())


def decide(base: str, url: str, samples: str, batch: str) -> int:
    """In a process of its own: decide a night, and print what it took, as JSON."""
    with opened(Path(base), url, [int(samples)]) as parts:
        report = resolve.run(parts, int(batch))
    status = Path("/proc/self/status").read_text()
    took = {
        "seconds": report.seconds,
        "lock": report.lock_seconds,
        "cpu": time.process_time(),
        "gib": int(status.split("VmHWM:")[1].split()[0]) / 2**20,
        "kept": report.counts.kept,
        "near": report.counts.removed_near,
        "shards": report.shards,
    }
    print(json.dumps(took))
    return 0


def main() -> int:
    """Print the table; 0 if every target was met."""
    if sys.argv[1:2] == ["decide"]:
        return decide(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    sizes = sorted(parser.parse_args().rows)
    base = Path(tempfile.mkdtemp(prefix="bench-resolve-"))
    base.chmod(0o755)
    start = datetime(2026, 11, 1, tzinfo=UTC)
    nights = [Interval(start + timedelta(days=d), start + timedelta(days=d + 1)) for d in (0, 1)]
    made = []
    try:
        url = embedded.ensure_running(base / "postgres")["catalog"]
        upgrade(url)
        for samples in sizes:
            with opened(base, url, sizes) as parts:
                folder, dataset = base / str(samples), f"big{samples}"
                first_night(parts, dataset, folder, nights[0])
                batch = big_night(parts, dataset, folder, nights[1], samples)
            asked = ["decide", str(base), url, str(samples), str(batch)]
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.resolve", *asked],
                stdout=subprocess.PIPE,
                check=True,
            )
            made.append(json.loads(done.stdout))
            shutil.rmtree(base / "root" / dataset)
    finally:
        embedded.stop(base / "postgres")
        shutil.rmtree(base)
    print(
        f"{'samples':>10} {'kept':>10} {'near':>9} {'shards':>6} {'seconds':>8} {'cpu s':>7}"
        f" {'GiB':>6}"
    )
    for samples, took in zip(sizes, made, strict=True):
        print(
            f"{samples:>10,} {took['kept']:>10,} {took['near']:>9,} {took['shards']:>6}"
            f" {took['seconds']:>8.2f} {took['cpu']:>7.2f} {took['gib']:>6.2f}"
        )
    last, millions = made[-1], sizes[-1] / 1e6
    figures = [
        ("resolve, rows included", last["seconds"], TARGET_SECONDS * millions, "s"),
        ("the lock held", max(took["lock"] for took in made), TARGET_LOCK, "s"),
        ("peak memory", last["gib"], TARGET_FIRST + TARGET_MORE * max(0, millions - 1), "GiB"),
    ]
    if len(sizes) > 1:
        more = (last["gib"] - made[0]["gib"]) / (sizes[-1] - sizes[0]) * 1e6
        first = last["gib"] + more * (1 - millions)
        figures += [
            ("memory, a million more", more, TARGET_MORE, "GiB"),
            ("memory, the first million", first, TARGET_FIRST, "GiB"),
        ]
    good = True
    for what, value, target, unit in figures:
        good &= value <= target
        print(f"{what:<26} {value:8.2f} {unit:<4} target {target:g}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
