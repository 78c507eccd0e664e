"""Parquet files with image bytes in a column, as Hugging Face datasets have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.errors import SourceChanged
from sscd_ops.model import Fault, FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.sources import places
from sscd_ops.sources.grouping import opened

_ROWS = 64
"""Rows decoded at once: with pictures of a few MB this bounds memory."""
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)


class ParquetSource:
    """Rows as samples: the image, the caption as ``txt``, the other columns as one ``json``.

    A member's offset is its row number. Bytes made here (``txt``, ``json``) are made the same way
    whenever they are fetched.

    Args:
        options: the source; names of the image, caption and key columns.
        limits: sizes.
    """

    def __init__(self, options: SourceOptions, limits: LimitsOptions) -> None:
        self.name = options.name
        self.root = places.resolve_root(options)
        self._options = options
        self._limits = limits

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """The interval's files, sorted by relative URI."""
        return places.find(self._options, self.root, interval, timezone)

    def ready(self, interval: Interval, timezone: str) -> str | None:
        """None when the interval's data may be read, else the URL that is waited for."""
        return places.missing_marker(self._options, interval, timezone)

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Stream the rows of a file, then its end."""
        seen: dict[str, int] = {}
        count = 0
        fault: tuple[Fault, str] | None = None
        if shard.size == 0:
            yield ShardEnd((Fault.EMPTY_FILE, "the file has no bytes"))
            return
        with opened(shard) as stream:
            try:
                for number, row in self._rows(pq.ParquetFile(stream)):
                    yield self._sample(number, row, seen)
                    count += 1
            except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
                code = Fault.TRUNCATED_SHARD if count else Fault.UNREADABLE_SHARD
                fault = code, str(error)[:500]
        if fault is None and not count:
            fault = Fault.EMPTY_SHARD, "the file has no rows"
        yield ShardEnd(fault)

    def _rows(self, file: pq.ParquetFile) -> Iterator[tuple[int, Mapping[str, Any]]]:
        options = self._options
        for wanted in (options.image_column, options.key_column):
            if wanted and wanted not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise KeyError(f"no column {wanted!r}; the file has: {names}")
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS):
            for row in batch.to_pylist():
                yield number, row
                number += 1

    def _sample(self, number: int, row: Mapping[str, Any], seen: dict[str, int]) -> RawSample:
        key = self._key(number, row)
        occurrence = seen.get(key, 0)
        seen[key] = occurrence + 1
        fault = None
        if occurrence:
            fault = (Fault.DUPLICATE_KEY, f"the key came {occurrence} times before in this file")
        members = [
            Member(f"{key}.{extension}", extension, number, len(data), data)
            for extension, data in self._contents(row)
        ]
        return RawSample(key, occurrence, members, fault)

    def _key(self, number: int, row: Mapping[str, Any]) -> str:
        if self._options.key_column:
            return str(row[self._options.key_column])
        return f"{number:09d}"

    def _contents(self, row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        options = self._options
        image = row[options.image_column]
        path = ""
        if isinstance(image, Mapping):
            path = image.get("path") or ""
            image = image.get("bytes")
        if isinstance(image, bytes):
            yield _extension(path, image), image
        caption = row.get(options.caption_column)
        if isinstance(caption, (list, tuple)):
            caption = caption[0] if caption else None
        if caption is not None:
            yield "txt", str(caption).encode("utf-8", "surrogatepass")
        rest = {k: v for k, v in row.items() if k != options.image_column}
        yield (
            "json",
            json.dumps(
                rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain
            ).encode("utf-8", "surrogatepass"),
        )

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes, row by row, made again where they are made here."""
        with opened(shard) as stream:
            rows = self._rows(pq.ParquetFile(stream))
            number, contents = -1, {}
            for member in members:
                while number < member.offset:
                    try:
                        number, row = next(rows)
                    except (StopIteration, pa.ArrowException, OSError) as error:
                        raise SourceChanged(
                            f"{shard.uri} no longer has row {member.offset}"
                        ) from error
                    if number == member.offset:
                        contents = dict(self._contents(row))
                extension = member.name.rpartition(".")[2]
                if extension not in contents:
                    raise SourceChanged(f"{shard.uri} no longer has member {member.name!r}")
                yield contents[extension]


def _extension(path: str, data: bytes) -> str:
    """The image member's extension: the path's, else by its first bytes, else ``jpg``."""
    name = path.rpartition("/")[2]
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if extension.isalnum() and 1 < len(extension) < 6:
        return extension
    for magic, found in _MAGIC:
        if data.startswith(magic):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "avif" if data[4:12] == b"ftypavif" else "jpg"


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
