"""Leader against a slow oracle, on data full of ties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from sscd_ops.core import leader
from sscd_ops.core.best import BestMatches
from sscd_ops.core.canonical import block_similarities
from sscd_ops.core.found import Answer, Found, gather
from sscd_ops.core.leader import Compared, lead
from sscd_ops.core.measures import near, perceptual
from sscd_ops.errors import UsageError
from sscd_ops.index.backends import open_backend
from sscd_ops.index.hamming import Hamming
from sscd_ops.model import Matches
from tests.memory import at_most
from tests.soak import examples, sweep

BACKENDS = ("flat", "exact", "sketch", "torch")


def growing(name: str, dimensions: int, threshold: float = 0.75):  # type: ignore[no-untyped-def]
    backend = open_backend(
        name, fingerprint_digest="ab" * 32, dimensions=dimensions, threshold=threshold
    )
    return backend.growing(dimensions)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def oracle(measures, count, limit):  # type: ignore[no-untyped-def]
    """Leader as it is defined, pair by pair; measures are (similarity of a pair, history, ...)."""
    kept: list[int] = []
    verdicts, matches = [], [[] for _ in measures]
    for row in range(count):
        verdict = None
        for number, (pair, history, threshold, floor) in enumerate(measures):
            seen = [(pair(row, k), k) for k in kept]
            seen.sort(key=lambda pair: (-pair[0], pair[1]))
            matches[number] += [(row, k, s) for s, k in seen if s >= floor][:limit]
            best = seen[0] if seen else (-np.inf, -1)
            if verdict is not None:
                continue
            if history[row] >= threshold and history[row] >= best[0]:
                verdict = (-1, history[row], number)
            elif best[0] >= threshold:
                verdict = (best[1], best[0], number)
        if verdict is None:
            kept.append(row)
        verdicts.append(verdict or (-1, -np.inf, 0))
    return kept, verdicts, matches


def hash_similarity(one: np.ndarray, other: np.ndarray) -> float:
    if min(one[32], other[32]) < 50:
        return -np.inf
    left, right = (int.from_bytes(row[:32].tobytes()) for row in (one, other))
    return 1 - (left ^ right).bit_count() / 256


def by_hash(rows, history, farthest=31, margin=8):  # type: ignore[no-untyped-def]
    measure = perceptual(1 - farthest / 256, 1 - (farthest + margin) / 256)
    return Compared(measure, rows, history, Hamming().growing())


def found_in_blocks(make, rows, floor, limit, place, splits) -> Found:  # type: ignore[no-untyped-def]
    """Pairs as tasks find them: rows in some other order (``place``), cut into blocks."""
    stored = np.empty_like(rows, shape=(len(place), rows.shape[1]))
    stored[place >= 0] = rows[place[place >= 0]]
    stored[place < 0] = rows[: (place < 0).sum()]  # copies that take no part
    firsts = [0, *splits]
    blocks = [make(part) for part in np.split(stored, splits)]

    def answers():  # type: ignore[no-untyped-def]
        for at, block in enumerate(blocks):
            yield Answer(firsts[at], firsts[at], block.within(floor, limit), limit)
            for to in range(at):
                forth, back = block.across(blocks[to], floor, limit)
                yield Answer(firsts[at], firsts[to], forth, limit)
                yield Answer(firsts[to], firsts[at], back, limit)

    return gather(answers(), place, len(rows))


@st.composite
def layouts(draw, count):  # type: ignore[no-untyped-def]
    """How rows were stored (with some that take no part), and where blocks end."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    idle = draw(st.sampled_from([0, 0, 3]))
    place = np.concatenate([np.arange(count), np.full(min(idle, count), -1)]).astype(np.int32)
    place = random.permutation(place)
    cuts = random.integers(0, len(place) + 1, draw(st.integers(0, 4)))
    return place, sorted(cuts.tolist())


