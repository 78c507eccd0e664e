"""Segments and masks as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sscd_ops.core.segment_file import (
    open_segment,
    read_ids,
    read_mask,
    rebuild_codes,
    write_mask,
    write_segment,
)
from sscd_ops.errors import FileMismatch
from sscd_ops.index.backends import open_backend
from sscd_ops.model import Segment
from sscd_ops.options import StorageOptions
from sscd_ops.ports import Store
from sscd_ops.storage.store import open_store

FOLDER = "web/index/segments"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(StorageOptions(root=str(tmp_path)))


def arrays(rows: int = 100, dimensions: int = 64):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    descriptors = random.standard_normal((rows, dimensions))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    ids = random.integers(0, 256, (rows, 32), np.uint8)
    return descriptors.astype(np.float16), ids


def exact(dimensions: int = 64):  # type: ignore[no-untyped-def]
    return open_backend(
        "exact", fingerprint_digest="ab" * 32, dimensions=dimensions, threshold=0.75
    )


def written(store: Store, rows: int = 100) -> Segment:
    descriptors, ids = arrays(rows)
    files = write_segment(store, FOLDER, descriptors, ids, exact().codes(descriptors))
    return Segment(7, 0, rows, 64, "ab" * 32, files)


@pytest.mark.parametrize("rows", [0, 1, 100])
def test_a_segment_reads_back_as_it_was_written(store: Store, rows: int) -> None:
    descriptors, ids = arrays(rows)

    opened = open_segment(store, written(store, rows))

    np.testing.assert_array_equal(opened.descriptors, descriptors)
    np.testing.assert_array_equal(opened.ids, ids)
    assert set(opened.codes) == set(exact().codes(descriptors))
    assert not isinstance(opened.descriptors, np.memmap) or not opened.descriptors.flags.writeable


def test_an_opened_segment_can_be_searched_as_it_is(store: Store) -> None:
    descriptors, _ = arrays()
    opened = open_segment(store, written(store))

    found = exact().search(
        descriptors, opened.descriptors, opened.codes, np.ones(100, bool), 0.99, 1
    )

    assert found.reference.tolist() == list(range(100))


def test_equal_arrays_are_equal_files_that_numpy_reads(store: Store, tmp_path: Path) -> None:
    first, second = written(store).files, written(store).files

    assert first == second
    for file in first.values():
        assert file.name == f"{FOLDER}/{file.sha256}.npy"
        np.load(tmp_path / file.name, allow_pickle=False)


def test_a_mapped_array_is_written_without_being_loaded(store: Store) -> None:
    segment = written(store)
    opened = open_segment(store, segment)

    again = write_segment(store, FOLDER, opened.descriptors, opened.ids, opened.codes)

    assert again == segment.files


@pytest.mark.parametrize("role", ["descriptors", "ids", "code"])
def test_a_missing_file_is_named_with_the_remedy(store: Store, tmp_path: Path, role: str) -> None:
    segment = written(store)
    role = role if role in segment.files else next(r for r in segment.files if "exact" in r)
    (tmp_path / segment.files[role].name).unlink()

    with pytest.raises(FileMismatch, match=segment.files[role].sha256):
        open_segment(store, segment)


def test_a_file_that_is_no_array_is_refused(store: Store, tmp_path: Path) -> None:
    segment = written(store)
    path = tmp_path / segment.files["ids"].name
    path.write_bytes(b"x" * path.stat().st_size)

    with pytest.raises(FileMismatch, match="index rebuild"):
        open_segment(store, segment)


def test_a_file_of_objects_is_never_unpickled(store: Store, tmp_path: Path) -> None:
    segment = written(store)
    path = tmp_path / "objects.npy"
    np.save(path, np.array([{}] * 100), allow_pickle=True)
    file = store.put(FOLDER, ".npy", lambda target: target.write(path.read_bytes()))

    with pytest.raises(FileMismatch):
        open_segment(store, replace(segment, files={**segment.files, "ids": file}))


@pytest.mark.parametrize("change", [{"rows": 99}, {"dimensions": 32}])
def test_a_segment_that_disagrees_with_the_catalog_is_refused(
    store: Store, change: dict[str, int]
) -> None:
    segment = written(store)

    with pytest.raises(FileMismatch, match=r"segment 7: .* expected"):
        open_segment(store, replace(segment, **change))


def test_arrays_of_different_length_are_never_written(store: Store) -> None:
    descriptors, ids = arrays()

    with pytest.raises(FileMismatch, match="ids"):
        write_segment(store, FOLDER, descriptors, ids[:-1], {})
    with pytest.raises(FileMismatch, match="sketch"):
        write_segment(store, FOLDER, descriptors, ids, {"sketch": ids[:5]})
    with pytest.raises(FileMismatch, match="float32"):
        write_segment(store, FOLDER, descriptors.astype(np.float32), ids, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 1000])
def test_a_mask_reads_back_as_it_was_written(store: Store, rows: int) -> None:
    kept = np.random.default_rng(rows).random(rows) < 0.5

    file = write_mask(store, "web/index/masks", kept)

    np.testing.assert_array_equal(read_mask(store, file, rows), kept)
    assert file.bytes == (rows + 7) // 8


def test_a_mask_of_another_length_is_refused(store: Store) -> None:
    file = write_mask(store, "web/index/masks", np.ones(80, bool))

    with pytest.raises(FileMismatch, match="10 bytes, expected 11 for 81 rows"):
        read_mask(store, file, 81)


def test_rebuilt_codes_are_the_ones_that_were_lost(store: Store, tmp_path: Path) -> None:
    segment = written(store)
    role = next(role for role in segment.files if role.startswith("exact"))
    (tmp_path / segment.files[role].name).unlink()

    rebuilt = rebuild_codes(store, FOLDER, segment, exact())

    assert rebuilt == {role: segment.files[role]}
    store.verify(rebuilt[role])


def test_codes_are_not_rebuilt_from_damaged_descriptors(store: Store, tmp_path: Path) -> None:
    segment = written(store)
    path = tmp_path / segment.files["descriptors"].name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(FileMismatch):
        rebuild_codes(store, FOLDER, segment, exact())
    path.unlink()
    with pytest.raises(FileMismatch):
        rebuild_codes(store, FOLDER, segment, exact())


@pytest.mark.parametrize("role", ["descriptors", "ids", "code"])
def test_a_flipped_bit_is_never_searched(store: Store, tmp_path: Path, role: str) -> None:
    segment = written(store)
    role = role if role in segment.files else next(r for r in segment.files if "exact" in r)
    path = tmp_path / segment.files[role].name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(FileMismatch, match=segment.files[role].sha256):
        open_segment(store, segment)
    # what is not asked for is not read
    if role not in ("descriptors", "ids"):
        assert open_segment(store, segment, ()).codes == {}
    if role != "ids":
        assert len(read_ids(store, segment)) == 100


def test_a_flipped_bit_of_a_mask_is_refused(store: Store, tmp_path: Path) -> None:
    file = write_mask(store, "web/index/masks", np.ones(80, bool))
    path = tmp_path / file.name
    path.write_bytes(bytes([0xFE]) + path.read_bytes()[1:])

    with pytest.raises(FileMismatch, match="sscd-ops index rebuild --dataset web"):
        read_mask(store, file, 80)
