"""Nights, repairs, orders, compactions, expiry and vacuum in an order by chance, some killed."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sscd_ops.errors import BatchNotRunnable, SourceChanged
from sscd_ops.steps import compacting, publish, resolve
from sscd_ops.steps.compacting_shards import compact
from sscd_ops.steps.reproduce import reproduce
from sscd_ops.steps.snapshot_tags import expire
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import Sample, picture, plant
from tests.integration.orders import lead_by
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_repair import COPIES, lose, mend, put_back
from tests.integration.world import (
    DATASET,
    World,
    assert_newest_verdicts,
    assert_no_kept_copies,
    assert_one_verdict_each,
    assert_witnesses_are_kept,
    pair,
)
from tests.soak import seeds

DEATHS = (
    "turns.copy_table",
    "turns._swap",
    "turns.make_snapshot",
    "publish.output_shards.register_output",
    "next_snapshot.snapshots.add_snapshot",
    "next_snapshot.write_others",
    "snapshots.document",
    "commit.repair_latest",
    "shard_merging.put_file",
    "rewriting.put_file",
    "repair.publish_others",
    "vacuum.condemned.mark_removed",
    "vacuum.condemned.mark_deleting",
)


class Story:
    """What is done to a world, and what is left to do."""

    def __init__(self, world: World, chance: random.Random, monkeypatch: pytest.MonkeyPatch):
        self.world, self.chance, self.monkeypatch = world, chance, monkeypatch
        self.day = 0
        self.own = 1000
        self.decided: list[tuple[int, list[Path]]] = []
        self.broken: list[int] = []
        self.told: list[str] = []

    def samples(self, label: str) -> list[Sample]:
        answer: list[Sample] = []
        for number in range(self.chance.randint(1, 4)):
            key, seed = f"{label}-{number}", self.chance.randrange(8)
            image = picture(seed, quality=self.chance.choice([90, 90, 60, 95]))
            if self.chance.random() < 0.5:
                image = plant(image, self.chance.choice(COPIES))
            kind = self.chance.random()
            if kind < 0.3:
                answer.append((key, {**pair(key, image)[1], "cls": b"1"}))
            else:
                answer.append(pair(key, image))
        for _ in range(self.chance.randint(0, 3)):
            self.own += 1
            key, image = f"own-{self.own}", picture(self.own)
            if self.chance.random() < 0.3:
                png = io.BytesIO()
                Image.open(io.BytesIO(image)).save(png, "PNG")
                answer.append((key, {"png": png.getvalue(), "txt": b"png"}))
            else:
                answer.append(pair(key, image))
        return answer

    def deliver(self) -> tuple[str, list[Path]]:
        self.day += 1
        day = f"2026-11-{self.day:02d}"
        names = "abc"[: self.chance.randint(1, 3)]
        return day, [self.world.put(day, f"{n}.tar", self.samples(f"{self.day}{n}")) for n in names]

    def night(self) -> None:
        day, _ = self.deliver()
        self.killed(lambda: self.world.night(day))

    def half_a_night(self) -> None:
        day, paths = self.deliver()
        with self.world.parts() as parts:
            batch_id = self.world.until_match(parts, day)
            decided = resolve.run(parts, batch_id)
            for group in decided.groups[: self.chance.randrange(2)]:
                publish.run(parts, batch_id, group)
        self.decided.append((batch_id, paths))
        if self.chance.random() < 0.6:
            self.lose()

    def finish(self) -> None:
        if not self.decided:
            return
        batch_id, _ = self.decided.pop(self.chance.randrange(len(self.decided)))
        self.finish_one(batch_id)

    def finish_one(self, batch_id: int) -> None:
        def work() -> None:
            with self.world.parts() as parts:
                self.world.from_resolve(parts, batch_id)

        try:
            self.killed(work)
        except SourceChanged:
            self.broken.append(batch_id)

    def lose(self) -> None:
        for _, paths in self.decided:
            there = [path for path in paths if path.exists()]
            if there and self.chance.random() < 0.7:
                lose(self.world, self.chance.choice(there))
                return

    def repair(self) -> None:
        if self.broken:
            batch_id = self.broken.pop(self.chance.randrange(len(self.broken)))
            self.killed(lambda: self.repaired(batch_id))

    def repaired(self, batch_id: int) -> None:
        (row,) = self.world.ask("SELECT state FROM curation.runs WHERE batch_id = :b", b=batch_id)
        if row["state"] != "published" or self.pending():
            try:
                mend(self.world, batch_id)
            except SourceChanged:
                mend(self.world, batch_id)
            except BatchNotRunnable as error:
                if "nothing to repair" not in str(error):
                    raise

    def pending(self) -> int:
        return len(
            self.world.ask(
                "SELECT 1 FROM curation.decisions WHERE kind = 'repair' AND published_at IS NULL"
            )
        )

    def order(self) -> None:
        found = self.world.ask("SELECT key FROM curation.kept WHERE key LIKE 'own-%' ORDER BY key")
        if found:
            keys = self.chance.sample([row["key"] for row in found], min(len(found), 3))
            with self.world.parts() as parts:
                lead_by(parts, {key: self.chance.choice(["free", "withdrawn"]) for key in keys})

    def compact(self) -> None:
        def work() -> None:
            with self.world.parts() as parts:
                compact(parts, DATASET)

        self.killed(work)

    def compact_index(self) -> None:
        with self.world.parts() as parts:
            compacting.compact(parts, DATASET, 1000)

    def expire(self) -> None:
        with self.world.parts() as parts:
            expire(parts, DATASET, keep_last=self.chance.randint(1, 3), actor="ann", why="old")

    def vacuum(self) -> None:
        def work() -> None:
            with self.world.parts() as parts:
                vacuum(parts, DATASET, grace=0)

        self.killed(work)

    def killed(self, work: Callable[[], Any]) -> None:
        """Do it; by chance it dies somewhere, and is done again."""
        if self.chance.random() < 0.4:
            point, when = self.chance.choice(DEATHS), self.chance.choice(["before", "after"])
            self.told.append(f"{when} {point}")
            try:
                with self.monkeypatch.context() as patch:
                    die_at(patch, when, point)
                    work()
            except Killed:
                if self.chance.random() < 0.3:
                    self.told.append("vacuum between")
                    with self.world.parts() as parts:
                        vacuum(parts, DATASET, grace=0)
                work()
            return
        work()

    def step(self) -> None:
        chosen = self.chance.choices(
            [
                self.night, self.half_a_night, self.finish, self.lose, self.repair, self.order,
                self.compact, self.compact_index, self.expire, self.vacuum,
            ],
            [4, 4, 3, 3, 3, 2, 3, 1, 1, 2],
        )[0]  # fmt: skip
        self.told.append(chosen.__name__)
        chosen()


@pytest.mark.parametrize("seed", seeds((1,), 20))
def test_every_promise_is_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    world.change(publish={"max_samples": chance.choice([3, 20, 20])})
    story = Story(world, chance, monkeypatch)
    try:
        tell(story, tmp_path)
    except BaseException as error:
        error.add_note(str(story.told))
        raise


def tell(story: Story, tmp_path: Path) -> None:
    world = story.world
    story.night()
    for _ in range(18):
        story.step()
        with world.parts() as parts:
            found = verify_catalog(parts, DATASET)
        assert found == [], story.told
    for batch_id, _ in story.decided:
        story.told.append(f"finish {batch_id}")
        story.finish_one(batch_id)
    while story.broken:
        story.told.append("repair")
        story.repair()
    story.told.append("end")
    story.night()
    assert not story.pending(), story.told
    with world.parts() as parts:
        assert verify_catalog(parts, DATASET, copies=True) == [], story.told
    put_back(world)
    assert_newest_verdicts(world)
    assert_witnesses_are_kept(world)
    assert_no_kept_copies(world)
    assert_one_verdict_each(world, None)
    with world.parts() as parts:
        for row in world.ask("SELECT snapshot FROM curation.snapshots"):
            again = reproduce(parts, DATASET, row["snapshot"], str(tmp_path / "again"))
            assert again.is_equal, again
