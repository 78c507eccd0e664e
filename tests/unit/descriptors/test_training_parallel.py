"""Two processes as torchrun starts them: one loss, one set of weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("cv2", reason="training needs opencv-python-headless, the extra `train`")

from sscd_ops.descriptors.training.decoded import store_pictures
from sscd_ops.descriptors.training.loss import contrast, shares_source
from sscd_ops.testing import picture

pytestmark = pytest.mark.long

WORKER = """
import json, sys, torch
from pathlib import Path
from sscd_ops.descriptors.training import parallel
from sscd_ops.descriptors.training.loop import Run
from sscd_ops.descriptors.training.loss import contrast, shares_source
from sscd_ops.descriptors.training.options import TrainOptions
from sscd_ops.descriptors.training.decoded import open_pictures
torch.set_num_threads(1)
folder, cpu = Path(sys.argv[1]), torch.device("cpu")
with parallel.joined(cpu) as me:
    shows, rows = torch.load(folder / "given.pt")
    mine = slice(me.rank * 4, me.rank * 4 + 4)
    weight = torch.eye(5, dtype=torch.float64, requires_grad=True)
    local = torch.nn.functional.normalize(rows[mine] @ weight)
    everything = parallel.gathered(local, me)
    match = shares_source(shows[mine], parallel.gathered(shows[mine], me))
    contrast(local, everything, match, me.rank * 4, temperature=0.3, koleo=2.0).total.backward()
    gradient = parallel.gathered(weight.grad, me).view(2, 5, 5).mean(0)  # as DDP averages
    options = TrainOptions(steps=4, batch=8, sizes=(32,), changes=(), precision="float32")
    run = Run(open_pictures(folder, 48), options, folder / "run", device=cpu, process=me)
    run.train()
    total = sum(float(value.double().sum()) for value in run.network.parameters())
    print(json.dumps({"gradient": gradient.tolist(), "weights": total, "step": run.step}))
"""


def test_two_processes_share_one_loss_and_end_with_one_set_of_weights(tmp_path: Path) -> None:
    store_pictures(((f"k{n}", picture(n)) for n in range(16)), tmp_path, short=48, threads=2)
    shows = torch.arange(4).repeat(2)[:, None].repeat(1, 2)
    rows = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.save((shows, rows), tmp_path / "given.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(tmp_path)],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [json.loads(worker.communicate(timeout=300)[0].splitlines()[-1]) for worker in workers]

    weight = torch.eye(5, dtype=torch.float64, requires_grad=True)
    z = torch.nn.functional.normalize(rows @ weight)
    contrast(z, z, shares_source(shows, shows), 0, temperature=0.3, koleo=2.0).total.backward()
    for answer in said:
        assert weight.grad is not None
        torch.testing.assert_close(
            torch.tensor(answer["gradient"], dtype=torch.float64), weight.grad
        )
    assert said[0]["weights"] == said[1]["weights"]
    assert [answer["step"] for answer in said] == [4, 4]
    assert (tmp_path / "run" / "model.safetensors").is_file()
