"""``catalog``: whether the promises are kept."""

from __future__ import annotations

import sys

import click

from sscd_ops.cli.context import CommandGroup, config_option, format_option, guarded, open_wiring
from sscd_ops.cli.output import print_line, print_rows, say
from sscd_ops.cli.snapshot import dataset_option


@click.group(cls=CommandGroup)
def catalog() -> None:
    """Whether the catalog, and the files that it names, are as promised."""


@catalog.command("verify")
@config_option
@dataset_option
@click.option("--copies", is_flag=True, help="Also compare every kept image with every other.")
@click.option("--rows-only", is_flag=True, help="Leave the files below the root unread.")
@format_option
@guarded
def catalog_verify(
    config: str | None, dataset: str, copies: bool, rows_only: bool, form: str
) -> None:
    """Check every promise that rows and files can show; exit 1 on a finding, with what mends it.

    Of the rows: one verdict a sample, counts, kept witnesses at their thresholds, each kept sample
    in one shard of the newest snapshot. Of the files: all that `snapshot verify` and `index
    verify` check. With --copies that no two kept images are copies, which takes the square of their
    number.

    Example: sscd-ops catalog verify --config curation.toml --dataset web
    """
    from sscd_ops.steps.verify import unpublished, verify_catalog

    with open_wiring(config, progress=True) as parts:
        found = verify_catalog(parts, dataset, copies=copies, only_rows=rows_only)
        waiting = unpublished(parts, dataset)
    if form == "table":
        for finding in found:
            print_line(f"{finding.promise}: {finding.what}")
            print_line(f"    {finding.remedy}")
    else:
        columns = ("promise", "what", "remedy")
        print_rows([vars(finding) for finding in found], form, columns)
    for said in waiting:
        say(said)
    if found:
        sys.exit(1)
    say("rows and files are as promised" if not rows_only else "rows are as promised")
