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


@click.group(cls=CommandGroup)
def index() -> None:
    """The index: segments of descriptors, one a batch. A cache that can be rebuilt."""


@index.command("info")
@config_option
@dataset_option
@format_option
@guarded
def index_info(config: str | None, dataset: str, form: str) -> None:
    """List the segments: rows, kept rows, files, bytes."""
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
        print_line(problem)
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
