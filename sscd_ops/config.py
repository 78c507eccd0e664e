"""The config file: TOML -> ``options.Settings``. Read at the edges only, never at import.

A strict reader over the option dataclasses: an unknown key or a value of the wrong kind is an error
that names file, key and what was expected. It is written by hand, on the standard library alone:
hints, units and masking are what pydantic-settings has not (docs/decisions/0003-config-loader.md).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from sscd_ops.errors import ConfigError
from sscd_ops.masking import holds_secret
from sscd_ops.options import (
    MOST_BITS,
    PUBLISHED_COLUMNS,
    CatalogOptions,
    DatasetOptions,
    Settings,
    SourceOptions,
    StorageOptions,
)
from sscd_ops.toml_tables import (
    Wrong,
    check_keys,
    did_you_mean,
    keys_of,
    read_section,
    read_table,
    shown,
)

ENVIRONMENT = "SSCD_OPS_CONFIG"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_ONLY_FOR = {
    "image_column": "parquet",
    "caption_column": "parquet",
    "key_column": "parquet",
    "captions_file": "folder",
}
"""Source keys that mean something for one kind alone."""
_LOCAL = "file://"
"""A root or a cache of this scheme is a folder, for everything that asks which it is."""
_PLACEHOLDER = re.compile(r"\{([^{}:]*)(?::[^{}]*)?\}")

_LEAST_DECODER = 128 * 2**20
"""Bytes; Python with numpy and Pillow takes 50 MB."""


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
            f"{file}: cannot be read ({error.strerror}): give --config FILE or set {ENVIRONMENT}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from error
    try:
        return _settings(file, raw, tolerant=tolerant)
    except Wrong as wrong:
        raise ConfigError(f"{file}: {wrong.key}: {wrong.message}") from None


def _file(path: str | Path | None) -> Path:
    named = path or os.environ.get(ENVIRONMENT)
    if not named:
        raise ConfigError(f"no config file: give --config FILE, or set {ENVIRONMENT}")
    return Path(named).expanduser().absolute()


def _settings(file: Path, raw: Mapping[str, Any], *, tolerant: bool) -> Settings:
    check_keys(raw, {"storage", "catalog", "datasets"}, "")
    base = file.parent
    storage = read_section(StorageOptions, raw.get("storage", {}), "storage")
    if not storage.root:
        raise Wrong("storage.root", "is missing: a folder or fsspec URL for everything written")
    storage = dataclasses.replace(
        storage,
        root=_place(base, storage.root.removeprefix(_LOCAL), "storage.root"),
        cache=_place(base, storage.cache.removeprefix(_LOCAL), "storage.cache"),
    )
    catalog = read_section(CatalogOptions, raw.get("catalog", {}), "catalog")
    datasets: dict[str, DatasetOptions] = {}
    faulty: dict[str, str] = {}
    tables = read_table(raw.get("datasets", {}), "datasets")
    for name, table in tables.items():
        try:
            datasets[name] = _dataset(base, name, table)
        except Wrong as wrong:
            if not tolerant:
                raise
            faulty[_faulty_name(name, {*tables} - {name}, faulty)] = (
                f"{file}: {wrong.key}: {wrong.message}"
            )
    return Settings(str(file), storage, catalog, datasets, faulty)


def _faulty_name(name: str, *others: Container[str]) -> str:
    """The name of a faulty dataset, in the alphabet of a DAG id; never one that is another's."""
    free = dag_name(name)
    while any(free in taken for taken in others):
        free += "_"
    return free


