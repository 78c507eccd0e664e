"""The archive of what nights removed: written beside what is published, taken from, let go.

Each night plans its archive with its decision (``steps.publish_plan``), and publish writes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from uuid import UUID

import pyarrow as pa

from sscd_ops.catalog import archive, datasets, decisions, events
from sscd_ops.catalog.archive import ArchivedShard
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.core.shard_plan import WRITER_VERSION, maker_of, shard_name
from sscd_ops.errors import CommitConflict, FileMismatch
from sscd_ops.model import ARCHIVE, StoredFile
from sscd_ops.options import dataset_from_json
from sscd_ops.steps.parts import Parts, restore
from sscd_ops.steps.rewriting import write_places
from sscd_ops.steps.shard_files import PutFile, Write, listed_rows, put_file
from sscd_ops.steps.shard_writing import SourceShards, write_samples
from sscd_ops.steps.still_there import StillThere

_TRIES = 10


def write_archived(
    parts: Parts, shard: ArchivedShard, sources: SourceShards, put: PutFile | None = None
) -> dict[str, StoredFile]:
    """Write an archived shard: tar, parquet and stats, as those of output shards.

    Args:
        parts: the real parts.
        shard: the shard.
        sources: what was read of source shards before.
        put: writes a file; default: under its name below the root.

    Raises:
        SourceChanged: a member is gone from its source, or differs.
        FileMismatch: a manifest is lost and cannot be made anew; the month of its samples was
            detached.
    """
    with parts.catalog.begin() as conn:
        (config,) = decisions.configs_of(conn, [shard.decision_id]).values()
    placed = _samples(parts, shard)
    put = put or partial(put_file, parts, registered=partial(_registered, parts, shard))
    columns = dataset_from_json(config).meta_columns
    return write_samples(parts, shard, placed, columns, sources.of(placed), put)


def _samples(parts: Parts, shard: ArchivedShard) -> list[PlacedSample]:
    with parts.catalog.begin() as conn:
        placed = archive.samples_of(conn, shard)
    if placed is None or len(placed) != shard.samples:
        raise FileMismatch(
            f"{shard.name}: the month of its samples was detached, so that it cannot be written"
            " anew: restore it from a backup"
        )
    return placed


def _registered(parts: Parts, shard: ArchivedShard) -> dict[str, StoredFile]:
    with parts.catalog.begin() as conn:
        return dict(archive.read(conn, shard.archive_id).files)


def write_archived_again(parts: Parts, shard: ArchivedShard) -> None:
    """Write the files of an archived shard anew, with the bytes they had when registered.

    Raises:
        SourceChanged: its tar is damaged, and a member is gone from its source too.
        FileMismatch: the bytes cannot be had again.
    """

    def put(role: str, name: str, write: Write) -> StoredFile:
        restore(parts, shard.files[role], write)
        return shard.files[role]

    write_archived(parts, shard, SourceShards(parts), put)


# ---------------------------------------------------------------- less of it


def take_out(parts: Parts, archive_id: int, sample_ids: Collection[UUID]) -> bool:
    """Have an archived shard hold some samples no longer; whether it held any.

    What is left of it is a file of another name, and `vacuum` removes the one before. Where nothing
    is left, or its month was detached before it was written, there is none.

    Args:
        parts: the real parts.
        archive_id: which (``catalog.archive.files_holding`` says).
        sample_ids: those; what it does not hold is passed over.

    Raises:
        FileMismatch: its files are lost or damaged: mend them, or ``drop`` it.
    """
    for _ in range(_TRIES):
        with parts.catalog.begin() as conn:
            before = archive.read(conn, archive_id)
        if before.is_let_go or not before.samples:
            return False
        table: pa.Table | None = None
        if before.files:
            table = listed_rows(before, parts.store.local(before.files["parquet"]))
            held = [UUID(text) for text in table.column("sample_id").to_pylist()]
        else:
            held = [sample.sample_id for sample in _samples(parts, before)]
        left = [place for place, sample_id in enumerate(held) if sample_id not in sample_ids]
        if len(left) == len(held):
            return False
        after = _planned_without(before, {*held} & {*sample_ids})
        files: dict[str, StoredFile] = {}
        if before.files and left:
            files = write_places(parts, before, after, left, len(held))
        with parts.catalog.begin() as conn:
            if archive.replace(conn, before, after, files):
                return True
    raise CommitConflict(f"{before.name} was written or changed meanwhile: run this command again")


def _planned_without(shard: ArchivedShard, taken: Collection[UUID]) -> ArchivedShard:
    without = shard.without | set(taken)
    said = f"{WRITER_VERSION} {shard.plan} {shard.number} {sorted(map(str, taken))}"
    plan = hashlib.sha256(said.encode()).hexdigest()[:8]
    dataset = shard.name.partition("/")[0]
    return replace(
        shard,
        plan=plan,
        name=shard_name(dataset, maker_of(shard.name), plan, shard.number, ARCHIVE),
        samples=shard.samples - len(taken),
        without=without,
    )


def drop(parts: Parts, archive_id: int) -> None:
    """Let an archived shard go whole, with all it holds: `vacuum` removes its files."""
    with parts.catalog.begin() as conn:
        archive.let_go(conn, archive_id)


def unarchivable(
    parts: Parts, there: StillThere, decision_id: int
) -> dict[int, list[PlacedSample]]:
    """Archived shards that a night did not write yet, with their samples that cannot be had.

    They can be published without these: ``take_out``.
    """
    with parts.catalog.begin() as conn:
        unwritten = [s for s in archive.of_decision(conn, decision_id) if s.is_unwritten]
    answer = {}
    for shard in unwritten:
        samples = _samples(parts, shard)
        gone = there.gone(samples)
        if gone:
            answer[shard.archive_id] = [s for s in samples if s.sample_id in gone]
    return answer


def expire_archive(
    parts: Parts, name: str, *, older_than: float, actor: str, why: str, dry_run: bool = False
) -> list[ArchivedShard]:
    """Let the archive of nights go that were decided so many seconds ago; what it was.

    `vacuum` removes the files. ``removed.recoverable`` says from then on what their source says.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        old = archive.older_than(conn, dataset.dataset_id, older_than)
        if old and not dry_run:
            for shard in old:
                archive.let_go(conn, shard.archive_id)
            events.add_event(
                conn,
                dataset.dataset_id,
                "archive_expired",
                actor=actor,
                why=why,
                details={
                    "shards": len(old),
                    "samples": sum(shard.samples for shard in old),
                    "bytes": sum(file.bytes for shard in old for file in shard.files.values()),
                },
            )
    return old
