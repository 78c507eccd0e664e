"""Output shards and snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.sql import file_json, files_json, row, rows, run, value
from sscd_ops.model import Batch, StoredFile


def add_plan(
    conn: Connection, decision_id: int, plan: str, planned: Iterable[tuple[int, str, int, str]]
) -> None:
    """Register the planned output shards: (number, form, samples, name of the tar)."""
    for number, form, samples, name in planned:
        run(
            conn,
            "INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name)"
            " VALUES (:x, :n, :p, :f, :s, :name)",
            x=decision_id,
            n=number,
            p=plan,
            f=form,
            s=samples,
            name=name,
        )


def output_shards(conn: Connection, decision_id: int) -> list[Mapping[str, Any]]:
    """The planned output shards of a decision by number, with their files where written."""
    return rows(
        conn,
        "SELECT * FROM sscd_ops.output_shards WHERE decision_id = :x ORDER BY number",
        x=decision_id,
    )


def samples_of_output(conn: Connection, decision_id: int, number: int) -> list[Mapping[str, Any]]:
    """The kept samples of one output shard in published order: source shard and position."""
    return rows(
        conn,
        "SELECT s.sample_id, s.shard_id, s.position, s.key, s.image_sha256, s.width, s.height,"
        " s.caption, s.meta, sh.source, sh.relative_uri, sh.ordinal FROM sscd_ops.decisions d"
        " JOIN sscd_ops.samples s ON s.month = d.month AND s.decision_id = d.decision_id"
        " JOIN sscd_ops.source_shards sh USING (shard_id)"
        " WHERE d.decision_id = :x AND s.output_shard = :n AND s.verdict = 'kept'"
        " ORDER BY sh.ordinal, s.position",
        x=decision_id,
        n=number,
    )


def register_output(
    conn: Connection, decision_id: int, number: int, files: Mapping[str, StoredFile]
) -> None:
    """Name the files of an output shard; the first registration wins (equal bytes anyway)."""
    run(
        conn,
        "UPDATE sscd_ops.output_shards SET files = CAST(:f AS jsonb)"
        " WHERE decision_id = :x AND number = :n AND files IS NULL",
        f=files_json(files),
        x=decision_id,
        n=number,
    )


def files_of_output(conn: Connection, decision_id: int, number: int) -> Any:
    """The registered files of an output shard; None where it was not written."""
    return value(
        conn,
        "SELECT files FROM sscd_ops.output_shards WHERE decision_id = :x AND number = :n",
        x=decision_id,
        n=number,
    )


def written_shards(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """The shards of all snapshots and those that wait for their commit, by turn and number."""
    return rows(
        conn,
        "SELECT o.*, b.batch_id FROM sscd_ops.output_shards o"
        " JOIN sscd_ops.batches b ON b.decision_id = o.decision_id"
        " WHERE b.dataset_id = :d AND o.files IS NOT NULL ORDER BY b.turn, o.number",
        d=dataset_id,
    )


def live_shards(conn: Connection, dataset_id: int, snapshot: int) -> list[Mapping[str, Any]]:
    """The shards of a snapshot, by turn and number."""
    return rows(
        conn,
        "SELECT o.*, b.batch_id, b.turn, b.label, b.supplement FROM sscd_ops.output_shards o"
        " JOIN sscd_ops.batches b ON b.decision_id = o.decision_id"
        " WHERE b.dataset_id = :d AND o.snapshot_from <= :s"
        " AND (o.snapshot_to IS NULL OR o.snapshot_to > :s) ORDER BY b.turn, o.number",
        d=dataset_id,
        s=snapshot,
    )


def add_snapshot(
    conn: Connection,
    batch: Batch,
    decision_id: int,
    *,
    snapshot: int,
    parent: int,
    samples: int,
    shards: int,
    size: int,
    file: StoredFile,
    turn: int,
) -> None:
    """Make the batch's shards part of a new snapshot. The caller holds the lock."""
    run(
        conn,
        "INSERT INTO sscd_ops.snapshots (dataset_id, snapshot, parent, batch_id, turn, samples,"
        " shards, bytes, file) VALUES (:d, :s, :p, :b, :t, :n, :k, :z, CAST(:f AS jsonb))",
        d=batch.dataset_id,
        s=snapshot,
        p=parent,
        b=batch.batch_id,
        t=turn,
        n=samples,
        k=shards,
        z=size,
        f=file_json(file),
    )
    run(
        conn,
        "UPDATE sscd_ops.output_shards SET snapshot_from = :s WHERE decision_id = :x",
        s=snapshot,
        x=decision_id,
    )
    run(
        conn,
        "UPDATE sscd_ops.datasets SET snapshot = :s WHERE dataset_id = :d",
        s=snapshot,
        d=batch.dataset_id,
    )


