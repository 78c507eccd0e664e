"""Local copies: named by content, checked, trimmed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

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
