"""``snapshot``: versions of a published dataset."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from sscd_ops.cli.context import (
    CommandGroup,
    check_dataset,
    config_option,
    format_option,
    guarded,
    limit_option,
    open_wiring,
)
from sscd_ops.cli.output import print_fields, print_line, print_rows, say
from sscd_ops.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

dataset_option = click.option("--dataset", required=True, help="A dataset.")
snapshot_option = click.option(
    "--snapshot", "number", type=int, help="Number of the snapshot; default: the newest."
)


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
            print_rows(snapshots(conn, dataset, limit), form)


def _find(conn: Connection, dataset: str, number: int | None) -> Mapping[str, Any]:
    from sscd_ops.catalog.audit import snapshot as query

    found = query(conn, dataset, number)
    if found is None:
        what = "no snapshot" if number is None else f"no snapshot {number}"
        raise UsageError(f"there is {what} of {dataset!r}: `sscd-ops snapshot list` shows all")
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
    from sscd_ops.steps.snapshots import shard_names

    with open_wiring(config) as parts:
        with parts.catalog.begin() as conn:
            found = _find(conn, dataset, number)
            shards = snapshot_shards(conn, dataset, found["snapshot"])
        forms = sorted({row["form"] for row in shards})
        if which and which not in forms:
            raise UsageError(
                f"snapshot {found['snapshot']} of {dataset!r} has no shard of form {which!r};"
                f" it has: {', '.join(forms) or 'none'}"
            )
        for url in shard_names(parts, dataset, found["snapshot"], which):
            click.echo(url)


@snapshot.command("verify")
@config_option
@dataset_option
@click.option("--snapshot", "number", type=int, help="Number of the snapshot; default: all.")
@click.option("--repair", is_flag=True, help="First write what is missing or damaged anew.")
@guarded
def snapshot_verify(config: str | None, dataset: str, number: int | None, repair: bool) -> None:
    """Read every published file and compare it with the catalog; exit 1 on a finding.

    With --repair files come out with the sha256 they had: a snapshot's file follows from the
    catalog, a shard from decisions and its source shards, which must be there unchanged.

    Example: sscd-ops snapshot verify --config curation.toml --dataset web
    """
    from sscd_ops.steps.rebuilding import rebuild_snapshots
    from sscd_ops.steps.verify import verify_snapshot

    with open_wiring(config, progress=True) as parts:
        with parts.catalog.begin() as conn:
            _find(conn, dataset, number)
        done, left = rebuild_snapshots(parts, dataset) if repair else ([], [])
        problems = verify_snapshot(parts, dataset, number)
    for line in done:
        say(line)
    for problem in [*left, *problems]:
        print_line(problem)
    if left or problems:
        sys.exit(1)
    say("every file is there with its sha256, and the counts agree")


def _bytes(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Bytes, as the config file takes them: ``500000``, ``100MB``."""
    from sscd_ops.toml_tables import Wrong, read_size

    try:
        return None if value is None else read_size(int(value) if value.isdigit() else value, "")
    except Wrong as error:
        raise click.BadParameter(error.message) from error


@snapshot.command("compact")
@config_option
@dataset_option
@click.option(
    "--below",
    callback=_bytes,
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
