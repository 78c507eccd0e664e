"""Snapshot files: a shard index that `wids` reads, and what points at the newest one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sscd_ops.catalog import datasets, events, output_shards, snapshots
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.output_shards import ListedShard
from sscd_ops.catalog.snapshots import Label, Snapshot
from sscd_ops.core.identities import batch_label, turn_label
from sscd_ops.core.shard_plan import maker_of
from sscd_ops.errors import CatalogBehind, CatalogUnavailable, FileMismatch, StoreRefused
from sscd_ops.model import StoredFile
from sscd_ops.ports import Store
from sscd_ops.steps.dataset_card import card, card_name, is_ours
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
    # as its folder is named: a shard that took the place of others bears a turn of its own
    url = "../" + shard.name.partition("/")[2]
    return (
        f'  {{\n   "batch": {_text(maker_of(shard.name))},\n   "filesize": {shard.bytes},\n'
        f'   "form": {_text(shard.form)},\n   "nsamples": {shard.samples},\n'
        f'   "sha256": {_text(shard.sha256 or "")},\n   "url": {_text(url)}\n  }}'
    )


def made_by(made: Snapshot | Label) -> str:
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

    Likewise the dataset card. Both are derived from the catalog; a command that died before them
    leaves them one behind, and the next command calls this.

    Raises:
        CatalogUnavailable: the lock was lost again and again while they were written.
        CatalogBehind: the pointer names a snapshot that the catalog does not have.
    """
    _repair(parts, dataset, back=False)


def set_back_latest(parts: Parts, dataset: str) -> str | None:
    """As ``repair_latest``, and back where the catalog forgot snapshots; what was done then.

    A person asks for it: training jobs may have read the snapshots that are forgotten.
    """
    return _repair(parts, dataset, back=True)


def _repair(parts: Parts, dataset: str, *, back: bool) -> str | None:
    for left in reversed(range(_TRIES)):
        wrote: list[bool] = []
        try:
            return _write_latest(parts, dataset, wrote, back=back)
        except CatalogUnavailable:
            # the lock went while storage hung: what was written then may be the older one
            if not wrote or not left:
                raise
    return None


def _write_latest(parts: Parts, dataset: str, wrote: list[bool], *, back: bool) -> str | None:
    name = latest_name(dataset)
    with parts.catalog.begin() as conn:
        row = datasets.read(conn, dataset)
        if row is None:
            return None
        # the lock orders writers: nobody can put an older pointer after a newer one
        row = datasets.lock(conn, row.dataset_id)
        newest = snapshots.read_snapshot(conn, row.dataset_id)
        latest = parts.store.read_small(name)
        ahead = snapshot_ahead(latest, newest)
        if ahead is not None and not back:
            raise _behind(parts, dataset, ahead, newest)
        done = None
        if ahead is not None:
            now = "is removed: there is none" if newest is None else f"names {newest.number} again"
            done = f"latest.json named snapshot {ahead}, which the catalog does not have: it {now}"
            details = {"from": ahead, "to": 0 if newest is None else newest.number}
            events.add_event(
                conn, row.dataset_id, "set_back", actor="snapshot verify --repair", details=details
            )
        if newest is None:
            if ahead is not None:
                parts.store.delete(name)
            return done
        if latest is None:
            _check_mounted(parts, conn, newest)
        wanted = read_snapshot_file(parts, conn, dataset, newest)
        stale = {name: wanted} if latest != wanted else {}
        stale |= stale_card(parts, dataset, wanted)
        for name, body in stale.items():
            wrote.append(True)
            parts.store.replace(name, body)
        if stale:
            datasets.read(conn, dataset)  # fails where the lock is no longer ours
    return done


def stale_card(parts: Parts, dataset: str, document: bytes) -> dict[str, bytes]:
    """The dataset card, by its name, where it is not that of the newest snapshot's file.

    None where a person's README is in its place.
    """
    name, wanted = card_name(dataset), card(document)
    written = parts.store.read_small(name)
    if written is not None and (written == wanted or not is_ours(written)):
        return {}
    return {name: wanted}


def check_root(parts: Parts, conn: Connection, dataset: Dataset) -> None:
    """Refuse a root that is not mounted, or newer than the catalog, before anything is written.

    Raises:
        StoreRefused: nothing of the newest snapshot is there.
        CatalogBehind: there are snapshots that the catalog does not have.
    """
    latest = check_pointer(parts, conn, dataset.name)
    newest = snapshots.read_snapshot(conn, dataset.dataset_id)
    if newest is not None and latest is None:
        _check_mounted(parts, conn, newest)


