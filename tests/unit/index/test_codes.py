"""The codes of `exact` and `sketch`, their rotations, and the int8 product."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.core.canonical import block_similarities
from sscd_ops.errors import ConfigError
from sscd_ops.index.exact import SLACK, WILD, Exact
from sscd_ops.index.int8 import product, usable
from sscd_ops.index.rotation import length, padded, rotation
from sscd_ops.index.sketch import Sketch
from sscd_ops.index.sketch_radius import MISS_RATE, STRANGERS, Radius, radius_for
from tests.soak import examples

DIGEST = "ab" * 32


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


# ---------------------------------------------------------------- rotation


@pytest.mark.parametrize("dimensions", [1, 3, 64, 200, 512])
def test_a_rotation_is_exactly_orthogonal(dimensions: int) -> None:
    matrix = rotation(DIGEST, "test", dimensions)

    assert (matrix == np.rint(matrix)).all()
    gram = matrix @ matrix.T
    np.testing.assert_array_equal(gram, np.eye(dimensions) * padded(dimensions) ** 3)
    assert length(dimensions) ** 2 == pytest.approx(padded(dimensions) ** 3, rel=1e-12)


def test_a_rotation_never_changes_between_releases() -> None:
    """Stored codes fit the queries of later years only while this holds."""
    digest = hashlib.sha256(rotation(DIGEST, "test", 64).astype("<i8").tobytes()).hexdigest()

    assert digest[:16] == "35059210fba7fe10"
    assert (rotation(DIGEST, "test", 64) != rotation(DIGEST, "other", 64)).any()
    assert (rotation(DIGEST, "test", 64) != rotation("cd" * 32, "test", 64)).any()


def test_a_product_with_the_rotation_has_no_rounding() -> None:
    rows = unit(np.random.default_rng(0).standard_normal((4, 512)))
    matrix = rotation(DIGEST, "test", 512)

    found = rows.astype(np.float64) @ matrix

    for row, column in ((0, 0), (1, 77), (3, 511)):
        terms = zip(rows[row].tolist(), matrix[:, column].tolist(), strict=True)
        assert Fraction(float(found[row, column])) == sum(
            Fraction(a) * Fraction(b) for a, b in terms
        )


def test_codes_never_change_between_releases() -> None:
    rows = unit((np.arange(100)[:, None] * 7919 + np.arange(512) * 104729) % 2003 - 1001.0)
    digests = {
        role: hashlib.sha256(values.tobytes()).hexdigest()[:16]
        for made in (Exact(DIGEST, 512).codes(rows), Sketch(DIGEST, 512, 0.75).codes(rows))
        for role, values in made.items()
    }

    assert digests == {"exact-54096d21": "298a2646aac28c9e", "sketch-da6f120c": "7221bce80f7f29f9"}


# ---------------------------------------------------------------- exact


def bound_holds(rows: np.ndarray) -> np.ndarray:
    """Assert the bound for all pairs; answer the bounds."""
    exact = Exact(DIGEST, rows.shape[1])
    query = exact.prepare(rows)["query"].astype(np.int64)
    code = exact.codes(rows)[exact.role].astype(np.int64)
    wild = (query[:, -1] == WILD)[:, None] | (code[:, -1] == WILD)[None, :]
    bound = (query @ code.T) * exact.scale**2
    assert (wild | (bound + SLACK >= block_similarities(rows, rows))).all()
    return np.where(wild, np.inf, bound)


@settings(max_examples=examples(100))
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 5, 64, 236, 300, 512]),
    st.sampled_from(["normal", "sparse", "cauchy", "near", "opposite"]),
)
def test_the_int8_product_is_an_upper_bound(seed: int, dimensions: int, kind: str) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((24, dimensions))
    if kind == "sparse":
        rows = np.eye(dimensions)[random.integers(0, dimensions, 24)]
    elif kind == "cauchy":
        rows = random.standard_cauchy((24, dimensions))
    elif kind == "near":
        rows = rows[:1] + 0.001 * rows
    elif kind == "opposite":
        rows[12:] = -rows[:12]

    bound_holds(unit(rows))


def test_the_bound_holds_in_the_directions_of_the_rotation_itself() -> None:
    """Worst for the quantiser: all of a vector in one coordinate, which is clipped."""
    matrix = rotation(DIGEST, "exact", 512)

    rows = unit(np.concatenate([matrix[:, :40].T, -matrix[:, 230:300].T, matrix.T[500:]]))

    assert np.isinf(bound_holds(rows)).any()


def test_the_bound_is_tight_enough_to_be_worth_its_while() -> None:
    rows = unit(np.random.default_rng(0).standard_normal((2000, 512)))

    bound = bound_holds(rows)

    passed = (bound >= 0.75).sum() - len(rows)
    assert passed / bound.size < 1e-4


def test_codes_of_equal_vectors_are_equal_whatever_their_neighbours() -> None:
    rows = unit(np.random.default_rng(0).standard_normal((300, 64)))
    exact, sketch = Exact(DIGEST, 64), Sketch(DIGEST, 64, 0.75)

    for method in (exact, sketch):
        whole = method.codes(rows)[method.role]
        alone = np.concatenate([method.codes(rows[k : k + 1])[method.role] for k in range(300)])
        np.testing.assert_array_equal(whole, alone)


# ---------------------------------------------------------------- int8


def test_the_int8_product_is_right_on_this_machine() -> None:
    assert usable(256, 512) == ""


def test_a_product_can_be_written_into_a_buffer() -> None:
    random = np.random.default_rng(0)
    left, right = random.integers(-128, 128, (2, 40, 64), np.int8)
    out = np.empty((40, 40), np.int32)

    assert product(left, right, out) is out
    np.testing.assert_array_equal(out, left.astype(int) @ right.astype(int).T)


# ---------------------------------------------------------------- sketch


def tail(bits: int, differ: Fraction, radius: int) -> Fraction:
    """P(Binomial > radius), in rational arithmetic."""
    return sum(
        (
            comb(bits, k) * differ**k * (1 - differ) ** (bits - k)
            for k in range(radius + 1, bits + 1)
        ),
        start=Fraction(0),
    )


@pytest.mark.parametrize("threshold", [0.5, 0.55, 0.6, 0.7, 0.75, 0.9, 0.99])
def test_the_radius_is_the_smallest_that_keeps_the_promise(threshold: float) -> None:
    chosen = radius_for(threshold)

    differ = Fraction(np.arccos(threshold) / np.pi).limit_denominator(10**6)
    assert tail(chosen.bits, differ, chosen.radius) < MISS_RATE
    assert tail(chosen.bits, differ, chosen.radius - 1) >= MISS_RATE
    assert 1 - tail(chosen.bits, Fraction(1, 2), chosen.radius) <= STRANGERS


def test_the_code_is_as_long_as_the_threshold_needs() -> None:
    assert radius_for(0.75).bits == 256
    assert radius_for(0.6).bits == 512
    assert radius_for(1.0) == Radius(256, 0)
    with pytest.raises(ConfigError, match="strangers"):
        radius_for(0.49)


@pytest.mark.parametrize(("dimensions", "threshold"), [(512, 0.75), (512, 0.6), (192, 0.75)])
def test_pairs_at_the_threshold_are_missed_no_more_often_than_said(
    dimensions: int, threshold: float
) -> None:
    random = np.random.default_rng(1)
    sketch = Sketch(DIGEST, dimensions, threshold)
    count, missed = 30_000, 0
    for _ in range(3):
        left = random.standard_normal((count // 3, dimensions))
        left /= np.linalg.norm(left, axis=1, keepdims=True)
        away = random.standard_normal((count // 3, dimensions))
        away -= (away * left).sum(1, keepdims=True) * left
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        right = threshold * left + np.sqrt(1 - threshold**2) * away
        codes = [sketch.codes(side.astype(np.float16))[sketch.role] for side in (left, right)]
        distance = np.bitwise_count(codes[0] ^ codes[1]).sum(axis=1)
        missed += int((distance > sketch.radius).sum())

    # at most 0.3 expected; benchmarks/recall.py measures what docs/search.md says
    assert missed <= 3
