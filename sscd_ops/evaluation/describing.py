"""Descriptors of picture sets, as the product stores them; whitening; neighbours; score bias.

Whitening and score normalisation are those of the SSCD evaluation (Pizzi et al., CVPR 2022, section
4.2; Douze et al., arXiv 2106.09672, section 5.4). Score normalisation serves ``evaluate`` alone: it
favours one side of a pair, so no decision may rest on it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core import whitening
from sscd_ops.core.best import BestMatches
from sscd_ops.core.canonical import pair_similarities, widen
from sscd_ops.core.leader import Compared
from sscd_ops.core.measures import perceptual
from sscd_ops.core.perceptual import similarity_at
from sscd_ops.errors import UsageError
from sscd_ops.evaluation.picture_sets import PictureSet
from sscd_ops.model import Fault, Matches
from sscd_ops.options import DuplicatesOptions
from sscd_ops.ports import Embedder, HashSearch, Progress

BACKGROUND_NEIGHBOURS = 3
"""Neighbours in the background set whose mean similarity is a query's bias (SSCD: 1.00[0,2])."""


@dataclass
class Described:
    """Descriptors of a picture set.

    Attributes:
        rows: int64 (n,), which pictures of the set have one, plain ones among them.
        descriptors: float16 (n, d), L2-normalised.
        failed: picture of the set -> why it has none.
        seconds: it took.
        hashes: uint8 (n, 33), perceptual hashes, where the embedder makes them.
        plain: int64 (k,), pictures of the set with nothing in them to compare: their descriptors
            are zero, so that they match nothing.
    """

    rows: NDArray[np.int64]
    descriptors: NDArray[np.float16]
    failed: dict[int, tuple[Fault, str]] = field(default_factory=dict)
    seconds: float = 0.0
    hashes: NDArray[np.uint8] | None = None
    plain: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def without_plain(self) -> Described:
        """Those that a night compares."""
        keep = ~np.isin(self.rows, self.plain)
        hashes = None if self.hashes is None else self.hashes[keep]
        return replace(
            self, rows=self.rows[keep], descriptors=self.descriptors[keep], hashes=hashes
        )

    @property
    def faults(self) -> Counter[str]:
        """Quarantine code -> pictures without a descriptor."""
        return Counter(str(code) for code, _ in self.failed.values())

    def __len__(self) -> int:
        return len(self.rows)


def describe(
    embedder: Embedder, pictures: PictureSet, progress: Progress, label: str = "pictures"
) -> Described:
    """Embed a set: decoding, model and all. The embedder is entered."""
    count = len(pictures)
    out = np.zeros((count, embedder.dimensions), np.float16)
    failed: dict[int, tuple[Fault, str]] = {}
    hashes: list[NDArray[np.uint8]] = []
    plain: list[int] = []
    started = time.monotonic()
    progress.start(f"embedding {label}", count)
    done = 0
    for chunk in embedder.embed(iter(pictures)):
        size = len(chunk.descriptors)
        out[done : done + size] = chunk.descriptors.astype(np.float16)
        failed.update({done + row: fault for row, fault in chunk.faults.items()})
        plain += [done + row for row in sorted(chunk.plain)]
        done += size
        if chunk.hashes is not None:
            hashes.append(chunk.hashes)
        progress.advance(size)
    progress.done()
    seconds = time.monotonic() - started
    rows = np.setdiff1d(np.arange(count), list(failed))
    return Described(
        rows,
        out[rows] if failed else out,
        failed,
        seconds,
        np.concatenate(hashes)[rows] if hashes else None,
        np.array(plain, np.int64),
    )


def hashes_without_history(hashes: NDArray[np.uint8], search: HashSearch) -> Compared:
    """Hashes for leader, as a dataset's defaults have it, of a night that is the first.

    Args:
        hashes: uint8 (n, 33).
        search: opens the index.
    """
    farthest = similarity_at(DuplicatesOptions().perceptual_distance)
    return Compared.first(perceptual(farthest, farthest), hashes, search.growing())


