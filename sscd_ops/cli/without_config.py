"""What ``evaluate``, ``try`` and ``train`` share, which need no config file and no database."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from sscd_ops.cli.context import terminal_progress
from sscd_ops.cli.output import say
from sscd_ops.errors import MissingExtra, UsageError
from sscd_ops.options import (
    Engine,
    FingerprintOptions,
    ModelName,
    Precision,
    Preprocessing,
    Settings,
)

if TYPE_CHECKING:
    from sscd_ops.wiring import Wiring

F = TypeVar("F", bound=Callable[..., Any])

MODELS = [name for name in get_args(ModelName) if name]


def _cosine(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise click.BadParameter(
            f"expected a cosine similarity above 0 and at most 1, not {value}", param=option
        )
    return value


def model_options(command: F) -> F:
    """How pictures are embedded, as a dataset's ``fingerprint`` table, and what a copy is."""
    for option in (
        click.option(
            "--threshold",
            type=float,
            callback=_cosine,
            help="Similarity of a copy; default: the model's own.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(0),
            default=0,
            help="Decoder processes; default: one a core.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ..."),
        click.option(
            "--preprocessing",
            type=click.Choice([name for name in get_args(Preprocessing) if name]),
            help="Default: the model's.",
        ),
        click.option(
            "--postprocessing",
            metavar="FILE",
            help="Fitted centring or whitening (docs/descriptors.md): a path or URL.",
        ),
        click.option(
            "--precision",
            type=click.Choice([name for name in get_args(Precision) if name]),
            default="float32",
            show_default=True,
            help="Of the network's convolutions.",
        ),
        click.option(
            "--engine",
            type=click.Choice(get_args(Engine)),
            default="torch",
            show_default=True,
            help="What runs the network (docs/descriptors.md).",
        ),
        click.option("--weights", metavar="FILE", help="Weights of the model: a path or URL."),
    ):
        command = option(command)
    return command


def open_rooms() -> Wiring:
    """The product's parts without a config file: no database, nothing written."""
    from sscd_ops.wiring import Wiring

    return Wiring(Settings(), progress=terminal_progress())


def fingerprint_options(
    rooms: Wiring,
    model: str | None,
    weights: str | None,
    preprocessing: str | None,
    postprocessing: str | None,
    precision: str,
    engine: str,
    device: str,
    workers: int,
) -> FingerprintOptions:
    """The model that was asked for; one's values of ``model_options``, save the threshold.

    Raises:
        MissingExtra: the engine's package is not installed.
    """
    # plan may run where nothing embeds, so no fingerprint asks for it; here the same process will
    if engine == "openvino" and model != "dct" and find_spec("openvino") is None:
        raise MissingExtra("--engine openvino needs its package: pip install 'sscd-ops[openvino]'")
    return FingerprintOptions(
        model=model or rooms.model().name,  # type: ignore[arg-type]  # a choice of MODELS
        weights=weights or "",
        preprocessing=preprocessing or "",  # type: ignore[arg-type]  # likewise
        postprocessing=postprocessing or "",
        precision=precision,  # type: ignore[arg-type]  # likewise
        engine=engine,  # type: ignore[arg-type]  # likewise
        device=device,
        workers=workers,
    )


def note_threshold(options: FingerprintOptions, threshold: float | None) -> None:
    """Say that a model's threshold was not measured with what was changed about it."""
    changed = [name for name in ("weights", "preprocessing") if getattr(options, name)]
    if changed and threshold is None:
        say(
            f"note: the threshold of {options.model} was measured with its own"
            f" {' and '.join(changed)}: if yours differ, choose one by sscd-ops evaluate and give"
            " --threshold"
        )


def check_files(*names: str | None) -> None:
    """Refuse what could not be written before an hour's work, not after it.

    Raises:
        UsageError: the folder of a file is not there, or the file is a folder.
    """
    for name in names:
        if name and Path(name).is_dir():
            raise UsageError(f"{name} is a folder: give the path of a file")
        if name and not Path(name).absolute().parent.is_dir():
            raise UsageError(f"{name}: its folder is not there: make it, or give another path")
