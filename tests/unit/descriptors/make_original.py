"""Make the files below ``original/`` with the original code, which is not part of this repository.

Run, in an environment with torch, torchvision and fvcore (not ours):
``python -m tests.unit.descriptors.make_original SSCD_CHECKOUT CLASSY_VISION_CHECKOUT``.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import torch

from tests.unit.descriptors.seeded import SIZES, fill, pictures, write_shapes

HERE = Path(__file__).parent / "original"
BACKBONES = {
    "resnet50.classy": ("CV_RESNET50", 512),
    "resnet50.torchvision": ("TV_RESNET50", 512),
    "resnext101.classy": ("CV_RESNEXT101", 1024),
}


def main(sscd: Path, classy: Path) -> None:
    sys.path.insert(0, str(classy))
    # the package itself imports the training's augmentations and what they need: pass it by
    for name, folder in (("sscd", sscd / "sscd"), ("sscd.models", sscd / "sscd" / "models")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    from sscd.models.model import Model

    torch.set_num_threads(1)
    descriptors = {}
    for name, (backbone, dimensions) in BACKBONES.items():
        model = Model(backbone, dimensions, 3.0)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        state = {key: torch.from_numpy(fill(key, shape)) for key, shape in shapes.items()}
        model.load_state_dict(state)
        model.eval()
        write_shapes(HERE / f"{name}.txt", shapes)
        for size in SIZES:
            with torch.no_grad():
                answer = model(torch.from_numpy(pictures(size)))
            descriptors[f"{name} {size[2]}x{size[3]}"] = answer.numpy()
    np.savez(HERE / "descriptors.npz", **descriptors)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
