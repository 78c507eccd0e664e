"""What embed writes reads back, with perceptual hashes and without."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sscd_ops.core.descriptor_file import DescriptorFile, DescriptorReader, write_descriptors
from sscd_ops.model import Fault


def written(path: Path, content: DescriptorFile) -> Path:
    stream = io.BytesIO()
    write_descriptors(stream, content, fingerprint="ab" * 32, runtime={"device": "cpu"})
    path.write_bytes(stream.getvalue())
    return path


def some(count: int, *, hashed: bool) -> DescriptorFile:
    random = np.random.default_rng(0)
    return DescriptorFile(
        random.integers(0, 256, (count, 32), np.uint8),
        random.standard_normal((count, 5)).astype(np.float16),
        {bytes(31) + b"1": (Fault.UNDECODABLE, "cut"), bytes(32): (Fault.NO_DESCRIPTOR, "plain")},
        {"pdq-1": random.integers(0, 256, (count, 33), np.uint8)} if hashed else {},
        [bytes(31) + b"2", bytes(31) + b"3"],
    )


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_descriptor_file_reads_back(tmp_path: Path, count: int, hashed: bool) -> None:
    content = some(count, hashed=hashed)

    read = DescriptorReader(written(tmp_path / "a.parquet", content))

    listed = read.listed()
    np.testing.assert_array_equal(listed.ids, content.ids)
    assert listed.faults == content.faults
    assert listed.plain == content.plain
    assert (read.count, read.dimensions) == (count, 5)
    assert read.roles == {"descriptors", *content.hashes}
    for role, rows in {"descriptors": content.descriptors, **content.hashes}.items():
        stored = read.rows(role)
        assert (stored.shape, stored.dtype) == (rows.shape, rows.dtype)
        np.testing.assert_array_equal(stored[:], rows)


def test_hashes_of_another_making_are_not_taken_for_ours(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", some(3, hashed=True))
    table = pq.read_table(path)
    names = [f"{name}0" if name == "pdq-1" else name for name in table.column_names]
    renamed = table.rename_columns(names).replace_schema_metadata(table.schema.metadata)
    pq.write_table(renamed, path)

    assert DescriptorReader(path).roles == {"descriptors"}
