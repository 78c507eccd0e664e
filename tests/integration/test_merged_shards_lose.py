"""Merged shards that lose samples: of several at once, of the night that they begin with."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from sscd_ops.steps.rebuilding import rebuild_snapshots
from sscd_ops.testing import Sample, picture
from tests.integration.orders import lead_by
from tests.integration.test_compacting_shards import (
    assert_sound,
    compacted,
    keys_of,
    listed,
    run_nights,
)
from tests.integration.test_nights import DAYS, clouds
from tests.integration.world import DATASET, World


def pngs(seeds: range) -> list[Sample]:
    answer: list[Sample] = []
    for seed in seeds:
        png = io.BytesIO()
        Image.open(io.BytesIO(picture(seed))).save(png, "PNG")
        answer.append((f"p{seed:04d}", {"png": png.getvalue(), "txt": b"one"}))
    return answer


@pytest.fixture
def two_forms(world: World) -> World:
    """Two nights of two forms each, merged: both shards begin with samples of the first night."""
    for number, day in enumerate(DAYS[:2]):
        first = number * 10
        world.put(day, "a.tar", clouds(range(first, first + 3)))
        world.put(day, "b.tar", pngs(range(first + 100, first + 103)))
        world.night(day)
    assert [len(merge.shards) for merge in compacted(world).merges] == [2, 2]
    return world


def test_two_merged_shards_of_one_night_lose_samples_at_once(two_forms: World) -> None:
    with two_forms.parts() as parts:
        lead_by(parts, {"c0001": "withdrawn", "p0101": "withdrawn"})
    two_forms.put(DAYS[2], "a.tar", clouds(range(20, 23)))

    two_forms.night(DAYS[2])

    assert sorted(len(keys) for _, _, keys in listed(two_forms, 4)) == [3, 5, 5]
    assert_sound(two_forms)


@pytest.mark.parametrize("how", ["night", "compaction"])
def test_a_merged_shard_that_loses_its_first_night_is_listed_where_the_catalog_has_it(
    world: World, how: str
) -> None:
    """What is left of it has other slots than the shards between which it stood."""
    for number, (day, jpgs) in enumerate(zip(DAYS, (2, 9), strict=False)):
        first = number * 20
        world.put(day, "a.tar", clouds(range(first, first + jpgs)))
        middle = clouds(range(first + 200, first + 203), "m")
        world.put(day, "b.tar", [(key, {**members, "cls": b"1"}) for key, members in middle])
        world.put(day, "c.tar", pngs(range(first + 100, first + 103)))
        world.night(day)
    assert [len(merge.shards) for merge in compacted(world).merges] == [2, 2]
    with world.parts() as parts:
        lead_by(parts, dict.fromkeys(["m0200", "m0201", "m0202"], "withdrawn"))

    if how == "night":
        world.put(DAYS[2], "a.tar", clouds(range(40, 43)))
        world.night(DAYS[2])
    else:
        assert compacted(world).snapshot == 4

    assert_sound(world)
    for path in (world.base / "root" / DATASET / "snapshots").glob("000004-*"):
        path.unlink()
    with world.parts() as parts:
        assert rebuild_snapshots(parts, DATASET)[1] == []
    assert_sound(world)


def test_a_night_counts_its_own_shards_whatever_they_were_merged_into(world: World) -> None:
    world.change(publish={"max_samples": 2})
    run_nights(world, (6,))
    before = world.ask("SELECT shards, published_bytes FROM curation.runs")
    assert before[0]["shards"] == 3
    world.change(publish={"max_samples": 100})

    compacted(world)

    assert world.ask("SELECT shards, published_bytes FROM curation.runs") == before
    assert len(keys_of(listed(world, 2))) == 6
