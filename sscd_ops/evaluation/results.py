"""What is measured with one model, as reports show it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sscd_ops.evaluation.lookalikes import HardResult
from sscd_ops.evaluation.metrics import ConfidenceInterval, Scored, Summary
from sscd_ops.evaluation.tail import FalseMatches
from sscd_ops.evaluation.transformations import Kind

BINS = np.linspace(-0.2, 1.0, 61)
"""Edges of the histograms, 0.02 apart; what lies below is counted in the first bin."""


@dataclass(frozen=True)
class Variant:
    """One way of scoring: with or without whitening and score normalisation."""

    name: str
    summary: Summary


@dataclass(frozen=True)
class KindResult:
    """One transformation in one severity.

    Attributes:
        kind: which; unseen: `sscd-ops train` never shows it.
        queries: copies of references.
        recall: share with a similarity at or above the model's threshold, with its 95% interval.
        at_precision: precision (``0.99``) -> share at or above the score where all predictions
            together reach it; None where they never do.
        median: similarity of a copy and its original.
        mean_ap: Copydays' mean average precision of these queries (trapezoid rule), else None.
    """

    kind: Kind
    unseen: bool
    queries: int
    recall: float
    interval: ConfidenceInterval
    at_precision: dict[str, float | None]
    median: float
    mean_ap: float | None


@dataclass(frozen=True)
class AtThreshold:
    """What the model's threshold gives: all predictions at or above it are called copies."""

    threshold: float
    recall: float
    recall_interval: ConfidenceInterval | None
    precision: float | None
    false_matches: int
    queries: int


@dataclass(frozen=True)
class Histogram:
    """Similarities of true pairs, and each query's most similar wrong reference, by bin."""

    edges: list[float]
    copies: list[int]
    strangers: list[int]


@dataclass(frozen=True)
class Shown:
    """A pair for a person to look at: rows of the task's queries and references."""

    query: int
    reference: int
    similarity: float
    said: str


@dataclass
class ModelResult:
    """Everything measured with one model."""

    model: str
    fingerprint: str
    runtime: dict[str, str]
    embedded: int
    images_per_second: float
    left_out: dict[str, int]
    variants: list[Variant]
    at_threshold: AtThreshold
    kinds: list[KindResult]
    histogram: Histogram
    false_matches: list[FalseMatches]
    hard: list[HardResult]
    overall_trapezoid_ap: float | None = None
    notes: list[str] = field(default_factory=list)
    missed: list[Shown] = field(default_factory=list)
    look_alike: list[Shown] = field(default_factory=list)
    plain: Scored | None = field(default=None, repr=False)
    """The predictions, for a cascade with another model; not part of the report."""
