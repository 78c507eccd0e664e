"""Compaction of what is published: small shards of many nights become few, in a new snapshot.

A reader opens every shard, and a snapshot lists it. The samples stay the same and so do their
bytes; no verdict changes and no turn is taken. Older snapshots list the shards they listed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, decisions, events, output_shards, placements
from sscd_ops.catalog.output_shards import ListedShard, OutputShard
from sscd_ops.catalog.placements import Span
from sscd_ops.core.shard_merges import Extent, Limits, plan_merges
from sscd_ops.options import PublishOptions, dataset_from_json
from sscd_ops.steps import turns
from sscd_ops.steps.next_snapshot import Listing, NextSnapshot
from sscd_ops.steps.parts import Parts, configured
from sscd_ops.steps.rewriting import Replaced
from sscd_ops.steps.shard_merging import merged_shard, write_merged
from sscd_ops.steps.snapshots import check_root, repair_latest
from sscd_ops.steps.turns import Seen

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merge:
    """Shards that become one: names of their tars, in the order of their samples.

    ``samples``, ``bytes``: of all of them. ``into``: name of the tar they become.
    """

    form: str
    shards: Sequence[str]
    samples: int
    bytes: int
    into: str


@dataclass(frozen=True)
class Compacted:
    """What was merged, or would be.

    ``snapshot``: the one that was made, with as many ``shards``, ``samples`` and ``bytes``; None
    where none was. ``parent``: the newest one before. ``location``: the snapshot file's URL.
    """

    merges: Sequence[Merge]
    parent: int
    snapshot: int | None = None
    shards: int = 0
    samples: int = 0
    bytes: int = 0
    location: str = ""


def limits_of(publish: PublishOptions, below: int | None = None) -> Limits:
    """What a merged shard holds at most, and what is small.

    Args:
        publish: the dataset's settings as they are now.
        below: bytes of a shard that is small; default: half of ``max_bytes``.
    """
    return Limits(
        publish.max_samples, publish.max_bytes, publish.max_bytes // 2 if below is None else below
    )


def compact(parts: Parts, name: str, below: int | None = None, *, actor: str = "cli") -> Compacted:
    """Merge small shards of one form and the same columns, in one new snapshot.

    It follows the newest turn: what is kept no longer is left out, and what decisions without a
    batch added is in. Nothing to merge, and nothing of that: no snapshot. A process that is killed
    leaves the snapshots that there were, and files that no row names.

    Args:
        parts: the real parts.
        name: a dataset of the configuration.
        below: as in ``limits_of``.
        actor: who asked, for the event.

    Raises:
        UsageError: there is no such dataset.
        ConfigError: it is not in the configuration.
        FileMismatch: a shard is lost or damaged.
        CommitConflict: others made snapshots many times over (retried).
        StoreRefused: the root is not mounted.
    """
    limits = limits_of(configured(parts, name).publish, below)
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        check_root(parts, conn, dataset)
    compaction = _Compaction(parts, dataset.dataset_id, limits, actor)
    parts.progress.start(f"compact shards of {name}", None)
    turns.make_snapshot(parts, compaction)
    parts.progress.done()
    repair_latest(parts, name)
    return compaction.done


def would_merge(parts: Parts, name: str, below: int | None = None) -> Compacted:
    """What ``compact`` would merge now; nothing is read or written but the catalog.

    Where a shard holds what is kept no longer, it is less than is said here.
    """
    limits = limits_of(configured(parts, name).publish, below)
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        listed = output_shards.listed_shards(conn, dataset.dataset_id, dataset.snapshot)
    groups = [_shards(parts, group) for group in _groups(parts, listed, limits)]
    return Compacted([_merge(name, shards) for shards in groups], dataset.snapshot)


class _Compaction(NextSnapshot):
    """The next snapshot, in which small shards are merged (``turns.SnapshotMaker``)."""

    def __init__(self, parts: Parts, dataset_id: int, limits: Limits, actor: str) -> None:
        super().__init__(parts, dataset_id)
        self._limits = limits
        self._actor = actor
        self._written: dict[str, OutputShard] = {}
        self._merges: list[Merge] = []
        self.done = Compacted([], 0)
        """What was merged, once it is in force."""

    def merge(
        self, seen: Seen, listed: Sequence[ListedShard], rewritten: list[Replaced]
    ) -> list[Replaced]:
        """Write what small shards become, also those that were written without what is lost.

        A merged shard's name says what it is made of, so one that was written for a try that was
        lost is taken over where its shards are still the same.
        """
        name = seen.dataset.name
        anew = {each.output_ids[0]: each for each in rewritten}
        self._merges = []
        merged = []
        for group in _groups(self._parts, listed, self._limits):
            shards = _shards(self._parts, group, anew)
            target = merged_shard(name, shards)
            if target.name not in self._written:
                written = write_merged(self._parts, shards, target)
                if written is None:
                    log.warning(
                        "shards with different columns are not merged: %s ... %s",
                        shards[0].name,
                        shards[-1].name,
                    )
                    continue
                self._written[target.name] = written
                self._parts.progress.advance()
            ids = [shard.output_id for shard in shards]
            spans = [span for each in ids for span in self._spans(each, anew)]
            merged.append(Replaced(ids, self._written[target.name], spans))
            self._merges.append(_merge(name, shards))
        taken = {output_id for each in merged for output_id in each.output_ids}
        return [each for each in rewritten if each.output_ids[0] not in taken] + merged

    def _spans(self, output_id: int, anew: dict[int, Replaced]) -> list[Span]:
        if output_id in anew:
            return anew[output_id].slots
        with self._parts.catalog.begin() as conn:
            placed = placements.placed(conn, output_id)
        return [(place.decision_id, place.start, place.end) for place in placed]

    def put(self, conn: Connection, seen: Seen, worked: Listing) -> int:
        """Register the snapshot, and say what was merged."""
        before = seen.dataset.snapshot
        snapshot = super().put(conn, seen, worked)
        if worked.file is None:
            self.done = Compacted([], before)
            return snapshot
        self.done = Compacted(
            self._merges,
            before,
            snapshot,
            shards=len(worked.shards),
            samples=sum(shard.samples for shard in worked.shards),
            bytes=sum(shard.bytes or 0 for shard in worked.shards),
            location=self._parts.store.url(worked.file.name),
        )
        events.add_event(
            conn,
            self.dataset_id,
            "compacted",
            actor=self._actor,
            details={
                "snapshot": snapshot,
                "shards": sum(len(merge.shards) for merge in self._merges),
                "into": len(self._merges),
                "samples": sum(merge.samples for merge in self._merges),
            },
        )
        return snapshot


def _groups(parts: Parts, listed: Sequence[ListedShard], limits: Limits) -> list[list[ListedShard]]:
    """Shards of a snapshot that become one: of one form, and with the same columns."""
    small = [each for each in listed if limits.is_small(_extent(each))]
    with parts.catalog.begin() as conn:
        configs = decisions.configs_of(conn, sorted({each.decision_id for each in small}))
    columns = {text: tuple(dataset_from_json(text).meta_columns) for text in set(configs.values())}
    kinds: dict[tuple[str, tuple[str, ...]], list[ListedShard]] = {}
    for each in small:
        kinds.setdefault((each.form, columns[configs[each.decision_id]]), []).append(each)
    return [
        [kind[place] for place in run]
        for kind in kinds.values()
        for run in plan_merges([_extent(each) for each in kind], limits)
    ]


def _extent(shard: ListedShard) -> Extent:
    return Extent(shard.samples, shard.bytes or 0)


def _shards(
    parts: Parts, group: Sequence[ListedShard], anew: dict[int, Replaced] | None = None
) -> list[OutputShard]:
    """The listed shards with all that is known of them, in order."""
    written = {number: each.shard for number, each in (anew or {}).items()}
    with parts.catalog.begin() as conn:
        found = output_shards.shards_of_numbers(conn, [each.output_id for each in group])
    return [written.get(each.output_id) or found[each.output_id] for each in group]


def _merge(name: str, shards: Sequence[OutputShard]) -> Merge:
    return Merge(
        shards[0].form,
        [shard.name for shard in shards],
        sum(shard.samples for shard in shards),
        sum(shard.files["tar"].bytes for shard in shards),
        merged_shard(name, shards).name,
    )
