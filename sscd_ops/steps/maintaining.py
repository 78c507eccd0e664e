"""Looking after a dataset, week by week: compact, expire, vacuum, verify, in this order.

What removes something comes after what may find damage: of a damaged shard or segment an older one
may hold the same samples still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sscd_ops.catalog import datasets, events, snapshots
from sscd_ops.errors import SscdOpsError
from sscd_ops.options import SMALL_SEGMENT
from sscd_ops.plurals import counted
from sscd_ops.steps import compacting, compacting_shards
from sscd_ops.steps.archiving import expire_archive
from sscd_ops.steps.looking import A_WEEK, look, tell
from sscd_ops.steps.looking import said as recoverable
from sscd_ops.steps.parts import Parts, configured
from sscd_ops.steps.snapshot_tags import expire
from sscd_ops.steps.snapshots import told_of
from sscd_ops.steps.vacuum import vacuum
from sscd_ops.steps.verify import unpublished, verify_catalog

Task = Literal["compact", "expire", "vacuum", "verify"]
TASKS: tuple[Task, ...] = get_args(Task)
REMOVING: tuple[Task, ...] = ("expire", "vacuum")
"""Not done where something before it failed."""


@dataclass(frozen=True)
class Maintained:
    """What a task did, or would do.

    ``counts``: small enough for XCom. ``lines``: for people. ``found``: by ``verify``, each with
    what mends it.
    """

    task: Task
    counts: dict[str, int]
    lines: list[str]
    found: list[str]


@dataclass(frozen=True)
class NotDone:
    """A task that failed, or that was not begun for one before it that did.

    ``lines``: what it did before that, for people.
    """

    task: Task
    why: str
    lines: Sequence[str] = ()


def maintain(parts: Parts, name: str, *, actor: str) -> Iterator[Maintained | NotDone]:
    """Do all tasks in order, and say of each what became of it once it is over."""
    failed: Task | None = None
    for task in TASKS:
        if failed is not None and task in REMOVING:
            yield NotDone(task, f"not begun, because {failed} failed: nothing is removed")
            continue
        try:
            yield run(parts, name, task, actor=actor)
        except SscdOpsError as error:
            failed = failed or task
            yield NotDone(task, str(error), getattr(error, "__notes__", []))


def run(
    parts: Parts, name: str, task: Task, *, actor: str = "maintain", dry_run: bool = False
) -> Maintained:
    """Do one task, or say what it would do now.

    Args:
        parts: the real parts.
        name: a dataset of the configuration.
        task: which.
        actor: who asked, for the events.
        dry_run: change nothing.

    Raises:
        UsageError: there is no such dataset.
        ConfigError: it is not in the configuration.
        SscdOpsError: what the task's own function raises.
    """
    return _TASKS[task](parts, name, actor, dry_run)


def newest_snapshot(parts: Parts, name: str) -> int:
    """Number of a dataset's newest snapshot, 0 where there is none."""
    with parts.catalog.begin() as conn:
        return datasets.need(conn, name).snapshot


def compacted_after(parts: Parts, name: str, snapshot: int) -> dict[str, Any] | None:
    """The newest snapshot behind one that a compaction made, as its asset's event tells of it."""
    with parts.catalog.begin() as conn:
        dataset_id = datasets.need(conn, name).dataset_id
        number = events.compacted_after(conn, dataset_id, snapshot)
        made = snapshots.read_snapshot(conn, dataset_id, number) if number else None
    return None if made is None else told_of(parts, made)


# ---------------------------------------------------------------- the tasks


