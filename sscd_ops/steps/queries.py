"""A batch's own descriptors, as match and resolve use them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog import shards
from sscd_ops.catalog.shards import ShardCounts
from sscd_ops.core.descriptor_file import DescriptorReader, Listed, Queries
from sscd_ops.core.measures import HASHES
from sscd_ops.core.segment_file import coded
from sscd_ops.core.stored_rows import StoredRows
from sscd_ops.errors import BatchNotRunnable, FileMismatch
from sscd_ops.model import SourceShard
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.parts import Parts, Work

_OPEN = 2
"""Descriptor files that are open at a time: blocks of rows run from one into the next."""


def load_queries(parts: Parts, work: Work, registered: Sequence[SourceShard]) -> Queries:
    """A batch's descriptor files as one; of their rows only what is asked for is read.

    A file is compared with its sha256 when it is opened.

    Raises:
        BatchNotRunnable: one is missing: embed first. Where it is read: it lacks the hashes of a
            measure.
        FileMismatch: where it is read: one is lost or damaged, or has not as many rows as the
            catalog says.
    """
    names, batch = hashlib.sha256(), work.batch.batch_id
    for shard in registered:
        if shard.descriptors is None:
            raise BatchNotRunnable(
                f"source shard {shard.uri} of batch {batch} has no descriptors yet:"
                " match starts when all embed is done"
            )
        names.update(shard.descriptors.sha256.encode())
    with parts.catalog.read() as conn:
        counted = shards.shard_counts(conn, work.attempt.attempt_id)
    files = _Files(parts, work, registered, counted)
    dimensions = work.attempt.fingerprint.dimensions
    return Queries(
        {
            measure.role: StoredRows(
                [_FileRows(files, number, measure.role) for number in range(len(registered))],
                measure.blank(0, dimensions),
            )
            for measure in work.measures
        },
        names.hexdigest(),
        files.listed,
    )


class _Files:
    """The descriptor files of a batch, opened where something of one is asked for."""

    def __init__(
        self,
        parts: Parts,
        work: Work,
        registered: Sequence[SourceShard],
        counted: Mapping[int, ShardCounts],
    ) -> None:
        self._parts = parts
        self._work = work
        self._registered = registered
        self.counts = [counted[shard.shard_id].embedded for shard in registered]
        self.open = lru_cache(maxsize=_OPEN)(self._open)

    def _open(self, number: int) -> DescriptorReader:
        shard = self._registered[number]
        if shard.descriptors is None:
            raise BatchNotRunnable(f"source shard {shard.uri} has no descriptors yet")
        reader = DescriptorReader(self._parts.store.local(shard.descriptors))
        for measure in self._work.measures:
            if measure.role not in reader.roles:
                batch = self._work.batch.batch_id
                raise BatchNotRunnable(
                    f"the descriptors of source shard {shard.uri} have no perceptual hashes"
                    f" ({measure.role}), which batch {batch} is decided by too: another release"
                    f" embedded them. Give all workers one release, sscd-ops batch abandon {batch}"
                    " --why '...' and run the night again"
                )
        if reader.count != self.counts[number]:
            raise FileMismatch(
                f"{shard.descriptors.name} has {reader.count} descriptors, the catalog says"
                f" {self.counts[number]}: the catalog was changed by hand, restore it from a backup"
            )
        return reader

    def listed(self) -> Listed:
        """What all of them say of images."""
        ids = [np.empty((0, 32), np.uint8)]
        answer = Listed(ids[0])
        for number in range(len(self._registered)):
            each = self.open(number).listed()
            ids.append(each.ids)
            answer.faults.update(each.faults)
            answer.plain.extend(each.plain)
        return Listed(np.concatenate(ids), answer.faults, answer.plain)


class _FileRows:
    """The rows of a descriptor file as a piece of ``StoredRows``."""

    def __init__(self, files: _Files, number: int, role: str) -> None:
        self._files = files
        self._number = number
        self._role = role

    def __len__(self) -> int:
        return self._files.counts[self._number]

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        return self._files.open(self._number).rows(self._role)[key]


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


def codes_of(backend: SearchBackend, queries: Queries) -> dict[str, StoredRows]:
    """What a segment stores beside descriptors and ids: the backend's codes, and hashes."""
    hashes = {role: rows for role, rows in queries.rows.items() if role in HASHES}
    return {**coded(backend, queries.descriptors), **hashes}
