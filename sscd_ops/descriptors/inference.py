"""A network made ready to describe: batch norms folded into convolutions, arithmetic chosen.

Measured choices (docs/descriptors.md, "Ways to run a network"; ``benchmarks/precision.py``): folded
channels_last is the fastest way on CPU that needs nothing besides torch and agrees with the plain
network to rounding. ``torch.compile`` came 15% further in a trial, for a C++ compiler on every
worker and half a minute in every process, so it is not taken.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from sscd_ops.options import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Normalised(nn.Module):
    """Levels 0 to 255, (n, 3, h, w) -> float32 with ImageNet's mean and deviation taken out."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """The arithmetic of torchvision's ``ToTensor`` and ``Normalize``."""
        normal: Tensor = (pictures.float() / 255.0 - self.mean) / self.std
        return normal


def folded(network: nn.Module) -> nn.Module:
    """A copy, in eval mode, whose batch norms are part of the convolutions before them.

    In eval mode a batch norm is a factor and a shift for each channel, so weights and bias of the
    convolution take them up: one pass over each map less, equal numbers up to rounding.

    Pairs are found by name (``convN`` and ``bnN`` of one module) and in a ``Sequential`` by place,
    which is how every trunk here is written; a batch norm elsewhere stays as it is.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        children = dict(module.named_children())
        names = list(children)
        for at, name in enumerate(names):
            partner = name.replace("conv", "bn", 1) if name.startswith("conv") else ""
            if isinstance(module, nn.Sequential):
                partner = names[at + 1] if at + 1 < len(names) else ""
            convolution, norm = children[name], children.get(partner)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, partner, nn.Identity())
    return network


class Cast(nn.Module):
    """Maps in another precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers, rounded to what the precision holds."""
        return x.to(self._dtype)


def prepared(network: nn.Module, precision: Precision) -> nn.Module:
    """The network as it runs: folded, channels_last, convolutions in a precision.

    It takes float32 pictures. Pooling, projection and norm stay in float32: they cost nothing
    beside the trunk, and third powers (GeM) in 8 bits of mantissa would cost more than the whole
    trunk does. In bfloat16 the first convolution stays too: pixels have 8 bits themselves, and
    rounding them to bfloat16 once they are normalised costs a network that folds 4x4 of them at
    once nearly all that bfloat16 loses (``sscd_small``: a least cosine of .9979 with, .9998
    without), and a ResNet-50 a sixth of it.

    Args:
        network: with float32 weights; its first convolution is ``conv1``.
        precision: of the convolutions' weights and maps.
    """
    network = folded(network)
    dtype = DTYPES[precision]
    stem = torch.float32 if precision == "bfloat16" else dtype
    first = network.get_submodule("conv1")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(stem if module is first else dtype)
    network.conv1 = nn.Sequential(Cast(stem), first, Cast(dtype))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
