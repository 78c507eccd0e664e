"""What a trial says: the funnel, a histogram, speeds, JSON, and pairs of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from sscd_ops.core.perceptual import distance_of
from sscd_ops.evaluation.results import BINS
from sscd_ops.evaluation.trial import PairFound, TrialReport
from sscd_ops.images.sheets import Pair, Section


def sheet_sections(report: TrialReport, pairs: int = 20) -> Sequence[Section]:
    """The contact sheet: the most doubtful removals, the surest, nearest kept pairs, the plain."""

    def shown(found: Sequence[PairFound]) -> list[Pair]:
        return [
            (report.pictures.get(p.row), report.pictures.get(p.other), f"{p.similarity:.3f}")
            for p in found
        ]

    near = report.removed
    by_hash = [
        (
            report.pictures.get(p.row),
            report.pictures.get(p.other),
            f"{distance_of(p.similarity)} bits",
        )
        for p in report.removed_perceptual[:pairs]
    ]
    return [
        (
            f"Removed | witness: nearest the threshold of {report.threshold:.2f}"
            f" ({len(near)} near copies in all)",
            shown(near[:pairs]),
        ),
        ("Removed | witness: the most similar", shown(near[pairs:][-5:])),
        *(
            [
                (
                    "Removed by perceptual hash alone | witness: the farthest"
                    f" ({len(report.removed_perceptual)} in all)",
                    by_hash,
                )
            ]
            if by_hash
            else []
        ),
        ("The most similar pairs that were both kept", shown(report.kept_pairs[:pairs])),
        *_plain(report, 2 * pairs),
    ]


def _plain(report: TrialReport, most: int) -> list[Section]:
    """Some of the pictures that were not compared, from all over, two and two."""
    rows = report.plain
    if not rows:
        return []
    at = np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int)
    some = [report.pictures.get(rows[number]) for number in at]
    heading = f"Kept, not compared: nothing in them to compare ({len(rows)} in all)"
    return [(heading, [(*pair, "") for pair in zip_longest(some[::2], some[1::2], fillvalue=b"")])]


def fields(report: TrialReport) -> dict[str, Any]:
    """The funnel."""
    counts = report.counts
    return {
        "model": report.fingerprint,
        "threshold": report.threshold,
        "perceptual": report.perceptual,
        "source_shards": f"{report.shards_read} of {report.shards_found}",
        "read": counts.read,
        "quarantined": counts.quarantined,
        "removed_exact": counts.removed_exact,
        "removed_near": counts.removed_near,
        "removed_perceptual": counts.removed_perceptual,
        "kept": counts.kept,
        "kept_plain": counts.kept_plain,
        "not_delivered": counts.not_delivered,
        "removed_share": round(counts.removed / max(1, counts.read), 4),
    }


def histogram_rows(report: TrialReport, bar: int = 40) -> list[dict[str, Any]]:
    """A histogram for a terminal: tenths of similarity, from 0."""
    rows = []
    top = max(sum(report.histogram[at : at + 5]) for at in range(0, len(report.histogram), 5)) or 1
    for at in range(0, len(report.histogram), 5):
        images = sum(report.histogram[at : at + 5])
        low, high = BINS[at], BINS[min(at + 5, len(BINS) - 1)]
        here = low <= report.threshold < high
        rows.append(
            {
                "similarity": f"{low:5.2f} to {high:5.2f}",
                "images": images,
                "": "#" * round(bar * images / top) + (" <- threshold" if here else ""),
            }
        )
    while len(rows) > 1 and not rows[0]["images"]:
        rows.pop(0)
    return rows


def speed_rows(report: TrialReport) -> list[dict[str, Any]]:
    """Images a second to expect, and what a night of a million would take.

    Search is left out of the hours: its time grows with the history (docs/performance.md).
    """
    linear = ("ingest", "embed")
    return [
        {
            "step": item.step,
            "count": item.count,
            "of": item.unit,
            "per_second": round(item.per_second, 1),
            "hours_a_million": round(1e6 / item.per_second / 3600, 2)
            if item.step in linear and item.per_second
            else None,
        }
        for item in report.times
    ]


def to_json(report: TrialReport) -> str:
    """Every number."""
    names = report.pictures.names

    def pairs(found: Sequence[PairFound]) -> list[dict[str, Any]]:
        return [
            {"key": names[p.row], "other_key": names[p.other], "similarity": p.similarity}
            for p in found
        ]

    document = {
        **fields(report),
        "runtime": report.runtime,
        "images": report.images,
        "quarantined_by_code": report.quarantined,
        "shard_faults": report.shard_faults,
        "histogram": {
            "edges": [round(float(edge), 4) for edge in BINS],
            "images": report.histogram,
        },
        "steps": speed_rows(report),
        "removed_near_pairs": pairs(report.removed),
        "removed_perceptual_pairs": pairs(report.removed_perceptual),
        "nearest_kept_pairs": pairs(report.kept_pairs),
        "kept_plain_keys": [names[row] for row in report.plain],
    }
    return json.dumps(document, indent=1)
