"""A night after so many earlier ones, step by step; and the same after `index compact`.

Small nights, whose own work is little: what a step costs more with each earlier night is seen. At
each point a few real nights run, every step in this process on parts of its own, and the least of
each step counts; then one by the command. The nights between are made: their rows with SQL as the
steps write them, their segments as files of unit vectors that match nothing.

Run: ``make bench-year``, or ``python -m benchmarks.year [--nights N] [--pictures N]``.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from sscd_ops.catalog import datasets, embedded, output_shards, snapshots
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.catalog.naming import file_json, files_json
from sscd_ops.catalog.sql import run, value
from sscd_ops.core.segment_file import write_mask, write_segment
from sscd_ops.model import Interval, Runner, StoredFile
from sscd_ops.options import (
    DatasetOptions,
    DuplicatesOptions,
    FingerprintOptions,
    GuardOptions,
    Settings,
    SourceOptions,
    StorageOptions,
)
from sscd_ops.ports import Silence
from sscd_ops.steps import commit, embed, ingest, match, plan, publish, resolve, survey
from sscd_ops.steps.compacting import compact
from sscd_ops.steps.parts import write_bytes
from sscd_ops.steps.snapshots import made_from_catalog, repair_latest, snapshot_name
from sscd_ops.testing import make_tar, picture
from sscd_ops.wiring import Wiring

DATASET = "year"
FIRST = date(2026, 1, 1)
STEPS = ("plan", "ingest", "survey", "embed", "match", "resolve", "publish", "commit")
REPEATS = 3
"""Real nights at each point."""
TARGET = 1.5
"""Processor time that the last command may take of the first's, after `index compact`."""
MERGED_BELOW = 250_000
"""As the command has it."""
MADE = 1_000_000
"""Numbers of made rows begin here; those of real nights are counted by the catalog from 1."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one step: on the clock, and of this process's processor time."""

    wall: float
    cpu: float


