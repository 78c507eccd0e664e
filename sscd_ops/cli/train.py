"""``train``: a descriptor network from one's own pictures."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from sscd_ops.cli.context import format_option, guarded
from sscd_ops.cli.output import print_fields, say
from sscd_ops.cli.without_config import open_rooms
from sscd_ops.descriptors.training.options import (
    RECIPES,
    Edits,
    Optimizer,
    Precision,
    TrainOptions,
    Trunk,
)
from sscd_ops.errors import MissingExtra, UsageError
from sscd_ops.machine import cores
from sscd_ops.model import RawSample

if TYPE_CHECKING:
    from sscd_ops.descriptors.training.loop import Outcome, Run
    from sscd_ops.wiring import Wiring

F = TypeVar("F", bound=Callable[..., Any])


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # click 8.1 is not generic
    """``64,96,128``."""

    name = "LIST"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 64,96,128", param, ctx)


_RECIPE: tuple[tuple[str, Any, str], ...] = (
    ("trunk", click.Choice(get_args(Trunk)), "The network."),
    ("dimensions", click.IntRange(8), "Of the descriptor."),
    ("steps", click.IntRange(1), "Batches in all: the length of the schedule."),
    (
        "minutes",
        click.FloatRange(0),
        "End after this time at the latest, and the schedule follows; 0: no limit.",
    ),
    ("batch", click.IntRange(2), "Pictures a step, over all processes."),
    ("views", click.IntRange(2), "Random copies of each picture a step."),
    ("sizes", _Numbers(int), "Pixels a side, one after another."),
    ("changes", _Numbers(float), "Shares of the run at which the next size begins."),
    ("mild", click.FloatRange(0, 1), "Share of pictures one view of which is hardly edited."),
    ("edits", click.Choice(get_args(Edits)), "How often and how far views are edited."),
    ("mixup", click.FloatRange(0, 1), "Share of views mixed with another (mixup, cutmix)."),
    (
        "hard-negatives",
        click.FloatRange(0, 1),
        "Share of a batch chosen for looking, to the network, like another picture of it.",
    ),
    ("temperature", click.FloatRange(0, min_open=True), "Of InfoNCE."),
    ("koleo", click.FloatRange(0), "Weight of the entropy term; above 40 it is unstable."),
    ("optimizer", click.Choice(get_args(Optimizer)), "What moves the weights."),
    ("learning-rate", click.FloatRange(0, min_open=True), "The highest: warm-up, then cosine."),
    ("warmup", click.FloatRange(0, 1), "Share of the run in which the rate rises."),
    ("weight-decay", click.FloatRange(0), "Not of biases and scales, save with lars."),
    ("clip", click.FloatRange(0), "Greatest norm of the gradient; 0: any."),
    ("ema", click.FloatRange(0, 1), "Decay of the averaged weights, which are the result."),
    (
        "precision",
        click.Choice(get_args(Precision)),
        "auto: bfloat16 where the processor has it.",
    ),
    ("seed", click.IntRange(0), "Of everything random."),
)


def _recipe_options(command: F) -> F:
    """A flag for each field of the recipe; unset ones are those of ``--recipe``."""
    for name, kind, text in reversed(_RECIPE):
        command = click.option(f"--{name}", type=kind, help=text)(command)
    return command


@click.command()
@click.argument("urls", nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    metavar="FOLDER",
    help="Gets pictures/, checkpoint.pt, log.csv and, at the end, model.safetensors.",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default="small",
    show_default=True,
    help="small: sscd_small's own. sscd: the paper's (ResNet-50, 224 px, 4096 a step).",
)
@_recipe_options
@click.option(
    "--exclude",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Keys of pictures never to train on, one a line: those to evaluate with.",
)
@click.option(
    "--start",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Weights to begin with, of the same trunk; default: random ones.",
)
@click.option(
    "--drop-similar",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="Leave out a picture this similar by dct to an earlier one; 0: none.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
@click.option(
    "--threads",
    type=click.IntRange(0),
    default=0,
    help="That decode and edit pictures; default: one a core, at most 16.",
)
@click.option(
    "--save-every",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="MINUTES",
    help="Between checkpoints.",
)
@format_option
@guarded
def train(
    urls: tuple[str, ...],
    out: str,
    recipe: str,
    exclude: str | None,
    start: str | None,
    drop_similar: float,
    device: str,
    threads: int,
    save_every: float,
    form: str,
    **told: Any,
) -> None:
    """Train a descriptor network on the pictures of URLS: tars, a folder or parquet files.

    Pictures are decoded once into FOLDER, shrunk to the largest size asked for (3 bytes a pixel: a
    million of 224 px take about 200 GB), and edited anew for each step: crops, turns, text, shapes,
    colours, blur, JPEG and more. Captions are not read. FOLDER/log.csv follows the loss.

    The same command goes on where an earlier one stopped; Ctrl-C and SIGTERM save first. Options
    may not change in between, save --steps, --minutes, --changes and --sizes up to the largest.
    The result is FOLDER/model.safetensors: name it in `fingerprint.weights`, with `model`
    sscd_small (trunk small, 256 dimensions), sscd_resnet18 (resnet18, 512) or sscd_disc_mixup
    (resnet50, 512), and measure its threshold.

    On several GPUs (batch norms see all of them; N must divide --batch):
    torchrun --nproc-per-node N --no-python -- sscd-ops train ...

    Example: sscd-ops train 'photos/*.tar' --out run1 --minutes 120 --exclude heldout.txt
    """
    _require_packages()
    from sscd_ops.descriptors.training import session

    options = _options(recipe, {name: value for name, value in told.items() if value is not None})
    keys = names_in(Path(exclude)) if exclude else frozenset()
    held = session.Session(
        Path(out),
        urls=urls,
        exclude=keys,
        drop_similar=drop_similar,
        device=device,
        threads=threads or min(16, cores().number),
        save_every=60.0 * save_every,
        start=Path(start) if start else None,
    )
    with open_rooms() as rooms:
        outcome = session.train(
            lambda: _members(rooms, urls),
            options,
            held,
            progress=rooms.progress,
            say=say,
            hold=_stop_on_signals,
        )
    _print(outcome, out, form)


def names_in(path: Path) -> frozenset[str]:
    """The keys in a file, one a line: a key may hold spaces, commas and quotes.

    Raises:
        UsageError: the file is not UTF-8, or names nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8 text, one key a line ({error})") from error
    keys = frozenset(line.strip() for line in text.split("\n")) - {""}
    if not keys:
        raise UsageError(f"{path}: no key in it; expected one a line")
    return keys


