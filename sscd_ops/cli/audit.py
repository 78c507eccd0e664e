"""``audit`` and ``explain``: what became of samples, and why."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from sscd_ops.cli.context import (
    check_dataset,
    config_option,
    format_option,
    guarded,
    limit_option,
    open_wiring,
    unknown_dataset,
)
from sscd_ops.cli.output import plain, print_fields, print_line, print_rows, say
from sscd_ops.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from sscd_ops.wiring import Wiring


@click.command()
@click.argument("what", type=click.Choice(["runs", "removed", "kept", "quarantined", "events"]))
@config_option
@click.option("--dataset", help="Only this dataset.")
@click.option("--date", "day", metavar="DAY", help="Only the night that starts on this local day.")
@limit_option(100, "of the newest nights")
@format_option
@guarded
def audit(
    what: str, config: str | None, dataset: str | None, day: str | None, limit: int, form: str
) -> None:
    """Print runs, removed, kept or quarantined samples, or events.

    A table shows what matters most; csv and json have every column of the public view
    curation.WHAT (docs/catalog.md).

    Example: sscd-ops audit removed --dataset web --date 2026-11-02 --format csv
    """
    from sscd_ops.catalog.audit import AUDITS
    from sscd_ops.catalog.audit import audit as query

    with open_wiring(config) as parts:
        check_dataset(parts, dataset)
        span = _span(parts, dataset, day) if day else None
        with parts.catalog.begin() as conn:
            found = query(conn, what, dataset=dataset, day=span, limit=limit)
    print_rows(found, form, AUDITS[what])
    if len(found) == limit:
        say(f"the first {limit} rows: --limit shows more")


def _span(parts: Wiring, dataset: str | None, day: str) -> tuple[datetime, datetime]:
    """The instants of the intervals that ``--date`` names, in the dataset's time zone."""
    from sscd_ops.core.schedule import interval_of

    datasets = parts.settings.datasets
    if dataset is None and len(datasets) == 1:
        dataset = next(iter(datasets))
    if dataset is None:
        raise UsageError("--date needs --dataset NAME: a day begins in the dataset's time zone")
    if dataset not in datasets:
        raise unknown_dataset(parts, dataset)
    options = datasets[dataset]
    interval = interval_of(options.schedule, options.timezone, day)
    return interval.start, interval.end


@click.command()
@click.argument("sample")
@config_option
@click.option("--dataset", help="Only this dataset, for SOURCE_SHARD#KEY.")
@click.option(
    "--picture", metavar="FILE.png", help="Write the image, beside its witness's, to this file."
)
@format_option
@guarded
def explain(
    sample: str, config: str | None, dataset: str | None, picture: str | None, form: str
) -> None:
    """Say why a sample was removed, kept or quarantined.

    SAMPLE is a sample_id (a key of a published shard is one), or SOURCE_SHARD#KEY as `audit`
    prints them.

    Example: sscd-ops explain 2026-11-01/a.tar#000123 --picture why.png
    """
    from sscd_ops.catalog.audit import nearest_matches

    if picture:
        _check_picture(Path(picture))
    with open_wiring(config) as parts:
        check_dataset(parts, dataset)
        with parts.catalog.begin() as conn:
            found = _find(conn, sample, dataset)
            near = nearest_matches(conn, found["sample_id"], 3)
            hashed = nearest_matches(conn, found["sample_id"], 3, by_hash=True)
        said = _sentence(found, near, hashed)
        if form == "table":
            print_fields({name: found[name] for name in _SHOWN}, form)
            print_line(f"\n{said}")
        else:
            nearest = [{name: plain(value) for name, value in row.items()} for row in near + hashed]
            print_fields({**found, "nearest": nearest, "sentence": said}, form)
        if picture and found["verdict"] == "withdrawn":
            raise UsageError(f"sample {found['sample_id']} is withdrawn: it is not shown")
        if picture:
            _picture(parts, found, [*near, *hashed], Path(picture))
            say(f"wrote {picture}")


def _check_picture(path: Path) -> None:
    """Refuse a file that cannot be written before anything is looked up."""
    if path.suffix.lower() not in _PICTURES:
        raise UsageError(f"--picture {path}: the name must end in one of {', '.join(_PICTURES)}")
    if not path.parent.is_dir():
        raise UsageError(f"--picture {path}: there is no folder {path.parent}: make it first")


def _find(conn: Connection, sample: str, dataset: str | None) -> Mapping[str, Any]:
    from sscd_ops.catalog.audit import explain as query
    from sscd_ops.catalog.read_again import now_called

    ids = _ids(conn, sample, dataset)
    if len(ids) > 1:
        say(f"{len(ids)} samples have this key; this is the newest")
    found = query(conn, ids[0])
    if found is None:
        renamed = now_called(conn, ids[0])
        if renamed is not None:
            raise UsageError(
                f"sample {sample} was read again, with another image or caption, and is {renamed}"
                f" since: `sscd-ops explain {renamed}`"
            )
        raise UsageError(
            f"there is no sample {sample}: `sscd-ops audit kept|removed|quarantined` prints ids"
        )
    return found


