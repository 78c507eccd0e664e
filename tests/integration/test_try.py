"""`sscd-ops try`: what it says of some tars is what a first night does with them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from sscd_ops.cli.main import main
from sscd_ops.evaluation import trial, trial_report
from sscd_ops.evaluation.empty import EMPTY
from sscd_ops.options import FingerprintOptions, Model, Settings
from sscd_ops.testing import COPIES, Sample, make_tar, plant
from sscd_ops.wiring import Wiring
from tests.integration.world import World, pair

PICTURES = sorted((Path(__file__).parents[2] / "examples" / "pictures").glob("*.jpg"))
DAY = "2026-11-01"


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["try", *map(str, words)])


def samples() -> list[Sample]:
    """Two dozen real pictures, a planted copy of six kinds each twice, and what arrives broken."""
    images = [file.read_bytes() for file in PICTURES[:24]]
    answer = [pair(f"o{number}", data) for number, data in enumerate(images)]
    for number, copy in enumerate(COPIES):
        for again in range(2):
            data = plant(images[number * 3 + again], copy)
            answer.append(pair(f"{copy}-{again}", data, f"seen again as {copy}"))
    return [
        *answer,
        pair("cut", images[20][: len(images[20]) // 3]),
        pair("page", b"<html>404</html>"),
        ("silent", {"jpg": plant(images[21], "half_size")}),
    ]


def tars(folder: Path, everything: Sequence[Sample]) -> str:
    for shard in range(3):
        make_tar(folder / f"{shard:05}.tar", everything[shard::3])
    return f"{folder}/*.tar"


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Numbers, terminal output and the folder of one try."""
    base = tmp_path_factory.mktemp("try")
    url = tars(base / "in", samples())
    result = call(url, "--model", "dct", "--json", base / "t.json", "--sheet", base / "sheet.png")
    assert result.exit_code == 0, result.output
    return json.loads((base / "t.json").read_text()), result.output, base


def test_the_funnel_is_that_of_a_first_night(
    tried: tuple[dict[str, Any], str, Path], world: World
) -> None:
    """The same tars through a real night with its catalog: equal counts and equal removals."""
    for shard in range(3):
        world.put(DAY, f"{shard:05}.tar", samples()[shard::3])
    counts = world.night(DAY).counts

    numbers = tried[0]

    for name in ("read", "kept", "removed_exact", "removed_near", "quarantined"):
        assert numbers[name] == getattr(counts, name), name
    removed = world.ask("SELECT * FROM curation.removed WHERE reason = 'near'")
    assert removed
    assert {(row["key"], row["similarity"]) for row in removed} == {
        (found["key"], found["similarity"]) for found in numbers["removed_near_pairs"]
    }


class ByHash(Wiring):
    """Every model with a second measure, so that no network is needed."""

    def model(self, name: str = "") -> Model:
        return dataclasses.replace(super().model(name), perceptual=True)


def test_a_try_decides_by_hash_where_a_night_does(tmp_path: Path, world: World) -> None:
    world.wiring = ByHash
    world.change(duplicates={"threshold": 0.9995})
    url = tars(tmp_path / "in", samples())
    for shard in range(3):
        world.put(DAY, f"{shard:05}.tar", samples()[shard::3])

    counts = world.night(DAY).counts
    with ByHash(Settings()) as rooms:
        asked = trial.Trial((url,), threshold=0.9995)
        report = trial.run(rooms, asked, FingerprintOptions(model="dct"))
        numbers = json.loads(trial_report.to_json(report))
        sections = trial_report.sheet_sections(report)
        without = dataclasses.replace(asked, perceptual=False)
        plain = trial.run(rooms, without, FingerprintOptions(model="dct"))
    with Wiring(Settings()) as rooms:
        told = dataclasses.replace(asked, perceptual=True)
        assert trial.run(rooms, told, FingerprintOptions(model="dct")).counts == counts

    assert plain.counts.removed_perceptual == 0
    assert [trial_report.fields(one)["perceptual"] for one in (report, plain)] == [True, False]
    assert report.counts == counts
    assert counts.removed_perceptual > 0
    removed = world.ask("SELECT * FROM curation.removed WHERE reason = 'perceptual'")
    assert {(row["key"], row["similarity"]) for row in removed} == {
        (found["key"], found["similarity"]) for found in numbers["removed_perceptual_pairs"]
    }
    by_hash = [pairs for heading, pairs in sections if "by perceptual hash alone" in heading]
    assert len(by_hash[0]) == len(removed)


def test_what_was_not_compared_is_shown(tmp_path: Path) -> None:
    sheets = [EMPTY["sheets_grain"](np.random.default_rng(number)) for number in range(5)]
    several = [pair(f"p{number}", data) for number, data in enumerate(sheets)]
    make_tar(tmp_path / "a.tar", [*several, *samples()[:6]])
    asked = trial.Trial((f"{tmp_path}/a.tar",))
    with Wiring(Settings()) as rooms:
        report = trial.run(rooms, asked, FingerprintOptions(model="dct"))
        numbers = json.loads(trial_report.to_json(report))
        sections = dict(trial_report.sheet_sections(report, pairs=2))

    assert numbers["kept_plain"] == 5
    assert sorted(numbers["kept_plain_keys"]) == ["p0", "p1", "p2", "p3", "p4"]
    (heading,) = [name for name in sections if "nothing in them" in name]
    assert "5 in all" in heading
    shown = [data for one, other, _ in sections[heading] for data in (one, other)]
    assert len(set(shown)) == 4
    assert set(shown) <= set(sheets)


