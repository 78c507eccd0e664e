"""What docs/publishing.md says of training: its examples run, and what it says does not work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.testing import picture
from tests.docs.pages import ROOT, blocks
from tests.integration.world import DATASET, World, pair

pytestmark = pytest.mark.filterwarnings("ignore")
FORM = "jpg+txt+json"
PAGE = ROOT / "docs" / "publishing.md"
EXAMPLES = blocks(PAGE, "python")
WORLD = 3


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, postgres_home: Path, catalog_template: str
) -> Iterator[Path]:
    """A dataset's folder, of two nights: shards of several sizes and two forms."""
    from tests.databases import fresh_database

    base = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(base / "hf"))
        patch.setenv("WIDS_CACHE", str(base / "wids"))
        for url in fresh_database(postgres_home, catalog_template.rpartition("/")[2]):
            world = World(base, url)
            world.change(publish={"max_samples": 3})
            world.put("2026-11-01", "a.tar", [pair(f"a{i}", picture(i)) for i in range(8)])
            world.put("2026-11-02", "a.tar", [pair(f"b{i}", picture(20 + i)) for i in range(5)])
            for day in ("2026-11-01", "2026-11-02"):
                world.night(day)
            yield base / "root" / DATASET


def listed(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "snapshots/latest.json").read_text())[
        "shardlist"
    ]
    return found


def urls(folder: Path) -> list[str]:
    return [str(folder / "snapshots" / shard["url"]) for shard in listed(folder)]


def run(folder: Path, text: str, **given: Any) -> dict[str, Any]:
    """Run the example that holds a text, as pasted, on this folder; its names."""
    (example,) = (block for block in EXAMPLES if text in block)
    names = {"rank": 0, "world": 1, "epochs": 2, "train": lambda batch: None, "size": 2}
    names |= given
    exec(example.replace("/data/curation/web", str(folder)), names)  # noqa: S102
    return names


def keys(loader: Any) -> list[str]:
    """Keys of the samples of an epoch; of batches where it makes them."""
    found: list[str] = []
    for batch in loader:
        found += [s["__key__"] for s in (batch if isinstance(batch, list) else [batch])]
    return [key.rpartition("/")[2] for key in found]


def load(share: Any, workers: int) -> list[str]:
    from torch.utils.data import DataLoader

    return keys(DataLoader(share, batch_size=share.batch, num_workers=workers, collate_fn=list))


# ---------------------------------------------------------------- examples


