"""Comparing a batch's queries, cell by cell, and finding again what was compared.

Each search is recorded: its answer stands in a candidate file that a row names. Where the mask of a
segment changed since, only what changed is searched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, batches, searches, segments
from sscd_ops.catalog.searches import Searched
from sscd_ops.core import cells
from sscd_ops.core.descriptor_file import Queries
from sscd_ops.core.found import Answer
from sscd_ops.core.masks import SearchRows, follow_mask
from sscd_ops.core.match_file import MatchFile, no_matches, write_matches
from sscd_ops.core.measures import DESCRIPTORS, Measure
from sscd_ops.core.segment_file import IDS, mask_of, read_kept, read_mask, read_roles
from sscd_ops.errors import FileMismatch
from sscd_ops.model import Matches, Segment
from sscd_ops.ports import SearchBackend, SearchBlock
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import Backends

log = logging.getLogger(__name__)

LISTED = 32
"""Neighbours within the night that are listed for an image and a cell. One that has more costs
leader an exact comparison with the others that have (``core.leader``)."""
_AT_ONCE = 4
"""Segments that are read side by side: hashing lets go of the GIL."""
_LONGEST = 60.0
"""Seconds of searching that a kill may cost: what was found by then is written."""

NOTHING: Mapping[int, NDArray[np.int64]] = {}
"""Every row counts that its segment's mask says is kept."""

Key: TypeAlias = tuple[range, range | int]
"""Of a cell: its block, and the block of the batch or the first segment it is compared with."""


@dataclass(frozen=True)
class Cell:
    """A block of the batch's queries, and what it is compared with.

    ``segments``: of history, in turn order; their rows are numbered through. ``own``: a block of
    the same queries; None where of history. ``earlier``: its answer under other masks, if any.
    """

    block: range
    segments: tuple[Segment, ...] = ()
    own: range | None = None
    earlier: Searched | None = None

    @property
    def cost(self) -> int:
        """Pairs of rows."""
        if self.own is None:
            return len(self.block) * sum(segment.rows for segment in self.segments)
        pairs = len(self.block) * len(self.own)
        return pairs // 2 if self.own == self.block else pairs

    @property
    def key(self) -> Key:
        """What tells it from the others of a night; it stays while masks change."""
        return self.block, self.segments[0].segment_id if self.own is None else self.own

    @property
    def masks(self) -> tuple[str, ...]:
        """The sha256 of each segment's mask."""
        return tuple(mask_of(segment).sha256 for segment in self.segments)


def _key_of(searched: Searched) -> Key:
    own = searched.own
    return searched.block, searched.segments[0] if own is None else own


# ---------------------------------------------------------------- which cells


def within(count: int) -> list[Cell]:
    """The cells in which so many queries are compared with each other, every pair once."""
    blocks = cells.blocks(count)
    return [Cell(block, own=other) for at, block in enumerate(blocks) for other in blocks[: at + 1]]


def against(count: int, live: Sequence[Segment]) -> list[Cell]:
    """The cells in which so many queries are compared with segments, block by block."""
    return [Cell(block, group) for block in cells.blocks(count) for group in _groups(live)]


def _groups(live: Sequence[Segment]) -> list[tuple[Segment, ...]]:
    kinds = [frozenset(segment.files) for segment in live]
    return [
        tuple(live[at] for at in run)
        for run in cells.groups([segment.rows for segment in live], kinds)
    ]


def share_of(count: int, live: Sequence[Segment], asked: Iterable[int], tasks: int) -> set[Key]:
    """The keys of the cells in some parts of the night, which has as many parts as match has tasks.

    Every cell is in one part. What one task finds recorded by another changes no part; and where
    history grows meanwhile, those within the night stay as they are.
    """
    mine = set()
    for everything in (within(count), against(count, live)):
        costs = [cell.cost for cell in everything]
        for part in asked:
            mine |= {everything[at].key for at in cells.share(costs, part, tasks)}
    return mine