def _ids(conn: Connection, sample: str, dataset: str | None) -> list[UUID]:
    """What was typed, as sample ids, newest first."""
    from sscd_ops.catalog.audit import samples_at

    try:
        sample.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{sample!r} is not UTF-8, as every stored name and key is") from None
    if "#" not in sample:
        try:
            return [UUID(sample)]
        except ValueError:
            raise UsageError(
                f"{sample!r} is neither a sample_id (32 hex digits) nor SOURCE_SHARD#KEY"
            ) from None
    parts = sample.split("#")
    for cut in range(len(parts) - 1, 0, -1):  # both names may hold the sign
        found = samples_at(conn, "#".join(parts[:cut]), "#".join(parts[cut:]), dataset)
        if found:
            return found
    raise UsageError(
        f"no sample has this key in this source shard: {sample!r}; `sscd-ops audit` prints both"
    )


_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_SHOWN = (
    "dataset", "batch_id", "night", "turn", "decided_at", "sample_id", "source", "source_shard",
    "key", "format", "width", "height", "bytes", "image_sha256", "caption", "verdict", "reason",
    "message", "plain", "similarity", "threshold", "witness_sample_id", "witness_source_shard",
    "witness_key", "witness_caption", "witness_dataset", "witness_batch_id", "witness_shard",
    "recoverable",
    "shard", "fingerprint", "search", "perceptual_distance",
)  # fmt: skip


def _sentence(
    found: Mapping[str, Any], near: list[Mapping[str, Any]], hashed: list[Mapping[str, Any]]
) -> str:
    if found["verdict"] == "quarantined":
        return f"Quarantined as {found['reason']}: {found['message']}"
    if found["verdict"] == "removed" and found["reason"] == "exact":
        return (
            f"Removed: its image has the same bytes as {found['witness_source_shard']}"
            f"#{found['witness_key']}, which is kept."
        )
    if found["verdict"] == "removed":
        witness = f"{found['witness_source_shard']}#{found['witness_key']}"
        if found["reason"] == "perceptual":
            return (
                f"Removed: its perceptual hash is {_bits(found['similarity'])} from that of"
                f" {witness}, which is kept; copies are up to {_bits(found['threshold'])}"
                " apart. By descriptor it is no copy."
            )
        return (
            f"Removed: its image is {found['similarity']:.4f} similar to {witness}, which is kept;"
            f" the threshold is {found['threshold']:g}."
        )
    if found["verdict"] == "withdrawn" and found["similarity"] is not None:
        return (
            f"Withdrawn: its image is {found['similarity']:.4f} similar to a picture that was"
            f" withdrawn with its copies; the threshold is {found['threshold']:g}."
        )
    if found["verdict"] == "withdrawn":
        return (
            "Withdrawn: an order in force names it, where it came from or its picture:"
            " `sscd-ops order list`."
        )
    if found["verdict"] != "kept":
        return f"{str(found['verdict']).capitalize()}: {found['reason'] or 'no reason is stored'}"
    if found["plain"]:
        return (
            "Kept: there is nothing in its image to compare with others; of images like it only"
            " equal bytes are removed."
        )
    return f"{_kept(found, near)}{_kept_by_hash(found, hashed)}"


def _kept(found: Mapping[str, Any], near: list[Mapping[str, Any]]) -> str:
    if not near:
        return "Kept: no image kept before it came near enough to be stored as a match."
    best = near[0]
    return (
        f"Kept: the most similar image kept before it, {best['source_shard']}#{best['key']}, is"
        f" {best['similarity']:.4f} similar; the threshold is {found['run_threshold']:g}."
    )


def _kept_by_hash(found: Mapping[str, Any], hashed: list[Mapping[str, Any]]) -> str:
    if found["perceptual_distance"] is None:
        return ""
    if not hashed:
        return " By perceptual hash none came near either, of the images that have one."
    best = hashed[0]
    return (
        f" By perceptual hash the nearest is {best['source_shard']}#{best['key']},"
        f" {_bits(best['similarity'])} away; copies are up to {found['perceptual_distance']} apart."
    )


def _bits(similarity: float) -> str:
    """A hash similarity as a distance, for people."""
    from sscd_ops.core.perceptual import BITS, distance_of

    return f"{distance_of(similarity)} of {BITS} bits"


def _shown(reason: str | None, similarity: float) -> str:
    """How near a picture is, by the measure that says so."""
    return _bits(similarity) if reason == "perceptual" else f"{similarity:.4f}"


def _picture(
    parts: Wiring, found: Mapping[str, Any], near: list[Mapping[str, Any]], path: Path
) -> None:
    from sscd_ops.images.sheets import side_by_side

    def panel(sample_id: UUID, title: str, caption: str | None) -> tuple[bytes, str, str | None]:
        return parts.sample_image(str(sample_id)), title, caption

    panels = [
        panel(found["sample_id"], f"{found['verdict']}: {found['key']}", found["caption"]),
    ]
    if found["witness_sample_id"] is not None:
        title = f"witness {_shown(found['reason'], found['similarity'])}: {found['witness_key']}"
        panels.append(panel(found["witness_sample_id"], title, found["witness_caption"]))
    elif near:
        best = near[0]
        how = "near" if best["distance"] is None else "perceptual"
        title = f"nearest kept {_shown(how, best['similarity'])}: {best['key']}"
        panels.append(panel(best["sample_id"], title, best["caption"]))
    side_by_side(panels).save(path)