def _print(outcome: Outcome, out: str, form: str) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        fields = dataclasses.asdict(outcome)
        fields["weights"] = str(outcome.weights or "")
        print_fields({**fields, "seconds": round(outcome.seconds, 1)}, form)
        if not outcome.finished:
            say(f"stopped before its end and saved in {out}: the same command goes on")
    if not outcome.finished:
        sys.exit(1)


def _options(recipe: str, told: dict[str, Any]) -> TrainOptions:
    base = RECIPES[recipe]
    if "sizes" in told and "changes" not in told:
        count = len(told["sizes"])
        told["changes"] = tuple(round(place / count, 4) for place in range(1, count))
    return dataclasses.replace(base, **told)


def _stop_on_signals(run: Run) -> None:
    """The first signal ends the run after its step; a second one as signals do."""

    def stop(number: int, frame: object) -> None:
        del frame
        run.stopping = True
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _require_packages() -> None:
    from importlib.util import find_spec

    for module, extra in (("torch", "cpu"), ("safetensors", "cpu"), ("cv2", "train")):
        if find_spec(module) is None:
            raise MissingExtra(f"training needs {module}: pip install 'sscd-ops[{extra}]'")


def _members(rooms: Wiring, urls: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of the first picture of each sample.

    Raises:
        UsageError: the URLs are of several kinds, hold placeholders, or name nothing.
    """
    from sscd_ops.core.formats import sniff
    from sscd_ops.evaluation.given import Given

    given = Given(rooms, urls)
    for shard in given.find():
        for item in given.read(shard):
            if isinstance(item, RawSample):
                found = [member.data for member in item.members if sniff(member.data)]
                if found:
                    yield item.key, found[0]
            elif item.fault is not None:
                say(f"{shard.uri}: {item.fault[1]}; what came before is used")
