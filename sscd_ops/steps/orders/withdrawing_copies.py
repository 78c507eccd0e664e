"""What a withdrawal with all copies does: the pictures go, and whatever is near to one.

Where that is more than one person may decide alone, what is near waits for another one as a second
order of its own; the pictures themselves are in the withdrawn set from the first one on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sscd_ops.catalog import decisions, orders, segments, subjects
from sscd_ops.catalog.orders import Order
from sscd_ops.catalog.subjects import Named
from sscd_ops.core.changes import Change
from sscd_ops.core.withdrawn import Pictures
from sscd_ops.errors import OrderNotApplicable
from sscd_ops.model import OrderState, Segment
from sscd_ops.steps import history
from sscd_ops.steps.losing import Asked, plan_settled, settle
from sscd_ops.steps.orders.copies import (
    Copies,
    find_near,
    gather_pictures,
    given_pictures,
    work_out_copies,
)
from sscd_ops.steps.orders.ordered import Ordered, by_source, effects_of
from sscd_ops.steps.orders.withdrawing import WITHDRAWN, counts_of, named_by, unsearched
from sscd_ops.steps.parts import Parts, Work, configured, load_work
from sscd_ops.steps.still_there import StillThere
from sscd_ops.steps.turns import Seen
from sscd_ops.steps.withdrawn_set import read_pictures_of


def withdraw_copies(parts: Parts, order: Order, seen: Seen, there: StillThere) -> Ordered:
    """Work it out for the dataset as it was seen; ``near_waits`` counts what waits for another one.

    Every sample that it names gets a verdict of its own, as ``withdrawing.withdraw`` says.
    """
    dataset = seen.dataset
    with parts.catalog.read() as conn:
        work = load_work(parts, decisions.newest_night(conn, order.dataset_id))
        asked = orders.subjects_of(conn, order.order_id)
        named = subjects.named_samples(conn, order.dataset_id, order.order_id, asked)
        kept = segments.history_rows(conn, order.dataset_id, dataset.generation)
        live = history.live_of(history.origins_of(conn, work, dataset))
        left_out = unsearched(conn, order)
    digests = [s.digest for s in asked if s.kind in ("sha256", "picture")]
    digests += [s.image_sha256 for s in named.values() if s.image_sha256 is not None]
    given = given_pictures(asked, work.attempt.fingerprint.dimensions)
    pictures = gather_pictures(parts, work, dataset, live, digests, given)
    copies = _copies(parts, work, seen, live, pictures)
    base = _Base(parts, work, seen, there, kept, named)
    whole = base.ordered([*copies.changes, *copies.near], [*copies.kept, *copies.near_kept])
    answer = whole
    if copies.near and len(whole.effects) > configured(parts, order.dataset).orders.most(kept):
        answer = base.ordered(copies.changes, copies.kept)
    waits = len(whole.effects) - len(answer.effects)
    more = {
        "pictures": len(pictures),
        "compared": int(pictures.described.sum()),
        "near_waits": waits,
        "unsearched": left_out,
    }
    return replace(answer, counts={**answer.counts, **more}, pictures=pictures)


def withdraw_near(parts: Parts, order: Order, seen: Seen, there: StillThere) -> Ordered:
    """Work out the second part of an order: what is near to its pictures.

    Raises:
        OrderNotApplicable: the first part is not in force any more.
    """
    dataset = seen.dataset
    with parts.catalog.read() as conn:
        first = orders.read_order(conn, order.of_order or 0)
        if first.state is not OrderState.APPLIED:
            raise OrderNotApplicable(
                f"order {order.order_id} is about what is near to the pictures of order"
                f" {first.order_id}, which is {first.state}: turn it down (sscd-ops order refuse"
                f" {order.order_id} --why '...')"
            )
        work = load_work(parts, decisions.newest_night(conn, order.dataset_id))
        kept = segments.history_rows(conn, order.dataset_id, dataset.generation)
        live = history.live_of(history.origins_of(conn, work, dataset))
        stored = read_pictures_of(conn, dataset, first.decision)
    pictures = stored.pictures(parts, work.attempt.fingerprint.dimensions)
    copies = _copies(parts, work, seen, live, pictures)
    changes = [*copies.changes, *copies.near]
    return _Base(parts, work, seen, there, kept, {}).ordered(
        changes, [*copies.kept, *copies.near_kept]
    )


def _copies(
    parts: Parts, work: Work, seen: Seen, live: Sequence[Segment], pictures: Pictures
) -> Copies:
    near = find_near(parts, work, live, pictures)
    with parts.catalog.read() as conn:
        return work_out_copies(conn, seen.dataset, pictures, near)


@dataclass(frozen=True)
class _Base:
    """What both parts are worked out from. ``named``: the samples that the order names."""

    parts: Parts
    work: Work
    seen: Seen
    there: StillThere
    kept: int
    named: Mapping[UUID, Named]

    def ordered(self, images: Sequence[Change], cleared: Sequence[bytes]) -> Ordered:
        """The order that gives images other verdicts; ``cleared``: those of them kept now."""
        parts, dataset, samples = self.parts, self.seen.dataset, list(self.named.values())
        settled = settle(parts, self.work, dataset, self.there, Asked(out=cleared))
        planned = plan_settled(parts, self.work, dataset.turn + 1, self.there, settled)
        own = [Change(WITHDRAWN, sample=s.sample_id.bytes, reason=WITHDRAWN) for s in samples]
        verdicts = {change.image: change.verdict for change in images}
        with parts.catalog.read() as conn:
            found = subjects.samples_of_images(
                conn, dataset.dataset_id, [image for image in verdicts if image is not None]
            )
        before = samples + [s for s in found if s.sample_id not in self.named]
        after = {s.sample_id: verdicts[s.image_sha256] for s in found if s.follows} | dict.fromkeys(
            self.named, WITHDRAWN
        )
        effects = effects_of(before, after)
        return Ordered(
            self.work,
            dataset.turn + 1,
            [*own, *images],
            planned,
            settled.masks,
            effects,
            {
                "named": len(samples),
                "named_by": named_by(samples),
                "changed": len(effects),
                "by_source": by_source(before, effects),
                "near": {
                    "images": sum(change.similarity is not None for change in images),
                    "thresholds": {by.reason: by.threshold for by in self.work.measures},
                },
                "near_withdrawn": sum(change.verdict == "quarantined" for change in images),
                **counts_of(settled),
            },
            self.kept,
        )
