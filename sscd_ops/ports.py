"""What the steps ask of the rooms beside them. Real parts are joined to steps in ``wiring``.

Each port has one behaviour suite in tests/ that every implementation passes. Those at the end open
the others: ``Sources``, ``Models`` and ``Search`` make up ``Rooms`` and ``steps.parts.Parts``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self

from sscd_ops.model import (
    EmbeddedChunk,
    Fault,
    Fingerprint,
    FoundShard,
    ImageHeader,
    Interval,
    ListedFile,
    Matches,
    MemberRef,
    RawSample,
    ShardEnd,
    StoredFile,
    TarEntry,
)
from sscd_ops.options import (
    USUAL_LIMITS,
    FingerprintOptions,
    LimitsOptions,
    Model,
    SourceOptions,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Store(Protocol):
    """Immutable files below one root, local or remote."""

    root: str

    def put(self, folder: str, suffix: str, write: Callable[[BinaryIO], None]) -> StoredFile:
        """Write a file named ``folder/<sha256 of its content><suffix>``, durably, and say which.

        Writes anew even where a file of that name exists (equal name, equal bytes).
        """

    def put_named(
        self, name: str, write: Callable[[BinaryIO], None], *, over: bool = False
    ) -> StoredFile:
        """Write a file under a given final name; it appears whole or not at all.

        The name carries the digest of what decides its bytes, so an existing one is replaced
        locally by equal bytes.

        Args:
            name: relative to the root.
            write: writes its bytes to a stream.
            over: replace a file with other bytes too: of one that no row names.

        Raises:
            FileMismatch: a file of this name exists with other bytes.
        """

    def restore(self, file: StoredFile, write: Callable[[BinaryIO], None]) -> bool:
        """Write a lost or damaged file anew, if what is written are its bytes; whether it was.

        Raises:
            FileMismatch: a folder is in its place.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write a small mutable file (``latest.json`` alone), atomically."""

    def read_small(self, name: str) -> bytes | None:
        """The whole content of a small file, uncached; None where there is none."""

    def local(self, file: StoredFile) -> Path:
        """A local path with the file's bytes, compared with its sha256; a copy where remote.

        Raises:
            FileMismatch: missing or different.
        """

    def pieces(self, file: StoredFile) -> Iterator[bytes]:
        """The file's bytes in pieces, from where it is; behind the last its sha256 is compared.

        For whoever reads it once and undoes what it made of it if the file is not that.

        Raises:
            FileMismatch: missing; or, when all was answered, different.
        """

    def verify(self, file: StoredFile) -> None:
        """Read the whole file and compare its sha256, whatever was compared before.

        Raises:
            FileMismatch: missing or different.
        """

    def drop_damaged_copy(self, file: StoredFile) -> bool:
        """Remove a file's local copy if it is damaged; whether it was. Another one is fetched."""

    def drop_copies(self, digests: Collection[str]) -> int:
        """Remove this machine's copies of files with these sha256; how many there were.

        With them downloads that were given up at least an hour ago, which may be of such a file.
        """

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, whatever its content; asked of storage itself."""

    def list(self, folder: str) -> Iterator[ListedFile]:
        """All files below a folder, hidden ones too, in no order; none where there is no folder.

        Links are listed and never followed, not even one on the way from the root to the folder.
        """

    def delete(self, name: str) -> None:
        """Remove a file; no error where it is already gone."""

    def url(self, name: str) -> str:
        """The full URL or path of a file of this root, as a reader outside the product needs it."""


class Source(Protocol):
    """One configured source: lists its shards for an interval and reads them."""

    name: str
    root: str

    def find(self, interval: Interval, timezone: str) -> list[FoundShard]:
        """The source shards of an interval, sorted by relative URI; finished files only."""

    def ready(self, interval: Interval, timezone: str) -> str | None:
        """None when the interval's data may be read, else the URL that is waited for."""

    def version(self, shard: FoundShard) -> str | None:
        """The version of a shard as it is now; None where it is gone. May be asked by threads.

        Raises:
            StoreUnavailable: storage did not answer.
        """

    def read(self, shard: FoundShard) -> Iterator[RawSample | ShardEnd]:
        """Stream a shard's samples in order, then exactly one ``ShardEnd``. Memory is bounded.

        A fault of the shard is in ``ShardEnd``; what came before it has been yielded.

        Raises:
            SourceChanged: the file is gone or no longer has this version.
            StoreUnavailable: storage did not answer.
        """

    def fetch(self, shard: FoundShard, members: Sequence[MemberRef]) -> Iterator[bytes]:
        """The members' bytes, in the given (ascending) order, unchecked.

        Raises:
            SourceChanged: the shard is gone, shorter, or cannot yield a member.
        """


