"""Every setting as a stdlib dataclass: what the config file fills and what steps take.

The defaults here are the product's defaults; docs/configuration.md is written from them. A batch
freezes its dataset's options when it is planned (``to_json``), and every later step reads them back
from the catalog (``dataset_from_json``), so an edited file never changes a batch under way.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Literal, NamedTuple, get_args

from sscd_ops.errors import ConfigError

SourceKind = Literal["webdataset", "img2dataset", "parquet", "folder"]
SearchName = Literal["auto", "flat", "exact", "sketch", "torch"]
ModelName = Literal[
    "",
    "dct",
    "sscd_small",
    "sscd_resnet18",
    "sscd_disc_mixup",
    "sscd_disc_advanced",
    "sscd_disc_blur",
    "sscd_disc_large",
    "sscd_imagenet_mixup",
    "sscd_imagenet_advanced",
    "sscd_imagenet_blur",
]
"""The names of ``descriptors.models.MODELS``, where a model is; a test holds them to it."""
Preprocessing = Literal[
    "",
    "skew-320",
    "skew-288",
    "small-288",
    "long-800",
    "skew-320-draft",
    "skew-288-draft",
    "small-288-draft",
    "skew-128",
    "skew-160",
    "grid-64-draft",
    "skew-320-v2",
    "skew-288-v2",
    "small-288-v2",
    "long-800-v2",
    "skew-320-draft-v2",
    "skew-288-draft-v2",
    "small-288-draft-v2",
    "skew-128-v2",
    "skew-160-v2",
    "grid-64-draft-v2",
]
"""The names of ``images.preprocess.PRESETS``."""
Precision = Literal["", "float32", "bfloat16", "float16"]
Engine = Literal["torch", "openvino"]
PUBLISHED_COLUMNS = (
    "key",
    "sample_id",
    "source",
    "source_shard",
    "source_key",
    "sha256",
    "width",
    "height",
    "caption",
    "bytes",
    "offset",
)
"""What every published parquet has; metadata columns come after these."""
Undo = Literal["source", "archive"]
Preference = Literal["priority", "pixels", "caption_length", "bytes"]


SMALL_SEGMENT = 250_000
"""Rows of a segment that is not merged any more: at 512 dimensions 256 MB of descriptors."""


class Range(NamedTuple):
    """The least and the greatest value of a setting; ``toml_tables`` holds it to them."""

    least: Any
    most: Any
    expected: str = "{least} to {most}, not {value}"
    """What messages say."""


Seconds = Annotated[float, "seconds"]
"""In the file also ``30m``, ``6h``."""
Bytes = Annotated[int, "bytes"]
"""In the file also ``512MB``, ``1GiB``."""
_YEAR = 366 * 86400
COSINE = Range(math.nextafter(0, 1), 1, "a cosine similarity above 0 and at most 1, not {value:g}")
DAYS = Range(date(1970, 1, 1), date(2100, 12, 31), "a day of the years 1970 to 2100, not {value}")
MOST_BITS = 100
"""Of a perceptual hash that a stored match may differ in."""


@dataclass(frozen=True)
class StorageOptions:
    """Where everything the product writes lives."""

    root: str = ""
    """Any fsspec URL or a folder: shards, snapshots, index, manifests."""
    cache: str = ""
    """A local folder for copies of remote files; used where ``root`` is remote."""
    cache_bytes: Annotated[Bytes, Range(1, math.inf, "at least 1")] = 50 * 10**9
    """The local cache is trimmed to this size, least recently used first."""


@dataclass(frozen=True)
class CatalogOptions:
    """Which Postgres."""

    url: str = field(default="", repr=False)
    """SQLAlchemy URL; empty: the embedded server below ``storage.root``."""


@dataclass(frozen=True)
class SourceOptions:
    """One feed of a dataset."""

    name: str
    kind: SourceKind = "webdataset"
    root: str = ""
    """Identity is relative to it; empty: the longest literal folder common to ``urls``."""
    urls: tuple[str, ...] = ()
    ready: str = ""
    """A URL that must exist before the night starts; may hold placeholders."""
    priority: int = 0
    """Higher wins inside a batch."""
    image: str = ""
    """Which image member decides where a sample has several: its extension, e.g. ``0.jpg``."""
    caption: tuple[str, ...] = ("txt", "json:caption")
    """Where the caption is: first present wins. ``ext``, ``json:field`` or ``column:name``."""
    missing_caption: Literal["quarantine", "keep"] = "quarantine"
    columns: tuple[str, ...] = ()
    """Metadata fields carried to samples.meta and the published parquet, beside its own."""
    url: str = ""
    """Where a sample says which URL its picture came from: ``json:field`` or ``column:name``;
    empty: ``json:url`` of ``img2dataset``, of other kinds nowhere."""
    image_column: str = "image"
    """parquet only: the column with image bytes, or with ``{bytes, path}``."""
    caption_column: str = "caption"
    """parquet only."""
    key_column: str = ""
    """parquet only: the column with the key; empty: the row number."""
    captions_file: str = ""
    """folder only: a csv, tsv, jsonl or json file with ``file_name`` and ``caption`` columns."""

    @property
    def url_path(self) -> str:
        """The field of the json member with the URL; empty where there is none."""
        place = self.url or ("json:url" if self.kind == "img2dataset" else "")
        return place.partition(":")[2]


@dataclass(frozen=True)
class FingerprintOptions:
    """Which model embeds the pictures."""

    model: ModelName = ""
    """Empty: the dataset's own, else the product's default."""
    weights: str = ""
    """URL or path; empty: the model's published location."""
    preprocessing: Preprocessing = ""
    """Empty: the model's default."""
    postprocessing: str = ""
    """URL or path of a file that ``descriptors.postprocess`` wrote; empty: none."""
    precision: Precision = ""
    """Of the network's convolutions; empty: the dataset's own where ``model`` is empty too, else
    float32. Part of the fingerprint."""
    minibatch: Annotated[int, Range(0, 4096)] = 0
    """0: the model's default. Part of the fingerprint."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``; several with commas, ``cuda:all``. Not of the fingerprint."""
    engine: Engine = "torch"
    """What runs the network; ``openvino`` on CPUs in float32. Not part of the fingerprint."""
    workers: Annotated[int, Range(0, 1024)] = 0
    """Decoder processes; 0: one per core (``machine.cores``), at most 16. Not part of the
    fingerprint."""


