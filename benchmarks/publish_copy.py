"""Publish of kept samples beside a plain loop over the same tars.

The plain loop reads with `tarfile`, hashes every kept member, writes with `tarfile`, fsyncs and
hashes the result. The product's side is what the publish step does to an output shard save the
catalog's rows: manifests read, members fetched by byte range and checked against their digests,
the tar hashed while it is written, fsync, the parquet and the stats beside it. One process each,
the files in the page cache, 15% of the samples dropped at random.

Run: ``python -m benchmarks.publish_copy [--repeats N] [--scale X]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from benchmarks.ingest_read import write_manifest
from benchmarks.tars import make_source
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.core.manifest import read_manifest
from sscd_ops.model import Interval, SourceShard, StoredFile
from sscd_ops.options import DatasetOptions, LimitsOptions, SourceOptions, StorageOptions
from sscd_ops.sources import open_source
from sscd_ops.steps.parts import Work
from sscd_ops.steps.shard_files import put_file
from sscd_ops.steps.shard_writing import write_samples
from sscd_ops.storage.arrow import keep_pandas_out
from sscd_ops.storage.store import open_store
from sscd_ops.storage.tar_read import read_tar
from sscd_ops.storage.tar_write import TarWriter

KEPT = 0.85
SIZES = {60_000: (10_000, 2_500, 2.0), 4_000: (40_000, 10_000, 1.0)}
"""Bytes of a picture -> samples, samples of an output shard, least ratio."""
NIGHT = Interval(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC))


def kept(number: int, rows: int) -> list[bool]:
    """Which samples of a tar are kept; the same in every process."""
    choice = random.Random(number)
    return [choice.random() < KEPT for _ in range(rows)]


def plain(home: Path, per_tar: int) -> int:
    """The ordinary way; the number of members written."""
    written = 0
    for number, path in enumerate(sorted((home / "in").glob("*.tar"))):
        keep = kept(number, per_tar)
        target = home / f"plain-{number}.tar"
        with tarfile.open(path, "r|") as tar, target.open("wb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as sink:
                for entry in tar:
                    stream = tar.extractfile(entry)
                    if stream is None or not keep[int(entry.name.partition(".")[0]) % per_tar]:
                        continue
                    data = stream.read()
                    hashlib.sha256(data).digest()
                    info = tarfile.TarInfo(entry.name)
                    info.size = len(data)
                    sink.addfile(info, io.BytesIO(data))
                    written += 1
            out.flush()
            os.fsync(out.fileno())
        with target.open("rb") as result:
            hashlib.file_digest(result, "sha256").hexdigest()
    return written


def product(home: Path, per_tar: int) -> int:
    """The publish step's shards, one a source tar; the number of members written."""
    keep_pandas_out()
    limits = LimitsOptions()
    options = SourceOptions("bench", urls=(f"{home}/in/*.tar",))
    store = open_store(StorageOptions(root=str(home / "root")))
    parts: Any = SimpleNamespace(
        store=store,
        tar_sink=TarWriter,
        source=lambda options, limits: open_source(options, limits, read_tar),
    )
    dataset = DatasetOptions("bench", sources=(options,), limits=limits)
    batch: Any = SimpleNamespace(dataset="bench")
    attempt: Any = None
    work = Work(batch, attempt, dataset)
    written = 0
    for shard, rows in _planned(home, per_tar):
        name, form = f"bench/shards/{shard.ordinal:05d}.tar", "jpg+json+txt"
        output = OutputShard({}, 1, 1, 0, "", form, len(rows), name, 1, 1)
        put = partial(put_file, parts)
        write_samples(parts, output, rows, [], {shard.shard_id: (work, shard)}, put)
        written += 3 * len(rows)
    return written


