"""`batch repair`: nights of which source bytes were lost after they were decided."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sscd_ops.catalog.sql import files_of
from sscd_ops.errors import SourceChanged
from sscd_ops.steps import publish, repair, resolve
from sscd_ops.steps.repair import RepairReport
from sscd_ops.testing import Sample, picture, plant
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import BOTH, DAYS, clouds
from tests.integration.world import World, assert_one_verdict_each, pair
from tests.soak import seeds


def unpublishable(world: World, day: str, *lost: Path) -> int:
    """Decide a night, lose source files of it, and fail at publishing it; its batch."""
    with world.parts() as parts:
        batch_id = world.until_match(parts, day)
        resolve.run(parts, batch_id)
    lose(world, *lost)
    with world.parts() as parts, pytest.raises(SourceChanged, match="batch repair"):
        world.from_resolve(parts, batch_id)
    return batch_id


def lose(world: World, *paths: Path) -> None:
    """Take files away, to where ``put_back`` finds them."""
    for path in paths:
        away = world.base / "lost" / path.relative_to(world.incoming)
        away.parent.mkdir(parents=True, exist_ok=True)
        path.rename(away)


def put_back(world: World) -> None:
    """As promises are asked of the sources: what was written before its file went is there too."""
    for path in sorted((world.base / "lost").rglob("*.*")):
        back = world.incoming / path.relative_to(world.base / "lost")
        if not back.exists():
            path.rename(back)


def mend(world: World, batch_id: int, **options: bool) -> RepairReport:
    with world.parts() as parts:
        return repair.run(parts, batch_id, actor="ann", why="the partner deleted it", **options)


def assert_repaired(world: World) -> None:
    put_back(world)
    assert_what_holds(world)
    assert_one_verdict_each(world, None)
    for row in world.ask("SELECT state FROM curation.runs"):
        assert row["state"] == "published"


# ---------------------------------------------------------------- a slow rule


@dataclass
class Slow:
    """What a repair has to come to: everything compared with everything, one after another.

    Made before the repair; ``verdicts`` and ``similarity`` by key, of the samples that change.
    """

    verdicts: dict[str, str]
    similarity: dict[str, float]

    @classmethod
    def of(cls, world: World, batch_id: int, lost: Iterable[Path]) -> Slow:
        """Of a night, and the source files that are gone."""
        gone = {str(path.relative_to(world.incoming)) for path in lost}
        samples = world.ask(
            "SELECT s.*, sh.relative_uri, b.turn AS base, x.rank, x.own_fault,"
            " o.files IS NOT NULL AS written"
            " FROM sscd_ops.samples_now s JOIN sscd_ops.source_shards sh USING (shard_id)"
            " JOIN sscd_ops.samples x ON x.sample_id = s.sample_id"
            " JOIN sscd_ops.decisions b ON b.decision_id = x.decision_id"
            " LEFT JOIN sscd_ops.placements p ON p.decision_id = s.slot_decision"
            " AND p.slot_from <= s.slot AND p.slot_to > s.slot AND p.snapshot_to IS NULL"
            " LEFT JOIN sscd_ops.output_shards o ON o.output_id = p.output_id"
            " ORDER BY b.turn, x.rank"
        )
        return cls._decided(world, batch_id, gone, samples)

    @classmethod
    def _decided(
        cls, world: World, batch_id: int, gone: set[str], samples: Sequence[Mapping[str, Any]]
    ) -> Slow:
        rows, measures = _described(world)
        able: dict[bytes, list[Mapping[str, Any]]] = {}
        for row in samples:
            if row["own_fault"] is None and row["verdict"] in ("kept", "removed"):
                able.setdefault(bytes(row["image_sha256"]), []).append(row)
        kept = {bytes(r["image_sha256"]) for r in samples if r["verdict"] == "kept"}
        answer = cls({}, {})

        def carry(image: bytes) -> bool:
            tried = []
            for row in able[image]:
                if row["relative_uri"] not in gone:
                    answer.verdicts |= {r["key"]: "quarantined source_gone" for r in tried}
                    answer.verdicts |= {
                        r["key"]: "removed exact" for r in able[image] if r not in tried
                    }
                    answer.verdicts[row["key"]] = "kept"
                    return True
                tried.append(row)
            answer.verdicts |= {r["key"]: "quarantined source_gone" for r in tried}
            return False

        freed = []
        for row in samples:
            is_lost = row["verdict"] == "kept" and row["relative_uri"] in gone
            if not is_lost or row["written"] or row["batch_id"] != batch_id:
                continue
            image = bytes(row["image_sha256"])
            if not carry(image):
                freed.append(image)
                kept.discard(image)
            answer.verdicts[row["key"]] = "quarantined source_gone"
        witness = {
            bytes(r["image_sha256"]): bytes(r["witness_sha256"])
            for r in samples
            if r["verdict"] == "removed" and r["reason"] != "exact"
        }
        last = []
        for image in [i for i in able if witness.get(i) in freed]:
            if _removed(image, kept, rows, measures, answer, able):
                continue
            if all(row["relative_uri"] in gone for row in able[image]):
                last.append(image)
            else:
                carry(image)
                kept.add(image)
        for image in last:
            if not _removed(image, kept, rows, measures, answer, able):
                carry(image)
        return answer


def _described(world: World) -> tuple[dict[bytes, dict[str, Any]], list[tuple[str, str, float]]]:
    """Descriptor and hash of each image; the measures: reason, role, threshold."""
    rows: dict[bytes, dict[str, Any]] = {}
    with world.parts() as parts:
        for segment in world.ask("SELECT files FROM sscd_ops.segments"):
            files = {
                r: np.load(parts.store.local(f)) for r, f in files_of(segment["files"]).items()
            }
            for at, digest in enumerate(files["ids"]):
                rows[digest.tobytes()] = {role: values[at] for role, values in files.items()}
    duplicates = world.options.duplicates
    with world.parts() as parts:
        (attempt,) = world.ask(
            "SELECT threshold FROM sscd_ops.attempts ORDER BY attempt_id DESC LIMIT 1"
        )
    measures = [("near", "descriptors", attempt["threshold"])]
    if duplicates.perceptual:
        measures.append(("perceptual", "pdq-1", 1 - duplicates.perceptual_distance / 256))
    return rows, measures


def _similarity(one: Mapping[str, Any], other: Mapping[str, Any], role: str) -> float:
    if role not in one or role not in other:
        return -1.0
    if role == "descriptors":
        a, b = one[role].astype(np.float64), other[role].astype(np.float64)
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))
    if one[role][32] < 50 or other[role][32] < 50:
        return -1.0
    bits = [int.from_bytes(each[role][:32].tobytes()) for each in (one, other)]
    return 1 - (bits[0] ^ bits[1]).bit_count() / 256


def _removed(
    image: bytes,
    kept: set[bytes],
    rows: Mapping[bytes, Mapping[str, Any]],
    measures: Sequence[tuple[str, str, float]],
    answer: Slow,
    able: Mapping[bytes, Sequence[Mapping[str, Any]]],
) -> bool:
    for reason, role, threshold in measures:
        best = max(
            (_similarity(rows[image], rows[k], role) for k in kept if k in rows), default=-1.0
        )
        if best >= threshold:
            for row in able[image]:
                answer.verdicts[row["key"]] = f"removed {reason}"
                answer.similarity[row["key"]] = best
            return True
    return False


def assert_as(world: World, before: Mapping[str, str], slow: Slow) -> None:
    assert world.verdicts() == {**before, **slow.verdicts}
    removed = {row["key"]: row for row in world.ask("SELECT * FROM curation.removed")}
    for key, similarity in slow.similarity.items():
        assert removed[key]["similarity"] == pytest.approx(similarity, abs=1e-9)


# ---------------------------------------------------------------- by hand


def test_another_sample_with_its_bytes_carries_a_lost_picture(world: World) -> None:
    lost = world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.put(DAYS[0], "b.tar", [pair("same1", picture(1)), *clouds(range(5, 7))])
    batch_id = unpublishable(world, DAYS[0], lost)

    report = mend(world, batch_id)

    gone = {f"c{n:04d}": "quarantined source_gone" for n in range(3)}
    assert world.verdicts() == {**gone, "same1": "kept", "c0005": "kept", "c0006": "kept"}
    assert report.said == "turn 2; snapshot 1 of web has all that is left"
    assert {(o.becomes, o.key) for o in report.outcomes} == {
        *(("source_gone", key) for key in gone),
        ("kept", "same1"),
    }
    assert_repaired(world)


COPIES = ("byte_copy", "jpeg_40", "half_size", "crop_70", "text_10")


def nights_by_chance(chance: random.Random) -> dict[str, dict[str, list[Sample]]]:
    """Night -> file -> samples: few pictures, and many copies of these in all nights."""
    nights: dict[str, dict[str, list[Sample]]] = {
        day: {f"{name}.tar": [] for name in "abc"} for day in DAYS[:3]
    }
    places = [file for files in nights.values() for file in files.values()]
    for number in range(60):
        seed = chance.randrange(12)
        image = picture(seed, quality=chance.choice([90, 90, 60, 95]))
        if chance.random() < 0.6:
            image = plant(image, chance.choice(COPIES))
        chance.choice(places).append(pair(f"s{number:02d}-of-{seed}", image))
    for number, samples in enumerate(places):
        samples.append(pair(f"own{number}", picture(100 + number)))
    return nights


@pytest.mark.parametrize("seed", seeds((1, 14, 15), 30))
def test_what_a_slow_rule_says(world: World, seed: int) -> None:
    """Which files are lost when is by chance; of the night before some are, too."""
    chance = random.Random(1000 + seed)
    world.change(publish={"max_samples": 4}, duplicates=BOTH if seed % 2 else {"threshold": 0.8})
    paths = {
        day: [world.put(day, name, samples) for name, samples in files.items()]
        for day, files in nights_by_chance(chance).items()
    }
    order = list(DAYS[:3])
    chance.shuffle(order)
    at = chance.randrange(3)
    for day in order[:at]:
        world.night(day)
    with world.parts() as parts:
        batch_id = world.until_match(parts, order[at])
        decided = resolve.run(parts, batch_id)
        for group in decided.groups[: chance.randrange(2)]:
            publish.run(parts, batch_id, group)
    gone = chance.sample(paths[order[at]], chance.randint(1, 2))
    if chance.random() < 0.5:
        gone += chance.sample(paths[order[at - 1]], 1) if at else []
    rest = order[at + 1 :]
    if chance.random() < 0.5:
        for day in rest:
            world.night(day)
        rest = []
    lose(world, *gone)
    try:
        with world.parts() as parts:
            world.from_resolve(parts, batch_id)
    except SourceChanged:
        pass
    else:
        return  # all that is lost was written before
    before = world.verdicts()
    slow = Slow.of(world, batch_id, gone)

    assert mend(world, batch_id, dry_run=True).outcomes
    assert world.verdicts() == before
    mend(world, batch_id)

    assert_as(world, before, slow)
    for day in rest:
        world.night(day)
    assert_repaired(world)
