"""A folder of images with captions beside them, or in one jsonl or csv file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sscd_ops.errors import ConfigError, SourceChanged, StoreUnavailable
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.sources import places

_IMAGES = frozenset(
    {"jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "jp2", "jfif"}
)
_BESIDE = ("txt", "json")


class FolderSource:
    """A folder listing is one source shard; its version changes when any file's does.

    Keys are relative paths without the extension. Captions come from ``.txt`` and ``.json`` files
    beside the images, or from ``captions_file``, whose row becomes the sample's txt and json.

    Args:
        options: the source; its URLs are folders.
        limits: sizes.
    """

    def __init__(self, options: SourceOptions, limits: LimitsOptions) -> None:
        self.name = options.name
        self.root = places.resolve_root(
            options if options.root else _with_roots_of_folders(options)
        )
        self._options = options
        self._limits = limits

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """One shard for each folder of the interval that exists, sorted by relative URI."""
        found: dict[str, FoundShard] = {}
        for pattern in self._options.urls:
            for url in places.expand(pattern, interval, timezone):
                folder = url.rstrip("/")
                files = self._files(folder)
                if files:
                    name = self._relative(folder)
                    size = sum(file.size for file in files)
                    found[name] = FoundShard(self.name, folder, name, size, _version(files))
        return [found[name] for name in sorted(found)]

    def _relative(self, folder: str) -> str:
        return "." if folder == self.root else places.relative(folder, self.root, self.name)

    def _files(self, folder: str) -> list[places.Listed]:
        fs, path = places.filesystem(folder)
        try:
            found = fs.find(path, detail=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreUnavailable(f"{folder}: {error}") from error
        local = places.is_local(fs)
        return [
            places.Listed(
                name if local else str(fs.unstrip_protocol(name)),
                int(info["size"] or 0),
                places.version_of(info),
            )
            for name, info in sorted(found.items())
            if info.get("type") == "file" and places.is_finished(name)
        ]

    def ready(self, interval: Interval, timezone: str) -> str | None:
        """None when the interval's data may be read, else the URL that is waited for."""
        return places.missing_marker(self._options, interval, timezone)

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Every image of the folder as a sample, then the end."""
        files = self._unchanged(shard)
        captions = self._captions(shard)
        beside = {file.url: file for file in files}
        seen: dict[str, int] = {}
        count = other = 0
        for file in files:
            stem, _, extension = file.url.rpartition(".")
            if extension.lower() not in _IMAGES:
                other += extension.lower() not in _BESIDE
                continue
            key = stem[len(shard.uri) + 1 :]
            occurrence = seen.get(key, 0)
            seen[key] = occurrence + 1
            fault = None
            if occurrence:
                fault = (Fault.DUPLICATE_KEY, f"{occurrence} images before have this name")
            members = [self._member(shard, file)]
            members += [
                self._member(shard, beside[f"{stem}.{kind}"])
                for kind in _BESIDE
                if f"{stem}.{kind}" in beside
            ]
            name = file.url[len(shard.uri) + 1 :]
            members += _made(key, captions.get(name), {m.extension for m in members})
            yield RawSample(key, occurrence, members, fault)
            count += 1
        fault = None if count else (Fault.EMPTY_SHARD, "the folder holds no image")
        yield ShardEnd(fault, {"other_file": other} if other else {})

    def _unchanged(self, shard: FoundShard) -> list[places.Listed]:
        files = self._files(shard.uri)
        version = _version(files)
        if version != shard.version:
            raise SourceChanged(
                f"folder {shard.uri} changed since it was listed: put the original back, or abandon"
                " the batch and run its night again"
            )
        return files

    def _member(self, shard: FoundShard, file: places.Listed) -> Member:
        name = file.url[len(shard.uri) + 1 :]
        extension = name.rpartition(".")[2].lower()
        large = file.size > self._limits.max_member_bytes
        data = b"" if large else _bytes(file.url)
        return Member(name, extension, 0, file.size if large else len(data), data)

    def _captions(self, shard: FoundShard) -> dict[str, dict[str, Any]]:
        """File name -> row of the captions file."""
        name = self._options.captions_file
        if not name:
            return {}
        url = name if "://" in name or name.startswith("/") else f"{shard.uri}/{name}"
        try:
            text = _bytes(url).decode("utf-8-sig")
        except SourceChanged as error:
            raise ConfigError(
                f"source {self.name!r}: captions_file {url!r} is not there"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"source {self.name!r}: captions_file {url!r}: {error}") from error
        return {row["file_name"]: row for row in _caption_rows(url, text) if "file_name" in row}

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes, file by file; made again where they come from the captions file."""
        captions = self._captions(shard)
        for member in members:
            if member.name.startswith("\x00"):
                raise SourceChanged(f"{shard.uri}: {member.name!r}")
            stem, _, extension = member.name.rpartition(".")
            if extension in _BESIDE and captions:
                made = _made_for(stem, extension, captions)
                if made is not None:
                    yield made
                    continue
            yield _bytes(f"{shard.uri}/{member.name}")


def _with_roots_of_folders(options: SourceOptions) -> SourceOptions:
    from dataclasses import replace

    return replace(options, urls=tuple(url.rstrip("/") + "/" for url in options.urls))


def _version(files: Sequence[places.Listed]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.url.rpartition('/')[2]}\0{file.size}\0{file.version}\n".encode())
    return digest.hexdigest()


def _bytes(url: str) -> bytes:
    fs, path = places.filesystem(url)
    try:
        with fs.open(path, "rb") as stream:
            return bytes(stream.read())
    except FileNotFoundError as error:
        raise SourceChanged(f"{url} is gone") from error
    except OSError as error:
        raise StoreUnavailable(f"{url}: {error}") from error


def _caption_rows(url: str, text: str) -> Iterator[dict[str, Any]]:
    if url.lower().endswith(".csv"):
        yield from csv.DictReader(io.StringIO(text))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"captions_file {url!r}, line {number}: {error}") from error
        if isinstance(row, dict):
            yield row


def _caption_of(row: dict[str, Any]) -> str | None:
    for name in ("caption", "text"):
        if row.get(name) is not None:
            return str(row[name])
    return None


def _made(key: str, row: dict[str, Any] | None, taken: set[str]) -> list[Member]:
    """The txt and json that the captions file gives a sample."""
    if row is None:
        return []
    members = []
    for extension in _BESIDE:
        data = _content(row, extension)
        if extension not in taken and data is not None:
            members.append(Member(f"{key}.{extension}", extension, 0, len(data), data))
    return members


def _content(row: dict[str, Any], extension: str) -> bytes | None:
    if extension == "txt":
        caption = _caption_of(row)
        return None if caption is None else caption.encode("utf-8", "surrogatepass")
    return json.dumps(row, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _made_for(stem: str, extension: str, captions: dict[str, dict[str, Any]]) -> bytes | None:
    for name, row in captions.items():
        if name.rpartition(".")[0] == stem:
            return _content(row, extension)
    return None
