"""Leader against a slow oracle, on data full of ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.core.best import BestMatches
from sscd_ops.core.canonical import block_similarities
from sscd_ops.core.leader import lead
from sscd_ops.errors import UsageError
from sscd_ops.index.backends import open_backend
from tests.memory import at_most

BACKENDS = ("flat", "exact", "sketch", "torch")


def growing(name: str, dimensions: int, threshold: float = 0.75):  # type: ignore[no-untyped-def]
    backend = open_backend(
        name, fingerprint_digest="ab" * 32, dimensions=dimensions, threshold=threshold
    )
    return backend.growing(dimensions)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def oracle(rows, history, threshold, floor, limit):  # type: ignore[no-untyped-def]
    """Leader as it is defined, pair by pair."""
    pairs = block_similarities(rows, rows)
    kept: list[int] = []
    witness, similarity, matches = [], [], []
    for row in range(len(rows)):
        seen = [(float(pairs[row, k]), k) for k in kept]
        seen.sort(key=lambda pair: (-pair[0], pair[1]))
        matches += [(row, k, s) for s, k in seen if s >= floor][:limit]
        best = seen[0] if seen else (-np.inf, -1)
        if history[row] >= threshold and history[row] >= best[0]:
            witness.append(-1)
            similarity.append(history[row])
        elif best[0] >= threshold:
            witness.append(best[1])
            similarity.append(best[0])
        else:
            witness.append(-1)
            similarity.append(-np.inf)
            kept.append(row)
    return kept, witness, similarity, matches


def check(rows, history, threshold, floor, limit, block, index) -> None:  # type: ignore[no-untyped-def]
    kept, witness, similarity, matches = oracle(rows, history, threshold, floor, limit)

    found = lead(rows, history, threshold, floor, limit, index, block=block)

    assert np.flatnonzero(found.kept).tolist() == kept
    assert found.witness.tolist() == witness
    assert found.similarity.tolist() == similarity
    got = zip(
        found.matches.query.tolist(),
        found.matches.reference.tolist(),
        found.matches.similarity.tolist(),
        strict=True,
    )
    assert list(got) == matches


@st.composite
def batches(draw):  # type: ignore[no-untyped-def]
    """Few directions, many repeats: ties, exact duplicates, chains; history ties with the batch."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    count = draw(st.integers(1, 60))
    centres = random.standard_normal((draw(st.integers(1, 6)), 16))
    rows = unit(
        centres[random.integers(0, len(centres), count)]
        + draw(st.sampled_from([0.0, 0.3, 0.6])) * random.standard_normal((count, 16))
    )
    rows[random.random(count) < 0.3] = rows[0]
    history = np.full(count, -np.inf)
    known = random.random(count) < 0.3
    history[known] = random.choice([0.7, 0.75, 0.8, 1.0], int(known.sum()))
    pairs = block_similarities(rows, rows)
    tied = random.random(count) < 0.1
    history[tied] = pairs[tied, 0]
    return rows, history


@settings(max_examples=150, deadline=None)
@given(
    batches(),
    st.sampled_from([0.5, 0.75, 0.9]),
    st.sampled_from([0.0, 0.05, 0.4]),
    st.integers(1, 9),
    st.sampled_from([1, 2, 7, 20, 4096]),
)
def test_leader_is_what_the_definition_says(batch, threshold, margin, limit, block) -> None:  # type: ignore[no-untyped-def]
    rows, history = batch

    check(rows, history, threshold, threshold - margin, limit, block, growing("flat", 16))


@settings(max_examples=25, deadline=None)
@given(batches(), st.sampled_from([3, 20]))
@pytest.mark.parametrize("name", BACKENDS)
def test_leader_is_the_same_with_every_backend(name, batch, block) -> None:  # type: ignore[no-untyped-def]
    rows, history = batch

    check(rows, history, 0.75, 0.75, 4, block, growing(name, 16))


