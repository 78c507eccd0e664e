"""A search's answers brought up to a changed kept mask, at the cost of what changed. Pure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sscd_ops.model import Matches

SearchRows = Callable[[NDArray[np.int64], NDArray[np.bool_]], Matches]
"""Query rows, ascending, and a mask -> their best kept rows; ``query`` counts within those rows."""


def follow_mask(
    found: Matches,
    queries: int,
    old: NDArray[np.bool_],
    new: NDArray[np.bool_],
    limit: int,
    search: SearchRows,
) -> Matches:
    """What a search under the new mask answers, from what one under the old mask did.

    Rows that are kept no longer are dropped from the answers, and only rows that are kept now are
    searched; a query whose full list lost an entry is searched again as a whole, since what it
    had to leave out is not known.

    Args:
        found: each query's ``limit`` most similar rows under ``old``, ties to the smaller row.
        queries: how many there are.
        old: bool (m,).
        new: bool (m,).
        limit: answers per query at most.
        search: answers under a mask as ``found`` was.
    """
    gone = ~new[found.reference]
    full = np.bincount(found.query, minlength=queries) >= limit
    anew = np.zeros(queries, bool)
    anew[found.query[gone]] = True
    anew &= full
    left = ~gone & ~anew[found.query]
    pieces = [Matches(found.query[left], found.reference[left], found.similarity[left])]
    for rows, mask in (
        (np.flatnonzero(anew), new),
        (np.flatnonzero(~anew), new & ~old),
    ):
        if len(rows) and mask.any():
            answer = search(rows, mask)
            pieces.append(Matches(rows[answer.query], answer.reference, answer.similarity))
    return _best(pieces, limit)


def _best(pieces: list[Matches], limit: int) -> Matches:
    """Each query's best of several disjoint answers."""
    query = np.concatenate([piece.query for piece in pieces])
    reference = np.concatenate([piece.reference for piece in pieces])
    similarity = np.concatenate([piece.similarity for piece in pieces])
    by = np.lexsort((reference, -similarity, query))
    query, reference, similarity = query[by], reference[by], similarity[by]
    few = np.arange(len(query)) - np.searchsorted(query, query, side="left") < limit
    return Matches(query[few], reference[few], similarity[few])
