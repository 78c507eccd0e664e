"""The same samples in the form of each kind of source, on disk or in fsspec's memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.model import FoundShard, Interval, Member, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceOptions
from sscd_ops.ports import Source
from sscd_ops.sources import open_source
from sscd_ops.storage.tar_read import read_tar
from sscd_ops.storage.tar_write import TarWriter

DAY = Interval(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC))

Rows = list[tuple[str, bytes, str]]
"""(key, image bytes, caption)"""
ROWS: Rows = [
    (f"{n:03d}", b"\xff\xd8\xff" + bytes([n]) * (300 * n), f"caption {n}") for n in range(1, 31)
]


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out)
    for name, data in members:
        writer.add(name, data)
    writer.close()
    return out.getvalue()


def tar_of(rows: Rows) -> bytes:
    members: list[tuple[str, bytes]] = []
    for key, image, caption in rows:
        members += [(f"{key}.jpg", image), (f"{key}.txt", caption.encode())]
        members += [(f"{key}.json", json.dumps({"caption": caption, "key": key}).encode())]
    return tar_bytes(members)


def parquet_of(rows: Rows, *, struct: bool) -> bytes:
    images: list[Any] = [image for _, image, _ in rows]
    if struct:
        images = [{"bytes": image, "path": f"{key}.jpg"} for key, image, _ in rows]
    table = pa.table(
        {
            "id": [key for key, _, _ in rows],
            "image": images,
            "caption": [caption for *_, caption in rows],
            "score": [0.5 for _ in rows],
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=7)
    return out.getvalue()


def csv_of(rows: Rows) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["file_name", "caption", "n"])
    writer.writerows([f"{key}.jpg", caption, 1] for key, _, caption in rows)
    return out.getvalue().encode()


@dataclass(frozen=True)
class Feed:
    """A kind of source: its options, and how to write one of its shards below a folder."""

    kind: str
    suffix: str
    data: Callable[[Rows], bytes] | None
    options: dict[str, Any]
    extensions: tuple[str, ...] = ("jpg", "txt", "json")

    def write(self, folder: str, name: str, rows: Rows = ROWS) -> str:
        """Write a shard; its URL."""
        url = f"{folder}/{name}{self.suffix}"
        if self.data is not None:
            put(url, self.data(rows))
            return url
        for key, image, caption in rows:
            put(f"{url}/{key}.jpg", image)
            if "captions_file" not in self.options:
                put(f"{url}/{key}.txt", caption.encode())
                put(f"{url}/{key}.json", json.dumps({"caption": caption}).encode())
        file = self.options.get("captions_file", "")
        if file.endswith(".csv"):
            put(f"{url}/{file}", csv_of(rows))
        elif file:
            lines = [{"file_name": f"{k}.jpg", "caption": c, "n": 1} for k, _, c in rows]
            put(f"{url}/{file}", "\n".join(json.dumps(line) for line in lines).encode())
        return url

    def open(self, *urls: str, **options: Any) -> Source:
        """The source over some URLs."""
        limits = options.pop("limits", LimitsOptions())
        made = SourceOptions("feed", kind=self.kind, urls=urls, **(self.options | options))  # type: ignore[arg-type]
        return open_source(made, limits, read_tar)


FEEDS = {
    "webdataset": Feed("webdataset", ".tar", tar_of, {}),
    "webdataset gz": Feed("webdataset", ".tar.gz", lambda r: gzip.compress(tar_of(r), 1), {}),
    "webdataset gz named tar": Feed("webdataset", ".tar", lambda r: gzip.compress(tar_of(r)), {}),
    "img2dataset": Feed("img2dataset", ".tar", tar_of, {}),
    "parquet": Feed(
        "parquet", ".parquet", lambda r: parquet_of(r, struct=False), {"key_column": "id"}
    ),
    "parquet struct": Feed(
        "parquet", ".parquet", lambda r: parquet_of(r, struct=True), {"key_column": "id"}
    ),
    "folder": Feed("folder", "", None, {}),
    "folder captions": Feed("folder", "", None, {"captions_file": "captions.jsonl"}),
    "folder csv": Feed("folder", "", None, {"captions_file": "captions.csv"}),
}


def put(url: str, data: bytes) -> None:
    """Write a file, making its folders."""
    fs, path = fsspec.core.url_to_fs(url)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, data)


def memory_folder() -> str:
    """A fresh folder in memory."""
    return f"memory://{uuid.uuid4().hex}"


def samples_of(source: Source, shard: FoundShard) -> tuple[list[RawSample], ShardEnd]:
    """A shard's samples, and its end, which is the last thing that comes."""
    *samples, end = source.read(shard)
    assert isinstance(end, ShardEnd)
    assert all(isinstance(sample, RawSample) for sample in samples)
    return samples, end  # type: ignore[return-value]


def refs_of(members: list[Member]) -> list[MemberRef]:
    """What a manifest keeps of members."""
    return [MemberRef(m.name, m.offset, m.size, b"") for m in members]
