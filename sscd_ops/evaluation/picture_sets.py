"""Sets of pictures that can be read again: a user's own through the product's sources, or made.

A picture's name in a set is its sample's key: of a folder the path below it without the extension,
of a tar the key. What a night would quarantine is left out (``given``), and counted by its code.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Protocol

import numpy as np

from sscd_ops.core.manifest import ManifestRow
from sscd_ops.errors import ConfigError, DataError, UsageError
from sscd_ops.evaluation.given import Given
from sscd_ops.model import FoundShard, MemberRef, ShardEnd
from sscd_ops.options import SourceKind
from sscd_ops.ports import Progress, Rooms

log = logging.getLogger(__name__)


class PictureSet(Protocol):
    """Pictures by number, readable more than once."""

    @property
    def names(self) -> list[str]:
        """Their names, in order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]:
        """All files' bytes, in order."""

    def get(self, row: int) -> bytes:
        """One file's bytes."""


@dataclass
class SourceSet:
    """The readable pictures of some URLs. Bytes are read again when they are asked for.

    Attributes:
        names: the samples' keys.
        left_out: quarantine code -> samples, or whole source shards.
        shard_faults: what is wrong with which source shard, for people.
        unknown: of the names that were asked for, those no sample has; known when all was read.
    """

    given: Given
    names: list[str] = field(default_factory=list, init=False)
    left_out: Counter[str] = field(default_factory=Counter, init=False)
    shard_faults: list[str] = field(default_factory=list, init=False)
    unknown: list[str] = field(default_factory=list, init=False)
    _shards: list[FoundShard] = field(default_factory=list, init=False)
    _of: list[int] = field(default_factory=list, init=False)
    _members: list[MemberRef] = field(default_factory=list, init=False)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, shard: FoundShard, key: str, member: MemberRef) -> None:
        """Append a picture."""
        if not self._shards or self._shards[-1] != shard:
            self._shards.append(shard)
        self.names.append(key)
        self._of.append(len(self._shards) - 1)
        self._members.append(member)

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for number, shard in enumerate(self._shards):
            stop = start
            while stop < len(self._of) and self._of[stop] == number:
                stop += 1
            yield from self.given.fetch(shard, self._members[start:stop])
            start = stop

    def get(self, row: int) -> bytes:
        """One picture's bytes.

        Raises:
            DataError: the source no longer has it.
        """
        for data in self.given.fetch(self._shards[self._of[row]], [self._members[row]]):
            return data
        raise DataError(f"{self.names[row]}: the source no longer has it")


def member_of(row: ManifestRow) -> MemberRef:
    """Where a readable sample's image is."""
    if row.image_member is None or row.image_sha256 is None:
        raise DataError(f"sample {row.key!r} has no image")
    return MemberRef(
        row.image_member, row.image_offset or 0, row.image_bytes or 0, row.image_sha256
    )


def open_set(
    rooms: Rooms,
    urls: Sequence[str],
    kind: SourceKind | None = None,
    limit: int = 0,
    only: Set[str] | None = None,
    seed: int = 0,
) -> SourceSet:
    """The pictures of some URLs in the sources' order; under a limit, of shards drawn by chance.

    Args:
        rooms: the product's parts.
        urls: folders, tars or patterns.
        kind: of source; None: by the endings.
        limit: pictures at most; 0: all.
        only: names of the pictures taken; None: all.
        seed: of the order in which shards are read under a limit.

    Raises:
        UsageError: nothing is there, or none of it is a picture.
    """
    answer = SourceSet(Given(rooms, urls, kind))
    found = answer.given.find()
    # the first shards may all be of one kind of picture, so which are read is drawn
    order = np.random.default_rng(seed).permutation(len(found)) if limit else np.arange(len(found))
    rooms.progress.start(f"reading {urls[0]}", None)
    taken = islice(_readable(answer, found, order.tolist(), only, rooms.progress), limit or None)
    for number, key, member in sorted(taken, key=lambda picture: picture[0]):
        answer.add(found[number], key, member)
    rooms.progress.done()
    if only and len(answer.unknown) == len(only):
        raise UsageError(
            f"{', '.join(urls)}: no picture has any of the {len(only)} names given by --only, such"
            f" as {answer.unknown[0]!r}: names are keys, or paths below the folder"
        )
    if not len(answer):
        codes = [f"{code} {count}" for code, count in answer.left_out.items()]
        why = ", ".join([*codes, *answer.shard_faults[:3]])
        raise UsageError(f"no picture in {', '.join(urls)} ({why or 'no samples'})")
    for fault in answer.shard_faults:
        log.warning("source shard %s; what came before is used", fault)
    return answer


