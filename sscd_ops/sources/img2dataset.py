"""What img2dataset writes: tars, and beside each a parquet with every row's status."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sscd_ops.drivers import asking
from sscd_ops.model import Fault, FoundShard, Interval, RawSample, ShardEnd
from sscd_ops.sources import files
from sscd_ops.sources.webdataset import WebDatasetSource

log = logging.getLogger(__name__)

_TAR_NAMES = (".tar.gz", ".tgz", ".tar")
_STATS = "_stats.json"
_PARQUET = ".parquet"


class Img2DatasetSource(WebDatasetSource):
    """Its tars are the source shards; rows that were not delivered are counted from the parquet.

    A parquet whose tar is not there, and whatever else lies there, is a source shard too: a fault
    that says what it is.
    """

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """The interval's files, without the ``_stats.json`` and ``.parquet`` of their tars."""
        found = super().find(interval, timezone)
        tars = {_stem(shard.relative_uri) for shard in found if _is_tar(shard.relative_uri)}
        return [shard for shard in found if not _is_companion(shard.relative_uri, tars)]

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Stream the samples of a tar, then its end, where its parquet is asked."""
        what = _what_else(shard)
        if what:
            yield ShardEnd((Fault.UNREADABLE_SHARD, what))
            return
        keys: set[str] = set()
        for found in super().read(shard):
            if isinstance(found, RawSample):
                keys.add(found.key)
                yield found
            else:
                yield self._end(shard, found, keys)

    def _end(self, shard: FoundShard, end: ShardEnd, keys: set[str]) -> ShardEnd:
        stem = _stem(shard.uri)
        if not files.is_there(stem + _STATS, is_pattern=False):
            log.warning("img2dataset may not have finished: there is no %s%s", stem, _STATS)
        url = stem + _PARQUET
        fs, path = files.filesystem(url)
        with asking(url):
            try:
                with fs.open(path, "rb") as stream:
                    rows = _Rows(stream)
            except FileNotFoundError:
                log.warning("rows that were not delivered are not counted: there is no %s", url)
                return end
        # of a tar that is cut, the parquet knows more than there is
        fault = end.fault or rows.fault(url, keys)
        return ShardEnd(fault, end.ignored, 0 if rows.misfit(keys) else rows.not_delivered)


class _Rows:
    """The parquet of a tar: how many rows were not delivered, and the keys of those that were."""

    def __init__(self, stream: Any) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self.unreadable = ""
        self.not_delivered = 0
        self.keys: set[str] | None = None
        try:
            file = pq.ParquetFile(stream)
            wanted = [name for name in ("status", "key") if name in file.schema_arrow.names]
            table = file.read(columns=wanted)
            failed = pc.fill_null(pc.not_equal(table.column("status"), "success"), True)
            self.not_delivered = int(pc.sum(pc.cast(failed, "int64")).as_py() or 0)
            if "key" in wanted and pa.types.is_string(table.schema.field("key").type):
                self.keys = set(table.filter(pc.invert(failed)).column("key").to_pylist())
        except (pa.ArrowException, KeyError, ValueError) as error:
            self.unreadable = str(error)
        except OSError as error:
            if not files.is_about_content(error):
                raise
            self.unreadable = str(error)

    def misfit(self, keys: set[str]) -> bool:
        """Whether it is another tar's: not one of its keys is there."""
        return bool(self.keys) and bool(keys) and self.keys.isdisjoint(keys)  # type: ignore[union-attr]

    def fault(self, url: str, keys: set[str]) -> tuple[Fault, str] | None:
        """What is wrong with it, given the tar's keys."""
        if self.unreadable:
            return (
                Fault.UNREADABLE_SHARD,
                f"its samples are read, but {url} is not, so that rows that were not delivered are"
                f" not counted: {self.unreadable[:300]}",
            )
        if self.keys is None or self.keys == keys:
            return None
        lost, more = sorted(map(str, self.keys - keys)), sorted(keys - self.keys)
        if self.misfit(keys):
            return (
                Fault.UNREADABLE_SHARD,
                f"its samples are read, but {url} is of another run: its keys begin with"
                f" {lost[0]!r}, those of the tar with {more[0]!r}; rows that were not delivered are"
                " not counted",
            )
        said = []
        if lost:
            said.append(f"{len(lost)} rows with status success have no sample here ({lost[0]!r})")
        if more:
            said.append(f"{len(more)} samples are in no such row ({more[0]!r})")
        return (
            Fault.TRUNCATED_SHARD if lost else Fault.UNREADABLE_SHARD,
            f"its samples are read, but do not fit {url}: {'; '.join(said)}",
        )


def _stem(name: str) -> str:
    ending = next((e for e in (*_TAR_NAMES, _STATS, _PARQUET) if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def _is_tar(name: str) -> bool:
    return name.lower().endswith(_TAR_NAMES)


def _is_companion(name: str, tars: set[str]) -> bool:
    """Whether a file describes a tar that is there; stats hold no picture in any case."""
    low = name.lower()
    return low.endswith(_STATS) or (low.endswith(_PARQUET) and _stem(name) in tars)


def _what_else(shard: FoundShard) -> str:
    """Says what a file is that is no tar; empty where it may be one."""
    low = shard.uri.lower()
    if low.endswith(".tfrecord"):
        return (
            "a tfrecord file, which is not read: let img2dataset write output_format = 'webdataset'"
        )
    if not low.endswith(_PARQUET):
        return ""
    return (
        f"there is no {_stem(shard.uri).rpartition('/')[2]}.tar for it among the files of `urls`;"
        " what img2dataset writes with output_format = 'parquet' is read with kind = \"parquet\""
        ' and image_column = "jpg" (its encode_format), \'files\' with kind = "folder"'
    )
