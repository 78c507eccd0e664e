"""Which samples are decided where quarantined ones are read again. Pure; numpy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sscd_ops.model import Quarantined

COLUMNS = ("position", "sample_id", "key")
"""The columns of a manifest that finding them needs."""

KNOWN, ANEW = -2, -1
"""In place of a quarantined row's number: of a sample that is not decided, and of one that is and
takes no row's place."""


@dataclass(frozen=True)
class Listed:
    """What is read again of a source shard, as (source, relative URI) names it.

    ``rows``: its quarantined rows. ``known``: ids of all samples that were ever read there.
    ``has_fault``: it has a fault of its own that is not read again.
    """

    rows: Sequence[Quarantined]
    known: Collection[bytes]
    has_fault: bool


def find_again(listed: Listed, manifest: pa.Table) -> NDArray[np.int64]:
    """Which row each sample takes the place of: its number in ``listed.rows``, or KNOWN or ANEW.

    A quarantined sample is found by its id; where its image or caption is another now, and so its
    id, by place and key. Where the shard's own fault is read again, samples that nobody could read
    before are decided too. All others have a verdict, which stays.

    Args:
        listed: what is read again of this source shard.
        manifest: ``COLUMNS`` of it, as it is read now.

    Returns:
        int64 (n,).
    """
    positions = manifest.column("position").to_pylist()
    ids = manifest.column("sample_id").to_pylist()
    keys = manifest.column("key").to_pylist()
    answer = np.full(len(ids), KNOWN, np.int64)
    at_id = {number: at for at, number in enumerate(ids)}
    at_place = {place: at for at, place in enumerate(positions)}
    is_opened = any(row.sample_id is None for row in listed.rows)
    moved = []
    for number, row in enumerate(listed.rows):
        if row.sample_id is None:
            continue
        at = at_id.get(row.sample_id)
        if at is None:
            moved.append(number)
        else:
            answer[at] = number
    for number in moved:
        at = at_place.get(listed.rows[number].position)
        if at is None or answer[at] != KNOWN or ids[at] in listed.known:
            continue
        if keys[at] == listed.rows[number].key:
            answer[at] = number
    for at in np.flatnonzero(answer == KNOWN).tolist():
        if positions[at] < 0:
            answer[at] = KNOWN if listed.has_fault else ANEW
        elif is_opened and ids[at] not in listed.known:
            answer[at] = ANEW
    return answer