class Year:
    """A dataset whose nights are ``pictures`` pictures each."""

    def __init__(self, base: Path, url: str, pictures: int) -> None:
        self._base = base
        self._url = url
        self._pictures = pictures
        self.nights = 0
        """How many there are by now."""
        self._options = DatasetOptions(
            DATASET,
            schedule="0 0 * * *",
            start=FIRST,
            late_days=0,
            sources=(SourceOptions("s", urls=(f"{base}/in/{{date}}/*.tar",)),),
            fingerprint=FingerprintOptions("dct", workers=1),
            duplicates=DuplicatesOptions(search="flat"),
            guard=GuardOptions(first_nights_max=1.0),
        )

    def parts(self) -> Wiring:
        """Parts that have opened nothing yet, as a process has them."""
        settings = Settings(
            "bench", StorageOptions(str(self._base / "root")), datasets={DATASET: self._options}
        )
        return Wiring(settings, database_url=self._url, progress=Silence())

    # ------------------------------------------------------------ real nights

    def _deliver(self) -> date:
        """Write the source shard of the next night; its day."""
        day = FIRST + timedelta(days=self.nights)
        first = self.nights * self._pictures
        make_tar(
            self._base / "in" / day.isoformat() / "a.tar",
            [
                (f"k{number}", {"jpg": picture(number), "txt": b"a caption"})
                for number in range(first, first + self._pictures)
            ],
        )
        return day

    def command(self) -> Cost:
        """Run the next night by the command: start-up, and all its processes."""
        day = self._deliver()
        config = self._base / "year.toml"
        config.write_text(_CONFIG.format(base=self._base, url=self._url, first=FIRST))
        command = [str(Path(sys.executable).parent / "sscd-ops"), "run", "--config", str(config)]
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*command, "--dataset", DATASET, "--date", day.isoformat()],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.nights += 1
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Cost(time.perf_counter() - wall, cpu)

    def night(self) -> dict[str, Cost]:
        """Run the next night; what each step took."""
        day = self._deliver()
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        interval = Interval(start, start + timedelta(days=1))
        runner = Runner("airflow", "d", day.isoformat())
        costs: dict[str, Cost] = {}

        def timed(step: str, work: Callable[[], Any]) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            answer = work()
            costs[step] = Cost(time.perf_counter() - wall, time.process_time() - cpu)
            return answer

        with self.parts() as parts:
            planned = timed("plan", lambda: plan.run(parts, DATASET, interval, runner=runner))
            batch = planned.batch_id
            timed("ingest", lambda: ingest.run(parts, batch, planned.groups))
            surveyed = timed("survey", lambda: survey.run(parts, batch))
            timed("embed", lambda: embed.run(parts, batch, planned.groups))
            timed("match", lambda: match.run(parts, batch, surveyed.parts))
            decided = timed("resolve", lambda: resolve.run(parts, batch))
            timed("publish", lambda: [publish.run(parts, batch, g) for g in decided.groups])
            timed("commit", lambda: commit.run(parts, batch))
        self.nights += 1
        return costs

    def least(self) -> dict[str, Cost]:
        """A few nights; the least that each step took, and the command."""
        found = [self.night() for _ in range(REPEATS)]
        commands = [self.command() for _ in range(REPEATS)]
        return {step: _least([costs[step] for costs in found]) for step in STEPS} | {
            "command": _least(commands)
        }

    # ------------------------------------------------------------ made nights

    def make(self, until: int) -> None:
        """Make nights until there are so many; the newest is a snapshot like any other."""
        if until <= self.nights:
            return
        with self.parts() as parts:
            with parts.catalog.begin() as conn:
                dimensions = value(conn, "SELECT max(dimensions) FROM sscd_ops.segments")
                merges = datasets.need(conn, DATASET).generation - self.nights
            random = np.random.default_rng(self.nights)
            mask = write_mask(parts.store, f"{DATASET}/index/masks", np.ones(self._pictures, bool))
            files: list[Mapping[str, StoredFile]] = []
            ids: list[bytes] = []
            for _ in range(self.nights, until):
                vectors = random.normal(size=(self._pictures, dimensions))
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                digests = random.integers(0, 256, (self._pictures, 32), np.uint8)
                written = write_segment(
                    parts.store,
                    f"{DATASET}/index/segments",
                    vectors.astype(np.float16),
                    digests,
                    {},
                )
                files.append(written)
                ids += [digest.tobytes() for digest in digests]
            with parts.catalog.begin() as conn:
                run(
                    conn,
                    _ROWS,
                    a=self.nights + 1,
                    z=until,
                    made=MADE,
                    n=self._pictures,
                    first=FIRST,
                    files=[files_json(conn, each) for each in files],
                    ids=ids,
                    mask=file_json(conn, mask),
                    dim=dimensions,
                    merges=merges,
                )
                self._write_snapshot(parts, conn, until)
            with parts.catalog.direct() as conn:
                run(conn, "VACUUM ANALYZE")
            repair_latest(parts, DATASET)
        self.nights = until

    def _write_snapshot(self, parts: Wiring, conn: Any, number: int) -> None:
        dataset = datasets.need(conn, DATASET)
        made = snapshots.read_snapshot(conn, dataset.dataset_id)
        assert made is not None
        listed = output_shards.listed_shards(conn, dataset.dataset_id, number)
        body = made_from_catalog(DATASET, made, listed)
        name = snapshot_name(DATASET, number, hashlib.sha256(body).hexdigest())
        file = parts.store.put_named(name, lambda stream: write_bytes(stream, body))
        update = "UPDATE sscd_ops.snapshots SET file = CAST(:f AS jsonb) WHERE snapshot = :s"
        run(conn, update, f=file_json(conn, file), s=number)


def _least(costs: Sequence[Cost]) -> Cost:
    return Cost(min(cost.wall for cost in costs), min(cost.cpu for cost in costs))


_CONFIG = """
[storage]
root = "{base}/root"
[catalog]
url = "{url}"
[datasets.year]
schedule = "0 0 * * *"
start = {first}
late_days = 0
[[datasets.year.sources]]
name = "s"
urls = ["{base}/in/{{date}}/*.tar"]
[datasets.year.fingerprint]
model = "dct"
workers = 1
[datasets.year.duplicates]
search = "flat"
[datasets.year.guard]
first_nights_max = 1.0
"""

