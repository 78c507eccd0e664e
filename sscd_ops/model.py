"""The vocabulary (docs/glossary.md) as frozen dataclasses and enums. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Fault(StrEnum):
    """Quarantine codes: reasons of quarantined samples.

    ``follows_bytes``: equal bytes get the code without another look.
    """

    # the picture itself: follows its bytes into later nights
    EMPTY_IMAGE = "empty_image"
    NOT_AN_IMAGE = "not_an_image"
    UNDECODABLE = "undecodable"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    EXTREME_ASPECT = "extreme_aspect"
    NO_DESCRIPTOR = "no_descriptor"
    # the picture, by a setting that may change: does not follow its bytes
    TOO_PLAIN = "too_plain"
    # the picture, but perhaps the machine's fault: does not follow its bytes
    DECODER_DIED = "decoder_died"
    DECODER_LIMIT = "decoder_limit"
    # the sample around the picture
    NO_IMAGE = "no_image"
    SEVERAL_IMAGES = "several_images"
    MEMBER_TOO_LARGE = "member_too_large"
    TOO_MANY_MEMBERS = "too_many_members"
    DUPLICATE_KEY = "duplicate_key"
    BAD_KEY = "bad_key"
    BAD_JSON = "bad_json"
    BAD_MEMBER = "bad_member"
    MISSING_CAPTION = "missing_caption"
    EMPTY_CAPTION = "empty_caption"
    CAPTION_TOO_LONG = "caption_too_long"
    CAPTION_NOT_UTF8 = "caption_not_utf8"
    CAPTION_FORBIDDEN_CHARACTER = "caption_forbidden_character"
    # the sample, decided before: its bytes went before they were published (`batch repair`)
    SOURCE_GONE = "source_gone"
    # the sample, which a withdrawal's rule kept from being read; the order ended (`order revert`)
    RULE_ENDED = "rule_ended"
    # the image, removed because of one that was withdrawn as a copy of a withdrawn picture
    NEAR_WITHDRAWN = "near_withdrawn"
    # a whole source shard: a row without key, in no count of `runs`
    TRUNCATED_SHARD = "truncated_shard"
    EMPTY_FILE = "empty_file"
    EMPTY_SHARD = "empty_shard"
    UNREADABLE_SHARD = "unreadable_shard"
    SHARD_TOO_LARGE = "shard_too_large"

    @property
    def follows_bytes(self) -> bool:
        """Whether later samples with the same image bytes share this fault."""
        return self in _FOLLOWS_BYTES

    @property
    def of_shard(self) -> bool:
        """Whether this is a fault of a whole source shard, not of a sample."""
        return self in _OF_SHARD


_FOLLOWS_BYTES = frozenset(
    {
        Fault.EMPTY_IMAGE,
        Fault.NOT_AN_IMAGE,
        Fault.UNDECODABLE,
        Fault.TOO_MANY_PIXELS,
        Fault.TOO_SMALL,
        Fault.EXTREME_ASPECT,
        Fault.NO_DESCRIPTOR,
    }
)
_OF_SHARD = frozenset(
    {
        Fault.TRUNCATED_SHARD,
        Fault.EMPTY_FILE,
        Fault.EMPTY_SHARD,
        Fault.UNREADABLE_SHARD,
        Fault.SHARD_TOO_LARGE,
    }
)


class BatchState(StrEnum):
    """Where a batch stands. The last four are ends or waits that a person may have to act on."""

    PLANNED = "planned"
    INGESTED = "ingested"
    EMBEDDED = "embedded"
    MATCHED = "matched"
    DECIDED = "decided"
    PUBLISHED = "published"
    FAILED = "failed"
    HELD = "held"
    ABANDONED = "abandoned"
    UNPUBLISHABLE = "unpublishable"

    @property
    def is_decided(self) -> bool:
        """Whether verdicts are in force (they stay, whatever happens to publishing)."""
        return self in DECIDED


UNDER_WAY = (BatchState.PLANNED, BatchState.INGESTED, BatchState.EMBEDDED, BatchState.MATCHED)
"""States of a batch between plan and its turn, in the order of the steps."""
DECIDED = (BatchState.DECIDED, BatchState.PUBLISHED, BatchState.UNPUBLISHABLE)
"""States of a batch whose verdicts are in force."""


class DecisionKind(StrEnum):
    """What takes a turn."""

    NIGHT = "night"
    """A batch."""
    ORDER = "order"
    """What people decide."""
    REPAIR = "repair"
    """Samples whose source is gone."""
    BANK = "bank"
    """A bank's change, applied to what is kept."""
    ADOPTION = "adoption"
    DERIVATION = "derivation"


