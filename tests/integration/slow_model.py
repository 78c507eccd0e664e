"""A dataset's memory as a person would keep it: what the state machine holds the product against.

Written from the documentation alone, in dicts and loops. Of the product it takes sample ids and the
descriptors of pictures; similarities are its own, in float64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.identities import sample_id

DATASET, SOURCE = "web", "crawl"
Day = str
Image = bytes
"""sha256 of a picture's bytes."""
Id = bytes
"""A sample's 16 bytes."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Its bytes decide all of this. ``vector``: float64, of the stored float16; or a fault."""

    data: bytes
    pixels: int
    vector: NDArray[np.float64] | None
    fault: str | None
    is_plain: bool

    @cached_property
    def digest(self) -> Image:
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True, eq=False)
class Read:
    """A sample in a source file. Without a caption it is faulty, whatever its picture is.

    ``url``: in its normal form.
    """

    uri: str
    position: int
    key: str
    picture: Picture
    caption: str | None
    url: str | None = None

    @cached_property
    def id(self) -> Id:
        said = b"" if self.caption is None else hashlib.sha256(self.caption.encode()).digest()
        where = (DATASET, SOURCE, self.uri, self.key, 0, f"{self.key}.jpg")
        return sample_id(*where, self.picture.digest, said)

    @property
    def preferred(self) -> tuple[Any, ...]:
        """The least of a batch is the most preferred."""
        best = (self.picture.pixels, len(self.caption or ""), len(self.picture.data))
        return (*(-each for each in best), self.uri, self.position)


@dataclass(frozen=True)
class Said:
    """What a turn says of an image or of a sample. ``carrier``: of a kept image."""

    turn: int
    verdict: str
    reason: str | None = None
    witness: Image | None = None
    similarity: float | None = None
    threshold: float | None = None
    carrier: Id | None = None


@dataclass(eq=False)
class Order:
    """A withdrawal of samples, or the end of one: ``of``.

    ``subjects``: kind and value. ``covered``: the samples that it withdrew. ``turn``: 0, it is
    drafted; ``turn_to``: 0, nobody reverted it.
    """

    number: int
    subjects: frozenset[tuple[str, Any]] = frozenset()
    of: Order | None = None
    covered: frozenset[Id] = frozenset()
    turn: int = 0
    turn_to: int = 0

    @property
    def is_in_force(self) -> bool:
        return self.turn > 0 and not self.turn_to

    def rules(self, read: Read) -> bool:
        """Whether it names where a sample came from: that stops later ones too."""
        host = "" if read.url is None else f".{read.url.split('/')[2]}"
        return any(
            (kind == "url" and read.url == value)
            or (kind == "domain" and host.endswith(f".{value}"))
            or (kind == "source" and value == SOURCE)
            for kind, value in self.subjects
        )

    def names(self, read: Read) -> bool:
        by_name = {("id", read.id), ("sha256", read.picture.digest)}
        return bool(by_name & self.subjects) or self.rules(read)


@dataclass
class Batch:
    """A run. ``files``: (uri, version) in the batch's order; ``keeps``: what it decided to keep."""

    day: Day
    supplement: int
    state: str = "new"
    files: list[tuple[str, int]] = field(default_factory=list)
    is_strict: bool = False
    is_released: bool = False
    turn: int = 0
    keeps: set[Id] = field(default_factory=set)

    @property
    def is_decided(self) -> bool:
        return self.state in ("decided", "unpublishable", "published")


@dataclass(frozen=True)
class Decision:
    """What a batch would decide. ``described``: order of its images in history."""

    samples: Mapping[Id, Said]
    images: Mapping[Image, Said]
    described: Mapping[Image, int]
    stopped: set[Id]

    def count(self, verdict: str) -> int:
        return sum(said.verdict == verdict for said in self.samples.values())

    @property
    def is_held_by_a_strict_guard(self) -> bool:
        """One that lets no removal pass, and a broken sample or two."""
        return self.count("removed") > 0 or self.count("quarantined") > 2


@dataclass
class Settled:
    """What a turn says of images, and the samples that it finds gone from their source."""

    said: dict[Image, Said] = field(default_factory=dict)
    gone: set[Id] = field(default_factory=set)


