"""`index compact`: fewer segments, and every later night decides as it would have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_ops.catalog import segments, sql
from sscd_ops.core.measures import DESCRIPTORS
from sscd_ops.model import Segment, StoredFile
from sscd_ops.steps import compacting, resolve
from sscd_ops.steps.compacting import Merged, compact, run_of
from sscd_ops.steps.rebuilding import rebuild_index
from sscd_ops.steps.verify import verify_index
from sscd_ops.testing import picture, plant
from tests.integration.orders import lead_by
from tests.integration.test_crashes import Killed, die_at
from tests.integration.test_nights import BOTH, DAYS, clouds, fill, planted_nights
from tests.integration.test_turns import Standby
from tests.integration.world import (
    ASIDE,
    DATASET,
    World,
    assert_catalog_and_files_agree,
    assert_newest_verdicts,
    assert_no_kept_copies,
    assert_promises,
    assert_witnesses_are_kept,
    pair,
)
from tests.soak import sweep

VIEWS_ASIDE = ASIDE | {"generation"}
"""A compaction is a generation: those after it have other numbers."""


def compacted(world: World, below: int = 1000) -> list[Merged]:
    with world.parts() as parts:
        return compact(parts, DATASET, below)


def live(world: World) -> list[dict[str, Any]]:
    """Segment, rows and kept rows of what is live, in turn order."""
    with world.parts() as parts, parts.catalog.begin() as conn:
        found = segments.all_segments(conn, 1)
    return [
        {name: row[name] for name in ("segment", "nights", "turn", "rows", "kept")} for row in found
    ]


def assert_same(world: World, other: World) -> None:
    assert world.views(VIEWS_ASIDE) == other.views(VIEWS_ASIDE)
    assert world.published() == other.published()


# ---------------------------------------------------------------- equal answers


@pytest.mark.parametrize(
    ("search", "perceptual"),
    sweep(
        [(s, p) for s in ("flat", "exact", "sketch") for p in (False, True)],
        [("flat", True)],
    ),
)
def test_nights_with_compactions_between_them_decide_as_without(
    world: World, other_world: World, search: str, perceptual: bool
) -> None:
    read = fill(world, planted_nights())
    world.put(DAYS[3], "a.tar", [*clouds(range(0, 60, 5), "again"), *copies_of(range(3, 60, 5))])
    for each in (world, other_world):
        each.change(duplicates={"search": search, **(BOTH if perceptual else {})})
    merged = []
    for day in DAYS:
        other_world.night(day)
        world.night(day)
        merged.append(len(compacted(world)))

    assert merged == [0, 1, 1, 1]
    assert [row["nights"] for row in live(world)] == [4]
    assert [row["nights"] for row in live(other_world)] == [1, 1, 1, 1]
    assert_same(world, other_world)
    assert_promises(world, read=read + 24)


def copies_of(seeds: range) -> list[Any]:
    return [pair(f"copy{seed:04d}", plant(picture(seed), "jpeg_40")) for seed in seeds]


@pytest.mark.parametrize("perceptual", sweep([False, True], [False]))
def test_free_images_of_merged_nights_are_decided_anew(
    world: World, other_world: World, perceptual: bool
) -> None:
    """Withdrawn after the merge, kept again by a later night, and searched after another one."""
    for start, day in zip((0, 8), DAYS, strict=False):
        world.put(day, "a.tar", clouds(range(start, start + 8)))
    world.put(DAYS[2], "a.tar", [*clouds(range(6, 12), "again"), pair("new", picture(40))])
    world.put(DAYS[3], "a.tar", copies_of(range(4, 14)))
    order = {f"c{seed:04d}": "free" for seed in (6, 7, 8, 9, 15)}
    for each in (world, other_world):
        if perceptual:
            each.change(duplicates=BOTH)
        each.night(DAYS[0])
        each.night(DAYS[1])
        if each is world:
            assert len(compacted(each)) == 1
        with each.parts() as parts:
            lead_by(parts, order)
        each.night(DAYS[2])
        if each is world:
            assert len(compacted(each)) == 1
        each.night(DAYS[3])

    assert_same(world, other_world)
    assert world.verdicts()["again0008"] == "kept"
    assert world.witnesses()["copy0008"] == "again0008"
    assert_newest_verdicts(world)
    assert_witnesses_are_kept(world)
    assert_no_kept_copies(world)
    assert_catalog_and_files_agree(world)


def test_a_night_that_searched_before_a_compaction_is_decided_after_it(
    world: World, other_world: World
) -> None:
    read = fill(world, planted_nights())
    for each in (world, other_world):
        each.night(DAYS[0])
        each.night(DAYS[1])
        with each.parts() as parts:
            batch = each.until_match(parts, DAYS[2])
            if each is world:
                assert len(compact(parts, DATASET, 1000)) == 1
            each.from_resolve(parts, batch)

    assert_same(world, other_world)
    assert_promises(world, read=read)


def two_nights(*worlds: World) -> int:
    """Run two of three nights in each; how many samples all three have."""
    read = fill(worlds[0], planted_nights())
    for world in worlds:
        for day in DAYS[:2]:
            world.night(day)
    return read


def test_a_night_that_a_compaction_overtook_is_worked_out_again(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = two_nights(world, other_world)
    other_world.night(DAYS[2])
    real = resolve.work_out
    tries = []

    def work_out(*given: Any) -> Any:
        worked = real(*given)
        tries.append(compacted(world))
        return worked

    monkeypatch.setattr(resolve, "work_out", work_out)
    world.night(DAYS[2])

    assert [len(merged) for merged in tries] == [1, 0]
    assert_same(world, other_world)
    assert_promises(world, read=read)


def test_a_compaction_that_a_night_overtook_merges_what_is_live_then(
    world: World, other_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night adds a segment while the earlier ones are merged."""
    read = two_nights(world, other_world)
    other_world.night(DAYS[2])
    real = compacting.join_segments
    joined: list[list[int]] = []

    def join_segments(*given: Any) -> Any:
        files = real(*given)
        joined.append([segment.segment_id for segment in given[2]])
        if len(joined) == 1:
            world.night(DAYS[2])
        return files

    monkeypatch.setattr(compacting, "join_segments", join_segments)
    (merged,) = compacted(world)

    assert joined == [[1, 2], [1, 2, 3]]
    assert merged.segments == [1, 2, 3]
    assert_same(world, other_world)
    assert_promises(world, read=read)


