"""Source files through fsspec: listing, versions, opening. Whatever a driver raises is sorted here.

Local files are looked at with ``os.stat``: fsspec's own answers for a symbolic link differ between
a listing and a look at the file.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from sscd_ops.drivers import asking
from sscd_ops.errors import PUT_BACK, ConfigError, SourceChanged
from sscd_ops.model import FoundShard

log = logging.getLogger(__name__)

_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp requests",
    "https": "aiohttp requests",
}
"""Scheme of a URL -> packages that reach its storage."""
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".download", ".filepart")
_BLOCK = 4 << 20
"""Bytes asked of remote storage at once."""
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "checksum")
_STAMPS = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as a listing shows it."""

    url: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class Below:
    """What lies below a folder. ``left_out``: how many files are not read, by kind."""

    files: list[Listed]
    left_out: Counter[str] = field(default_factory=Counter)


class _Local(LocalFileSystem):  # type: ignore[misc]
    """This machine's files. A folder that cannot be listed is an error, not an empty one."""

    def walk(
        self,
        path: Any,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """As fsspec's own, which leaves out what fails; not what was there and is gone."""
        on_error = on_error or _raise_unless_gone
        for folder, folders, files in super().walk(path, maxdepth, topdown, on_error, **kwargs):
            for info in files.values() if isinstance(files, dict) else ():
                if info.get("islink") and os.path.isdir(info["name"]):  # noqa: PTH112
                    log.warning("not looked into: a link to a folder path=%s", info["name"])
            yield folder, folders, files


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it.

    Raises:
        ConfigError: no filesystem of this kind is installed.
    """
    if url.startswith("/"):
        return _Local(), url
    scheme, _, name = url.partition("://")
    # "::" chains URLs for fsspec, but is nothing special in a name
    is_name = "::" in name and "::" not in scheme and "://" not in name
    try:
        fs, path = fsspec.core.url_to_fs(url.partition("::")[0] if is_name else url)
    except (ImportError, ValueError) as error:
        raise _no_driver(url, error) from error
    return (_Local() if is_local(fs) else fs), str(fs._strip_protocol(url) if is_name else path)


def _no_driver(url: str, error: Exception) -> ConfigError:
    scheme = url.partition("://")[0]
    packages = _DRIVERS.get(scheme)
    remedy = (
        f": pip install {packages}"
        if packages
        else ". Storage behind URLs needs its fsspec driver: s3fs (s3://), gcsfs (gs://), adlfs"
        " (abfs://), aiohttp with requests (https://)"
    )
    return ConfigError(f"url {url!r}: {error}{remedy}")


def is_local(fs: Any) -> bool:
    """Whether a filesystem is this machine's."""
    return isinstance(fs, LocalFileSystem)


def canonical(url: str) -> str:
    """A URL in the form in which listings answer: an absolute path where it is local.

    Raises:
        ConfigError: no filesystem of this kind is installed, or the URL is a chain.
    """
    scheme, found, _ = url.partition("://")
    if "::" in url and not url.startswith("/"):
        raise ConfigError(f"url {url!r}: chained URLs cannot be sources")
    if not found or scheme in ("file", "local"):
        return str(LocalFileSystem._strip_protocol(url))
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise _no_driver(url, error) from error
    return _with_protocol(kind, str(kind._strip_protocol(url)))


def _with_protocol(fs: Any, path: str) -> str:
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return path if "://" in path else f"{protocol}://{path}"


def version_of(info: dict[str, Any]) -> str:
    """What changes when a remote file's content may have: its etag, else size and time."""
    for key in _ETAGS:
        if info.get(key):
            return str(info[key]).strip('"')
    stamp = next((info[key] for key in _STAMPS if info.get(key) is not None), None)
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp()
    if isinstance(stamp, float):
        stamp = f"{stamp:.6f}"
    return f"{info.get('size')}-{stamp}"


def _version_of_local(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def look(fs: Any, path: str) -> Listed | None:
    """A file as it is now; None where there is none, or something else than a file."""
    try:
        if is_local(fs):
            found = os.stat(path)  # noqa: PTH116 - one call a file, of many thousands
            if not stat.S_ISREG(found.st_mode):
                return None
            return Listed(path, found.st_size, _version_of_local(found))
        fs.invalidate_cache()
        info = fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if info.get("type") != "file":
        return None
    return Listed(_with_protocol(fs, path), int(info.get("size") or 0), version_of(info))


def file(url: str) -> Listed | None:
    """The file of a URL as it is now; None where there is none.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(url)
    with asking(url):
        return look(fs, path)


def version(url: str) -> str | None:
    """The version of a file as it is now; None where there is none.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    found = file(url)
    return None if found is None else found.version


def listing(url: str, *, is_pattern: bool) -> list[Listed]:
    """The finished files of a URL or pattern, sorted.

    Left out, and named in the log, are hidden and unfinished names (``.x``, ``_x``, ``x.tmp`` ...),
    of files and of the folders that a pattern's wildcards stand for, and what is no file.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    left_out: Counter[str] = Counter()
    if is_pattern:
        fs, path = filesystem(url)
        literal = len(path[: _first_wildcard(path)].rpartition("/")[0])
        with asking(url):
            if is_local(fs):
                found = list(_looked_at(fs, fs.glob(path), literal, left_out))
            else:
                fs.invalidate_cache()
                found = list(_listed(fs, fs.glob(path, detail=True), literal, left_out))
    else:
        one = file(url)
        kind = _why_left_out(url.rpartition("/")[2])
        found = [one] if one is not None and not kind else []
        if one is not None and kind:
            left_out[kind] += 1
    if left_out:
        # names that are hidden were meant to be
        level = logging.WARNING if left_out.keys() - {"hidden_file"} else logging.INFO
        log.log(level, "files left out url=%s kinds=%s", url, dict(left_out))
    return found


def below(url: str) -> Below:
    """All finished files below a folder, sorted by URL, and how many others there are.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(url)
    left_out: Counter[str] = Counter()
    with asking(url):
        try:
            if is_local(fs):
                found = list(_looked_at(fs, fs.find(path), len(path), left_out))
            else:
                fs.invalidate_cache()
                found = list(_listed(fs, fs.find(path, detail=True), len(path), left_out))
        except FileNotFoundError:
            return Below([])
    return Below(found, left_out)


def folders(url: str) -> list[str]:
    """The folders that match a pattern, sorted.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(url)
    with asking(url):
        fs.invalidate_cache()
        found = fs.glob(path.rstrip("/"), detail=True)
    literal = len(path[: _first_wildcard(path)].rpartition("/")[0])
    return [
        name if is_local(fs) else _with_protocol(fs, name)
        for name, info in sorted(found.items())
        if _is_folder(fs, name, info) and is_finished(name[literal:])
    ]


def _is_folder(fs: Any, name: str, info: dict[str, Any]) -> bool:
    """Whether it is a folder, also by a symbolic link."""
    return info.get("type") == "directory" or (is_local(fs) and os.path.isdir(name))  # noqa: PTH112


def _first_wildcard(path: str) -> int:
    return min((at for at in map(path.find, "*?[") if at >= 0), default=len(path))


def _looked_at(
    fs: Any, paths: Iterable[str], literal: int, left_out: Counter[str]
) -> Iterator[Listed]:
    for path in sorted(paths):
        kind = _why_left_out(path[literal:])
        found = None if kind else look(fs, path)
        if found is not None:
            yield found
        elif os.path.islink(path) or not os.path.isdir(path):  # noqa: PTH112, PTH114
            left_out[kind or _kind_of(path)] += 1


def _kind_of(path: str) -> str:
    """What is there instead of a file."""
    if os.path.isdir(path):  # noqa: PTH112
        return "link_to_folder"
    return "special_file" if os.path.exists(path) else "broken_link"  # noqa: PTH110


def _listed(
    fs: Any, found: dict[str, dict[str, Any]], literal: int, left_out: Counter[str]
) -> Iterator[Listed]:
    for path, info in sorted(found.items()):
        if info.get("type") != "file":
            continue
        kind = _why_left_out(path[literal:])
        if kind:
            left_out[kind] += 1
        elif any(info.get(key) for key in (*_ETAGS, *_STAMPS)):
            yield Listed(_with_protocol(fs, path), int(info.get("size") or 0), version_of(info))
        else:
            # such a listing (http) does not say what the file itself does
            looked = look(fs, path)
            if looked is not None:
                yield looked


def _why_left_out(path: str) -> str:
    """The kind of name that is not read; empty where it is."""
    if not is_finished(path):
        return "unfinished_file" if path.lower().endswith(_UNFINISHED) else "hidden_file"
    try:
        path.encode()
    except UnicodeEncodeError:
        log.warning("left out: the file's name is no UTF-8 path=%r", path)
        return "name_not_utf8"
    return ""


def is_finished(path: str) -> bool:
    """Whether the names along a path say that the file is whole and meant to be read."""
    steps = [step for step in path.split("/") if step]
    hidden = any(step.startswith((".", "_")) for step in steps)
    return not hidden and not path.lower().endswith(_UNFINISHED)


def is_there(url: str, *, is_pattern: bool) -> bool:
    """Whether a file or folder exists, or one that matches a pattern.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(url)
    with asking(url):
        fs.invalidate_cache()
        if is_pattern:
            return bool(fs.glob(path))
        try:
            fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def is_empty(url: str) -> bool:
    """Whether a folder is missing, or nothing at all is in it.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(url)
    with asking(url):
        fs.invalidate_cache()
        try:
            return not [name for name in fs.ls(path, detail=False) if name.rstrip("/") != path]
        except (FileNotFoundError, NotADirectoryError):
            return True


def is_about_content(error: Exception) -> bool:
    """Whether an OSError is Arrow's way to say that a file is damaged, not storage's fault."""
    return type(error) is OSError and error.errno is None


@contextmanager
def opened(shard: FoundShard) -> Iterator[BinaryIO]:
    """A shard's bytes. It is looked at before and after, if it names a version.

    Args:
        shard: the file; in ``any_version`` for members that are held to their digests.

    Raises:
        SourceChanged: the file is gone or another version.
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(shard.uri)

    def check(look_at: Callable[[], str]) -> None:
        if shard.version and (version := look_at()) != shard.version:
            raise SourceChanged(
                f"{shard.uri} changed since it was listed (was {shard.version}, is {version}):"
                f" {PUT_BACK}"
            )

    try:
        with asking(shard.uri):
            if is_local(fs):
                with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - fsspec hands out str
                    check(lambda: _version_of_local(os.fstat(stream.fileno())))
                    yield stream
                    check(lambda: _version_of_local(os.fstat(stream.fileno())))
                return
            check(lambda: _version(fs, path))
            with fs.open(path, "rb", block_size=_BLOCK) as stream:
                yield stream
            check(lambda: _version(fs, path))
    except FileNotFoundError as error:
        raise SourceChanged(f"{shard.uri} is gone: {PUT_BACK}") from error


def _version(fs: Any, path: str) -> str:
    found = look(fs, path)
    if found is None:
        raise FileNotFoundError(path)
    return found.version


def content(url: str) -> bytes:
    """A whole file.

    Raises:
        SourceChanged: it is gone.
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(url)
    try:
        with asking(url):
            if is_local(fs):
                with open(path, "rb") as stream:  # noqa: PTH123 - fsspec hands out str
                    return stream.read()
            return bytes(fs.cat_file(path))
    except FileNotFoundError as error:
        raise SourceChanged(f"{url} is gone: {PUT_BACK}") from error
