"""The search for perceptual hashes against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.core.perceptual import are_fit, hash_similarities
from sscd_ops.index import hamming
from sscd_ops.index.hamming import Hamming
from sscd_ops.model import Matches
from tests.memory import at_most
from tests.soak import examples

BASES = np.random.default_rng(0).integers(0, 2, (3, 256), np.uint8)


def some_hashes(random: np.random.Generator, count: int) -> np.ndarray:
    """Three hashes with some bits turned over; some of too low a quality."""
    bits = BASES[random.integers(0, 3, count)]
    bits ^= random.random((count, 256)) < 0.05
    quality = random.choice([0, 49, 50, 100], (count, 1)).astype(np.uint8)
    return np.concatenate([np.packbits(bits, axis=1), quality], axis=1)


def brute(queries: np.ndarray, rows: np.ndarray, kept: np.ndarray, floor: float, limit: int):  # type: ignore[no-untyped-def]
    answer = []
    for number, query in enumerate(queries):
        found = []
        for row in np.flatnonzero(kept):
            if min(query[32], rows[row][32]) >= 50:
                distance = int(np.unpackbits(query[:32] ^ rows[row][:32]).sum())
                found.append((-(1 - distance / 256), int(row)))
        answer += [(number, row, -s) for s, row in sorted(found) if -s >= floor][:limit]
    return answer


def told(found: Matches) -> list[tuple[int, int, float]]:
    columns = (found.query, found.reference, found.similarity)
    return list(zip(*(values.tolist() for values in columns), strict=True))


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 25, 31, 100, 256]), st.integers(1, 5))
def test_the_search_finds_what_brute_force_finds(seed: int, farthest: int, limit: int) -> None:
    random = np.random.default_rng(seed)
    queries, rows = some_hashes(random, 9), some_hashes(random, 40)
    kept = random.random(40) < 0.7
    growing = Hamming().growing()
    growing.add(rows[kept][:5])
    growing.add(rows[kept][5:])

    floor = 1 - farthest / 256
    found = Hamming().search(queries, rows, kept, floor, limit)
    grown = growing.search(queries, floor, limit)

    assert told(found) == brute(queries, rows, kept, floor, limit)
    every = np.ones(int(kept.sum()), bool)
    assert told(grown) == brute(queries, rows[kept], every, floor, limit)


def among(rows: np.ndarray, floor: float, limit: int):  # type: ignore[no-untyped-def]
    """Brute force, but that no row finds itself."""
    found = brute(rows, rows, np.ones(len(rows), bool), floor, len(rows))
    answer = []
    for number in range(len(rows)):
        answer += [pair for pair in found if pair[0] == number != pair[1]][:limit]
    return answer


@settings(max_examples=examples(40))
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 25, 31, 100, 256]),
    st.integers(1, 5),
    st.sampled_from([3, 8, 4096]),
    st.sampled_from([0, 5, 1 << 18]),
)
def test_blocks_find_in_both_ways_what_brute_force_finds(  # type: ignore[no-untyped-def]
    seed, farthest, limit, tile, many
) -> None:
    random = np.random.default_rng(seed)
    left, right = some_hashes(random, 9), some_hashes(random, 21)
    floor = 1 - farthest / 256
    with pytest.MonkeyPatch.context() as patched:
        for name, size in (("_TILE", tile), ("_MANY", many), ("_DENSE_CELLS", 16)):
            patched.setattr(hamming, name, size)
        one, other = Hamming().block(left), Hamming().block(right)

        forth, back = one.across(other, floor, limit)
        inside = other.within(floor, limit)

    assert told(forth) == brute(left, right, np.ones(21, bool), floor, limit)
    assert told(back) == brute(right, left, np.ones(9, bool), floor, limit)
    assert told(inside) == among(right, floor, limit)


def test_thousands_of_placeholders_in_blocks_cost_a_few_rows_each() -> None:
    rows = np.repeat(some_hashes(np.random.default_rng(0), 1), 3_000, axis=0)
    rows[:, 32] = 100
    one, other = Hamming().block(rows[:1000]), Hamming().block(rows[1000:])

    with at_most(megabytes=400):
        forth, back = one.across(other, 0.9, 8)
        inside = other.within(0.9, 8)

    assert len(forth.query) == 8 * 1000
    assert len(back.query) == len(inside.query) == 8 * 2000
    assert inside.reference[:8].tolist() == [*range(1, 9)]


def test_no_seam_between_tiles_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_QUERIES", 7), ("_TILE", 5), ("_CHUNK", 12)):
        monkeypatch.setattr(hamming, name, size)
    random = np.random.default_rng(1)
    queries, rows = some_hashes(random, 20), some_hashes(random, 50)
    every = np.ones(50, bool)
    growing = Hamming().growing()
    for start in range(0, 50, 17):
        growing.add(rows[start : start + 17])

    expected = brute(queries, rows, every, 0.85, 3)

    assert told(Hamming().search(queries, rows, every, 0.85, 3)) == expected
    assert told(growing.search(queries, 0.85, 3)) == expected
    assert expected


def test_nothing_is_found_in_nothing() -> None:
    rows = some_hashes(np.random.default_rng(0), 4)
    plain = rows.copy()
    plain[:, 32] = 49

    assert told(Hamming().growing().search(rows, 0.0, 1)) == []
    assert told(Hamming().search(plain, rows, np.ones(4, bool), 0.0, 1)) == []
    assert told(Hamming().search(rows, plain, np.ones(4, bool), 0.0, 1)) == []
    one, none = Hamming().block(plain), Hamming().block(rows[:0])
    assert [told(found) for found in one.across(none, 0.0, 1)] == [[], []]
    assert [told(found) for found in one.across(Hamming().block(rows), 0.0, 1)] == [[], []]
    assert told(none.within(0.0, 1)) == told(one.within(0.0, 1)) == []
    assert told(Hamming().search(rows[:0], rows, np.ones(4, bool), 0.0, 1)) == []


def test_blocks_have_the_similarities_of_pairs() -> None:
    random = np.random.default_rng(2)
    left, right = some_hashes(random, 6), some_hashes(random, 8)

    found = hash_similarities(left, right)

    for i, one in enumerate(left):
        for j, other in enumerate(right):
            distance = int(np.unpackbits(one[:32] ^ other[:32]).sum())
            fit = are_fit(left)[i] and are_fit(right)[j]
            assert found[i, j] == (1 - distance / 256 if fit else -np.inf)
