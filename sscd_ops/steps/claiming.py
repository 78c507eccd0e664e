"""Which files a night reads: what its sources have, and which of them it may claim.

``look`` lists without any lock; ``claim`` takes them under the dataset's lock, if what was seen
still holds then. A file that changed is another version, which is claimed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, batches, datasets, shards, waiting
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.groups import balanced_groups
from sscd_ops.model import Batch, BatchState, FoundShard, SourceShard
from sscd_ops.options import DatasetOptions
from sscd_ops.ports import Source
from sscd_ops.steps.freezing import FoundModel, open_attempt
from sscd_ops.steps.parts import Parts, frozen_options, or_abandon
from sscd_ops.steps.reading_again import Wanted, wanted


@dataclass(frozen=True)
class Listing:
    """What the sources have for the night, by the batch's frozen configuration or that of now."""

    attempt_id: int
    """The batch's attempt when it was looked at, 0 for none."""
    options: DatasetOptions
    is_frozen: bool
    """Whether ``options`` are those of that attempt, which goes on; else a new one follows."""
    sources: list[Source]
    missing: str | None
    """A URL that is waited for; then nothing was listed."""
    found: list[FoundShard]
    read_again: tuple[str, ...] | None = None
    """Codes of the quarantined samples that are read again; None for none."""
    again: Wanted | None = None
    """What there is of those, where no attempt has frozen it; its files are ``found``."""


def look(
    parts: Parts,
    batch: Batch,
    options: DatasetOptions,
    read_again: tuple[str, ...] | None = None,
) -> Listing:
    """Look by the frozen configuration while its attempt can go on, else by that of now."""
    frozen = _frozen(parts, batch)
    if frozen is not None:
        with or_abandon(parts, batch.batch_id):
            seen = _list(parts, batch, frozen, is_frozen=True)
        with parts.catalog.begin() as conn:
            registered = shards.shards_of(conn, batch.attempt_id)
        if not _delivered_anew(registered, seen.found):
            return replace(seen, read_again=read_again)
    seen = _list(parts, batch, options, is_frozen=False)
    if read_again is None or seen.missing is not None:
        return seen
    with parts.catalog.read() as conn:
        turn = datasets.of_number(conn, batch.dataset_id).turn
        again = wanted(conn, batch, read_again, turn, seen.found)
    return replace(seen, found=again.found, read_again=read_again, again=again)


def _frozen(parts: Parts, batch: Batch) -> DatasetOptions | None:
    """The configuration the batch's attempt froze, where it has one that still counts."""
    with parts.catalog.begin() as conn:
        if not _goes_on(conn, batch):
            return None
        return frozen_options(batch, attempts.read_attempt(conn, batch))


def _goes_on(conn: Connection, batch: Batch) -> bool:
    """Whether the batch has an attempt that was neither abandoned nor lost a file to another."""
    if not batch.attempt_id or batch.state is BatchState.ABANDONED:
        return False
    return batch.dry_run or not shards.lost_shards(
        conn, batch.dataset_id, batch.batch_id, batch.attempt_id
    )


def _list(parts: Parts, batch: Batch, options: DatasetOptions, *, is_frozen: bool) -> Listing:
    night = batch.interval, options.timezone
    sources = [parts.source(source, options.limits) for source in options.sources]
    for source in sources:
        missing = source.ready(*night)
        if missing is not None:
            return Listing(batch.attempt_id, options, is_frozen, sources, missing, [])
    found = [shard for source in sources for shard in source.find(*night)]
    found.sort(key=lambda shard: (shard.source, shard.relative_uri))
    return Listing(batch.attempt_id, options, is_frozen, sources, None, found)


def _delivered_anew(registered: Sequence[SourceShard], found: Sequence[FoundShard]) -> bool:
    """Whether a file of the batch's attempt has become another since.

    Then the attempt cannot be finished: what it read is gone, and beside its old version the new
    one would put the same samples into the batch twice. The batch needs a new attempt.
    """
    versions = {(s.source, s.relative_uri): s.version for s in registered}
    return any(
        versions.get((shard.source, shard.relative_uri), shard.version) != shard.version
        for shard in found
    )


