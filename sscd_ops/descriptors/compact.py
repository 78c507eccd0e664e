"""Networks small enough for CPUs: residual blocks of two 3x3 convolutions, GeM, a projection, L2.

``resnet18`` is the ResNet of He et al. (CVPR 2016, table 1) with the head of SSCD. ``small`` has a
stem that folds 4x4 pixels into channels at once, as ConvNeXt's does (Liu et al., CVPR 2022,
section 2.3), and narrow stages: 1.6 million parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_GEM_POWER = 3.0
_GEM_LEAST = 1e-6


@dataclass(frozen=True)
class Shape:
    """Channels and blocks of each stage; ``patch``: side of what the stem folds, 0 for 7x7."""

    channels: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    patch: int = 0


SHAPES = {
    "resnet18": Shape((64, 128, 256, 512), (2, 2, 2, 2)),
    "small": Shape((32, 64, 128, 256), (1, 1, 2, 1), patch=4),
}


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to the shape of its output; None where it has it already."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """3x3 (strided), 3x3, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Tensor (n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        around = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + around)


class Compact(nn.Module):
    """Pictures -> L2-normalised descriptors.

    Args:
        shape: channels, blocks and stem.
        dimensions: of the descriptor.
    """

    def __init__(self, shape: Shape, dimensions: int) -> None:
        super().__init__()
        width = shape.channels[0]
        self._pools = shape.patch == 0
        if shape.patch:
            self.conv1 = nn.Conv2d(3, width, shape.patch, shape.patch, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages = []
        for number, (outputs, blocks) in enumerate(zip(shape.channels, shape.blocks, strict=True)):
            first = Block(width, outputs, 1 if number == 0 else 2)
            rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(first, *rest))
            width = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(width, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (n, 3, h, w) -> descriptors, float32 (n, dimensions)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        if self._pools:
            x = functional.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        # third powers and norms need more than bfloat16's eight bits
        with torch.autocast(x.device.type, enabled=False):
            return functional.normalize(self.fc(gem(x.float())))


def gem(x: Tensor) -> Tensor:
    """Generalised mean over all positions, power 3: (n, c, h, w) -> (n, c)."""
    return x.clamp(min=_GEM_LEAST).pow(_GEM_POWER).mean(dim=(2, 3)).pow(1.0 / _GEM_POWER)
