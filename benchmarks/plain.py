"""What tells a plain picture, and what it costs.

    python -m benchmarks.plain [--pictures FOLDER] [--sheet SHEET.png]

For each made kind (``evaluation.empty``, ``benchmarks.sparse``), and the pictures of a folder: the
cells that stand out (``images.plain``), PDQ's quality of what the preset made, and the share of
pictures that a model would merge with an earlier one of their kind, all of them different, if plain
ones were compared too. Then, for the pictures of a folder, decoding with and without the check, in
one process, taking turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.sparse import SPARSE
from sscd_ops.core.perceptual import CODE
from sscd_ops.descriptors import dct
from sscd_ops.descriptors.embedder import Describe
from sscd_ops.descriptors.models import find_model
from sscd_ops.evaluation.empty import EMPTY
from sscd_ops.images import preprocess
from sscd_ops.images.pdq import hash_image
from sscd_ops.images.plain import LEAST_CELLS, cells_of
from sscd_ops.images.sheets import contact_sheet
from sscd_ops.options import FingerprintOptions

_MODELS = ("dct", "sscd_small")


def describers() -> dict[str, Describe]:
    """Dct and sscd_small: pixels -> descriptors."""
    from sscd_ops.descriptors.networks import load_networks

    options = FingerprintOptions(model="sscd_small", device="cpu")
    with tempfile.TemporaryDirectory() as cache:
        (network, *_) = load_networks(find_model("sscd_small"), options, Path(cache))
    return {"dct": dct.describe, "sscd_small": lambda pixels: network.begin(pixels)()}


def pixels_of(pictures: Sequence[bytes], preset: str) -> list[NDArray[np.uint8]]:
    """Of those that can be decoded."""
    found = (preprocess.preprocess(data, preprocess.PRESETS[preset]) for data in pictures)
    return [pixels for pixels in found if not isinstance(pixels, tuple)]


def merged(rows: NDArray[np.float32], threshold: float) -> float:
    """The share that resembles an earlier one."""
    similar = np.tril(rows @ rows.T, -1) >= threshold
    return float(similar[1:].any(axis=1).mean()) if len(rows) > 1 else 0.0


def line(name: str, pictures: Sequence[bytes], models: dict[str, Describe]) -> str:
    """A row of the table."""
    pixels = pixels_of(pictures, "skew-160-v2")
    cells = np.array([cells_of(Image.fromarray(one)) for one in pixels])
    quality = np.median([hash_image(Image.fromarray(one))[CODE] for one in pixels])
    shares = []
    for model in _MODELS:
        found = find_model(model)
        rows = models[model](np.stack(pixels_of(pictures, found.preprocessing)))
        shares.append(f"{merged(rows, found.threshold):.2f}")
    said = f"{cells.min()} | {np.median(cells):.0f} | {cells.max()} | {quality:.0f}"
    return f"| {name} | {said} | {' | '.join(shares)} |"


def seconds(data: bytes, preset: str) -> float:
    """Of this process, to decode it: what else the machine does counts little."""
    started = time.process_time()
    preprocess.preprocess(data, preprocess.PRESETS[preset])
    return time.process_time() - started


def cost(pictures: Sequence[bytes], preset: str, turns: int = 7) -> str:
    """Decoding with the check, as a multiple of that without.

    Of each picture the least of all turns counts, with and without by turns: the check is a
    hundredth of what a busy machine adds now and then.
    """
    check: Callable[[Image.Image], bool] = preprocess.is_plain
    times = np.empty((2, turns, len(pictures)))
    for turn in range(turns):
        for number, data in enumerate(pictures):
            preprocess.is_plain = lambda image: False
            times[0, turn, number] = seconds(data, preset)
            preprocess.is_plain = check
            times[1, turn, number] = seconds(data, preset)
    without, with_it = times.min(axis=1).sum(axis=1)
    rate = len(pictures) / with_it
    return f"{preset}: {with_it / without:.3f} of the time, {rate:.0f} images/s in one process"


def main() -> None:
    """Print the tables and the cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--sheet", type=Path, help="draw six of each kind, with their cells")
    parser.add_argument("--count", type=int, default=24)
    arguments = parser.parse_args()
    models = describers()
    sections = []
    print("| kind | least cells | median | most | PDQ quality | dct merges | sscd_small merges |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kinds in (EMPTY, SPARSE):
        for name, make in kinds.items():
            chance = np.random.default_rng(sum(name.encode()))
            pictures = [make(chance) for _ in range(arguments.count)]
            print(line(name, pictures, models), flush=True)
            pairs = list(zip(pictures[0:6:2], pictures[1:6:2], strict=False))
            said = [
                " | ".join(
                    str(cells_of(Image.fromarray(one))) for one in pixels_of(pair, "skew-160-v2")
                )
                for pair in pairs
            ]
            sections.append((name, [(*pair, text) for pair, text in zip(pairs, said, strict=True)]))
    print(f"\nplain: fewer than {LEAST_CELLS} cells")
    if arguments.sheet:
        contact_sheet(sections).save(arguments.sheet)
    files = sorted(arguments.pictures.rglob("*")) if arguments.pictures else []
    real = [path.read_bytes() for path in files if path.is_file()]
    if real:
        print(line(str(arguments.pictures), real, models))
        for preset in ("skew-160-v2", "skew-320-v2", "grid-64-draft-v2"):
            print(cost(real[:100], preset))


if __name__ == "__main__":
    main()
