"""What a test's nights left, recorded to be compared with what other code leaves.

A change of the private tables must change nothing that a user sees. So the integration tests are
recorded before and after it, and the two folders compared::

    SSCD_OPS_RECORD=/tmp/old python -m pytest tests/integration   # the code as it was
    SSCD_OPS_RECORD=/tmp/new python -m pytest tests/integration   # and as it is now
    python -m tests.recording compare /tmp/old /tmp/new

Each test with a catalog leaves one JSON file, of every database and folder among its fixtures: the
rows of the public views, and the sha256 of each file below ``<dataset>/shards`` and
``<dataset>/snapshots``. Private tables are never asked. Nor are index masks: only private tables
say which of them are live, and in what order; that every pair of kept images is below the threshold
is what the tests themselves ask of them.

What two runs of the same code give differently is masked:

- times (`TIMES`): whether there is one still counts
- ids that a sequence gives: a batch is named by dataset, night and supplement, also in text; an
  event by its place among those of its batch
- folders of the run and names of test databases, in text; a configuration's digest, which names
  such folders, is that of the masked configuration
- hidden files, which a killed writer leaves under names made by chance

Tests whose end is decided by chance are not recorded (`BY_CHANCE`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

FOLDER = os.environ.get("SSCD_OPS_RECORD")

VIEWS = {
    "runs": ("dataset", "batch_id"),
    "run_sources": ("dataset", "batch_id", "source"),
    "samples": ("dataset", "batch_id", "source", "source_shard", "key", "sample_id"),
    "removed": ("dataset", "batch_id", "source", "source_shard", "key", "sample_id"),
    "kept": ("dataset", "batch_id", "source", "source_shard", "key", "sample_id"),
    "quarantined": ("dataset", "batch_id", "source", "source_shard", "key", "sample_id"),
    "shards": ("dataset", "batch_id", "shard"),
    "snapshots": ("dataset", "snapshot"),
    "events": ("dataset", "batch_id", "event_id"),
    "configs": ("dataset", "turn", "config_sha256"),
}
"""The public views, and what names a row of each: rows are in this order."""

TIMES = {"started_at", "finished_at", "seconds", "decided_at", "created_at", "at"}

BY_CHANCE = {
    "test_turns.py::test_three_at_once_take_turns_without_gaps": "three race for their turns",
    "test_turns.py::test_one_that_lost_three_times_is_waited_for": "two race for a turn",
    "test_catalog_partitions.py": "it fills tables with ids made by chance",
    "test_crashes.py::test_nights_that_decide_at_the_same_moment_keep_every_promise": (
        "four nights race for their turns"
    ),
    "test_real_data.py::test_a_night_over[a_picture_is_named_in_many_ways]": (
        "its folder is in its captions file, and so in what is published"
    ),
    "test_recovery.py::test_the_samples_of_an_output_shard_are_found_by_an_index": (
        "it fills a private table with ids made by chance"
    ),
    "test_inputs.py::test_every_kind_of_source_goes_through_a_whole_night[img2dataset_itself]": (
        "a server's port is in its metadata, and so in what is published"
    ),
}
"""Test, or one case of it -> why two runs of it end differently."""

Row = dict[str, Any]


# ---------------------------------------------------------------- recording


def record(item: pytest.Item, outcome: str) -> None:
    """Write what a test left, where that is asked for, while its fixtures are still there."""
    name = f"{item.path.name}::{item.nodeid.partition('::')[2]}"
    if FOLDER is not None and not BY_CHANCE.keys() & {
        name,
        name.partition("[")[0],
        name.partition("::")[0],
    }:
        given = {name: item.funcargs[name] for name in item.fixturenames if name in item.funcargs}
        write(Path(FOLDER), name, outcome, given)


def write(folder: Path, name: str, outcome: str, given: Mapping[str, Any]) -> None:
    """Write a test's recording, if there is a catalog among its fixtures.

    Args:
        folder: where the file goes.
        name: the test's id.
        outcome: passed or failed.
        given: fixture -> its value.
    """
    folders = _folders(given)
    masked = _text_mask(folders)
    databases = {name: _views(url, masked) for name, url in _databases(given).items()}
    databases = {name: found for name, found in databases.items() if found}
    if databases:
        document = {
            "test": name,
            "outcome": outcome,
            "databases": databases,
            "files": {name: _files(each) for name, each in folders.items()},
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_file_name(name)}.json"
        path.write_text(json.dumps(document, indent=1, sort_keys=True))


def _file_name(test: str) -> str:
    """A file's name for a test's id: the id itself, as far as file systems take it."""
    name = quote(test, safe="[]: ")
    return (
        name if len(name) < 200 else f"{name[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )


def _databases(given: Mapping[str, Any]) -> dict[str, str]:
    """Fixture -> URL of the database that it is over; each database once."""
    found: dict[str, str] = {}
    for name, value in given.items():
        url = value if name in ("catalog_url", "empty_url") else getattr(value, "url", None)
        if isinstance(url, str) and url.startswith("postgresql") and url not in found.values():
            found[name] = url
    return found


def _folders(given: Mapping[str, Any]) -> dict[str, Path]:
    """Fixture -> folder it works in, without those below another one."""
    found: dict[str, Path] = {}
    for name, value in sorted(given.items(), key=lambda pair: pair[0] != "tmp_path"):
        folder = (
            value if name == "tmp_path" else getattr(value, "base", getattr(value, "folder", None))
        )
        if isinstance(folder, Path) and not any(folder.is_relative_to(f) for f in found.values()):
            found[name] = folder
    return found


def _files(folder: Path) -> dict[str, str]:
    """Name below a folder -> sha256, of all that is published there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and {"shards", "snapshots"} & set(name.parts[:-1]) and path.is_file():
            found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _text_mask(folders: Mapping[str, Path]) -> Callable[[str], str]:
    """Masks the folders of a test, the project's own and names of test databases in a text."""
    named = {str(folder): f"<{name}>" for name, folder in folders.items()}
    named[str(Path(__file__).parents[1])] = "<project>"
    given = re.compile("|".join(map(re.escape, named)) + r"|\btest_[0-9a-f]{12}\b")
    return lambda value: given.sub(lambda found: named.get(found[0], "<database>"), value)


