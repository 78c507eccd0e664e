"""Weights by rule: a network of 25 or 44 million parameters, rebuilt from the names alone.

Each tensor is filled from a numpy Philox stream of its own, keyed by the sha256 of its name, so
that a list of names and shapes stands for a weights file. Only uniform draws are used: they are the
bits of the stream times a power of two, the same in every numpy.
"""

from __future__ import annotations

import hashlib
from math import prod, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Shapes = dict[str, tuple[int, ...]]

SIZES = ((2, 3, 64, 64), (1, 3, 97, 160))
"""Inputs the committed descriptors belong to: (n, channels, height, width)."""


def read_shapes(path: Path) -> Shapes:
    """Lines of ``name height,width,...`` as name -> shape; a scalar has no second word."""
    shapes: Shapes = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, sides = line.partition(" ")
        shapes[name] = tuple(int(side) for side in sides.split(",")) if sides else ()
    return shapes


def write_shapes(path: Path, shapes: Shapes) -> None:
    """What ``read_shapes`` reads."""
    lines = [f"{name} {','.join(map(str, shape))}".rstrip() for name, shape in shapes.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def fill(name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | NDArray[np.int64]:
    """The tensor of a name.

    Convolutions are He-initialised by fan-in, so that activations neither vanish nor grow over 33
    blocks; batch-norm statistics and factors are what a trained network could have. int64 where
    there is no dimension: a batch counter.
    """
    if not shape:
        return np.asarray(1, np.int64)
    least, most = _range(name, shape)
    return least + (most - least) * _uniform(name, shape)


def pictures(size: tuple[int, ...]) -> NDArray[np.float32]:
    """An input of this size, about as spread as normalised pixels."""
    return 4 * _uniform(f"pictures {size}", size) - 2


def _range(name: str, shape: tuple[int, ...]) -> tuple[np.float32, np.float32]:
    fan_in = prod(shape[1:])
    if len(shape) == 4:
        bounds = (-sqrt(6 / fan_in), sqrt(6 / fan_in))
    elif len(shape) == 2:
        bounds = (-sqrt(3 / fan_in), sqrt(3 / fan_in))
    elif name.endswith("running_var"):
        bounds = (0.5, 1.5)
    elif name.endswith("weight"):
        bounds = (0.3, 0.8)
    else:  # biases and means
        bounds = (-0.2, 0.2)
    return np.float32(bounds[0]), np.float32(bounds[1])


def _uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(shape, np.float32)
