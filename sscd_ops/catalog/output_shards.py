"""Output shards: what decisions plan and what is written of it, and which are in a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import starmap
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from sscd_ops.catalog.naming import files_json
from sscd_ops.catalog.placements import Span
from sscd_ops.catalog.sql import files_of, run, tuples, value
from sscd_ops.model import StoredFile


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """An output shard of a decision: as many slots in a row as it has samples.

    ``name``: of the tar, relative to the root. ``slot``: the first one.
    """

    number: int
    form: str
    samples: int
    name: str
    slot: int


@dataclass(frozen=True, slots=True)
class OutputShard:
    """A registered output shard.

    ``files``: by role (``tar``, ``parquet``, ``stats``), none until written. ``name``: of the tar,
    relative to the root. ``turn``: what is not kept at it is not in the shard; it is later than
    ``decided_turn``, its decision's, where the shard took the place of another one.
    """

    files: Mapping[str, StoredFile]
    output_id: int
    decision_id: int
    number: int
    plan: str
    form: str
    samples: int
    name: str
    turn: int
    decided_turn: int


_COLUMNS = (
    "o.files, o.output_id, o.decision_id, o.number, o.plan, o.form, o.samples, o.name, o.turn,"
    " x.turn AS decided_turn"
    " FROM sscd_ops.output_shards o JOIN sscd_ops.decisions x USING (decision_id)"
)
"""The fields of ``OutputShard``, in order."""


def _shards(conn: Connection, sql: str, **parameters: Any) -> list[OutputShard]:
    return [
        OutputShard(files_of(files), *others) for files, *others in tuples(conn, sql, **parameters)
    ]


def add_plan(
    conn: Connection, decision_id: int, turn: int, plan: str, planned: Iterable[PlannedShard]
) -> None:
    """Register the output shards that a decision plans, which are in no snapshot yet."""
    for shard in planned:
        slots = [(decision_id, shard.slot, shard.slot + shard.samples)]
        _add(
            conn,
            shard,
            slots,
            None,
            decision_id=decision_id,
            turn=turn,
            plan=plan,
            files=None,
            replaces=False,
        )


def replace_shards(
    conn: Connection,
    output_ids: Sequence[int],
    snapshot: int,
    *,
    shard: OutputShard | None,
    slots: Iterable[Span],
) -> None:
    """From a snapshot on, another shard holds what some held.

    One that was in no snapshot yet never is in any: its range is empty.

    Args:
        conn: an open transaction, with the dataset's lock.
        output_ids: the shards that are replaced.
        snapshot: the snapshot, registered.
        shard: the other one, whose ``output_id`` is not read; None where nothing is left of them.
        slots: decision, first slot and end of what that one holds, in its order.
    """
    run(
        conn,
        "UPDATE sscd_ops.placements SET snapshot_to = :s WHERE output_id = ANY(:o)"
        " AND snapshot_to IS NULL",
        s=snapshot,
        o=list(output_ids),
    )
    if shard is not None:
        _add(conn, shard, slots, snapshot, files=files_json(conn, shard.files), replaces=True)


def _add(
    conn: Connection,
    shard: PlannedShard | OutputShard,
    slots: Iterable[Span],
    snapshot: int | None,
    **others: Any,
) -> None:
    """Insert a row of a shard's fields, save for the ``others``, and its placements."""
    output_id = value(
        conn,
        "INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name, turn,"
        " files, replaces) VALUES (:decision_id, :number, :plan, :form, :samples, :name, :turn,"
        " CAST(:files AS jsonb), :replaces) RETURNING output_id",
        **{**asdict(shard), **others},
    )
    place(conn, output_id, slots, snapshot)


def place(
    conn: Connection,
    output_id: int,
    slots: Iterable[Span],
    snapshot: int | None = None,
) -> None:
    """Say which slots a shard holds: decision, first slot and end, in its order."""
    position = 0
    for decision_id, start, end in slots:
        run(
            conn,
            "INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to, position,"
            " snapshot_from) VALUES (:o, :x, :a, :b, :p, :s)",
            o=output_id,
            x=decision_id,
            a=start,
            b=end,
            p=position,
            s=snapshot,
        )
        position += end - start


