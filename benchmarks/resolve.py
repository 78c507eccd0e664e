"""Deciding 1,000,000 samples with 300,000 matches, rows included, on a real Postgres.

Manifests, descriptor files and match's answers are made beforehand, as ingest, embed and match
write them; then `resolve.run` is timed whole. The batch's 700,000 images without a match would be
compared with each other by leader, which is `benchmarks/leader.py`'s subject and hours of
arithmetic at this size, so leader is given its answer (all kept). Peak memory is this process's.

Run: ``python -m benchmarks.resolve [--samples N]``.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sscd_ops.catalog import attempts, batches, embedded, searches, segments, shards
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.core.descriptor_file import DescriptorFile, write_descriptors
from sscd_ops.core.leader import Compared, Leader
from sscd_ops.core.manifest import SCHEMA
from sscd_ops.core.match_file import write_matches
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
from sscd_ops.steps import commit, embed, ingest, match, plan, publish, resolve, survey
from sscd_ops.testing import make_tar, picture
from sscd_ops.wiring import Wiring

SHARDS = 20
MATCHED = 0.3
TARGET_SECONDS, TARGET_LOCK, TARGET_GIB = 60.0, 10.0, 4.0


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
        "members": pa.ListArray.from_arrays(
            pa.array(np.arange(rows + 1) * 3, pa.int32()),
            members,
            type=SCHEMA.field("members").type,
        ),
        "code": pa.nulls(rows, pa.string()),
        "message": pa.nulls(rows, pa.string()),
    }
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def first_night(parts: Wiring, folder: Path, day: Interval) -> None:
    """A real small night, so that there is a history to match."""
    make_tar(
        folder / "2026-11-01" / "a.tar",
        [(f"h{i}", {"jpg": picture(i), "txt": b"history"}) for i in range(50)],
    )
    report = plan.run(parts, "big", day, runner=Runner("airflow", "d", "1"))
    ingest.run(parts, report.batch_id, report.groups)
    surveyed = survey.run(parts, report.batch_id)
    embed.run(parts, report.batch_id, report.groups)
    match.run(parts, report.batch_id, surveyed.parts)
    for group in resolve.run(parts, report.batch_id).groups:
        publish.run(parts, report.batch_id, group)
    commit.run(parts, report.batch_id)


def big_night(parts: Wiring, folder: Path, day: Interval, samples: int) -> int:
    """A batch with every file before resolve in place; its number."""
    rows = samples // SHARDS
    for number in range(SHARDS):
        path = folder / "2026-11-02" / f"{number:03d}.tar"
        make_tar(path, [("k", {"txt": b"a placeholder: its manifest is made by hand"})])
    report = plan.run(parts, "big", day, runner=Runner("airflow", "d", "2"))
    with parts.catalog.begin() as conn:
        batch = batches.read_batch(conn, report.batch_id)
        attempt = attempts.read_attempt(conn, batch)
        registered = shards.shards_of(conn, attempt.attempt_id)
        live = segments.live_segments(conn, batch.dataset_id, 1)
    dimensions = attempt.fingerprint.dimensions
    for number, shard in enumerate(registered):
        table = made_manifest(rows, number)
        manifest = parts.store.put(
            "big/manifests", ".parquet", lambda s, t=table: pq.write_table(t, s)
        )
        ids = np.frombuffer(table.column("image_sha256").chunk(0).buffers()[1], np.uint8)
        content = DescriptorFile(
            ids.reshape(-1, 32).copy(), unit_rows(rows, dimensions, number), {}
        )
        found = parts.store.put(
            "big/descriptors",
            ".parquet",
            lambda s, c=content: write_descriptors(
                s, c, fingerprint=attempt.fingerprint.digest, runtime={}
            ),
        )
        with parts.catalog.begin() as conn:
            shards.register_file(conn, shard.shard_id, "manifest", manifest, {})
            shards.register_file(conn, shard.shard_id, "descriptors", found, {})
    register_matches(parts, attempt.attempt_id, live[0], samples)
    return report.batch_id


def unit_rows(rows: int, dimensions: int, seed: int) -> NDArray[np.float16]:
    """Descriptors of the right shape; sparse, so that making them costs little."""
    out = np.zeros((rows, dimensions), np.float16)
    out[np.arange(rows), np.random.default_rng(seed).integers(0, dimensions, rows)] = 1
    return out


def register_matches(parts: Wiring, attempt_id: int, segment: object, samples: int) -> None:
    """What match would have found: 30% of the queries have a kept image of history."""
    import hashlib

    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, attempt_id)
    digest = hashlib.sha256()
    for shard in registered:
        digest.update(shard.descriptors.sha256.encode())  # type: ignore[union-attr]
    count = int(samples * MATCHED)
    random = np.random.default_rng(5)
    query = np.sort(random.choice(samples, count, replace=False)).astype(np.int64)
    found = Matches(query, random.integers(0, 50, count), random.uniform(0.6, 1.0, count))
    file = parts.store.put("big/matches", ".parquet", lambda s: write_matches(s, [found], 1))
    with parts.catalog.begin() as conn:
        searches.register_search(
            conn,
            attempt_id,
            segment.segment_id,  # type: ignore[attr-defined]
            segment.mask.sha256,  # type: ignore[attr-defined]
            digest.hexdigest(),
            file,
        )


def all_kept(batch: Sequence[Compared], *_: object, **__: object) -> Leader:
    """Leader's answer where no two images of the batch are alike."""
    (only,) = batch
    kept = only.history < only.measure.threshold
    none = np.empty(0, np.int64)
    return Leader(
        kept,
        np.full(len(kept), -1, np.int64),
        np.where(kept, -np.inf, only.history),
        np.where(kept, -1, 0).astype(np.int8),
        [only.measure],
        [Matches(none, none, np.empty(0))],
    )


