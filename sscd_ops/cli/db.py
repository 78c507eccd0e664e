"""``db``: the catalog's schema, its dump, and the embedded server."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sscd_ops.cli.context import CommandGroup, config_option, guarded, open_wiring
from sscd_ops.cli.output import say

if TYPE_CHECKING:
    from sscd_ops.wiring import Wiring

_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")


@click.group(cls=CommandGroup)
def db() -> None:
    """The catalog's schema, its dump, and the embedded server."""


@db.command("upgrade")
@config_option
@guarded
def db_upgrade(config: str | None) -> None:
    """Bring the catalog to this release's schema; nothing happens where it is there."""
    with open_wiring(config) as parts:
        _upgrade(parts)


def _upgrade(parts: Wiring) -> None:
    from sscd_ops.catalog.migrate import status, upgrade

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


@db.command("dump")
@_file
@config_option
@guarded
def db_dump(file: Path, config: str | None) -> None:
    """Write the catalog to FILE as it is at this moment; nights may go on meanwhile.

    It is `pg_dump`'s custom form. Copy the storage root after the dump, not before it: files are
    written before the rows that name them.

    Example: sscd-ops db dump catalog.dump --config curation.toml
    """
    from sscd_ops.catalog.dumps import dump

    with open_wiring(config) as parts:
        _ = parts.catalog  # there is one, of this release
        dump(parts.database_url, file)
    say(f"{file}: {file.stat().st_size} bytes")


@db.command("restore")
@_file
@config_option
@click.option("--replace", is_flag=True, help="Also where the catalog that is there has rows.")
@guarded
def db_restore(file: Path, config: str | None, replace: bool) -> None:
    """Put the catalog of a dump in the place of this one, and bring it to this release's schema.

    Wholly or, where it fails, not at all. Stop nights and commands first. Numbers of batches and of
    other rows go on a million higher: none is given again that a row after the dump had.

    Example: sscd-ops db restore catalog.dump --replace --config curation.toml
    """
    from sscd_ops.catalog.dumps import restore

    with open_wiring(config) as parts:
        restore(parts.database_url, file, replace=replace)
        _upgrade(parts)
    say("restored. Now, of each dataset: `sscd-ops catalog verify --dataset NAME`")


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
