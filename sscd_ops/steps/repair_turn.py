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
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
from sqlalchemy.engine import Connection

from sscd_ops.catalog import decisions, output_shards, published, segments
from sscd_ops.catalog.bearers import kept_slots
from sscd_ops.catalog.output_shards import OutputShard
from sscd_ops.catalog.placements import PlacedSample, Slot, Span
from sscd_ops.core.changes import Change, change_table
from sscd_ops.core.shard_plan import WRITER_VERSION, maker_of, shard_name
from sscd_ops.errors import CommitConflict, SscdOpsError
from sscd_ops.model import Batch, DecisionKind, Fault, StoredFile
from sscd_ops.steps.losing import (
    Asked,
    Settled,
    gone_changes,
    plan_settled,
    settle,
    write_masks,
)
from sscd_ops.steps.parts import Parts, Work, load_work
from sscd_ops.steps.publish_plan import CarriedPlan
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
            now = kept_slots(conn, self.dataset_id, [e.sample.image_sha256 for e in self._lost])
        # the others have another verdict by now: they only leave their shard
        kept = [e for e in self._lost if now.get(e.sample.image_sha256) == e.slot]
        gone = {e.sample.sample_id.bytes: e.sample for e in kept}
        asked = Asked(lost=[e.sample.image_sha256 for e in kept], gone=gone)
        settled = settle(parts, work, dataset, self._there, asked)
        planned = plan_settled(parts, work, dataset.turn + 1, self._there, settled)
        self.worked = Repaired(
            work,
            dataset.turn + 1,
            datetime.now(UTC).date().replace(day=1),
            list(self._changes(settled, planned)),
            planned,
            self._replanned(),
            {} if self._dry_run else write_masks(parts, work, settled.masks),
            self._outcomes(settled),
            {
                "source_gone": len(settled.gone),
                "carried": len(settled.carried),
                "removed_again": len(settled.removed),
                "withdrawn": len(settled.withdrawn),
                "freed": len(settled.freed),
            },
        )
        return self.worked

    def _changes(self, settled: Settled, planned: CarriedPlan) -> Iterator[Change]:
        yield from gone_changes(self._there, settled)
        yield from settled.changes(planned)

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

    def _outcomes(self, settled: Settled) -> list[Outcome]:
        def of(becomes: str, sample: PlacedSample, why: str) -> Outcome:
            where = sample.relative_uri, sample.key, str(sample.sample_id)
            return Outcome(becomes, *where, why)

        said = self._there.gone(settled.gone.values())
        answer = [
            of(str(Fault.SOURCE_GONE), sample, said[sample.sample_id])
            for sample in settled.gone.values()
        ]
        for image, bearer in settled.carried.items():
            lost = [e.sample.key for e in self._lost if e.sample.image_sha256 == image]
            why = f"has the bytes of {lost[0]}" if lost else "its witness is gone"
            answer.append(of("kept", bearer.sample, why))
        for image in settled.withdrawn:
            for bearer in settled.able.get(image, [])[:1]:
                why = "its witness is gone, and it is a copy of a withdrawn picture"
                answer.append(of("withdrawn", bearer.sample, why))
        for image, change in settled.removed.items():
            near = f"{change.similarity:.4f} to image {(change.witness or b'').hex()[:12]}"
            for bearer in settled.able[image][:1]:
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
