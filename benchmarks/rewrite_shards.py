"""Shards written again without a tenth of their samples, beside a plain loop over the same tars.

The plain loop is ``merge_shards``' for one shard at a time: it hashes the shard, reads its members
with `tarfile`, adds those that stay to a new tar with `tarfile`, fsyncs and hashes that. The
product's side is what a withdrawal does to shards save the catalog's rows: headers read, runs of
members copied, every tar hashed while it is read and written, fsync, and, which the plain loop
leaves out, the parquet read, cut, moved and written, and the stats. One process each, the files in
the page cache, the samples that go drawn at random.

Run: ``python -m benchmarks.rewrite_shards [--repeats N] [--scale X]``.
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
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.merge_shards import prepare
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.model import StoredFile
from sscd_ops.options import StorageOptions
from sscd_ops.steps.rewriting import write_places
from sscd_ops.storage.arrow import keep_pandas_out
from sscd_ops.storage.store import open_store
from sscd_ops.storage.tar_write import TarWriter

SHARDS, GONE, TARGET = 100, 0.1, 1.5
SIZES = (60_000, 4_000)
"""Bytes of a picture."""


def shards_of(home: Path) -> Iterator[tuple[OutputShard, list[int]]]:
    """Each shard, and the places of the samples that stay; the same in every process."""
    for number, line in enumerate((home / "shards.jsonl").read_text().splitlines()):
        saved = json.loads(line)
        files = {role: StoredFile(**file) for role, file in saved.pop("files").items()}
        shard = OutputShard(files=files, **saved)
        choice = random.Random(number)
        yield shard, [place for place in range(shard.samples) if choice.random() >= GONE]


def plain(home: Path) -> int:
    """The ordinary way; the number of members written."""
    written = 0
    for number, (shard, left) in enumerate(shards_of(home)):
        stay, target, path = set(left), home / f"plain-{number}.tar", home / "root" / shard.name
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != shard.files["tar"].sha256:
                raise SystemExit(f"{path} is damaged")
        with target.open("wb") as out:
            with (
                tarfile.open(path, "r:") as tar,
                tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as sink,
            ):
                for entry in tar:
                    member = tar.extractfile(entry)
                    place = int(entry.name.partition(".")[0]) % shard.samples
                    if member is not None and place in stay:
                        sink.addfile(entry, io.BytesIO(member.read()))
                        written += 1
            out.flush()
            os.fsync(out.fileno())
        with target.open("rb") as result:
            hashlib.file_digest(result, "sha256").hexdigest()
    return written


def product(home: Path) -> int:
    """The shards of a withdrawal; the number of members written."""
    keep_pandas_out()
    parts: Any = SimpleNamespace(
        store=open_store(StorageOptions(root=str(home / "root"))), tar_sink=TarWriter
    )
    written = 0
    for number, (shard, left) in enumerate(shards_of(home)):
        name = f"bench/again/{number:05d}.tar"
        other = dataclasses.replace(shard, name=name, samples=len(left), files={})
        write_places(parts, shard, other, left, shard.samples)
        written += 3 * len(left)
    return written


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
    home = Path(tempfile.mkdtemp(prefix="bench-rewrite-"))
    try:
        size = prepare(home, image_bytes, shards)
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way, rows in found.items():
                command = [sys.executable, "-m", "benchmarks.rewrite_shards", "--child", way]
                out = subprocess.run(
                    [*command, str(home)], check=True, capture_output=True, text=True
                )
                rows.append([float(word) for word in out.stdout.split()])
                shutil.rmtree(home / "root" / "bench" / "again", ignore_errors=True)
        say(
            f"\nwritten again without {GONE:.0%}: {shards:,} shards of 100 samples of"
            f" {image_bytes:,} bytes, {size / 1e9:.2f} GB"
        )
        say(f"{'way':30} {'wall s':>8} {'cpu s':>8} {'ratio':>7} {'peak MiB':>9}")
        names = {"plain": "tarfile loop", "product": "rewriting, parquet included"}
        reference = statistics.median(row[1] for row in found["plain"])
        ratio = 0.0
        for way, rows in found.items():
            wall, cpu, peak, members = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            if members != found["plain"][0][3]:
                say(f"{names[way]}: {members:,.0f} members, not {found['plain'][0][3]:,.0f}")
                return False
            ratio = reference / cpu
            say(f"{names[way]:30} {wall:8.2f} {cpu:8.2f} {ratio:6.2f}x {peak:9.0f}")
        met = ratio >= TARGET
        say(f"target {TARGET}x of cpu: {'met' if met else f'MISSED ({ratio:.2f}x)'}")
        return met
    finally:
        shutil.rmtree(home)


def main() -> int:
    """Print the tables; exit code 3 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
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