def _readable(
    into: SourceSet,
    found: Sequence[FoundShard],
    order: Iterable[int],
    only: Set[str] | None,
    progress: Progress,
) -> Iterator[tuple[int, str, MemberRef]]:
    """Shard, key and image of the pictures wanted; what is left out goes ``into`` the set's counts.

    Names that no sample has are known, and written down, when all shards were read to their end.
    """
    seen: set[str | None] = set()
    for number in order:
        shard = found[number]

        def note(end: ShardEnd, uri: str = shard.uri) -> None:
            if end.fault is not None:
                code, message = end.fault
                into.left_out[str(code)] += 1
                into.shard_faults.append(f"{uri}: {code}: {message}")

        for row in into.given.rows(shard, note):
            progress.advance()
            if only is not None and row.key not in only:
                continue
            seen.add(row.key)
            if row.code is None:
                yield number, row.key or "", member_of(row)
            else:
                into.left_out[row.code] += 1
    into.unknown = sorted((only or set()) - seen)


class Spool:
    """Pictures kept in one temporary file: made copies, and originals that are read many times."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="sscd-ops-")  # noqa: SIM115
        self._ends = [0]

    def __del__(self) -> None:
        self._file.close()

    def add(self, name: str, data: bytes) -> None:
        """Append a picture."""
        self.names.append(name)
        self._file.seek(self._ends[-1])
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[bytes]:
        return (self.get(row) for row in range(len(self)))

    def get(self, row: int) -> bytes:
        """One file's bytes."""
        self._file.seek(self._ends[row])
        return self._file.read(self._ends[row + 1] - self._ends[row])


@dataclass(frozen=True)
class Subset:
    """Some pictures of a set, in the order given."""

    whole: PictureSet
    rows: Sequence[int]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [self.whole.names[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[bytes]:
        return (self.whole.get(row) for row in self.rows)

    def get(self, row: int) -> bytes:
        """One file's bytes."""
        return self.whole.get(self.rows[row])


@dataclass(frozen=True)
class Joined:
    """Sets one after another."""

    sets: Sequence[PictureSet]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [name for one in self.sets for name in one.names]

    def __len__(self) -> int:
        return sum(len(one) for one in self.sets)

    def __iter__(self) -> Iterator[bytes]:
        for one in self.sets:
            yield from one

    def get(self, row: int) -> bytes:
        """One file's bytes."""
        for one in self.sets:
            if row < len(one):
                return one.get(row)
            row -= len(one)
        raise IndexError(row)


def numbered(names: Iterable[str], what: str) -> dict[str, int]:
    """Name -> row; also under the last part of a path, where no other name ends the same.

    Raises:
        ConfigError: two pictures have one name.
    """
    answer: dict[str, int] = {}
    short: Counter[str] = Counter()
    for row, name in enumerate(names):
        if name in answer:
            raise ConfigError(f"two {what} are named {name!r}: pairs could mean either")
        answer[name] = row
        short[name.rpartition("/")[2]] += 1
    for name, row in list(answer.items()):
        last = name.rpartition("/")[2]
        if short[last] == 1:
            answer.setdefault(last, row)
    return answer
