"""``run``: one night from its files to its snapshot, without Airflow."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from sscd_ops.cli.context import (
    config_option,
    format_option,
    guarded,
    open_wiring,
    unknown_dataset,
)
from sscd_ops.cli.output import print_fields, print_rows, say

if TYPE_CHECKING:
    from sscd_ops.model import Counts
    from sscd_ops.steps.night import NightReport
    from sscd_ops.steps.reading_again import Wanted


@click.command()
@config_option
@click.option("--dataset", required=True, help="A dataset of the config file.")
@click.option(
    "--date",
    "day",
    required=True,
    metavar="DAY",
    help="The local day the night's interval starts, e.g. 2026-11-01; or an instant inside it.",
)
@click.option(
    "--supplement",
    is_flag=True,
    help="Read source shards that came after the night was decided, as a supplement to it.",
)
@click.option(
    "--quarantined",
    is_flag=True,
    help="With --supplement: read again, by the settings of now, what the night quarantined, though"
    " other batches own its source shards.",
)
@click.option(
    "--codes",
    metavar="CODE,CODE",
    default="",
    help="With --quarantined: only what has one of these codes, e.g. too_small,missing_caption.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Work everything out, decide and publish nothing; ends with 1 where the night would be"
    " held, or a URL names nothing.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Processes that do ingest, embed, match and publish side by side, with the same result;"
    " they share the cores. 1: all in this process.",
)
@format_option
@guarded
def run(
    config: str | None,
    dataset: str,
    day: str,
    supplement: bool,
    quarantined: bool,
    codes: str,
    dry_run: bool,
    workers: int,
    form: str,
) -> None:
    """Run one night without Airflow: the same steps, one after another.

    A night that was published answers with its summary. A killed one goes on where it was. One that
    looks unlike the nights before is held, and the command says how to go on.

    Example: sscd-ops run --config curation.toml --dataset web --date 2026-11-01
    """
    from sscd_ops.cli.workers import Workers
    from sscd_ops.core.schedule import interval_of
    from sscd_ops.steps import night

    try:
        with open_wiring(config, progress=True) as parts:
            if dataset not in parts.settings.datasets:
                raise unknown_dataset(parts, dataset)
            options = parts.settings.datasets[dataset]
            interval = interval_of(options.schedule, options.timezone, day)
            with Workers(parts.settings, parts.database_url, workers, parts.progress) as beside:
                report = night.run(
                    parts,
                    dataset,
                    interval,
                    supplement=supplement,
                    quarantined=quarantined,
                    codes=[code.strip() for code in codes.split(",") if code.strip()],
                    dry_run=dry_run,
                    workers=beside if workers > 1 else None,
                )
    except KeyboardInterrupt:
        left = (
            "the dry run left nothing"
            if dry_run
            else "run the night again, it goes on where it was"
        )
        say(f"interrupted: {left}")
        raise
    fields: dict[str, Any] = {
        "batch_id": report.batch_id,
        "night": report.night,
        "state": str(report.state),
        **_counted(report.counts),
        "known": report.counts.known,
        "not_delivered": report.counts.not_delivered,
        "source_shards": report.source_shards,
        "faulty_shards": report.faulty_shards,
        "skipped_shards": report.skipped_shards,
        "shards": report.shards,
        "snapshot": report.snapshot,
        "seconds": round(sum(report.seconds.values()), 2),
    }
    if form == "json":
        print_rows([{**fields, "by_source": _by_source(report), "steps": report.seconds}], form)
    else:
        print_fields(fields, form)
    if form == "table" and len(report.by_source) > 1:
        click.echo()
        print_rows(_by_source(report), form)
    _say_what_to_know(report, dataset)
    if report.again is not None:
        _say_what_is_read_again(report.again)
    if dry_run:
        if not report.source_shards and report.skipped_shards:
            say("nothing to read: other batches have read all that is there")
        say("dry run: nothing was decided or published")
        if report.message or report.absent:
            sys.exit(1)


def _say_what_to_know(report: NightReport, dataset: str) -> None:
    """What a person should know beside the counts."""
    if report.message:
        say(report.message)
    for absent in report.absent:
        say(f"source {absent.source}: nothing is at {', '.join(absent.urls)}")
    if report.faulty_shards:
        say(
            f"{report.faulty_shards} source shards are faulty (truncated, empty ...): `sscd-ops"
            " audit quarantined` names them and says why"
        )
    if report.answered and report.again is None:
        say("nothing to do: the night was published before")
    for shard in report.late:
        how = f"--dataset {dataset} --date {shard.date}" + " --supplement" * shard.supplement
        say(f"late: {shard.uri} was never read: sscd-ops run {how}")
    for batch_id in report.unpublishable:
        say(f"batch {batch_id} is unpublishable: sscd-ops batch show {batch_id}")


def _say_what_is_read_again(again: Wanted) -> None:
    if again.samples:
        say(
            f"read again: {again.samples} that were quarantined; the others in their source"
            " shards keep their verdicts"
        )
    elif not again.gone:
        say("nothing to read again: the night has nothing in quarantine that was asked for")
    if again.gone:
        say(
            f"{again.gone} that were quarantined stay so: their source shards are not under the"
            " urls of their sources any more"
        )
    if again.detached:
        say(
            "what the night quarantined in months that were detached is not known here: attach"
            " those months again to read it again"
        )


_COUNTS = (
    "read", "quarantined", "withdrawn", "removed_exact", "removed_near", "removed_perceptual",
    "kept", "kept_plain",
)  # fmt: skip


def _counted(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _COUNTS}


def _by_source(report: NightReport) -> list[dict[str, Any]]:
    return [
        {"source": name, **_counted(counts)} for name, counts in sorted(report.by_source.items())
    ]