def _planned(home: Path, per_tar: int) -> Iterator[tuple[SourceShard, list[PlacedSample]]]:
    """Each source shard with the samples that the catalog would answer for its output shard."""
    for line in (home / "shards.jsonl").read_text().splitlines():
        saved = json.loads(line)
        saved["manifest"] = StoredFile(**saved["manifest"])
        shard = SourceShard(**saved)
        keep = kept(shard.ordinal, per_tar)
        yield (
            shard,
            [
                PlacedSample(
                    image_sha256=bytes(32),
                    sample_id=UUID(int=shard.ordinal << 64 | position),
                    shard_id=shard.shard_id,
                    position=position,
                    source="bench",
                    relative_uri=shard.relative_uri,
                    key=str(position),
                    width=96,
                    height=72,
                    caption="a caption",
                    meta={},
                )
                for position, stays in enumerate(keep)
                if stays
            ],
        )


def prepare(home: Path, image_bytes: int, samples: int, per_tar: int) -> int:
    """Source tars and their manifests; bytes of the tars."""
    paths = make_source(home / "in", samples, image_bytes, per_tar)
    options = SourceOptions("bench", urls=(f"{home}/in/*.tar",))
    source = open_source(options, LimitsOptions(), read_tar)
    store = open_store(StorageOptions(root=str(home / "root")))
    lines = []
    for number, found in enumerate(source.find(NIGHT, "UTC")):
        file, _ = write_manifest(options, found, source, store)
        shard = SourceShard(
            number, "bench", found.uri, found.relative_uri, found.size, found.version, 0, number,
            manifest=file,
        )  # fmt: skip
        lines.append(json.dumps(dataclasses.asdict(shard)))
        read_manifest(store.local(file))
    (home / "shards.jsonl").write_text("\n".join(lines))
    return sum(path.stat().st_size for path in paths)


WAYS: dict[str, Callable[[Path, int], int]] = {"plain": plain, "product": product}


def child(way: str, home: Path, per_tar: int) -> None:
    """One way in a process of its own: prints wall seconds, CPU seconds, peak MiB, members."""
    before, start = time.process_time(), time.perf_counter()
    members = WAYS[way](home, per_tar)
    wall, cpu = time.perf_counter() - start, time.process_time() - before
    print(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, members)


def measure(image_bytes: int, scale: float, repeats: int, say: Callable[[str], None]) -> bool:
    """Print the table of one size of picture; whether the target was met."""
    samples, per_tar, target = SIZES[image_bytes]
    samples = max(1, round(samples * scale))
    per_tar = min(per_tar, samples)
    samples -= samples % per_tar
    home = Path(tempfile.mkdtemp(prefix="bench-publish-"))
    try:
        size = prepare(home, image_bytes, samples, per_tar)
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way, rows in found.items():
                command = [sys.executable, "-m", "benchmarks.publish_copy", "--child", way]
                out = subprocess.run(
                    [*command, str(home), str(per_tar)], check=True, capture_output=True, text=True
                )
                rows.append([float(word) for word in out.stdout.split()])
        say(f"\npublish: {samples:,} samples of {image_bytes:,} bytes, {size / 1e9:.2f} GB read")
        say(f"{'way':30} {'wall s':>8} {'cpu s':>8} {'ratio':>7} {'peak MiB':>9}")
        names = {"plain": "tarfile loop", "product": "publish, parquet included"}
        reference = statistics.median(row[0] for row in found["plain"])
        ratio = 0.0
        for way, rows in found.items():
            wall, cpu, peak, members = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            if members != found["plain"][0][3]:
                say(f"{names[way]}: {members:,.0f} members, not {found['plain'][0][3]:,.0f}")
                return False
            ratio = reference / wall
            say(f"{names[way]:30} {wall:8.2f} {cpu:8.2f} {ratio:6.2f}x {peak:9.0f}")
        met = ratio >= target
        say(f"target {target}x: {'met' if met else f'MISSED ({ratio:.2f}x)'}")
        return met
    finally:
        shutil.rmtree(home)


def main() -> int:
    """Print the tables; exit code 3 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the samples")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "HOME", "PER_TAR"))
    arguments = parser.parse_args()
    if arguments.child:
        way, home, per_tar = arguments.child
        child(way, Path(home), int(per_tar))
        return 0
    met = [measure(size, arguments.scale, arguments.repeats, print) for size in SIZES]
    return 0 if all(met) else 3


if __name__ == "__main__":
    raise SystemExit(main())
