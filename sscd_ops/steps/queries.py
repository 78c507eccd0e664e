"""A batch's own descriptors, as match and resolve use them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.descriptor_file import DescriptorFile, read_descriptors
from sscd_ops.core.perceptual import ROLE, WIDTH
from sscd_ops.errors import BatchNotRunnable
from sscd_ops.model import Fault, SourceShard
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.parts import Parts, Work


@dataclass(frozen=True)
class Queries:
    """Every descriptor of a batch, in manifest order.

    ``ids``: uint8 (n, 32). ``descriptors``: float16 (n, d). ``faults``: sha256 -> (code, message).
    ``plain``: sha256 of pictures with nothing in them to compare, which have no descriptor.
    ``digest`` names the list: it changes when source shards are appended. ``hashes``: uint8
    (n, 33), None where the batch is decided by descriptors alone.
    """

    ids: NDArray[np.uint8]
    descriptors: NDArray[np.float16]
    faults: dict[bytes, tuple[Fault, str]]
    digest: str
    hashes: NDArray[np.uint8] | None
    plain: list[bytes]

    def with_more(self, more: Queries) -> Queries:
        """These and, numbered on, some more."""
        if not len(more.ids):
            return self
        return replace(
            self,
            ids=np.concatenate([self.ids, more.ids]),
            descriptors=np.concatenate([self.descriptors, more.descriptors]),
            hashes=None
            if self.hashes is None or more.hashes is None
            else np.concatenate([self.hashes, more.hashes]),
        )


def load_queries(parts: Parts, work: Work, registered: Sequence[SourceShard]) -> Queries:
    """Read the descriptor files of a batch.

    Raises:
        BatchNotRunnable: one is missing: embed first; or one has no perceptual hashes.
    """
    dimensions = work.attempt.fingerprint.dimensions
    ids = [np.empty((0, 32), np.uint8)]
    descriptors = [np.empty((0, dimensions), np.float16)]
    hashes = [np.empty((0, WIDTH), np.uint8)]
    faults: dict[bytes, tuple[Fault, str]] = {}
    plain: list[bytes] = []
    names = hashlib.sha256()
    for shard in registered:
        if shard.descriptors is None:
            raise BatchNotRunnable(
                f"source shard {shard.uri} of batch {work.batch.batch_id} has no descriptors yet:"
                " match starts when all embed is done"
            )
        content = read_descriptors(parts.store.local(shard.descriptors))
        names.update(shard.descriptors.sha256.encode())
        ids.append(content.ids)
        descriptors.append(content.descriptors)
        faults.update(content.faults)
        plain += content.plain
        if work.perceptual:
            hashes.append(_hashes_of(content, work, shard))
    return Queries(
        np.concatenate(ids),
        np.concatenate(descriptors),
        faults,
        names.hexdigest(),
        np.concatenate(hashes) if work.perceptual else None,
        plain,
    )


def _hashes_of(content: DescriptorFile, work: Work, shard: SourceShard) -> NDArray[np.uint8]:
    if content.hashes is None:
        batch = work.batch.batch_id
        raise BatchNotRunnable(
            f"the descriptors of source shard {shard.uri} have no perceptual hashes ({ROLE}), which"
            f" batch {batch} is decided by too: another release embedded them. Give all workers one"
            f" release, sscd-ops batch abandon {batch} --why '...' and run the night again"
        )
    return content.hashes


def open_backend(parts: Parts, work: Work, name: str = "") -> SearchBackend:
    """The backend of a name; without one that which is frozen with the batch."""
    return parts.backend(
        name or work.attempt.search,
        work.attempt.fingerprint.digest,
        work.attempt.fingerprint.dimensions,
        work.attempt.threshold,
    )


def codes_of(backend: SearchBackend, queries: Queries) -> dict[str, NDArray[Any]]:
    """What a segment stores beside descriptors and ids: the backend's codes, and hashes."""
    codes = backend.codes(queries.descriptors)
    return codes if queries.hashes is None else {**codes, ROLE: queries.hashes}
