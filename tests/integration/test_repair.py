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
from sscd_ops.errors import BatchNotRunnable, CommitConflict, SourceChanged
from sscd_ops.steps import publish, repair, repair_turn, resolve
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.repair import RepairReport
from sscd_ops.steps.verify import unpublished, verify_catalog
from sscd_ops.testing import Sample, picture, plant
from tests.integration.orders import lead_by
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_free_images import assert_what_holds
from tests.integration.test_nights import BOTH, DAYS, clouds
from tests.integration.test_turns import in_force
from tests.integration.world import DATASET, World, assert_one_verdict_each, pair
from tests.soak import seeds, sweep


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
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET) == []
    assert_one_verdict_each(world, None)
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET, only_rows=True) == []
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


PREFERRED = "a caption that says more than the others say"
LOST = [
    pair("lead", picture(1, quality=95), PREFERRED),
    pair("byte", picture(2), PREFERRED),
    pair("copied", picture(3), PREFERRED),
    pair("sole", picture(5), PREFERRED),
]
REST = [
    pair("copy1", plant(picture(1), "jpeg_40")),
    pair("same2", picture(2)),
    pair("other", picture(4)),
    pair("later1", picture(1, quality=60)),
]
AFTER = [
    pair("half1", plant(picture(1), "half_size")),
    pair("copy3", plant(picture(3), "jpeg_40")),
    pair("same2b", picture(2)),
]
REPAIRED = {
    "old": "kept",
    "lead": "quarantined source_gone",
    "byte": "quarantined source_gone",
    "copied": "quarantined source_gone",
    "sole": "quarantined source_gone",
    "copy1": "removed near",
    "same2": "kept",
    "other": "kept",
    "later1": "kept",
    "half1": "removed near",
    "copy3": "kept",
    "same2b": "removed exact",
}
"""Of ``lead`` two copies were read with it, of which the preferred one leads the others now."""


def put_nights(world: World) -> Path:
    """A night before, one that will lose a file, and one after it; the file."""
    world.change(publish={"max_samples": 2})
    world.put(DAYS[0], "a.tar", [pair("old", picture(50))])
    lost = world.put(DAYS[1], "lost.tar", LOST)
    world.put(DAYS[1], "rest.tar", REST)
    world.put(DAYS[2], "a.tar", AFTER)
    return lost


def lost_between(*worlds: World) -> int:
    """Nights of which the second lost a file, and the third is published; the second's batch."""
    lost = put_nights(worlds[0])
    for world in worlds:
        world.change(publish={"max_samples": 2})
        world.night(DAYS[0])
        with world.parts() as parts:
            batch_id = world.until_match(parts, DAYS[1])
            resolve.run(parts, batch_id)
        world.night(DAYS[2])
    lose(worlds[0], lost)
    for world in worlds:
        with world.parts() as parts, pytest.raises(SourceChanged, match="batch repair"):
            world.from_resolve(parts, batch_id)
    return batch_id


def test_what_was_removed_because_of_a_lost_picture_is_decided_anew(world: World) -> None:
    """In its night, in a later one that is published, and for each other."""
    batch_id = lost_between(world)
    told = world.night(DAYS[2]).unpublishable

    report = mend(world, batch_id)

    assert told == [batch_id]
    assert world.verdicts() == REPAIRED
    witnesses = world.witnesses()
    assert witnesses == {"copy1": "later1", "half1": "later1", "same2b": "same2"}
    said = {outcome.key: (outcome.becomes, outcome.why) for outcome in report.outcomes}
    assert said["same2"] == ("kept", "has the bytes of byte")
    assert said["later1"] == ("kept", "its witness is gone")
    assert said["half1"][0] == "removed near"
    assert said["lead"][1].endswith("lost.tar is gone")
    decided = world.ask("SELECT * FROM curation.decisions WHERE turn = 4")[0]
    assert (decided["kind"], decided["actor"], decided["why"]) == (
        "repair", "ann", "the partner deleted it",
    )  # fmt: skip
    shards = world.ask("SELECT shard, samples FROM curation.shards ORDER BY shard")
    assert sum(row["samples"] for row in shards) == 5
    assert sum(row["samples"] for row in shards if "turn-000004" in row["shard"]) == 3
    assert_repaired(world)


def test_a_dry_run_says_the_same_and_leaves_no_file(world: World) -> None:
    batch_id = lost_between(world)
    before = world.views(), sorted((world.base / "root").rglob("*"))

    dry = mend(world, batch_id, dry_run=True)

    assert dry.said == "dry run: nothing was decided or published"
    assert (world.views(), sorted((world.base / "root").rglob("*"))) == before
    assert mend(world, batch_id).outcomes == dry.outcomes


