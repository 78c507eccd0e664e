"""The fitted tail: recovered where it is known, and never an end it has not seen."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from sscd_ops.evaluation import tail
from sscd_ops.evaluation.tables import no_tail, tail_rows
from sscd_ops.evaluation.tail import false_matches, find_peaks, fit


def pareto(shape: float, count: int, scale: float = 0.05) -> np.ndarray:
    chance = np.random.default_rng(0).random(count)
    excess = -np.log(chance) if shape == 0 else (chance**-shape - 1) / shape
    return -np.sort(-(0.3 + scale * excess))


@pytest.mark.parametrize("shape", [0.0, 0.1, 0.25])
def test_a_known_tail_is_found_again(shape: float) -> None:
    peaks = pareto(shape, 20_000)

    found = fit(peaks, np.ones(len(peaks)), 10**7)

    assert found is not None
    assert found.shape == pytest.approx(shape, abs=0.04)
    assert found.scale == pytest.approx(0.05, rel=0.06)
    assert found.above(0.3) == pytest.approx(2e-3, rel=0.01)


def test_a_tail_that_ends_is_taken_for_one_that_does_not() -> None:
    found = fit(pareto(-0.4, 5000), np.ones(5000), 10**6)
    assert found is not None
    assert found.shape == 0
    assert found.above(0.9) > 0


def test_weights_count_as_repeated_peaks() -> None:
    peaks = pareto(0.1, 400)
    weights = np.random.default_rng(1).integers(0, 3, 400)
    once = fit(np.r_[np.repeat(peaks, weights), peaks[-1]], np.ones(weights.sum() + 1), 10**6)
    again = fit(peaks, weights.astype(float), 10**6)
    assert once is not None
    assert again is not None
    assert again.share == pytest.approx(once.share, rel=0.02)
    assert again.scale == pytest.approx(once.scale, rel=0.05)


def test_too_few_peaks_fit_nothing() -> None:
    assert fit(pareto(0.1, 40), np.ones(40), 1000) is None
    rows = np.eye(4, dtype=np.float16)
    answer = false_matches(find_peaks(rows), 0.5)
    assert (answer.tail, answer.by_size, answer.pairs) == (None, [], 6)


@pytest.mark.parametrize("queries", [1000, 40])
def test_peaks_are_the_most_similar_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch, queries: int
) -> None:
    monkeypatch.setattr(tail, "_FEW_PEAKS", 30)
    monkeypatch.setattr(tail, "_ROWS", 16)
    monkeypatch.setattr(tail, "_COLUMNS", 25)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((90, 12))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    apart = np.arange(90) // 2  # neighbours are known copies

    peaks = find_peaks(rows, 500, queries=queries, apart=apart)

    everything = rows.astype(np.float64) @ rows.astype(np.float64).T
    assert len(peaks.similarity) == 30
    chosen = {int(row) for row in peaks.first}
    pairs = {
        (min(p), max(p)) for p in zip(peaks.first.tolist(), peaks.second.tolist(), strict=True)
    }
    assert len(pairs) == 30  # each once
    assert all(apart[a] != apart[b] for a, b in pairs)
    for a, b, value in zip(peaks.first, peaks.second, peaks.similarity, strict=True):
        assert value == pytest.approx(everything[a, b], abs=1e-5)
    if queries == 1000:
        assert peaks.pairs == 90 * 89 // 2 - 45
        upper = np.triu(everything, 1)[apart[:, None] != apart[None, :]]
        best = -np.sort(-upper)[:30]
        assert np.allclose(peaks.similarity, best, atol=1e-5)
    else:
        assert len(chosen) <= 40


def test_memory_does_not_grow_with_the_references() -> None:
    """40,000 pictures: all of them at once would take over a gigabyte."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((40_000, 8)).astype(np.float16)
    tracemalloc.start()
    find_peaks(rows, queries=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 << 20


def test_strangers_are_foretold_within_the_stated_bounds() -> None:
    """Random directions: what 300 of them foretell for 10^4 is held against 10^4 of them."""
    rng = np.random.default_rng(4)

    def directions(count: int) -> np.ndarray:
        rows = rng.standard_normal((count, 16))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)

    answer = false_matches(find_peaks(directions(300)), 0.85)

    history = directions(10_000).astype(np.float32)
    seen = float((directions(400).astype(np.float32) @ history.T >= 0.85).sum(axis=1).mean())
    size, expected, low, high = answer.by_size[0]
    assert size == 10_000
    assert low < expected < high
    # never fewer than there are (the tail does not end), nor out of all proportion
    assert seen < high
    assert expected < 40 * seen
    # ten times the history, ten times the strangers
    assert answer.by_size[1][1] == pytest.approx(10 * expected)


def directions(count: int, seed: int = 5) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize(("pictures", "foretold"), [(89, False), (91, True)])
def test_most_of_the_pairs_are_no_tail(pictures: int, foretold: bool) -> None:
    """A fit wants 200 peaks: over a twentieth of the pairs of fewer than 90 pictures."""
    answer = false_matches(find_peaks(directions(pictures)), 0.97, replicates=20)

    assert answer.peaks == 200
    assert bool(answer.by_size) is (answer.tail is not None) is foretold
    if not foretold:
        assert no_tail(answer) == (
            "3916 pairs of different pictures are too few to fit a tail: its 200 peaks would be"
            " 5.1% of them; give 90 pictures or more"
        )


def test_without_draws_there_is_no_interval() -> None:
    answer = false_matches(find_peaks(directions(120)), 0.97, replicates=0)
    assert len(answer.by_size) == len(tail.SIZES)
    assert all((low, high) == (None, None) for _, _, low, high in answer.by_size)


def test_a_threshold_among_the_peaks_is_no_tail() -> None:
    rows = np.ones((40, 4), np.float16) / 2
    rows[:, 0] += np.linspace(0, 0.1, 40).astype(np.float16)
    answer = false_matches(find_peaks(rows), 0.5)
    assert answer.measured
    assert answer.by_size == []
    assert answer.observed > 0
    result = SimpleNamespace(model="m", false_matches=[answer])
    [row] = tail_rows([result])  # type: ignore[list-item]  # all that the table reads of it
    assert row["seen"] == f"over {answer.observed} of {answer.pairs} pairs"
