"""What a training run is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sscd_ops.errors import ConfigError

Trunk = Literal["small", "resnet18", "resnet50"]
Optimizer = Literal["adamw", "lars"]
Precision = Literal["auto", "float32", "bfloat16"]
Edits = Literal["wide", "paper"]


@dataclass(frozen=True)
class TrainOptions:
    """One run. The defaults are those of ``sscd_small``'s first stage, which the clock ended.

    ``batch``: pictures a step over all processes, each seen ``views`` times. ``minutes``: when set,
    the schedule follows the time spent instead of the steps, and ends when either is used up; such
    a run is not repeatable. ``sizes``: pixels a side, one after another; ``changes``: shares
    of the schedule at which the next begins. ``mild``: share of pictures whose first view is hardly
    edited, as the original of a copy is. ``edits``: how often the other views are edited, and how
    far (``augment.STRENGTHS``). ``mixup``: share of views that are mixed with another.
    ``hard_negatives``: share of a batch that is chosen for looking, to the network as it is, like
    another picture of the batch.
    """

    trunk: Trunk = "small"
    dimensions: int = 256
    steps: int = 12_000
    minutes: float = 0.0
    warmup: float = 0.03
    batch: int = 128
    views: int = 2
    sizes: tuple[int, ...] = (64, 96, 128)
    changes: tuple[float, ...] = (0.4, 0.8)
    temperature: float = 0.05
    koleo: float = 5.0
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998
    mixup: float = 0.05
    mild: float = 0.7
    edits: Edits = "wide"
    hard_negatives: float = 0.0
    precision: Precision = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("dimensions", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")
        if self.views < 2:
            raise ConfigError("views must be at least 2: a picture needs a positive")
        if not self.sizes or min(self.sizes) < 32:
            raise ConfigError("sizes must be at least 32 px each, and one at least")
        if len(self.changes) != len(self.sizes) - 1 or list(self.changes) != sorted(self.changes):
            raise ConfigError("changes must be one share less than sizes, in order")
        for name in ("warmup", "ema", "mixup", "mild", "hard_negatives"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1")
        if self.temperature <= 0 or self.learning_rate <= 0:
            raise ConfigError("temperature and learning_rate must be above 0")

    def side(self, progress: float) -> int:
        """Pixels a side at a share of the schedule."""
        return self.sizes[sum(progress >= change for change in self.changes)]


RECIPES = {
    "small": TrainOptions(),
    # Pizzi et al., CVPR 2022, sections 3.5 and 4.1, for a training set of a million pictures
    "sscd": TrainOptions(
        trunk="resnet50",
        dimensions=512,
        steps=24_400,
        warmup=0.05,
        batch=4096,
        sizes=(224,),
        changes=(),
        koleo=30.0,
        optimizer="lars",
        learning_rate=4.8,
        weight_decay=1e-6,
        clip=0.0,
        ema=0.0,
        mild=0.0,
        edits="paper",
    ),
}
