"""Snapshot files: a shard index that `wids` reads, and the pointer to the newest one."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sscd_ops.catalog import datasets, output_shards, snapshots
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.output_shards import ListedShard
from sscd_ops.catalog.snapshots import Label, Snapshot
from sscd_ops.core.identities import batch_label, turn_label
from sscd_ops.errors import CatalogUnavailable, FileMismatch, StoreRefused
from sscd_ops.steps.parts import Parts, restore, write_bytes

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_TRIES = 3
_text = json.dumps

log = logging.getLogger(__name__)


def document(
    dataset: str,
    snapshot: int,
    *,
    parent: int,
    batch: str,
    fingerprint: str,
    shards: Sequence[ListedShard],
) -> bytes:
    """The bytes of a snapshot file: wids-shard-index-v1 plus digests. URLs are relative to it.

    Args:
        dataset: its name.
        snapshot: its number.
        parent: the number before, 0 for none.
        batch: name of what made it, as in its shards' folder. Not its number: equal
            nights give equal files in any database.
        fingerprint: the dataset's.
        shards: in published order, all written.
    """
    nothing_listed: dict[str, Any] = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": dataset,
        "snapshot": snapshot,
        "parent": parent,
        "batch": batch,
        "fingerprint": fingerprint,
        "samples": sum(shard.samples for shard in shards),
        "shardlist": [],
    }
    head, mark, tail = json.dumps(nothing_listed, indent=1, sort_keys=True).partition(
        '"shardlist": []'
    )
    if shards:
        mark = '"shardlist": [\n' + ",\n".join(map(_entry, shards)) + "\n ]"
    return f"{head}{mark}{tail}\n".encode()


def _entry(shard: ListedShard) -> str:
    """A shard as ``json.dumps`` indents it there, which takes ten times as long for many."""
    # a shard that took the place of one that held what is kept no longer bears that turn
    maker = made_by(shard) if shard.turn == shard.decided_turn else turn_label(shard.turn)
    url = "../" + shard.name.partition("/")[2]
    return (
        f'  {{\n   "batch": {_text(maker)},\n   "filesize": {shard.bytes},\n'
        f'   "form": {_text(shard.form)},\n   "nsamples": {shard.samples},\n'
        f'   "sha256": {_text(shard.sha256 or "")},\n   "url": {_text(url)}\n  }}'
    )


def made_by(made: ListedShard | Snapshot | Label) -> str:
    """Who made it, in published names: a batch, or another decision."""
    if made.label is None:
        return turn_label(made.decided_turn)
    return batch_label(made.label, made.supplement or 0)


def made_from_catalog(dataset: str, snapshot: Snapshot, shards: Sequence[ListedShard]) -> bytes:
    """What the file of a registered snapshot holds, of a dataset's name and its live shards."""
    return document(
        dataset,
        snapshot.number,
        parent=snapshot.parent,
        batch=made_by(snapshot),
        fingerprint=snapshot.fingerprint,
        shards=shards,
    )


def read_snapshot_file(parts: Parts, conn: Connection, dataset: str, snapshot: Snapshot) -> bytes:
    """A snapshot's file; made anew from the catalog where it is lost or damaged.

    Raises:
        FileMismatch: another release wrote it, so that its bytes cannot be had again.
    """
    try:
        return parts.store.local(snapshot.file).read_bytes()
    except FileMismatch as damage:
        log.warning("making snapshot %d anew: %s", snapshot.number, damage)
    listed = output_shards.listed_shards(conn, snapshot.dataset_id, snapshot.number)
    body = made_from_catalog(dataset, snapshot, listed)
    restore(parts, snapshot.file, lambda stream: write_bytes(stream, body))
    return body


def repair_latest(parts: Parts, dataset: str) -> None:
    """Make ``latest.json`` a copy of the newest snapshot's file, where it is not; never back.

    The pointer is derived from the catalog; a command that died between the two leaves it one
    behind, and the next command calls this.

    Raises:
        CatalogUnavailable: the lock was lost again and again while the pointer was written.
    """
    for left in reversed(range(_TRIES)):
        wrote: list[bool] = []
        try:
            _write_latest(parts, dataset, wrote)
            return
        except CatalogUnavailable:
            # the lock went while storage hung: what was written then may be the older one
            if not wrote or not left:
                raise


def _write_latest(parts: Parts, dataset: str, wrote: list[bool]) -> None:
    name = _latest(dataset)
    with parts.catalog.begin() as conn:
        row = datasets.read(conn, dataset)
        if row is None or row.snapshot == 0:
            return
        # the lock orders writers: nobody can put an older pointer after a newer one
        row = datasets.lock(conn, row.dataset_id)
        newest = snapshots.read_snapshot(conn, row.dataset_id)
        if newest is None:
            return
        latest = parts.store.read_small(name)
        if latest is None:
            _check_mounted(parts, conn, newest)
        wanted = read_snapshot_file(parts, conn, dataset, newest)
        if latest != wanted:
            wrote.append(True)
            parts.store.replace(name, wanted)
            datasets.read(conn, dataset)  # fails where the lock is no longer ours


def check_root(parts: Parts, conn: Connection, dataset: Dataset) -> None:
    """Refuse a root that is not mounted, before anything is written there.

    Raises:
        StoreRefused: nothing of the newest snapshot is there.
    """
    newest = snapshots.read_snapshot(conn, dataset.dataset_id)
    if newest is not None and parts.store.read_small(_latest(dataset.name)) is None:
        _check_mounted(parts, conn, newest)


def _latest(dataset: str) -> str:
    return f"{dataset}/snapshots/latest.json"


def _check_mounted(parts: Parts, conn: Connection, newest: Snapshot) -> None:
    """Refuse a root without any of the newest snapshot's files: an empty mount point is no dataset.

    What is missing would be made anew there, on the wrong disk.
    """
    live = output_shards.live_shards(conn, newest.dataset_id, newest.number)
    ends = {shard.name: shard.files for shard in (*live[:1], *live[-1:])}
    named = [newest.file, *(file for files in ends.values() for file in files.values())]
    for file in named:
        with contextlib.suppress(FileMismatch):
            parts.store.local(file)
            return
    if ends:
        raise StoreRefused(
            f"{parts.store.url(named[-1].name)} and all other files looked for of snapshot"
            f" {newest.number} are missing: is the disk of storage.root mounted, and storage.root"
            " right? Mount it or mend that, then run this again; if the files are lost,"
            " restore the last backup (docs/operations.md)"
        )


def snapshot_name(dataset: str, snapshot: int, sha256: str) -> str:
    """Name of a snapshot file, relative to the root."""
    return f"{dataset}/snapshots/{snapshot:06d}-{sha256[:8]}.json"


def shard_names(parts: Parts, dataset: str, snapshot: int | None, form: str) -> list[str]:
    """URLs of a snapshot's tars, of one form if given."""
    with parts.catalog.begin() as conn:
        row = datasets.read(conn, dataset)
        if row is None:
            return []
        number = row.snapshot if snapshot is None else snapshot
        listed = output_shards.listed_shards(conn, row.dataset_id, number)
    return [parts.store.url(shard.name) for shard in listed if form in ("", shard.form)]
