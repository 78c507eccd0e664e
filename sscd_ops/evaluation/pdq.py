"""PDQ (the product's own, ``images.pdq``) in a model's place, to be compared in the same run.

A hash of 256 bits becomes a vector of 256 values +-1/16, so that the cosine of two is exactly
``1 - Hamming distance / 128``, also in float16: ranking by it is ranking by distance. The
recommended match is a distance of at most 31 (facebook/ThreatExchange, pdq/README); pictures of
quality 49 or less have too little in them to be hashed and get no descriptor.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator

import numpy as np

from sscd_ops.core.perceptual import BITS, CODE, LEAST_QUALITY, ROLE
from sscd_ops.evaluation.contenders import Contender
from sscd_ops.images.preprocess import PRESETS, prepare
from sscd_ops.model import EmbeddedChunk, Fault, Fingerprint
from sscd_ops.options import DuplicatesOptions, Model

_WHOLE = PRESETS["skew-128-v2"]
"""Any preset that decodes a picture whole: the hash does not depend on it."""


class PdqEmbedder:
    """Hashes as descriptors; one process. An ``Embedder``."""

    dimensions = BITS

    def __init__(self) -> None:
        digest = hashlib.sha256(ROLE.encode()).hexdigest()
        self.fingerprint = Fingerprint("pdq", "", "", "", BITS, 1, digest)

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
            pixels, hashed, _ = prepare(data, _WHOLE, hashed=True)  # as a decoder of a night does
            if isinstance(pixels, tuple):
                faults[0] = pixels
            elif hashed[CODE] < LEAST_QUALITY:
                said = f"PDQ quality {hashed[CODE]}, below {LEAST_QUALITY}"
                faults[0] = (Fault.NO_DESCRIPTOR, said)
            else:
                bits = np.unpackbits(np.frombuffer(hashed, np.uint8, CODE))
                row[0] = (bits.astype(np.float32) * 2 - 1) / 16
            yield EmbeddedChunk(row, faults)


_THRESHOLD = 1 - DuplicatesOptions().perceptual_distance / (BITS / 2)
"""The recommended distance as a similarity."""
PDQ = Contender("pdq", lambda _: PdqEmbedder(), Model("", "pdq", BITS, "", 1, _THRESHOLD))
