"""A folder of images with captions beside them, or in one jsonl or csv file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sscd_ops.core.shard_plan import IMAGE_EXTENSIONS
from sscd_ops.errors import PUT_BACK, SourceChanged
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.sources import files, places
from sscd_ops.sources.contents import caption_bytes, json_bytes

_BESIDE = ("txt", "json")
_LONGEST_FIELD = 1 << 27


@dataclass
class _Captions:
    """The rows of a captions file. ``rows`` is by number from 1, ``of`` by file name.

    ``bad``, ``again``: how many are no row, or name a file that one before them names.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    of: dict[str, int] = field(default_factory=dict)
    bad: int = 0
    again: int = 0
    fault: tuple[Fault, str] | None = None


class FolderSource:
    """A folder listing is one source shard; its version changes when any file's does.

    Keys are relative paths without the extension. Captions come from ``.txt`` and ``.json`` files
    beside the images, or from ``captions_file``, whose row becomes the sample's txt and json where
    it has none beside it. Such a member's offset is the row's number, that of a file 0.

    Args:
        options: the source; its URLs are folders.
        limits: sizes.
    """

    def __init__(self, options: SourceOptions, limits: LimitsOptions) -> None:
        self.name = options.name
        self.root = places.resolve_root(options)
        self._options = options
        self._limits = limits

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """One shard for each folder of the interval that has files, sorted by relative URI."""
        found: dict[str, FoundShard] = {}
        for pattern in self._options.urls:
            for url in places.expand(pattern, interval, timezone):
                for folder in files.folders(url) if places.has_magic(url) else [url]:
                    shard = self._found(files.canonical(folder))
                    if shard is not None:
                        found[shard.relative_uri] = shard
        return [found[name] for name in sorted(found)]

    def _found(self, folder: str) -> FoundShard | None:
        listed = files.below(folder)
        if not listed:
            return None
        name = places.relative(folder, self.root, self.name)
        size = sum(file.size for file in listed)
        return FoundShard(self.name, folder, name, size, self._version(folder, listed))

    def _version(self, folder: str, listed: Sequence[files.Listed]) -> str:
        """A digest of the listing, and of a captions file that lies elsewhere."""
        digest = hashlib.sha256()
        captions = self._captions_url(folder)
        if captions and not any(file.url == captions for file in listed):
            found = files.file(captions)
            listed = [*listed, *([found] if found else [])]
        for file in listed:
            name = file.url.removeprefix(f"{folder}/")
            digest.update(f"{name}\0{file.size}\0{file.version}\n".encode())
        return digest.hexdigest()

    def ready(self, interval: Interval, timezone: str) -> str | None:
        """None when the interval's data may be read, else the URL that is waited for."""
        return places.missing_marker(self._options, interval, timezone)

    # ------------------------------------------------------------ reading

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Every image of the folder as a sample, then the end."""
        listed = self._unchanged(shard)
        captions = self._captions(shard.uri)
        ignored: dict[str, int] = {}
        count = with_row = 0
        if captions.fault is None:
            beside = {_lower_extension(file.url): file for file in listed}
            seen: dict[str, int] = {}
            for file in listed:
                extension = file.url.rpartition(".")[2].lower()
                if extension in IMAGE_EXTENSIONS:
                    yield self._sample(shard, file, beside, captions, seen)
                    count += 1
                    with_row += file.url[len(shard.uri) + 1 :] in captions.of
                elif extension not in _BESIDE and file.url != self._captions_url(shard.uri):
                    ignored["other_file"] = ignored.get("other_file", 0) + 1
            ignored |= {
                "caption_row": captions.bad,
                "caption_row_again": captions.again,
                "caption_row_without_image": len(captions.of) - with_row,
            }
        empty = None if count else (Fault.EMPTY_SHARD, "the folder holds no image")
        left_out = {kind: number for kind, number in ignored.items() if number}
        yield ShardEnd(captions.fault or empty, left_out)

    def _unchanged(self, shard: FoundShard) -> list[files.Listed]:
        listed = files.below(shard.uri)
        if shard.version and self._version(shard.uri, listed) != shard.version:
            raise SourceChanged(f"folder {shard.uri} changed since it was listed: {PUT_BACK}")
        return listed

    def _sample(
        self,
        shard: FoundShard,
        image: files.Listed,
        beside: dict[str, files.Listed],
        captions: _Captions,
        seen: dict[str, int],
    ) -> RawSample:
        stem = image.url.rpartition(".")[0]
        key = stem[len(shard.uri) + 1 :]
        occurrence = seen.get(key, 0)
        seen[key] = occurrence + 1
        fault = None
        if occurrence:
            fault = (Fault.DUPLICATE_KEY, f"{occurrence} images before have this name")
        row = captions.of.get(image.url[len(shard.uri) + 1 :], 0)
        members = [self._member(shard, image)]
        for kind in _BESIDE:
            file = beside.get(f"{stem}.{kind}")
            made = _made(captions.rows[row - 1], kind) if row else None
            if file is not None:
                members.append(self._member(shard, file))
            elif made is not None:
                members.append(Member(f"{key}.{kind}", kind, row, len(made), made))
        return RawSample(key, occurrence, members, fault)

    def _member(self, shard: FoundShard, file: files.Listed) -> Member:
        name = file.url[len(shard.uri) + 1 :]
        extension = name.rpartition(".")[2].lower()
        if file.size > self._limits.max_member_bytes:
            return Member(name, extension, 0, file.size, b"")
        data = files.content(file.url)
        return Member(name, extension, 0, len(data), data)

    # ------------------------------------------------------------ captions in one file

    def _captions_url(self, folder: str) -> str:
        name = self._options.captions_file
        if not name:
            return ""
        elsewhere = "://" in name or name.startswith("/")
        return files.canonical(name) if elsewhere else f"{folder}/{name}"

    def _captions(self, folder: str) -> _Captions:
        url = self._captions_url(folder)
        if not url:
            return _Captions()
        try:
            text = files.content(url).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        except SourceChanged:
            return _Captions(fault=(Fault.UNREADABLE_SHARD, f"captions_file {url!r} is not there"))
        return _by_csv(text) if url.lower().endswith(".csv") else _by_lines(text)

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes, file by file; made again where they come from the captions file."""
        captions: _Captions | None = None
        for member in members:
            if not member.offset:
                yield files.content(f"{shard.uri}/{member.name}")
                continue
            captions = captions or self._captions(shard.uri)
            kind = member.name.rpartition(".")[2]
            made = None
            if member.offset <= len(captions.rows):
                made = _made(captions.rows[member.offset - 1], kind)
            if made is None:
                raise SourceChanged(
                    f"{self._captions_url(shard.uri)} no longer has the row of {member.name!r}:"
                    f" {PUT_BACK}"
                )
            yield made


