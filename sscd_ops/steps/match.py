"""match: the batch against the live segments, in parallel and without any lock."""

from __future__ import annotations

from collections.abc import Sequence

from sscd_ops.catalog import attempts, batches, datasets, shards
from sscd_ops.model import BatchState
from sscd_ops.steps import history
from sscd_ops.steps.parts import Parts, Stopwatch, groups_asked, load_work, with_abandon
from sscd_ops.steps.queries import load_queries, open_backend
from sscd_ops.steps.reports import StepReport


@with_abandon
def run(parts: Parts, batch_id: int, part: int | Sequence[int]) -> StepReport:
    """Search the live segments of a part, or of several: segment i is of part i % match_tasks.

    Each (batch, segment, mask) searched is recorded; resolve searches whatever was missed or has
    changed by then, so nothing here needs to be complete for a decision to be right.
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    if work.batch.state.is_decided:
        return StepReport("match", batch_id, {}, watch.seconds, answered=True)
    asked, count = groups_asked(part), work.survey.match_tasks
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, work.attempt.attempt_id)
        dataset = datasets.need(conn, work.batch.dataset)
        live = history.live_of(history.origins_of(conn, work, dataset))
    queries = load_queries(parts, work, registered)
    done = history.answered(parts, work, queries)
    mine = [s for i, s in enumerate(live) if i % count in asked]
    todo = [s for s in mine if s.mask and s.mask.sha256 not in done.get(s.segment_id, {})]
    if todo and len(queries.ids):
        backend = open_backend(parts, work)
        parts.progress.start(f"match {work.batch.dataset}", len(todo))
        for segment in todo:
            history.search_segment(parts, work, backend, queries, segment, done)
            parts.progress.advance()
        parts.progress.done()
    if 0 in asked:
        with parts.catalog.begin() as conn:
            attempts.require_attempt(conn, batch_id, work.attempt.attempt_id)
            batches.advance_state(conn, batch_id, BatchState.MATCHED)
    counts = {"segments": len(mine), "searched": len(todo), "queries": len(queries.ids)}
    return StepReport("match", batch_id, counts, watch.seconds)
