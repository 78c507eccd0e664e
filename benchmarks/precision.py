"""One network run in each way there is: cosine to the plain float32 one on real pictures; speed.

Ways: plain (contiguous, batch norms apart, float32: the reference), channels_last, folded (what the
product runs), torch.compile, OpenVINO where installed, autocast in bfloat16 and float16, and the
product's bfloat16 and float16 (convolutions in it, pooling and projection in float32). Then, with
``--pictures``, the faster decoding presets beside theirs, by the middle of each picture through the
same network.

Pictures: ``pairs/images`` and ``train/*.tar`` below SSCD_OPS_TEST_DATA, resized to a square. The
decoding presets need a folder of large JPEGs: a decoder only scales what is at least twice the
target. The network is ``benchmarks.networks.measured_network``, so no released weights are needed;
its projection is centred, so that the cosine is of what tells pictures apart. A second table is of
``sscd_small`` with its own weights, at its own size.

Run: ``SSCD_OPS_TEST_DATA=FOLDER python -m benchmarks.precision [--images N] [--size S]
[--pictures FOLDER] [--write]``; ``--write`` puts the tables into docs/descriptors.md. Speeds mean
something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.__main__ import ROOT, machine
from benchmarks.networks import MEAN, STD, measured_network, normalised
from sscd_ops.descriptors.inference import DTYPES, folded, prepared
from sscd_ops.descriptors.models import MODELS
from sscd_ops.descriptors.networks import build
from sscd_ops.descriptors.weights import read_state
from sscd_ops.images.preprocess import PRESETS, Preset, preprocess

PAGE = ROOT / "docs" / "descriptors.md"
BEGIN = "<!-- last result: written by `python -m benchmarks.precision --write` -->"
END = "<!-- end of last result -->"
MINIBATCH = 16
TARGETS = {
    "channels_last": 0.9999,
    "folded": 0.9999,
    "compiled": 0.9999,
    "openvino": 0.9999,
    "autocast bfloat16": 0.999,
    "autocast float16": 0.999,
    "bfloat16": 0.999,
    "float16": 0.999,
}
Forward = Callable[[torch.Tensor], torch.Tensor]


def pictures(base: Path) -> Iterator[bytes]:
    """The 300 of pairs, then those of train in the order of its tars."""
    for path in sorted((base / "pairs" / "images").iterdir()):
        yield path.read_bytes()
    for path in sorted((base / "train").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.name.endswith(".jpg") else None
                if stream:
                    yield stream.read()


def decoded(images: Iterator[bytes], preset: Preset, count: int) -> NDArray[np.uint8]:
    """Pixels of the first ``count`` that can be read."""
    found: list[NDArray[np.uint8]] = []
    for data in images:
        pixels = preprocess(data, preset)
        if not isinstance(pixels, tuple):
            found.append(pixels)
        if len(found) == count:
            break
    return np.stack(found)


def ways(network: nn.Module) -> dict[str, Forward]:
    """Name -> forward of normalised float32 pictures."""
    nhwc = torch.channels_last
    last = folded(network).to(memory_format=nhwc)
    plain_last = copy.deepcopy(network).to(memory_format=nhwc)
    found: dict[str, Forward] = {
        "plain": network,
        "channels_last": lambda x: plain_last(x.contiguous(memory_format=nhwc)),
        "folded": lambda x: last(x.contiguous(memory_format=nhwc)),
    }
    if shutil.which("g++") or shutil.which("clang++"):
        compiled = torch.compile(copy.deepcopy(network).to(memory_format=nhwc))
        found["compiled"] = lambda x: compiled(x.contiguous(memory_format=nhwc))
    if importlib.util.find_spec("openvino"):
        found["openvino"] = _by_openvino(network)
    for name in ("bfloat16", "float16"):
        found[f"autocast {name}"] = _autocast(plain_last, DTYPES[name])
        found[name] = _prepared(network, name)
    return found


def _by_openvino(network: nn.Module) -> Forward:
    from sscd_ops.descriptors.openvino_engine import OpenVino

    engine = OpenVino(network)

    def forward(x: torch.Tensor) -> torch.Tensor:
        # it takes pixels, as the embedder has them
        pixels = ((x * STD + MEAN) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(engine.describe(pixels.contiguous().numpy()))

    return forward


def _autocast(network: nn.Module, dtype: torch.dtype) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=dtype):
            answer = network(x.contiguous(memory_format=torch.channels_last))
        return nn.functional.normalize(answer.float())

    return forward


def _prepared(network: nn.Module, name: str) -> Forward:
    ready = prepared(network, name)
    return lambda x: ready(x.contiguous(memory_format=torch.channels_last))


def run(forward: Forward, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Descriptors, and pictures a second of the quicker half of the minibatches."""
    rows, seconds = [], []
    with torch.no_grad():
        forward(normalised(pixels[:MINIBATCH]))  # compiles, and warms up
        for start in range(0, len(pixels) - MINIBATCH + 1, MINIBATCH):
            x = normalised(pixels[start : start + MINIBATCH])
            begun = time.perf_counter()
            rows.append(forward(x).numpy())
            seconds.append(time.perf_counter() - begun)
    return np.concatenate(rows), MINIBATCH / float(np.quantile(seconds, 0.25))