def _lower_extension(url: str) -> str:
    stem, dot, extension = url.rpartition(".")
    return stem + dot + extension.lower()


def _add(captions: _Captions, row: Any) -> None:
    """Take a row.

    Raises:
        ValueError: no json can be made of it.
    """
    name = row.get("file_name") if isinstance(row, dict) else None
    if not isinstance(name, str):
        captions.bad += 1
        return
    json_bytes(row)
    captions.rows.append(row)
    if captions.of.setdefault(name, len(captions.rows)) != len(captions.rows):
        captions.again += 1


def _by_lines(text: str) -> _Captions:
    captions = _Captions()
    for line in text.split("\n"):
        if line.strip():
            try:
                _add(captions, json.loads(line))
            except (ValueError, RecursionError):
                captions.bad += 1
    return captions


def _by_csv(text: str) -> _Captions:
    captions = _Captions()
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            row.pop(None, None)
            _add(captions, row)
    except csv.Error as error:
        captions.fault = Fault.UNREADABLE_SHARD, f"captions_file: {error}"
    return captions


def _made(row: dict[str, Any], kind: str) -> bytes | None:
    """The txt or json that a row of the captions file gives a sample."""
    if kind == "json":
        return json_bytes(row)
    caption = next((row[name] for name in ("caption", "text") if row.get(name) is not None), None)
    return None if caption is None else caption_bytes(caption)
