"""What every step is given, and the few things they all do first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import BinaryIO, Concatenate, ParamSpec, Protocol, TypeVar

from sscd_ops.catalog.attempts import Attempt, Survey, read_attempt
from sscd_ops.catalog.batches import read_batch
from sscd_ops.catalog.database import Catalog
from sscd_ops.core import measures
from sscd_ops.core.identities import batch_label, interval_label
from sscd_ops.core.measures import Measure
from sscd_ops.core.perceptual import BITS, similarity_at
from sscd_ops.errors import (
    BatchNotRunnable,
    ConfigError,
    FileMismatch,
    FingerprintMismatch,
    MissingExtra,
    SourceChanged,
    UsageError,
    WeightsUnavailable,
)
from sscd_ops.model import Batch, StoredFile
from sscd_ops.options import DatasetOptions, Settings, dataset_from_json
from sscd_ops.ports import Rooms, Store, TarSink


class Parts(Rooms, Protocol):
    """The real parts behind the ports, as ``wiring`` joins them. Each is opened on first use."""

    settings: Settings

    @property
    def catalog(self) -> Catalog:
        """Postgres."""

    @property
    def store(self) -> Store:
        """The storage root."""

    def store_at(self, root: str) -> Store:
        """A root beside the storage root, a folder or URL.

        Raises:
            UsageError: it is the storage root, or in it.
        """

    def tar_sink(self, stream: BinaryIO) -> TarSink:
        """A writer of published tars."""

    def is_alive(self, batch: Batch) -> bool | None:
        """Whether the batch's runner is alive; None where it can't be asked."""


@dataclass(frozen=True)
class Work:
    """A batch with what its attempt froze."""

    batch: Batch
    attempt: Attempt
    options: DatasetOptions

    @property
    def survey(self) -> Survey:
        """What survey froze.

        Raises:
            BatchNotRunnable: it has not run since the batch's source shards were registered.
        """
        if self.attempt.survey is None:
            raise BatchNotRunnable(
                f"batch {self.batch.batch_id} ({self.batch.name}) was not surveyed yet: run survey"
                " first, when all ingest is done"
            )
        return self.attempt.survey

    @property
    def meta_columns(self) -> list[str]:
        """The metadata columns of what is published: of all sources, sorted."""
        return self.options.meta_columns

    @property
    def folder(self) -> str:
        """The dataset's folder below the storage root."""
        return self.batch.dataset

    @property
    def label(self) -> str:
        """The batch in published names: ``2026-11-01``, ``2026-11-01-s1`` for a supplement."""
        interval = interval_label(self.batch.interval, self.options.timezone)
        return batch_label(interval, self.batch.supplement)

    @property
    def perceptual(self) -> bool:
        """Whether the batch is decided by perceptual hash too."""
        # an attempt that an older release froze has no such setting: the default, off
        return self.options.duplicates.perceptual is True

    @property
    def measures(self) -> list[Measure]:
        """What decides the batch, in the order in which they speak."""
        duplicates, threshold = self.options.duplicates, self.attempt.threshold
        answer = [measures.near(threshold, max(-1.0, threshold - duplicates.margin))]
        if self.perceptual:
            farthest = duplicates.perceptual_distance
            stored = min(farthest + duplicates.perceptual_margin, BITS)
            answer.append(measures.perceptual(similarity_at(farthest), similarity_at(stored)))
        return answer


def configured(parts: Parts, dataset: str) -> DatasetOptions:
    """A dataset's settings as the config file has them now.

    Raises:
        UsageError: it has no such dataset.
        ConfigError: what it says of the dataset is wrong.
    """
    settings = parts.settings
    if dataset in settings.faulty:
        raise ConfigError(settings.faulty[dataset])
    if dataset not in settings.datasets:
        known = ", ".join(sorted(settings.datasets)) or "none"
        raise UsageError(f"no dataset {dataset!r} in {settings.path}; it has: {known}")
    return settings.datasets[dataset]


