"""``withdraw --purge``: no file below the root holds withdrawn samples any more, nor what they say.

In phases, each of which a retry finds done or does again: publish, so that the newest snapshot is
without them; expire the snapshots that list a shard with one; list them as erased; plan shards
anew that wait for their commit; write archived shards anew without them; take their text out of
manifests and rows (``erasing``); remove the files that held them, without grace (``removing``). It
answers with what was done, and where the bytes may be still.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    archive,
    datasets,
    events,
    forgotten,
    output_shards,
    snapshot_tags,
    snapshots,
)
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.forgotten import ReadSample
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import Slot
from sscd_ops.core.shard_plan import WRITER_VERSION, maker_of, shard_name
from sscd_ops.errors import CommitConflict, FileMismatch, SourceChanged, UsageError
from sscd_ops.model import StoredFile
from sscd_ops.plurals import counted
from sscd_ops.steps.archiving import take_out
from sscd_ops.steps.next_snapshot import publish_others
from sscd_ops.steps.orders.erasing import Erased, erase_text, list_erased, need_withdrawn
from sscd_ops.steps.orders.removing import remove_files
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.publish import is_unwritten, write_planned
from sscd_ops.steps.rewriting import slots_of, spans_of
from sscd_ops.steps.shard_writing import SourceShards
from sscd_ops.steps.snapshots import check_root, repair_latest
from sscd_ops.steps.vacuum import by_folder


@dataclass
class Purged:
    """What a purge did, and where the bytes are or may be still.

    ``expired``: snapshots that held a sample, all of them expired by now. ``removed``: files,
    name -> bytes. ``manifests``: source shard -> sha256 of its manifest without their text.
    ``rows``: of the catalog that were blanked. ``copies``: files of ``storage.cache`` that were
    removed. ``kept_bytes``: samples with equal bytes that are not withdrawn, so that their shards
    and the source hold these bytes. ``sources``: name -> sha256 of the URIs of the files that they
    were read from. ``left``: where the bytes are or may be, each in a sentence.
    """

    dataset: str
    samples: int
    expired: list[int] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)
    manifests: dict[int, str] = field(default_factory=dict)
    rows: int = 0
    copies: int = 0
    kept_bytes: int = 0
    sources: dict[str, list[str]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Held:
    """Output shards that hold or held the samples, and the slots these have or had."""

    shards: Mapping[int, OutputShard]
    slots: set[Slot]

    @property
    def files(self) -> list[StoredFile]:
        """All that was written of the shards."""
        return [file for shard in self.shards.values() for file in shard.files.values()]


def purge(
    parts: Parts,
    name: str,
    samples: Collection[UUID],
    *,
    actor: str,
    why: str,
    and_tagged: bool = False,
) -> Purged:
    """Remove what holds withdrawn samples, and their text; what was done, and what is left.

    Args:
        parts: the real parts.
        name: the dataset's.
        samples: withdrawn ones.
        actor: who asked, for the events.
        why: the reason.
        and_tagged: expire snapshots too that a tag keeps.

    Raises:
        UsageError: a sample is not withdrawn; a tag keeps a snapshot that holds one.
        FileMismatch: a shard that holds one is damaged, so that nothing can be published.
        CommitConflict: others were quicker many times over (retried).
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        check_root(parts, conn, dataset)
    read = need_withdrawn(parts, dataset, samples)
    done = Purged(name, len(read))
    publish_others(parts, dataset.dataset_id)
    repair_latest(parts, name)
    held = _held(parts, dataset, read)
    now = _expire(parts, dataset, held, done, actor=actor, why=why, and_tagged=and_tagged)
    # from here on nothing keeps them again: whoever ends their order is told, or this is
    list_erased(parts, dataset, read.keys())
    _plan_anew(parts, dataset, held, done)
    archived = _take_out_of_archive(parts, read)
    erased = erase_text(parts, dataset, list(read.values()))
    done.manifests, done.rows = erased.manifests, erased.rows
    digests = {file.sha256 for file in [*held.files, *archived]} | erased.before
    done.copies = parts.store.drop_copies(digests)
    names = {file.name for file in [*held.files, *archived]}
    names |= {f"{name}/manifests/{sha256}.parquet" for sha256 in erased.before}
    done.removed, at_work = remove_files(parts, dataset, list(read), names)
    _drop_dead_rows(parts, read.values())
    done.left += [*erased.left, *_left(parts, dataset, read, done, erased, at_work)]
    if now or archived or done.removed or done.rows or erased.before:
        _record(parts, dataset, done, actor, why)
    return done


