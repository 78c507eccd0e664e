"""What every kind of source does alike, on disk and in an object store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest

from sscd_ops.errors import ConfigError, SourceChanged, StoreUnavailable
from sscd_ops.model import Fault, FoundShard
from sscd_ops.options import LimitsOptions
from sscd_ops.ports import Source
from tests.unit.sources.feeds import (
    DAY,
    FEEDS,
    ROWS,
    Feed,
    put,
    refs_of,
    samples_of,
)

OF_FILES = [name for name, feed in FEEDS.items() if feed.data is not None]
"""A folder is no file."""


@pytest.fixture(params=FEEDS, ids=lambda name: name.replace(" ", "-"))
def feed(request: pytest.FixtureRequest) -> Feed:
    return FEEDS[request.param]


def remove(url: str) -> None:
    fs, path = fsspec.core.url_to_fs(url)
    fs.rm(path, recursive=True)


def opened(feed: Feed, folder: str) -> tuple[Source, FoundShard]:
    url = feed.write(f"{folder}/2026-11-01", "a")
    source = feed.open(f"{folder}/{{date}}/*" if feed.kind != "folder" else url)
    (shard,) = source.find(DAY, "UTC")
    return source, shard


def test_samples_come_in_order_with_their_members(feed: Feed, folder: str) -> None:
    samples, end = samples_of(*opened(feed, folder))

    assert [sample.key for sample in samples] == [key for key, *_ in ROWS]
    assert {tuple(m.extension for m in s.members) for s in samples} == {feed.extensions}
    assert [s.members[0].data for s in samples] == [image for _, image, _ in ROWS]
    assert [s.members[1].data.decode() for s in samples] == [caption for *_, caption in ROWS]
    assert all(s.fault is None and s.occurrence == 0 for s in samples)
    assert all(m.size == len(m.data) for s in samples for m in s.members)
    assert end.fault is None
    assert end.ignored == {}


def test_reading_again_and_fetching_give_the_same_bytes(feed: Feed, folder: str) -> None:
    source, shard = opened(feed, folder)
    samples, _ = samples_of(source, shard)

    again, _ = samples_of(source, shard)
    members = [m for s in samples for m in s.members]
    fetched = list(source.fetch(shard, refs_of(members)))

    assert again == samples
    assert fetched == [m.data for m in members]


@pytest.mark.parametrize("chosen", [slice(0, 1), slice(29, 30), slice(5, 25, 4), slice(0, 0)])
def test_some_members_can_be_fetched(feed: Feed, folder: str, chosen: slice) -> None:
    source, shard = opened(feed, folder)
    samples, _ = samples_of(source, shard)
    members = [s.members[n] for s in samples[chosen] for n in (0, 2)]

    fetched = list(source.fetch(shard, refs_of(members)))

    assert fetched == [m.data for m in members]


def test_a_shard_that_changed_is_named(feed: Feed, folder: str) -> None:
    source, shard = opened(feed, folder)
    samples_of(source, shard)
    feed.write(f"{folder}/2026-11-01", "a", [*ROWS[:20], ("zzz", b"\xff\xd8\xffother", "new")])

    with pytest.raises(SourceChanged, match="2026-11-01/a"):
        list(source.read(shard))


def test_members_come_from_a_file_that_was_put_back_with_another_time(
    feed: Feed, folder: str
) -> None:
    """Who fetches holds each member to its digest, whatever the file's time says."""
    source, shard = opened(feed, folder)
    samples, _ = samples_of(source, shard)
    feed.write(f"{folder}/2026-11-01", "a")

    members = [m for s in samples for m in s.members]
    assert list(source.fetch(shard, refs_of(members))) == [m.data for m in members]


def test_a_shard_that_vanished_is_named(feed: Feed, folder: str) -> None:
    source, shard = opened(feed, folder)
    samples, _ = samples_of(source, shard)
    remove(shard.uri)

    with pytest.raises(SourceChanged, match="2026-11-01/a"):
        list(source.read(shard))
    with pytest.raises(SourceChanged, match="2026-11-01/a"):
        list(source.fetch(shard, refs_of(samples[0].members)))


def test_the_version_is_that_of_now(feed: Feed, folder: str) -> None:
    source, shard = opened(feed, folder)
    listed = source.version(shard)
    feed.write(f"{folder}/2026-11-01", "a", ROWS[:20])
    changed = source.version(shard)
    remove(shard.uri)

    assert listed == shard.version
    assert changed not in (None, listed)
    assert source.version(shard) is None


