"""A batch's own descriptors, as match and resolve use them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sscd_ops.core.descriptor_file import DescriptorFile, Queries, join_files, read_descriptors
from sscd_ops.core.measures import HASHES
from sscd_ops.errors import BatchNotRunnable
from sscd_ops.model import SourceShard
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.parts import Parts, Work


def load_queries(parts: Parts, work: Work, registered: Sequence[SourceShard]) -> Queries:
    """Read the descriptor files of a batch.

    Raises:
        BatchNotRunnable: one is missing: embed first; or one lacks the hashes of a measure.
    """
    files: list[DescriptorFile] = []
    names, batch = hashlib.sha256(), work.batch.batch_id
    hashed = [measure.role for measure in work.measures if measure.by_hash]
    for shard in registered:
        if shard.descriptors is None:
            raise BatchNotRunnable(
                f"source shard {shard.uri} of batch {batch} has no descriptors yet:"
                " match starts when all embed is done"
            )
        content = read_descriptors(parts.store.local(shard.descriptors))
        names.update(shard.descriptors.sha256.encode())
        for role in hashed:
            if role not in content.hashes:
                raise BatchNotRunnable(
                    f"the descriptors of source shard {shard.uri} have no perceptual hashes"
                    f" ({role}), which batch {batch} is decided by too: another release embedded"
                    f" them. Give all workers one release, sscd-ops batch abandon {batch}"
                    " --why '...' and run the night again"
                )
        files.append(content)
    return join_files(files, work.measures, work.attempt.fingerprint.dimensions, names.hexdigest())


@dataclass(frozen=True)
class Backends:
    """What a batch is searched with: in history, and in the batch itself."""

    history: SearchBackend
    own: SearchBackend


def open_backends(parts: Parts, work: Work) -> Backends:
    """The backends of a batch, as survey froze them.

    The night itself has one by its own size: history's would be ``sketch``, which may miss a copy,
    for a small night beside a large history.
    """
    history, within = open_backend(parts, work), work.survey.search_within
    if within == work.survey.search:
        return Backends(history, history)
    return Backends(history, open_backend(parts, work, within))


def open_backend(parts: Parts, work: Work, name: str = "") -> SearchBackend:
    """The backend of a name; without one that which is frozen with the batch, for history."""
    return parts.backend(
        name or work.survey.search,
        work.attempt.fingerprint.digest,
        work.attempt.fingerprint.dimensions,
        work.attempt.threshold,
    )


def codes_of(backend: SearchBackend, queries: Queries) -> dict[str, NDArray[Any]]:
    """What a segment stores beside descriptors and ids: the backend's codes, and hashes."""
    hashes = {role: rows for role, rows in queries.rows.items() if role in HASHES}
    return {**backend.codes(queries.descriptors), **hashes}
