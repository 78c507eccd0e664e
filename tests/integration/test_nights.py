"""Whole nights keep the promises, whatever the order, the parallelism or the search backend."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import text

from sscd_ops.catalog import sql
from sscd_ops.catalog.locks import CLI_LOCK
from sscd_ops.catalog.sql import files_of
from sscd_ops.core.schedule import interval_of
from sscd_ops.errors import (
    BatchHeld,
    BatchNotRunnable,
    ConfigError,
    DataError,
    FileMismatch,
    FingerprintMismatch,
    SourceChanged,
    UsageError,
)
from sscd_ops.index import backends, scan
from sscd_ops.model import BatchState, Runner
from sscd_ops.options import LimitsOptions, SourceOptions, StorageOptions
from sscd_ops.ports import SearchBackend, Source
from sscd_ops.steps import awaiting, manage, night, plan, resolve
from sscd_ops.steps.late import LateShard
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.sample_image import sample_image
from sscd_ops.steps.verify import verify_index
from sscd_ops.testing import COPIES, Sample, encode, picture, plant
from sscd_ops.wiring import Wiring
from tests.integration.world import (
    ASIDE,
    DATASET,
    World,
    assert_promises,
    interval,
    pair,
)
from tests.memory import at_most

DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")


BOTH = {"perceptual": True, "threshold": 0.99, "perceptual_distance": 40}
"""Two measures: re-encoded copies go by descriptor, smaller ones by hash."""


def clouds(seeds: range, prefix: str = "c") -> list[Sample]:
    return [pair(f"{prefix}{seed:04d}", picture(seed)) for seed in seeds]


def planted_nights() -> dict[str, list[Sample]]:
    """Three nights with copies within and across, in an order that is not the originals'.

    Each has blank sheets: one of its own, and one that the first night has too.
    """
    nights = {day: clouds(range(i * 20, i * 20 + 20)) for i, day in enumerate(DAYS[:3])}
    for number, copy in enumerate(COPIES):
        for day, seed in ((DAYS[0], number), (DAYS[1], number + 6), (DAYS[2], 25 + number)):
            original = picture(seed)
            nights[day].append(pair(f"{copy}-of-{seed}", plant(original, copy), f"{copy} {seed}"))
    for day, colour in zip(nights, ("white", "grey", "navy"), strict=True):
        sheets = [encode(Image.new("RGB", (80, 60), one), 90) for one in (colour, "white")]
        nights[day] += [pair(f"blank-{day}-{n}", sheet) for n, sheet in enumerate(sheets)]
    for samples in nights.values():
        random.Random(3).shuffle(samples)
    return nights


def fill(world: World, nights: dict[str, list[Sample]], shards: int = 2) -> int:
    for day, samples in nights.items():
        for shard in range(shards):
            world.put(day, f"{shard:05d}.tar", samples[shard::shards])
    return sum(map(len, nights.values()))


def test_three_nights_keep_every_promise(world: World) -> None:
    read = fill(world, planted_nights())

    reports = [world.night(day) for day in DAYS[:3]]

    assert [report.state for report in reports] == ["published"] * 3
    assert [report.snapshot for report in reports] == [1, 2, 3]
    assert sum(report.counts.removed for report in reports) >= 12
    assert_promises(world, read=read)


def test_a_remote_root_holds_the_same_files(world: World, other_world: World) -> None:
    """Behind a URL, read through a cache that is smaller than any file."""
    nights = {day: clouds(range(i * 6, i * 6 + 10)) for i, day in enumerate(DAYS[:2])}
    read = fill(world, nights, shards=1)
    remote = f"memory://{other_world.base}"
    other_world.storage = StorageOptions(remote, str(other_world.base / "cache"), cache_bytes=1)

    for day in nights:
        world.night(day)
        other_world.night(day)

    assert other_world.published() == world.published()
    assert other_world.views() == world.views()
    assert_promises(other_world, read=read)


def test_a_published_night_answers_and_changes_nothing(world: World) -> None:
    fill(world, planted_nights())
    first = world.night(DAYS[0])
    before, files = world.views(set()), world.published()

    again = world.night(DAYS[0])

    assert again.answered
    assert (again.batch_id, again.counts, again.snapshot) == (
        first.batch_id,
        first.counts,
        first.snapshot,
    )
    assert world.views(set()) == before
    assert world.published() == files


@pytest.mark.parametrize("backend", ["exact", "torch"])
def test_the_backend_never_matters(world: World, other_world: World, backend: str) -> None:
    fill(world, planted_nights())
    for each in (world, other_world):
        each.change(duplicates=BOTH)
    other_world.change(duplicates={"search": backend})

    for day in DAYS[:3]:
        world.night(day)
        other_world.night(day)

    left = world.views(ASIDE | {"search"})
    assert other_world.views(ASIDE | {"search"}) == left
    assert other_world.published() == world.published()


class Told(Wiring):
    """Tells which search backends were opened."""

    opened: ClassVar[list[str]] = []

    def backend(
        self, name: str, fingerprint: str, dimensions: int, threshold: float
    ) -> SearchBackend:
        self.opened.append(name)
        return super().backend(name, fingerprint, dimensions, threshold)


def test_a_night_is_compared_with_itself_by_its_own_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first night of a million is no matter of `flat`, a small one beside a large history is."""
    world.change(duplicates={"search": "auto"})
    monkeypatch.setattr(backends, "FLAT_BELOW", 6)
    world.put(DAYS[0], "a.tar", [pair(f"k{i}", picture(i)) for i in range(8)])
    world.put(DAYS[1], "b.tar", [pair("new", picture(20)), pair("copy", picture(3, quality=60))])

    world.wiring = Told
    world.night(DAYS[0])
    assert Told.opened[-1:] == ["exact"]
    world.night(DAYS[1])
    assert Told.opened[-1:] == ["flat"]

    ran = world.ask("SELECT search FROM curation.runs ORDER BY turn")
    assert [row["search"] for row in ran] == ["exact", "exact"], "what history is searched with"
    assert world.verdicts()["copy"] == "removed near"
    assert_promises(world, read=10)


