"""What is lost of a night, as what takes a turn.

A lost sample is ``source_gone``. Another sample with its bytes carries its image from now on, the
next preferred one whose own can be had; who was asked before it is ``source_gone`` too. Where there
is none the image has no verdict, and what was removed because of it is decided anew
(``steps.orphans``). In the same transaction the shards that were to hold what is lost are planned
anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import decisions, output_shards, published, segments
from sscd_ops.catalog.bearers import Bearer, bearers, kept_slots, orphans
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import PlacedSample, Slot, Span
from sscd_ops.core.changes import Carried, Change, change_table
from sscd_ops.core.descriptor_file import bytes_rows
from sscd_ops.core.segment_file import write_mask
from sscd_ops.core.shard_plan import WRITER_VERSION, maker_of, shard_name
from sscd_ops.errors import CommitConflict, SscdOpsError
from sscd_ops.model import Batch, DecisionKind, Fault, StoredFile
from sscd_ops.steps import history
from sscd_ops.steps.history import Origin
from sscd_ops.steps.orphans import ChangedIndex, decide_anew
from sscd_ops.steps.parts import Parts, Work, load_work
from sscd_ops.steps.publish_plan import CarriedPlan, plan_carried
from sscd_ops.steps.rewriting import slots_of, spans_of
from sscd_ops.steps.still_there import StillThere
from sscd_ops.steps.turns import Record, Seen


@dataclass(frozen=True, slots=True)
class Lost:
    """A sample of an unwritten output shard that cannot be had, and why."""

    shard: OutputShard
    slot: Slot
    sample: PlacedSample
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a sample; of an image that is removed its preferred one stands for all.

    ``becomes``: ``source_gone``, ``kept``, ``removed near`` ...
    """

    becomes: str
    source_shard: str
    key: str
    sample_id: str
    why: str


@dataclass(frozen=True)
class Replanned:
    """An unwritten output shard as it was planned, and as it is from now on."""

    before: OutputShard
    plan: str
    name: str
    samples: int
    spans: Sequence[Span]


@dataclass(frozen=True)
class Repaired:
    """A repair worked out for one turn and generation.

    ``masks``: segment number -> the mask it gets, and how many rows that keeps.
    """

    work: Work
    """The newest decided night: its configuration holds."""
    turn: int
    month: date
    changes: Sequence[Change]
    planned: CarriedPlan
    replanned: Sequence[Replanned]
    masks: Mapping[int, tuple[StoredFile, int]]
    outcomes: list[Outcome]
    counts: Mapping[str, int]
    """How many samples and images became what."""


@dataclass
class _Verdicts:
    """What becomes of images and samples, as far as it is known.

    ``gone``: samples that cannot be had, by their ids. ``carried``: images that are kept by another
    sample than before, or again. ``removed``: images, because of another one. ``freed``: images
    that nobody carries.
    """

    gone: dict[bytes, PlacedSample] = field(default_factory=dict)
    carried: dict[bytes, Bearer] = field(default_factory=dict)
    removed: dict[bytes, Change] = field(default_factory=dict)
    freed: list[bytes] = field(default_factory=list)

    def ask(self, there: StillThere, able: Mapping[bytes, Sequence[Bearer]]) -> None:
        """Say who carries each image from now on."""
        for image, found in there.first(able).items():
            self.gone |= {bearer.sample.sample_id.bytes: bearer.sample for bearer in found.gone}
            if found.bearer is None:
                self.freed.append(image)
            else:
                self.carried[image] = found.bearer


