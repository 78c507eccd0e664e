"""URLs of a source that name nothing: in a night, or in no night at all."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from sscd_ops.errors import ConfigError
from sscd_ops.model import FoundShard, Interval
from sscd_ops.options import SourceOptions
from sscd_ops.ports import Source
from sscd_ops.sources import files, places

_DIGITS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "j": 3}
"""Directives of strftime that stand for so many digits."""
_DIRECTIVE = re.compile(r"%([-_0^#+]*\d*[EO]?)(.)")
"""With the flags of the C library: `%-d` is a day without its nought."""

Open = Callable[[SourceOptions], Source]


def nothing_at(
    options: SourceOptions, open_source: Open, interval: Interval, timezone: str
) -> list[str]:
    """The URLs of an interval, placeholders filled in, that name no source shard.

    Raises:
        StoreUnavailable: storage did not answer.
    """
    answer: list[str] = []
    for url in options.urls:
        if not _names(options, open_source, url, interval, timezone):
            answer += places.expand(url, interval, timezone)
    return answer


def nowhere(
    options: SourceOptions, open_source: Open, recent: Interval, timezone: str
) -> list[str]:
    """What a source names and what is in no night: sentences that name key and URL.

    A URL of the recent night is looked at first, which is cheap, and then any that its
    placeholders can stand for.

    Args:
        options: the source.
        open_source: opens a reader.
        recent: the last night that is over.
        timezone: of the placeholders.

    Raises:
        ConfigError: the URLs cannot be those of one source.
        StoreUnavailable: storage did not answer.
    """
    problems: list[str] = []
    found: list[FoundShard] = []
    for url in options.urls:
        try:
            there = _names(options, open_source, url, recent, timezone) or _names(
                options, open_source, any_night(url), recent, timezone
            )
        except ConfigError as error:
            problems.append(str(error))
            continue
        found += there
        if not there:
            problems.append(f"urls: nothing is at {url}")
    if not problems:
        open_source(options)
    if options.ready and not _marked(options.ready, recent, timezone):
        problems.append(f"ready: nothing is at {options.ready}, so no night would begin")
    if found and options.captions_file:
        captions = sorted({places.captions_url(options, shard.uri) for shard in found})
        if not any(files.file(url) for url in captions):
            problems.append(f"captions_file: nothing is at {captions[-1]}")
    return problems


def _names(
    options: SourceOptions, open_source: Open, url: str, interval: Interval, timezone: str
) -> list[FoundShard]:
    one = dataclasses.replace(options, urls=(url,))
    return open_source(one).find(interval, timezone)


def _marked(url: str, recent: Interval, timezone: str) -> bool:
    urls = [*places.expand(url, recent, timezone), any_night(url)]
    return any(files.is_there(one, is_pattern=places.has_magic(one)) for one in urls)


def any_night(url: str) -> str:
    """A URL with a wildcard for each placeholder: what it names in some night."""
    return places.replace_placeholders(url, _wildcard)


def _wildcard(form: str) -> str:
    def one(match: re.Match[str]) -> str:
        flags, letter = match.groups()
        digits = 0 if flags else _DIGITS.get(letter, 0)
        return "%" if letter == "%" else "[0-9]" * digits or "*"

    return _DIRECTIVE.sub(one, form)
