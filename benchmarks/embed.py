"""Pictures to descriptors: decoding and the network apart, and what the pipeline makes of them.

640x480 JPEGs of about 60 kB. In one run, best of ``--rounds``, in images a second: (a) decoding
alone, bytes in memory, all decoder processes; (b) the model alone on decoded minibatches; (c) the
product's embedder, from tars; and for SSCD the straightforward script: tarfile, PIL, a DataLoader
of a worker a core, TorchScript, minibatches of 32. On a CPU (a) and (b) share the cores, so (c) is
bounded by 1 / (1/a + 1/b), and the target is nine tenths of that; on a GPU they do not: nine tenths
of min(a, b). SSCD has random weights of ``sscd_disc_mixup``'s architecture. Also: how much of a
large matrix product's rate, on that device in that precision, the network's forward pass reaches
(MFU); the bundled ``sscd_small`` without and with the perceptual hashes it has by default; and what
telling plain pictures costs a decoder.

Run: ``python -m benchmarks.embed [--images N] [--rounds N] [--precision P]``.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import MEAN, STD, measured_network
from benchmarks.night import pictures
from benchmarks.plain import cost
from sscd_ops.descriptors import dct
from sscd_ops.descriptors.embedder import open_embedder
from sscd_ops.descriptors.inference import DTYPES
from sscd_ops.descriptors.models import MODELS
from sscd_ops.descriptors.networks import Network, build, load_networks
from sscd_ops.descriptors.weights import read_state
from sscd_ops.images.pool import DecoderPool, default_workers
from sscd_ops.images.preprocess import PRESETS, preprocess
from sscd_ops.options import FingerprintOptions, Precision
from sscd_ops.storage.tar_read import read_tar
from sscd_ops.testing import make_tar

TARS = 4
SHARE = 0.9
Describe = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def write_tars(folder: Path, count: int) -> list[Path]:
    """Tars of JPEGs and captions."""
    every = list(pictures(count))
    return [
        make_tar(
            folder / f"{tar:03d}.tar",
            [(f"k{i:06d}", {"jpg": every[i], "txt": b"caption"}) for i in range(tar, count, TARS)],
        )
        for tar in range(TARS)
    ]


def images_of(tars: list[Path]) -> Iterator[bytes]:
    """The pictures of some tars, as the embed step reads them."""
    for path in tars:
        with path.open("rb") as stream:
            for entry in read_tar(stream, gz=False, max_member_bytes=1 << 28):
                if entry.name.endswith(".jpg"):
                    yield entry.data


class Straightforward(IterableDataset):  # type: ignore[type-arg]
    """What a user would write: each worker reads tars of its own."""

    def __init__(self, tars: list[Path]) -> None:
        self.tars = tars

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        mine = self.tars[info.id :: info.num_workers] if info else self.tars
        for path in mine:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".jpg"):
                        data = tar.extractfile(member).read()  # type: ignore[union-attr]
                        image = Image.open(io.BytesIO(data)).convert("RGB").resize((320, 320), 2)
                        picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
                        yield (picture.float() / 255 - MEAN[0]) / STD[0]


def rate(work: Callable[[], int]) -> float:
    """Images a second."""
    start = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - start)


def best(works: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Each work's best rate; they take turns, so that a busy moment hits none alone."""
    found = dict.fromkeys(works, 0.0)
    for _ in range(rounds):
        for name, work in works.items():
            found[name] = max(found[name], rate(work))
    return found


def stages(
    options: FingerprintOptions, describe: Describe, tars: list[Path], folder: Path
) -> tuple[dict[str, Callable[[], int]], list[object]]:
    """(a), (b) and (c); and what to close at the end."""
    model = MODELS[options.model]
    images = list(images_of(tars))
    preset = PRESETS[model.preprocessing]
    pixels = np.stack([preprocess(data, preset) for data in images[: model.minibatch]])
    pool = DecoderPool(model.preprocessing)
    pool.__enter__()
    embedder = open_embedder(options, folder)
    embedder.__enter__()
    for opened in (pool.map(images[:64]), embedder.embed(images[:64])):
        list(opened)  # decoders are up, and memory is had

    def forward() -> int:
        done = 0
        while done < len(images):
            done += len(describe(pixels))
        return done

    works: dict[str, Callable[[], int]] = {
        "decode": lambda: sum(1 for _ in pool.map(images)),
        "forward": forward,
        "end to end": lambda: sum(
            len(chunk.descriptors) for chunk in embedder.embed(images_of(tars))
        ),
    }
    return works, [pool, embedder]


