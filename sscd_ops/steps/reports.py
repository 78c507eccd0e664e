"""What a step says that it did: small enough for XCom, and as one line for the end of a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sscd_ops.options import Step


class Report:
    """What all steps' reports share; each is a frozen dataclass with figures of its own."""

    step: Step
    batch_id: int

    def summary(self) -> dict[str, Any]:
        """The report as plain values, for XCom."""
        return {"step": self.step, "batch_id": self.batch_id, **self._figures()}

    def funnel(self) -> str:
        """The report as one line, for the end of a log."""
        return f"{self.step} batch={self.batch_id} {self._line()}"

    def _figures(self) -> dict[str, Any]:
        raise NotImplementedError

    def _line(self) -> str:
        raise NotImplementedError


def in_line(figures: Mapping[str, Any]) -> str:
    """Figures as a line of a log has them."""
    return " ".join(f"{name}={figure}" for name, figure in figures.items())


@dataclass(frozen=True)
class StepReport(Report):
    """The report of a step that has counts alone."""

    step: Step
    batch_id: int
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    answered: bool = False
    """Nothing was done: the batch was already past this step."""

    def _figures(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds, 3), "answered": self.answered, **self.counts}

    def _line(self) -> str:
        said = " (answered from the catalog)" if self.answered else ""
        return f"{in_line(self.counts)} seconds={self.seconds:.2f}{said}"
