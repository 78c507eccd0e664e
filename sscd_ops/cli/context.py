"""What commands share: the config option, parts, errors as sentences and exit codes."""

from __future__ import annotations

import functools
import getpass
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sscd_ops.errors import ConfigError, SscdOpsError, UsageError

if TYPE_CHECKING:
    from sscd_ops.wiring import Wiring

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """``--config FILE``, else SSCD_OPS_CONFIG."""
    return click.option(
        "--config",
        metavar="FILE",
        envvar="SSCD_OPS_CONFIG",
        help="The config file; default: $SSCD_OPS_CONFIG.",
    )(command)


def format_option(command: F) -> F:
    """``--format table|csv|json``."""
    from sscd_ops.cli.output import FORMATS

    return click.option(
        "--format", "form", type=FORMATS, default="table", show_default=True, help="How to print."
    )(command)


def who_options(command: F) -> F:
    """``--who`` and ``--why``, kept in curation.events."""
    command = click.option("--why", required=True, help="The reason; kept in curation.events.")(
        command
    )
    return click.option("--who", default=_user, help="Who decides this; default: you.")(command)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user without a name
        raise click.UsageError("say who decides this: --who NAME") from error


def open_wiring(config: str | None, *, progress: bool = False) -> Wiring:
    """The parts of a command. It may start the embedded Postgres, and says so."""
    from sscd_ops.cli.progress import TerminalProgress
    from sscd_ops.config import load_settings
    from sscd_ops.wiring import Wiring

    shown = TerminalProgress() if progress and sys.stderr.isatty() else None
    return Wiring(load_settings(config), allow_embedded=True, progress=shown)


def guarded(command: F) -> F:
    """Turn errors into one or two lines and an exit code: 2 for wrong use, else 1.

    Adds ``--verbose`` and ``--debug``, which the whole command has too: they work in both places.
    """

    @click.option("--debug", is_flag=True, hidden=True)
    @click.option("--verbose", "-v", is_flag=True, hidden=True)
    @functools.wraps(command)
    def run(*arguments: Any, debug: bool, verbose: bool, **options: Any) -> Any:
        above = click.get_current_context().find_root().params
        debug = debug or bool(above.get("debug"))
        set_up_logging(verbose=verbose or bool(above.get("verbose")), debug=debug)
        try:
            return command(*arguments, **options)
        except Exception as error:
            if debug or isinstance(error, (click.ClickException, click.exceptions.Exit)):
                raise
            click.echo(f"error: {_sentence(error)}", err=True)
            sys.exit(2 if isinstance(error, (ConfigError, UsageError)) else 1)

    return run  # type: ignore[return-value]


def _sentence(error: Exception) -> str:
    if isinstance(error, SscdOpsError):
        return str(error)
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said} (--debug shows where)"


def set_up_logging(*, verbose: bool, debug: bool) -> None:
    """Log to stderr: warnings, and with ``-v`` what is being done."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("sscd_ops").setLevel(level)
    # one line that everybody should see: which database is used when none was named
    logging.getLogger("sscd_ops.wiring").setLevel(min(level, logging.INFO))