def plan_anew(
    conn: Connection,
    shard: OutputShard,
    *,
    plan: str,
    name: str,
    samples: int,
    slots: Iterable[Span],
    written: bool = False,
) -> bool:
    """Plan a shard that is in no snapshot yet with other slots and another name.

    Answers False, and changes nothing, where it was planned anew meanwhile, or written and not to
    be given up although it is ``written``.
    """
    changed = run(
        conn,
        "UPDATE sscd_ops.output_shards SET plan = :p, name = :n, samples = :s, files = NULL"
        " WHERE output_id = :o AND (files IS NULL OR :w) AND name = :before"
        " AND NOT EXISTS (SELECT FROM sscd_ops.placements p WHERE p.output_id = :o"
        " AND (p.snapshot_from IS NOT NULL OR p.snapshot_to IS NOT NULL))",
        w=written,
        p=plan,
        n=name,
        s=samples,
        o=shard.output_id,
        before=shard.name,
    )
    if changed:
        run(conn, "DELETE FROM sscd_ops.placements WHERE output_id = :o", o=shard.output_id)
        place(conn, shard.output_id, slots)
    return changed == 1


def planned_shards(conn: Connection, decision_id: int) -> list[OutputShard]:
    """The output shards that a decision planned, by number, with their files where written.

    Not those that replaced one of them later.
    """
    return _shards(
        conn,
        f"SELECT {_COLUMNS} WHERE o.decision_id = :x AND NOT o.replaces ORDER BY o.number",
        x=decision_id,
    )


def register_output(conn: Connection, output_id: int, files: Mapping[str, StoredFile]) -> bool:
    """Name the files of an output shard; the first registration wins (equal bytes anyway).

    Answers False where it was planned anew meanwhile, under another name.
    """
    run(
        conn,
        "UPDATE sscd_ops.output_shards SET files = CAST(:f AS jsonb)"
        " WHERE output_id = :o AND files IS NULL AND name = :n",
        f=files_json(conn, files),
        o=output_id,
        n=files["tar"].name,
    )
    return is_planned(conn, output_id, files["tar"].name)


def is_planned(conn: Connection, output_id: int, name: str) -> bool:
    """Whether an output shard still has the name, and so the samples, that it was planned with."""
    planned = "SELECT name = :n FROM sscd_ops.output_shards WHERE output_id = :o"
    return bool(value(conn, planned, o=output_id, n=name))


def files_of_output(conn: Connection, output_id: int) -> Mapping[str, StoredFile]:
    """The registered files of an output shard by role; none where it was not written."""
    return files_of(
        value(conn, "SELECT files FROM sscd_ops.output_shards WHERE output_id = :o", o=output_id)
    )


_OF_DATASET = " WHERE x.dataset_id = :d AND x.turn IS NOT NULL"
_IN_ORDER = " ORDER BY x.turn, f.slot, o.output_id"
"""In turn order, whatever order batches commit in, by first slots. ``in_order`` says the same."""
_LISTED = (
    "(SELECT p.output_id, p.slot_from AS slot FROM sscd_ops.placements p WHERE p.position = 0"
    " AND p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s)"
    " UNION ALL SELECT p.output_id, p.slot_from FROM sscd_ops.output_shards added"
    " JOIN sscd_ops.placements p USING (output_id) WHERE added.decision_id = ANY(:x)"
    " AND p.position = 0 AND p.snapshot_from IS NULL AND p.snapshot_to IS NULL) f"
)
"""Shards of a snapshot, and those that decisions add: their numbers, and the first slot of each."""


def is_listed(dataset: str) -> str:
    """A condition on placements ``p``: a readable snapshot of a dataset, a column, lists it."""
    return (
        f"EXISTS (SELECT FROM sscd_ops.snapshots n WHERE n.dataset_id = {dataset}"
        " AND n.expired_at IS NULL AND n.snapshot >= p.snapshot_from"
        " AND (p.snapshot_to IS NULL OR n.snapshot < p.snapshot_to))"
    )