def test_files_of_a_lost_try_are_taken_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where masks alone changed, nothing is written again but the mask."""
    fill(world, planted_nights())
    world.night(DAYS[0])
    world.night(DAYS[1])
    real = compacting.join_segments
    joined: list[object] = []

    def join_segments(*given: Any) -> Any:
        joined.append(given)
        files = real(*given)
        with world.parts() as parts:
            lead_by(parts, {"c0002": "free"})
        return files

    monkeypatch.setattr(compacting, "join_segments", join_segments)
    compacted(world)

    assert len(joined) == 1
    (row,) = live(world)
    assert row["kept"] == len(world.ask("SELECT FROM curation.kept WHERE NOT plain"))
    with world.parts() as parts:
        assert verify_index(parts, DATASET) == []


def test_nights_with_hashes_and_without_are_not_merged(world: World) -> None:
    """What was decided without hashes has none afterwards: later nights would see them."""
    nights = {day: clouds(range(n * 5, n * 5 + 5)) for n, day in enumerate(DAYS)}
    fill(world, nights, shards=1)
    for day, both in zip(DAYS, (False, False, True, True), strict=True):
        world.change(duplicates={"perceptual": both})
        world.night(day)

    assert [merged.segments for merged in compacted(world)] == [[1, 2], [3, 4]]
    with world.parts() as parts:
        assert verify_index(parts, DATASET) == []


def test_codes_that_some_nights_lack_are_made(world: World) -> None:
    """Of the backend that the newest night searched with."""
    fill(world, planted_nights())
    for day, search in zip(DAYS[:2], ("flat", "exact"), strict=False):
        world.change(duplicates={"search": search})
        world.night(day)
    compacted(world)

    (both,) = world.ask(
        "SELECT files FROM sscd_ops.segments JOIN sscd_ops.segment_masks USING (segment_id)"
        " WHERE generation_to IS NULL"
    )
    assert any(role.startswith("exact") for role in both["files"])
    with world.parts() as parts:
        assert rebuild_index(parts, DATASET) == []
    world.night(DAYS[2])
    assert_promises(world)


def test_an_earlier_generation_stays_what_it_was(world: World) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    world.night(DAYS[1])
    with world.parts() as parts, parts.catalog.begin() as conn:
        before = segments.live_segments(conn, 1, 2)
    compacted(world)

    with world.parts() as parts:
        with parts.catalog.begin() as conn:
            assert segments.live_segments(conn, 1, 2) == before
            assert [s.segment_id for s in segments.live_segments(conn, 1, 3)] == [3]
        for segment in before:
            for file in (*segment.files.values(), segment.mask):
                assert file is not None
                parts.store.verify(file)


# ---------------------------------------------------------------- deaths, and fail-overs

POINTS = (
    "compacting.join_segments",
    "compacting.write_mask",
    "compacting.segments.add_merged",
    "compacting.segments.add_mask",
    "compacting.events.add_event",
    "turns.datasets.advance",
    "turns.make_generation",
)
DEATHS = [(when, point) for when in ("before", "after") for point in POINTS]
SAMPLE = [("after", "compacting.segments.add_mask"), ("after", "turns.make_generation")]


@pytest.mark.parametrize(("when", "point"), sweep(DEATHS, SAMPLE))
def test_a_death_at_any_write_leaves_the_index_as_it_was_or_merged(
    world: World, other_world: World, when: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four nights merged two by two: the death is in the second merge."""
    nights = {day: clouds(range(i * 5, i * 5 + 8)) for i, day in enumerate(DAYS)}
    fill(world, nights, shards=1)
    for each in (world, other_world):
        for day in DAYS[:3]:
            each.night(day)
    compacted(other_world, below=12)
    die_at(monkeypatch, when, point)
    with pytest.raises(Killed):
        compacted(world, below=12)
    monkeypatch.undo()
    with world.parts() as parts:
        assert verify_index(parts, DATASET) == []
    compacted(world, below=12)

    for each in (world, other_world):
        each.night(DAYS[3])
    assert_same(world, other_world)
    assert [row["rows"] for row in live(world)] == [row["rows"] for row in live(other_world)]
    assert_promises(world)


