"""The network that is trained, before its first step."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sscd_ops.descriptors.networks import SSCD, load_strictly, make
from sscd_ops.descriptors.training.options import TrainOptions
from sscd_ops.descriptors.weights import read_state


def make_network(options: TrainOptions) -> nn.Module:
    """A network with random weights; the last scale of each residual block starts at 0.

    So a block starts as its shortcut (Goyal et al., 2017, section 5.1): SSCD depends on it.
    """
    network = make(options.trunk, options.dimensions)
    last = "bn3" if isinstance(network, SSCD) else "bn2"
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and name.endswith(f".{last}"):
            nn.init.zeros_(module.weight)
    return network


def starting_with(weights: Path, options: TrainOptions) -> nn.Module:
    """A network with the weights of a file.

    Raises:
        ConfigError: they are of another network, or it is no file of weights.
    """
    network = make_network(options)
    load_strictly(network, read_state(weights, "--start"), f"--start: {weights} does not fit")
    return network