def test_tasks_workers_and_sharding_of_the_output_never_matter(
    world: World, other_world: World
) -> None:
    fill(world, planted_nights(), shards=5)
    for each in (world, other_world):
        each.change(duplicates=BOTH)
    world.change(airflow={"max_tasks": 1}, fingerprint={"workers": 1})
    other_world.change(airflow={"max_tasks": 64}, fingerprint={"workers": 3})

    for day in DAYS[:3]:
        world.night(day)
        other_world.night(day)

    assert other_world.views() == world.views()
    assert other_world.published() == world.published()


class ListsBackwards(Wiring):
    """Sources whose storage lists their files in another order."""

    def source(self, options: SourceOptions, limits: LimitsOptions) -> Source:
        source = super().source(options, limits)
        find = source.find
        source.find = lambda *asked: find(*asked)[::-1]  # type: ignore[method-assign]
        return source


def test_the_order_of_a_listing_never_matters(world: World, other_world: World) -> None:
    fill(world, planted_nights(), shards=5)
    other_world.wiring = ListsBackwards

    for day in DAYS[:3]:
        world.night(day)
        other_world.night(day)

    assert other_world.views() == world.views()
    assert other_world.published() == world.published()


def test_leader_in_arrival_order_does_not_depend_on_how_the_stream_is_cut(
    world: World, other_world: World
) -> None:
    """One night of everything, or four nights of a quarter each: equal verdicts and witnesses."""
    everything = [s for samples in planted_nights().values() for s in samples]
    parts = [everything[i * 19 : (i + 1) * 19] for i in range(4)]
    for number, (day, samples) in enumerate(zip(DAYS, parts, strict=True)):
        world.put(day, f"{number}.tar", samples)
    for each in (world, other_world):
        each.change(duplicates=BOTH)
        each.change(duplicates={"prefer": ()})
    other_world.change_source(urls=(f"{world.incoming}/*/*.tar",), root=str(world.incoming))
    world.change_source(root=str(world.incoming))

    for day in DAYS:
        world.night(day)
    other_world.night(DAYS[0])

    assert other_world.verdicts() == world.verdicts()
    assert other_world.witnesses() == world.witnesses()
    assert {"kept", "removed near", "removed perceptual"} < set(world.verdicts().values())


def test_a_batch_that_decides_between_match_and_resolve_changes_nothing(
    world: World, other_world: World
) -> None:
    fill(world, planted_nights())
    for each in (world, other_world):
        each.change(duplicates=BOTH)
    with world.parts() as parts:
        second = world.until_match(parts, DAYS[1])
        first = world.until_match(parts, DAYS[0])
        world.from_resolve(parts, first)
        world.from_resolve(parts, second)
    for day in DAYS[:2]:
        other_world.night(day)

    assert other_world.views() == world.views()
    assert other_world.published() == world.published()
    assert_promises(world)


def test_batches_may_commit_in_another_order_than_they_decided(world: World) -> None:
    fill(world, planted_nights())
    from sscd_ops.steps import commit, publish

    with world.parts() as parts:
        first = world.until_match(parts, DAYS[0])
        second = world.until_match(parts, DAYS[1])
        decided = {batch: resolve.run(parts, batch) for batch in (first, second)}
        for batch in (second, first):
            for group in decided[batch].groups:
                publish.run(parts, batch, group)
            commit.run(parts, batch)

    assert_promises(world)


def test_an_earlier_night_under_way_is_waited_for_and_a_later_one_is_not(world: World) -> None:
    fill(world, planted_nights())
    with world.parts() as parts:
        parts._ask_airflow = lambda runner: True
        first = world.until_match(parts, DAYS[0])
        second = world.until_match(parts, DAYS[1])

        waiting, _ = awaiting.arrive(parts, second)
        not_waiting, _ = awaiting.arrive(parts, first)

        assert [other.batch_id for other in waiting] == [first]
        assert not_waiting == []
        world.from_resolve(parts, first)
        assert awaiting.arrive(parts, second)[0] == []


