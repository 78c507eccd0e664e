"""Local copies of remote files, named by sha256, checked before use, trimmed to a size."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from sscd_ops.drivers import asking, is_full
from sscd_ops.errors import StoreRefused, StoreUnavailable
from sscd_ops.model import StoredFile
from sscd_ops.storage.checked import Checked, mismatch

log = logging.getLogger(__name__)

_FRESH = 60.0
"""Seconds in which a copy that was asked for is opened: it is not trimmed before."""
_ABANDONED = 86_400.0
"""Seconds without a write after which a download counts as given up;"""
_GIVEN_UP = 3600.0
"""where what it may hold must not stay, after so many."""


class FileCache:
    """A folder of copies that several processes share without a lock: names say the content.

    Args:
        folder: where.
        max_bytes: trimmed to this size when a copy comes, least recently used first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._checked = Checked()
        self._make_folder()

    def _make_folder(self) -> None:
        with asking(f"storage.cache {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, file: StoredFile, download: Callable[[Path], None]) -> Path:
        """The copy of a file, fetched by ``download`` where it is not there or damaged.

        Raises:
            FileMismatch: what came has another sha256 than the catalog says.
            StoreUnavailable: it could not be fetched, or the cache's disk is full.
            StoreRefused: the cache cannot be written.
        """
        path = self.folder / file.sha256
        found = self._checked.fault(path, file)
        if found is None:
            with contextlib.suppress(FileNotFoundError):  # trimmed just now
                self._checked.use(path, file)
                return path
        elif os.path.lexists(path):
            log.warning("fetching a damaged copy again: %s is %s, which %s", path, file.name, found)
            if path.is_dir():  # anything else is replaced, under the eyes of other processes
                _remove(path)
        try:
            self._fetch(file, path, download)
        except (StoreUnavailable, OSError) as error:
            if not self.make_room(error):
                raise
            self._fetch_or_say_full(file, path, download)
        self._trim(self._max_bytes, keep=path)
        return path

    def make_room(self, error: BaseException) -> bool:
        """Drop the copies that nobody uses if an error is of a full disk; whether it was."""
        full = _is_of_full_disk(error)
        if full:
            self._trim(0)
        return full

    def drop_damaged(self, file: StoredFile) -> bool:
        """Remove the copy of a file if it is damaged; whether it was."""
        path = self.folder / file.sha256
        damaged = self._checked.fault(path, file, anew=True) is not None and os.path.lexists(path)
        if damaged:
            _remove(path)
        return damaged

    def drop(self, digests: Collection[str]) -> int:
        """Remove the copies with these sha256, and downloads given up an hour ago; how many."""
        gone = 0
        for path in self._listed():
            with contextlib.suppress(FileNotFoundError):
                is_old = time.time() - path.stat().st_mtime > _GIVEN_UP
                if path.name in digests or (path.name.startswith(".tmp-") and is_old):
                    _remove(path)
                    gone += 1
        return gone

    def _fetch(self, file: StoredFile, path: Path, download: Callable[[Path], None]) -> None:
        self._make_folder()  # somebody may have emptied the disk
        temporary = self.folder / f".tmp-{uuid.uuid4().hex}"
        try:
            with asking(f"storage.cache {self.folder}"):  # what storage itself says comes as ours
                download(temporary)
                found = self._checked.fault(temporary, file)
                if found is not None:
                    raise mismatch(file.name, file.name, found)
                temporary.replace(path)
        finally:
            if os.path.lexists(temporary):
                _remove(temporary)

    def _fetch_or_say_full(
        self, file: StoredFile, path: Path, download: Callable[[Path], None]
    ) -> None:
        try:
            self._fetch(file, path, download)
        except (StoreUnavailable, OSError) as error:
            if not _is_of_full_disk(error):
                raise
            raise StoreUnavailable(
                f"no room for {file.name} ({file.bytes} bytes) in the cache {self.folder}: free"
                " space there, or give storage.cache another folder and storage.cache_bytes what"
                " its disk holds"
            ) from error

    def _trim(self, max_bytes: int, *, keep: Path | None = None) -> None:
        copies = []
        for path in self._listed():
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if path.name.startswith("."):
                # a download under way, unless whoever began it died
                if path.name.startswith(".tmp-") and time.time() - found.st_mtime > _ABANDONED:
                    with contextlib.suppress(StoreRefused):
                        _remove(path)
                continue
            copies.append((found.st_atime, found.st_size, path))
        total = sum(size for _, size, _ in copies)
        for used, size, path in sorted(copies):
            if total <= max_bytes:
                return
            if path != keep and time.time() - used > _FRESH:
                # a process that mapped it keeps its bytes
                try:
                    _remove(path)
                except StoreRefused as error:
                    log.warning("could not trim the cache: %s", error)
                    continue
                total -= size

    def _listed(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except FileNotFoundError:
            return []


def _is_of_full_disk(error: BaseException) -> bool:
    return is_full(error) or is_full(error.__cause__)


def _remove(path: Path) -> None:
    """Remove what is at a path of the cache, even a folder that some driver or person made."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with asking(f"storage.cache {path.parent}"):
        path.unlink(missing_ok=True)
