"""``withdraw --forget``: descriptors and hashes of withdrawn pictures go too, with all their text.

Rows of segments and of descriptor files become zeros, which are near nothing; ids, which are
digests, stay. So equal bytes are known for ever, near copies are not: nothing can stop them. An
image that another sample bears which is not withdrawn keeps its descriptor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from sqlalchemy.engine import Connection

from sscd_ops.catalog import (
    condemned,
    datasets,
    events,
    forgotten,
    named_files,
    segments,
    shards,
    withdrawn_set,
)
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.forgotten import IndexFile, ReadFile, ReadSample
from sscd_ops.core.descriptor_file import write_blank
from sscd_ops.core.segment_file import blank_rows, read_kept, write_mask
from sscd_ops.errors import CommitConflict, FileMismatch
from sscd_ops.model import StoredFile
from sscd_ops.plurals import counted
from sscd_ops.steps import turns
from sscd_ops.steps.damage import noting, rows_of_pictures
from sscd_ops.steps.orders.erasing import erase_text, list_erased, need_withdrawn
from sscd_ops.steps.orders.removing import remove_files
from sscd_ops.steps.parts import Parts
from sscd_ops.steps.snapshots import check_root
from sscd_ops.steps.turns import Seen


@dataclass
class Forgotten:
    """What was forgotten.

    ``images``: so many have no descriptor any more; ``kept_images``: so many keep theirs, for a
    sample that is not withdrawn has the same bytes, or another order needs it. ``manifests``,
    ``segments``, ``descriptors``: number of source shard or segment -> sha256 of its file now.
    ``rows``: of the catalog that were blanked. ``removed``: files, name -> bytes. ``left``: what
    could not be done, and what follows.
    """

    dataset: str
    samples: int
    images: int = 0
    kept_images: int = 0
    manifests: dict[int, str] = field(default_factory=dict)
    segments: dict[int, str] = field(default_factory=dict)
    descriptors: dict[int, str] = field(default_factory=dict)
    rows: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def forget(
    parts: Parts,
    name: str,
    samples: Collection[UUID],
    pictures: Collection[bytes] = (),
    held: Collection[bytes] = (),
    *,
    actor: str,
    why: str,
) -> Forgotten:
    """Take descriptors, hashes and text of withdrawn samples away; a retry goes on where it was.

    What is published is left to ``purging``.

    Args:
        parts: the real parts.
        name: the dataset's.
        samples: withdrawn ones.
        pictures: sha256 of entries of the withdrawn set, of which that alone stays.
        held: pictures and images that keep theirs: another order in force stops copies by them.
        actor: who asked, for the event.
        why: the reason.

    Raises:
        UsageError: a sample is not withdrawn.
        FileMismatch: a live segment is damaged.
        CommitConflict: others were quicker many times over (retried).
    """
    with parts.catalog.begin() as conn:
        dataset = datasets.need(conn, name)
        check_root(parts, conn, dataset)
    read = need_withdrawn(parts, dataset, samples)
    list_erased(parts, dataset, read.keys())
    done = Forgotten(name, len(read))
    blanker = _Blanker(parts, dataset, read, pictures, held)
    turns.make_generation(parts, blanker)
    bearers = [each for each in blanker.bearers if each.image in blanker.images]
    done.images = len(blanker.images)
    done.kept_images = len({each.image for each in read.values() if each.image}) - done.images
    done.segments = blanker.segments
    old = _blank_descriptors(parts, dataset, bearers, blanker.images, done)
    erased = erase_text(parts, dataset, list(read.values()))
    done.manifests, done.rows = erased.manifests, erased.rows
    done.left += erased.left
    before = {f"{name}/manifests/{sha256}.parquet" for sha256 in erased.before}
    copies = {*before, *old, *blanker.before}
    parts.store.drop_copies({each.rpartition("/")[2].partition(".")[0] for each in copies})
    # those of the index and of descriptors were condemned as they were replaced
    done.removed, at_work = remove_files(
        parts, dataset, [], before, folders=("index/segments", "descriptors")
    )
    done.left += [f"{each} is being written by another process: run this again" for each in at_work]
    done.left.append(
        f"near copies of {counted(done.images, 'picture')} cannot be found any more, nor stopped"
        " when they come; equal bytes are"
    )
    if done.kept_images:
        done.left.append(
            f"{counted(done.kept_images, 'picture keeps', 'pictures keep')} descriptor and hash:"
            " samples that are not withdrawn have the same bytes, or another order in force stops"
            " copies by them; once that is over, apply this order again"
        )
    if blanker.changed or old or done.rows or done.removed:
        _record(parts, dataset, done, actor, why)
    return done


class _Blanker:
    """The index without descriptors of some images (``turns.GenerationMaker``).

    Nights that worked with the one before work it out again: one may be about to keep such an
    image, which was free, by its descriptor.
    """

    def __init__(
        self,
        parts: Parts,
        dataset: Dataset,
        read: Mapping[UUID, ReadSample],
        pictures: Collection[bytes],
        held: Collection[bytes],
    ) -> None:
        self._parts, self._dataset, self._read = parts, dataset, read
        self._pictures = set(pictures).difference(held)
        self._held = set(held)
        self._masks: dict[int, tuple[StoredFile, int]] = {}
        self.dataset_id = dataset.dataset_id
        self.images: set[bytes] = set()
        """Those that are forgotten."""
        self.bearers: list[ReadSample] = []
        """All samples that bear an image of those that were asked for."""
        self.segments: dict[int, str] = {}
        """Segment -> sha256 of its descriptors now."""
        self.before: dict[str, int] = {}
        """Files of segments that were replaced or merged, name -> bytes."""
        self.changed = False

    def work_out(self, seen: Seen) -> list[tuple[IndexFile, Mapping[str, StoredFile]]]:
        """Write the files of segments anew that hold one of the images."""
        parts = self._parts
        asked = {each.image for each in self._read.values() if each.image is not None}
        with parts.catalog.begin() as conn:
            self.bearers = forgotten.bearers_of(conn, self.dataset_id, asked)
            gone = forgotten.withdrawn_of(conn, self.dataset_id, self.bearers)
            kept = {
                each.image
                for each in self.bearers
                if each.sample_id not in gone and each.sample_id not in self._read
            }
            self.images = asked - kept - self._held
            decisions = {each.decision_id for each in self.bearers if each.image in self.images}
            held = forgotten.segments_of(conn, self.dataset_id, decisions)
            named = named_files.all_names(conn, self.dataset_id)
        answer: list[tuple[IndexFile, Mapping[str, StoredFile]]] = []
        self.segments, self.before = {}, {}
        folder = f"{self._dataset.name}/index/segments"
        for segment in held:
            if segment.files["descriptors"].name not in named:  # merged into another one since
                self.before |= {file.name: file.bytes for file in segment.files.values()}
                continue
            files = blank_rows(parts.store, folder, segment.files, self.images)
            self.segments[segment.segment_id] = files["descriptors"].sha256
            if files != segment.files:
                answer.append((segment, files))
                self.before |= {
                    file.name: file.bytes
                    for role, file in segment.files.items()
                    if files[role] != file
                }
        return answer + self._of_set(seen)

    def _of_set(self, seen: Seen) -> list[tuple[IndexFile, Mapping[str, StoredFile]]]:
        """Likewise the segments of the withdrawn set; such a picture is in no mask any more."""
        parts, folder = self._parts, f"{self._dataset.name}/index"
        with parts.catalog.begin() as conn:
            live = segments.live_segments(
                conn, self.dataset_id, seen.dataset.generation, "withdrawn"
            )
        answer: list[tuple[IndexFile, Mapping[str, StoredFile]]] = []
        self._masks = {}
        for segment in live:
            said = rows_of_pictures(parts, seen.dataset, segment)
            gone = {row: each for row, each in said.items() if each in self.entries}
            if not gone:
                continue
            kept = read_kept(parts.store, segment)
            kept[list(gone)] = False
            files = blank_rows(
                parts.store, f"{folder}/segments", segment.files, set(gone.values()), ids_too=True
            )
            mask = write_mask(parts.store, f"{folder}/masks", kept)
            self._masks[segment.segment_id] = mask, int(kept.sum())
            self.segments[segment.segment_id] = files["descriptors"].sha256
            self.before |= {
                file.name: file.bytes for role, file in segment.files.items() if files[role] != file
            }
            answer.append((IndexFile(segment.segment_id, segment.rows, segment.files), files))
        return answer

    @property
    def entries(self) -> set[bytes]:
        """The pictures of which the withdrawn set keeps the sha256 alone."""
        return self.images | self._pictures

    def put(
        self,
        conn: Connection,
        worked: list[tuple[IndexFile, Mapping[str, StoredFile]]],
        generation: int,
    ) -> bool:
        """Name them, and say of the images that they have no descriptor.

        Raises:
            CommitConflict: one of them is kept by now.
        """
        if forgotten.any_kept(conn, self.dataset_id, self.images):
            raise CommitConflict("a picture to be forgotten was kept meanwhile: run this again")
        changed = forgotten.forget_images(conn, self.dataset_id, self.images)
        for segment, files in worked:
            if not forgotten.replace_segment(conn, segment, files):
                raise CommitConflict(
                    f"segment {segment.segment_id} was written anew meanwhile: run this again"
                )
        withdrawn_set.forget_rows(conn, self.dataset_id, self.entries)
        for number, (mask, kept) in self._masks.items():
            segments.add_mask(conn, number, generation, mask, kept)
        # whoever comes after a kill finds by this what is to be removed
        condemned.condemn(conn, self.dataset_id, self.before)
        self.changed |= bool(changed or worked)
        return bool(worked)


def _blank_descriptors(
    parts: Parts,
    dataset: Dataset,
    bearers: Collection[ReadSample],
    images: Collection[bytes],
    done: Forgotten,
) -> set[str]:
    """Write descriptor files anew of source shards that bear some images; names of those before.

    Of a night that is not decided they are left to it: it may be about to decide such an image.
    """
    with parts.catalog.begin() as conn:
        shard_ids = {each.shard_id for each in bearers}
        files = forgotten.files_read(conn, dataset.dataset_id, shard_ids)
    before: set[str] = set()
    for file in files:
        if file.descriptors is None or not file.counts:
            continue
        if not file.decided:
            done.left.append(
                f"batch {file.batch_id} is not decided, and may have described such a picture: run"
                " this again once it is"
            )
            continue
        with noting(done.left):
            _blank_file(parts, dataset, file, file.descriptors, images, done, before)
    return before


def _blank_file(
    parts: Parts,
    dataset: Dataset,
    file: ReadFile,
    descriptors: StoredFile,
    images: Collection[bytes],
    done: Forgotten,
    before: set[str],
) -> None:
    try:
        path = parts.store.local(descriptors)
    except FileMismatch:
        return  # lost: what is made anew is made from the segment, which is blank
    write = partial(_write_blank, path, images)
    written = parts.store.put(f"{dataset.name}/descriptors", ".parquet", write)
    done.descriptors[file.shard_id] = written.sha256
    if written.sha256 != descriptors.sha256:
        with parts.catalog.begin() as conn:
            shards.replace_descriptors(conn, file.shard_id, descriptors, written)
            sizes = {descriptors.name: descriptors.bytes}
            condemned.condemn(conn, dataset.dataset_id, sizes)
        before.add(descriptors.name)


def _write_blank(path: Path, images: Collection[bytes], stream: BinaryIO) -> None:
    write_blank(path, stream, images)


def _record(parts: Parts, dataset: Dataset, done: Forgotten, actor: str, why: str) -> None:
    with parts.catalog.begin() as conn:
        events.add_event(
            conn,
            dataset.dataset_id,
            "forgotten",
            actor=actor,
            why=why,
            details={
                "samples": done.samples,
                "images": done.images,
                "kept_images": done.kept_images,
                **{
                    what: {str(number): sha256 for number, sha256 in written.items()}
                    for what, written in (
                        ("manifests", done.manifests),
                        ("segments", done.segments),
                        ("descriptors", done.descriptors),
                    )
                },
            },
        )
