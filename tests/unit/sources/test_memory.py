"""Memory while a source is read does not grow with the size of its files."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sscd_ops.model import MemberRef, ShardEnd
from sscd_ops.storage.tar_write import TarWriter
from tests.memory import at_most
from tests.unit.sources.feeds import DAY, FEEDS

COUNT, SIZE = 2000, 100_000
IMAGE = b"\xff\xd8\xff" + random.Random(1).randbytes(SIZE - 3)


def image(number: int) -> bytes:
    """All different, so that no encoding of a column makes them few."""
    return IMAGE[:-8] + number.to_bytes(8, "big")


def write_tar(stream: IO[bytes]) -> None:
    tar = TarWriter(stream)  # type: ignore[arg-type]
    for number in range(COUNT):
        tar.add(f"{number:06d}.jpg", image(number))
        tar.add(f"{number:06d}.txt", b"a caption")
    tar.close()


def plain(path: Path) -> None:
    with path.open("wb") as stream:
        write_tar(stream)


def gzipped(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=0) as stream:
        write_tar(stream)


def parquet(path: Path) -> None:
    """One row group, so that the file cannot be read group by group; a page is what must fit."""
    numbers = range(COUNT)
    table = pa.table(
        {
            "id": [f"{n:06d}" for n in numbers],
            "image": [image(n) for n in numbers],
            "caption": ["a caption"] * COUNT,
        }
    )
    # Arrow looks at a page's size only after this many rows; its default is 1024
    small = {"row_group_size": COUNT, "write_batch_size": 16}
    pq.write_table(table, path, compression="none", use_dictionary=False, **small)


@pytest.mark.parametrize(
    ("feed", "write"), [("webdataset", plain), ("webdataset gz", gzipped), ("parquet", parquet)]
)
def test_a_large_file_is_streamed(feed: str, write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"a{FEEDS[feed].suffix}"
    write(path)
    pa.default_memory_pool().release_unused()
    source = FEEDS[feed].open(str(path))
    (shard,) = source.find(DAY, "UTC")
    assert shard.size >= COUNT * SIZE
    refs = []

    with at_most(megabytes=60):
        for found in source.read(shard):
            if not isinstance(found, ShardEnd):
                member = found.members[0]
                assert len(member.data) == SIZE
                refs.append(MemberRef(member.name, member.offset, member.size, b""))
            else:
                assert found.fault is None
        for number, data in enumerate(source.fetch(shard, refs)):
            assert data == image(number)

    assert len(refs) == COUNT


LARGE = 8_000_000
FAT = random.Random(2).randbytes(LARGE)


def fat(number: int) -> bytes:
    return FAT[:-8] + number.to_bytes(8, "big")


FAT_ROWS = {
    "pictures": (pa.struct([("bytes", pa.binary())]), lambda n: {"bytes": fat(n)}, str),
    "other column": (pa.binary(), lambda n: b"\xff\xd8\xff", lambda n: f"{n}" + "text" * 999_999),
    "in a dictionary once": (pa.binary(), lambda n: fat(0), str),
}


@pytest.mark.parametrize("name", FAT_ROWS)
def test_large_rows_are_decoded_one_by_one(name: str, tmp_path: Path) -> None:
    """Of one group; all at once they would take a quarter of a gigabyte and more."""
    path, count = tmp_path / "a.parquet", 32
    kind, image, other = FAT_ROWS[name]
    schema = pa.schema([("image", kind), ("other", pa.string())])
    columns = [
        pa.chunked_array([pa.array([made(n)], field.type) for n in range(count)])
        for made, field in zip((image, other), schema, strict=True)
    ]
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        writer.write_table(pa.table(columns, schema=schema), row_group_size=count)
    del columns
    pa.default_memory_pool().release_unused()
    source = FEEDS["parquet"].open(str(path), key_column="")
    (shard,) = source.find(DAY, "UTC")

    with at_most(megabytes=100):
        rows = sum(not isinstance(found, ShardEnd) for found in source.read(shard))

    assert rows == count
