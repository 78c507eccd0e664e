"""One behaviour suite for every search backend."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_ops.core.canonical import block_similarities
from sscd_ops.errors import ConfigError, InvariantError
from sscd_ops.index import int8
from sscd_ops.index.backends import choose, open_backend
from sscd_ops.index.scan import Backend
from sscd_ops.index.torch_backend import Torch
from sscd_ops.model import Matches
from tests.memory import at_most
from tests.soak import examples

NAMES = ("flat", "exact", "sketch", "torch", "torch in float16")
DIGEST = "ab" * 32
LEAST_SPEED = int8.LEAST_SPEED
"""As it is shipped: tests run with none (``conftest``), once all of them are read."""


def backend(name: str, dimensions: int, threshold: float = 0.75) -> Backend:
    if name == "torch in float16":  # as on a GPU
        return Backend(Torch("cpu", torch.float16))
    return open_backend(name, fingerprint_digest=DIGEST, dimensions=dimensions, threshold=threshold)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def clustered(seed: int, count: int, dimensions: int, spread: float = 0.7) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((20, dimensions))
    return unit(
        centres[random.integers(0, 20, count)]
        + spread * random.standard_normal((count, dimensions))
    )


def brute(queries, rows, kept, floor, limit) -> list[tuple[int, int, float]]:  # type: ignore[no-untyped-def]
    similarity = block_similarities(queries, rows)
    found = []
    for query in range(len(queries)):
        near = [(-float(s), k) for k, s in enumerate(similarity[query]) if s >= floor and kept[k]]
        found += [(query, k, -s) for s, k in sorted(near)[:limit]]
    return found


def listed(found: Matches) -> list[tuple[int, int, float]]:
    assert found.query.dtype == found.reference.dtype == np.int64
    return list(
        zip(found.query.tolist(), found.reference.tolist(), found.similarity.tolist(), strict=True)
    )


@pytest.mark.parametrize("dimensions", [24, 64, 200, 512])
@pytest.mark.parametrize("name", NAMES)
def test_a_backend_finds_what_brute_force_finds(name: str, dimensions: int) -> None:
    rows = clustered(1, 700, dimensions)
    queries = np.concatenate([clustered(1, 40, dimensions), rows[:40]])
    kept = np.random.default_rng(2).random(700) < 0.6
    under_test = backend(name, dimensions)

    for codes in (under_test.codes(rows), {}):
        found = under_test.search(queries, rows, codes, kept, 0.75, 4)

        assert listed(found) == brute(queries, rows, kept, 0.75, 4)


@settings(max_examples=examples(40))
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 16, 100]),
    st.floats(-1.0, 1.0),
    st.sampled_from([0.0, 0.2, 1.0, 5.0]),
    st.integers(1, 9),
)
@pytest.mark.parametrize("name", ["flat", "exact", "torch", "torch in float16"])
def test_any_floor_and_any_data_give_every_pair(
    name, seed, dimensions, floor, spread, limit
) -> None:  # type: ignore[no-untyped-def]
    rows = clustered(seed, 60, dimensions, spread)
    rows[::7] = rows[0]
    rows[5] = -rows[0]
    kept = np.ones(60, bool)
    under_test = backend(name, dimensions)

    found = under_test.search(rows[:30], rows, under_test.codes(rows), kept, floor, limit)

    assert listed(found) == brute(rows[:30], rows, kept, floor, limit)


@pytest.mark.parametrize("name", NAMES)
def test_pairs_an_ulp_around_the_floor_fall_on_the_right_side(name: str) -> None:
    rows = clustered(5, 300, 64, 0.5)
    similarity = block_similarities(rows, rows)
    under_test = backend(name, 64, 0.6)

    for at in np.sort(similarity[similarity > 0.6])[::400].tolist():
        for floor in (at, float(np.nextafter(at, 2))):
            found = under_test.search(rows, rows, {}, np.ones(300, bool), floor, 300)
            assert len(found.query) == (similarity >= floor).sum()


@pytest.mark.parametrize("name", NAMES)
def test_one_array_of_queries_serves_many_segments(name: str) -> None:
    rows, queries = clustered(1, 300, 32), clustered(1, 50, 32)
    under_test = backend(name, 32)

    for part in np.array_split(rows, 3):
        kept = np.ones(len(part), bool)
        found = under_test.search(queries, part, under_test.codes(part), kept, 0.75, 8)
        assert listed(found) == brute(queries, part, kept, 0.75, 8)
    again = queries[::-1].copy()
    found = under_test.search(again, rows, {}, np.ones(300, bool), 0.75, 8)
    assert listed(found) == brute(again, rows, np.ones(300, bool), 0.75, 8)


@pytest.mark.parametrize("name", NAMES)
def test_more_queries_and_rows_than_a_tile_leave_no_seam(name: str) -> None:
    rows, queries = clustered(1, 5000, 16, 0.3), clustered(1, 1300, 16, 0.3)
    kept = np.random.default_rng(2).random(5000) < 0.95
    similarity = np.where(kept, block_similarities(queries, rows), -1)
    under_test = backend(name, 16, 0.95)

    found = under_test.search(queries, rows, under_test.codes(rows), kept, 0.95, 3)

    top = np.argsort(-similarity, axis=1, kind="stable")[:, :3]
    expected = [
        (q, int(k), float(similarity[q, k]))
        for q in range(len(queries))
        for k in top[q]
        if similarity[q, k] >= 0.95
    ]
    assert listed(found) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_growing_index_answers_for_what_was_added(name: str) -> None:
    rows, queries = clustered(1, 500, 32), clustered(1, 50, 32)
    index = backend(name, 32).growing(32)

    assert listed(index.search(queries, 0.75, 4)) == []
    for end in (1, 200, 201, 500):
        start = {1: 0, 200: 1, 201: 200, 500: 201}[end]
        index.add(rows[start:end])
        found = index.search(queries, 0.75, 4)
        assert listed(found) == brute(queries, rows[:end], np.ones(end, bool), 0.75, 4)


@pytest.mark.parametrize("name", NAMES)
def test_a_growing_index_grows_beyond_its_first_chunk(name: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("sscd_ops.index.scan._CHUNK", 64)
    rows, queries = clustered(1, 333, 32), clustered(1, 50, 32)
    index = backend(name, 32).growing(32)

    for part in np.array_split(rows, 4):
        index.add(part)

    found = index.search(queries, 0.75, 4)
    assert listed(found) == brute(queries, rows, np.ones(333, bool), 0.75, 4)


def among(rows, floor, limit) -> list[tuple[int, int, float]]:  # type: ignore[no-untyped-def]
    """Brute force, but that no row finds itself."""
    held: dict[int, list[tuple[int, int, float]]] = {}
    for pair in brute(rows, rows, np.ones(len(rows), bool), floor, len(rows)):
        if pair[0] != pair[1]:
            held.setdefault(pair[0], []).append(pair)
    return [pair for pairs in held.values() for pair in pairs[:limit]]


@settings(max_examples=examples(15))
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-1.0, 1.0),
    st.sampled_from([0.0, 0.2, 1.0, 5.0]),
    st.integers(1, 9),
    st.sampled_from([10, 1024]),
)
@pytest.mark.parametrize("name", ["flat", "exact", "torch", "torch in float16"])
def test_blocks_find_in_both_ways_what_brute_force_finds(  # type: ignore[no-untyped-def]
    name, seed, floor, spread, limit, side
) -> None:
    rows = clustered(seed, 60, 16, spread)
    rows[::7] = rows[0]
    under_test = backend(name, 16)
    under_test.method.tile_rows = under_test.method.tile_queries = side
    one, other = under_test.block(rows[:25]), under_test.block(rows[25:])

    forth, back = one.across(other, floor, limit)

    every = np.ones(60, bool)
    assert listed(forth) == brute(rows[:25], rows[25:], every[25:], floor, limit)
    assert listed(back) == brute(rows[25:], rows[:25], every[:25], floor, limit)
    for block, mine in ((one, rows[:25]), (other, rows[25:])):
        assert listed(block.within(floor, limit)) == among(mine, floor, limit)


@pytest.mark.parametrize("dimensions", [24, 512])
@pytest.mark.parametrize("name", NAMES)
def test_a_block_serves_many_others(name: str, dimensions: int) -> None:
    rows = clustered(1, 700, dimensions)
    under_test = backend(name, dimensions)
    parts = np.split(rows, [300, 301, 301])
    blocks = [under_test.block(part) for part in parts]

    for own, mine in zip(blocks, parts, strict=True):
        assert len(own) == len(mine)
        assert listed(own.within(0.75, 4)) == among(mine, 0.75, 4)
        for block, theirs in zip(blocks, parts, strict=True):
            forth, back = own.across(block, 0.75, 4)
            assert listed(forth) == brute(mine, theirs, np.ones(len(theirs), bool), 0.75, 4)
            assert listed(back) == brute(theirs, mine, np.ones(len(mine), bool), 0.75, 4)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_leave_no_seam_between_tiles(name: str) -> None:
    rows = clustered(1, 2500, 16, 0.3)
    similarity = block_similarities(rows, rows)
    np.fill_diagonal(similarity, -1)
    under_test = backend(name, 16, 0.95)

    found = under_test.block(rows).within(0.95, 3)

    top = np.argsort(-similarity, axis=1, kind="stable")[:, :3]
    expected = [
        (q, int(k), float(similarity[q, k]))
        for q in range(len(rows))
        for k in top[q]
        if similarity[q, k] >= 0.95
    ]
    assert listed(found) == expected


@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_placeholders_in_blocks_cost_a_few_rows_each(name: str) -> None:
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal(512) + 0.02 * random.standard_normal((3000, 512)))
    rows[1500:] = rows[0]
    under_test = backend(name, 512)

    with at_most(megabytes=300):
        one, other = under_test.block(rows[:1500]), under_test.block(rows[1500:])
        forth, back = one.across(other, 0.7, 8)
        inside = other.within(0.7, 8)

    assert len(forth.query) == len(back.query) == len(inside.query) == 8 * 1500
    assert forth.reference.tolist() == [*range(8)] * 1500
    assert back.reference[:8].tolist() == back.reference[-8:].tolist()
    assert inside.reference[:8].tolist() == [*range(1, 9)]
    assert inside.reference[-8:].tolist() == [*range(8)]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_search_is_no_trouble(name: str) -> None:
    rows, none = clustered(1, 5, 32), np.empty((0, 32), np.float16)
    under_test = backend(name, 32)

    assert listed(under_test.search(rows, none, {}, np.empty(0, bool), 0.75, 8)) == []
    assert listed(under_test.search(none, rows, {}, np.ones(5, bool), 0.75, 8)) == []
    assert listed(under_test.search(rows, rows, {}, np.zeros(5, bool), 0.75, 8)) == []
    assert all(len(v) == 0 for v in under_test.codes(none).values())


@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_placeholders_cost_a_few_rows_each(name: str) -> None:
    random = np.random.default_rng(0)
    rows = unit(random.standard_normal(512) + 0.02 * random.standard_normal((3000, 512)))
    rows[1500:] = rows[0]
    under_test = backend(name, 512)
    codes = under_test.codes(rows)

    with at_most(megabytes=300):
        found = under_test.search(rows[1000:], rows, codes, np.ones(3000, bool), 0.7, 8)

    assert len(found.query) == 8 * 2000
    assert found.reference[-8:].tolist() == [0, 1500, 1501, 1502, 1503, 1504, 1505, 1506]


@pytest.mark.parametrize("name", ["exact", "sketch"])
def test_codes_of_another_fingerprint_or_plan_are_never_used(name: str) -> None:
    rows = clustered(1, 300, 64)
    other = open_backend(name, fingerprint_digest="cd" * 32, dimensions=64, threshold=0.75)
    under_test = backend(name, 64)

    found = under_test.search(rows, rows, other.codes(rows), np.ones(300, bool), 0.75, 8)

    assert not set(other.codes(rows)) & set(under_test.codes(rows))
    assert listed(found) == brute(rows, rows, np.ones(300, bool), 0.75, 8)


@pytest.mark.parametrize("name", NAMES)
def test_descriptors_that_are_not_unit_vectors_are_refused(name: str) -> None:
    rows = clustered(1, 50, 64)
    rows[3] = rows[3] * np.float16(7)

    with pytest.raises(InvariantError, match="squared norm"):
        backend(name, 64).search(rows, rows, {}, np.ones(50, bool), 0.75, 8)


def test_auto_depends_on_rows_and_threshold_alone() -> None:
    assert choose("auto", 0, 0.75) == "flat"
    assert choose("auto", 99_999, 0.75) == "flat"
    assert choose("auto", 100_000, 0.75) == "exact"
    assert choose("auto", 4_999_999, 0.75) == "exact"
    assert choose("auto", 5_000_000, 0.75) == "sketch"
    assert choose("auto", 5_000_000, 0.5) == "sketch"
    assert choose("auto", 5_000_000, 0.49) == "exact"
    assert choose("torch", 0, 0.1) == "torch"


def test_a_name_or_threshold_that_cannot_be_served_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="'fast' is no search backend"):
        choose("fast", 0, 0.75)
    with pytest.raises(ConfigError, match="auto or one of"):
        open_backend("auto", fingerprint_digest=DIGEST, dimensions=8, threshold=0.75)
    for name in (choose, open_backend):
        with pytest.raises(ConfigError, match="use exact"):
            if name is choose:
                choose("sketch", 0, 0.49)
            else:
                backend("sketch", 8, 0.49)


@pytest.mark.parametrize("bits", [15, 21])
def test_exact_falls_back_to_flat_where_the_int8_product_is_wrong(
    monkeypatch, caplog, bits
) -> None:  # type: ignore[no-untyped-def]
    """Also where only the largest sums are cut off."""

    def saturating(left, right, out=None):  # type: ignore[no-untyped-def]
        return np.clip(left.astype(np.int32) @ right.astype(np.int32).T, -(2**bits), 2**bits - 1)

    int8.usable.cache_clear()
    monkeypatch.setattr(int8, "product", saturating)
    with caplog.at_level(logging.WARNING):
        found = backend("exact", 512)
    int8.usable.cache_clear()

    assert found.name == "flat"
    assert "falls back from exact to flat: torch._int_mm is wrong" in caplog.text


@pytest.mark.parametrize(
    "torch_is",
    [
        "raise OSError('libtorch_cpu.so: cannot open shared object file')",
        "raise ImportError('no torch here')",
        "get_num_threads, from_numpy = lambda: 1, lambda array: array",
    ],
    ids=["broken", "missing", "without _int_mm"],
)
def test_exact_falls_back_to_flat_where_torch_does_not_load(tmp_path: Path, torch_is: str) -> None:
    """A night that one machine searched goes on at another, whose torch is broken."""
    (tmp_path / "torch.py").write_text(torch_is)
    script = (
        "import sys, numpy as np\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from sscd_ops.index.backends import open_backend\n"
        "b = open_backend('exact', fingerprint_digest='a', dimensions=8, threshold=.7)\n"
        "assert b.name == 'flat'\n"
        "x = np.eye(8, dtype=np.float16)\n"
        "assert len(b.search(x, x, {}, np.ones(8, bool), .7, 8).query) == 8\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture
def int8_without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch without oneDNN's kernels: what a CPU without them has."""
    monkeypatch.setattr(int8, "LEAST_SPEED", LEAST_SPEED)
    for cached in (int8.usable, int8.speed):
        cached.cache_clear()
    torch.backends.mkldnn.set_flags(False)
    yield
    torch.backends.mkldnn.set_flags(True)
    for cached in (int8.usable, int8.speed):
        cached.cache_clear()