@dataclass(frozen=True)
class Model:
    """A model by its configured name, and what settings that are left to it mean.

    ``weights``: where they are published or bundled, or empty. ``threshold``: least similarity of a
    copy, measured or published (docs/descriptors.md). ``perceptual``: whether nights hash too.
    ``is_light``: whether it takes less of a CPU than decoding its pictures.
    """

    name: ModelName
    architecture: str
    dimensions: int
    preprocessing: str
    minibatch: int
    threshold: float
    weights: str = ""
    perceptual: bool = False
    is_light: bool = False

    def threshold_for(self, asked: float | None) -> float:
        """The threshold that holds: what is asked for, else the model's."""
        return self.threshold if asked is None else asked

    def perceptual_for(self, asked: bool | Literal["auto"] | None) -> bool:
        """Whether pictures are hashed too: what is asked for, else as suits the model."""
        return asked if isinstance(asked, bool) else self.perceptual


@dataclass(frozen=True)
class DuplicatesOptions:
    """When two pictures are copies, and who wins."""

    threshold: Annotated[float, COSINE] | None = None
    """Cosine similarity; None: the model's measured default, which none has with postprocessing."""
    margin: Annotated[float, Range(0, 1)] = 0.05
    """Matches down to ``threshold - margin`` are stored for the audit."""
    keep_matches: Annotated[int, Range(1, 1000)] = 8
    """At most this many matches are stored for an image."""
    grouping: Literal["leader"] = "leader"
    search: SearchName = "auto"
    perceptual: Literal["auto", True, False] = "auto"
    """Whether a perceptual hash (PDQ) is a second measure, beside the descriptor. ``auto``: as
    suits the model. Plan freezes what it comes to."""
    perceptual_distance: Annotated[int, Range(0, MOST_BITS)] = 31
    """Greatest Hamming distance of a copy, of 256 bits."""
    perceptual_margin: Annotated[int, Range(0, MOST_BITS)] = 8
    """Hash matches up to ``perceptual_distance + perceptual_margin`` are stored for the audit."""
    plain: Literal["keep", "quarantine"] = "keep"
    """What becomes of pictures with nothing in them to compare: they are no copies of each other
    but where their bytes are equal."""
    prefer: tuple[Preference, ...] = ("priority", "pixels", "caption_length", "bytes")


@dataclass(frozen=True)
class GuardOptions:
    """What holds a batch for a person to look at."""

    max_removed_odds: Annotated[float, Range(1e-3, 1e9)] = 3.0
    max_quarantined_odds: Annotated[float, Range(1e-3, 1e9)] = 3.0
    first_nights_max: Annotated[float, Range(0, 1)] = 0.8
    """Of what is removed, and of what is quarantined."""
    empty: Literal["hold", "allow"] = "hold"


