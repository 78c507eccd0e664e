"""``maintain``: what a dataset needs now and then."""

from __future__ import annotations

import sys

import click

from sscd_ops.cli.context import config_option, guarded, open_wiring, user
from sscd_ops.cli.output import print_line, say


@click.command()
@config_option
@click.option("--dataset", required=True, help="A dataset.")
@click.option("--dry-run", is_flag=True, help="Only list what would be done.")
@guarded
def maintain(config: str | None, dataset: str, dry_run: bool) -> None:
    """Look after a dataset: compact, expire, vacuum, verify; exit 1 where one fails or finds.

    Says what it would do, then does it: merges the index's small segments and small shards
    (`index compact`, `snapshot compact`), expires snapshots by `retention.snapshots`, removes
    files that no row names (`vacuum`, with `retention.grace`), and checks all rows and files
    (`catalog verify`). Where one fails nothing is expired or removed behind it. Weekly is a good
    rhythm; in Airflow that is the DAG maintain_DATASET.

    Example: sscd-ops maintain --config curation.toml --dataset web --dry-run
    """
    from sscd_ops.steps import maintaining
    from sscd_ops.steps.parts import configured

    with open_wiring(config, progress=True) as parts:
        configured(parts, dataset)  # a mistyped one is told before anything else
        say("would be done now:")
        for task in maintaining.TASKS:
            for line in maintaining.run(parts, dataset, task, dry_run=True).lines:
                say(f"  {task}: {line}")
        if dry_run:
            return
        bad = False
        for done in maintaining.maintain(parts, dataset, actor=user()):
            if isinstance(done, maintaining.NotDone):
                lines, failed = [*done.lines, f"FAILED: {done.why}"], True
            else:
                lines, failed = [*done.lines, *done.found], bool(done.found)
            for line in lines:
                print_line(f"{done.task}: {line}")
            bad |= failed
    if bad:
        sys.exit(1)
