"""A network to measure with where released weights are not at hand: random, yet telling.

With plain random weights all pictures come out nearly alike (cosines above .99), so that any
arithmetic would agree with any other. Here the batch norms take the statistics of real pictures and
the projection is centred, which spreads descriptors of different pictures round a cosine of 0, as a
trained network does; rounding then shows.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sscd_ops.descriptors.compact import gem
from sscd_ops.descriptors.networks import SSCD, TRUNKS, Bottleneck

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)


def normalised(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """RGB pixels (n, h, w, 3) -> (n, 3, h, w), as the networks take them."""
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


@torch.no_grad()
def measured_network(pixels: NDArray[np.uint8], *, trunk: str = "resnet50", seed: int = 1) -> SSCD:
    """A network in eval mode whose statistics are those of these pictures.

    Args:
        pixels: RGB, uint8 (n, h, w, 3); a few dozen different ones.
        trunk: a name of ``TRUNKS``.
        seed: of the random weights.
    """
    torch.manual_seed(seed)
    network = SSCD(TRUNKS[trunk], 512)
    last = {id(module.bn3) for module in network.modules() if isinstance(module, Bottleneck)}
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the last batch's statistics, which are of settled layers below
            least = 0.1 if id(module) in last else 0.5
            nn.init.uniform_(module.weight, least, 2 * least)
            nn.init.uniform_(module.bias, -0.2, 0.2)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    pictures = normalised(pixels)
    network.train()
    network(pictures)
    network.eval()
    pooled: list[torch.Tensor] = []
    hook = network.layer4.register_forward_hook(lambda module, inputs, out: pooled.append(gem(out)))
    network(pictures)
    hook.remove()
    network.fc.bias.copy_(-network.fc.weight @ pooled[0].mean(dim=0))
    return network