def report(name: str, found: dict[str, float], *, gpu: bool) -> bool:
    """Print a model's rates; whether the target was met."""
    a, b, c = (found[stage] for stage in ("decode", "forward", "end to end"))
    bound = min(a, b) if gpu else 1 / (1 / a + 1 / b)
    print(f"\n{name}: images/s")
    for stage, value in found.items():
        print(f"  {stage:16} {value:9.1f}")
    met = c >= SHARE * bound
    formula = "min(a, b)" if gpu else "1 / (1/a + 1/b)"
    said = "" if met else "  MISSED"
    print(f"  end to end is {c / bound:.2f} of {formula} = {bound:.1f}, target {SHARE}{said}")
    if "straightforward" in found:
        print(f"  {c / found['straightforward']:.2f} times as fast as the straightforward script")
    return met


def baseline(tars: list[Path], folder: Path, rounds: int) -> bool:
    """`dct`."""
    works, opened = stages(FingerprintOptions("dct"), dct.describe, tars, folder)
    found = best(works, rounds)
    close(opened)
    return report("dct", found, gpu=False)


def small(tars: list[Path], folder: Path, rounds: int) -> bool:
    """The bundled model; and what its decoders lose by making hashes too."""
    options = FingerprintOptions("sscd_small")
    model = MODELS["sscd_small"]
    # with all of a CPU's threads, where the product leaves some to its decoders
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    alone = Network(build(model, read_state(Path(model.weights))), device)
    works, opened = stages(options, alone.describe, tars, folder)
    hashing = open_embedder(options, folder, perceptual=True)
    hashing.__enter__()
    works["with hashes"] = lambda: sum(
        len(chunk.descriptors) for chunk in hashing.embed(images_of(tars))
    )
    found = best(works, rounds)
    close([*opened, hashing])
    side = MODELS["sscd_small"].preprocessing
    good = report(f"sscd_small, {side}", found, gpu=torch.cuda.is_available())
    print(f"  with hashes {found['with hashes'] / found['end to end']:.2f} of that")
    return good


def close(opened: list[object]) -> None:
    """Stop decoders."""
    for part in opened:
        part.__exit__(None, None, None)  # type: ignore[attr-defined]


def sscd(tars: list[Path], folder: Path, rounds: int, precision: Precision) -> bool:
    """The SSCD architecture with random weights, beside the straightforward script."""
    seen = [preprocess(data, PRESETS["skew-288"]) for data in pictures(8)]
    network = measured_network(np.stack(seen)[:, 96:192, 96:192])
    weights = folder / "random.pt"
    torch.save(network.state_dict(), weights)
    options = FingerprintOptions("sscd_disc_mixup", weights=str(weights), precision=precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what was released
        script = torch.jit.trace(network, torch.zeros(1, 3, 64, 64))
    gpu = torch.cuda.is_available()
    script = script.cuda() if gpu else script

    def straightforward() -> int:
        loader = DataLoader(
            Straightforward(tars), batch_size=32, num_workers=default_workers(), pin_memory=gpu
        )
        done = 0
        with torch.inference_mode():
            for batch in loader:
                rows = script(batch.cuda(non_blocking=True) if gpu else batch)
                done += len(rows.cpu().numpy())
        return done

    (ready,) = load_networks(MODELS["sscd_disc_mixup"], options, folder)
    works, opened = stages(options, ready.describe, tars, folder)
    works["straightforward"] = straightforward
    found = best(works, rounds)
    close(opened)
    good = report(f"sscd_disc_mixup at 320 px, {precision}", found, gpu=gpu)
    device = torch.device("cuda" if gpu else "cpu")
    share = flops(network) * found["forward"] / matrix_rate(device, DTYPES[precision])
    print(f"  the network runs at {share:.2f} of a large {precision} matrix product's rate (MFU)")
    return good


def flops(network: torch.nn.Module) -> int:
    """Of one picture at 320 px."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 320, 320))
    return int(counter.get_total_flops())


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a square product, best of five."""
    side = 8192 if device.type == "cuda" else 2048
    x = torch.rand(side, side, device=device).to(dtype)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        x @ x
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return float(2 * side**3 / min(times))


def main() -> int:
    """Print the rates; 0 if every target was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=int, default=192, help="for SSCD; the small ones take ten times"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=list(DTYPES), default="float32", help="of SSCD")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-embed-"))
    try:
        many = write_tars(folder / "many", 10 * arguments.images)
        good = baseline(many, folder, arguments.rounds)
        good &= small(many, folder, arguments.rounds)
        few = write_tars(folder / "few", arguments.images)
        good &= sscd(few, folder, arguments.rounds, arguments.precision)
        print("\nwhat telling plain pictures adds to a decoder's processor time")
        some = list(pictures(min(96, arguments.images)))
        for model in ("sscd_small", "sscd_disc_mixup", "dct"):
            print(f"  {cost(some, MODELS[model].preprocessing)}")
    finally:
        shutil.rmtree(folder)
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
