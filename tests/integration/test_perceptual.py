"""Nights that are decided by descriptor and by perceptual hash."""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sscd_ops.catalog import sql
from sscd_ops.catalog.sql import files_of
from sscd_ops.cli.main import main
from sscd_ops.errors import BatchNotRunnable
from sscd_ops.images.preprocess import PRESETS, prepare
from sscd_ops.model import Runner
from sscd_ops.steps import embed, ingest, manage, match, plan, survey
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_index
from sscd_ops.testing import Sample, encode, picture, plant
from tests.integration.test_nights import BOTH, DAYS, clouds, fill, planted_nights
from tests.integration.world import DATASET, World, assert_promises, interval, pair

FARTHEST, MARGIN = 40, 8


def hashed(data: bytes) -> bytes:
    return prepare(data, PRESETS["skew-128"], hashed=True)[1]


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(hashed(one)[:32]) ^ int.from_bytes(hashed(other)[:32])).bit_count()


def removed(world: World) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in world.ask("SELECT * FROM curation.removed")}


def frozen(world: World) -> list[Any]:
    """What each batch froze, in order."""
    found = world.ask("SELECT config FROM sscd_ops.attempts ORDER BY attempt_id")
    return [row["config"]["duplicates"]["perceptual"] for row in found]


def test_nights_decided_by_both_measures_keep_every_promise(world: World) -> None:
    world.change(duplicates=BOTH)
    nights = planted_nights()
    read = fill(world, nights)

    reports = [world.night(day) for day in DAYS[:3]]

    assert_promises(world, read=read)
    images = {key: members["jpg"] for samples in nights.values() for key, members in samples}
    by_hash = 0
    for key, row in removed(world).items():
        if row["reason"] == "perceptual":
            by_hash += 1
            apart = distance(images[key], images[row["witness_key"]])
            assert row["similarity"] == 1 - apart / 256
            assert row["threshold"] == 1 - FARTHEST / 256
        elif row["reason"] == "near":
            assert row["threshold"] == 0.99
    assert by_hash >= 3
    assert sum(report.counts.removed_perceptual for report in reports) == by_hash
    assert all(report.counts.removed_near > report.counts.removed_perceptual for report in reports)
    runs = world.ask("SELECT perceptual_distance FROM curation.runs")
    assert [row["perceptual_distance"] for row in runs] == [FARTHEST] * 3


def test_matches_by_hash_are_stored_down_to_the_margin(world: World) -> None:
    world.change(duplicates={**BOTH, "prefer": (), "keep_matches": 3})
    first = [pair(f"a{i}", picture(i)) for i in range(4)]
    second = [pair(f"b{i}", plant(picture(i), "half_size")) for i in range(4)]
    second += [pair(f"c{i}", picture(i, quality=20)) for i in range(4)]
    world.put(DAYS[0], "a.tar", first)
    world.put(DAYS[1], "a.tar", second)

    world.night(DAYS[0])
    world.night(DAYS[1])

    images = {key: members["jpg"] for key, members in first + second}
    verdicts = world.verdicts()
    expected = {}
    order = list(images)
    for at, key in enumerate(order):
        found = [
            (distance(images[key], images[other]), other)
            for other in order[:at]
            if verdicts[other] == "kept"
        ]
        near = sorted((d, other) for d, other in found if d <= FARTHEST + MARGIN)[:3]
        expected |= {(key, other): d for d, other in near}
    names = {hashlib.sha256(data).digest(): key for key, data in images.items()}
    stored = {
        (names[bytes(row["image_sha256"])], names[bytes(row["earlier_sha256"])]): row
        for row in world.ask("SELECT * FROM sscd_ops.matches WHERE distance IS NOT NULL")
    }
    assert {pair: row["distance"] for pair, row in stored.items()} == expected
    assert all(row["similarity"] == 1 - row["distance"] / 256 for row in stored.values())
    assert {a[0] + b[0] for a, b in expected} >= {"ba", "ca"}
    assert max(expected.values()) > FARTHEST


def test_later_copies_of_the_same_bytes_follow_by_the_same_measure(world: World) -> None:
    world.change(duplicates=BOTH)
    copy = plant(picture(9), "half_size")
    world.put(DAYS[0], "a.tar", [pair("original", picture(9))])
    world.put(DAYS[1], "a.tar", [pair("copy", copy), pair("twin", copy)])
    world.put(DAYS[2], "a.tar", [pair("again", copy, "another caption")])

    reports = [world.night(day) for day in DAYS[:3]]

    found = removed(world)
    assert {row["reason"] for row in found.values()} == {"perceptual"}
    assert {row["witness_key"] for row in found.values()} == {"original"}
    assert len({(row["similarity"], row["threshold"]) for row in found.values()}) == 1
    assert [report.counts.removed_perceptual for report in reports] == [0, 2, 1]
    assert_promises(world, read=4)


def faint(seed: int, quality: int = 95) -> bytes:
    """Clouds of so little contrast that PDQ finds nothing in them."""
    image = Image.open(io.BytesIO(picture(seed, quality=95)))
    return encode(Image.blend(image, Image.new("RGB", image.size, "grey"), 0.92), quality)


