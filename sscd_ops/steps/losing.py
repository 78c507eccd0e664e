"""What becomes of images that lose the sample that carries them, and of what went because of them.

The next preferred sample with the same bytes carries the image, of those whose own can be had.
Where there is none the image has no verdict, and what was removed because of it is decided anew
(``steps.orphans``). All kinds of decisions that take samples away work by this one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sscd_ops.catalog.bearers import Bearer, bearers, in_old_order, orphans
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.placements import PlacedSample
from sscd_ops.core.changes import Carried, Change
from sscd_ops.core.descriptor_file import bytes_rows
from sscd_ops.core.segment_file import write_mask
from sscd_ops.model import Fault, StoredFile
from sscd_ops.steps import history
from sscd_ops.steps.history import Origin
from sscd_ops.steps.orphans import ChangedIndex, decide_anew
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.publish_plan import CarriedPlan, plan_carried
from sscd_ops.steps.still_there import StillThere
from sscd_ops.steps.withdrawn_set import withdrawn_again


@dataclass(frozen=True)
class Asked:
    """What a decision takes away, and what it gives back.

    ``lost``: kept images whose carrier goes. ``out``: images that are to be kept no longer, whoever
    has their bytes; what was removed because of them is left to the caller. ``anew``: images that
    are to be decided like newcomers. ``without``: samples (16 bytes) that can carry nothing from
    now on; ``again``: those that can, whatever was decided of them alone. ``gone``: samples, by
    their 16 bytes, that are known to be gone from their source. ``ended``: an order whose withdrawn
    pictures do not count, since it ends; 0: all do.
    """

    lost: Sequence[bytes] = ()
    out: Sequence[bytes] = ()
    anew: Sequence[bytes] = ()
    without: Container[bytes] = frozenset()
    again: Iterable[bytes] = ()
    gone: Mapping[bytes, PlacedSample] = field(default_factory=dict)
    ended: int = 0


@dataclass
class Settled:
    """What becomes of images and samples.

    ``gone``: samples that cannot be had, by their ids. ``carried``: images that are kept by another
    sample than before, or again. ``removed``: images, because of another one. ``withdrawn``:
    images, because of pictures of the withdrawn set. ``freed``: images that nobody carries.
    ``able``: image -> who may carry it. ``masks``: segment number -> bool (n,), of segments in
    which something changed.
    """

    gone: dict[bytes, PlacedSample] = field(default_factory=dict)
    carried: dict[bytes, Bearer] = field(default_factory=dict)
    removed: dict[bytes, Change] = field(default_factory=dict)
    withdrawn: dict[bytes, Change] = field(default_factory=dict)
    freed: list[bytes] = field(default_factory=list)
    able: dict[bytes, list[Bearer]] = field(default_factory=dict)
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)

    def ask(self, there: StillThere, able: Mapping[bytes, Sequence[Bearer]]) -> None:
        """Say who carries each image from now on."""
        for image, found in there.first(able).items():
            self.gone |= {bearer.sample.sample_id.bytes: bearer.sample for bearer in found.gone}
            if found.bearer is None:
                self.freed.append(image)
            else:
                self.carried[image] = found.bearer

    @property
    def carriers(self) -> list[PlacedSample]:
        """The samples that carry an image from now on."""
        return [bearer.sample for bearer in self.carried.values()]

    def changes(self, planned: CarriedPlan) -> Iterable[Change]:
        """The verdicts of images: free, removed, kept in the slots that are planned."""
        for image in self.freed:
            yield Change("free", image=image)
        yield from self.removed.values()
        yield from self.withdrawn.values()
        for image, bearer in self.carried.items():
            sample = bearer.sample
            slot = planned.slots[sample.sample_id]
            carried = Carried(
                sample.sample_id.bytes, bearer.decision_id, sample.shard_id, sample.position, slot
            )
            yield Change("kept", image=image, carried=carried)


def settle(parts: Parts, work: Work, dataset: Dataset, there: StillThere, asked: Asked) -> Settled:
    """Work out what becomes of images that lose their carrier, or go, or come back.

    Args:
        parts: the real parts.
        work: the newest decided night: its configuration holds.
        dataset: its row, as it was read.
        there: who can be had.
        asked: what is taken away and given back.
    """

    def who(images: Sequence[bytes]) -> dict[bytes, list[Bearer]]:
        with parts.catalog.read() as conn:
            found = bearers(conn, dataset.dataset_id, images, list(asked.again))
        return {
            image: [b for b in some if b.sample.sample_id.bytes not in asked.without]
            for image, some in found.items()
        }

    with parts.catalog.read() as conn:
        live = history.live_of(history.origins_of(conn, work, dataset))
    settled = Settled(dict(asked.gone), able=who(asked.lost))
    settled.ask(there, settled.able)
    index = ChangedIndex(parts, Origin(dataset.dataset_id, dataset.turn, live))
    index.clear(bytes_rows([*settled.freed, *asked.out], 32))
    with parts.catalog.read() as conn:
        ids = orphans(conn, dataset.dataset_id, settled.freed)
        if asked.anew:
            ids = in_old_order(conn, dataset.dataset_id, {*ids, *asked.anew})
    out = set(asked.out)
    settled.withdrawn = withdrawn_again(parts, work, dataset, ids, asked.ended)
    ids = [image for image in ids if image not in out and image not in settled.withdrawn]
    able = who(ids)
    settled.able |= able | who(list(settled.withdrawn))
    _decide_anew(parts, work, index, there, ids, able, settled)
    index.keep(bytes_rows([image for image in ids if image in settled.carried], 32))
    settled.masks = index.masks
    return settled


def _decide_anew(
    parts: Parts,
    work: Work,
    index: ChangedIndex,
    there: StillThere,
    ids: Sequence[bytes],
    able: Mapping[bytes, Sequence[Bearer]],
    settled: Settled,
) -> None:
    """Decide images whose witness is free by now, in their old order."""
    asked = Settled()

    def can_be_published(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        asked.ask(there, {ids[n]: able[ids[n]] for n in numbers.tolist()})
        return np.array([ids[n] in asked.carried for n in numbers.tolist()], bool)

    anew = decide_anew(parts, work, index, bytes_rows(ids, 32), can_be_published)
    for n, image in enumerate(ids):
        if anew.kept[n] or anew.measure[n] < 0:
            settled.ask(there, {image: able[image]})
            continue
        by = work.measures[anew.measure[n]]
        settled.removed[image] = Change(
            "removed",
            image=image,
            reason=by.reason,
            witness=anew.witness[n].tobytes(),
            similarity=float(anew.similarity[n]),
            threshold=by.threshold,
        )


def gone_changes(there: StillThere, settled: Settled) -> Iterable[Change]:
    """``source_gone``, of each sample that cannot be had, and why not."""
    for number, sample in settled.gone.items():
        said = there.gone([sample])[sample.sample_id]
        yield Change("quarantined", sample=number, reason=Fault.SOURCE_GONE, message=said)


def plan_settled(
    parts: Parts, work: Work, turn: int, there: StillThere, settled: Settled
) -> CarriedPlan:
    """The output shards of what is kept anew, named by the turn."""
    return plan_carried(parts, work, turn, settled.carriers, there.sources)


def write_masks(
    parts: Parts, work: Work, masks: Mapping[int, NDArray[np.bool_]]
) -> dict[int, tuple[StoredFile, int]]:
    """Segment number -> its new mask as a file, and how many rows that keeps."""
    folder = f"{work.folder}/index/masks"
    return {
        number: (write_mask(parts.store, folder, mask), int(mask.sum()))
        for number, mask in masks.items()
    }
