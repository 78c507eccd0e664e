"""What a mapped task is called in the UI: its group's first shard and how many more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sscd_ops.model import SourceShard
    from sscd_ops.wiring import Wiring


def source_shards(parts: Wiring, batch_id: int, group: int) -> list[SourceShard]:
    """The source shards of a group, in order."""
    from sscd_ops.catalog.shards import shards_of
    from sscd_ops.steps.parts import load_work

    work = load_work(parts, batch_id)
    with parts.catalog.begin() as conn:
        return shards_of(conn, work.attempt.attempt_id, group)


def of_source_shards(shards: list[SourceShard]) -> str:
    """E.g. ``crawl/00000.tar (8 shards)``."""
    if not shards:
        return "nothing"
    return _label(f"{shards[0].source}/{shards[0].relative_uri}", len(shards))


def _label(first: str, count: int) -> str:
    return f"{first} ({count} shards)" if count > 1 else first


def of_match(parts: Wiring, batch_id: int, part: int) -> str:
    """E.g. ``part 3 of 8``."""
    from sscd_ops.steps.parts import load_work

    return f"part {part + 1} of {load_work(parts, batch_id).survey.match_tasks}"


def of_output_shards(parts: Wiring, batch_id: int, group: int) -> str:
    """E.g. ``00008.tar (8 shards)``."""
    from sscd_ops.catalog.decisions import of_batch
    from sscd_ops.steps.parts import load_work
    from sscd_ops.steps.publish import planned
    from sscd_ops.steps.publish_plan import numbers_of

    work = load_work(parts, batch_id)
    with parts.catalog.begin() as conn:
        shards = planned(conn, of_batch(conn, batch_id).decision_id)
    mine = [shards[n] for n in numbers_of(group, len(shards), work.options.airflow.max_tasks)]
    return _label(mine[0].name.rpartition("/")[2], len(mine))
