"""The ``sscd-ops`` command. Heavy imports happen inside commands, so ``--help`` answers at once."""

from __future__ import annotations

import click

from sscd_ops import __version__
from sscd_ops.cli.context import CommandGroup
from sscd_ops.cli.run import run


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


def _add_commands() -> None:
    from sscd_ops.cli import (
        audit,
        batch,
        catalog,
        db,
        doctor,
        evaluate,
        index,
        maintain,
        order,
        receipt,
        snapshot,
        train,
        try_,
        vacuum,
        withdraw,
    )

    main.add_command(run)
    main.add_command(db.db)
    main.add_command(audit.audit)
    main.add_command(audit.explain)
    main.add_command(batch.batch)
    main.add_command(snapshot.snapshot)
    main.add_command(withdraw.withdraw)
    main.add_command(order.order)
    main.add_command(receipt.receipt)
    main.add_command(index.index)
    main.add_command(vacuum.vacuum)
    main.add_command(maintain.maintain)
    main.add_command(catalog.catalog)
    main.add_command(evaluate.evaluate)
    main.add_command(try_.try_)
    main.add_command(train.train)
    main.add_command(doctor.doctor)


_add_commands()