def test_the_examples_of_training_run_as_pasted(folder: Path) -> None:
    for text, batches in (("class Share", 4), ("class ByShard", 1), ("split_dataset", None)):
        trained: list[Any] = []
        run(folder, text, train=trained.append)
        # a worker makes batches of its own, here each worker of a share one
        assert batches is None or len(trained) == 2 * batches
        assert sum(map(len, trained)) == 2 * (12 if text == "class Share" else 13)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_get_as_many_samples_each_and_together_all_of_them(
    folder: Path, workers: int
) -> None:
    names = run(folder, "class Share", epochs=0)
    snapshot = str(folder / "snapshots" / "latest.json")
    make = partial(names["Share"], snapshot, FORM, world=WORLD, batch=2, buffer=3)
    epochs = []
    for epoch in range(2):
        shares = [make(rank=rank) for rank in range(WORLD)]
        for share in shares:
            share.epoch = epoch
        epochs.append([load(share, workers) for share in shares])

    for ranks in epochs:
        parts = WORLD * max(workers, 1)
        assert {len(found) for found in ranks} == {13 // parts * max(workers, 1)}
        together = list(chain(*ranks))
        assert len(set(together)) == len(together) == 13 // parts * parts
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_share_goes_on_where_it_was(folder: Path, workers: int) -> None:
    names = run(folder, "class Share", epochs=0)
    snapshot = str(folder / "snapshots" / "latest.json")
    make = partial(names["Share"], snapshot, FORM, batch=2, buffer=3)
    whole = load(make(), workers)
    for done in range(8):
        share = make()
        share.done = done
        rest = load(share, workers)

        assert sorted(whole[: done * 2] + rest) == sorted(whole)


def test_wids_gives_ranks_as_many_and_goes_on_where_it_was(folder: Path) -> None:
    names = run(folder, "class ByShard", epochs=0)
    lengths = names["dataset"].lengths
    samplers = [names["ByShard"](lengths, rank, WORLD) for rank in range(WORLD)]

    epochs = []
    for epoch in range(2):
        for sampler in samplers:
            sampler.epoch = epoch
        epochs.append([list(sampler) for sampler in samplers])

    for ranks in epochs:
        assert [len(found) for found in ranks] == [4, 4, 4]
        assert len(set(chain(*ranks))) == 12
    assert epochs[0] != epochs[1]
    samplers[1].done = 3
    assert list(samplers[1]) == epochs[1][1][3:]
    (one,) = {len(list(names["ByShard"]([13])))}  # what `datasets` copied is one shard
    assert one == 13


def test_datasets_gives_ranks_as_many_batches_without_workers_and_shuffles_anew(
    folder: Path,
) -> None:
    ranks: list[list[Any]] = []
    for rank in range(WORLD):
        ranks.append([])
        given = {"rank": rank, "world": WORLD, "samples": 13, "train": ranks[-1].append}
        run(folder, "split_dataset", **given)
    found = [keys(batches) for batches in ranks]
    assert [len(batches) for batches in ranks] == [2 * 2] * WORLD
    assert [len(each) for each in found] == [2 * 4] * WORLD
    epochs = [list(chain(*(each[at : at + 4] for each in found))) for at in (0, 4)]
    assert [len(set(epoch)) for epoch in epochs] == [12, 12]
    assert epochs[0] != epochs[1]

    names = run(folder, "split_dataset", epochs=0)
    epochs = []
    for epoch in range(2):
        names["data"].set_epoch(epoch)
        epochs.append(keys(names["loader"]))
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert len(set(epochs[0])) == 13


# ---------------------------------------------------------------- what does not work


def test_what_the_page_says_of_webdataset_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset as wds
    from torch.utils.data import DataLoader

    def dealt(dataset: Any, workers: int) -> list[str]:
        return keys(DataLoader(dataset, batch_size=None, num_workers=workers))

    tars = urls(folder)
    shuffled = wds.WebDataset(tars, shardshuffle=100)
    assert keys(shuffled) == keys(shuffled)
    other = wds.WebDataset(tars, shardshuffle=100, detshuffle=True, seed=1)
    assert keys(other) != keys(other)
    assert dealt(other, 2) == dealt(other, 2)
    many = len(tars) + 1
    with pytest.raises(ValueError, match="No samples found"):
        dealt(wds.WebDataset(tars, shardshuffle=False), many)
    loose = wds.WebDataset(tars, shardshuffle=False, empty_check=False)
    assert len(dealt(loose, many)) == 13
    monkeypatch.setenv("WORLD_SIZE", str(WORLD))
    counts = []
    for rank in range(WORLD):
        monkeypatch.setenv("RANK", str(rank))
        ranked = wds.WebDataset(tars, shardshuffle=False, nodesplitter=wds.split_by_node)
        counts.append(len(keys(ranked)))
    assert sum(counts) == 13
    assert len(set(counts)) > 1
    assert not hasattr(loose, "state_dict")


def test_what_the_page_says_of_going_on_with_datasets(folder: Path) -> None:
    from datasets import load_dataset

    plain = load_dataset(str(folder), split="train", streaming=True)
    for data, lost in ((plain, False), (plain.shuffle(seed=0, buffer_size=4), True)):
        whole = keys(data)
        reading = iter(data)
        had = keys(next(reading) for _ in range(5))
        data.load_state_dict(data.state_dict())
        rest = keys(data)
        assert (len(set(whole) - set(had + rest)) > 0) == lost
        assert lost or had + rest == whole


def test_what_the_page_says_of_the_samplers_of_wids(folder: Path) -> None:
    import wids

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributed.is_initialized", lambda: True)
        patch.setattr("torch.distributed.get_world_size", lambda: WORLD)
        counts = []
        for rank in range(WORLD):
            patch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
            counts.append(len(list(wids.DistributedChunkedSampler(range(13)))))
    assert sum(counts) == 13
    assert len(set(counts)) > 1


def test_a_url_of_a_remote_root_is_no_folder() -> None:
    from datasets import load_dataset

    with pytest.raises(FileNotFoundError):
        load_dataset("memory://curation/web", streaming=True)
