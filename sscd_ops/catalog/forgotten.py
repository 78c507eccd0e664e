"""What is erased: samples without text, images without descriptors; where samples were and are.

Rows that a decision wrote never change, with this one exception. What is told here are ids and
digests; the lists stay, and whatever is made again of a source asks them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog.naming import file_json, files_json
from sscd_ops.catalog.partitions import months
from sscd_ops.catalog.snapshot_changes import withdrawn_now
from sscd_ops.catalog.sql import file_of, files_of, rows, run, tuples, value
from sscd_ops.catalog.subjects import samples_now
from sscd_ops.catalog.withdrawn_set import images_of
from sscd_ops.model import ERASED, StoredFile

_MONTH = re.compile(r"samples_(\d{4})_(\d{2})")

# ---------------------------------------------------------------- samples


@dataclass(frozen=True, slots=True)
class ReadSample:
    """A sample where it was read. ``image``: None where it has none. ``verdict``: the first one."""

    sample_id: UUID
    shard_id: int
    decision_id: int
    image: bytes | None
    verdict: str | None


_READ = (
    "SELECT {columns} FROM sscd_ops.{table} s JOIN sscd_ops.decisions d USING (decision_id)"
    " WHERE d.dataset_id = :d AND d.turn IS NOT NULL AND s.{by} = ANY(:asked)"
)


def _read(conn: Connection, dataset_id: int, by: str, asked: Sequence[object]) -> list[ReadSample]:
    columns = "s.sample_id, s.shard_id, s.decision_id, s.image_sha256"
    attached = _READ.format(columns=f"{columns}, s.verdict", table="samples", by=by)
    ruled = f"{columns}, CASE WHEN s.ruled THEN 'withdrawn' END"
    detached = _READ.format(columns=ruled, table="detached_samples", by=by)
    found = tuples(conn, f"{attached} UNION ALL {detached}", d=dataset_id, asked=asked)
    return [
        ReadSample(sample, shard, decision, image and bytes(image), verdict)
        for sample, shard, decision, image, verdict in found
    ]


def read_samples(
    conn: Connection, dataset_id: int, samples: Collection[UUID]
) -> dict[UUID, ReadSample]:
    """Some samples by id, those of months that were detached too."""
    # what stays of a detached month is also in its table for a moment: attached rows count
    found = _read(conn, dataset_id, "sample_id", list(samples))
    # (they have a verdict); of those that were read again the last one counts
    by_turn = sorted(found, key=lambda each: (each.decision_id, each.verdict is not None))
    return {each.sample_id: each for each in by_turn}


def bearers_of(conn: Connection, dataset_id: int, images: Collection[bytes]) -> list[ReadSample]:
    """All samples that bear some images, whatever became of them."""
    return _read(conn, dataset_id, "image_sha256", list(images))


def withdrawn_of(conn: Connection, dataset_id: int, read: Collection[ReadSample]) -> set[UUID]:
    """Which of some samples are withdrawn now, by an order or by the night that read them."""
    found = withdrawn_now(conn, dataset_id, [(each.sample_id, each.image or b"") for each in read])
    named = samples_now(conn, dataset_id, [each.sample_id for each in read])
    return found | {each.sample_id for each in named if each.verdict == "withdrawn"}


def erase_samples(conn: Connection, dataset_id: int, samples: Collection[UUID]) -> int:
    """Remember that the text of some samples is erased; how many were not before."""
    found = read_samples(conn, dataset_id, samples)
    return run(
        conn,
        "INSERT INTO sscd_ops.erased_samples (dataset_id, sample_id, shard_id) SELECT :d, f.*"
        " FROM unnest(CAST(:s AS uuid[]), CAST(:h AS bigint[])) AS f ON CONFLICT DO NOTHING",
        d=dataset_id,
        s=list(found),
        h=[each.shard_id for each in found.values()],
    )


def erased_of_file(
    conn: Connection, dataset_id: int, source: str, relative_uri: str
) -> frozenset[bytes]:
    """The erased samples of a file of a source, in any version, as the bytes of their ids."""
    found = tuples(
        conn,
        "SELECT e.sample_id FROM sscd_ops.source_shards s JOIN sscd_ops.erased_samples e"
        " USING (shard_id) WHERE s.source = :s AND s.relative_uri = :u AND e.dataset_id = :d",
        d=dataset_id,
        s=source,
        u=relative_uri,
    )
    return frozenset(sample_id.bytes for (sample_id,) in found)


def erased_of(conn: Connection, dataset_id: int, samples: Collection[UUID]) -> set[UUID]:
    """Which of some samples are erased."""
    found = tuples(
        conn,
        "SELECT sample_id FROM sscd_ops.erased_samples"
        " WHERE dataset_id = :d AND sample_id = ANY(:s)",
        d=dataset_id,
        s=list(samples),
    )
    return {sample_id for (sample_id,) in found}


def blank_rows(conn: Connection, dataset_id: int, samples: Collection[UUID]) -> int:
    """Take the text of samples out of all rows of theirs, of detached months too; how many rows.

    Ids, digests and verdicts stay, and the host, by which rules find them.
    """
    return sum(
        run(
            conn,
            f"UPDATE sscd_ops.{table} s SET key = :e, caption = NULL, meta = NULL, message = NULL"
            " FROM sscd_ops.decisions d WHERE d.decision_id = s.decision_id AND d.dataset_id = :d"
            " AND s.sample_id = ANY(:s) AND (s.key, s.caption, s.meta, s.message)"
            " IS DISTINCT FROM (CAST(:e AS text), NULL, NULL, NULL)",
            d=dataset_id,
            s=list(samples),
            e=ERASED,
        )
        for table in ["samples", *detached_tables(conn)]
    )


def detached_tables(conn: Connection) -> list[str]:
    """The tables of detached months that were not dropped."""
    found = tuples(conn, "SELECT tablename FROM pg_tables WHERE schemaname = 'sscd_ops'")
    there = {
        date(int(month[1]), int(month[2]), 1): name
        for (name,) in found
        if (month := _MONTH.fullmatch(name))
    }
    return [name for month, name in sorted(there.items()) if month not in months(conn)]


# ---------------------------------------------------------------- files that hold them


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A source shard of some attempt, from which an erased sample was or would be read.

    ``counts``: it is of its batch's current attempt. ``decided``: that one is.
    """

    shard_id: int
    batch_id: int
    source: str
    uri: str
    manifest: StoredFile | None
    descriptors: StoredFile | None
    counts: bool
    decided: bool