class OrderState(StrEnum):
    """Where an order stands."""

    DRAFTED = "drafted"
    HELD = "held"
    """By the guard, until another person approves it."""
    APPLIED = "applied"
    REFUSED = "refused"
    """Turned down."""
    REVERTED = "reverted"


@dataclass(frozen=True, slots=True)
class Person:
    """Who decides something: what was typed, and what is known beside it.

    ``database_user``: as whom the session logged in. In Airflow ``airflow_user``: who triggered the
    run.
    """

    actor: str
    database_user: str = ""
    os_user: str = ""
    host: str = ""
    airflow_user: str = ""

    @property
    def known(self) -> dict[str, str]:
        """What is known beside what was typed."""
        said = {
            "database_user": self.database_user,
            "os_user": self.os_user,
            "host": self.host,
            "airflow_user": self.airflow_user,
        }
        return {name: text for name, text in said.items() if text}


@dataclass(frozen=True)
class Rules:
    """The standing rules in force at a turn; those by URL, which may be millions, are asked for.

    ``domains``: reversed domain -> number of its first order. ``sources``: sha256 of a source's
    name -> likewise. ``has_urls``: whether there are any by URL.
    """

    domains: Mapping[str, int]
    sources: Mapping[bytes, int]
    has_urls: bool

    def __bool__(self) -> bool:
        return bool(self.domains or self.sources or self.has_urls)


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """A half-open span of time, ``start <= t < end``; both aware datetimes."""

    start: datetime
    end: datetime


ARCHIVE = "removed"
"""Folder of what nights removed, and the form of these tars: members of all kinds in one."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An immutable file below the storage root. ``name`` is relative to the root."""

    name: str
    sha256: str
    bytes: int


ERASED = "(erased)"
"""What stands where a sample's key, or an order's reason, was, once that is erased."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that a listing of the storage root shows.

    ``modified``: seconds since 1970, None where the driver gives none. ``is_regular``: it is a
    file, not a link or a device; nothing is known of where a link leads.
    """

    name: str
    bytes: int
    modified: float | None
    is_regular: bool


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A source shard as a listing shows it; ``version`` changes when its content may have.

    An empty ``version`` stands for any: whoever asks compares digests.
    """

    source: str
    uri: str
    relative_uri: str
    size: int
    version: str

    @property
    def any_version(self) -> FoundShard:
        """The shard in whatever version is there: a file that was put back has another time."""
        return replace(self, version="")


@dataclass(frozen=True, slots=True)
class SourceShard:
    """A registered source shard of a batch's attempt, with the files written for it so far."""

    shard_id: int
    source: str
    uri: str
    relative_uri: str
    size: int
    version: str
    group: int
    ordinal: int
    manifest: StoredFile | None = None
    descriptors: StoredFile | None = None

    @property
    def found(self) -> FoundShard:
        """The shard as its source's reader takes it."""
        return FoundShard(self.source, self.uri, self.relative_uri, self.size, self.version)


@dataclass(slots=True)
class TarEntry:
    """One entry of a tar while it is streamed.

    ``kind``: ``file``, ``link``, ``device``, ``directory`` or ``other``. ``offset`` is that of its
    data in the uncompressed archive. ``data`` is empty for a file larger than the reader's limit.
    ``target``: of a hard link the name of an entry before it, of a symbolic one (``is_symbolic``) a
    path from its own folder.
    """

    kind: str
    name: str
    offset: int
    size: int
    data: bytes
    target: str = ""
    is_symbolic: bool = False