def sort_out(
    done: Iterable[Searched], count: int, live: Sequence[Segment]
) -> tuple[list[tuple[Cell, Searched]], list[Cell]]:
    """What stands as it was searched, and the cells that are to be searched (again).

    Args:
        done: what was searched, the newest first.
        count: queries.
        live: the segments that they are to be compared with, with their masks now.
    """
    by_block: dict[tuple[range, range | None], list[Searched]] = {}
    for each in done:
        by_block.setdefault((each.block, each.own), []).append(each)
    stands: list[tuple[Cell, Searched]] = []
    todo: list[Cell] = []
    for cell in within(count):
        found = by_block.get((cell.block, cell.own))
        if found:
            stands.append((cell, found[0]))
        else:
            todo.append(cell)
    now = {segment.segment_id: segment for segment in live}
    for block in cells.blocks(count):
        covered: set[int] = set()
        for each in by_block.get((block, None), ()):
            # of one with a segment that is live no longer nothing is taken over
            if not (covered.isdisjoint(each.segments) and now.keys() >= set(each.segments)):
                continue
            covered.update(each.segments)
            cell = Cell(block, tuple(now[number] for number in each.segments))
            if cell.masks == each.masks:
                stands.append((cell, each))
            else:
                todo.append(Cell(block, cell.segments, earlier=each))
        rest = [segment for segment in live if segment.segment_id not in covered]
        todo += (Cell(block, group) for group in _groups(rest))
    return stands, todo


def read(
    parts: Parts, work: Work, found: Iterable[tuple[Cell, Searched]]
) -> Iterator[tuple[Cell, Searched, list[Matches]]]:
    """The answers of cells, by each of the batch's measures; queries by their numbers."""
    by_file: dict[str, list[tuple[Cell, Searched]]] = {}
    for cell, each in found:
        by_file.setdefault(each.file.name, []).append((cell, each))
    for together in by_file.values():
        file = MatchFile(parts.store.local(together[0][1].file))
        for cell, each in together:
            yield cell, each, file.matches(each.number, len(work.measures))


# ---------------------------------------------------------------- searching


def answered(
    parts: Parts, work: Work, queries: Queries, asked: Collection[Key] | None = None
) -> list[Searched]:
    """What was searched for these queries so far; lost and damaged files are forgotten.

    Args:
        parts: the real parts.
        work: the batch.
        queries: of the batch.
        asked: the keys of cells; files with answers of other cells alone are not looked at, which
            other tasks wrote. None: all are.
    """
    with parts.catalog.begin() as conn:
        done = searches.searched(conn, work.attempt.attempt_id, queries.digest)
    damaged = set()
    looked_at = done if asked is None else [each for each in done if _key_of(each) in asked]
    for file in {each.file.name: each.file for each in looked_at}.values():
        try:
            parts.store.local(file)
        except FileMismatch as damage:
            log.warning("searching again damage=%s", damage)
            damaged.add(file.name)
            with parts.catalog.begin() as conn:
                searches.forget_search(conn, work.attempt.attempt_id, file)
    return [each for each in done if each.file.name not in damaged]