def files_read(conn: Connection, dataset_id: int, shard_ids: Collection[int]) -> list[ReadFile]:
    """Some source shards, and all others that are versions of the same files."""
    found = rows(
        conn,
        "SELECT DISTINCT s.shard_id, b.batch_id, s.source, s.uri, s.manifest, s.descriptors,"
        " b.attempt_id = a.attempt_id AND b.state <> 'abandoned' AS counts,"
        " b.decision_id IS NOT NULL AS decided"
        " FROM sscd_ops.source_shards f JOIN sscd_ops.source_shards s"
        " ON s.source = f.source AND s.relative_uri = f.relative_uri"
        " JOIN sscd_ops.attempts a ON a.attempt_id = s.attempt_id"
        " JOIN sscd_ops.batches b ON b.batch_id = a.batch_id"
        " WHERE f.shard_id = ANY(:s) AND b.dataset_id = :d ORDER BY s.shard_id",
        d=dataset_id,
        s=list(shard_ids),
    )
    return [
        ReadFile(
            r["shard_id"],
            r["batch_id"],
            r["source"],
            r["uri"],
            file_of(r["manifest"]),
            file_of(r["descriptors"]),
            r["counts"],
            r["decided"],
        )
        for r in found
    ]


def replace_manifest(conn: Connection, shard_id: int, before: StoredFile, file: StoredFile) -> bool:
    """Name the manifest without erased text; False where another one was named meanwhile."""
    changed = run(
        conn,
        "UPDATE sscd_ops.source_shards SET manifest = CAST(:f AS jsonb) WHERE shard_id = :s"
        " AND manifest ->> 'sha256' = :x",
        f=file_json(conn, file),
        s=shard_id,
        x=before.sha256,
    )
    return changed == 1