@pytest.mark.parametrize("block", [300, 1000, 4096])
def test_strips_and_blocks_leave_no_seam(block: int) -> None:
    random = np.random.default_rng(3)
    centres = random.standard_normal((150, 32))
    rows = unit(centres[random.integers(0, 150, 1200)] + 0.7 * random.standard_normal((1200, 32)))

    check(rows, np.full(1200, -np.inf), 0.75, 0.7, 8, block, growing("flat", 32))


def test_a_threshold_hit_exactly_is_a_copy() -> None:
    rows = np.array([[1, 0], [0.6, 0.8], [0.5, 0.5]], np.float16)
    at = float(block_similarities(rows[:1], rows[1:2])[0, 0])

    found = lead(rows, np.full(3, -np.inf), at, at, 8, growing("flat", 2))
    above = lead(rows, np.full(3, -np.inf), np.nextafter(at, 1), at, 8, growing("flat", 2))

    assert found.kept.tolist() == [True, False, False]
    assert above.kept.tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["flat", "exact", "sketch"])
def test_twenty_thousand_placeholders_stay_within_bounded_memory(name: str) -> None:
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal(512) + 0.02 * random.standard_normal((20_000, 512)))
    index = growing(name, 512)

    with at_most(megabytes=300):
        found = lead(rows, np.full(len(rows), -np.inf), 0.75, 0.7, 8, index)

    assert found.kept.sum() == 1
    assert (found.witness[1:] == 0).all()


@pytest.mark.parametrize("name", ["flat", "exact", "sketch"])
def test_a_night_of_matches_below_the_threshold_stays_bounded(name: str) -> None:
    """Everything is at .70 to .74 of everything: all kept, and every pair is a match."""
    random = np.random.default_rng(0)
    centre = unit(random.standard_normal((1, 512))).astype(np.float64)
    rows = unit(np.sqrt(0.72) * centre + np.sqrt(0.28) * unit(random.standard_normal((4000, 512))))
    index = growing(name, 512)

    with at_most(megabytes=300):
        found = lead(rows, np.full(len(rows), -np.inf), 0.85, 0.6, 8, index)

    assert found.kept.all()
    if name != "sketch":  # below the threshold sketch promises nothing
        assert len(found.matches.query) == 8 * len(rows) - sum(8 - k for k in range(8))


def test_an_empty_night_is_no_trouble() -> None:
    found = lead(np.empty((0, 8), np.float16), np.empty(0), 0.75, 0.7, 8, growing("flat", 8))

    assert found.kept.tolist() == []
    assert len(found.matches.query) == 0


def test_arguments_without_meaning_are_refused() -> None:
    rows = np.eye(2, 8, dtype=np.float16)

    with pytest.raises(UsageError, match="history"):
        lead(rows, np.empty(1), 0.75, 0.7, 8, growing("flat", 8))
    with pytest.raises(UsageError, match="floor"):
        lead(rows, np.empty(2), 0.75, 0.8, 8, growing("flat", 8))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.booleans())
def test_the_best_matches_depend_on_no_order_of_offering(seed, limit, as_blocks) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    similarity = random.choice([0.1, 0.7, 0.75, 0.8, 0.9], (6, 40))
    expected = BestMatches(6, 0.7, limit)
    query, reference = (a.ravel() for a in np.indices(similarity.shape))
    expected.offer(query, reference, similarity.ravel())

    best = BestMatches(6, 0.7, limit)
    for columns in np.array_split(random.permutation(40), 5):
        columns = np.sort(columns)
        if as_blocks:
            best.offer_block(0, columns, similarity[:, columns])
        else:
            query, at = (a.ravel() for a in np.indices((6, len(columns))))
            best.offer(query, columns[at], similarity[:, columns].ravel())

    np.testing.assert_array_equal(best.reference, expected.reference)
    np.testing.assert_array_equal(best.similarity, expected.similarity)
    for row in range(6):
        order = sorted((-s, k) for k, s in enumerate(similarity[row]) if s >= 0.7)[:limit]
        held = expected.reference[row]
        assert held[held < 40].tolist() == [k for _, k in order]
