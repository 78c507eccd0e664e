"""``snapshot diff`` of neighbours that hold a million samples, beside listing both of them.

The newer snapshot adds a night of a hundredth of the samples and leaves out one in a thousand, that
an order withdrew from half of the shards: these were written again. The plain way reads the sample
ids of both snapshots with the turn of each from ``samples`` and compares two sets; the product's
reads the placements that begin or end between them, and looks up what was removed. Embedded
Postgres, both in this process by turns; each says the same numbers.

Run: ``python -m benchmarks.snapshot_diff [--samples N] [--repeats N]``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import text

from sscd_ops.catalog import embedded, sql
from sscd_ops.catalog.database import Catalog
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.catalog.partitions import ensure_month
from sscd_ops.steps.snapshot_diff import diff, diff_samples

SECONDS = 1.0
RATIO = 20
"""Of what takes the plain way a second or more."""
MONTH = date(2026, 11, 1)
SHARDS = 100
"""Each of a night of its own, and each of a hundredth of the samples."""
FILE = '{"name": "n", "sha256": "00", "bytes": 1, "tar": {"bytes": 1}}'

_ROWS = """
INSERT INTO sscd_ops.datasets (name, next_turn, snapshot, fingerprint_detail)
VALUES ('web', :shards + 3, :shards + 1, '{"name": "dct-00000000"}');
INSERT INTO sscd_ops.decisions (dataset_id, kind, client_key, month, turn, actor, why, decided_at)
SELECT 1, CASE WHEN t = :shards + 1 THEN 'order' ELSE 'night' END, t::text, :m, t, 'cli', '', now()
FROM generate_series(1, :shards + 2) x(t) ORDER BY x.t;
INSERT INTO sscd_ops.snapshots (dataset_id, snapshot, parent, decision_id, turn, samples, shards,
    bytes, file)
SELECT 1, n, n - 1, d.decision_id, d.turn, :n * n, n, 1, :f
FROM generate_series(1, :shards + 1) n
JOIN sscd_ops.decisions d ON d.turn = CASE WHEN n > :shards THEN n + 1 ELSE n END;
INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position, key, image_sha256,
    verdict, rank, slot)
SELECT :m, d.decision_id, md5(d.turn || '/' || i)::uuid, d.turn, i, i::text,
    sha256(convert_to(d.turn || '/' || i, 'UTF8')), 'kept', i, i
FROM sscd_ops.decisions d, generate_series(0, :n - 1) i WHERE d.kind = 'night';
INSERT INTO sscd_ops.changes (dataset_id, decision_id, turn, image_sha256, verdict, reason)
SELECT 1, d.decision_id, d.turn, s.image_sha256, 'withdrawn', 'withdrawn'
FROM sscd_ops.samples s JOIN sscd_ops.decisions d ON d.kind = 'order'
WHERE s.shard_id <= :shards AND s.shard_id % 2 = 0 AND s.slot % 500 = 7;
INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name, turn, files)
SELECT decision_id, 0, 'p', 'jpg+txt+json', :n, 'web/' || turn, turn, :f
FROM sscd_ops.decisions WHERE kind = 'night' ORDER BY turn;
INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to, position,
    snapshot_from, snapshot_to)
SELECT o.output_id, o.decision_id, 0, :n, 0, least(o.turn, :shards + 1),
    CASE WHEN o.turn <= :shards AND o.turn % 2 = 0 THEN :shards + 1 END
FROM sscd_ops.output_shards o;
INSERT INTO sscd_ops.output_shards (decision_id, number, plan, form, samples, name, turn, files,
    replaces)
SELECT decision_id, 1, 'q', 'jpg+txt+json', :n, 'web/again/' || turn, :shards + 1, :f, true
FROM sscd_ops.decisions WHERE kind = 'night' AND turn <= :shards AND turn % 2 = 0 ORDER BY turn;
INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to, position,
    snapshot_from)
SELECT o.output_id, o.decision_id, s.a, least(s.b, :n), s.a, :shards + 1
FROM sscd_ops.output_shards o, LATERAL (
    SELECT CASE WHEN i < 0 THEN 0 ELSE i * 500 + 8 END AS a, (i + 1) * 500 + 7 AS b
    FROM generate_series(-1, (:n - 8) / 500) i) s
