"""Members that a source makes from rows: the same bytes whenever and wherever they are made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from typing import Any

from sscd_ops.core.formats import IMAGE_EXTENSIONS, sniff

_DEEPEST = 100
"""Of a row. Python's own limit depends on who calls: publish might fail where ingest did not."""


def image_extension(path: str, data: bytes) -> str:
    """The extension of an image: its path's where that is one, else by its bytes, else ``jpg``."""
    extension = path.rpartition("/")[2].rpartition(".")[2].lower()
    if extension in IMAGE_EXTENSIONS:
        return extension
    return sniff(data) or "jpg"


def json_bytes(value: Any) -> bytes:
    """A row, or a value of one, as JSON: keys sorted, no spaces, UTF-8.

    What JSON has no word for becomes null (NaN, infinities) or text (times, decimals, bytes as
    hexadecimal digits). Text that was no UTF-8 stays the bytes it was.

    Raises:
        ValueError: it is nested deeper than 100.
    """
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text_bytes(text)


def caption_bytes(value: Any) -> bytes:
    """A caption: text and bytes as they are, documents and lists as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (Mapping, list, tuple, bool)):
        return json_bytes(value)
    return text_bytes(str(value))


def text_bytes(text: str) -> bytes:
    """Text as the bytes it was read from, also where those were no UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def plain(value: Any, depth: int = 0) -> Any:
    """A value as what JSON has words for.

    Raises:
        ValueError: it is nested deeper than 100.
    """
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST}")
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.hex() if isinstance(value, bytes) else str(value)
