"""URLs with placeholders: which files are an interval's, and what identities are relative to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from sscd_ops.errors import ConfigError
from sscd_ops.model import FoundShard, Interval
from sscd_ops.options import SourceOptions
from sscd_ops.sources import files

_PLACEHOLDER = re.compile(r"\{(date|start|end)(?::([^{}]*))?\}")
_MAGIC = re.compile(r"[*?\[{]")
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


def replace_placeholders(url: str, with_what: Callable[[str], str]) -> str:
    """The URL with each placeholder replaced by what ``with_what`` makes of its strftime format."""

    def one(match: re.Match[str]) -> str:
        name, form = match.groups()
        return with_what(form or (_DATE if name == "date" else _INSTANT))

    return _PLACEHOLDER.sub(one, url)


def _days(interval: Interval, timezone: str) -> Iterator[datetime]:
    zone = ZoneInfo(timezone)
    day = interval.start.astimezone(zone).date()
    last = interval.end.astimezone(zone).date()
    yield datetime(day.year, day.month, day.day, tzinfo=zone)
    day += timedelta(days=1)
    while day < last:
        yield datetime(day.year, day.month, day.day, tzinfo=zone)
        day += timedelta(days=1)


def has_magic(url: str) -> bool:
    """Whether a URL is a pattern."""
    return _MAGIC.search(url) is not None


def resolve_root(options: SourceOptions) -> str:
    """What identities of a source are relative to: ``root``, else the longest literal folder.

    Raises:
        ConfigError: the URLs share no literal folder, or one lies outside ``root``.
    """
    if not options.urls:
        raise ConfigError(f"source {options.name!r}: urls is empty: give at least one")
    folders = [_literal_folder(url, options) for url in options.urls]
    if options.root:
        root = files.canonical(options.root)
        for folder, url in zip(folders, options.urls, strict=True):
            if not _inside(folder, root):
                raise ConfigError(
                    f"source {options.name!r}: url {url!r} lies outside root {root!r}"
                )
        return root
    common = []
    for steps in zip(*(folder.split("/") for folder in folders), strict=False):
        if len(set(steps)) > 1:
            break
        common.append(steps[0])
    root = "/".join(common) or ("/" if all(f.startswith("/") for f in folders) else "")
    if not root or root.endswith((":", ":/")):
        raise _no_common_folder(options)
    return root


def _no_common_folder(options: SourceOptions) -> ConfigError:
    return ConfigError(
        f"source {options.name!r}: its urls share no folder: set `root`, which identities are"
        " relative to"
    )


def _literal_folder(url: str, options: SourceOptions) -> str:
    """The longest folder of a pattern that holds no placeholder and no wildcard."""
    magic = _MAGIC.search(url)
    if magic is None:
        whole = files.canonical(url)
        return whole if options.kind == "folder" else whole.rpartition("/")[0] or "/"
    folder, slash, _ = url[: magic.start()].rpartition("/")
    if folder.endswith((":", ":/")):
        raise _no_common_folder(options)
    return files.canonical(folder or ("/" if slash else "."))


def _inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def relative(url: str, root: str, name: str) -> str:
    """A file's URL relative to the source's root; ``.`` for the root itself.

    Raises:
        ConfigError: it lies outside.
    """
    if not _inside(url, root):
        raise ConfigError(f"source {name!r}: {url!r} lies outside root {root!r}")
    return url[len(root.rstrip("/")) + 1 :] or "."


def find(options: SourceOptions, root: str, interval: Interval, timezone: str) -> list[FoundShard]:
    """The interval's files, sorted by relative URI, each once."""
    found: dict[str, FoundShard] = {}
    for pattern in options.urls:
        for url in expand(pattern, interval, timezone):
            for file in files.listing(url, is_pattern=has_magic(url)):
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
        if not files.is_there(url, is_pattern=has_magic(url)):
            return url
    return None


def captions_url(options: SourceOptions, folder: str) -> str:
    """The URL of a folder's captions file; empty where the source has none."""
    name = options.captions_file
    if not name:
        return ""
    return files.canonical(name) if is_elsewhere(name) else f"{folder}/{name}"


def is_elsewhere(captions_file: str) -> bool:
    """Whether a captions file has a place of its own, rather than one in each folder."""
    return "://" in captions_file or captions_file.startswith("/")