def test_a_night_that_starts_after_the_wait_began_is_not_waited_for(world: World) -> None:
    fill(world, planted_nights())
    with world.parts() as parts:
        parts._ask_airflow = lambda runner: True
        second = world.until_match(parts, DAYS[1])
        assert awaiting.arrive(parts, second)[0] == []

        world.until_match(parts, DAYS[0])

        assert awaiting.arrive(parts, second)[0] == []


def test_a_dead_runner_is_not_waited_for(world: World) -> None:
    fill(world, planted_nights())
    with world.parts() as parts:
        parts._ask_airflow = lambda runner: runner.run_id != f"run-{DAYS[0]}"
        world.until_match(parts, DAYS[0])
        second = world.until_match(parts, DAYS[1])

        assert awaiting.arrive(parts, second)[0] == []


def test_a_runner_that_cannot_be_asked_is_waited_for_until_max_wait_and_no_longer(
    world: World,
) -> None:
    """The wait is the frozen configuration's, whatever the file says since."""
    world.change(turn={"max_wait": 3600.0})
    fill(world, planted_nights())
    with world.parts() as parts:  # nobody asks Airflow
        first = world.until_match(parts, DAYS[0])
        second = world.until_match(parts, DAYS[1])
    world.change(turn={"max_wait": 1e9})
    with world.parts() as parts:
        waiting, waited = awaiting.arrive(parts, second)
        assert awaiting.leave_unasked(parts, second, waiting, waited) == waiting
        assert [other.batch_id for other in waiting] == [first]
        with parts.catalog.begin() as conn:
            sql.run(
                conn,
                "UPDATE sscd_ops.batches SET waiting_since = waiting_since - interval '1 hour'"
                " WHERE batch_id = :b",
                b=second,
            )

        night.wait_for_turn(parts, second, poll_seconds=0.01)
        decided = world.from_resolve(parts, second)

    (event,) = world.ask(
        "SELECT batch_id, details FROM sscd_ops.events WHERE kind = 'turn_not_awaited'"
    )
    assert decided.turn == 1
    assert event == {"batch_id": second, "details": {"batches": [first]}}


# ---------------------------------------------------------------- configuration and fingerprint


def test_a_changed_configuration_holds_for_batches_planned_new(world: World) -> None:
    fill(world, planted_nights())
    with world.parts() as parts:
        first = world.until_match(parts, DAYS[0])
    world.change(duplicates={"threshold": 0.999999})

    with world.parts() as parts:
        decided = world.from_resolve(parts, first)
    world.night(DAYS[1])

    thresholds = world.ask("SELECT threshold FROM curation.runs ORDER BY turn")
    assert [row["threshold"] for row in thresholds] == [0.5, 0.999999]
    assert decided.counts.removed_near >= 3


def test_another_fingerprint_is_refused_with_both_names_and_a_remedy(world: World) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    world.change(fingerprint={"minibatch": 7})

    with pytest.raises(FingerprintMismatch, match=r"dct-.*dct-.*new name"):
        world.night(DAYS[1])


def test_a_fingerprint_that_settings_do_not_tell_apart_is_another_releases(world: World) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    with world.parts() as parts, parts.catalog.begin() as conn:
        conn.execute(text("UPDATE sscd_ops.datasets SET fingerprint = repeat('0', 64)"))

    with pytest.raises(FingerprintMismatch, match="by the arithmetic of another release"):
        world.night(DAYS[1])


def test_a_dataset_keeps_its_precision_until_another_is_named(world: World) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    fill(world, planted_nights())
    world.change(fingerprint={"model": "sscd_small", "precision": "bfloat16"})
    world.night(DAYS[0])
    world.change(fingerprint={"model": "", "precision": ""})
    world.night(DAYS[1])
    world.change(fingerprint={"precision": "float32"})

    with pytest.raises(FingerprintMismatch, match=r"\(precision 'float32', not 'bfloat16'\)"):
        world.night(DAYS[2])


def test_a_changed_root_is_refused(world: World) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    world.change_source(root=str(world.incoming.parent))

    with pytest.raises(ConfigError, match="root was"):
        world.night(DAYS[1])


def test_a_root_that_no_file_was_read_under_may_be_mended(world: World) -> None:
    """A mistyped URL that matched nothing must not bind the dataset to its folder."""
    fill(world, planted_nights())
    right = world.options.sources[0].urls
    world.change(guard={"empty": "hold"})
    world.change_source(urls=tuple(url.replace("incoming", "incomming") for url in right))
    with pytest.raises(BatchHeld, match=r"no sample was found under the urls of crawl .*incomming"):
        world.night(DAYS[0])

    world.change_source(urls=right)
    with world.parts() as parts:
        manage.abandon(parts, 1, actor="ann", why="a mistyped url")
    report = world.night(DAYS[0])

    assert report.state == "published"
    assert_promises(world)


def test_a_picture_is_shown_from_its_published_shard_where_its_source_is_gone(
    world: World,
) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    kept = world.ask("SELECT sample_id, image_sha256 FROM curation.kept")
    removed = world.ask("SELECT sample_id FROM curation.removed")
    shutil.rmtree(world.incoming)

    with world.parts() as parts:
        for row in kept:
            data = sample_image(parts, str(row["sample_id"]))
            assert hashlib.sha256(data).digest() == bytes(row["image_sha256"])
        with pytest.raises(DataError, match="was not published"):
            sample_image(parts, str(removed[0]["sample_id"]))


