"""survey: once all manifests are there, what is new, and what later steps go by.

It looks at the whole night, so that the mapped tasks after it need not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sscd_ops.catalog import attempts, lookups, segments, shards
from sscd_ops.catalog.attempts import Survey
from sscd_ops.core.decide import is_faulty
from sscd_ops.core.descriptor_file import fixed_bytes
from sscd_ops.core.exact import first_places
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.read_again import KNOWN
from sscd_ops.core.work_list import read_work_list, write_work_list
from sscd_ops.errors import BatchNotRunnable, FileMismatch
from sscd_ops.model import SourceShard, StoredFile
from sscd_ops.options import Step
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Stopwatch, Work, load_work, with_abandon
from sscd_ops.steps.reading_again import Again, again_of
from sscd_ops.steps.reports import Report, in_line
from sscd_ops.steps.ruling import COLUMNS, Ruling

log = logging.getLogger(__name__)

PAIRS_A_TASK = 4 * 10**9
"""Pairs that a match task compares: about a minute of one core by ``flat`` at 512 dimensions.

docs/performance.md: 2 * 10**9 pairs took match 12 s of two cores, 5 * 10**9 leader 36 s.
"""
_LOOKED_UP = 100_000
"""Images that are looked up at once: bounds memory, and how long a transaction is open."""


@dataclass(frozen=True)
class SurveyReport(Report):
    """What survey found. ``parts`` are the numbers that match works on."""

    batch_id: int
    parts: list[int]
    search: str
    search_within: str
    """The search backends: for history, and for the night against itself."""
    images: int = 0
    """The night's new images: each is embedded."""
    history: int = 0
    """Kept images of earlier turns, which they are compared with."""
    answered: bool = False
    """Nothing was done: the batch was surveyed before."""
    seconds: float = 0.0
    step: Step = field(default="survey", init=False)

    @property
    def counts(self) -> dict[str, int]:
        """The report's numbers."""
        found = {} if self.answered else {"images": self.images, "history": self.history}
        return {**found, "match_tasks": len(self.parts)}

    def _figures(self) -> dict[str, Any]:
        done = {"seconds": round(self.seconds, 3), "answered": self.answered}
        return {**done, **self._frozen(), **self.counts}

    def _line(self) -> str:
        said = " (answered from the catalog)" if self.answered else ""
        return f"{in_line(self._frozen() | self.counts)} seconds={self.seconds:.2f}{said}"

    def _frozen(self) -> dict[str, str]:
        return {"search": self.search, "search_within": self.search_within}


