"""Text on its way to people: without secrets, and without what moves a terminal's cursor.

Standard library only. Every error of this package goes through ``masked``, and so does what is
logged, printed beside results, or handed to Airflow; data itself is never changed.
"""

from __future__ import annotations

import logging
import re
import traceback
from urllib.parse import unquote

_MASK = "***"
_NAMED = (
    r"[\w.-]{0,40}(?:passw|passphrase|pwd|secret|token|credential|api[_-]?key|access[_-]?key)"
    r"[\w.-]{0,40}"
)
"""What secrets are called, in whatever text. (Lengths are bounded: no text takes long.)"""
_IN_QUERY = (
    rf"(?:{_NAMED}|[\w.-]{{0,40}}(?:signature|account[_-]?key|auth|jwt|access[_-]?id)[\w.-]{{0,40}}"
    r"|sig|key|pass)"
)
"""What they are called in the query or fragment of a URL."""

_USER = re.compile(
    # user:password@, to the last @: a password may hold more of them, and slashes; a port may not
    r"(?<=://)[^/@:\s'\"\[]{0,256}:(?!\d+/)[^\s'\"]{0,2048}@"
    # token@; not Azure's abfs://container@account, nor the user of a database or of sftp
    r"|(?<=https://)[^/@\s'\"]{0,2048}@|(?<=http://)[^/@\s'\"]{0,2048}@"
)
_QUERY = re.compile(rf"(?i)(?<=[?&#;])({_IN_QUERY})=([^&#;\s'\"<>]*)")
_PAIR = re.compile(
    rf"(?i)(?<![\w.-])(?P<q>['\"]?)(?P<name>{_NAMED})(?P=q)\s*(?P<is>[=:])\s*"
    r"(?P<value>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&'\"}\])>]+)"
)
_HEADER = re.compile(r"(?i)\b(authorization\W{1,4}(?:bearer|basic|token)?\s*)[\w.~+/=-]+")
_MOVES = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_CONTROL = re.compile(rf"[\n\t{_MOVES}]+")
_UNSAFE = re.compile(rf"[{_MOVES}]+")


def masked(text: str) -> str:
    """A text with ``***`` for every secret in it.

    Known are users and passwords of URLs, parameters of their queries and fragments that are named
    like secrets (``token``, ``sig``, ``X-Amz-Signature`` ...), ``password=...`` as libpq and
    drivers write it, and an Authorization header.
    """
    text = _QUERY.sub(rf"\1={_MASK}", _USER.sub(f"{_MASK}@", text))
    return _HEADER.sub(rf"\1{_MASK}", _PAIR.sub(_without_value, text))


def _without_value(pair: re.Match[str]) -> str:
    # `token: 3` in a sentence is no secret, `"token": "3"` may be one
    if pair["is"] == ":" and not pair["q"]:
        return pair[0]
    whole = pair[0]
    return whole[: pair.start("value") - pair.start()] + _MASK


def holds_secret(url: str) -> bool:
    """Whether a URL holds a user's password, a token or a signature."""
    return bool(_USER.search(url) or _QUERY.search(url))


def secrets_in(url: str) -> list[str]:
    """The secret parts of a URL: its password, or token, and such parameters, as they stand."""
    users = [found[0][:-1].partition(":")[2] or found[0][:-1] for found in _USER.finditer(url)]
    values = [*users, *(found[2] for found in _QUERY.finditer(url))]
    return [text for value in values for text in {value, unquote(value)} if text]


def one_line(text: str) -> str:
    """A text on one line, without control characters."""
    return _CONTROL.sub(" ", text)


def harmless(text: str) -> str:
    """A message as a terminal or a log may show it: masked, its lines kept, nothing that moves."""
    return _UNSAFE.sub(" ", masked(text))


class MaskingFormatter(logging.Formatter):
    """Log lines, with their tracebacks, as ``harmless`` has them."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole line."""
        return harmless(super().format(record))


def traceback_of(error: BaseException) -> str:
    """An error's traceback, ``harmless``."""
    return harmless("".join(traceback.format_exception(error)))
