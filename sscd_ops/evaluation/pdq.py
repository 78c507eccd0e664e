"""PDQ (Meta's perceptual hash) in a model's place, to be compared with in the same run.

A hash of 256 bits becomes a vector of 256 values +-1/16, so that the cosine of two is exactly
``1 - Hamming distance / 128``, also in float16: ranking by it is ranking by distance. The
recommended match is a distance of at most 31 (facebook/ThreatExchange, pdq/README); pictures of
quality 49 or less have too little in them to be hashed and get no descriptor.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sscd_ops.errors import DataError, MissingExtra
from sscd_ops.evaluation.rooms import Rooms
from sscd_ops.evaluation.transformations import decoded
from sscd_ops.model import EmbeddedChunk, Fault, Fingerprint
from sscd_ops.options import FingerprintOptions, LimitsOptions, SourceOptions
from sscd_ops.ports import InspectImage, Progress, SearchBackend, Source

BITS = 256
DISTANCE = 31
"""Recommended greatest Hamming distance of a match."""
LEAST_QUALITY = 50
THRESHOLD = 1 - DISTANCE / (BITS / 2)
_SIDE = 512
"""Pictures are shrunk to fit it first, as ThreatExchange's Python hasher does."""


class PdqEmbedder:
    """Hashes as descriptors; one process. An ``Embedder``.

    Raises:
        MissingExtra: the package pdqhash is not installed.
    """

    dimensions = BITS

    def __init__(self) -> None:
        try:
            import pdqhash
        except ImportError as error:
            raise MissingExtra(
                "pdq needs its package, which is built with a C++ compiler: pip install pdqhash"
            ) from error
        self._compute: Any = pdqhash.compute
        digest = hashlib.sha256(b"pdq").hexdigest()
        self.fingerprint = Fingerprint("pdq", "", f"fit-{_SIDE}", "", BITS, 1, digest)

    def __enter__(self) -> PdqEmbedder:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def runtime(self) -> dict[str, str]:
        """Versions."""
        return {"device": "cpu", "machine": platform.machine(), "numpy": np.__version__}

    def embed(self, images: Iterable[bytes]) -> Iterator[EmbeddedChunk]:
        """One chunk a picture."""
        for data in images:
            row = np.zeros((1, BITS), np.float32)
            faults: dict[int, tuple[Fault, str]] = {}
            try:
                image = decoded(data)
                image.thumbnail((_SIDE, _SIDE))
                bits, quality = self._compute(np.asarray(image))
                if quality < LEAST_QUALITY:
                    faults[0] = (Fault.NO_DESCRIPTOR, f"PDQ quality {quality}: too plain")
                else:
                    row[0] = (np.asarray(bits, np.float32) * 2 - 1) / 16
            except DataError as error:
                faults[0] = (Fault.UNDECODABLE, str(error))
            yield EmbeddedChunk(row, faults)


class WithPdq:
    """The product's parts with PDQ for a model."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.progress: Progress = rooms.progress

    def source(self, options: SourceOptions, limits: LimitsOptions) -> Source:
        """The product's."""
        return self._rooms.source(options, limits)

    def inspector(self, limits: LimitsOptions) -> InspectImage:
        """The product's."""
        return self._rooms.inspector(limits)

    def fingerprint(self, options: FingerprintOptions) -> Fingerprint:
        """PDQ's."""
        return PdqEmbedder().fingerprint

    def default_threshold(self, model: str) -> float:
        """The recommended distance as a similarity."""
        return THRESHOLD

    def embedder(self, options: FingerprintOptions, limits: LimitsOptions) -> PdqEmbedder:
        """PDQ."""
        return PdqEmbedder()

    def choose_search(self, name: str, history_rows: int, threshold: float) -> str:
        """The product's."""
        return self._rooms.choose_search(name, history_rows, threshold)

    def backend(
        self, name: str, fingerprint: str, dimensions: int, threshold: float
    ) -> SearchBackend:
        """The product's."""
        return self._rooms.backend(name, fingerprint, dimensions, threshold)