def finish_batch(conn: Connection, batch_id: int, snapshot: int | None) -> None:
    """The batch is published; ``snapshot`` is the one it made, if any."""
    run(
        conn,
        "UPDATE sscd_ops.batches SET state = 'published', snapshot = :s, finished_at = now(),"
        " message = '' WHERE batch_id = :b",
        s=snapshot,
        b=batch_id,
    )


def mark_unpublishable(conn: Connection, batch_id: int, message: str) -> bool:
    """Its source changed or vanished: every run names the batch until it is published.

    Answers whether the batch was decided until now, neither published nor marked before.
    """
    changed = run(
        conn,
        "UPDATE sscd_ops.batches SET state = 'unpublishable', message = :m"
        " WHERE batch_id = :b AND state = 'decided'",
        b=batch_id,
        m=message.replace("\x00", " "),
    )
    return changed == 1


def mark_announced(conn: Connection, batch_id: int) -> None:
    """The asset event of the batch's snapshot is out."""
    run(conn, "UPDATE sscd_ops.batches SET announced = true WHERE batch_id = :b", b=batch_id)


_SNAPSHOT = (
    "SELECT s.*, b.label, b.supplement, a.fingerprint_detail ->> 'name' AS fingerprint"
    " FROM sscd_ops.snapshots s JOIN sscd_ops.batches b USING (batch_id)"
    " JOIN sscd_ops.attempts a USING (attempt_id) WHERE s.dataset_id = :d"
)
"""A snapshot's row, and what its file says of the batch that made it."""


def read_snapshot(
    conn: Connection, dataset_id: int, snapshot: int | None = None
) -> Mapping[str, Any] | None:
    """A snapshot's row, the newest one where no number is given; and what its file says.

    Beside the row's own columns ``label``, ``supplement`` and ``fingerprint``, the model's name.
    """
    return row(
        conn,
        f"{_SNAPSHOT} AND (CAST(:s AS int) IS NULL OR s.snapshot = :s)"
        " ORDER BY s.snapshot DESC LIMIT 1",
        d=dataset_id,
        s=snapshot,
    )


def snapshots(conn: Connection, dataset_id: int) -> list[Mapping[str, Any]]:
    """All snapshots by number, as ``read_snapshot`` answers them."""
    return rows(conn, f"{_SNAPSHOT} ORDER BY s.snapshot", d=dataset_id)


def ids_of_output(conn: Connection, decision_id: int, number: int) -> set[str] | None:
    """The ids of the kept samples of one output shard; None where their month was detached."""
    month = value(
        conn, "SELECT month FROM sscd_ops.decisions WHERE decision_id = :x", x=decision_id
    )
    if month not in months(conn):
        return None
    found = rows(
        conn,
        "SELECT sample_id FROM sscd_ops.samples WHERE month = :m AND decision_id = :x"
        " AND output_shard = :n AND verdict = 'kept'",
        m=month,
        x=decision_id,
        n=number,
    )
    return {str(sample["sample_id"]) for sample in found}


def count_kept(conn: Connection, decisions: Sequence[int]) -> int:
    """How many samples these decisions keep; of a month that was detached, as it was counted."""
    there = months(conn)
    counted = value(
        conn,
        "SELECT coalesce(sum(CAST(b.counts ->> 'kept' AS bigint)), 0) FROM sscd_ops.decisions d"
        " JOIN sscd_ops.batches b ON b.decision_id = d.decision_id"
        " WHERE d.decision_id = ANY(:x) AND NOT d.month = ANY(CAST(:there AS date[]))",
        x=list(decisions),
        there=there,
    )
    found = value(
        conn,
        "SELECT count(*) FROM sscd_ops.decisions d JOIN sscd_ops.samples s"
        " ON s.month = d.month AND s.decision_id = d.decision_id"
        " WHERE d.decision_id = ANY(:x) AND s.verdict = 'kept'",
        x=list(decisions),
    )
    return int(counted) + int(found)
