"""Views as a function of seed and step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sscd_ops.descriptors.training import augment
from sscd_ops.descriptors.training.decoded import Pictures
from sscd_ops.descriptors.training.options import TrainOptions
from sscd_ops.descriptors.training.parallel import Process

_AHEAD = 2
_ORDER, _VIEW, _MIX, _HARD = 0, 1, 2, 3
"""First numbers of seeds, so that no two uses of chance share one."""


@dataclass(frozen=True)
class Views:
    """The views of one process at one step.

    ``pixels``: uint8 (n, side, side, 3). ``shows``: int64 (n, 2), the pictures each view shows,
    twice the same where it is not mixed.
    """

    step: int
    pixels: NDArray[np.uint8]
    shows: NDArray[np.int64]


def rows_of(
    options: TrainOptions,
    pictures: int,
    step: int,
    process: Process,
    near: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The pictures of a step for one process: a shuffle anew each epoch, the rest dropped.

    Args:
        options: the run's.
        pictures: how many there are.
        step: of which step.
        process: of which process.
        near: int64 (pictures, k), the look-alikes of each. Where given, the last
            ``hard_negatives`` of the batch give way to one of each of the first.
    """
    each = pictures // options.batch
    epoch, place = divmod(step, each)
    order = np.random.default_rng([options.seed, _ORDER, epoch]).permutation(pictures)
    rows = order[place * options.batch : (place + 1) * options.batch]
    hard = 0 if near is None else round(options.batch * options.hard_negatives)
    if near is not None and hard:
        random = np.random.default_rng([options.seed, _HARD, step])
        seeds = np.resize(rows[:-hard] if hard < len(rows) else rows, hard)
        rows[-hard:] = near[seeds, random.integers(near.shape[1], size=hard)]
    return rows[process.rank :: process.world].astype(np.int64)


def make_views(
    pictures: Pictures,
    options: TrainOptions,
    step: int,
    side: int,
    process: Process,
    pool: ThreadPoolExecutor,
    near: NDArray[np.int64] | None = None,
) -> Views:
    """All views of a step for one process; copies of a picture lie ``n / views`` apart."""
    rows = rows_of(options, len(pictures), step, process, near)

    def one(place: int) -> NDArray[np.uint8]:
        copy, row = divmod(place, len(rows))
        seed = [options.seed, _VIEW, step, int(rows[row]), copy]
        random = np.random.default_rng(seed)
        mild = copy == 0 and random.random() < options.mild

        def other() -> NDArray[np.uint8]:
            return pictures[int(random.integers(len(pictures)))]

        strength = augment.MILD if mild else augment.STRENGTHS[options.edits]
        return augment.view(pictures[int(rows[row])], side, random, strength, other)

    pixels = np.stack(list(pool.map(one, range(options.views * len(rows)), chunksize=16)))
    shows = np.repeat(np.tile(rows, options.views)[:, None], 2, axis=1)
    random = np.random.default_rng([options.seed, _MIX, step, process.rank])
    return Views(step, *mixed(pixels, shows, options.mixup, random))


def mixed(
    pixels: NDArray[np.uint8],
    shows: NDArray[np.int64],
    rate: float,
    random: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Blend some views with another one, or paste a box of it into them, half and half.

    The other is the view at the mirrored place of the batch, as in SSCD; the share of the one kept
    is Beta(2, 2) distributed (Zhang et al., ICLR 2018; Yun et al., ICCV 2019).

    Args:
        pixels: uint8 (n, side, side, 3).
        shows: int64 (n, 2).
        rate: share of views that are mixed.
        random: the only source of chance.
    """
    count, side = pixels.shape[:2]
    out, both = pixels.copy(), shows.copy()
    for row in np.flatnonzero(random.random(count) < rate):
        partner = count - 1 - row
        share = random.beta(2, 2)
        if random.random() < 0.5:
            levels = share * pixels[row].astype(np.float32) + (1 - share) * pixels[partner]
            out[row] = np.rint(levels).astype(np.uint8)
        else:
            half = side * np.sqrt(1 - share) / 2
            y, x = random.uniform(0, side, 2)
            top, bottom = max(0, round(y - half)), min(side, round(y + half))
            left, right = max(0, round(x - half)), min(side, round(x + half))
            out[row, top:bottom, left:right] = pixels[partner, top:bottom, left:right]
        both[row, 1] = shows[partner, 0]
    return out, both


def made_ahead(
    pictures: Pictures,
    options: TrainOptions,
    process: Process,
    first: int,
    side_of: Callable[[int], int],
    threads: int,
    near: NDArray[np.int64] | None = None,
) -> Generator[Views, None, None]:
    """The views of each step from ``first`` on, for ever, made ahead by other threads.

    Args:
        pictures: all of them.
        options: the run's.
        process: which process this is.
        first: the first step.
        side_of: pixels a side at a step; asked when they are begun.
        threads: that make views; cv2 does not hold the interpreter's lock.
        near: look-alikes of each picture, as in ``rows_of``.
    """
    ready: queue.Queue[Views | Exception] = queue.Queue(_AHEAD)
    ended = threading.Event()

    def put(item: Views | Exception) -> None:
        while not ended.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def work() -> None:
        step = first
        try:
            with ThreadPoolExecutor(threads) as pool:
                while not ended.is_set():
                    put(make_views(pictures, options, step, side_of(step), process, pool, near))
                    step += 1
        except Exception as error:  # noqa: BLE001 - goes to the thread that trains
            put(error)

    maker = threading.Thread(target=work, name="views", daemon=True)
    maker.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        ended.set()
        maker.join()
