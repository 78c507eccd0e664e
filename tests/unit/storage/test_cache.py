"""Local copies: named by content, checked, trimmed."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from sscd_ops.errors import StoreRefused, StoreUnavailable
from sscd_ops.model import StoredFile
from sscd_ops.storage.cache import FileCache


def copy(cache: FileCache, data: bytes) -> Path:
    file = StoredFile("x", hashlib.sha256(data).hexdigest(), len(data))

    def download(path: Path) -> None:
        path.write_bytes(data)

    return cache.get(file, download)


def test_the_copies_used_longest_ago_go_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 250)
    first, second = copy(cache, b"a" * 100), copy(cache, b"b" * 100)
    os.utime(first, (1, 1))

    third = copy(cache, b"c" * 100)

    assert [path.exists() for path in (first, second, third)] == [False, True, True]


def test_a_copy_that_was_just_asked_for_is_there_to_be_opened(tmp_path: Path) -> None:
    """By another task of this host, while this one fills the cache."""
    cache = FileCache(tmp_path, 250)
    asked, new = copy(cache, b"a" * 200), copy(cache, b"b" * 200)
    assert asked.exists()
    os.utime(asked, (time.time() - 120, time.time() - 120))

    newest = copy(cache, b"c" * 200)

    assert [path.exists() for path in (asked, new, newest)] == [False, True, True]


def test_what_a_killed_download_left_goes_and_a_live_one_stays(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    dead, live = tmp_path / ".tmp-1", tmp_path / ".tmp-2"
    for path in (dead, live):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 2 * 86_400
    os.utime(dead, (two_days_ago, two_days_ago))

    copy(cache, b"a")

    assert (dead.exists(), live.exists()) == (False, True)


def test_copies_of_what_was_removed_go_with_downloads_given_up(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    gone, stays = copy(cache, b"a"), copy(cache, b"b")
    dead, live = tmp_path / ".tmp-1", tmp_path / ".tmp-2"
    for path in (dead, live):
        path.write_bytes(b"half")
    os.utime(dead, (time.time() - 4000, time.time() - 4000))

    assert cache.drop({gone.name, "0" * 64}) == 2

    assert [path.exists() for path in (gone, stays, dead, live)] == [False, True, False, True]
    assert cache.drop({gone.name}) == 0


def test_a_full_disk_takes_the_room_of_copies_that_nobody_uses(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10**6)
    old, fresh = copy(cache, b"a" * 100), copy(cache, b"b" * 100)
    os.utime(old, (1, 1))
    wanted = b"c" * 100

    def download(path: Path) -> None:
        if old.exists():
            path.write_bytes(wanted[:10])
            raise StoreUnavailable("no space") from OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(wanted)

    file = StoredFile("x", hashlib.sha256(wanted).hexdigest(), len(wanted))
    assert cache.get(file, download).read_bytes() == wanted

    assert (old.exists(), fresh.exists()) == (False, True)
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_disk_that_stays_full_is_named_with_its_settings(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10**6)

    def download(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreUnavailable, match=r"no room for x .*storage\.cache_bytes"):
        cache.get(StoredFile("x", "00" * 32, 5), download)

    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_cache_is_told(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache", 1000)
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()

    for use in (lambda: copy(cache, b"a"), lambda: FileCache(tmp_path / "cache", 1000)):
        with pytest.raises(StoreRefused, match=r"storage\.cache .*/cache.*move it away"):
            use()


def test_a_cache_that_can_only_be_read_is_used_and_refused_where_a_copy_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor may a user set the times of another one's copies, or remove them from a sticky folder."""
    cache = FileCache(tmp_path, 1)
    first = copy(cache, b"a")
    os.utime(first, (1, 1))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert copy(cache, b"a") == first
    monkeypatch.setattr(Path, "unlink", refuse)
    assert copy(cache, b"b").read_bytes() == b"b"
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(StoreRefused, match=r"storage\.cache .*mount it for writing"):
        copy(cache, b"c")


def test_a_copy_that_goes_while_it_is_asked_for_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process trims the folder."""
    cache = FileCache(tmp_path, 10**6)
    copy(cache, b"rows")
    real = os.utime

    def trimmed(path: Path, *given: object, **more: object) -> None:
        Path(path).unlink()
        real(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "utime", trimmed)

    assert copy(cache, b"rows").read_bytes() == b"rows"
