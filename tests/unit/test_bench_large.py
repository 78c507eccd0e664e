"""What `make bench-large` works out of its figures, and that a run that was cut goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import large, large_page
from sscd_ops.index.backends import open_backend

TASK = {"wall": 10.0, "cpu": 10.0, "searched": 9.0, "gib": 1.0, "found": 5}


def figures(**changed: Any) -> dict[str, Any]:
    one = {"one": [TASK], "two": [TASK | {"wall": 5.0}, TASK | {"wall": 5.2}], "single": TASK}
    one["pairs"] = TASK | {"cpu": 0.5}
    return {
        "machine": "a machine",
        "leader": {
            "rows": 100_000,
            "cells": 4,
            "pairs": 5e9,
            "measured_cells": 4,
            "measured_pairs": 5e9,
            "single_rows": 100_000,
            "exact": one,
            "sketch": one,
        },
        "memory": {"sketch": TASK | {"rows": 1000}},
        "match": {name: TASK | {"pairs": 10**10} for name in ("exact", "sketch")},
        "resolve": {"1000000": [36.0, 1.0], "4000000": [108.0, 2.5]},
        "ingest": [20_000, 3.0, 2.0],
        "publish": [10_000, 2.0, 1.0],
    } | changed


@pytest.mark.parametrize("rows", [1000, 50_000, 100_001, 1_000_000])
def test_cells_compare_each_two_rows_once(rows: int) -> None:
    assert sum(map(large.pairs_of, large.cells_of(rows))) == pytest.approx(rows**2 / 2)


@pytest.mark.parametrize("name", ["ingest_read", "publish_copy"])
def test_what_another_benchmark_prints_is_found(name: str) -> None:
    page = large_page.PAGE.read_text(encoding="utf-8")
    printed = page.partition(f"### {name}\n")[2].partition("\n### ")[0]

    assert all(number > 0 for number in large.numbers(name, printed))


def test_what_resolve_prints_is_found() -> None:
    printed = """\
   samples       kept      near shards  seconds   cpu s    GiB
 1,000,000    650,000   350,000     65    30.25   41.50   0.87
a million, rows included      30.25 s    target 60
"""
    assert large.numbers("resolve", printed) == [30.25, 0.87]


def test_tasks_do_what_the_product_does(tmp_path: Path) -> None:
    large.write_night(tmp_path / "night.npy", 40_000)
    rows = np.load(tmp_path / "night.npy", mmap_mode="r")[32_000:34_000]
    backend = open_backend("flat", fingerprint_digest="5e" * 32, dimensions=512, threshold=0.75)

    kept = large.single_pass(backend, rows, 2000, large.Clock())

    assert kept == large.over_pairs(backend, rows, 2000, large.Clock())
    assert large.match_rows(backend, rows, [1000, 1000], large.Clock()) >= 0


def test_hours_follow_the_formulas() -> None:
    hours = large_page._hours(figures(), 5_000_000, 100_000_000, 16)

    share = 2 * 0.52 / 16
    assert [3600 * each for each in hours] == pytest.approx(
        [500 * share, 5e14 * 1e-9 * share, 1.25e13 * 2e-9 * share, 132.0, 500 * share]
    )


def test_a_missed_target_is_said() -> None:
    met, missed = figures(), figures(resolve={"1000000": [36.0, 2.5], "4000000": [108.0, 10.0]})

    assert large_page.section(met)[1]
    text, good = large_page.section(missed)
    assert not good
    assert "12.50 GiB  target 8: MISSED" in text


def test_what_is_not_measured_has_no_nights() -> None:
    some = figures()
    del some["ingest"]

    assert "Not measured yet: ingest." in large_page.section(some)[0]
    one = figures(resolve={"1000000": [36.0, 1.0]})
    assert "Not measured yet: resolve at a second size." in large_page.section(one)[0]


def test_a_section_takes_the_place_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n\n{large_page.END}\n\n## After\n", encoding="utf-8")
    monkeypatch.setattr(large_page, "PAGE", page)

    large_page.write("## One\n")
    large_page.write("## Two\n")

    said = page.read_text(encoding="utf-8")
    assert "## One" not in said
    assert said.index("before") < said.index("## Two") < said.index("## After")


def test_a_run_that_was_cut_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    large.State(path).once(("leader", "exact", "one"), lambda: [1.0])

    again = large.State(path)

    assert again.once(("leader", "exact", "one"), lambda: [2.0]) == [1.0]
    again.same("leader", {"rows": 5})
    with pytest.raises(SystemExit, match="rows 5, not 6"):
        again.same("leader", {"rows": 6})