WHERE o.replaces AND s.a < least(s.b, :n)
"""


def fill(catalog: Catalog, per_shard: int) -> None:
    """Write 100 nights, an order, another night, and the snapshots that follow them."""
    ensure_month(catalog, MONTH, "samples")
    given: dict[str, Any] = {"m": MONTH, "n": per_shard, "shards": SHARDS, "f": FILE}
    for statement in _ROWS.split(";\n"):
        with catalog.begin() as conn:
            conn.execute(text("SET LOCAL statement_timeout = 0"))
            named = {key: value for key, value in given.items() if f":{key}" in statement}
            conn.execute(text(statement), named)
    with catalog.direct() as conn:
        conn.execute(text("VACUUM ANALYZE"))


def plain(catalog: Catalog) -> Mapping[tuple[str, int], int]:
    """List both snapshots from ``samples``: change and turn of the sample -> how many."""
    listed = (
        "SELECT s.sample_id, p.output_id, d.turn FROM sscd_ops.placements p"
        " JOIN sscd_ops.decisions d USING (decision_id)"
        " JOIN sscd_ops.samples s ON s.month = d.month AND s.decision_id = p.decision_id"
        " AND s.slot >= p.slot_from AND s.slot < p.slot_to"
        " WHERE p.snapshot_from <= :s AND (p.snapshot_to IS NULL OR p.snapshot_to > :s)"
    )
    held = []
    with catalog.begin() as conn:
        for number in (SHARDS, SHARDS + 1):
            found = sql.tuples(conn, listed, s=number)
            held.append({sample_id: (shard, turn) for sample_id, shard, turn in found})
    before, after = held
    answer: Counter[tuple[str, int]] = Counter()
    for key in after.keys() - before.keys():
        answer["added", after[key][1]] += 1
    for key in before.keys() & after.keys():
        if before[key][0] != after[key][0]:
            answer["moved", before[key][1]] += 1
    answer["removed", SHARDS + 1] = len(before.keys() - after.keys())
    return answer


def product(catalog: Catalog) -> Mapping[tuple[str, int], int]:
    """``snapshot diff``."""
    found = diff(_parts(catalog), "web", SHARDS, SHARDS + 1)
    return {(each.change, each.decision.turn): each.samples for each in found if each.decision}


def with_ids(catalog: Catalog) -> Mapping[tuple[str, int], int]:
    """``snapshot diff --samples``."""
    found = diff_samples(_parts(catalog), "web", SHARDS, SHARDS + 1)
    return Counter((each.change, each.decision.turn) for each in found if each.decision)


def _parts(catalog: Catalog) -> Any:
    return SimpleNamespace(catalog=catalog)


WAYS: dict[str, Callable[[Catalog], Mapping[tuple[str, int], int]]] = {
    "both snapshots listed from samples": plain,
    "snapshot diff": product,
    "snapshot diff --samples": with_ids,
}


def measure(catalog: Catalog, repeats: int) -> bool:
    """Print the table; whether the target was met."""
    walls: dict[str, list[float]] = {way: [] for way in WAYS}
    said: dict[str, Mapping[tuple[str, int], int]] = {}
    for _ in range(repeats):
        for way, run in WAYS.items():
            start = time.perf_counter()
            said[way] = run(catalog)
            walls[way].append(time.perf_counter() - start)
    reference, *others = said.values()
    if any(other != reference for other in others):
        print("the ways do not say the same")
        return False
    by_change: Counter[str] = Counter()
    for (change, _), count in reference.items():
        by_change[change] += count
    print(", ".join(f"{count:,} {change}" for change, count in sorted(by_change.items())))
    print(f"{'way':36} {'wall s':>8} {'ratio':>9}")
    first = statistics.median(walls["both snapshots listed from samples"])
    for way, taken in walls.items():
        wall = statistics.median(taken)
        print(f"{way:36} {wall:8.3f} {first / wall:8.1f}x")
    wall = statistics.median(walls["snapshot diff"])
    met = wall <= SECONDS and (first / wall >= RATIO or first < SECONDS)
    print(f"target {SECONDS:g} s and {RATIO}x for snapshot diff: {'met' if met else 'MISSED'}")
    return met


def main() -> int:
    """Fill a catalog and measure; exit code 3 where the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="bench-diff-"))
    home.chmod(0o755)
    try:
        url = embedded.ensure_running(home)["catalog"]
        upgrade(url)
        catalog = Catalog(url)
        fill(catalog, max(arguments.samples // SHARDS, 8))
        print(
            f"snapshots {SHARDS} and {SHARDS + 1}, {arguments.samples:,} samples in the older one"
        )
        met = measure(catalog, arguments.repeats)
        catalog.dispose()
    finally:
        embedded.stop(home)
        shutil.rmtree(home)
    return 0 if met else 3


if __name__ == "__main__":
    sys.exit(main())