def test_copies_that_were_lost_with_their_witness_lead_nothing(world: World) -> None:
    """One is near a copy that is there, though it was preferred; of the other ones none is."""
    lost = world.put(
        DAYS[0],
        "a.tar",
        [
            pair("lead", picture(1, quality=95), PREFERRED * 2),
            pair("next", picture(1, quality=80), PREFERRED),
            pair("sole", picture(2, quality=95), PREFERRED * 2),
            pair("sole2", picture(2, quality=80), PREFERRED),
        ],
    )
    world.put(DAYS[0], "b.tar", [pair("last", picture(1, quality=60)), *clouds(range(7, 9))])
    batch_id = unpublishable(world, DAYS[0], lost)
    before = world.verdicts()
    slow = Slow.of(world, batch_id, [lost])

    mend(world, batch_id)

    gone = dict.fromkeys(["lead", "sole", "sole2"], "quarantined source_gone")
    assert slow.verdicts == gone | {"last": "kept", "next": "removed near"}
    assert_as(world, before, slow)
    assert world.witnesses() == {"next": "last"}
    assert_repaired(world)


def test_what_is_delivered_again_under_another_name_is_decided_as_new(world: World) -> None:
    mend(world, lost_between(world))
    world.put(DAYS[3], "again.tar", [(f"{key}-again", members) for key, members in LOST])

    world.night(DAYS[3])

    assert world.verdicts() == REPAIRED | {
        "lead-again": "removed near",
        "byte-again": "removed exact",
        "copied-again": "removed near",
        "sole-again": "kept",
    }
    assert_repaired(world)


POINTS = (
    "turns.forget_tries",
    "repair_turn.output_shards.add_plan",
    "turns.copy_table",
    "repair_turn.segments.add_mask",
    "repair_turn.output_shards.plan_anew",
    "repair_turn.published.mark_publishable",
    "turns.decisions.put_in_force",
    "turns.datasets.advance",
    "turns._swap",
    "publish.output_shards.register_output",
    "next_snapshot.snapshots.add_snapshot",
    "commit.published.mark_published",
    "turns.make_snapshot",
    "repair.commit.run",
)
"""What a repair calls to write."""
SAMPLED = [("after", "turns._swap"), ("after", "turns.make_snapshot")]


@pytest.mark.parametrize(
    ("when", "point"),
    sweep([(when, point) for when in ("before", "after") for point in POINTS], SAMPLED),
)
def test_one_that_dies_goes_on_when_it_is_run_again(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch, when: str, point: str
) -> None:
    batch_id = lost_between(world, other_world)
    mend(other_world, batch_id)
    die_at(monkeypatch, when, point)
    with pytest.raises(Killed):
        mend(world, batch_id)
    monkeypatch.undo()

    mend(world, batch_id)

    assert world.verdicts() == REPAIRED
    assert world.views() == other_world.views()
    assert world.published() == other_world.published()
    assert_repaired(world)


@pytest.mark.parametrize("quicker", ["night", "repair"])
def test_a_night_that_decides_at_the_same_time(
    world: World, monkeypatch: pytest.MonkeyPatch, quicker: str
) -> None:
    """Whoever is later works it out again: the same is kept as where it had begun later."""
    lost = put_nights(world)
    world.night(DAYS[0])
    batch_id = unpublishable(world, DAYS[1], lost)
    target: Any = repair_turn.Repair if quicker == "night" else resolve
    real = target.work_out
    left = [True]

    def meanwhile(*given: Any) -> Any:
        worked = real(*given)
        if left.pop() if left else False:
            if quicker == "night":
                world.night(DAYS[2])
            else:
                mend(world, batch_id)
        return worked

    monkeypatch.setattr(target, "work_out", meanwhile)
    if quicker == "night":
        mend(world, batch_id)
    else:
        world.night(DAYS[2])

    turns = {row["kind"]: row["turn"] for row in world.ask("SELECT * FROM curation.decisions")}
    assert turns["repair"] == (4 if quicker == "night" else 3)
    assert world.verdicts() == REPAIRED
    assert_repaired(world)


def test_a_file_that_comes_back_while_it_is_worked_out_is_published_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = lost_between(world)
    before = world.verdicts()
    real = repair_turn.Repair.work_out

    def meanwhile(*given: Any) -> Any:
        worked = real(*given)
        put_back(world)
        with world.parts() as parts:
            world.from_resolve(parts, batch_id)
        return worked

    with monkeypatch.context() as patch, pytest.raises(CommitConflict, match="written meanwhile"):
        patch.setattr(repair_turn.Repair, "work_out", meanwhile)
        mend(world, batch_id)

    assert world.verdicts() == before
    assert in_force(world)["changes"] == 0
    with pytest.raises(BatchNotRunnable, match="is published, not unpublishable"):
        mend(world, batch_id)
    assert_repaired(world)


