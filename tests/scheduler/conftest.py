"""One Airflow for the module, on the embedded Postgres, with pictures of its own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sscd_ops.catalog.embedded import ensure_running
from sscd_ops.catalog.migrate import upgrade

sys.path.insert(0, str(Path(__file__).parent))
from nights_support import ROOT, Nights, load_local_airflow


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sscd-ops-nights-"))
    yield folder
    if os.environ.get("SSCD_OPS_KEEP_NIGHTS"):
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def nights(base: Path, postgres_home: Path) -> Iterator[Nights]:
    """A started Airflow without DAG runs; the test module brings DAG file, config and pictures."""
    found = ensure_running(postgres_home, ("airflow", "nights_airflow", "nights_cli"))
    urls = {"airflow": found["nights_airflow"], "cli": found["nights_cli"]}
    for url in urls.values():
        upgrade(url)
    dags = base / "dags"
    dags.mkdir()
    airflow = load_local_airflow().LocalAirflow(
        base / "home",
        dags,
        found["airflow"],
        plugins_folder=ROOT / "plugins",
        parallelism=6,
        variables={
            "SSCD_OPS_CONFIG": str(base / "airflow.toml"),
            "SSCD_OPS_DATABASE_URL": urls["airflow"],
            "NIGHTS_SEEN": str(base / "seen"),
            # who may trigger, besides the one who drafts
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,second:user",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "3",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "OMP_NUM_THREADS": "1",
        },
    )
    (base / "seen").mkdir()
    yield Nights(base, airflow, urls)
    airflow.stop()