@with_abandon
def run(parts: Parts, batch_id: int) -> SurveyReport:
    """Write the work list of the night; freeze how it is searched, and in how many tasks.

    The work list of a source shard is a function of the batch's manifests and the turn pinned at
    plan: its readable images without a verdict as of that turn, each at its first place in the
    batch's (source shard, position) order, places of samples that a rule stopped then aside. It
    depends on no source shard after it: where some were
    added the list is made anew, and what was embedded by the one before stays right. The search
    backends stay as they were frozen first.

    Raises:
        BatchNotRunnable: a manifest of the batch is missing: ingest first.
        StaleAttempt: the batch was abandoned meanwhile.
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    is_decided, known = work.batch.state.is_decided, work.attempt.survey
    if is_decided or known is not None:
        if known is not None and not is_decided:
            _file(parts, work, known.work_list)
        return replace(_report(work), answered=True, seconds=watch.seconds)
    images, history = _survey(parts, work)
    made = _report(load_work(parts, batch_id))
    return replace(made, images=images, history=history, seconds=watch.seconds)


def _report(work: Work) -> SurveyReport:
    made = work.survey
    tasks = list(range(made.match_tasks))
    return SurveyReport(work.batch.batch_id, tasks, made.search, made.search_within)


def match_tasks(new: int, history: int, most: int) -> int:
    """How many tasks match is split over: 1 to ``most``, by the pairs that are compared."""
    pairs = new * (2 * history + new) // 2
    return max(1, min(most, -(-pairs // PAIRS_A_TASK)))


def work_lists(
    parts: Parts, work: Work, todo: Collection[SourceShard]
) -> dict[int, NDArray[np.int32]]:
    """The positions to embed of some source shards, by shard number.

    Raises:
        BatchNotRunnable: the batch was not surveyed, or not since one of them was added.
    """
    path = _file(parts, work, work.survey.work_list)
    found = read_work_list(path, [shard.ordinal for shard in todo])
    for shard in todo:
        if shard.ordinal not in found:
            raise BatchNotRunnable(
                f"source shard {shard.uri} was added to batch {work.batch.batch_id} after survey:"
                " run ingest and survey first"
            )
    return {shard.shard_id: found[shard.ordinal] for shard in todo}


def _file(parts: Parts, work: Work, file: StoredFile) -> Path:
    """The work list as a local file; made anew where it is lost or damaged."""
    try:
        return parts.store.local(file)
    except FileMismatch as damage:
        batch, attempt_id = work.batch.batch_id, work.attempt.attempt_id
        log.warning("making the work list anew batch=%s damage=%s", batch, damage)
        with parts.catalog.begin() as conn:
            registered = shards.shards_of(conn, attempt_id)
        again = _put(parts, work, registered, _new_images(parts, work, registered))
        with parts.catalog.begin() as conn:
            attempts.require_attempt(conn, batch, attempt_id)
            attempts.replace_work_list(conn, attempt_id, file, again)
        return parts.store.local(again)


# ---------------------------------------------------------------- a survey


def _survey(parts: Parts, work: Work) -> tuple[int, int]:
    """Survey a batch; how many images are new, and what they are compared with."""
    batch, attempt = work.batch, work.attempt
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, attempt.attempt_id)
        history = segments.history_rows(conn, batch.dataset_id, attempt.pinned_generation)
    found = _new_images(parts, work, registered)
    new = sum(map(len, found))
    wanted = work.options.duplicates.search
    made = Survey(
        parts.choose_search(wanted, history + new, attempt.threshold),
        parts.choose_search(wanted, new, attempt.threshold),
        match_tasks(new, history, work.options.airflow.max_tasks),
        _put(parts, work, registered, found),
    )
    with parts.catalog.begin() as conn:
        attempts.require_attempt(conn, batch.batch_id, attempt.attempt_id)
        if len(shards.shards_of(conn, attempt.attempt_id)) != len(registered):
            raise BatchNotRunnable(
                f"source shards were added to batch {batch.batch_id} while it was surveyed: run"
                " ingest and survey again"
            )
        attempts.register_survey(conn, attempt.attempt_id, made)
    return new, history


def _put(
    parts: Parts, work: Work, registered: Sequence[SourceShard], found: Sequence[NDArray[np.int32]]
) -> StoredFile:
    ordinals = [shard.ordinal for shard in registered]
    return parts.store.put(
        f"{work.folder}/worklists",
        ".parquet",
        lambda stream: write_work_list(stream, ordinals, found),
    )


def _new_images(
    parts: Parts, work: Work, registered: Sequence[SourceShard]
) -> list[NDArray[np.int32]]:
    """The work list of each source shard: int32 (k,), ascending positions."""
    positions: list[NDArray[np.int32]] = []
    pieces: list[NDArray[np.uint8]] = []
    ruling = Ruling(parts, work.batch.dataset_id, work.attempt.pinned_turn)
    with parts.catalog.read() as conn:
        again = again_of(conn, work, work.attempt.pinned_turn)
    parts.progress.start(f"survey {work.batch.dataset}", len(registered))
    for shard in registered:
        table = _readable(parts, work, shard, ruling, again)
        positions.append(table.column("position").to_numpy())
        pieces.append(fixed_bytes(table.column("image_sha256"), 32))
        parts.progress.advance()
    parts.progress.done()
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    digests = _joined(pieces)
    is_new = first_places(digests)
    _leave_known(parts, work, digests, is_new)
    return [mine[is_new[end - len(mine) : end]] for mine, end in zip(positions, ends, strict=True)]


def _readable(
    parts: Parts, work: Work, shard: SourceShard, ruling: Ruling, again: Again | None
) -> pa.Table:
    """The samples of a shard's manifest that carry a picture to be embedded."""
    path = manifest_of(parts, work, shard)
    columns = ["position", "image_sha256", "code"]
    table = read_manifest(path, columns=[*columns, *(COLUMNS if ruling else ())])
    readable = table.column("code").is_null().to_numpy()
    if again is not None:
        readable &= again.find(parts, work, shard)[1] != KNOWN
    table = table.filter(pa.array(readable))
    if not ruling:
        return table
    return table.filter(pa.array(ruling.stopped(shard.source, table).order == 0))


def _joined(pieces: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """All digests as one array; the pieces are let go one by one, to hold them once."""
    joined = np.empty((sum(map(len, pieces)), 32), np.uint8)
    end = len(joined)
    while pieces:
        piece = pieces.pop()
        joined[end - len(piece) : end] = piece
        end -= len(piece)
    return joined


def _leave_known(
    parts: Parts, work: Work, digests: NDArray[np.uint8], is_new: NDArray[np.bool_]
) -> None:
    """Take images with a verdict as of the pinned turn out of the new ones.

    Where quarantined samples are read again, those with a fault are new.
    """
    asked = np.flatnonzero(is_new)
    for start in range(0, len(asked), _LOOKED_UP):
        rows = asked[start : start + _LOOKED_UP]
        # one transaction each: a large look-up makes a table, whose locks stay until its end
        with parts.catalog.begin() as conn:
            known = lookups.known_images(
                conn, work.batch.dataset_id, digests[rows], work.attempt.pinned_turn
            )
        if work.attempt.read_again is not None:
            known = known.take(~is_faulty(known))
        is_new[rows[known.row]] = False
