"""``vacuum``: files that no row names any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sscd_ops.cli.context import DURATION, config_option, format_option, guarded, open_wiring
from sscd_ops.cli.output import print_rows, say

if TYPE_CHECKING:
    from sscd_ops.steps.vacuum import Vacuumed

_SHOWN = 5
"""Names of others' files that are told."""


@click.command()
@config_option
@click.option("--dataset", help="Only this dataset; default: all.")
@click.option(
    "--grace",
    type=DURATION,
    metavar="TIME",
    help="So old a file must be to be condemned, and so long condemned to be removed; default:"
    " the dataset's retention.grace, which is 72h unless set.",
)
@click.option("--dry-run", is_flag=True, help="List what would go, change nothing.")
@format_option
@guarded
def vacuum(
    config: str | None, dataset: str | None, grace: float | None, dry_run: bool, form: str
) -> None:
    """Remove files below the storage root that no row names any more.

    Those of killed tries, abandoned attempts and dry runs, of segments that were merged and masks
    that were followed, of searches and work lists of decided nights, of expired snapshots and the
    shards that only these hold. A file is condemned first, and removed by a run that comes a grace
    later, if no row names it by then: run it weekly, and give it a grace longer than any night.
    Other files, links and folders are left alone and told.

    Example: sscd-ops vacuum --config curation.toml --dry-run
    """
    from sscd_ops.steps import vacuum as steps

    with open_wiring(config, progress=True) as parts:
        done = steps.vacuum(parts, dataset, grace=grace, dry_run=dry_run)
    rows = [row for each in done for row in (_files if dry_run else _folders)(each)]
    if rows or form != "table":
        print_rows(rows, form)
    for each in done:
        _tell(each, dry_run=dry_run)


def _files(done: Vacuumed) -> list[dict[str, Any]]:
    """What would be done to which file."""
    return [
        {
            "dataset": done.dataset,
            "would": "remove" if name in done.removed else "condemn",
            "bytes": size,
            "file": name,
        }
        for name, size in sorted({**done.condemned, **done.removed}.items())
    ]


def _folders(done: Vacuumed) -> list[dict[str, Any]]:
    """How many files of which folder were condemned and removed, and their bytes."""
    from sscd_ops.steps.vacuum import by_folder

    condemned, removed = by_folder(done.condemned), by_folder(done.removed)
    return [
        {
            "dataset": done.dataset,
            "folder": folder,
            "condemned": condemned.get(folder, (0, 0))[0],
            "condemned_bytes": condemned.get(folder, (0, 0))[1],
            "removed": removed.get(folder, (0, 0))[0],
            "removed_bytes": removed.get(folder, (0, 0))[1],
        }
        for folder in sorted(condemned.keys() | removed.keys())
    ]


def _tell(done: Vacuumed, *, dry_run: bool) -> None:
    """The sums, and what was left alone."""

    def sum_of(files: dict[str, int]) -> str:
        return f"{len(files)} files ({sum(files.values()):,} bytes)"

    would = "would be " if dry_run else ""
    waiting = f"; {sum_of(done.waiting)} wait for the end of their grace" if done.waiting else ""
    say(
        f"{done.dataset}: {sum_of(done.condemned)} {would}condemned,"
        f" {sum_of(done.removed)} {would}removed{waiting}"
    )
    if done.acquitted:
        say(f"{done.dataset}: {done.acquitted} files are condemned no longer")
    if done.others:
        more = f" and {len(done.others) - _SHOWN} more" if len(done.others) > _SHOWN else ""
        say(
            f"{done.dataset}: left alone, not written by sscd-ops:"
            f" {', '.join(sorted(done.others)[:_SHOWN])}{more}"
        )
