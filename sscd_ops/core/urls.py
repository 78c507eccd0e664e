"""URLs of pictures: one form for each, its digest, and the domains that cover its host. Pure.

Withdrawals name URLs and domains; two spellings of one address are one address. ``http`` and
``https`` are one. User and password are dropped: they say nothing of where a picture is, and a rule
must not be slipped past with them. So are default ports and fragments. Hosts are lower case and in
punycode, as browsers do it (UTS 46, nontransitional: ``straße`` is not ``strasse``).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, NamedTuple

from sscd_ops.errors import UsageError

_LONGEST_HOST = 253
_PARTS = re.compile(r"https?://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
_BLANK = "".join(map(chr, range(33)))
"""What browsers drop at both ends."""
_GAPS = str.maketrans("", "", "\t\r\n")
"""What they drop anywhere."""
_PORTS = (80, 443)

_MEANT_ALIKE = "A-Za-z0-9\\-._~!'()*,:@"
"""Characters that mean the same escaped: unreserved by RFC 3986 or 2396, and ``, : @``, which
neither paths nor queries give a meaning of their own."""
_SAFE = re.compile(f"[{_MEANT_ALIKE}$&+;=/?]*")
_ESCAPED = re.compile(f"%([0-9A-Fa-f]{{2}})|[^{_MEANT_ALIKE}$&+;=/?]")
_IS_MEANT_ALIKE = re.compile(f"[{_MEANT_ALIKE}]")
_USUAL = re.compile(
    r"https?(://((?:[a-z0-9_-]{1,63}\.)+[a-z][a-z0-9-]{0,62})"
    f"/[{_MEANT_ALIKE}$&+;=/]*(?:\\?[{_MEANT_ALIKE}$&+;=/?]+)?)"
)
"""What is in normal form already, but for its scheme and for dots: nearly every URL of a crawl."""

_LABEL = re.compile("[a-z0-9_-]{1,63}")
_FULL_STOPS = re.compile("[\u3002\uff0e\uff61]")
_IGNORED = re.compile("[\u00ad\u200b\u2060\ufe00-\ufe0f\ufeff]")
"""Invisible characters, which names do without."""


class Url(NamedTuple):
    """An address.

    ``text``: its normal form. ``host``: its labels reversed, ``org.example.www.``; of an IP address
    ``[127.0.0.1].``, which no domain covers.
    """

    text: str
    host: str

    @property
    def sha256(self) -> bytes:
        """32 bytes, by which it is known."""
        return digest(self.text)


def digest(value: str) -> bytes:
    """The sha256 of a normalised URL, domain or source's name: 32 bytes."""
    return hashlib.sha256(value.encode()).digest()


def read_url(value: Any) -> Url | None:
    """The address that a value is; None where it is no text, or no address of the web."""
    if not isinstance(value, str):
        return None
    # a tenth of the time that ingest takes, if each were taken apart
    usual = _USUAL.fullmatch(value)
    if usual is not None and "/." not in value and len(usual[2]) <= _LONGEST_HOST:
        return Url(f"https{usual[1]}", reverse(usual[2]))
    return _read(value)


def _read(value: str) -> Url | None:
    """Whatever the address looks like."""
    found = _PARTS.fullmatch(value.strip(_BLANK).translate(_GAPS).partition("#")[0])
    if found is None:
        return None
    authority, path, query = found.groups()
    host, port = _split(authority.rpartition("@")[2])
    name = _host(host)
    if name is None or port is None or (path and path[0] != "/"):
        return None
    path = _without_dots(_escaped(path)) or "/"
    asked = f"?{_escaped(query)}" if query else ""
    return Url(f"https://{name}{port}{path}{asked}", reverse(name))


