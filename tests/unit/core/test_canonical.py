"""Canonical similarity: exact, so independent of order, blocks and arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sscd_ops.core.canonical import (
    block_similarities,
    float32_margin,
    least_product,
    pair_similarities,
    span,
    widen,
)
from sscd_ops.errors import InvariantError
from tests.soak import examples

ALL_HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)
FINITE = ALL_HALVES[np.isfinite(ALL_HALVES)]


def unit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(norm == 0, 1, norm)).astype(np.float16)


vectors = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 7), st.just(40)), elements=st.floats(-1, 1)
).map(unit)


def test_every_float16_widens_to_the_same_number() -> None:
    wide = widen(FINITE[None, :])

    np.testing.assert_array_equal(wide[0], FINITE.astype(np.float32))


@given(vectors, st.randoms())
def test_the_order_of_dimensions_never_matters(rows: np.ndarray, random: object) -> None:
    order = np.random.default_rng(random.randint(0, 2**32)).permutation(rows.shape[1])  # type: ignore[attr-defined]

    straight = block_similarities(rows, rows)
    shuffled = block_similarities(rows[:, order], rows[:, order])

    np.testing.assert_array_equal(straight, shuffled)
    np.testing.assert_array_equal(straight, straight.T)


@given(vectors)
def test_pairs_and_blocks_agree_to_the_last_bit(rows: np.ndarray) -> None:
    query, reference = (a.ravel() for a in np.indices((len(rows), len(rows))))

    pairs = pair_similarities(rows, rows, query, reference)

    np.testing.assert_array_equal(pairs.reshape(len(rows), -1), block_similarities(rows, rows))


@settings(max_examples=examples(30))
@given(vectors)
def test_dot_and_norms_are_what_rational_arithmetic_says(rows: np.ndarray) -> None:
    exact = [[Fraction(float(v)) for v in row] for row in rows]
    dot = sum(a * b for a, b in zip(exact[0], exact[-1], strict=True))
    nn = [sum(a * a for a in row) for row in exact]

    if nn[0] and nn[-1]:
        scale = np.sqrt(float(nn[0]) * float(nn[-1]))
        found = pair_similarities(rows[:1], rows[-1:], np.array([0]), np.array([0]))[0]
        assert found == float(dot) / scale
        assert isqrt(int(nn[0] * 2**96)) > 0


def test_many_pairs_are_taken_in_blocks_without_a_seam() -> None:
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal((50, 16)))
    query, reference = random.integers(0, 50, (2, 5000))

    found = pair_similarities(rows, rows, query, reference)

    np.testing.assert_array_equal(found, block_similarities(rows, rows)[query, reference])


def test_a_vector_is_entirely_similar_to_itself_and_not_at_all_to_zero() -> None:
    rows = unit(np.random.default_rng(0).standard_normal((3, 512)))
    rows[2] = 0

    found = block_similarities(rows, rows)

    assert found[0, 0] == pytest.approx(1.0, abs=1e-15)
    assert found[2].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 100.0])
def test_a_vector_that_is_not_a_unit_vector_is_refused(bad: float) -> None:
    rows = unit(np.random.default_rng(0).standard_normal((3, 8)))
    rows[1, 3] = bad

    with pytest.raises(InvariantError, match="index rebuild"):
        block_similarities(rows, rows)
    with pytest.raises(InvariantError):
        pair_similarities(rows, rows, np.array([0]), np.array([1]))


@given(vectors, st.floats(-1, 1))
def test_a_float32_product_below_the_least_is_below_the_floor(
    rows: np.ndarray, floor: float
) -> None:
    rows = rows[rows.any(axis=1)]
    if not len(rows):
        return
    wide = widen(rows)

    least = least_product(span(wide), span(wide), floor, rows.shape[1])

    similar = block_similarities(rows, rows) >= floor
    assert (wide @ wide.T)[similar].min(initial=2.0) >= least
    assert float32_margin(512) < 3.2e-5