@dataclass(frozen=True)
class LimitsOptions:
    """Bounds beyond which a sample is quarantined."""

    max_pixels: Annotated[int, Range(1, 178_956_970)] = 100_000_000
    """Pillow opens nothing larger than the most of it."""
    decode_memory: Annotated[Bytes, Range(0, 2**50)] = 0
    """Of a decoder process; 0: ``decoder_memory``."""
    decode_seconds: Annotated[Seconds, Range(0.1, 86400)] = 120.0
    """Of processor time, for one picture."""
    min_side: Annotated[int, Range(1, 10**6)] = 16
    max_aspect: Annotated[float, Range(1, 10**6)] = 20.0
    max_caption_bytes: Annotated[Bytes, Range(1, 10**8)] = 100_000
    max_members: Annotated[int, Range(1, 10**5)] = 64
    max_member_bytes: Annotated[Bytes, Range(1, 2**40)] = 256 * 2**20
    max_shard_bytes: Annotated[Bytes, Range(1, 2**60)] = 2**40
    """Of a source shard: a larger one is not read at all."""

    @property
    def decoder_memory(self) -> int:
        """Bytes a decoder process may take: enough for any picture of ``max_pixels`` if not set.

        The dearest of 100 megapixels, JPEG 2000 with transparency, takes 23 bytes a pixel
        (docs/configuration.md).
        """
        return self.decode_memory or 512 * 2**20 + 32 * self.max_pixels


USUAL_LIMITS = LimitsOptions()
"""For pictures of no dataset."""


@dataclass(frozen=True)
class PublishOptions:
    """The shape of published shards."""

    max_samples: Annotated[int, Range(1, 10**8)] = 10_000
    max_bytes: Annotated[Bytes, Range(1, 10**15)] = 10**9
    undo: Undo = "source"
    """Where the bytes of a removed sample come from when it is kept after all: its source alone, or
    an archive too, into which its night copies it."""


@dataclass(frozen=True)
class TurnOptions:
    """How long a batch waits for earlier ones whose runner cannot be asked."""

    max_wait: Annotated[Seconds, Range(0, _YEAR)] = 6 * 3600.0


@dataclass(frozen=True)
class RetentionOptions:
    """What ``maintain`` lets go of."""

    snapshots: Annotated[int, Range(0, 10**6)] = 0
    """So many of the newest stay readable, and those with a tag; 0: all."""
    grace: Annotated[Seconds, Range(0, _YEAR)] = 72 * 3600.0
    """A file that nothing needs any more stays so long: who reads it, or is about to name it, can
    end."""
    removed: Annotated[Seconds, Range(0, 100 * _YEAR)] = 0.0
    """What nights removed stays in the archive so long after its decision; 0: for ever."""


