"""What a withdrawal leaves of shards: the old ones less the withdrawn members, for every reader."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sscd_ops.steps.verify import verify_catalog
from sscd_ops.testing import picture
from tests.integration.test_nights import DAYS, clouds
from tests.integration.test_readers import kept, load, mixed, urls
from tests.integration.test_withdraw import revert, withdraw
from tests.integration.world import DATASET, World, pair

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def shards(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A night in several forms, whose samples stand five to a shard."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("WIDS_CACHE", str(tmp_path / "wids"))
    world.change(publish={"max_samples": 5})
    world.change_source(image="key.jpeg", caption=("txt", "key.txt", "json:caption"))
    world.put(DAYS[0], "a.tar", [*mixed(), *clouds(range(20, 29))])
    world.put(DAYS[1], "b.tar", [pair("same21", picture(21))])
    world.night(DAYS[0])
    world.night(DAYS[1])
    return world


def read(world: World, url: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    """A shard's members, in their order."""
    with tarfile.open(url, "r:") as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def written(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """What tarfile writes for them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def by_keys(world: World) -> dict[str, str]:
    """Source key -> published key."""
    return {row["key"]: row["sample_id"].hex for row in world.ask("SELECT * FROM curation.samples")}


def test_rewritten_shards_are_the_old_ones_less_the_withdrawn_members(shards: World) -> None:
    """One loses its first samples, one those in its middle, one its last; the rest is untouched."""
    before = {url: read(shards, url) for url in urls(shards)}
    names = by_keys(shards)
    gone = {names[key] for key in ("plain", "other-keys", "c0021", "c0028")}

    withdraw(shards, "plain", "other-keys", "c0021", "c0028")

    after = {url: read(shards, url) for url in urls(shards)}
    lost = {
        url: members
        for url, members in before.items()
        if gone & {member.name.partition(".")[0] for member, _ in members}
    }
    assert set(before) - set(after) == set(lost)
    left = [
        [each for each in members if each[0].name.partition(".")[0] not in gone]
        for members in lost.values()
    ]
    expected = sorted(written(members) for members in left if members)
    added = {url: members for url, members in after.items() if url not in before}
    same = names["same21"]  # who carries now, from its source: a shard of its own
    (instead,) = [url for url, members in added.items() if members[0][0].name.startswith(same)]
    rewritten = sorted(Path(url).read_bytes() for url in added if url != instead)
    assert rewritten == expected
    for url in after:
        parquet = pq.read_table(url.removesuffix(".tar") + ".parquet").to_pylist()
        data = Path(url).read_bytes()
        images = {
            member.name.partition(".")[0]: content
            for member, content in after[url]
            if member.name.endswith("jpg")
        }
        assert [row["key"] for row in parquet] == list(images)
        for row in parquet:
            content = images[row["key"]]
            assert data[row["offset"] : row["offset"] + len(content)] == content
    with shards.parts() as parts:
        assert verify_catalog(parts, DATASET) == []


def webdataset_reads(world: World) -> list[str]:
    import webdataset

    found = webdataset.WebDataset(urls(world), shardshuffle=False, empty_check=False)
    return [sample["__key__"] for sample in found]


def wids_reads(world: World) -> list[str]:
    wids = pytest.importorskip("wids", reason="wids is not installed")
    newest = "SELECT file FROM curation.snapshots ORDER BY snapshot DESC LIMIT 1"
    index = world.base / "root" / world.ask(newest)[0]["file"]
    dataset = wids.ShardListDataset(str(index), keep=True)
    return [dataset[place]["__key__"] for place in range(len(dataset))]


def datasets_reads(world: World) -> list[str]:
    forms = [row["form"] for row in world.ask("SELECT DISTINCT form FROM curation.shards"
                                              " WHERE snapshot_to IS NULL")]  # fmt: skip
    found: list[Any] = []
    for form in forms:
        found += [
            sample["__key__"].rpartition("/")[2] for sample in load(world, form, streaming=True)
        ]
    return found


@pytest.mark.parametrize("reads", [webdataset_reads, wids_reads, datasets_reads])
def test_what_others_read_with_reads_what_is_left_and_what_comes_back(
    shards: World, reads: Callable[[World], list[str]]
) -> None:
    order = withdraw(shards, "plain", "other-keys", "c0021", "c0028").order.order_id
    names = by_keys(shards)

    left = reads(shards)
    assert sorted(left) == sorted(kept(shards))
    assert not {names[key] for key in ("plain", "other-keys", "c0021", "c0028")} & set(left)
    revert(shards, order)
    assert sorted(reads(shards)) == sorted(kept(shards))
    assert names["plain"] in kept(shards)