def has_unread(parts: Parts, batch: Batch, options: DatasetOptions) -> bool:
    """Whether files of the batch's interval came that no batch has read.

    A DAG run whose supplement is published is run again for these, by a reprocessing; where there
    are none it is a clear, which answers with that supplement.
    """
    sources = [parts.source(source, options.limits) for source in options.sources]
    found = [s for source in sources for s in source.find(batch.interval, options.timezone)]
    with parts.catalog.begin() as conn:
        return len(shards.owners(conn, batch.dataset_id, found)) < len(found)


# ---------------------------------------------------------------- claiming


def claim(
    parts: Parts,
    conn: Connection,
    batch: Batch,
    seen: Listing,
    model: FoundModel | None,
) -> int | None:
    """Claim and register shards under the lock; how many were skipped as read elsewhere.

    None, and nothing was done, where what was seen no longer holds: look again.
    """
    dataset = datasets.lock(conn, batch.dataset_id)
    if not batches.is_there(conn, batch.batch_id):
        return None
    batch = batches.read_batch(conn, batch.batch_id)
    if batch.state.is_decided:
        return 0
    if batch.attempt_id != seen.attempt_id or _is_outdated(dataset, seen):
        return None
    free, skipped = _free(parts, conn, batch, seen)
    attempt_id = batch.attempt_id
    registered = shards.shards_of(conn, attempt_id) if seen.is_frozen else []
    if seen.is_frozen:
        waiting.set_ready(conn, batch.batch_id, True)
        if not _goes_on(conn, batch) or _delivered_anew(registered, seen.found):
            return None
        mine = {(s.source, s.relative_uri, s.version) for s in registered}
        free = [s for s in free if (s.source, s.relative_uri, s.version) not in mine]
        if free:
            attempts.require_attempt(conn, batch.batch_id, attempt_id)
            attempts.forget_work_list(conn, attempt_id)
            batches.set_back(conn, batch.batch_id)
    else:
        if model is None or model.of != dataset.fingerprint:
            return None
        # an owner row left by the attempt before would keep its file from every later night
        shards.give_back(conn, batch.batch_id)
        attempt_id = open_attempt(
            parts, conn, dataset, batch, seen.options, model, skipped, seen.read_again
        )
    if not batch.dry_run and seen.read_again is None:
        shards.claim(conn, dataset.dataset_id, batch.batch_id, attempt_id, free)
    shards.add_shards(conn, attempt_id, _place(free, registered, seen.options.airflow.max_tasks))
    return skipped


def _is_outdated(dataset: Dataset, seen: Listing) -> bool:
    """Whether what is to be read again was looked for as of another turn."""
    return seen.again is not None and seen.again.turn != dataset.turn


def _free(
    parts: Parts, conn: Connection, batch: Batch, seen: Listing
) -> tuple[list[FoundShard], int]:
    """Shards this batch may read: unowned, its own, or a failed batch's; and how many are not.

    What it reads again it reads past its owner, all of it from its first plan on.
    """
    if seen.read_again is not None:
        return ([] if seen.is_frozen else seen.found), 0
    found = seen.found
    owned = shards.owners(conn, batch.dataset_id, found)
    verdicts: dict[int, bool] = {batch.batch_id: True}
    free = []
    for shard in found:
        owner = owned.get(shard)
        if owner is not None and owner not in verdicts:
            verdicts[owner] = _gives_back(parts, conn, batches.read_batch(conn, owner))
        if owner is None or verdicts[owner]:
            free.append(shard)
    return free, len(found) - len(free)


def _gives_back(parts: Parts, conn: Connection, owner: Batch) -> bool:
    if owner.state is BatchState.ABANDONED:
        return True
    if owner.state.is_decided or owner.state is BatchState.HELD:
        return False
    if owner.attempt_id and attempts.read_attempt(conn, owner).released:
        return False  # somebody has decided about these very files; its next run is to come
    return parts.is_alive(owner) is False


def _place(
    free: Sequence[FoundShard], registered: Sequence[SourceShard], max_tasks: int
) -> list[tuple[FoundShard, int, int]]:
    """Give new shards groups, by their bytes, and ordinals after those already registered."""
    first = max((shard.group for shard in registered), default=-1) + 1
    ordinal = max((shard.ordinal for shard in registered), default=-1) + 1
    groups = min(len(free), max(1, max_tasks - first))
    placed = balanced_groups([shard.size for shard in free], groups)
    return [
        (shard, first + group, ordinal + i)
        for i, (shard, group) in enumerate(zip(free, placed, strict=True))
    ]
