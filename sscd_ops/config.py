"""The config file: TOML -> ``options.Settings``. Read at the edges only, never at import.

A strict reader over the option dataclasses: an unknown key or a value of the wrong kind is an error
that names file, key and what was expected. It is written by hand, on the standard library alone,
because DAG files read the configuration each time they are parsed and pydantic-settings would
double what parsing costs (docs/decisions/0003-config-loader.md).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from zoneinfo import ZoneInfo

from sscd_ops.errors import ConfigError
from sscd_ops.options import (
    CatalogOptions,
    DatasetOptions,
    Settings,
    SourceOptions,
    StorageOptions,
)

ENVIRONMENT = "SSCD_OPS_CONFIG"
DATABASE_ENVIRONMENT = "SSCD_OPS_DATABASE_URL"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)\Z")
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_DURATIONS = {
    "max_wait",
    "run_timeout",
    "ready_timeout",
    "retry_delay",
    "execution_timeout",
}
_SIZES = {"cache_bytes", "max_bytes", "max_member_bytes", "max_caption_bytes"}
_NEVER_IN_FILE = {"name"}


class _Wrong(Exception):
    def __init__(self, key: str, message: str) -> None:
        super().__init__(key, message)
        self.key = key
        self.message = message


def load_settings(path: str | Path | None = None, *, tolerant: bool = False) -> Settings:
    """Read the config file.

    Args:
        path: the file; None: what SSCD_OPS_CONFIG names.
        tolerant: a faulty dataset goes to ``Settings.faulty`` instead of ending the reading, so
            that the DAGs of the others are built.

    Raises:
        ConfigError: no file, no TOML, an unknown key or a bad value; names file, key and remedy.
    """
    file = _file(path)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}): give --config FILE"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error
    try:
        return _settings(file, raw, tolerant=tolerant)
    except _Wrong as wrong:
        raise ConfigError(f"{file}: {wrong.key}: {wrong.message}") from None


def _file(path: str | Path | None) -> Path:
    named = path or os.environ.get(ENVIRONMENT)
    if not named:
        raise ConfigError(f"no config file: give --config FILE, or set {ENVIRONMENT}")
    return Path(named).absolute()


def _settings(file: Path, raw: Mapping[str, Any], *, tolerant: bool) -> Settings:
    _known(raw, {"storage", "catalog", "datasets"}, "")
    base = file.parent
    storage = _section(StorageOptions, raw.get("storage", {}), "storage")
    if not storage.root:
        raise _Wrong("storage.root", "is missing: a folder or fsspec URL for everything written")
    storage = dataclasses.replace(
        storage, root=_resolve(base, storage.root), cache=_resolve(base, storage.cache)
    )
    catalog = _section(CatalogOptions, raw.get("catalog", {}), "catalog")
    datasets: dict[str, DatasetOptions] = {}
    faulty: dict[str, str] = {}
    for name, table in _table(raw.get("datasets", {}), "datasets").items():
        try:
            datasets[name] = _dataset(base, name, table)
        except _Wrong as wrong:
            if not tolerant:
                raise
            faulty[name] = f"{file}: {wrong.key}: {wrong.message}"
    return Settings(str(file), storage, catalog, datasets, faulty)


def _resolve(base: Path, url: str) -> str:
    """A path relative to the config file's folder; URLs and absolute paths as they are."""
    if not url or "://" in url or url.startswith("/"):
        return url
    return str(base / url)


# ---------------------------------------------------------------- datasets


def _dataset(base: Path, name: str, table: Any) -> DatasetOptions:
    key = f"datasets.{name}"
    if not _NAME.match(name):
        raise _Wrong(
            key, "a dataset's name is 1-64 of a-z, 0-9, _ and -, beginning with a-z or 0-9"
        )
    options: DatasetOptions = _section(
        DatasetOptions, {**_table(table, key), "sources": ()}, key, name=name
    )
    options = dataclasses.replace(options, sources=_sources(base, name, table, key))
    _check_dataset(options, key)
    return options


def _sources(
    base: Path, dataset: str, table: Mapping[str, Any], key: str
) -> tuple[SourceOptions, ...]:
    listed = table.get("sources")
    if not isinstance(listed, list) or not listed:
        raise _Wrong(f"{key}.sources", f"needs at least one [[{key}.sources]] table")
    answer: list[SourceOptions] = []
    for number, item in enumerate(listed):
        here = f"{key}.sources[{number}]"
        item = dict(_table(item, here))
        name = item.pop("name", dataset)
        if not isinstance(name, str) or not _SOURCE.match(name):
            raise _Wrong(f"{here}.name", f'expected a name such as "crawl", not {name!r}')
        if name in {source.name for source in answer}:
            raise _Wrong(f"{here}.name", f"two sources are named {name!r}: names are identities")
        source = _section(SourceOptions, item, here, name=name)
        if not source.urls:
            raise _Wrong(f"{here}.urls", 'is empty: give at least one, e.g. ["/in/{date}/*.tar"]')
        answer.append(
            dataclasses.replace(
                source,
                urls=tuple(_resolve(base, url) for url in source.urls),
                root=_resolve(base, source.root),
                ready=_resolve(base, source.ready),
            )
        )
    return tuple(answer)