def test_planted_copies_are_found_and_broken_ones_named(
    tried: tuple[dict[str, Any], str, Path],
) -> None:
    numbers = tried[0]
    assert numbers["removed_exact"] == 4
    assert numbers["quarantined_by_code"] == {
        "undecodable": 1, "not_an_image": 1, "missing_caption": 1,
    }  # fmt: skip
    assert numbers["read"] == 24 + 12 + 3
    found = {p["key"].rpartition("-")[0] for p in numbers["removed_near_pairs"]}
    assert {"jpeg_40", "half_size"} <= found | {
        p["other_key"].rpartition("-")[0] for p in numbers["removed_near_pairs"]
    }
    assert all(p["similarity"] >= 0.5 for p in numbers["removed_near_pairs"])
    assert all(0.25 <= p["similarity"] < 0.5 for p in numbers["nearest_kept_pairs"])
    assert sum(numbers["histogram"]["images"]) == numbers["images"] - 1  # one cannot be decoded


def test_speed_is_told_for_each_step(tried: tuple[dict[str, Any], str, Path]) -> None:
    steps = {step["step"]: step for step in tried[0]["steps"]}
    assert list(steps) == ["ingest", "embed", "match and leader"]
    assert steps["ingest"]["count"] == 39
    assert steps["embed"]["per_second"] > 0
    assert "<- threshold" in tried[1]
    assert "per_second" in tried[1]


def test_the_contact_sheet_is_a_picture(tried: tuple[dict[str, Any], str, Path]) -> None:
    with Image.open(tried[2] / "sheet.png") as sheet:
        assert sheet.width > 1000
        assert len(sheet.convert("RGB").getcolors(1 << 24) or []) > 1000


def test_nothing_is_written_but_what_was_asked_for(
    tried: tuple[dict[str, Any], str, Path],
) -> None:
    base = tried[2]
    assert sorted(p.name for p in base.iterdir()) == ["in", "sheet.png", "t.json"]


def test_it_runs_as_a_command_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """A real process, without a config file, a database or a home."""
    tars(tmp_path / "in", samples()[:9])
    run = subprocess.run(
        [
            sys.executable, "-c", "from sscd_ops.cli.main import main; main()",
            "try", "in/*.tar", "--model", "dct",
            "--format", "json", "--workers", "1",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    [row] = json.loads(run.stdout)
    assert row["read"] == 9
    assert row["kept"] == 9
    assert "contact sheet: sscd-ops-try.png" in run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "sscd-ops-try.png"]


def test_a_sample_of_the_shards_is_enough(tmp_path: Path) -> None:
    url = tars(tmp_path / "in", samples())
    result = call(
        url, "--model", "dct", "--sample", "10", "--format", "json", "--sheet", tmp_path / "s.png"
    )
    assert result.exit_code == 0
    [row] = json.loads(result.stdout)
    assert row["read"] == 10
    assert row["source_shards"] == "1 of 3"


def test_pictures_without_captions_say_how_to_be_kept(tmp_path: Path) -> None:
    tar = make_tar(
        tmp_path / "a.tar",
        [(f"k{n}", {"jpg": file.read_bytes()}) for n, file in enumerate(PICTURES[:3])],
    )
    words = (tar, "--model", "dct", "--sheet", tmp_path / "s.png")
    refused = call(*words)
    kept = call(*words, "--missing-caption", "keep", "--format", "json")
    assert refused.exit_code == 2
    assert "missing_caption 3; --missing-caption keep" in refused.output
    assert json.loads(kept.stdout)[0]["kept"] == 3


def test_a_broken_shard_is_named_and_what_came_before_counts(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", samples()[:8])
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size * 3 // 4])
    result = call(tar, "--model", "dct", "--sheet", tmp_path / "s.png")
    assert result.exit_code == 0, result.output
    assert "source shard a.tar: truncated_shard" in result.output


def test_a_file_that_is_no_tar_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar")
    result = call(tmp_path / "a.tar", "--model", "dct", "--sheet", tmp_path / "s.png")
    assert result.exit_code == 2
    assert "a.tar: unreadable_shard: the file is no tar archive" in result.output


def test_a_device_that_is_not_there_says_which_ones_may_be(tmp_path: Path) -> None:
    words = (PICTURES[0].parent, "--missing-caption", "keep", "--sample", "3")
    result = call(*words, "--device", "gpu", "--sheet", tmp_path / "s.png")
    assert result.exit_code == 2
    assert "device 'gpu': Expected one of" in result.output
    assert "expected auto, cpu, cuda, cuda:1 or cuda:all" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/nowhere/*.tar"], "nothing found at /nowhere/*.tar"),
        (["x.tar", "--sheet", "s.gif"], "a .png or .jpg file"),
        (["x.tar", "--sheet", "/nowhere/s.png"], "its folder is not there"),
        (["in/{date}/*.tar"], "no placeholders here"),
        (["a.jpg", "b.jpg"], "'a.jpg': pictures are no source"),
        ([str(PICTURES[0].parent), "/nowhere/"], "nothing found at /nowhere/: give"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(words: list[str], said: str) -> None:
    result = call(*words, "--model", "dct")
    assert result.exit_code == 2
    assert said in result.output
