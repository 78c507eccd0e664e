"""``snapshot users``: who trained on a snapshot, and what came after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sscd_ops.catalog import datasets, snapshot_tags, snapshots
from sscd_ops.catalog.snapshot_tags import Tag, User
from sscd_ops.catalog.snapshots import Snapshot
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.snapshot_diff import Difference, diff


@dataclass(frozen=True)
class Users:
    """Who has to do with a snapshot.

    ``tags``: also those that keep it no longer. ``later``: the snapshots after it, expired ones
    too. ``since``: what the newest one holds that it does not, and the other way round.
    """

    snapshot: Snapshot
    tags: Sequence[Tag]
    users: Sequence[User]
    later: Sequence[Snapshot]
    since: Sequence[Difference]


def users(parts: Parts, dataset: str, number: int) -> Users:
    """Tags and runs of a snapshot, the snapshots after it, and what they do otherwise.

    Raises:
        UsageError: the dataset has no such snapshot.
    """
    with parts.catalog.begin() as conn:
        row = datasets.need(conn, dataset)
        snapshot = snapshots.need_snapshot(conn, row, number)
        tags = snapshot_tags.tags_of(conn, row.dataset_id)
        used = snapshot_tags.users_of(conn, row.dataset_id, number)
        every = snapshots.all_snapshots(conn, row.dataset_id)
    later = [each for each in every if each.number > number]
    since = diff(parts, dataset, number, later[-1].number) if later else []
    return Users(snapshot, [tag for tag in tags if tag.snapshot == number], used, later, since)
