"""Storage behind URLs: missing drivers, and what a listing leaves out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from sscd_ops.errors import ConfigError, StoreUnavailable
from sscd_ops.sources.files import below, canonical, filesystem, folders, listing


@pytest.mark.parametrize("look", [canonical, filesystem])
@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("s3://bucket/a.tar", "no driver: pip install s3fs"),
        ("gs://bucket/a.tar", "no driver: pip install gcsfs"),
        ("abfss://box@account/a.tar", "no driver: pip install adlfs"),
        ("https://127.0.0.1/a.tar", "no driver: pip install aiohttp requests"),
        ("other://place/a.tar", "no driver. Storage behind URLs needs its fsspec driver: s3fs"),
    ],
)
def test_a_missing_driver_is_named(
    look: Callable[[str], object], url: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("no driver")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)

    with pytest.raises(ConfigError) as raised:
        look(url)

    assert str(raised.value).startswith(f"url '{url}': {remedy}")


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "x.tar").write_bytes(b"x")
    scandir = os.scandir

    def failing(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("b"):
            raise OSError(errno.EIO, "the disk is ill")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)

    for list_it in (
        lambda: below(str(tmp_path)),
        lambda: listing(f"{tmp_path}/**", is_pattern=True),
        lambda: listing(f"{deep}/*", is_pattern=True),
        lambda: folders(f"{tmp_path}/a/b/*"),
    ):
        with pytest.raises(StoreUnavailable, match="the disk is ill"):
            list_it()
    assert listing(f"{tmp_path}/gone/*", is_pattern=True) == []


def test_files_that_a_pattern_leaves_out_are_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.tar", ".a.tar", "_b.tar", "c.tar.part", os.fsdecode(b"\xff.tar")):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "broken.tar").symlink_to("gone")
    (tmp_path / "linked.tar").symlink_to("a.tar")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")

    found = listing(f"{tmp_path}/*", is_pattern=True)

    assert [file.url for file in found] == [f"{tmp_path}/a.tar", f"{tmp_path}/linked.tar"]
    kinds = {
        "hidden_file": 2, "unfinished_file": 1, "name_not_utf8": 1, "broken_link": 1,
        "link_to_folder": 1,
    }  # fmt: skip
    (record,) = [r for r in caplog.records if "files left out" in r.message]
    assert record.levelname == "WARNING"
    assert record.args == (f"{tmp_path}/*", kinds)
    assert f"a link to a folder path={tmp_path}/link" in caplog.text


def test_a_file_that_is_named_and_not_read_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.tar.part").write_bytes(b"x")

    assert listing(f"{tmp_path}/a.tar.part", is_pattern=False) == []
    assert listing(f"{tmp_path}/b.tar.part", is_pattern=False) == []
    assert [r.args for r in caplog.records] == [(f"{tmp_path}/a.tar.part", {"unfinished_file": 1})]


def test_a_link_to_a_folder_matches_a_pattern_of_folders(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").write_bytes(b"x")

    assert folders(f"{tmp_path}/*") == [f"{tmp_path}/link", f"{tmp_path}/real"]