_IS_READ = f"(p.snapshot_from IS NULL AND p.snapshot_to IS NULL OR {is_listed('x.dataset_id')})"
"""A condition on placements ``p`` of decisions ``x``: as ``READABLE``."""
READABLE = (
    f"EXISTS (SELECT FROM sscd_ops.placements p WHERE p.output_id = o.output_id AND {_IS_READ})"
)
"""A condition on output shards ``o`` of decisions ``x``: readable, or waiting for their commit."""


def written_shards(conn: Connection, dataset_id: int) -> list[OutputShard]:
    """The shards of all readable snapshots and those that wait for their commit, by turn and slot.

    Not those that only expired snapshots list, nor those replaced before they were in any.
    """
    return _shards(
        conn,
        f"SELECT {_COLUMNS} JOIN sscd_ops.placements p ON p.output_id = o.output_id"
        f" AND p.position = 0{_OF_DATASET} AND o.files IS NOT NULL AND {_IS_READ}"
        " ORDER BY x.turn, p.slot_from, o.output_id",
        d=dataset_id,
    )


def live_shards(conn: Connection, dataset_id: int, snapshot: int) -> list[OutputShard]:
    """The shards of a snapshot, by turn and slot."""
    return _shards(
        conn,
        f"SELECT {_COLUMNS} JOIN {_LISTED} USING (output_id){_OF_DATASET}{_IN_ORDER}",
        d=dataset_id,
        s=snapshot,
        x=[],
    )


def shards_of_numbers(conn: Connection, output_ids: Sequence[int]) -> dict[int, OutputShard]:
    """Some shards, by number."""
    found = _shards(conn, f"SELECT {_COLUMNS} WHERE o.output_id = ANY(:o)", o=list(output_ids))
    return {shard.output_id: shard for shard in found}


def of_decision(conn: Connection, shard: OutputShard, decision_id: int) -> OutputShard:
    """A shard as that of another decision, of which its first slot is by now."""
    turn = value(conn, "SELECT turn FROM sscd_ops.decisions WHERE decision_id = :x", x=decision_id)
    return replace(shard, decision_id=decision_id, decided_turn=turn)


# ---------------------------------------------------------------- what a snapshot lists


class ListedShard(NamedTuple):
    """What a snapshot says of a shard; ``OutputShard`` says the rest.

    A tuple with no more than that: a snapshot may list 100,000 of them, every night.
    ``sha256``, ``bytes``: of the tar, None until it is written. ``slot``: its first one, which is
    of its decision.
    """

    output_id: int
    decision_id: int
    number: int
    name: str
    form: str
    samples: int
    bytes: int | None
    sha256: str | None
    decided_turn: int
    slot: int


def in_order(shards: Iterable[ListedShard]) -> list[ListedShard]:
    """Shards as a snapshot lists them: by the turn and number of the first slot of each."""
    return sorted(shards, key=lambda shard: (shard.decided_turn, shard.slot))


def listed_shards(
    conn: Connection, dataset_id: int, snapshot: int, adding: Sequence[int] = ()
) -> list[ListedShard]:
    """The shards of a snapshot, by turn and slot; with those that some decisions add."""
    found = tuples(
        conn,
        "SELECT o.output_id, o.decision_id, o.number, o.name, o.form, o.samples,"
        " CAST(o.files #>> '{tar,bytes}' AS bigint) AS bytes, o.files #>> '{tar,sha256}' AS sha256,"
        " x.turn AS decided_turn, f.slot"
        f" FROM {_LISTED} JOIN sscd_ops.output_shards o USING (output_id)"
        f" JOIN sscd_ops.decisions x USING (decision_id){_OF_DATASET}{_IN_ORDER}",
        d=dataset_id,
        s=snapshot,
        x=list(adding),
    )
    return list(starmap(ListedShard, found))


def listed(shard: OutputShard, slot: int = 0) -> ListedShard:
    """What a snapshot says of a written shard; ``slot``: its first, where it is put in order."""
    tar = shard.files["tar"]
    return ListedShard(
        shard.output_id,
        shard.decision_id,
        shard.number,
        shard.name,
        shard.form,
        shard.samples,
        tar.bytes,
        tar.sha256,
        shard.decided_turn,
        slot,
    )
