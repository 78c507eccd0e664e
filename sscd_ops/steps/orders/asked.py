"""What a person asks for, in one form: two spellings of one demand are one order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from sscd_ops.catalog.orders import Subject
from sscd_ops.core import urls
from sscd_ops.errors import UsageError
from sscd_ops.model import Person
from sscd_ops.options import DatasetOptions
from sscd_ops.steps.manage import need_reason

Scope = Literal["only-these", "and-copies"]

_MOST_SHOWN = 5
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_COLUMN = re.compile(r"(?i)url\Z|image_?url\Z")


@dataclass(frozen=True)
class Withdrawal:
    """A withdrawal as it is asked for.

    ``subjects``: in order, each once. ``key``: given by hand; empty: it follows from the rest.
    ``flags``: ``purge``, ``forget``, as they were asked for. ``pictures``: name and bytes of files.
    """

    dataset: str
    scope: Scope
    subjects: Sequence[Subject]
    who: Person
    why: str
    key: str = ""
    flags: Sequence[str] = ()
    pictures: Sequence[tuple[str, bytes]] = ()

    @property
    def request(self) -> dict[str, Any]:
        """What the order's row says of it."""
        return {"scope": self.scope, **dict.fromkeys(sorted(self.flags), True)}

    @property
    def client_key(self) -> str:
        """By which the same command finds its order again: verb, scope and subjects."""
        if self.key:
            return f"key {hashlib.sha256(self.key.encode()).hexdigest()}"  # it may be personal
        digest = hashlib.sha256(json.dumps(["withdraw", self.request]).encode())
        for subject in self.subjects:
            digest.update(subject.kind.encode() + b"\0" + subject.digest)
        return f"withdraw {digest.hexdigest()}"


def withdrawal(
    options: DatasetOptions,
    *,
    scope: Scope,
    who: Person,
    why: str,
    ids: Iterable[str] = (),
    sha256: Iterable[str] = (),
    url_list: Iterable[str] = (),
    domains: Iterable[str] = (),
    sources: Iterable[str] = (),
    pictures: Iterable[tuple[str, bytes]] = (),
    key: str = "",
    flags: Sequence[str] = (),
) -> Withdrawal:
    """What is to be withdrawn, each subject in its normal form.

    Args:
        options: the dataset's.
        scope: ``only-these`` samples, or the pictures with all copies of them.
        who: asks.
        why: the ground.
        ids: sample_ids.
        sha256: of images, as 64 hex digits.
        url_list: URLs.
        domains: such as ``example.org``, which cover their subdomains.
        sources: names of the dataset's sources.
        pictures: name and bytes of picture files.
        key: by which the order is found again; empty: it follows from what is asked.
        flags: ``purge``, ``forget``.

    Raises:
        UsageError: nothing is named; an id, digest, URL, domain or source is none.
    """
    need_reason(who.actor, why)
    files = list(pictures)
    subjects = [
        *(_id(text) for text in ids),
        *(_sha256(text) for text in sha256),
        *_urls(options, url_list),
        *(_domain(options, text) for text in domains),
        *(_source(options, name) for name in sources),
        *(Subject("picture", hashlib.sha256(data).digest(), name) for name, data in files),
    ]
    if not subjects:
        raise UsageError(
            "nothing is named: give ids of samples, --sha256, --url-list, --domain, --source or"
            " --picture"
        )
    distinct = {(subject.kind, subject.digest): subject for subject in subjects}
    in_order = [distinct[name] for name in sorted(distinct)]
    return Withdrawal(options.name, scope, in_order, who, why.strip(), key, flags, files)


def _id(text: str) -> Subject:
    try:
        number = UUID(text.strip())
    except ValueError as error:
        raise UsageError(
            f"{text[:100]!r} is no sample_id: give 32 hex digits, as `sscd-ops explain` and"
            " published keys show them"
        ) from error
    return Subject("id", number.bytes, str(number))


def _sha256(text: str) -> Subject:
    digest = text.strip().lower()
    if not _SHA256.match(digest):
        raise UsageError(f"{text[:100]!r} is no sha256: give 64 hex digits")
    return Subject("sha256", bytes.fromhex(digest), digest)


def _urls(options: DatasetOptions, given: Iterable[str]) -> list[Subject]:
    texts = [text for text in given if text.strip()]
    read = [(text, urls.read_url(text)) for text in texts]
    wrong = [text for text, url in read if url is None]
    if wrong:
        shown = ", ".join(repr(text[:100]) for text in wrong[:_MOST_SHOWN])
        raise UsageError(
            f"{len(wrong)} of {len(texts)} are no URLs, such as {shown}: each begins with http://"
            " or https://; nothing was drafted"
        )
    if texts:
        _need_url(options, "URLs")
    return [Subject("url", url.sha256, url.text) for _, url in read if url is not None]


def _domain(options: DatasetOptions, text: str) -> Subject:
    domain = urls.read_domain(text)
    _need_url(options, f"domain {domain}")
    return Subject("domain", urls.digest(domain), domain, urls.reverse(domain))


def _need_url(options: DatasetOptions, what: str) -> None:
    """Refuse what could not be searched in any source: it would find nothing, and stop nothing."""
    if not any(source.url_path for source in options.sources):
        raise UsageError(
            f"no source of dataset {options.name!r} delivers URLs, so {what} cannot be searched:"
            f' set url in [[datasets.{options.name}.sources]], such as url = "json:url"'
        )


def _source(options: DatasetOptions, name: str) -> Subject:
    known = sorted(source.name for source in options.sources)
    if name not in known:
        raise UsageError(
            f"dataset {options.name!r} has no source {name!r}; it has: {', '.join(known)}. One that"
            " was taken out of the configuration is put back to withdraw its samples"
        )
    return Subject("source", urls.digest(name), name)


def read_url_list(path: Path) -> list[str]:
    """The URLs of a file: one a line, or the column ``url`` of a csv.

    Raises:
        UsageError: it cannot be read, names no URL, or is a csv without such a column, or with
            lines that lack it.
    """
    import csv

    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise UsageError(f"{path} is empty: nothing was drafted")
    if urls.read_url(lines[0]) is not None:  # no header: one a line
        if path.suffix.lower() == ".csv" and any("," in line for line in lines):
            # a comma is a character of URLs: with it the rule would never match
            raise UsageError(
                f"{path} is a csv whose first line, {lines[0][:100]!r}, names no columns: write"
                " them above it, one of them url; or give one URL a line in a .txt"
            )
        return lines
    table = list(csv.reader(lines))
    named = [at for at, name in enumerate(table[0]) if _COLUMN.match(name.strip())]
    if len(named) != 1:
        raise UsageError(
            f"{path} begins with {lines[0][:100]!r}: give one URL a line, or a csv whose header has"
            " a column url"
        )
    short = [number for number, line in enumerate(table[1:], 2) if len(line) <= named[0]]
    if short:
        raise UsageError(
            f"{path}: line {short[0]} has no column url, as {len(short)} have not: nothing was"
            " drafted"
        )
    found = [line[named[0]] for line in table[1:]]
    if not any(text.strip() for text in found):
        raise UsageError(f"{path} has no URL in its column url: nothing was drafted")
    return found