class Repair:
    """What was lost of a night (``turns.Decider``).

    The client key names the night and what is lost, so that a retry answers with what was decided.

    Args:
        parts: the real parts.
        batch: the night.
        key: what its repairs' keys begin with.
        there: who can be had.
        lost: what is; of none nothing is to be decided.
        actor: who repairs it.
        why: and why.
        dry_run: no file is written: it takes no turn.
    """

    origins: Sequence[int] = ()

    def __init__(
        self,
        parts: Parts,
        batch: Batch,
        key: str,
        there: StillThere,
        lost: Sequence[Lost],
        *,
        actor: str,
        why: str,
        dry_run: bool = False,
    ) -> None:
        self._parts, self._batch = parts, batch
        self._there, self._lost = there, lost
        self._actor, self._why = actor, why
        self._dry_run = dry_run
        self._beginning = key
        self.dataset_id = batch.dataset_id
        names = sorted(f"{each.shard.output_id} {each.sample.sample_id}" for each in lost)
        self.key = key + hashlib.sha256(repr(names).encode()).hexdigest()[:16]
        self.worked: Repaired | None = None
        """What was worked out last."""

    def is_settled(self, conn: Connection) -> bool:
        """Whether the same was decided."""
        return decisions.of_key(conn, self.dataset_id, self.key) is not None

    # ------------------------------------------------------------ working it out

    def work_out(self, seen: Seen, before: Repaired | None) -> Repaired:
        """Decide it for the dataset as it was seen."""
        parts, dataset = self._parts, seen.dataset
        with parts.catalog.begin() as conn:
            night = decisions.newest_night(conn, self.dataset_id)
        work = load_work(parts, night)
        with parts.catalog.read() as conn:
            live = history.live_of(history.origins_of(conn, work, dataset))
            now = kept_slots(conn, self.dataset_id, [e.sample.image_sha256 for e in self._lost])
            # the others have another verdict by now: they only leave their shard
            kept = [e for e in self._lost if now.get(e.sample.image_sha256) == e.slot]
            able = bearers(conn, self.dataset_id, [e.sample.image_sha256 for e in kept])
        verdicts = _Verdicts({e.sample.sample_id.bytes: e.sample for e in kept})
        verdicts.ask(self._there, able)
        index = ChangedIndex(parts, Origin(self.dataset_id, dataset.turn, live))
        index.clear(bytes_rows(verdicts.freed, 32))
        with parts.catalog.read() as conn:
            ids = orphans(conn, self.dataset_id, verdicts.freed)
            able |= bearers(conn, self.dataset_id, ids)
        self._decide_anew(work, index, ids, able, verdicts)
        index.keep(bytes_rows([image for image in ids if image in verdicts.carried], 32))
        carriers = [bearer.sample for bearer in verdicts.carried.values()]
        planned = plan_carried(parts, work, dataset.turn + 1, carriers, self._there.sources)
        self.worked = Repaired(
            work,
            dataset.turn + 1,
            datetime.now(UTC).date().replace(day=1),
            list(self._changes(verdicts, planned)),
            planned,
            self._replanned(),
            {
                number: (self._write_mask(work, mask), int(mask.sum()))
                for number, mask in index.masks.items()
            },
            self._outcomes(verdicts, able),
            {
                "source_gone": len(verdicts.gone),
                "carried": len(verdicts.carried),
                "removed_again": len(verdicts.removed),
                "freed": len(verdicts.freed),
            },
        )
        return self.worked

    def _decide_anew(
        self,
        work: Work,
        index: ChangedIndex,
        ids: Sequence[bytes],
        able: Mapping[bytes, Sequence[Bearer]],
        verdicts: _Verdicts,
    ) -> None:
        """Decide images whose witness is free by now, in their old order."""
        asked = _Verdicts()

        def can_be_published(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
            asked.ask(self._there, {ids[n]: able[ids[n]] for n in numbers.tolist()})
            return np.array([ids[n] in asked.carried for n in numbers.tolist()], bool)

        anew = decide_anew(self._parts, work, index, bytes_rows(ids, 32), can_be_published)
        for n, image in enumerate(ids):
            if anew.kept[n] or anew.measure[n] < 0:
                verdicts.ask(self._there, {image: able[image]})
                continue
            by = work.measures[anew.measure[n]]
            verdicts.removed[image] = Change(
                "removed",
                image=image,
                reason=by.reason,
                witness=anew.witness[n].tobytes(),
                similarity=float(anew.similarity[n]),
                threshold=by.threshold,
            )

    def _write_mask(self, work: Work, kept: NDArray[np.bool_]) -> StoredFile:
        if self._dry_run:
            return StoredFile("", "", 0)
        return write_mask(self._parts.store, f"{work.folder}/index/masks", kept)

    def _changes(self, verdicts: _Verdicts, planned: CarriedPlan) -> Iterator[Change]:
        for number, sample in verdicts.gone.items():
            said = self._there.gone([sample])[sample.sample_id]
            yield Change("quarantined", sample=number, reason=Fault.SOURCE_GONE, message=said)
        for image in verdicts.freed:
            yield Change("free", image=image)
        yield from verdicts.removed.values()
        for image, bearer in verdicts.carried.items():
            sample = bearer.sample
            slot = planned.slots[sample.sample_id]
            carried = Carried(
                sample.sample_id.bytes, bearer.decision_id, sample.shard_id, sample.position, slot
            )
            yield Change("kept", image=image, carried=carried)

    def _replanned(self) -> list[Replanned]:
        """The shards that were to hold what is lost, without it."""
        gone: dict[int, set[Slot]] = {}
        shards: dict[int, OutputShard] = {}
        for each in self._lost:
            gone.setdefault(each.shard.output_id, set()).add(each.slot)
            shards[each.shard.output_id] = each.shard
        digest = hashlib.sha256(repr(WRITER_VERSION).encode())
        for number, shard in sorted(shards.items()):
            digest.update(f"{shard.plan} {shard.number} {sorted(gone[number])}\n".encode())
        plan = digest.hexdigest()[:8]
        answer = []
        for number, shard in sorted(shards.items()):
            left = [slot for slot in slots_of(self._parts, number) if slot not in gone[number]]
            name = shard_name(self._batch.dataset, maker_of(shard.name), plan, shard.number)
            answer.append(Replanned(shard, plan, name, len(left), list(spans_of(left))))
        return answer

    def _outcomes(
        self, verdicts: _Verdicts, able: Mapping[bytes, Sequence[Bearer]]
    ) -> list[Outcome]:
        def of(becomes: str, sample: PlacedSample, why: str) -> Outcome:
            where = sample.relative_uri, sample.key, str(sample.sample_id)
            return Outcome(becomes, *where, why)

        said = self._there.gone(verdicts.gone.values())
        answer = [
            of(str(Fault.SOURCE_GONE), sample, said[sample.sample_id])
            for sample in verdicts.gone.values()
        ]
        for image, bearer in verdicts.carried.items():
            lost = [e.sample.key for e in self._lost if e.sample.image_sha256 == image]
            why = f"has the bytes of {lost[0]}" if lost else "its witness is gone"
            answer.append(of("kept", bearer.sample, why))
        for image, change in verdicts.removed.items():
            near = f"{change.similarity:.4f} to image {(change.witness or b'').hex()[:12]}"
            for bearer in able[image][:1]:
                why = f"its witness is gone, and it is {near}"
                answer.append(of(f"removed {change.reason}", bearer.sample, why))
        return answer

    # ------------------------------------------------------------ taking its turn

    def month(self, worked: Repaired) -> date:
        """That in which it was worked out."""
        return worked.month

    def open(self, conn: Connection, worked: Repaired) -> int:
        """A new number, and the output shards of what is kept anew."""
        kind, plan = DecisionKind.REPAIR, worked.planned
        number = decisions.open_other(conn, self.dataset_id, kind, worked.month, self.key)
        output_shards.add_plan(conn, number, worked.turn, plan.digest, plan.shards)
        return number

    def rows(self, worked: Repaired, decision_id: int) -> Iterator[tuple[str, pa.Table]]:
        """Its changes."""
        yield (
            "changes",
            change_table(
                worked.changes,
                dataset_id=self.dataset_id,
                turn=worked.turn,
                decision_id=decision_id,
            ),
        )

    def give_up(self, conn: Connection) -> None:
        """Mark other tries to repair the night as lost, whatever was lost then."""
        decisions.give_up_keys(conn, self.dataset_id, self._beginning)

    def guard(self, seen: Seen, worked: Repaired) -> str:
        """Nothing holds it: a person looked at what is lost."""
        return ""

    def hold(self, conn: Connection, worked: Repaired, message: str) -> SscdOpsError | None:
        """It is never held."""
        return None

    def admit(self, conn: Connection, worked: Repaired) -> None:
        """It rests on nothing but the turn, and on shards that ``put`` finds unwritten."""

    def put(self, conn: Connection, worked: Repaired, decision_id: int, generation: int) -> bool:
        """Plan the shards anew, name the masks; the night can be published.

        Raises:
            CommitConflict: a shard was written meanwhile, whose files came back.
        """
        for each in worked.replanned:
            if not output_shards.plan_anew(
                conn,
                each.before,
                plan=each.plan,
                name=each.name,
                samples=each.samples,
                slots=each.spans,
            ):
                raise CommitConflict(
                    f"{each.before.name} was written meanwhile: run this command again"
                )
        for segment_id, (mask, kept) in worked.masks.items():
            segments.add_mask(conn, segment_id, generation, mask, kept)
        published.mark_publishable(conn, self._batch.batch_id)
        return bool(worked.masks)

    def record(self, worked: Repaired) -> Record:
        """Who, why, and how many became what."""
        return Record(
            actor=self._actor,
            why=self._why,
            config_sha256=worked.work.attempt.config_sha256,
            counts=worked.counts,
            details={"counts": dict(worked.counts)},
            batch_id=self._batch.batch_id,
        )