# ---------------------------------------------------------------- the guard


def test_the_guard_holds_an_empty_night_until_it_is_released(world: World) -> None:
    world.change(guard={"empty": "hold"})
    with pytest.raises(BatchHeld, match="no sample") as held:
        world.night(DAYS[0])
    runs = world.ask("SELECT * FROM curation.runs")
    assert [(row["state"], row["turn"]) for row in runs] == [("held", None)]
    assert "batch release" in str(held.value)

    with world.parts() as parts:
        manage.release(parts, runs[0]["batch_id"], actor="ann", why="a holiday")
    report = world.night(DAYS[0])

    assert (report.state, report.snapshot) == ("published", None)
    kinds = [row["kind"] for row in world.ask("SELECT * FROM curation.events ORDER BY event_id")]
    assert kinds == ["held", "released", "decided", "published"]


def test_a_dry_run_says_that_the_guard_would_hold_the_night(world: World) -> None:
    world.change(guard={"empty": "hold"})

    dry = world.night(DAYS[0], dry_run=True)

    assert "would hold" in dry.message
    assert "no sample" in dry.message
    with pytest.raises(BatchHeld, match="no sample"):
        world.night(DAYS[0])


def test_a_supplement_of_one_source_is_not_held_for_the_silence_of_another(world: World) -> None:
    urls = (f"{world.incoming}/{{date}}/%s*.tar",)
    sources = tuple(
        SourceOptions(name, root=str(world.incoming), urls=(urls[0] % name,))
        for name in ("crawl", "partner")
    )
    world.change(sources=sources, guard={"empty": "hold"})
    world.put(DAYS[0], "crawl.tar", clouds(range(3)))
    world.put(DAYS[0], "partner.tar", clouds(range(10, 13)))
    world.night(DAYS[0])
    world.put(DAYS[0], "crawl-late.tar", clouds(range(20, 22)))

    dry = world.night(DAYS[0], supplement=True, dry_run=True)
    late = world.night(DAYS[0], supplement=True)

    assert (dry.message, dry.counts) == ("", late.counts)
    assert (late.state, late.counts.kept) == (BatchState.PUBLISHED, 2)
    assert_promises(world)


def test_a_first_night_of_copies_is_held_and_can_be_abandoned_and_run_again(world: World) -> None:
    world.change(guard={"first_nights_max": 0.5})
    copies = [pair(f"k{i}", picture(1)) for i in range(9)]
    path = world.put(DAYS[0], "a.tar", copies)
    with pytest.raises(BatchHeld, match="first_nights_max"):
        world.night(DAYS[0])
    batch_id = world.ask("SELECT * FROM curation.runs")[0]["batch_id"]
    with pytest.raises(BatchHeld):
        world.night(DAYS[0])

    with world.parts() as parts:
        manage.abandon(parts, batch_id, actor="ann", why="the crawler looped")
    path.unlink()
    world.put(DAYS[0], "a.tar", clouds(range(5)))
    report = world.night(DAYS[0])

    assert report.counts.kept == 5
    assert_promises(world, read=5)


# ---------------------------------------------------------------- late and changed data


def test_a_supplement_reads_what_came_late_and_nothing_twice(world: World) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    nothing = world.night(DAYS[0], supplement=True)
    world.put(DAYS[0], "late.tar", clouds(range(900, 905)))

    late = world.night(DAYS[0], supplement=True)
    again = world.night(DAYS[0], supplement=True)

    assert nothing.answered
    assert (late.counts.read, late.counts.kept, late.snapshot) == (5, 5, 2)
    assert again.answered
    runs = world.ask("SELECT supplement FROM curation.runs ORDER BY supplement")
    assert [row["supplement"] for row in runs] == [0, 1]
    assert (
        "-s1-" in world.ask("SELECT shard FROM curation.shards ORDER BY snapshot_from")[-1]["shard"]
    )
    assert_promises(world)


def test_plan_names_source_shards_of_earlier_nights_that_nobody_read(world: World) -> None:
    world.change(late_days=2)
    fill(world, planted_nights())
    world.night(DAYS[0])
    late = world.put(DAYS[0], "late.tar", clouds(range(900, 902)))

    report = world.night(DAYS[1])

    assert report.late == [LateShard(str(late), DAYS[0], supplement=True)]


def test_a_late_file_of_an_abandoned_night_is_read_by_running_that_night(world: World) -> None:
    world.change(late_days=2, guard={"first_nights_max": 0.1})
    world.put(DAYS[0], "a.tar", [pair(f"same{i}", picture(1)) for i in range(9)])
    with pytest.raises(BatchHeld):
        world.night(DAYS[0])
    with world.parts() as parts:
        manage.abandon(parts, 1, actor="ann", why="wrong feed")
    world.change(guard={"first_nights_max": 1.0})
    for day in DAYS[1:3]:
        world.put(day, "a.tar", clouds(range(int(day[-1]) * 10, int(day[-1]) * 10 + 2)))
    world.night(DAYS[1])

    (late,) = world.night(DAYS[2]).late

    assert (late.date, late.supplement) == (DAYS[0], False)
    with pytest.raises(BatchNotRunnable, match="without --supplement"):
        world.night(DAYS[0], supplement=True)
    assert world.night(DAYS[0]).counts.read == 9