class Searcher:
    """Compares the queries of a batch, and records what it found.

    Args:
        parts: the real parts.
        work: the batch.
        queries: a list of its queries.
        backends: of its search.
    """

    def __init__(self, parts: Parts, work: Work, queries: Queries, backends: Backends) -> None:
        self._parts, self._work, self._queries = parts, work, queries
        self._history, self._own = backends.history, backends.own
        self._asked: dict[tuple[str, range], NDArray[Any]] = {}
        self._blocks: dict[tuple[str, range], SearchBlock] = {}

    def search(self, todo: Sequence[Cell]) -> list[tuple[Cell, Searched]]:
        """Search cells and record them: one file and one transaction for what a minute found."""
        made: list[tuple[Cell, Searched]] = []
        found: list[tuple[Cell, list[Matches]]] = []
        if not todo:  # resolve, as a rule: no bar for it
            return made
        self._parts.progress.start(f"match {self._work.batch.dataset}", len(todo))
        began = time.monotonic()
        for cell in todo:
            found.append((cell, self._compare(cell)))
            if time.monotonic() - began > _LONGEST:
                made += self._record(found)
                found, began = [], time.monotonic()
            self._parts.progress.advance()
        if found:
            made += self._record(found)
        self._parts.progress.done()
        return made

    def compare(
        self, live: Sequence[Segment], without: Mapping[int, NDArray[np.int64]]
    ) -> Iterator[tuple[Cell, list[Matches]]]:
        """Compare with segments, and record nothing.

        Args:
            live: the segments.
            without: segment number -> int64 (k,), rows that are to be kept no longer.
        """
        for cell in against(len(self._queries), live):
            yield cell, self._compare(cell, without)

    def beside(self, others: Queries) -> Iterator[list[Answer]]:
        """Block by block of the queries, what is near in others, numbered after them; by measure.

        They are few, and are searched anew each time.
        """
        count, measures = len(self._queries), self._work.measures
        right = [self._made(others.rows[measure.role][:], measure) for measure in measures]
        for block in cells.blocks(count):
            answers = []
            for measure, theirs in zip(measures, right, strict=True):
                mine, its = self._block(block, measure).across(theirs, measure.floor, LISTED)
                both = _both(_shifted(mine, block.start, count), _shifted(its, count, block.start))
                answers.append(Answer(0, 0, both, LISTED))
            yield answers

    def _record(self, found: Sequence[tuple[Cell, list[Matches]]]) -> list[tuple[Cell, Searched]]:
        work = self._work
        file = self._parts.store.put(
            f"{work.folder}/matches",
            ".parquet",
            lambda stream: write_matches(stream, [matches for _, matches in found]),
        )
        made = [
            (
                cell,
                Searched(
                    cell.block,
                    tuple(segment.segment_id for segment in cell.segments),
                    cell.masks,
                    cell.own,
                    LISTED if cell.own else work.options.duplicates.keep_matches,
                    file,
                    number,
                ),
            )
            for number, (cell, _) in enumerate(found)
        ]
        with self._parts.catalog.begin() as conn:
            attempts.require_attempt(conn, work.batch.batch_id, work.attempt.attempt_id)
            searches.register_searches(
                conn, work.attempt.attempt_id, self._queries.digest, self._lasting(conn, made)
            )
        return made

    def _lasting(
        self, conn: Connection, made: Sequence[tuple[Cell, Searched]]
    ) -> Iterator[Searched]:
        """What others may take over.

        Of a batch that was decided meanwhile nothing: publishing may have deleted its searches.
        Nor what was compared with segments that a fail-over forgot: others have their numbers.
        """
        if batches.read_batch(conn, self._work.batch.batch_id).state.is_decided:
            return
        asked = {segment.segment_id: segment for cell, _ in made for segment in cell.segments}
        now = segments.digests_of(conn, asked.keys(), IDS)
        other = {n for n, segment in asked.items() if now.get(n) != segment.files[IDS].sha256}
        for _, each in made:
            if other.isdisjoint(each.segments):
                yield each

    def _compare(
        self, cell: Cell, without: Mapping[int, NDArray[np.int64]] = NOTHING
    ) -> list[Matches]:
        """The matches by each of the batch's measures; queries and own rows by their numbers."""
        measures = self._work.measures
        if cell.own is not None:
            return [self._within(cell.block, cell.own, measure) for measure in measures]
        group = _Group(self._parts, self._work, self._history, cell.segments, without)
        limit = self._work.options.duplicates.keep_matches
        old = None if cell.earlier is None else self._old_mask(cell, cell.earlier)
        before: list[Matches] = []
        if cell.earlier is not None and old is not None:
            file = MatchFile(self._parts.store.local(cell.earlier.file))
            before = file.matches(cell.earlier.number, len(measures))
        answers = []
        for number, measure in enumerate(measures):
            rows = self._rows(cell.block, measure)
            search = group.by(measure, rows, limit)
            if old is None:
                matches = search(np.arange(len(rows)), group.kept)
            else:
                earlier = _shifted(before[number], -cell.block.start, 0)
                matches = follow_mask(earlier, len(rows), old, group.kept, limit, search)
            answers.append(_shifted(matches, cell.block.start, 0))
        return answers

    def _within(self, block: range, own: range, measure: Measure) -> Matches:
        """Each row's nearest of the other block, from both sides."""
        left = self._block(block, measure)
        if own == block:
            return _shifted(left.within(measure.floor, LISTED), block.start, block.start)
        mine, its = left.across(self._block(own, measure), measure.floor, LISTED)
        return _both(_shifted(mine, block.start, own.start), _shifted(its, own.start, block.start))

    def _block(self, block: range, measure: Measure) -> SearchBlock:
        """A block, kept for the next cells: what a backend makes of it is made once."""
        key = (measure.role, block)
        made = self._blocks.pop(key, None)
        if made is None:
            made = self._made(self._queries.rows[measure.role][block.start : block.stop], measure)
        self._blocks[key] = made  # the last one used stands last
        while len(self._blocks) > 2 * len(self._work.measures):
            del self._blocks[next(iter(self._blocks))]
        return made

    def _made(self, rows: NDArray[Any], measure: Measure) -> SearchBlock:
        return (self._parts.hash_search() if measure.by_hash else self._own).block(rows)

    def _rows(self, block: range, measure: Measure) -> NDArray[Any]:
        """A block's rows as one array, which a backend prepares once for group after group."""
        key = (measure.role, block)
        if key not in self._asked:
            if len(self._asked) == len(self._work.measures):  # of another block
                self._asked.clear()
            self._asked[key] = self._queries.rows[measure.role][block.start : block.stop]
        return self._asked[key]

    def _old_mask(self, cell: Cell, earlier: Searched) -> NDArray[np.bool_] | None:
        """The rows that were kept when a cell was searched before; None where a mask is lost."""
        old = []
        try:
            for segment, sha256 in zip(cell.segments, earlier.masks, strict=True):
                mask = mask_of(segment)
                if mask.sha256 != sha256:
                    with self._parts.catalog.begin() as conn:
                        mask = segments.earlier_masks(conn, segment.segment_id)[sha256]
                old.append(read_mask(self._parts.store, mask, segment.rows))
        except (KeyError, FileMismatch):
            return None
        log.info("kept rows changed, searching those segments=%d", len(old))
        return np.concatenate(old)


