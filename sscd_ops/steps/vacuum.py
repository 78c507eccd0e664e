"""vacuum: remove files below the storage root that no row names any more.

In two phases (docs/decisions/0020). A file that is not named and older than the grace is condemned;
one that was condemned a grace ago, and is not named still, is removed. Whoever comes to name a
condemned file meanwhile ends that (``catalog.naming``): who is slow loses no file that counts.

A process that is killed leaves condemned files, of which the next one removes what this one was at.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from typing import TypeVar

from sqlalchemy.engine import Connection

from sscd_ops.catalog import condemned, datasets, events, named_files, snapshots
from sscd_ops.catalog.condemned import Condemned
from sscd_ops.catalog.database import IDLE_SECONDS
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.errors import CatalogUnavailable, StoreRefused, UsageError
from sscd_ops.model import ARCHIVE, ListedFile
from sscd_ops.options import RetentionOptions
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.snapshots import check_root, latest_name, read_latest

T = TypeVar("T")

GRACE = RetentionOptions().grace
"""Seconds; the default."""

_DIGEST = "[0-9a-f]{64}"
_SHARD = r"[^/]+-[0-9a-f]{8}/\d{5,}(\.tar|\.parquet|_stats\.json)"
_FILES = {
    "manifests": rf"{_DIGEST}\.parquet",
    "worklists": rf"{_DIGEST}\.parquet",
    "descriptors": rf"{_DIGEST}\.parquet",
    "matches": rf"{_DIGEST}\.parquet",
    "index/segments": rf"{_DIGEST}\.npy",
    "index/masks": rf"{_DIGEST}\.mask",
    "shards": _SHARD,
    ARCHIVE: _SHARD,
    "snapshots": r"\d{6,}-[0-9a-f]{8}\.json",
}
"""Folders that steps write below a dataset's, and what files are called there."""
_LEFTOVER = re.compile(r"(.*/)?\.tmp-[0-9a-f]{32}")
"""What a writer that was killed leaves, in any of them."""
_AT_ONCE = 50_000
"""Names in a statement."""
_BATCH = 1_000
"""Files that are locked at a time,"""
_TOGETHER = 50
"""and removed between two looks at the clock, by so many threads:"""
_THREADS = 8
_SECONDS = IDLE_SECONDS / 3
"""For so long one lock is used: the server ends a session that is idle for three times as long."""
_PATIENCE = 10.0
"""Seconds to wait for those who name files: behind this, others wait that begin to."""
_TRIES = 12


@dataclass
class Vacuumed:
    """What vacuum did to a dataset, or would do. Files are given as name -> bytes.

    ``condemned``: now. ``removed``: now. ``waiting``: condemned, and not removed before their grace
    is over. ``acquitted``: condemned before, and named by now or written anew: how many.
    ``others``: names of what is in the folders and not ours; it is left alone.
    """

    dataset: str
    condemned: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    acquitted: int = 0
    others: list[str] = field(default_factory=list)


def vacuum(
    parts: Parts,
    dataset: str | None = None,
    *,
    grace: float | None = None,
    actor: str = "cli",
    dry_run: bool = False,
) -> list[Vacuumed]:
    """Remove files of a dataset, or of all, that no row names any more; what was done to each.

    Args:
        parts: the real parts.
        dataset: its name.
        grace: seconds; a file is condemned when it is so old, and removed so long after that.
            Longer than the longest night, or what nights write and read is taken from under them
            (they fail, and go on when they are run again). None: each dataset's own
            ``retention.grace``; ``GRACE`` of one that the configuration does not have.
        actor: who asked, for the event.
        dry_run: change nothing, say what would be.

    Raises:
        UsageError: there is no such dataset, or the grace is below 0.
        StoreRefused: the root is not mounted, or another catalog's.
        CatalogBehind: the root is newer than the catalog, which was restored from an older dump.
        CatalogUnavailable: a transaction that names files does not end.
    """
    if grace is not None and not grace >= 0:
        raise UsageError(f"a grace is 0 seconds or more, not {grace:g}")
    with parts.catalog.begin() as conn:
        names = datasets.all_names(conn) if dataset is None else [dataset]
    own = {name: options.retention.grace for name, options in parts.settings.datasets.items()}
    graces = {name: own.get(name, GRACE) if grace is None else grace for name in names}
    return [
        _of_dataset(parts, name, given, actor, dry_run=dry_run) for name, given in graces.items()
    ]


def folder_of(name: str) -> str:
    """The folder of ours that a file lies in, below its dataset's."""
    inside = name.partition("/")[2]
    return next(folder for folder in _FILES if inside.startswith(f"{folder}/"))


