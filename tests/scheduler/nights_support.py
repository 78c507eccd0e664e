"""Pictures, config and questions of the scheduler tests."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy.pool import NullPool

NIGHT = "2026-11-{:02d}"
AT = "2026-11-{:02d}T02:00:00Z"

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

# What is left out where two runs of the same nights are compared: times, numbers given by a
# sequence, and which snapshot a shard came with (promise I6).
ASIDE = {
    "batch_id",
    "decision_id",
    "witness_batch_id",
    "started_at",
    "finished_at",
    "seconds",
    "decided_at",
    "snapshot_from",
    "snapshot_to",
    "snapshot",
    "source_seen_at",
    "runner",
    "run_id",
}
VIEWS = ("runs", "run_sources", "samples", "removed", "kept", "quarantined", "shards")

DATASET = """
[datasets.{name}]
schedule = "0 2 * * *"
timezone = "UTC"
start = 2099-01-01
late_days = 0
[[datasets.{name}.sources]]
name = "crawl"
root = "{incoming}"
urls = ["{incoming}/{folder}/{{date}}/*.tar"]
{source}
[datasets.{name}.fingerprint]
model = "dct"
workers = 1
[datasets.{name}.duplicates]
search = "flat"
[datasets.{name}.guard]
{guard}
[datasets.{name}.publish]
max_samples = {max_samples}
[datasets.{name}.airflow]
max_active_runs = 16
"""


def load_local_airflow() -> ModuleType:
    """``examples/airflow_local.py``, which is no package."""
    spec = importlib.util.spec_from_file_location(
        "airflow_local", ROOT / "examples" / "airflow_local.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["airflow_local"] = module
    spec.loader.exec_module(module)
    return module


def picture(seed: int, quality: int = 90, side: int = 160) -> bytes:
    """A JPEG of coloured clouds; the same seed at another quality is a near copy."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    out = io.BytesIO()
    clouds = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    clouds.save(out, "JPEG", quality=quality)
    return out.getvalue()


