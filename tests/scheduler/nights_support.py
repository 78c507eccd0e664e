"""Pictures, config and questions of the scheduler tests."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy.pool import NullPool

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

# What is left out where two runs of the same nights are compared: times, numbers given by a
# sequence, and which snapshot a shard came with (promise I6).
ASIDE = {
    "batch_id",
    "witness_batch_id",
    "started_at",
    "finished_at",
    "seconds",
    "decided_at",
    "snapshot_from",
    "snapshot_to",
    "snapshot",
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
match_tasks = {match_tasks}
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