def check_pointer(parts: Parts, conn: Connection, dataset: str) -> bytes | None:
    """Refuse a catalog that is older than the files; else the content of ``latest.json``.

    Also of a dataset that the catalog does not have.

    Raises:
        CatalogBehind: there are snapshots that the catalog does not have.
    """
    # in this order: the pointer follows the row
    latest = read_latest(parts, dataset)
    row = datasets.read(conn, dataset)
    newest = None if row is None else snapshots.read_snapshot(conn, row.dataset_id)
    ahead = snapshot_ahead(latest, newest)
    if ahead is not None:
        raise _behind(parts, dataset, ahead, newest)
    return latest


def read_latest(parts: Parts, dataset: str) -> bytes | None:
    """The content of ``latest.json``; None where there is none."""
    return parts.store.read_small(latest_name(dataset))


def root_fault(parts: Parts, conn: Connection, dataset: str) -> str | None:
    """What a look at ``latest.json`` says of root and catalog: which is older, or not mounted."""
    try:
        latest = check_pointer(parts, conn, dataset)
        row = datasets.read(conn, dataset)
        newest = None if row is None else snapshots.read_snapshot(conn, row.dataset_id)
        if newest is None:
            return None
        if latest is None:
            _check_mounted(parts, conn, newest)
    except (CatalogBehind, StoreRefused) as error:
        return str(error)
    named = snapshot_named(latest, newest)
    if named >= newest.number:
        return None
    try:
        parts.store.local(newest.file)
    except FileMismatch as damage:
        return (
            f"latest.json names snapshot {named}, and {str(damage).partition(';')[0]}: the root is"
            f" older than the catalog, which has snapshot {newest.number}: `sscd-ops catalog verify"
            f" --dataset {dataset}` says what lacks, and what makes it anew"
        )
    return None  # one behind: a command died before it moved the pointer


def snapshot_ahead(latest: bytes | None, newest: Snapshot | None) -> int | None:
    """The snapshot that ``latest.json`` names, where the catalog has none of that number.

    ``latest``: its content, read before ``newest`` or under the lock. Of one that is damaged none.
    """
    number = snapshot_named(latest, newest)
    return number if number > (0 if newest is None else newest.number) else None


def snapshot_named(latest: bytes | None, newest: Snapshot | None) -> int:
    """The number of the snapshot that ``latest.json`` names; 0 where that cannot be told."""
    if latest is None:
        return 0
    if newest is not None and hashlib.sha256(latest).hexdigest() == newest.file.sha256:
        return newest.number
    try:
        found = json.loads(latest)["snapshot"]
    except (ValueError, KeyError, TypeError):
        return 0
    return found if isinstance(found, int) else 0


def _behind(parts: Parts, dataset: str, ahead: int, newest: Snapshot | None) -> CatalogBehind:
    has = "none" if newest is None else f"{newest.number} as the newest"
    return CatalogBehind(
        f"{parts.store.url(latest_name(dataset))} names snapshot {ahead} and the catalog has {has}:"
        " an older dump of it was restored, or storage.root is that of another catalog; restore a"
        " newer dump (`sscd-ops db restore FILE --replace`) or mend storage.root; or go on with the"
        " catalog as it is, and run the nights since again: `sscd-ops snapshot verify --dataset"
        f" {dataset} --repair` sets latest.json back"
    )


def latest_name(dataset: str) -> str:
    """Name of the pointer to the newest snapshot, relative to the root."""
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


def told_of(parts: Parts, snapshot: Snapshot) -> dict[str, Any]:
    """What an asset's event tells of a snapshot."""
    return {
        "snapshot": snapshot.number,
        "parent": snapshot.parent,
        "samples": snapshot.samples,
        "shards": snapshot.shards,
        "bytes": snapshot.bytes,
        "location": parts.store.url(snapshot.file.name),
    }


def put_snapshot(store: Store, dataset: str, number: int, body: bytes) -> StoredFile:
    """Write a snapshot's file below a root."""
    name = snapshot_name(dataset, number, hashlib.sha256(body).hexdigest())
    # the name says the content: other bytes there are those of a killed try or a bad disk
    return store.put_named(name, lambda stream: write_bytes(stream, body), over=True)


def snapshot_name(dataset: str, snapshot: int, sha256: str) -> str:
    """Name of a snapshot file, relative to the root."""
    return f"{dataset}/snapshots/{snapshot:06d}-{sha256[:8]}.json"


def shard_urls(parts: Parts, dataset: str, snapshot: int | None, form: str) -> list[str]:
    """URLs of a snapshot's tars, of one form if given."""
    with parts.catalog.begin() as conn:
        row = datasets.read(conn, dataset)
        if row is None:
            return []
        number = row.snapshot if snapshot is None else snapshot
        listed = output_shards.listed_shards(conn, row.dataset_id, number)
    return [parts.store.url(shard.name) for shard in listed if form in ("", shard.form)]
