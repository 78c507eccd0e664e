"""Segments and kept masks as immutable files: plain numpy arrays, memory-mapped when read."""

from __future__ import annotations

import io
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sscd_ops.core.measures import DESCRIPTORS, HASHES
from sscd_ops.core.stored_rows import StoredRows
from sscd_ops.errors import FileMismatch, InvariantError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from sscd_ops.core.stored_rows import Rows
    from sscd_ops.model import Segment, StoredFile
    from sscd_ops.ports import SearchBackend, Store

IDS = "ids"
_BY_HAND = (
    "its bytes are those that the catalog names, so the catalog was changed by hand: restore a dump"
    " of it (`sscd-ops db restore FILE --replace`)"
)
_AT_ONCE = 4
"""Files of a segment that are compared, or fetched, side by side."""
_COPY = 4 * 2**20
"""Bytes written at once; a store has some such pieces waiting."""
_ROWS = 16384
"""Rows written at once at most: codes are small, and made of what is large."""


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
    descriptors: Rows,
    ids: NDArray[np.uint8],
    codes: Mapping[str, Rows],
) -> dict[str, StoredFile]:
    """Write a segment's arrays, each to its own file named by its content: role -> file.

    They are read and written block by block.

    Args:
        store: where.
        folder: below the store's root.
        descriptors: float16 (n, d), in manifest order.
        ids: uint8 (n, 32), the images' sha256.
        codes: role -> (n, ...), what the search backend answers for the descriptors (``coded``).

    Raises:
        FileMismatch: the arrays are not of one length, or of the wrong type.
    """
    arrays: dict[str, Rows] = {DESCRIPTORS: descriptors, IDS: ids, **codes}
    _check(f"a segment for {folder}", arrays, len(descriptors), descriptors.shape[-1])
    return _write_arrays(store, folder, arrays)


def coded(backend: SearchBackend, descriptors: Rows) -> dict[str, StoredRows]:
    """What a backend wants stored beside descriptors, computed where it is asked for."""
    blanks = backend.codes(descriptors[:0])
    return {
        role: StoredRows([_Codes(backend, descriptors, role)], blank)
        for role, blank in blanks.items()
    }


@dataclass(frozen=True)
class _Codes:
    """A role's codes of some descriptors as a piece of ``StoredRows``."""

    backend: SearchBackend
    descriptors: Rows
    role: str

    def __len__(self) -> int:
        return len(self.descriptors)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        return self.backend.codes(self.descriptors[key])[self.role]


def rows_of(store: Store, file: StoredFile) -> StoredRows:
    """A segment's array, of which only what is asked for is read.

    Raises:
        FileMismatch: the file is missing or damaged.
    """
    path = store.local(file)
    mapped = _map(path, file.name)
    offset = mapped.offset if isinstance(mapped, np.memmap) else 0
    # open from now on: a copy of a remote file may give way to others
    return _on_disk(path.open("rb"), offset, mapped)


def set_aside(rows: StoredRows) -> StoredRows:
    """The same rows in one temporary file, which is gone when they are."""
    file = cast("BinaryIO", tempfile.TemporaryFile(prefix="sscd-ops-"))  # noqa: SIM115 - kept open
    _save(file, rows)
    file.flush()
    return _on_disk(file, len(_header(rows)), rows)


def _on_disk(file: BinaryIO, offset: int, like: Rows) -> StoredRows:
    piece = _OnDisk(file, offset, like.dtype, like.shape)
    weakref.finalize(piece, file.close)
    return StoredRows([piece], like[:0])


@dataclass(frozen=True)
class _OnDisk:
    """An array in a file as a piece of ``StoredRows``; what was read of it stays nowhere.

    Of a map that is kept every page that was looked at counts as memory of the process.
    """

    file: BinaryIO
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        if not len(self):  # an empty file part cannot be mapped
            return np.empty(self.shape, self.dtype)
        mapped: Any = np.memmap(self.file, self.dtype, "r", self.offset, self.shape)
        return np.array(mapped[key])


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
    arrays = {}
    for role in roles:
        pieces = [_SegmentRole(store, segment, role, backend) for segment in segments]
        blanks = [piece[:0] for piece in pieces]
        for blank in blanks:
            if (blank.dtype, blank.shape) != (blanks[0].dtype, blanks[0].shape):
                raise FileMismatch(f"segments hold {blank.dtype} and {blanks[0].dtype}; {_BY_HAND}")
        arrays[role] = StoredRows(pieces, blanks[0])
    return _write_arrays(store, folder, arrays)


