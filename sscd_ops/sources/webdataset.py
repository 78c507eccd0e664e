"""WebDataset tars and the img2dataset layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow.compute as pc
import pyarrow.parquet as pq

from sscd_ops.errors import BrokenShard, SourceChanged
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.ports import ReadTar
from sscd_ops.sources import places
from sscd_ops.sources.grouping import Grouper, opened, split_name

_GZ = (".gz", ".tgz")
_RUN = 8 << 20
"""Bytes read at once while members are fetched."""
_GAP = 64 << 10
"""A gap up to this size is read through rather than skipped."""


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

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Stream the samples of a tar, then its end."""
        grouper = Grouper(self._limits.max_members)
        ignored: dict[str, int] = {}
        samples = 0
        fault: tuple[Fault, str] | None = None
        with opened(shard) as stream:
            try:
                for key, member in self._members(shard, stream, ignored):
                    for sample in grouper.add(key, member):
                        samples += 1
                        yield sample
            except BrokenShard as broken:
                fault = Fault(broken.code), broken.message
        for sample in grouper.close():
            samples += 1
            yield sample
        if fault is None and not samples:
            fault = Fault.EMPTY_SHARD, "the archive holds no sample"
        yield ShardEnd(fault, ignored, self._not_delivered(shard))

    def _members(
        self, shard: FoundShard, stream: BinaryIO, ignored: dict[str, int]
    ) -> Iterator[tuple[str, Member]]:
        entries = self._read_tar(
            stream, gz=_is_gz(shard), max_member_bytes=self._limits.max_member_bytes
        )
        for entry in entries:
            if entry.kind != "file":
                ignored[entry.kind] = ignored.get(entry.kind, 0) + 1
                continue
            key, extension = split_name(entry.name)
            if not extension:
                ignored["no_extension"] = ignored.get("no_extension", 0) + 1
                continue
            yield key, Member(entry.name, extension, entry.offset, entry.size, entry.data)

    def _not_delivered(self, shard: FoundShard) -> int:
        return 0

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes by range; a compressed tar is streamed through."""
        if not members:
            return
        with opened(shard) as stream:
            if _is_gz(shard):
                yield from self._stream(shard, stream, members)
                return
            yield from _ranges(shard, stream, members)

    def _stream(
        self, shard: FoundShard, stream: BinaryIO, members: Sequence[MemberRef]
    ) -> Iterator[bytes]:
        waiting = iter(members)
        wanted = next(waiting)
        try:
            for entry in self._read_tar(
                stream, gz=True, max_member_bytes=self._limits.max_member_bytes
            ):
                while entry.kind == "file" and entry.offset == wanted.offset:
                    yield entry.data
                    following = next(waiting, None)
                    if following is None:
                        return
                    wanted = following
        except BrokenShard as broken:
            raise SourceChanged(f"{shard.uri}: {broken.message}") from broken
        raise SourceChanged(f"{shard.uri} no longer has member {wanted.name!r}")


def _is_gz(shard: FoundShard) -> bool:
    return shard.uri.lower().endswith(_GZ)


def _ranges(shard: FoundShard, stream: BinaryIO, members: Sequence[MemberRef]) -> Iterator[bytes]:
    """Members by byte range, neighbours in one read."""
    at = 0
    while at < len(members):
        start = members[at].offset
        stop = at
        end = start
        while stop < len(members) and (
            stop == at
            or (
                0 <= members[stop].offset - end <= _GAP
                and members[stop].offset + members[stop].size - start <= _RUN
            )
        ):
            end = members[stop].offset + members[stop].size
            stop += 1
        stream.seek(start)
        run = _read(stream, end - start)
        for member in members[at:stop]:
            data = run[member.offset - start : member.offset - start + member.size]
            if len(data) != member.size:
                raise SourceChanged(f"{shard.uri} is shorter than it was at {member.name!r}")
            yield data
        at = stop


def _read(stream: BinaryIO, size: int) -> bytes:
    """``size`` bytes, fewer only at the end of the file."""
    data = stream.read(size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing:
        data = stream.read(missing)
        if not data:
            break
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


class Img2DatasetSource(WebDatasetSource):
    """What img2dataset writes: tars, and beside each a parquet with every row's status."""

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """The interval's tars; ``_stats.json`` and ``.parquet`` files beside them are no shards."""
        return [
            shard
            for shard in super().find(interval, timezone)
            if shard.relative_uri.lower().endswith((".tar", *_GZ))
        ]

    def _not_delivered(self, shard: FoundShard) -> int:
        """Rows of the shard's parquet whose status is not success; 0 where there is none."""
        beside = shard.uri.rpartition(".tar")[0] + ".parquet"
        fs, path = places.filesystem(beside)
        if not fs.exists(path):
            return 0
        try:
            with fs.open(path, "rb") as stream:
                status: Any = pq.read_table(stream, columns=["status"]).column("status")
        except (OSError, ValueError, KeyError):
            return 0
        return int(pc.sum(pc.cast(pc.not_equal(status, "success"), "int64")).as_py() or 0)
