"""The ``sscd-ops`` command. Heavy imports happen inside commands, so ``--help`` answers at once."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from sscd_ops import __version__
from sscd_ops.cli.context import (
    CommandGroup,
    config_option,
    format_option,
    guarded,
    open_wiring,
    unknown_dataset,
)
from sscd_ops.cli.output import print_fields, print_rows, say

if TYPE_CHECKING:
    from sscd_ops.steps.night import NightReport
    from sscd_ops.wiring import Wiring


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sscd-ops")
@click.option("--verbose", "-v", is_flag=True, help="Say what is being done.")
@click.option("--debug", is_flag=True, help="Show tracebacks and everything that is logged.")
def main(verbose: bool, debug: bool) -> None:
    """Find copies among image-text pairs, keep one of each, and say why the others went.

    A config file says which datasets there are (examples/curation.toml). `run` does one night;
    `audit` and `explain` say what became of it; `snapshot` leads to the published shards.

    Exit codes: 0 done, 1 a finding or a failed run, 2 wrong use or bad configuration.
    """
    del verbose, debug  # each command reads them, where an error is told


@main.command()
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
    "--dry-run",
    is_flag=True,
    help="Work everything out, decide and publish nothing; ends with 1 where the night would be"
    " held, or a URL names nothing.",
)
@format_option
@guarded
def run(
    config: str | None, dataset: str, day: str, supplement: bool, dry_run: bool, form: str
) -> None:
    """Run one night without Airflow: the same steps, one after another.

    A night that was published answers with its summary. A killed one goes on where it was. One that
    looks unlike the nights before is held, and the command says how to go on.

    Example: sscd-ops run --config curation.toml --dataset web --date 2026-11-01
    """
    from sscd_ops.core.schedule import interval_of
    from sscd_ops.steps import night

    with open_wiring(config, progress=True) as parts:
        if dataset not in parts.settings.datasets:
            raise unknown_dataset(parts, dataset)
        options = parts.settings.datasets[dataset]
        interval = interval_of(options.schedule, options.timezone, day)
        report = night.run(parts, dataset, interval, supplement=supplement, dry_run=dry_run)
    fields: dict[str, Any] = {
        "batch_id": report.batch_id,
        "night": report.night,
        "state": str(report.state),
        "read": report.counts.read,
        "quarantined": report.counts.quarantined,
        "removed_exact": report.counts.removed_exact,
        "removed_near": report.counts.removed_near,
        "removed_perceptual": report.counts.removed_perceptual,
        "kept": report.counts.kept,
        "kept_plain": report.counts.kept_plain,
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
    if report.answered:
        say("nothing to do: the night was published before")
    for shard in report.late:
        how = f"--dataset {dataset} --date {shard.date}" + " --supplement" * shard.supplement
        say(f"late: {shard.uri} was never read: sscd-ops run {how}")
    for batch_id in report.unpublishable:
        say(f"batch {batch_id} is unpublishable: sscd-ops batch show {batch_id}")


def _by_source(report: NightReport) -> list[dict[str, Any]]:
    return [
        {
            "source": name,
            "read": counts.read,
            "quarantined": counts.quarantined,
            "removed_exact": counts.removed_exact,
            "removed_near": counts.removed_near,
            "removed_perceptual": counts.removed_perceptual,
            "kept": counts.kept,
            "kept_plain": counts.kept_plain,
        }
        for name, counts in sorted(report.by_source.items())
    ]


@main.group(cls=CommandGroup)
def db() -> None:
    """The catalog's schema, and the embedded server."""


@db.command("upgrade")
@config_option
@guarded
def db_upgrade(config: str | None) -> None:
    """Bring the catalog to this release's schema; nothing happens where it is there."""
    from sscd_ops.catalog.migrate import status, upgrade

    with open_wiring(config) as parts:
        before, head = status(parts.database_url)
        upgrade(parts.database_url)
        problems = _problems(parts)
    click.echo(f"schema {head}" + ("" if before == head else f" (was {before or 'empty'})"))
    for problem in problems:
        say(problem)


@db.command("status")
@config_option
@guarded
def db_status(config: str | None) -> None:
    """Say which schema version the catalog has and which one this release needs."""
    from sscd_ops.catalog.migrate import status

    with open_wiring(config) as parts:
        current, head = status(parts.database_url)
        problems = _problems(parts) if current == head else []
    click.echo(f"catalog {current or 'empty'}, this release {head}")
    for problem in problems:
        say(problem)
    if current != head:
        say("run `sscd-ops db upgrade`")
        sys.exit(1)


def _problems(parts: Wiring) -> list[str]:
    """What the catalog lacks beside its schema; nights go on without it, or say so themselves."""
    from sscd_ops.catalog.health import findings

    with parts.catalog.read() as conn:
        return [said for _, said, good in findings(conn) if not good]


@db.command("detach-month")
@click.argument("month", type=click.DateTime(["%Y-%m"]), metavar="MONTH")
@config_option
@guarded
def db_detach_month(month: datetime, config: str | None) -> None:
    """Take a MONTH's samples and matches out of the catalog; print the tables they are in now.

    Audit detail goes, decisions stay. The tables stay in the schema: dump them, then drop them.

    Example: sscd-ops db detach-month 2026-01 --config curation.toml
    """
    from sscd_ops.catalog.partitions import detach_month

    with open_wiring(config) as parts:
        tables = detach_month(parts.catalog, month.date())
    for table in tables:
        click.echo(table)
    if not tables:
        say(f"{month:%Y-%m} has no partition attached")


@db.command("stop")
@config_option
@guarded
def db_stop(config: str | None) -> None:
    """Stop the embedded Postgres, if it runs; the next command starts it again."""
    from sscd_ops.catalog import embedded

    with open_wiring(config) as parts:
        home = parts.home / "postgres"
        running = embedded.is_running(home)
        embedded.stop(home)
    say(f"stopped the Postgres in {home}" if running else f"none was running in {home}")


def _add_commands() -> None:
    from sscd_ops.cli import audit, batch, doctor, evaluate, index, snapshot, train, try_

    main.add_command(audit.audit)
    main.add_command(audit.explain)
    main.add_command(batch.batch)
    main.add_command(snapshot.snapshot)
    main.add_command(index.index)
    main.add_command(evaluate.evaluate)
    main.add_command(try_.try_)
    main.add_command(train.train)
    main.add_command(doctor.doctor)


_add_commands()
