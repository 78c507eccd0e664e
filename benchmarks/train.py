"""Training and forward speed of the small network: views made, steps taken, pictures described.

Views are made by threads of cv2, steps are the whole of forward, loss, backward and optimiser with
views at hand, ``forward`` is the network as the product runs it (float32). Each figure is the best
of some tries, as other work on the machine only ever slows one down.

Run: ``python -m benchmarks.train [--threads N] [--trunk small] [--repeats N]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from sscd_ops.descriptors.networks import Network
from sscd_ops.descriptors.training.decoded import store_pictures
from sscd_ops.descriptors.training.loop import Run
from sscd_ops.descriptors.training.options import TrainOptions, Trunk
from sscd_ops.descriptors.training.parallel import Process
from sscd_ops.descriptors.training.views import make_views
from sscd_ops.testing import picture


def best(work: Callable[[], object], repeats: int) -> float:
    """The least seconds of some calls."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def measure(trunk: str, threads: int, repeats: int) -> None:
    """Print a row for each size."""
    torch.set_num_threads(threads)
    options = dataclasses.replace(TrainOptions(), trunk=trunk)
    print(f"{trunk}, {threads} threads, torch {torch.__version__}, batch {options.batch} x 2 views")
    print(f"{'px':>4} {'views made/s':>13} {'views trained/s':>16} {'forward images/s':>17}")
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(threads) as pool:
        folder = Path(home)
        members = ((str(number), picture(number)) for number in range(options.batch))
        pictures = store_pictures(members, folder, short=max(options.sizes), threads=threads)
        run = Run(pictures, options, folder, device=torch.device("cpu"))
        network = Network(run.network, torch.device("cpu"))
        for side in options.sizes:
            batch = make_views(pictures, options, 0, side, Process(), pool)
            views = len(batch.pixels)
            made = best(lambda: make_views(pictures, options, 1, side, Process(), pool), repeats)  # noqa: B023
            run.network.train()
            trained = best(lambda: run.move(run.network, batch, 0.5), repeats)  # noqa: B023
            run.network.eval()
            pixels = np.ascontiguousarray(batch.pixels[:32])
            forward = best(lambda: network.describe(pixels), 3 * repeats)  # noqa: B023
            print(
                f"{side:4} {views / made:13,.0f} {views / trained:16,.0f} {32 / forward:17,.0f}",
                flush=True,
            )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trunk", default="small", choices=get_args(Trunk))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.trunk, arguments.threads, arguments.repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
