"""One night of 10,000 JPEGs through the command, beside the bare work of decoding and describing.

640x480 pictures of about 60 kB in ten tars; `sscd-ops run` with `dct`, start-up of the process,
connections and all rows included. What is taken off is the same pictures through the
same decoder processes and the same model in a loop of nothing else, run just before and just after.

Run: ``python -m benchmarks.night [--samples N]``.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sscd_ops.catalog import embedded
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.descriptors.embedder import open_embedder
from sscd_ops.options import FingerprintOptions
from sscd_ops.storage.tar_read import read_tar
from sscd_ops.testing import make_tar

TARGET = 5.0
DISTINCT = 1000
"""Distinct pictures; the others carry another comment, so their bytes differ."""
TARS = 10
CONFIG = """
[storage]
root = "{base}/root"
[catalog]
url = "{url}"
[datasets.bench]
schedule = "0 0 * * *"
start = 2026-11-01
[[datasets.bench.sources]]
name = "s"
urls = ["{base}/in/{{date}}/*.tar"]
[datasets.bench.guard]
first_nights_max = 1.0
[datasets.bench.fingerprint]
model = "dct"
"""


def pictures(count: int) -> Iterator[bytes]:
    """JPEGs of 640x480 with noise over clouds, about 60 kB."""
    random = np.random.default_rng(1)
    noise = random.normal(0, 14, (480, 640, 3))
    made: list[bytes] = []
    for number in range(count):
        if number < DISTINCT:
            clouds = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            smooth = np.asarray(clouds.resize((640, 480), Image.Resampling.BICUBIC), np.float64)
            rolled = np.roll(noise, number * 7, axis=1)
            out = io.BytesIO()
            image = Image.fromarray(np.clip(smooth + rolled, 0, 255).astype(np.uint8))
            image.save(out, "JPEG", quality=75)
            made.append(out.getvalue())
        base = made[number % DISTINCT]
        yield base[:2] + b"\xff\xfe\x00\x08" + f"{number:06d}".encode() + base[2:]


def write_tars(folder: Path, count: int) -> int:
    """The night's tars; the mean size of a picture."""
    every = list(pictures(count))
    for tar in range(TARS):
        make_tar(
            folder / f"{tar:03d}.tar",
            [
                (f"k{i:06d}", {"jpg": every[i], "txt": f"caption {i}".encode()})
                for i in range(tar, count, TARS)
            ],
        )
    return sum(map(len, every)) // count


def bare(folder: Path, cache: Path) -> float:
    """Seconds for decode, resize and model alone; the tars' bytes are in memory."""
    images = []
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as stream:
            images += [
                entry.data
                for entry in read_tar(stream, gz=False, max_member_bytes=1 << 28)
                if entry.name.endswith(".jpg")
            ]
    with open_embedder(FingerprintOptions("dct"), cache) as embedder:
        list(embedder.embed(images[:64]))  # the decoders are up
        start = time.perf_counter()
        for _ in embedder.embed(images):
            pass
        return time.perf_counter() - start


def main() -> int:
    """Print the table; 0 if the target was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    samples = parser.parse_args().samples
    base = Path(tempfile.mkdtemp(prefix="bench-night-"))
    base.chmod(0o755)
    try:
        url = embedded.ensure_running(base / "postgres")["catalog"]
        upgrade(url)
        folder = base / "in" / "2026-11-01"
        mean = write_tars(folder, samples)
        config = base / "bench.toml"
        config.write_text(CONFIG.format(base=base, url=url))
        before = bare(folder, base)
        command = [str(Path(sys.executable).parent / "sscd-ops"), "run", "--config", str(config)]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--dataset", "bench", "--date", "2026-11-01"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        whole = time.perf_counter() - start
        after = bare(folder, base)
    finally:
        embedded.stop(base / "postgres")
        shutil.rmtree(base)
    work = (before + after) / 2
    rest = whole - work
    target = TARGET * samples / 10_000
    print(f"{samples} pictures of {mean} bytes: the command took {whole:.2f} s")
    print(f"decode, resize and model alone {work:.2f} s ({before:.2f} before, {after:.2f} after)")
    print(f"everything else                {rest:.2f} s, target {target:g}")
    print(f"                               {rest / samples * 1e3:.3f} ms a sample")
    return 0 if rest <= target else 3


if __name__ == "__main__":
    sys.exit(main())