class InspectImage(Protocol):
    """Looks at pictures: headers, limits, pixels where asked."""

    def __call__(self, data: bytes, *, pixels: bool = False) -> ImageHeader | tuple[Fault, str]:
        """A header, or why there is none.

        Args:
            data: the file's bytes.
            pixels: decode it too, where it is not beyond the limit of pixels.
        """


class Embedder(Protocol):
    """Turns pictures into descriptors. A context manager: leaving it ends its workers."""

    fingerprint: Fingerprint
    dimensions: int

    def embed(self, images: Iterable[bytes]) -> Iterator[EmbeddedChunk]:
        """Descriptors in input order, in chunks; every input has exactly one row.

        The numbers of a row depend on its own bytes alone. A picture that fails has a fault.
        """

    def runtime(self) -> dict[str, str]:
        """Device and library versions, recorded beside the descriptors."""

    def __enter__(self) -> Embedder: ...

    def __exit__(self, *exc: object) -> None: ...


class GrowingIndex(Protocol):
    """Rows of the batch's kept pictures in the order of keeping: descriptors, or hashes (n, 33)."""

    def add(self, rows: NDArray[Any], /) -> None:
        """Append some."""

    def search(self, queries: NDArray[Any], floor: float, limit: int) -> Matches:
        """As ``SearchBackend.search`` and ``HashSearch.search``, against all added so far."""


class SearchBlock(Protocol):
    """Some rows of a batch, descriptors or hashes, to be compared with each other in both ways.

    What a search makes of them is made once and kept: hold a block as long as it is compared, and
    no longer. Each two rows are compared once, whichever of them asks. Rows are numbered from 0 in
    each block.
    """

    def __len__(self) -> int: ...

    def across(self, other: Self, floor: float, limit: int) -> tuple[Matches, Matches]:
        """Compare two blocks.

        Args:
            other: another block of the same search.
            floor: least similarity of an answer.
            limit: answers per row at most; ties go to the smaller row.

        Returns:
            For each row of this block its most similar rows of the other one, and for each row of
            the other one its most similar rows of this.
        """

    def within(self, floor: float, limit: int) -> Matches:
        """For each row its most similar other rows of this block; arguments as of ``across``."""


class HashSearch(Protocol):
    """Answers "all pairs >= floor" for perceptual hashes, exactly (``core.perceptual``)."""

    def search(
        self,
        queries: NDArray[np.uint8],
        hashes: NDArray[np.uint8],
        kept: NDArray[np.bool_],
        floor: float,
        limit: int,
    ) -> Matches:
        """Each query's ``limit`` most similar kept rows at or above ``floor``.

        Args:
            queries: uint8 (n, 33), hash and quality.
            hashes: uint8 (m, 33); may be a memory map.
            kept: bool (m,); only True rows answer.
            floor: least hash similarity of an answer.
            limit: answers per query at most; ties go to the smaller row.
        """

    def block(self, hashes: NDArray[np.uint8]) -> SearchBlock:
        """Hashes (n, 33) to be compared in both ways; may be a memory map."""

    def growing(self) -> GrowingIndex:
        """An empty index that rows can be added to."""


class SearchBackend(Protocol):
    """Answers "all pairs >= floor" with canonical similarities (docs/search.md)."""

    name: str

    def codes(self, descriptors: NDArray[np.float16]) -> dict[str, NDArray[Any]]:
        """The arrays (role -> (n, ...)) this backend wants stored beside descriptors (n, d)."""

    def roles(self) -> tuple[str, ...]:
        """The roles of ``codes``."""

    def search(
        self,
        queries: NDArray[np.float16],
        descriptors: NDArray[np.float16],
        codes: dict[str, NDArray[Any]],
        kept: NDArray[np.bool_],
        floor: float,
        limit: int,
    ) -> Matches:
        """Each query's ``limit`` most similar kept rows at or above ``floor``.

        Args:
            queries: float16 (n, d), L2-normalised up to float16 rounding.
            descriptors: float16 (m, d); may be a memory map.
            codes: what ``codes`` answered for ``descriptors``; computed anew where a role lacks.
            kept: bool (m,); only True rows answer.
            floor: least canonical similarity of an answer.
            limit: answers per query at most; ties go to the smaller row.
        """

    def block(self, descriptors: NDArray[np.float16]) -> SearchBlock:
        """Descriptors (n, d) to be compared in both ways; may be a memory map.

        It takes a copy of them in float32, and codes: 2.5 KB a row at 512 dimensions.
        """

    def growing(self, dimensions: int) -> GrowingIndex:
        """An empty index that rows can be added to."""


