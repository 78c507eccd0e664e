"""Source tars for the benchmarks: real JPEG headers, every picture's bytes its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from sscd_ops.testing import make_tar, picture

BASES = 64
PER_TAR = 2_500


def make_source(folder: Path, samples: int, image_bytes: int, per_tar: int = PER_TAR) -> list[Path]:
    """Tars of (jpg, txt, json) samples whose pictures have about ``image_bytes`` bytes.

    The pictures are small JPEGs filled up behind their end marker with random bytes, which header
    checks, hashing and copying take for any other picture's.
    """
    random = np.random.default_rng(7)
    bases = [picture(seed, 96, 72, 40) for seed in range(BASES)]
    paths = []
    for number in range(-(-samples // per_tar)):
        first = number * per_tar
        rows = range(first, min(first + per_tar, samples))
        sizes = random.integers(image_bytes * 8 // 10, image_bytes * 12 // 10, len(rows))
        paths.append(
            make_tar(
                folder / f"{number:05d}.tar",
                (
                    (f"{row:08d}", _members(row, bases[row % BASES], int(size), random))
                    for row, size in zip(rows, sizes, strict=True)
                ),
            )
        )
    return paths


def _members(row: int, base: bytes, size: int, random: np.random.Generator) -> dict[str, bytes]:
    document = {"key": f"{row:08d}", "url": f"https://example.com/{row}.jpg", "status": "success"}
    return {
        "jpg": base + random.bytes(max(16, size - len(base))),
        "txt": f"picture number {row} of many".encode(),
        "json": json.dumps(document).encode(),
    }
