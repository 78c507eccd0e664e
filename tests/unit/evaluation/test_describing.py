"""Neighbours, whitening and score bias against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sscd_ops.core.canonical import block_similarities
from sscd_ops.errors import UsageError
from sscd_ops.evaluation import describing
from sscd_ops.evaluation.describing import describe, fit_whitening, nearest, score_bias
from sscd_ops.evaluation.picture_sets import Joined, Spool, Subset, numbered
from sscd_ops.ports import Silence
from sscd_ops.testing import TinyEmbedder, picture


def unit(rng: np.random.Generator, count: int, d: int = 24) -> NDArray[np.float16]:
    rows = rng.standard_normal((count, d)) * np.linspace(2, 0.5, d) + 0.4
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("self_out", [False, True])
def test_neighbours_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch, self_out: bool) -> None:
    monkeypatch.setattr(describing, "_QUERIES", 13)
    monkeypatch.setattr(describing, "_REFERENCES", 17)
    rng = np.random.default_rng(0)
    references = unit(rng, 60)
    queries = references if self_out else unit(rng, 41)

    found = nearest(queries, references, 3, without_self=self_out)

    everything = block_similarities(queries, references)
    if self_out:
        np.fill_diagonal(everything, -np.inf)
    order = np.argsort(-everything, axis=1, kind="stable")[:, :3]
    assert (found.query == np.repeat(np.arange(len(queries)), 3)).all()
    assert (found.reference.reshape(-1, 3) == order).all()
    assert (found.similarity == everything[found.query, found.reference]).all()


def test_a_set_of_one_has_no_neighbour_but_itself() -> None:
    one = unit(np.random.default_rng(0), 1)
    assert len(nearest(one, one, 2, without_self=True).query) == 0


def test_whitened_training_pictures_spread_alike_in_all_directions() -> None:
    rng = np.random.default_rng(1)
    training = unit(rng, 3000)

    whitening = fit_whitening(training)

    turned = (training.astype(np.float64) - whitening.mean) @ whitening.matrix.T
    assert np.allclose(turned.T @ turned / 3000, np.eye(24), atol=1e-6)
    norms = np.linalg.norm(whitening.apply(training).astype(np.float64), axis=1)
    assert np.allclose(norms, 1, atol=2e-3)


def test_whitening_keeps_the_widest_axes() -> None:
    training = unit(np.random.default_rng(1), 500)
    whole, few = fit_whitening(training), fit_whitening(training, 5)
    assert np.allclose(whole.matrix[:5], few.matrix)
    assert few.apply(training).shape == (500, 5)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (unit(np.random.default_rng(0), 24), "more than 24 training pictures"),
        (np.repeat(unit(np.random.default_rng(0), 10), 9, axis=0), "do not spread"),
    ],
)
def test_whitening_refuses_what_it_cannot_divide_by(
    training: NDArray[np.float16], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        fit_whitening(training)


def test_the_bias_is_the_mean_similarity_to_the_nearest_three() -> None:
    rng = np.random.default_rng(2)
    queries, background = unit(rng, 12), unit(rng, 50)

    bias = score_bias(queries, background)

    best = -np.sort(-block_similarities(queries, background), axis=1)[:, :3]
    assert np.allclose(bias, best.mean(axis=1), atol=1e-12)
    with pytest.raises(UsageError, match="at least 3"):
        score_bias(queries, background[:2])


def test_pictures_that_fail_have_no_row() -> None:
    spool = Spool()
    for name, data in (("a", picture(1)), ("b", b"no picture"), ("c", picture(2))):
        spool.add(name, data)

    with TinyEmbedder() as embedder:
        found = describe(embedder, spool, Silence())

    assert found.rows.tolist() == [0, 2]
    assert found.descriptors.shape == (2, 192)
    assert found.faults == {"undecodable": 1}


def test_sets_of_sets_read_the_same_by_number_and_in_order() -> None:
    spool = Spool()
    for number in range(5):
        spool.add(f"n{number}", bytes([number]) * number)
    joined = Joined([Subset(spool, [4, 0]), spool])

    assert list(joined) == [joined.get(row) for row in range(len(joined))]
    assert joined.names == ["n4", "n0", "n0", "n1", "n2", "n3", "n4"]
    with pytest.raises(IndexError):
        joined.get(7)


def test_names_are_found_by_their_last_part_where_it_is_alone() -> None:
    table = numbered(["a/x", "b/x", "b/y", "z"], "queries")
    assert table == {"a/x": 0, "b/x": 1, "b/y": 2, "z": 3, "y": 2}


def test_whitening_leaves_a_plain_picture_without_a_direction() -> None:
    rows = unit(np.random.default_rng(3), 40, 8)
    rows[7] = 0  # or it would become a descriptor, the mean's, and match others

    turned = fit_whitening(np.delete(rows, 7, axis=0)).apply(rows)

    assert not turned[7].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(turned, 7, axis=0), axis=1), 1, atol=1e-2)