_SLOTS = (
    "WITH held AS ("
    " SELECT s.decision_id, s.slot FROM sscd_ops.samples s JOIN sscd_ops.decisions d"
    " USING (decision_id) WHERE d.dataset_id = :d AND s.sample_id = ANY(:s) AND s.slot IS NOT NULL"
    " UNION SELECT s.decision_id, s.slot FROM sscd_ops.detached_samples s"
    " JOIN sscd_ops.decisions d USING (decision_id)"
    " WHERE d.dataset_id = :d AND s.sample_id = ANY(:s) AND s.slot IS NOT NULL"
    " UNION SELECT c.slot_decision, c.slot FROM sscd_ops.changes c WHERE c.dataset_id = :d"
    " AND c.carrier_id = ANY(:s) AND c.slot IS NOT NULL AND (c.image_sha256 = ANY(:i)"
    " OR c.sample_id = ANY(:s)))"
)
"""Every slot that some samples have or had; of ``i``, their images."""


def shards_that_held(
    conn: Connection, dataset_id: int, samples: Collection[UUID], images: Collection[bytes]
) -> list[int]:
    """The output shards that hold or held some samples, whatever reads them."""
    found = tuples(
        conn,
        f"{_SLOTS} SELECT DISTINCT p.output_id FROM held JOIN sscd_ops.placements p"
        " ON p.decision_id = held.decision_id AND p.slot_from <= held.slot"
        " AND p.slot_to > held.slot ORDER BY 1",
        d=dataset_id,
        s=list(samples),
        i=list(images),
    )
    return [output_id for (output_id,) in found]


def slots_of_samples(
    conn: Connection, dataset_id: int, samples: Collection[UUID], images: Collection[bytes]
) -> set[tuple[int, int]]:
    """Every slot that some samples have or had: decision and number."""
    found = tuples(
        conn,
        f"{_SLOTS} SELECT decision_id, slot FROM held",
        d=dataset_id,
        s=list(samples),
        i=list(images),
    )
    return {(decision_id, slot) for decision_id, slot in found}


def snapshots_that_list(
    conn: Connection, dataset_id: int, output_ids: Collection[int]
) -> dict[int, bool]:
    """The snapshots that list, or listed, one of some output shards; whether each is readable."""
    found = tuples(
        conn,
        "SELECT DISTINCT n.snapshot, n.expired_at IS NULL FROM sscd_ops.snapshots n"
        " JOIN sscd_ops.placements p ON n.snapshot >= p.snapshot_from"
        " AND (p.snapshot_to IS NULL OR n.snapshot < p.snapshot_to)"
        " WHERE n.dataset_id = :d AND p.output_id = ANY(:o) ORDER BY 1",
        d=dataset_id,
        o=list(output_ids),
    )
    return dict(tuple(row) for row in found)


def waiting_shards(conn: Connection, output_ids: Collection[int]) -> list[int]:
    """Which of some output shards are in no snapshot yet."""
    found = tuples(
        conn,
        "SELECT DISTINCT output_id FROM sscd_ops.placements WHERE output_id = ANY(:o)"
        " AND snapshot_from IS NULL AND snapshot_to IS NULL",
        o=list(output_ids),
    )
    return [output_id for (output_id,) in found]


# ---------------------------------------------------------------- images


def forget_images(conn: Connection, dataset_id: int, images: Collection[bytes]) -> int:
    """Remember that images have no descriptor any more, in no row either; how many had one."""
    run(
        conn,
        "INSERT INTO sscd_ops.forgotten_images (dataset_id, sha256)"
        " SELECT :d, f FROM unnest(CAST(:i AS bytea[])) AS f ON CONFLICT DO NOTHING",
        d=dataset_id,
        i=list(images),
    )
    # as of a plain picture: if it is decided anew there is nothing to compare
    of_these = "WHERE dataset_id = :d AND sha256 = ANY(:i)"
    return sum(
        run(conn, statement, d=dataset_id, i=list(images))
        for statement in (
            f"UPDATE sscd_ops.images SET segment_row = NULL {of_these} AND segment_row IS NOT NULL",
            f"DELETE FROM sscd_ops.described_later {of_these}",
        )
    )


