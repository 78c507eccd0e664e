"""What the DAG's page in the UI says: what it reads, how it decides, what to do when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from sscd_ops.core.schedule import date_of, interval_holding, next_boundary
from sscd_ops.descriptors.models import DEFAULT_MODEL, MODELS
from sscd_ops.masking import masked
from sscd_ops.options import STEPS

if TYPE_CHECKING:
    from sscd_ops.options import DatasetOptions, Settings


def doc_md(settings: Settings, options: DatasetOptions) -> str:
    """A dataset's page, from its options."""
    dag_id = f"curate_{options.name}"
    page = "\n".join(
        [
            f"# {options.name}: nightly curation",
            "",
            f"Config `{settings.path}`; published below `{settings.storage.root}/{options.name}`;"
            f" nights by `{options.schedule}` ({options.timezone}), from {options.start}.",
            "",
            "| source | kind | priority | reads | waits for |",
            "|---|---|---|---|---|",
            *[
                f"| {s.name} | {s.kind} | {s.priority} | {' '.join(f'`{u}`' for u in s.urls)} |"
                f" {f'`{s.ready}`' if s.ready else 'nothing'} |"
                for s in options.sources
            ],
            "",
            _deciding(options),
            "",
            _placing(options),
            "",
            _HOWTO.format(
                dag_id=dag_id,
                dataset=options.name,
                config=settings.path,
                backfill=_backfill(options),
                night=_first_night(options),
            ),
        ]
    )
    return masked(page)


def _deciding(options: DatasetOptions) -> str:
    model, threshold = MODELS.get(options.fingerprint.model), options.duplicates.threshold
    measured = "the model's measured threshold"
    if options.fingerprint.postprocessing:
        measured = "a threshold that the config file must give"
    elif model is not None:
        threshold = model.threshold_for(threshold)
    said = measured if threshold is None else f"{threshold:g}"
    return (
        f"Model: {options.fingerprint.model or _UNNAMED}."
        f" A picture is a copy at a similarity of at least {said}"
        f" ({options.duplicates.grouping}, search {options.duplicates.search})"
        f"{_by_hash(options)}; who stays:"
        f" {', '.join(options.duplicates.prefer) or 'who came first'}. The guard holds a night at"
        f" {options.guard.max_removed_odds:g} times the usual odds of removal, or"
        f" {options.guard.max_quarantined_odds:g} times those of a quarantine code; empty nights:"
        f" {options.guard.empty}."
    )


# Which model a dataset has stands in the catalog, and parsing a DAG file asks no database.
_UNNAMED = (
    "the config file names none, so it is the dataset's own since its first night; that of a new"
    f" dataset is {DEFAULT_MODEL} (threshold {MODELS[DEFAULT_MODEL].threshold:g})"
)


def _by_hash(options: DatasetOptions) -> str:
    """The second measure, as configured; a model that is not named here is not guessed."""
    duplicates = options.duplicates
    said = f", or with a perceptual hash at most {duplicates.perceptual_distance} of 256 bits away"
    if duplicates.perceptual == "auto" and not options.fingerprint.model:
        hashed = " or ".join(name for name, model in sorted(MODELS.items()) if model.perceptual)
        return f"; with {hashed} a perceptual hash is a second measure"
    model = MODELS[options.fingerprint.model or DEFAULT_MODEL]
    return said if model.perceptual_for(duplicates.perceptual) else ""


def _placing(options: DatasetOptions) -> str:
    rows = ["| step | pool | queue | executor |", "|---|---|---|---|"]
    for step in STEPS:
        own = getattr(options.airflow, step)
        rows.append(
            f"| {step} | {own.pool or 'default_pool'} | {own.queue or 'default'} |"
            f" {own.executor or 'default'} |"
        )
    rows += [
        "",
        "A pool that does not exist leaves tasks `scheduled` for ever: create it first.",
    ]
    return "\n".join(rows)


def _backfill(options: DatasetOptions) -> str:
    """The dates of a backfill over the first week of November 2026, as the schedule starts them."""
    zone = ZoneInfo(options.timezone)
    begin = datetime(2026, 11, 1, tzinfo=zone) - timedelta(microseconds=1)
    first = next_boundary(options.schedule, options.timezone, begin)
    end = datetime(2026, 11, 8, tzinfo=zone) - timedelta(microseconds=1)
    last = max(first, interval_holding(options.schedule, options.timezone, end).start)
    return f"--from-date {_local(first, zone)} --to-date {_local(last, zone)}"


