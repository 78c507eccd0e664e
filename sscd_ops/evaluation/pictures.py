"""Sets of pictures that can be read again: a user's own through the product's sources, or made.

A picture's name in a set is its sample's key: of a folder the path below it without the extension,
of a tar the key. Source shards are read as a night reads them, so what a night would quarantine is
left out here as well, and counted by its code. A missing caption is no fault here.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import numpy as np

from sscd_ops.core.formats import IMAGE_EXTENSIONS
from sscd_ops.core.interpret import Interpreter
from sscd_ops.core.manifest import ManifestRow
from sscd_ops.errors import ConfigError, DataError, UsageError
from sscd_ops.model import FoundShard, Interval, MemberRef, RawSample, ShardEnd
from sscd_ops.options import LimitsOptions, SourceKind, SourceOptions
from sscd_ops.ports import Rooms

log = logging.getLogger(__name__)

ALWAYS = Interval(datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 2, tzinfo=UTC))
"""Any interval: URLs here have no placeholders."""
_TARS = (".tar", ".tar.gz", ".tgz")


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


def source_options(
    urls: Sequence[str], kind: SourceKind | None = None, *, missing_caption: bool = True
) -> SourceOptions:
    """A source over URLs without placeholders; its kind by their endings, if not given.

    Raises:
        UsageError: a URL holds a placeholder or names pictures, or the endings differ.
    """
    for url in urls:
        if "{" in url:
            raise UsageError(f"{url!r}: no placeholders here: give a folder, a file or a pattern")
        if kind is None and _is_picture(url):
            raise UsageError(f"{url!r}: pictures are no source: give the folder they lie in")
    kinds = {kind or kind_of(url) for url in urls}
    if len(kinds) != 1:
        raise UsageError(f"the URLs are of several kinds ({', '.join(sorted(kinds))}): give one")
    return SourceOptions(
        "pictures",
        kind=kinds.pop(),
        urls=tuple(urls),
        missing_caption="keep" if missing_caption else "quarantine",
    )


def _is_picture(url: str) -> bool:
    extension = PurePosixPath(url).suffix[1:].lower()
    local = Path(url.removeprefix("file://")).expanduser()
    return extension in IMAGE_EXTENSIONS and not local.is_dir()


def kind_of(url: str) -> SourceKind:
    """What a URL's ending says it is: tars, parquet files or a folder."""
    name = url.rstrip("/").lower()
    if name.endswith(_TARS):
        return "webdataset"
    return "parquet" if name.endswith(".parquet") else "folder"


def find_shards(rooms: Rooms, options: SourceOptions, limits: LimitsOptions) -> list[FoundShard]:
    """The source shards of some URLs.

    Raises:
        UsageError: a URL has none: a mistyped one of several must not pass in silence.
    """
    found = rooms.source(options, limits).find(ALWAYS, "UTC")
    nowhere = list(options.urls) if not found else []
    if found and len(options.urls) > 1:
        each = [dataclasses.replace(options, urls=(url,)) for url in options.urls]
        nowhere = [one.urls[0] for one in each if not rooms.source(one, limits).find(ALWAYS, "UTC")]
    if nowhere:
        raise UsageError(
            f"nothing found at {', '.join(nowhere)}: give a folder of pictures, or tars as"
            " 'folder/*.tar' (in quotes)"
        )
    return found


def read_samples(
    rooms: Rooms,
    options: SourceOptions,
    limits: LimitsOptions,
    shard: FoundShard,
    end: Callable[[ShardEnd], None] = lambda end: None,
) -> Iterator[tuple[ManifestRow, RawSample]]:
    """A source shard's samples with what ingest would write down of each."""
    interpreter = Interpreter(
        "evaluation", options, limits, shard.relative_uri, rooms.inspector(limits)
    )
    for item in rooms.source(options, limits).read(shard):
        if isinstance(item, RawSample):
            yield interpreter.row(item), item
        else:
            end(item)


@dataclass
class SourceSet:
    """The readable pictures of some URLs. Bytes are read again when they are asked for.

    Attributes:
        names: the samples' keys.
        left_out: quarantine code -> samples, or whole source shards.
        shard_faults: what is wrong with which source shard, for people.
        unknown: of the names that were asked for, those no sample has; known when all was read.
    """

    rooms: Rooms
    options: SourceOptions
    limits: LimitsOptions
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
        source = self.rooms.source(self.options, self.limits)
        start = 0
        for number, shard in enumerate(self._shards):
            stop = start
            while stop < len(self._of) and self._of[stop] == number:
                stop += 1
            yield from source.fetch(shard, self._members[start:stop])
            start = stop

    def get(self, row: int) -> bytes:
        """One picture's bytes.

        Raises:
            DataError: the source no longer has it.
        """
        source = self.rooms.source(self.options, self.limits)
        for data in source.fetch(self._shards[self._of[row]], [self._members[row]]):
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
    limits = LimitsOptions()
    options = source_options(urls, kind)
    answer = SourceSet(rooms, options, limits)
    found = find_shards(rooms, options, limits)
    # the first shards may all be of one kind of picture, so which are read is drawn
    order = np.random.default_rng(seed).permutation(len(found)) if limit else np.arange(len(found))
    rooms.progress.start(f"reading {urls[0]}", None)
    taken = islice(_readable(answer, found, order.tolist(), only), limit or None)
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
    into: SourceSet, found: Sequence[FoundShard], order: Iterable[int], only: Set[str] | None
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

        for row, _ in read_samples(into.rooms, into.options, into.limits, shard, note):
            into.rooms.progress.advance()
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

    parts: Sequence[PictureSet]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [name for part in self.parts for name in part.names]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield from part

    def get(self, row: int) -> bytes:
        """One file's bytes."""
        for part in self.parts:
            if row < len(part):
                return part.get(row)
            row -= len(part)
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
