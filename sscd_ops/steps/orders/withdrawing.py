"""What a withdrawal does: its samples go, and what hung on them is decided anew."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog import decisions, orders, rules, segments, subjects
from sscd_ops.catalog.orders import Order
from sscd_ops.catalog.subjects import Named
from sscd_ops.core.changes import Change
from sscd_ops.model import Fault
from sscd_ops.steps.losing import Asked, Settled, gone_changes, plan_settled, settle
from sscd_ops.steps.orders.ordered import Ordered, by_source, effects_of
from sscd_ops.steps.parts import Parts, load_work
from sscd_ops.steps.still_there import StillThere
from sscd_ops.steps.turns import Seen

WITHDRAWN = "withdrawn"


def withdraw(parts: Parts, order: Order, seen: Seen, there: StillThere) -> Ordered:
    """Work a withdrawal out for the dataset as it was seen.

    Every sample that it names gets a verdict of its own, also one that was withdrawn before: these
    rows say whom the order covers.

    Raises:
        InvariantError: no night was decided yet.
    """
    dataset = seen.dataset
    with parts.catalog.read() as conn:
        work = load_work(parts, decisions.newest_night(conn, order.dataset_id))
        named = subjects.named_samples(
            conn, order.dataset_id, order.order_id, orders.subjects_of(conn, order.order_id)
        )
        kept = segments.history_rows(conn, order.dataset_id, dataset.generation)
        left_out = unsearched(conn, order)
    samples = list(named.values())
    lost = [s.image_sha256 for s in samples if s.verdict == "kept" and s.image_sha256 is not None]
    without = {s.sample_id.bytes for s in samples}
    settled = settle(parts, work, dataset, there, Asked(lost=lost, without=without))
    planned = plan_settled(parts, work, dataset.turn + 1, there, settled)
    changes = [Change(WITHDRAWN, sample=s.sample_id.bytes, reason=WITHDRAWN) for s in samples]
    changes += [*gone_changes(there, settled), *settled.changes(planned)]
    after = dict.fromkeys(named, WITHDRAWN) | becomes(settled)
    with parts.catalog.read() as conn:
        touched = [number for number in after if number not in named]
        before = samples + subjects.samples_now(conn, order.dataset_id, touched)
        caught = subjects.samples_of_images(conn, order.dataset_id, list(settled.withdrawn))
    caught = [s for s in caught if s.sample_id not in after and s.follows]
    before += caught
    after |= dict.fromkeys((s.sample_id for s in caught), WITHDRAWN)
    effects = effects_of(before, after)
    return Ordered(
        work,
        dataset.turn + 1,
        changes,
        planned,
        settled.masks,
        effects,
        {
            "named": len(samples),
            "named_by": named_by(samples),
            "changed": len(effects),
            "by_source": by_source(before, effects),
            **counts_of(settled),
            "unsearched": left_out,
        },
        kept,
    )


def unsearched(conn: Connection, order: Order) -> dict[str, int]:
    """Source -> samples without a URL, which an order by URLs or domains cannot find."""
    kinds = orders.subject_counts(conn, order.order_id).keys()
    if not kinds & {"url", "domain"}:
        return {}
    found = rules.without_urls(conn, order.dataset_id)
    return {each.source: each.without for each in found}


def becomes(settled: Settled) -> dict[UUID, str]:
    """The verdicts of samples that carry an image from now on, or cannot be had."""
    gone = dict.fromkeys((s.sample_id for s in settled.gone.values()), str(Fault.SOURCE_GONE))
    return dict.fromkeys(gone, "quarantined") | dict.fromkeys(
        (sample.sample_id for sample in settled.carriers), "kept"
    )


def counts_of(settled: Settled) -> dict[str, int]:
    """What hung on what goes, and what became of it."""
    return {
        "kept_instead": len(settled.carried),
        "removed_again": len(settled.removed),
        "freed": len(settled.freed),
        "source_gone": len(settled.gone),
    }


def named_by(samples: Sequence[Named]) -> dict[str, int]:
    """Kind of subject -> how many samples it names."""
    kinds = [sample.by for sample in samples]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
