"""What evaluation asks of the rooms beside it; ``wiring.Wiring`` has it all."""

from __future__ import annotations

from typing import Protocol

from sscd_ops.model import Fingerprint
from sscd_ops.options import USUAL_LIMITS, FingerprintOptions, LimitsOptions, Model, SourceOptions
from sscd_ops.ports import Embedder, HashSearch, InspectImage, Progress, SearchBackend, Source


class Rooms(Protocol):
    """Real parts behind the ports: the same sources, models and search the nights use."""

    progress: Progress

    def source(self, options: SourceOptions, limits: LimitsOptions) -> Source:
        """A source's reader."""

    def inspector(self, limits: LimitsOptions) -> InspectImage:
        """Looks at a picture's header, and at its pixels where asked."""

    def fingerprint(self, options: FingerprintOptions) -> Fingerprint:
        """The fingerprint of a configured model."""

    def model(self, name: str = "") -> Model:
        """A model by its name; empty: the product's default."""

    def embedder(
        self,
        options: FingerprintOptions,
        *,
        perceptual: bool = False,
        limits: LimitsOptions = USUAL_LIMITS,
    ) -> Embedder:
        """The model with its decoder processes, which may make perceptual hashes too."""

    def hash_search(self) -> HashSearch:
        """The search for perceptual hashes."""

    def choose_search(self, name: str, rows: int, threshold: float) -> str:
        """What ``auto`` means for so many rows to be searched."""

    def backend(
        self, name: str, fingerprint: str, dimensions: int, threshold: float
    ) -> SearchBackend:
        """A search backend by its resolved name."""
