"""``snapshot reproduce``: a snapshot written again below another root, from its sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sscd_ops.catalog import datasets, forgotten, output_shards, snapshot_changes, snapshots
from sscd_ops.catalog.output_shards import ListedShard, OutputShard
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.catalog.snapshots import Snapshot
from sscd_ops.errors import FileMismatch
from sscd_ops.model import StoredFile
from sscd_ops.ports import Store
from sscd_ops.steps.damage import noting
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.shard_files import Write
from sscd_ops.steps.shard_writing import SourceShards, samples_of, write_samples
from sscd_ops.steps.snapshots import check_root, made_from_catalog, put_snapshot

KeptOf = Callable[[Sequence[PlacedSample]], list[PlacedSample]]


@dataclass
class Reproduced:
    """What ``reproduce`` wrote.

    ``url``: of the snapshot's file; empty where a shard could not be had again, so that it was not
    written. ``differs``: files with another sha256 than the catalog says. ``left``: what could not
    be had again, and why. ``less``: shards without what is withdrawn, and how many samples it is.
    """

    url: str = ""
    shards: int = 0
    samples: int = 0
    differs: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    less: dict[str, int] = field(default_factory=dict)

    @property
    def is_equal(self) -> bool:
        """Every file was written, with the sha256 it had, save those without what is withdrawn."""
        return not (self.differs or self.left)


def reproduce(
    parts: Parts, dataset: str, number: int, root: str, *, less_withdrawn: bool = False
) -> Reproduced:
    """Write a snapshot again below another root, and compare every file with the catalog.

    Its shards are written from their sources, also where they are still there: that they follow
    from decisions and sources is what is looked at. Nothing of the catalog changes.

    Args:
        parts: the real parts.
        dataset: its name.
        number: the snapshot, expired or not.
        root: a folder or URL; what is there under the same names is written over.
        less_withdrawn: leave out samples that are withdrawn by now.

    Raises:
        UsageError: no such snapshot; ``root`` is the storage root, or in it.
        StoreRefused: the storage root is not mounted.
    """
    other = parts.store_at(root)
    with parts.catalog.begin() as conn:
        row = datasets.need(conn, dataset)
        snapshot = snapshots.need_snapshot(conn, row, number)
        check_root(parts, conn, row)  # lost manifests are made anew there
        live = output_shards.live_shards(conn, row.dataset_id, number)

    def kept(placed: Sequence[PlacedSample]) -> list[PlacedSample]:
        named = [(sample.sample_id, sample.image_sha256) for sample in placed]
        with parts.catalog.begin() as conn:
            erased = forgotten.erased_of(conn, row.dataset_id, [each for each, _ in named])
            if erased and not less_withdrawn:
                raise FileMismatch(
                    f"{len(erased)} sample(s) of snapshot {number} were withdrawn and erased, such"
                    f" as {min(erased)}: --less-withdrawn writes it without them"
                )
            if not less_withdrawn:
                return list(placed)
            gone = snapshot_changes.withdrawn_now(conn, row.dataset_id, named) | erased
        return [sample for sample in placed if sample.sample_id not in gone]

    done, listed = Reproduced(), []
    sources = SourceShards(parts)
    parts.progress.start(f"reproduce snapshot {number} of {dataset}", len(live))
    for shard in live:
        with noting(done.left):
            written = _write(parts, other, shard, sources, kept, done)
            if written is not None:
                listed.append(output_shards.listed(written))
        parts.progress.advance()
    parts.progress.done()
    done.shards, done.samples = len(listed), sum(shard.samples for shard in listed)
    if not done.left:
        _write_document(other, dataset, snapshot, listed, done)
    return done


def _write(
    parts: Parts,
    other: Store,
    shard: OutputShard,
    sources: SourceShards,
    kept_of: KeptOf,
    done: Reproduced,
) -> OutputShard | None:
    """Write a shard below another root, note how it differs; None where nothing is left of it."""
    placed, columns = samples_of(parts, shard)
    kept = kept_of(placed)
    if len(kept) < len(placed):
        done.less[shard.name] = len(placed) - len(kept)
    if not kept:
        return None

    def put(role: str, name: str, write: Write) -> StoredFile:
        return other.put_named(name, write, over=True)

    files = write_samples(parts, shard, kept, columns, sources.of(kept), put)
    if len(kept) == len(placed):
        done.differs += [
            _differs(file, shard.files[role])
            for role, file in files.items()
            if file.sha256 != shard.files[role].sha256
        ]
    return replace(shard, files=files, samples=len(kept))


def _differs(written: StoredFile, named: StoredFile) -> str:
    return f"{written.name} has sha256 {written.sha256}, the catalog says {named.sha256}"


def _write_document(
    other: Store,
    dataset: str,
    snapshot: Snapshot,
    listed: Sequence[ListedShard],
    done: Reproduced,
) -> None:
    body = made_from_catalog(dataset, snapshot, listed)
    file = put_snapshot(other, dataset, snapshot.number, body)
    done.url = other.url(file.name)
    if file.sha256 != snapshot.file.sha256 and not done.less:
        done.differs.append(_differs(file, snapshot.file))