def test_too_faint_a_picture_matches_nothing_by_hash(world: World) -> None:
    world.change(duplicates={**BOTH, "threshold": 1.0, "perceptual_distance": 60})
    samples = [pair("plain", faint(3)), pair("copy", faint(3, quality=90))]
    world.put(DAYS[0], "a.tar", samples)
    world.put(DAYS[1], "a.tar", [pair("later", faint(3, quality=85)), *clouds(range(3))])

    world.night(DAYS[0])
    world.night(DAYS[1])

    plain, copy = (members["jpg"] for _, members in samples)
    assert distance(plain, copy) <= 60
    assert max(hashed(plain)[32], hashed(copy)[32]) < 50
    assert not prepare(plain, PRESETS["grid-64-draft-v2"], hashed=False).plain
    assert set(world.verdicts().values()) == {"kept"}
    assert_promises(world, read=6)


def explained(world: World, key: str, *more: str) -> Any:
    """What the command `explain` says of a sample."""
    config = world.base / "curation.toml"
    config.write_text(
        f"[storage]\nroot = '{world.storage.root}'\n"
        f"[[datasets.web.sources]]\nurls = ['{world.incoming}/{{date}}/*.tar']\n"
    )
    called = CliRunner().invoke(
        main,
        ["explain", key, "--config", str(config), *more],
        env={"SSCD_OPS_DATABASE_URL": world.url},
    )
    assert called.exit_code == 0, called.output
    return called.stdout


def test_explain_says_by_which_measure(world: World) -> None:
    world.change(duplicates={**BOTH, "perceptual_distance": 37, "prefer": ()})
    samples = [
        pair("original", picture(9)),
        pair("small", plant(picture(9), "half_size")),
        pair("other", picture(10)),
        pair("smaller", plant(picture(1), "half_size")),
        pair("first", picture(1)),
        pair("jpeg", plant(picture(10), "jpeg_40")),
    ]
    world.put(DAYS[0], "a.tar", samples)
    world.night(DAYS[0])
    name = f"{DAYS[0]}/a.tar#"

    said = {
        key: json.loads(explained(world, name + key, "--format", "json"))[0]["sentence"]
        for key, _ in samples
    }
    explained(world, name + "small", "--picture", str(world.base / "why.png"))

    images = {key: members["jpg"] for key, members in samples}
    apart = distance(images["original"], images["small"])
    assert said["small"] == (
        f"Removed: its perceptual hash is {apart} of 256 bits from that of {name}original, which is"
        " kept; copies are up to 37 of 256 bits apart. By descriptor it is no copy."
    )
    assert re.match(r"Removed: its image is 0\.99\d\d similar to .*#other, which", said["jpeg"])
    assert said["other"] == (
        "Kept: no image kept before it came near enough to be stored as a match."
        " By perceptual hash none came near either, of the images that have one."
    )
    near = distance(images["first"], images["smaller"])
    assert 37 < near <= 37 + MARGIN
    assert said["first"].endswith(
        f" By perceptual hash the nearest is {name}smaller, {near} of 256 bits away;"
        " copies are up to 37 apart."
    )


# ---------------------------------------------------------------- on and off


def test_a_dataset_without_it_stores_and_compares_no_hashes(world: World) -> None:
    fill(world, planted_nights())

    report = world.night(DAYS[0])

    assert frozen(world) == [False]
    assert report.counts.removed_perceptual == 0
    assert report.counts.removed_near
    (segment,) = world.ask("SELECT files FROM sscd_ops.segments")
    assert set(segment["files"]) == {"descriptors", "ids"}
    (run,) = world.ask("SELECT removed_perceptual, perceptual_distance FROM curation.runs")
    assert run == {"removed_perceptual": 0, "perceptual_distance": None}


@pytest.mark.parametrize(
    ("model", "said", "is_on"),
    [("sscd_small", "auto", True), ("dct", "auto", False), ("sscd_small", False, False)],
)
def test_auto_is_on_with_the_small_network_alone_and_plan_freezes_it(
    world: World, model: str, said: object, is_on: bool
) -> None:
    world.change(fingerprint={"model": model}, duplicates={"perceptual": said})
    world.put(DAYS[0], "a.tar", clouds(range(2)))

    with world.parts() as parts:
        plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))

    assert frozen(world) == [is_on]


def test_the_small_network_and_hashes_keep_the_promises_together(world: World) -> None:
    """As they come: threshold, distance and auto are the product's defaults."""
    pytest.importorskip("torch", reason="torch is not installed")
    world.change(fingerprint={"model": "sscd_small"}, duplicates={"search": "auto"})
    nights = [clouds(range(4)), clouds(range(4, 8))]
    nights[1] += [pair("copy", plant(picture(1), "jpeg_40"))]
    for day, samples in zip(DAYS, nights, strict=False):
        world.put(day, "a.tar", samples)
        world.night(day)

    assert frozen(world) == [True, True]
    assert all("pdq-1" in row["files"] for row in world.ask("SELECT files FROM sscd_ops.segments"))
    assert_promises(world, read=9)


