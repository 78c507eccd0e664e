"""TOML tables -> option dataclasses, strictly: names, kinds, units and ranges, by the annotations.

What fails says which key it was and what was expected; ``config`` adds the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal, get_args, get_origin

from sscd_ops.masking import masked
from sscd_ops.options import Range

_NEVER_SHOWN = "catalog.url"
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
_FORMER = {
    "airflow.match_tasks": (
        "is no setting any more: the step survey works out how many tasks match has, up to"
        " max_tasks. Take the line out"
    )
}
"""Keys that there were once: what is nearest by name to one is not what it was."""


class Wrong(Exception):
    """A key and what is wrong with it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(key, message)
        self.key = key
        self.message = message


def read_table(raw: Any, key: str) -> Mapping[str, Any]:
    """A value that must be a table.

    Raises:
        Wrong: it is something else.
    """
    if not isinstance(raw, Mapping):
        raise Wrong(key, f"expected a table, not {shown(raw)}")
    return raw


def check_keys(raw: Mapping[str, Any], names: set[str], key: str) -> None:
    """Refuse keys that nobody knows.

    Raises:
        Wrong: names the first one, and the known one nearest to it.
    """
    for name in raw:
        if name not in names:
            former = _FORMER.get(f"{key.rpartition('.')[2]}.{name}")
            raise Wrong(
                f"{key}.{name}" if key else name,
                former or f"unknown key; {did_you_mean(name, sorted(names))}",
            )


def keys_of(kind: type[Any]) -> set[str]:
    """The keys an options dataclass has."""
    return {field.name for field in dataclasses.fields(kind)}


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """What was meant, or else what there is."""
    close = difflib.get_close_matches(name, names, 1)
    if not close:
        close = [other for other in names if other.lower() == name.lower()]
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(names[:40])}" + (" ..." if len(names) > 40 else "")


def shown(value: Any) -> str:
    """A value for a message: short, and without secrets."""
    text = masked(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_section(kind: type[Any], raw: Any, key: str, **given: Any) -> Any:
    """An options dataclass from a table; ``given`` are fields the table may not have.

    Raises:
        Wrong: an unknown key, or a value of the wrong kind.
    """
    values = read_table(raw, key)
    hints = _hints(kind)
    check_keys(values, keys_of(kind) - set(given), key)
    read = {name: _value(hints[name], value, f"{key}.{name}") for name, value in values.items()}
    return kind(**given, **read)


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind, include_extras=True)
    return _HINTS[kind]


def _value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read_section(hint, value, key)
    origin = get_origin(hint)
    if origin is Literal:
        return _choice(get_args(hint), value, key)
    if origin is tuple:
        return _tuple(get_args(hint)[0], value, key)
    if origin in (types.UnionType, typing.Union):
        return _value(next(x for x in get_args(hint) if x is not type(None)), value, key)
    if origin is Annotated:
        return _annotated(*get_args(hint), value=value, key=key)
    return _plain(hint, value, key)


def _annotated(hint: Any, *said: str | Range, value: Any, key: str) -> Any:
    """A value with its unit, if it has one, within its range, if there is one."""
    if "seconds" in said:
        read: Any = read_duration(value, key)
    elif "bytes" in said:
        read = read_size(value, key)
    else:
        read = _plain(hint, value, key)
    for allowed in said:
        if isinstance(allowed, Range) and not allowed.least <= read <= allowed.most:
            expected = allowed.expected.format(**allowed._asdict(), value=read)
            raise Wrong(key, f"expected {expected}")
    return read


def _choice(options: tuple[Any, ...], value: Any, key: str) -> Any:
    # 1 equals True
    if any(value == option and type(value) is type(option) for option in options):
        return value
    names = [option for option in options if isinstance(option, str)]
    close = difflib.get_close_matches(str(value), names, 1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    said = ", ".join(repr(o) if isinstance(o, str) else str(o).lower() for o in options)
    raise Wrong(key, f"expected one of {said}, not {shown(value)}{meant}")


def _tuple(item: Any, value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Wrong(key, f"expected a list, not {shown(value)}")
    read = tuple(_value(item, element, key) for element in value)
    for number, element in enumerate(read):
        if element in read[:number]:
            raise Wrong(key, f"{shown(element)} is there twice")
    return read


def read_duration(value: Any, key: str) -> float:
    """Seconds, given as a number or as text such as ``6h``.

    Raises:
        Wrong: it is neither.
    """
    number = _number(value)
    if number is not None and number >= 0:
        return number
    match = _DURATION.match(value) if isinstance(value, str) else None
    seconds = float(match[1]) * _SECONDS[match[2]] if match else math.inf
    if not math.isfinite(seconds):
        raise Wrong(
            key, f'expected seconds or a duration such as "30m" or "6h", not {shown(value)}'
        )
    return seconds


def read_size(value: Any, key: str) -> int:
    """Bytes: a number, or text with a unit.

    Raises:
        Wrong: it is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.match(value) if isinstance(value, str) else None
    number = float(match[1]) * _BYTES[match[2]] if match else math.inf
    if not math.isfinite(number):
        raise Wrong(key, f'expected bytes or a size such as "512MB" or "1GB", not {shown(value)}')
    return int(number)


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
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


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
        # A database URL may be a secret as a whole: its password can stand in the query too.
        but = "" if key == _NEVER_SHOWN else f", not {shown(value)}"
        raise Wrong(key, f"expected {expected}{but}")
    return found