@pytest.mark.parametrize(
    ("schedule", "nights", "missed", "date"),
    [
        ("0 0 * * 0", ("2026-11-01", "2026-11-08"), "2026-11-01", "2026-11-01"),
        (
            "0 */6 * * *",
            ("2026-11-01T06:00", "2026-11-01T18:00"),
            "2026-11-01T120000Z",
            "2026-11-01T12:00:00+00:00",
        ),
    ],
)
def test_late_files_are_looked_for_interval_by_interval(
    world: World, schedule: str, nights: tuple[str, str], missed: str, date: str
) -> None:
    """A week's own files are not late, whichever of its days they lie in; six hours are a night."""
    weekly = "*" not in schedule.split()[1]
    place = "{date}" if weekly else "{start}"
    world.change(schedule=schedule, late_days=3)
    world.change_source(urls=(f"{world.incoming}/{place}/*.tar",))
    for name in ("2026-11-02", "2026-11-10") if weekly else ("2026-11-01T060000Z",):
        world.put(name, "in-time.tar", clouds(range(1)))
    runner = Runner("airflow", "curate_web", "run")
    with world.parts() as parts:
        first, second = (interval_of(schedule, "UTC", text) for text in nights)
        night.run(parts, DATASET, first)
        late = world.put(missed, "late.tar", clouds(range(900, 902)))

        report = plan.run(parts, DATASET, second, runner=runner)

    assert report.late == [LateShard(str(late), date, supplement=weekly)]


def test_a_source_shard_that_comes_again_gives_known_samples_no_second_verdict(
    world: World,
) -> None:
    """The file is delivered anew, with one more sample: only that one is read."""
    world.put(DAYS[0], "a.tar", clouds(range(6)))
    world.night(DAYS[0])
    world.put(DAYS[0], "a.tar", [*clouds(range(6)), pair("new", picture(77))])

    report = world.night(DAYS[0], supplement=True)

    assert (report.counts.read, report.counts.known, report.counts.kept) == (1, 6, 1)
    assert len(world.ask("SELECT * FROM curation.samples")) == 7
    with world.parts() as parts:
        assert verify_index(parts, DATASET) == []


def test_shards_that_appear_before_the_decision_are_appended_by_planning_again(
    world: World,
) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    with world.parts() as parts:
        world.until_match(parts, DAYS[0])
        world.put(DAYS[0], "b.tar", clouds(range(4, 9)))
        batch_id = world.until_match(parts, DAYS[0])

        decided = world.from_resolve(parts, batch_id)

    assert decided.counts.read == 9
    assert_promises(world, read=9)


def test_nights_that_share_an_incoming_folder_read_each_file_once(world: World) -> None:
    world.change_source(urls=(f"{world.incoming}/*/*.tar",))
    world.put("any", "a.tar", clouds(range(4)))
    first = world.night(DAYS[0])
    world.put("any", "b.tar", clouds(range(4, 6)))

    second = world.night(DAYS[1])

    assert (first.counts.read, second.counts.read) == (4, 2)
    assert second.skipped_shards == 1
    assert_promises(world, read=6)


def test_a_source_that_changed_before_publish_makes_the_batch_unpublishable_until_it_is_back(
    world: World,
) -> None:
    fill(world, planted_nights(), shards=1)
    tar = world.incoming / DAYS[0] / "00000.tar"
    saved = tar.with_name("saved")
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])
        decided = resolve.run(parts, batch_id)
    shutil.copy2(tar, saved)
    tar.unlink()
    with world.parts() as parts, pytest.raises(SourceChanged, match="gone") as gone:
        world.from_resolve(parts, batch_id)
    assert "put the original back and run the night again" in str(gone.value)
    assert "abandon" not in str(gone.value)
    other = world.night(DAYS[1])

    # with another time of change: what a decided batch published of it is held to its digests
    shutil.copy(saved, tar)
    saved.unlink()
    report = world.night(DAYS[0])

    assert other.unpublishable == [batch_id]
    assert report.state == "published"
    assert report.counts == decided.counts
    assert_promises(world)


def test_a_decided_batch_whose_source_is_another_one_names_the_member(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    with world.parts() as parts:
        batch_id = world.until_match(parts, DAYS[0])
        resolve.run(parts, batch_id)
    world.put(DAYS[0], "a.tar", clouds(range(4, 8)))

    with world.parts() as parts, pytest.raises(SourceChanged) as changed:
        world.from_resolve(parts, batch_id)

    assert re.search(r"a\.tar.*member.*put the original back and run", str(changed.value))
    assert "abandon" not in str(changed.value)


def test_a_file_that_changed_before_embed_names_both_ways_on(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(4)))
    from sscd_ops.model import Runner
    from sscd_ops.steps import embed, ingest, survey

    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))
        ingest.run(parts, planned.batch_id, planned.groups)
        survey.run(parts, planned.batch_id)
        (world.incoming / DAYS[0] / "a.tar").unlink()
        with pytest.raises(SourceChanged, match=r"original back.* or sscd-ops batch abandon 1 "):
            embed.run(parts, planned.batch_id, planned.groups)


