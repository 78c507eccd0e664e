"""Segments and kept masks as immutable files: plain numpy arrays, memory-mapped when read."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sscd_ops.core.perceptual import ROLE, WIDTH
from sscd_ops.errors import FileMismatch

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from sscd_ops.model import Segment, StoredFile
    from sscd_ops.ports import SearchBackend, Store

DESCRIPTORS = "descriptors"
IDS = "ids"
REMEDY = "restore the file or run `sscd-ops index rebuild`"
_COPY = 16 * 2**20
"""Bytes of a memory map written at once."""


@dataclass(frozen=True)
class Arrays:
    """An opened segment (``ports.OpenSegment``): memory maps, nothing is read before it is used."""

    descriptors: NDArray[np.float16]
    ids: NDArray[np.uint8]
    codes: dict[str, NDArray[Any]]


class FileSegmentStore:
    """``ports.SegmentStore`` over a ``ports.Store``."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def write(
        self,
        folder: str,
        descriptors: NDArray[np.float16],
        ids: NDArray[np.uint8],
        codes: dict[str, NDArray[Any]],
    ) -> dict[str, StoredFile]:
        """Write a segment's arrays, each to its own file named by its content.

        Args:
            folder: below the store's root.
            descriptors: float16 (n, d), in manifest order.
            ids: uint8 (n, 32), the images' sha256.
            codes: role -> (n, ...), what the search backend answered for the descriptors.

        Raises:
            FileMismatch: the arrays are not of one length, or of the wrong type.
        """
        arrays: dict[str, NDArray[Any]] = {DESCRIPTORS: descriptors, IDS: ids, **codes}
        _check(f"a segment for {folder}", arrays, len(descriptors), descriptors.shape[-1])
        return {role: self.write_array(folder, values) for role, values in arrays.items()}

    def write_array(self, folder: str, values: NDArray[Any]) -> StoredFile:
        """Write one array as ``.npy``."""
        return self.store.put(folder, ".npy", lambda target: _save(target, values))

    def open(self, segment: Segment) -> Arrays:
        """Map a segment's arrays.

        Raises:
            FileMismatch: a file is missing or unreadable, or rows, shapes and catalog disagree.
        """
        arrays = {
            role: _map(self.store.local(file), file.name) for role, file in segment.files.items()
        }
        _check(f"segment {segment.segment_id}", arrays, segment.rows, segment.dimensions)
        return Arrays(arrays.pop(DESCRIPTORS), arrays.pop(IDS), arrays)

    def write_mask(self, folder: str, kept: NDArray[np.bool_]) -> StoredFile:
        """Write a kept mask: eight rows a byte, the first row in the highest bit."""
        packed = np.packbits(kept)
        return self.store.put(folder, ".mask", lambda target: _write(target, packed.tobytes()))

    def read_mask(self, file: StoredFile, rows: int) -> NDArray[np.bool_]:
        """Read a kept mask of ``rows`` rows: bool (rows,).

        Raises:
            FileMismatch: missing, different, or of another length.
        """
        packed = np.fromfile(self.store.local(file), np.uint8)
        if len(packed) != (rows + 7) // 8:
            raise FileMismatch(
                f"{file.name} holds a mask of {len(packed)} bytes, expected {(rows + 7) // 8} for"
                f" {rows} rows; {REMEDY}"
            )
        return np.unpackbits(packed, count=rows).astype(np.bool_)

    def rebuild_codes(
        self, folder: str, segment: Segment, backend: SearchBackend
    ) -> dict[str, StoredFile]:
        """Compute and write a backend's codes anew from the stored descriptors: role -> file.

        Raises:
            FileMismatch: the descriptors are missing or disagree with the catalog.
        """
        file = segment.files.get(DESCRIPTORS)
        if file is None:
            raise FileMismatch(f"segment {segment.segment_id} has no descriptors; {REMEDY}")
        self.store.verify(file)
        descriptors = _map(self.store.local(file), file.name)
        _check(
            f"segment {segment.segment_id}",
            {DESCRIPTORS: descriptors},
            segment.rows,
            segment.dimensions,
        )
        codes = backend.codes(descriptors)
        return {role: self.write_array(folder, values) for role, values in codes.items()}


def _write(target: BinaryIO, data: bytes) -> None:
    target.write(data)


def _save(target: BinaryIO, values: NDArray[Any]) -> None:
    """``np.save`` without its use of file descriptors, so that any target is the same bytes."""
    values = np.asanyarray(values)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # always version 1.0: equal arrays, equal bytes
        header,
        {
            "descr": np.lib.format.dtype_to_descr(values.dtype),
            "fortran_order": False,
            "shape": values.shape,
        },
    )
    target.write(header.getvalue())
    step = max(1, _COPY // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):  # noqa: FURB122 - a store's stream has only write
        target.write(np.ascontiguousarray(values[start : start + step]).tobytes())


def _map(path: Path, name: str) -> NDArray[Any]:
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty")
        with path.open("rb") as source:
            np.lib.format.read_magic(source)
            shape, _, _ = np.lib.format.read_array_header_1_0(source)
        if 0 in shape:  # an empty file part cannot be mapped
            loaded: NDArray[Any] = np.load(path, allow_pickle=False)
            return loaded
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FileMismatch(f"{name} is no readable array ({error}); {REMEDY}") from error
    return mapped


def _check(what: str, arrays: dict[str, NDArray[Any]], rows: int, dimensions: int) -> None:
    """Refuse arrays that do not belong together: they are never searched."""
    expected = {
        DESCRIPTORS: ((rows, dimensions), "float16"),
        IDS: ((rows, 32), "uint8"),
        ROLE: ((rows, WIDTH), "uint8"),
    }
    for role, values in arrays.items():
        shape, dtype = expected.get(role, ((rows, *values.shape[1:]), str(values.dtype)))
        if values.shape != shape or str(values.dtype) != dtype:
            raise FileMismatch(
                f"{what}: {role} is {values.dtype} {values.shape}, expected {dtype} {shape};"
                f" {REMEDY}"
            )
    missing = [role for role in (DESCRIPTORS,) if role not in arrays]
    if missing:
        raise FileMismatch(f"{what} has no {missing[0]}; {REMEDY}")