def by_folder(files: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Folder -> number and bytes of the files there."""
    count, size = Counter[str](), Counter[str]()
    for name, bytes_ in files.items():
        count[folder_of(name)] += 1
        size[folder_of(name)] += bytes_
    return {folder: (count[folder], size[folder]) for folder in _FILES if count[folder]}


def listed(parts: Parts, dataset: str) -> dict[str, ListedFile]:
    """Our files below a dataset's folder, by name; what killed writers left is among them."""
    return {file.name: file for file in _listed(parts, dataset, [])}


def is_leftover(name: str) -> bool:
    """Whether a file of ours is a hidden one: of a writer that is at work, or was killed."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_now(
    parts: Parts, dataset: Dataset, names: Collection[str], found: Mapping[str, ListedFile]
) -> dict[str, int]:
    """Remove files without grace, as I8's one exception: those of ``names`` that no row names.

    In the phases of ``vacuum``, so that whoever comes to name one meanwhile loses nothing.

    Args:
        parts: the real parts.
        dataset: whose.
        names: which; of one that is not there it is remembered that it was removed.
        found: all that is there (``listed``).

    Returns:
        Name and bytes of what was removed.
    """
    done = Vacuumed(dataset.name)
    sizes = {name: found[name].bytes if name in found else 0 for name in names}
    _condemn(parts, dataset, sizes)
    ripe = _try_them(parts, dataset, 0.0, found, sizes, done, only=sizes.keys())
    _remove(parts, dataset, ripe, found, done)
    return {name: size for name, size in done.removed.items() if name in sizes}


def _of_dataset(parts: Parts, name: str, grace: float, actor: str, *, dry_run: bool) -> Vacuumed:
    done = Vacuumed(name)
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        check_root(parts, conn, dataset)
        _check_catalog(parts, conn, dataset)
    parts.progress.start(f"vacuum {name}", None)
    # listed before rows are asked: what is written and named in between is in neither, or named
    found = {file.name: file for file in _listed(parts, name, done.others)}
    old = {file.name: file.bytes for file in found.values() if _is_old(file, grace)}
    with parts.catalog.begin() as conn:
        named = named_files.all_names(conn, dataset.dataset_id)
        before = condemned.condemned(conn, dataset.dataset_id, grace)
    dead = {name: size for name, size in old.items() if name not in named}
    done.condemned = {name: size for name, size in dead.items() if name not in before}
    if dry_run:
        _foresee(done, before, dead, grace)
    else:
        _condemn(parts, dataset, done.condemned)
        ripe = _try_them(parts, dataset, grace, found, old, done)
        _remove(parts, dataset, ripe, found, done)
        _record(parts, dataset, grace, actor, done)
    parts.progress.done()
    return done


# ---------------------------------------------------------------- what there is


def _listed(parts: Parts, dataset: str, others: list[str]) -> Iterator[ListedFile]:
    """Our files below a dataset's folder; ``others`` is told the names of what else is there."""
    for folder, pattern in _FILES.items():
        ours = re.compile(pattern)
        for file in parts.store.list(f"{dataset}/{folder}"):
            inside = file.name.removeprefix(f"{dataset}/{folder}/")
            if file.is_regular and (ours.fullmatch(inside) or _LEFTOVER.fullmatch(inside)):
                yield file
            elif file.name != latest_name(dataset) or not file.is_regular:
                others.append(file.name)


def _is_old(file: ListedFile, grace: float) -> bool:
    """Whether nobody can be at work on it; where storage does not say, its condemnation counts."""
    return file.modified is None or file.modified <= time.time() - grace


def _check_catalog(parts: Parts, conn: Connection, dataset: Dataset) -> None:
    """Refuse a root whose newest snapshot another catalog made: its rows name what is there.

    Raises:
        StoreRefused: ``latest.json`` is no snapshot of this catalog.
    """
    latest = read_latest(parts, dataset.name)
    made = {each.file.sha256 for each in snapshots.all_snapshots(conn, dataset.dataset_id)}
    if latest is None or sha256(latest).hexdigest() in made:
        return
    again = (
        f"`sscd-ops snapshot verify --dataset {dataset.name} --repair` writes it anew"
        if made
        else "move it away"
    )
    raise StoreRefused(
        f"{parts.store.url(latest_name(dataset.name))} is no snapshot of this catalog, and nothing"
        " was removed: does storage.root belong to another catalog? Mend that; if both are right,"
        f" that file is damaged: {again}"
    )


# ---------------------------------------------------------------- condemn, try, remove


def _some(items: Iterable[T]) -> Iterator[list[T]]:
    """As many at a time as a statement takes."""
    left = iter(items)
    while some := list(islice(left, _AT_ONCE)):
        yield some


def _condemn(parts: Parts, dataset: Dataset, dead: Mapping[str, int]) -> None:
    for some in _some(dead.items()):
        with parts.catalog.begin() as conn:
            condemned.condemn(conn, dataset.dataset_id, dict(some))


def _try_them(
    parts: Parts,
    dataset: Dataset,
    grace: float,
    found: Mapping[str, ListedFile],
    old: Mapping[str, int],
    done: Vacuumed,
    only: Container[str] | None = None,
) -> list[Condemned]:
    """Look again at all that is condemned, let go what is named by now; what may be removed.

    Or at ``only`` some of it.

    Who began to name a file before it was condemned has not seen that: it is waited for. Who begins
    later ends the condemnation. So what is not named after that never is, while its row is there.
    """
    with parts.catalog.begin() as conn:
        accused = condemned.condemned(conn, dataset.dataset_id, grace)
    if only is not None:
        accused = {name: each for name, each in accused.items() if name in only}
    if not accused:
        return []
    wait_for_namers(parts)
    with parts.catalog.begin() as conn:
        named = named_files.all_names(conn, dataset.dataset_id)
    # what is gone stays condemned: a vacuum that died may have removed it
    free = accused.keys() & (named | (found.keys() - old.keys()))
    for some in _some(sorted(free)):
        with parts.catalog.begin() as conn:
            condemned.acquit(conn, some)
    done.acquitted = len(free)
    left = [each for name, each in accused.items() if name not in free]
    done.waiting = {e.name: e.bytes for e in left if not e.is_ripe and e.name in found}
    return [each for each in left if each.is_ripe]


def _foresee(
    done: Vacuumed, before: Mapping[str, Condemned], dead: Mapping[str, int], grace: float
) -> None:
    """What the next run would remove, and leave for a later one."""
    ripe = {name for name, each in before.items() if each.is_ripe}
    if grace == 0:
        ripe |= done.condemned.keys()
    done.removed = {name: size for name, size in dead.items() if name in ripe}
    done.waiting = {n: size for n, size in dead.items() if n in before and n not in ripe}


def wait_for_namers(parts: Parts) -> None:
    """Wait until all transactions ended that began to name files before this."""
    for tries in range(1, _TRIES + 1):
        try:
            with parts.catalog.begin(lock_timeout=_PATIENCE) as conn:
                condemned.wait_for_namers(conn)
            return
        except CatalogUnavailable:
            if tries == _TRIES:
                raise
            time.sleep(1.0)


def _remove(
    parts: Parts,
    dataset: Dataset,
    ripe: Sequence[Condemned],
    found: Mapping[str, ListedFile],
    done: Vacuumed,
) -> None:
    for some in _some(ripe):
        with parts.catalog.begin() as conn:
            condemned.mark_deleting(conn, some)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="remove") as pool:
        while True:
            gone: dict[str, int] = {}
            with parts.catalog.begin() as conn:
                locked = condemned.lock_deleting(conn, dataset.dataset_id, _BATCH)
                until = time.monotonic() + _SECONDS
                left = iter(locked.items())
                while time.monotonic() < until and (few := dict(islice(left, _TOGETHER))):
                    # what was not listed is gone, or behind a link by now
                    list(pool.map(parts.store.delete, few.keys() & found.keys()))
                    gone |= few
                condemned.mark_removed(conn, list(gone))
            if not gone:
                break
            done.removed |= {name: size for name, size in gone.items() if name in found}
            parts.progress.advance(len(gone))
    with parts.catalog.begin() as conn:
        condemned.forget_removed(conn, dataset.dataset_id)


def _record(parts: Parts, dataset: Dataset, grace: float, actor: str, done: Vacuumed) -> None:
    if not (done.condemned or done.removed or done.acquitted):
        return

    def figures(files: Mapping[str, int]) -> dict[str, dict[str, int]]:
        return {
            folder: {"files": count, "bytes": size}
            for folder, (count, size) in by_folder(files).items()
        }

    with parts.catalog.begin() as conn:
        events.add_event(
            conn,
            dataset.dataset_id,
            "vacuumed",
            actor=actor,
            details={
                "grace": grace,
                "condemned": figures(done.condemned),
                "removed": figures(done.removed),
                "acquitted": done.acquitted,
            },
        )