def make_tar(path: Path, samples: list[tuple[str, bytes, str]]) -> None:
    """A WebDataset tar of (key, image, caption), atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with tarfile.open(new, "w") as tar:
        for key, image, caption in samples:
            extension = "png" if image.startswith(b"\x89PNG") else "jpg"
            for name, data in ((f"{key}.{extension}", image), (f"{key}.txt", caption.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    new.rename(path)


def plain(value: Any) -> Any:
    """A database value as one whose text can be compared."""
    return bytes(value).hex() if isinstance(value, memoryview) else value


class Nights:
    """Where everything is, and the questions tests ask."""

    def __init__(self, base: Path, airflow: Any, urls: dict[str, str]) -> None:
        self.base = base
        self.incoming = base / "incoming"
        self.airflow = airflow
        self.urls = urls
        self.configs = {name: base / f"{name}.toml" for name in urls}
        self._engines: dict[str, sa.Engine] = {}

    def write_configs(self, datasets: str) -> None:
        """The same datasets over one storage root for Airflow and one for the commands."""
        for name, path in self.configs.items():
            (self.base / name).mkdir()
            path.write_text(f'[storage]\nroot = "{self.base / name}"\n{datasets}')

    def ask(self, sql: str, side: str = "airflow", **given: Any) -> list[dict[str, Any]]:
        """Rows of a catalog."""
        engine = self._engines.setdefault(
            side, sa.create_engine(self.urls[side], poolclass=NullPool)
        )
        with engine.connect() as conn:
            return [dict(row) for row in conn.execute(sa.text(sql), given).mappings()]

    def dump(self, dataset: str, side: str = "airflow") -> dict[str, list[str]]:
        """The public views of a dataset without what may differ between equal runs."""
        found = {}
        for view in VIEWS:
            rows = self.ask(f"SELECT * FROM curation.{view} WHERE dataset = :d", side, d=dataset)
            found[view] = sorted(
                repr({name: plain(row[name]) for name in row if name not in ASIDE}) for row in rows
            )
        return found

    def command(self, *arguments: str, side: str = "cli", ok: bool = True) -> str:
        """Run ``sscd-ops``; answers what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", "from sscd_ops.cli.main import main; main()", *arguments],
            env={
                **os.environ,
                "SSCD_OPS_CONFIG": str(self.configs[side]),
                "SSCD_OPS_DATABASE_URL": self.urls[side],
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr


# ---------------------------------------------------------------- nights and promises


def crossing_night(folder: Path, number: int) -> None:
    """Two shards; the second repeats the night before: byte copies and near copies."""
    new = [
        (f"new{number}-{i}", picture(100 * number + i), f"night {number} picture {i}")
        for i in range(8)
    ]
    again = [
        (f"again{number}-{i}", picture(100 * (number - 1) + i, 90 if i % 2 else 40), "a copy")
        for i in range(6)
    ]
    make_tar(folder / "00000.tar", new)
    make_tar(folder / "00001.tar", [*again, (f"last{number}", picture(100 * number + 50), "last")])


def dataset(nights: Nights, name: str, folder: str, **rest: Any) -> str:
    values = {"source": "", "guard": "", "max_samples": 1000, **rest}
    return DATASET.format(name=name, incoming=nights.incoming, folder=folder, **values)


def turns(nights: Nights, name: str) -> dict[int, int]:
    """Day of the month -> turn."""
    rows = nights.ask("SELECT interval_start, turn FROM curation.runs WHERE dataset = :d", d=name)
    return {row["interval_start"].day: row["turn"] for row in rows}


def as_user(airflow: Any, name: str) -> Any:
    """The same Airflow, asked by another of its users."""
    other = copy.copy(airflow)
    passwords = json.loads((airflow.home / "passwords.json").read_text())
    other.user, other.password, other._token = name, passwords[name], ""
    return other


def run_by_command(nights: Nights, name: str, days: range) -> None:
    for day in days:
        nights.command("run", "--dataset", name, "--date", NIGHT.format(day))


def assert_promises(nights: Nights, name: str) -> None:
    """I1 to I4 of a dataset, from the public views and the published bytes."""
    runs = nights.ask("SELECT * FROM curation.runs WHERE dataset = :d", d=name)
    samples = nights.ask("SELECT * FROM curation.samples WHERE dataset = :d", d=name)
    for run in runs:
        mine = [s for s in samples if s["batch_id"] == run["batch_id"]]
        assert len(mine) == len({s["sample_id"] for s in mine}) == run["read"], "I1"
    by_id = {s["sample_id"]: s for s in samples}
    for removed in (s for s in samples if s["verdict"] == "removed"):
        witness = by_id[removed["witness_sample_id"]]
        assert witness["verdict"] == "kept", "I2"
        if removed["reason"] == "exact":
            assert witness["image_sha256"] == removed["image_sha256"], "I2"
        else:
            assert removed["similarity"] >= removed["threshold"], "I2"
    assert most_alike_kept(nights, name) < runs[0]["threshold"], "I3"
    assert_published_once(nights, name, [s for s in samples if s["verdict"] == "kept"])


def most_alike_kept(nights: Nights, name: str) -> float:
    """The highest canonical similarity of two kept pictures, by brute force over the index."""
    from sscd_ops.catalog.datasets import read as read_dataset
    from sscd_ops.catalog.segments import live_segments
    from sscd_ops.config import load_settings
    from sscd_ops.core.segment_file import open_segment, read_mask
    from sscd_ops.wiring import Wiring

    kept = []
    with Wiring(
        load_settings(str(nights.configs["airflow"])), database_url=nights.urls["airflow"]
    ) as parts:
        with parts.catalog.begin() as conn:
            row = read_dataset(conn, name)
            segments = live_segments(conn, row.dataset_id, row.generation)
        for segment in segments:
            opened = open_segment(parts.store, segment)
            mask = read_mask(parts.store, segment.mask, segment.rows)
            kept.append(np.array(opened.descriptors, dtype=np.float64)[mask])
    vectors = np.concatenate(kept)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1)
    return float(similarities.max())


def assert_published_once(nights: Nights, name: str, kept: list[dict[str, Any]]) -> None:
    """I4: each kept sample is once in the newest snapshot, its image byte for byte."""
    shards = nights.ask(
        "SELECT shard FROM curation.shards WHERE dataset = :d AND snapshot_to IS NULL", d=name
    )
    published: dict[str, list[str]] = {}
    for row in shards:
        path = nights.base / "airflow" / row["shard"]
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension in ("jpg", "png"):
                    data = tar.extractfile(member).read()
                    published.setdefault(key, []).append(sha256(data).hexdigest())
    expected = {s["sample_id"].hex: [plain(s["image_sha256"])] for s in kept}
    assert published == expected, "I4"