class TarSink(Protocol):
    """Writes one published tar: fixed headers, members in the order given."""

    def add(self, name: str, data: bytes) -> int:
        """Append a member and answer the byte offset of its data."""

    def append(self, tar: Iterable[bytes], last: int) -> int:
        """Append all members of a published tar as they stand there.

        Args:
            tar: its bytes, in pieces.
            last: byte offset of the data of one of its last members.

        Returns:
            By how much its offsets are larger here.
        """

    def copy(self, tar: Path, is_wanted: Callable[[str], bool]) -> list[tuple[int, int]]:
        """Append the members of a published tar whose names are wanted, as they stand there.

        Returns:
            Of each run of members that follow each other there, in order: byte offset there, here.
        """

    def close(self) -> None:
        """Write the end of the archive."""


class ReadTar(Protocol):
    """Streams the entries of a tar."""

    def __call__(
        self,
        stream: BinaryIO,
        *,
        gz: bool,
        max_member_bytes: int,
        ignored: dict[str, int] | None = None,
    ) -> Iterator[TarEntry]:
        """Yield entries in order; ``ignored`` counts what was passed over and is no entry.

        Raises:
            BrokenShard: truncated, empty or no tar; what came before has been yielded.
        """


class Progress(Protocol):
    """Told how far a step is."""

    def start(self, label: str, total: int | None) -> None:
        """A piece of work begins; ``total`` units, if known."""

    def advance(self, n: int = 1) -> None:
        """``n`` units done."""

    def done(self) -> None:
        """The piece of work ended."""


class Silence:
    """A progress that says nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, n: int = 1) -> None:
        """Do nothing."""

    def done(self) -> None:
        """Do nothing."""


class Sources(Protocol):
    """Opens what pictures are read from."""

    def source(self, options: SourceOptions, limits: LimitsOptions) -> Source:
        """A source's reader."""

    def nothing_at(
        self, options: SourceOptions, limits: LimitsOptions, interval: Interval, timezone: str
    ) -> list[str]:
        """The URLs of an interval, placeholders filled in, that name no source shard."""

    def source_root(self, options: SourceOptions) -> str:
        """What the identities of a source are relative to."""

    def is_empty(self, root: str) -> bool:
        """Whether nothing at all lies at the root of a source."""

    def inspector(self, limits: LimitsOptions) -> InspectImage:
        """Looks at a picture's header, and at its pixels where asked."""


class Models(Protocol):
    """Opens what makes descriptors, and knows how each is used."""

    def fingerprint(self, options: FingerprintOptions) -> Fingerprint:
        """The fingerprint of a configured model; weights are looked for, not loaded."""

    def model(self, name: str = "") -> Model:
        """A model by its name; empty: that of a new dataset that names none."""

    def embedder(
        self,
        options: FingerprintOptions,
        *,
        perceptual: bool = False,
        limits: LimitsOptions = USUAL_LIMITS,
    ) -> Embedder:
        """The model, loaded, with its decoder processes, which may make perceptual hashes too."""


class Search(Protocol):
    """Opens what finds similar descriptors and hashes."""

    def choose_search(self, name: str, rows: int, threshold: float) -> str:
        """What ``auto`` means for so many rows to be searched."""

    def backend(
        self, name: str, fingerprint: str, dimensions: int, threshold: float
    ) -> SearchBackend:
        """A search backend by its resolved name."""

    def hash_search(self) -> HashSearch:
        """The search for perceptual hashes."""


class Rooms(Sources, Models, Search, Protocol):
    """The rooms that need no database and no storage root: all that evaluation asks for."""

    progress: Progress
