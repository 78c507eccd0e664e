"""``load_dataset`` on a dataset's folder reads the newest snapshot, and nothing else there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.steps import snapshots
from sscd_ops.steps.dataset_card import card
from sscd_ops.steps.rebuilding import rebuild_snapshots
from sscd_ops.steps.verify import verify_snapshot
from sscd_ops.testing import picture
from tests.integration.orders import lead_by
from tests.integration.world import DATASET, World, pair

pytestmark = pytest.mark.filterwarnings("ignore")
NIGHTS = ("2026-11-01", "2026-11-02")
PAIRS = "jpg+txt+json"


@pytest.fixture
def published(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A night in two forms and several shards."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    world.change(publish={"max_samples": 2})
    samples = [pair(f"p{i}", picture(i)) for i in range(5)]
    samples.append(("more", {"jpg": picture(5), "txt": b"more", "cls": b"7"}))
    world.put(NIGHTS[0], "a.tar", samples)
    world.night(NIGHTS[0])
    return world


def folder(world: World) -> Path:
    return world.base / "root" / DATASET


def load(world: World, **options: Any) -> list[str]:
    """Keys that `datasets` finds, as a reader types it."""
    from datasets import load_dataset

    options = {"split": "train", "cache_dir": str(world.base / "hf"), **options}
    found = load_dataset(str(folder(world)), **options)
    return sorted(sample["__key__"].rpartition("/")[2] for sample in found)


def kept(world: World, form: str) -> list[str]:
    """Keys of a form's samples in the newest snapshot, as the catalog has them."""
    return sorted(
        row["shard_key"]
        for row in world.ask(
            "SELECT k.shard_key FROM curation.kept k JOIN curation.shards s USING (shard)"
            " WHERE s.form = :f AND s.snapshot_to IS NULL",
            f=form,
        )
    )


@pytest.mark.parametrize(
    "options", [{"streaming": True}, {}, {"num_proc": 2}], ids=["streaming", "whole", "processes"]
)
def test_the_largest_form_is_read_unasked_and_another_by_its_name(
    published: World, options: dict[str, Any]
) -> None:
    assert load(published, **options) == kept(published, PAIRS)
    assert len(kept(published, PAIRS)) == 5
    if "num_proc" not in options:  # one shard, which two processes cannot share
        named = load(published, name=f"{PAIRS}+cls", **options)
        assert named == kept(published, f"{PAIRS}+cls")
        assert len(named) == 1


def test_all_splits_and_forms_are_listed(published: World) -> None:
    from datasets import get_dataset_config_names, load_dataset

    assert get_dataset_config_names(str(folder(published))) == [f"{PAIRS}+cls", PAIRS]
    found = load_dataset(str(folder(published)), cache_dir=str(published.base / "hf"))
    assert {name: len(split) for name, split in found.items()} == {"train": 5}


@pytest.mark.parametrize("streaming", [True, False])
def test_a_new_snapshot_is_read_and_no_shard_that_it_replaced(
    published: World, streaming: bool
) -> None:
    before = load(published, streaming=streaming)
    published.put(NIGHTS[1], "a.tar", [pair("later", picture(9))])
    with published.parts() as parts:
        lead_by(parts, {"p1": "withdrawn"})
    published.night(NIGHTS[1])

    after = load(published, streaming=streaming)

    assert after == kept(published, PAIRS)
    assert len(after) == len(before) == 5
    assert after != before
    tars = list(folder(published).glob("shards/*/*.tar"))
    listed = json.loads((folder(published) / "snapshots" / "latest.json").read_text())["shardlist"]
    assert len(tars) > len(listed), "an old shard lies beside the one that took its place"


def test_of_a_snapshot_without_samples_nothing_is_read(published: World) -> None:
    published.put(NIGHTS[1], "a.tar", [])
    with published.parts() as parts:
        everything = [f"p{i}" for i in range(5)] + ["more"]
        lead_by(parts, dict.fromkeys(everything, "withdrawn"))
    published.put(NIGHTS[1], "b.tar", [pair("new", picture(8))])
    published.night(NIGHTS[1])
    assert len(load(published)) == 1
    body = json.loads((folder(published) / "snapshots" / "latest.json").read_text())
    empty = {**body, "shardlist": [], "samples": 0}
    (folder(published) / "README.md").write_bytes(card(json.dumps(empty).encode()))

    with pytest.raises(FileNotFoundError, match="nothing-in-this-snapshot"):
        load(published)


def test_a_lost_or_stale_card_is_found_and_written_again(published: World) -> None:
    written = folder(published) / "README.md"
    before = written.read_bytes()
    for damage in (written.unlink, lambda: written.write_bytes(before.replace(b"00000", b"00001"))):
        damage()

        with published.parts() as parts:
            (said,) = verify_snapshot(parts, DATASET)
            assert str(written) in str(said)
            assert "`sscd-ops snapshot verify --dataset web --repair` writes it anew" in str(said)
            assert rebuild_snapshots(parts, DATASET) == ([], [])
            assert verify_snapshot(parts, DATASET) == []
        assert written.read_bytes() == before


def test_a_command_that_died_before_the_card_is_repaired_by_the_next(
    published: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.put(NIGHTS[1], "a.tar", [pair("later", picture(9))])
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "stale_card", lambda *given: {})
        published.night(NIGHTS[1])
    assert len(load(published)) == 5

    published.night(NIGHTS[1])

    assert load(published) == kept(published, PAIRS)


@pytest.mark.parametrize("text", ["# My pictures\n", "---\nlicense: mit\n---\n", ""])
def test_a_readme_that_a_person_wrote_is_left_alone(published: World, text: str) -> None:
    written = folder(published) / "README.md"
    written.write_text(text)
    published.put(NIGHTS[1], "a.tar", [pair("later", picture(9))])

    published.night(NIGHTS[1])

    assert written.read_text() == text
    with published.parts() as parts:
        assert verify_snapshot(parts, DATASET) == []


def test_a_folder_that_moved_is_read_where_it_is_now(published: World) -> None:
    """What the card names is relative to it."""
    wanted = kept(published, PAIRS)
    moved = published.base / "else" / "root" / DATASET
    shutil.copytree(folder(published), moved)
    shutil.rmtree(folder(published))
    published.base = published.base / "else"

    assert load(published, streaming=True) == wanted


def test_extensions_that_are_no_name_of_a_config_are_spelt_out() -> None:
    shard = {"form": "jpg+txt+a?b", "url": "../shards/x/00000.tar", "nsamples": 1}
    document = {"name": "web", "snapshot": 1, "samples": 1, "shardlist": [shard]}

    text = card(json.dumps(document).encode()).decode()

    assert '- config_name: "jpg+txt+a%3Fb"' in text
    assert "    - shards/x/00000.tar\n" in text