def _held(parts: Parts, dataset: Dataset, read: Mapping[UUID, ReadSample]) -> _Held:
    images = {each.image for each in read.values() if each.image is not None}
    with parts.catalog.begin() as conn:
        number = dataset.dataset_id
        found = forgotten.shards_that_held(conn, number, read.keys(), images)
        slots = forgotten.slots_of_samples(conn, number, read.keys(), images)
        return _Held(output_shards.shards_of_numbers(conn, found), slots)


# ---------------------------------------------------------------- shards that wait


def _plan_anew(parts: Parts, dataset: Dataset, held: _Held, done: Purged) -> None:
    """Take the samples out of shards that are in no snapshot yet, written or not."""
    with parts.catalog.begin() as conn:
        waiting = forgotten.waiting_shards(conn, held.shards.keys())
    sources = SourceShards(parts)
    for number in waiting:
        shard = held.shards[number]
        left = [slot for slot in slots_of(parts, number) if slot not in held.slots]
        said = repr((WRITER_VERSION, shard.plan, shard.number, left))
        plan = hashlib.sha256(said.encode()).hexdigest()[:8]
        name = shard_name(dataset.name, maker_of(shard.name), plan, shard.number)
        parts.store.drop_copies({file.sha256 for file in shard.files.values()})
        with parts.catalog.begin() as conn:
            datasets.lock(conn, dataset.dataset_id)
            if not output_shards.plan_anew(
                conn,
                shard,
                plan=plan,
                name=name,
                samples=len(left),
                slots=list(spans_of(left)),
                written=True,
            ):
                raise CommitConflict(f"{shard.name} was published meanwhile: run this again")
            again = output_shards.shards_of_numbers(conn, [number])[number]
        # what was written is written again, so that its commit finds it; where its source is gone
        # publish says so
        if shard.files and is_unwritten(again):
            with suppress(SourceChanged, FileMismatch):
                write_planned(parts, again, sources)
    done.left += [
        f"a process that writes {held.shards[number].name} just now may leave it there: run this"
        " again when it has ended"
        for number in waiting
        if not held.shards[number].files
    ]


def _take_out_of_archive(parts: Parts, read: Mapping[UUID, ReadSample]) -> list[StoredFile]:
    """Write archived shards anew without the samples; the files of those before."""
    with parts.catalog.begin() as conn:
        holding = archive.files_holding(conn, read.keys())
    return [
        file
        for number, (shard, ids) in holding.items()
        if take_out(parts, number, ids)
        for file in shard.files.values()
    ]


# ---------------------------------------------------------------- snapshots


def _expire(
    parts: Parts,
    dataset: Dataset,
    held: _Held,
    done: Purged,
    *,
    actor: str,
    why: str,
    and_tagged: bool,
) -> list[int]:
    """Expire the snapshots that list a shard with one of the samples; those that were readable.

    Raises:
        UsageError: a tag keeps one, and ``and_tagged`` was not said: nothing is done.
        CommitConflict: the newest snapshot lists one.
    """
    with parts.catalog.begin() as conn:
        row = datasets.lock(conn, dataset.dataset_id)
        listing = forgotten.snapshots_that_list(conn, dataset.dataset_id, held.shards.keys())
        readable = [number for number, is_readable in listing.items() if is_readable]
        if row.snapshot in readable:
            raise CommitConflict(
                f"snapshot {row.snapshot} of {dataset.name!r}, the newest, holds what is to be"
                " removed: run this again"
            )
        if not and_tagged:
            _refuse_tagged(conn, dataset, readable)
        if readable:
            snapshots.mark_expired(conn, dataset.dataset_id, readable)
            events.add_event(
                conn,
                dataset.dataset_id,
                "expired",
                actor=actor,
                why=why,
                details={"snapshots": readable},
            )
    done.expired = sorted(listing)
    return readable