def test_identity_is_relative_to_the_root(feed: Feed, folder: str) -> None:
    for day in ("2026-11-01", "2026-11-02"):
        feed.write(f"{folder}/{day}", "a")
    pattern = f"{folder}/{{date}}/*" if feed.kind != "folder" else f"{folder}/{{date}}/a"

    shards = feed.open(pattern).find(DAY, "UTC")
    elsewhere = feed.open(pattern, root=f"{folder}/").find(DAY, "UTC")

    assert [s.relative_uri for s in shards] == [f"2026-11-01/a{feed.suffix}"]
    assert elsewhere == shards
    assert shards[0].source == "feed"
    with pytest.raises(ConfigError, match="outside root"):
        feed.open(pattern, root=f"{folder}/other")


def test_the_version_holds_until_the_content_changes(feed: Feed, folder: str) -> None:
    source, shard = opened(feed, folder)

    assert source.find(DAY, "UTC") == [shard]

    feed.write(f"{folder}/2026-11-01", "a", ROWS[:-1])
    (other,) = source.find(DAY, "UTC")
    assert other.version != shard.version


def test_members_above_the_limit_have_no_data(feed: Feed, folder: str) -> None:
    url = feed.write(f"{folder}/2026-11-01", "a")
    source = feed.open(url, limits=LimitsOptions(max_member_bytes=5000))
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    images = [s.members[0] for s in samples]
    assert [m.size for m in images] == [len(image) for _, image, _ in ROWS]
    assert [m.data for m in images] == [i if len(i) <= 5000 else b"" for _, i, _ in ROWS]
    assert end.fault is None


def test_readiness_is_a_file_that_exists(feed: Feed, folder: str) -> None:
    source = feed.open(f"{folder}/{{date}}/*", ready=f"{folder}/{{date}}/_SUCCESS")

    assert str(source.ready(DAY, "UTC")).endswith("/2026-11-01/_SUCCESS")

    put(f"{folder}/2026-11-01/_SUCCESS", b"")
    assert source.ready(DAY, "UTC") is None
    assert feed.open(f"{folder}/*").ready(DAY, "UTC") is None


def test_a_readiness_pattern_wants_one_match(feed: Feed, folder: str) -> None:
    source = feed.open(f"{folder}/{{date}}/*", ready=f"{folder}/{{date}}/*.done")

    assert source.ready(DAY, "UTC") is not None

    put(f"{folder}/2026-11-01/all.done", b"")
    assert source.ready(DAY, "UTC") is None


def test_hidden_and_unfinished_names_are_no_shards(feed: Feed, folder: str) -> None:
    if feed.kind == "folder":
        url = feed.write(folder, "a")
        put(f"{url}/.hidden.jpg", b"x")
        put(f"{url}/_temporary/0/a.jpg", b"x")
        put(f"{url}/b.jpg.part", b"x")
        (shard,) = feed.open(url).find(DAY, "UTC")
        samples, _ = samples_of(feed.open(url), shard)
        assert len(samples) == len(ROWS)
        return
    for name in ("b", ".a", "_a", "_temporary/0/c", ".staging/c"):
        feed.write(folder, name)
    for ending in (".tmp", ".part", ".crdownload"):
        put(f"{folder}/x{feed.suffix}{ending}", b"x")

    shards = feed.open(f"{folder}/**").find(DAY, "UTC")

    assert [s.relative_uri for s in shards] == [f"b{feed.suffix}"]


def test_brackets_in_a_name_are_written_as_a_set_of_one(feed: Feed, folder: str) -> None:
    feed.write(f"{folder}/in[1]/2026-11-01", "a[2]")
    source = feed.open(f"{folder}/in[[]1]/{{date}}/a[[]2]{feed.suffix}")

    (shard,) = source.find(DAY, "UTC")

    assert shard.relative_uri == f"in[1]/2026-11-01/a[2]{feed.suffix}"
    samples, _ = samples_of(source, shard)
    assert len(samples) == len(ROWS)
    assert feed.open(f"{folder}/in[1]/{{date}}/*").find(DAY, "UTC") == []


