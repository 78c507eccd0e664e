"""``snapshot``: versions of a published dataset."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from sscd_ops.cli.context import (
    SIZE,
    CommandGroup,
    check_dataset,
    config_option,
    format_option,
    guarded,
    limit_option,
    open_wiring,
    who_options,
)
from sscd_ops.cli.output import plain_row, print_fields, print_line, print_rows, say
from sscd_ops.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from sscd_ops.catalog.snapshot_changes import DecisionName
    from sscd_ops.steps.snapshot_diff import Difference

dataset_option = click.option("--dataset", required=True, help="A dataset.")
snapshot_option = click.option(
    "--snapshot", "number", type=int, help="Number of the snapshot; default: the newest."
)


LISTED = (
    "dataset", "snapshot", "created_at", "samples", "shards", "bytes", "turn", "batch_id",
    "expired_at", "tags",
)  # fmt: skip
"""The columns of a snapshot that a table on a terminal shows."""


@click.group(cls=CommandGroup)
def snapshot() -> None:
    """Versions of a published dataset: immutable, complete lists of shards."""


@snapshot.command("list")
@config_option
@click.option("--dataset", help="Only this dataset.")
@limit_option(30, "the newest")
@format_option
@guarded
def snapshot_list(config: str | None, dataset: str | None, limit: int, form: str) -> None:
    """List snapshots."""
    from sscd_ops.catalog.audit import snapshots

    with open_wiring(config) as parts:
        check_dataset(parts, dataset)
        with parts.catalog.begin() as conn:
            print_rows(snapshots(conn, dataset, limit), form, LISTED)


def _find(
    conn: Connection, dataset: str, number: int | None, *, readable: bool = False
) -> Mapping[str, Any]:
    """What the catalog says of a snapshot; ``readable``: one that was not expired."""
    from sscd_ops.catalog.audit import snapshot as query

    found = query(conn, dataset, number)
    if found is None:
        what = "no snapshot" if number is None else f"no snapshot {number}"
        raise UsageError(f"there is {what} of {dataset!r}: `sscd-ops snapshot list` shows all")
    if readable and found["expired_at"] is not None:
        raise UsageError(
            f"snapshot {found['snapshot']} of {dataset!r} was expired on"
            f" {found['expired_at']:%Y-%m-%d}, its files may be gone: `sscd-ops snapshot reproduce"
            f" {found['snapshot']} --dataset {dataset} --root DIR` writes it again"
        )
    return found


@snapshot.command("show")
@config_option
@dataset_option
@snapshot_option
@format_option
@guarded
def snapshot_show(config: str | None, dataset: str, number: int | None, form: str) -> None:
    """Show a snapshot and its shards."""
    from sscd_ops.catalog.audit import snapshot_shards

    with open_wiring(config) as parts, parts.catalog.begin() as conn:
        found = _find(conn, dataset, number)
        shards = snapshot_shards(conn, dataset, found["snapshot"])
    if form == "json":
        print_rows([{**found, "shardlist": [dict(row) for row in shards]}], form)
        return
    print_fields(found, form)
    if form == "table":
        click.echo()
        print_rows(shards, form)


@snapshot.command("urls")
@config_option
@dataset_option
@snapshot_option
@click.option("--form", "which", default="", help="Only shards of this form, e.g. jpg+txt+json.")
@guarded
def snapshot_urls(config: str | None, dataset: str, number: int | None, which: str) -> None:
    """Print the URLs of a snapshot's tars, one a line: what a training job reads.

    `datasets` wants shards of one form; `snapshot show` lists the forms there are.

    Example: sscd-ops snapshot urls --dataset web --form jpg+txt+json > shards.txt
    """
    from sscd_ops.catalog.audit import snapshot_shards
    from sscd_ops.steps.snapshots import shard_urls

    with open_wiring(config) as parts:
        with parts.catalog.begin() as conn:
            found = _find(conn, dataset, number, readable=True)
            shards = snapshot_shards(conn, dataset, found["snapshot"])
        forms = sorted({row["form"] for row in shards})
        if which and which not in forms:
            raise UsageError(
                f"snapshot {found['snapshot']} of {dataset!r} has no shard of form {which!r};"
                f" it has: {', '.join(forms) or 'none'}"
            )
        for url in shard_urls(parts, dataset, found["snapshot"], which):
            click.echo(url)


# ---------------------------------------------------------------- two snapshots

_DIFFERS = ("change", "turn", "kind", "night", "samples", "why")
"""The columns of a difference that a table on a terminal shows."""


def _decision(decision: DecisionName | None) -> dict[str, Any]:
    """A decision in columns, all of them null where there is none."""
    names = ("turn", "decision_id", "kind", "night", "supplement", "snapshot", "actor", "why")
    return {name: getattr(decision, name, None) for name in names}


def _differences(found: Iterable[Difference]) -> Iterator[dict[str, Any]]:
    for each in found:
        yield {"change": each.change, **_decision(each.decision), "samples": each.samples}


@snapshot.command("diff")
@click.argument("first", type=int)
@click.argument("second", type=int)
@config_option
@dataset_option
@click.option("--samples", is_flag=True, help="List the samples, with the shards that hold them.")
@format_option
@guarded
def snapshot_diff(
    first: int, second: int, config: str | None, dataset: str, samples: bool, form: str
) -> None:
    """Show what was added, removed and moved from one snapshot to another, and by which decision.

    Moved is a sample that another shard holds. Expired snapshots can be compared too. The reason
    of a sample that only the newer one holds is the decision that keeps it, of one that only the
    older one holds the decision that took it away.

    Example: sscd-ops snapshot diff 12 13 --dataset web
    """
    from sscd_ops.steps.snapshot_diff import diff, diff_samples

    with open_wiring(config) as parts:
        if samples:
            rows = [
                {
                    "change": each.change,
                    "sample_id": each.sample_id,
                    **_decision(each.decision),
                    "from_shard": each.from_shard,
                    "to_shard": each.to_shard,
                }
                for each in diff_samples(parts, dataset, first, second)
            ]
            columns: tuple[str, ...] = (
                "change", "sample_id", "turn", "kind", "night", "from_shard", "to_shard",
            )  # fmt: skip
        else:
            rows = list(_differences(diff(parts, dataset, first, second)))
            columns = _DIFFERS
    if form == "table" and not rows:
        say(f"snapshots {first} and {second} of {dataset!r} hold the same samples in equal shards")
        return
    print_rows(rows, form, columns)


@snapshot.command("users")
@click.argument("number", type=int)
@config_option
@dataset_option
@format_option
@guarded
def snapshot_users(number: int, config: str | None, dataset: str, form: str) -> None:
    """Show who trained on a snapshot, whether it can still be read, and what came after it.

    Its tags and runs are those of `snapshot tag`. What came after is what the newest snapshot has
    otherwise; `snapshot diff` and --format json say that by decision.

    Example: sscd-ops snapshot users 12 --dataset web
    """
    from sscd_ops.steps.snapshot_diff import CHANGES
    from sscd_ops.steps.snapshot_users import users

    with open_wiring(config) as parts:
        found = users(parts, dataset, number)
    own = found.snapshot
    fields: dict[str, Any] = {
        "snapshot": own.number,
        "created_at": own.created_at,
        "samples": own.samples,
        "turn": own.turn,
        "readable": own.expired_at is None,
        "expired_at": own.expired_at,
    }
    tags = [asdict(each) for each in found.tags]
    runs = [asdict(each) for each in found.users]
    since = list(_differences(found.since))
    if form == "json":
        later = [
            {"snapshot": each.number, "created_at": each.created_at, "samples": each.samples,
             "turn": each.turn, "expired_at": each.expired_at}
            for each in found.later
        ]  # fmt: skip
        more = {"tags": tags, "users": runs, "later": later, "since": since}
        print_rows(
            [fields | {name: list(map(plain_row, rows)) for name, rows in more.items()}], form
        )
        return
    newest = found.later[-1] if found.later else None
    fields["later"] = "none: it is the newest"
    if newest is not None:
        counts = Counter(dict.fromkeys(CHANGES, 0))
        for each in found.since:
            counts[each.change] += each.samples
        changed = ", ".join(f"{count} {change}" for change, count in counts.items())
        fields["later"] = f"{len(found.later)} snapshots, the newest is {newest.number}: {changed}"
    print_fields(fields, form)
    if form == "table":
        _section("tags", tags, ("name", "keep_until", "keeps", "actor", "why", "at"))
        _section("trained on it", runs, ("run", "actor", "at"))
        if newest is not None:
            gone = [row for row in since if row["change"] == "removed"]
            _section("removed since", gone, _DIFFERS[1:])


def _section(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    click.echo(f"\n{title}:{'' if rows else ' none'}")
    if rows:
        print_rows(rows, "table", columns)


# ---------------------------------------------------------------- kept, given up


@snapshot.command("tag")
@click.argument("number", type=int)
@click.argument("name")
@config_option
@dataset_option
@click.option("--used-by", metavar="RUN", help="A run that was trained on it; may be said again.")
@click.option(
    "--keep-until",
    metavar="DATE",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The last day (UTC) that the tag keeps it; default: for ever, or as it was.",
)
@click.option("--remove", is_flag=True, help="Take the tag away.")
@who_options
@guarded
def snapshot_tag(
    number: int,
    name: str,
    config: str | None,
    dataset: str,
    used_by: str | None,
    keep_until: datetime | None,
    remove: bool,
    who: str,
    why: str,
) -> None:
    """Name a snapshot, which keeps it from being expired; say what was trained on it.

    Example: sscd-ops snapshot tag 12 release-3 --dataset web --used-by clip-large-7 --why "paper"
    """
    from sscd_ops.steps import snapshot_tags

    if remove and (used_by or keep_until):
        raise UsageError("--remove takes the tag away: give neither --used-by nor --keep-until")
    with open_wiring(config) as parts:
        if remove:
            said = snapshot_tags.untag(parts, dataset, number, name, actor=who, why=why)
        else:
            said = snapshot_tags.tag(
                parts,
                dataset,
                number,
                name,
                used_by=used_by,
                keep_until=None if keep_until is None else keep_until.date(),
                actor=who,
                why=why,
            )
    say(said)


@snapshot.command("expire")
@click.argument("numbers", type=int, nargs=-1)
@config_option
@dataset_option
@click.option("--keep-last", type=click.IntRange(1), help="Expire all but so many of the newest.")
@click.option("--dry-run", is_flag=True, help="Only list what would be expired.")
@who_options
@guarded
def snapshot_expire(
    numbers: tuple[int, ...],
    config: str | None,
    dataset: str,
    keep_last: int | None,
    dry_run: bool,
    who: str,
    why: str,
) -> None:
    """Give up snapshots: nobody reads them any more, and `vacuum` may remove what they alone hold.

    Their rows, tags and differences stay. Never expired are the newest one and those with a tag
    that keeps them.

    Example: sscd-ops snapshot expire --keep-last 30 --dataset web --why "a month is enough"
    """
    from sscd_ops.steps.snapshot_tags import expire

    if bool(numbers) == (keep_last is not None):
        raise UsageError("say which: numbers of snapshots, or --keep-last K")
    with open_wiring(config) as parts:
        done = expire(
            parts, dataset, numbers, keep_last=keep_last, actor=who, why=why, dry_run=dry_run
        )
    for each in done.snapshots:
        print_line(
            f"snapshot {each.number}: {'would be expired' if dry_run else 'expired'}"
            f" ({each.created_at:%Y-%m-%d}, {each.samples} samples in {each.shards} shards)"
        )
    for number in done.already:
        print_line(f"snapshot {number}: expired before")
    for tag in done.tagged:
        print_line(f"snapshot {tag.snapshot}: kept by its tag {tag}")
    if not (done.snapshots or done.already):
        say("nothing to expire")


# ---------------------------------------------------------------- its files


@snapshot.command("reproduce")
@click.argument("number", type=int)
@config_option
@dataset_option
@click.option("--root", metavar="DIR", required=True, help="Where to: a folder or fsspec URL.")
@click.option("--less-withdrawn", is_flag=True, help="Leave out what is withdrawn by now.")
@guarded
def snapshot_reproduce(
    number: int, config: str | None, dataset: str, root: str, less_withdrawn: bool
) -> None:
    """Write a snapshot again below another root, from its sources; exit 1 where it differs.

    Every sha256 is compared with the catalog's, and what cannot be had again is named. Expired
    snapshots too. Shards without what is withdrawn have other bytes: they are named.

    Example: sscd-ops snapshot reproduce 12 --dataset web --root /data/again
    """
    from sscd_ops.steps.reproduce import reproduce

    with open_wiring(config, progress=True) as parts:
        done = reproduce(parts, dataset, number, root, less_withdrawn=less_withdrawn)
    for name, count in done.less.items():
        say(f"{name}: without {count} that are withdrawn")
    for line in (*done.differs, *done.left):
        print_line(line)
    if done.url:
        say(f"{done.samples} samples in {done.shards} shards: {done.url}")
    if not done.is_equal:
        sys.exit(1)
    others = "every other file" if done.less else "every file"
    say(f"{others} has the sha256 that it had")


@snapshot.command("verify")
@config_option
@dataset_option
@click.option("--snapshot", "number", type=int, help="Number of the snapshot; default: all.")
@click.option("--repair", is_flag=True, help="First write what is missing or damaged anew.")
@guarded
def snapshot_verify(config: str | None, dataset: str, number: int | None, repair: bool) -> None:
    """Read every published file and compare it with the catalog; exit 1 on a finding.

    What only expired snapshots name is not looked for.

    With --repair files come out with the sha256 they had: a snapshot's file follows from the
    catalog, a shard from decisions and its source shards, which must be there unchanged.

    Example: sscd-ops snapshot verify --config curation.toml --dataset web
    """
    from sscd_ops.steps.rebuilding import rebuild_snapshots
    from sscd_ops.steps.verify import verify_snapshot

    with open_wiring(config, progress=True) as parts:
        if not repair:  # what is to be repaired may be that there is none
            with parts.catalog.begin() as conn:
                _find(conn, dataset, number, readable=True)
        done, left = rebuild_snapshots(parts, dataset) if repair else ([], [])
        problems = verify_snapshot(parts, dataset, number)
    for line in done:
        say(line)
    for problem in [*left, *problems]:
        print_line(str(problem))
    if left or problems:
        sys.exit(1)
    say("every file is there with its sha256, and the counts agree")


@snapshot.command("compact")
@config_option
@dataset_option
@click.option(
    "--below",
    type=SIZE,
    metavar="BYTES",
    help="Merge shards of fewer bytes than this, such as 100MB; default: half of"
    " publish.max_bytes.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be merged.")
@guarded
def snapshot_compact(config: str | None, dataset: str, below: int | None, dry_run: bool) -> None:
    """Merge the small shards of many nights into few, in one new snapshot of the same samples.

    Merged are shards of one form with the same columns, and of fewer samples than half of
    publish.max_samples, up to the limits that [datasets.NAME.publish] has now; where the largest
    would be more than half of what they become, it waits for more. No verdict changes, and older
    snapshots list the shards they listed: the old files stay.

    Example: sscd-ops snapshot compact --config curation.toml --dataset web
    """
    from sscd_ops.steps.compacting_shards import compact, would_merge

    with open_wiring(config, progress=True) as parts:
        done = would_merge(parts, dataset, below) if dry_run else compact(parts, dataset, below)
    for merge in done.merges:
        print_line(
            f"{merge.into}: {len(merge.shards)} shards of {merge.form}, {merge.samples} samples,"
            f" {merge.bytes} bytes ({merge.shards[0]} ... {merge.shards[-1]})"
        )
    if dry_run:
        say(f"{len(done.merges)} to write; nothing was done")
    elif done.snapshot is None:
        say("nothing to merge")
    else:
        say(f"snapshot {done.snapshot}: {done.shards} shard(s), {done.samples} samples")
