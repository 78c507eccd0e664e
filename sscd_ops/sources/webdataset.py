"""WebDataset tars and the img2dataset layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from sscd_ops.drivers import asking
from sscd_ops.errors import PUT_BACK, BrokenShard, SourceChanged
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.ports import ReadTar
from sscd_ops.sources import files, places
from sscd_ops.sources.grouping import Grouper, split_name
from sscd_ops.sources.ranges import ranges

_GZIP = b"\x1f\x8b"
_TAR_NAMES = (".tar", ".tar.gz", ".tgz")


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
        with files.opened(shard) as stream:
            try:
                for key, member in self._members(stream, ignored):
                    for sample in grouper.add(key, member):
                        samples += 1
                        yield sample
            except BrokenShard as broken:
                message = broken.message
                lost = grouper.cut(broken.member, between=broken.between)
                if lost:
                    message += f"; its sample {lost[:300]!r} is left out: deliver the whole file"
                fault = Fault(broken.code), message
        for sample in grouper.close():
            samples += 1
            yield sample
        if fault is None and not samples:
            fault = Fault.EMPTY_SHARD, "the archive holds no sample"
        yield ShardEnd(fault, ignored, self._not_delivered(shard))

    def _members(self, stream: BinaryIO, ignored: dict[str, int]) -> Iterator[tuple[str, Member]]:
        entries = self._read_tar(
            stream, gz=_is_gzip(stream), max_member_bytes=self._limits.max_member_bytes
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
        with files.opened(shard, as_listed=False) as stream:
            if _is_gzip(stream):
                yield from self._stream(shard, stream, members)
            else:
                yield from ranges(stream, members, shard.uri)

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
            raise SourceChanged(f"{shard.uri}: {broken.message}: {PUT_BACK}") from broken
        raise SourceChanged(f"{shard.uri} no longer has member {wanted.name!r}: {PUT_BACK}")


def _is_gzip(stream: BinaryIO) -> bool:
    """By the first bytes: a name may belie what a file is."""
    head = stream.read(len(_GZIP))
    stream.seek(0)
    return head == _GZIP


class Img2DatasetSource(WebDatasetSource):
    """What img2dataset writes: tars, and beside each a parquet with every row's status."""

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """The interval's tars; ``_stats.json`` and ``.parquet`` files beside them are no shards."""
        return [
            shard
            for shard in super().find(interval, timezone)
            if shard.relative_uri.lower().endswith(_TAR_NAMES)
        ]

    def _not_delivered(self, shard: FoundShard) -> int:
        """Rows of the shard's parquet whose status is not success; 0 where there is none."""
        name = shard.uri.lower()
        ending = next((e for e in _TAR_NAMES if name.endswith(e)), "")
        fs, path = files.filesystem(shard.uri[: len(shard.uri) - len(ending)] + ".parquet")
        with asking(shard.uri):
            try:
                with fs.open(path, "rb") as stream:
                    return _failed_rows(stream)
            except FileNotFoundError:
                return 0


def _failed_rows(stream: Any) -> int:
    """Rows with another status than success; a parquet that cannot be read says nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        status = pq.read_table(stream, columns=["status"]).column("status")
    except (pa.ArrowException, KeyError):
        return 0
    except OSError as error:
        if not files.is_about_content(error):
            raise
        return 0
    return int(pc.sum(pc.cast(pc.not_equal(status, "success"), "int64")).as_py() or 0)