def test_a_merge_that_a_fail_over_forgot_is_not_mistaken_for_the_one_that_has_its_number_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night keeps a picture of a merged night again, in a segment that is another one by now."""
    for start, day in zip((0, 5, 10), DAYS, strict=False):
        world.put(day, "a.tar", clouds(range(start, start + 5)))
        world.night(day)
    world.put(DAYS[3], "a.tar", clouds(range(2, 4), "again"))
    real = resolve.work_out
    with world.parts() as parts:
        lead_by(parts, {"c0002": "free"})
        batch = world.until_match(parts, DAYS[3])
    standby = Standby(world)
    assert [merged.segments for merged in compacted(world, below=8)] == [[1, 2]]

    def work_out(*given: Any) -> Any:
        worked = real(*given)
        monkeypatch.setattr(resolve, "work_out", real)
        standby.take_over()
        assert [merged.segments for merged in compacted(world)] == [[1, 2, 3]]
        return worked

    monkeypatch.setattr(resolve, "work_out", work_out)
    with world.parts() as parts:
        world.from_resolve(parts, batch)

    assert [row["rows"] for row in live(world)] == [15]
    assert world.verdicts()["again0002"] == "kept"
    with world.parts() as parts:
        assert verify_index(parts, DATASET) == []


# ---------------------------------------------------------------- verify and rebuild


def files_of(world: World) -> dict[str, Path]:
    """Role -> file of the one live segment, with its mask."""
    (found,) = world.ask(
        "SELECT s.files, m.mask FROM sscd_ops.segments s JOIN sscd_ops.segment_masks m"
        " USING (segment_id) WHERE m.generation_to IS NULL"
    )
    files = {**found["files"], "mask": found["mask"]}
    return {role: world.base / "root" / file["name"] for role, file in files.items()}


def _lose_a_descriptor_file(world: World) -> list[Path]:
    rows = world.ask(
        "SELECT descriptors ->> 'name' AS name FROM sscd_ops.source_shards ORDER BY shard_id"
    )
    return [world.base / "root" / rows[number]["name"] for number in (1, 2)]


DAMAGES: dict[str, Callable[[World], Sequence[Path]]] = {
    "segment": lambda world: [files_of(world)[role] for role in (DESCRIPTORS, "ids", "pdq-1")],
    "mask": lambda world: [files_of(world)["mask"]],
    "descriptor files": _lose_a_descriptor_file,
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_merged_segment_is_rebuilt_with_its_sha256(world: World, what: str) -> None:
    """The files of what it was merged of are gone: descriptor files and verdicts are enough."""
    fill(world, planted_nights())
    world.change(duplicates={"search": "exact", **BOTH})
    for day in DAYS[:3]:
        world.night(day)
    with world.parts() as parts:
        lead_by(parts, {"c0002": "free"})
    compacted(world)
    kept = {path.name for path in files_of(world).values()}
    for path in (world.base / "root" / DATASET / "index").glob("*/*"):
        if path.name not in kept:
            path.unlink()
    lost = DAMAGES[what](world)
    for path in lost:
        path.unlink()

    with world.parts() as parts:
        assert len(verify_index(parts, DATASET)) == len(lost)
        assert rebuild_index(parts, DATASET)
        assert verify_index(parts, DATASET) == []
        assert rebuild_index(parts, DATASET) == []


def test_a_merged_segment_and_a_descriptor_file_of_it_are_both_lost(world: World) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    world.night(DAYS[1])
    compacted(world)
    files_of(world)["ids"].unlink()
    _lose_a_descriptor_file(world)[1].unlink()

    with world.parts() as parts:
        problems = verify_index(parts, DATASET)
        assert "descriptor files of its batch 2 are both damaged" in str(problems[-1])
        rebuild_index(parts, DATASET)
        assert verify_index(parts, DATASET) == []


def test_masks_that_do_not_follow_from_the_catalog_are_found(world: World) -> None:
    fill(world, planted_nights())
    world.night(DAYS[0])
    world.night(DAYS[1])
    compacted(world)
    with world.parts() as parts:
        with parts.catalog.begin() as conn:
            sql.run(
                conn,
                "UPDATE sscd_ops.images SET verdict = 'removed' WHERE decision_id = 2"
                " AND verdict = 'kept' AND segment_row = (SELECT min(segment_row)"
                " FROM sscd_ops.images WHERE decision_id = 2 AND verdict = 'kept')",
            )
        (problem,) = verify_index(parts, DATASET)
    assert "its mask keeps" in str(problem)


# ---------------------------------------------------------------- which are merged


def segment(number: int, rows: int, role: str = "ids") -> Segment:
    return Segment(number, number, rows, 8, "f", {role: StoredFile("", "", 0)})


@given(
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(("ids", "pdq-1"))), max_size=30),
    st.integers(2, 30),
)
def test_runs_are_merged_until_none_is_left(rows: list[tuple[int, str]], below: int) -> None:
    """Rows stay in order, no large segment is touched, and what is merged is large or a rest."""
    index = [(segment(n, size, role), [n]) for n, (size, role) in enumerate(rows)]
    while run := run_of([each for each, _ in index], below):
        first = next(i for i, (each, _) in enumerate(index) if each is run[0])
        of = index[first : first + len(run)]
        assert [each for each, _ in of] == run
        assert len(run) > 1
        assert all(each.rows < below for each in run)
        assert sum(each.rows for each in run[:-1]) < below
        (role,) = {role for each in run for role in each.files}
        merged = segment(1000 + len(index), sum(each.rows for each in run), role)
        index[first : first + len(run)] = [(merged, [n for _, parts in of for n in parts])]

    assert [n for _, parts in index for n in parts] == list(range(len(rows)))
    for (one, _), (other, _) in itertools.pairwise(index):
        assert not (one.rows < below and other.rows < below and one.files == other.files)


def test_segments_of_one_kind_alone_are_merged() -> None:
    many = [segment(n, 1) for n in range(3)] + [segment(3, 1, "pdq-1"), segment(4, 1, "pdq-1")]
    assert [each.segment_id for each in run_of(many, 100)] == [0, 1, 2]
    assert [each.segment_id for each in run_of(many[2:], 100)] == [3, 4]
    assert run_of([], 100) == []
