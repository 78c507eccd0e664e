"""Every setting as a stdlib dataclass: what the config file fills and what steps take.

The defaults here are the product's defaults; docs/configuration.md is written from them. A batch
freezes its dataset's options when it is planned (``to_json``), and every later step reads them back
from the catalog (``dataset_from_json``), so an edited file never changes a batch under way.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, get_args

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
"""The names of ``descriptors.models.MODELS``, here because reading a config file imports little."""
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
Preference = Literal["priority", "pixels", "caption_length", "bytes"]


@dataclass(frozen=True)
class StorageOptions:
    """Where everything the product writes lives."""

    root: str = ""
    """Any fsspec URL or a folder: shards, snapshots, index, manifests."""
    cache: str = ""
    """A local folder for copies of remote files; used where ``root`` is remote."""
    cache_bytes: int = 50 * 10**9
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
    image_column: str = "image"
    """parquet only: the column with image bytes, or with ``{bytes, path}``."""
    caption_column: str = "caption"
    """parquet only."""
    key_column: str = ""
    """parquet only: the column with the key; empty: the row number."""
    captions_file: str = ""
    """folder only: a csv, tsv, jsonl or json file with ``file_name`` and ``caption`` columns."""


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
    minibatch: int = 0
    """0: the model's default. Part of the fingerprint."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``; several with commas, ``cuda:all``. Not of the fingerprint."""
    engine: Engine = "torch"
    """What runs the network; ``openvino`` on CPUs in float32. Not part of the fingerprint."""
    workers: int = 0
    """Decoder processes; 0: one per core (``machine.cores``), at most 16. Not part of the
    fingerprint."""


@dataclass(frozen=True)
class DuplicatesOptions:
    """When two pictures are copies, and who wins."""

    threshold: float | None = None
    """Cosine similarity in [-1, 1]; None: the model's measured default."""
    margin: float = 0.05
    """Matches down to ``threshold - margin`` are stored for the audit."""
    keep_matches: int = 8
    """At most this many matches are stored for an image."""
    grouping: Literal["leader"] = "leader"
    search: SearchName = "auto"
    perceptual: Literal["auto", True, False] = "auto"
    """Whether a perceptual hash (PDQ) is a second measure, beside the descriptor. ``auto``: where
    the model is ``sscd_small``. Plan freezes what it comes to."""
    perceptual_distance: int = 31
    """Greatest Hamming distance of a copy, of 256 bits."""
    perceptual_margin: int = 8
    """Hash matches up to ``perceptual_distance + perceptual_margin`` are stored for the audit."""
    plain: Literal["keep", "quarantine"] = "keep"
    """What becomes of pictures with nothing in them to compare: they are no copies of each other
    but where their bytes are equal."""
    prefer: tuple[Preference, ...] = ("priority", "pixels", "caption_length", "bytes")


@dataclass(frozen=True)
class GuardOptions:
    """What holds a batch for a person to look at."""

    max_removed_odds: float = 3.0
    max_quarantined_odds: float = 3.0
    first_nights_max: float = 0.8
    """Of what is removed, and of what is quarantined."""
    empty: Literal["hold", "allow"] = "hold"


@dataclass(frozen=True)
class LimitsOptions:
    """Bounds beyond which a sample is quarantined."""

    max_pixels: int = 100_000_000
    decode_memory: int = 0
    """Bytes a decoder process may take; 0: ``decoder_memory``."""
    decode_seconds: float = 120.0
    """Of processor time, for one picture."""
    min_side: int = 16
    max_aspect: float = 20.0
    max_caption_bytes: int = 100_000
    max_members: int = 64
    max_member_bytes: int = 256 * 2**20
    max_shard_bytes: int = 2**40
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

    max_samples: int = 10_000
    max_bytes: int = 10**9


@dataclass(frozen=True)
class TurnOptions:
    """How long a batch waits for earlier ones whose runner cannot be asked."""

    max_wait: float = 6 * 3600.0
    """Seconds."""


@dataclass(frozen=True)
class AirflowStepOptions:
    """Where and how one step's tasks run.

    Empty or None: Airflow's own default; for retries, their delay and the execution timeout the one
    of ``provider.factory``.
    """

    pool: str = ""
    queue: str = ""
    executor: str = ""
    pool_slots: int | None = None
    retries: int | None = None
    retry_delay: float | None = None
    """Seconds."""
    execution_timeout: float | None = None
    """Seconds."""


Step = Literal["plan", "ingest", "embed", "match", "resolve", "publish", "commit"]
STEPS: tuple[Step, ...] = get_args(Step)
"""The chain. Whatever names a step elsewhere is held to this list by its type."""


@dataclass(frozen=True)
class AirflowOptions:
    """How the dataset's DAG runs."""

    max_active_runs: int = 2
    run_timeout: float = 24 * 3600.0
    ready_timeout: float = 12 * 3600.0
    max_tasks: int = 64
    """Mapped tasks a step at most; groups grow instead. At most 1024."""
    match_tasks: int = 2
    deferrable: bool = True
    plan: AirflowStepOptions = AirflowStepOptions()
    ingest: AirflowStepOptions = AirflowStepOptions()
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
    start: date = date(2026, 1, 1)
    late_days: int = 3
    sources: tuple[SourceOptions, ...] = ()
    fingerprint: FingerprintOptions = FingerprintOptions()
    duplicates: DuplicatesOptions = DuplicatesOptions()
    guard: GuardOptions = GuardOptions()
    limits: LimitsOptions = LimitsOptions()
    publish: PublishOptions = PublishOptions()
    turn: TurnOptions = TurnOptions()
    airflow: AirflowOptions = AirflowOptions()

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


def dataset_from_json(text: str) -> DatasetOptions:
    """The options that ``to_json`` wrote for a dataset; keys of newer releases are left out."""
    raw = json.loads(text)
    raw["start"] = date.fromisoformat(raw["start"])
    raw["sources"] = tuple(_section(SourceOptions, item) for item in raw["sources"])
    airflow = raw["airflow"]
    for step in STEPS:
        airflow[step] = _section(AirflowStepOptions, airflow[step])
    for name, kind in (
        ("fingerprint", FingerprintOptions),
        ("duplicates", DuplicatesOptions),
        ("guard", GuardOptions),
        ("limits", LimitsOptions),
        ("publish", PublishOptions),
        ("turn", TurnOptions),
        ("airflow", AirflowOptions),
    ):
        raw[name] = _section(kind, raw[name])
    options: DatasetOptions = _section(DatasetOptions, raw)
    return options


def _section(kind: Any, raw: dict[str, Any]) -> Any:
    names = {item.name for item in dataclasses.fields(kind)}
    return kind(
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in raw.items()
            if key in names
        }
    )
