"""``snapshot tag`` and ``snapshot expire``: which snapshots are kept, as people decide it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy.engine import Connection

from sscd_ops.catalog import datasets, events, snapshot_tags, snapshots
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.snapshot_tags import Tag
from sscd_ops.catalog.snapshots import Snapshot
from sscd_ops.errors import UsageError
from sscd_ops.steps.manage import need_reason
from sscd_ops.steps.parts import Parts

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# ---------------------------------------------------------------- tags


def tag(
    parts: Parts,
    dataset: str,
    number: int,
    name: str,
    *,
    used_by: str | None = None,
    keep_until: date | None = None,
    actor: str,
    why: str,
) -> str:
    """Give a snapshot a name that keeps it from being expired; what holds now.

    Args:
        parts: the real parts.
        dataset: its name.
        number: the snapshot.
        name: the tag. One that the snapshot has stays, with its last day where no other is given.
        used_by: a run that was trained on it.
        keep_until: the last day (UTC) that the tag keeps it; None for ever.
        actor: who says so.
        why: the reason.

    Raises:
        UsageError: no such snapshot; an expired one; a tag of another snapshot; a name or a day
            that cannot be.
    """
    need_reason(actor, why)
    _check(name, used_by, keep_until)
    with parts.catalog.begin() as conn:
        row = _locked(conn, dataset)
        snapshot = snapshots.need_snapshot(conn, row, number)
        found = _tag_of(conn, row, name)
        if found is None and snapshot.expired_at is not None:
            raise UsageError(
                f"{expired(dataset, snapshot)}: a tag would keep nothing. Tag the newest one"
                " while it is there"
            )
        if found is not None and found.snapshot != number:
            raise UsageError(
                f"the tag {name!r} is on snapshot {found.snapshot} of {dataset!r}:"
                f" `{_remove(dataset, found)}` takes it away"
            )
        until = keep_until or (found.keep_until if found else None)
        is_new = found is None or found.keep_until != until
        if is_new:
            snapshot_tags.put_tag(
                conn, row.dataset_id, number, name, keep_until=until, actor=actor, why=why
            )
        if used_by is not None:
            is_new |= snapshot_tags.add_user(conn, row.dataset_id, number, used_by, actor)
        if is_new:
            details = {"snapshot": number, "tag": name, "keep_until": until, "used_by": used_by}
            said = {key: value for key, value in details.items() if value is not None}
            events.add_event(conn, row.dataset_id, "tagged", actor=actor, why=why, details=said)
    kept = "for ever" if until is None else f"until {until}"
    return f"snapshot {number} of {dataset!r} has the tag {name!r}, which keeps it {kept}"


def untag(parts: Parts, dataset: str, number: int, name: str, *, actor: str, why: str) -> str:
    """Take a tag from a snapshot; what holds now. What was trained on it stays known.

    Raises:
        UsageError: no such snapshot; the tag is on another one.
    """
    need_reason(actor, why)
    with parts.catalog.begin() as conn:
        row = _locked(conn, dataset)
        snapshots.need_snapshot(conn, row, number)
        found = _tag_of(conn, row, name)
        if found is not None and found.snapshot != number:
            raise UsageError(
                f"the tag {name!r} is on snapshot {found.snapshot} of {dataset!r}, not on {number}"
            )
        if found is not None:
            snapshot_tags.drop_tag(conn, row.dataset_id, name)
            events.add_event(
                conn,
                row.dataset_id,
                "untagged",
                actor=actor,
                why=why,
                details={"snapshot": number, "tag": name},
            )
    return f"snapshot {number} of {dataset!r} has no tag {name!r}"


def _check(name: str, used_by: str | None, keep_until: date | None) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a tag: up to 64 letters, digits, '.', '_' and '-',"
            " the first one a letter or a digit"
        )
    if used_by is not None and not used_by.strip():
        raise UsageError("say what was trained: --used-by RUN")
    if keep_until is not None and keep_until < datetime.now(UTC).date():
        raise UsageError(f"{keep_until} is over: the tag would keep nothing")


def _tag_of(conn: Connection, dataset: Dataset, name: str) -> Tag | None:
    tags = snapshot_tags.tags_of(conn, dataset.dataset_id)
    return next((each for each in tags if each.name == name), None)


def _remove(dataset: str, tag: Tag) -> str:
    return (
        f"sscd-ops snapshot tag {tag.snapshot} {tag.name} --dataset {dataset} --remove --why '...'"
    )


# ---------------------------------------------------------------- expired


@dataclass(frozen=True)
class Expired:
    """What ``expire`` did, or would do.

    ``snapshots``: expired now. ``already``: asked for, and expired before. ``tagged``: older than
    the last ones, and kept by a tag.
    """

    snapshots: list[Snapshot]
    already: list[int]
    tagged: list[Tag]


def expire(
    parts: Parts,
    dataset: str,
    numbers: Sequence[int] = (),
    *,
    keep_last: int | None = None,
    actor: str,
    why: str,
    dry_run: bool = False,
) -> Expired:
    """Give up snapshots: nobody reads them any more, and vacuum may remove what they alone hold.

    Rows, list, tags and diff stay. The newest one and those with a tag that keeps them are never
    expired.

    Args:
        parts: the real parts.
        dataset: its name.
        numbers: which; or
        keep_last: all but so many of the newest that are not expired, and those with such a tag.
        actor: who says so.
        why: the reason.
        dry_run: change nothing.

    Raises:
        UsageError: one of ``numbers`` is not there, the newest, or kept by a tag: nothing is done.
    """
    need_reason(actor, why)
    with parts.catalog.begin() as conn:
        row = _locked(conn, dataset)
        readable = snapshots.readable_snapshots(conn, row.dataset_id)
        tags = [each for each in snapshot_tags.tags_of(conn, row.dataset_id) if each.keeps]
        if keep_last is None:
            asked = [snapshots.need_snapshot(conn, row, number) for number in sorted({*numbers})]
            for snapshot in asked:
                _refuse(row, snapshot, tags)
            done = Expired(
                [each for each in asked if each.expired_at is None],
                [each.number for each in asked if each.expired_at is not None],
                [],
            )
        else:
            older = readable[: -max(keep_last, 1)]
            kept = [tag for tag in tags if tag.snapshot in {each.number for each in older}]
            named = {tag.snapshot for tag in kept}
            done = Expired([each for each in older if each.number not in named], [], kept)
        if done.snapshots and not dry_run:
            gone = [snapshot.number for snapshot in done.snapshots]
            snapshots.mark_expired(conn, row.dataset_id, gone)
            events.add_event(
                conn, row.dataset_id, "expired", actor=actor, why=why, details={"snapshots": gone}
            )
    return done


def _refuse(dataset: Dataset, snapshot: Snapshot, tags: Sequence[Tag]) -> None:
    if snapshot.number == dataset.snapshot:
        raise UsageError(
            f"snapshot {snapshot.number} is the newest of {dataset.name!r}, which is never expired:"
            " the next one can take its place"
        )
    for each in tags:
        if each.snapshot == snapshot.number and snapshot.expired_at is None:
            raise UsageError(
                f"the tag {each} keeps snapshot {snapshot.number} of {dataset.name!r}: first"
                f" `{_remove(dataset.name, each)}`"
            )


def expired(dataset: str, snapshot: Snapshot) -> str:
    """Says that a snapshot was expired, for messages."""
    return (
        f"snapshot {snapshot.number} of {dataset!r} was expired on {snapshot.expired_at:%Y-%m-%d}"
    )


def _locked(conn: Connection, name: str) -> Dataset:
    """The dataset under its lock: no night makes a snapshot, and nobody tags or expires one."""
    return datasets.lock(conn, datasets.need(conn, name).dataset_id)
