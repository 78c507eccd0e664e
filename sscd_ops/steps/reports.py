"""What a step says that it did: small enough for XCom, and as one line for the end of a log."""

from __future__ import annotations

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
        named = {"batch": self.batch_id, **self._line()}
        said = " ".join(f"{name}={figure}" for name, figure in named.items())
        return f"{self.step} {said}{self._remark()}"

    def _figures(self) -> dict[str, Any]:
        """What the summary says beside step and batch, in this order."""
        raise NotImplementedError

    def _line(self) -> dict[str, Any]:
        """What the line says after step and batch, in this order."""
        raise NotImplementedError

    def _remark(self) -> str:
        """What the line ends with."""
        return ""


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

    def _line(self) -> dict[str, Any]:
        return {**self.counts, "seconds": f"{self.seconds:.2f}"}

    def _remark(self) -> str:
        return " (answered from the catalog)" if self.answered else ""