def main() -> int:
    """Print the table; 0 if every target was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    samples = parser.parse_args().samples
    base = Path(tempfile.mkdtemp(prefix="bench-resolve-"))
    base.chmod(0o755)
    try:
        url = embedded.ensure_running(base / "postgres")["catalog"]
        upgrade(url)
        options = DatasetOptions(
            "big",
            schedule="0 0 * * *",
            start=date(2026, 11, 1),
            late_days=0,
            sources=(SourceOptions("s", urls=(f"{base}/in/{{date}}/*.tar",), columns=("url",)),),
            fingerprint=FingerprintOptions("dct"),
            guard=GuardOptions(first_nights_max=1.0),
        )
        settings = Settings("bench", StorageOptions(str(base / "root")), datasets={"big": options})
        start = datetime(2026, 11, 1, tzinfo=UTC)
        nights = [
            Interval(start + timedelta(days=d), start + timedelta(days=d + 1)) for d in (0, 1)
        ]
        with Wiring(settings, database_url=url, progress=Silence()) as parts:
            first_night(parts, base / "in", nights[0])
            batch_id = big_night(parts, base / "in", nights[1], samples)
            with mock.patch("sscd_ops.steps.working.lead", all_kept):
                report = resolve.run(parts, batch_id)
    finally:
        embedded.stop(base / "postgres")
        shutil.rmtree(base)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    c = report.counts
    print("leader not included: it is given its answer (see the benchmark of that name)")
    print(f"read {c.read}, kept {c.kept}, near {c.removed_near}, output shards {report.shards}")
    good = True
    for what, value, target, unit in (
        ("resolve, rows included", report.seconds, TARGET_SECONDS * samples / 1e6, "s"),
        ("the lock held", report.lock_seconds, TARGET_LOCK, "s"),
        ("peak memory", gib, TARGET_GIB, "GiB"),
    ):
        good &= value <= target
        print(f"{what:<24} {value:8.2f} {unit:<4} target {target:g}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
