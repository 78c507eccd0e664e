"""``evaluate`` and ``try``: how well it finds copies, on test sets or on one's own pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from sscd_ops.cli.context import format_option, guarded
from sscd_ops.cli.output import print_fields, print_rows, say
from sscd_ops.errors import MissingExtra, UsageError
from sscd_ops.options import (
    Engine,
    FingerprintOptions,
    ModelName,
    Precision,
    Preprocessing,
    Settings,
    SourceKind,
)

if TYPE_CHECKING:
    from sscd_ops.evaluation.lookalikes import HardSet
    from sscd_ops.evaluation.results import ModelResult
    from sscd_ops.evaluation.tasks import Task
    from sscd_ops.evaluation.trial import TrialReport
    from sscd_ops.wiring import Wiring

F = TypeVar("F", bound=Callable[..., Any])

_MODELS = [name for name in get_args(ModelName) if name]
_HOW = ("weights", "preprocessing", "postprocessing", "precision", "engine", "device", "workers")
"""The options of ``_model_options``."""
_PLAIN = {"weights": None, "postprocessing": None, "precision": "float32", "engine": "torch"}
"""Those that are for networks alone, as they are where nothing is said."""
_KINDS = click.Choice(get_args(SourceKind))
_URLS = "URLs, folders or 'patterns/*.tar' (in quotes)"


def _cosine(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise click.BadParameter(
            f"expected a cosine similarity above 0 and at most 1, not {value}", param=option
        )
    return value


def _model_options(command: F) -> F:
    """How the pictures are embedded; as a dataset's ``fingerprint`` table."""
    for option in (
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


def _rooms() -> Wiring:
    """The product's parts without a config file: no database, nothing written."""
    from sscd_ops.cli.progress import TerminalProgress
    from sscd_ops.wiring import Wiring

    return Wiring(Settings(), progress=TerminalProgress() if sys.stderr.isatty() else None)


def _fingerprint(
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
    # plan may run where nothing embeds, so no fingerprint asks for it; here the same process will
    if engine == "openvino" and model != "dct" and find_spec("openvino") is None:
        raise MissingExtra("--engine openvino needs its package: pip install 'sscd-ops[openvino]'")
    return FingerprintOptions(
        model=model or rooms.default_model(),  # type: ignore[arg-type]  # a choice of _MODELS
        weights=weights or "",
        preprocessing=preprocessing or "",  # type: ignore[arg-type]  # likewise
        postprocessing=postprocessing or "",
        precision=precision,  # type: ignore[arg-type]  # likewise
        engine=engine,  # type: ignore[arg-type]  # likewise
        device=device,
        workers=workers,
    )


@click.command()
@click.argument("pictures", nargs=-1)
@click.option(
    "--make-copies",
    is_flag=True,
    help=f"Make copies of PICTURES ({_URLS}) by about 20 named transformations.",
)
@click.option("--disc21", metavar="FOLDER", help="Evaluate on DISC21, laid out in this folder.")
@click.option("--copydays", metavar="FOLDER", help="Evaluate on Copydays, laid out in it.")
@click.option(
    "--pairs",
    metavar="FILE.csv",
    help="True pairs query,reference of --queries and --references.",
)
@click.option("--queries", multiple=True, metavar="URL", help="Query pictures, for --pairs.")
@click.option("--references", multiple=True, metavar="URL", help="References, for --pairs.")
@click.option(
    "--distractors",
    multiple=True,
    metavar="URL",
    help="More references, of which no query is a copy: for Copydays and made copies.",
)
@click.option(
    "--training",
    multiple=True,
    metavar="URL",
    help="Pictures that are no copies of the others: for whitening and score normalisation.",
)
@click.option(
    "--hard",
    multiple=True,
    metavar="NAME=URL",
    help="A set of look-alikes that are no copies; each folder in it is a group.",
)
@click.option(
    "--look-alikes",
    type=click.IntRange(0),
    default=24,
    show_default=True,
    help="Size of the sets of look-alikes that are made with --make-copies; 0: none.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice([*_MODELS, "pdq"]),
    metavar="MODEL",
    help="A model, or pdq; several are compared on the same copies. Default: the product's.",
)
@_model_options
@click.option(
    "--threshold",
    type=float,
    callback=_cosine,
    help="Similarity of a copy; default: the model's own.",
)
@click.option(
    "--each",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Copies made for every transformation and severity.",
)
@click.option(
    "--outsiders",
    type=click.FloatRange(0.01, 0.9),
    default=0.3,
    show_default=True,
    help="Share of PICTURES whose copies must match nothing.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    help="PICTURES taken at most, of shards drawn by --seed; 0: all. Default: 2000, with --only all"
    " that it names.",
)
@click.option(
    "--only",
    metavar="FILE",
    help="Take those PICTURES alone whose names stand in this file: one a line, or a csv's first"
    " column.",
)
@click.option(
    "--transformation",
    "transformations",
    multiple=True,
    metavar="NAME",
    help="Only these; default: all.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn at chance.")
@click.option(
    "--bootstrap",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Draws of the 95% intervals; 0: none.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write every number to this file.")
@click.option("--report", metavar="FILE.html", help="Write a report to read to this file.")
@click.option(
    "--histogram",
    metavar="FILE.svg",
    help="Write the first model's similarities of copies and strangers as a picture.",
)
@format_option
@guarded
def evaluate(pictures: tuple[str, ...], models: tuple[str, ...], form: str, **given: Any) -> None:
    """Measure how well a model finds copies: on DISC21, on Copydays, on pairs, on made copies.

    Needs no config file and no database. With --make-copies it makes the copies of your own
    pictures itself. Every figure has a 95% interval; whitening and score normalisation are shown
    where --training gives pictures for them, and never decide anything in a night.

    Example: sscd-ops evaluate --make-copies 'shards/*.tar' --report report.html
    """
    from sscd_ops.evaluation.html import similarity_chart, to_html
    from sscd_ops.evaluation.measuring import Measuring, measure, of_product
    from sscd_ops.evaluation.pdq import PDQ
    from sscd_ops.evaluation.tables import to_json

    models = tuple(dict.fromkeys(models))
    _check_files(given["json_file"], given["report"], given["histogram"])
    for name in ("weights", "postprocessing", "threshold"):
        if given[name] is not None and len(models) > 1:
            raise UsageError(f"--{name} belongs to one model: give one --model")
    if models == ("pdq",):
        for name, plain in _PLAIN.items():
            if given[name] != plain:
                raise UsageError(f"--{name} is for models: pdq has none")
    how = {name: given[name] for name in _HOW}
    with _rooms() as rooms:
        chosen = []
        asked = [(name, _fingerprint(rooms, name, **how)) for name in models or (None,)]
        for model, options in asked:
            chosen.append(PDQ if model == "pdq" else of_product(rooms, options))
            _note_threshold(options, given["threshold"])
        hard = _given_hard(rooms, given["hard"])
        task = _task(rooms, pictures, given)
        hard += _made_hard(task, given["look_alikes"])
        measuring = Measuring(given["threshold"], given["bootstrap"], given["seed"])
        results = [measure(rooms, task, one, measuring, hard) for one in chosen]
        _print(task, results, form)
        written: dict[str, Callable[[], str]] = {
            "json_file": lambda: to_json(task, results),
            "report": lambda: to_html(task, results),
            "histogram": lambda: similarity_chart(results[0]),
        }
        for name, write in written.items():
            if given[name]:
                Path(given[name]).write_text(write(), encoding="utf-8", errors="backslashreplace")
                say(f"written: {given[name]}")


def _check_files(*names: str | None) -> None:
    """Refuse what could not be written before an hour's work, not after it.

    Raises:
        UsageError: the folder of a file is not there, or the file is a folder.
    """
    for name in names:
        if name and Path(name).is_dir():
            raise UsageError(f"{name} is a folder: give the path of a file")
        if name and not Path(name).absolute().parent.is_dir():
            raise UsageError(f"{name}: its folder is not there: make it, or give another path")


def _task(rooms: Wiring, pictures: Sequence[str], given: dict[str, Any]) -> Task:
    """The one task that the options ask for."""
    from sscd_ops.evaluation import layouts, tasks

    asked = [name for name in ("make_copies", "disc21", "copydays", "pairs") if given[name]]
    if len(asked) != 1:
        raise UsageError("give exactly one of --make-copies, --disc21, --copydays and --pairs")
    if bool(pictures) != (asked == ["make_copies"]):
        raise UsageError("PICTURES belong to --make-copies, and it needs some")
    training = given["training"]
    if asked == ["make_copies"]:
        making = tasks.Making(
            given["each"],
            given["outsiders"],
            given["limit"],
            given["transformations"],
            given["seed"],
            tasks.read_names(Path(given["only"])) if given["only"] else None,
        )
        return tasks.made_task(rooms, pictures, making, training, given["distractors"])
    if asked == ["disc21"]:
        return layouts.disc21_task(rooms, Path(given["disc21"]), training)
    if asked == ["copydays"]:
        return layouts.copydays_task(rooms, Path(given["copydays"]), given["distractors"], training)
    if not given["queries"] or not given["references"]:
        raise UsageError("--pairs needs --queries and --references")
    return tasks.pairs_task(
        rooms, given["queries"], given["references"], Path(given["pairs"]), training
    )


def _given_hard(rooms: Wiring, named: Sequence[str]) -> list[HardSet]:
    """The sets of look-alikes that were given."""
    from sscd_ops.evaluation import lookalikes
    from sscd_ops.evaluation.pictures import open_set

    sets = []
    for item in named:
        name, equals, url = item.partition("=")
        if not equals or not name or not url:
            raise UsageError(f"--hard {item!r}: expected NAME=URL")
        sets.append(lookalikes.given(name, open_set(rooms, [url])))
    return sets


def _made_hard(task: Task, size: int) -> list[HardSet]:
    """The sets of look-alikes that are made with made copies."""
    from sscd_ops.evaluation import lookalikes

    if task.strangers is None or not size:
        return []
    return lookalikes.made(task.strangers, size)


def _note_threshold(options: FingerprintOptions, threshold: float | None) -> None:
    """Say that a model's threshold was not measured with what was changed about it."""
    changed = [name for name in ("weights", "preprocessing") if getattr(options, name)]
    if changed and threshold is None:
        say(
            f"note: the threshold of {options.model} was measured with its own"
            f" {' and '.join(changed)}: if yours differ, choose one by sscd-ops evaluate and give"
            " --threshold"
        )


def _print(task: Task, results: Sequence[ModelResult], form: str) -> None:
    from sscd_ops.evaluation import tables

    if form != "table":
        print_rows(tables.kind_rows(results) or tables.variant_rows(results), form)
        return
    print_fields({"protocol": task.protocol, **task.facts}, form)
    for title, rows in (
        ("Ranking (95% intervals over pictures)", tables.variant_rows(results)),
        ("At the model's threshold", tables.threshold_rows(results)),
        ("Two measures together", tables.cascade_rows(tables.cascades(results))),
        (
            "Recall at that threshold (* edits that sscd-ops train never shows)",
            tables.grid_rows(results),
        ),
        ("Look-alikes wrongly merged", tables.hard_rows(results)),
        ("False matches a new picture, by history: an extrapolation", tables.tail_rows(results)),
    ):
        if rows:
            click.echo(f"\n{title}")
            print_rows(rows, form)
    for note in tables.notes(results):
        say(f"note: {note}")


# ---------------------------------------------------------------- try


@click.command("try")
@click.argument("urls", nargs=-1, required=True)
@click.option("--kind", type=_KINDS, help="What is there; default: by the URLs' endings.")
@click.option(
    "--sample",
    type=click.IntRange(0),
    default=20_000,
    show_default=True,
    help="Samples read at most, from shards in a chance order; 0: all.",
)
@click.option(
    "--model",
    type=click.Choice(_MODELS),
    metavar="MODEL",
    help="Which model (docs/descriptors.md); default: the product's.",
)
@_model_options
@click.option(
    "--threshold",
    type=float,
    callback=_cosine,
    help="Similarity of a copy; default: the model's own.",
)
@click.option(
    "--missing-caption",
    type=click.Choice(["quarantine", "keep"]),
    default="quarantine",
    show_default=True,
    help="What becomes of pictures without a caption.",
)
@click.option(
    "--perceptual/--no-perceptual",
    default=None,
    help="Compare perceptual hashes too, or not; default: as a night with the model does.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of shards.")
@click.option(
    "--sheet",
    metavar="FILE.png",
    default="sscd-ops-try.png",
    show_default=True,
    help="Where the contact sheet goes.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write every number to this file.")
@format_option
@guarded
def try_(
    urls: tuple[str, ...],
    kind: SourceKind | None,
    sample: int,
    threshold: float | None,
    missing_caption: str,
    perceptual: bool | None,
    seed: int,
    sheet: str,
    json_file: str | None,
    form: str,
    **how: Any,
) -> None:
    """Try it on your own tars: what would be removed, why, and how fast.

    Needs no config file and no database, and publishes nothing. The samples go through the
    product's own sources, quarantine, model, exact stage and leader, as a first night. A contact
    sheet shows removals beside their witnesses, the most similar pairs that were both kept, and
    pictures with nothing in them to compare.

    Example: sscd-ops try 'shards/*.tar' --sample 20000 --model sscd_disc_mixup
    """
    from sscd_ops.evaluation import trial, trial_report
    from sscd_ops.images.sheets import contact_sheet

    if Path(sheet).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet {sheet}: a .png or .jpg file")
    _check_files(sheet, json_file)
    asked = trial.Trial(urls, kind, sample, threshold, seed, missing_caption == "keep", perceptual)
    with _rooms() as rooms:
        options = _fingerprint(rooms, **how)
        _note_threshold(options, threshold)
        report = trial.run(rooms, asked, options)
        contact_sheet(trial_report.sheet_sections(report)).save(sheet)
    _print_trial(report, form)
    if json_file:
        Path(json_file).write_text(trial_report.to_json(report), encoding="utf-8")
        say(f"every number: {json_file}")
    say(f"contact sheet: {sheet}")


def _print_trial(report: TrialReport, form: str) -> None:
    from sscd_ops.evaluation import trial_report

    print_fields(trial_report.fields(report), form)
    if form != "table":
        return
    for title, rows in (
        ("Quarantined", [{"code": c, "samples": n} for c, n in report.quarantined.items()]),
        (
            "Similarity of each image to the most similar other one",
            trial_report.histogram_rows(report),
        ),
        ("Speed on this machine", trial_report.speed_rows(report)),
    ):
        if rows:
            click.echo(f"\n{title}")
            print_rows(rows, form)
    for fault in report.shard_faults:
        say(f"source shard {fault}")
    if report.counts.quarantined > report.counts.read / 2:
        say("over half is quarantined: see --missing-caption, and docs/sources.md for the codes")
