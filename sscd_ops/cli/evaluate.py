"""``evaluate``: how well a model finds copies, on test sets or on one's own pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sscd_ops.cli.context import format_option, guarded
from sscd_ops.cli.output import print_fields, print_rows, say
from sscd_ops.cli.without_config import (
    MODELS,
    check_files,
    fingerprint_options,
    model_options,
    note_threshold,
    open_rooms,
)
from sscd_ops.errors import UsageError

if TYPE_CHECKING:
    from sscd_ops.evaluation.lookalikes import HardSet
    from sscd_ops.evaluation.results import ModelResult
    from sscd_ops.evaluation.tasks import Task
    from sscd_ops.wiring import Wiring

_HOW = ("weights", "preprocessing", "postprocessing", "precision", "engine", "device", "workers")
"""How a model is embedded: of ``model_options``."""
_PLAIN = {"weights": None, "postprocessing": None, "precision": "float32", "engine": "torch"}
"""Those that are for networks alone, as they are where nothing is said."""
_URLS = "URLs, folders or 'patterns/*.tar' (in quotes)"


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
    type=click.Choice([*MODELS, "pdq"]),
    metavar="MODEL",
    help="A model, or pdq; several are compared on the same copies. Default: the product's.",
)
@model_options
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
    from sscd_ops.evaluation.contenders import of_product
    from sscd_ops.evaluation.html import similarity_chart, to_html
    from sscd_ops.evaluation.measuring import Measuring, measure
    from sscd_ops.evaluation.pdq import PDQ
    from sscd_ops.evaluation.tables import to_json

    models = tuple(dict.fromkeys(models))
    check_files(given["json_file"], given["report"], given["histogram"])
    for name in ("weights", "postprocessing", "threshold"):
        if given[name] is not None and len(models) > 1:
            raise UsageError(f"--{name} belongs to one model: give one --model")
    if models == ("pdq",):
        for name, plain in _PLAIN.items():
            if given[name] != plain:
                raise UsageError(f"--{name} is for models: pdq has none")
    how = {name: given[name] for name in _HOW}
    with open_rooms() as rooms:
        chosen = []
        asked = [(name, fingerprint_options(rooms, name, **how)) for name in models or (None,)]
        for model, options in asked:
            chosen.append(PDQ if model == "pdq" else of_product(rooms, options))
            note_threshold(options, given["threshold"])
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
    from sscd_ops.evaluation.picture_sets import open_set

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
