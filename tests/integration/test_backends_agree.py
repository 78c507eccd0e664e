"""All backends decide alike: thousands of new against ten times as many, 512 dimensions, clustered.

The largest night, of 10,000, in a soak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from sscd_ops.core.canonical import pair_similarities
from sscd_ops.core.leader import Compared, Leader, lead
from sscd_ops.core.measures import near
from sscd_ops.index.backends import open_backend
from tests.soak import sweep

DIMENSIONS, SEGMENTS = 512, 4
THRESHOLD, FLOOR, LIMIT = 0.75, 0.70, 8


@dataclass
class Night:
    """Vectors, and where copies were planted: ``new[planted]`` is made from ``of``."""

    history: NDArray[np.float16]
    kept: NDArray[np.bool_]
    new: NDArray[np.float16]
    planted: NDArray[np.int64]
    of: NDArray[np.int64]
    inside: NDArray[np.int64]
    inside_of: NDArray[np.int64]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def at(cosine: NDArray[np.float32], of: NDArray[np.float32], away: NDArray[np.float32]):  # type: ignore[no-untyped-def]
    """Vectors at these similarities to ``of``, in the direction of ``away``."""
    away = unit(away - (away * of).sum(1, keepdims=True) * of)
    return cosine[:, None] * of + np.sqrt(1 - cosine[:, None] ** 2) * away


@pytest.fixture(scope="module", params=sweep([3000, 10_000], [3000]))
def night(request: pytest.FixtureRequest) -> Night:
    count_new, count_history = request.param, 10 * request.param
    random = np.random.default_rng(20261123)
    centres = unit(random.standard_normal((1000, DIMENSIONS), np.float32))

    def strangers(count: int) -> NDArray[np.float32]:
        weight = np.sqrt(random.uniform(0.3, 0.6, (count, 1))).astype(np.float32)
        noise = unit(random.standard_normal((count, DIMENSIONS), np.float32))
        member = random.integers(0, len(centres), count)
        return unit(weight * centres[member] + np.sqrt(1 - weight**2) * noise)

    def cosines(count: int) -> NDArray[np.float32]:
        """A third close to the threshold on both sides, a third around it, a third copies."""
        draws = [
            random.uniform(THRESHOLD - 0.001, THRESHOLD + 0.001, count),
            random.uniform(0.68, 0.82, count),
            random.uniform(0.85, 1.0, count),
        ]
        return np.choose(random.integers(0, 3, count), draws).astype(np.float32)

    history, new = strangers(count_history), strangers(count_new)
    planted = np.arange(0, count_new, 5)
    of = random.integers(0, count_history, len(planted))
    new[planted] = at(cosines(len(planted)), history[of], new[planted])
    inside = np.arange(3, count_new, 5)
    inside_of = random.integers(0, inside)
    new[inside] = at(cosines(len(inside)), new[inside_of], new[inside])
    kept = random.random(count_history) < 0.9
    half = np.float16
    return Night(
        history.astype(half),
        kept,
        new.astype(half),
        planted,
        of,
        inside,
        inside_of.astype(np.int64),
    )


def decide(night: Night, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64], Leader]:
    """Best similarity and row in history, then leader in the batch; as match and resolve do."""
    backend = open_backend(
        name, fingerprint_digest="5e" * 32, dimensions=DIMENSIONS, threshold=THRESHOLD
    )
    best, row = np.full(len(night.new), -np.inf), np.full(len(night.new), -1)
    first = 0
    for part, kept in zip(
        np.array_split(night.history, SEGMENTS), np.array_split(night.kept, SEGMENTS), strict=True
    ):
        found = backend.search(night.new, part, backend.codes(part), kept, FLOOR, LIMIT)
        better = found.similarity > best[found.query]
        # the most similar of a query comes first; the earlier segment keeps a tie
        query, at = np.unique(found.query[better], return_index=True)
        best[query] = found.similarity[better][at]
        row[query] = found.reference[better][at] + first
        first += len(part)
    row[best < THRESHOLD] = -1
    best[best < THRESHOLD] = -np.inf
    batch = Compared(near(THRESHOLD, FLOOR), night.new, best, backend.growing(DIMENSIONS))
    group = lead([batch], LIMIT, block=2048)
    return best, row, group


@pytest.fixture(scope="module")
def reference(night: Night):  # type: ignore[no-untyped-def]
    return decide(night, "flat")


def test_the_reference_finds_what_was_planted_on_either_side(night: Night, reference) -> None:  # type: ignore[no-untyped-def]
    best, row, group = reference
    truth = pair_similarities(night.new, night.history, night.planted, night.of)
    copies = (truth >= THRESHOLD) & night.kept[night.of]
    inside = pair_similarities(night.new, night.new, night.inside, night.inside_of)
    led = group.kept[night.inside_of]

    enough = len(night.planted) / 4
    assert (np.abs(truth - THRESHOLD) < 0.0015).sum() > enough
    assert copies.sum() > enough
    assert (truth < THRESHOLD).sum() > enough
    assert (best[night.planted[copies]] >= truth[copies]).all()
    assert (row[night.planted[copies]] >= 0).all()
    assert not group.kept[night.inside[led & (inside >= THRESHOLD)]].any()
    assert group.kept[night.inside[inside < THRESHOLD]].any()


@pytest.mark.parametrize("name", ["exact", "sketch", "torch"])
def test_every_backend_decides_like_flat(night: Night, reference, name: str) -> None:  # type: ignore[no-untyped-def]
    best, row, group = decide(night, name)

    np.testing.assert_array_equal(best, reference[0])
    np.testing.assert_array_equal(row, reference[1])
    np.testing.assert_array_equal(group.kept, reference[2].kept)
    np.testing.assert_array_equal(group.witness, reference[2].witness)
    np.testing.assert_array_equal(group.similarity, reference[2].similarity)
    if name != "sketch":  # whose matches below the threshold are best effort
        for column in ("query", "reference", "similarity"):
            np.testing.assert_array_equal(
                getattr(group.matches[0], column), getattr(reference[2].matches[0], column)
            )