@dataclass(slots=True)
class Member:
    """One member of a sample while a shard is read.

    ``offset`` is whatever the reader needs to find the bytes again (for a tar: the byte offset of
    the data in the uncompressed archive; for parquet: the row; for a folder: 0).
    """

    name: str
    extension: str
    offset: int
    size: int
    data: bytes


@dataclass(slots=True)
class RawSample:
    """Adjacent members of one key. ``occurrence`` counts the key's earlier samples in the shard."""

    key: str
    occurrence: int
    members: list[Member]
    fault: tuple[Fault, str] | None = None


@dataclass(frozen=True, slots=True)
class ShardEnd:
    """The last thing a reader yields: what was wrong with the shard and what it left out."""

    fault: tuple[Fault, str] | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    """Entries left out by kind: ``link``, ``device``, ``directory``, ``no_extension`` ..."""
    not_delivered: int = 0
    """img2dataset rows whose status is not success: counted, never samples."""


@dataclass(frozen=True, slots=True)
class MemberRef:
    """A member to be fetched again: where it is and what it must hash to (sha256, 32 bytes)."""

    name: str
    offset: int
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a picture's header says. ``format`` is ``jpg png webp avif gif bmp tiff ...``.

    ``fault``: code and message where it lies beyond the limits.
    """

    format: str
    width: int
    height: int
    fault: tuple[Fault, str] | None = None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What decides a descriptor's numbers. ``digest`` names it; ``device`` is not part of it.

    ``postprocessing``: empty, or ``<kind>-<sha256 of its file>``.
    """

    model: str
    weights_sha256: str
    preprocessing: str
    postprocessing: str
    dimensions: int
    minibatch: int
    digest: str
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.model}-{self.digest[:8]}"


