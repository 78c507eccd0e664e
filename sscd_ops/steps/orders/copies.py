"""`withdraw --and-copies`: the pictures that an order names, and what becomes of what is near them.

Named pictures become entries of the withdrawn set. Every image that a night described, kept or
not, is compared with them, exactly, by the measures of the newest decided night: what is near is
withdrawn with them. Images that were removed because of one of all these and are not among them
are quarantined, ``near_withdrawn``, until a person decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from sscd_ops.catalog import lookups
from sscd_ops.catalog.bearers import orphans
from sscd_ops.catalog.datasets import Dataset
from sscd_ops.catalog.orders import Subject
from sscd_ops.core.changes import Change
from sscd_ops.core.descriptor_file import bytes_rows
from sscd_ops.core.measures import HASHES, Measure
from sscd_ops.core.rows import WITHDRAWN_FOR
from sscd_ops.core.segment_file import OpenSegment, open_segment
from sscd_ops.core.withdrawn import Pictures
from sscd_ops.errors import UsageError
from sscd_ops.model import Fault, Matches, Segment
from sscd_ops.plurals import counted
from sscd_ops.ports import HashSearch, SearchBackend
from sscd_ops.steps.embed import open_embedder
from sscd_ops.steps.parts import Parts, Work
from sscd_ops.steps.queries import open_backend
from sscd_ops.steps.withdrawn_set import EXACT, blank_pictures, known_pictures

_LISTED = 1024
"""Images of a segment that are listed for a picture at first; one that has more is asked again."""
_WORTH_CODES = 20
"""Fewer pictures are compared with descriptors sooner than with codes: one takes 0.9 s of CPU in
1,000,000 rows, by `exact`'s codes 3.4; a hundred take 10 and 3.3."""
_NEAR_WITHDRAWN = "removed because of an image that was withdrawn as a copy of a withdrawn picture"


# ---------------------------------------------------------------- the pictures


def describe(parts: Parts, work: Work, files: Sequence[tuple[str, bytes]]) -> list[Subject]:
    """Describe and hash pictures that were given as files, as nights do.

    Args:
        parts: the real parts.
        work: whose model.
        files: name and bytes of each.

    Raises:
        UsageError: one is no picture that can be decoded; says why.
    """
    if not files:
        return []
    answer: list[Subject] = []
    with open_embedder(parts, work, perceptual=True) as embedder:
        for chunk in embedder.embed(data for _, data in files):
            rows = chunk.descriptors.astype("<f2")
            for row in range(len(rows)):
                name, data = files[len(answer)]
                digest = hashlib.sha256(data).digest()
                if row in chunk.faults:
                    code, message = chunk.faults[row]
                    raise UsageError(
                        f"--picture {name}: {code}: {message}. What cannot be looked at has no"
                        f" copies: name its bytes alone with --sha256 {digest.hex()}"
                    )
                if row in chunk.plain or chunk.hashes is None:
                    answer.append(Subject("picture", digest, name))
                    continue
                described = rows[row].tobytes(), chunk.hashes[row].tobytes()
                answer.append(Subject("picture", digest, name, None, *described))
    return answer


def given_pictures(subjects: Sequence[Subject], dimensions: int) -> Pictures:
    """The pictures among what an order names, as ``describe`` answered them."""
    given = [subject for subject in subjects if subject.kind == "picture"]
    pictures = blank_pictures([subject.digest for subject in given], dimensions)
    for n, subject in enumerate(given):
        if subject.descriptor is not None and subject.hash is not None:
            pictures.described[n] = True
            pictures.descriptors[n] = np.frombuffer(subject.descriptor, "<f2")
            pictures.hashes[n] = np.frombuffer(subject.hash, np.uint8)
    return pictures


