"""Immutable files below one root, local or remote."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from sscd_ops.drivers import asking, told
from sscd_ops.errors import IS_MISSING, ConfigError, FileMismatch, StoreUnavailable
from sscd_ops.model import ListedFile, StoredFile
from sscd_ops.options import StorageOptions
from sscd_ops.ports import Store
from sscd_ops.storage.cache import FileCache
from sscd_ops.storage.checked import NO_FILE, Checked, mismatch, sha256_of
from sscd_ops.storage.hashing import HashingStream

_TEMPORARY = ".tmp-"
_PIECE = 1 << 20


def open_store(options: StorageOptions) -> Store:
    """The store of a root.

    Raises:
        ConfigError: a remote root without ``storage.cache``.
    """
    root = options.root
    if "://" not in root:
        return LocalStore(Path(root))
    if not options.cache:
        raise ConfigError(
            f"storage.root is remote ({root}): set storage.cache to a local folder for copies"
        )
    return RemoteStore(root, FileCache(Path(options.cache), options.cache_bytes))


def checked_name(name: str) -> str:
    """A file name relative to the root.

    Raises:
        ValueError: it is absolute, empty or leads out of the root.
    """
    parts = name.split("/")
    if not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a name below the storage root: {name!r}")
    return name


class LocalStore:
    """Files below a folder: written under a hidden name, fsynced, renamed.

    Args:
        root: the folder; made where missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.root = str(self._root)
        self._checked = Checked()

    def _path(self, name: str) -> Path:
        return self._root / checked_name(name)

    def put(self, folder: str, suffix: str, write: Callable[[BinaryIO], None]) -> StoredFile:
        """Write a file named by its content."""
        directory = self._path(folder)
        with _temporary(directory) as (temporary, stream):
            sha256, size = _fill(stream, write)
            name = f"{folder}/{sha256}{suffix}"
            _move(temporary, directory / f"{sha256}{suffix}", name)
        return StoredFile(name, sha256, size)

    def put_named(
        self, name: str, write: Callable[[BinaryIO], None], *, over: bool = False
    ) -> StoredFile:
        """Write a file under a final name that carries the digest of what decides its bytes."""
        path = self._path(name)
        with _temporary(path.parent) as (temporary, stream):
            sha256, size = _fill(stream, write)
            if not over and path.is_file() and sha256_of(path) != sha256:
                raise mismatch(name, str(path), "exists with other bytes")
            _move(temporary, path, name)
        return StoredFile(name, sha256, size)

    def restore(self, file: StoredFile, write: Callable[[BinaryIO], None]) -> bool:
        """Write a lost or damaged file anew, if what is written are its bytes."""
        path = self._path(file.name)
        with _temporary(path.parent) as (temporary, stream):
            sha256, _ = _fill(stream, write)
            if sha256 == file.sha256:
                _move(temporary, path, file.name)
        return sha256 == file.sha256

    def replace(self, name: str, data: bytes) -> None:
        """Write a small mutable file, atomically."""
        path = self._path(name)
        with _temporary(path.parent) as (temporary, stream):
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            _move(temporary, path, name)

    def read_small(self, name: str) -> bytes | None:
        """The whole content of a small file; None where there is none."""
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def local(self, file: StoredFile) -> Path:
        """The file's path; its sha256 is compared once, and again when it was written since."""
        return self._compared(file)

    def pieces(self, file: StoredFile) -> Iterator[bytes]:
        """The file's bytes in pieces, its sha256 compared behind the last."""
        path = self._path(file.name)
        try:
            with path.open("rb", buffering=0) as stream:
                yield from _compared(iter(lambda: stream.read(_PIECE), b""), file, str(path))
        except OSError as error:
            self._compared(file, anew=True)  # says what is wrong with it
            raise told(str(path), error) from error

    def verify(self, file: StoredFile) -> None:
        """Compare the whole file's sha256."""
        self._compared(file, anew=True)

    def _compared(self, file: StoredFile, *, anew: bool = False) -> Path:
        path = self._path(file.name)
        found = self._checked.fault(path, file, anew=anew)
        if found is not None:
            raise mismatch(file.name, str(path), found)
        return path

    def drop_damaged_copy(self, file: StoredFile) -> bool:
        """There are no copies."""
        return False

    def drop_copies(self, digests: Collection[str]) -> int:
        """There are no copies."""
        return 0

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return self._path(name).is_file()

    def list(self, folder: str) -> Iterator[ListedFile]:
        """All files below a folder."""
        path = self._path(folder)
        at = ""
        try:
            for part in folder.split("/"):
                at = f"{at}/{part}".removeprefix("/")
                if self._path(at).is_symlink():
                    yield ListedFile(at, 0, None, is_regular=False)
                    return
            if path.is_dir():
                yield from _walk(path, folder)
        except OSError as error:
            raise told(str(path), error) from error

    def delete(self, name: str) -> None:
        """Remove a file."""
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return  # as where its folder is gone
        except OSError as error:
            raise told(str(path), error) from error

    def url(self, name: str) -> str:
        """The file's path."""
        return str(self._path(name))


