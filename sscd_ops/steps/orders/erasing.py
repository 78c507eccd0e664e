"""The text of samples is taken out of manifests and rows, whoever asks for it: purge or forget.

What is erased is listed first (``catalog.forgotten``), so that whoever reads a source again leaves
it out. Then manifests are written anew without it and named in the place of those before, and the
rows of samples are blanked. Files that held it are left to ``removing``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, forgotten, read_again, shards
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.forgotten import ReadFile, ReadSample
from sscd_ops.core.manifest import write_erased
from sscd_ops.errors import CommitConflict, UsageError
from sscd_ops.steps.damage import noting
from sscd_ops.steps.ingest import erased_of, manifest_as_read
from sscd_ops.steps.parts import Parts, load_work
from sscd_ops.steps.vacuum import wait_for_namers

AT_ONCE = 10_000
"""Samples that a statement names."""


@dataclass
class Erased:
    """What text was taken out.

    ``manifests``: source shard -> sha256 of its manifest without it. ``before``: sha256 of what
    these were. ``files``: source shards, of all attempts, that have or had it. ``rows``: of the
    catalog, now. ``left``: what could not be written anew, and why.
    """

    manifests: dict[int, str] = field(default_factory=dict)
    before: set[str] = field(default_factory=set)
    files: list[ReadFile] = field(default_factory=list)
    rows: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def sources(self) -> dict[str, list[str]]:
        """Source -> the URIs of its files from which it was read."""
        answer: dict[str, set[str]] = {}
        for file in self.files:
            answer.setdefault(file.source, set()).add(file.uri)
        return {source: sorted(uris) for source, uris in sorted(answer.items())}


def need_withdrawn(
    parts: Parts, dataset: Dataset, samples: Collection[UUID]
) -> dict[UUID, ReadSample]:
    """Where samples were read; all of them are withdrawn.

    Raises:
        UsageError: one is not there, or not withdrawn: nothing of it may go.
    """
    with parts.catalog.begin() as conn:
        return _withdrawn(conn, dataset, samples)


def _withdrawn(
    conn: Connection, dataset: Dataset, samples: Collection[UUID]
) -> dict[UUID, ReadSample]:
    read = forgotten.read_samples(conn, dataset.dataset_id, samples)
    gone = forgotten.withdrawn_of(conn, dataset.dataset_id, list(read.values()))
    earlier = read_again.called_before(conn, samples)
    read |= forgotten.read_samples(conn, dataset.dataset_id, earlier)
    gone |= earlier
    if unknown := sorted(set(samples) - read.keys()):
        raise UsageError(f"{dataset.name!r} has no sample {unknown[0]}")
    if left := sorted(read.keys() - gone):
        raise UsageError(
            f"sample {left[0]} of {dataset.name!r} is not withdrawn: nothing of it may be removed"
            " before that"
        )
    return read


def list_erased(parts: Parts, dataset: Dataset, samples: Collection[UUID]) -> None:
    """Say that the text of withdrawn samples is erased: nobody keeps one again from then on.

    Under the dataset's lock: who would end the order meanwhile finds that out under it, too.

    Raises:
        UsageError: one that was not listed before is withdrawn no longer.
    """
    ids = sorted(samples)
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        with parts.catalog.begin() as conn:
            datasets.lock(conn, dataset.dataset_id)
            new = set(some) - forgotten.erased_of(conn, dataset.dataset_id, some)
            _withdrawn(conn, dataset, new)
            forgotten.erase_samples(conn, dataset.dataset_id, new)


def erase_text(parts: Parts, dataset: Dataset, read: Collection[ReadSample]) -> Erased:
    """Take the text of samples out of manifests and rows; a retry goes on where it was.

    Raises:
        CommitConflict: a manifest was written meanwhile (retried).
    """
    done = Erased()
    ids = sorted(each.sample_id for each in read)
    list_erased(parts, dataset, ids)
    # whoever names a manifest from now on looks at that list
    wait_for_namers(parts)
    with parts.catalog.begin() as conn:
        done.files = forgotten.files_read(
            conn, dataset.dataset_id, {each.shard_id for each in read}
        )
    parts.progress.start(f"erase text of {dataset.name}", len(done.files))
    for file in done.files:
        if file.manifest is not None and file.counts:
            with noting(done.left):
                _write_manifest(parts, dataset, file, done)
        elif file.manifest is not None:
            done.before.add(file.manifest.sha256)
        parts.progress.advance()
    for start in range(0, len(ids), AT_ONCE):
        with parts.catalog.begin() as conn:
            some = ids[start : start + AT_ONCE]
            done.rows += forgotten.blank_rows(conn, dataset.dataset_id, some)
    parts.progress.done()
    return done


def _write_manifest(parts: Parts, dataset: Dataset, file: ReadFile, done: Erased) -> None:
    work = load_work(parts, file.batch_id)
    with parts.catalog.begin() as conn:
        shard = shards.read_shard(conn, file.shard_id)
        if shard is None or shard.manifest is None:
            return  # its attempt was given up meanwhile
        ids = erased_of(conn, work, shard)
    path = manifest_as_read(parts, work, shard)
    write = partial(_write, path, ids)
    written = parts.store.put(f"{dataset.name}/manifests", ".parquet", write)
    if written.sha256 == shard.manifest.sha256:
        done.manifests[file.shard_id] = written.sha256
        return
    with parts.catalog.begin() as conn:
        if not forgotten.replace_manifest(conn, file.shard_id, shard.manifest, written):
            raise CommitConflict(f"the manifest of {file.uri} was written meanwhile: do it again")
    done.manifests[file.shard_id] = written.sha256
    done.before.add(shard.manifest.sha256)


def _write(path: Path, ids: Collection[bytes], stream: BinaryIO) -> None:
    write_erased(path, stream, ids)
