"""Settings -> real parts. The one place that knows which implementation is behind each port."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sscd_ops.errors import ConfigError, StoreUnavailable, UsageError
from sscd_ops.model import Batch, Fingerprint, Interval, Runner
from sscd_ops.options import (
    USUAL_LIMITS,
    FingerprintOptions,
    LimitsOptions,
    Model,
    Settings,
    SourceOptions,
)
from sscd_ops.ports import (
    Embedder,
    HashSearch,
    InspectImage,
    Progress,
    SearchBackend,
    Silence,
    Source,
    Store,
    TarSink,
)

if TYPE_CHECKING:
    from sscd_ops.catalog.database import Catalog

log = logging.getLogger(__name__)


def _resolved(root: str) -> str:
    """A folder as links lead to it, or a URL."""
    place = root.removeprefix("file://")
    return place.rstrip("/") if "://" in place else str(Path(place).expanduser().resolve())


class Wiring:
    """Opens each part on first use and closes what needs closing. A context manager.

    Args:
        settings: the config file.
        database_url: SQLAlchemy URL that goes before everything else (an operator's connection).
        allow_embedded: start the embedded Postgres where no URL is set. Only commands may: two
            hosts on one data directory would ruin it.
        progress: told how far steps are.
        ask_airflow: whether a DAG run is alive; without it such runs count as unknown.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database_url: str | None = None,
        allow_embedded: bool = False,
        progress: Progress | None = None,
        ask_airflow: Callable[[Runner], bool | None] | None = None,
    ) -> None:
        self.settings = settings
        self.progress: Progress = progress or Silence()
        self._database_url = database_url
        self._allow_embedded = allow_embedded
        self._ask_airflow = ask_airflow

    def __enter__(self) -> Wiring:
        return self

    def __exit__(self, *exc: object) -> None:
        catalog = self.__dict__.get("catalog")
        if catalog is not None:
            catalog.dispose()

    # ------------------------------------------------------------ where things are kept

    @cached_property
    def home(self) -> Path:
        """A local folder for the embedded server, weights and such."""
        named = os.environ.get("SSCD_OPS_HOME")
        if named:
            return Path(named)
        root = self.settings.storage.root
        if not root or "://" in root:
            return Path.home() / ".sscd-ops"
        return Path(root) / ".sscd-ops"

    @property
    def _configured_url(self) -> str:
        """The database that is named; empty: the embedded one."""
        named = self._database_url or os.environ.get("SSCD_OPS_DATABASE_URL")
        return named or self.settings.catalog.url

    @cached_property
    def database_url(self) -> str:
        """Which Postgres: a connection's, SSCD_OPS_DATABASE_URL, the file's, else the embedded one.

        Raises:
            ConfigError: no URL is set and the embedded server may not be started here.
        """
        if self._configured_url:
            return self._configured_url
        if not self._allow_embedded:
            raise ConfigError(
                f"{self.settings.path}: catalog.url is not set, and a task must not start the"
                " embedded Postgres: set it, SSCD_OPS_DATABASE_URL or the connection's host"
            )
        from sscd_ops.catalog.embedded import ensure_running

        home = self.home / "postgres"
        log.info("no database URL is set: using the embedded Postgres in %s", home)
        return ensure_running(home)["catalog"]

    @cached_property
    def catalog(self) -> Catalog:
        """Postgres, with the schema checked (the embedded one is migrated here)."""
        from sscd_ops.catalog.database import Catalog
        from sscd_ops.catalog.migrate import upgrade

        url = self.database_url
        if not self._configured_url:
            upgrade(url)
        catalog = Catalog(url, has_file=lambda name: self.store.has(name))
        catalog.check_schema()
        return catalog

    @cached_property
    def store(self) -> Store:
        """The storage root."""
        from sscd_ops.storage.arrow import keep_pandas_out
        from sscd_ops.storage.store import open_store

        keep_pandas_out()  # most of what is kept there is parquet
        if not self.settings.storage.root:
            raise ConfigError(
                f"{self.settings.path}: storage.root is not set: give a folder or URL"
            )
        return open_store(self.settings.storage)

    def store_at(self, root: str) -> Store:
        """A root beside the storage root, a folder or URL.

        Raises:
            UsageError: it is the storage root, or in it.
        """
        from sscd_ops.storage.store import open_store

        own = _resolved(self.store.root)
        other = _resolved(root)
        if f"{other}/".startswith(f"{own}/"):
            raise UsageError(f"{root} is the storage root, or in it: give another place")
        cache = self.settings.storage.cache or str(self.home / "cache")
        return open_store(replace(self.settings.storage, root=other, cache=cache))

    def check_storage(self) -> str:
        """Write, read and delete a small file; answers where.

        Raises:
            SscdOpsError: it did not come back, or storage did not answer.
        """
        name = f".probes/{uuid.uuid4().hex}"  # its own: others may look at the same moment
        self.store.replace(name, b"probe")
        if self.store.read_small(name) != b"probe":
            raise StoreUnavailable(f"{self.store.root}: what was written did not come back")
        self.store.delete(name)
        return f"storage root {self.store.root} can be written"

    # ------------------------------------------------------------ pictures in

    def source(self, options: SourceOptions, limits: LimitsOptions) -> Source:
        """A source's reader."""
        from sscd_ops.sources import open_source
        from sscd_ops.storage.tar_read import read_tar

        return open_source(options, limits, read_tar)

    def nothing_at(
        self, options: SourceOptions, limits: LimitsOptions, interval: Interval, timezone: str
    ) -> list[str]:
        """The URLs of an interval, placeholders filled in, that name no source shard."""
        from sscd_ops.sources.absent import nothing_at

        return nothing_at(options, lambda one: self.source(one, limits), interval, timezone)

    def source_root(self, options: SourceOptions) -> str:
        """What the identities of a source are relative to."""
        from sscd_ops.sources import resolve_root

        return resolve_root(options)

    def is_empty(self, root: str) -> bool:
        """Whether nothing at all lies at the root of a source."""
        from sscd_ops.sources.files import is_empty

        return is_empty(root)

    def inspector(self, limits: LimitsOptions) -> InspectImage:
        """Looks at a picture's header, and at its pixels where asked."""
        from sscd_ops.images.inspector import Inspector

        return Inspector(limits)

    # ------------------------------------------------------------ descriptors

    @property
    def weights_cache(self) -> Path:
        """Where downloaded weights are kept."""
        return self.home / "weights"

    def fingerprint(self, options: FingerprintOptions) -> Fingerprint:
        """The fingerprint of a configured model."""
        from sscd_ops.descriptors.embedder import fingerprint_of

        return fingerprint_of(options, self.weights_cache)

    def model(self, name: str = "") -> Model:
        """A model by its name; empty: that of a new dataset that names none.

        Raises:
            ConfigError: there is no such model.
        """
        from sscd_ops.descriptors.models import DEFAULT_MODEL, find_model

        return find_model(name or DEFAULT_MODEL)

    def embedder(
        self,
        options: FingerprintOptions,
        *,
        perceptual: bool = False,
        limits: LimitsOptions = USUAL_LIMITS,
    ) -> Embedder:
        """The model with its decoder processes, which may make perceptual hashes too."""
        from sscd_ops.descriptors.embedder import open_embedder

        return open_embedder(options, self.weights_cache, perceptual=perceptual, limits=limits)

    # ------------------------------------------------------------ search

    def choose_search(self, name: str, rows: int, threshold: float) -> str:
        """What ``auto`` means for so many rows to be searched."""
        from sscd_ops.index.backends import choose

        return choose(name, rows, threshold)

    def backend(
        self, name: str, fingerprint: str, dimensions: int, threshold: float
    ) -> SearchBackend:
        """A search backend by its resolved name."""
        from sscd_ops.index.backends import open_backend

        return open_backend(
            name, fingerprint_digest=fingerprint, dimensions=dimensions, threshold=threshold
        )

    def hash_search(self) -> HashSearch:
        """The search for perceptual hashes."""
        from sscd_ops.index.hamming import Hamming

        return Hamming()

    # ------------------------------------------------------------ publishing and running

    def tar_sink(self, stream: BinaryIO) -> TarSink:
        """A writer of published tars."""
        from sscd_ops.storage.tar_write import TarWriter

        return TarWriter(stream)

    def is_alive(self, batch: Batch) -> bool | None:
        """Whether the batch's runner is alive; None where it can't be asked."""
        from sscd_ops.catalog.runners import cli_is_alive

        if batch.runner is None:
            return False
        if batch.runner.kind == "cli":
            with self.catalog.begin() as conn:
                return cli_is_alive(conn, batch.batch_id)
        return None if self._ask_airflow is None else self._ask_airflow(batch.runner)

    def sample_image(self, sample_id: str) -> bytes:
        """A sample's image, read from its source.

        Raises:
            DataError: the source has it no longer.
        """
        from sscd_ops.steps.sample_image import sample_image

        return sample_image(self, sample_id)
