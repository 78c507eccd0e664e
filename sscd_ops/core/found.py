"""Pairs of a batch's own rows that were found before leader's pass, block by block. Pure numpy.

Blocks of a batch are compared with each other, and each with itself (``ports.SearchBlock``), by
whoever has time; ``gather`` puts the answers together in the order that ``core.leader`` decides in.
Answers are lists of bounded length: a list that is full may lack pairs, and its row is marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from sscd_ops.model import Matches


@dataclass(frozen=True)
class Found:
    """Pairs of a batch's rows at or above the floor of a measure.

    A pair that is not listed has both its rows marked in ``cut``: whoever makes this promises so.
    A pair may stand here from either side, or from both.

    Attributes:
        row, other: int32 (k,), two different rows, as numbers in preference order.
        similarity: float64 (k,), of the two.
        cut: bool (n,), rows that pairs may lack of.
    """

    row: NDArray[np.int32]
    other: NDArray[np.int32]
    similarity: NDArray[np.float64]
    cut: NDArray[np.bool_]

    @classmethod
    def nothing(cls, count: int) -> Found:
        """Of rows that were not compared yet."""
        none = np.empty(0, np.int32)
        return cls(none, none, np.empty(0), np.ones(count, np.bool_))


@dataclass(frozen=True)
class Answer:
    """What a block's rows were answered by another block, or by themselves.

    Attributes:
        first: number of the block's first row.
        other: number of the first row of the block that answered.
        matches: each row's most similar ones, counted from 0 in each of the two blocks.
        limit: how many were asked for a row: a list as long as that is taken for cut.
    """

    first: int
    other: int
    matches: Matches
    limit: int


def gather(answers: Iterable[Answer], place: NDArray[np.int32], count: int) -> Found:
    """What blocks found, as leader takes it.

    Every two rows that have a place must have been compared: their blocks with each other, with an
    answer to either side, or their one block with itself. Pairs of rows that are both marked are
    left out as early as can be, since leader compares those anew: of 20,000 near-identical rows
    next to nothing stays.

    Args:
        answers: read once, one after another.
        place: int32 (rows,): each row's number in preference order; -1 where it takes no part.
        count: how many take part.
    """
    cut = np.zeros(count, np.bool_)
    rows, others = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    similarities = [np.empty(0)]
    for answer in answers:
        matches = answer.matches
        row, other = place[matches.query + answer.first], place[matches.reference + answer.other]
        full = np.flatnonzero(np.bincount(matches.query) >= answer.limit) + answer.first
        cut[place[full][place[full] >= 0]] = True
        stays = (row >= 0) & (other >= 0)
        stays[stays] = ~(cut[row[stays]] & cut[other[stays]])
        rows.append(row[stays])
        others.append(other[stays])
        similarities.append(matches.similarity[stays])
    return Found(np.concatenate(rows), np.concatenate(others), np.concatenate(similarities), cut)
