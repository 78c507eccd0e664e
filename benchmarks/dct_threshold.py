"""The threshold of `dct`: chosen on half of some pictures, reported on the other half.

The rule, fixed beforehand: the greatest similarity of two different pictures of the even half plus
0.1, rounded up to 0.05. Copies are those of `sscd_ops.testing.plant`.

Run: ``SSCD_OPS_TEST_DATA=FOLDER python -m benchmarks.dct_threshold`` where FOLDER has
``pairs/pairs.csv`` and its pictures.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sscd_ops.descriptors import dct
from sscd_ops.descriptors.models import MODELS
from sscd_ops.images.preprocess import PRESETS, preprocess
from sscd_ops.testing import COPIES, plant

KINDS = [copy for copy in COPIES if copy not in ("byte_copy", "other_caption")]


def descriptors(images: list[bytes]) -> NDArray[np.float32]:
    """float32 (n, d)."""
    grids = [preprocess(image, PRESETS["grid-64-draft"]) for image in images]
    return dct.describe(np.stack([grid for grid in grids if not isinstance(grid, tuple)]))


def strangers(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Similarities of all pairs of different pictures."""
    return (rows @ rows.T)[np.triu_indices(len(rows), 1)]


def main() -> int:
    """Print the table; 0 if the rule gives the constant in the code."""
    base = os.environ.get("SSCD_OPS_TEST_DATA")
    if not base:
        print("set SSCD_OPS_TEST_DATA to a folder with pairs/pairs.csv")
        return 2
    folder = Path(base) / "pairs"
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as stream:
        images = [(folder / row["file"]).read_bytes() for row in csv.DictReader(stream)]
    chosen = 0.0
    for half, name in ((0, "even pictures (chosen on)"), (1, "odd pictures (reported on)")):
        mine = images[half::2]
        rows = descriptors(mine)
        apart = strangers(rows)
        if half == 0:
            chosen = math.ceil(round((float(apart.max()) + 0.1) / 0.05, 6)) * 0.05
        print(f"{name}: {len(mine)} pictures, {len(apart)} pairs of different ones")
        above = int((apart >= chosen).sum())
        print(f"  greatest similarity of different pictures {apart.max():.3f}; {above} at or above")
        for kind in KINDS:
            copies = descriptors([plant(image, kind) for image in mine])
            alike = (rows * copies).sum(axis=1)
            found = float((alike >= chosen).mean())
            print(f"  {kind:<10} found {found:6.1%}  median {np.median(alike):.3f}")
    known = MODELS["dct"].threshold
    print(f"threshold {chosen:.2f}, in the code {known:.2f}")
    return 0 if abs(chosen - known) < 1e-9 else 3


if __name__ == "__main__":
    sys.exit(main())
