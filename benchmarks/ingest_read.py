"""Ingest of source tars beside `tarfile` in stream mode with sha256 of every member.

The product's side is everything ingest does to a shard save the catalog's rows: the reader,
grouping by key, header checks, sha256 of each member, sample ids, the manifest as a durable file.
One process each, the files in the page cache.

Run: ``python -m benchmarks.ingest_read [--samples N] [--image-bytes N] [--repeats N]``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from benchmarks.tars import make_source
from sscd_ops.core.interpret import Interpreter
from sscd_ops.core.manifest import ManifestBuilder
from sscd_ops.images.inspector import Inspector
from sscd_ops.model import FoundShard, Interval, RawSample, StoredFile
from sscd_ops.options import LimitsOptions, SourceOptions, StorageOptions
from sscd_ops.ports import Source, Store
from sscd_ops.sources import open_source
from sscd_ops.storage.arrow import keep_pandas_out
from sscd_ops.storage.store import open_store
from sscd_ops.storage.tar_read import read_tar

TARGET = 1.3


def plain(paths: list[Path]) -> int:
    """The ordinary way: tarfile's stream mode, sha256 of every member."""
    members = 0
    for path in paths:
        with tarfile.open(path, "r|") as tar:
            for entry in tar:
                stream = tar.extractfile(entry)
                if stream is not None:
                    hashlib.sha256(stream.read()).digest()
                    members += 1
    return members


def bare(paths: list[Path]) -> int:
    """The product's tar reader and sha256 of every member, nothing else: the bound."""
    return _read(paths, headers=False)


def checked(paths: list[Path]) -> int:
    """The same with each picture's header read by Pillow: the bound without our own parser."""
    return _read(paths, headers=True)


def _read(paths: list[Path], *, headers: bool) -> int:
    members = 0
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            for entry in read_tar(stream, gz=False, max_member_bytes=1 << 28):
                hashlib.sha256(entry.data).digest()
                if headers and entry.name.endswith(".jpg"):
                    Image.open(io.BytesIO(entry.data), formats=("JPEG",))
                members += 1
    return members


def ingest(paths: list[Path]) -> int:
    """What the ingest step does to each shard."""
    keep_pandas_out()
    urls = (f"{paths[0].parent}/*.tar",)
    options = SourceOptions("bench", urls=urls, columns=("url",), url="json:url")
    source = open_source(options, LimitsOptions(), read_tar)
    store = open_store(StorageOptions(root=str(paths[0].parent.parent / "root")))
    night = Interval(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC))
    found = source.find(night, "UTC")
    return sum(write_manifest(options, shard, source, store)[1] for shard in found)


def write_manifest(
    options: SourceOptions, shard: FoundShard, source: Source, store: Store
) -> tuple[StoredFile, int]:
    """A shard's manifest as the ingest step writes it, and how many members it lists."""
    limits = LimitsOptions()
    interpreter = Interpreter("bench", options, limits, shard.relative_uri, Inspector(limits))
    members = 0

    def write(stream: BinaryIO) -> None:
        nonlocal members
        with ManifestBuilder(stream) as builder:
            for item in source.read(shard):
                if isinstance(item, RawSample):
                    builder.add(interpreter.row(item))
                    members += len(item.members)

    return store.put("bench/manifests", ".parquet", write), members


WAYS: dict[str, Callable[[list[Path]], int]] = {
    "plain": plain,
    "bare": bare,
    "checked": checked,
    "ingest": ingest,
}


def child(way: str, folder: Path) -> None:
    """One way in a process of its own: prints wall seconds, CPU seconds, peak MiB, members."""
    paths = sorted(folder.glob("*.tar"))
    before, start = time.process_time(), time.perf_counter()
    members = WAYS[way](paths)
    wall, cpu = time.perf_counter() - start, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(wall, cpu, peak, members)


def measure(samples: int, image_bytes: int, repeats: int, say: Callable[[str], None]) -> bool:
    """Print the table; whether the target was met."""
    home = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    try:
        paths = make_source(home / "in", samples, image_bytes)
        plain(paths)
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way in WAYS:
                out = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "benchmarks.ingest_read",
                        "--child",
                        way,
                        str(home / "in"),
                    ],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                found[way].append([float(word) for word in out.stdout.split()])
        size = sum(path.stat().st_size for path in paths)
        say(
            f"\ningest: {samples:,} samples, pictures of {image_bytes:,} bytes, {size / 1e9:.2f} GB"
        )
        say(f"{'way':30} {'wall s':>8} {'cpu s':>8} {'ratio':>7} {'peak MiB':>9}")
        names = {
            "plain": "tarfile r| + sha256",
            "bare": "our reader + sha256",
            "checked": "and Pillow's header check",
            "ingest": "ingest, manifest included",
        }
        reference = statistics.median(row[0] for row in found["plain"])
        ratio = 0.0
        for way, rows in found.items():
            wall, cpu, peak, members = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            if members != found["plain"][0][3]:
                say(f"{names[way]}: {members:,.0f} members, expected {found['plain'][0][3]:,.0f}")
                return False
            ratio = reference / wall
            say(f"{names[way]:30} {wall:8.2f} {cpu:8.2f} {ratio:6.2f}x {peak:9.0f}")
        met = ratio >= TARGET
        say(f"target {TARGET}x for ingest: {'met' if met else f'MISSED ({ratio:.2f}x)'}")
        return met
    finally:
        shutil.rmtree(home)


def main() -> int:
    """Print the table; exit code 3 where the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--image-bytes", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]))
        return 0
    return 0 if measure(arguments.samples, arguments.image_bytes, arguments.repeats, print) else 3


if __name__ == "__main__":
    raise SystemExit(main())
