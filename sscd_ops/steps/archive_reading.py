"""Members of samples that a night removed, from the archive: for when their source is gone."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

from sscd_ops.catalog import archive
from sscd_ops.catalog.archive import ArchivedShard, Place
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.errors import FileMismatch
from sscd_ops.model import MemberRef
from sscd_ops.steps.parts import Parts


@dataclass(frozen=True, slots=True)
class WholeSample:
    """A sample as it is published."""

    placed: PlacedSample
    key: str
    members: list[MemberRef]
    image: int
    """Which member is the image."""
    names: tuple[str, ...]
    """Published extension of each member; then those made here (``txt``, ``json``)."""


class ArchiveReader:
    """Reads samples from the archive; the last archived shard it read stays listed.

    Args:
        parts: the real parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.lacking: set[int] = set()
        """Source shards, by number, of which a sample was asked for here."""
        self._shard: ArchivedShard | None = None
        self._path = Path()
        self._places: dict[str, tuple[int, int]] = {}

    def members(self, sample: WholeSample) -> list[bytes] | None:
        """The members as they were decided on; None where the archive does not have them.

        Raises:
            StoreUnavailable: storage did not answer.
        """
        place = Place(sample.placed.shard_id, sample.placed.position)
        self.lacking.add(place.shard_id)
        try:
            return self._read(sample) if self._open(place) else None
        except FileNotFoundError:  # another one took its place since it was opened
            self._shard = None
            return self._read(sample) if self._open(place) else None

    def _read(self, sample: WholeSample) -> list[bytes] | None:
        found = []
        with self._path.open("rb") as stream:
            for extension, member in zip(sample.names, sample.members, strict=False):
                at = self._places.get(f"{sample.key}.{extension}")
                if at is None:
                    return None
                offset, size = at
                stream.seek(offset)
                data = stream.read(size)
                if hashlib.sha256(data).digest() != member.sha256:
                    return None
                found.append(data)
        return found

    def _open(self, place: Place) -> bool:
        """Whether an archived shard that may hold the sample of a place is open by now."""
        if self._shard is not None and self._shard.first <= place <= self._shard.last:
            return True
        with self._parts.catalog.begin() as conn:
            shard = archive.holding(conn, place)
        if shard is None:
            return False
        try:
            path = self._parts.store.local(shard.files["tar"])
        except FileMismatch:
            return False  # `catalog verify` says so
        with tarfile.open(path, "r:") as tar:
            self._places = {each.name: (each.offset_data, each.size) for each in tar}
        self._shard, self._path = shard, path
        return True