def test_nothing_there_is_no_shard(feed: Feed, folder: str) -> None:
    put(f"{folder}/other/x", b"x")

    assert feed.open(f"{folder}/{{date}}/nothing").find(DAY, "UTC") == []
    assert feed.open(f"{folder}/{{date}}/*.none").find(DAY, "UTC") == []


@pytest.mark.parametrize("folder", ["memory"], indirect=True)  # a disk has no driver
def test_storage_that_does_not_answer_is_tried_again(
    feed: Feed, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, shard = opened(feed, folder)
    pattern = feed.open(f"{folder}/*/a*", ready=f"{folder}/x")

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("the line is dead")

    for name in ("info", "find", "glob", "_open", "open", "cat_file"):
        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), name, fails)

    for ask in (
        lambda: source.find(DAY, "UTC"),
        lambda: pattern.find(DAY, "UTC"),
        lambda: pattern.ready(DAY, "UTC"),
        lambda: list(source.read(shard)),
    ):
        with pytest.raises(StoreUnavailable, match="the line is dead"):
            ask()


@pytest.mark.parametrize("feed", OF_FILES, indirect=True)
@pytest.mark.parametrize("size", [0, 1, 100, 3000])
def test_a_cut_file_is_a_fault_of_the_shard(feed: Feed, folder: str, size: int) -> None:
    assert feed.data is not None
    whole = feed.data(ROWS)
    url = f"{folder}/a{feed.suffix}"
    put(url, whole[: min(size, len(whole) * 3 // 4)])
    source = feed.open(url)
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert end.fault is not None
    assert end.fault[0] in (
        [Fault.EMPTY_FILE] if not size else [Fault.UNREADABLE_SHARD, Fault.TRUNCATED_SHARD]
    )
    assert len(samples) < len(ROWS)


def test_a_file_without_samples_is_said_so(feed: Feed, folder: str) -> None:
    if feed.data is None:
        put(f"{folder}/a/notes.md", b"x")
        source = feed.open(f"{folder}/a")
    else:
        source = feed.open(feed.write(folder, "a", []))
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert samples == []
    assert end.fault is not None
    # a folder without its captions file is not read at all
    expected = Fault.EMPTY_SHARD
    if "captions_file" in feed.options:
        expected = Fault.UNREADABLE_SHARD
    assert end.fault[0] == expected


def test_a_source_that_moves_keeps_its_identities(feed: Feed, tmp_path: Path) -> None:
    feed.write(str(tmp_path / "one/2026-11-01"), "a")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    found = [
        feed.open(f"{tmp_path}/{where}/{{date}}/a{feed.suffix}").find(DAY, "UTC")[0].relative_uri
        for where in ("one", "two")
    ]

    assert found[0] == found[1]


def test_names_that_differ_in_the_case_of_their_extension_are_one_key(tmp_path: Path) -> None:
    feed = FEEDS["folder"]
    url = feed.write(str(tmp_path), "a", ROWS[:1])
    for ending in ("JPG", "png", "TXT"):
        put(f"{url}/001.{ending}", b"other")
    source = feed.open(url)
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert [(s.members[0].name, s.occurrence) for s in samples] == [
        ("001.JPG", 0), ("001.jpg", 1), ("001.png", 2),
    ]  # fmt: skip
    assert [s.fault and s.fault[0] for s in samples] == [None, *[Fault.DUPLICATE_KEY] * 2]
    assert [s.members[1].name for s in samples] == ["001.txt"] * 3
    assert end.ignored == {"caption_file_again": 1}


@pytest.mark.parametrize(
    ("captions", "name"),
    [
        ("deep/metadata.csv", "deep/001.jpg"),
        ("deep/metadata.csv", "001.jpg"),
        ("{above}/metadata.csv", "a/deep/001.jpg"),
        ("{above}/metadata.csv", "deep/001.jpg"),
    ],
)
def test_names_may_be_relative_to_the_captions_file(folder: str, captions: str, name: str) -> None:
    captions = captions.format(above=folder)
    url = FEEDS["folder"].write(folder, "a", [])
    put(f"{url}/deep/001.jpg", ROWS[0][1])
    where = captions if captions.startswith(folder) else f"{url}/{captions}"
    put(where, f"file_name,text\n{name},words\n".encode())
    source = FEEDS["folder"].open(url, captions_file=captions)
    (shard,) = source.find(DAY, "UTC")

    samples, end = samples_of(source, shard)

    assert end.fault is None
    assert [s.members[1].data for s in samples] == [b"words"]