def test_a_file_that_changed_between_listing_and_reading_stops_the_night(world: World) -> None:
    fill(world, planted_nights(), shards=1)
    from sscd_ops.model import Runner
    from sscd_ops.steps import ingest

    with world.parts() as parts:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))
        world.put(DAYS[0], "00000.tar", clouds(range(3)))
        with pytest.raises(SourceChanged, match=r"changed since.* or sscd-ops batch abandon 1 "):
            ingest.run(parts, planned.batch_id, planned.groups)


# ---------------------------------------------------------------- runs beside each other


def test_a_batch_of_another_live_run_is_refused_by_name(world: World) -> None:
    fill(world, planted_nights())
    with world.parts() as parts:
        parts._ask_airflow = lambda runner: True
        world.until_match(parts, DAYS[0])

    with pytest.raises(BatchNotRunnable, match=r"airflow:curate_web/run-2026-11-01"):
        world.night(DAYS[0])


def test_a_batch_of_another_live_command_is_one_to_wait_for(world: World) -> None:
    fill(world, planted_nights())
    with world.parts() as parts, world.parts() as other:
        planned = plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))
        with other.catalog.locks() as locks:
            assert locks.take(CLI_LOCK, planned.batch_id)
            with pytest.raises(BatchNotRunnable) as refused:
                world.night(DAYS[0])

    assert str(refused.value) == (
        "another command runs batch 1 right now: wait for its end, then run this one again"
    )


def test_steps_are_told_to_who_asks_what_is_being_done(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world, planted_nights(), shards=2)

    with caplog.at_level(logging.INFO, "sscd_ops.steps.night"):
        world.night(DAYS[0])

    steps = ["plan", "ingest", "survey", "embed", "match", "wait", "resolve", "publish", "commit"]
    assert [record.getMessage().split()[0] for record in caplog.records] == steps
    assert caplog.records[1].getMessage() == "ingest groups=2"


def test_the_shards_of_a_dead_run_are_taken_over(world: World) -> None:
    world.change_source(urls=(f"{world.incoming}/*/*.tar",))
    world.put("any", "a.tar", clouds(range(4)))
    with world.parts() as parts:
        from sscd_ops.model import Runner

        dead = plan.run(parts, DATASET, interval(DAYS[0]), runner=Runner("cli"))

    second = world.night(DAYS[1])
    first = world.night(DAYS[0])

    assert (second.counts.read, first.counts.read) == (4, 0)
    assert first.batch_id == dead.batch_id
    assert_promises(world, read=4)


def test_a_dry_run_counts_and_leaves_nothing_behind(world: World, other_world: World) -> None:
    world.change(duplicates=BOTH)
    fill(world, planted_nights())
    world.night(DAYS[0])
    before = world.views(set())

    dry = world.night(DAYS[1], dry_run=True)
    unchanged = world.views(set())
    real = world.night(DAYS[1])

    assert unchanged == before
    assert dry.counts == real.counts
    assert dry.message == ""
    assert world.ask("SELECT count(*) AS n FROM sscd_ops.batches WHERE dry_run") == [{"n": 0}]


def test_a_dry_run_of_a_supplement_that_would_be_refused_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="run it without --supplement first"):
        world.night(DAYS[0], supplement=True, dry_run=True)


