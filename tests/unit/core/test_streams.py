"""What resolve does with a batch's rows takes the memory of some of them, whatever their number."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.core import rows as core_rows
from sscd_ops.core.decide import COLUMNS, Decided, find_images, load_samples, nothing_known
from sscd_ops.core.descriptor_file import DescriptorFile, DescriptorReader, write_descriptors
from sscd_ops.core.manifest import SCHEMA, manifest_blocks
from sscd_ops.core.segment_file import coded, set_aside, write_segment
from sscd_ops.core.stored_rows import StoredRows
from sscd_ops.core.withdrawn import Caught
from sscd_ops.core.witnesses import Earlier, find_witnesses
from sscd_ops.index.backends import open_backend
from sscd_ops.model import Fault
from sscd_ops.options import StorageOptions
from sscd_ops.storage.store import open_store
from tests.memory import at_most

A_FILE, FILES = 4_000, 40
"""160,000 rows: of descriptors 160 MB, of captions as much."""


class _File:
    """A descriptor file that is opened anew each time, as a piece of stored rows."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __len__(self) -> int:
        return A_FILE

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return DescriptorReader(self._path).rows("descriptors")[key]


def test_a_segment_is_written_block_by_block(tmp_path: Path) -> None:
    made = np.random.default_rng(0).standard_normal((A_FILE, 512), np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    content = DescriptorFile(np.zeros((A_FILE, 32), np.uint8), made.astype(np.float16), {})
    with (tmp_path / "a.parquet").open("wb") as stream:
        write_descriptors(stream, content, fingerprint="ab" * 32, runtime={})
    piece = _File(tmp_path / "a.parquet")
    rows = StoredRows([piece] * FILES, content.descriptors[:0])
    ids = np.zeros((len(rows), 32), np.uint8)
    store = open_store(StorageOptions(root=str(tmp_path)))
    backend = open_backend("sketch", fingerprint_digest="ab" * 32, dimensions=512, threshold=0.75)
    last = np.arange(len(rows))[::-4000].copy()

    with at_most(120):
        files = write_segment(store, "s", rows, ids, coded(backend, rows))
        aside = set_aside(rows)
        assert aside[last].shape == (FILES, 512)

    whole = np.load(tmp_path / files["descriptors"].name, mmap_mode="r")
    np.testing.assert_array_equal(aside[last], whole[last])
    (role,) = backend.roles()
    codes = np.load(tmp_path / files[role].name)
    np.testing.assert_array_equal(codes[:A_FILE], backend.codes(content.descriptors)[role])


def test_samples_hold_nothing_of_captions_and_rows_are_made_block_by_block(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nothing: dict[str, pa.Array] = {
        field.name: pa.nulls(A_FILE, field.type) for field in SCHEMA if field.nullable
    }
    text = pa.array([f"{number:01000}" for number in range(A_FILE)])
    columns = nothing | {
        "position": pa.array(np.arange(A_FILE), pa.int32()),
        "sample_id": core_rows.fixed(random.integers(0, 256, (A_FILE, 16), np.uint8)),
        "image_sha256": core_rows.fixed(random.integers(0, 256, (A_FILE, 32), np.uint8)),
        "width": pa.array(np.full(A_FILE, 9), pa.int32()),
        "image_bytes": pa.array(np.full(A_FILE, 9)),
        "caption": text,
        "meta": text,
        # half are read, half have something wrong with them
        "code": pa.array([None, str(Fault.MISSING_CAPTION)] * (A_FILE // 2), pa.string()),
        "message": pa.array([None, "there is none"] * (A_FILE // 2), pa.string()),
    }
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([columns[n] for n in SCHEMA.names], SCHEMA.names), stream)
    path = tmp_path / "m.parquet"
    path.write_bytes(stream.getvalue())

    def tables() -> Iterator[pa.Table]:
        for _ in range(FILES):
            yield pq.read_table(path, columns=list(COLUMNS))

    with at_most(250):
        samples = load_samples(tables(), np.arange(FILES), np.zeros(FILES, np.int64), ["pixels"])
        images = find_images(samples, nothing_known, np.empty((0, 32), np.uint8), {})
        count, made = len(images.carrier), len(samples)
        decided = Decided(
            np.where(samples.code < 0, 0, 3).astype(np.int8),
            np.ones(count, bool),
            np.full(count, -1),
            np.full(count, -np.inf),
            np.full(count, -1, np.int8),
            [],
            [],
        )
        none = np.empty(0, np.int64)
        earlier = Earlier(none, np.empty((0, 32), np.uint8), np.empty((0, 16), np.uint8), none)
        given = core_rows.DecisionRows(
            samples,
            images,
            decided,
            find_witnesses(samples, images, decided, earlier, Caught.nothing()),
            shard_ids=np.arange(FILES),
            slot=np.arange(made, dtype=np.int32),
            dataset_id=1,
            turn=1,
            month=date(2026, 11, 1),
        )
        blocks = manifest_blocks([path] * FILES, core_rows.FROM_MANIFEST, 10_000)
        sizes = [len(table) for table in core_rows.sample_rows(given, blocks)]

    assert sum(sizes) == made == A_FILE * FILES
    assert max(sizes) < 10_000 + A_FILE
