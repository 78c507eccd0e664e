"""A folder of images with captions beside them, or in one file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sscd_ops.core.formats import IMAGE_EXTENSIONS, UNREAD_IMAGE_EXTENSIONS
from sscd_ops.errors import PUT_BACK, SourceChanged
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.sources import files, places
from sscd_ops.sources.captions import (
    Captions,
    match,
    no_caption,
    no_match,
    read_captions,
    too_large,
)

_BESIDE = ("txt", "json")


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
        found = files.below(folder)
        listed = found.files
        # hidden names are meant to be left out: a folder of such alone is an empty one
        if not listed and not found.left_out.keys() - {"hidden_file"}:
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

    def version(self, shard: FoundShard) -> str | None:
        """The version of a folder's listing as it is now; None where no file is left in it."""
        found = self._found(shard.uri)
        return None if found is None else found.version

    # ------------------------------------------------------------ reading

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Every image of the folder as a sample, then the end."""
        found = self._unchanged(shard)
        left_out = Counter(found.left_out)
        pictures, beside = self._sorted_out(shard, found.files, left_out)
        names = [file.url[len(shard.uri) + 1 :] for file in pictures]
        captions = self._captions(shard.uri)
        rows = match(captions, names, (shard.uri, self._between(shard.uri)))
        fault = self._fault(shard, captions, rows.row_of, names, beside)
        if fault is None:
            seen: dict[str, int] = {}
            for file, name in zip(pictures, names, strict=True):
                row = rows.row_of.get(name, 0)
                yield self._sample(shard, file, beside, captions, row, seen)
            left_out["caption_row_again"] = rows.again
            left_out["caption_row_without_image"] = rows.without_image
            left_out["caption_row_not_utf8"] = rows.not_utf8
            if self._options.captions_file and self._options.missing_caption == "keep":
                # else each of them is quarantined
                left_out["image_without_caption_row"] = len(names) - len(rows.row_of)
        left_out["caption_row"] = captions.bad
        yield ShardEnd(fault, dict(+left_out))

    def _unchanged(self, shard: FoundShard) -> files.Below:
        found = files.below(shard.uri)
        if shard.version and self._version(shard.uri, found.files) != shard.version:
            raise SourceChanged(f"folder {shard.uri} changed since it was listed: {PUT_BACK}")
        return found

    def _sorted_out(
        self, shard: FoundShard, listed: Sequence[files.Listed], left_out: Counter[str]
    ) -> tuple[list[files.Listed], dict[str, files.Listed]]:
        """The pictures, and the files that may lie beside one, by URL with a small extension."""
        pictures, unread = [], []
        beside: dict[str, files.Listed] = {}
        captions = self._captions_url(shard.uri)
        for file in listed:
            extension = _extension(file.url)
            if file.url == captions:
                continue
            if extension in IMAGE_EXTENSIONS:
                pictures.append(file)
            elif extension in UNREAD_IMAGE_EXTENSIONS:
                unread.append(file)
            elif extension in _BESIDE:
                name = f"{_stem(file.url)}.{extension}"
                left_out["caption_file_again"] += name in beside
                beside[name] = file
            else:
                left_out["other_file"] += 1
        stems = {_stem(file.url) for file in pictures}
        # beside one that is read it is the same picture: a camera's original
        alone = [file for file in unread if _stem(file.url) not in stems]
        left_out["unread_image_beside"] = len(unread) - len(alone)
        pictures = sorted(pictures + alone, key=lambda file: file.url)
        stems.update(_stem(file.url) for file in alone)
        left_out["caption_file_without_image"] = sum(_stem(name) not in stems for name in beside)
        return pictures, beside

    def _fault(
        self,
        shard: FoundShard,
        captions: Captions,
        row_of: Mapping[str, int],
        names: Sequence[str],
        beside: Mapping[str, files.Listed],
    ) -> tuple[Fault, str] | None:
        """Why the folder is not read; None where it is."""
        why = captions.why
        if not why and not names:
            return Fault.EMPTY_SHARD, "the folder holds no image"
        if not why and self._options.captions_file:
            if not row_of:
                why = no_match(captions, names)
            elif self._options.missing_caption == "quarantine" and not beside:
                fields = [place.partition(":")[2] for place in self._options.caption]
                why = "" if captions.has_caption(fields) else no_caption(captions)
        if not why:
            return None
        return Fault.UNREADABLE_SHARD, f"captions_file {self._captions_url(shard.uri)!r}: {why}"

    def _sample(
        self,
        shard: FoundShard,
        image: files.Listed,
        beside: Mapping[str, files.Listed],
        captions: Captions,
        row: int,
        seen: dict[str, int],
    ) -> RawSample:
        stem = _stem(image.url)
        key = stem[len(shard.uri) + 1 :]
        occurrence = seen.get(key, 0)
        seen[key] = occurrence + 1
        fault = None
        if occurrence:
            fault = (Fault.DUPLICATE_KEY, f"{occurrence} images before have this name")
        members = [self._member(shard, image)]
        for kind in _BESIDE:
            file = beside.get(f"{stem}.{kind}")
            made = captions.made(row, kind) if file is None else None
            if file is not None:
                members.append(self._member(shard, file))
            elif made is not None:
                members.append(Member(f"{key}.{kind}", kind, row, len(made), made))
                if not captions.is_utf8 and fault is None:
                    fault = _of_bytes(made)
        return RawSample(key, occurrence, members, fault)

    def _member(self, shard: FoundShard, file: files.Listed) -> Member:
        name = file.url[len(shard.uri) + 1 :]
        extension = _extension(name)
        if file.size > self._limits.max_member_bytes:
            return Member(name, extension, 0, file.size, b"")
        data = files.content(file.url)
        return Member(name, extension, 0, len(data), data)

    # ------------------------------------------------------------ captions in one file

    def _captions_url(self, folder: str) -> str:
        return places.captions_url(self._options, folder)

    def _between(self, folder: str) -> str:
        """The way between the folder and the captions file's, to which names may be relative."""
        name = self._options.captions_file
        if not places.is_elsewhere(name):
            return name.rpartition("/")[0]
        above = self._captions_url(folder).rpartition("/")[0] + "/"
        return folder.removeprefix(above) if folder.startswith(above) else ""

    def _captions(self, folder: str) -> Captions:
        url = self._captions_url(folder)
        if not url:
            return Captions()
        limit = self._limits.max_member_bytes
        found = files.file(url)
        if found is not None and found.size > limit:
            return Captions(why=f"it has {too_large(limit)}")
        try:
            return read_captions(url, files.content(url), limit)
        except SourceChanged:
            return Captions(why="it is not there")

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes, file by file; made again where they come from the captions file."""
        captions: Captions | None = None
        for member in members:
            if not member.offset:
                yield files.content(f"{shard.uri}/{member.name}")
                continue
            captions = captions or self._captions(shard.uri)
            made = captions.made(member.offset, _extension(member.name))
            if made is None:
                raise SourceChanged(
                    f"{self._captions_url(shard.uri)} no longer has the row of {member.name!r}:"
                    f" {PUT_BACK}"
                )
            yield made


def _stem(url: str) -> str:
    return url.rpartition(".")[0]


def _extension(url: str) -> str:
    return url.rpartition(".")[2].lower()


def _of_bytes(made: bytes) -> tuple[Fault, str] | None:
    try:
        made.decode()
    except UnicodeDecodeError as error:
        return (
            Fault.CAPTION_NOT_UTF8,
            f"its row of the captions file is no UTF-8 ({error}): save that file as UTF-8",
        )
    return None