def any_kept(conn: Connection, dataset_id: int, images: Collection[bytes]) -> bool:
    """Whether one of some images is kept now."""
    kept = (
        "SELECT EXISTS (SELECT FROM sscd_ops.images_now WHERE dataset_id = :d"
        " AND sha256 = ANY(:i) AND verdict = 'kept')"
    )
    return bool(value(conn, kept, d=dataset_id, i=list(images)))


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A segment, live or merged into another one since, and its files by role."""

    segment_id: int
    rows: int
    files: Mapping[str, StoredFile]


def segments_of(conn: Connection, dataset_id: int, decisions: Collection[int]) -> list[IndexFile]:
    """All segments that hold images of some decisions."""
    found = rows(
        conn,
        "SELECT segment_id, rows, files FROM sscd_ops.segments WHERE dataset_id = :d"
        " AND segment_id IN (SELECT segment_id FROM sscd_ops.segment_parts"
        " WHERE decision_id = ANY(:x)) ORDER BY segment_id",
        d=dataset_id,
        x=list(decisions),
    )
    return [IndexFile(r["segment_id"], r["rows"], files_of(r["files"])) for r in found]


def replace_segment(conn: Connection, before: IndexFile, files: Mapping[str, StoredFile]) -> bool:
    """Name files with blank rows for a segment; False where others were named meanwhile."""
    changed = run(
        conn,
        "UPDATE sscd_ops.segments SET files = CAST(:f AS jsonb) WHERE segment_id = :s"
        " AND files -> 'descriptors' ->> 'sha256' = :x",
        f=files_json(conn, files),
        s=before.segment_id,
        x=before.files["descriptors"].sha256,
    )
    return changed == 1


# ---------------------------------------------------------------- dead rows


def months_of(conn: Connection, decisions: Collection[int]) -> set[date]:
    """The months that hold the rows of some decisions."""
    asked = "SELECT DISTINCT month FROM sscd_ops.decisions WHERE decision_id = ANY(:x)"
    return {month for (month,) in tuples(conn, asked, x=list(decisions))}


def drop_dead_rows(conn: Connection, of_months: Collection[date]) -> None:
    """Have Postgres take away what rows said before, of some months of samples.

    Args:
        conn: a connection without a transaction (``Catalog.direct``).
        of_months: the first days of months.
    """
    wanted = {f"samples_{month:%Y_%m}" for month in of_months}
    found = "SELECT tablename FROM pg_tables WHERE schemaname = 'sscd_ops'"
    for (name,) in list(tuples(conn, found)):
        if name in wanted:
            conn.exec_driver_sql(f"VACUUM sscd_ops.{name}")


# ---------------------------------------------------------------- orders


def of_withdrawn_images(conn: Connection, dataset_id: int, order_id: int) -> list[UUID]:
    """The samples that are withdrawn now because of an order's pictures, and copies of these."""
    images = images_of(conn, dataset_id, order_id)
    return sorted(withdrawn_of(conn, dataset_id, bearers_of(conn, dataset_id, images)))


def mark_finished(conn: Connection, order_id: int) -> None:
    """Say that an order was carried out with all that it asks for."""
    run(
        conn,
        "UPDATE sscd_ops.orders SET finished_at = now()"
        " WHERE order_id = :o AND finished_at IS NULL",
        o=order_id,
    )


def erase_order(conn: Connection, order_id: int) -> int:
    """Take the text out of what an order says and names; how many rows. Its events have none."""
    changed = run(
        conn,
        "UPDATE sscd_ops.order_subjects SET value = NULL WHERE order_id = :o"
        " AND kind IN ('url', 'picture') AND value IS NOT NULL",
        o=order_id,
    )
    return changed + run(
        conn,
        "UPDATE sscd_ops.orders SET why = :e, message = '' WHERE order_id = :o"
        " AND (why, message) <> (:e, '')",
        o=order_id,
        e=ERASED,
    )


def hosts_of(conn: Connection, order_id: int) -> int:
    """How many domains an order names."""
    asked = "SELECT count(*) FROM sscd_ops.order_subjects WHERE order_id = :o AND kind = 'domain'"
    return int(value(conn, asked, o=order_id))


def drop_dead_orders(conn: Connection) -> None:
    """As ``drop_dead_rows``, of orders and what tells of them."""
    for table in ("orders", "order_subjects", "receipts", "decisions", "events"):
        conn.exec_driver_sql(f"VACUUM sscd_ops.{table}")
