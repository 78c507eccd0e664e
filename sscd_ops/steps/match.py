"""match: the batch against the live segments, in parallel and without any lock."""

from __future__ import annotations

from collections.abc import Sequence

from sscd_ops.catalog import attempts, batches, datasets, shards
from sscd_ops.model import BatchState
from sscd_ops.steps import history
from sscd_ops.steps.parts import Parts, Stopwatch, groups_asked, load_work, with_abandon
from sscd_ops.steps.queries import load_queries, open_backends
from sscd_ops.steps.reports import StepReport
from sscd_ops.steps.searching import Cell, Searcher, answered, share_of, sort_out


@with_abandon
def run(parts: Parts, batch_id: int, part: int | Sequence[int]) -> StepReport:
    """Compare one share of the batch, or several, with history and with itself.

    What was compared is recorded; resolve searches whatever was missed or has changed by then, so
    nothing here needs to be complete for a decision to be right.
    """
    watch = Stopwatch()
    work = load_work(parts, batch_id)
    if work.batch.state.is_decided:
        return StepReport("match", batch_id, {}, watch.seconds, answered=True)
    asked, tasks = groups_asked(part), work.survey.match_tasks
    with parts.catalog.begin() as conn:
        registered = shards.shards_of(conn, work.attempt.attempt_id)
        dataset = datasets.need(conn, work.batch.dataset)
        live = history.live_of(history.origins_of(conn, work, dataset))
    queries = load_queries(parts, work, registered)
    count = len(queries)
    todo: list[Cell] = []
    if count:
        mine = share_of(count, live, asked, tasks)
        _, missing = sort_out(answered(parts, work, queries, mine), count, live)
        todo = [cell for cell in missing if cell.key in mine]
    if todo:
        Searcher(parts, work, queries, open_backends(parts, work)).search(todo)
    if 0 in asked:
        with parts.catalog.begin() as conn:
            attempts.require_attempt(conn, batch_id, work.attempt.attempt_id)
            batches.advance_state(conn, batch_id, BatchState.MATCHED)
    counts = {"segments": len(live), "searched": len(todo), "queries": count}
    return StepReport("match", batch_id, counts, watch.seconds)
