"""Compaction of 1,000 shards of 100 samples beside a plain loop over the same tars.

The plain loop hashes each shard, reads its members with `tarfile`, adds them to a new tar with
`tarfile`, fsyncs and hashes that. The product's side is what compaction does to shards save the
catalog's rows: bodies appended whole, every tar hashed while it is read and written, fsync, and,
which the plain loop leaves out, the parquets read, moved and written as one, and the stats. One
process each, the files in the page cache.

Run: ``python -m benchmarks.merge_shards [--repeats N] [--scale X]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.tars import make_source
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.core.shard_merges import Extent, Limits, plan_merges
from sscd_ops.model import StoredFile
from sscd_ops.options import PublishOptions, StorageOptions
from sscd_ops.steps.shard_merging import merged_shard, write_merged
from sscd_ops.storage.arrow import keep_pandas_out
from sscd_ops.storage.store import open_store
from sscd_ops.storage.tar_read import read_tar
from sscd_ops.storage.tar_write import TarWriter

SHARDS, PER_SHARD, TARGET = 1_000, 100, 1.5
SIZES = (20_000, 4_000)
"""Bytes of a picture."""


def plain(home: Path) -> int:
    """The ordinary way; the number of members written."""
    written = 0
    for number, shards in enumerate(_merges(home)):
        target = home / f"plain-{number}.tar"
        with target.open("wb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as sink:
                for shard in shards:
                    path = home / "root" / shard.name
                    with path.open("rb") as stream:
                        digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    if digest != shard.files["tar"].sha256:
                        raise SystemExit(f"{path} is damaged")
                    with tarfile.open(path, "r:") as tar:
                        for entry in tar:
                            member = tar.extractfile(entry)
                            if member is not None:
                                sink.addfile(entry, io.BytesIO(member.read()))
                                written += 1
            out.flush()
            os.fsync(out.fileno())
        with target.open("rb") as result:
            hashlib.file_digest(result, "sha256").hexdigest()
    return written


def product(home: Path) -> int:
    """The merged shards of compaction; the number of members written."""
    keep_pandas_out()
    parts: Any = SimpleNamespace(
        store=open_store(StorageOptions(root=str(home / "root"))), tar_sink=TarWriter
    )
    written = 0
    for shards in _merges(home):
        done = write_merged(parts, shards, merged_shard("bench", shards))
        written += 3 * done.samples
    return written


def _merges(home: Path) -> Iterator[list[OutputShard]]:
    """Each of the shards that become one, under the default settings."""
    settings = PublishOptions()
    found = []
    for line in (home / "shards.jsonl").read_text().splitlines():
        saved = json.loads(line)
        files = {role: StoredFile(**file) for role, file in saved.pop("files").items()}
        found.append(OutputShard(files=files, **saved))
    limits = Limits(settings.max_samples, settings.max_bytes, settings.max_bytes // 2)
    extents = [Extent(shard.samples, shard.files["tar"].bytes) for shard in found]
    for run in plan_merges(extents, limits):
        yield [found[place] for place in run]


def prepare(home: Path, image_bytes: int, shards: int) -> int:
    """Published shards; bytes of their tars."""
    folder = home / "root" / "bench" / "shards"
    lines, total = [], 0
    for number, path in enumerate(make_source(folder, shards * PER_SHARD, image_bytes, PER_SHARD)):
        with path.open("rb") as stream:
            images = [
                (entry.name.partition(".")[0], entry.offset, entry.size)
                for entry in read_tar(stream, gz=False, max_member_bytes=1 << 30)
                if entry.name.endswith(".jpg")
            ]
        table = pa.table(
            {
                "key": [key for key, _, _ in images],
                "caption": [f"picture number {key} of many" for key, _, _ in images],
                "bytes": pa.array([size for _, _, size in images], pa.int64()),
                "offset": pa.array([at for _, at, _ in images], pa.int64()),
            }
        )
        parquet = path.with_suffix(".parquet")
        pq.write_table(table, parquet, compression="zstd")
        files = {
            role: StoredFile(
                f"bench/shards/{each.name}",
                hashlib.sha256(each.read_bytes()).hexdigest(),
                each.stat().st_size,
            )
            for role, each in (("tar", path), ("parquet", parquet))
        }
        shard = OutputShard(
            files, number, number, 0, "", "jpg+txt+json", PER_SHARD, f"bench/shards/{path.name}",
            number + 1, number + 1,
        )  # fmt: skip
        lines.append(json.dumps(dataclasses.asdict(shard)))
        total += files["tar"].bytes
    (home / "shards.jsonl").write_text("\n".join(lines))
    return total


WAYS: dict[str, Callable[[Path], int]] = {"plain": plain, "product": product}


def child(way: str, home: Path) -> None:
    """One way in a process of its own: prints wall seconds, CPU seconds, peak MiB, members."""
    before, start = time.process_time(), time.perf_counter()
    members = WAYS[way](home)
    wall, cpu = time.perf_counter() - start, time.process_time() - before
    print(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, members)


def measure(image_bytes: int, scale: float, repeats: int, say: Callable[[str], None]) -> bool:
    """Print the table of one size of picture; whether the target was met."""
    shards = max(4, round(SHARDS * scale))
    home = Path(tempfile.mkdtemp(prefix="bench-merge-"))
    try:
        size = prepare(home, image_bytes, shards)
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way, rows in found.items():
                command = [sys.executable, "-m", "benchmarks.merge_shards", "--child", way]
                out = subprocess.run(
                    [*command, str(home)], check=True, capture_output=True, text=True
                )
                rows.append([float(word) for word in out.stdout.split()])
        say(
            f"\ncompaction: {shards:,} shards of {PER_SHARD} samples of {image_bytes:,} bytes,"
            f" {size / 1e9:.2f} GB, become {len(list(_merges(home)))}"
        )
        say(f"{'way':30} {'wall s':>8} {'cpu s':>8} {'ratio':>7} {'peak MiB':>9}")
        names = {"plain": "tarfile loop", "product": "compaction, parquet included"}
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
        met = ratio >= TARGET
        say(f"target {TARGET}x: {'met' if met else f'MISSED ({ratio:.2f}x)'}")
        return met
    finally:
        shutil.rmtree(home)


def main() -> int:
    """Print the tables; exit code 3 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the shards")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "HOME"))
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return 0
    met = [measure(size, arguments.scale, arguments.repeats, print) for size in SIZES]
    return 0 if all(met) else 3


if __name__ == "__main__":
    raise SystemExit(main())