Had = Callable[[Read], bool]
"""Whether a sample's bytes are in its source as they were read."""


@dataclass
class Model:
    """What is true of the dataset after all that was done."""

    pictures: Mapping[Image, Picture]
    threshold: float
    turn: int = 0
    contents: dict[str, list[list[Read]]] = field(default_factory=dict)
    """Source file -> its versions; the last one is there."""
    away: set[str] = field(default_factory=set)
    """Source files that are lost."""
    batches: list[Batch] = field(default_factory=list)
    reads: dict[Id, Read] = field(default_factory=dict)
    samples: dict[Id, list[Said]] = field(default_factory=dict)
    """What the batch said first, then what was said of this sample alone."""
    images: dict[Image, list[Said]] = field(default_factory=dict)
    order: dict[Image, tuple[int, int]] = field(default_factory=dict)
    """Ties go to the smaller: turn that described it, place there."""
    stopped: set[Id] = field(default_factory=set)
    """Samples that a rule stopped as they were read: they carry nothing, whatever ends."""
    orders: list[Order] = field(default_factory=list)
    waiting: set[Id] = field(default_factory=set)
    """Kept by a decision other than a night that no snapshot has yet."""
    published: frozenset[Id] = frozenset()
    """What the newest snapshot holds."""

    # ------------------------------------------------------------ files and batches

    def put(
        self, uri: str, samples: Sequence[tuple[str, Picture, str | None, str | None]]
    ) -> list[Read]:
        """A new file, or another version of one."""
        reads = [Read(uri, place, *sample) for place, sample in enumerate(samples)]
        self.contents.setdefault(uri, []).append(reads)
        return reads

    def of_day(self, day: Day) -> list[Batch]:
        return sorted((b for b in self.batches if b.day == day), key=lambda b: b.supplement)

    def unread(self, day: Day) -> list[tuple[str, int]]:
        """Files of a day that no decided batch has read as they are now, by name."""
        owned = {file for b in self.batches if b.is_decided for file in b.files}
        mine = {uri: v for uri, v in self.contents.items() if uri.startswith(day)}
        there = {(uri, len(v) - 1) for uri, v in mine.items() if uri not in self.away}
        return sorted(there - owned)

    def plan(self, day: Day, *, supplement: bool, strict: bool) -> Batch | None:
        """The batch that a run works on, with the files it has then; None: there is nothing new."""
        batch = self._chosen(day, supplement)
        if batch is None or batch.is_decided:
            return batch
        there = self.unread(day)
        if batch.state in ("new", "abandoned") or not set(batch.files) <= set(there):
            # planned anew, also where a file that it had read has become another
            batch.files, batch.is_strict, batch.is_released = [], strict, False
        batch.files += [file for file in there if file not in batch.files]
        if batch.state != "held":
            batch.state = "open"
        if batch not in self.batches:
            self.batches.append(batch)
        return batch

    def _chosen(self, day: Day, supplement: bool) -> Batch | None:
        there = self.of_day(day)
        if not supplement:
            return there[0] if there else Batch(day, 0)
        unfinished = [b for b in there if b.state in ("decided", "unpublishable")]
        for batch in there[1:]:
            if batch.state == "decided":
                return batch
        if not there[-1].is_decided:
            return there[-1]
        if not self.unread(day):
            return unfinished[0] if unfinished else None
        return Batch(day, there[-1].supplement + 1)

    # ------------------------------------------------------------ deciding

    def said_of(self, image: Image, turn: int | None = None) -> Said | None:
        """What holds of an image, as of a turn."""
        return _newest(self.images.get(image, ()), turn)

    def decide(self, batch: Batch) -> Decision:
        """What the batch would decide in the next turn."""
        turn = self.turn + 1
        read = [read for uri, version in batch.files for read in self.contents[uri][version]]
        listed = [each for each in read if each.id not in self.samples]
        said = {e.id: Said(turn, "quarantined", "missing_caption") for e in listed if not e.caption}
        stopped = {e.id for e in listed if self.is_ruled(e)}
        said |= dict.fromkeys(stopped, Said(turn, "withdrawn", "withdrawn"))
        able = [e for e in listed if e.id not in said]
        images: dict[Image, Said] = {}
        kept: list[Picture] = []
        for each in sorted(able, key=lambda e: e.preferred):
            image = each.picture.digest
            before = images.get(image) or self.said_of(image)
            if before is None or before.verdict == "free":
                now = self._judge(each.picture, kept, turn)
                if now.verdict == "kept":
                    now = replace(now, carrier=each.id)
                    kept += [each.picture] * (not each.picture.is_plain)
                images[image] = said[each.id] = now
            else:
                said[each.id] = replace(_follow(image, before), turn=turn)
        first = [e.picture.digest for e in able]
        described = {image: first.index(image) for image in images}
        return Decision(said, images, described, stopped)

    def is_ruled(self, read: Read, *, without: Order | None = None) -> bool:
        """Whether a rule in force stops a sample."""
        return any(o.is_in_force and o is not without and o.rules(read) for o in self.orders)

    def _judge(self, picture: Picture, before: Sequence[Picture], turn: int) -> Said:
        """A picture without a verdict, against all that is kept and its batch's kept before it."""
        if picture.fault:
            return Said(turn, "quarantined", picture.fault)
        if picture.is_plain:
            return Said(turn, "kept")
        best, witness = self._nearest(picture, [*self.kept_pictures(), *before])
        if best < self.threshold:
            return Said(turn, "kept")
        return Said(turn, "removed", "near", witness, best, self.threshold)

    @staticmethod
    def _nearest(picture: Picture, kept: Iterable[Picture]) -> tuple[float, Image | None]:
        """The most similar one; ties go to the earlier."""
        best, witness = -math.inf, None
        for other in kept:
            found = similarity(picture, other)
            if found > best:
                best, witness = found, other.digest
        return best, witness

    def kept_pictures(self) -> list[Picture]:
        """What is compared with, in the order of history."""
        kept = [i for i in self.images if (s := self.said_of(i)) and s.verdict == "kept"]
        kept = [i for i in kept if not self.pictures[i].is_plain]
        return [self.pictures[i] for i in sorted(kept, key=self.order.__getitem__)]

    def put_in_force(self, batch: Batch, decision: Decision) -> None:
        """The batch takes the next turn."""
        self.turn += 1
        batch.turn = self.turn
        batch.keeps = {i for i, said in decision.samples.items() if said.verdict == "kept"}
        by_id = {r.id: r for uri, version in batch.files for r in self.contents[uri][version]}
        for each, said in decision.samples.items():
            self.samples[each] = [said]
            self.reads[each] = by_id[each]
        self.stopped |= decision.stopped
        for image, said in decision.images.items():
            self.images.setdefault(image, []).append(said)
            self.order.setdefault(image, (self.turn, decision.described[image]))

    # ------------------------------------------------------------ decisions of people

    def repair(self, lost: Iterable[Id], can_be_had: Had) -> None:
        """A turn in which samples are lost, whose source is gone (``sscd-ops batch repair``)."""
        kept = {i for i in lost if (said := self.verdict(i)) and said.verdict == "kept"}
        settled = self._settle(can_be_had, lost=[self.reads[i].picture.digest for i in kept])
        settled.gone.update(kept)
        self.turn += 1
        self._say(settled)

    def carry_out(self, order: Order, can_be_had: Had) -> None:
        """An order takes the next turn."""
        if order.of is None:
            covered = {i for i, read in self.reads.items() if order.names(read)}
            kept = {i for i in covered if (said := self.verdict(i)) and said.verdict == "kept"}
            lost = [self.reads[i].picture.digest for i in kept]
            settled = self._settle(can_be_had, lost=lost, without=covered)
            order.covered = frozenset(covered)
            own = dict.fromkeys(covered, Said(self.turn + 1, "withdrawn", "withdrawn"))
        else:
            settled, own = self._revert(order.of, can_be_had)
            order.of.turn_to = self.turn + 1
        self.turn += 1
        order.turn = self.turn
        self._say(settled, own)
        if order not in self.orders:
            self.orders.append(order)

    def effect(self, order: Order, can_be_had: Had) -> dict[Id, tuple[str, str]]:
        """The samples whose verdict it would change: before and after. Nothing changes."""
        other = replace(
            self,
            samples={each: [*said] for each, said in self.samples.items()},
            images={image: [*said] for image, said in self.images.items()},
            waiting={*self.waiting},
            orders=[replace(each) for each in self.orders],
        )
        mine = replace(order)
        if order.of is not None:
            mine.of = other.orders[self.orders.index(order.of)]
        other.carry_out(mine, can_be_had)
        before, after = ({i: m.verdict(i) for i in self.samples} for m in (self, other))
        return {
            i: (then.verdict, now.verdict)
            for i in self.samples
            if (then := before[i]) and (now := after[i]) and then.verdict != now.verdict
        }

    def _revert(self, target: Order, can_be_had: Had) -> tuple[Settled, dict[Id, Said]]:
        """What becomes of images when an order ends, and what samples say of themselves then."""
        is_last, turn = target.turn == self.turn, self.turn + 1
        others = [o for o in self.orders if o.is_in_force and o is not target]
        free_of = {
            i
            for i, read in self.reads.items()
            if i in target.covered or (i in self.stopped and target.rules(read))
            if self.samples[i][-1].verdict == "withdrawn"
            if not any(i in o.covered or o.rules(read) for o in others)
        }
        own = {i: replace(self._own_before(i), turn=turn) for i in free_of}
        if is_last:
            gone = {i for i, said in self.samples.items() if said[-1].turn == target.turn}
            own |= dict.fromkeys(gone - target.covered, Said(turn, "follows"))
        again = {i for i, said in own.items() if said.verdict == "follows"}
        settled = self._as_before(target, can_be_had) if is_last else None
        if settled is None:
            images = {self.reads[i].picture.digest for i in again if self.reads[i].caption}
            anew = [i for i in images if (s := self.said_of(i)) and s.verdict == "free"]
            settled = self._settle(can_be_had, anew=anew, again=again)
        return settled, own

    def _own_before(self, each: Id) -> Said:
        """What a sample said of itself before it was withdrawn."""
        if each in self.stopped:
            return Said(0, "quarantined", "rule_ended")
        before = [said for said in self.samples[each][1:] if said.verdict != "withdrawn"]
        return before[-1] if before else Said(0, "follows")

    def _as_before(self, target: Order, can_be_had: Had) -> Settled | None:
        """What its images were before the last turn; None where one cannot be had any more."""
        changed = [i for i, said in self.images.items() if said[-1].turn == target.turn]
        settled = Settled()
        for image in changed:
            before = self.said_of(image, target.turn - 1)
            assert before is not None
            if before.carrier and not can_be_had(self.reads[before.carrier]):
                return None
            settled.said[image] = replace(before, turn=self.turn + 1)
        return settled

    def _say(self, settled: Settled, own: Mapping[Id, Said] | None = None) -> None:
        """Write down what a turn says of images and of samples alone."""
        for image, now in settled.said.items():
            self.images[image].append(now)
            if now.carrier:
                self.waiting.add(now.carrier)
        gone = dict.fromkeys(settled.gone, Said(self.turn, "quarantined", "source_gone"))
        for each, said in ({**(own or {})} | gone).items():
            self.samples[each].append(said)

    def _settle(
        self,
        can_be_had: Had,
        *,
        lost: Iterable[Image] = (),
        anew: Iterable[Image] = (),
        without: Container[Id] = frozenset(),
        again: Container[Id] = frozenset(),
    ) -> Settled:
        """Images lose who carries them, or are decided anew; so is what hung on them.

        ``without``: carry nothing any more; ``again``: may, whatever was said of them alone.
        """
        turn = self.turn + 1
        settled = Settled()

        def bearers(image: Image) -> list[Read]:
            return [r for r in self._bearers(image, again) if r.id not in without]

        def carry(image: Image) -> bool:
            tried = bearers(image)
            carrier = next((each for each in tried if can_be_had(each)), None)
            settled.gone.update(each.id for each in tried[: carrier and tried.index(carrier)])
            settled.said[image] = Said(turn, "free")
            if carrier is not None:
                settled.said[image] = Said(turn, "kept", carrier=carrier.id)
            return carrier is not None

        freed = [image for image in lost if not carry(image)]
        kept = [p for p in self.kept_pictures() if p.digest not in freed]
        asked = self._in_old_order({*self._orphans(freed), *anew})

        def is_near(image: Image, others: Sequence[Picture]) -> tuple[float, Image | None]:
            picture = self.pictures[image]
            return (-math.inf, None) if picture.is_plain else self._nearest(picture, others)

        new = [i for i in asked if is_near(i, kept)[0] < self.threshold]
        hopeless = [i for i in new if not any(map(can_be_had, bearers(i)))]
        kept_again: list[Picture] = []
        for image in sorted(asked, key=lambda i: i in hopeless):
            before = kept_again if image in hopeless else [*kept, *kept_again]
            best, witness = is_near(image, before)
            if best >= self.threshold:
                said = Said(turn, "removed", "near", witness, best, self.threshold)
                settled.said[image] = said
            elif carry(image) and not self.pictures[image].is_plain:
                kept_again.append(self.pictures[image])
        return settled

    def _bearers(self, image: Image, again: Container[Id]) -> list[Read]:
        """Samples that may carry an image, the preferred first."""
        able = [
            (self.samples[each][0].turn, read.preferred, read)
            for each, read in self.reads.items()
            if read.picture.digest == image and not self.is_faulty(read)
            if each in again or len(self.samples[each]) == 1 or self._is_its_images(each)
        ]
        return [read for *_, read in sorted(able, key=lambda each: each[:2])]

    def _is_its_images(self, each: Id) -> bool:
        return self.samples[each][-1].verdict in ("kept", "follows")

    def is_faulty(self, read: Read) -> bool:
        """Whether no image ever speaks for it."""
        return read.caption is None or read.id in self.stopped

    def _orphans(self, freed: Sequence[Image]) -> list[Image]:
        """Images that are removed because of some."""
        return [
            image
            for image in self.images
            if (said := self.said_of(image)) and said.verdict == "removed" and said.witness in freed
        ]

    def _in_old_order(self, images: Iterable[Image]) -> list[Image]:
        found = []
        for image in images:
            turn = self.images[image][0].turn
            mine = [r for i, r in self.reads.items() if self.samples[i][0].turn == turn]
            able = [r for r in mine if not self.is_faulty(r) and r.picture.digest == image]
            found.append((turn, min(read.preferred for read in able), image))
        return [image for *_, image in sorted(found)]

    # ------------------------------------------------------------ what holds

    def verdict(self, each: Id, turn: int | None = None) -> Said | None:
        """What holds of a sample, as of a turn; None before it was read."""
        base = self.samples[each][0]
        if turn is not None and base.turn > turn:
            return None
        own = _newest(self.samples[each], turn)
        assert own is not None
        read = self.reads[each]
        since = own.turn
        if own is not base and own.verdict != "follows":
            return own
        image = read.picture.digest
        said = None if self.is_faulty(read) else self.said_of(image, turn)
        if said is None or said.turn <= base.turn:
            said = base
        elif said.carrier != each:
            said = _follow(image, said)
        return replace(said, turn=max(said.turn, since))

    def kept(self) -> set[Id]:
        return {i for i in self.samples if (s := self.verdict(i)) and s.verdict == "kept"}

    def publish(self, batch: Batch | None) -> None:
        """A snapshot is made, by a batch's commit or by another decision."""
        added = batch.keeps if batch is not None else set()
        self.published = frozenset((self.published | added | self.waiting) & self.kept())
        self.waiting.clear()


def similarity(one: Picture, other: Picture) -> float:
    """Cosine of two stored vectors, in float64."""
    a, b = one.vector, other.vector
    assert a is not None
    assert b is not None
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def _follow(image: Image, before: Said) -> Said:
    """A further sample of an image that has a verdict."""
    if before.verdict != "kept":
        return before
    return Said(before.turn, "removed", "exact", image, 1.0)


def _newest(said: Iterable[Said], turn: int | None) -> Said | None:
    return next((s for s in reversed([*said]) if turn is None or s.turn <= turn), None)