def test_a_dry_run_of_a_supplement_without_anything_new_keeps_to_itself(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    before = world.views(set())

    dry = world.night(DAYS[0], supplement=True, dry_run=True)

    assert (dry.counts.read, dry.answered) == (0, False)
    assert world.views(set()) == before


# ---------------------------------------------------------------- the index is a cache


def test_deleted_index_files_are_named_and_rebuilt(world: World, other_world: World) -> None:
    fill(world, planted_nights())
    for each in (world, other_world):
        each.change(duplicates=BOTH)
        each.change(duplicates={"search": "exact"})
        for day in DAYS[:2]:
            each.night(day)
    shutil.rmtree(world.base / "root" / DATASET / "index")

    with pytest.raises(FileMismatch, match="index rebuild"):
        world.night(DAYS[2])
    with world.parts() as parts:
        problems = verify_index(parts, DATASET)
        done = rebuild_index(parts, DATASET)
        assert verify_index(parts, DATASET) == []
    world.night(DAYS[2])
    other_world.night(DAYS[2])

    assert len(problems) > 4
    assert len(done) >= 3  # two segments; masks with equal bytes are one file
    assert world.views() == other_world.views()
    assert_promises(world)


def test_a_rebuild_adds_the_codes_of_the_backend_in_use(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world, planted_nights())
    world.change(duplicates={"search": "flat"})
    world.night(DAYS[0])
    world.change(duplicates={"search": "exact"})
    with caplog.at_level("INFO", logger="sscd_ops.steps.searching"):
        world.night(DAYS[1])
    with world.parts() as parts:
        done = rebuild_index(parts, DATASET)
        again = rebuild_index(parts, DATASET)
        assert verify_index(parts, DATASET) == []

    assert "segment 1 has no exact" in caplog.text
    assert len(done) == 1
    assert done[0].startswith("segment 1: added exact")
    assert again == []
    roles = world.ask("SELECT files FROM sscd_ops.segments ORDER BY segment_id")
    assert roles[0]["files"].keys() == roles[1]["files"].keys()
    caplog.clear()
    world.night(DAYS[2])
    assert "has no" not in caplog.text


def test_segments_and_descriptor_files_follow_from_each_other(world: World) -> None:
    """Where both are lost, from the pictures; where these are gone too, that is said."""
    fill(world, planted_nights())
    world.night(DAYS[0])
    root = world.base / "root" / DATASET
    for lost in ("descriptors", "index"):
        shutil.rmtree(root / lost)
        with world.parts() as parts:
            problems = verify_index(parts, DATASET)
            assert all("index rebuild" in problem for problem in map(str, problems))
            assert len(rebuild_index(parts, DATASET)) == 2
            assert verify_index(parts, DATASET) == []
    shutil.rmtree(root / "descriptors")
    shutil.rmtree(root / "index")

    with world.parts() as parts:
        problems = verify_index(parts, DATASET)
        assert "both damaged; restore one of them from a backup" in str(problems[-1])
        assert "`sscd-ops index rebuild" in str(problems[-1])
        for path in (world.incoming / DAYS[0]).iterdir():
            path.rename(path.with_suffix(".gone"))
        with pytest.raises(FileMismatch, match="put the original back and run this command again"):
            rebuild_index(parts, DATASET)
        for path in (world.incoming / DAYS[0]).iterdir():
            path.rename(path.with_suffix(".tar"))
        rebuild_index(parts, DATASET)
        assert verify_index(parts, DATASET) == []


# ---------------------------------------------------------------- what is published


@pytest.mark.filterwarnings("ignore:String specifications:UserWarning")
def test_old_snapshots_stay_readable_and_unchanged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wids = pytest.importorskip("wids", reason="wids is not installed")
    monkeypatch.setenv("WIDS_CACHE", str(world.base / "wids"))
    fill(world, planted_nights())
    world.night(DAYS[0])
    kept = {row["shard_key"] for row in world.ask("SELECT * FROM curation.kept")}
    root = world.base / "root"
    before = {path: path.read_bytes() for path in (root / DATASET / "shards").rglob("*.*")}
    first = root / world.ask("SELECT file FROM curation.snapshots")[0]["file"]
    document = first.read_bytes()

    for day in DAYS[1:3]:
        world.night(day)

    assert {path: path.read_bytes() for path in before} == before
    assert first.read_bytes() == document
    read = wids.ShardListDataset(str(first), keep=True)
    assert sorted(read[i]["__key__"] for i in range(len(read))) == sorted(kept)


def test_preference_decides_inside_a_batch_and_history_always_wins(world: World) -> None:
    small, large = picture(5, 160, 120), picture(5, 320, 240)
    world.put(DAYS[0], "a.tar", [pair("small", small), pair("large", large)])
    world.put(DAYS[1], "a.tar", [pair("huge", picture(5, 640, 480))])

    world.night(DAYS[0])
    world.night(DAYS[1])

    assert world.verdicts() == {
        "small": "removed near",
        "large": "kept",
        "huge": "removed near",
    }
    assert world.witnesses() == {"small": "large", "huge": "large"}


def test_captions_of_removed_copies_are_not_lost(world: World) -> None:
    world.put(DAYS[0], "a.tar", [pair("a", picture(1), "one"), pair("b", picture(1), "longer two")])

    world.night(DAYS[0])

    removed = world.ask("SELECT caption, witness_caption FROM curation.removed")
    assert removed == [{"caption": "one", "witness_caption": "longer two"}]


def test_20000_near_identical_placeholders_cost_bounded_memory_and_rows(world: World) -> None:
    """Every one another file, all of one picture: one is kept, each other has one stored match."""
    base = picture(9, 48, 48)
    samples = [
        # a comment segment makes other bytes of the same picture
        pair(f"p{i:05d}", base[:2] + b"\xff\xfe\x00\x08" + f"{i:06d}".encode() + base[2:])
        for i in range(20_000)
    ]
    world.put(DAYS[0], "a.tar", samples)

    with at_most(300):
        report = world.night(DAYS[0])

    assert (report.counts.kept, report.counts.removed_near) == (1, 19_999)
    matches = world.ask("SELECT count(*) AS n FROM sscd_ops.matches")[0]["n"]
    assert matches == 19_999


def cousin(seed: int, quality: int = 90) -> bytes:
    """Pictures of a family: alike, about half of the pairs above 0.81, none a copy."""
    family, own = (np.random.default_rng(s).integers(0, 256, (7, 9, 3)) for s in (0, 1000 + seed))
    clouds = Image.fromarray((family * 0.7 + own * 0.3).astype(np.uint8))
    return encode(clouds.resize((160, 120), Image.Resampling.BICUBIC), quality)


def test_stored_matches_are_the_few_most_similar_kept_images_above_the_floor(world: World) -> None:
    """Those of history and those of the night together; threshold 0.95, floor 0.81."""
    world.change(duplicates={"threshold": 0.95, "margin": 0.14, "keep_matches": 4, "prefer": ()})
    first = [pair(f"a{i:02d}", cousin(i)) for i in range(10)]
    second = [pair(f"b{i:02d}", cousin(10 + i)) for i in range(10)]
    first.insert(5, pair("a-copy", cousin(2, 60)))
    second.insert(5, pair("b-copy", cousin(3, 60)))
    world.put(DAYS[0], "a.tar", first)
    world.put(DAYS[1], "a.tar", second)

    world.night(DAYS[0])
    world.night(DAYS[1])

    verdicts = world.verdicts()
    assert [key for key, verdict in verdicts.items() if verdict != "kept"] == ["a-copy", "b-copy"]
    names = {hashlib.sha256(members["jpg"]).digest(): key for key, members in first + second}
    vectors = {}
    with world.parts() as parts:
        for row in world.ask("SELECT files FROM sscd_ops.segments"):
            files = files_of(row["files"])
            ids = np.load(parts.store.local(files["ids"]))
            rows = np.load(parts.store.local(files["descriptors"])).astype(np.float64)
            for image, vector in zip(ids, rows, strict=True):
                vectors[names[image.tobytes()]] = vector / np.linalg.norm(vector)
    expected = {}
    order = [key for key, _ in first + second]
    for at, key in enumerate(order):
        found = [
            (float(vectors[key] @ vectors[other]), other)
            for other in order[:at]
            if verdicts[other] == "kept"
        ]
        few = sorted(((s, other) for s, other in found if s >= 0.95 - 0.14), reverse=True)[:4]
        expected |= {(key, other): similarity for similarity, other in few}
    stored = {
        (names[bytes(row["image_sha256"])], names[bytes(row["earlier_sha256"])]): row["similarity"]
        for row in world.ask("SELECT * FROM sscd_ops.matches")
    }
    assert stored == pytest.approx(expected, abs=1e-12)
    rows_of = Counter(key for key, _ in stored)
    # the test has all that it is about: the limit, fewer, and history beside the night's own
    assert max(rows_of.values()) == 4
    assert min(rows_of.get(key, 0) for key in order[1:]) < 4
    assert {other[0] for key, other in stored if key == "b09"} == {"a", "b"}


def test_the_commit_of_a_night_without_a_shard_makes_no_snapshot(world: World) -> None:
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    world.night(DAYS[0])
    world.put(DAYS[1], "a.tar", clouds(range(3), prefix="again"))

    report = world.night(DAYS[1])

    assert (report.state, report.snapshot, report.shards) == (BatchState.PUBLISHED, None, 0)
    assert report.counts.removed_exact == 3


def test_a_missing_readiness_marker_is_said_and_then_waited_for_no_longer(world: World) -> None:
    world.change_source(ready=f"{world.incoming}/{{date}}/_SUCCESS")
    world.put(DAYS[0], "a.tar", clouds(range(3)))
    with pytest.raises(DataError, match="_SUCCESS is missing"):
        world.night(DAYS[0])

    (world.incoming / DAYS[0] / "_SUCCESS").touch()
    report = world.night(DAYS[0])

    assert report.counts.kept == 3


def test_two_sources_with_priorities(world: World) -> None:
    source = world.options.sources[0]
    licensed = dataclasses.replace(
        source, name="licensed", urls=(f"{world.base}/licensed/{{date}}/*.tar",), priority=5
    )
    world.change(sources=(source, licensed))
    world.put(DAYS[0], "a.tar", [pair("crawled", picture(3, 320, 240))])
    from sscd_ops.testing import make_tar

    make_tar(world.base / "licensed" / DAYS[0] / "a.tar", [pair("bought", picture(3))])

    report = world.night(DAYS[0])

    assert world.verdicts() == {"crawled": "removed near", "bought": "kept"}
    assert {name: counts.kept for name, counts in report.by_source.items()} == {
        "crawl": 0,
        "licensed": 1,
    }


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> None:
    """Nothing of another test is in the folder."""
    assert not list(tmp_path.iterdir())


def test_queries_are_prepared_once_for_all_segments(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend may rotate or pack them, which costs as much as searching a small segment."""
    prepared: list[int] = []

    class Counted(scan.Prepared):
        def __init__(self, method: scan.Method, descriptors: np.ndarray) -> None:
            prepared.append(len(descriptors))
            super().__init__(method, descriptors)

    for number, day in enumerate(DAYS[:3]):
        world.put(day, "a.tar", [pair(f"n{number}{i}", picture(10 * number + i)) for i in range(4)])
    for day in DAYS[:2]:
        world.night(day)
    monkeypatch.setattr(scan, "Prepared", Counted)

    with world.parts() as parts:
        world.until_match(parts, DAYS[2])

    assert prepared == [4]
