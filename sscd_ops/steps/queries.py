"""A batch's own descriptors, as match and resolve use them; and the candidate files of match."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sscd_ops.catalog import batches, shards
from sscd_ops.core.descriptor_file import DescriptorFile, read_descriptors
from sscd_ops.core.perceptual import ROLE, WIDTH
from sscd_ops.errors import BatchNotRunnable, FileMismatch
from sscd_ops.model import Fault, Matches, Segment, SourceShard, StoredFile
from sscd_ops.ports import SearchBackend
from sscd_ops.steps.parts import Parts, Work

log = logging.getLogger(__name__)


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


def load_queries(parts: Parts, work: Work, registered: Sequence[SourceShard]) -> Queries:
    """Read the descriptor files of a batch.

    Raises:
        BatchNotRunnable: one is missing: embed first; or one has no perceptual hashes.
    """
    dimensions = int(work.attempt.fingerprint_detail["dimensions"])
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
        work.attempt.fingerprint,
        int(work.attempt.fingerprint_detail["dimensions"]),
        work.attempt.threshold,
    )


def codes_of(backend: SearchBackend, queries: Queries) -> dict[str, NDArray[Any]]:
    """What a segment stores beside descriptors and ids: the backend's codes, and hashes."""
    codes = backend.codes(queries.descriptors)
    return codes if queries.hashes is None else {**codes, ROLE: queries.hashes}


def search_segment(
    parts: Parts, work: Work, backend: SearchBackend, queries: Queries, segment: Segment
) -> StoredFile:
    """Compare the queries with a segment's kept rows, write what was found and register it."""
    hash_roles = () if queries.hashes is None else (ROLE,)
    opened = parts.segments.open(segment, [*backend.roles(), *hash_roles])
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
    hashed: Matches | None = None
    if queries.hashes is not None:
        if ROLE in opened.codes:
            hashed = parts.hash_search().search(
                queries.hashes,
                opened.codes[ROLE],
                kept,
                work.hash_floor,
                work.options.duplicates.keep_matches,
            )
        else:
            log.info(
                "segment %d was decided without perceptual hashes (%s): its %d kept images are"
                " compared by descriptor alone",
                segment.segment_id,
                ROLE,
                int(kept.sum()),
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
        lambda stream: write_matches(stream, found, segment.segment_id, hashed),
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


def sound_searches(parts: Parts, work: Work, queries: Queries) -> dict[tuple[int, str], StoredFile]:
    """(segment, mask sha256) -> candidate file; lost and damaged ones are forgotten."""
    with parts.catalog.begin() as conn:
        done = shards.searched(conn, work.attempt.attempt_id, queries.digest)
    sound = {}
    for what, file in done.items():
        try:
            parts.store.local(file)
        except FileMismatch as damage:
            log.warning("searching again segment=%d damage=%s", what[0], damage)
            with parts.catalog.begin() as conn:
                shards.forget_search(conn, work.attempt.attempt_id, file)
        else:
            sound[what] = file
    return sound


def write_matches(
    stream: BinaryIO, found: Matches, segment_id: int, hashed: Matches | None = None
) -> None:
    """Write a candidate file: matches by descriptor, then those by hash."""
    hashed = hashed or no_matches()
    table = pa.table(
        {
            "query": np.concatenate([found.query, hashed.query]),
            "reference": np.concatenate([found.reference, hashed.reference]),
            "similarity": np.concatenate([found.similarity, hashed.similarity]),
            "by_hash": np.arange(len(found.query) + len(hashed.query)) >= len(found.query),
        }
    )
    metadata = {"segment": str(segment_id)}
    pq.write_table(table.replace_schema_metadata(metadata), stream, compression="none")


def read_matches(path: Path) -> tuple[Matches, Matches]:
    """Read a candidate file: matches by descriptor, and those by hash.

    Raises:
        BatchNotRunnable: a release that knew no hashes wrote it, so that it may lack matches.
    """
    table = pq.read_table(path)
    if "by_hash" not in table.column_names:
        raise BatchNotRunnable(
            f"{path.name}: another release searched for this batch, without perceptual hashes. Give"
            " all workers one release, abandon the batch (sscd-ops batch abandon) and run the night"
            " again"
        )
    columns = [table.column(name).to_numpy() for name in ("query", "reference", "similarity")]
    by_hash = table.column("by_hash").to_numpy()
    return (
        Matches(*(values[~by_hash] for values in columns)),
        Matches(*(values[by_hash] for values in columns)),
    )


def no_matches() -> Matches:
    """Not one."""
    return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