def test_nothing_is_lost_once_the_file_is_back(world: World) -> None:
    batch_id = lost_between(world)
    with world.parts() as parts:
        (said,) = unpublished(parts, DATASET)
        assert "batch 2 (2026-11-02) is unpublishable" in said
        assert verify_catalog(parts, DATASET) == []
    before = world.verdicts()
    put_back(world)

    assert mend(world, batch_id, dry_run=True).said.endswith("without --dry-run it is published")
    said = mend(world, batch_id).said

    assert said.startswith("nothing that batch 2 (2026-11-02) is to publish is lost: snapshot 2")
    assert world.verdicts() == before
    assert_repaired(world)


@pytest.mark.parametrize("kind", ["gone", "empty"])
def test_a_source_that_is_not_mounted_is_not_given_up(world: World, kind: str) -> None:
    batch_id = lost_between(world)
    before = world.verdicts()
    world.incoming.rename(world.base / "elsewhere")
    if kind == "empty":  # a mount point
        world.incoming.mkdir()
    for dry_run in (True, False):
        with pytest.raises(BatchNotRunnable, match=r"root of source 'crawl': is it mounted\?"):
            mend(world, batch_id, dry_run=dry_run)
    assert world.verdicts() == before

    # one of the two ways on that are told; the other: it is mounted again
    assert mend(world, batch_id, empty_root=True).outcomes
    if kind == "empty":
        world.incoming.rmdir()
    (world.base / "elsewhere").rename(world.incoming)
    assert_repaired(world)


def test_who_was_to_carry_on_may_be_lost_too_before_it_is_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = lost_between(world)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, "after", "turns._swap")
        mend(world, batch_id)
    lose(world, world.incoming / DAYS[1] / "rest.tar")

    with world.parts() as parts, pytest.raises(SourceChanged, match="batch repair 2"):
        world.from_resolve(parts, batch_id)
    mend(world, batch_id)

    gone = dict.fromkeys(["same2", "other", "later1"], "quarantined source_gone")
    assert world.verdicts() == REPAIRED | gone | {"half1": "kept", "same2b": "kept"}
    assert_repaired(world)


def test_what_a_repair_keeps_may_be_lost_after_the_night_is_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was in a later night's file; nothing else waits for it."""
    lost = world.put(DAYS[0], "a.tar", [pair("lead", picture(1)), pair("byte", picture(2))])
    world.put(DAYS[0], "b.tar", [pair("other", picture(4))])
    batch_id = unpublishable(world, DAYS[0], lost)
    copy = plant(picture(1), "jpeg_40")
    later = world.put(DAYS[1], "a.tar", [pair("copy", copy), pair("same", picture(2))])
    world.night(DAYS[1])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, "after", "turns._swap")
        mend(world, batch_id)
    assert [world.verdicts()[key] for key in ("copy", "same", "other")] == ["kept"] * 3
    lose(world, later)
    world.put(DAYS[2], "a.tar", [pair("copy2", plant(picture(1), "half_size"))])
    world.night(DAYS[2])
    world.night(DAYS[0])
    assert [row["samples"] for row in world.ask("SELECT samples FROM curation.snapshots")] == [1]

    mend(world, batch_id)

    gone = dict.fromkeys(["lead", "byte", "copy", "same"], "quarantined source_gone")
    assert world.verdicts() == gone | {"other": "kept", "copy2": "kept"}
    assert_repaired(world)


def test_of_a_file_that_changed_only_what_changed_is_lost(world: World) -> None:
    lost = put_nights(world)
    world.night(DAYS[0])
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[1])
        resolve.run(parts, batch_id)
    data, image = lost.read_bytes(), picture(3)
    lost.write_bytes(data.replace(image, image[:-9] + bytes(9)))
    with world.parts() as parts, pytest.raises(SourceChanged, match="sha256 differs"):
        world.from_resolve(parts, batch_id)

    outcomes = mend(world, batch_id).outcomes

    assert [(outcome.becomes, outcome.key) for outcome in outcomes] == [("source_gone", "copied")]
    lost.write_bytes(data)
    assert_repaired(world)


def test_samples_whose_manifest_cannot_be_made_anew_are_lost(world: World) -> None:
    batch_id = lost_between(world)
    (named,) = world.ask("SELECT manifest FROM sscd_ops.source_shards WHERE uri LIKE '%lost.tar'")
    (world.base / "root" / named["manifest"]["name"]).unlink()

    report = mend(world, batch_id)

    assert "manifest" in report.outcomes[0].why
    assert "put the original back" not in report.outcomes[0].why
    assert world.verdicts() == REPAIRED
    put_back(world)
    with world.parts() as parts:
        rebuild_index(parts, DATASET)
    assert_repaired(world)


def test_what_was_withdrawn_meanwhile_only_leaves_its_shard(world: World) -> None:
    batch_id = lost_between(world)
    with world.parts() as parts:
        lead_by(parts, {"byte": "withdrawn", "sole": "free"})

    mend(world, batch_id)

    withdrawn = dict.fromkeys(["byte", "same2", "same2b", "sole"], "withdrawn withdrawn")
    assert world.verdicts() == REPAIRED | withdrawn
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


@pytest.mark.parametrize("seed", seeds((14, 15), 30))
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
