"""Is a file what the catalog says? And if not: the words for it, and what mends it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from pathlib import Path

from sscd_ops.drivers import told
from sscd_ops.errors import IS_MISSING, FileMismatch
from sscd_ops.model import StoredFile

NO_FILE = "is a folder or a device, not a file (move it away first)"
_RESTORE = "restore it from a backup"
_OF_OTHERS = (
    f"{_RESTORE} (`sscd-ops index rebuild` and `sscd-ops snapshot verify --repair` write anew what"
    " follows from other files)"
)
_INDEX = "`sscd-ops index rebuild --dataset {dataset}` writes it anew"
_SNAPSHOT = "`sscd-ops snapshot verify --dataset {dataset} --repair` writes it anew"
_REMEDIES = {
    "index": _INDEX,
    "manifests": f"{_INDEX}, from its source shard",
    "worklists": f"{_INDEX}, from the manifests",
    "descriptors": f"{_INDEX}; of a batch that is not decided yet clear embed and what follows, or"
    " run its night again",
    "matches": "`sscd-ops index rebuild --dataset {dataset}` forgets it, and a night that needs it"
    " searches again",
    "snapshots": f"{_SNAPSHOT}, from the catalog",
    "shards": f"{_SNAPSHOT}, from its source shards, or {_RESTORE}",
    "removed": f"{_SNAPSHOT}, from its source shards, or {_RESTORE}",
}
"""By the folder below the dataset's: what follows from what."""
_TICK = 0.1
"""Seconds in which two writes may get one time of change: a file so young is read again."""
_BAD_MEDIUM = frozenset({errno.EIO, errno.ELOOP, errno.EISDIR})


def mismatch(name: str, where: str, found: str) -> FileMismatch:
    """A file of the root that is not what the catalog says, with the way out.

    Args:
        name: of the file, relative to the root.
        where: its full path or URL.
        found: what it is instead: ``is missing``.
    """
    dataset, _, rest = name.partition("/")
    remedy = _REMEDIES.get(rest.partition("/")[0], _OF_OTHERS).format(dataset=dataset)
    return FileMismatch(f"{where} {found}; {remedy}")


class Checked:
    """Compares files with their sha256: each once, and again when it was written since.

    What a disk does to a file behind the back of its inode, size and times is found by the next
    command, which is another process.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], str] = {}

    def fault(self, path: Path, file: StoredFile, *, anew: bool = False) -> str | None:
        """What is wrong with a local file; None where its bytes are those of the catalog.

        Args:
            path: where the file's bytes should be.
            file: what the catalog says.
            anew: read it even where that was done before.

        Raises:
            StoreUnavailable: it cannot be read now, for a reason that is not its content.
            StoreRefused: it may not be read.
        """
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                return NO_FILE
            if found.st_size != file.bytes:
                return f"has {found.st_size} bytes, the catalog says {file.bytes}"
            if anew or self._seen.get(_state(found)) != file.sha256:
                sha256 = sha256_of(path)
                if sha256 != file.sha256:
                    return f"has sha256 {sha256}, the catalog says {file.sha256}"
                if time.time() - found.st_ctime > _TICK:
                    self._seen[_state(found)] = sha256
        except (FileNotFoundError, NotADirectoryError):
            return IS_MISSING
        except OSError as error:
            if error.errno in _BAD_MEDIUM:
                return f"cannot be read ({error.strerror})"
            raise told(str(path), error) from error
        return None

    def use(self, path: Path, file: StoredFile) -> None:
        """Note in a compared file's time of access that it is used now; it stays compared.

        Raises:
            FileNotFoundError: it is gone.
        """
        before = path.stat()
        try:
            os.utime(path, ns=(time.time_ns(), before.st_mtime_ns))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
                raise
            return  # another user's copy, or a disk that is only read: it is trimmed sooner
        if self._seen.pop(_state(before), None) == file.sha256:
            self._seen[_state(path.stat())] = file.sha256


def _state(found: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written; its ``ctime`` even where somebody sets the other."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
