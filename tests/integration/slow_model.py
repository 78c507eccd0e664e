"""A dataset's memory as a person would keep it: what the state machine holds the product against.

Written from the documentation alone, in dicts and loops. Of the product it takes sample ids and the
descriptors of pictures; similarities are its own, in float64.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """A sample in a source file. Without a caption it is faulty, whatever its picture is."""

    uri: str
    position: int
    key: str
    picture: Picture
    caption: str | None

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

    def count(self, verdict: str) -> int:
        return sum(said.verdict == verdict for said in self.samples.values())

    @property
    def is_held_by_a_strict_guard(self) -> bool:
        """One that lets no removal pass, and a broken sample or two."""
        return self.count("removed") > 0 or self.count("quarantined") > 2


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
    waiting: set[Id] = field(default_factory=set)
    """Kept by a decision other than a night that no snapshot has yet."""
    published: frozenset[Id] = frozenset()
    """What the newest snapshot holds."""

    # ------------------------------------------------------------ files and batches

    def put(self, uri: str, samples: Sequence[tuple[str, Picture, str | None]]) -> list[Read]:
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
        images: dict[Image, Said] = {}
        kept: list[Picture] = []
        for each in sorted((e for e in listed if e.caption), key=lambda e: e.preferred):
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
        first = [e.picture.digest for e in listed if e.caption]
        described = {image: first.index(image) for image in images}
        return Decision(said, images, described)

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
        for image, said in decision.images.items():
            self.images.setdefault(image, []).append(said)
            self.order.setdefault(image, (self.turn, decision.described[image]))

    # ------------------------------------------------------------ decisions of people

    def change(self, changes: Mapping[Id, str]) -> None:
        """An order takes the next turn (``orders.Order``): ``free``, ``withdrawn`` or ``kept``."""
        self.turn += 1
        for each, verdict in changes.items():
            image = self.reads[each].picture.digest
            if verdict == "kept":
                said = Said(self.turn, "kept", carrier=each)
                self.waiting.add(each)
            elif verdict == "free":
                said = Said(self.turn, "free")
                self.samples[each].append(Said(self.turn, "withdrawn", "withdrawn"))
            else:
                said = Said(self.turn, "withdrawn", "withdrawn")
            self.images[image].append(said)

    def repair(self, lost: Iterable[Id], can_be_had: Callable[[Read], bool]) -> None:
        """A turn in which samples are lost, whose source is gone (``sscd-ops batch repair``)."""
        self.turn += 1
        gone: set[Id] = set()
        said: dict[Image, Said] = {}

        def carry(image: Image) -> bool:
            tried = self._bearers(image)
            carrier = next((each for each in tried if can_be_had(each)), None)
            gone.update(each.id for each in tried[: carrier and tried.index(carrier)])
            said[image] = Said(self.turn, "free")
            if carrier is not None:
                said[image] = Said(self.turn, "kept", carrier=carrier.id)
            return carrier is not None

        freed = []
        for each in lost:
            verdict, image = self.verdict(each), self.reads[each].picture.digest
            if verdict is not None and verdict.verdict == "kept":
                gone.add(each)
                if not carry(image):
                    freed.append(image)
        kept = [p for p in self.kept_pictures() if p.digest not in freed]
        orphans = self._orphans(freed)
        new = [i for i in orphans if self._nearest(self.pictures[i], kept)[0] < self.threshold]
        hopeless = [i for i in new if not any(map(can_be_had, self._bearers(i)))]
        again: list[Picture] = []
        for image in sorted(orphans, key=lambda i: i in hopeless):
            before = again if image in hopeless else [*kept, *again]
            best, witness = self._nearest(self.pictures[image], before)
            if best >= self.threshold:
                said[image] = Said(self.turn, "removed", "near", witness, best, self.threshold)
            elif carry(image):
                again.append(self.pictures[image])
        for image, now in said.items():
            self.images[image].append(now)
            if now.carrier:
                self.waiting.add(now.carrier)
        for each in gone:
            self.samples[each].append(Said(self.turn, "quarantined", "source_gone"))

    def _bearers(self, image: Image) -> list[Read]:
        """Samples that may carry an image, the preferred first."""
        able = [
            (self.samples[each][0].turn, read.preferred, read)
            for each, read in self.reads.items()
            if read.picture.digest == image and read.caption is not None
            if len(self.samples[each]) == 1 or self.samples[each][-1].verdict == "kept"
        ]
        return [read for *_, read in sorted(able, key=lambda each: each[:2])]

    def _orphans(self, freed: Sequence[Image]) -> list[Image]:
        """Images that are removed because of some, in their old order."""
        found = []
        for image in self.images:
            said = self.said_of(image)
            if said is not None and said.verdict == "removed" and said.witness in freed:
                turn = self.images[image][0].turn
                mine = [r for i, r in self.reads.items() if self.samples[i][0].turn == turn]
                best = min(r.preferred for r in mine if r.caption and r.picture.digest == image)
                found.append((turn, best, image))
        return [image for *_, image in sorted(found)]

    def lonely(self) -> list[Id]:
        """Kept samples that nothing was removed for, and whose image nobody else has."""
        holding = {i: said for i in self.samples if (said := self.verdict(i)) is not None}
        witnesses = {said.witness for said in holding.values()}
        return sorted(
            each
            for each, said in holding.items()
            if said.verdict == "kept" and self.reads[each].picture.digest not in witnesses
        )

    # ------------------------------------------------------------ what holds

    def verdict(self, each: Id, turn: int | None = None) -> Said | None:
        """What holds of a sample, as of a turn; None before it was read."""
        base = self.samples[each][0]
        if turn is not None and base.turn > turn:
            return None
        own = _newest(self.samples[each], turn)
        read = self.reads[each]
        if own is not base or read.caption is None:
            return own
        image = read.picture.digest
        said = self.said_of(image, turn)
        if said is None or said.turn <= base.turn:
            return base
        return said if said.carrier == each else _follow(image, said)

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
