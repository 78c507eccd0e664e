"""Which kept sample goes into which published shard, and the names that follow. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sscd_ops.core.formats import CANONICAL, IMAGE_EXTENSIONS
from sscd_ops.core.stored_rows import Rows

WRITER_VERSION = 1
"""Part of the plan's digest: whoever changes the bytes that ``steps.publish`` writes raises it."""

LONGEST_EXTENSION = 67
"""Bytes: behind a key of 32 hex digits and a dot, a ustar name has room for no more."""

_MADE = ("txt", "json")


def shard_name(dataset: str, maker: str, plan: str, number: int, folder: str = "shards") -> str:
    """Name of a shard's tar, relative to the root.

    Args:
        dataset: its name.
        maker: the night or turn that made it, as published names say it.
        plan: 8 hex digits.
        number: of the shard in its folder.
        folder: below the dataset's; ``model.ARCHIVE`` of what nights removed.
    """
    return f"{dataset}/{folder}/{maker}-{plan}/{number:05d}.tar"


def maker_of(name: str) -> str:
    """The night or turn that made a shard, by the name of its tar."""
    return name.split("/")[-2].rpartition("-")[0]


def published_extensions(extensions: Sequence[str]) -> tuple[str, ...]:
    """The published extension of each member, then those of members made here.

    Lower case, images as ``CANONICAL`` names them (jpeg -> jpg, tif -> tiff); a missing txt or json
    is made. Where two members would get one name (``a.jpg a.JPEG``), the later one gets a number
    before its extension: ``2.jpg``.
    """
    taken: set[str] = set()
    answer = []
    for extension in extensions:
        head, dot, last = extension.lower().rpartition(".")
        name = head + dot + CANONICAL.get(last, last)
        number = 2
        unique = name
        while unique in taken:
            unique = f"{number}.{name}"
            number += 1
        taken.add(unique)
        answer.append(unique)
    answer.extend(name for name in _MADE if name not in taken)
    return tuple(answer)


def form_of(extensions: Sequence[str]) -> str:
    """A sample's form: its set of published extensions, images first, then txt, json, the rest.

    ``jpg+txt+json`` for an ordinary sample.
    """
    names = set(published_extensions(extensions))
    rest = sorted(names - {"txt", "json"})
    images = [name for name in rest if name.rpartition(".")[2] in IMAGE_EXTENSIONS]
    others = [name for name in rest if name not in images]
    return "+".join([*images, *(name for name in _MADE if name in names), *others])


@dataclass(frozen=True)
class ShardSlice:
    """One planned output shard. ``rows``: int64, sample rows in published order."""

    number: int
    form: str
    rows: NDArray[np.int64]


def plan_shards(
    rows: NDArray[np.int64],
    form_codes: NDArray[np.int64],
    forms: Sequence[str],
    sizes: NDArray[np.int64],
    *,
    max_samples: int,
    max_bytes: int,
) -> list[ShardSlice]:
    """Cut kept samples into homogeneous shards of equal size, as few as the limits allow.

    Forms come in sorted order, samples of a form in the order given.

    Args:
        rows: int64 (k,), kept sample rows in (source shard, position) order.
        form_codes: int64 (k,), index into ``forms``.
        forms: names of forms.
        sizes: int64 (k,), bytes of each sample's members.
        max_samples: samples of a shard at most.
        max_bytes: bytes of a shard's members at most (one larger sample makes a shard alone).
    """
    answer: list[ShardSlice] = []
    for code in sorted(range(len(forms)), key=lambda i: forms[i]):
        mine = np.flatnonzero(form_codes == code)
        ones = np.ones(len(mine), np.int64)
        for start, end in pairwise(
            cut(ones, sizes[mine], max_samples=max_samples, max_bytes=max_bytes)
        ):
            answer.append(ShardSlice(len(answer), forms[code], rows[mine[start:end]]))
    return answer


