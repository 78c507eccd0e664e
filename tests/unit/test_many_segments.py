"""Segments of many small nights: merged they are one segment's files, and none stays open."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sscd_ops.core import segment_file
from sscd_ops.core.measures import near
from sscd_ops.core.segment_file import join_segments, write_mask, write_segment
from sscd_ops.errors import FileMismatch
from sscd_ops.index.backends import open_backend
from sscd_ops.model import Segment, StoredFile
from sscd_ops.options import StorageOptions
from sscd_ops.ports import SearchBackend, Store
from sscd_ops.steps.searching import _Group
from sscd_ops.storage.store import open_store

FOLDER = "web/index/segments"
DIMENSIONS = 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(StorageOptions(root=str(tmp_path)))


def backend(name: str) -> SearchBackend:
    return open_backend(name, fingerprint_digest="ab" * 32, dimensions=DIMENSIONS, threshold=0.75)


def segment(store: Store, number: int, rows: int, codes: str = "flat", hashes: bool = False):  # type: ignore[no-untyped-def]
    """A segment with the arrays it was written of."""
    random = np.random.default_rng(number)
    descriptors = random.standard_normal((rows, DIMENSIONS))
    descriptors = (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype("f2")
    ids = random.integers(0, 256, (rows, 32), np.uint8)
    more = {"pdq-1": random.integers(0, 256, (rows, 33), np.uint8)} if hashes else {}
    files = write_segment(
        store, FOLDER, descriptors, ids, {**backend(codes).codes(descriptors), **more}
    )
    mask = write_mask(store, "web/index/masks", np.ones(rows, bool))
    made = Segment(number, number, rows, DIMENSIONS, "ab" * 32, files, mask)
    return made, descriptors, ids, more


def together(store: Store, *parts, codes: str) -> dict[str, StoredFile]:  # type: ignore[no-untyped-def]
    """The files of one segment that was written with all their rows."""
    descriptors, ids = (np.concatenate([part[at] for part in parts]) for at in (1, 2))
    more = {role: np.concatenate([part[3][role] for part in parts]) for role in parts[0][3]}
    made = backend(codes).codes(descriptors)
    return write_segment(store, FOLDER, descriptors, ids, {**made, **more})


@pytest.mark.parametrize("hashes", [False, True])
@pytest.mark.parametrize("written", [("exact", "exact"), ("flat", "exact"), ("flat", "flat")])
def test_joined_segments_have_the_bytes_of_one_that_was_written_whole(
    store: Store, written: tuple[str, str], hashes: bool
) -> None:
    """Codes that one of them lacks are made."""
    parts = [segment(store, 1 + n, 5 + 3 * n, name, hashes) for n, name in enumerate(written)]

    files = join_segments(store, FOLDER, [part[0] for part in parts], backend("exact"))

    assert files == together(store, *parts, codes="exact")


def test_codes_of_another_backend_stay_where_all_have_them(store: Store) -> None:
    parts = [segment(store, number, 6, "exact") for number in (1, 2)]

    files = join_segments(store, FOLDER, [part[0] for part in parts], backend("flat"))

    assert files == together(store, *parts, codes="exact")


def test_segments_of_other_dimensions_are_not_joined(store: Store) -> None:
    first, *_ = segment(store, 1, 4)
    random = np.random.default_rng(0)
    files = write_segment(
        store, FOLDER, random.random((3, 8)).astype(np.float16), np.zeros((3, 32), np.uint8), {}
    )
    with pytest.raises(FileMismatch):
        join_segments(
            store, FOLDER, [first, Segment(2, 1, 3, 8, "ab" * 32, files)], backend("flat")
        )


def test_many_segments_hold_no_files_open(store: Store) -> None:
    """A memory map holds a descriptor of its file, and a process may have but 1,024."""
    many = [segment(store, number, 2)[0] for number in range(100)]
    work = SimpleNamespace(measures=[near(0.75, 0.7)], batch=SimpleNamespace(dataset="web"))
    before = len(list(Path("/proc/self/fd").iterdir()))

    parts = SimpleNamespace(store=store)
    group = _Group(parts, work, backend("flat"), many, {})  # type: ignore[arg-type]
    join_segments(store, FOLDER, many, backend("flat"))

    assert len(group.kept) == 200
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 20


def test_headers_are_parsed_by_one_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 fails now and then where threads parse at once (python/cpython#106905)."""
    many = [segment(store, number, 2)[0] for number in range(8)]
    work = SimpleNamespace(measures=[near(0.75, 0.7)], batch=SimpleNamespace(dataset="web"))
    real = segment_file._map
    parsing: set[threading.Thread] = set()

    def mapped(*given: Any) -> Any:
        parsing.add(threading.current_thread())
        return real(*given)

    monkeypatch.setattr(segment_file, "_map", mapped)
    parts = SimpleNamespace(store=store)
    _Group(parts, work, backend("flat"), many, {})  # type: ignore[arg-type]
    for each in many:
        segment_file.open_segment(store, each)

    assert parsing == {threading.main_thread()}