def _refuse_tagged(conn: Connection, dataset: Dataset, readable: Sequence[int]) -> None:
    tags = [
        tag
        for tag in snapshot_tags.tags_of(conn, dataset.dataset_id)
        if tag.keeps and tag.snapshot in readable
    ]
    if tags:
        named = ", ".join(f"{tag} on snapshot {tag.snapshot}" for tag in tags)
        first = tags[0]
        raise UsageError(
            f"withdrawn samples are in snapshots of {dataset.name!r} that tags keep ({named}):"
            " --and-tagged expires them all the same; or take the tags away first: `sscd-ops"
            f" snapshot tag {first.snapshot} {first.name} --dataset {dataset.name} --remove --why"
            " '...'`"
        )


# ---------------------------------------------------------------- rows, and what is left


def _drop_dead_rows(parts: Parts, read: Collection[ReadSample]) -> None:
    with parts.catalog.begin() as conn:
        months = forgotten.months_of(conn, {each.decision_id for each in read})
    with parts.catalog.direct() as conn:
        forgotten.drop_dead_rows(conn, months)


def _left(
    parts: Parts,
    dataset: Dataset,
    read: Mapping[UUID, ReadSample],
    done: Purged,
    erased: Erased,
    at_work: Sequence[str],
) -> list[str]:
    """Where the bytes, or their text, are or may be."""
    images = {each.image for each in read.values() if each.image is not None}
    with parts.catalog.begin() as conn:
        number = dataset.dataset_id
        others = [
            each
            for each in forgotten.bearers_of(conn, number, images)
            if each.sample_id not in read
        ]
        users = {
            (snapshot, user.run)
            for snapshot in done.expired
            for user in snapshot_tags.users_of(conn, number, snapshot)
        }
    done.kept_bytes = len({each.sample_id for each in others})
    done.sources = {
        source: [hashlib.sha256(uri.encode()).hexdigest() for uri in uris]
        for source, uris in erased.sources.items()
    }
    said = [
        f"source {source!r}: {counted(len(uris), 'file')} that it was read from, such as of URI"
        f" sha256 {uris[0]}"
        for source, uris in done.sources.items()
    ]
    if done.kept_bytes:
        said.append(
            f"{counted(done.kept_bytes, 'other sample has', 'other samples have')} equal bytes,"
            " and where they are published or kept their files hold them"
        )
    said += [f"run {run!r} was trained on snapshot {snapshot}" for snapshot, run in sorted(users)]
    said += [f"{name} is being written by another process: run this again" for name in at_work]
    return [
        *said,
        "copies in storage.cache of other machines, until they are trimmed",
        "dumps of the catalog, backups of it and of the root, exports, and models that were trained"
        " on any of them",
        "the server's own files: what rows said before stays in pages of tables until they are"
        " written over (VACUUM FULL writes them anew), and in its write-ahead log and replicas",
    ]


def _record(parts: Parts, dataset: Dataset, done: Purged, actor: str, why: str) -> None:
    figures = {
        folder: {"files": count, "bytes": size}
        for folder, (count, size) in by_folder(done.removed).items()
    }
    with parts.catalog.begin() as conn:
        events.add_event(
            conn,
            dataset.dataset_id,
            "purged",
            actor=actor,
            why=why,
            details={
                "samples": done.samples,
                "snapshots": done.expired,
                "removed": figures,
                "manifests": {str(number): sha for number, sha in done.manifests.items()},
            },
        )