def _compact(parts: Parts, name: str, actor: str, dry_run: bool) -> Maintained:
    if dry_run:
        segments = compacting.would_merge(parts, name, SMALL_SEGMENT)
        shards = compacting_shards.would_merge(parts, name)
    else:
        merged = compacting.compact(parts, name, SMALL_SEGMENT, actor=actor)
        segments = [each.segments for each in merged]
        try:
            shards = compacting_shards.compact(parts, name, actor=actor)
        except SscdOpsError as error:
            if merged:
                error.add_note(_into(segments, "segments of the index"))
            raise
    counts = {
        "segments": sum(map(len, segments)),
        "into_segments": len(segments),
        "shards": sum(len(merge.shards) for merge in shards.merges),
        "into_shards": len(shards.merges),
    }
    into = [
        _into(groups, said)
        for groups, said in (
            (segments, "segments of the index"),
            ([merge.shards for merge in shards.merges], "shards"),
        )
        if groups
    ]
    made = [] if shards.snapshot is None else [f"snapshot {shards.snapshot} was made"]
    lines = [*into, *made] or ["nothing to merge"]
    return Maintained("compact", counts, lines, [])


def _into(groups: Sequence[Sequence[Any]], what: str) -> str:
    return f"{sum(map(len, groups))} {what} into {len(groups)}"


def _expire(parts: Parts, name: str, actor: str, dry_run: bool) -> Maintained:
    archive, archived = _expire_archive(parts, name, actor, dry_run)
    keep = configured(parts, name).retention.snapshots
    if not keep:
        said = "0 snapshots: all stay readable (retention.snapshots = 0)"
        return Maintained("expire", {"expired": 0, "tagged": 0} | archive, [said, *archived], [])
    why = f"retention.snapshots = {keep}"
    done = expire(parts, name, keep_last=keep, actor=actor, why=why, dry_run=dry_run)
    numbers = [snapshot.number for snapshot in done.snapshots]
    counts = {"expired": len(numbers), "tagged": len(done.tagged)} | archive
    said = f"{len(numbers)} snapshots ({why})"
    if numbers:
        said += f": {numbers[0]}" + (f" ... {numbers[-1]}" if numbers[1:] else "")
    kept = [f"snapshot {tag.snapshot} stays: its tag {tag}" for tag in done.tagged]
    return Maintained("expire", counts, [said, *kept, *archived], [])


def _expire_archive(
    parts: Parts, name: str, actor: str, dry_run: bool
) -> tuple[dict[str, int], list[str]]:
    """Counts and lines of what is let go of the archive of what nights removed."""
    age = configured(parts, name).retention.removed
    if not age:
        return {"archived_shards": 0}, []
    why = f"retention.removed = {age / 86400:g}d"
    gone = expire_archive(parts, name, older_than=age, actor=actor, why=why, dry_run=dry_run)
    samples = sum(shard.samples for shard in gone)
    said = f"{counted(len(gone), 'file')} of the archive, {counted(samples, 'sample')} ({why})"
    return {"archived_shards": len(gone)}, [said]


def _vacuum(parts: Parts, name: str, actor: str, dry_run: bool) -> Maintained:
    (done,) = vacuum(parts, name, actor=actor, dry_run=dry_run)
    counts = {
        "condemned": len(done.condemned),
        "removed": len(done.removed),
        "removed_bytes": sum(done.removed.values()),
        "waiting": len(done.waiting),
    }
    said = (
        f"{counts['condemned']} files condemned, {counts['removed']} removed"
        f" ({counts['removed_bytes']:,} bytes), {counts['waiting']} wait for the end of their grace"
    )
    others = [f"{len(done.others)} files of others left alone"] if done.others else []
    return Maintained("vacuum", counts, [said, *others], [])


def _verify(parts: Parts, name: str, actor: str, dry_run: bool) -> Maintained:
    del actor
    if dry_run:
        return Maintained("verify", {}, ["all rows and files, at the end"], [])
    found = [str(finding) for finding in verify_catalog(parts, name)]
    said = f"findings: {len(found)}" if found else "rows and files are as promised"
    with parts.catalog.begin() as conn:
        dataset_id = datasets.need(conn, name).dataset_id
    counts = {"findings": len(found), "looked_at": look(parts, dataset_id, A_WEEK)}
    lines = [said, *unpublished(parts, name), recoverable(tell(parts, dataset_id))]
    return Maintained("verify", counts, lines, found)


_TASKS: dict[Task, Callable[[Parts, str, str, bool], Maintained]] = {
    "compact": _compact,
    "expire": _expire,
    "vacuum": _vacuum,
    "verify": _verify,
}