@contextmanager
def _connect(url: str) -> Iterator[Connection]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as conn:
        conn.exec_driver_sql("SET lock_timeout = '30s'; SET timezone = 'UTC'")
        yield conn


def _views(url: str, masked: Callable[[str], str]) -> dict[str, list[Row]]:
    """View -> its rows, masked and in order; nothing where no catalog answers."""
    try:
        with _connect(url) as conn:
            raw = _read(conn)
    except SQLAlchemyError as error:
        print(f"not recorded: {str(error).splitlines()[0]}", file=sys.stderr)
        return {}
    if not raw:
        return {}
    mask = _Mask(raw, masked)
    return {view: mask.rows(view, rows) for view, rows in raw.items()}


def _read(conn: Connection) -> dict[str, list[Row]]:
    if conn.exec_driver_sql("SELECT to_regclass('curation.runs')").scalar() is None:
        return {}
    return {
        view: [dict(row) for row in conn.execute(text(f"SELECT * FROM curation.{view}")).mappings()]
        for view in VIEWS
    }


class _Mask:
    """Masks the rows of one database's views."""

    def __init__(self, raw: Mapping[str, list[Row]], text_mask: Callable[[str], str]) -> None:
        self._text = text_mask
        self._batches = {
            row["batch_id"]: f"{row['dataset']} {row['night']} s{row['supplement']}"
            for row in raw["runs"]
        }
        self._configs = {
            row["config_sha256"]: hashlib.sha256(
                json.dumps(self.value(row["config"]), sort_keys=True).encode()
            ).hexdigest()
            for row in raw["configs"]
        }
        self._places: dict[int, int] = {}
        counts: Counter[tuple[str, int | None]] = Counter()
        for row in sorted(raw["events"], key=lambda row: row["event_id"]):
            counts[row["dataset"], row["batch_id"]] += 1
            self._places[row["event_id"]] = counts[row["dataset"], row["batch_id"]]

    def rows(self, view: str, rows: list[Row]) -> list[Row]:
        masked = [{name: self.column(name, value) for name, value in row.items()} for row in rows]
        return sorted(masked, key=lambda row: (_key(view, row), json.dumps(row, sort_keys=True)))

    def column(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        if name in TIMES:
            return "<time>"
        if name in ("batch_id", "witness_batch_id"):
            return self.batch(value)
        if name == "batches":
            return [self.batch(each) for each in value]
        if name == "event_id":
            return self._places[value]
        if name == "config_sha256":
            return self._configs.get(value, "<no config>")
        return self.value(value)

    def batch(self, number: int) -> str:
        """Its name; a dry run, and one that was dropped, has none."""
        return self._batches.get(number, "<unlisted>")

    def value(self, value: Any) -> Any:
        """A value as JSON has it, masked at any depth."""
        if isinstance(value, dict):
            return {self._text(name): self.column(name, each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, (bytes, memoryview)):
            return bytes(value).hex()
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return re.sub(
            r"\bbatch (\d+)", lambda m: f"batch <{self.batch(int(m[1]))}>", self._text(str(value))
        )


def _key(view: str, row: Row) -> tuple[str, ...]:
    return tuple(_text_of(row.get(name)) for name in VIEWS[view])


def _text_of(value: Any) -> str:
    return f"{value:012d}" if isinstance(value, int) else str(value)


# ---------------------------------------------------------------- comparing


@dataclass
class Comparison:
    """What two recordings say: lines to print.

    Attributes:
        differences: what the same test left otherwise, and tests that are missing.
        notes: what is in the second recording alone: tests, and columns, which views may get.
    """

    differences: list[str]
    notes: list[str]


def compare(old: Path, new: Path, *, subset: bool = False, few: int = 5) -> Comparison:
    """What differs between two recordings.

    Args:
        old: folder of the first one.
        new: folder of the second one.
        subset: the second one is of some tests: that others are missing is a note.
        few: at most so many differences of a view are shown.
    """
    mine, other = ({path.name: path for path in folder.glob("*.json")} for folder in (old, new))
    said = Comparison([], [f"{name}: only in {new}" for name in sorted(other.keys() - mine.keys())])
    for name in sorted(mine):
        if name in other:
            was, now = (json.loads(each[name].read_text()) for each in (mine, other))
            said.differences += [f"{was['test']}: {line}" for line in _differences(was, now, few)]
            said.notes += _new_columns(was, now)
        else:
            (said.notes if subset else said.differences).append(f"{name}: only in {old}")
    said.notes = list(dict.fromkeys(said.notes))
    return said


def _differences(old: Row, new: Row, few: int) -> Iterator[str]:
    if old["outcome"] != new["outcome"]:
        yield f"{old['outcome']} -> {new['outcome']}"
    for what in ("files", "databases"):
        for name in sorted(old[what].keys() ^ new[what].keys()):
            yield f"{what} of {name}: in one recording only"
    for name in sorted(old["files"].keys() & new["files"].keys()):
        yield from _cut(
            f"files of {name}", _file_differences(old["files"][name], new["files"][name]), few
        )
    for name in sorted(old["databases"].keys() & new["databases"].keys()):
        for view in VIEWS:
            found = _row_differences(
                view, old["databases"][name][view], new["databases"][name][view]
            )
            yield from _cut(f"{view} of {name}", found, few)


def _file_differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    return [
        f"{name}: {old.get(name, 'none')[:12]} -> {new.get(name, 'none')[:12]}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _row_differences(view: str, old: list[Row], new: list[Row]) -> list[str]:
    """Rows of one key by the columns that differ; a column of the new ones alone is none."""
    lines = []
    sides: list[dict[tuple[str, ...], list[Row]]] = [{}, {}]
    for side, rows in zip(sides, (old, new), strict=True):
        for row in rows:
            side.setdefault(_key(view, row), []).append(row)
    for key in sorted(sides[0].keys() | sides[1].keys()):
        mine, other = (side.get(key, []) for side in sides)
        if len(mine) != len(other):
            lines.append(f"{' | '.join(key)}: {len(mine)} row(s) -> {len(other)}")
        for one, two in zip(mine, other, strict=False):
            lines += [
                f"{' | '.join(key)}: {name}: {one[name]!r} -> {two.get(name, 'no such column')!r}"
                for name in one
                if name not in two or one[name] != two[name]
            ]
    return lines


def _new_columns(old: Row, new: Row) -> Iterator[str]:
    for name in sorted(old["databases"].keys() & new["databases"].keys()):
        for view in VIEWS:
            mine, other = (each["databases"][name][view] for each in (old, new))
            if mine and other:
                for column in sorted(other[0].keys() - mine[0].keys()):
                    yield f"{view}: a new column, {column}"


def _cut(what: str, lines: list[str], few: int) -> Iterator[str]:
    yield from (f"{what}: {line}" for line in lines[:few])
    if len(lines) > few:
        yield f"{what}: and {len(lines) - few} more"


def main() -> int:
    """Exit code 1 where there is a difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.recording")
    command = parser.add_subparsers(required=True).add_parser("compare")
    command.add_argument("old", type=Path)
    command.add_argument("new", type=Path)
    command.add_argument("--subset", action="store_true", help="NEW may lack tests of OLD")
    command.add_argument("--few", type=int, default=5, help="differences shown of a view")
    asked = parser.parse_args()
    said = compare(asked.old, asked.new, subset=asked.subset, few=asked.few)
    for line in said.notes:
        print(f"note: {line}")
    for line in said.differences:
        print(line)
    print(f"{len(said.differences)} line(s) of differences")
    return 1 if said.differences else 0


if __name__ == "__main__":
    sys.exit(main())