# Night n is turn and snapshot n, and generation n but for what was merged before; what it consists
# of has the number :made + n. Settings are those of the first night, which is real.
_ROWS = """
WITH nights AS MATERIALIZED (
    SELECT n, :made + n AS id, CAST(:first AS date) + CAST(n AS int) - 1 AS day,
        (CAST(:files AS text[]))[n - :a + 1] AS files FROM generate_series(:a, :z) n),
first AS MATERIALIZED (
    SELECT b.dataset_id, d.month, d.counts, a.* FROM sscd_ops.batches b
    JOIN sscd_ops.attempts a USING (attempt_id) JOIN sscd_ops.decisions d USING (decision_id)
    ORDER BY b.batch_id LIMIT 1),
batches AS (
    INSERT INTO sscd_ops.batches (batch_id, dataset_id, interval_start, interval_end, state,
        attempt_id, decision_id, runner, label, night, ready, finished_at)
    OVERRIDING SYSTEM VALUE
    SELECT id, dataset_id, day, day + 1, 'published', id, id, '{"kind": "cli"}', day, day, true,
        now() FROM nights, first),
attempts AS (
    INSERT INTO sscd_ops.attempts (attempt_id, batch_id, config_sha256, config, fingerprint,
        fingerprint_detail, search, threshold, pinned_turn, pinned_generation)
    OVERRIDING SYSTEM VALUE
    SELECT id, id, f.config_sha256, config, fingerprint, fingerprint_detail, search, threshold,
        n - 1, n - 1 FROM nights, first f),
decisions AS (
    INSERT INTO sscd_ops.decisions (decision_id, dataset_id, kind, batch_id, attempt_id, month,
        turn, generation, config_sha256, actor, why, decided_at, counts, origins, published_at,
        snapshot)
    OVERRIDING SYSTEM VALUE
    SELECT id, dataset_id, 'night', id, id, month, n, n + :merges, f.config_sha256, 'cli', '',
        now(), counts, '{}', now(), n FROM nights, first f),
sources AS (
    INSERT INTO sscd_ops.decision_sources (decision_id, source, counts)
    SELECT id, 's', counts FROM nights, first),
events AS (
    INSERT INTO sscd_ops.events (dataset_id, turn, kind, actor, why, batch_id, details)
    SELECT dataset_id, n, kind, 'cli', '', id, '{}'
    FROM nights, first, unnest(ARRAY['decided', 'published']) kind),
source_shards AS (
    INSERT INTO sscd_ops.source_shards (shard_id, attempt_id, source, relative_uri, uri, version,
        size, group_no, ordinal)
    OVERRIDING SYSTEM VALUE
    SELECT id, id, 's', day || '/a.tar', day || '/a.tar', '1', 1, 0, 0 FROM nights),
owners AS (
    INSERT INTO sscd_ops.shard_owners (dataset_id, source, relative_uri, version, batch_id,
        attempt_id)
    SELECT dataset_id, 's', day || '/a.tar', '1', id, id FROM nights, first),
generations AS (
    INSERT INTO sscd_ops.generations (dataset_id, generation, turn)
    SELECT dataset_id, n + :merges, n FROM nights, first),
segments AS (
    INSERT INTO sscd_ops.segments (segment_id, dataset_id, decision_id, rows, dimensions,
        fingerprint, files)
    OVERRIDING SYSTEM VALUE
    SELECT id, dataset_id, id, :n, :dim, fingerprint, CAST(files AS jsonb) FROM nights, first),
parts AS (
    INSERT INTO sscd_ops.segment_parts (segment_id, first_row, rows, decision_id)
    SELECT id, 0, :n, id FROM nights),
masks AS (
    INSERT INTO sscd_ops.segment_masks (segment_id, generation_from, mask, kept)
    SELECT id, n + :merges, CAST(:mask AS jsonb), :n FROM nights),
drawn AS MATERIALIZED (
    SELECT n, id, i, (CAST(:ids AS bytea[]))[(n - :a) * :n + i + 1] AS sha256
    FROM nights, generate_series(0, :n - 1) i),
images AS (
    INSERT INTO sscd_ops.images (dataset_id, sha256, decision_id, verdict, sample_id, shard_id,
        position, rank, slot, segment_row)
    SELECT dataset_id, sha256, id, 'kept', CAST(md5(n || '/' || i) AS uuid), id, i, i, i, i
    FROM drawn, first),
samples AS (
    INSERT INTO sscd_ops.samples (month, decision_id, sample_id, shard_id, position, key,
        image_sha256, width, height, format, bytes, caption, verdict, rank, slot)
    SELECT month, id, CAST(md5(n || '/' || i) AS uuid), id, i, 'k' || i, sha256, 320, 240, 'jpg',
        10000, 'a caption', 'kept', i, i FROM drawn, first),
shards AS (
    INSERT INTO sscd_ops.output_shards (output_id, decision_id, number, plan, form, samples, name,
        turn, files)
    OVERRIDING SYSTEM VALUE
    SELECT id, id, 0, '0badcafe', 'jpg+json+txt', :n, name, n, jsonb_build_object('tar',
        jsonb_build_object('name', name, 'sha256', encode(sha256(name::bytea), 'hex'),
        'bytes', 1000000))
    FROM nights, LATERAL (SELECT 'year/shards/' || day || '-0badcafe/00000.tar') AS s(name)),
placements AS (
    INSERT INTO sscd_ops.placements (output_id, decision_id, slot_from, slot_to, position,
        snapshot_from)
    SELECT id, id, 0, :n, 0, n FROM nights),
snapshots AS (
    INSERT INTO sscd_ops.snapshots (dataset_id, snapshot, parent, decision_id, turn, samples,
        shards, bytes, file)
    SELECT dataset_id, n, n - 1, id, n, :n * n, n, 1000000 * CAST(n AS bigint),
        '{"name": "not written", "sha256": "", "bytes": 0}' FROM nights, first)
UPDATE sscd_ops.datasets SET next_turn = :z + 1, generation = :z + :merges, snapshot = :z
"""