def _walk(path: Path, folder: str) -> Iterator[ListedFile]:
    """The files below a folder, which has a name relative to the root; links are not followed."""
    with os.scandir(path) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(path / entry.name, name)
                    continue
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # it went meanwhile
                continue
            is_regular = entry.is_file(follow_symlinks=False)
            yield ListedFile(name, found.st_size, found.st_mtime, is_regular)


@contextlib.contextmanager
def _temporary(directory: Path) -> Any:
    """A hidden file in ``directory``, removed unless it was moved away."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            with path.open("xb", buffering=0) as stream:
                yield path, stream
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise told(str(directory), error) from error


def _fill(stream: Any, write: Callable[[BinaryIO], None]) -> tuple[str, int]:
    with HashingStream(stream) as hashing:
        write(cast("BinaryIO", hashing))
    os.fsync(stream.fileno())
    return hashing.sha256, hashing.bytes


def _compared(pieces: Iterator[bytes], file: StoredFile, where: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    found = digest.hexdigest()
    if found != file.sha256:
        raise _other_bytes(file, where, found)


def _other_bytes(file: StoredFile, where: str, sha256: str) -> FileMismatch:
    return mismatch(file.name, where, f"has sha256 {sha256}, the catalog says {file.sha256}")


def _move(temporary: Path, path: Path, name: str) -> None:
    if path.is_dir():  # of somebody else's: what it holds is not ours to remove
        raise mismatch(name, str(path), NO_FILE)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class RemoteStore:
    """Files below an fsspec URL, read through a local cache.

    A file is written to a local temporary file first, hashed, and then put under its final name
    with one conditional write where the filesystem offers one.

    Args:
        root: the URL.
        cache: where copies are kept.
    """

    def __init__(self, root: str, cache: FileCache) -> None:
        self.root = root.rstrip("/")
        self._fs, path = fsspec.core.url_to_fs(self.root)
        self._base = str(path).rstrip("/")
        self._cache = cache

    def _path(self, name: str) -> str:
        return f"{self._base}/{checked_name(name)}"

    def put(self, folder: str, suffix: str, write: Callable[[BinaryIO], None]) -> StoredFile:
        """Write a file named by its content."""
        checked_name(folder)
        with self._scratch() as (temporary, stream):
            sha256, size = _fill(stream, write)
            file = StoredFile(f"{folder}/{sha256}{suffix}", sha256, size)
            # over what may be there: only a damaged file of such a name has other bytes
            self._upload(temporary, file, over=True)
        return file

    def put_named(
        self, name: str, write: Callable[[BinaryIO], None], *, over: bool = False
    ) -> StoredFile:
        """Write a file under a given final name."""
        checked_name(name)
        with self._scratch() as (temporary, stream):
            sha256, size = _fill(stream, write)
            file = StoredFile(name, sha256, size)
            self._upload(temporary, file, over=over)
        return file

    def restore(self, file: StoredFile, write: Callable[[BinaryIO], None]) -> bool:
        """Write a lost or damaged file anew, if what is written are its bytes."""
        with self._scratch() as (temporary, stream):
            sha256, _ = _fill(stream, write)
            if sha256 == file.sha256:
                self._upload(temporary, file, over=True)
        return sha256 == file.sha256

    def _upload(self, temporary: Path, file: StoredFile, *, over: bool = False) -> None:
        path = self._path(file.name)
        try:
            with self._asking(file.name), self._no_folder(file.name):
                if over:
                    self._fs.put_file(str(temporary), path)
                    return
                if self._fs.exists(path):
                    self._refuse_other(file)
                    return
                try:
                    self._fs.put_file(str(temporary), path, mode="create")
                except FileExistsError:
                    self._refuse_other(file)
                except (NotImplementedError, TypeError):
                    self._fs.put_file(str(temporary), path)
        except FileNotFoundError as error:  # no such bucket
            raise told(self.url(file.name), error) from error

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Any]:
        """A temporary file beside the copies; where they fill the disk, the next try has room."""
        try:
            with _temporary(self._cache.folder) as opened:
                yield opened
        except StoreUnavailable as error:
            self._cache.make_room(error)
            raise

    @contextlib.contextmanager
    def _no_folder(self, name: str) -> Iterator[None]:
        """Around what opens a file: a folder of its name is no fault of storage."""
        try:
            yield
        except IsADirectoryError:
            raise mismatch(name, self.url(name), NO_FILE) from None

    def _refuse_other(self, file: StoredFile) -> None:
        if self._sha256(file.name) != file.sha256:
            raise mismatch(file.name, self.url(file.name), "exists with other bytes")

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        for piece in self._read(name):
            digest.update(piece)
        return digest.hexdigest()

    def _read(self, name: str) -> Iterator[bytes]:
        with self._asking(name), self._no_folder(name):
            try:
                with self._fs.open(self._path(name), "rb") as stream:
                    while piece := stream.read(_PIECE):
                        yield piece
            except FileNotFoundError:
                raise mismatch(name, self.url(name), IS_MISSING) from None

    def pieces(self, file: StoredFile) -> Iterator[bytes]:
        """The file's bytes in pieces, its sha256 compared behind the last; not its copy's."""
        yield from _compared(self._read(file.name), file, self.url(file.name))

    def _asking(self, name: str) -> AbstractContextManager[None]:
        return asking(self.url(name))

    def replace(self, name: str, data: bytes) -> None:
        """Write a small mutable file: one put, which object stores make atomic."""
        with self._asking(name):
            self._fs.pipe_file(self._path(name), data)

    def read_small(self, name: str) -> bytes | None:
        """The whole content of a small file; None where there is none."""
        with self._asking(name):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except (FileNotFoundError, IsADirectoryError):
                return None

    def local(self, file: StoredFile) -> Path:
        """A checked copy in the cache."""
        return self._cache.get(file, lambda path: self._download(file, path))

    def _download(self, file: StoredFile, path: Path) -> None:
        with self._asking(file.name):
            try:
                self._fs.get_file(self._path(file.name), str(path))
            except FileNotFoundError:
                raise mismatch(file.name, self.url(file.name), IS_MISSING) from None

    def verify(self, file: StoredFile) -> None:
        """Read the whole file and compare its sha256; not its copy."""
        found = self._sha256(file.name)
        if found != file.sha256:
            raise _other_bytes(file, self.url(file.name), found)

    def drop_damaged_copy(self, file: StoredFile) -> bool:
        """Remove the copy in the cache if it is damaged; whether it was."""
        return self._cache.drop_damaged(file)

    def drop_copies(self, digests: Collection[str]) -> int:
        """Remove copies in the cache, and downloads that were given up."""
        return self._cache.drop(digests)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        with self._asking(name):
            self._fs.invalidate_cache()  # drivers remember what a folder held
            return bool(self._fs.isfile(self._path(name)))

    def list(self, folder: str) -> Iterator[ListedFile]:
        """All files below a folder."""
        with self._asking(folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return
        for path, info in found.items():
            inside = str(path).removeprefix(f"{self._base}/")
            if inside.startswith(f"{folder}/") and not inside.endswith("/"):
                is_regular = info.get("type") == "file" and not info.get("islink", False)
                yield ListedFile(inside, int(info.get("size") or 0), _modified(info), is_regular)

    def delete(self, name: str) -> None:
        """Remove a file."""
        with self._asking(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def url(self, name: str) -> str:
        """The file's full URL."""
        return f"{self.root}/{checked_name(name)}"


_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""What drivers call a file's time in a listing, that of its content first."""


def _modified(info: dict[str, Any]) -> float | None:
    """When a file was last written, in seconds since 1970; None where its driver does not say."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None
