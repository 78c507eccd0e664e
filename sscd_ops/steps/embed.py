"""embed: descriptors of a group's new images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sscd_ops.catalog import attempts, shards
from sscd_ops.core.descriptor_file import DescriptorFile, fixed_bytes, write_descriptors
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.perceptual import ROLE, WIDTH
from sscd_ops.errors import (
    PUT_BACK,
    FileMismatch,
    FingerprintMismatch,
    InvariantError,
    SourceChanged,
)
from sscd_ops.model import Fault, MemberRef, SourceShard, StoredFile
from sscd_ops.options import Preprocessing
from sscd_ops.ports import Embedder
from sscd_ops.steps import survey
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import (
    Parts,
    Stopwatch,
    Work,
    groups_asked,
    load_work,
    with_abandon,
)
from sscd_ops.steps.reports import StepReport

log = logging.getLogger(__name__)

_COLUMNS = ["position", "image_sha256", "image_member", "image_offset", "image_bytes"]


@with_abandon
def run(parts: Parts, batch_id: int, group: int | Sequence[int]) -> StepReport:
    """Write the descriptors of the work list of a group, or of several.

    A descriptor file that was lost or damaged since is written anew. Each is registered as soon as
    it is written: who is killed loses the work on one source shard.

    Raises:
        BatchNotRunnable: the batch was not surveyed yet.
        SourceChanged: an image's bytes are no longer those of the manifest.
        FingerprintMismatch: the model found now is not the one frozen with the batch.
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, work.attempt.attempt_id)
    asked = groups_asked(group)
    asked_for = [s for s in registered if s.group in asked]
    if not work.batch.state.is_decided:
        asked_for = [_without_lost(parts, work, shard) for shard in asked_for]
    todo = [shard for shard in asked_for if shard.descriptors is None]
    if work.batch.state.is_decided or not todo:
        return StepReport("embed", batch_id, {}, watch.seconds, answered=True)
    lists = survey.work_lists(parts, work, todo)
    total = {"shards": len(todo), "images": 0, "embedded": 0, "quarantined": 0, "plain": 0}
    parts.progress.start(f"embed {work.batch.dataset}", sum(map(len, lists.values())))
    embedder: Embedder | None = None
    with ExitStack() as opened:
        opened.callback(parts.progress.done)
        for shard in todo:
            wanted = _wanted(parts, work, shard, lists[shard.shard_id])
            if len(wanted) and embedder is None:
                embedder = opened.enter_context(open_embedder(parts, work))
            content = _embed(parts, work, shard, wanted, embedder)
            _register(parts, work, shard, content, embedder)
            total["images"] += len(wanted)
            total["embedded"] += len(content.ids)
            total["quarantined"] += len(content.faults)
            total["plain"] += len(content.plain)
    return StepReport("embed", batch_id, total, watch.seconds)


def _without_lost(parts: Parts, work: Work, shard: SourceShard) -> SourceShard:
    """The shard without its descriptor file where that is lost or damaged: it is written anew."""
    if shard.descriptors is None:
        return shard
    try:
        parts.store.local(shard.descriptors)
    except FileMismatch as damage:
        log.warning("embedding again uri=%s damage=%s", shard.uri, damage)
        with parts.catalog.begin() as conn:
            attempts.require_attempt(conn, work.batch.batch_id, work.attempt.attempt_id)
            shards.forget_file(conn, shard.shard_id, "descriptors", shard.descriptors)
        return replace(shard, descriptors=None)
    return shard


def open_embedder(parts: Parts, work: Work, *, perceptual: bool | None = None) -> Embedder:
    """The model that a batch was planned with; it makes hashes where those decide, or as told.

    Raises:
        FingerprintMismatch: the model found now is not the one frozen with the batch.
    """
    options, own = work.options.fingerprint, work.attempt.fingerprint
    # planned by an earlier release the batch may leave it to the default, which was another then
    preset = options.preprocessing or cast("Preprocessing", own.preprocessing)
    embedder = parts.embedder(
        replace(options, preprocessing=preset),
        perceptual=work.perceptual if perceptual is None else perceptual,
        limits=work.options.limits,
    )
    if embedder.fingerprint.digest != own.digest:
        raise FingerprintMismatch(
            f"batch {work.batch.batch_id} was planned with {own} but this worker has"
            f" {embedder.fingerprint}: give it the same weights and release"
        )
    return embedder


def _wanted(parts: Parts, work: Work, shard: SourceShard, positions: NDArray[np.int32]) -> pa.Table:
    """The rows of a shard's manifest that its work list names, in manifest order."""
    table = read_manifest(manifest_of(parts, work, shard), columns=_COLUMNS)
    return table.filter(pc.is_in(table.column("position"), pa.array(positions)))


