"""``batch``: nights as the catalog holds them, and what a person decides about one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sscd_ops.cli.context import (
    CommandGroup,
    check_dataset,
    config_option,
    format_option,
    guarded,
    limit_option,
    open_wiring,
    who_options,
)
from sscd_ops.cli.output import print_fields, print_rows, say
from sscd_ops.errors import UsageError

if TYPE_CHECKING:
    from sscd_ops.wiring import Wiring


@click.group(cls=CommandGroup)
def batch() -> None:
    """Nights: list, show, release one the guard holds, abandon an undecided one, repair one."""


@batch.command("list")
@config_option
@click.option("--dataset", help="Only this dataset.")
@limit_option(30, "the newest")
@format_option
@guarded
def batch_list(config: str | None, dataset: str | None, limit: int, form: str) -> None:
    """List the newest batches."""
    from sscd_ops.catalog.audit import batch_list as query

    with open_wiring(config) as parts:
        check_dataset(parts, dataset)
        with parts.catalog.begin() as conn:
            found = [dict(row) for row in query(conn, dataset, limit)]
        for row in found:
            row["state"] = _state(parts, row["batch_id"], row["state"])
        print_rows(found, form)


def _state(parts: Wiring, batch_id: int, state: str) -> str:
    """The stored state, or ``failed``: under way, and whoever ran it is known to be dead.

    One that waits for its data, or was released and is to be run again, has not failed.
    """
    from sscd_ops.catalog.attempts import read_attempt
    from sscd_ops.catalog.batches import read_batch
    from sscd_ops.model import UNDER_WAY, BatchState

    if state not in UNDER_WAY:
        return state
    with parts.catalog.begin() as conn:
        batch = read_batch(conn, batch_id)
        if not batch.attempt_id or read_attempt(conn, batch).released:
            return state
    return str(BatchState.FAILED) if parts.is_alive(batch) is False else state


@batch.command("show")
@click.argument("batch_id", type=int)
@config_option
@format_option
@guarded
def batch_show(batch_id: int, config: str | None, form: str) -> None:
    """Show one batch, what its source shards held beside samples, and its counts by source."""
    from sscd_ops.catalog.audit import batch_ignored, batch_sources
    from sscd_ops.catalog.audit import batch_show as query

    with open_wiring(config) as parts:
        with parts.catalog.begin() as conn:
            found = query(conn, batch_id)
            sources = batch_sources(conn, batch_id)
            ignored = batch_ignored(conn, batch_id)
        if found is None:
            raise UsageError(f"there is no batch {batch_id}: `sscd-ops batch list` shows all")
        state = _state(parts, batch_id, found["state"])
    left_out = ", ".join(f"{count} {kind}" for kind, count in ignored.items())
    found = {**found, "state": state, "ignored": left_out or None}
    if form == "json":
        print_rows([{**found, "sources": [dict(row) for row in sources]}], form)
        return
    print_fields(found, form)
    if form == "table" and sources:
        click.echo()
        print_rows(sources, form)


@batch.command("release")
@click.argument("batch_id", type=int)
@config_option
@who_options
@guarded
def batch_release(batch_id: int, config: str | None, who: str, why: str) -> None:
    """Let a batch that the guard holds pass, whatever its figures are then.

    Afterwards run its night again (in Airflow: clear resolve).

    Example: sscd-ops batch release 12 --why "the partner really sent copies"
    """
    from sscd_ops.steps import manage

    with open_wiring(config) as parts:
        say(manage.release(parts, batch_id, actor=who, why=why))


@batch.command("abandon")
@click.argument("batch_id", type=int)
@config_option
@who_options
@guarded
def batch_abandon(batch_id: int, config: str | None, who: str, why: str) -> None:
    """End an undecided batch's attempt; its source shards may be read again.

    Example: sscd-ops batch abandon 12 --why "the crawl was cut short; it is sent again"
    """
    from sscd_ops.steps import manage

    with open_wiring(config) as parts:
        say(manage.abandon(parts, batch_id, actor=who, why=why))


@batch.command("repair")
@click.argument("batch_id", type=int)
@config_option
@who_options
@click.option("--dry-run", is_flag=True, help="Only say what would become of what.")
@click.option("--empty-root", is_flag=True, help="Also where nothing is left at a source's root.")
@format_option
@guarded
def batch_repair(
    batch_id: int,
    config: str | None,
    who: str,
    why: str,
    dry_run: bool,
    empty_root: bool,
    form: str,
) -> None:
    """Publish an unpublishable batch without what its source lost.

    A sample whose bytes are gone for good is quarantined as source_gone; another one with equal
    bytes takes its place, or what was removed because of it is decided anew. Where the original can
    be put back, do that and run the night again instead. A source of which nothing at all is there
    is refused, since its disk may not be mounted.

    Example: sscd-ops batch repair 12 --why "the partner deleted the file"
    """
    import dataclasses

    from sscd_ops.steps import repair

    with open_wiring(config, progress=True) as parts:
        report = repair.run(
            parts, batch_id, actor=who, why=why, dry_run=dry_run, empty_root=empty_root
        )
    if report.outcomes:
        print_rows([dataclasses.asdict(each) for each in report.outcomes], form)
    say(report.said)
