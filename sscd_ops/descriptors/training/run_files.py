"""What a run leaves in its folder: the log, the checkpoint, the finished weights."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sscd_ops.descriptors.training.options import TrainOptions
from sscd_ops.errors import ConfigError

_FREE_TO_CHANGE = frozenset({"steps", "minutes", "sizes", "changes"})
"""What a resumed run may be told anew."""
_COLUMNS = (
    "step", "progress", "seconds", "side", "learning_rate", "loss", "info_nce", "koleo",
    "positive", "nearest", "views_per_s",
)  # fmt: skip


def write_log(folder: Path, shown: dict[str, float]) -> None:
    """Append a line to ``log.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.csv"
    new = not path.exists()
    with path.open("a", newline="") as out:
        writer = csv.DictWriter(out, _COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(shown)


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers and words only; the file is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    torch.save(content, temporary)
    temporary.replace(path)


def read_checkpoint(
    path: Path, device: torch.device, options: TrainOptions, pictures: str, start: str
) -> dict[str, Any]:
    """A checkpoint of this very run.

    Args:
        path: where it is.
        device: its tensors go there.
        options: the run's; some may have changed.
        pictures: their digest.
        start: sha256 of the weights the run began with; empty: none.

    Raises:
        ConfigError: it cannot be read, or is of another run.
    """
    try:
        found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or "options" not in found:
        raise ConfigError(f"{path} is no checkpoint of sscd-ops train")
    # a field that came later had its default before
    made = dataclasses.asdict(TrainOptions()) | found["options"]
    for name, value in dataclasses.asdict(options).items():
        if name not in _FREE_TO_CHANGE and made[name] != value:
            raise ConfigError(
                f"{path} was made with {name} = {made[name]!r}, not {value!r}: give that, or"
                " another folder"
            )
    if found["pictures"] != pictures:
        raise ConfigError(f"{path} was made with other pictures")
    if found.get("start", start) != start:
        raise ConfigError(
            f"{path} began with other weights: give the same --start, or another folder"
        )
    return found


def write_weights(folder: Path, state: dict[str, Tensor], options: TrainOptions) -> Path:
    """Write a state in half precision, as the product loads it: ``model.safetensors``."""
    from safetensors.torch import save

    path = folder / "model.safetensors"
    halves = {
        name: value.detach().cpu().half().contiguous()
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }
    temporary = path.with_name(f".{path.name}")
    # one key: the format writes several in any order, and the file's sha256 is in fingerprints
    said = {"trunk": options.trunk, "dimensions": options.dimensions}
    temporary.write_bytes(save(halves, {"sscd_ops": json.dumps(said)}))
    temporary.replace(path)
    return path