def _embed(
    parts: Parts,
    work: Work,
    shard: SourceShard,
    wanted: pa.Table,
    embedder: Embedder | None,
) -> DescriptorFile:
    dimensions = work.attempt.fingerprint.dimensions
    digests = fixed_bytes(wanted.column("image_sha256"), 32)
    out = np.zeros((len(digests), dimensions), np.float16)
    hashes = np.zeros((len(digests), WIDTH), np.uint8) if work.perceptual else None
    failed: dict[int, tuple[Fault, str]] = {}
    plain: list[int] = []
    done = 0
    if embedder is not None and len(digests):
        for chunk in embedder.embed(_images(parts, work, shard, wanted, digests)):
            n = len(chunk.descriptors)
            out[done : done + n] = chunk.descriptors.astype(np.float16)
            if hashes is not None:
                if chunk.hashes is None:
                    raise InvariantError("the embedder made no perceptual hashes")
                hashes[done : done + n] = chunk.hashes
            failed.update({done + row: fault for row, fault in chunk.faults.items()})
            plain += [done + row for row in sorted(chunk.plain)]
            done += n
            parts.progress.advance(n)
    if done != len(digests):
        raise InvariantError(f"the embedder answered {done} of {len(digests)} images")
    good = np.ones(len(digests), bool)
    good[[*failed, *plain]] = False
    return DescriptorFile(
        digests[good],
        out[good],
        {digests[row].tobytes(): fault for row, fault in sorted(failed.items())},
        {} if hashes is None else {ROLE: hashes[good]},
        [digests[row].tobytes() for row in plain],
    )


def _images(
    parts: Parts, work: Work, shard: SourceShard, wanted: pa.Table, digests: NDArray[np.uint8]
) -> Iterator[bytes]:
    options = work.options
    source = parts.source(options.source(shard.source), options.limits)
    names = wanted.column("image_member").to_pylist()
    offsets = wanted.column("image_offset").to_pylist()
    sizes = wanted.column("image_bytes").to_pylist()
    members = [
        MemberRef(name, offset, size, digest.tobytes())
        for name, offset, size, digest in zip(names, offsets, sizes, digests, strict=True)
    ]
    for member, data in zip(members, source.fetch(shard.found, members), strict=True):
        if hashlib.sha256(data).digest() != member.sha256:
            raise SourceChanged(
                f"{shard.uri}: member {member.name!r} is no longer what ingest read: {PUT_BACK}"
            )
        yield data


def embed_again(parts: Parts, work: Work, shard: SourceShard) -> StoredFile:
    """Write the descriptor file of a source shard anew, under no row's name yet.

    Of a decided batch: its descriptors are those that decided on equal hardware alone, which the
    caller compares.

    Raises:
        SourceChanged: its pictures are not what they were.
    """
    lists = survey.work_lists(parts, work, [shard])
    wanted = _wanted(parts, work, shard, lists[shard.shard_id])
    there = wanted.filter(wanted.column("image_member").is_valid())
    with ExitStack() as opened:
        embedder = opened.enter_context(open_embedder(parts, work)) if len(there) else None
        content = _embed(parts, work, shard, there, embedder)
        if len(there) < len(wanted):
            content = _with_blanks(content, fixed_bytes(wanted.column("image_sha256"), 32))
        return _put(parts, work, content, embedder)


def _with_blanks(content: DescriptorFile, digests: NDArray[np.uint8]) -> DescriptorFile:
    """With rows of zeros for images that are not to be looked at any more, as were forgotten.

    Args:
        content: what is known of the others.
        digests: uint8 (n, 32), all of them in manifest order.
    """
    bare = {*content.faults, *content.plain}
    ids = digests[[digest.tobytes() not in bare for digest in digests]]
    row_of = {digest.tobytes(): row for row, digest in enumerate(content.ids)}
    rows = np.array([row_of.get(digest.tobytes(), -1) for digest in ids], np.int64)

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        answer = np.zeros((len(ids), *values.shape[1:]), values.dtype)
        answer[rows >= 0] = values[rows[rows >= 0]]
        return answer

    hashes = {role: spread(values) for role, values in content.hashes.items()}
    return replace(content, ids=ids, descriptors=spread(content.descriptors), hashes=hashes)


def _put(
    parts: Parts, work: Work, content: DescriptorFile, embedder: Embedder | None
) -> StoredFile:
    runtime = embedder.runtime() if embedder is not None else {}
    return parts.store.put(
        f"{work.folder}/descriptors",
        ".parquet",
        lambda stream: write_descriptors(
            stream, content, fingerprint=work.attempt.fingerprint.digest, runtime=runtime
        ),
    )


def _register(
    parts: Parts,
    work: Work,
    shard: SourceShard,
    content: DescriptorFile,
    embedder: Embedder | None,
) -> None:
    file = _put(parts, work, content, embedder)
    counts = {
        "embedded": len(content.ids),
        "undecodable": len(content.faults),
        "plain": len(content.plain),
    }
    with parts.catalog.begin() as conn:
        attempts.register_file(conn, work.batch, shard.shard_id, "descriptors", file, counts)
