"""Compaction: segments of small nights become one, which answers as they did.

A night costs a little more for each segment that it is compared with, however small that is. The
merged segment holds their rows in turn order, so ties go where they went: to the earlier night,
then to the smaller row. No verdict changes and no turn is taken; the index has another generation,
so a night that worked for the one before is worked out again (``steps.turns.make_generation``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, events, segments
from sscd_ops.core.measures import HASHES
from sscd_ops.core.segment_file import join_segments, read_kept, write_mask
from sscd_ops.model import Segment, StoredFile
from sscd_ops.steps import turns
from sscd_ops.steps.damage import newest_night
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.queries import open_backend
from sscd_ops.steps.snapshots import check_root
from sscd_ops.steps.turns import Seen


@dataclass(frozen=True)
class Merged:
    """What was merged: ``segments`` of an index in a row, into one of so many ``rows``."""

    segments: list[int]
    into: int
    rows: int


def compact(parts: Parts, name: str, below: int, *, actor: str = "cli") -> list[Merged]:
    """Merge segments of fewer than ``below`` rows that follow each other; what was merged.

    Each merged segment takes as many as give it ``below`` rows, so it is merged no further. It is
    in force before the next is begun: a process that is killed leaves whole ones, and files that
    no row names. Files of what was merged stay until `vacuum`. ``actor``: who asked,
    for the events.

    Raises:
        UsageError: there is no such dataset.
        FileMismatch: a file of the index is lost or damaged.
        CommitConflict: others were quicker many times over (retried).
        StoreRefused: the root is not mounted.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        check_root(parts, conn, dataset)
    done: list[Merged] = []
    parts.progress.start(f"compact {name}", None)
    while True:
        merger = _Merger(parts, dataset.dataset_id, name, below, actor)
        turns.make_generation(parts, merger)
        if merger.merged is None:
            break
        done.append(merger.merged)
        parts.progress.advance()
    parts.progress.done()
    return done


def would_merge(parts: Parts, name: str, below: int) -> list[list[int]]:
    """The segments that ``compact`` would merge now, each list into one; nothing is changed.

    Raises:
        UsageError: there is no such dataset.
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        live = segments.live_segments(conn, dataset.dataset_id, dataset.generation)
    answer = []
    while run := run_of(live, below):
        answer.append([segment.segment_id for segment in run])
        at = live.index(run[0])
        live[at : at + len(run)] = [replace(run[0], rows=sum(each.rows for each in run))]
    return answer


def run_of(live: Sequence[Segment], below: int) -> list[Segment]:
    """The first segments in a row that can be merged, as many as give ``below`` rows; or none."""
    run: list[Segment] = []
    for segment in live:
        fits = not run or _kind(segment) == _kind(run[-1])
        if run and (segment.rows >= below or not fits):
            if len(run) > 1:
                return run
            run = []
        if segment.rows < below:
            run.append(segment)
        if sum(each.rows for each in run) >= below:
            return run
    return run if len(run) > 1 else []


def _kind(segment: Segment) -> tuple[str, frozenset[str]]:
    """Segments of one kind can be one: with or without hashes, later nights see the difference."""
    return segment.fingerprint, frozenset(HASHES.keys() & segment.files)


@dataclass(frozen=True)
class _Joined:
    """Segments, and the files of the one that takes their place."""

    run: Sequence[Segment]
    files: Mapping[str, StoredFile]
    mask: StoredFile
    kept: int


class _Merger:
    """Merges the first run of small segments (``turns.GenerationMaker``)."""

    def __init__(self, parts: Parts, dataset_id: int, name: str, below: int, actor: str) -> None:
        self._parts = parts
        self.dataset_id = dataset_id
        self._name = name
        self._below = below
        self._actor = actor
        self._before: _Joined | None = None
        self.merged: Merged | None = None
        """What was merged, once it is in force."""

    def work_out(self, seen: Seen) -> _Joined | None:
        """Write the files; those of a try that was lost are taken over where they still fit."""
        with self._parts.catalog.begin() as conn:
            live = segments.live_segments(conn, self.dataset_id, seen.dataset.generation)
        run = run_of(live, self._below)
        if not run:
            return None
        kept = np.concatenate([read_kept(self._parts.store, segment) for segment in run])
        before = self._before
        if before is not None and _files(before.run) == _files(run):
            files = before.files
        else:
            backend = open_backend(self._parts, newest_night(self._parts, live))
            files = join_segments(self._parts.store, f"{self._name}/index/segments", run, backend)
        mask = write_mask(self._parts.store, f"{self._name}/index/masks", kept)
        self._before = _Joined(run, files, mask, int(kept.sum()))
        return self._before

    def put(self, conn: Connection, worked: _Joined | None, generation: int) -> bool:
        """Name the segment and its mask; those that it was merged of end."""
        if worked is None:
            return False
        merged = [segment.segment_id for segment in worked.run]
        rows = sum(segment.rows for segment in worked.run)
        into = segments.add_merged(conn, merged, generation, worked.files)
        segments.add_mask(conn, into, generation, worked.mask, worked.kept)
        self.merged = Merged(merged, into, rows)
        events.add_event(
            conn,
            self.dataset_id,
            "compacted",
            actor=self._actor,
            details={"segments": merged, "into": into, "rows": rows, "generation": generation},
        )
        return True


def _files(run: Sequence[Segment]) -> list[tuple[int, Mapping[str, StoredFile]]]:
    return [(segment.segment_id, segment.files) for segment in run]
