"""Reading quarantined samples again: what was asked for, and which samples of a batch those are.

A supplement that does so owns no source shard. It decides the samples that its night quarantined
when it was planned and that are quarantined now; all others in their source shards are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import lookups, read_again
from sscd_ops.core.manifest import read_manifest
from sscd_ops.core.read_again import COLUMNS, KNOWN, Listed, find_again
from sscd_ops.core.rows import Replaced
from sscd_ops.errors import UsageError
from sscd_ops.model import Batch, Fault, FoundShard, Quarantined, SourceShard
from sscd_ops.steps.ingest import manifest_of
from sscd_ops.steps.parts import Parts, Work

Place = tuple[str, str]
"""Source and relative URI of a source shard."""


def codes_asked(
    *, supplement: bool, quarantined: bool, codes: Sequence[str]
) -> tuple[str, ...] | None:
    """The codes that are read again, none for all of them; None where nothing is.

    Raises:
        UsageError: an unknown code, or one that reading again does not decide; codes without
            ``quarantined``, or that without ``supplement``.
    """
    if codes and not quarantined:
        raise UsageError("--codes says which quarantined samples are read again: add --quarantined")
    if quarantined and not supplement:
        raise UsageError("quarantined samples are read again by a supplement: add --supplement")
    for code in codes:
        if code == Fault.NEAR_WITHDRAWN:
            raise UsageError(
                "near_withdrawn is no fault that reading again could mend: such an image was"
                " removed because of one that was withdrawn since, and stays so until a person"
                " keeps it"
            )
        if code not in set(Fault):
            known = ", ".join(fault for fault in Fault if fault is not Fault.NEAR_WITHDRAWN)
            raise UsageError(f"no quarantine code {code!r}; there are: {known}")
    return tuple(sorted({str(code) for code in codes})) if quarantined else None


def is_asked(row: Quarantined, codes: Sequence[str]) -> bool:
    """Whether a quarantined row is read again by some codes, none meaning all."""
    return not codes or row.code in codes


# ---------------------------------------------------------------- which files


@dataclass(frozen=True)
class Wanted:
    """What there is to read again as of a turn.

    ``found``: the source shards that hold it, of those that are there. ``samples``: how many
    quarantined samples, and faults of whole shards, those hold; ``gone``: how many others do.
    ``detached``: whether the night has samples in months that were detached.
    """

    turn: int
    found: list[FoundShard]
    samples: int
    gone: int
    detached: bool


def wanted(
    conn: Connection, batch: Batch, codes: Sequence[str], turn: int, found: Sequence[FoundShard]
) -> Wanted:
    """Of the files of a night, those with something to read again."""
    count: dict[Place, int] = {}
    for row in read_again.quarantined(conn, batch.dataset_id, batch.interval, turn):
        if is_asked(row, codes):
            place = row.source, row.relative_uri
            count[place] = count.get(place, 0) + 1
    mine = [shard for shard in found if (shard.source, shard.relative_uri) in count]
    there = {(shard.source, shard.relative_uri) for shard in mine}
    samples = sum(count[place] for place in there)
    detached = read_again.has_detached(conn, batch.dataset_id, batch.interval)
    return Wanted(turn, mine, samples, sum(count.values()) - samples, detached)


# ---------------------------------------------------------------- which samples


@dataclass(frozen=True)
class Again:
    """What a batch reads again, as of a turn."""

    listed: dict[Place, Listed]

    def find(
        self, parts: Parts, work: Work, shard: SourceShard
    ) -> tuple[Listed, NDArray[np.int64]]:
        """What is read again of a source shard, and ``find_again`` of its manifest."""
        nothing = Listed([], frozenset(), has_fault=False)
        listed = self.listed.get((shard.source, shard.relative_uri), nothing)
        table = read_manifest(manifest_of(parts, work, shard), COLUMNS)
        return listed, find_again(listed, table)

    def replaced(
        self, parts: Parts, work: Work, registered: Sequence[SourceShard]
    ) -> tuple[NDArray[np.bool_], Replaced]:
        """Of all samples of a batch, in its order: which are decided, and whose rows they take.

        Returns:
            bool (n,), and the rows that are none any more.
        """
        decided = [np.empty(0, bool)]
        rows: list[Quarantined] = []
        by: list[int] = []
        start = 0
        for shard in registered:
            listed, found = self.find(parts, work, shard)
            decided.append(found != KNOWN)
            for at in np.flatnonzero(found >= 0).tolist():
                rows.append(listed.rows[found[at]])
                by.append(start + at)
            # also where the fault is gone: what it said of the shard is said no longer
            for row in listed.rows:
                if row.sample_id is None:
                    rows.append(row)
                    by.append(-1)
            start += len(found)
        return np.concatenate(decided), Replaced(rows, np.array(by, np.int64))


def again_of(conn: Connection, work: Work, turn: int) -> Again | None:
    """What a batch reads again as of a turn; None where it is an ordinary one.

    What was quarantined after it was planned is left to the next supplement, so that its work list
    never lacks an image.
    """
    codes = work.attempt.read_again
    if codes is None:
        return None
    batch, pinned = work.batch, work.attempt.pinned_turn
    rows = read_again.quarantined(conn, batch.dataset_id, batch.interval, turn)
    if turn != pinned:
        before = read_again.quarantined(conn, batch.dataset_id, batch.interval, pinned)
        planned = {row.place for row in before if is_asked(row, codes)}
    else:
        planned = {row.place for row in rows if is_asked(row, codes)}
    listed: dict[Place, list[Quarantined]] = {}
    faulty = set()
    for row in rows:
        place = row.source, row.relative_uri
        if row.place in planned:
            listed.setdefault(place, []).append(row)
        elif row.sample_id is None:
            faulty.add(place)
    known = lookups.known_samples(conn, batch.dataset_id, list(listed), turn)
    return Again({place: Listed(mine, known, place in faulty) for place, mine in listed.items()})