def fit_whitening(
    descriptors: NDArray[np.float16], dimensions: int = 0, seed: int = 1234
) -> whitening.Whitening:
    """PCA whitening of all dimensions, or of the largest few; as FAISS's ``PCAW<k>,L2norm``.

    Args:
        descriptors: float16 (n, d), of pictures that are none of the references or queries.
        dimensions: axes to keep; 0: all.
        seed: of the sample that is taken where there are more than 1,000 d rows, as FAISS does.

    Raises:
        UsageError: too few pictures, or too alike, to divide by their spread.
    """
    count, d = descriptors.shape
    if count <= d:
        raise UsageError(
            f"whitening {d} dimensions needs more than {d} training pictures (many more), not"
            f" {count}: give more with --training"
        )
    if count > 1000 * d:
        chosen = np.random.default_rng(seed).choice(count, 1000 * d, replace=False)
        descriptors = descriptors[np.sort(chosen)]
    kept = min(dimensions or d, d)
    fitted = whitening.fit(descriptors, kept)
    if fitted.dimensions < kept:
        raise UsageError(
            "the training pictures do not spread over all dimensions: whitening would divide by"
            " nothing; give more and other pictures with --training"
        )
    return fitted


def nearest(
    queries: NDArray[np.float16],
    references: NDArray[np.float16],
    neighbours: int,
    progress: Progress | None = None,
    *,
    without_self: bool = False,
) -> Matches:
    """Each query's most similar references, with canonical similarities.

    Blocks of float32 products find them (so the last neighbour may be another one of equal
    similarity up to float32's error); each similarity is the canonical one the product decides by.

    Args:
        queries: float16 (n, d).
        references: float16 (m, d).
        neighbours: of each query.
        progress: told about queries.
        without_self: query i is reference i: leave that pair out.
    """
    best = BestMatches(len(queries), -2.0, min(neighbours, max(1, len(references))))
    if progress is not None:
        progress.start("comparing", len(queries))
    for start in range(0, len(queries), _QUERIES):
        wide = widen(queries[start : start + _QUERIES])
        for first, block in _blocks(references):
            similarity = wide @ block.T
            if without_self:
                own = np.arange(start, start + len(wide)) - first
                inside = (own >= 0) & (own < len(block))
                similarity[np.flatnonzero(inside), own[inside]] = -np.inf
            _offer(best, start, first, similarity)
        if progress is not None:
            progress.advance(len(wide))
    if progress is not None:
        progress.done()
    found = best.matches()
    exact = pair_similarities(queries, references, found.query, found.reference)
    order = np.lexsort((found.reference, -exact, found.query))
    return Matches(found.query[order], found.reference[order], exact[order])


_QUERIES, _REFERENCES = 1024, 8192
_FEW = 0.02
"""Below this share of cells that still matter, gathering them beats working on the whole block."""


def _offer(best: BestMatches, start: int, first: int, similarity: NDArray[np.float32]) -> None:
    """Take in a block of float32 similarities; after the first blocks few cells still matter."""
    last = best.similarity[start : start + len(similarity), -1:].astype(np.float32)
    better = similarity >= np.nextafter(last, np.float32(-np.inf))
    if better.mean() < _FEW:
        query, column = np.nonzero(better)
        values = similarity[query, column].astype(np.float64)
        best.offer(query + start, column + first, values)
        return
    rows = np.arange(first, first + similarity.shape[1])
    best.offer_block(start, rows, similarity.astype(np.float64))


def _blocks(references: NDArray[np.float16]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for first in range(0, len(references), _REFERENCES):
        yield first, widen(references[first : first + _REFERENCES])


def score_bias(
    queries: NDArray[np.float16],
    background: NDArray[np.float16],
    weight: float = 1.0,
    neighbours: int = BACKGROUND_NEIGHBOURS,
) -> NDArray[np.float64]:
    """What score normalisation takes off each query's scores: float64 (n,).

    ``weight`` times the mean similarity to the query's nearest background pictures, none of which
    is a copy: a query that is like everything must be more like its original.

    Raises:
        UsageError: fewer background pictures than neighbours.
    """
    if len(background) < neighbours:
        raise UsageError(
            f"score normalisation needs at least {neighbours} training pictures, not"
            f" {len(background)}"
        )
    found = nearest(queries, background, neighbours)
    means = found.similarity.reshape(len(queries), neighbours).mean(axis=1)
    return np.asarray(weight * means)
