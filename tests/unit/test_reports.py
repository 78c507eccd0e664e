"""What steps say for XCom and for the end of a log: others read it, so it stays as it is."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from sscd_ops.model import BatchState, Counts
from sscd_ops.options import STEPS, AirflowOptions, Step
from sscd_ops.steps.commit import CommitReport
from sscd_ops.steps.late import LateShard
from sscd_ops.steps.plan import PlanReport
from sscd_ops.steps.reports import Report, StepReport
from sscd_ops.steps.resolve import ResolveReport

COUNTS = Counts(10, 5, 2, 1, 1, 3, 4, 1, 2, source_shards=2, codes={"bad_json": 1})
LATE = LateShard("crawl/1.tar", "2026-11-01", supplement=True)


@pytest.mark.parametrize(
    ("report", "summary", "line"),
    [
        (
            StepReport("ingest", 3, {"shards": 2, "samples": 7}, 1.23456),
            '{"step": "ingest", "batch_id": 3, "seconds": 1.235, "answered": false, "shards": 2,'
            ' "samples": 7}',
            "ingest batch=3 shards=2 samples=7 seconds=1.23",
        ),
        (
            StepReport("match", 3, {"segments": 1}, 0.5, answered=True),
            '{"step": "match", "batch_id": 3, "seconds": 0.5, "answered": true, "segments": 1}',
            "match batch=3 segments=1 seconds=0.50 (answered from the catalog)",
        ),
        (
            StepReport("embed", 3, {}, 0.5, answered=True),
            '{"step": "embed", "batch_id": 3, "seconds": 0.5, "answered": true}',
            "embed batch=3  seconds=0.50 (answered from the catalog)",
        ),
        (
            PlanReport(
                3, BatchState.PLANNED, [0, 1], late=[LATE], source_shards=4, skipped_shards=1,
                unpublishable=[2], seconds=1.5, night="2026-11-02",
            ),
            '{"step": "plan", "batch_id": 3, "night": "2026-11-02", "state": "planned", "answered":'
            ' false, "waiting_for": null, "seconds": 1.5, "source_shards": 4, "skipped_shards": 1,'
            ' "groups": 2, "late": 1, "unpublishable": 1}',
            "plan batch=3 night=2026-11-02 state=planned source_shards=4 skipped_shards=1 groups=2"
            " late=1 unpublishable=1 seconds=1.50",
        ),
        (
            ResolveReport(
                3, BatchState.DECIDED, 7, [0], COUNTS, {}, 3, seconds=2.0, lock_seconds=0.01234,
                message="the guard would hold it",
            ),
            '{"step": "resolve", "batch_id": 3, "state": "decided", "turn": 7, "answered": false,'
            ' "seconds": 2.0, "lock_seconds": 0.012, "message": "the guard would hold it",'
            ' "shards": 3, "read": 10, "kept": 5, "removed_exact": 2, "removed_near": 1,'
            ' "quarantined": 1, "known": 3, "not_delivered": 4, "removed_perceptual": 1,'
            ' "kept_plain": 2, "withdrawn": 0, "source_shards": 2, "codes": {"bad_json": 1}}',
            "resolve batch=3 turn=7 read=10 quarantined=1 exact=2 near=1 perceptual=1 kept=5"
            " plain=2 known=3 shards=3 seconds=2.00 (the guard would hold it)",
        ),
        (
            CommitReport(3, BatchState.PUBLISHED, 9, 8, 70, 3, 999, "/r/x.json", seconds=0.1),
            '{"step": "commit", "batch_id": 3, "state": "published", "snapshot": 9, "parent": 8,'
            ' "samples": 70, "shards": 3, "bytes": 999, "location": "/r/x.json", "answered":'
            ' false, "seconds": 0.1}',
            "commit batch=3 state=published snapshot=9 samples=70 shards=3 bytes=999",
        ),
    ],
    ids=lambda value: value.step if isinstance(value, Report) else "",
)  # fmt: skip
def test_a_report_says_this(report: Report, summary: str, line: str) -> None:
    assert json.dumps(report.summary()) == summary
    assert report.funnel() == line


def test_the_list_of_steps_has_a_table_of_settings_for_each() -> None:
    assert get_args(Step) == STEPS
    assert [name for name in AirflowOptions.__dataclass_fields__ if name in STEPS] == [*STEPS]