def compare(
    name_of: str, network: nn.Module, pixels: NDArray[np.uint8], say: Callable[[str], None]
) -> bool:
    """The table of ways; whether every target was met."""
    good, wanted, base = True, None, 1.0
    say(f"{len(pixels) // MINIBATCH * MINIBATCH} pictures at {pixels.shape[1]} px, {name_of}")
    say(f"{'way':18} {'least cosine':>13} {'mean':>9} {'target':>7} {'images/s':>9} {'ratio':>6}")
    for name, forward in ways(network).items():
        rows, speed = run(forward, pixels)
        if wanted is None:
            wanted, base = rows, speed
            alike = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        cosines = (rows.astype(np.float64) * wanted).sum(axis=1)
        target = TARGETS.get(name, 0.0)
        missed = "" if cosines.min() >= target else "  MISSED"
        good &= not missed
        say(
            f"{name:18} {cosines.min():13.6f} {cosines.mean():9.6f} {target:7.4f}"
            f" {speed:9.1f} {speed / base:6.2f}{missed}"
        )
    say(f"(different pictures: cosine {alike.mean():.3f} in the mean, {alike.max():.3f} at most)")
    return good


def drafts(network: nn.Module, files: list[Path], say: Callable[[str], None]) -> None:
    """Agreement and decoding speed of presets that let the decoder scale."""
    ready = prepared(network, "float32")
    for name in ("skew-320", "skew-288", "small-288"):
        crops: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        spent, sizes = [0.0, 0.0], 0
        for path in files:
            data = path.read_bytes()
            both = []
            for number, preset in enumerate((PRESETS[name], PRESETS[f"{name}-draft"])):
                begun = time.process_time()
                both.append(preprocess(data, preset))
                spent[number] += time.process_time() - begun
            exact, draft = both
            if isinstance(exact, tuple) or isinstance(draft, tuple):
                continue
            sizes += exact.shape != draft.shape
            crops.append((_middle(exact), _middle(draft)))
        apart = [np.abs(one.astype(int) - two).mean() for one, two in crops]
        rows = [_describe(ready, np.stack(side)) for side in zip(*crops, strict=True)]
        cosines = (rows[0].astype(np.float64) * rows[1]).sum(axis=1)
        say(
            f"{name}-draft on {len(crops)} large JPEGs: cosine mean {cosines.mean():.5f}, least"
            f" {cosines.min():.5f}, 1st percentile {np.quantile(cosines, 0.01):.5f}; grey levels"
            f" apart {np.mean(apart):.2f}; another size by a pixel {sizes};"
            f" decoded in {spent[1] / spent[0]:.2f} of the time"
        )


def _middle(pixels: NDArray[np.uint8], side: int = 96) -> NDArray[np.uint8]:
    """The middle of a picture at full detail: the network costs a tenth."""
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _describe(network: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        parts = [
            network(normalised(pixels[start : start + MINIBATCH])).numpy()
            for start in range(0, len(pixels), MINIBATCH)
        ]
    return np.concatenate(parts)


def keep(lines: list[str]) -> None:
    """Put the lines between the page's marks."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    text = "\n".join(lines)
    stamp = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, torch {torch.__version__}"
    PAGE.write_text(
        f"{head}{BEGIN}\n\n{stamp}\n\n```\n{text}\n```\n\n{END}{tail}", encoding="utf-8"
    )


def main() -> int:
    """Print the tables; 0 if every target was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--pictures", type=Path, help="large JPEGs for the decoding presets")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    base = os.environ.get("SSCD_OPS_TEST_DATA")
    if not base:
        print("set SSCD_OPS_TEST_DATA to a folder with pairs and train")
        return 2
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    side = arguments.size
    preset = Preset(f"skew-{side}", lambda width, height: (side, side), fixed=True)
    pixels = decoded(pictures(Path(base)), preset, arguments.images)
    network = measured_network(pixels[:: max(1, len(pixels) // 32)])
    good = compare("ResNet-50", network, pixels, say)
    small = MODELS["sscd_small"]
    pixels = decoded(pictures(Path(base)), PRESETS[small.preprocessing], arguments.images)
    say("")
    good &= compare(small.name, build(small, read_state(Path(small.weights))), pixels, say)
    if arguments.pictures:
        drafts(network, sorted(arguments.pictures.iterdir())[: arguments.images], say)
    if arguments.write:
        keep(lines)
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