# ---------------------------------------------------------------- the table


def show(what: str, costs: dict[str, Cost]) -> str:
    """A line: wall seconds and processor seconds of each step, and of the command."""
    return f"{what:<16}" + " ".join(f"{c.wall:6.2f} {c.cpu:4.2f}" for c in costs.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if the target was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=1000, help="earlier nights at the end")
    parser.add_argument("--pictures", type=int, default=30, help="of a night")
    asked = parser.parse_args(arguments)
    if asked.nights < 30 or asked.pictures < 1:  # real nights at the points are among them
        parser.error("--nights is 30 or more, --pictures 1 or more")
    base = Path(tempfile.mkdtemp(prefix="bench-year-"))
    base.chmod(0o755)
    try:
        url = embedded.ensure_running(base / "postgres")["catalog"]
        upgrade(url)
        year = Year(base, url, asked.pictures)
        year.night()
        print(
            f"nights of {asked.pictures} pictures; wall and processor seconds, least of {REPEATS}"
        )
        print(f"{'earlier nights':<16}" + " ".join(f"{s:>11}" for s in (*STEPS, "command")))
        first = last = year.least()
        print(show("1", first), flush=True)
        for number in (asked.nights // 4, asked.nights // 2, asked.nights):
            year.make(number)
            last = year.least()
            print(show(str(number), last), flush=True)
        start = time.perf_counter(), time.process_time()
        with year.parts() as parts:
            merged = compact(parts, DATASET, MERGED_BELOW)
        spent = time.perf_counter() - start[0], time.process_time() - start[1]
        after = year.least()
        print(show(f"{asked.nights}, compacted", after))
    finally:
        embedded.stop(base / "postgres")
        shutil.rmtree(base)
    before, ratio = (costs["command"].cpu / first["command"].cpu for costs in (last, after))
    print(
        f"index compact: {sum(len(each.segments) for each in merged)} segments into {len(merged)},"
        f" {spent[0]:.2f} s, {spent[1]:.2f} of the processor"
    )
    print(
        f"the command after {asked.nights} nights takes {before:.2f} of the processor time of the"
        f" first; compacted {ratio:.2f}, target {TARGET:g}"
    )
    return 0 if ratio <= TARGET else 3


if __name__ == "__main__":
    sys.exit(main())
