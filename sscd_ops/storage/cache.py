"""Local copies of remote files, named by sha256, checked when they arrive, trimmed to a size."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sscd_ops.errors import FileMismatch
from sscd_ops.model import StoredFile

_FRESH = 60.0
"""Seconds in which a copy that was asked for is opened: it is not trimmed before."""
_ABANDONED = 86_400.0
"""Seconds without a write after which a download counts as given up."""


def mismatch(where: str, found: str) -> FileMismatch:
    """A file of the root that is not what the catalog says, with the way out."""
    return FileMismatch(
        f"{where} {found}; for a snapshot restore the file, for the index `sscd-ops index rebuild`"
    )


class FileCache:
    """A folder of copies that several processes share without a lock: names say the content.

    Args:
        folder: where.
        max_bytes: trimmed to this size when a copy comes, least recently used first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, file: StoredFile, download: Callable[[Path], None]) -> Path:
        """The copy of a file, fetched by ``download`` where it is not there.

        Raises:
            FileMismatch: what came has another sha256 than the catalog says.
        """
        path = self.folder / file.sha256
        # a copy that a full disk or a crash cut short is fetched again
        if path.exists() and path.stat().st_size == file.bytes:
            os.utime(path)
            return path
        temporary = self.folder / f".tmp-{uuid.uuid4().hex}"
        try:
            download(temporary)
            with temporary.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != file.sha256:
                raise mismatch(file.name, f"has sha256 {found}, the catalog says {file.sha256}")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._trim(keep=path)
        return path

    def _trim(self, keep: Path) -> None:
        copies = []
        for path in self.folder.iterdir():
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if path.name.startswith("."):
                # a download under way, unless whoever began it died
                if path.name.startswith(".tmp-") and time.time() - found.st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)
                continue
            copies.append((found.st_mtime, found.st_size, path))
        total = sum(size for _, size, _ in copies)
        for used, size, path in sorted(copies):
            if total <= self._max_bytes:
                return
            if path != keep and time.time() - used > _FRESH:
                # a process that mapped it keeps its bytes
                path.unlink(missing_ok=True)
                total -= size