def read_domain(text: str) -> str:
    """The domain that a person means, in normal form: ``example.org``.

    ``*.example.org``, ``Example.ORG.`` and ``https://example.org/`` mean it too.

    Raises:
        UsageError: it is none, or as wide as a top-level domain; says what to give.
    """
    given = text.strip(_BLANK)
    bare = re.sub(r"\Ahttps?://", "", given, flags=re.IGNORECASE).removesuffix("/")
    shown = repr(given[:100])
    if re.search(r"[/?#]", bare):
        raise UsageError(
            f"{shown} is the address of a page, not a domain: give its host alone, as in"
            " example.org, or the address as a URL"
        )
    if "@" in bare:
        raise UsageError(f"{shown} is no domain: give what stands after the @")
    host, port = _split(bare.removeprefix("*."))
    if port != "":
        raise UsageError(f"{shown} names a port: give the host alone, which covers all of them")
    name = _host(host)
    if name is None:
        raise UsageError(f"{shown} is no domain: give one such as example.org")
    if "." not in name and name[0] != "[":
        raise UsageError(
            f"{shown} has one label, and would cover all names below it: give a whole domain, such"
            " as example.org"
        )
    return name


@lru_cache(maxsize=4096)
def reverse(host: str) -> str:
    """A host's labels in reverse order, each with a dot after it."""
    if host[0] == "[" or host.rpartition(".")[2].isdigit():
        return f"[{host.strip('[]')}]."
    return ".".join(reversed(host.split("."))) + "."


def covers(domain: str, host: str) -> bool:
    """Whether a domain covers a host: it is its host, or one below it. Both are reversed."""
    return host.startswith(domain)


def covering(host: str) -> list[str]:
    """The domains that cover a reversed host, the widest first: ``org.``, ``org.example.`` ..."""
    if host[0] == "[":
        return [host]
    return [host[: dot.end()] for dot in re.finditer(r"\.", host)]


def _split(authority: str) -> tuple[str, str | None]:
    """Host, and port as it is shown (empty where it is a default one); None where it is none."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority, ""
    if not port:
        return host, ""
    if not (port.isascii() and port.isdigit() and len(port) < 20 and int(port) < 2**16):
        return host, None
    return host, "" if int(port) in _PORTS else f":{int(port)}"


def _host(host: str) -> str | None:
    """A host's normal form; None where it cannot be one."""
    if host.startswith("["):
        return _ip6(host)
    try:
        labels = _labels(host)
    except UnicodeError:
        return None
    name = ".".join(labels)
    if len(name) > _LONGEST_HOST or not all(map(_LABEL.fullmatch, labels)):
        return None
    return _ip4(name) if labels[-1].isdigit() else name


def _labels(host: str) -> list[str]:
    """In lower case and punycode.

    Raises:
        UnicodeError: it has characters that are none, or far too many.
    """
    if "%" in host:
        host = _unescaped(host)
    if not host.isascii():
        host = unicodedata.normalize("NFKC", _FULL_STOPS.sub(".", host))
        host = _IGNORED.sub("", host)
        if len(host) > _LONGEST_HOST:  # punycode takes the square of it
            raise UnicodeError("too long")
    labels = host.lower().removesuffix(".").split(".")
    return [label if label.isascii() else _punycode(label) for label in labels]


def _punycode(label: str) -> str:
    # what lower case made of it is composed again: as browsers do, İ and I with a dot are one
    return f"xn--{unicodedata.normalize('NFC', label).encode('punycode').decode()}"


def _ip4(name: str) -> str | None:
    try:
        return str(IPv4Address(name))
    except AddressValueError:
        return None


def _ip6(host: str) -> str | None:
    if "%" in host or not host.endswith("]"):
        return None
    try:
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    except AddressValueError:
        return None


def _unescaped(host: str) -> str:
    data = re.sub(
        rb"%([0-9A-Fa-f]{2})",
        lambda found: bytes([int(found[1], 16)]),
        host.encode("utf-8", "surrogatepass"),
    )
    return data.decode()


def _escaped(text: str) -> str:
    """Path or query with what must be escaped, and nothing else, in capital digits."""
    return text if _SAFE.fullmatch(text) else _ESCAPED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    if found[1]:
        character = chr(int(found[1], 16))
        return character if _IS_MEANT_ALIKE.match(character) else found[0].upper()
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


def _without_dots(path: str) -> str:
    """A path with its ``.`` and ``..`` followed, as browsers do (RFC 3986 5.2.4)."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
