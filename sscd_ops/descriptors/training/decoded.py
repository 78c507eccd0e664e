"""Training pictures, decoded and shrunk once, in one file that is mapped into memory.

The file is read by all processes of a run and by a resumed one; the operating system keeps as much
of it in memory as fits.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sscd_ops.errors import ConfigError
from sscd_ops.images.ground import visible
from sscd_ops.images.header import open_image
from sscd_ops.images.orientation import upright

_LONGEST = 2.0
"""Longer sides are cut at the centre to this many times the short one."""

Pixels = NDArray[np.uint8]
"""RGB, uint8 (height, width, 3)."""


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures: ``keys`` in order, and where each lies in the file.

    ``sizes``: int64 (n, 2), height and width. ``starts``: int64 (n,), bytes.
    """

    keys: tuple[str, ...]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> Pixels:
        height, width = self.sizes[row]
        start = self.starts[row]
        return self.data[start : start + height * width * 3].reshape(height, width, 3)

    def digest(self) -> str:
        """What a resumed run checks: the same pictures in the same order."""
        body = json.dumps([self.keys, self.sizes.tolist()]).encode()
        return hashlib.sha256(body).hexdigest()

    def without(self, rows: Iterable[int]) -> Pictures:
        """All others."""
        gone = set(rows)
        kept = [row for row in range(len(self)) if row not in gone]
        keys = tuple(self.keys[row] for row in kept)
        return Pictures(keys, self.sizes[kept], self.starts[kept], self.data)


def store_pictures(
    members: Iterable[tuple[str, bytes]],
    folder: Path,
    *,
    short: int,
    threads: int,
    urls: Sequence[str] = (),
    told: Callable[[int], None] = lambda _: None,
    taken: Callable[[str], None] = lambda _: None,
) -> Pictures:
    """Decode pictures into ``folder`` and open them; broken and tiny ones are left out.

    Args:
        members: key and bytes of each picture.
        folder: gets ``pictures.u8`` (raw pixels) and ``pictures.json``.
        short: pixels of the short side they are shrunk to; smaller ones stay as they are.
        threads: that decode.
        urls: where they are from, noted for ``has_pictures``.
        told: called with the number of pictures done, one by one.
        taken: called with the key of each picture that could be decoded; may raise to end it.

    Raises:
        ConfigError: none of them could be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys: list[str] = []
    sizes: list[tuple[int, int]] = []
    temporary = folder / ".pictures.u8"
    try:
        with temporary.open("wb") as out:
            for key, pixels in _decoded(members, short, threads):
                told(1)
                if pixels is not None:
                    taken(key)
                    keys.append(key)
                    sizes.append((pixels.shape[0], pixels.shape[1]))
                    out.write(pixels.tobytes())
        if not keys:
            raise ConfigError("no picture could be decoded: is this the right URL?")
    except BaseException:
        temporary.unlink(missing_ok=True)  # may be many gigabytes
        raise
    temporary.replace(folder / "pictures.u8")
    note = folder / ".pictures.json"
    told_of = {"short": short, "urls": list(urls), "keys": keys, "sizes": sizes}
    note.write_text(json.dumps(told_of))
    note.replace(folder / "pictures.json")
    return open_pictures(folder, short)


def has_pictures(folder: Path, urls: Sequence[str] = ()) -> bool:
    """Whether ``store_pictures`` was completed there.

    Raises:
        ConfigError: it was, with other URLs.
    """
    note = folder / "pictures.json"
    if not note.is_file():
        return False
    found = json.loads(note.read_text()).get("urls")
    if urls and found and found != list(urls):
        raise ConfigError(
            f"{folder} holds the pictures of {' '.join(found)}, not of {' '.join(urls)}:"
            " give another --out folder, or those URLs"
        )
    return True


def open_pictures(folder: Path, short: int) -> Pictures:
    """The pictures of a folder.

    Raises:
        ConfigError: they were shrunk to a smaller size.
    """
    note = json.loads((folder / "pictures.json").read_text())
    if note["short"] < short:
        raise ConfigError(
            f"{folder} holds pictures of {note['short']} px, not {short}: give another folder"
        )
    sizes = np.array(note["sizes"], np.int64).reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * 3)])[:-1].astype(np.int64)
    data = np.memmap(folder / "pictures.u8", np.uint8, mode="r")
    return Pictures(tuple(note["keys"]), sizes, starts, data)


def _decoded(
    members: Iterable[tuple[str, bytes]], short: int, threads: int
) -> Iterator[tuple[str, Pixels | None]]:
    """In order, with a bounded number under way."""
    waiting: deque[tuple[str, Future[Pixels | None]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for key, data in members:
            waiting.append((key, pool.submit(shrink, data, short)))
            if len(waiting) > 8 * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


def shrink(data: bytes, short: int) -> Pixels | None:
    """A picture with its short side at most ``short`` px, or None where it cannot be decoded."""
    image = open_image(data)
    if isinstance(image, tuple):
        return None
    try:
        if image.format == "JPEG":
            image.draft("RGB", (2 * short, 2 * short))
        rgb = visible(upright(image))
    except Exception:  # noqa: BLE001 - decoders raise whatever they like at bad bytes
        return None
    width, height = rgb.size
    if min(width, height) < 16:
        return None
    longest = int(min(width, height) * _LONGEST)
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    rgb = rgb.crop((left, top, width - left, height - top))
    scale = short / min(rgb.size)
    if scale < 1:
        size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
        rgb = rgb.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(rgb)