def dag_name(name: str) -> str:
    """What may stand in a DAG id, of whatever a dataset is called."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:64] or "_"


def _place(base: Path, url: str, key: str) -> str:
    """A URL as it is; a path as an absolute one, relative ones from the config file's folder.

    Credentials are refused: a batch freezes its configuration, and ``curation.configs`` shows it.
    """
    _without_secret(url, key)
    if not url or "://" in url:
        return url
    try:
        return os.path.normpath(base / Path(url).expanduser())
    except RuntimeError as error:  # ~somebody
        raise Wrong(key, f"{shown(url)} leads to no home folder: give the whole path") from error


def _without_secret(url: str, key: str) -> str:
    if holds_secret(url):
        raise Wrong(
            key,
            "holds credentials (a password, token or signature), and this file is copied into the"
            " catalog: take them out, and give them by the environment or fsspec's own"
            " configuration",
        )
    return url


# ---------------------------------------------------------------- datasets


def _dataset(base: Path, name: str, table: Any) -> DatasetOptions:
    key = f"datasets.{name if _NAME.match(name) else json.dumps(name)}"
    if not _NAME.match(name):
        raise Wrong(key, "a dataset's name is 1-64 of a-z, 0-9, _ and -, beginning with a-z or 0-9")
    options: DatasetOptions = read_section(
        DatasetOptions, _without(read_table(table, key), "sources"), key, name=name
    )
    _check_schedule(options, key)
    _check_numbers(options, key)
    fingerprint = options.fingerprint
    weights = _place(base, fingerprint.weights, f"{key}.fingerprint.weights")
    fitted = _place(base, fingerprint.postprocessing, f"{key}.fingerprint.postprocessing")
    return dataclasses.replace(
        options,
        sources=_sources(base, name, table, key),
        fingerprint=dataclasses.replace(fingerprint, weights=weights, postprocessing=fitted),
    )


def _without(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}


def _sources(
    base: Path, dataset: str, table: Mapping[str, Any], key: str
) -> tuple[SourceOptions, ...]:
    listed = table.get("sources")
    if not isinstance(listed, list) or not listed:
        raise Wrong(f"{key}.sources", f"needs at least one [[{key}.sources]] table")
    answer: list[SourceOptions] = []
    for number, item in enumerate(listed):
        here = f"{key}.sources[{number}]"
        source = _source(base, dataset, read_table(item, here), here)
        if source.name in {other.name for other in answer}:
            raise Wrong(
                f"{here}.name",
                f"two sources are named {source.name!r}: samples are known by their source's name,"
                " give each its own",
            )
        answer.append(source)
    return tuple(answer)


def _source(base: Path, dataset: str, table: Mapping[str, Any], key: str) -> SourceOptions:
    name = table.get("name", dataset)
    if not isinstance(name, str) or not _SOURCE.match(name):
        raise Wrong(f"{key}.name", f"expected 1-64 letters, digits, _ . and -, not {shown(name)}")
    check_keys(table, keys_of(SourceOptions), key)
    rest = _without(table, "name")
    source: SourceOptions = read_section(SourceOptions, rest, key, name=name)
    for other, kind in _ONLY_FOR.items():
        if other in rest and source.kind != kind:
            raise Wrong(f"{key}.{other}", f"is for kind = {kind!r}, and this is {source.kind!r}")
    if not source.urls:
        raise Wrong(f"{key}.urls", 'is empty: give at least one, e.g. ["/in/{date}/*.tar"]')
    for url in (*source.urls, source.ready):
        _check_placeholders(url, f"{key}.{'ready' if url == source.ready else 'urls'}")
    _check_fields(source, key)
    _check_extensions(source, key)
    for column in source.columns:
        if column in PUBLISHED_COLUMNS:
            raise Wrong(
                f"{key}.columns",
                f"{column!r} is a column the published parquet has itself"
                f" ({', '.join(PUBLISHED_COLUMNS)}): leave it out, or give the field another name",
            )
    return dataclasses.replace(
        source,
        urls=tuple(_place(base, url, f"{key}.urls") for url in source.urls),
        root=_place(base, source.root, f"{key}.root"),
        ready=_place(base, source.ready, f"{key}.ready"),
        captions_file=_without_secret(source.captions_file, f"{key}.captions_file"),
    )


def _check_fields(source: SourceOptions, key: str) -> None:
    """Whether what names fields of samples is spelt as it should be."""
    for entry in source.caption:
        if not re.match(r"(?:(?:json|column):.+|[^:\s]+)\Z", entry):
            raise Wrong(
                f"{key}.caption",
                f'expected an extension, "json:field" or "column:name", not {shown(entry)}',
            )
    if source.url and not re.match(r"(?:json|column):.+\Z", source.url):
        raise Wrong(
            f"{key}.url", f'expected "json:field" or "column:name", not {shown(source.url)}'
        )


def _check_extensions(source: SourceOptions, key: str) -> None:
    for name, entries in (("caption", source.caption), ("image", (source.image,))):
        for entry in entries:
            if entry.startswith("."):
                raise Wrong(f"{key}.{name}", f"write {entry[1:]!r}, without the dot")
    if not source.caption and source.missing_caption == "quarantine":
        raise Wrong(
            f"{key}.caption",
            "is empty, and missing_caption is 'quarantine', so that no sample is kept: name a"
            ' caption, or set missing_caption = "keep"',
        )


def _check_placeholders(url: str, key: str) -> None:
    for name in _PLACEHOLDER.findall(url):
        if name not in ("date", "start", "end"):
            raise Wrong(
                key,
                f"unknown placeholder {{{name}}}; there are {{date}}, {{start}}, {{end}}, each"
                " with a strftime format if you like: {date:%Y/%m/%d}",
            )


def _check_schedule(options: DatasetOptions, key: str) -> None:
    try:
        ZoneInfo(options.timezone)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise Wrong(
            f"{key}.timezone",
            f"no time zone {shown(options.timezone)}; {did_you_mean(options.timezone, _zones())}",
        ) from error
    _check_cron(options.schedule, f"{key}.schedule")
    if options.airflow.maintain:
        _check_cron(options.airflow.maintain, f"{key}.airflow.maintain")


def _check_cron(schedule: str, key: str) -> None:
    if len(schedule.split()) != 5 and not schedule.startswith("@"):
        raise Wrong(
            key,
            f'expected a cron line of 5 fields such as "0 2 * * *", not {shown(schedule)}',
        )
    # Airflow's own cron library, imported here: DAG files have it already, `--help` needs none.
    from croniter import CroniterBadDateError, croniter

    if any(re.match(r"[rR]\b", field) for field in schedule.split()):
        raise Wrong(
            key,
            f"expected fixed times, not {shown(schedule)}: R is drawn anew each time it is read",
        )
    try:
        croniter(schedule).get_next()
    except CroniterBadDateError as error:
        raise Wrong(key, f"{shown(schedule)} never comes: {error}") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise Wrong(key, f"{shown(schedule)} is no cron line: {error}") from error


def _zones() -> list[str]:
    return ["UTC", *sorted(available_timezones())]


def _check_numbers(options: DatasetOptions, key: str) -> None:
    """What ranges alone do not say (``options.Range``)."""
    if 0 < options.limits.decode_memory < _LEAST_DECODER:
        raise Wrong(
            f"{key}.limits.decode_memory",
            f"expected 0 or at least {_LEAST_DECODER}, not {options.limits.decode_memory}: a"
            " decoder takes some of it before its first picture",
        )
    duplicates = options.duplicates
    if duplicates.perceptual_distance + duplicates.perceptual_margin > MOST_BITS:
        raise Wrong(
            f"{key}.duplicates.perceptual_margin",
            f"expected perceptual_distance + perceptual_margin to be at most {MOST_BITS}:"
            " strangers are 128 bits apart",
        )
