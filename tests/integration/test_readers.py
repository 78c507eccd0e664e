"""What others read with reads what is published: webdataset, wids, Hugging Face datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.steps.snapshots import shard_urls
from sscd_ops.testing import Sample, picture, plant
from tests.integration.world import DATASET, World, pair

DAY = "2026-11-01"
pytestmark = pytest.mark.filterwarnings("ignore")


def document(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def mixed() -> list[Sample]:
    """Mixed extensions, missing json, dotted keys, differing json keys."""
    return [
        ("plain", {"jpg": picture(1), "txt": b"one", "json": document(url="a")}),
        ("without-json", {"jpg": picture(2), "txt": b"two"}),
        ("dotted.key", {"JPEG": picture(3), "txt": b"three"}),
        ("other-keys", {"jpg": picture(4), "txt": b"four", "json": document(size=3, url="b")}),
        ("segmented", {"jpg": picture(5), "seg.bin": b"mask", "cls": b"7", "txt": b"five"}),
        ("text-in-json", {"jpg": picture(6), "json": document(caption="six")}),
    ]


@pytest.fixture
def published(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """Two nights in several forms."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    world.change(publish={"max_samples": 2})
    # the dotted key: WebDataset ends a key at its first dot, so its image is `key.jpeg`
    world.change_source(image="key.jpeg", caption=("txt", "key.txt", "json:caption"))
    world.put(DAY, "a.tar", mixed())
    world.put(
        "2026-11-02",
        "a.tar",
        [pair("later", picture(9)), pair("copy", plant(picture(1), "jpeg_40"))],
    )
    world.night(DAY)
    world.night("2026-11-02")
    return world


def urls(world: World, form: str = "") -> list[str]:
    with world.parts() as parts:
        return shard_urls(parts, DATASET, None, form)


def forms(world: World) -> list[str]:
    return [
        row["form"] for row in world.ask("SELECT DISTINCT form FROM curation.shards ORDER BY 1")
    ]


def kept(world: World) -> dict[str, dict[str, Any]]:
    return {row["shard_key"]: row for row in world.ask("SELECT * FROM curation.kept")}


def test_shards_are_homogeneous_and_single_samples_make_one(published: World) -> None:
    assert forms(published) == [
        "jpg+txt+json",
        "jpg+txt+json+cls+seg.bin",
        "key.jpg+txt+json+key.txt",
    ]


def test_webdataset_reads_every_kept_sample(published: World) -> None:
    import webdataset

    found = list(webdataset.WebDataset(urls(published), shardshuffle=False, empty_check=False))

    assert sorted(sample["__key__"] for sample in found) == sorted(kept(published))
    for sample in found:
        row = kept(published)[sample["__key__"]]
        text = sample.get("key.txt") or sample["txt"]
        assert text.decode() == row["caption"]
        json.loads(sample["json"])


def test_wids_reads_a_snapshot_by_number(
    published: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wids = pytest.importorskip("wids", reason="wids is not installed")
    file = published.ask("SELECT file FROM curation.snapshots ORDER BY snapshot DESC LIMIT 1")
    index = published.base / "root" / file[0]["file"]

    # not cache_dir=: it names copies by basename, and every folder has a 00000.tar
    monkeypatch.setenv("WIDS_CACHE", str(tmp_path / "wids"))
    dataset = wids.ShardListDataset(str(index), keep=True)

    assert len(dataset) == len(kept(published))
    keys = {dataset[i]["__key__"] for i in range(len(dataset))}
    assert keys == set(kept(published))


def load(world: World, form: str, **options: Any) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    return iter(
        load_dataset(
            "webdataset",
            data_files={"train": urls(world, form)},
            split="train",
            cache_dir=str(world.base / "hf"),
            **options,
        )
    )


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_a_whole_snapshot_form_by_form(published: World, streaming: bool) -> None:
    keys = [
        sample["__key__"]
        for form in forms(published)
        for sample in load(published, form, streaming=streaming)
    ]

    assert sorted(key.rpartition("/")[2] for key in keys) == sorted(kept(published))


def test_what_datasets_cannot_read_is_not_published(world: World) -> None:
    documents = {
        "plain": b'{"title": "a", "score": 1.5}',
        "nan": b'{"title": "b", "score": NaN}',
        "wide": '{"title": "\u00e9", "score": 2.5}'.encode("utf-16"),
        "half": rb'{"title": "a\ud800", "score": 0.5}',
        "bytes": b'{"title": "\xed\xa0\x80", "score": 0.5}',
        "nul": rb'{"title": "\u0000", "score": 0.5}',
        "cut": b'{"title": ',
    }
    world.change_source(caption=("txt",))
    world.put(
        DAY,
        "a.tar",
        [
            (key, {"jpg": picture(i), "txt": b"x", "json": data})
            for i, (key, data) in enumerate(documents.items())
        ],
    )

    world.night(DAY)

    titles = [sample["json"]["title"] for sample in load(world, "jpg+txt+json")]
    assert titles == ["a", "b", "\u00e9"]
    assert world.verdicts() == {
        key: "kept" if key in ("plain", "nan", "wide") else "quarantined bad_json"
        for key in documents
    }


def conflicting(world: World) -> None:
    world.put(
        DAY,
        "a.tar",
        [
            (
                f"k{i}",
                {
                    "jpg": picture(i),
                    "txt": b"x",
                    "json": document(size=i) if i < 8 else document(size="large"),
                },
            )
            for i in range(10)
        ],
    )
    world.night(DAY)


def test_conflicting_json_types_fail_in_datasets(world: World) -> None:
    conflicting(world)

    from datasets.exceptions import DatasetGenerationError

    with pytest.raises(DatasetGenerationError) as error:
        list(load(world, "jpg+txt+json"))
    assert "large" in repr(error.value.__cause__)


def test_the_documented_way_round_conflicting_json_types_works(world: World) -> None:
    """The parquet beside each tar has text columns; webdataset hands out bytes."""
    import pyarrow.parquet as pq
    import webdataset

    world.change_source(columns=("size",))
    conflicting(world)

    found = list(webdataset.WebDataset(urls(world), shardshuffle=False))
    sizes = sorted(str(json.loads(sample["json"])["size"]) for sample in found)
    beside = [pq.read_table(url.removesuffix(".tar") + ".parquet") for url in urls(world)]
    assert sorted(size for table in beside for size in table.column("size").to_pylist()) == sizes