def gather_pictures(
    parts: Parts,
    work: Work,
    dataset: Dataset,
    live: Sequence[Segment],
    ids: Sequence[bytes],
    given: Pictures,
) -> Pictures:
    """All that an order names: images by their digests, and pictures given as files.

    Of an image that a night described what it stored counts, also where its file was given; one
    whose digest alone is known has no descriptor.
    """
    dimensions = work.attempt.fingerprint.dimensions
    numbers = {digest.tobytes(): n for n, digest in enumerate(given.ids)}
    named = list(dict.fromkeys([*ids, *numbers]))
    pictures = known_pictures(parts, dataset, bytes_rows(named, 32), live, dimensions)
    for n, sha256 in enumerate(named):
        at = numbers.get(sha256)
        if at is None or not given.described[at]:
            continue
        if not pictures.described[n]:
            pictures.described[n] = True
            pictures.descriptors[n] = given.descriptors[at]
        if not pictures.hashes[n].any():  # the night that described it made none
            pictures.hashes[n] = given.hashes[at]
    return pictures


# ---------------------------------------------------------------- what is near to them


@dataclass(frozen=True, slots=True)
class Near:
    """An image of the dataset, and the picture that is most similar to it, at or above a threshold.

    ``measure``: the first of the night's that calls them copies.
    """

    image: bytes
    entry: bytes
    similarity: float
    measure: Measure


def find_near(
    parts: Parts, work: Work, live: Sequence[Segment], pictures: Pictures
) -> dict[bytes, Near]:
    """Every image that lies in some segments, kept or not, and is near to one of the pictures.

    One pass over the segments' codes; of few pictures, and where the codes are those of
    ``sketch``, which may miss a pair, over the descriptors themselves.

    Args:
        parts: the real parts.
        work: whose measures and backend.
        live: the segments.
        pictures: of the described ones.
    """
    asked = pictures.take(pictures.described)
    found: dict[bytes, Near] = {}
    if not len(asked):
        return found
    plainly = work.survey.search == "sketch" or len(asked) < _WORTH_CODES
    backend = open_backend(parts, work, EXACT if plainly else "")
    hashes = parts.hash_search()
    parts.progress.start(f"compare with {counted(len(asked), 'picture')}", len(live))
    for segment in live:
        opened = open_segment(parts.store, segment, {*backend.roles(), *HASHES})
        for measure in work.measures:
            pairs = _pairs(backend, hashes, measure, asked, opened)
            for image, entry, similarity in _nearest(pairs, opened.ids, asked):
                found.setdefault(image, Near(image, entry, similarity, measure))
        parts.progress.advance()
    parts.progress.done()
    return found


def _pairs(
    backend: SearchBackend,
    hashes: HashSearch,
    measure: Measure,
    asked: Pictures,
    opened: OpenSegment,
) -> Matches:
    """All pairs of pictures and rows of a segment at or above the measure's threshold."""
    rows = len(opened.ids)
    everyone = np.ones(rows, bool)
    if measure.by_hash and measure.role not in opened.codes:  # its nights made none
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def search(numbers: NDArray[np.int64], limit: int) -> Matches:
        # all of them as the same array each time: what a backend makes of it is kept
        some = asked if len(numbers) == len(asked) else asked.take(numbers)
        floor = measure.threshold
        if measure.by_hash:
            theirs = opened.codes[measure.role]
            return hashes.search(some.hashes, theirs, everyone, floor, limit)
        return backend.search(
            some.descriptors, opened.descriptors, opened.codes, everyone, floor, limit
        )

    return all_pairs(search, len(asked), rows)


def all_pairs(
    search: Callable[[NDArray[np.int64], int], Matches], count: int, rows: int
) -> Matches:
    """All pairs of a search that lists so many rows of a query at most.

    Args:
        search: numbers of queries, int64 (k,), and how many rows each may list -> their pairs,
            the queries counted within those numbers.
        count: how many queries there are.
        rows: how many rows are searched.
    """
    left, limit = np.arange(count), min(_LISTED, rows)
    pieces = []
    while len(left) and limit:
        found = search(left, limit)
        is_cut = np.bincount(found.query, minlength=len(left)) >= limit
        if limit == rows:
            is_cut[:] = False
        whole = ~is_cut[found.query]
        query = left[found.query[whole]]
        pieces.append(Matches(query, found.reference[whole], found.similarity[whole]))
        left, limit = left[is_cut], min(16 * limit, rows)
    none = np.empty(0, np.int64)
    return Matches(
        np.concatenate([none, *(piece.query for piece in pieces)]),
        np.concatenate([none, *(piece.reference for piece in pieces)]),
        np.concatenate([np.empty(0), *(piece.similarity for piece in pieces)]),
    )


