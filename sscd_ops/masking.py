"""Text on its way to people: without secrets, and without what moves a terminal's cursor.

Standard library only. Every error of this package goes through ``masked``, and so does what is
logged, printed beside results, or handed to Airflow; data itself is never changed.
"""

from __future__ import annotations

import logging
import re
import traceback
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

_MASK = "***"
_WORDS = (
    r"passw|passphrase|passcode|pwd|secret|token|credential|(?:api|access|private|account)[_-]?key"
)
_NAMED = rf"[\w.-]{{0,40}}(?:{_WORDS})[\w.-]{{0,40}}"
"""What secrets are called, in whatever text. (Lengths are bounded: no text takes long.)"""
_IN_QUERY = re.compile(
    rf"(?i).*(?:{_WORDS}|signature|auth|jwt|bearer|hmac|hdn(?:ts|ea|tl)|session|sess[_-]?id"
    r"|access[_-]?id).*|sig|sas|pass|pw|(?:.*[_-])?key"
)
"""What they are called in the query or fragment of a URL, percent signs undone."""

_QUOTE = r"['\"](?![\s,;:\]})]|$)"
"""One within a word: a password may hold it."""
_USER = re.compile(
    # user:password@, to the last @: a password may hold more of them, and slashes; a port may not
    rf"(?i)(?<=://)[^/@:\s'\"\[]{{0,256}}:(?!\d+/)(?:[^\s'\"]|{_QUOTE}){{0,2048}}@"
    # where a database is meant, digits and a slash may be a password's beginning
    rf"|(?:(?<=postgresql://)|(?<=postgres://)|(?<=psycopg2://)|(?<=psycopg://))"
    rf"[^/@:\s'\"\[]{{0,256}}:(?:[^?\s'\"]|{_QUOTE}){{0,2048}}@"
    # token@; not Azure's abfs://container@account, nor the user of a database or of sftp
    r"|(?<=https://)[^/@\s'\"]{0,2048}@|(?<=http://)[^/@\s'\"]{0,2048}@"
)
_QUERY = re.compile(
    r"(?<=[?&#;])(?P<name>[^=&#;?/\s'\"<>]{1,120})="
    r"(?P<value>'[^'\s]*'|\"[^\"\s]*\"|[^&#;\s'\"<>]*)"
)
_QUERY_WITHIN = re.compile(
    r"(?i)(?:(?<=%3F)|(?<=%26)|(?<=%23))(?P<name>[^=%&#;?/\s'\"<>]{1,120})%3D"
    r"(?P<value>(?:(?!%26|%23)[^&#;\s'\"<>])*)"
)
"""The query of a URL that is a parameter of another."""
_PAIR = re.compile(
    rf"(?i)(?<![\w.-])(?P<q>['\"]?)(?P<name>{_NAMED})(?P=q)\s*(?P<is>[=:])\s*"
    r"(?P<value>b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\"|[^\s,;&'\"}\])>]+)"
)
_HEADER = re.compile(
    r"(?i)\b(authorization\W{1,4}(?:bearer|basic|token)?\s*"
    r"|(?:x-[\w-]{0,40}(?:key|token)|(?:set-)?cookie)['\"]?:\s*['\"]?)[^\s'\"]+"
)
_PEM = re.compile(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL)
_MOVES = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_CONTROL = re.compile(rf"[\n\t{_MOVES}]+")
_UNSAFE = re.compile(rf"[{_MOVES}]+")


def masked(text: str) -> str:
    """A text with ``***`` for every secret in it.

    Known are users and passwords of URLs, parameters of their queries and fragments that are named
    like secrets (``token``, ``sig``, ``X-Amz-Signature`` ..., also percent-encoded),
    ``password=...`` as libpq and drivers write it, headers with keys, and private keys.
    """
    text = _USER.sub(f"{_MASK}@", _PEM.sub(rf"\1{_MASK}\2", text))
    text = _QUERY_WITHIN.sub(_without_parameter, _QUERY.sub(_without_parameter, text))
    return _HEADER.sub(rf"\1{_MASK}", _PAIR.sub(_without_value, text))


def _is_secret(parameter: re.Match[str]) -> bool:
    name = unicodedata.normalize("NFKC", unquote(parameter["name"]))
    return _IN_QUERY.fullmatch(name) is not None


def _without_parameter(parameter: re.Match[str]) -> str:
    whole = parameter[0]
    if not _is_secret(parameter):
        return whole
    return whole[: parameter.start("value") - parameter.start()] + _MASK


def _parameters(url: str) -> Iterator[str]:
    """The values of parameters that are secrets."""
    for pattern in (_QUERY, _QUERY_WITHIN):
        yield from (found["value"] for found in pattern.finditer(url) if _is_secret(found))


def _without_value(pair: re.Match[str]) -> str:
    # `token: 3` in a sentence is no secret, `"token": "3"` may be one
    if pair["is"] == ":" and not pair["q"]:
        return pair[0]
    whole = pair[0]
    return whole[: pair.start("value") - pair.start()] + _MASK


def holds_secret(url: str) -> bool:
    """Whether a URL holds a user's password, a token or a signature."""
    return bool(_USER.search(url)) or any(True for _ in _parameters(url))


def secrets_in(url: str) -> list[str]:
    """The secret parts of a URL: its password, or token, and such parameters, as they stand."""
    users = [found[0][:-1].partition(":")[2] or found[0][:-1] for found in _USER.finditer(url)]
    values = [*users, *_parameters(url)]
    return [text for value in values for text in {value, unquote(value)} if text]


def one_line(text: str) -> str:
    """A text on one line, without control characters."""
    return _CONTROL.sub(" ", text)


def without_nul(text: str) -> str:
    """A message as the catalog and manifests can store it."""
    return text.replace("\x00", " ")


def harmless(text: str) -> str:
    """A message as a terminal or a log may show it: masked, its lines kept, nothing that moves."""
    return _UNSAFE.sub(" ", masked(text))


class MaskingFormatter(logging.Formatter):
    """Log lines, with their tracebacks, as ``harmless`` has them.

    A message is one line: names of files are strangers' words, and might look like lines of a log.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself, without a traceback."""
        return one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """The whole line."""
        return harmless(super().format(record))


def traceback_of(error: BaseException) -> str:
    """An error's traceback, ``harmless``."""
    return harmless("".join(traceback.format_exception(error)))
