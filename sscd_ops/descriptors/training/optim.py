"""LARS, the learning rate's schedule, and a moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates with momentum (You, Gitman and Ginsburg, 2017, algorithm 1).

    A parameter's gradient plus decay is scaled by ``trust * |w| / (|g| + decay * |w| + eps)``;
    where decay is 0 or a norm is, the gradient is taken as it is.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "eps": eps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters once."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        gradient = weight.grad
        decay = group["weight_decay"]
        size, slope = weight.norm(), weight.grad.norm()  # type: ignore[union-attr]
        if decay != 0 and size > 0 and slope > 0:
            rate = group["trust"] * size / (slope + decay * size + group["eps"])
            gradient = rate * (gradient + decay * weight)
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        weight.sub_(group["lr"] * state["momentum"])


def learning_rate(base: float, progress: float, warmup: float) -> float:
    """Linear from 0 over the first ``warmup`` of the run, then a cosine to 0.

    Args:
        base: the highest rate.
        progress: how far the run is, [0, 1].
        warmup: share of the run, [0, 1].
    """
    if progress < warmup:
        return base * progress / warmup
    if warmup >= 1:
        return base
    return base * 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels with decay; biases and batch-norm scales without."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


class Average:
    """An exponential moving average of a network's weights and batch-norm statistics.

    Args:
        network: whose.
        decay: share of the old average that stays at a step. The first steps keep less, so that
            the random start is forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.state = {name: value.clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the network after its ``step``-th step, counted from 1."""
        decay = min(self._decay, step / (step + 10.0))
        for name, value in network.state_dict().items():
            kept = self.state[name]
            if kept.is_floating_point():
                kept.lerp_(value, 1.0 - decay)
            else:
                kept.copy_(value)