def test_turned_on_later_it_compares_what_has_hashes(world: World) -> None:
    """A night without hashes is compared by descriptor alone; those after it by both."""
    world.change(duplicates={**BOTH, "perceptual": False})
    world.put(DAYS[0], "a.tar", [pair("first", picture(9))])
    world.put(DAYS[1], "a.tar", [pair("kept", plant(picture(9), "half_size")), *clouds(range(2))])
    world.put(DAYS[2], "a.tar", [pair("gone", plant(picture(1), "half_size"))])
    world.night(DAYS[0])
    world.change(duplicates={"perceptual": True})

    for day in DAYS[1:3]:
        world.night(day)

    verdicts = world.verdicts()
    assert (verdicts["kept"], verdicts["gone"]) == ("kept", "removed perceptual")
    assert removed(world)["gone"]["witness_key"] == "c0001"
    assert_promises(world, read=5)


def test_a_night_under_way_stays_as_it_was_planned(world: World) -> None:
    world.change(duplicates=BOTH)
    world.put(DAYS[0], "a.tar", [pair("a", picture(9)), pair("b", plant(picture(9), "half_size"))])
    with world.parts() as parts:
        batch = world.until_match(parts, DAYS[0])
    world.change(duplicates={"perceptual": False, "perceptual_distance": 0})

    with world.parts() as parts:
        decided = world.from_resolve(parts, batch)

    assert decided.counts.removed_perceptual == 1


def test_descriptors_of_a_release_without_hashes_are_refused_with_a_way_on(world: World) -> None:
    world.change(duplicates={**BOTH, "perceptual": False})
    read = fill(world, {DAYS[0]: clouds(range(6))})
    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))
        ingest.run(parts, planned.batch_id, planned.groups)
        survey.run(parts, planned.batch_id)
        embed.run(parts, planned.batch_id, planned.groups)
        with parts.catalog.begin() as conn:
            sql.run(
                conn,
                "UPDATE sscd_ops.attempts SET config ="
                " jsonb_set(config, '{duplicates,perceptual}', 'true')",
            )

        with pytest.raises(BatchNotRunnable, match=r"no perceptual hashes.*batch abandon 1"):
            match.run(parts, planned.batch_id, 0)

        manage.abandon(parts, planned.batch_id, actor="ann", why="one worker was old")
    world.change(duplicates=BOTH)
    assert world.night(DAYS[0]).counts.kept == 6
    assert_promises(world, read=read)


def test_a_segment_that_lost_its_hashes_to_another_release_is_named_and_stays_so(
    world: World,
) -> None:
    """With hashes added afterwards, later nights would be compared otherwise than before."""
    world.change(duplicates=BOTH)
    fill(world, {DAYS[0]: clouds(range(4))})
    world.night(DAYS[0])
    [row] = world.ask("SELECT files FROM sscd_ops.segments")
    with world.parts() as parts:
        with parts.catalog.begin() as conn:
            sql.run(conn, "UPDATE sscd_ops.segments SET files = files - 'pdq-1'")

        problems = verify_index(parts, DATASET)
        parts.store.local(files_of(row["files"])["ids"]).unlink()
        rebuild_index(parts, DATASET)

    [problem] = problems
    assert "no perceptual hashes (pdq-1), and batch 1 was to be decided by them" in str(problem)
    [row] = world.ask("SELECT files FROM sscd_ops.segments")
    assert "ids" in row["files"]
    assert "pdq-1" not in row["files"]


def test_descriptors_and_fingerprint_are_the_same_with_and_without(
    world: World, other_world: World
) -> None:
    fill(world, {DAYS[0]: clouds(range(6))})
    other_world.change(duplicates={"perceptual": True})

    files = []
    for each in (world, other_world):
        each.night(DAYS[0])
        (segment,) = each.ask("SELECT files, fingerprint FROM sscd_ops.segments")
        found = files_of(segment["files"])
        files.append((found["descriptors"].sha256, found["ids"].sha256, segment["fingerprint"]))

    assert files[0] == files[1]
    with other_world.parts() as parts:
        rows = np.load(parts.store.local(files_of(segment["files"])["pdq-1"]))
        ids = np.load(parts.store.local(files_of(segment["files"])["ids"]))
    wanted = {hashlib.sha256(p).digest(): hashed(p) for p in map(picture, range(6))}
    assert {i.tobytes(): row.tobytes() for i, row in zip(ids, rows, strict=True)} == wanted


def test_an_unreadable_picture_is_quarantined_as_without(world: World) -> None:
    world.change(duplicates=BOTH)
    samples: list[Sample] = [pair("cut", picture(1)[:700]), *clouds(range(3))]
    read = fill(world, {DAYS[0]: samples}, shards=1)

    world.night(DAYS[0])

    assert world.verdicts()["cut"].startswith("quarantined")
    assert_promises(world, read=read)
