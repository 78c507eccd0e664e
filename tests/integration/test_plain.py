"""Pictures with nothing in them to compare, over nights: kept, and removed as equal bytes alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from sscd_ops.catalog.sql import files_of, need_file
from sscd_ops.cli.main import main
from sscd_ops.evaluation import trial, trial_report
from sscd_ops.evaluation.empty import EMPTY
from sscd_ops.index import int8
from sscd_ops.model import Runner
from sscd_ops.options import FingerprintOptions
from sscd_ops.steps import embed, ingest, plan, survey
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_index
from sscd_ops.testing import encode, picture, plant
from tests.integration.world import DATASET, World, assert_promises, interval, pair

DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")


def sheet(colour: str) -> bytes:
    return encode(Image.new("RGB", (120, 90), colour), 90)


def empty() -> dict[str, bytes]:
    """One of each kind."""
    chance = np.random.default_rng(4)
    return {kind: make(chance) for kind, make in EMPTY.items()}


MODELS = pytest.mark.parametrize(
    "model",
    [
        {"fingerprint": {"model": "sscd_small", "minibatch": 8}},
        {"fingerprint": {"model": "dct"}, "duplicates": {"perceptual": True}},
    ],
    ids=["sscd_small", "dct"],
)


@MODELS
def test_nights_of_plain_pictures_keep_every_promise(
    world: World, model: dict[str, object]
) -> None:
    world.change(**model)
    plain = empty()
    extension = {kind: "png" if data[:4] == b"\x89PNG" else "jpg" for kind, data in plain.items()}
    world.put(
        DAYS[0],
        "a.tar",
        [
            *((kind, {extension[kind]: data, "txt": b"x"}) for kind, data in plain.items()),
            pair("photo", picture(1)),
            ("twin", {"jpg": plain["gradients"], "txt": b"a caption that is longer"}),
        ],
    )
    world.put(
        DAYS[1],
        "a.tar",
        [
            *((f"{kind}-2", {extension[kind]: data, "txt": b"y"}) for kind, data in plain.items()),
            *(pair(f"{kind}-40", plant(data, "jpeg_40")) for kind, data in plain.items()),
            pair("photo-40", plant(picture(1), "jpeg_40")),
        ],
    )
    world.put(DAYS[2], "a.tar", [pair("alone", sheet("#102030")), pair("and", sheet("#302010"))])

    reports = [world.night(day) for day in DAYS]

    verdicts = world.verdicts()
    # the longer caption carries the image that is there twice
    assert verdicts.pop("gradients") == "removed exact"
    assert verdicts.pop("photo-40") in ("removed near", "removed perceptual")
    for key, verdict in verdicts.items():
        assert verdict == ("removed exact" if key.endswith("-2") else "kept"), key
    assert world.witnesses()["gradients"] == world.witnesses()["gradients-2"] == "twin"
    kinds = len(plain)
    assert [report.counts.kept_plain for report in reports] == [kinds, kinds, 2]
    runs = world.ask("SELECT kept_plain, kept FROM curation.runs ORDER BY turn")
    assert [run["kept_plain"] for run in runs] == [kinds, kinds, 2]
    said = {row["key"] for row in world.ask("SELECT * FROM curation.kept WHERE plain")}
    assert said == {key for key, verdict in verdicts.items() if verdict == "kept"} - {"photo"}
    assert_promises(world, read=len(world.verdicts()))

    # a night read again has nothing to embed: known images are not looked at
    world.put(DAYS[2], "b.tar", [pair("again", sheet("#102030"))])
    world.night(DAYS[2], supplement=True)
    assert world.verdicts()["again"] == "removed exact"
    counts = world.ask("SELECT counts FROM sscd_ops.source_shards ORDER BY shard_id")
    assert [row["counts"]["plain"] for row in counts] == [kinds, kinds, 2, 0]


def test_plain_pictures_have_no_descriptor_and_the_index_is_rebuilt_without(world: World) -> None:
    samples = [pair("one", picture(1)), pair("plain", sheet("white")), pair("two", picture(2))]
    world.put(DAYS[0], "a.tar", samples)
    world.put(DAYS[1], "a.tar", [pair("alone", sheet("red"))])
    for day in DAYS[:2]:
        world.night(day)

    with world.parts() as parts:
        files = world.ask("SELECT descriptors FROM sscd_ops.source_shards ORDER BY shard_id")
        table = pq.read_table(parts.store.local(need_file(files[0]["descriptors"])))
        assert table.column("code").to_pylist() == [None, None, "plain"]
        assert table.column("descriptor").null_count == 1
        (segment,) = world.ask("SELECT rows, files FROM sscd_ops.segments")
        assert segment["rows"] == 2
        before = {role: file.sha256 for role, file in files_of(segment["files"]).items()}
        shutil.rmtree(Path(world.storage.root) / DATASET / "index")
        assert rebuild_index(parts, DATASET)
        for found in files:
            (Path(world.storage.root) / found["descriptors"]["name"]).unlink()
        assert rebuild_index(parts, DATASET)
        assert verify_index(parts, DATASET) == []
    (segment,) = world.ask("SELECT rows, files FROM sscd_ops.segments")
    assert {role: file.sha256 for role, file in files_of(segment["files"]).items()} == before

    world.put(DAYS[2], "a.tar", [pair("again", sheet("white")), pair("other", sheet("#fefefe"))])
    world.night(DAYS[2])
    assert world.verdicts() == {
        "one": "kept", "plain": "kept", "two": "kept", "alone": "kept",
        "again": "removed exact", "other": "kept",
    }  # fmt: skip
    assert_promises(world)


def test_a_changed_setting_decides_anew_what_it_refused_and_removes_nothing_else(
    world: World,
) -> None:
    """`too_plain` does not follow the bytes, and what was kept stays kept."""
    for day, name in zip(DAYS, "abc", strict=True):
        world.put(day, "a.tar", [pair(f"{c}-{name}", sheet(c)) for c in ("white", "red")])
    world.change(duplicates={"plain": "quarantine"})
    world.night(DAYS[0])
    world.change(duplicates={"plain": "keep"})
    world.night(DAYS[1])
    world.change(duplicates={"plain": "quarantine"})
    world.put(DAYS[2], "b.tar", [pair("blue", sheet("blue"))])
    world.night(DAYS[2])

    assert world.verdicts() == {
        "white-a": "quarantined too_plain", "red-a": "quarantined too_plain",
        "white-b": "kept", "red-b": "kept",
        "white-c": "removed exact", "red-c": "removed exact", "blue": "quarantined too_plain",
    }  # fmt: skip
    assert_promises(world)


def test_what_was_refused_is_read_again_under_another_name(world: World) -> None:
    """As docs/operations.md says; under its old name a sample has its verdict already."""
    samples = [pair(colour, sheet(colour)) for colour in ("white", "red")]
    world.change(duplicates={"plain": "quarantine"})
    refused = world.put(DAYS[0], "a.tar", samples)
    world.night(DAYS[0])
    world.change(duplicates={"plain": "keep"})

    os.utime(refused, ns=(1, 1))
    touched = world.night(DAYS[0], supplement=True).counts
    assert (touched.read, touched.known) == (0, 2)
    world.put(DAYS[0], "b.tar", samples)
    assert world.night(DAYS[0], supplement=True).counts.kept_plain == 2

    assert_promises(world, read=4)


def test_a_night_ends_alike_where_int8_is_slow_and_the_file_was_edited(
    world: World,
    other_world: World,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """Begun by one machine, decided by another: of either kind, with equal bytes."""
    for each in (world, other_world):
        each.change(duplicates={"search": "exact", "perceptual": True})
    plain = [pair(kind, data) for kind, data in empty().items()]
    copies = [pair(f"copy-{n}", plant(picture(n), "jpeg_40")) for n in range(3)]
    world.put(DAYS[0], "a.tar", [*plain[:4], *(pair(f"p{n}", picture(n)) for n in range(3))])
    world.put(DAYS[1], "a.tar", [*plain, *copies, pair("again", plain[-1][1]["jpg"])])
    for day in DAYS[:2]:
        other_world.night(day)

    request.addfinalizer(int8.usable.cache_clear)

    def machine(least_speed: float) -> None:
        int8.usable.cache_clear()
        monkeypatch.setattr(int8, "LEAST_SPEED", least_speed)

    slow, fast = 1e9, int8.LEAST_SPEED
    for day, begins, ends in ((DAYS[0], slow, fast), (DAYS[1], fast, slow)):
        machine(begins)
        world.change(duplicates={"plain": "keep"})
        with world.parts() as parts:
            batch_id = world.until_match(parts, day)
        machine(ends)
        world.change(duplicates={"plain": "quarantine"})
        with world.parts() as parts:
            world.from_resolve(parts, batch_id)

    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert_promises(world)


def test_explain_and_show_say_that_a_picture_was_too_plain(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.put(DAYS[0], "a.tar", [pair("one", picture(1)), pair("plain", sheet("white"))])
    world.night(DAYS[0])
    config = tmp_path / "c.toml"
    config.write_text(
        f'[storage]\nroot = "{world.storage.root}"\n[catalog]\nurl = "{world.url}"\n'
        f'[datasets.{DATASET}]\nstart = 2026-11-01\nschedule = "0 0 * * *"\n'
        f'[[datasets.{DATASET}.sources]]\nname = "crawl"\nurls = ["/x/{{date}}/*.tar"]\n'
    )
    monkeypatch.setenv("SSCD_OPS_CONFIG", str(config))

    def call(*words: str) -> str:
        result = CliRunner().invoke(main, list(words))
        assert result.exit_code == 0, result.output
        return result.output

    said = call("explain", f"{DAYS[0]}/a.tar#plain")
    assert "there is nothing in its image to compare" in said
    assert "only equal bytes" in " ".join(said.split())
    assert "nothing in its image" not in call("explain", f"{DAYS[0]}/a.tar#one")
    shown = json.loads(call("batch", "show", "1", "--format", "json"))
    shown = shown[0] if isinstance(shown, list) else shown
    assert shown["kept_plain"] == shown["sources"][0]["kept_plain"] == 1


def test_a_try_counts_plain_pictures_and_shows_none_as_near(world: World) -> None:
    samples = [
        *(pair(f"p{i}", picture(i)) for i in range(3)),
        pair("copy", plant(picture(0), "jpeg_40")),
        *(pair(colour, sheet(colour)) for colour in ("white", "#fefefe", "red")),
        pair("same", sheet("red")),
    ]
    world.put(DAYS[0], "a.tar", samples)
    counts = world.night(DAYS[0]).counts
    with world.parts() as parts:
        for perceptual in (False, True):
            asked = trial.Trial((f"{world.incoming}/*/*.tar",), perceptual=perceptual)
            report = trial.run(parts, asked, FingerprintOptions(model="dct"))
            assert report.counts == counts
            assert trial_report.fields(report)["kept_plain"] == counts.kept_plain == 3
            assert sum(report.histogram) == 4
            names = report.pictures.names
            (found,) = report.removed
            assert {names[found.row], names[found.other]} == {"copy", "p0"}
            shown = {p.row for p in report.kept_pairs} | {p.other for p in report.kept_pairs}
            assert {names[row] for row in shown} <= {"copy", "p1", "p2"}


# ---------------------------------------------------------------- datasets of earlier releases


def of_an_earlier_release(world: World) -> None:
    """A dataset of the first preset whose configuration named none, as it was the default."""
    world.change(fingerprint={"preprocessing": "grid-64-draft"})
    world.put(DAYS[0], "a.tar", [pair("one", picture(1))])
    world.night(DAYS[0])
    with world.parts() as parts, parts.catalog.begin() as conn:
        for table, column in (
            ("datasets", "fingerprint_detail"),
            ("attempts", "fingerprint_detail"),
        ):
            conn.exec_driver_sql(
                f"UPDATE sscd_ops.{table}"
                f" SET {column} = jsonb_set({column}, '{{options,preprocessing}}', '\"\"')"
            )
        conn.exec_driver_sql(
            "UPDATE sscd_ops.attempts"
            " SET config = jsonb_set(config, '{fingerprint,preprocessing}', '\"\"')"
        )


@pytest.mark.parametrize("named", ["", "dct"])
def test_a_dataset_keeps_the_preset_that_was_the_default(world: World, named: str) -> None:
    of_an_earlier_release(world)
    world.change(fingerprint={"preprocessing": "", "model": named})
    copy = plant(picture(1), "jpeg_40")
    world.put(DAYS[1], "a.tar", [pair("copy", copy), pair("plain", sheet("white"))])

    world.night(DAYS[1])

    assert world.verdicts() == {"one": "kept", "copy": "removed near", "plain": "kept"}
    found = world.ask("SELECT fingerprint_detail AS f, config FROM sscd_ops.attempts")
    assert {row["f"]["preprocessing"] for row in found} == {"grid-64-draft"}
    assert found[-1]["config"]["fingerprint"]["preprocessing"] == "grid-64-draft"
    assert_promises(world)


def test_a_new_dataset_names_its_preset_from_its_first_night_on(world: World) -> None:
    for number, day in enumerate(DAYS[:2]):
        world.put(day, "a.tar", [pair(day, picture(number))])
        world.night(day)
    found = world.ask("SELECT config_sha256, config FROM sscd_ops.attempts")
    assert len({row["config_sha256"] for row in found}) == 1
    assert found[0]["config"]["fingerprint"]["preprocessing"] == "grid-64-draft-v2"


def test_a_batch_planned_by_an_earlier_release_is_embedded_as_it_was_planned(world: World) -> None:
    of_an_earlier_release(world)
    world.change(fingerprint={"preprocessing": ""})
    world.put(DAYS[1], "a.tar", [pair("two", picture(2))])
    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[1]), runner=Runner("cli"))
        with parts.catalog.begin() as conn:
            conn.exec_driver_sql(
                "UPDATE sscd_ops.attempts"
                " SET config = jsonb_set(config, '{fingerprint,preprocessing}', '\"\"')"
            )
        ingest.run(parts, planned.batch_id, 0)
        survey.run(parts, planned.batch_id)
        assert embed.run(parts, planned.batch_id, 0).counts["embedded"] == 1