def load_work(parts: Parts, batch_id: int) -> Work:
    """Read a batch and its frozen configuration.

    Raises:
        UsageError: there is no such batch.
        BatchNotRunnable: it has no attempt yet.
    """
    with parts.catalog.begin() as conn:
        batch = read_batch(conn, batch_id)
        attempt = read_attempt(conn, batch)
    return Work(batch, attempt, frozen_options(batch, attempt))


def frozen_options(batch: Batch, attempt: Attempt) -> DatasetOptions:
    """The configuration that a batch was planned with.

    Raises:
        ConfigError: something it cannot be without is missing.
    """
    return dataset_from_json(attempt.config, f"batch {batch.batch_id} ({batch.name})")


def groups_asked(group: int | Sequence[int]) -> frozenset[int]:
    """The groups a step was asked for: one in a mapped task, all of them in a command."""
    return frozenset({group} if isinstance(group, int) else group)


_OF_CONFIGURATION = (ConfigError, MissingExtra, WeightsUnavailable, FingerprintMismatch)


@contextmanager
def or_abandon(parts: Parts, batch_id: int) -> Iterator[None]:
    """Around work for an undecided batch: its errors name the other way on, to abandon it.

    A source file that changed may stay as it is now. A setting that is wrong was frozen when the
    batch was planned: to mend the file changes nothing for this batch.

    Raises:
        SourceChanged: with that way added to its message.
        ConfigError, MissingExtra, WeightsUnavailable, FingerprintMismatch: likewise.
    """
    try:
        yield
    except SourceChanged as error:
        raise SourceChanged(
            f"{error}, or sscd-ops batch abandon {batch_id} --why '...' and run the night with what"
            " is there now"
        ) from error
    except _OF_CONFIGURATION as error:
        with parts.catalog.begin() as conn:
            batch = read_batch(conn, batch_id)
        if batch.state.is_decided or batch.dry_run:
            raise  # a dry run is planned anew each time
        raise type(error)(
            f"{error}. Batch {batch_id} ({batch.name}) keeps the configuration that it was planned"
            f" with: once that is mended, sscd-ops batch abandon {batch_id} --why '...' and run the"
            " night again (in Airflow: clear the run from plan)"
        ) from error


_P = ParamSpec("_P")
_T = TypeVar("_T")


def with_abandon(
    step: Callable[Concatenate[Parts, int, _P], _T], /
) -> Callable[Concatenate[Parts, int, _P], _T]:
    """A step whose errors name the way past a frozen configuration; see ``or_abandon``."""

    @wraps(step)
    def run(parts: Parts, batch_id: int, /, *rest: _P.args, **named: _P.kwargs) -> _T:
        # opened before: where the catalog and the root are is not frozen with a batch
        _ = parts.catalog, parts.store
        with or_abandon(parts, batch_id):
            return step(parts, batch_id, *rest, **named)

    return run


def restore(
    parts: Parts, file: StoredFile, write: Callable[[BinaryIO], None], or_else: str = ""
) -> None:
    """Write a lost or damaged file anew, with the bytes it had.

    Args:
        parts: the real parts.
        file: what the catalog says.
        write: writes the bytes to a stream.
        or_else: for the message: another way out than a backup.

    Raises:
        FileMismatch: it cannot be had again; or a folder is in its place.
    """
    if not parts.store.restore(file, write):
        raise FileMismatch(
            f"{parts.store.url(file.name)} is lost or damaged, and what is made anew for it has"
            " other bytes: another release wrote it, or what it is made from has changed; restore"
            f" one of them from a backup{or_else}"
        )


def write_bytes(stream: BinaryIO, data: bytes) -> None:
    """Write a whole file; for ``ports.Store``, which hands out the stream."""
    stream.write(data)


class Stopwatch:
    """Seconds since it was made, on the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start
