"""What a revert does: what an order covered speaks for itself again.

With no decision in between, the verdicts before the order come back. Behind one they are decided
like newcomers to all that is kept now: what was decided since rests on what the order left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    decisions,
    lookups,
    orders,
    rules,
    segments,
    subjects,
    withdrawn_set,
)
from sscd_ops.catalog.bearers import Bearer, bearers, verdicts_now
from sscd_ops.catalog.orders import Order
from sscd_ops.catalog.subjects import Named
from sscd_ops.core.changes import Change
from sscd_ops.core.descriptor_file import bytes_rows
from sscd_ops.model import Fault, KnownImages
from sscd_ops.steps import history, ruling
from sscd_ops.steps.history import Origin
from sscd_ops.steps.losing import Asked, Settled, gone_changes, plan_settled, settle
from sscd_ops.steps.orders.ordered import Ordered, by_source, effects_of
from sscd_ops.steps.orders.withdrawing import counts_of
from sscd_ops.steps.orphans import ChangedIndex
from sscd_ops.steps.parts import Parts, Work, load_work
from sscd_ops.steps.still_there import StillThere
from sscd_ops.steps.turns import Seen

FOLLOWS = "follows"
_UNREAD = "the order that kept it from being read was reverted: run --supplement --quarantined"


@dataclass(frozen=True)
class _Back:
    """What an order covered that comes back.

    ``samples``: 16 bytes each, which follow their images; ``images``: theirs. ``quarantined``:
    those that do not: code and message. They were before, or a rule stopped them as they were
    read, and nothing does now: they were never described.
    """

    samples: list[bytes]
    images: list[bytes]
    quarantined: dict[bytes, tuple[str, str | None]]


def revert(parts: Parts, target: Order, seen: Seen, there: StillThere) -> Ordered:
    """Work out the revert of an order for the dataset as it was seen."""
    dataset = seen.dataset
    with parts.catalog.read() as conn:
        work = load_work(parts, decisions.newest_night(conn, target.dataset_id))
        kept = segments.history_rows(conn, target.dataset_id, dataset.generation)
        back = _back(conn, target, dataset.turn)
    settled = None
    if target.turn == dataset.turn:
        settled = _as_before(parts, work, target, seen, there, back)
    if settled is None:
        with parts.catalog.read() as conn:
            caught = withdrawn_set.images_of(conn, target.dataset_id, target.order_id)
        anew = [*_free(parts, target, dataset.turn, back.images), *caught]
        asked = Asked(anew=anew, again=back.samples, ended=target.order_id)
        settled = settle(parts, work, dataset, there, asked)
    planned = plan_settled(parts, work, dataset.turn + 1, there, settled)
    gone = settled.gone.keys()
    changes = [Change(FOLLOWS, sample=number) for number in back.samples if number not in gone]
    changes += [
        Change("quarantined", sample=number, reason=reason, message=message)
        for number, (reason, message) in back.quarantined.items()
    ]
    changes += [*gone_changes(there, settled), *settled.changes(planned)]
    before, after = _verdicts(parts, target.dataset_id, back, settled)
    effects = effects_of(before, after)
    return Ordered(
        work,
        dataset.turn + 1,
        changes,
        planned,
        settled.masks,
        effects,
        {
            "named": len(back.samples) + len(back.quarantined),
            "changed": len(effects),
            "by_source": by_source(before, effects),
            **counts_of(settled),
        },
        kept,
    )


def _back(conn: Connection, target: Order, turn: int) -> _Back:
    number = target.order_id
    ruled = rules.ruled_samples(conn, target.dataset_id, number)
    asked = {*map(_uuid, orders.covered_by(conn, target.decision)), *ruled}
    now = subjects.samples_now(conn, target.dataset_id, sorted(asked))
    ids = [n.sample_id for n in now if n.verdict == "withdrawn" and not n.follows]
    others = ruling.orders_of_samples(conn, target.dataset_id, ids, turn, without=number)
    covered = orders.covered_otherwise(conn, target, [n.bytes for n in ids], turn)
    free = [n for n in ids if n not in others and n.bytes not in covered]
    quarantined = orders.quarantined_before(conn, target.dataset_id, [n.bytes for n in free])
    # no image speaks for those that a rule, of this order or of another, stopped
    stopped = rules.ruled_of(conn, target.dataset_id, free)
    quarantined |= dict.fromkeys((n.bytes for n in stopped), (str(Fault.RULE_ENDED), _UNREAD))
    samples = [n.bytes for n in free if n.bytes not in quarantined]
    if target.turn == turn:
        samples += orders.gone_by(conn, target.decision)
    named = subjects.samples_now(conn, target.dataset_id, [_uuid(n) for n in samples])
    images = {s.image_sha256 for s in named if s.image_sha256 is not None and not s.own_fault}
    return _Back(samples, sorted(images), quarantined)


def _uuid(number: bytes) -> UUID:
    return UUID(bytes=number)


def _known(parts: Parts, dataset_id: int, images: Sequence[bytes], turn: int) -> KnownImages:
    with parts.catalog.begin() as conn:
        return lookups.known_images(conn, dataset_id, bytes_rows(images, 32), turn)


def _free(parts: Parts, target: Order, turn: int, images: Sequence[bytes]) -> list[bytes]:
    """Those without a verdict now."""
    known = _known(parts, target.dataset_id, images, turn)
    return [images[row] for row in known.row[known.verdict == "free"].tolist()]


def _as_before(
    parts: Parts, work: Work, target: Order, seen: Seen, there: StillThere, back: _Back
) -> Settled | None:
    """The verdicts that its images had before; None where one that was kept cannot be had."""
    dataset = seen.dataset
    with parts.catalog.read() as conn:
        images = orders.changed_images(conn, target.decision)
        found = bearers(conn, target.dataset_id, images, back.samples)
        live = history.live_of(history.origins_of(conn, work, dataset))
    known = _known(parts, target.dataset_id, images, dataset.turn - 1)
    settled = Settled(able=found)
    index = ChangedIndex(parts, Origin(target.dataset_id, dataset.turn, live))
    index.clear(bytes_rows(images, 32))
    for at, row in enumerate(known.row.tolist()):
        image = images[row]
        if known.verdict[at] == "kept":
            carrier = known.sample_id[at].tobytes()
            bearer = _of(found[image], carrier)
            if bearer is None or there.gone([bearer.sample]):
                return None
            settled.carried[image] = bearer
        elif known.verdict[at] == "free":
            settled.freed.append(image)
        else:
            settled.removed[image] = _said(image, known, at)
    index.keep(bytes_rows(list(settled.carried), 32))
    settled.masks = index.masks
    return settled


def _of(found: Sequence[Bearer], carrier: bytes) -> Bearer | None:
    return next((b for b in found if b.sample.sample_id.bytes == carrier), None)


def _said(image: bytes, known: KnownImages, at: int) -> Change:
    """The verdict that an image had, as it was said."""
    witnessed = bool(known.is_witnessed[at])
    return Change(
        known.verdict[at],
        image=image,
        reason=known.reason[at],
        message=known.message[at],
        witness=known.witness_sha256[at].tobytes() if witnessed else None,
        similarity=None if np.isnan(known.similarity[at]) else float(known.similarity[at]),
        threshold=None if np.isnan(known.threshold[at]) else float(known.threshold[at]),
    )


def _verdicts(
    parts: Parts, dataset_id: int, back: _Back, settled: Settled
) -> tuple[list[Named], dict[UUID, str]]:
    """The samples whose verdict may change as they are now, and the verdict of each then."""
    images = {*back.images, *settled.carried, *settled.freed, *settled.removed}
    images |= settled.withdrawn.keys()
    with parts.catalog.read() as conn:
        before = subjects.samples_of_images(conn, dataset_id, sorted(images))
        there = {named.sample_id for named in before}
        others = [n for n in map(_uuid, [*back.quarantined, *back.samples]) if n not in there]
        before += subjects.samples_now(conn, dataset_id, others)
        now = verdicts_now(conn, dataset_id, sorted(images))
    now |= dict.fromkeys(settled.freed, ("free", b""))
    gone = settled.removed | settled.withdrawn
    now |= {image: (change.verdict, b"") for image, change in gone.items()}
    now |= {
        image: ("kept", bearer.sample.sample_id.bytes) for image, bearer in settled.carried.items()
    }
    follows = set(back.samples)
    after: dict[UUID, str] = {}
    for named in before:
        number = named.sample_id.bytes
        is_faulty = number in follows and named.own_fault
        if number in settled.gone or number in back.quarantined or is_faulty:
            after[named.sample_id] = "quarantined"
        elif (number in follows or not named.is_own) and not named.own_fault:
            verdict, carrier = now.get(named.image_sha256 or b"", (named.verdict, b""))
            is_other = verdict == "kept" and carrier != number
            after[named.sample_id] = "removed" if is_other else verdict
    return before, after