class _Group:
    """Some segments, read: their rows are numbered through."""

    def __init__(
        self,
        parts: Parts,
        work: Work,
        backend: SearchBackend,
        group: Sequence[Segment],
        without: Mapping[int, NDArray[np.int64]],
    ) -> None:
        self._parts, self._backend = parts, backend
        hashes = {measure.role for measure in work.measures if measure.by_hash}
        wanted = {DESCRIPTORS, *backend.roles(), *hashes}
        # the same of all, save where `index rebuild` added codes since they were searched together
        there = wanted.intersection(*(segment.files for segment in group))
        self._say_what_lacks(work, group, wanted - there, hashes)

        def rows_of(segment: Segment) -> dict[str, NDArray[Any]]:
            arrays = read_roles(parts.store, segment, there)
            # a memory map holds a file descriptor, and a process may have but 1,024
            return arrays if len(group) == 1 else {r: np.array(rows) for r, rows in arrays.items()}

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(parts.store.local, [s.files[role] for s in group for role in there]))
            masks = list(threads.map(partial(read_kept, parts.store), group))
        for segment, mask in zip(group, masks, strict=True):
            if segment.segment_id in without:
                mask[without[segment.segment_id]] = False
        self.kept = np.concatenate(masks)
        # one after another: numpy parses a file's header with `ast`, which fails where threads of
        # Python 3.11 do so at once ("recursion depth mismatch", python/cpython#106905)
        read = [rows_of(segment) for segment in group]
        self._arrays = {
            # one large segment stays a memory map
            role: read[0][role] if len(read) == 1 else np.concatenate([each[role] for each in read])
            for role in there
        }

    @staticmethod
    def _say_what_lacks(
        work: Work, group: Sequence[Segment], lacking: set[str], hashes: set[str]
    ) -> None:
        which = ", ".join(str(segment.segment_id) for segment in group[:3])
        which += f" and {len(group) - 3} more" if len(group) > 3 else ""
        codes = sorted(lacking - hashes)
        if codes:
            log.info(
                "segment %s has no %s: made anew at each search; `sscd-ops index rebuild --dataset"
                " %s` stores them",
                *(which, ", ".join(codes), work.batch.dataset),
            )
        for role in sorted(lacking & hashes):
            log.info(
                "segment %s was decided without perceptual hashes (%s): its kept images are"
                " compared by descriptor alone",
                *(which, role),
            )

    def by(self, measure: Measure, everything: NDArray[Any], limit: int) -> SearchRows:
        """The best kept rows of some queries by a measure; none where the group has no such."""

        def search(rows: NDArray[np.int64], kept: NDArray[np.bool_]) -> Matches:
            # all are asked as one array, which a backend prepares once for group after group
            queries = everything if len(rows) == len(everything) else everything[rows]
            if not measure.by_hash:
                return self._backend.search(
                    queries, self._arrays[DESCRIPTORS], self._arrays, kept, measure.floor, limit
                )
            if measure.role not in self._arrays:
                return no_matches()
            hashes = self._arrays[measure.role]
            return self._parts.hash_search().search(queries, hashes, kept, measure.floor, limit)

        return search


def _shifted(matches: Matches, query: int, reference: int) -> Matches:
    return Matches(matches.query + query, matches.reference + reference, matches.similarity)


def _both(left: Matches, right: Matches) -> Matches:
    return Matches(
        np.concatenate([left.query, right.query]),
        np.concatenate([left.reference, right.reference]),
        np.concatenate([left.similarity, right.similarity]),
    )