@pytest.mark.usefixtures("int8_without_kernels")
def test_exact_falls_back_to_flat_where_the_int8_product_is_slow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The nights of a user whose CPU has no int8 kernel do not become slow at 100,000 rows."""
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()

    with caplog.at_level(logging.WARNING):
        found = backend("exact", 512)

    assert found.name == "flat"
    assert "falls back from exact to flat: on this CPU the int8 product" in caplog.text
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == threads
    assert found.codes(clustered(1, 5, 512)) == {}


@pytest.mark.parametrize(("ratio", "name"), [(0.99, "flat"), (1.01, "exact")])
def test_the_int8_product_need_only_be_as_fast_as_float32(
    monkeypatch: pytest.MonkeyPatch, ratio: float, name: str
) -> None:
    monkeypatch.setattr(int8, "LEAST_SPEED", LEAST_SPEED)
    monkeypatch.setattr(int8, "speed", lambda columns, dimensions: ratio)
    int8.usable.cache_clear()
    found = backend("exact", 64)
    int8.usable.cache_clear()

    assert found.name == name


def test_flat_never_loads_torch() -> None:
    script = (
        "import sys, numpy as np\n"
        "from sscd_ops.index.backends import open_backend, choose\n"
        "import sscd_ops.core.segment_file\n"
        "b = open_backend(choose('auto', 10, .7), fingerprint_digest='a', dimensions=8,"
        " threshold=.7)\n"
        "x = np.eye(8, dtype=np.float16)\n"
        "assert len(b.search(x, x, {}, np.ones(8, bool), .7, 8).query) == 8\n"
        "assert 'torch' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True)