@dataclass(frozen=True)
class EmbeddedChunk:
    """Some consecutive answers of an embedder, in the order of its input.

    ``descriptors``: float32 (n, d), L2-normalised; rows in ``faults`` or ``plain`` are zero.
    ``faults``: row in this chunk -> (code, message). ``hashes``: uint8 (n, 33), perceptual hash and
    quality, where they were asked for. ``plain``: rows of sound pictures that have nothing in them
    to compare (``images.plain``): they have no descriptor and no hash, and resolve says what
    becomes of them.
    """

    descriptors: NDArray[np.float32]
    faults: dict[int, tuple[Fault, str]]
    hashes: NDArray[np.uint8] | None = None
    plain: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Matches:
    """Pairs at or above a floor, sorted by (query, -similarity, reference).

    ``query``, ``reference``: int64 (k,) row numbers; ``similarity``: float64 (k,), canonical.
    """

    query: NDArray[np.int64]
    reference: NDArray[np.int64]
    similarity: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KnownImages:
    """What history says of images: columns of one length, a row for each image that it knows.

    Columns, since a night may know a million of them (``catalog.lookups.known_images`` reads them).

    Attributes:
        row: int64 (k,), of the digests that were asked about.
        verdict, reason, message: object (k,), str or None.
        sample_id, carrier_decision: uint8 (k, 16), int64 (k,), the sample that carries the image,
            and the decision with that sample's row.
        witness_sha256, is_witnessed: uint8 (k, 32), bool (k,), the kept image that it was removed
            for, where there is one.
        witness_id, witness_decision: uint8 (k, 16), int64 (k,), who carried that one then; zeros
            and -1 where a change names the witness.
        similarity, threshold: float64 (k,), NaN without one.
        decision_id: int64 (k,), the image's first decision, or the later one that described it.
        segment_row: int64 (k,), where it is in that one's segment, -1 without a descriptor.
        turn: int64 (k,), of the verdict.
    """

    row: NDArray[np.int64]
    verdict: NDArray[np.object_]
    reason: NDArray[np.object_]
    message: NDArray[np.object_]
    sample_id: NDArray[np.uint8]
    carrier_decision: NDArray[np.int64]
    witness_sha256: NDArray[np.uint8]
    is_witnessed: NDArray[np.bool_]
    witness_id: NDArray[np.uint8]
    witness_decision: NDArray[np.int64]
    similarity: NDArray[np.float64]
    threshold: NDArray[np.float64]
    decision_id: NDArray[np.int64]
    segment_row: NDArray[np.int64]
    turn: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> KnownImages:
        """Some of them, by their places here or by a mask."""
        return KnownImages(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row of a quarantined sample, or of a whole source shard's fault, by its place.

    ``sample_id`` (16 bytes) and ``key`` are None of a shard's fault, whose ``position`` is -1.
    ``source``, ``relative_uri``: its source shard. ``has_own``: a later verdict of its own says so.
    """

    decision_id: int
    shard_id: int
    position: int
    sample_id: bytes | None
    key: str | None
    source: str
    relative_uri: str
    code: str
    has_own: bool

    @property
    def place(self) -> tuple[int, int, int]:
        """What no other row has."""
        return self.decision_id, self.shard_id, self.position


@dataclass(frozen=True, slots=True)
class Segment:
    """A registered segment. ``files`` maps a role (``descriptors``, ``ids``, a code's name)."""

    segment_id: int
    ordinal: int
    rows: int
    dimensions: int
    fingerprint: str
    files: dict[str, StoredFile]
    mask: StoredFile | None = None
    """The kept mask of the generation it was read with."""


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """The rows of a segment that hold one decision's images, in manifest order.

    ``batch_id``: of the night that decided.
    """

    decision_id: int
    batch_id: int
    first_row: int
    rows: int


class SlotSpan(NamedTuple):
    """Slots of a decision in a row, ``start <= number < end``, that an output shard holds."""

    decision_id: int
    start: int
    end: int
    output_id: int


@dataclass(frozen=True, slots=True)
class Runner:
    """Who runs a batch, and so says whether it is alive."""

    kind: Literal["cli", "airflow"]
    dag_id: str = ""
    run_id: str = ""

    def __str__(self) -> str:
        return "cli" if self.kind == "cli" else f"airflow:{self.dag_id}/{self.run_id}"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the catalog holds it."""

    batch_id: int
    dataset_id: int
    dataset: str
    interval: Interval
    supplement: int
    state: BatchState
    attempt_id: int
    turn: int | None
    runner: Runner | None
    dry_run: bool
    message: str
    night: str = ""
    """What ``--date`` takes for its interval; a supplement's is that of its night."""

    @property
    def name(self) -> str:
        """The batch as people know it: its night, and which supplement to it."""
        return f"{self.night}, supplement {self.supplement}" if self.supplement else self.night


@dataclass(frozen=True, slots=True)
class Counts:
    """A decision's counts; kept, removed, quarantined and withdrawn make up ``read``.

    ``removed_near``: every removal that is not exact, those by hash alone (``removed_perceptual``)
    among them. ``kept_plain``: of those kept, the ones whose image has nothing in it to compare.
    ``codes``: how many samples are quarantined by each code, and how many source shards
    have a fault of their own, by its code (``Fault.of_shard``); of ``source_shards``.
    """

    read: int = 0
    kept: int = 0
    removed_exact: int = 0
    removed_near: int = 0
    quarantined: int = 0
    known: int = 0
    not_delivered: int = 0
    removed_perceptual: int = 0
    kept_plain: int = 0
    withdrawn: int = 0
    source_shards: int = field(default=0, compare=False)
    codes: Mapping[str, int] = field(default_factory=dict, compare=False)

    def plain(self) -> dict[str, Any]:
        """The counts as plain values, for JSON."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def removed(self) -> int:
        """All removals."""
        return self.removed_exact + self.removed_near


# ---------------------------------------------------------------- looking after it


@dataclass(frozen=True)
class Finding:
    """Something that is not as promised.

    ``promise``: ``I1`` ... ``I8`` (docs/architecture.md). ``what``: is wrong. ``remedy``: what
    mends it, with the command.
    """

    promise: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"
