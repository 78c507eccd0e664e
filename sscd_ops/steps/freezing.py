"""What plan freezes with an attempt: the effective configuration, the model and the threshold.

Later steps read it back (``parts.load_work``), so an edited file never changes a batch under way.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy.engine import Connection

from sscd_ops.catalog import attempts, datasets, shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.core.identities import interval_label
from sscd_ops.core.schedule import date_of
from sscd_ops.errors import ConfigError, FingerprintMismatch, InvariantError
from sscd_ops.model import Batch, Fingerprint
from sscd_ops.options import DatasetOptions, FingerprintOptions, Preprocessing
from sscd_ops.steps.parts import Parts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundModel:
    """A model with its fingerprint, found for the dataset's fingerprint ``of`` that time."""

    options: FingerprintOptions
    fingerprint: Fingerprint
    of: Fingerprint | None


def model_for_attempt(parts: Parts, options: DatasetOptions) -> FoundModel:
    """The model that a dataset's next attempt takes. Not under the lock: weights may be fetched."""
    with parts.catalog.begin() as conn:
        dataset = datasets.read(conn, options.name)
    if dataset is None:
        raise InvariantError(f"dataset {options.name} vanished from the catalog")
    model = _fingerprint_options(parts, dataset, options)
    return FoundModel(model, parts.fingerprint(model), dataset.fingerprint)


def open_attempt(
    parts: Parts,
    conn: Connection,
    dataset: Dataset,
    batch: Batch,
    options: DatasetOptions,
    model: FoundModel,
    skipped: int,
    read_again: Sequence[str] | None,
) -> int:
    """Open the batch's next attempt with everything that it freezes; its number.

    Args:
        parts: the joined parts.
        conn: a transaction that holds the dataset's lock.
        dataset: the dataset as it is now.
        batch: whose attempt.
        options: the dataset's, as the configuration file says.
        model: of ``model_for_attempt``.
        skipped: how many source shards were left to other batches.
        read_again: codes of the quarantined samples that it reads again; None for none.

    Raises:
        ConfigError: a source's root changed, a threshold has to be chosen, or the search backend
            cannot serve it.
        FingerprintMismatch: the model is not the dataset's.
    """
    options = _with_roots(parts, conn, dataset, batch, options)
    fingerprint = model.fingerprint
    _check_fingerprint(dataset, fingerprint, parts.settings.path)
    threshold = options.duplicates.threshold
    if threshold is None and fingerprint.postprocessing:
        raise ConfigError(
            f"{parts.settings.path}: datasets.{options.name}.duplicates.threshold is missing: no"
            f" measured one holds for {fingerprint.model} with postprocessing. Choose it on copies"
            " of your own pictures (docs/descriptors.md)"
        )
    known = parts.model(fingerprint.model)
    threshold = known.threshold_for(threshold)
    # survey chooses; what it would refuse must not be frozen
    parts.choose_search(options.duplicates.search, 0, threshold)
    perceptual = known.perceptual_for(options.duplicates.perceptual)
    preset = cast("Preprocessing", fingerprint.preprocessing)
    options = dataclasses.replace(
        options,
        fingerprint=dataclasses.replace(model.options, preprocessing=preset),
        duplicates=dataclasses.replace(
            options.duplicates, threshold=threshold, perceptual=perceptual
        ),
    )
    return attempts.insert_attempt(
        conn,
        dataset,
        batch,
        options,
        fingerprint,
        skipped_shards=skipped,
        read_again=read_again,
        label=interval_label(batch.interval, options.timezone),
        night=date_of(options.schedule, options.timezone, batch.interval),
    )


def _with_roots(
    parts: Parts, conn: Connection, dataset: Dataset, batch: Batch, options: DatasetOptions
) -> DatasetOptions:
    """The options with every source's root spelt out; it is stored at the first real plan.

    A source that no file was read of yet may still move: nothing is relative to its root.
    """
    roots = {source.name: parts.source_root(source) for source in options.sources}
    for name, root in roots.items():
        stored = dataset.roots.get(name)
        if (
            stored is not None
            and stored != root
            and shards.has_read(conn, dataset.dataset_id, name)
        ):
            raise ConfigError(
                f"{parts.settings.path}: datasets.{options.name}.sources {name!r}: root was"
                f" {stored!r} and would now be {root!r}; identities are relative to it. Set"
                f" root = {stored!r}, or give the source a new name"
            )
    known = {**dataset.roots, **roots}
    if not batch.dry_run and known != dataset.roots:
        datasets.set_roots(conn, dataset.dataset_id, known)
    return dataclasses.replace(
        options,
        sources=tuple(
            dataclasses.replace(source, root=roots[source.name]) for source in options.sources
        ),
    )


def _fingerprint_options(
    parts: Parts, dataset: Dataset, options: DatasetOptions
) -> FingerprintOptions:
    """The configured model; without one the dataset's own, else the product's default.

    What the dataset's model makes pixels with is what it always did, also where that is the default
    of an earlier release.
    """
    model, fingerprint, own = options.fingerprint, dataset.fingerprint, dataset.model
    if fingerprint is not None and model.model in ("", fingerprint.model):
        preset = cast("Preprocessing", fingerprint.preprocessing)
        model = dataclasses.replace(model, preprocessing=model.preprocessing or preset)
    if model.model:
        return model
    if own is not None:
        return dataclasses.replace(
            model,
            model=own.model,
            weights=model.weights or own.weights,
            minibatch=model.minibatch or own.minibatch,
            postprocessing=model.postprocessing or own.postprocessing,
            precision=model.precision or own.precision,
        )
    chosen = parts.model().name
    log.warning(
        "dataset %s gets the default model %s with its threshold, and keeps it: to choose another,"
        " name it under [datasets.%s.fingerprint] before the first night is decided",
        options.name,
        chosen,
        options.name,
    )
    return dataclasses.replace(model, model=chosen)


def _check_fingerprint(dataset: Dataset, fingerprint: Fingerprint, path: str) -> None:
    own = dataset.fingerprint
    if own is None or own.digest == fingerprint.digest:
        return
    was = dataclasses.asdict(own)
    differ = [
        f"{name} {value!r}, not {was[name]!r}"
        for name, value in dataclasses.asdict(fingerprint).items()
        if name != "digest" and was[name] != value
    ] or ["the same settings by the arithmetic of another release"]
    raise FingerprintMismatch(
        f"{path}: datasets.{dataset.name}.fingerprint gives {fingerprint}, but the dataset's index"
        f" holds {own} ({', '.join(differ)}); descriptors of"
        " different fingerprints are never compared. Configure the old model again, or give the"
        " dataset a new name"
    )