def _check_dataset(options: DatasetOptions, key: str) -> None:
    try:
        ZoneInfo(options.timezone)
    except (ValueError, OSError) as error:
        raise _Wrong(f"{key}.timezone", f"no time zone {options.timezone!r}") from error
    fields = options.schedule.split()
    if len(fields) != 5 and not options.schedule.startswith("@"):
        raise _Wrong(
            f"{key}.schedule", f"expected a cron line of 5 fields, not {options.schedule!r}"
        )
    limits = (
        ("duplicates.threshold", options.duplicates.threshold, -1.0, 1.0),
        ("duplicates.margin", options.duplicates.margin, 0.0, 1.0),
        ("duplicates.keep_matches", options.duplicates.keep_matches, 1, 1000),
        ("guard.max_removed_odds", options.guard.max_removed_odds, 1e-9, 1e9),
        ("guard.first_nights_max", options.guard.first_nights_max, 0.0, 1.0),
        ("late_days", options.late_days, 0, 366),
        ("publish.max_samples", options.publish.max_samples, 1, 10**8),
        ("publish.max_bytes", options.publish.max_bytes, 1, 10**15),
        ("limits.max_pixels", options.limits.max_pixels, 1, 10**12),
        ("limits.min_side", options.limits.min_side, 1, 10**6),
        ("limits.max_aspect", options.limits.max_aspect, 1.0, 1e6),
        ("limits.max_members", options.limits.max_members, 1, 10**5),
        ("airflow.max_active_runs", options.airflow.max_active_runs, 1, 1000),
        ("airflow.max_tasks", options.airflow.max_tasks, 1, 1024),
        ("airflow.match_tasks", options.airflow.match_tasks, 1, 1024),
        ("fingerprint.workers", options.fingerprint.workers, 0, 1024),
        ("fingerprint.minibatch", options.fingerprint.minibatch, 0, 4096),
    )
    for name, value, low, high in limits:
        if value is not None and not low <= value <= high:
            raise _Wrong(f"{key}.{name}", f"expected {low:g} to {high:g}, not {value:g}")


# ---------------------------------------------------------------- sections and values


def _table(raw: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise _Wrong(key, f"expected a table, not {raw!r}")
    return raw


def _known(raw: Mapping[str, Any], names: set[str], key: str) -> None:
    for name in raw:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}"
            raise _Wrong(f"{key}.{name}" if key else name, f"unknown key; {hint}")


def _section(kind: type[Any], raw: Any, key: str, **given: Any) -> Any:
    """An options dataclass from a table."""
    table = _table(raw, key)
    hints = _hints(kind)
    names = {field.name for field in dataclasses.fields(kind)} - _NEVER_IN_FILE
    _known(table, names, key)
    values = {name: _value(hints[name], value, f"{key}.{name}") for name, value in table.items()}
    return kind(**given, **values)


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _value(hint: Any, value: Any, key: str) -> Any:
    name = key.rpartition(".")[2]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _section(hint, value, key)
    origin = get_origin(hint)
    if origin is Literal:
        return _choice(get_args(hint), value, key)
    if origin is tuple:
        return _tuple(get_args(hint)[0], value, key)
    if origin in (types.UnionType, typing.Union):
        hint = next(item for item in get_args(hint) if item is not type(None))
    if name in _DURATIONS:
        return _duration(value, key)
    if name in _SIZES:
        return _size(value, key)
    return _plain(hint, value, key)


def _choice(options: tuple[Any, ...], value: Any, key: str) -> Any:
    if value not in options:
        raise _Wrong(key, f"expected one of {', '.join(map(repr, options))}, not {value!r}")
    return value


def _tuple(item: Any, value: Any, key: str) -> tuple[Any, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, list):
        raise _Wrong(key, f"expected a list, not {value!r}")
    return tuple(_value(item, element, key) for element in value)


def _duration(value: Any, key: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    match = _DURATION.match(value) if isinstance(value, str) else None
    if not match:
        raise _Wrong(key, f'expected seconds or a duration such as "30m" or "6h", not {value!r}')
    return float(match[1]) * _SECONDS[match[2]]


def _size(value: Any, key: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.match(value) if isinstance(value, str) else None
    if not match:
        raise _Wrong(key, f'expected bytes or a size such as "512MB" or "1GB", not {value!r}')
    return int(float(match[1]) * _BYTES[match[2]])


def _date(value: Any) -> date | None:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError:
            return None
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if fits else None


_PLAIN: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    date: ("a date such as 2026-11-01", _date),
    bool: ("true or false", _flag),
    int: ("a whole number", _integer),
    float: ("a number", _number),
    str: ("a string", _text),
}


def _plain(hint: Any, value: Any, key: str) -> Any:
    expected, read = _PLAIN[hint]
    found = read(value)
    if found is None:
        raise _Wrong(key, f"expected {expected}, not {value!r}")
    return found
