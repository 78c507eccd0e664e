"""Segments and kept masks as immutable files: plain numpy arrays, memory-mapped when read."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from sscd_ops.core.measures import DESCRIPTORS, HASHES
from sscd_ops.errors import FileMismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from sscd_ops.model import Segment, StoredFile
    from sscd_ops.ports import SearchBackend, Store

IDS = "ids"
_BY_HAND = (
    "its bytes are those that the catalog names, so the catalog was changed by hand: restore it"
    " from a backup"
)
_AT_ONCE = 4
"""Files of a segment that are compared, or fetched, side by side."""
_COPY = 16 * 2**20
"""Bytes of a memory map written at once."""


@dataclass(frozen=True)
class OpenSegment:
    """A segment's arrays: memory maps of files that were compared with their sha256.

    ``descriptors``: float16 (m, d). ``ids``: uint8 (m, 32), the images' sha256. ``codes``: role ->
    (m, ...).
    """

    descriptors: NDArray[np.float16]
    ids: NDArray[np.uint8]
    codes: dict[str, NDArray[Any]]


def write_segment(
    store: Store,
    folder: str,
    descriptors: NDArray[np.float16],
    ids: NDArray[np.uint8],
    codes: dict[str, NDArray[Any]],
) -> dict[str, StoredFile]:
    """Write a segment's arrays, each to its own file named by its content: role -> file.

    Args:
        store: where.
        folder: below the store's root.
        descriptors: float16 (n, d), in manifest order.
        ids: uint8 (n, 32), the images' sha256.
        codes: role -> (n, ...), what the search backend answered for the descriptors.

    Raises:
        FileMismatch: the arrays are not of one length, or of the wrong type.
    """
    arrays: dict[str, NDArray[Any]] = {DESCRIPTORS: descriptors, IDS: ids, **codes}
    _check(f"a segment for {folder}", arrays, len(descriptors), descriptors.shape[-1])
    return _write_arrays(store, folder, arrays)


def join_segments(
    store: Store, folder: str, segments: Sequence[Segment], backend: SearchBackend
) -> dict[str, StoredFile]:
    """Write the rows of several segments one after another, as one segment: role -> file.

    A role that all have is taken over; of the backend's codes what a segment lacks is made from its
    descriptors. One file of one segment is open at a time.

    Raises:
        FileMismatch: a file is missing or damaged, or segments and catalog disagree.
    """
    common = set.intersection(*(set(segment.files) for segment in segments))
    roles = sorted({DESCRIPTORS, IDS, *common, *backend.roles()})
    rows = sum(segment.rows for segment in segments)

    def pieces(role: str) -> Iterator[NDArray[Any]]:
        for segment in segments:
            if role in segment.files:
                yield _read_arrays(store, segment, [role])[role]
            else:
                yield _made_codes(store, segment, backend)[role]

    return {
        role: store.put(folder, ".npy", partial(_save, pieces=pieces(role), rows=rows))
        for role in roles
    }


def open_segment(
    store: Store, segment: Segment, codes: Collection[str] | None = None
) -> OpenSegment:
    """Compare a segment's files with their sha256, side by side, and map their arrays.

    Args:
        store: where they are.
        segment: which.
        codes: the roles of the codes that are wanted, where it has them; None for all.

    Raises:
        FileMismatch: a file is missing or damaged, or rows, shapes and catalog disagree; says what
            to do.
    """
    wanted = set(segment.files)
    if codes is not None:
        wanted &= {DESCRIPTORS, IDS, *codes}
    arrays = _read_arrays(store, segment, sorted(wanted))
    missing = [role for role in (DESCRIPTORS, IDS) if role not in arrays]
    if missing:
        raise FileMismatch(f"segment {segment.segment_id} has no {missing[0]}; {_BY_HAND}")
    return OpenSegment(arrays.pop(DESCRIPTORS), arrays.pop(IDS), arrays)


def read_ids(store: Store, segment: Segment) -> NDArray[np.uint8]:
    """The images' digests alone: uint8 (rows, 32).

    Raises:
        FileMismatch: as ``open_segment``.
    """
    return _read_arrays(store, segment, [IDS])[IDS]


def read_roles(store: Store, segment: Segment, roles: Collection[str]) -> dict[str, NDArray[Any]]:
    """Some of a segment's arrays, mapped: role -> (rows, ...).

    Raises:
        FileMismatch: as ``open_segment``.
    """
    arrays = {
        role: _map(store.local(segment.files[role]), segment.files[role].name) for role in roles
    }
    _check(f"segment {segment.segment_id}", arrays, segment.rows, segment.dimensions)
    return arrays


def rebuild_codes(
    store: Store, folder: str, segment: Segment, backend: SearchBackend
) -> dict[str, StoredFile]:
    """Compute and write a backend's codes anew from the stored descriptors: role -> file.

    Raises:
        FileMismatch: the descriptors are missing or disagree with the catalog.
    """
    return _write_arrays(store, folder, _made_codes(store, segment, backend))


def _made_codes(store: Store, segment: Segment, backend: SearchBackend) -> dict[str, NDArray[Any]]:
    if DESCRIPTORS not in segment.files:
        raise FileMismatch(f"segment {segment.segment_id} has no descriptors; {_BY_HAND}")
    return backend.codes(_read_arrays(store, segment, [DESCRIPTORS])[DESCRIPTORS])


def write_mask(store: Store, folder: str, kept: NDArray[np.bool_]) -> StoredFile:
    """Write a kept mask: eight rows a byte, the first row in the highest bit."""
    packed = np.packbits(kept)
    return store.put(folder, ".mask", lambda target: _write(target, packed.tobytes()))


def read_mask(store: Store, file: StoredFile, rows: int) -> NDArray[np.bool_]:
    """Read a kept mask of ``rows`` rows: bool (rows,).

    Raises:
        FileMismatch: missing, different, or of another length.
    """
    packed = np.fromfile(store.local(file), np.uint8)
    if len(packed) != (rows + 7) // 8:
        raise FileMismatch(
            f"{file.name} holds a mask of {len(packed)} bytes, expected {(rows + 7) // 8} for"
            f" {rows} rows; {_BY_HAND}"
        )
    return np.unpackbits(packed, count=rows).astype(np.bool_)


def _write_arrays(
    store: Store, folder: str, arrays: dict[str, NDArray[Any]]
) -> dict[str, StoredFile]:
    return {
        role: store.put(folder, ".npy", partial(_save, pieces=[values], rows=len(values)))
        for role, values in arrays.items()
    }


def _read_arrays(store: Store, segment: Segment, roles: Sequence[str]) -> dict[str, NDArray[Any]]:
    with ThreadPoolExecutor(_AT_ONCE) as threads:  # hashing lets go of the GIL
        paths = list(threads.map(store.local, [segment.files[role] for role in roles]))
    arrays = {
        role: _map(path, segment.files[role].name) for role, path in zip(roles, paths, strict=True)
    }
    _check(f"segment {segment.segment_id}", arrays, segment.rows, segment.dimensions)
    return arrays


def _write(target: BinaryIO, data: bytes) -> None:
    target.write(data)


def _save(target: BinaryIO, pieces: Iterable[NDArray[Any]], rows: int) -> None:
    """``np.save`` of arrays one after another, of so many rows together.

    Without its use of file descriptors, so that any target is the same bytes.
    """
    left = iter(pieces)
    first = np.asanyarray(next(left))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # always version 1.0: equal arrays, equal bytes
        header,
        {
            "descr": np.lib.format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": (rows, *first.shape[1:]),
        },
    )
    target.write(header.getvalue())
    for values in chain([first], left):
        if (values.dtype, values.shape[1:]) != (first.dtype, first.shape[1:]):
            raise FileMismatch(f"segments hold {values.dtype} and {first.dtype}; {_BY_HAND}")
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
        raise FileMismatch(f"{name} is no readable array ({error}); {_BY_HAND}") from error
    return mapped


def _check(what: str, arrays: dict[str, NDArray[Any]], rows: int, dimensions: int) -> None:
    """Refuse arrays that do not belong together: they are never searched."""
    expected = {
        DESCRIPTORS: ((rows, dimensions), "float16"),
        IDS: ((rows, 32), "uint8"),
        **{role: ((rows, width), "uint8") for role, width in HASHES.items()},
    }
    for role, values in arrays.items():
        shape, dtype = expected.get(role, ((rows, *values.shape[1:]), str(values.dtype)))
        if values.shape != shape or str(values.dtype) != dtype:
            raise FileMismatch(
                f"{what}: {role} is {values.dtype} {values.shape}, expected {dtype} {shape}: either"
                " its files were mixed up or the catalog was changed by hand; restore that from a"
                " backup"
            )
