"""An order worked out: rows of changes, and what follows from them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog.subjects import Named
from sscd_ops.core.changes import Change
from sscd_ops.core.withdrawn import Pictures
from sscd_ops.plurals import counted
from sscd_ops.steps.parts import Work
from sscd_ops.steps.publish_plan import CarriedPlan

Effects = Mapping[bytes, tuple[str, str]]
"""Sample (16 bytes) -> its verdict before and after."""


@dataclass(frozen=True)
class Ordered:
    """An order worked out for one turn and generation. ``masks``: as ``losing.Settled``.

    ``pictures``: those that it puts into the withdrawn set.
    """

    work: Work
    """The newest decided night: its configuration holds."""
    turn: int
    """That it would take."""
    changes: Sequence[Change]
    planned: CarriedPlan
    masks: Mapping[int, NDArray[np.bool_]]
    effects: Effects
    counts: Mapping[str, Any]
    kept: int
    """Images that are kept now."""
    pictures: Pictures | None = None

    @property
    def effect(self) -> str:
        """The digest of what changes: sample, verdict before, verdict after."""
        return digest_of(self.effects)


def digest_of(effects: Effects) -> str:
    """The digest of an effect, in whatever order it was found."""
    digest = hashlib.sha256()
    for subject in sorted(effects):
        before, after = effects[subject]
        digest.update(f"{subject.hex()} {before} {after}\n".encode())
    return digest.hexdigest()


def effects_of(before: Iterable[Named], after: Mapping[UUID, str]) -> dict[bytes, tuple[str, str]]:
    """Of samples as they are now, those whose verdict is another one then."""
    return {
        named.sample_id.bytes: (named.verdict, after[named.sample_id])
        for named in before
        if after.get(named.sample_id, named.verdict) != named.verdict
    }


def by_source(samples: Iterable[Named], effects: Effects) -> dict[str, dict[str, int]]:
    """Source -> ``kept -> withdrawn`` and the like -> how many samples."""
    counted: dict[str, Counter[str]] = {}
    for named in samples:
        change = effects.get(named.sample_id.bytes)
        if change is not None:
            counted.setdefault(named.source, Counter())[" -> ".join(change)] += 1
    return {source: dict(sorted(counts.items())) for source, counts in sorted(counted.items())}


def difference(before: Effects, now: Effects) -> str:
    """In words, how an effect differs from the one that was shown."""
    gone = before.keys() - now.keys()
    new = now.keys() - before.keys()
    other = [subject for subject in before.keys() & now.keys() if before[subject] != now[subject]]
    said = []
    for count, one, many in (
        (len(new), "sample more that changes", "samples more that change"),
        (len(gone), "sample that changes no longer", "samples that change no longer"),
        (len(other), "sample that changes otherwise", "samples that change otherwise"),
    ):
        if count:
            said.append(counted(count, one, many))
    examples = [str(UUID(bytes=subject)) for subject in sorted([*new, *gone, *other])[:3]]
    return f"{', '.join(said)} (such as {', '.join(examples)})"