@dataclass(frozen=True)
class OrderOptions:
    """What people may decide alone."""

    max_changed: Annotated[int, Range(0, 10**9)] | None = None
    """An order that changes the verdicts of more samples is held until another person approves it.
    None: a thousandth of what is kept, at least 20 and at most 1000."""
    approval: Literal["other", "self"] = "other"
    """Who approves it: another person than drafted or applied it, or anybody."""

    def most(self, kept: int) -> int:
        """So many verdicts may be changed where so many images are kept."""
        return max(20, min(1000, kept // 1000)) if self.max_changed is None else self.max_changed


@dataclass(frozen=True)
class AirflowStepOptions:
    """Where and how one step's tasks run.

    Empty or None: Airflow's own default; for retries, their delay and the execution timeout the one
    of ``provider.factory``.
    """

    pool: str = ""
    queue: str = ""
    executor: str = ""
    pool_slots: Annotated[int, Range(1, 10**6)] | None = None
    retries: Annotated[int, Range(0, 1000)] | None = None
    retry_delay: Annotated[Seconds, Range(0, _YEAR)] | None = None
    execution_timeout: Annotated[Seconds, Range(1, _YEAR)] | None = None


Step = Literal["plan", "ingest", "survey", "embed", "match", "resolve", "publish", "commit"]
STEPS: tuple[Step, ...] = get_args(Step)
"""The chain. Whatever names a step elsewhere is held to this list by its type."""


@dataclass(frozen=True)
class AirflowOptions:
    """How the dataset's DAGs run."""

    max_active_runs: Annotated[int, Range(1, 1000)] = 2
    run_timeout: Annotated[Seconds, Range(1, _YEAR)] = 24 * 3600.0
    ready_timeout: Annotated[Seconds, Range(1, _YEAR)] = 12 * 3600.0
    max_tasks: Annotated[int, Range(1, 1024)] = 64
    """Mapped tasks a step at most; groups grow instead."""
    deferrable: bool = True
    maintain: str = "0 6 * * 0"
    """Cron line of the DAG that looks after the dataset; empty: there is none."""
    plan: AirflowStepOptions = AirflowStepOptions()
    ingest: AirflowStepOptions = AirflowStepOptions()
    survey: AirflowStepOptions = AirflowStepOptions()
    embed: AirflowStepOptions = AirflowStepOptions()
    match: AirflowStepOptions = AirflowStepOptions()
    resolve: AirflowStepOptions = AirflowStepOptions()
    publish: AirflowStepOptions = AirflowStepOptions()
    commit: AirflowStepOptions = AirflowStepOptions()


@dataclass(frozen=True)
class DatasetOptions:
    """One line of curation."""

    name: str
    schedule: str = "0 2 * * *"
    timezone: str = "UTC"
    start: Annotated[date, DAYS] = date(2026, 1, 1)
    late_days: Annotated[int, Range(0, 366)] = 3
    sources: tuple[SourceOptions, ...] = ()
    fingerprint: FingerprintOptions = FingerprintOptions()
    duplicates: DuplicatesOptions = DuplicatesOptions()
    guard: GuardOptions = GuardOptions()
    limits: LimitsOptions = LimitsOptions()
    publish: PublishOptions = PublishOptions()
    turn: TurnOptions = TurnOptions()
    retention: RetentionOptions = RetentionOptions()
    orders: OrderOptions = OrderOptions()
    airflow: AirflowOptions = AirflowOptions()

    @property
    def meta_columns(self) -> list[str]:
        """The metadata columns of what is published: of all sources, sorted."""
        return sorted({name for source in self.sources for name in source.columns})

    def source(self, name: str) -> SourceOptions:
        """The source of this name.

        Raises:
            KeyError: the dataset has no such source.
        """
        for source in self.sources:
            if source.name == name:
                return source
        raise KeyError(name)


@dataclass(frozen=True)
class Settings:
    """The whole config file."""

    path: str = ""
    storage: StorageOptions = StorageOptions()
    catalog: CatalogOptions = CatalogOptions()
    datasets: dict[str, DatasetOptions] = field(default_factory=dict)
    faulty: dict[str, str] = field(default_factory=dict)
    """Datasets whose table is wrong -> the message; only a tolerant load fills this."""


def to_json(options: Any) -> str:
    """An options dataclass as canonical JSON: sorted keys, no spaces; equal options hash equal."""
    return json.dumps(
        dataclasses.asdict(options),
        sort_keys=True,
        separators=(",", ":"),
        default=lambda value: value.isoformat(),
        ensure_ascii=False,
    )


def dataset_from_json(text: str, whose: str = "a batch") -> DatasetOptions:
    """The options that ``to_json`` wrote for a dataset, maybe that of another release.

    Keys of newer releases are left out. What is missing takes its default: the release that froze
    the options had no such setting, so the default of a setting that comes later must be what was
    done without it. Where new nights shall do otherwise, plan spells it out, as with
    ``perceptual``: not spelt out, it is off (``steps.parts.Work``).

    Args:
        text: the JSON.
        whose: who froze it, for messages.

    Raises:
        ConfigError: a key without a default is missing; names it and the remedy.
    """
    options: DatasetOptions = _section(DatasetOptions, json.loads(text), "", whose)
    return options


def settings_from_json(text: str) -> Settings:
    """The settings that ``to_json`` wrote, in this very release."""
    raw = json.loads(text)
    return Settings(
        raw["path"],
        _section(StorageOptions, raw["storage"], "storage", raw["path"]),
        _section(CatalogOptions, raw["catalog"], "catalog", raw["path"]),
        {
            name: _section(DatasetOptions, options, "", raw["path"])
            for name, options in raw["datasets"].items()
        },
        raw["faulty"],
    )


def _section(kind: Any, raw: dict[str, Any], key: str, whose: str) -> Any:
    given: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        here = f"{key}.{item.name}" if key else item.name
        if item.name in raw:
            given[item.name] = _value(item.default, raw[item.name], here, whose)
        elif item.default is dataclasses.MISSING:
            raise ConfigError(
                f"the configuration that was frozen with {whose} has no {here}, which every release"
                " writes: somebody changed the catalog; restore it from a backup"
            )
    return kind(**given)


def _value(default: Any, value: Any, key: str, whose: str) -> Any:
    if dataclasses.is_dataclass(default):
        return _section(type(default), value, key, whose)
    if isinstance(default, date):
        return date.fromisoformat(value)
    if key == "sources":
        return tuple(
            _section(SourceOptions, item, f"{key}[{number}]", whose)
            for number, item in enumerate(value)
        )
    return tuple(value) if isinstance(value, list) else value
