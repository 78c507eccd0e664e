"""What commands share: the config option, parts, errors as sentences and exit codes."""

from __future__ import annotations

import contextlib
import functools
import getpass
import io
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sscd_ops.drivers import remedy_for
from sscd_ops.errors import ConfigError, SscdOpsError, UsageError
from sscd_ops.masking import MaskingFormatter, harmless, traceback_of
from sscd_ops.toml_tables import Wrong, read_duration, read_size

if TYPE_CHECKING:
    from sscd_ops.options import Settings
    from sscd_ops.ports import Progress
    from sscd_ops.wiring import Wiring

F = TypeVar("F", bound=Callable[..., Any])


class _Measured(click.ParamType[float]):
    """A number, or text with a unit as the config file takes it."""

    def __init__(
        self, name: str, number: Callable[[Any], float], read: Callable[[Any, str], float]
    ) -> None:
        self.name = name
        self._number = number
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, in the option's own unit."""
        with contextlib.suppress(ValueError):  # it has a unit
            value = self._number(value)
        try:
            return self._read(value, "")
        except Wrong as error:
            self.fail(error.message, param, ctx)


DURATION = _Measured("duration", float, read_duration)
"""Seconds: ``90``, ``30m``, ``72h``, ``7d``."""
SIZE = _Measured("size", int, read_size)
"""Bytes: ``500000``, ``100MB``."""


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


def limit_option(default: int, rows: str) -> Callable[[F], F]:
    """``--limit``; more than Postgres can count means all."""
    return click.option(
        "--limit",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        callback=lambda _context, _option, value: min(value, 2**62),
        help=f"Rows at most, {rows} first.",
    )


def who_options(command: F) -> F:
    """``--who`` and ``--why``, kept in the catalog."""
    command = click.option("--why", required=True, help="The reason; kept in the catalog.")(command)
    return click.option("--who", default=user, help="Who decides this; default: you.")(command)


def user() -> str:
    """Who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user without a name
        raise click.UsageError("say who decides this: --who NAME") from error


def open_wiring(config: str | None, *, progress: bool = False) -> Wiring:
    """The parts of a command. It may start the embedded Postgres, and says so.

    A dataset whose table in the config file is wrong stops the commands that are for it, or for
    every dataset; the others say that it is.

    Raises:
        ConfigError: the file is wrong, or what it says of a dataset that the command is for.
    """
    from sscd_ops.config import load_settings
    from sscd_ops.wiring import Wiring

    settings = load_settings(config, tolerant=True)
    _say_faulty(settings)
    return Wiring(settings, allow_embedded=True, progress=terminal_progress() if progress else None)


def terminal_progress() -> Progress | None:
    """Bars on a terminal; None where stderr is none, which saves the import of rich."""
    if not sys.stderr.isatty():
        return None
    from sscd_ops.cli.progress import TerminalProgress

    return TerminalProgress()


def _say_faulty(settings: Settings) -> None:
    from sscd_ops.cli.output import say
    from sscd_ops.config import dag_name

    context = click.get_current_context(silent=True)
    params = context.params if context is not None else {}
    asked = params.get("dataset")
    if asked and asked not in settings.datasets and dag_name(asked) in settings.faulty:
        raise ConfigError(settings.faulty[dag_name(asked)])
    for message in settings.faulty.values():
        if "dataset" in params and not asked:
            raise ConfigError(f"{message} (give --dataset NAME for another one alone)")
        say(f"warning: {message} (that dataset has no nights until it is mended)")


def check_dataset(parts: Wiring, dataset: str | None) -> None:
    """Refuse a dataset that neither the config file nor the catalog knows: a slip of the pen.

    Raises:
        UsageError: names the datasets of the config file.
    """
    if dataset is None or dataset in parts.settings.datasets:
        return
    from sscd_ops.catalog.datasets import read as read_dataset

    with parts.catalog.begin() as conn:
        if read_dataset(conn, dataset) is None:
            raise unknown_dataset(parts, dataset)


def unknown_dataset(parts: Wiring, dataset: str) -> UsageError:
    """What a command says of a dataset that is not in the config file."""
    known = ", ".join(sorted(parts.settings.datasets)) or "none"
    return UsageError(f"no dataset {dataset!r} in {parts.settings.path}; it has: {known}")


class CommandGroup(click.Group):
    """Commands in the order a newcomer needs them, each with its first sentence whole."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what click says of wrong use shows arguments, but no secrets."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            said = error.format_message()
            if harmless(said) == said:
                raise
            raise click.UsageError(harmless(said), error.ctx) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name and first sentence of each, wrapped instead of cut."""
        rows = [(name, command.get_short_help_str(500)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


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
        if isinstance(sys.stdout, io.TextIOWrapper):  # a locale may lack a caption's characters
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            answer = command(*arguments, **options)
            sys.stdout.flush()
            return answer
        except BrokenPipeError:  # `| head` has read enough; click ends the command without a word
            raise
        except Exception as error:
            if isinstance(error, (click.ClickException, click.exceptions.Exit)):
                raise
            if debug:
                click.echo(traceback_of(error), err=True, nl=False)
                sys.exit(1)
            click.echo(harmless(f"error: {_sentence(error)}"), err=True)
            sys.exit(2 if isinstance(error, (ConfigError, UsageError)) else 1)

    return run  # type: ignore[return-value]


def _sentence(error: Exception) -> str:
    if isinstance(error, SscdOpsError):
        return str(error)
    said = str(error).strip().partition("\n")[0]
    remedy = remedy_for(error) if isinstance(error, OSError) else None
    if remedy is not None:
        return f"{said}: {remedy}"
    return f"{type(error).__name__}: {said} (--debug shows where)"


def set_up_logging(*, verbose: bool, debug: bool) -> None:
    """Log to stderr: warnings, and with ``-v`` what is being done."""
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskingFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("sscd_ops").setLevel(level)
    # one line that everybody should see: which database is used when none was named
    logging.getLogger("sscd_ops.wiring").setLevel(min(level, logging.INFO))