def same(found, expected) -> None:  # type: ignore[no-untyped-def]
    for name in ("kept", "witness", "similarity", "measure"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    for own, other in zip(found.matches, expected.matches, strict=True):
        for name in ("query", "reference", "similarity"):
            np.testing.assert_array_equal(getattr(own, name), getattr(other, name), name)


def check(rows, history, threshold, floor, limit, block, index, *hashed) -> None:  # type: ignore[no-untyped-def]
    pairs = block_similarities(rows, rows)
    measures = [(lambda a, b: float(pairs[a, b]), history, threshold, floor)]
    measures += (
        (
            lambda a, b, rows=hashes.rows: hash_similarity(rows[a], rows[b]),
            hashes.history,
            hashes.measure.threshold,
            hashes.measure.floor,
        )
        for hashes in hashed
    )
    kept, verdicts, matches = oracle(measures, len(rows), limit)

    own = Compared(near(threshold, floor), rows, history, index)
    found = lead([own, *hashed], limit, block)

    assert np.flatnonzero(found.kept).tolist() == kept
    assert found.witness.tolist() == [witness for witness, _, _ in verdicts]
    assert found.similarity.tolist() == [similarity for _, similarity, _ in verdicts]
    assert found.measure.tolist() == [
        -1 if row in kept else number for row, (_, _, number) in enumerate(verdicts)
    ]
    for reported, expected in zip(found.matches, matches, strict=True):
        columns = (reported.query, reported.reference, reported.similarity)
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected


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


@settings(max_examples=examples(60))
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


def hashes_like(seed: int, count: int, spread: int) -> np.ndarray:
    """Rows of few hashes, some bits of each turned over; some of too low a quality to match."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (random.integers(1, 6), 256), np.uint8)
    bits = bits[random.integers(0, len(bits), count)]
    for row in bits:
        row[random.choice(256, random.integers(0, spread + 1), replace=False)] ^= 1
    quality = random.choice([0, 49, 50, 100], (count, 1), p=[0.1, 0.1, 0.1, 0.7])
    rows = np.concatenate([np.packbits(bits, axis=1), quality.astype(np.uint8)], axis=1)
    rows[random.random(count) < 0.2] = rows[0]
    return rows


@st.composite
def second_measures(draw, count):  # type: ignore[no-untyped-def]
    """Hashes of a batch's rows, history's ties with the batch among them."""
    seed = draw(st.integers(0, 2**32 - 1))
    rows = hashes_like(seed, count, draw(st.sampled_from([0, 20, 40])))
    random = np.random.default_rng(seed)
    history = np.full(count, -np.inf)
    known = random.random(count) < 0.3
    history[known] = 1 - random.choice([0, 10, 31, 32, 40], int(known.sum())) / 256
    farthest = draw(st.sampled_from([0, 10, 31, 60]))
    margin = draw(st.sampled_from([0, 8]))
    return by_hash(rows, history, farthest, margin)


@settings(max_examples=examples(60))
@given(
    st.data(),
    batches(),
    st.sampled_from([0.5, 0.75, 0.9, 1.0]),
    st.integers(1, 9),
    st.sampled_from([1, 2, 7, 20, 4096]),
)
def test_two_measures_decide_in_one_pass_as_the_definition_says(  # type: ignore[no-untyped-def]
    data, batch, threshold, limit, block
) -> None:
    rows, history = batch
    hashes = data.draw(second_measures(len(rows)))

    check(rows, history, threshold, threshold - 0.05, limit, block, growing("flat", 16), hashes)


@settings(max_examples=50, deadline=None)
@given(st.data(), batches(), st.sampled_from([1, 7, 4096]))
def test_a_third_measure_is_one_more_in_the_list(data, batch, block) -> None:  # type: ignore[no-untyped-def]
    rows, history = batch
    second, third = (data.draw(second_measures(len(rows))) for _ in range(2))

    check(rows, history, 0.75, 0.7, 3, block, growing("flat", 16), second, third)


@pytest.mark.parametrize("block", [300, 4096])
def test_two_measures_leave_no_seam_between_strips_and_blocks(block: int) -> None:
    random = np.random.default_rng(3)
    centres = random.standard_normal((150, 32))
    rows = unit(centres[random.integers(0, 150, 1200)] + 0.7 * random.standard_normal((1200, 32)))
    none = np.full(1200, -np.inf)
    hashes = by_hash(hashes_like(7, 1200, 60), none)

    check(rows, none, 0.75, 0.7, 8, block, growing("flat", 32), hashes)


@settings(max_examples=examples(25))
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

    found = lead([Compared.first(near(at, at), rows, growing("flat", 2))], 8)
    above = lead([Compared.first(near(np.nextafter(at, 1), at), rows, growing("flat", 2))], 8)

    assert found.kept.tolist() == [True, False, False]
    assert above.kept.tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["flat", "exact", "sketch"])
def test_twenty_thousand_placeholders_stay_within_bounded_memory(name: str) -> None:
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal(512) + 0.02 * random.standard_normal((20_000, 512)))
    index = growing(name, 512)

    with at_most(megabytes=300):
        found = lead([Compared.first(near(0.75, 0.7), rows, index)], 8)

    assert found.kept.sum() == 1
    assert (found.witness[1:] == 0).all()


def test_twenty_thousand_placeholders_by_hash_stay_within_bounded_memory() -> None:
    """Their descriptors say nothing, all their hashes the same."""
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal((20_000, 64)))
    none = np.full(len(rows), -np.inf)
    hashed = np.repeat(hashes_like(8, 1, 0), len(rows), axis=0)
    hashed[:, 32] = 100

    with at_most(megabytes=300):
        own = Compared.first(near(0.99, 0.95), rows, growing("flat", 64))
        found = lead([own, by_hash(hashed, none)], 8)

    assert found.kept.sum() == 1
    assert (found.measure[1:] == 1).all()
    assert (found.witness[1:] == 0).all()


@pytest.mark.parametrize("name", ["flat", "exact", "sketch"])
def test_a_night_of_matches_below_the_threshold_stays_bounded(name: str) -> None:
    """Everything is at .70 to .74 of everything: all kept, and every pair is a match."""
    random = np.random.default_rng(0)
    centre = unit(random.standard_normal((1, 512))).astype(np.float64)
    rows = unit(np.sqrt(0.72) * centre + np.sqrt(0.28) * unit(random.standard_normal((4000, 512))))
    index = growing(name, 512)

    with at_most(megabytes=300):
        found = lead([Compared.first(near(0.85, 0.6), rows, index)], 8)

    assert found.kept.all()
    if name != "sketch":  # below the threshold sketch promises nothing
        assert len(found.matches[0].query) == 8 * len(rows) - sum(8 - k for k in range(8))


def test_an_empty_night_is_no_trouble() -> None:
    nothing = np.empty((0, 8), np.float16)
    found = lead([Compared.first(near(0.75, 0.7), nothing, growing("flat", 8))], 8)

    assert found.kept.tolist() == []
    assert len(found.matches[0].query) == 0


def test_arguments_without_meaning_are_refused() -> None:
    rows = np.eye(2, 8, dtype=np.float16)

    def own(floor=0.7, history=2):  # type: ignore[no-untyped-def]
        return Compared(near(0.75, floor), rows, np.empty(history), growing("flat", 8))

    for batch, words in (
        ([own(history=1)], "history"),
        ([own(floor=0.8)], "floor"),
        ([own(), by_hash(np.zeros((3, 33), np.uint8), np.empty(2))], "3 rows of pdq"),
        ([replace(own(), found=Found.nothing(3))], "pairs of 3 rows"),
        ([own(), by_hash(np.zeros((2, 33), np.uint8), np.empty(2), margin=-1)], "floor"),
    ):
        with pytest.raises(UsageError, match=words):
            lead(batch, 8)
    for limit, block in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="limit"):
            lead([own()], limit, block)


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


@settings(max_examples=examples(40))
@given(
    st.data(),
    batches(),
    st.sampled_from([0.5, 0.75, 0.9]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 7, 4096]),
)
@pytest.mark.parametrize("name", BACKENDS)
def test_pairs_found_in_blocks_decide_as_comparing_everything(  # type: ignore[no-untyped-def]
    name, data, batch, threshold, limit, listed, block
) -> None:
    rows, history = batch
    hashes = data.draw(second_measures(len(rows)))
    # below the threshold sketch promises nothing
    by = near(threshold, threshold - (0 if name == "sketch" else 0.05))
    backend = open_backend(name, fingerprint_digest="ab" * 32, dimensions=16, threshold=threshold)
    expected = lead([Compared(by, rows, history, growing("flat", 16)), hashes], limit)

    own = found_in_blocks(backend.block, rows, by.floor, listed, *data.draw(layouts(len(rows))))
    theirs = found_in_blocks(
        Hamming().block, hashes.rows, hashes.measure.floor, listed, *data.draw(layouts(len(rows)))
    )
    found = lead(
        [
            Compared(by, rows, history, backend.growing(16), own),
            replace(hashes, index=Hamming().growing(), found=theirs),
        ],
        limit,
        block,
    )

    same(found, expected)


@pytest.mark.parametrize("block", [300, 4096])
def test_cut_rows_leave_no_seam_between_strips_and_blocks(block: int) -> None:
    random = np.random.default_rng(3)
    centres = random.standard_normal((150, 32))
    rows = unit(centres[random.integers(0, 150, 1200)] + 0.7 * random.standard_normal((1200, 32)))
    none, by = np.full(1200, -np.inf), near(0.75, 0.7)
    hashes = by_hash(hashes_like(7, 1200, 60), none)
    backend = open_backend("flat", fingerprint_digest="ab" * 32, dimensions=32, threshold=0.75)
    expected = lead([Compared(by, rows, none, growing("flat", 32)), hashes], 8)
    place, splits = random.permutation(1200).astype(np.int32), [400, 900]

    own = found_in_blocks(backend.block, rows, by.floor, 3, place, splits)
    theirs = found_in_blocks(Hamming().block, hashes.rows, hashes.measure.floor, 150, place, splits)
    again = replace(hashes, index=Hamming().growing(), found=theirs)
    found = lead([Compared(by, rows, none, growing("flat", 32), own), again], 8, block)

    cut = (own.cut | theirs.cut).sum()
    assert 300 < cut < 1100
    same(found, expected)


@pytest.mark.parametrize(
    ("name", "count"),
    sweep([("flat", 5_000), *((name, 20_000) for name in BACKENDS)], [("flat", 5_000)]),
)
def test_thousands_of_placeholders_in_blocks_stay_within_bounded_rows(  # type: ignore[no-untyped-def]
    name, count
) -> None:
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal(64) + 0.02 * random.standard_normal((count, 64)))
    backend = open_backend(name, fingerprint_digest="ab" * 32, dimensions=64, threshold=0.75)
    place = random.permutation(count).astype(np.int32)
    by, none = near(0.75, 0.7), np.full(count, -np.inf)

    with at_most(megabytes=400):
        pairs = found_in_blocks(backend.block, rows, by.floor, 8, place, [count // 2])
        found = lead([Compared(by, rows, none, backend.growing(64), pairs)], 8)

    assert pairs.cut.all()
    assert len(pairs.row) <= 8 * count * 2
    same(found, lead([Compared.first(by, rows, growing("flat", 64))], 8))


def test_only_rows_that_lists_may_fail_are_read() -> None:
    """A night's descriptors stay on disk but for those."""

    class OnDemand:
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
            read.extend(numbers.tolist())
            return rows[numbers]

    rows = unit(np.random.default_rng(1).standard_normal((300, 16)))
    rows[100:110] = rows[0]
    backend = open_backend("flat", fingerprint_digest="ab" * 32, dimensions=16, threshold=0.9)
    by, read = near(0.9, 0.9), []
    pairs = found_in_blocks(backend.block, rows, 0.9, 8, np.arange(300, dtype=np.int32), [150])

    same_rows = [0, *range(100, 110)]
    for compared in (pairs, replace(pairs, cut=np.isin(np.arange(300), same_rows))):
        read.clear()
        none = np.full(300, -np.inf)
        found = lead([Compared(by, OnDemand(), none, growing("flat", 16), compared)], 8)
        assert read == same_rows
        same(found, lead([Compared.first(by, rows, growing("flat", 16))], 8))


def test_answers_are_gathered_in_preference_order() -> None:
    """Rows 5 to 7 are one block and 8 to 9 another; row 6 takes no part."""
    place = np.array([-1, -1, -1, -1, -1, 3, -1, 0, 2, 1], np.int32)
    forth = Matches(np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1]), np.array([0.9, 0.8, 0.9, 0.7]))
    back = Matches(np.array([0, 1]), np.array([0, 2]), np.array([0.9, 0.7]))

    def pairs(limit):  # type: ignore[no-untyped-def]
        found = gather([Answer(5, 8, forth, limit), Answer(8, 5, back, limit)], place, 4)
        listed = zip(found.row.tolist(), found.other.tolist(), found.similarity, strict=True)
        return list(listed), np.flatnonzero(found.cut).tolist()

    assert pairs(3) == (
        [(3, 2, 0.9), (3, 1, 0.8), (0, 1, 0.7), (2, 3, 0.9), (1, 0, 0.7)],
        [],
    )
    # row 5's list is full: only what the others list of it is of use, and it still is
    assert pairs(2)[1] == [3]
    # all are cut, and pairs of cut rows are dropped as soon as both are known to be
    assert pairs(1) == ([(3, 2, 0.9), (3, 1, 0.8), (0, 1, 0.7)], [0, 1, 2, 3])


def test_strips_do_not_wake_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products this small gain nothing by threads, which wait for each other on every core."""

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    def seen(*rows):  # type: ignore[no-untyped-def]
        found.append(threads())
        return block_similarities(*rows)

    found: list[set[int]] = []
    monkeypatch.setattr(leader, "block_similarities", seen)
    rows = unit(np.random.default_rng(1).standard_normal((600, 16)))

    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        lead([Compared.first(near(0.75, 0.7), rows, growing("flat", 16))], 4, block=300)
        after = threads()

    assert found == [{1}] * 4
    assert after == before == {2}
