"""Which files below the root hold withdrawn samples, and their removal without grace."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Collection, Iterator, Mapping
from io import RawIOBase
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from sscd_ops.catalog import condemned, named_files
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.errors import CommitConflict, FileMismatch
from sscd_ops.model import ARCHIVE, ListedFile, StoredFile
from sscd_ops.steps import vacuum
from sscd_ops.steps.parts import Parts

_AT_WORK = 3600.0
"""Seconds in which a hidden file counts as that of a writer who is at work."""


def remove_files(
    parts: Parts,
    dataset: Dataset,
    samples: Collection[UUID],
    known: Collection[str],
    folders: Collection[str] = (),
) -> tuple[dict[str, int], list[str]]:
    """Remove all files that no row names and that hold, or may hold, some samples.

    Manifests and shards that no row names are looked into; what cannot be read may hold them.

    Args:
        parts: the real parts.
        dataset: whose.
        samples: which.
        known: names of files that held them; no row may name one any more.
        folders: below the dataset's, whose files do not say what they hold: those go that are
            condemned, or that no row names and nobody wrote lately.

    Returns:
        What was removed, name -> bytes, and what is left to whoever is writing it.

    Raises:
        CommitConflict: a row names one of ``known`` still, or again (retried).
    """
    found = vacuum.listed(parts, dataset.name)
    with parts.catalog.begin() as conn:
        named = named_files.all_names(conn, dataset.dataset_id)
        condemned_ones = condemned.condemned(conn, dataset.dataset_id, 0.0)
    if still := sorted(named.intersection(known)):
        raise CommitConflict(
            f"{still[0]} holds what is to be removed, and was named meanwhile: run this again"
        )
    gone = set(known)
    unnamed = {name: file for name, file in found.items() if name not in named}
    gone.update(_holding(parts, samples, unnamed))
    left: list[str] = []
    for name, file in unnamed.items():
        is_old = file.modified is not None and file.modified <= time.time() - _AT_WORK
        if vacuum.is_leftover(name):
            (gone.add if is_old else left.append)(name)
        elif vacuum.folder_of(name) in folders and (is_old or name in condemned_ones):
            gone.add(name)
    parts.store.drop_copies({name.rpartition("/")[2].partition(".")[0] for name in gone})
    return vacuum.remove_now(parts, dataset, gone, found), sorted(left)


def _holding(
    parts: Parts, samples: Collection[UUID], unnamed: Mapping[str, ListedFile]
) -> Iterator[str]:
    """Names of manifests and shards that hold some samples."""
    ids, keys = {each.bytes for each in samples}, {each.hex for each in samples}
    shards: dict[str, list[str]] = {}
    for name in unnamed:
        if vacuum.is_leftover(name):
            continue
        folder = vacuum.folder_of(name)
        if folder == "manifests" and _may_hold(parts, name, "sample_id", ids):
            yield name
        if folder in ("shards", ARCHIVE):
            stem = name.removesuffix("_stats.json").rpartition(".")[0] or name
            shards.setdefault(stem.removesuffix("_stats"), []).append(name)
    for names in shards.values():
        for name in names:
            if name.endswith(".tar"):
                holds = _tar_holds(parts, unnamed[name], keys)
            else:
                holds = name.endswith(".parquet") and _may_hold(parts, name, "key", keys)
            if holds:
                yield from names
                break


def _may_hold(parts: Parts, name: str, column: str, values: Collection[bytes | str]) -> bool:
    data = parts.store.read_small(name)
    if data is None:
        return False
    try:
        found = pq.read_table(pa.BufferReader(data), columns=[column]).column(0)
    except (pa.ArrowException, OSError, KeyError, IndexError):
        return True
    return not set(values).isdisjoint(found.to_pylist())


def _tar_holds(parts: Parts, file: ListedFile, keys: Collection[str]) -> bool:
    pieces = parts.store.pieces(StoredFile(file.name, "", file.bytes))
    try:
        with tarfile.open(fileobj=_Stream(pieces), mode="r|") as tar:
            return any(member.name.partition(".")[0] in keys for member in tar)
    except (tarfile.TarError, EOFError):
        return True


class _Stream(RawIOBase):
    """Pieces of bytes as a file that is read from its beginning to its end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """The next bytes; how many."""
        if not self._left:
            try:
                self._left = memoryview(next(self._pieces, b""))
            except FileMismatch:  # behind the last: nothing says what its sha256 is to be
                return 0
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
