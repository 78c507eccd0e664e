"""The exact stage: which samples of a batch carry equal image bytes. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Grouped:
    """The batch's distinct images, in order of their first place.

    ``carrier``: int64 (m,), most preferred sample of each image. ``image_of``: int64 (n,), image of
    each sample, -1 where it is not eligible. ``first``: int64 (m,), first place of each image.
    """

    carrier: NDArray[np.int64]
    image_of: NDArray[np.int64]
    first: NDArray[np.int64]


def group_images(
    digests: NDArray[np.uint8], eligible: NDArray[np.bool_], rank: NDArray[np.int64]
) -> Grouped:
    """Group samples by image.

    Args:
        digests: uint8 (n, 32), sha256 of each sample's image.
        eligible: bool (n,), samples with an image that take part.
        rank: int64 (n,), preference; the smallest of an image carries it.
    """
    rows = np.flatnonzero(eligible)
    image_of = np.full(len(digests), -1, np.int64)
    if not len(rows):
        empty = np.empty(0, np.int64)
        return Grouped(empty, image_of, empty)
    words = np.ascontiguousarray(digests[rows]).view("<u8").reshape(-1, 4)
    # digests sort by four words; the order itself means nothing, only equality does
    by = np.lexsort((rows, words[:, 3], words[:, 2], words[:, 1], words[:, 0]))
    ordered = words[by]
    new = np.ones(len(rows), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    group = np.cumsum(new) - 1
    first_of_group = rows[by[new]]
    # number images by first place, so that nothing depends on digest order
    place = np.argsort(first_of_group, kind="stable")
    number = np.empty(len(place), np.int64)
    number[place] = np.arange(len(place))
    image_of[rows[by]] = number[group]
    ranked = rows[np.argsort(rank[rows], kind="stable")]
    carrier = np.empty(len(place), np.int64)
    # the last write wins: go from the least to the most preferred
    carrier[image_of[ranked[::-1]]] = ranked[::-1]
    return Grouped(carrier, image_of, first_of_group[place])


_AT_ONCE = 1 << 18
"""Digests that are compared at once: bounds memory."""


def first_places(digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each digest is the first of its value: bool (n,).

    Of ``group_images`` the part that survey needs, in 25 bytes a digest beside them.

    Args:
        digests: uint8 (n, 32).
    """
    words = digests.view("<u8")
    # stable: equal digests stay in the order of their places
    by = np.lexsort(words.T)
    first = np.ones(len(digests), bool)
    for start in range(0, len(by) - 1, _AT_ONCE):
        here, after = by[start : start + _AT_ONCE], by[start + 1 : start + _AT_ONCE + 1]
        again = (words[here[: len(after)]] == words[after]).all(axis=1)
        first[after[again]] = False
    return first
