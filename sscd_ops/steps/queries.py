"""A batch's own descriptors, as match and resolve use them; and the candidate files of match."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sscd_ops.catalog import batches, shards
from sscd_ops.core.descriptor_file import read_descriptors
from sscd_ops.errors import BatchNotRunnable
from sscd_ops.model import Fault, Matches, Segment, SourceShard, StoredFile
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.parts import Parts, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Queries:
    """Every descriptor of a batch, in manifest order.

    ``ids``: uint8 (n, 32). ``descriptors``: float16 (n, d). ``faults``: sha256 -> (code, message).
    ``digest`` names the list: it changes when source shards are appended.
    """

    ids: NDArray[np.uint8]
    descriptors: NDArray[np.float16]
    faults: dict[bytes, tuple[Fault, str]]
    digest: str


def load_queries(parts: Parts, work: Work, registered: Sequence[SourceShard]) -> Queries:
    """Read the descriptor files of a batch.

    Raises:
        BatchNotRunnable: one is missing: embed first.
    """
    dimensions = int(work.attempt.fingerprint_detail["dimensions"])
    ids = [np.empty((0, 32), np.uint8)]
    descriptors = [np.empty((0, dimensions), np.float16)]
    faults: dict[bytes, tuple[Fault, str]] = {}
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
    return Queries(np.concatenate(ids), np.concatenate(descriptors), faults, names.hexdigest())


def open_backend(parts: Parts, work: Work) -> SearchBackend:
    """The backend frozen with the batch."""
    return parts.backend(
        work.attempt.search,
        work.attempt.fingerprint,
        int(work.attempt.fingerprint_detail["dimensions"]),
        work.attempt.threshold,
    )


def search_segment(
    parts: Parts, work: Work, backend: SearchBackend, queries: Queries, segment: Segment
) -> StoredFile:
    """Compare the queries with a segment's kept rows, write what was found and register it."""
    opened = parts.segments.open(segment)
    if segment.mask is None:
        raise BatchNotRunnable(f"segment {segment.segment_id} is in no generation")
    kept = parts.segments.read_mask(segment.mask, segment.rows)
    lacking = [role for role in backend.roles() if role not in opened.codes]
    if lacking:
        log.info(
            "segment %d has no %s: made anew at each search; `sscd-ops index rebuild --dataset %s`"
            " stores them",
            segment.segment_id,
            ", ".join(lacking),
            work.batch.dataset,
        )
    found = backend.search(
        queries.descriptors,
        opened.descriptors,
        opened.codes,
        kept,
        work.floor,
        work.options.duplicates.keep_matches,
    )
    file = parts.store.put(
        f"{work.folder}/matches",
        ".parquet",
        lambda stream: write_matches(stream, found, segment.segment_id),
    )
    with parts.catalog.begin() as conn:
        batches.require_attempt(conn, work.batch.batch_id, work.attempt.attempt_id)
        shards.register_search(
            conn,
            work.attempt.attempt_id,
            segment.segment_id,
            segment.mask.sha256,
            queries.digest,
            file,
        )
    return file


def write_matches(stream: BinaryIO, found: Matches, segment_id: int) -> None:
    """Write a candidate file."""
    table = pa.table(
        {"query": found.query, "reference": found.reference, "similarity": found.similarity}
    )
    metadata = {"segment": str(segment_id)}
    pq.write_table(table.replace_schema_metadata(metadata), stream, compression="none")


def read_matches(path: Path) -> Matches:
    """Read a candidate file."""
    table = pq.read_table(path)
    return Matches(
        table.column("query").to_numpy(),
        table.column("reference").to_numpy(),
        table.column("similarity").to_numpy(),
    )
