"""URLs with placeholders: which files are an interval's, and what identities are relative to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import fsspec
from fsspec.implementations.local import make_path_posix

from sscd_ops.errors import ConfigError, StoreUnavailable
from sscd_ops.model import FoundShard, Interval
from sscd_ops.options import SourceOptions

_PLACEHOLDER = re.compile(r"\{(date|start|end)(?::([^{}]*))?\}")
_MAGIC = re.compile(r"[*?\[{]")
_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".download", ".filepart")
_DATE = "%Y-%m-%d"
_INSTANT = "%Y-%m-%dT%H%M%SZ"


def expand(url: str, interval: Interval, timezone: str) -> list[str]:
    """A URL for each local day of the interval, placeholders filled in, without repeats.

    ``{date}`` stands for the local days d with date(start) <= d < date(end), at least date(start);
    ``{start}`` and ``{end}`` are instants in UTC. Each takes a strftime format after a colon.

    Raises:
        ConfigError: a placeholder of another name.
    """
    unknown = re.search(r"\{[^{}]*\}", _PLACEHOLDER.sub("", url))
    if unknown:
        raise ConfigError(
            f"url {url!r}: unknown placeholder {unknown.group()}; there are {{date}}, {{start}},"
            " {end}, each with a strftime format as in {date:%Y/%m/%d}"
        )

    def fill(day: datetime) -> str:
        def one(match: re.Match[str]) -> str:
            name, form = match.groups()
            if name == "date":
                return day.strftime(form or _DATE)
            instant = interval.start if name == "start" else interval.end
            return instant.astimezone(UTC).strftime(form or _INSTANT)

        return _PLACEHOLDER.sub(one, url)

    return list(dict.fromkeys(fill(day) for day in _days(interval, timezone)))


def _days(interval: Interval, timezone: str) -> Iterator[datetime]:
    zone = ZoneInfo(timezone)
    day = interval.start.astimezone(zone).date()
    last = interval.end.astimezone(zone).date()
    yield datetime(day.year, day.month, day.day, tzinfo=zone)
    day += timedelta(days=1)
    while day < last:
        yield datetime(day.year, day.month, day.day, tzinfo=zone)
        day += timedelta(days=1)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it.

    Raises:
        ConfigError: no filesystem of this kind is installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"url {url!r}: {error}") from error
    return fs, str(path)


def is_local(fs: Any) -> bool:
    """Whether a filesystem is this machine's."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return protocol in ("file", "local")


def resolve_root(options: SourceOptions) -> str:
    """What identities of a source are relative to: ``root``, else the longest literal folder.

    Raises:
        ConfigError: the URLs share no literal folder, or one lies outside ``root``.
    """
    literal = [_literal_folder(url) for url in options.urls]
    if options.root:
        root = _posix(options.root).rstrip("/") or "/"
        for folder, url in zip(literal, options.urls, strict=True):
            if not _inside(folder, root):
                raise ConfigError(
                    f"source {options.name!r}: url {url!r} lies outside root {root!r}"
                )
        return root
    split = [folder.split("/") for folder in literal]
    if not split:
        raise ConfigError(f"source {options.name!r}: urls is empty: give at least one")
    common = []
    for steps in zip(*split, strict=False):
        if len(set(steps)) > 1:
            break
        common.append(steps[0])
    root = "/".join(common) or ("/" if literal[0].startswith("/") else "")
    if not root or root.endswith((":/", ":")):
        raise ConfigError(
            f"source {options.name!r}: its urls share no folder: set `root`, which identities are"
            " relative to"
        )
    return root


def _posix(url: str) -> str:
    return url if "://" in url else str(make_path_posix(url))


def _literal_folder(url: str) -> str:
    posix = _posix(url)
    magic = _MAGIC.search(posix)
    head = posix[: magic.start()] if magic else posix
    return head.rpartition("/")[0] or "/"


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def relative(url: str, root: str, name: str) -> str:
    """A file's URL relative to the source's root.

    Raises:
        ConfigError: it lies outside.
    """
    if not _inside(url, root):
        raise ConfigError(f"source {name!r}: {url!r} lies outside root {root!r}")
    return url[len(root.rstrip("/")) + 1 :]


@dataclass(frozen=True)
class Listed:
    """A file as a listing shows it."""

    url: str
    size: int
    version: str


def listing(url: str) -> list[Listed]:
    """The finished files a URL or glob names, sorted by URL.

    Hidden and unfinished names (``.x``, ``_x``, ``x.tmp`` ...) are left out.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    fs, path = filesystem(url)
    try:
        if _MAGIC.search(path):
            found = fs.glob(path, detail=True)
        else:
            found = {path: fs.info(path)} if fs.exists(path) else {}
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreUnavailable(f"{url}: {error}") from error
    answer = []
    for name, info in sorted(found.items()):
        if info.get("type") == "file" and is_finished(name):
            answer.append(Listed(_url(fs, name), int(info["size"] or 0), version_of(info)))
    return answer


def _url(fs: Any, path: str) -> str:
    return path if is_local(fs) else str(fs.unstrip_protocol(path))


def is_finished(path: str) -> bool:
    """Whether a file's name says that it is whole."""
    name = path.rpartition("/")[2]
    return not name.startswith((".", "_")) and not name.lower().endswith(_UNFINISHED)


def version_of(info: dict[str, Any]) -> str:
    """What changes when a file's content may have: its etag, else size and time."""
    for key in ("ETag", "etag", "md5Hash", "content_md5", "checksum"):
        if info.get(key):
            return str(info[key]).strip('"')
    stamp = info.get(
        "mtime", info.get("LastModified", info.get("last_modified", info.get("created")))
    )
    if isinstance(stamp, datetime):
        stamp = stamp.timestamp()
    if isinstance(stamp, float):
        stamp = f"{stamp:.6f}"
    return f"{info.get('size')}-{stamp}"


def find(options: SourceOptions, root: str, interval: Interval, timezone: str) -> list[FoundShard]:
    """The interval's files, sorted by relative URI, each once."""
    found: dict[str, FoundShard] = {}
    for pattern in options.urls:
        for url in expand(pattern, interval, timezone):
            for file in listing(url):
                name = relative(file.url, root, options.name)
                found[name] = FoundShard(options.name, file.url, name, file.size, file.version)
    return [found[name] for name in sorted(found)]


def missing_marker(options: SourceOptions, interval: Interval, timezone: str) -> str | None:
    """The first readiness URL of the interval that is not there, or None.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    if not options.ready:
        return None
    for url in expand(options.ready, interval, timezone):
        fs, path = filesystem(url)
        try:
            there = bool(fs.glob(path)) if _MAGIC.search(path) else fs.exists(path)
        except OSError as error:
            raise StoreUnavailable(f"{url}: {error}") from error
        if not there:
            return url
    return None
