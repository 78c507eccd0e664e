"""What the DAG's page in the UI says: what it reads, how it decides, what to do when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sscd_ops.options import STEPS

if TYPE_CHECKING:
    from sscd_ops.options import DatasetOptions, Settings


def doc_md(settings: Settings, options: DatasetOptions) -> str:
    """A dataset's page, from its options."""
    dag_id = f"curate_{options.name}"
    return "\n".join(
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
            _HOWTO.format(dag_id=dag_id, dataset=options.name, config=settings.path),
        ]
    )


def _deciding(options: DatasetOptions) -> str:
    threshold = options.duplicates.threshold
    said = "the model's own" if threshold is None else f"{threshold:g}"
    model = options.fingerprint.model or "the dataset's own, else the product's default"
    return (
        f"Model: {model}. A picture is a copy at a similarity of at least {said}"
        f" ({options.duplicates.grouping}, search {options.duplicates.search}); who stays:"
        f" {', '.join(options.duplicates.prefer) or 'who came first'}. The guard holds a night at"
        f" {options.guard.max_removed_odds:g} times the usual odds of removal; empty nights:"
        f" {options.guard.empty}."
    )


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


_HOWTO = """\
**Rerun**: clear any task, or the whole run. A decided night answers from the catalog and changes
nothing; an undecided one goes on where it was.
**Held by the guard**: resolve failed with the figures. Right as it is:
`sscd-ops batch release ID --why '...'`, then clear `resolve`. Wrong:
`sscd-ops batch abandon ID --why '...'`, mend the data, clear the run.
**A night again, by hand**: trigger with `{{"date": "2026-11-01"}}`; what came late:
`{{"date": "2026-11-01", "supplement": true}}`; only to look: `"dry_run": true`.
**Backfill**: `airflow backfill create --dag-id {dag_id} --from-date 2026-11-01T02:00
--to-date 2026-11-07T02:00 --max-active-runs 2`. `--to-date` is an instant: give the time too.
**What was removed and why**: `sscd-ops audit removed --config {config} --dataset {dataset}`,
`sscd-ops explain SAMPLE_ID`.
**New snapshots** are events of the asset `sscd-ops://{dataset}`."""


def faulty_doc_md(name: str, message: str) -> str:
    """The page of a dataset whose configuration is wrong."""
    return f"# {name}: the configuration is wrong\n\n```\n{message}\n```\n\nThe other datasets run."
