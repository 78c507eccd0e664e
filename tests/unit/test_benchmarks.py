"""Every benchmark runs, on very little: its figures then mean nothing, but it does not crash."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from tests.soak import sweep

ROOT = Path(__file__).parents[2]
MET, MISSED = 0, 3
TINY = {
    "ingest_read": ["--samples", "60", "--repeats", "1"],
    "embed": ["--images", "8", "--rounds", "1"],
    "match": ["--history", "2000", "--new", "100"],
    "leader": ["--rows", "1000", "--in-blocks", "1000"],
    "resolve": ["--rows", "1000", "2000"],
    "publish_copy": ["--repeats", "1", "--scale", "0.005"],
    "merge_shards": ["--repeats", "1", "--scale", "0.004"],
    "rewrite_shards": ["--repeats", "1", "--scale", "0.04"],
    "withdraw": ["--samples", "200", "--rows", "1000"],
    "snapshot_diff": ["--samples", "2000", "--repeats", "1"],
    "night": ["--samples", "20"],
    "dag_import": ["--tries", "1"],
}
LIGHT = {"ingest_read", "leader", "resolve", "dag_import"}
"""Those that `make test` runs: the smallest size of others is still dear."""


def test_every_benchmark_has_a_small_size() -> None:
    assert set(TINY) == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_what_it_measures(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").main


@pytest.mark.parametrize("name", sweep(BENCHMARKS, LIGHT))
def test_a_benchmark_prints_its_table(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *TINY[name]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode in (MET, MISSED), done.stderr
    assert any(letter.isdigit() for letter in done.stdout)
