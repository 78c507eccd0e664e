"""Which files below the root are named: a row names them, and somebody may still read them.

`vacuum` leaves these alone, and verify misses no other one. A row alone is not enough: rows stay as
the record where nobody reads their files any more. Once a file is not named it never is again, save
by a new registration (``catalog.naming``), which is what `vacuum` builds on.

- **shards**: in a snapshot that was not expired, or waiting for their commit;
- **archived shards**: written, and not let go;
- **snapshot files**: of those that were not expired;
- **segments, masks**: of the newest generation, and of those since the oldest one that a batch
  under way may have begun with. Not segments that were merged, nor masks that another follows;
- **manifests, descriptors**: of the current attempt of every batch;
- **candidate files**: while their searches are there, of current attempts;
- **work lists**: of current attempts that are not decided.

A dry run is a batch under way until it is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy.engine import Connection

from sscd_ops.catalog.output_shards import READABLE
from sscd_ops.catalog.shards import Role
from sscd_ops.catalog.sql import need_file, rows, tuples
from sscd_ops.model import UNDER_WAY, BatchState, StoredFile

_UNDECIDED = [*UNDER_WAY, BatchState.HELD]

_OF_STEPS = (
    "SELECT f.*, b.batch_id, b.decision_id IS NOT NULL AS decided FROM ("
    " SELECT 'manifest' AS role, manifest AS file, attempt_id, shard_id"
    " FROM sscd_ops.source_shards WHERE manifest IS NOT NULL"
    " UNION ALL SELECT 'descriptors', descriptors, attempt_id, shard_id"
    " FROM sscd_ops.source_shards WHERE descriptors IS NOT NULL"
    " UNION ALL SELECT 'work list', o.work_list, o.attempt_id, 0 FROM sscd_ops.attempts o"
    " JOIN sscd_ops.batches u ON u.attempt_id = o.attempt_id AND u.state = ANY(:undecided)"
    " WHERE o.work_list IS NOT NULL"
    " UNION ALL SELECT DISTINCT 'matches', file, attempt_id, CAST(0 AS bigint)"
    " FROM sscd_ops.searches) f"
    " JOIN sscd_ops.batches b ON b.attempt_id = f.attempt_id AND b.state <> :given_up"
    " WHERE b.dataset_id = :d"
)
"""What steps of a batch wrote for later ones: of its attempt, unless that was abandoned."""
_OF_INDEX = (
    "SELECT m.mask, s.files FROM sscd_ops.segment_masks m JOIN sscd_ops.segments s"
    " USING (segment_id) WHERE s.dataset_id = :d AND (m.generation_to IS NULL OR m.generation_to >"
    " (SELECT min(a.pinned_generation) FROM sscd_ops.attempts a JOIN sscd_ops.batches b"
    " ON b.attempt_id = a.attempt_id WHERE b.dataset_id = :d AND b.state = ANY(:under_way)))"
)
_ALL = (
    f"WITH steps AS ({_OF_STEPS}), index AS ({_OF_INDEX})"
    " SELECT file ->> 'name' FROM steps"
    " UNION ALL SELECT mask ->> 'name' FROM index"
    " UNION ALL SELECT value ->> 'name' FROM index, jsonb_each(files)"
    " UNION ALL SELECT s.file ->> 'name' FROM sscd_ops.snapshots s"
    " WHERE s.dataset_id = :d AND s.expired_at IS NULL"
    " UNION ALL SELECT value ->> 'name' FROM sscd_ops.output_shards o"
    " JOIN sscd_ops.decisions x USING (decision_id), jsonb_each(o.files)"
    f" WHERE x.dataset_id = :d AND o.files IS NOT NULL AND NOT x.lost AND {READABLE}"
    " UNION ALL SELECT value ->> 'name' FROM sscd_ops.archived_shards a"
    " JOIN sscd_ops.decisions x USING (decision_id), jsonb_each(a.files)"
    " WHERE x.dataset_id = :d AND a.files IS NOT NULL AND NOT x.lost"
)


@dataclass(frozen=True)
class StepFile:
    """A file that a step of a batch wrote for a later one.

    ``role``: ``manifest``, ``descriptors``, ``work list`` or ``matches``. ``shard_id``: 0 for the
    last two. ``decided``: the batch's decision is in force.
    """

    role: Role | Literal["work list", "matches"]
    file: StoredFile
    batch_id: int
    attempt_id: int
    shard_id: int
    decided: bool


def step_files(conn: Connection, dataset_id: int) -> list[StepFile]:
    """The named manifests, work lists, descriptor and candidate files of a dataset, by batch."""
    found = rows(
        conn,
        f"{_OF_STEPS} ORDER BY b.batch_id, f.role, f.shard_id, f.file ->> 'name'",
        **_states(dataset_id),
    )
    return [
        StepFile(
            r["role"],
            need_file(r["file"]),
            r["batch_id"],
            r["attempt_id"],
            r["shard_id"],
            bool(r["decided"]),
        )
        for r in found
    ]


def all_names(conn: Connection, dataset_id: int) -> set[str]:
    """The names of all named files of a dataset, relative to the root."""
    asked = {**_states(dataset_id), "under_way": list(UNDER_WAY)}
    return {name for (name,) in tuples(conn, _ALL, **asked)}


def _states(dataset_id: int) -> dict[str, object]:
    return {"d": dataset_id, "undecided": _UNDECIDED, "given_up": BatchState.ABANDONED}
