"""What the demo prints and draws: funnels, planted against found, a contact sheet, digests."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plant_copies import Planted

from sscd_ops.catalog.audit import nearest_kept_pairs
from sscd_ops.catalog.sql import rows
from sscd_ops.cli.output import plain, print_rows
from sscd_ops.core.perceptual import distance_of
from sscd_ops.images.sheets import contact_sheet
from sscd_ops.testing import COPIES
from sscd_ops.wiring import Wiring

VIEWS = ("runs", "run_sources", "samples", "removed", "kept", "quarantined", "shards", "snapshots")
RECORD = ("events", "configs")
"""Who did what, when, with which file: of one catalog alone."""
# Times, numbers of a sequence, who ran it: what two runs of equal nights may differ in.
ASIDE = {
    "started_at", "finished_at", "seconds", "decided_at", "created_at", "runner", "run_id",
    "batch_id", "witness_batch_id",
}  # fmt: skip


def read_planted(path: Path) -> list[Planted]:
    """The truth that was written beside the tars."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [Planted(**row) for row in csv.DictReader(stream)]


@dataclass(frozen=True)
class Found:
    """A planted copy, and the removed sample that shows it was found (None: missed)."""

    planted: Planted
    removal: Mapping[str, Any] | None


def find_planted(removed: Sequence[Mapping[str, Any]], planted: Iterable[Planted]) -> list[Found]:
    """A copy is found if it was removed for a picture of its family, or one was for it."""
    by_key = {row["key"]: row for row in removed}
    for_witness: dict[str, Mapping[str, Any]] = {}
    for row in removed:
        for_witness.setdefault(row["witness_key"], row)
    answer = []
    for truth in planted:
        removal = by_key.get(truth.key)
        if removal is None:
            removal = for_witness.get(truth.key)
            family = removal["key"] if removal else ""
        else:
            family = removal["witness_key"]
        good = removal is not None and family.partition("-")[0] == truth.original
        answer.append(Found(truth, removal if good else None))
    return answer


def print_report(parts: Wiring, dataset: str, planted: Sequence[Planted], sheet: Path) -> None:
    """Print what became of the nights, and write the contact sheet."""
    with parts.catalog.begin() as conn:
        runs = rows(
            conn,
            "SELECT interval_start::date AS night, read, quarantined,"
            " removed_exact AS exact_copies, removed_near AS near_copies,"
            " removed_perceptual AS of_them_by_hash, kept, shards, snapshot"
            " FROM curation.runs"
            " WHERE dataset = :d ORDER BY turn",
            d=dataset,
        )
        removed = rows(
            conn,
            "SELECT * FROM curation.removed WHERE dataset = :d ORDER BY batch_id, key",
            d=dataset,
        )
        shards = rows(
            conn,
            "SELECT shard, form, samples FROM curation.shards WHERE dataset = :d ORDER BY shard",
            d=dataset,
        )
        pairs = nearest_kept_pairs(conn, dataset, 8)
    print("\nThe nights:")
    print_rows(runs, "table")
    print("\nRemoved, and the kept sample each one went for (curation.removed):")
    print_rows(
        [
            {
                "removed": row["key"],
                "reason": row["reason"],
                "similarity": row["similarity"],
                "witness": row["witness_key"],
                "witness_shard": row["witness_shard"],
            }
            for row in removed
        ],
        "table",
    )
    found = find_planted(removed, planted)
    print("\nPlanted copies found:")
    print_rows(_tally(found), "table")
    print("\nPublished shards:")
    print_rows([{**row, "shard": parts.store.url(row["shard"])} for row in shards], "table")
    draw_sheet(parts, removed, found, pairs, sheet)
    print(f"\nContact sheet: {sheet}")


def _tally(found: Sequence[Found]) -> list[dict[str, Any]]:
    answer = []
    for copy in COPIES:
        row: dict[str, Any] = {"transformation": copy}
        for where in ("within", "across"):
            mine = [
                f for f in found if f.planted.transformation == copy and f.planted.where == where
            ]
            row[f"{where}_a_night"] = f"{sum(f.removal is not None for f in mine)} of {len(mine)}"
        answer.append(row)
    return answer


# ---------------------------------------------------------------- the contact sheet


def draw_sheet(
    parts: Wiring,
    removed: Sequence[Mapping[str, Any]],
    found: Sequence[Found],
    kept_pairs: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Removed beside witness; planted and missed; the most similar pairs that were both kept."""
    how = {f.planted.key: f.planted.transformation for f in found}
    near = [row for row in removed if row["reason"] != "exact"]
    ids = _ids(parts)
    sections = [
        (
            f"Removed | witness ({len(near)} near copies)",
            [
                (
                    str(row["sample_id"]),
                    str(row["witness_sample_id"]),
                    f"{_measured(row)} {how.get(row['key'], '')}",
                )
                for row in near
            ],
        ),
        (
            "Planted and missed: copy | original",
            [
                (
                    ids[f.planted.key],
                    ids[f.planted.original],
                    f"{f.planted.transformation} {f.planted.where}",
                )
                for f in found
                if f.removal is None
            ],
        ),
        (
            "The most similar pairs that were both kept",
            [
                (str(row["sample_id"]), str(row["other_id"]), f"{row['similarity']:.3f}")
                for row in kept_pairs
            ],
        ),
    ]
    shown = [
        (name, [(parts.sample_image(a), parts.sample_image(b), said) for a, b, said in pairs])
        for name, pairs in sections
    ]
    contact_sheet(shown).save(path)


def _measured(row: Mapping[str, Any]) -> str:
    """How near a removed picture is to its witness, by the measure that removed it."""
    if row["reason"] == "perceptual":
        return f"{distance_of(row['similarity'])} bits"
    return f"{row['similarity']:.3f}"


def _ids(parts: Wiring) -> dict[str, str]:
    with parts.catalog.begin() as conn:
        found = rows(conn, "SELECT key, sample_id FROM curation.samples")
    return {row["key"]: str(row["sample_id"]) for row in found}


# ---------------------------------------------------------------- did anything change?


def digest(parts: Wiring, *, aside: Iterable[str] = ()) -> dict[str, str]:
    """sha256 of each public view's rows, and of every published file as it lies on disk.

    Args:
        parts: whose catalog and storage.
        aside: columns left out, for a comparison of two catalogs; events and configs are then too.
    """
    answer: dict[str, str] = {}
    left_out = set(aside)
    with parts.catalog.begin() as conn:
        for view in VIEWS if left_out else VIEWS + RECORD:
            lines = sorted(
                repr([(name, plain(value)) for name, value in row.items() if name not in left_out])
                for row in rows(conn, f"SELECT * FROM curation.{view}")  # noqa: S608 - our names
            )
            answer[f"view {view}"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    root = Path(parts.store.root)
    for file in sorted(root.glob("*/shards/*/*")):
        name = str(file.relative_to(root))
        answer[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return answer


def compare(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names that differ."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
