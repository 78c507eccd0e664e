"""What is near to withdrawn pictures, against a slow rule: every pair, one after another."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.core.canonical import block_similarities
from sscd_ops.core.descriptor_file import Listed, Queries
from sscd_ops.core.measures import DESCRIPTORS, Measure, near, perceptual
from sscd_ops.core.perceptual import ROLE, hash_similarities
from sscd_ops.core.segment_file import write_segment
from sscd_ops.core.stored_rows import in_memory
from sscd_ops.core.withdrawn import Pictures
from sscd_ops.index.backends import open_backend
from sscd_ops.index.hamming import Hamming
from sscd_ops.model import Matches, Segment
from sscd_ops.options import StorageOptions
from sscd_ops.ports import Silence
from sscd_ops.steps import withdrawn_set
from sscd_ops.steps.orders import copies
from sscd_ops.storage.store import open_store
from tests.soak import examples

DIMENSIONS = 3
MEASURES = [near(0.9, 0.8), perceptual(0.9, 0.8)]


def parts_at(root: str) -> Any:
    """The rooms that are asked, without a catalog."""

    def backend(name: str, digest: str, dimensions: int, threshold: float) -> Any:
        return open_backend(
            name, fingerprint_digest=digest, dimensions=dimensions, threshold=threshold
        )

    return SimpleNamespace(
        store=open_store(StorageOptions(root=root)),
        backend=backend,
        hash_search=Hamming,
        progress=Silence(),
    )


def work_of(search: str) -> Any:
    fingerprint = SimpleNamespace(digest="ab" * 32, dimensions=DIMENSIONS)
    return SimpleNamespace(
        measures=MEASURES,
        survey=SimpleNamespace(search=search),
        attempt=SimpleNamespace(fingerprint=fingerprint, threshold=0.9),
    )


def pictures_of(seed: int, count: int, plain: float = 0.0) -> Pictures:
    """Vectors on a small grid, and hashes with few bits: ties abound."""
    random = np.random.default_rng(seed)
    grid = np.array([v for v in np.ndindex(3, 3, 3) if any(v)], np.float64) - 1.0
    grid = grid[np.abs(grid).sum(axis=1) > 0]
    vectors = grid[random.integers(0, len(grid), count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hashes = np.zeros((count, 33), np.uint8)
    hashes[:, :5] = random.choice(np.array([0, 255], np.uint8), (count, 5))
    hashes[:, 32] = random.choice(np.array([20, 80], np.uint8), count)
    described = random.random(count) >= plain
    ids = random.integers(0, 256, (count, 32), np.uint8)
    return Pictures(ids, described, vectors.astype(np.float16), hashes)


def similarities(measure: Measure, left: Pictures, right: Pictures) -> np.ndarray:
    if measure.by_hash:
        return hash_similarities(left.hashes, right.hashes)
    return block_similarities(left.descriptors, right.descriptors)


def slow(asked: Pictures, stored: Pictures) -> dict[bytes, tuple[bytes, float, str]]:
    """Row by row: the first measure that says so; the most similar, then the smaller digest."""
    answer = {}
    for row in range(len(stored)):
        for measure in MEASURES:
            said = [
                (-similarities(measure, asked, stored)[n, row], asked.ids[n].tobytes())
                for n in range(len(asked))
                if asked.described[n]
            ]
            best = min(said, default=(1.0, b""))
            if -best[0] >= measure.threshold:
                answer[stored.ids[row].tobytes()] = (best[1], -best[0], measure.reason)
                break
    return answer


@settings(max_examples=examples(60), deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 6),
    st.lists(st.integers(0, 12), min_size=0, max_size=3),
    st.sampled_from([1, 2, 1024]),
    st.sampled_from(["flat", "exact", "sketch"]),
)
def test_every_row_near_to_a_picture_is_found_and_no_other(
    seed: int, count: int, sizes: list[int], listed: int, search: str
) -> None:
    """However many copies a picture has, whatever the backend; some segments have no hashes."""
    asked = pictures_of(seed, count, plain=0.2)
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patched:
        patched.setattr(copies, "_LISTED", listed)
        parts, work = parts_at(root), work_of(search)
        backend = parts.backend(search, "ab" * 32, DIMENSIONS, 0.9)
        live, expected = [], {}
        for number, size in enumerate(sizes):
            stored = pictures_of(seed + 1 + number, size)
            hashed = bool(number % 2 == 0)
            codes = backend.codes(stored.descriptors) | ({ROLE: stored.hashes} if hashed else {})
            files = write_segment(parts.store, "web", stored.descriptors, stored.ids, codes)
            live.append(Segment(number, number, size, DIMENSIONS, "ab" * 32, files))
            if not hashed:
                stored.hashes[:] = 0
            expected |= slow(asked, stored)

        found = copies.find_near(parts, work, live, asked)

    assert {
        image: (each.entry, each.similarity, each.measure.reason) for image, each in found.items()
    } == expected


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 20), st.integers(1, 6), st.sampled_from([3, 65536]))
def test_a_night_finds_the_nearest_picture_of_each_image(
    seed: int, count: int, entries: int, at_once: int
) -> None:
    mine, theirs = pictures_of(seed, count), pictures_of(seed + 1, entries)
    stored = {DESCRIPTORS: in_memory(mine.descriptors), ROLE: in_memory(mine.hashes)}
    queries = Queries(stored, "", lambda: Listed(mine.ids))
    asked = np.random.default_rng(seed).permutation(count)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(withdrawn_set, "_AT_ONCE", at_once)
        answers = [
            withdrawn_set.nearest(parts_at("."), work_of("flat"), by, queries, asked, theirs)
            for by in MEASURES
        ]

    for measure, (similarity, entry) in zip(MEASURES, answers, strict=True):
        every = similarities(measure, mine, theirs)
        for n, image in enumerate(asked.tolist()):
            best = int(every[image].argmax())
            if every[image, best] >= measure.threshold:
                assert (similarity[n], entry[n]) == (every[image, best], best)
            else:
                assert similarity[n] == -np.inf


def test_a_search_that_never_says_all_is_asked_for_more() -> None:
    """A picture with 50,000 copies among 60,000 rows: its list grows, and the others' stay."""
    limits: list[tuple[int, int]] = []

    def search(numbers: np.ndarray, limit: int) -> Matches:
        limits.append((len(numbers), limit))
        copies_of = {0: 3, 1: 50_000, 2: 0}
        sizes = [min(copies_of[n], limit) for n in numbers.tolist()]
        query = np.repeat(np.arange(len(numbers)), sizes)
        reference = np.concatenate([np.arange(size) for size in sizes])
        return Matches(query, reference, np.ones(len(query)))

    found = copies.all_pairs(search, 3, 60_000)

    assert np.bincount(found.query, minlength=3).tolist() == [3, 50_000, 0]
    assert limits == [(3, 1024), (1, 16384), (1, 60_000)]
