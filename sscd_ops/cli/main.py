"""The ``sscd-ops`` command. Heavy imports happen inside commands, so ``--help`` answers at once."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click

from sscd_ops import __version__
from sscd_ops.cli.context import CommandGroup, config_option, guarded, open_wiring
from sscd_ops.cli.output import say
from sscd_ops.cli.run import run

if TYPE_CHECKING:
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


main.add_command(run)


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
    from sscd_ops.cli import (
        audit,
        batch,
        doctor,
        evaluate,
        index,
        maintain,
        snapshot,
        train,
        try_,
    )

    main.add_command(audit.audit)
    main.add_command(audit.explain)
    main.add_command(batch.batch)
    main.add_command(snapshot.snapshot)
    main.add_command(index.index)
    main.add_command(maintain.maintain)
    main.add_command(evaluate.evaluate)
    main.add_command(try_.try_)
    main.add_command(train.train)
    main.add_command(doctor.doctor)


_add_commands()