def cut(
    counts: NDArray[np.int64], sizes: NDArray[np.int64], *, max_samples: int, max_bytes: int
) -> list[int]:
    """Cut items in a row into the fewest runs that the limits allow, of equal size.

    Equal by what fills more of its limit as a whole, samples or bytes: each cut falls nearest to
    its share of that, as far as the limits let it.

    Args:
        counts: int64 (k,), samples of each item, at least 1.
        sizes: int64 (k,), bytes of each item.
        max_samples: samples of a run at most.
        max_bytes: bytes of a run at most (one larger item makes a run alone).

    Returns:
        The first item of each run, then k: ``[0, 4, 8]`` are two runs of 4. ``[0]`` of no items.
    """
    limits = [
        (np.concatenate([[0], np.cumsum(counts)]), max_samples),
        (np.concatenate([[0], np.cumsum(sizes)]), max_bytes),
    ]
    n = len(counts)

    def furthest(start: int) -> int:
        """The longest run from an item on: where it ends."""
        stops = [np.searchsorted(ends, ends[start] + most, side="right") for ends, most in limits]
        return max(start + 1, int(min(stops)) - 1)

    def earliest(stop: int) -> int:
        """The longest run up to an item: where it begins."""
        starts = [np.searchsorted(ends, ends[stop] - most, side="left") for ends, most in limits]
        return min(stop - 1, int(max(starts)))

    # filled from the end, runs are as few as filled from the start
    earliest_cuts = [n]
    while earliest_cuts[-1] > 0:
        earliest_cuts.append(earliest(earliest_cuts[-1]))
    earliest_cuts.reverse()
    runs = len(earliest_cuts) - 1

    fuller, _ = max(limits, key=lambda limit: Fraction(int(limit[0][-1]), limit[1]))
    total = int(fuller[-1])
    cuts = [0]
    for number in range(1, runs):
        # before the first the runs that follow are too few, behind the last this one is too large
        first, last = max(earliest_cuts[number], cuts[-1] + 1), furthest(cuts[-1])
        cuts.append(min(max(_nearest(fuller, number * total, runs), first), last))
    return [*cuts, n] if n else cuts


def _nearest(ends: NDArray[np.int64], total: int, parts: int) -> int:
    """The place whose end is nearest to ``total / parts``, the earlier one of two."""
    after = int(np.searchsorted(ends, total // parts, side="right"))
    above, below = int(ends[after]) * parts - total, total - int(ends[after - 1]) * parts
    return after if above < below else after - 1


def plan_digest(
    settings: Iterable[object],
    columns: Sequence[str],
    shards: Sequence[ShardSlice],
    sample_ids: NDArray[np.uint8],
    member_digests: Rows,
    member_ends: NDArray[np.int64],
) -> str:
    """8 hex digits that name a publish plan: equal decisions give equal names and bytes.

    Args:
        settings: the publish settings, in a fixed order.
        columns: metadata columns of the published parquet.
        shards: the plan.
        sample_ids: uint8 (n, 16) of all sample rows.
        member_digests: uint8 (m, 32), sha256 of every sample's members, sample by sample.
        member_ends: int64 (n,), end of each sample's members in ``member_digests``.
    """
    digest = hashlib.sha256()
    digest.update(repr((WRITER_VERSION, *settings, *columns)).encode())
    starts = np.concatenate([[0], member_ends[:-1]]).astype(np.int64)
    for shard in shards:
        digest.update(f"{shard.number} {shard.form} {len(shard.rows)}\n".encode())
        digest.update(sample_ids[shard.rows].tobytes())
        lengths = member_ends[shard.rows] - starts[shard.rows]
        digest.update(lengths.astype("<i8").tobytes())
        at = np.repeat(starts[shard.rows], lengths) + _within(lengths)
        digest.update(member_digests[at].tobytes())
    return digest.hexdigest()[:8]


def _within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1 ... of each run of the given lengths, one after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - lengths, lengths)