@dataclass(frozen=True)
class _SegmentRole:
    """A segment's role as a piece of ``StoredRows``: read, or made, where it is asked for."""

    store: Store
    segment: Segment
    role: str
    backend: SearchBackend

    def __len__(self) -> int:
        return self.segment.rows

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        if self.role in self.segment.files:
            return read_roles(self.store, self.segment, [self.role])[self.role][key]
        descriptors = read_roles(self.store, self.segment, [DESCRIPTORS])[DESCRIPTORS]
        return self.backend.codes(np.asarray(descriptors[key]))[self.role]


def blank_rows(
    store: Store,
    folder: str,
    files: Mapping[str, StoredFile],
    images: Collection[bytes],
    *,
    ids_too: bool = False,
) -> dict[str, StoredFile]:
    """Write a segment's files again with zeros in the rows of some images: role -> file.

    Its ids stay as they are, unless ``ids_too``. Rows of zeros are near nothing; only rows that no
    mask keeps are to be blank.

    Raises:
        FileMismatch: a file is missing or damaged.
    """
    ids = np.load(store.local(files[IDS]), mmap_mode="r", allow_pickle=False)
    wanted = np.sort(np.frombuffer(b"".join(images), "V32"))
    is_gone = np.isin(np.ascontiguousarray(ids).view("V32").reshape(-1), wanted)
    arrays = {}
    for role, file in files.items():
        if role != IDS or ids_too:
            rows = rows_of(store, file)
            arrays[role] = StoredRows([_Blanked(rows, is_gone)], rows[:0])
    return {**files, **_write_arrays(store, folder, arrays)}


@dataclass(frozen=True)
class _Blanked:
    """Rows of which some are zeros, as a piece of ``StoredRows``; ``is_blank``: bool (n,)."""

    rows: StoredRows
    is_blank: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        found = self.rows[key].copy()
        found[self.is_blank[key]] = 0
        return found


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
    if DESCRIPTORS not in segment.files:
        raise FileMismatch(f"segment {segment.segment_id} has no descriptors; {_BY_HAND}")
    descriptors = _read_arrays(store, segment, [DESCRIPTORS])[DESCRIPTORS]
    return _write_arrays(store, folder, coded(backend, descriptors))


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


def mask_of(segment: Segment) -> StoredFile:
    """The kept mask of a live segment."""
    if segment.mask is None:
        raise InvariantError(f"segment {segment.segment_id} is in no generation")
    return segment.mask


def read_kept(store: Store, segment: Segment) -> NDArray[np.bool_]:
    """Which rows of a live segment are kept: bool (rows,).

    Raises:
        FileMismatch: as ``read_mask``.
    """
    return read_mask(store, mask_of(segment), segment.rows)


def _write_arrays(store: Store, folder: str, arrays: Mapping[str, Rows]) -> dict[str, StoredFile]:
    return {
        role: store.put(folder, ".npy", partial(_save, values=values))
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


def _save(target: BinaryIO, values: Rows) -> None:
    """``np.save`` without its use of file descriptors, so that any target is the same bytes."""
    target.write(_header(values))
    step = min(max(1, _COPY // max(1, values[:1].nbytes)), _ROWS)
    for start in range(0, len(values), step):  # noqa: FURB122 - a store's stream has only write
        target.write(np.ascontiguousarray(values[start : start + step]).tobytes())


def _header(values: Rows) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # always version 1.0: equal arrays, equal bytes
        header,
        {
            "descr": np.lib.format.dtype_to_descr(values.dtype),
            "fortran_order": False,
            "shape": values.shape,
        },
    )
    return header.getvalue()


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


def _check(what: str, arrays: Mapping[str, Rows], rows: int, dimensions: int) -> None:
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
