"""Several processes with one device each, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from sscd_ops.errors import ConfigError


@dataclass(frozen=True)
class Process:
    """This process among those of a run."""

    rank: int = 0
    world: int = 1


def check_shared(batch: int, process: Process) -> None:
    """That every process gets as many pictures of a batch.

    Raises:
        ConfigError: the batch does not divide among them.
    """
    if batch % process.world:
        raise ConfigError(
            f"batch {batch} does not divide among {process.world} processes: give a --batch that is"
            f" a multiple of {process.world}"
        )


def is_launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: torch.device) -> Iterator[Process]:
    """This process's place among the others, connected while the context lasts."""
    if not is_launched():
        yield Process()
        return
    # the first process may decode for hours; torchrun ends all of them where one dies
    patience = timedelta(hours=24)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield Process(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def own_device(name: str) -> torch.device:
    """The configured device; of several GPUs the one of this process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and is_launched():
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return torch.device(name)


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of a row is summed over the processes that used it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, process: Process) -> Tensor:
        ctx.rank, ctx.count = process.rank, len(rows)
        found = [torch.empty_like(rows) for _ in range(process.world)]
        distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].contiguous()
        distributed.all_reduce(gradient)
        start = ctx.rank * ctx.count
        return gradient[start : start + ctx.count], None


def gathered(rows: Tensor, process: Process) -> Tensor:
    """Rows of all processes in order of rank (n, ...) -> (n * world, ...), with gradients."""
    if process.world == 1:
        return rows
    answer: Tensor = _Gather.apply(rows, process)  # type: ignore[no-untyped-call]
    return answer


def from_first(values: Tensor, process: Process) -> Tensor:
    """The first process's tensor, in all of them; shapes must be equal."""
    if process.world > 1:
        distributed.broadcast(values, 0)
    return values


def agreed(value: float, device: torch.device, process: Process) -> float:
    """The first process's value, in all of them."""
    if process.world == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.broadcast(told, 0)
    return float(told.item())
