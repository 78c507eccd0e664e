"""``try``: what a first night would do with one's own tars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

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
from sscd_ops.options import SourceKind

if TYPE_CHECKING:
    from sscd_ops.evaluation.trial import TrialReport


@click.command("try")
@click.argument("urls", nargs=-1, required=True)
@click.option(
    "--kind",
    type=click.Choice(get_args(SourceKind)),
    help="What is there; default: by the URLs' endings.",
)
@click.option(
    "--sample",
    type=click.IntRange(0),
    default=20_000,
    show_default=True,
    help="Samples read at most, from shards in a chance order; 0: all.",
)
@click.option(
    "--model",
    type=click.Choice(MODELS),
    metavar="MODEL",
    help="Which model (docs/descriptors.md); default: the product's.",
)
@model_options
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
    check_files(sheet, json_file)
    asked = trial.Trial(urls, kind, sample, threshold, seed, missing_caption == "keep", perceptual)
    with open_rooms() as rooms:
        options = fingerprint_options(rooms, **how)
        note_threshold(options, threshold)
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
