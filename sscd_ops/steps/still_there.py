"""Which samples can still be published.

Their members are in the source, or in the archive, as they were decided on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from sscd_ops.catalog import forgotten
from sscd_ops.catalog.bearers import Bearer
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.errors import PUT_BACK, FileMismatch, SourceChanged
from sscd_ops.steps.archive_reading import ArchiveReader
from sscd_ops.steps.looking import note
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.shard_writing import SourceShards, read_samples, with_members


@dataclass(frozen=True)
class Found:
    """Who can carry an image: ``bearer``, None where nobody; ``gone``: who was asked before it."""

    bearer: Bearer | None
    gone: Sequence[Bearer]


class StillThere:
    """Reads samples as publish does, source shard by source shard, and each of them once.

    Args:
        parts: the real parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.sources = SourceShards(parts)
        self._archive = ArchiveReader(parts)
        self._said: dict[UUID, str] = {}

    def gone(self, samples: Iterable[PlacedSample]) -> dict[UUID, str]:
        """Why some of these samples cannot be had, by their ids; of the others nothing.

        Raises:
            StoreUnavailable: storage did not answer.
        """
        asked = {sample.sample_id: sample for sample in samples}
        new = [sample for number, sample in asked.items() if number not in self._said]
        new.sort(key=lambda sample: (sample.shard_id, sample.position))
        for _, here in groupby(new, key=lambda sample: sample.shard_id):
            self._read(list(here))
        return {number: self._said[number] for number in asked if self._said[number]}

    def first(self, bearers: Mapping[bytes, Sequence[Bearer]]) -> dict[bytes, Found]:
        """For each image the first of its bearers that can be had."""
        answer: dict[bytes, Found] = {}
        place = 0
        while len(answer) < len(bearers):
            left = {image: some for image, some in bearers.items() if image not in answer}
            asked = {image: some[place] for image, some in left.items() if place < len(some)}
            gone = self.gone(bearer.sample for bearer in asked.values())
            for image, some in left.items():
                if image not in asked:
                    answer[image] = Found(None, some)
                elif asked[image].sample.sample_id not in gone:
                    answer[image] = Found(asked[image], some[:place])
            place += 1
        return answer

    def _read(self, here: Sequence[PlacedSample]) -> None:
        """Read samples of one source shard, in its order; note whether all were there."""
        work, shard = self.sources.of(here)[here[0].shard_id]
        with self._parts.catalog.begin() as conn:
            ids = [sample.sample_id for sample in here]
            erased = forgotten.erased_of(conn, work.batch.dataset_id, ids)
        self._said |= dict.fromkeys(erased, "its text was erased: it is not published again")
        here = [sample for sample in here if sample.sample_id not in erased]
        if not here:
            return
        source = self._parts.source(work.options.source(shard.source), work.options.limits)
        try:
            samples = list(with_members(self._parts, here, self.sources.of(here)))
        except (SourceChanged, FileMismatch) as error:
            self._said |= {sample.sample_id: _reason(error) for sample in here}
            return
        for sample, found in zip(
            samples, read_samples(source, shard, samples, self._archive), strict=True
        ):
            said = "" if isinstance(found, list) else _reason(found)
            self._said[sample.placed.sample_id] = said
        note(self._parts, [(shard.shard_id, shard.shard_id not in self._archive.lacking)])


def _reason(error: Exception) -> str:
    """What is wrong, without the remedy that does not help here."""
    return str(error).removesuffix(f": {PUT_BACK}")
