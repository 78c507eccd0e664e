"""What recordings of the tests' nights show, and what they leave out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import recording
from tests.integration.test_nights import DAYS, fill, planted_nights
from tests.integration.world import World


@pytest.fixture
def recorded(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Recordings of a world with one night, and with two."""
    fill(world, planted_nights())
    folders = [tmp_path_factory.mktemp("recorded") for _ in range(2)]
    for folder, days in zip(folders, (DAYS[:1], DAYS[1:2]), strict=True):
        for day in days:
            world.night(day)
        recording.write(folder, "test_x.py::test_nights", "passed", {"world": world})
    return folders


def test_another_night_shows_in_every_view_and_in_the_files(recorded: list[Path]) -> None:
    said = recording.compare(*recorded)

    assert recording.compare(recorded[0], recorded[0]) == recording.Comparison([], [])
    assert said.notes == []
    shown = {line.split(": ")[1] for line in said.differences}
    others = {"removed", "runs", "run_sources", "samples", "kept", "shards", "snapshots", "events"}
    assert shown >= {f"{view} of world" for view in others} | {"files of world"}


def test_no_time_number_or_folder_of_a_run_is_in_a_recording(
    world: World, recorded: list[Path]
) -> None:
    (path,) = recorded[0].iterdir()
    said = path.read_text()

    assert str(world.base) not in said
    assert world.url.rpartition("/")[2] not in said
    assert not re.search(r'"(started_at|finished_at|decided_at|created_at|at)": "\d', said)
    runs = json.loads(said)["databases"]["world"]["runs"]
    assert [run["batch_id"] for run in runs] == [f"web {day} s0" for day in DAYS[:1]]


def test_a_changed_row_is_shown_by_the_columns_that_differ(recorded: list[Path]) -> None:
    old, new = recorded
    (path,) = old.iterdir()
    document = json.loads(path.read_text())
    views = document["databases"]["world"]
    views["samples"][0]["verdict"] = "withdrawn"
    views["samples"][1]["added"] = 1
    views["removed"].pop()
    del views["kept"][0]["caption"]
    (new / path.name).write_text(json.dumps(document))

    said = [re.sub(r".* of world: ", "", line) for line in recording.compare(old, new).differences]

    assert len(said) == 3
    assert said[0].endswith("verdict: 'kept' -> 'withdrawn'")
    assert said[1].endswith("1 row(s) -> 0")
    assert said[2].endswith(" -> 'no such column'")


def test_a_test_that_is_missing_is_a_difference_where_it_was_asked_for(
    recorded: list[Path], tmp_path: Path
) -> None:
    assert len(recording.compare(recorded[0], tmp_path / "none").differences) == 1
    assert recording.compare(recorded[0], tmp_path / "none", subset=True).differences == []
    assert recording.compare(tmp_path / "none", recorded[0]).differences == []
