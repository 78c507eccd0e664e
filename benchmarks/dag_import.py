"""What parsing the DAG file adds to ``import airflow.sdk``: seconds, and what it loads.

Each try is a fresh interpreter that imports airflow.sdk first; the median of what follows counts.

Run: ``python -m benchmarks.dag_import [--tries N] [--datasets N]``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = 0.3
"""Seconds."""
HEAVY = ("torch", "faiss", "pyarrow", "numpy", "sscd_ops.catalog")
DAGS = Path(__file__).parents[1] / "dags" / "curation.py"

_DATASET = """
[datasets.line{number}]
schedule = "0 2 * * *"
start = 2026-11-01
[[datasets.line{number}.sources]]
name = "crawl"
urls = ["/incoming/{{date}}/*.tar"]
[datasets.line{number}.airflow.embed]
queue = "gpu"
"""

_CODE = """
import json, sys, time
import airflow.sdk
start = time.perf_counter()
found = {}
if len(sys.argv) > 1:
    import runpy
    found = runpy.run_path(sys.argv[1])
seconds = time.perf_counter() - start
dags = [name for name in found if name.startswith("curate_")]
heavy = [name for name in sys.modules if name in %r]
print(json.dumps({"seconds": seconds, "dags": len(dags), "heavy": sorted(heavy)}))
"""


def measure(folder: Path, tries: int, datasets: int) -> tuple[float, list[str]]:
    """Median seconds that the DAG file adds, and the heavy modules it loaded.

    Raises:
        RuntimeError: not all datasets became DAGs.
    """
    config = folder / "curation.toml"
    tables = "".join(_DATASET.format(number=number) for number in range(datasets))
    config.write_text(f'[storage]\nroot = "{folder}"\n{tables}')
    seconds, heavy = [], set()
    for _ in range(tries):
        answer = _run(folder, config, str(DAGS))
        if answer["dags"] != datasets:
            raise RuntimeError(f"{answer['dags']} of {datasets} datasets became DAGs")
        seconds.append(answer["seconds"])
        heavy.update(answer["heavy"])
    before = set(_run(folder, config)["heavy"])
    return statistics.median(seconds), sorted(heavy - before)


def _run(folder: Path, config: Path, *arguments: str) -> dict[str, object]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "SSCD_OPS_CONFIG": str(config),
    }
    done = subprocess.run(
        [sys.executable, "-c", _CODE % (HEAVY,), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Print the table; exit code 3 where the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--datasets", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds, heavy = measure(Path(folder), given.tries, given.datasets)
    good = seconds <= TARGET and not heavy
    print(f"\nDAG file with {given.datasets} datasets, added to `import airflow.sdk`")
    print(f"{'seconds':>8} {'target':>7}  loads of {', '.join(HEAVY)}")
    print(f"{seconds:8.3f} {TARGET:7.2f}  {', '.join(heavy) or 'none'}{'' if good else '  MISSED'}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