def _nearest(
    pairs: Matches, ids: NDArray[np.uint8], asked: Pictures
) -> Iterator[tuple[bytes, bytes, float]]:
    """Each row's most similar picture, ties to the smaller digest: image, picture, similarity."""
    digests = asked.ids.view("S32").reshape(-1)[pairs.query]
    order = np.lexsort((digests, -pairs.similarity, pairs.reference))
    row, first = np.unique(pairs.reference[order], return_index=True)
    best = order[first]
    for image, number, similarity in zip(
        ids[row], pairs.query[best], pairs.similarity[best], strict=True
    ):
        yield image.tobytes(), asked.ids[number].tobytes(), float(similarity)


# ---------------------------------------------------------------- what becomes of what


@dataclass(frozen=True)
class Copies:
    """What an order changes by its pictures, in two parts: what they say alone, and what is near.

    ``changes``: images that have the bytes of a picture, and what was removed because of one of
    them. ``near``: all other images near to one, and what was removed because of one of those.
    Either may be decided without the other, the first before the second. ``kept``: the images of
    each that are kept now, and will not be.
    """

    pictures: Pictures
    changes: Sequence[Change]
    near: Sequence[Change]
    kept: Sequence[bytes]
    near_kept: Sequence[bytes]


def work_out_copies(
    conn: Connection, dataset: Dataset, pictures: Pictures, near: Mapping[bytes, Near]
) -> Copies:
    """Say what becomes of the pictures' images and of what is near to them.

    What is withdrawn already stays as it is: when the order that did it ends, what other entries
    stop stays withdrawn.

    Args:
        conn: a transaction in which every statement sees the same.
        dataset: as it was seen.
        pictures: what the order names.
        near: image -> the picture that it is near to.
    """
    named = [digest.tobytes() for digest in pictures.ids]
    verdicts = _verdicts(conn, dataset, list(dict.fromkeys([*named, *near])))

    def stands(images: Sequence[bytes]) -> list[bytes]:
        """Those that are kept, removed, free or quarantined for no fault of their bytes."""
        return [image for image in images if image in verdicts]

    def near_change(image: bytes) -> Change:
        found = near[image]
        return Change(
            "withdrawn",
            image=image,
            reason=WITHDRAWN_FOR,
            witness=found.entry,
            similarity=found.similarity,
            threshold=found.measure.threshold,
        )

    def hung_on(images: Sequence[bytes], done: set[bytes]) -> list[Change]:
        """What was removed because of some, and is not among those that are done."""
        left = [image for image in orphans(conn, dataset.dataset_id, images) if image not in done]
        done.update(left)
        return [
            near_change(image)
            if image in near
            else Change(
                "quarantined",
                image=image,
                reason=Fault.NEAR_WITHDRAWN,
                message=_NEAR_WITHDRAWN,
            )
            for image in left
        ]

    known = stands(named)
    done = set(known)
    changes = [Change("withdrawn", image=image, reason=WITHDRAWN_FOR) for image in known]
    changes += hung_on(known, done)
    others = [image for image in stands(list(near)) if image not in done]
    done.update(others)
    by_near = [near_change(image) for image in others] + hung_on(others, done)

    def kept(images: Sequence[bytes]) -> list[bytes]:
        return [image for image in images if verdicts[image] == "kept"]

    return Copies(pictures, changes, by_near, kept(known), kept(others))


def _verdicts(conn: Connection, dataset: Dataset, images: Sequence[bytes]) -> dict[bytes, str]:
    """Image -> its verdict as of the dataset's turn, of those that can be withdrawn.

    An image with a fault of its bytes has no copies, and nobody keeps it: it stays quarantined.
    """
    digests = bytes_rows(images, 32)
    known = lookups.known_images(conn, dataset.dataset_id, digests, dataset.turn)
    told = zip(known.row.tolist(), known.verdict, known.reason, strict=True)
    return {
        images[row]: str(verdict)
        for row, verdict, reason in told
        if verdict != "withdrawn" and (verdict != "quarantined" or not Fault(reason).follows_bytes)
    }
