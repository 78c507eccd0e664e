"""WebDataset tars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

from sscd_ops.errors import PUT_BACK, BrokenShard, SourceChanged
from sscd_ops.model import (
    Fault,
    FoundShard,
    Interval,
    Member,
    MemberRef,
    RawSample,
    ShardEnd,
    TarEntry,
)
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.ports import ReadTar
from sscd_ops.sources import files, places
from sscd_ops.sources.grouping import Grouper, split_name
from sscd_ops.sources.links import Links, Spool
from sscd_ops.sources.ranges import ranges

_GZIP = b"\x1f\x8b"


class WebDatasetSource:
    """Tars of adjacent members, ``<key>.<extension>``; also compressed with gzip.

    Args:
        options: the source.
        limits: members and their sizes.
        read_tar: the tar reader.
    """

    def __init__(self, options: SourceOptions, limits: LimitsOptions, read_tar: ReadTar) -> None:
        self.name = options.name
        self.root = places.resolve_root(options)
        self._options = options
        self._limits = limits
        self._read_tar = read_tar

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """The interval's tars, sorted by relative URI."""
        return places.find(self._options, self.root, interval, timezone)

    def ready(self, interval: Interval, timezone: str) -> str | None:
        """None when the interval's data may be read, else the URL that is waited for."""
        return places.missing_marker(self._options, interval, timezone)

    def version(self, shard: FoundShard) -> str | None:
        """The version of a file as it is now; None where it is gone."""
        return files.version(shard.uri)

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Stream the samples of a tar, then its end."""
        grouper = Grouper(self._limits.max_members)
        ignored: dict[str, int] = {}
        samples = 0
        fault: tuple[Fault, str] | None = None
        with files.opened(shard) as stream, Spool() as spool:
            try:
                for key, member in self._members(shard, stream, spool, ignored):
                    if isinstance(member, str):
                        grouper.lack(key, member)
                        continue
                    sample = grouper.add(key, member)
                    if sample is not None:
                        samples += 1
                        yield sample
            except BrokenShard as broken:
                fault = Fault(broken.code), _said(broken, grouper)
        last = grouper.close()
        if last is not None:
            samples += 1
            yield last
        if fault is None and not samples:
            fault = Fault.EMPTY_SHARD, "the archive holds no sample"
        yield ShardEnd(fault, ignored)

    def _members(
        self, shard: FoundShard, stream: BinaryIO, spool: Spool, ignored: dict[str, int]
    ) -> Iterator[tuple[str, Member | str]]:
        """Members by key; of one whose bytes are not there, why."""
        limit = self._limits.max_member_bytes
        links = Links(spool, lambda limit: self._again(shard, limit), limit)
        gz = _is_gzip(stream)
        for entry in self._read_tar(stream, gz=gz, max_member_bytes=limit, ignored=ignored):
            key, extension = split_name(entry.name)
            if entry.kind != "file":
                found = links.follow(entry) if entry.kind == "link" and extension else None
                if found is None:
                    ignored[entry.kind] = ignored.get(entry.kind, 0) + 1
                    if extension and entry.kind != "directory":
                        yield key, _why_without_bytes(entry)
                    continue
                entry = found
            if not extension:
                ignored["no_extension"] = ignored.get("no_extension", 0) + 1
                continue
            yield key, Member(entry.name, extension, entry.offset, entry.size, entry.data)

    def _again(self, shard: FoundShard, limit: int) -> Iterator[TarEntry]:
        """The archive's entries up to where it breaks, which its first reading says."""
        with files.opened(shard) as stream, suppress(BrokenShard):
            yield from self._read_tar(stream, gz=_is_gzip(stream), max_member_bytes=limit)

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes by range; a compressed tar is streamed through."""
        if not members:
            return
        with files.opened(shard.any_version) as stream:
            if _is_gzip(stream):
                yield from self._stream(shard, stream, members)
            else:
                yield from ranges(stream, members, shard.uri)

    def _stream(
        self, shard: FoundShard, stream: BinaryIO, members: Sequence[MemberRef]
    ) -> Iterator[bytes]:
        behind = _wanted_behind(members)
        waiting = iter(members)
        wanted = next(waiting)
        try:
            with Spool() as spool:
                for entry in self._read_tar(
                    stream, gz=True, max_member_bytes=self._limits.max_member_bytes
                ):
                    if entry.kind == "file" and entry.offset in behind:
                        spool.put(entry.offset, entry.data)
                    while wanted.offset in spool or (
                        entry.kind == "file" and entry.offset == wanted.offset
                    ):
                        at = wanted.offset
                        yield entry.data if at == entry.offset else spool.get(at)
                        following = next(waiting, None)
                        if following is None:
                            return
                        wanted = following
        except BrokenShard as broken:
            raise SourceChanged(f"{shard.uri}: {broken.message}: {PUT_BACK}") from broken
        raise SourceChanged(f"{shard.uri} no longer has member {wanted.name!r}: {PUT_BACK}")


def _wanted_behind(members: Sequence[MemberRef]) -> set[int]:
    """Offsets that are wanted once the stream has passed them: what links stand for."""
    answer, last = set(), 0
    for member in members:
        if member.offset < last:
            answer.add(member.offset)
        last = max(last, member.offset)
    return answer


def _said(broken: BrokenShard, grouper: Grouper) -> str:
    """What to say of a shard that broke, after leaving out the sample it broke in."""
    lost = "" if broken.ended else grouper.cut(broken.member, between=broken.between)
    if not lost:
        return broken.message
    return f"{broken.message}; its sample {lost[:300]!r} is left out: deliver the whole file"


def _why_without_bytes(entry: TarEntry) -> str:
    name = entry.name[:300]
    if entry.kind == "link":
        where = "the archive" if entry.is_symbolic else "the archive before it"
        return f"member {name!r} is a link to {entry.target[:300]!r}, which is no file of {where}"
    if entry.kind == "device":
        return f"member {name!r} is a device, not a file"
    return f"member {name!r} is a sparse file, or of a kind that is not read: pack it anew"


def _is_gzip(stream: BinaryIO) -> bool:
    """By the first bytes: a name may belie what a file is."""
    head = stream.read(len(_GZIP))
    stream.seek(0)
    return head == _GZIP