def _first_night(options: DatasetOptions) -> str:
    """What names the first night of November 2026: its day, or its start where a day has more."""
    zone = ZoneInfo(options.timezone)
    begin = datetime(2026, 11, 1, tzinfo=zone) - timedelta(microseconds=1)
    first = next_boundary(options.schedule, options.timezone, begin)
    night = interval_holding(options.schedule, options.timezone, first)
    return date_of(options.schedule, options.timezone, night)


def _local(instant: datetime, zone: ZoneInfo) -> str:
    return instant.astimezone(zone).isoformat(timespec="minutes")


_HOWTO = """\
**Rerun**: clear any task, or the whole run. A decided night answers from the catalog and changes
nothing; an undecided one goes on where it was.
**Held by the guard**: resolve failed with the figures. Right as it is:
`sscd-ops batch release ID --why '...'`, then clear `resolve`. Wrong:
`sscd-ops batch abandon ID --why '...'`, mend the data, clear the run.
**A night again, by hand**: trigger with `{{"date": "{night}"}}`; what came late:
`{{"date": "{night}", "supplement": true}}`; what it quarantined, once limits or rules are others:
`"quarantined": true` beside that; only to look: `"dry_run": true`.
**Backfill**: `airflow backfill create --dag-id {dag_id} {backfill}
--max-active-runs 2`. Both are instants, the starts of the first and the last night: a day without
a time is midnight UTC.
**The model and threshold of each night** (columns `fingerprint` and `threshold`):
`sscd-ops audit runs --config {config} --dataset {dataset} --format csv`.
**What was removed and why**: `sscd-ops audit removed --config {config} --dataset {dataset}`,
`sscd-ops explain SAMPLE_ID`.
**New snapshots** are events of the asset `sscd-ops://{dataset}`."""


def maintenance_doc_md(settings: Settings, options: DatasetOptions) -> str:
    """The page of the DAG that looks after a dataset."""
    keep = options.retention.snapshots
    kept = f"the newest {keep} snapshots and tagged ones" if keep else "all snapshots"
    grace = options.retention.grace / 3600
    return masked(
        _MAINTENANCE.format(name=options.name, config=settings.path, kept=kept, grace=grace)
    )


_MAINTENANCE = """\
# {name}: maintenance

`list` says what would be done, then: **compact** merges small segments and small shards (a new
snapshot is an event of the asset `sscd-ops://{name}/corrections`); **expire** keeps {kept}
readable; **vacuum** removes files that no row names, {grace:g} hours after it first saw them;
**verify** checks rows and files.

Where compact fails nothing is expired or removed, and verify says what is wrong, each finding with
the command that mends it. Then clear the run. By hand:
`sscd-ops maintain --config {config} --dataset {name} --dry-run`."""


def correction_doc_md(settings: Settings, options: DatasetOptions) -> str:
    """The page of the DAG that carries out orders."""
    return masked(_CORRECTION.format(name=options.name, config=settings.path))


_CORRECTION = """\
# {name}: corrections

Carries out one order of a person, drafted by `sscd-ops withdraw --config {config} --dataset {name}
...` or `sscd-ops order revert`. Look at it (`sscd-ops order show ID --config {config}`), then
trigger with its number and the effect that you saw: `{{"order": ID, "effect": "..."}}`. You are who
applies it.

**apply** puts it in force in its turn, beside nights; **publish** writes what is kept instead;
**commit** makes the snapshot that follows it, an event of the asset
`sscd-ops://{name}/corrections`; **receipt** writes its receipt (`sscd-ops receipt list --config
{config}`); **purge** forgets and deletes where the order asks for that.

**It would change something else by now**: nothing was changed; look again, trigger with the new
effect. **It is held** (more samples than `orders.max_changed`): another user than drafted or
applied it triggers with the same order and effect, and thereby approves it; clearing the run
approves nothing. Wrong: `sscd-ops order refuse ID --config {config} --why '...'`.
**Rerun**: clear any task. What was applied stays as it is."""


def faulty_doc_md(name: str, message: str) -> str:
    """The page of a dataset whose configuration is wrong."""
    said = masked(message)
    return f"# {name}: the configuration is wrong\n\n```\n{said}\n```\n\nThe other datasets run."
