"""``index``: the files that remember every picture."""

from __future__ import annotations

import sys

import click

from sscd_ops.cli.context import (
    CommandGroup,
    config_option,
    format_option,
    guarded,
    open_wiring,
)
from sscd_ops.cli.output import print_line, print_rows, say
from sscd_ops.cli.snapshot import dataset_option
from sscd_ops.options import SMALL_SEGMENT


@click.group(cls=CommandGroup)
def index() -> None:
    """The index: segments of descriptors, one a night or several. A cache that can be rebuilt."""


@index.command("info")
@config_option
@dataset_option
@format_option
@guarded
def index_info(config: str | None, dataset: str, form: str) -> None:
    """List the live segments: role, nights, the first one, its turn, rows, kept rows, files, bytes.

    Role ``images``: of nights; ``withdrawn``: pictures that an order withdrew with their copies.
    """
    from sscd_ops.catalog import datasets, segments

    with open_wiring(config) as parts, parts.catalog.begin() as conn:
        found = segments.all_segments(conn, datasets.need(conn, dataset).dataset_id)
    print_rows(found, form)


@index.command("verify")
@config_option
@dataset_option
@guarded
def index_verify(config: str | None, dataset: str) -> None:
    """Read every file of the index and compare it with the catalog; exit 1 on a finding.

    Segments and masks, and the manifests, descriptor and candidate files that steps write for each
    other; of a remote root also the copies in storage.cache. Each finding says what mends it.
    """
    from sscd_ops.steps.verify import verify_index

    with open_wiring(config, progress=True) as parts:
        problems = verify_index(parts, dataset)
    for problem in problems:
        print_line(str(problem))
    if problems:
        sys.exit(1)
    say("every segment and mask is there with its sha256, and so is what they follow from")


@index.command("rebuild")
@config_option
@dataset_option
@guarded
def index_rebuild(config: str | None, dataset: str) -> None:
    """Write missing or damaged files of the index anew; what cannot be is named (exit 1).

    Segments and descriptor files follow from each other, masks from the catalog, manifests from the
    source shards; lost candidate files are forgotten. Segments written under another search backend
    get the codes of the one in use.

    Example: sscd-ops index rebuild --config curation.toml --dataset web
    """
    from sscd_ops.steps.rebuilding import rebuild_index

    with open_wiring(config, progress=True) as parts:
        done = rebuild_index(parts, dataset)
    for line in done:
        print_line(line)
    say("nothing was missing" if not done else f"{len(done)} done")


@index.command("compact")
@config_option
@dataset_option
@click.option(
    "--below",
    type=click.IntRange(min=2),
    default=SMALL_SEGMENT,
    show_default=True,
    metavar="ROWS",
    help="Merge segments of fewer rows than this, to about so many.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be merged.")
@guarded
def index_compact(config: str | None, dataset: str, below: int, dry_run: bool) -> None:
    """Merge the segments of small nights: later ones open fewer files, with equal answers.

    Those that follow each other in turn order are merged; no verdict changes. Run it between
    nights: one that has searched and is not decided searches again. The old files stay until
    `vacuum`.

    Example: sscd-ops index compact --config curation.toml --dataset web
    """
    from sscd_ops.steps.compacting import compact, would_merge

    with open_wiring(config, progress=True) as parts:
        if dry_run:
            runs = would_merge(parts, dataset, below)
            for run in runs:
                print_line(f"{len(run)} segments ({run[0]} ... {run[-1]}) into one")
            say(f"{len(runs)} to write; nothing was done" if runs else "nothing to merge")
            return
        done = compact(parts, dataset, below)
    for merged in done:
        print_line(
            f"segment {merged.into}: {len(merged.segments)} segments merged"
            f" ({merged.segments[0]} ... {merged.segments[-1]}), {merged.rows} rows"
        )
    say("nothing to merge" if not done else f"{len(done)} done")
